//! T1: a push is cut short at a crash point of the built binary, and what was answered before must be there after a
//! restart, byte for byte; what was not is absent or complete; the same push then succeeds.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test ends with what can't be had, and says what it did for whoever has to repeat it"
)]

mod collecting;
mod push;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    hash::{BuildHasher as _, RandomState},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use berth_service::crash::POINTS;
use berth_testkit::{Content, Deployment, Engine, Layout, Setting, Storage, eventually};

use push::{Push, Survived};

/// Deaths in one deployment, in order: the point and the process.
struct Plan {
    setting: Setting,
    deaths: Vec<(&'static str, &'static str)>,
}

/// The process that a point is in, where roles are apart.
fn role_of(point: &str) -> &'static str {
    match point.split('.').next().unwrap() {
        "upload" | "append" | "finish" | "manifest" | "delete" => "gateway-1",
        "object" => "blob-store",
        "audit" => "instance-manager",
        _ => "metadata",
    }
}

/// How often one push reaches a point for certain, at least: the death is at one of those times.
fn least_times(point: &str) -> u64 {
    match point {
        "upload.before_start"
        | "upload.started"
        | "start_upload.before_commit"
        | "start_upload.committed" => 20,
        "append.opened" | "append.synced" | "begin_append.leased" => 20,
        "append.recorded" | "advance_upload.before_commit" | "advance_upload.committed" => 8,
        "finish.verified" | "finish.committed" => 20,
        "object.opened" | "object.before_write" | "object.written" => 20,
        "object.data_synced" | "object.synced" => 20,
        "object.put" | "object.tail_written" => 8,
        "commit_upload.blob_kept" | "commit_upload.before_commit" | "commit_upload.committed" => 20,
        "manifest.before_put" | "manifest.stored" => 2,
        "put_manifest.added" | "put_manifest.before_commit" | "put_manifest.committed" => 2,
        "delete.before" | "delete.done" => 2,
        "database.before_commit" | "database.committed" => 40,
        _ => 1,
    }
}

/// The points that only a push to object storage comes by.
const OF_A_BUCKET: [&str; 10] = [
    "finish.recorded",
    "finish_upload.before_commit",
    "finish_upload.committed",
    "object.multipart_begun",
    "object.before_part",
    "object.part_sent",
    "object.tail_written",
    "object.put",
    "object.before_complete",
    "object.completed",
];

/// The points that a push to a folder comes by.
fn of_a_push() -> impl Iterator<Item = &'static str> + Clone {
    let others = |point: &&str| !collecting::is_of_collection(point) && !OF_A_BUCKET.contains(point);
    POINTS.iter().copied().filter(others)
}

/// Deaths of pushes to object storage, at the points of that first.
fn on_bucket(runs: usize, random: &mut Content) -> Plan {
    let mut points = shuffled(OF_A_BUCKET, random);
    points.extend(shuffled(of_a_push().filter(|point| !point.starts_with("object.")), random));
    let deaths = points.into_iter().cycle().take(runs).map(|point| (point, "berth"));
    Plan { setting: Setting::EMBEDDED.on_bucket(), deaths: deaths.collect() }
}

fn shuffled(points: impl IntoIterator<Item = &'static str>, random: &mut Content) -> Vec<&'static str> {
    let mut left: Vec<_> = points.into_iter().collect();
    let mut mixed = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let index = random.below(left.len() as u64) as usize;
        mixed.push(left.swap_remove(index));
    }
    mixed
}

/// Half of the deaths in one process on SQLite, half with roles apart on PostgreSQL and bytes encrypted, each role in its turn; no point
/// twice before every one was the victim's.
fn plans(runs: usize, random: &mut Content) -> [Plan; 2] {
    // The longest after a death of metadata comes who needs its relay, which first waits for the lease of the dead one.
    let roles = ["gateway-1", "blob-store", "instance-manager", "metadata"];
    let mut used = HashSet::new();
    let mut queues: BTreeMap<&str, Vec<&'static str>> = BTreeMap::new();
    let mut apart = Vec::new();
    for role in roles.iter().cycle().take(runs / 2) {
        let queue = queues.entry(role).or_default();
        if queue.is_empty() {
            *queue = shuffled(of_a_push().filter(|point| role_of(point) == *role), random);
        }
        let point = queue.pop().unwrap();
        used.insert(point);
        apart.push((point, *role));
    }
    let fresh = shuffled(of_a_push().filter(|point| !used.contains(point)), random);
    let mut together = fresh;
    while together.len() < runs - apart.len() {
        together.extend(shuffled(of_a_push(), random));
    }
    together.truncate(runs - apart.len());
    [
        Plan {
            setting: Setting::EMBEDDED,
            deaths: together.into_iter().map(|point| (point, "berth")).collect(),
        },
        Plan { setting: Setting::new(Layout::RolesApart, Engine::Postgres).sealed(), deaths: apart },
    ]
}

