//! T2: the power fails. A push is recorded down to the single write and sync, of blobs and of SQLite's files alike; then
//! the folder that a cut may have left at any point of that is put together, and the built binary starts on it.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test ends with what can't be had, and says what it did for whoever has to repeat it"
)]

mod check;
mod disk;
mod sample;
mod twice;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use berth_testkit::{ADMIN, Berth, Client, Content, eventually, remove_at_end};
use tokio::{sync::Semaphore, task::JoinSet};

use check::{Case, Recording, Seen, password_in, serving};
use disk::{Disk, Fate, Record, Tree};
use sample::History;
use twice::killed_then_cut;

/// Folders that are checked at the same time.
const AT_ONCE: usize = 4;

/// The library that records, built beside this test.
fn recorder() -> PathBuf {
    let beside = std::env::current_exe().unwrap().with_file_name("libberth_recorder.so");
    assert!(beside.is_file(), "{} is built with this test", beside.display());
    beside
}

/// Room for the folders that are checked at the same time.
const ROOM: u64 = 512 << 20;

/// In memory where there is such a place with room: hundreds of small folders are written and removed.
fn new_folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(memory).map_or(0, |place| place.f_bavail * place.f_frsize);
    let mut builder = tempfile::Builder::new();
    builder.prefix("berth-power-");
    let folder = if room > ROOM { builder.tempdir_in(memory) } else { builder.tempdir() }.unwrap();
    remove_at_end(folder.path());
    folder
}

async fn stop(process: &Berth) {
    process.terminate();
    assert!(process.wait_exit(Duration::from_secs(30)).await.unwrap().success());
}

/// The process with the recorder in it.
fn recorded(process: Berth, root: &Path, log: &Path) -> Berth {
    process
        .with_env("LD_PRELOAD", recorder().to_str().unwrap())
        .with_env("FILE_RECORDER_ROOT", root.to_str().unwrap())
        .with_env("FILE_RECORDER_LOG", log.to_str().unwrap())
}

/// The files of blobs.
fn objects(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { objects(&path) } else { BTreeSet::from([path]) }).collect()
}

/// Records the first start, pushes, a clean stop, a start with another password, more pushes, the deletion of an object,
/// and the stop after that.
async fn record(root: &Path, log: &Path, seed: u64) -> Recording {
    let data = root.join("data");
    let process = recorded(serving(&data), root, log)
        .with_env("BERTH__METADATA__OBJECT_GRACE_SECONDS", "3")
        .with_env("BERTH__METADATA__COLLECTION_POLL_SECONDS", "1");
    process.start().await.unwrap();
    let history = History::new(log.to_owned());
    let (made, made_ready) = (password_in(&data).unwrap(), history.now());
    let mut content = Content::seeded(seed);
    let client = Client::new(process.url()).with_credentials(ADMIN, &made);
    history.first_part(&client, &mut content).await.unwrap();
    stop(&process).await;

    let (given, given_asked) = ("another password".to_owned(), history.now());
    process.set_env("BERTH_ADMIN_PASSWORD", Some(given.clone()));
    process.start().await.unwrap();
    let given_ready = history.now();
    let client = Client::new(process.url()).with_credentials(ADMIN, &given);
    history.cancel(&client, &mut content).await.unwrap();
    let before = objects(&data.join("blobs"));
    history.second_part(&client, &mut content).await.unwrap();
    let gone = || async { (!before.is_subset(&objects(&data.join("blobs")))).then_some(()) };
    eventually("an object is deleted", gone).await.unwrap();
    stop(&process).await;
    Recording { history, made, made_ready, given, given_asked, given_ready }
}

/// Checks under way, a few at a time.
struct Checks {
    recording: Arc<Recording>,
    folder: PathBuf,
    places: Arc<Semaphore>,
    running: JoinSet<Result<(), String>>,
    started: usize,
    failed: Vec<String>,
}

