//! The transactions of requests, statement by statement, as PostgreSQL runs them at READ COMMITTED: a statement sees
//! what is committed when it runs, waits for row locks, and what it writes is seen by others only after the commit. So
//! here a statement takes its locks and remembers what it read; the last one writes everything and ends the transaction.

use std::collections::BTreeSet;

use crate::{
    locks::{Lock, Mode, in_the_way},
    state::{
        Blob, BlobRow, Database, Epoch, Instance, Key, Manifest, ManifestReview, ObjectDelete, Repository,
        Running, Session, SessionRow, Stage, State,
    },
    world::{Break, Kind, World},
};

/// A transaction of more than one statement, and cancellation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Unit {
    /// `metadata::upload::Metadata::start_upload`. The session's id is the next free one.
    Start { repository: Repository, blob: Blob },
    /// `metadata::upload::Metadata::commit_upload`.
    Commit { session: Session, epoch: Epoch },
    /// `metadata::upload::Metadata::cancel_upload`.
    Cancel { session: Session },
    /// `metadata::blob::Metadata::mount_blob`.
    Mount { repository: Repository, blob: Blob },
    /// `metadata::manifest::Metadata::put_manifest`.
    Put { repository: Repository, manifest: Manifest, tagged: bool },
    /// `metadata::tag::Metadata::delete_tag`.
    Untag { repository: Repository },
    /// `metadata::manifest::Metadata::delete_manifest`.
    DeleteManifest { repository: Repository, manifest: Manifest },
    /// `metadata::blob::Metadata::delete_blob`.
    DeleteBlob { repository: Repository, blob: Blob },
    /// `metadata::blob::Metadata::hold_content` of a blob, with the read before it.
    HoldBlob { repository: Repository, blob: Blob },
    /// `metadata::blob::Metadata::hold_content` of a manifest, with the read before it.
    HoldManifest { repository: Repository, manifest: Manifest },
    /// `metadata::collect::review_next_manifest`.
    ReviewManifest { repository: Repository, manifest: Manifest },
    /// `metadata::collect::review_next_link`.
    ReviewLink { repository: Repository, blob: Blob },
    /// `metadata::collect::review_next_blob`.
    ReviewBlob { instance: Instance, blob: Blob },
    /// `metadata::collect::review_next_repository`.
    ReviewRepository { repository: Repository },
    /// `metadata::collect::reap_next_session`.
    Reap { session: Session },
}

/// What a statement came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flow {
    /// The next statement.
    Next,
    /// A statement further on.
    To(u8),
    /// Everything is written and committed.
    Commit(Kind),
    /// Rolled back; the answer is a refusal.
    Refuse(Kind),
}

/// Why a statement did not end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// Another transaction holds the row.
    Wait(Lock, Mode),
    /// The unit is rolled back and runs again: a lost foreign key (23503), or `tx.again()`.
    Again,
    /// The unit is rolled back and comes again later.
    GiveWay,
}

pub(crate) type Outcome = Result<Flow, Stop>;

/// One statement of the transaction in `lane`.
pub(crate) struct Statement<'a> {
    pub(crate) world: &'a World,
    pub(crate) state: &'a mut State,
    pub(crate) lane: usize,
}

