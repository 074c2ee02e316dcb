//! What is modelled: the rows of metadata, the objects of one blob store, requests under way, and what was promised.
//!
//! Time is two-valued. A row that says "not before" is due or it is not; [`crate::Action::Elapse`] makes everything due
//! that was touched before it. What was touched since is therefore within the floor.

use std::collections::{BTreeMap, BTreeSet};

use crate::locks::{Lock, Mode};
use crate::units::Unit;

/// An instance.
pub(crate) type Instance = u8;
/// A repository's path; the world says in which instance it is.
pub(crate) type Repository = u8;
/// A blob's digest.
pub(crate) type Blob = u8;
/// A manifest's digest.
pub(crate) type Manifest = u8;
/// An upload session. Ids are never used twice.
pub(crate) type Session = u8;
/// The epoch of a session's lease.
pub(crate) type Epoch = u8;

/// The chunks of every blob.
pub(crate) const CHUNKS: usize = 2;
/// The epoch of an object that nobody may write to any more.
pub(crate) const BURIED: Epoch = Epoch::MAX;

/// Chunks, each named by the epoch that wrote it: two writers never send the same bytes, so a hash over chunks is equal
/// exactly if the epochs are.
pub(crate) type Chunks = Vec<Epoch>;

/// The key of an object: of an instance, and used once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Key {
    pub(crate) instance: Instance,
    pub(crate) number: u8,
}

/// Where a session stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Stage {
    Open,
    Committed,
    Cancelled,
    Reaped,
}

/// A row of `upload_sessions`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct SessionRow {
    pub(crate) repository: Repository,
    /// The digest that the client will close with.
    pub(crate) blob: Blob,
    pub(crate) key: Key,
    pub(crate) stage: Stage,
    pub(crate) epoch: Epoch,
    pub(crate) leased: bool,
    pub(crate) expired: bool,
    /// The recorded offset and hash state in one.
    pub(crate) recorded: Chunks,
}

/// A row of `blobs`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct BlobRow {
    pub(crate) key: Key,
    /// The chunks that were hashed when it was committed.
    pub(crate) content: Chunks,
}

/// A row of `manifest_review_queue`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub(crate) struct ManifestReview {
    pub(crate) due: bool,
    /// Whether what held the manifest went, so that it goes too, although untagged manifests are kept.
    pub(crate) released: bool,
}

/// A row of `object_deletes`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct ObjectDelete {
    pub(crate) due: bool,
    pub(crate) claimed: bool,
}

/// The committed rows of metadata.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Database {
    /// Whether each repository that exists is provisional.
    pub(crate) repositories: BTreeMap<Repository, bool>,
    pub(crate) sessions: BTreeMap<Session, SessionRow>,
    /// One tag for each repository.
    pub(crate) tags: BTreeMap<Repository, Manifest>,
    pub(crate) manifests: BTreeSet<(Repository, Manifest)>,
    pub(crate) links: BTreeSet<(Repository, Blob)>,
    pub(crate) blobs: BTreeMap<(Instance, Blob), BlobRow>,
    pub(crate) manifest_reviews: BTreeMap<(Repository, Manifest), ManifestReview>,
    pub(crate) link_reviews: BTreeMap<(Repository, Blob), bool>,
    pub(crate) blob_reviews: BTreeMap<(Instance, Blob), bool>,
    pub(crate) repository_reviews: BTreeMap<Repository, bool>,
    pub(crate) object_deletes: BTreeMap<Key, ObjectDelete>,
}

/// An object of the store: one file.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Object {
    pub(crate) chunks: Chunks,
    /// Chunks that a power cut leaves.
    pub(crate) durable: usize,
    /// The epoch on the file.
    pub(crate) mark: Epoch,
}

/// The blob store.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Storage {
    pub(crate) objects: BTreeMap<Key, Object>,
    /// The newest epoch of each object, as the store's process remembers it.
    pub(crate) claims: BTreeMap<Key, Epoch>,
}

/// An append in a gateway. One that makes no step is a message that is late; one that a crash takes never arrives.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Append {
    pub(crate) session: Session,
    pub(crate) key: Key,
    pub(crate) epoch: Epoch,
    /// The recorded chunks that the lease came with.
    pub(crate) start: usize,
    /// The running hash.
    pub(crate) hash: Chunks,
    pub(crate) opened: bool,
    /// A second opening took the file away from the writer.
    pub(crate) closed: bool,
    /// Chunks that this writer knows to be durable.
    pub(crate) synced: usize,
    pub(crate) committed: bool,
}

/// A transaction under way: what it does, how far it is, what it has locked and what it has read.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Running {
    pub(crate) unit: Unit,
    pub(crate) step: u8,
    pub(crate) locks: BTreeMap<Lock, Mode>,
    pub(crate) seen: Seen,
}

/// What a transaction remembers of earlier statements.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Seen {
    pub(crate) needed: bool,
    pub(crate) tag: Option<Manifest>,
    pub(crate) manifests: BTreeSet<Manifest>,
    pub(crate) row: bool,
}

/// The worker that deletes objects.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Deleter {
    pub(crate) key: Key,
    pub(crate) deleted: bool,
}

/// What no process knows: promises to clients.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Ghost {
    /// Links that were made or seen with push right since time last passed.
    pub(crate) held_links: BTreeSet<(Repository, Blob)>,
    /// Manifests, likewise.
    pub(crate) held_manifests: BTreeSet<(Repository, Manifest)>,
    /// Manifests whose push was answered with 201 and that neither a client nor the going of their holder released.
    pub(crate) promised: BTreeSet<(Repository, Manifest)>,
    /// Manifests whose holder went.
    pub(crate) released: BTreeSet<(Repository, Manifest)>,
    /// A transaction that took locks in the wrong order.
    pub(crate) descended: Option<(Lock, Lock)>,
}

/// What may still happen.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Budget {
    pub(crate) requests: u8,
    pub(crate) ticks: u8,
    pub(crate) crashes: u8,
}

/// A state of the world.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub(crate) struct State {
    pub(crate) db: Database,
    pub(crate) storage: Storage,
    pub(crate) appends: [Option<Append>; 2],
    /// A download that knows its object and has not opened it yet.
    pub(crate) reader: Option<Key>,
    /// One transaction for each gateway, then one for each collector.
    pub(crate) running: Vec<Option<Running>>,
    pub(crate) deleter: Option<Deleter>,
    pub(crate) ghost: Ghost,
    pub(crate) left: Budget,
    /// Sessions that were ever started; the next one's id.
    pub(crate) sessions_started: u8,
}

impl State {
    /// Gateways are alike, and so are collectors: of states that differ by who is who, one is explored.
    pub(crate) fn in_order(mut self) -> Self {
        if (&self.running[0], &self.appends[0]) > (&self.running[1], &self.appends[1]) {
            self.running.swap(0, 1);
            self.appends.swap(0, 1);
        }
        self.running[2..].sort();
        self
    }
}
