//! Rows in memory: a warm read of the embedded database takes no statement. Each map holds rows of one table by their key,
//! so that a repository's visibility is joined to its content at every question. The database tells which rows a COMMIT
//! changed before anybody hears of it, and they go; what is read next is put back, unless something was changed since
//! that read began (docs/decisions/0010-warm-reads-and-files.md).

use std::{hash::Hash, sync::Arc};

use berth_database::{Changes, Touched, Watched};
use berth_model::{InstanceId, NamespaceId, RepositoryId};
use berth_oci::{Digest, RepositoryName, Tag};
use berth_proto::{WarmAnswer, WarmReads, WarmReference, metadata::Content};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use quick_cache::{Equivalent, sync::Cache};

use crate::{grpc, resolve::Resolved, resolve::Wanted};

/// The most rows of each table that are kept; a row takes some hundreds of bytes.
const MAX_ROWS: usize = 50_000;

/// The tables whose rows are kept, with the columns that name a row. Of a namespace only the id is kept, with its
/// repositories: it never changes, and a namespace outlives its repositories.
pub(crate) const WATCHED: &[Watched] = &[
    Watched { table: "repositories", key: ("instance_id", "path") },
    Watched { table: "tags", key: ("repository_id", "name") },
    Watched { table: "manifests", key: ("repository_id", "digest") },
    Watched { table: "links", key: ("repository_id", "digest") },
    Watched { table: "blobs", key: ("instance_id", "digest") },
];

#[derive(Clone, Debug)]
struct Place {
    repository: RepositoryId,
    namespace: NamespaceId,
    public: bool,
}

/// The rows. Nothing absent is kept: that is asked for again each time.
#[derive(Debug)]
pub(crate) struct Warm {
    places: Cache<(InstanceId, RepositoryName), Place>,
    tags: Cache<(RepositoryId, Tag), Digest>,
    manifests: Cache<(RepositoryId, Digest), Arc<Content>>,
    links: Cache<(RepositoryId, Digest), ()>,
    blobs: Cache<(InstanceId, Digest), Arc<Content>>,
    /// Grows with every change. Whoever puts a row in, or takes one out, holds it.
    changes: Mutex<u64>,
    /// Answers from memory.
    hits: Counter,
}

/// A key without a copy of its second half.
#[derive(Hash)]
struct Borrowed<'a, A, B>(A, &'a B);

impl<A: Hash + Eq + Copy, B: Hash + Eq> Equivalent<(A, B)> for Borrowed<'_, A, B> {
    fn equivalent(&self, key: &(A, B)) -> bool {
        self.0 == key.0 && *self.1 == key.1
    }
}

/// How far the changes were when a read began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Since(u64);

impl Warm {
    pub(crate) fn new(hits: Counter) -> Self {
        Self {
            places: Cache::new(MAX_ROWS),
            tags: Cache::new(MAX_ROWS),
            manifests: Cache::new(MAX_ROWS),
            links: Cache::new(MAX_ROWS),
            blobs: Cache::new(MAX_ROWS),
            changes: Mutex::new(0),
            hits,
        }
    }

    /// To be asked before a read whose answer is to be kept.
    pub(crate) fn since(&self) -> Since {
        Since(*self.changes.lock())
    }

    /// Keeps an answer, if nothing at all was changed since its read began.
    pub(crate) fn keep(
        &self,
        since: Since,
        (instance, path, wanted): (InstanceId, &RepositoryName, &Wanted),
        resolved: &Resolved,
    ) {
        let (Some(repository), Some(namespace)) = (&resolved.repository, &resolved.namespace) else { return };
        let (Ok(repository), Ok(namespace)) = (repository.parse(), namespace.parse()) else { return };
        let Some(content) = &resolved.content else { return };
        let digest = content.digest;
        let kept = Arc::new(grpc::content(content.clone()));
        let changes = self.changes.lock();
        if *changes != since.0 {
            return;
        }
        self.places
            .insert((instance, path.clone()), Place { repository, namespace, public: resolved.public });
        match wanted {
            Wanted::Repository => {}
            Wanted::Tag(tag) => {
                self.tags.insert((repository, tag.clone()), digest);
                self.manifests.insert((repository, digest), kept);
            }
            Wanted::Manifest(_) => self.manifests.insert((repository, digest), kept),
            Wanted::Blob(_) => {
                self.links.insert((repository, digest), ());
                self.blobs.insert((instance, digest), kept);
            }
        }
    }

    /// Lets go of what a COMMIT changed.
    pub(crate) fn apply(&self, changed: &Changes) {
        let mut changes = self.changes.lock();
        *changes += 1;
        let told = match changed {
            Changes::Rows(rows) => rows.iter().all(|row| self.forget(row).is_some()),
            Changes::TooMany => false,
        };
        if !told {
            self.places.clear();
            self.tags.clear();
            self.manifests.clear();
            self.links.clear();
            self.blobs.clear();
        }
    }

    /// None: the row can't be told from others, so that all have to go.
    fn forget(&self, Touched { table, key: (first, second) }: &Touched) -> Option<()> {
        let first = std::str::from_utf8(first).ok()?;
        let text = || std::str::from_utf8(second).ok();
        match *table {
            "repositories" => {
                self.places.remove(&(first.parse().ok()?, text()?.parse().ok()?));
            }
            "tags" => {
                self.tags.remove(&(first.parse().ok()?, text()?.parse().ok()?));
            }
            "manifests" => {
                self.manifests.remove(&(first.parse().ok()?, Digest::from_bytes(second)?));
            }
            "links" => {
                self.links.remove(&(first.parse().ok()?, Digest::from_bytes(second)?));
            }
            "blobs" => {
                self.blobs.remove(&(first.parse().ok()?, Digest::from_bytes(second)?));
            }
            _ => return None,
        }
        Some(())
    }
}

impl WarmReads for Warm {
    fn resolve(
        &self,
        instance: InstanceId,
        path: &RepositoryName,
        reference: WarmReference<'_>,
    ) -> Option<WarmAnswer> {
        let Place { repository, namespace, public } = self.places.get(&Borrowed(instance, path))?;
        let (digest, content) = match reference {
            WarmReference::Tag(tag) => {
                let digest = self.tags.get(&Borrowed(repository, tag))?;
                (digest, self.manifests.get(&(repository, digest))?)
            }
            WarmReference::Manifest(digest) => (*digest, self.manifests.get(&(repository, *digest))?),
            WarmReference::Blob(digest) => {
                self.links.get(&(repository, *digest))?;
                (*digest, self.blobs.get(&(instance, *digest))?)
            }
        };
        self.hits.inc();
        Some(WarmAnswer { repository, namespace, public, digest, content })
    }
}
