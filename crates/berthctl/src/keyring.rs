//! Where tokens are kept: in a file that only its owner can read, or in the system's keyring, through any program that
//! speaks docker's credential helper protocol (github.com/docker/docker-credential-helpers).

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::files;

/// What the protocol answers about what is not there.
pub(crate) const NOT_FOUND: &str = "credentials not found in native keychain";

/// Tokens by the names of contexts.
#[derive(Clone, Debug)]
pub(crate) enum Keyring {
    File(PathBuf),
    /// `docker-credential-<name>`.
    Program(String),
}

/// What a keyring's program calls the token of a context.
fn url(context: &str) -> String {
    format!("https://berthctl/{context}")
}

fn ask(program: &str, action: &str, input: &str) -> Result<Option<String>> {
    let name = format!("docker-credential-{program}");
    let mut child = Command::new(&name)
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .with_context(|| format!("can't run {name}, which keeps the tokens"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read says why with what it answers.
        let _closed = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() {
        return Ok(Some(said));
    }
    if said.contains(NOT_FOUND) {
        return Ok(None);
    }
    bail!("{name} {action}: {said}")
}

impl Keyring {
    fn all(file: &PathBuf) -> Result<BTreeMap<String, String>> {
        let Some(text) = files::text(file)? else { return Ok(BTreeMap::new()) };
        let mode = fs::metadata(file)?.permissions().mode();
        if mode & 0o077 != 0 {
            bail!("others can read {0}: run chmod 600 {0}, and log in again", file.display());
        }
        serde_json::from_str(&text).with_context(|| format!("can't read {}", file.display()))
    }

    /// The token of a context.
    pub(crate) fn get(&self, context: &str) -> Result<Option<SecretString>> {
        match self {
            Self::File(file) => Ok(Self::all(file)?.remove(context).map(SecretString::from)),
            Self::Program(program) => {
                let Some(found) = ask(program, "get", &url(context))? else { return Ok(None) };
                let found: Value = serde_json::from_str(&found)
                    .with_context(|| format!("docker-credential-{program} answers no JSON"))?;
                // Some say so of what is not there.
                Ok(found["Secret"].as_str().filter(|secret| !secret.is_empty()).map(SecretString::from))
            }
        }
    }

    pub(crate) fn put(&self, context: &str, user: &str, token: &SecretString) -> Result<()> {
        match self {
            Self::File(file) => {
                let mut tokens = Self::all(file)?;
                tokens.insert(context.to_owned(), token.expose_secret().to_owned());
                files::write(file, &serde_json::to_string(&tokens)?)
            }
            Self::Program(program) => {
                let kept =
                    json!({ "ServerURL": url(context), "Username": user, "Secret": token.expose_secret() });
                ask(program, "store", &kept.to_string()).map(|_| ())
            }
        }
    }

    pub(crate) fn remove(&self, context: &str) -> Result<()> {
        match self {
            Self::File(file) => {
                let mut tokens = Self::all(file)?;
                match tokens.remove(context) {
                    Some(_) => files::write(file, &serde_json::to_string(&tokens)?),
                    None => Ok(()),
                }
            }
            // Some can't forget what is not there.
            Self::Program(program) => match self.get(context)? {
                Some(_) => ask(program, "erase", &url(context)).map(|_| ()),
                None => Ok(()),
            },
        }
    }
}
