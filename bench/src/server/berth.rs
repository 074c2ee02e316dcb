//! Berth, embedded: SQLite, a folder, nothing beside it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use berth_testkit::ObjectStorage;

use super::{Authorise, Kind, Scope, Server};
use crate::{
    http::{Connection, head},
    process::{Process, free_address},
};

const PASSWORD: &str = "a password of the benchmark";

/// How it is started.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    program: String,
    folder: PathBuf,
    environment: Vec<(String, String)>,
}

impl Plan {
    /// With its data in a folder, which need not be there.
    pub(crate) fn new(program: &str, folder: &Path) -> Self {
        let environment = [("BERTH_ADMIN_PASSWORD", PASSWORD), ("RUST_LOG", "error")];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Self { program: program.to_owned(), folder: folder.to_owned(), environment }
    }

    /// The folder of its databases.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The same with a key of the configuration: `listen.limits.idle_seconds`.
    #[must_use]
    pub(crate) fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        let name = format!("BERTH__{}", key.replace('.', "__").to_uppercase());
        self.environment.push((name, value.into()));
        self
    }

    /// The same with its blobs in object storage.
    #[must_use]
    pub(crate) fn on_bucket(mut self, storage: &ObjectStorage) -> Self {
        self.environment.extend(storage.settings());
        self
    }

    /// Starts the program and gives its address, where nobody listens yet.
    pub(crate) fn spawn(&self) -> anyhow::Result<(Process, SocketAddr)> {
        let (address, admin) = (free_address()?, free_address()?);
        let (data, listen, admin) =
            (self.data().display().to_string(), address.to_string(), admin.to_string());
        let arguments =
            ["serve", "--data", &data, "--listen", &listen, "--admin-listen", &admin, "--log-format", "json"];
        let environment: Vec<_> =
            self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Ok((Process::start(&self.program, &arguments, &environment)?, address))
    }

    /// Starts it and waits until it listens.
    pub(crate) async fn start(&self) -> anyhow::Result<Server> {
        let (mut process, address) = self.spawn()?;
        process.listens(address).await?;
        Ok(Server {
            kind: Kind::Berth,
            address,
            process,
            authorise: Authorise::Token(address),
            _storage: None,
        })
    }

    /// Runs `berth admin` beside it.
    fn admin(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let mut command = std::process::Command::new(&self.program);
        command.arg("admin").arg("--data").arg(self.data()).args(arguments);
        let output = command.output().context("can't run berth admin")?;
        ensure!(output.status.success(), "berth admin: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

/// One that keeps its blobs in object storage, a server in this process, and sends its clients there.
pub(super) async fn start_redirecting(program: &str, folder: &Path) -> anyhow::Result<Server> {
    let storage = ObjectStorage::start();
    let plan = Plan::new(program, folder).on_bucket(&storage);
    let server = plan.start().await?;
    plan.admin(&["set-blob-delivery", "default", "redirect"])?;
    Ok(Server { kind: Kind::Redirecting, _storage: Some(storage), ..server })
}

/// The request for a token.
pub(crate) fn token_request(scope: Scope<'_>) -> Vec<u8> {
    let actions = if scope.push { "pull,push" } else { "pull" };
    let scopes: String =
        scope.repositories.iter().map(|name| format!("&scope=repository:{name}:{actions}")).collect();
    request_for(&scopes)
}

fn request_for(scopes: &str) -> Vec<u8> {
    let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("admin:{PASSWORD}")));
    head("GET", &format!("/token?service=default{scopes}"), &[("Authorization", &basic)], None)
}

pub(super) async fn token(address: SocketAddr, scope: Scope<'_>) -> anyhow::Result<String> {
    token_for(address, &token_request(scope)).await
}

/// A token for the catalog.
pub(super) async fn catalog_token(address: SocketAddr) -> anyhow::Result<String> {
    token_for(address, &request_for("&scope=registry:catalog:*")).await
}

async fn token_for(address: SocketAddr, request: &[u8]) -> anyhow::Result<String> {
    let mut body = Vec::new();
    let mut connection = Connection::open(address).await?;
    let answer = connection.exchange_into(request, &[], &mut |piece| body.extend_from_slice(piece)).await?;
    ensure!(answer.status == 200, "GET /token: {} {}", answer.status, String::from_utf8_lossy(&body));
    let body: serde_json::Value = serde_json::from_slice(&body)?;
    Ok(format!("Bearer {}", body["token"].as_str().context("no token")?))
}
