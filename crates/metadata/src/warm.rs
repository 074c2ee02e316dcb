//! Rows in memory: a warm read of the embedded database takes no statement. Each map holds rows of one table by their key,
//! so that a repository's visibility is joined to its content at every question. The database tells which rows a COMMIT
//! changed before anybody hears of it, and they go; what is read next is put back, unless something was changed since
//! that read began (docs/decisions/0010-warm-reads-and-files.md).

use std::{hash::Hash, sync::Arc};

use berth_database::{Changes, Freshness, Since, Touched, Watched};
use berth_model::{InstanceId, RepositoryId};
use berth_oci::{Digest, RepositoryName, Tag};
use berth_proto::{
    ReferrersPage, TagsPage, WarmAnswer, WarmReads, WarmReference, WarmRepository,
    metadata::{Content, ListReferrersResponse, ListTagsResponse},
};
use prometheus_client::metrics::counter::Counter;
use quick_cache::{Equivalent, sync::Cache};

use crate::{grpc, lists::Lists, resolve::Resolved, resolve::Wanted};

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

/// The rows, and pages of lists of them. Nothing absent is kept: that is asked for again each time.
#[derive(Debug)]
pub(crate) struct Warm {
    places: Cache<(InstanceId, RepositoryName), WarmRepository>,
    tags: Cache<(RepositoryId, Tag), Digest>,
    manifests: Cache<(RepositoryId, Digest), Arc<Content>>,
    links: Cache<(RepositoryId, Digest), ()>,
    blobs: Cache<(InstanceId, Digest), Arc<Content>>,
    tag_lists: Lists<TagsPage, ListTagsResponse>,
    referrer_lists: Lists<ReferrersPage, ListReferrersResponse>,
    freshness: Freshness,
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

impl Warm {
    pub(crate) fn new(hits: Counter) -> Self {
        Self {
            places: Cache::new(MAX_ROWS),
            tags: Cache::new(MAX_ROWS),
            manifests: Cache::new(MAX_ROWS),
            links: Cache::new(MAX_ROWS),
            blobs: Cache::new(MAX_ROWS),
            tag_lists: Lists::new(),
            referrer_lists: Lists::new(),
            freshness: Freshness::default(),
            hits,
        }
    }

    /// To be asked before a read whose answer is to be kept.
    pub(crate) fn since(&self) -> Since {
        self.freshness.since()
    }

    /// Keeps an answer, if nothing at all was changed since its read began.
    pub(crate) fn keep(
        &self,
        since: Since,
        (instance, path, wanted): (InstanceId, &RepositoryName, &Wanted),
        resolved: &Resolved,
    ) {
        let (Some(repository), Some(namespace)) = (&resolved.repository, &resolved.namespace) else { return };
        let (Ok(id), Ok(namespace)) = (repository.parse(), namespace.parse()) else { return };
        let place = WarmRepository { id, namespace, public: resolved.public };
        let content = resolved.content.clone();
        let content = content.map(|content| (content.digest, Arc::new(grpc::content(content))));
        self.freshness.keep(since, || {
            self.places.insert((instance, path.clone()), place);
            let Some((digest, content)) = content else { return };
            match wanted {
                Wanted::Repository => {}
                Wanted::Tag(tag) => {
                    self.tags.insert((id, tag.clone()), digest);
                    self.manifests.insert((id, digest), content);
                }
                Wanted::Manifest(_) => self.manifests.insert((id, digest), content),
                Wanted::Blob(_) => {
                    self.links.insert((id, digest), ());
                    self.blobs.insert((instance, digest), content);
                }
            }
        });
    }

    /// The same for repositories that were looked up.
    pub(crate) fn keep_repositories(
        &self,
        since: Since,
        instance: InstanceId,
        found: Vec<(RepositoryName, WarmRepository)>,
    ) {
        self.freshness.keep(since, || {
            for (path, place) in found {
                self.places.insert((instance, path), place);
            }
        });
    }

    /// The same for a page of tags.
    pub(crate) fn keep_tags(
        &self,
        since: Since,
        repository: RepositoryId,
        page: TagsPage,
        listed: &ListTagsResponse,
    ) {
        let listed = Arc::new(listed.clone());
        self.freshness.keep(since, || self.tag_lists.keep(repository, page, listed));
    }

    /// The same for a page of referrers.
    pub(crate) fn keep_referrers(
        &self,
        since: Since,
        repository: RepositoryId,
        page: ReferrersPage,
        listed: &ListReferrersResponse,
    ) {
        let listed = Arc::new(listed.clone());
        self.freshness.keep(since, || self.referrer_lists.keep(repository, page, listed));
    }

    /// Lets go of what a COMMIT changed.
    pub(crate) fn apply(&self, changed: &Changes) {
        self.freshness.forget(|| {
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
                self.tag_lists.clear();
                self.referrer_lists.clear();
            }
        });
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
                let repository = first.parse().ok()?;
                self.tags.remove(&(repository, text()?.parse().ok()?));
                self.tag_lists.forget(repository);
            }
            "manifests" => {
                let repository = first.parse().ok()?;
                self.manifests.remove(&(repository, Digest::from_bytes(second)?));
                self.referrer_lists.forget(repository);
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
        let repository = self.repository(instance, path)?;
        let (digest, content) = match reference {
            WarmReference::Tag(tag) => {
                let digest = self.tags.get(&Borrowed(repository.id, tag))?;
                (digest, self.manifests.get(&(repository.id, digest))?)
            }
            WarmReference::Manifest(digest) => (*digest, self.manifests.get(&(repository.id, *digest))?),
            WarmReference::Blob(digest) => {
                self.links.get(&(repository.id, *digest))?;
                (*digest, self.blobs.get(&(instance, *digest))?)
            }
        };
        self.hits.inc();
        Some(WarmAnswer { repository, digest, content })
    }

    fn repository(&self, instance: InstanceId, path: &RepositoryName) -> Option<WarmRepository> {
        self.places.get(&Borrowed(instance, path))
    }

    fn tags(&self, repository: RepositoryId, page: &TagsPage) -> Option<Arc<ListTagsResponse>> {
        self.tag_lists.get(repository, page).inspect(|_| {
            self.hits.inc();
        })
    }

    fn referrers(
        &self,
        repository: RepositoryId,
        page: &ReferrersPage,
    ) -> Option<Arc<ListReferrersResponse>> {
        self.referrer_lists.get(repository, page).inspect(|_| {
            self.hits.inc();
        })
    }
}
