//! Appending to a file. Bytes are copied together as they come in, in buffers that are used again; each full one is
//! hashed and written beside the reactor while the next fills. Two buffers is all that a writer holds in memory.

use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

use async_trait::async_trait;
use berth_blobs::{BlobWriter, BlobsError, Closed, ObjectKey, StagingChange, WriteOpen, Written};
use berth_oci::Hasher;
use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use tokio::task::JoinHandle;

use super::{Filesystem, Store, epochs::Slot, folders::folder_of, path_of};

/// Bytes that are hashed and written in one step beside the reactor.
const BATCH: usize = 1024 * 1024;
/// Bytes that are hashed and then written while the processor still has them at hand. Not more: up to here the kernel takes
/// pages that were in use before; for larger writes it takes larger ones, which a virtual machine may have given back to its
/// host, and to get one again costs ten times the copy into it.
const PIECE: usize = 32 * 1024;
/// What is not more than this waits in memory of its own size.
const SMALL: usize = 64 * 1024;
/// Buffers that are kept for the next writers.
const KEPT_BUFFERS: usize = 8;

/// Buffers of [`BATCH`] bytes that were used before: fresh memory costs more than the copy into it.
#[derive(Debug, Default)]
pub(super) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    fn take(&self) -> Vec<u8> {
        self.0.lock().pop().unwrap_or_else(|| Vec::with_capacity(BATCH))
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut kept = self.0.lock();
        if buffer.capacity() == BATCH && kept.len() < KEPT_BUFFERS {
            kept.push(buffer);
        }
    }
}

/// A file that was taken over for writing.
#[derive(Debug)]
pub(super) struct Opened {
    slot: Arc<Slot>,
    /// The folder that has a new entry.
    new_entry: Option<String>,
}

impl Store {
    /// Closes the writer before, opens the file, and cuts what lies beyond the recorded offset.
    pub(super) fn take_over(&self, open: &WriteOpen) -> Result<Opened, BlobsError> {
        let slot = Arc::new(Slot::default());
        // Held until the file is there: a still newer claim waits for this one before it cuts.
        let mut file_of_slot = slot.lock();
        if let Some(previous) = self.epochs.claim(&open.key, open.epoch, &slot)? {
            previous.close();
        }
        let folder = folder_of(&open.key);
        let mut flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        if open.offset == 0 {
            flags |= OFlags::CREATE;
            self.folders
                .make(&self.root, &folder)
                .map_err(|error| BlobsError::io("make a folder", error.into()))?;
        }
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(&self.root, path_of(&open.key), flags, mode)
            .map_err(|error| BlobsError::io("open an object", error.into()))?;
        let file = File::from(file);
        self.epochs.mark(&file, open.epoch)?;
        berth_service::crash::point("object.opened");
        let found = file.metadata().map_err(|error| BlobsError::io("look at an object", error))?.len();
        if found < open.offset {
            return Err(BlobsError::Short { expected: open.offset, found });
        }
        if found > open.offset {
            file.set_len(open.offset).map_err(|error| BlobsError::io("cut an object", error))?;
            berth_service::crash::point("object.cut");
        }
        *file_of_slot = Some(file);
        drop(file_of_slot);
        // Bytes that are recorded were synced together with their file's entry.
        Ok(Opened { slot, new_entry: (open.offset == 0).then_some(folder) })
    }
}

/// Writes to one file.
#[derive(Debug)]
pub(super) struct FileWriter {
    store: Filesystem,
    key: ObjectKey,
    slot: Arc<Slot>,
    new_entry: Option<String>,
    /// None while a step has it, and after one that failed.
    hasher: Option<Hasher>,
    /// Bytes taken in.
    offset: u64,
    /// Bytes on the device.
    durable: u64,
    /// The last bytes taken in, on their way to the file.
    batch: Vec<u8>,
    in_flight: Option<JoinHandle<Result<Hasher, BlobsError>>>,
    /// A call failed or did not end.
    broken: bool,
}

/// What a step on the file does after writing its batch.
enum Then {
    Nothing,
    /// Sync the file, and the folder with its entry.
    Sync(Option<String>),
}

/// Bytes to be hashed and written.
struct Step {
    batch: Vec<u8>,
    offset: u64,
    durable: u64,
    hasher: Hasher,
    then: Then,
}

impl Step {
    /// Hashes and writes a batch, and cuts the file back to what is durable when that fails.
    fn run(mut self, store: &Store, slot: &Slot) -> Result<Hasher, BlobsError> {
        let mut file_of_slot = slot.lock();
        let Some(file) = file_of_slot.as_ref() else { return Err(BlobsError::Stale) };
        berth_service::crash::point("object.before_write");
        let written = self.write(file).map_err(|error| BlobsError::io("write an object", error));
        berth_service::crash::point("object.written");
        let outcome = match (written, &self.then) {
            (Ok(()), Then::Sync(new_entry)) => sync(store, file, new_entry.as_deref()),
            (written, _) => written,
        };
        if let Err(error) = outcome {
            // Gives the room back at once; were this to fail too, the next writer cuts.
            let _cut_later = file.set_len(self.durable);
            file_of_slot.take();
            store.metrics.count(&error);
            return Err(error);
        }
        store.metrics.written.inc_by(self.batch.len() as u64);
        store.buffers.give_back(self.batch);
        Ok(self.hasher)
    }

