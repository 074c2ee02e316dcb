//! Row locks as PostgreSQL has them, and the order in which transactions take them. SQLite runs one transaction at a
//! time, which is one of the orders explored here.

use crate::state::{Blob, Instance, Manifest, Repository, Session, State};

/// A row that is locked. The order of the variants is the lock order, and within each the order of the keys.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Lock {
    /// Taken by the collector only, which passes over one that is locked.
    RepositoryReview(Repository),
    Limits(Instance),
    Repository(Repository),
    Session(Session),
    Tag(Repository),
    ManifestReview(Repository, Manifest),
    LinkReview(Repository, Blob),
    BlobReview(Instance, Blob),
    Link(Repository, Blob),
    Blob(Instance, Blob),
    Manifest(Repository, Manifest),
}

/// How a row is locked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Mode {
    /// Against deletion: what a foreign key takes.
    KeyShare,
    /// Against everybody else, key share excepted: an update that leaves the key alone.
    NoKeyUpdate,
    /// Against everybody else: `FOR UPDATE`, a delete, an insert that is not committed.
    Update,
}

impl Mode {
    fn conflicts(self, other: Self) -> bool {
        self.max(other) == Self::Update || (self == Self::NoKeyUpdate && other == Self::NoKeyUpdate)
    }
}

/// The transactions, by lane, that hold what `lane` wants.
pub(crate) fn in_the_way(
    state: &State,
    lane: usize,
    lock: Lock,
    mode: Mode,
) -> impl Iterator<Item = usize> + '_ {
    state.running.iter().enumerate().filter_map(move |(other, running)| {
        let held = running.as_ref()?.locks.get(&lock)?;
        (other != lane && held.conflicts(mode)).then_some(other)
    })
}
