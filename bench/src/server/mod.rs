//! The servers that are compared. Each is started on one core with the same settings: authentication on where it exists,
//! writes synced, nothing logged.

mod bare;
mod berth;
mod distribution;
mod nginx;
mod zot;

use std::{net::SocketAddr, path::Path};

pub(crate) use bare::serve as serve_bare;
pub(crate) use berth::{Plan as BerthPlan, token_request as berth_token_request};
use berth_testkit::ObjectStorage;

use crate::process::Process;

/// Which server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Kind {
    /// This project.
    Berth,
    /// The same with its blobs in object storage, where it sends its clients.
    Redirecting,
    /// CNCF distribution.
    Distribution,
    /// zot.
    Zot,
    /// nginx, with the same bytes as files: a limit.
    Nginx,
    /// hyper and nothing else, with the same bytes in memory: a limit.
    Bare,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Berth => "berth",
            Self::Redirecting => "berth on S3",
            Self::Distribution => "distribution",
            Self::Zot => "zot",
            Self::Nginx => "nginx",
            Self::Bare => "bare hyper",
        }
    }

    /// Whether content is pushed to it; the limits get it from files.
    pub(crate) fn is_registry(self) -> bool {
        matches!(self, Self::Berth | Self::Redirecting | Self::Distribution | Self::Zot)
    }
}

/// Where the programs are.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Programs {
    /// The program `berth`, of a release build.
    #[arg(long)]
    pub(crate) berth: String,
    /// The program `registry` of distribution v3.
    #[arg(long)]
    pub(crate) distribution: Option<String>,
    /// The program `zot`.
    #[arg(long)]
    pub(crate) zot: Option<String>,
    /// The program `nginx`.
    #[arg(long)]
    pub(crate) nginx: Option<String>,
}

/// A server that runs.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    pub(crate) process: Process,
    authorise: Authorise,
    /// What has to live as long.
    _storage: Option<ObjectStorage>,
}

/// Where a server's `Authorization` comes from.
enum Authorise {
    /// It asks nobody.
    Nothing,
    /// A token of its own endpoint, for user and password.
    Token(SocketAddr),
    /// A token that this program signs.
    Signed(Box<distribution::Signer>),
}

/// What a token is for: repositories, each to be pulled from and, if `push`, pushed to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope<'a> {
    pub(crate) repositories: &'a [&'a str],
    pub(crate) push: bool,
}

impl Server {
    /// Starts one. `files` is what the limits serve: a folder with the paths of a registry.
    pub(crate) async fn start(
        kind: Kind,
        programs: &Programs,
        folder: &Path,
        files: &Path,
    ) -> anyhow::Result<Option<Self>> {
        let started = match kind {
            Kind::Berth => Some(BerthPlan::new(&programs.berth, folder).start().await?),
            Kind::Redirecting => Some(berth::start_redirecting(&programs.berth, folder).await?),
            Kind::Distribution => match &programs.distribution {
                Some(program) => Some(distribution::start(program, folder).await?),
                None => None,
            },
            Kind::Zot => match &programs.zot {
                Some(program) => Some(zot::start(program, folder).await?),
                None => None,
            },
            Kind::Nginx => match &programs.nginx {
                Some(program) => Some(nginx::start(program, folder, files).await?),
                None => None,
            },
            Kind::Bare => Some(bare::start(files).await?),
        };
        Ok(started)
    }

    /// The value of `Authorization` of a client that pulls.
    pub(crate) async fn puller(&self, repository: &str) -> anyhow::Result<String> {
        self.authorisation(Scope { repositories: &[repository], push: false }).await
    }

    /// The value of `Authorization` of a client that pushes.
    pub(crate) async fn pusher(&self, repository: &str) -> anyhow::Result<String> {
        self.authorisation(Scope { repositories: &[repository], push: true }).await
    }

    /// The value of `Authorization` of a client that pushes to all of these.
    pub(crate) async fn pusher_of(&self, repositories: &[&str]) -> anyhow::Result<String> {
        self.authorisation(Scope { repositories, push: true }).await
    }

    /// The value of `Authorization` of a client that lists repositories.
    pub(crate) async fn lister(&self) -> anyhow::Result<String> {
        berth::catalog_token(self.address).await
    }

    async fn authorisation(&self, scope: Scope<'_>) -> anyhow::Result<String> {
        match &self.authorise {
            Authorise::Nothing => Ok("Bearer none".to_owned()),
            Authorise::Token(address) => berth::token(*address, scope).await,
            Authorise::Signed(signer) => signer.token(scope),
        }
    }
}