    fn write(&mut self, file: &File) -> io::Result<()> {
        let mut offset = self.offset;
        for piece in self.batch.chunks(PIECE) {
            self.hasher.update(piece);
            file.write_all_at(piece, offset)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }
}

fn sync(store: &Store, file: &File, new_entry: Option<&str>) -> Result<(), BlobsError> {
    file.sync_data().map_err(|error| BlobsError::io("sync an object", error))?;
    berth_service::crash::point("object.data_synced");
    if let Some(folder) = new_entry {
        store
            .folders
            .sync_new_entry(&store.root, folder)
            .map_err(|error| BlobsError::io("sync a folder", error.into()))?;
    }
    berth_service::crash::point("object.synced");
    store.metrics.syncs.inc();
    Ok(())
}

impl FileWriter {
    pub(super) fn new(
        store: Filesystem,
        key: ObjectKey,
        opened: Opened,
        offset: u64,
        hasher: Hasher,
    ) -> Self {
        Self {
            store,
            key,
            slot: opened.slot,
            new_entry: opened.new_entry,
            hasher: Some(hasher),
            offset,
            durable: offset,
            batch: Vec::new(),
            in_flight: None,
            broken: false,
        }
    }

    /// Waits for the step before, then starts the next.
    async fn start(&mut self, then: Then) -> Result<(), BlobsError> {
        self.settle().await?;
        let batch = std::mem::take(&mut self.batch);
        let hasher = self.hasher.take().ok_or(BlobsError::Invalid("a writer whose last step failed"))?;
        let offset = self.offset - batch.len() as u64;
        let step = Step { batch, offset, durable: self.durable, hasher, then };
        let (store, slot) = (Arc::clone(&self.store.0), Arc::clone(&self.slot));
        self.in_flight = Some(tokio::task::spawn_blocking(move || step.run(&store, &slot)));
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), BlobsError> {
        let Some(step) = &mut self.in_flight else { return Ok(()) };
        let outcome = step.await.map_err(|error| BlobsError::io("run a task", io::Error::other(error)));
        self.in_flight = None;
        self.hasher = Some(outcome??);
        Ok(())
    }

    /// The last batch waits for more, or for the sync that it then goes along with.
    async fn take_in(&mut self, mut data: Bytes) -> Result<(), BlobsError> {
        while !data.is_empty() {
            if self.batch.len() == BATCH {
                self.start(Then::Nothing).await?;
            }
            let piece = data.split_to(data.len().min(BATCH - self.batch.len()));
            if self.batch.len() + piece.len() > SMALL.max(self.batch.capacity()) {
                let small = std::mem::replace(&mut self.batch, self.store.0.buffers.take());
                self.batch.extend_from_slice(&small);
            }
            self.batch.extend_from_slice(&piece);
            self.offset += piece.len() as u64;
            tokio::task::consume_budget().await;
        }
        Ok(())
    }

    async fn make_durable(&mut self) -> Result<(), BlobsError> {
        if self.slot.is_closed() {
            return Err(BlobsError::Stale);
        }
        if self.durable == self.offset && self.new_entry.is_none() {
            return Ok(());
        }
        self.start(Then::Sync(self.new_entry.clone())).await?;
        self.settle().await?;
        self.durable = self.offset;
        self.new_entry = None;
        Ok(())
    }

    /// From here on the writer is broken, unless the call ends well.
    fn begin(&mut self) -> Result<(), BlobsError> {
        if self.slot.is_closed() {
            return Err(BlobsError::Stale);
        }
        if std::mem::replace(&mut self.broken, true) {
            return Err(BlobsError::Invalid("a writer whose last call failed or was dropped"));
        }
        Ok(())
    }
}

#[async_trait]
impl BlobWriter for FileWriter {
    async fn write(&mut self, data: Bytes) -> Result<Option<Written>, BlobsError> {
        self.begin()?;
        self.take_in(data).await?;
        self.broken = false;
        Ok(None)
    }

    async fn sync(&mut self) -> Result<Written, BlobsError> {
        self.begin()?;
        self.make_durable().await?;
        let hasher = self.hasher.as_ref().ok_or(BlobsError::Invalid("a writer whose last step failed"))?;
        self.broken = false;
        Ok(Written {
            offset: self.offset,
            hash_state: hasher.save(),
            digest: hasher.clone().finish(),
            change: StagingChange::default(),
        })
    }

    async fn close(&mut self) -> Result<Closed, BlobsError> {
        Ok(Closed { written: self.sync().await?, two_phase: false, sealing: None })
    }

    async fn finish(&mut self) -> Result<ObjectKey, BlobsError> {
        self.begin()?;
        self.broken = false;
        Ok(self.key.clone())
    }

    fn offset(&self) -> u64 {
        self.offset
    }
}
