//! Small worlds to explore, and the ways in which the protocol can be broken.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::{
    state::{
        Blob, BlobRow, Budget, CHUNKS, Instance, Key, Manifest, ManifestReview, Object, Repository,
        SessionRow, Stage, State,
    },
    units::Unit,
};

/// A manifest's fixed content.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) blobs: &'static [Blob],
    pub(crate) children: &'static [Manifest],
    pub(crate) subject: Option<Manifest>,
}

/// An image with one layer.
const IMAGE: Shape = Shape { blobs: &[0], children: &[], subject: None };
/// An index that holds manifest 0.
const INDEX: Shape = Shape { blobs: &[], children: &[0], subject: None };
/// A referrer of manifest 0, with a layer.
const REFERRER: Shape = Shape { blobs: &[0], children: &[], subject: Some(0) };

/// A rule that is left out, to see that the model notices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Break {
    /// A review decides by what it read before it had its locks (and no foreign key stands in the way).
    ReviewWithoutLookingAgain,
    /// A review does not compare again, under the row's lock, whether it is due.
    ReviewNotDueAnyMore,
    /// A commit queues neither its link nor its blob for review.
    CommitWithoutReviews,
    /// An object's key follows from its digest.
    KeysFromDigests,
    /// A checkpoint is recorded whatever its epoch.
    CheckpointWithoutEpoch,
    /// A writer is not closed when a newer epoch opens the object.
    WritersStayOpen,
    /// An object may be opened for writing twice under one epoch.
    OpenTwice,
    /// Offsets are recorded before their bytes are durable.
    RecordBeforeSync,
    /// Reviews are due at once.
    NoFloor,
    /// Objects are deleted at once.
    NoGrace,
    /// A HEAD with push right answers by what it read before it put the reviews off.
    HoldWithoutLookingAgain,
    /// A review does not know that a holder went.
    ReviewsWithoutReasons,
    /// A delete of a manifest trusts what it read before the manifest's lock.
    DeleteWithoutLookingAgain,
    /// Mounts and deduplication look at every instance.
    SharedAcrossInstances,
    /// A dropped link does not queue its blob.
    DropWithoutReview,
    /// A repository's review does not lock the repository.
    RepositoryWithoutLock,
    /// A manifest's review locks its own row in the queue first, then those of what lived with it.
    ReviewsInAnyOrder,
    /// A session is reaped whatever its state is by now, and its bytes go.
    ReapWithoutCompare,
}

/// A world: its fixed shape, where it begins, and which requests clients make.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) name: &'static str,
    /// The instance of each repository.
    pub(crate) repositories: &'static [Instance],
    pub(crate) shapes: &'static [Shape],
    pub(crate) keep_untagged: bool,
    pub(crate) collectors: usize,
    /// Requests of clients besides uploads.
    pub(crate) requests: Vec<Unit>,
    /// Whether clients send bytes; else uploads don't go beyond their start.
    pub(crate) uploads: bool,
    pub(crate) reads: bool,
    pub(crate) crashes_of_the_store: bool,
    pub(crate) start: State,
    pub(crate) broken: Option<Break>,
    pub(crate) taken: Arc<Taken>,
}

/// How often each kind of transition was taken.
#[derive(Debug)]
pub(crate) struct Taken([AtomicUsize; Kind::ALL.len()]);

impl Default for Taken {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicUsize::new(0)))
    }
}

impl Taken {
    pub(crate) fn count(&self, kind: Kind) -> usize {
        self.0[kind as usize].load(Ordering::Relaxed)
    }
}

macro_rules! kinds {
    ($($kind:ident),* $(,)?) => {
        /// A kind of transition. Each must be taken by a run, or the run has checked less than it says.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Kind { $($kind),* }
        impl Kind {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$kind),*];
        }
    };
}

kinds! {
    StartUpload, MakeRepository, BeginAppend, TakeOver, Open, OpenRefused, Write, Sync, Checkpoint, CheckpointRefused,
    Cut, Commit, CommitKeepsOlderObject, CommitRepeated, CommitRefused, Cancel, Reap, Forget,
    Mount, MountRefused, PutManifest, PutManifestAgain, PutRefused, MoveTag, Untag, DeleteManifest, DeleteManifestRefused,
    DeleteBlob, DeleteBlobRefused, HoldBlob, HoldManifest, HoldRefused, Restart, Read,
    KeepManifest, CollectManifest, KeepLink, CollectLink, KeepBlob, CollectBlob,
    KeepRepository, ConfirmRepository, CollectRepository, GiveWay,
    ClaimObject, DeleteObject, DropObjectRow,
    Elapse, CrashTransaction, CrashGateway, CrashStore, CrashDeleter,
}

impl World {
    pub(crate) fn is(&self, broken: Break) -> bool {
        self.broken == Some(broken)
    }

