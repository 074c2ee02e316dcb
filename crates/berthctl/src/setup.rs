//! Docker's own settings, so that it asks `docker-credential-berth`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::ArgMatches;
use serde_json::{Value, json};

use crate::{
    contexts::{Contexts, host},
    failure::Failure,
    files,
};

/// What docker looks for after `docker-credential-`.
const NAME: &str = "berth";

/// Docker's settings, which helm, oras, crane, cosign and the others read as well.
fn file() -> Result<PathBuf> {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = named("DOCKER_CONFIG").or_else(|| Some(named("HOME")?.join(".docker")));
    Ok(folder.context("there is no home: set DOCKER_CONFIG to a folder")?.join("config.json"))
}

/// The settings with a helper for a registry; everything else stays.
fn with_helper(text: Option<&str>, hosts: &[String]) -> Result<Value> {
    let mut settings: Value = match text.map(str::trim) {
        None | Some("") => json!({}),
        Some(text) => serde_json::from_str(text)?,
    };
    if !settings.is_object() {
        bail!("it is no JSON object");
    }
    if settings["credHelpers"].is_null() {
        settings["credHelpers"] = json!({});
    }
    let helpers = settings["credHelpers"].as_object_mut().context("credHelpers is no JSON object")?;
    for host in hosts {
        helpers.insert(host.clone(), json!(NAME));
    }
    Ok(settings)
}

fn is_in_path() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join("docker-credential-berth").is_file())
}

/// Has docker ask for the logins of registries.
pub(crate) fn configure_docker(contexts: &mut Contexts, arguments: &ArgMatches) -> Result<(), Failure> {
    let mut hosts: Vec<String> =
        arguments.get_many::<String>("host").into_iter().flatten().map(|one| host(one)).collect();
    if hosts.is_empty() {
        hosts.push(host(&contexts.target(arguments)?.server));
    }
    let file = file()?;
    let text = files::text(&file)?;
    let settings =
        with_helper(text.as_deref(), &hosts).with_context(|| format!("can't use {}", file.display()))?;
    files::write(&file, &format!("{settings:#}\n"))?;
    for host in &hosts {
        contexts.hide_from_docker(host, false)?;
    }
    crate::remark(&format!("{} asks berthctl for logins to {}", file.display(), hosts.join(", ")));
    if !is_in_path() {
        crate::remark(
            "docker-credential-berth is not in PATH yet: put it beside berthctl, where docker finds it",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

    use super::*;

    #[test]
    fn what_else_is_in_dockers_settings_stays() {
        let text = r#"{"auths":{"a":{"auth":"x"}},"credHelpers":{"gcr.io":"gcloud"},"psFormat":"{{.ID}}"}"#;
        let settings = with_helper(Some(text), &["localhost:5000".to_owned()]).unwrap();
        let expected = r#"{"auths":{"a":{"auth":"x"}},"credHelpers":{"gcr.io":"gcloud","localhost:5000":"berth"},"psFormat":"{{.ID}}"}"#;
        assert_eq!(settings.to_string(), expected);
        assert_eq!(with_helper(None, &[]).unwrap().to_string(), r#"{"credHelpers":{}}"#);
        for wrong in ["[]", "{", r#"{"credHelpers":1}"#] {
            assert!(with_helper(Some(wrong), &[]).is_err(), "{wrong}");
        }
    }
}