impl Checks {
    /// Starts a check when there is a place for it.
    async fn start<F>(&mut self, what: String, check: impl FnOnce(Arc<Recording>, PathBuf) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let place = Arc::clone(&self.places).acquire_owned().await.unwrap();
        while let Some(ended) = self.running.try_join_next() {
            self.failed.extend(ended.unwrap().err());
        }
        assert!(self.failed.is_empty(), "{}", self.failed.join("\n\n"));
        self.started += 1;
        if self.started.is_multiple_of(200) {
            eprintln!("{} folders, {what}", self.started);
        }
        let check = check(Arc::clone(&self.recording), self.folder.join(self.started.to_string()));
        self.running.spawn(async move {
            let outcome = check.await;
            drop(place);
            outcome.map_err(|error| format!("{what}: {error:#}"))
        });
    }

    async fn folder(&mut self, what: String, cut: u64, audit: bool, tree: Tree) {
        let case = Case { cut, audit, tree, seen: Seen::new(), password: None };
        self.start(what, |recording, place| async move { case.check(&recording, place).await }).await;
    }

    async fn end(mut self) -> usize {
        while let Some(ended) = self.running.join_next().await {
            self.failed.extend(ended.unwrap().err());
        }
        assert!(self.failed.is_empty(), "{}", self.failed.join("\n\n"));
        self.started
    }
}

/// Which folders are looked at, besides those of what is certain.
struct Extent {
    /// Of the places to cut, one in so many.
    one_in: u64,
    /// Within a long write of one file, where every cut is like the next, one in so many.
    within: usize,
    /// Random folders of each.
    random: u64,
}

/// A recording and its log.
struct Recorded {
    folder: tempfile::TempDir,
    root: PathBuf,
    seed: u64,
    recording: Arc<Recording>,
    records: Vec<Record>,
}

impl Recorded {
    async fn new() -> Self {
        let seed = std::env::var("BERTH_SEED");
        let seed = seed.map_or(20_261_124, |seed| seed.parse().expect("BERTH_SEED is a number"));
        eprintln!("BERTH_SEED={seed}");
        let folder = new_folder();
        let root = folder.path().canonicalize().unwrap().join("disk");
        std::fs::create_dir(&root).unwrap();
        let log = tempfile::NamedTempFile::new().unwrap();
        let recording = Arc::new(record(&root, log.path(), seed).await);
        let records = disk::read(log.path());
        Self { folder, root, seed, recording, records }
    }

    /// Nothing in the folder was changed without the recorder.
    fn everything_was_seen(&self) {
        let mut disk = Disk::new(&self.root);
        for record in &self.records {
            disk.apply(record);
        }
        let differences = disk.after_cut(Fate::Kept).differences(&self.root);
        assert!(differences.is_empty(), "not as recorded:\n{}", differences.join("\n"));
    }

    /// Syncs without which a start after a kill reads what is not certain: the last before each answer, and those of the
    /// first start.
    fn decisive(&self) -> BTreeSet<usize> {
        let last_before = |answer: u64| {
            let before = self.records.partition_point(|record| record.end <= answer);
            (0..before).rev().find(|index| self.records[*index].is_sync())
        };
        let first_start = self.records.iter().take_while(|record| record.end <= self.recording.made_ready);
        let of_start = first_start.enumerate().filter(|(_, record)| record.is_sync()).map(|(index, _)| index);
        self.recording.history.answers().into_iter().filter_map(last_before).chain(of_start).collect()
    }

