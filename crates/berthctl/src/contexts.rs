//! What is remembered: registries, and who one is there. Tokens of sessions are in a [`Keyring`]; passwords are nowhere.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::ArgMatches;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::{failure::Failure, files, keyring::Keyring};

/// A registry, and who one is there.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Context {
    pub(crate) server: String,
    pub(crate) instance: String,
    pub(crate) user: String,
    /// When the session ends, RFC 3339.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) expires_at: String,
    /// Docker has logged out there, and is told nothing of this one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) hidden_from_docker: bool,
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
    /// The program that keeps the tokens, `docker-credential-<this>`; empty: a file beside this one.
    #[serde(skip_serializing_if = "String::is_empty")]
    keyring: String,
    contexts: BTreeMap<String, Context>,
}

/// All that is remembered.
#[derive(Debug)]
pub(crate) struct Contexts {
    folder: PathBuf,
    settings: Settings,
    keyring: Keyring,
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

impl Contexts {
    pub(crate) fn open() -> Result<Self> {
        let folder = folder()?;
        let file = folder.join("config.toml");
        let settings: Settings = match files::text(&file)? {
            Some(text) => toml::from_str(&text).with_context(|| format!("can't read {}", file.display()))?,
            None => Settings::default(),
        };
        let keyring = match settings.keyring.as_str() {
            "" => Keyring::File(folder.join("tokens.json")),
            program => Keyring::Program(program.to_owned()),
        };
        Ok(Self { folder, settings, keyring })
    }

    fn save(&self) -> Result<()> {
        files::write(&self.folder.join("config.toml"), &toml::to_string(&self.settings)?)
    }

    pub(crate) fn current(&self) -> &str {
        &self.settings.current
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&String, &Context)> {
        self.settings.contexts.iter()
    }

    /// Remembers a login.
    pub(crate) fn keep(&mut self, name: &str, context: Context, token: &SecretString) -> Result<()> {
        self.keyring.put(name, &context.user, token)?;
        self.settings.contexts.insert(name.to_owned(), context);
        self.save()
    }

    /// Makes one the current one.
    pub(crate) fn choose(&mut self, name: &str) -> Result<(), Failure> {
        self.known(name)?;
        name.clone_into(&mut self.settings.current);
        Ok(self.save()?)
    }

    pub(crate) fn token(&self, name: &str) -> Result<Option<SecretString>> {
        self.keyring.get(name)
    }

    /// Forgets the token of a context; the rest of it stays.
    pub(crate) fn forget_token(&self, name: &str) -> Result<()> {
        self.keyring.remove(name)
    }

    /// Docker is told nothing of the logins at a registry any more, or again.
    pub(crate) fn hide_from_docker(&mut self, server: &str, hidden: bool) -> Result<()> {
        let server = host(server);
        for context in self.settings.contexts.values_mut().filter(|context| host(&context.server) == server) {
            context.hidden_from_docker = hidden;
        }
        self.save()
    }

    /// Has another keyring from now on, which gets what the former one has. Empty: a file.
    pub(crate) fn move_to(&mut self, program: &str) -> Result<(), Failure> {
        if program == "berth" {
            return Err(Failure::usage(
                "docker-credential-berth keeps its own logins here; name another program",
            ));
        }
        let next = match program {
            "" => Keyring::File(self.folder.join("tokens.json")),
            program => Keyring::Program(program.to_owned()),
        };
        let former = std::mem::replace(&mut self.keyring, next);
        for (name, context) in &self.settings.contexts {
            if let Some(token) = former.get(name)? {
                self.keyring.put(name, &context.user, &token)?;
            }
        }
        let before = std::mem::replace(&mut self.settings.keyring, program.to_owned());
        self.save()?;
        // Only now that the new one is known to be meant.
        if before != program {
            for name in self.settings.contexts.keys() {
                former.remove(name)?;
            }
        }
        Ok(())
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
        let token = match token_of_environment() {
            Some(token) => Some(token),
            // A token is for the registry that gave it out, and for no other.
            None if host(&server) == host(&context.server) => self.token(name)?,
            None => None,
        };
        Ok(Target {
            instance: said("instance").unwrap_or(context.instance),
            token,
            ca: said("ca").unwrap_or(context.ca),
            plain_http: context.plain_http || arguments.get_flag("plain-http"),
            server,
        })
    }
}

/// The token that the environment says.
pub(crate) fn token_of_environment() -> Option<SecretString> {
    std::env::var("BERTH_TOKEN").ok().filter(|token| !token.is_empty()).map(SecretString::from)
}

/// The host and port of a registry's URL, or of what docker calls its server.
pub(crate) fn host(server: &str) -> String {
    let (scheme, rest) = server.split_once("://").unwrap_or(("https", server));
    let host = rest.split('/').next().unwrap_or_default().to_ascii_lowercase();
    let usual = if scheme == "http" { ":80" } else { ":443" };
    host.strip_suffix(usual).unwrap_or(&host).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_known_by_any_of_its_names() {
        for name in ["https://Berth.example.com/", "berth.example.com", "https://berth.example.com:443/v2/"] {
            assert_eq!(host(name), "berth.example.com");
        }
        assert_eq!(host("http://localhost:5000"), host("localhost:5000"));
        assert_ne!(host("localhost:5000"), host("localhost:5001"));
    }
}
