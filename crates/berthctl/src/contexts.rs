//! What is remembered: registries, who one is there, and the tokens of sessions. The tokens are in a file of their own that
//! only its owner can read; passwords are nowhere.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::ArgMatches;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// A registry, and who one is there.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Context {
    pub(crate) server: String,
    pub(crate) instance: String,
    pub(crate) user: String,
    /// PEM file with authorities to trust.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) ca: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) plain_http: bool,
}

#[derive(Default, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    current: String,
    contexts: BTreeMap<String, Context>,
}

/// All that is remembered.
#[derive(Debug)]
pub(crate) struct Contexts {
    folder: PathBuf,
    settings: Settings,
}

/// Whom a command speaks to, as whom.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) server: String,
    pub(crate) instance: String,
    pub(crate) token: Option<SecretString>,
    pub(crate) ca: String,
    pub(crate) plain_http: bool,
}

fn folder() -> Result<PathBuf> {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(own) = named("BERTH_CONFIG") {
        return Ok(own);
    }
    let base = named("XDG_CONFIG_HOME").or_else(|| Some(named("HOME")?.join(".config")));
    Ok(base.context("there is no home: set BERTH_CONFIG to a folder")?.join("berth"))
}

/// Writes a file whole or not at all, for its owner alone.
fn write(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().context("a file without a folder")?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let beside = path.with_extension(format!("new-{}", std::process::id()));
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    fs::File::open(folder)?.sync_all()?;
    Ok(())
}

impl Contexts {
    pub(crate) fn open() -> Result<Self> {
        let folder = folder()?;
        let file = folder.join("config.toml");
        let settings = match fs::read_to_string(&file) {
            Ok(text) => toml::from_str(&text).with_context(|| format!("can't read {}", file.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Settings::default(),
            Err(error) => bail!("can't read {}: {error}", file.display()),
        };
        Ok(Self { folder, settings })
    }

    fn tokens_file(&self) -> PathBuf {
        self.folder.join("tokens.json")
    }

    fn tokens(&self) -> Result<BTreeMap<String, String>> {
        let file = self.tokens_file();
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => bail!("can't read {}: {error}", file.display()),
        };
        let mode = fs::metadata(&file)?.permissions().mode();
        if mode & 0o077 != 0 {
            bail!("others can read {0}: run chmod 600 {0}, and log in again", file.display());
        }
        serde_json::from_str(&text).with_context(|| format!("can't read {}", file.display()))
    }

    fn save(&self) -> Result<()> {
        write(&self.folder.join("config.toml"), &toml::to_string(&self.settings)?)
    }

    pub(crate) fn current(&self) -> &str {
        &self.settings.current
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&String, &Context)> {
        self.settings.contexts.iter()
    }

    /// Remembers a login, and makes it the current one.
    pub(crate) fn keep(&mut self, name: &str, context: Context, token: &SecretString) -> Result<()> {
        let mut tokens = self.tokens()?;
        tokens.insert(name.to_owned(), token.expose_secret().to_owned());
        write(&self.tokens_file(), &serde_json::to_string(&tokens)?)?;
        self.settings.contexts.insert(name.to_owned(), context);
        name.clone_into(&mut self.settings.current);
        self.save()
    }

    /// Forgets the token of a context; the rest of it stays.
    pub(crate) fn forget_token(&self, name: &str) -> Result<()> {
        let mut tokens = self.tokens()?;
        tokens.remove(name);
        write(&self.tokens_file(), &serde_json::to_string(&tokens)?)
    }

    pub(crate) fn choose(&mut self, name: &str) -> Result<(), Failure> {
        self.known(name)?;
        name.clone_into(&mut self.settings.current);
        Ok(self.save()?)
    }

    pub(crate) fn delete(&mut self, name: &str) -> Result<(), Failure> {
        self.known(name)?;
        self.forget_token(name)?;
        self.settings.contexts.remove(name);
        if self.settings.current == name {
            self.settings.current.clear();
        }
        Ok(self.save()?)
    }

    fn known(&self, name: &str) -> Result<&Context, Failure> {
        self.settings
            .contexts
            .get(name)
            .ok_or_else(|| Failure::usage(format!("there is no context {name}; see berthctl context list")))
    }

    /// The name of the context that a command means; empty: none.
    pub(crate) fn named<'a>(&'a self, arguments: &'a ArgMatches) -> &'a str {
        arguments.get_one::<String>("context").map_or(self.current(), String::as_str)
    }

    /// Whom a command speaks to: what is said, else what is remembered.
    pub(crate) fn target(&self, arguments: &ArgMatches) -> Result<Target, Failure> {
        let name = self.named(arguments);
        let said = |name: &str| arguments.get_one::<String>(name).cloned();
        let context = match name {
            "" => Context::default(),
            name => self.known(name)?.clone(),
        };
        let server = said("server").unwrap_or_else(|| context.server.clone());
        if server.is_empty() {
            return Err(Failure::usage(
                "say where the registry is: berthctl login https://registry.example.com",
            ));
        }
        let from_environment = std::env::var("BERTH_TOKEN").ok().filter(|token| !token.is_empty());
        let token = match from_environment {
            Some(token) => Some(token),
            // A token is for the registry that gave it out, and for no other.
            None if same(&server, &context.server) => self.tokens()?.remove(name),
            None => None,
        };
        Ok(Target {
            instance: said("instance").unwrap_or(context.instance),
            token: token.map(SecretString::from),
            ca: said("ca").unwrap_or(context.ca),
            plain_http: context.plain_http || arguments.get_flag("plain-http"),
            server,
        })
    }
}

fn same(one: &str, other: &str) -> bool {
    one.trim_end_matches('/').eq_ignore_ascii_case(other.trim_end_matches('/'))
}