    /// Cuts the power all along.
    async fn cut(&self, extent: Extent) {
        let began = Instant::now();
        let mut checks = Checks {
            recording: Arc::clone(&self.recording),
            folder: self.folder.path().to_owned(),
            places: Arc::new(Semaphore::new(AT_ONCE)),
            running: JoinSet::new(),
            started: 0,
            failed: Vec::new(),
        };
        let (mut disk, total) = (Disk::new(&self.root), self.records.len());
        let mut choice = Content::seeded(self.seed ^ 1);
        let decisive = self.decisive();
        let mut answers = self.recording.history.answers().into_iter().peekable();
        let (mut news, mut certain, mut answered) = (false, 0, 0);
        for (index, record) in self.records.iter().enumerate() {
            news |= disk.apply(record);
            while answers.next_if(|answer| *answer <= record.end).is_some() {
                (news, answered) = (true, answered + 1);
            }
            let (next, cut) = (self.records.get(index + 1), record.end);
            let what = format!("cut after operation {} of {total}", index + 1);
            // What is certain stays the same up to the next sync, while more and more is answered: it is looked at at
            // the end of that stretch, when most must be there.
            if news && next.is_none_or(Record::is_sync) {
                (news, certain) = (false, certain + 1);
                let tree = disk.after_cut(Fate::Dropped);
                checks.folder(format!("{what}, only what is certain"), cut, certain % 4 == 0, tree).await;
            }
            if decisive.contains(&(index + 1)) {
                let disk = disk.clone();
                let check = |recording: Arc<Recording>, place| async move {
                    killed_then_cut(disk, cut, &recording, place).await
                };
                checks.start(format!("{what}, after a kill and a start"), check).await;
            }
            let in_long_write = next.is_some_and(|next| next.goes_on(record));
            if in_long_write && index % extent.within != 0 {
                continue;
            }
            if choice.below(extent.one_in) == 0 {
                let tree = disk.after_cut(Fate::Kept);
                checks.folder(format!("{what}, all of it there"), cut, false, tree).await;
            }
            for number in 0..extent.random {
                if choice.below(extent.one_in) == 0 {
                    let own = self.seed.wrapping_add(number << 32).wrapping_add(index as u64);
                    let tree = disk.after_cut(Fate::Random(&mut Content::seeded(own)));
                    checks
                        .folder(format!("{what}, of the rest what seed {own} says"), cut, false, tree)
                        .await;
                }
            }
        }
        let (folders, took) = (checks.end().await, began.elapsed());
        eprintln!(
            "{total} operations, {answered} answers: {certain} folders of what is certain, {folders} in all, {took:?}"
        );
    }

    /// What is found of a folder where these syncs did nothing, when the first part had its last answer.
    async fn without_syncs(&self, broken: fn(&str) -> bool) -> String {
        let answers = self.recording.history.answers();
        let cut = answers.range(..=self.recording.given_asked).last().copied().unwrap();
        let mut disk = Disk::new(&self.root).with_broken_syncs(broken);
        for record in self.records.iter().take_while(|record| record.end <= cut) {
            disk.apply(record);
        }
        let case = Case {
            cut,
            audit: false,
            tree: disk.after_cut(Fate::Dropped),
            seen: Seen::new(),
            password: None,
        };
        let place = tempfile::tempdir_in(self.folder.path()).unwrap();
        let outcome = case.check(&self.recording, place.path().join("broken")).await;
        outcome.expect_err("what was never synced is not missed").to_string()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t2_nothing_acknowledged_is_lost_when_the_power_fails() {
    let recorded = Recorded::new().await;
    recorded.everything_was_seen();
    // Of every kind of sync: were it not there, it would be noticed.
    for broken in [
        (|name| name == "metadata.db-wal") as fn(&str) -> bool,
        |name| name.len() == 26 && !name.contains('.'),
        |name| name == "i" || name.len() == 2,
        |name| name == "data",
        |name| name.contains("password"),
    ] {
        eprintln!("missed: {}", recorded.without_syncs(broken).await);
    }
    recorded.cut(Extent { one_in: 12, within: 32, random: 1 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the long form: many minutes"]
async fn long_t2_every_folder_that_a_power_cut_may_leave() {
    let recorded = Recorded::new().await;
    recorded.everything_was_seen();
    recorded.cut(Extent { one_in: 1, within: 16, random: 2 }).await;
}
