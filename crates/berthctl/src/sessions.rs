//! Logging in and out, and the contexts that are remembered.

use std::io::IsTerminal;

use clap::ArgMatches;
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use crate::{
    client::{Call, Client},
    contexts::{Context, Contexts, Target, host},
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

/// A name and what it logs in with.
pub(crate) struct Login<'a> {
    pub(crate) user: &'a str,
    pub(crate) password: &'a SecretString,
}

/// What logs in with a token that is there already.
pub(crate) async fn adopt(target: &Target, token: SecretString) -> Result<(Context, SecretString), Failure> {
    let known = Client::new(&Target {
        server: target.server.clone(),
        instance: String::new(),
        token: Some(token.clone()),
        ca: target.ca.clone(),
        plain_http: target.plain_http,
    })?;
    let identity = known.call(&Call::get("/identity")).await?.json();
    let text = |name: &str| identity[name].as_str().unwrap_or_default().to_owned();
    let context = Context {
        server: target.server.clone(),
        instance: text("instance"),
        user: text("name"),
        expires_at: text("credential_expires_at"),
        hidden_from_docker: false,
        ca: target.ca.clone(),
        plain_http: target.plain_http,
    };
    Ok((context, token))
}

/// Trades a name and a password for the token of a session.
pub(crate) async fn open(target: &Target, login: Login<'_>) -> Result<(Context, SecretString), Failure> {
    let mut body = json!({ "name": login.user, "password": login.password.expose_secret() });
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
    let opened = Client::new(target)?.call(&call).await?.json();
    adopt(target, SecretString::from(opened["token"].as_str().unwrap_or_default())).await
}

/// Ends the session of a context and forgets its token. One that can't be reached ends by itself, in its time.
pub(crate) async fn end(contexts: &Contexts, name: &str) {
    let Some((_, context)) = contexts.all().find(|(known, _)| *known == name) else { return };
    let Ok(Some(token)) = contexts.token(name) else { return };
    let target = Target {
        server: context.server.clone(),
        instance: String::new(),
        token: Some(token),
        ca: context.ca.clone(),
        plain_http: context.plain_http,
    };
    let _unreached = close(&target).await;
    let _unforgotten = contexts.forget_token(name);
}

async fn close(target: &Target) -> Result<(), Failure> {
    let call = Call {
        method: Method::DELETE,
        path: "/sessions/current".to_owned(),
        body: None,
        headers: Vec::new(),
        repeatable: true,
    };
    match Client::new(target)?.call(&call).await {
        // One that has ended already is ended.
        Ok(_) | Err(Failure::Refused { .. }) => Ok(()),
        Err(error) => Err(error),
    }
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
    let again = host(&server) == host(&remembered.server);
    let target = Target {
        instance: said("instance").unwrap_or_default(),
        token: None,
        ca: said("ca").unwrap_or_else(|| if again { remembered.ca.clone() } else { String::new() }),
        plain_http: arguments.get_flag("plain-http") || (again && remembered.plain_http),
        server,
    };
    Client::new(&target)?;
    let user = match said("user") {
        Some(name) => name,
        None => ask("user")?,
    };
    let password = password(arguments)?;
    let (kept, token) = open(&target, Login { user: &user, password: &password }).await?;
    let name = said("context").unwrap_or_else(|| host(&kept.server));
    let told = format!(
        "logged in as {} in {}, until {}; the context is {name}",
        kept.user, kept.instance, kept.expires_at
    );
    end(contexts, &name).await;
    contexts.keep(&name, kept, &token)?;
    contexts.choose(&name)?;
    crate::remark(&told);
    Ok(())
}

/// Ends the session, and forgets its token.
pub(crate) async fn logout(contexts: &mut Contexts, arguments: &ArgMatches) -> Result<(), Failure> {
    let name = contexts.named(arguments).to_owned();
    let target = contexts.target(arguments)?;
    if target.token.is_some() {
        close(&target).await?;
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
        Some(("keyring", rest)) => {
            let program = rest.get_one::<String>("program").map_or("", String::as_str);
            contexts.move_to(if program == "file" { "" } else { program })
        }
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
            let items: Vec<_> = items.collect();
            let columns = ["current", "name", "server", "instance", "user"];
            show::list(&columns, "context", &items, Output::of(arguments));
            Ok(())
        }
    }
}
