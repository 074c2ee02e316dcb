//! The collector's transactions, as `metadata::collect` runs them. Each statement below is one statement
//! of the model; a transaction ends with the last and makes no storage call.
//!
//! A worker takes the row of a queue that is due first, past those that somebody holds; each is a unit of its own. Nothing
//! that was read before a lock is trusted: what the row names is locked, then what might need it is read again *in a
//! statement after that lock*. Only then something goes. What can't be locked at once is put off (a minute, or the floor
//! where that is shorter), by the same transaction in the code, by giving way in the model.
//!
//! | unit | 1 | 2 | 3 | 4, the end |
//! |---|---|---|---|---|
//! | `review_link` | link queue row `FOR UPDATE SKIP LOCKED`, still due | blob queue row: upsert, now + delay | link `FOR UPDATE NOWAIT` | no row of `manifest_blobs` in this repository: `DELETE` link, link queue row |
//! | `review_blob` | blob queue row `FOR UPDATE SKIP LOCKED`, still due | blob `FOR UPDATE NOWAIT` | | no row of `links` in this instance: insert `object_deletes(now + grace)`, `DELETE` blob, blob queue row |
//! | `review_manifest` | its own queue row and those of children and referrers, *ascending*: own `FOR UPDATE`, still due; the others upserted, now + delay, `released` | link queue rows of its blobs: upsert, now + delay | manifest `FOR UPDATE NOWAIT` | nothing needs it, and it has no dependants but those of 1: `DELETE` it with `manifest_blobs`, `manifest_children`, its queue row; event |
//! | `review_repository` | repository queue row `FOR UPDATE SKIP LOCKED`, still due | limits `FOR UPDATE` | repository `FOR UPDATE NOWAIT` | provisional, and no row in `upload_sessions`, `links`, `manifests`: `DELETE` it (and its namespace, if made by a push and empty), counters - 1, queue row |
//! | `reap_session` | session `FOR UPDATE SKIP LOCKED`: still open or finishing, `expires_at` and `lease_until` past | | | `object_deletes(now + the longest operation)`, state `reaped`, epoch + 1 |
//!
//! - The row that is reviewed may be needed. Then only its queue row goes, in a transaction that locks that row and reads
//!   the need after it (`review_manifest` reads the need once before, without locks, so that it need not queue
//!   dependants of a manifest that stays). What ends a need queues the row again and waits for this lock, so no
//!   wish for a review is swallowed. If the thing is gone, the queue row goes as well.
//! - `review_manifest`, needed: a tag; an index that holds it; for a referrer, a subject that is there; for any other, that
//!   the repository keeps untagged manifests and the queue row is not `released`. `released` is a column of
//!   `manifest_review_queue`: set by whoever deletes a parent, a subject, or releases by retention; cleared by a put;
//!   otherwise kept by an upsert. Without it a review can't tell a child whose index went from an image that was pushed
//!   by digest to stay.
//! - `review_manifest` of the model waits for the queue rows of its dependants, which is safe because it takes them
//!   together with its own in one ascending sequence, before anything of a later class. Were its own taken first, it and a
//!   `put_manifest` of two tags would wait for each other. The code takes its own first and does not wait: where somebody
//!   holds the row of a dependant, the review is put off.
//! - `review_repository` gives a provisional repository that is not empty another delay and keeps its row; it drops the row
//!   of one that is confirmed. After the lock on the repository it waits for nothing: sessions, links and manifests take a
//!   key share of that row by their foreign keys, late and out of order.
//! - `reap_session` on SQLite asks the leases in memory, not `lease_until`, and takes the session's epoch there, as
//!   `cancel_upload` does.
//! - Closed sessions: `DELETE` where `expires_at` is past and the state is committed, cancelled or reaped; no object
//!   goes by that, a committed one's is the blob's.
//! - Object deletes: `claim_object` (due, not leased: `lease_until` = now + a minute; commit), then the storage's delete
//!   outside any transaction ("not there" is success), then `drop_object_row`. A crash between leaves the row, and the next
//!   claim repeats the delete: a key is never used again, so that a repeated or late delete hits nothing.
//! - `not_before` of an object covers the longest operation of a gateway and of a reader: an append that was taken over is
//!   late by at most that, and could otherwise make the object anew once the store has forgotten its last epoch.

use crate::{
    locks::{Lock, Mode},
    state::{Blob, Instance, Manifest, Repository, Session, Stage},
    units::{Flow, Outcome, Statement, Stop},
    world::{Break, Kind},
};

