//! Berth, embedded: SQLite, a folder, nothing beside it.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{Authorise, Kind, Scope, Server};
use crate::{
    http::{Connection, head},
    process::{Process, free_address},
};

const PASSWORD: &str = "a password of the benchmark";

pub(super) async fn start(program: &str, folder: &Path) -> anyhow::Result<Server> {
    let (address, admin) = (free_address()?, free_address()?);
    let data = folder.join("data").display().to_string();
    let (listen, admin) = (address.to_string(), admin.to_string());
    let arguments =
        ["serve", "--data", &data, "--listen", &listen, "--admin-listen", &admin, "--log-format", "json"];
    let environment = [("BERTH_ADMIN_PASSWORD", PASSWORD), ("RUST_LOG", "error")];
    let mut process = Process::start(program, &arguments, &environment)?;
    process.listens(address).await?;
    Ok(Server { kind: Kind::Berth, address, process, authorise: Authorise::Token(address) })
}

/// The request for a token.
pub(crate) fn token_request(scope: Scope<'_>) -> Vec<u8> {
    let actions = if scope.push { "pull,push" } else { "pull" };
    let scopes: String =
        scope.repositories.iter().map(|name| format!("&scope=repository:{name}:{actions}")).collect();
    let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("admin:{PASSWORD}")));
    head("GET", &format!("/token?service=default{scopes}"), &[("Authorization", &basic)], None)
}

pub(super) async fn token(address: SocketAddr, scope: Scope<'_>) -> anyhow::Result<String> {
    let mut body = Vec::new();
    let mut connection = Connection::open(address).await?;
    let answer = connection
        .exchange_into(&token_request(scope), &[], &mut |piece| body.extend_from_slice(piece))
        .await?;
    ensure!(answer.status == 200, "GET /token: {} {}", answer.status, String::from_utf8_lossy(&body));
    let body: serde_json::Value = serde_json::from_slice(&body)?;
    Ok(format!("Bearer {}", body["token"].as_str().context("no token")?))
}
