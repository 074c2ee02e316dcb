//! zot, from a binary that is given: `commit` on, as everything here is synced. It asks nobody who they are, since its
//! bearer tokens need a token server: in its favour.

use std::path::Path;

use super::{Authorise, Kind, Server};
use crate::process::{Process, free_address};

pub(super) async fn start(program: &str, folder: &Path) -> anyhow::Result<Server> {
    let address = free_address()?;
    let config = serde_json::json!({
        "distSpecVersion": "1.1.1",
        "storage": { "rootDirectory": folder.join("data"), "commit": true, "dedupe": true, "gc": false },
        "http": { "address": address.ip().to_string(), "port": address.port().to_string() },
        "log": { "level": "error", "output": "/dev/null" },
    });
    let path = folder.join("zot.json");
    std::fs::write(&path, config.to_string())?;
    let mut process = Process::start(program, &["serve", &path.display().to_string()], &[])?;
    process.listens(address).await?;
    Ok(Server { kind: Kind::Zot, address, process, authorise: Authorise::Nothing, _storage: None })
}
