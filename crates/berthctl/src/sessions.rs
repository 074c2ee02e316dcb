//! Logging in and out, and the contexts that are remembered.

use std::io::IsTerminal;

use clap::ArgMatches;
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use crate::{
    client::{Call, Client},
    contexts::{Context, Contexts, Target},
    failure::Failure,
    request::read,
    show::{self, Output},
};

/// Asks whoever sits there.
fn ask(what: &str) -> Result<String, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(format!("say the {what}: there is nobody to ask")));
    }
    crate::remark(&format!("{what}:"));
    let mut line = String::new();
    std::io::stdin()
        .read_line(&mut line)
        .map_err(|error| Failure::usage(format!("can't read the {what}: {error}")))?;
    Ok(line.trim().to_owned())
}

fn password(arguments: &ArgMatches) -> Result<SecretString, Failure> {
    let text = match arguments.get_one::<String>("password-file") {
        Some(file) => read(file)?.trim_end_matches(['\n', '\r']).to_owned(),
        None if std::io::stdin().is_terminal() => rpassword::prompt_password("password: ")
            .map_err(|error| Failure::usage(format!("can't read the password: {error}")))?,
        None => {
            return Err(Failure::usage(
                "say where the password is: --password-file FILE, or - for standard input",
            ));
        }
    };
    Ok(SecretString::from(text))
}

/// Trades a name and a password for a token, and remembers that.
pub(crate) async fn login(contexts: &mut Contexts, arguments: &ArgMatches) -> Result<(), Failure> {
    let said = |name: &str| arguments.get_one::<String>(name).cloned();
    let remembered =
        contexts.all().find(|(name, _)| *name == contexts.named(arguments)).map(|(_, one)| one.clone());
    let remembered = remembered.unwrap_or_default();
    let server = said("url").or_else(|| said("server")).unwrap_or_else(|| remembered.server.clone());
    if server.is_empty() {
        return Err(Failure::usage("say where the registry is: berthctl login https://registry.example.com"));
    }
    let target = Target {
        server: server.clone(),
        instance: said("instance").unwrap_or_default(),
        token: None,
        ca: said("ca").unwrap_or(remembered.ca),
        plain_http: arguments.get_flag("plain-http"),
    };
    let client = Client::new(&target)?;
    let name = match said("user") {
        Some(name) => name,
        None => ask("user")?,
    };
    let password = password(arguments)?;
    let mut body = json!({ "name": name, "password": password.expose_secret() });
    if !target.instance.is_empty() {
        body["instance"] = json!(target.instance);
    }
    let call = Call {
        method: Method::POST,
        path: "/sessions".to_owned(),
        body: Some(body),
        headers: Vec::new(),
        repeatable: false,
    };
    let opened = client.call(&call).await?.json();
    let token = SecretString::from(opened["token"].as_str().unwrap_or_default());
    let known = Client::new(&Target { token: Some(token.clone()), ..target })?;
    let identity = known.call(&Call::get("/identity")).await?.json();
    let instance = identity["instance"].as_str().unwrap_or_default().to_owned();
    let host = server.split("://").last().unwrap_or_default().trim_end_matches('/');
    let context = said("context").unwrap_or_else(|| host.to_owned());
    let kept = Context {
        instance: instance.clone(),
        user: name.clone(),
        ca: said("ca").unwrap_or_default(),
        plain_http: arguments.get_flag("plain-http"),
        server,
    };
    contexts.keep(&context, kept, &token)?;
    let until = opened["expires_at"].as_str().unwrap_or_default();
    crate::remark(&format!("logged in as {name} in {instance}, until {until}; the context is {context}"));
    Ok(())
}

/// Ends the session, and forgets its token.
pub(crate) async fn logout(contexts: &mut Contexts, arguments: &ArgMatches) -> Result<(), Failure> {
    let name = contexts.named(arguments).to_owned();
    let target = contexts.target(arguments)?;
    if target.token.is_some() {
        let call = Call {
            method: Method::DELETE,
            path: "/sessions/current".to_owned(),
            body: None,
            headers: Vec::new(),
            repeatable: true,
        };
        match Client::new(&target)?.call(&call).await {
            // One that has ended already is ended.
            Ok(_) | Err(Failure::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    contexts.forget_token(&name)?;
    crate::remark("logged out");
    Ok(())
}

/// Who one is.
pub(crate) async fn whoami(
    contexts: &Contexts,
    arguments: &ArgMatches,
    output: Output,
) -> Result<(), Failure> {
    let target = contexts.target(arguments)?;
    let identity = Client::new(&target)?.call(&Call::get("/identity")).await?.json();
    show::one("identity", &identity, output);
    Ok(())
}

/// What is remembered.
pub(crate) fn context(contexts: &mut Contexts, arguments: &ArgMatches) -> Result<(), Failure> {
    match arguments.subcommand() {
        Some(("use", rest)) => contexts.choose(rest.get_one::<String>("name").map_or("", String::as_str)),
        Some(("delete", rest)) => contexts.delete(rest.get_one::<String>("name").map_or("", String::as_str)),
        _ => {
            let current = contexts.current();
            let items = contexts.all().map(|(name, context)| {
                json!({
                    "name": name,
                    "current": name == current,
                    "server": context.server,
                    "instance": context.instance,
                    "user": context.user,
                })
            });
            show::list("context", items.collect(), Output::of(arguments));
            Ok(())
        }
    }
}
