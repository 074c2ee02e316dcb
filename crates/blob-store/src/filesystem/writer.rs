//! Appending to a file: hashed as the bytes come in, written in batches beside the reactor while the next batch fills.
//! Two batches is all that a writer holds in memory.

use std::{
    fs::File,
    io::{self, IoSlice},
    sync::Arc,
};

use async_trait::async_trait;
use berth_blobs::{BlobWriter, BlobsError, Closed, ObjectKey, StagingChange, WriteOpen, Written};
use berth_oci::Hasher;
use bytes::{Buf, Bytes, BytesMut};
use rustix::fs::{Mode, OFlags};
use tokio::task::JoinHandle;

use super::{Filesystem, Store, epochs::Slot, folders::folder_of, path_of};

/// Bytes that are written at once.
const BATCH: usize = 1024 * 1024;
/// Bytes that are hashed between two points where the task may yield.
const HASH_STEP: usize = 256 * 1024;
/// Smaller pieces are copied together, so that a slow drip of them can't pin the large buffers they arrived in.
const SMALL: usize = 16 * 1024;

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

/// Bytes on their way to the file.
#[derive(Debug, Default)]
struct Batch {
    pieces: Vec<Bytes>,
    small: BytesMut,
    length: usize,
}

impl Batch {
    fn push(&mut self, piece: Bytes) {
        self.length += piece.len();
        if piece.len() < SMALL {
            self.small.extend_from_slice(&piece);
        } else {
            self.close_small();
            self.pieces.push(piece);
        }
    }

    fn close_small(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push(self.small.split().freeze());
        }
    }

    /// Writes everything at `offset`.
    fn write(mut self, file: &File, mut offset: u64) -> io::Result<()> {
        self.close_small();
        let mut pieces: &mut [Bytes] = &mut self.pieces;
        while !pieces.is_empty() {
            let slices: Vec<IoSlice<'_>> = pieces.iter().take(512).map(|piece| IoSlice::new(piece)).collect();
            let mut written = match rustix::io::pwritev(file, &slices, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            offset += written as u64;
            while written > 0 {
                let take = written.min(pieces[0].len());
                pieces[0].advance(take);
                written -= take;
                if pieces[0].is_empty() {
                    pieces = &mut pieces[1..];
                }
            }
        }
        Ok(())
    }
}

/// Writes to one file.
#[derive(Debug)]
pub(super) struct FileWriter {
    store: Filesystem,
    key: ObjectKey,
    slot: Arc<Slot>,
    new_entry: Option<String>,
    hasher: Hasher,
    /// Bytes taken in.
    offset: u64,
    /// Where the batch that fills up begins.
    batch_offset: u64,
    /// Bytes on the device.
    durable: u64,
    batch: Batch,
    in_flight: Option<JoinHandle<Result<(), BlobsError>>>,
    /// A call failed or did not end.
    broken: bool,
}

/// What a step on the file does after writing its batch.
enum Then {
    Nothing,
    /// Sync the file, and the folder with its entry.
    Sync(Option<String>),
}

/// Writes a batch, and cuts the file back to what is durable when that fails.
fn step(
    store: &Store,
    slot: &Slot,
    batch: Batch,
    offset: u64,
    durable: u64,
    then: &Then,
) -> Result<(), BlobsError> {
    let mut file_of_slot = slot.lock();
    let Some(file) = file_of_slot.as_ref() else { return Err(BlobsError::Stale) };
    let length = batch.length;
    berth_service::crash::point("object.before_write");
    let mut outcome = batch.write(file, offset).map_err(|error| BlobsError::io("write an object", error));
    berth_service::crash::point("object.written");
    if let (Ok(()), Then::Sync(new_entry)) = (&outcome, then) {
        outcome = sync(store, file, new_entry.as_deref());
    }
    match &outcome {
        Ok(()) => {
            store.metrics.written.inc_by(length as u64);
        }
        Err(error) => {
            // Gives the room back at once; were this to fail too, the next writer cuts.
            let _cut_later = file.set_len(durable);
            file_of_slot.take();
            store.metrics.count(error);
        }
    }
    outcome
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
            hasher,
            offset,
            batch_offset: offset,
            durable: offset,
            batch: Batch::default(),
            in_flight: None,
            broken: false,
        }
    }

    /// Waits for the step before, then starts the next.
    async fn start(&mut self, then: Then) -> Result<(), BlobsError> {
        self.settle().await?;
        let batch = std::mem::take(&mut self.batch);
        let (offset, durable) = (self.batch_offset, self.durable);
        self.batch_offset += batch.length as u64;
        let (store, slot) = (Arc::clone(&self.store.0), Arc::clone(&self.slot));
        let step = tokio::task::spawn_blocking(move || step(&store, &slot, batch, offset, durable, &then));
        self.in_flight = Some(step);
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), BlobsError> {
        let Some(step) = &mut self.in_flight else { return Ok(()) };
        let outcome = step.await.map_err(|error| BlobsError::io("run a task", io::Error::other(error)));
        self.in_flight = None;
        outcome?
    }

    async fn take_in(&mut self, mut data: Bytes) -> Result<(), BlobsError> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(HASH_STEP));
            self.hasher.update(&piece);
            self.offset += piece.len() as u64;
            self.batch.push(piece);
            if self.batch.length >= BATCH {
                self.start(Then::Nothing).await?;
            }
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
        self.broken = false;
        Ok(Written {
            offset: self.offset,
            hash_state: self.hasher.save(),
            digest: self.hasher.clone().finish(),
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
