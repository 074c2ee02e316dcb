//! What black-box tests stand on: the built binary as child processes, a private PostgreSQL and Redis, a round robin before two
//! gateways, a small OCI client, and content made from seeds. It ends only what it started itself.
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "test code: what can't be had ends the test that needs it, with its reason"
)]

mod admin;
mod client;
mod clock;
mod content;
mod deployment;
mod documented;
mod issuer;
mod janitor;
pub mod object_storage;
mod oracle;
mod postgres;
mod process;
mod proxy;
pub mod raw;
mod redis;
mod settings;

pub use client::{Call, Client, Reply, Repository};
pub use clock::Skewed;
pub use content::{Blob, Content, Image, Manifest, descriptor};
pub use deployment::{Builder, Deployment, Engine, Layout, Setting, Storage};
pub use documented::{documented_blocks, run_documented};
pub use issuer::OidcIssuer;
pub use object_storage::ObjectStorage;
pub use oracle::{Baseline, Verified};
pub use postgres::{Postgres, Sql};
pub use process::{Berth, binary};
pub use proxy::RoundRobin;
pub use redis::Redis;
pub use settings::{ended, shared};

/// The name of the first administrator.
pub const ADMIN: &str = "admin";
/// Their password in every deployment of this kit.
pub const PASSWORD: &str = "correct-horse-battery-staple";

/// How long anything of this kit waits before it says what did not happen.
pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Has a folder removed when this process is gone, however it ends.
pub fn remove_at_end(folder: &std::path::Path) {
    janitor::folder(folder);
}

/// Asks `probe` until it has an answer, for a bounded time.
///
/// # Errors
/// Names `what` did not happen in time.
pub async fn eventually<T, F>(what: &str, mut probe: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = Option<T>>,
{
    let started = std::time::Instant::now();
    loop {
        if let Some(answer) = probe().await {
            return Ok(answer);
        }
        if started.elapsed() > PATIENCE {
            anyhow::bail!("{what}: not within {PATIENCE:?}");
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