/// One deployment, and what it went through.
struct Trial {
    deployment: Deployment,
    seed: u64,
    survived: Vec<Survived>,
}

impl Trial {
    /// Ends a process as an operator would, and starts it with a crash point armed. False when it has died of that before
    /// it was ready: collection and the relay go on with what is left from before at once.
    async fn arm(&self, victim: &str, point: &str, nth: u64) -> bool {
        let process = self.deployment.process(victim);
        process.terminate();
        process.wait_exit(Duration::from_secs(30)).await.unwrap();
        process.set_env("BERTH_CRASH_POINTS", Some(format!("{point}:{nth}")));
        let started = self.deployment.restart(victim).await;
        process.set_env("BERTH_CRASH_POINTS", None);
        if let Err(error) = &started {
            assert!(process.pid().is_none(), "{victim} is neither ready nor dead: {error:#}");
        }
        started.is_ok()
    }

    async fn run(&mut self, number: usize, point: &str, victim: &str) {
        let mut random = Content::seeded(self.seed.wrapping_add(number as u64));
        let nth = 1 + random.below(least_times(point));
        let what = format!("run {number}, {victim} dies at {point}, time {nth}");
        let on_bucket = self.deployment.setting().storage == Storage::Bucket;
        let big = number == 0 || on_bucket || point.starts_with("append.checkpoint");
        let mut push = Push::new(format!("crash/run-{number}"), &mut random, big);
        push.prepare(&self.deployment.client()).await.unwrap_or_else(|error| panic!("{what}: {error:#}"));
        let began = Instant::now();
        if self.arm(victim, point, nth).await {
            let outcome = push.run(&self.deployment.client()).await;
            // Events are on their way after the last answer, and a relay may first have to wait for a dead one's lease.
            let status = self.deployment.process(victim).wait_exit(Duration::from_secs(30)).await;
            let status =
                status.unwrap_or_else(|error| panic!("{what}: no death; the push: {outcome:?}\n{error:#}"));
            assert!(!status.success(), "{what}: it ended with {status}");
        }
        let died = began.elapsed();
        self.deployment.restart(victim).await.unwrap();
        let client = self.deployment.client();
        push.check(&client).await.unwrap_or_else(|error| panic!("{what}, after it: {error:#}"));
        let again = push.run(&client).await;
        again.unwrap_or_else(|error| panic!("{what}, the same push again: {error:#}"));
        push.check(&client).await.unwrap_or_else(|error| panic!("{what}, at its end: {error:#}"));
        self.survived.push(push.survived());
        eprintln!("{what}: after {} ms, whole in {} ms", died.as_millis(), began.elapsed().as_millis());
    }

    /// With everything up again: all content of all runs, and each change of a tag or manifest once in the audit trail.
    async fn finish(&self) {
        let client = self.deployment.client();
        for push in &self.survived {
            push.pull(&client).await.unwrap_or_else(|error| panic!("{}: {error:#}", push.repository()));
        }
        let wanted: BTreeMap<String, usize> = self.survived.iter().flat_map(Survived::events).collect();
        let seen = eventually("every change is in the audit trail", || async {
            let mut seen: BTreeMap<String, usize> = BTreeMap::new();
            for entry in self.deployment.audit().await.ok()? {
                let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
                let about = if text("tag").is_empty() { text("digest") } else { text("tag") };
                *seen.entry(format!("{} {} {about}", text("type"), text("repository"))).or_default() += 1;
            }
            wanted.keys().all(|key| seen.get(key) >= wanted.get(key)).then_some(seen)
        });
        let seen = seen.await.unwrap_or_else(|error| panic!("{error:#}: {wanted:?}"));
        for (change, times) in &wanted {
            assert_eq!(seen.get(change), Some(times), "{change}");
        }
        self.deployment.is_sound().await.unwrap();
    }
}