impl Statement<'_> {
    /// What a manifest is kept for.
    pub(crate) fn needs(&self, repository: Repository, manifest: Manifest) -> bool {
        let db = &self.state.db;
        if db.tags.get(&repository) == Some(&manifest) || self.has_parent(repository, manifest) {
            return true;
        }
        match self.world.shape(manifest).subject {
            Some(subject) => db.manifests.contains(&(repository, subject)),
            None => {
                let review = db.manifest_reviews.get(&(repository, manifest)).copied().unwrap_or_default();
                self.world.keep_untagged && !review.released
            }
        }
    }

    /// Still due, now that the queue's row is locked; else the unit ends.
    fn still_due(&self, due: Option<bool>) -> Result<(), Stop> {
        match due {
            Some(true) => Ok(()),
            Some(false) if self.world.is(Break::ReviewNotDueAnyMore) => Ok(()),
            _ => Err(Stop::GiveWay),
        }
    }

    /// `metadata::collect::review_next_manifest`.
    pub(crate) fn review_manifest(&mut self, repository: Repository, manifest: Manifest) -> Outcome {
        let key = (repository, manifest);
        let own = Lock::ManifestReview(repository, manifest);
        match self.step() {
            0 => {
                self.running().seen.needed = self.needs(repository, manifest);
                Ok(Flow::Next)
            }
            1 if self.running().seen.needed => {
                self.lock_now(own, Mode::Update)?;
                let due = self.db().manifest_reviews.get(&key).map(|review| review.due);
                self.still_due(due)?;
                if !self.needs(repository, manifest) {
                    return Err(Stop::GiveWay);
                }
                self.db().manifest_reviews.remove(&key);
                Ok(Flow::Commit(Kind::KeepManifest))
            }
            1 => {
                let dependants = self.dependants(repository, manifest);
                if self.world.is(Break::ReviewsInAnyOrder) {
                    self.lock(own, Mode::Update)?;
                }
                for one in
                    dependants.iter().copied().chain([manifest]).collect::<std::collections::BTreeSet<_>>()
                {
                    self.lock(Lock::ManifestReview(repository, one), Mode::Update)?;
                }
                self.running().seen.manifests = dependants;
                let due = self.db().manifest_reviews.get(&key).map(|review| review.due);
                self.still_due(due)?;
                Ok(Flow::Next)
            }
            2 => {
                for blob in self.world.shape(manifest).blobs {
                    self.lock(Lock::LinkReview(repository, *blob), Mode::Update)?;
                }
                Ok(Flow::Next)
            }
            _ => {
                if !self.db().manifests.contains(&key) {
                    self.db().manifest_reviews.remove(&key);
                    return Ok(Flow::Commit(Kind::KeepManifest));
                }
                self.lock_now(Lock::Manifest(repository, manifest), Mode::Update)?;
                let queued = self.running().seen.manifests.clone();
                let complete = self.dependants(repository, manifest).is_subset(&queued);
                let blind = self.world.is(Break::ReviewWithoutLookingAgain);
                if !blind && (!complete || self.needs(repository, manifest)) {
                    return Err(Stop::GiveWay);
                }
                self.db().manifest_reviews.remove(&key);
                for blob in self.world.shape(manifest).blobs {
                    self.queue_link(repository, *blob);
                }
                let (promised, held) = (
                    self.state.ghost.promised.contains(&key),
                    self.state.ghost.held_manifests.contains(&key),
                );
                let allowed = !self.world.keep_untagged || self.world.shape(manifest).subject.is_some();
                self.drop_manifest(repository, manifest, &queued);
                // What a collector takes stays promised: only the policy releases.
                if promised && !allowed {
                    self.state.ghost.promised.insert(key);
                }
                if held {
                    self.state.ghost.held_manifests.insert(key);
                }
                Ok(Flow::Commit(Kind::CollectManifest))
            }
        }
    }

    /// `metadata::collect::review_next_link`.
    pub(crate) fn review_link(&mut self, repository: Repository, blob: Blob) -> Outcome {
        let link = (repository, blob);
        let instance = self.world.instance(repository);
        match self.step() {
            0 => {
                self.running().seen.needed = self.is_held(repository, blob);
                Ok(Flow::Next)
            }
            1 => {
                self.lock_now(Lock::LinkReview(repository, blob), Mode::Update)?;
                let due = self.db().link_reviews.get(&link).copied();
                self.still_due(due)?;
                if self.is_held(repository, blob) {
                    self.db().link_reviews.remove(&link);
                    return Ok(Flow::Commit(Kind::KeepLink));
                }
                Ok(Flow::Next)
            }
            2 => self.lock(Lock::BlobReview(instance, blob), Mode::Update).map(|()| Flow::Next),
            _ => {
                if !self.db().links.contains(&link) {
                    self.db().link_reviews.remove(&link);
                    return Ok(Flow::Commit(Kind::KeepLink));
                }
                self.lock_now(Lock::Link(repository, blob), Mode::Update)?;
                if self.is_held(repository, blob) && !self.world.is(Break::ReviewWithoutLookingAgain) {
                    return Err(Stop::GiveWay);
                }
                self.db().link_reviews.remove(&link);
                if !self.world.is(Break::DropWithoutReview) {
                    self.queue_blob(instance, blob);
                }
                self.db().links.remove(&link);
                Ok(Flow::Commit(Kind::CollectLink))
            }
        }
    }

    /// `metadata::collect::review_next_blob`.
    pub(crate) fn review_blob(&mut self, instance: Instance, blob: Blob) -> Outcome {
        let key = (instance, blob);
        match self.step() {
            0 => {
                self.running().seen.needed = self.is_linked(instance, blob);
                Ok(Flow::Next)
            }
            1 => {
                self.lock_now(Lock::BlobReview(instance, blob), Mode::Update)?;
                let due = self.db().blob_reviews.get(&key).copied();
                self.still_due(due)?;
                Ok(Flow::Next)
            }
            _ => {
                let needed = if self.world.is(Break::ReviewWithoutLookingAgain) {
                    self.running().seen.needed
                } else {
                    self.is_linked(instance, blob)
                };
                if needed || !self.db().blobs.contains_key(&key) {
                    self.db().blob_reviews.remove(&key);
                    return Ok(Flow::Commit(Kind::KeepBlob));
                }
                self.lock_now(Lock::Blob(instance, blob), Mode::Update)?;
                self.db().blob_reviews.remove(&key);
                if let Some(row) = self.db().blobs.remove(&key) {
                    self.queue_object(row.key);
                }
                Ok(Flow::Commit(Kind::CollectBlob))
            }
        }
    }

    fn is_linked(&self, instance: Instance, blob: Blob) -> bool {
        let mut links = self.state.db.links.iter();
        links.any(|(home, digest)| *digest == blob && self.world.instance(*home) == instance)
    }

    /// `metadata::collect::review_next_repository`.
    pub(crate) fn review_repository(&mut self, repository: Repository) -> Outcome {
        match self.step() {
            0 => {
                self.lock_now(Lock::RepositoryReview(repository), Mode::Update)?;
                let due = self.db().repository_reviews.get(&repository).copied();
                self.still_due(due)?;
                Ok(Flow::Next)
            }
            1 => {
                let instance = self.world.instance(repository);
                self.lock(Lock::Limits(instance), Mode::Update).map(|()| Flow::Next)
            }
            2 if self.world.is(Break::RepositoryWithoutLock) => {
                self.running().seen.needed = self.is_filled(repository);
                Ok(Flow::Next)
            }
            2 => self.lock_now(Lock::Repository(repository), Mode::Update).map(|()| Flow::Next),
            _ => {
                let filled = if self.world.is(Break::RepositoryWithoutLock) {
                    self.running().seen.needed
                } else {
                    self.is_filled(repository)
                };
                if self.db().repositories.get(&repository) != Some(&true) {
                    self.db().repository_reviews.remove(&repository);
                    return Ok(Flow::Commit(Kind::ConfirmRepository));
                }
                if filled {
                    self.db().repository_reviews.insert(repository, false);
                    return Ok(Flow::Commit(Kind::KeepRepository));
                }
                self.db().repositories.remove(&repository);
                self.db().repository_reviews.remove(&repository);
                Ok(Flow::Commit(Kind::CollectRepository))
            }
        }
    }

    fn is_filled(&self, repository: Repository) -> bool {
        let db = &self.state.db;
        db.sessions.values().any(|session| session.repository == repository)
            || db.links.iter().any(|(home, _)| *home == repository)
            || db.manifests.iter().any(|(home, _)| *home == repository)
    }

    /// `metadata::collect::reap_next_session`.
    pub(crate) fn reap(&mut self, session: Session) -> Outcome {
        self.lock_now(Lock::Session(session), Mode::Update)?;
        let blind = self.world.is(Break::ReapWithoutCompare);
        let Some(row) = self.db().sessions.get(&session).cloned() else { return Err(Stop::GiveWay) };
        if !blind && (row.stage != Stage::Open || !row.expired || row.leased) {
            return Err(Stop::GiveWay);
        }
        self.queue_object(row.key);
        let row = self.db().sessions.get_mut(&session).expect("locked");
        row.stage = Stage::Reaped;
        row.epoch += 1;
        row.expired = false;
        Ok(Flow::Commit(Kind::Reap))
    }
}