impl Statement<'_> {
    pub(crate) fn running(&mut self) -> &mut Running {
        self.state.running[self.lane].as_mut().expect("a transaction runs in this lane")
    }

    pub(crate) fn step(&mut self) -> u8 {
        self.running().step
    }

    pub(crate) fn db(&mut self) -> &mut Database {
        &mut self.state.db
    }

    fn acquire(&mut self, lock: Lock, mode: Mode, stop: Stop) -> Result<(), Stop> {
        if in_the_way(self.state, self.lane, lock, mode).next().is_some() {
            return Err(stop);
        }
        let held = self.running().locks.entry(lock).or_insert(mode);
        *held = (*held).max(mode);
        Ok(())
    }

    /// Locks a row, waiting for it; in the lock order.
    pub(crate) fn lock(&mut self, lock: Lock, mode: Mode) -> Result<(), Stop> {
        let locks = &self.running().locks;
        let highest = locks.last_key_value().map(|(highest, _)| *highest);
        let has = locks.get(&lock).is_some_and(|held| *held >= mode);
        if let Some(highest) = highest.filter(|highest| lock < *highest && !has) {
            self.state.ghost.descended.get_or_insert((highest, lock));
        }
        self.acquire(lock, mode, Stop::Wait(lock, mode))
    }

    /// Locks a row of a parent for a foreign key, or one that is being inserted: PostgreSQL's own doing, at the time of
    /// the insert. It can wait, so it counts for deadlocks; it is no part of the declared order.
    pub(crate) fn lock_implied(&mut self, lock: Lock, mode: Mode) -> Result<(), Stop> {
        self.acquire(lock, mode, Stop::Wait(lock, mode))
    }

    /// Locks a row, or gives way at once: `NOWAIT`, `SKIP LOCKED`.
    pub(crate) fn lock_now(&mut self, lock: Lock, mode: Mode) -> Result<(), Stop> {
        self.acquire(lock, mode, Stop::GiveWay)
    }

    /// Whether what is put into review now is due at once.
    fn due(&self) -> bool {
        self.world.is(Break::NoFloor)
    }

    pub(crate) fn queue_link(&mut self, repository: Repository, blob: Blob) {
        let due = self.due();
        self.db().link_reviews.insert((repository, blob), due);
    }

    pub(crate) fn queue_blob(&mut self, instance: Instance, blob: Blob) {
        let due = self.due();
        self.db().blob_reviews.insert((instance, blob), due);
    }

    /// Queues a manifest. `released` is what becomes of the reason: kept if `None`.
    pub(crate) fn queue_manifest(
        &mut self,
        repository: Repository,
        manifest: Manifest,
        released: Option<bool>,
    ) {
        let due = self.due();
        let forgets = self.world.is(Break::ReviewsWithoutReasons);
        let review = self.db().manifest_reviews.entry((repository, manifest)).or_default();
        review.due = due;
        review.released = !forgets && released.unwrap_or(review.released);
    }

    pub(crate) fn queue_object(&mut self, key: Key) {
        let due = self.world.is(Break::NoGrace);
        self.db().object_deletes.insert(key, ObjectDelete { due, claimed: false });
    }

    /// Whether a manifest of the repository holds the blob.
    pub(crate) fn is_held(&self, repository: Repository, blob: Blob) -> bool {
        let mut manifests = self.state.db.manifests.iter();
        manifests
            .any(|(home, manifest)| *home == repository && self.world.shape(*manifest).blobs.contains(&blob))
    }

    /// Whether an index of the repository holds the manifest.
    pub(crate) fn has_parent(&self, repository: Repository, manifest: Manifest) -> bool {
        let mut manifests = self.state.db.manifests.iter();
        manifests.any(|(home, parent)| {
            *home == repository && self.world.shape(*parent).children.contains(&manifest)
        })
    }

    /// What lives with a manifest: its children while it is there, and its referrers.
    pub(crate) fn dependants(&self, repository: Repository, manifest: Manifest) -> BTreeSet<Manifest> {
        let mut dependants = BTreeSet::new();
        if self.state.db.manifests.contains(&(repository, manifest)) {
            dependants.extend(self.world.shape(manifest).children);
        }
        for (home, referrer) in &self.state.db.manifests {
            if *home == repository && self.world.shape(*referrer).subject == Some(manifest) {
                dependants.insert(*referrer);
            }
        }
        dependants
    }

    /// `metadata::repository::find_or_make`, statements 0 and 1; goes on at 2.
    fn find_or_make(&mut self, repository: Repository) -> Outcome {
        if self.state.db.repositories.contains_key(&repository) {
            self.lock(Lock::Repository(repository), Mode::KeyShare)?;
            return Ok(Flow::To(2));
        }
        let instance = self.world.instance(repository);
        if self.step() == 0 {
            self.lock(Lock::Limits(instance), Mode::Update)?;
            return Ok(Flow::Next);
        }
        // Another may have made it while this one waited for the limits; that was read above, and is locked until the end.
        self.lock_implied(Lock::Repository(repository), Mode::Update)?;
        self.running().seen.row = true;
        self.world.take(Kind::MakeRepository);
        Ok(Flow::To(2))
    }

    /// Writes what `find_or_make` made.
    fn make(&mut self, repository: Repository) {
        if self.running().seen.row {
            let due = self.due();
            self.db().repositories.insert(repository, true);
            self.db().repository_reviews.insert(repository, due);
        }
    }

    /// Runs the next statement.
    pub(crate) fn run(&mut self) -> Outcome {
        match self.running().unit {
            Unit::Start { repository, blob } => self.start(repository, blob),
            Unit::Commit { session, epoch } => self.commit(session, epoch),
            Unit::Cancel { session } => self.cancel(session),
            Unit::Mount { repository, blob } => self.mount(repository, blob),
            Unit::Put { repository, manifest, tagged } => self.put(repository, manifest, tagged),
            Unit::Untag { repository } => self.untag(repository),
            Unit::DeleteManifest { repository, manifest } => self.delete_manifest(repository, manifest),
            Unit::DeleteBlob { repository, blob } => self.delete_blob(repository, blob),
            Unit::HoldBlob { repository, blob } => self.hold_blob(repository, blob),
            Unit::HoldManifest { repository, manifest } => self.hold_manifest(repository, manifest),
            Unit::ReviewManifest { repository, manifest } => self.review_manifest(repository, manifest),
            Unit::ReviewLink { repository, blob } => self.review_link(repository, blob),
            Unit::ReviewBlob { instance, blob } => self.review_blob(instance, blob),
            Unit::ReviewRepository { repository } => self.review_repository(repository),
            Unit::Reap { session } => self.reap(session),
        }
    }

    fn start(&mut self, repository: Repository, blob: Blob) -> Outcome {
        if self.step() < 2 {
            return self.find_or_make(repository);
        }
        let instance = self.world.instance(repository);
        let session: Session = self.state.sessions_started;
        let number = if self.world.is(Break::KeysFromDigests) { 100 + blob } else { session };
        let row = SessionRow {
            repository,
            blob,
            key: Key { instance, number },
            stage: Stage::Open,
            epoch: 0,
            leased: false,
            expired: false,
            recorded: Vec::new(),
        };
        self.make(repository);
        self.db().sessions.insert(session, row);
        self.state.sessions_started += 1;
        Ok(Flow::Commit(Kind::StartUpload))
    }

    fn commit(&mut self, session: Session, epoch: Epoch) -> Outcome {
        let Some(row) = self.state.db.sessions.get(&session).cloned() else {
            return Ok(Flow::Refuse(Kind::CommitRefused));
        };
        let SessionRow { repository, blob, key, .. } = row;
        let instance = self.world.instance(repository);
        match self.step() {
            0 => {
                self.lock(Lock::Session(session), Mode::Update)?;
                match row.stage {
                    Stage::Committed => return Ok(Flow::Commit(Kind::CommitRepeated)),
                    Stage::Open if row.epoch == epoch => {}
                    _ => return Ok(Flow::Refuse(Kind::CommitRefused)),
                }
                let skips = self.world.is(Break::CommitWithoutReviews);
                Ok(if skips { Flow::To(3) } else { Flow::Next })
            }
            1 => self.lock(Lock::LinkReview(repository, blob), Mode::Update).map(|()| Flow::Next),
            2 => self.lock(Lock::BlobReview(instance, blob), Mode::Update).map(|()| Flow::Next),
            _ => {
                let older = self.older_blob(instance, blob);
                let mode = if older.is_some() { Mode::KeyShare } else { Mode::Update };
                let link = (repository, blob);
                let link_mode =
                    if self.db().links.contains(&link) { Mode::NoKeyUpdate } else { Mode::Update };
                // The rows of the blob and of the link are inserted, or found.
                self.lock_implied(Lock::Blob(instance, blob), mode)?;
                self.lock_implied(Lock::Link(repository, blob), link_mode)?;
                self.lock_implied(Lock::Repository(repository), Mode::KeyShare)?;
                if !self.world.is(Break::CommitWithoutReviews) {
                    self.queue_link(repository, blob);
                    self.queue_blob(instance, blob);
                }
                let content = self.state.appends[self.lane].as_ref().map(|append| append.hash.clone());
                let content = content.unwrap_or_default();
                let fresh = older.is_none();
                if fresh {
                    self.db().blobs.insert((instance, blob), BlobRow { key, content });
                } else if let Some(shared) = older.filter(|_| self.world.is(Break::SharedAcrossInstances)) {
                    self.db().blobs.insert((instance, blob), shared);
                    self.queue_object(key);
                } else if self.db().blobs[&(instance, blob)].key != key {
                    self.queue_object(key);
                }
                self.db().links.insert(link);
                let row = self.db().sessions.get_mut(&session).expect("locked");
                row.stage = Stage::Committed;
                row.leased = false;
                row.expired = false;
                self.state.ghost.held_links.insert(link);
                Ok(Flow::Commit(if fresh { Kind::Commit } else { Kind::CommitKeepsOlderObject }))
            }
        }
    }

    /// The blob that a commit keeps instead of its own bytes.
    fn older_blob(&self, instance: Instance, blob: Blob) -> Option<BlobRow> {
        let blobs = &self.state.db.blobs;
        if self.world.is(Break::SharedAcrossInstances) {
            return blobs.iter().find(|((_, digest), _)| *digest == blob).map(|(_, row)| row.clone());
        }
        blobs.get(&(instance, blob)).cloned()
    }

    fn cancel(&mut self, session: Session) -> Outcome {
        let Some(row) = self.state.db.sessions.get(&session).cloned() else {
            return Ok(Flow::Refuse(Kind::PutRefused));
        };
        self.lock(Lock::Session(session), Mode::Update)?;
        if row.stage != Stage::Open {
            return Ok(Flow::Refuse(Kind::PutRefused));
        }
        self.queue_object(row.key);
        let row = self.db().sessions.get_mut(&session).expect("locked");
        row.stage = Stage::Cancelled;
        row.epoch += 1;
        row.leased = false;
        row.expired = false;
        Ok(Flow::Commit(Kind::Cancel))
    }

    fn mount(&mut self, repository: Repository, blob: Blob) -> Outcome {
        let instance = self.world.instance(repository);
        let anywhere = self.world.is(Break::SharedAcrossInstances);
        match self.step() {
            step @ (0 | 1) => {
                if step == 0 {
                    let mut links = self.state.db.links.iter();
                    let readable = |home: &Repository| anywhere || self.world.instance(*home) == instance;
                    if !links.any(|(home, digest)| *digest == blob && readable(home)) {
                        return Ok(Flow::Refuse(Kind::MountRefused));
                    }
                }
                self.find_or_make(repository)
            }
            2 => self.lock(Lock::LinkReview(repository, blob), Mode::Update).map(|()| Flow::Next),
            3 => self.lock(Lock::BlobReview(instance, blob), Mode::Update).map(|()| Flow::Next),
            _ => {
                let link = (repository, blob);
                let mode = if self.db().links.contains(&link) { Mode::NoKeyUpdate } else { Mode::Update };
                self.lock(Lock::Link(repository, blob), mode)?;
                self.lock_implied(Lock::Blob(instance, blob), Mode::KeyShare)?;
                if !self.db().blobs.contains_key(&(instance, blob)) {
                    match self.older_blob(instance, blob).filter(|_| anywhere) {
                        Some(shared) => self.db().blobs.insert((instance, blob), shared),
                        None => return Err(Stop::Again),
                    };
                }
                self.make(repository);
                self.queue_link(repository, blob);
                self.queue_blob(instance, blob);
                self.db().links.insert(link);
                self.state.ghost.held_links.insert(link);
                Ok(Flow::Commit(Kind::Mount))
            }
        }
    }

    fn put(&mut self, repository: Repository, manifest: Manifest, tagged: bool) -> Outcome {
        let shape = *self.world.shape(manifest);
        let key = (repository, manifest);
        match self.step() {
            0 | 1 => self.find_or_make(repository),
            2 => {
                if self.state.db.repositories.get(&repository) == Some(&true) {
                    self.lock(Lock::Repository(repository), Mode::NoKeyUpdate)?;
                }
                let before = self.db().tags.get(&repository).copied().filter(|_| tagged);
                if before.is_some() {
                    self.lock(Lock::Tag(repository), Mode::Update)?;
                }
                self.running().seen.tag = before;
                Ok(Flow::Next)
            }
            3 => {
                let mut reviewed: BTreeSet<Manifest> = self.running().seen.tag.into_iter().collect();
                reviewed.insert(manifest);
                for one in reviewed {
                    self.lock(Lock::ManifestReview(repository, one), Mode::Update)?;
                }
                Ok(Flow::Next)
            }
            4 => {
                for blob in shape.blobs {
                    if self.db().link_reviews.contains_key(&(repository, *blob)) {
                        self.lock(Lock::LinkReview(repository, *blob), Mode::Update)?;
                    }
                }
                Ok(Flow::Next)
            }
            5 => {
                for blob in shape.blobs {
                    if !self.db().links.contains(&(repository, *blob)) {
                        return Ok(Flow::Refuse(Kind::PutRefused));
                    }
                    self.lock(Lock::Link(repository, *blob), Mode::KeyShare)?;
                }
                for child in shape.children {
                    if !self.db().manifests.contains(&(repository, *child)) {
                        return Ok(Flow::Refuse(Kind::PutRefused));
                    }
                    self.lock(Lock::Manifest(repository, *child), Mode::KeyShare)?;
                }
                Ok(Flow::Next)
            }
            _ => {
                let is_new = !self.db().manifests.contains(&key);
                if is_new {
                    self.lock_implied(Lock::Manifest(repository, manifest), Mode::Update)?;
                }
                let before = self.running().seen.tag;
                if tagged && before.is_none() {
                    // The tag's row is claimed by its insert, which waits for another insert but not for a lock: a row
                    // that is there by now is found by starting again.
                    if self.db().tags.contains_key(&repository) {
                        return Err(Stop::Again);
                    }
                    self.lock_implied(Lock::Tag(repository), Mode::Update)?;
                }
                if tagged && before != Some(manifest) {
                    self.lock_implied(Lock::Manifest(repository, manifest), Mode::KeyShare)?;
                }
                self.make(repository);
                self.db().repositories.insert(repository, false);
                self.db().manifests.insert(key);
                for blob in shape.blobs {
                    if self.db().link_reviews.contains_key(&(repository, *blob)) {
                        self.queue_link(repository, *blob);
                    }
                    self.state.ghost.held_links.insert((repository, *blob));
                }
                self.queue_manifest(repository, manifest, Some(false));
                if let Some(before) = before.filter(|before| *before != manifest) {
                    self.queue_manifest(repository, before, None);
                    self.world.take(Kind::MoveTag);
                }
                if tagged {
                    self.db().tags.insert(repository, manifest);
                }
                let ghost = &mut self.state.ghost;
                ghost.promised.insert(key);
                ghost.released.remove(&key);
                ghost.held_manifests.insert(key);
                for child in shape.children {
                    ghost.released.remove(&(repository, *child));
                }
                Ok(Flow::Commit(if is_new { Kind::PutManifest } else { Kind::PutManifestAgain }))
            }
        }
    }

    fn untag(&mut self, repository: Repository) -> Outcome {
        let Some(manifest) = self.state.db.tags.get(&repository).copied() else {
            return Ok(Flow::Refuse(Kind::PutRefused));
        };
        if self.step() == 0 {
            self.lock(Lock::Repository(repository), Mode::KeyShare)?;
            self.lock(Lock::Tag(repository), Mode::Update)?;
            return Ok(Flow::Next);
        }
        self.lock(Lock::ManifestReview(repository, manifest), Mode::Update)?;
        self.queue_manifest(repository, manifest, None);
        self.db().tags.remove(&repository);
        Ok(Flow::Commit(Kind::Untag))
    }

    fn delete_manifest(&mut self, repository: Repository, manifest: Manifest) -> Outcome {
        let key = (repository, manifest);
        let refused = Ok(Flow::Refuse(Kind::DeleteManifestRefused));
        match self.step() {
            0 => {
                if !self.state.db.repositories.contains_key(&repository) {
                    return refused;
                }
                self.lock(Lock::Repository(repository), Mode::KeyShare)?;
                if self.db().tags.get(&repository) == Some(&manifest) {
                    self.lock(Lock::Tag(repository), Mode::Update)?;
                    self.running().seen.tag = Some(manifest);
                }
                Ok(Flow::Next)
            }
            1 => {
                let dependants = self.dependants(repository, manifest);
                for one in &dependants {
                    self.lock(Lock::ManifestReview(repository, *one), Mode::Update)?;
                }
                self.running().seen.manifests = dependants;
                Ok(Flow::Next)
            }
            2 => {
                self.running().seen.row = self.state.db.manifests.contains(&key);
                if self.running().seen.row {
                    for blob in self.world.shape(manifest).blobs {
                        self.lock(Lock::LinkReview(repository, *blob), Mode::Update)?;
                    }
                }
                Ok(Flow::Next)
            }
            _ => {
                if !self.db().manifests.contains(&key) {
                    return refused;
                }
                self.lock(Lock::Manifest(repository, manifest), Mode::Update)?;
                if self.has_parent(repository, manifest) {
                    return refused;
                }
                let tag = self.running().seen.tag;
                if tag.is_none() && self.db().tags.get(&repository) == Some(&manifest) {
                    return Err(Stop::Again);
                }
                let dependants = self.running().seen.manifests.clone();
                let complete =
                    self.running().seen.row && self.dependants(repository, manifest).is_subset(&dependants);
                if !complete && !self.world.is(Break::DeleteWithoutLookingAgain) {
                    return Err(Stop::Again);
                }
                if tag.is_some() {
                    self.db().tags.remove(&repository);
                }
                if self.running().seen.row {
                    for blob in self.world.shape(manifest).blobs {
                        self.queue_link(repository, *blob);
                    }
                }
                self.drop_manifest(repository, manifest, &dependants);
                Ok(Flow::Commit(Kind::DeleteManifest))
            }
        }
    }

    /// Writes the end of a manifest and what it means to those that lived with it.
    pub(crate) fn drop_manifest(
        &mut self,
        repository: Repository,
        manifest: Manifest,
        queued: &BTreeSet<Manifest>,
    ) {
        for one in queued {
            self.queue_manifest(repository, *one, Some(true));
        }
        let released = self.dependants(repository, manifest);
        self.db().manifests.remove(&(repository, manifest));
        let ghost = &mut self.state.ghost;
        for one in released {
            ghost.promised.remove(&(repository, one));
            ghost.released.insert((repository, one));
        }
        ghost.promised.remove(&(repository, manifest));
        ghost.held_manifests.remove(&(repository, manifest));
    }

    fn delete_blob(&mut self, repository: Repository, blob: Blob) -> Outcome {
        let instance = self.world.instance(repository);
        let link = (repository, blob);
        match self.step() {
            0 => {
                self.lock(Lock::Repository(repository), Mode::KeyShare)?;
                if self.db().link_reviews.contains_key(&link) {
                    self.lock(Lock::LinkReview(repository, blob), Mode::Update)?;
                    self.running().seen.row = true;
                }
                Ok(Flow::Next)
            }
            1 => self.lock(Lock::BlobReview(instance, blob), Mode::Update).map(|()| Flow::Next),
            _ => {
                if !self.db().links.contains(&link) {
                    return Ok(Flow::Refuse(Kind::DeleteBlobRefused));
                }
                self.lock(Lock::Link(repository, blob), Mode::Update)?;
                if self.is_held(repository, blob) {
                    return Ok(Flow::Refuse(Kind::DeleteBlobRefused));
                }
                if self.running().seen.row {
                    self.db().link_reviews.remove(&link);
                }
                if !self.world.is(Break::DropWithoutReview) {
                    self.queue_blob(instance, blob);
                }
                self.db().links.remove(&link);
                self.state.ghost.held_links.remove(&link);
                Ok(Flow::Commit(Kind::DeleteBlob))
            }
        }
    }

    fn hold_blob(&mut self, repository: Repository, blob: Blob) -> Outcome {
        let instance = self.world.instance(repository);
        let link = (repository, blob);
        match self.step() {
            // `metadata::resolve`: no transaction, no lock.
            0 if !self.db().links.contains(&link) => Ok(Flow::Refuse(Kind::HoldRefused)),
            0 => Ok(Flow::Next),
            1 => {
                if self.db().link_reviews.contains_key(&link) {
                    self.lock(Lock::LinkReview(repository, blob), Mode::NoKeyUpdate)?;
                }
                Ok(Flow::Next)
            }
            _ => {
                let reviewed = self.db().blob_reviews.contains_key(&(instance, blob));
                if reviewed {
                    self.lock(Lock::BlobReview(instance, blob), Mode::NoKeyUpdate)?;
                }
                let blind = self.world.is(Break::HoldWithoutLookingAgain);
                if !self.db().links.contains(&link) && !blind {
                    return Ok(Flow::Refuse(Kind::HoldRefused));
                }
                if self.running().locks.contains_key(&Lock::LinkReview(repository, blob)) {
                    self.queue_link(repository, blob);
                }
                if reviewed {
                    self.queue_blob(instance, blob);
                }
                self.state.ghost.held_links.insert(link);
                Ok(Flow::Commit(Kind::HoldBlob))
            }
        }
    }

    fn hold_manifest(&mut self, repository: Repository, manifest: Manifest) -> Outcome {
        let key = (repository, manifest);
        if self.step() == 0 {
            let found = self.db().manifests.contains(&key);
            return Ok(if found { Flow::Next } else { Flow::Refuse(Kind::HoldRefused) });
        }
        let reviewed = self.db().manifest_reviews.contains_key(&key);
        if reviewed {
            self.lock(Lock::ManifestReview(repository, manifest), Mode::NoKeyUpdate)?;
        }
        let blind = self.world.is(Break::HoldWithoutLookingAgain);
        if !self.db().manifests.contains(&key) && !blind {
            return Ok(Flow::Refuse(Kind::HoldRefused));
        }
        if reviewed {
            let review = ManifestReview { due: false, ..self.db().manifest_reviews[&key] };
            self.db().manifest_reviews.insert(key, review);
        }
        self.state.ghost.held_manifests.insert(key);
        Ok(Flow::Commit(Kind::HoldManifest))
    }
}
