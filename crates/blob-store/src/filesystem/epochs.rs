//! Who may write to an object: the newest epoch, and nobody once it is deleted. A live writer is closed before another
//! takes its place; the last epoch is remembered after its writer, here and on the file itself, so that a call that was
//! held up on the way can't cut what a newer one has written.

use std::{
    collections::HashMap,
    fs::File,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use berth_blobs::{BlobsError, ObjectKey};
use parking_lot::Mutex;
use rustix::fs::XattrFlags;

/// How long an epoch is remembered after the last claim. No call is under way for as long.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Below this many objects nothing is forgotten.
const KEPT: usize = 4096;
/// The extended attribute that holds the epoch of an object in writing.
const ATTRIBUTE: &str = "user.berth.epoch";

/// The file of a writer. Whoever writes holds the lock for as long, so that closing waits for the bytes under way.
#[derive(Debug, Default)]
pub(super) struct Slot {
    file: Mutex<Option<File>>,
    closed: AtomicBool,
}

impl Slot {
    /// Takes the file away; no byte lands after that. May wait for a write in progress.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.file.lock().take();
    }

    /// Whether another took over.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The file, for as long as the guard is held.
    pub(super) fn lock(&self) -> parking_lot::MutexGuard<'_, Option<File>> {
        self.file.lock()
    }
}

#[derive(Debug)]
struct Entry {
    epoch: i64,
    writer: Weak<Slot>,
    claimed: Instant,
}

#[derive(Debug)]
struct Table {
    entries: HashMap<ObjectKey, Entry>,
    prune_at: usize,
}

/// The epochs of a store's objects.
#[derive(Debug)]
pub(super) struct Epochs {
    table: Mutex<Table>,
    on_files: bool,
}

/// Whether the filesystem keeps extended attributes.
pub(super) fn can_be_kept_on(file: &File) -> bool {
    let kept = rustix::fs::fsetxattr(file, ATTRIBUTE, b"0", XattrFlags::empty());
    if let Err(error) = kept {
        tracing::warn!(
            %error,
            "the blob folder keeps no extended attributes: upload requests that are held up across a restart of \
             this process can't be told from new ones"
        );
    }
    kept.is_ok()
}

impl Epochs {
    pub(super) fn new(on_files: bool) -> Self {
        Self { table: Mutex::new(Table { entries: HashMap::new(), prune_at: KEPT }), on_files }
    }

    /// Claims an object for `slot`, once for each epoch, and gives the writer that has to be closed first.
    pub(super) fn claim(
        &self,
        key: &ObjectKey,
        epoch: i64,
        slot: &Arc<Slot>,
    ) -> Result<Option<Arc<Slot>>, BlobsError> {
        let mut table = self.table.lock();
        if table.entries.get(key).is_some_and(|entry| entry.epoch >= epoch) {
            return Err(BlobsError::Stale);
        }
        Ok(table.put(key, Entry { epoch, writer: Arc::downgrade(slot), claimed: Instant::now() }))
    }

    /// Lets nobody write to an object any more.
    pub(super) fn bury(&self, key: &ObjectKey) -> Option<Arc<Slot>> {
        self.table.lock().put(key, Entry { epoch: i64::MAX, writer: Weak::new(), claimed: Instant::now() })
    }

    /// Compares with the epoch on the file, and puts the new one there. Before anything is cut.
    pub(super) fn mark(&self, file: &File, epoch: i64) -> Result<(), BlobsError> {
        if !self.on_files {
            return Ok(());
        }
        let mut value = [0u8; 24];
        let found = rustix::fs::fgetxattr(file, ATTRIBUTE, &mut value[..]).ok();
        let found = found.and_then(|length| std::str::from_utf8(&value[..length]).ok()?.parse::<i64>().ok());
        if found.is_some_and(|found| found >= epoch) {
            return Err(BlobsError::Stale);
        }
        rustix::fs::fsetxattr(file, ATTRIBUTE, epoch.to_string().as_bytes(), XattrFlags::empty())
            .map_err(|error| BlobsError::io("mark an object", error.into()))
    }
}

impl Table {
    fn put(&mut self, key: &ObjectKey, entry: Entry) -> Option<Arc<Slot>> {
        if self.entries.len() >= self.prune_at {
            let now = entry.claimed;
            self.entries.retain(|_, entry| {
                entry.writer.strong_count() > 0 || now.duration_since(entry.claimed) < REMEMBERED
            });
            self.prune_at = (self.entries.len() * 2).max(KEPT);
        }
        self.entries.insert(key.clone(), entry).and_then(|entry| entry.writer.upgrade())
    }
}
