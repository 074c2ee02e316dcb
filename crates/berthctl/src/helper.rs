//! Docker's credential helper protocol (github.com/docker/docker-credential-helpers): `get`, `store`, `erase` and `list`, each
//! with its input on standard input. What is answered is the token of a session under the user name `<token>`, which docker,
//! helm, oras and the others take as an identity token and trade for access tokens; a password is never kept.

use berth_service::{Clock, SystemClock};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;

use crate::{
    contexts::{Context, Contexts, Target, host, token_of_environment},
    failure::Failure,
    keyring::NOT_FOUND,
    sessions::{self, Login},
};

/// The user name of what is a token rather than a password.
const TOKEN: &str = "<token>";

/// What `store` reads.
#[derive(Deserialize)]
struct Credentials {
    #[serde(rename = "ServerURL")]
    server: String,
    #[serde(rename = "Username")]
    user: String,
    #[serde(rename = "Secret", deserialize_with = "secret")]
    secret: SecretString,
}

fn secret<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    String::deserialize(deserializer).map(SecretString::from)
}

/// Does what docker asks for.
pub(crate) async fn run(action: &str, input: &str) -> Result<(), Failure> {
    let mut contexts = Contexts::open()?;
    match action {
        "get" => get(&contexts, input),
        "store" => store(&mut contexts, input).await,
        "erase" => erase(&mut contexts, input).await,
        "list" => list(&contexts),
        "version" | "--version" => {
            crate::print(concat!("docker-credential-berth ", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
        _ => Err(Failure::usage(
            "docker calls this by itself, after berthctl configure-docker; its actions are get, store, erase and list",
        )),
    }
}

/// Logins of docker itself are beside those of a terminal, so that neither changes who the other is.
fn own_name(server: &str) -> String {
    format!("docker:{}", host(server))
}

/// The contexts of a registry: docker's own, the current one, the others.
fn of<'a>(contexts: &'a Contexts, server: &str) -> Vec<(&'a str, &'a Context)> {
    let (wanted, own) = (host(server), own_name(server));
    let all = contexts.all().filter(|(_, context)| host(&context.server) == wanted);
    let mut found: Vec<_> = all.map(|(name, context)| (name.as_str(), context)).collect();
    found.sort_by_key(|(name, _)| (*name != own, *name != contexts.current()));
    found
}

fn ended(context: &Context) -> bool {
    let now = u64::try_from(SystemClock.now().0).unwrap_or_default();
    let until = humantime::parse_rfc3339(&context.expires_at).ok();
    let until = until.and_then(|until| until.duration_since(std::time::UNIX_EPOCH).ok());
    until.is_some_and(|until| until.as_micros() <= u128::from(now))
}

fn get(contexts: &Contexts, server: &str) -> Result<(), Failure> {
    let answer = |token: &SecretString| {
        let found = json!({ "ServerURL": server, "Username": TOKEN, "Secret": token.expose_secret() });
        crate::print(&found.to_string());
        Ok(())
    };
    let named = std::env::var("BERTH_SERVER").unwrap_or_default();
    if let Some(token) = token_of_environment().filter(|_| host(&named) == host(server)) {
        return answer(&token);
    }
    let mut over = None;
    for (name, context) in of(contexts, server).into_iter().filter(|(_, one)| !one.hidden_from_docker) {
        match contexts.token(name)? {
            Some(_) if ended(context) => over = over.or(Some(context)),
            Some(token) => return answer(&token),
            None => {}
        }
    }
    match over {
        Some(context) => Err(Failure::usage(format!(
            "the session at {} ended at {}; run berthctl login {} or docker login",
            host(server),
            context.expires_at,
            context.server
        ))),
        None => Err(Failure::usage(NOT_FOUND)),
    }
}

/// Where a registry is that is known by its host alone: as it was before, else by TLS, and by plain HTTP on this machine.
async fn log_in(contexts: &Contexts, new: &Credentials) -> Result<(Context, SecretString), Failure> {
    let known = of(contexts, &new.server).first().map(|(_, context)| (*context).clone());
    let servers = match &known {
        Some(context) => vec![context.server.clone()],
        None if new.server.contains("://") => vec![new.server.clone()],
        None => ["https", "http"].iter().map(|scheme| format!("{scheme}://{}", host(&new.server))).collect(),
    };
    let known = known.unwrap_or_default();
    let mut last = Failure::usage(format!("{} is no registry", new.server));
    for server in servers {
        let target = Target {
            server,
            instance: String::new(),
            token: None,
            ca: std::env::var("BERTH_CA").unwrap_or_else(|_| known.ca.clone()),
            plain_http: known.plain_http,
        };
        let done = match new.user.as_str() {
            TOKEN => sessions::adopt(&target, new.secret.clone()).await,
            user => sessions::open(&target, Login { user, password: &new.secret }).await,
        };
        match done {
            // What is without TLS and not here is not tried at all, and says nothing new.
            Err(Failure::Usage(_)) if matches!(last, Failure::Unreachable(_)) => {}
            Err(error @ Failure::Unreachable(_)) => last = error,
            other => return other,
        }
    }
    Err(last)
}

async fn store(contexts: &mut Contexts, input: &str) -> Result<(), Failure> {
    let new: Credentials = serde_json::from_str(input)
        .map_err(|error| Failure::usage(format!("no credentials as docker writes them: {error}")))?;
    let (context, token) = log_in(contexts, &new).await?;
    let name = own_name(&new.server);
    sessions::end(contexts, &name).await;
    Ok(contexts.keep(&name, context, &token)?)
}

/// Ends what docker has logged in, and hides from it what it has not: that is not docker's to end.
async fn erase(contexts: &mut Contexts, server: &str) -> Result<(), Failure> {
    let own = own_name(server);
    if contexts.all().any(|(name, _)| *name == own) {
        sessions::end(contexts, &own).await;
        contexts.delete(&own)?;
    }
    Ok(contexts.hide_from_docker(server, true)?)
}

fn list(contexts: &Contexts) -> Result<(), Failure> {
    let mut found = serde_json::Map::new();
    for (name, context) in contexts.all().filter(|(_, one)| !one.hidden_from_docker) {
        if contexts.token(name)?.is_some() {
            found.insert(host(&context.server), json!(TOKEN));
        }
    }
    crate::print(&serde_json::Value::Object(found).to_string());
    Ok(())
}
