//! The filesystem driver. An object is one file, written in place and never renamed, since its row decides whether it
//! exists: `i/<instance>/<last two characters>/<ulid>` under a root that one process holds at a time.
//!
//! Nothing here counts as stored before its file's data and every new directory entry above it are on the device.

mod epochs;
mod folders;
mod list;
mod writer;

use std::{
    fs::File,
    io::{self, Read, Seek},
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use berth_blobs::{
    BlobReader, BlobWriter, Blobs, BlobsError, Listed, MAX_LISTED, ObjectKey, ObjectRef, STEP_BYTES,
    WriteOpen,
};
use berth_oci::{Algorithm, ByteRange, Digest, Hasher};
use rustix::{
    fs::{AtFlags, FlockOperation, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use self::{
    epochs::Epochs,
    folders::Folders,
    writer::{Buffers, FileWriter},
};
use crate::{Error, Metrics};

/// Name of the lock in the root.
const LOCK: &str = "blob-store.lock";
/// Opening for reading.
const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// A store in a folder.
#[derive(Clone, Debug)]
pub struct Filesystem(Arc<Store>);

#[derive(Debug)]
struct Store {
    store_id: String,
    root: OwnedFd,
    /// Held as long as the store lives.
    _lock: File,
    folders: Folders,
    epochs: Epochs,
    buffers: Buffers,
    metrics: Metrics,
}

/// The file of an object, relative to the root.
fn path_of(key: &ObjectKey) -> String {
    format!("{}/{}", folders::folder_of(key), key.object())
}

impl Filesystem {
    /// Opens the store `store_id` in the folder `root`, which is made if need be, and locks it.
    ///
    /// # Errors
    /// [`Error::InUse`] while another process, or another store of this one, holds the folder.
    pub async fn open(
        root: impl Into<PathBuf>,
        store_id: impl Into<String>,
        metrics: Metrics,
    ) -> Result<Self, Error> {
        let (root, store_id) = (root.into(), store_id.into());
        tokio::task::spawn_blocking(move || {
            let failed = |source| Error::Root { root: root.clone(), source };
            make_root(&root).map_err(failed)?;
            let lock = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(root.join(LOCK))
                .map_err(failed)?;
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(Error::InUse(root.clone())),
                Err(error) => return Err(failed(error.into())),
            }
            let folder = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
            let handle =
                rustix::fs::open(&root, folder, Mode::empty()).map_err(|error| failed(error.into()))?;
            rustix::fs::fsync(&handle).map_err(|error| failed(error.into()))?;
            let epochs = Epochs::new(epochs::can_be_kept_on(&lock));
            Ok(Self(Arc::new(Store {
                store_id,
                root: handle,
                _lock: lock,
                folders: Folders::default(),
                epochs,
                buffers: Buffers::default(),
                metrics,
            })))
        })
        .await
        .map_err(|error| Error::Root { root: PathBuf::new(), source: io::Error::other(error) })?
    }

    /// Whether somebody writes to it, or has begun something that did not end.
    pub(crate) fn in_use(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Puts the free room of the device into its gauge.
    pub(crate) async fn measure_room(&self) {
        let measured = self
            .blocking(|store| {
                let device = rustix::fs::fstatvfs(&store.root);
                device.map_err(|error| BlobsError::io("measure the device", error.into()))
            })
            .await;
        if let Ok(device) = measured {
            let room = device.f_bavail.saturating_mul(device.f_frsize);
            self.0.metrics.room.set(i64::try_from(room).unwrap_or(i64::MAX));
        }
    }

    /// Runs `call` where it may block, and counts its error.
    async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Arc<Store>) -> Result<T, BlobsError> + Send + 'static,
    ) -> Result<T, BlobsError> {
        let store = Arc::clone(&self.0);
        let outcome = tokio::task::spawn_blocking(move || call(&store)).await;
        let outcome =
            outcome.unwrap_or_else(|error| Err(BlobsError::io("run a task", io::Error::other(error))));
        outcome.inspect_err(|error| self.0.metrics.count(error))
    }
}

/// Makes the root and the folders above it, each new entry on the device before this returns.
fn make_root(root: &Path) -> io::Result<()> {
    let parent = match root.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    if root.is_dir() {
        // A start that was cut short may have made it and not synced it; a parent that can't be read was there before.
        return File::open(parent).map_or(Ok(()), |parent| parent.sync_all());
    }
    make_root(parent)?;
    match std::fs::DirBuilder::new().mode(0o700).create(root) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    File::open(parent)?.sync_all()
}

impl Store {
    fn check_store(&self, store_id: &str) -> Result<(), BlobsError> {
        if store_id == self.store_id {
            Ok(())
        } else {
            Err(BlobsError::Unavailable(format!("store {store_id:?} is not configured here")))
        }
    }

    fn open_file(&self, key: &ObjectKey) -> Result<File, BlobsError> {
        rustix::fs::openat(&self.root, path_of(key), READ, Mode::empty())
            .map(File::from)
            .map_err(|error| BlobsError::io("open an object", error.into()))
    }

    /// Opens without waiting for the device: `None` when that isn't certain to be possible.
    fn open_cached(&self, key: &ObjectKey) -> Option<File> {
        let resolve = ResolveFlags::CACHED | ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        rustix::fs::openat2(&self.root, path_of(key), READ, Mode::empty(), resolve).ok().map(File::from)
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), BlobsError> {
        let failed = |operation| move |error: Errno| BlobsError::io(operation, error.into());
        if let Some(writer) = self.epochs.bury(key) {
            writer.close();
        }
        berth_service::crash::point("object.before_unlink");
        match rustix::fs::unlinkat(&self.root, path_of(key), AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(failed("delete an object")(error)),
        }
        berth_service::crash::point("object.unlinked");
        // Its row is gone after this call: were the entry to come back after a power loss, nothing would find it.
        self.folders.sync(&self.root, &folders::folder_of(key)).map_err(failed("sync a folder"))?;
        berth_service::crash::point("object.unlink_synced");
        self.metrics.deletes.inc();
        Ok(())
    }
}

fn check_length(file: &File, expected: u64) -> Result<(), BlobsError> {
    let found = file.metadata().map_err(|error| BlobsError::io("look at an object", error))?.len();
    if found < expected { Err(BlobsError::Short { expected, found }) } else { Ok(()) }
}

#[async_trait]
impl Blobs for Filesystem {
    async fn write(&self, open: WriteOpen) -> Result<Box<dyn BlobWriter>, BlobsError> {
        self.0.check_store(&open.store_id)?;
        let hasher = crate::restore_hash(&open)?;
        let (key, offset) = (open.key.clone(), open.offset);
        let opened = self.blocking(move |store| store.take_over(&open)).await?;
        Ok(Box::new(FileWriter::new(self.clone(), key, opened, offset, hasher)))
    }

    async fn rehash(&self, object: &ObjectRef, algorithm: Algorithm) -> Result<Digest, BlobsError> {
        self.0.check_store(&object.store_id)?;
        crate::check_plain(object)?;
        let (key, size) = (object.key.clone(), object.size);
        self.blocking(move |store| {
            let mut file = store.open_file(&key)?;
            check_length(&file, size)?;
            file.rewind().map_err(|error| BlobsError::io("read an object", error))?;
            let (mut hasher, mut buffer, mut done) = (Hasher::new(algorithm), vec![0; STEP_BYTES], 0);
            while done < size {
                let step = usize::try_from(size - done).map_or(STEP_BYTES, |left| left.min(STEP_BYTES));
                let read = file
                    .read(&mut buffer[..step])
                    .map_err(|error| BlobsError::io("read an object", error))?;
                if read == 0 {
                    return Err(BlobsError::Short { expected: size, found: done });
                }
                hasher.update(&buffer[..read]);
                done += read as u64;
            }
            Ok(hasher.finish())
        })
        .await
    }

    async fn open(&self, object: &ObjectRef, range: Option<ByteRange>) -> Result<BlobReader, BlobsError> {
        self.0.check_store(&object.store_id)?;
        let ByteRange { offset, length } = crate::resolve(object, range)?;
        let size = object.size;
        let file = match self.0.open_cached(&object.key) {
            Some(file) => {
                check_length(&file, size).inspect_err(|error| self.0.metrics.count(error))?;
                file
            }
            None => {
                let key = object.key.clone();
                self.blocking(move |store| {
                    let file = store.open_file(&key)?;
                    check_length(&file, size)?;
                    Ok(file)
                })
                .await?
            }
        };
        self.0.metrics.read.inc_by(length);
        Ok(BlobReader::File { file, offset, length })
    }

    async fn delete(&self, store_id: &str, key: &ObjectKey) -> Result<(), BlobsError> {
        self.0.check_store(store_id)?;
        let key = key.clone();
        self.blocking(move |store| store.delete(&key)).await
    }

    async fn list(
        &self,
        store_id: &str,
        after: Option<&ObjectKey>,
        limit: usize,
    ) -> Result<Vec<Listed>, BlobsError> {
        self.0.check_store(store_id)?;
        let after = after.cloned();
        self.blocking(move |store| store.list(after.as_ref(), limit.min(MAX_LISTED))).await
    }
}