    pub(crate) fn take(&self, kind: Kind) {
        self.taken.0[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn instance(&self, repository: Repository) -> Instance {
        self.repositories[usize::from(repository)]
    }

    pub(crate) fn shape(&self, manifest: Manifest) -> &Shape {
        &self.shapes[usize::from(manifest)]
    }

    fn new(
        name: &'static str,
        repositories: &'static [Instance],
        shapes: &'static [Shape],
        broken: Option<Break>,
    ) -> Self {
        Self {
            name,
            repositories,
            shapes,
            keep_untagged: true,
            collectors: 1,
            requests: Vec::new(),
            uploads: false,
            reads: false,
            crashes_of_the_store: false,
            start: State::default(),
            broken,
            taken: Arc::default(),
        }
        .with_lanes()
    }

    fn with_lanes(mut self) -> Self {
        self.start.running = vec![None; 2 + self.collectors];
        self
    }

    pub(crate) fn with_collectors(mut self, collectors: usize) -> Self {
        self.collectors = collectors;
        self.with_lanes()
    }

    pub(crate) fn with_budget(mut self, requests: u8, ticks: u8, crashes: u8) -> Self {
        self.start.left = Budget { requests, ticks, crashes };
        self
    }

    fn repository(mut self, repository: Repository) -> Self {
        self.start.db.repositories.insert(repository, false);
        self
    }

    /// A blob that was pushed to `repository` before, and whose reviews are due.
    fn blob(mut self, repository: Repository, blob: Blob) -> Self {
        let instance = self.instance(repository);
        let key = Key { instance, number: 100 + blob };
        let content = vec![0; CHUNKS];
        let object = Object { chunks: content.clone(), durable: CHUNKS, mark: 0 };
        self.start.storage.objects.insert(key, object);
        let db = &mut self.start.db;
        db.blobs.insert((instance, blob), BlobRow { key, content });
        db.links.insert((repository, blob));
        db.link_reviews.insert((repository, blob), true);
        db.blob_reviews.insert((instance, blob), true);
        self
    }

    /// A manifest that was pushed before and needs no review.
    fn manifest(mut self, repository: Repository, manifest: Manifest) -> Self {
        self.start.db.manifests.insert((repository, manifest));
        self.start.ghost.promised.insert((repository, manifest));
        self
    }

    /// A manifest that is in review.
    fn reviewed(mut self, repository: Repository, manifest: Manifest) -> Self {
        let review = ManifestReview { due: true, released: false };
        self.start.db.manifest_reviews.insert((repository, manifest), review);
        self
    }

    /// One upload, two gateways that take it from each other, losses of power.
    pub(crate) fn appends(broken: Option<Break>) -> Self {
        let mut world = Self::new("appends", &[0], &[], broken).repository(0).with_budget(4, 1, 1);
        world.requests = vec![Unit::Start { repository: 0, blob: 0 }, Unit::Cancel { session: 0 }];
        world.uploads = true;
        world.crashes_of_the_store = true;
        world
    }

    /// An upload whose bytes are all recorded, and that nobody writes to.
    fn uploaded(mut self, repository: Repository, blob: Blob) -> Self {
        let session = self.start.sessions_started;
        let instance = self.instance(repository);
        let number = if self.is(Break::KeysFromDigests) { 100 + blob } else { session };
        let key = Key { instance, number };
        let recorded = vec![0; CHUNKS];
        let object = Object { chunks: recorded.clone(), durable: CHUNKS, mark: 0 };
        self.start.storage.objects.insert(key, object);
        let row = SessionRow {
            repository,
            blob,
            key,
            stage: Stage::Open,
            epoch: 0,
            leased: false,
            expired: false,
            recorded,
        };
        self.start.db.sessions.insert(session, row);
        self.start.sessions_started += 1;
        self
    }

    /// Two uploads of one blob that are about to end, beside the blob's collection.
    pub(crate) fn duplicates(broken: Option<Break>) -> Self {
        let mut world = Self::new("duplicates", &[0, 0], &[IMAGE], broken)
            .repository(0)
            .repository(1)
            .uploaded(0, 0)
            .uploaded(1, 0)
            .with_budget(3, 2, 0);
        world.requests = vec![Unit::Cancel { session: 1 }, Unit::DeleteBlob { repository: 0, blob: 0 }];
        world.uploads = true;
        world.reads = true;
        world
    }

    /// An upload of a blob whose older copy is about to be collected.
    pub(crate) fn renewals(broken: Option<Break>) -> Self {
        let mut world = Self::new("renewals", &[0, 0], &[IMAGE], broken)
            .repository(0)
            .repository(1)
            .blob(0, 0)
            .uploaded(1, 0)
            .with_budget(3, 2, 0);
        world.requests = vec![
            Unit::DeleteBlob { repository: 0, blob: 0 },
            Unit::Put { repository: 1, manifest: 0, tagged: false },
        ];
        world.uploads = true;
        world.reads = true;
        world
    }

    /// A blob that is about to be collected from one repository while another wants it.
    pub(crate) fn links(broken: Option<Break>) -> Self {
        let mut world = Self::new("links", &[0, 0], &[IMAGE], broken)
            .repository(0)
            .repository(1)
            .blob(0, 0)
            .with_budget(3, 2, 1);
        world.requests = vec![
            Unit::Mount { repository: 1, blob: 0 },
            Unit::Put { repository: 0, manifest: 0, tagged: false },
            Unit::Put { repository: 1, manifest: 0, tagged: true },
            Unit::DeleteManifest { repository: 0, manifest: 0 },
            Unit::DeleteBlob { repository: 0, blob: 0 },
            Unit::HoldBlob { repository: 0, blob: 0 },
        ];
        world.reads = true;
        world
    }

    /// An image that an index takes in, loses, and that clients tag.
    pub(crate) fn indexes(broken: Option<Break>) -> Self {
        let mut world = Self::new("indexes", &[0], &[IMAGE, INDEX], broken)
            .repository(0)
            .blob(0, 0)
            .manifest(0, 0)
            .reviewed(0, 0)
            .with_budget(3, 2, 0);
        world.requests = vec![
            Unit::Put { repository: 0, manifest: 0, tagged: false },
            Unit::Put { repository: 0, manifest: 1, tagged: false },
            Unit::Put { repository: 0, manifest: 1, tagged: true },
            Unit::Untag { repository: 0 },
            Unit::DeleteManifest { repository: 0, manifest: 0 },
            Unit::DeleteManifest { repository: 0, manifest: 1 },
            Unit::HoldManifest { repository: 0, manifest: 0 },
        ];
        world
    }

    /// The image's index went, so that it is about to be collected, and clients want it again.
    pub(crate) fn released(broken: Option<Break>) -> Self {
        let mut world = Self::indexes(broken);
        world.name = "released";
        let review = ManifestReview { due: true, released: true };
        world.start.db.manifest_reviews.insert((0, 0), review);
        world.start.ghost.released.insert((0, 0));
        world.start.ghost.promised.clear();
        world.start.left.crashes = 1;
        world
    }

    /// The same where untagged manifests are not kept.
    pub(crate) fn untagged(broken: Option<Break>) -> Self {
        let mut world = Self::indexes(broken);
        world.name = "untagged";
        world.keep_untagged = false;
        world
    }

    /// An image and its referrer, in either order.
    pub(crate) fn referrers(broken: Option<Break>) -> Self {
        let mut world = Self::new("referrers", &[0], &[IMAGE, REFERRER], broken)
            .repository(0)
            .blob(0, 0)
            .manifest(0, 0)
            .with_budget(3, 2, 0);
        world.requests = vec![
            Unit::Put { repository: 0, manifest: 0, tagged: true },
            Unit::Put { repository: 0, manifest: 1, tagged: false },
            Unit::Put { repository: 0, manifest: 1, tagged: true },
            Unit::Untag { repository: 0 },
            Unit::DeleteManifest { repository: 0, manifest: 0 },
            Unit::DeleteManifest { repository: 0, manifest: 1 },
        ];
        world
    }

    /// Two instances with the same digest.
    pub(crate) fn instances(broken: Option<Break>) -> Self {
        let mut world = Self::new("instances", &[0, 1], &[IMAGE], broken)
            .repository(0)
            .repository(1)
            .blob(0, 0)
            .with_budget(4, 1, 0);
        world.requests = vec![
            Unit::Start { repository: 1, blob: 0 },
            Unit::Mount { repository: 1, blob: 0 },
            Unit::DeleteBlob { repository: 0, blob: 0 },
        ];
        world.uploads = true;
        world
    }

    /// A repository that pushes make.
    pub(crate) fn making(broken: Option<Break>) -> Self {
        let mut world =
            Self::new("making", &[0, 0], &[IMAGE], broken).repository(0).blob(0, 0).with_budget(3, 3, 1);
        world.requests = vec![
            Unit::Start { repository: 1, blob: 0 },
            Unit::Cancel { session: 0 },
            Unit::Mount { repository: 1, blob: 0 },
            Unit::Put { repository: 1, manifest: 0, tagged: false },
        ];
        world
    }

    /// A repository that was made by a push, and is about to be dropped or confirmed.
    pub(crate) fn provisional(broken: Option<Break>) -> Self {
        let mut world = Self::making(broken).blob(1, 0);
        world.name = "provisional";
        world.start.db.repositories.insert(1, true);
        world.start.db.repository_reviews.insert(1, true);
        world.start.db.links.remove(&(1, 0));
        world
    }

    /// Every world.
    pub(crate) fn all() -> Vec<Self> {
        let worlds = [
            Self::appends,
            Self::duplicates,
            Self::renewals,
            Self::links,
            Self::indexes,
            Self::released,
            Self::untagged,
            Self::referrers,
            Self::instances,
            Self::making,
            Self::provisional,
        ];
        worlds.into_iter().map(|world| world(None)).collect()
    }
}