async fn trial(plan: Plan, seed: u64, log: &Path) {
    let deployment = Deployment::builder(plan.setting)
        .with_env("BERTH_CRASH_LOG", log.display().to_string())
        // What a cancelled or a repeated upload leaves is deleted during the test, all else long after it.
        .with_env("BERTH__METADATA__OBJECT_GRACE_SECONDS", "1")
        // In object storage it waits for what a dead process may have under way there; an hour if that isn't said.
        .with_env("BERTH__METADATA__LONGEST_OPERATION_SECONDS", "3")
        .with_env("BERTH__METADATA__COLLECTION_POLL_SECONDS", "1")
        .start()
        .await
        .unwrap();
    let mut trial = Trial { deployment, seed, survived: Vec::new() };
    for (number, (point, victim)) in plan.deaths.into_iter().enumerate() {
        trial.run(number, point, victim).await;
    }
    trial.finish().await;
}

/// The points of the log that were reached, and those at which a process died, in order.
fn read(log: &PathBuf) -> (BTreeSet<String>, Vec<String>) {
    let (mut reached, mut died) = (BTreeSet::new(), Vec::new());
    for line in std::fs::read_to_string(log).unwrap().lines() {
        match line.split_once(' ').unwrap() {
            (point, "died") => died.push(point.to_owned()),
            (point, _) => {
                reached.insert(point.to_owned());
            }
        }
    }
    (reached, died)
}

/// So many deaths of a push to a folder, of one to object storage, and of the collector.
async fn deaths(runs: usize, to_a_bucket: usize, of_collection: usize) {
    let seed = match std::env::var("BERTH_SEED") {
        Ok(seed) => seed.parse().expect("BERTH_SEED is a number"),
        Err(_) => RandomState::new().hash_one("seed") >> 16,
    };
    eprintln!("BERTH_SEED={seed}");
    let folder = tempfile::tempdir().unwrap();
    let logs = ["together", "apart", "bucket", "collecting together", "collecting apart"]
        .map(|name| folder.path().join(name));
    let mut random = Content::seeded(seed);
    let [together, apart] = plans(runs, &mut random);
    let bucket = on_bucket(to_a_bucket, &mut random);
    let mut points = Vec::new();
    while points.len() < of_collection {
        points.extend(shuffled(
            POINTS.iter().copied().filter(|point| collecting::is_of_collection(point)),
            &mut random,
        ));
    }
    let (first, second) = points[..of_collection].split_at(of_collection / 2);
    let settings = [together.setting, apart.setting];
    tokio::join!(
        trial(together, seed.wrapping_mul(2), &logs[0]),
        trial(apart, seed.wrapping_mul(2).wrapping_add(1 << 32), &logs[1]),
        trial(bucket, seed.wrapping_mul(2).wrapping_add(1 << 35), &logs[2]),
        collecting::trial(settings[0], first, seed.wrapping_mul(2).wrapping_add(1 << 33), &logs[3]),
        collecting::trial(settings[1], second, seed.wrapping_mul(2).wrapping_add(1 << 34), &logs[4]),
    );
    let (mut reached, mut died) = (BTreeSet::new(), Vec::new());
    for log in &logs {
        let (also_reached, also_died) = read(log);
        reached.extend(also_reached);
        died.extend(also_died);
    }
    assert_eq!(died.len(), runs + to_a_bucket + of_collection, "each run has one death");
    let at: BTreeSet<_> = died.iter().filter(|point| !collecting::is_of_collection(point)).collect();
    let different = runs.min(of_a_push().count()) + to_a_bucket.min(OF_A_BUCKET.len());
    assert_eq!(at.len(), different, "deaths at different points");
    let never: Vec<_> = POINTS.iter().filter(|point| !reached.contains(**point)).collect();
    assert!(never.is_empty(), "points that were never reached: {never:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t1_nothing_acknowledged_is_lost_in_22_crashes() {
    Box::pin(deaths(12, 4, 6)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the long form: some minutes"]
async fn long_t1_nothing_acknowledged_is_lost_in_200_crashes() {
    Box::pin(deaths(120, 40, 40)).await;
}
