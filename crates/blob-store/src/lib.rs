//! The blob-store service: objects on storage, and their bytes between processes. It owns the files of its root and
//! nothing else; which object exists is decided by the rows of metadata.

mod error;
pub mod filesystem;
mod grpc;
mod metrics;
mod remote;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use berth_blobs::Blobs;
use berth_proto::{MAX_MESSAGE_BYTES, blob_store::blob_store_server::BlobStoreServer};
use berth_service::{Registry, Tasks};

pub use error::Error;
pub use filesystem::Filesystem;
pub use grpc::Grpc;
pub use metrics::Metrics;
pub use remote::RemoteBlobs;

/// The store that a deployment has from the start.
pub const DEFAULT_STORE: &str = "default";

/// How often the free room is measured.
const ROOM_INTERVAL: Duration = Duration::from_secs(15);

/// Settings of blob-store.
#[derive(
    Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The folder of the filesystem driver. One process at a time may use it; it has to be on a disk that honours
    /// `fsync`. Default: `blobs` in the data folder.
    pub root: Option<PathBuf>,
}

/// What blob-store needs from the process around it.
#[derive(Debug)]
pub struct Deps<'a> {
    /// The data folder of the process, for the default root.
    pub data: &'a Path,
    /// What runs beside requests.
    pub tasks: Tasks,
    /// Where its metrics are registered.
    pub registry: &'a mut Registry,
}

/// A built blob-store.
#[derive(Clone, Debug)]
pub struct Service {
    /// The store, for a gateway in the same process.
    pub blobs: Arc<dyn Blobs>,
    /// The store for other processes.
    pub server: BlobStoreServer<Grpc>,
}

/// Opens the store and locks its root.
///
/// # Errors
/// When the root can't be used, or another process uses it.
pub async fn build(config: &Config, deps: Deps<'_>) -> Result<Service, Error> {
    let metrics = Metrics::register(deps.registry);
    let root = config.root.clone().unwrap_or_else(|| deps.data.join("blobs"));
    let files = Filesystem::open(root, DEFAULT_STORE, metrics).await?;
    watch_room(files.clone(), &deps.tasks);
    let blobs: Arc<dyn Blobs> = Arc::new(files);
    let server = serve(Arc::clone(&blobs));
    Ok(Service { blobs, server })
}

/// Keeps the gauge of free room current: a full disk should be seen coming.
fn watch_room(files: Filesystem, tasks: &Tasks) {
    let stopping = tasks.stopping();
    tasks.spawn("measure the room of the blob folder", async move {
        let mut ticks = tokio::time::interval(ROOM_INTERVAL);
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                _ = ticks.tick() => files.measure_room().await,
            }
        }
    });
}

/// The gRPC server over any store.
pub fn serve(blobs: Arc<dyn Blobs>) -> BlobStoreServer<Grpc> {
    BlobStoreServer::new(Grpc::new(blobs))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}
