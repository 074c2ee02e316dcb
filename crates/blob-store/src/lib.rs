//! The blob-store service: objects on storage, and their bytes between processes. It owns the files of its root and
//! nothing else; which object exists is decided by the rows of metadata.

mod error;
pub mod filesystem;
mod grpc;
mod metrics;
mod opener;
mod own;
mod owned;
mod remote;
pub mod s3;
mod sealed;
mod stores;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use berth_blobs::{Blobs, BlobsError, ObjectRef, PLAIN, WriteOpen};
use berth_oci::{ByteRange, Hasher};
use berth_proto::{MAX_MESSAGE_BYTES, blob_store::blob_store_server::BlobStoreServer};
use berth_service::{Channel, Ids, Registry, Tasks};

pub use error::Error;
pub use filesystem::Filesystem;
pub use grpc::Grpc;
pub use metrics::Metrics;
use opener::{Deployment, Opener, Within};
use owned::OwnedStores;
pub use remote::RemoteBlobs;
use s3::Resources;
pub use s3::S3;
pub use sealed::{Keys, RemoteKeys, Sealed};
pub use stores::Stores;

/// The store that a deployment has from the start.
pub const DEFAULT_STORE: &str = "default";

/// How often the free room is measured.
const ROOM_INTERVAL: Duration = Duration::from_secs(15);

/// Settings of blob-store.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The folder of the filesystem driver. One process at a time may use it; it has to be on a disk that honours
    /// `fsync`. Default: `blobs` in the data folder. With object storage it is only opened where it is named or there
    /// already, for blobs from before.
    pub root: Option<PathBuf>,
    /// Whether blobs that are pushed from now on are sealed before they are stored, in the folder and in the bucket. What
    /// is there already stays as it is, and both are served. It needs instance-manager, which keeps the keys.
    pub encrypt: bool,
    /// How many seconds a key of an instance is kept in memory: so long blobs are served while instance-manager is away,
    /// and so long a key that was destroyed may still open something.
    pub key_cache_seconds: u64,
    /// Object storage. Where a bucket is named, new blobs go there; processes with the metadata role have to know it too.
    pub s3: s3::Config,
    /// Folders below which instances may have a folder of their own for their blobs. Empty: nowhere.
    pub directories: Vec<PathBuf>,
    /// How many seconds pass until the settings of stores that instances have of their own are looked up again. New
    /// credentials of a bucket are looked up at once where the old are refused.
    pub stores_refresh_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: None,
            encrypt: false,
            key_cache_seconds: 300,
            s3: s3::Config::default(),
            directories: Vec::new(),
            stores_refresh_seconds: 30,
        }
    }
}

/// What blob-store needs from the process around it.
#[derive(Debug)]
pub struct Deps<'a> {
    /// The data folder of the process, for the default root.
    pub data: &'a Path,
    /// The keys of instances; may still be an empty slot.
    pub keys: Channel,
    /// Instance-manager, which knows the stores that instances have of their own; may still be an empty slot.
    pub instance_manager: Channel,
    /// Where chance comes from.
    pub ids: Ids,
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

/// Opens the stores and locks the root.
///
/// # Errors
/// When the root can't be used, or another process uses it, or the settings of object storage can't be right.
pub async fn build(config: &Config, deps: Deps<'_>) -> Result<Service, Error> {
    let metrics = Metrics::register(deps.registry);
    let named = config.root.clone();
    let root = named.clone().unwrap_or_else(|| deps.data.join("blobs"));
    let kept = Duration::from_secs(config.key_cache_seconds);
    let keys: Arc<dyn Keys> = Arc::new(RemoteKeys::new(deps.keys, kept));
    let mut drivers: BTreeMap<String, Arc<dyn Blobs>> = BTreeMap::new();
    let in_bucket = !config.s3.bucket.is_empty();
    let resources = Resources::new(&config.s3, deps.ids);
    if !in_bucket || named.is_some() || root.is_dir() {
        let files = Filesystem::open(root.clone(), DEFAULT_STORE, metrics.clone()).await?;
        watch_room(files.clone(), &deps.tasks);
        drivers.insert(DEFAULT_STORE.to_owned(), Arc::new(files));
    }
    let mut default = DEFAULT_STORE.to_owned();
    if in_bucket {
        let bucket = &config.s3;
        if bucket.id == DEFAULT_STORE {
            let message = format!("its id can't be {DEFAULT_STORE:?}, which is the blob folder's");
            return Err(Error::ObjectStorage(message));
        }
        let opened = S3::open_within(bucket, resources.clone(), deps.tasks.clone(), metrics.clone()).await?;
        drivers.insert(bucket.id.clone(), Arc::new(opened));
        default.clone_from(&bucket.id);
    }
    let bucket = in_bucket.then(|| (default.clone(), s3::location_of(&config.s3)));
    let mut stores: BTreeMap<String, Arc<dyn Blobs>> = BTreeMap::new();
    for (id, driver) in &drivers {
        let sealed = Sealed::new(Arc::clone(driver), Arc::clone(&keys), config.encrypt);
        stores.insert(id.clone(), Arc::new(sealed));
    }
    let deployment = Deployment { drivers, default, bucket, root };
    let within = Within { directories: config.directories.clone(), keys, resources };
    let opener = Opener::new(deployment, within, deps.tasks.clone(), metrics);
    let refresh = Duration::from_secs(config.stores_refresh_seconds.max(1));
    let owned = OwnedStores::new(deps.instance_manager, opener.clone(), refresh, &deps.tasks);
    let blobs: Arc<dyn Blobs> = Arc::new(Stores::new(stores, owned));
    let server = bounded(Grpc::with_opener(Arc::clone(&blobs), opener));
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
    bounded(Grpc::new(blobs))
}

fn bounded(server: Grpc) -> BlobStoreServer<Grpc> {
    BlobStoreServer::new(server)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// The running hash at the offset where a write begins.
fn restore_hash(open: &WriteOpen) -> Result<Hasher, BlobsError> {
    match (&open.hash_state, open.offset) {
        (None, 0) => Ok(Hasher::new(open.algorithm)),
        (Some(state), _) => Hasher::restore(state)
            .filter(|hasher| hasher.algorithm() == open.algorithm)
            .ok_or(BlobsError::Invalid("a hash state that is none of this algorithm")),
        (None, _) => Err(BlobsError::Invalid("no hash state for an object with bytes")),
    }
}

/// A driver knows plain bytes alone.
fn check_plain(object: &ObjectRef) -> Result<(), BlobsError> {
    if object.format == PLAIN && object.sealing.is_none() {
        return Ok(());
    }
    Err(BlobsError::Invalid("an object's format that this store does not know"))
}

/// The part of the object to read: exactly `range`, or all of it.
fn resolve(object: &ObjectRef, range: Option<ByteRange>) -> Result<ByteRange, BlobsError> {
    check_plain(object)?;
    checked_range(object.size, range)
}

/// A range of an object of this size: the one asked for, or all of it.
fn checked_range(size: u64, range: Option<ByteRange>) -> Result<ByteRange, BlobsError> {
    let range = range.unwrap_or(ByteRange { offset: 0, length: size });
    match range.offset.checked_add(range.length) {
        Some(end) if end <= size => Ok(range),
        _ => Err(BlobsError::Invalid("a range outside the object")),
    }
}
