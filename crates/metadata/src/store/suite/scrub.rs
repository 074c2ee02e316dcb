//! What the scrubber finds, and that a pass goes on where it was left.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use berth_blobs::{BlobReader, BlobWriter, Blobs, BlobsError, Listed, ObjectKey, ObjectRef, WriteOpen};
use berth_database::{Engine, args};
use berth_oci::{Algorithm, ByteRange, Digest, ErrorCode};
use berth_proto::metadata::{self as proto, metadata_server::Metadata as Server};
use berth_service::Tasks;
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use tonic::Request;

use super::{World, answer, both, on_both_engines, refusal};
use crate::{
    Config, Metadata, MetadataService,
    scrub::{Metrics, Scrubber},
};

const APP: &str = "team/app";

on_both_engines!(
    a_pass_finds_what_is_wrong_and_nothing_else,
    a_pass_goes_on_after_a_restart,
    what_is_collected_meanwhile_is_no_damage,
    a_store_that_is_away_is_waited_for,
    passes_come_at_their_interval,
    without_a_store_nothing_can_be_asked,
);

/// A store in memory.
#[derive(Default, Debug)]
struct Shelf {
    objects: Mutex<BTreeMap<String, Bytes>>,
    opened: AtomicUsize,
    away: AtomicBool,
    /// Opening waits.
    held: AtomicBool,
}

impl Shelf {
    fn put(&self, key: &str, bytes: impl Into<Bytes>) {
        self.objects.lock().insert(key.to_owned(), bytes.into());
    }
}

#[async_trait]
impl Blobs for Shelf {
    async fn write(&self, _open: WriteOpen) -> Result<Box<dyn BlobWriter>, BlobsError> {
        Err(BlobsError::Invalid("nothing is written here"))
    }

    async fn rehash(&self, _: &ObjectRef, _: Algorithm) -> Result<Digest, BlobsError> {
        Err(BlobsError::Invalid("nothing is hashed here"))
    }

    async fn open(&self, object: &ObjectRef, _: Option<ByteRange>) -> Result<BlobReader, BlobsError> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        while self.held.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if self.away.load(Ordering::Relaxed) {
            return Err(BlobsError::Unavailable("out of order".to_owned()));
        }
        let bytes = self.objects.lock().get(object.key.as_str()).cloned().ok_or(BlobsError::NotFound)?;
        let (found, expected) = (bytes.len() as u64, object.size);
        if found < expected {
            return Err(BlobsError::Short { expected, found });
        }
        let stream = futures::stream::once(async move { Ok(bytes) });
        Ok(BlobReader::Stream(stream.boxed(), expected))
    }

    async fn delete(&self, _: &str, key: &ObjectKey) -> Result<(), BlobsError> {
        self.objects.lock().remove(key.as_str());
        Ok(())
    }

    async fn list(
        &self,
        _: &str,
        after: Option<&ObjectKey>,
        limit: usize,
    ) -> Result<Vec<Listed>, BlobsError> {
        let after = after.map(ObjectKey::as_str).unwrap_or_default();
        let objects = self.objects.lock();
        let rest = objects.iter().filter(|(key, _)| key.as_str() > after).take(limit);
        Ok(rest
            .map(|(key, bytes)| Listed { key: key.parse().unwrap(), size: bytes.len() as u64, modified: 0 })
            .collect())
    }
}

/// The same world with a store, whose scrubs are only asked for.
fn scrubbed(world: &World, config: Config) -> World {
    let metadata = Metadata { has_blobs: true, config: Arc::new(config), ..world.metadata.clone() };
    let service = MetadataService::new(metadata.clone(), &mut berth_service::Registry::default());
    World { service, metadata, ..world.clone() }
}

fn asked_only() -> Config {
    Config { scrub_interval_seconds: 0, collection_poll_seconds: 1, ..Config::default() }
}

impl World {
    async fn shelve(&self, shelf: &Shelf, digest: &Digest, content: &str) -> String {
        let key = self
            .database
            .read_optional(&both("SELECT object_key FROM blobs WHERE digest = $1"), args![digest.to_bytes()])
            .await
            .unwrap()
            .unwrap()
            .get::<String>(0)
            .unwrap();
        shelf.put(&key, content.to_owned());
        key
    }

    async fn scrub_status(&self) -> proto::ScrubStatusResponse {
        let request = proto::ScrubStatusRequest { findings_after: 0 };
        answer(self.service.scrub_status(Request::new(request)).await).unwrap()
    }

    async fn scrub_now(&self, unpaced: bool) -> Result<u64, berth_oci::Problem> {
        Ok(self.scrub_task(unpaced).await?.number)
    }

    async fn scrub_task(&self, unpaced: bool) -> Result<proto::ScrubNowResponse, berth_oci::Problem> {
        let request = proto::ScrubNowRequest { unpaced, ..proto::ScrubNowRequest::default() };
        answer(self.service.scrub_now(Request::new(request)).await)
    }

    fn scrubber(&self, shelf: &Arc<Shelf>) -> Tasks {
        let tasks = Tasks::new();
        Scrubber::new(self.metadata.clone(), shelf.clone(), Metrics::default()).spawn(&tasks);
        tasks
    }

    async fn ended(&self, number: u64) -> proto::ScrubStatusResponse {
        for _ in 0..600 {
            let status = self.scrub_status().await;
            if status.pass.as_ref().is_some_and(|pass| pass.number == number && pass.ended_at.is_some()) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("it does not end: {:?}", self.scrub_status().await);
    }
}

async fn a_pass_finds_what_is_wrong_and_nothing_else(world: World) {
    let (world, shelf) = (scrubbed(&world, asked_only()), Arc::new(Shelf::default()));
    let mut expected = Vec::new();
    for (number, (kind, found)) in
        [("", "fine"), ("missing", ""), ("short", "fin"), ("wrong_digest", "fine!")].into_iter().enumerate()
    {
        let content = format!("{number}fine");
        let digest = world.blob(APP, &content).await;
        let stored = format!("{number}{found}");
        let key = world.shelve(&shelf, &digest, &stored).await;
        match kind {
            "" => continue,
            "missing" => drop(shelf.objects.lock().remove(&key)),
            "wrong_digest" => shelf.put(&key, "9fine"),
            _ => {}
        }
        expected.push((kind.to_owned(), key, digest.to_string()));
    }
    let config = world.blob(APP, "{}").await;
    world.shelve(&shelf, &config, "{}").await;
    let manifest = super::Manifest::image(&[config]);
    world.put(APP, &manifest, &["v1"]).await.unwrap();
    let other = super::Manifest::with(&[config], &serde_json::json!({ "annotations": { "a": "b" } }));
    world.put(APP, &other, &["v2"]).await.unwrap();
    let digest = other.digest().to_bytes();
    let (sqlite, postgres) = (
        "UPDATE manifests SET payload = x'7b7d' WHERE digest = $1",
        "UPDATE manifests SET payload = '\\x7b7d' WHERE digest = $1",
    );
    world.stage(&[berth_database::Statement { sqlite, postgres }], args![digest]).await;
    expected.push(("wrong_digest".to_owned(), String::new(), other.digest().to_string()));
    // Bytes of an upload that runs, and of an object that waits for its end, are somebody's.
    world.start(APP).await.unwrap();
    let keys = both("SELECT object_key FROM upload_sessions WHERE state = 'open'");
    let open: String = world.database.read_optional(&keys, args![]).await.unwrap().unwrap().get(0).unwrap();
    shelf.put(&open, "half");
    world.blob(APP, "0fine").await;
    let keys = both("SELECT object_key FROM object_deletes");
    let twice: String = world.database.read_optional(&keys, args![]).await.unwrap().unwrap().get(0).unwrap();
    shelf.put(&twice, "0fine");
    let planted = format!("i/{}/01BX5ZZKBKACTAV9WEVGEMMVRZ", world.instance);
    shelf.put(&planted, "nobody's");
    expected.push(("orphan".to_owned(), planted, String::new()));

    let tasks = world.scrubber(&shelf);
    let begun = world.scrub_task(true).await.unwrap();
    let number = begun.number;
    let status = world.ended(number).await;
    let task = world.deployments_task(&begun.task_id).await;
    assert_eq!((task.state.as_str(), task.subject.as_str()), ("done", "scrub:1"));
    assert_eq!(task.message, "4 are damaged, 1 objects have no row; its findings say which");
    assert!(task.steps_total.unwrap() >= 5 && task.steps_total == Some(task.steps_done), "{task:?}");
    let mut found: Vec<_> =
        status.findings.into_iter().map(|found| (found.kind, found.object_key, found.digest)).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    let pass = status.pass.unwrap();
    assert_eq!((pass.blobs, pass.manifests, pass.damaged, pass.orphans), (5, 2, 4, 1));
    // The next one finds the same, and says so anew.
    let number = world.scrub_now(false).await.unwrap();
    assert_eq!((number, world.ended(number).await.findings.len()), (2, 5));
    assert_eq!(world.count(&both("SELECT count(*) FROM scrub_passes")).await, 2);
    assert!(tasks.stop(Duration::from_secs(5)).await);
}

async fn a_pass_goes_on_after_a_restart(world: World) {
    let slow = Config { scrub_bytes_per_second: 40 * 1024, ..asked_only() };
    let (world, shelf) = (scrubbed(&world, slow), Arc::new(Shelf::default()));
    for number in 0..20 {
        let content = format!("{number}");
        let digest = world.blob(APP, &content).await;
        world.shelve(&shelf, &digest, &content).await;
    }
    let begun = world.scrub_task(false).await.unwrap();
    let number = begun.number;
    assert_eq!(world.scrub_task(false).await.unwrap(), begun, "the one that runs will do");
    let started = std::time::Instant::now();
    let tasks = world.scrubber(&shelf);
    while world.scrub_status().await.pass.unwrap().phase == "blobs" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(
        started.elapsed() > Duration::from_millis(300),
        "20 looks at 40 a second, {:?}",
        started.elapsed()
    );
    assert!(tasks.stop(Duration::from_secs(5)).await);
    assert_eq!(shelf.opened.load(Ordering::Relaxed), 20);
    let tasks = world.scrubber(&shelf);
    let status = world.ended(number).await;
    assert_eq!(status.pass.unwrap().blobs, 20);
    assert_eq!(shelf.opened.load(Ordering::Relaxed), 20, "what was recorded is not read again");
    // One that goes slowly is given up for one that doesn't.
    assert_eq!(world.deployments_task(&begun.task_id).await.state, "done");
    let paced = world.scrub_task(false).await.unwrap();
    let begun = world.deployments_task(&paced.task_id).await;
    // Twenty blobs and their objects.
    assert_eq!((begun.state.as_str(), begun.steps_total), ("running", Some(40)));
    let unpaced = world.scrub_task(true).await.unwrap();
    assert_eq!((paced.number, unpaced.number), (2, 3));
    assert!(!world.ended(unpaced.number).await.pass.unwrap().paced);
    let given_up = world.deployments_task(&paced.task_id).await;
    assert_eq!(
        (given_up.state.as_str(), given_up.message.as_str()),
        ("failed", "it was given up for pass 3")
    );
    assert_eq!(world.deployments_task(&unpaced.task_id).await.state, "done");
    assert!(tasks.stop(Duration::from_secs(5)).await);
}

async fn what_is_collected_meanwhile_is_no_damage(world: World) {
    let (world, shelf) = (scrubbed(&world, asked_only()), Arc::new(Shelf::default()));
    let digest = world.blob(APP, "fine").await;
    let key = world.shelve(&shelf, &digest, "fine").await;
    shelf.held.store(true, Ordering::Relaxed);
    let tasks = world.scrubber(&shelf);
    let number = world.scrub_now(true).await.unwrap();
    while shelf.opened.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.delete_blob(APP, &digest).await.unwrap();
    world.make_due().await;
    world.review_due().await;
    assert_eq!(world.count(&both("SELECT count(*) FROM blobs")).await, 0);
    shelf.objects.lock().remove(&key);
    shelf.held.store(false, Ordering::Relaxed);
    assert!(world.ended(number).await.findings.is_empty());
    assert!(tasks.stop(Duration::from_secs(5)).await);
}

async fn a_store_that_is_away_is_waited_for(world: World) {
    let (world, shelf) = (scrubbed(&world, asked_only()), Arc::new(Shelf::default()));
    let digest = world.blob(APP, "fine").await;
    world.shelve(&shelf, &digest, "fine").await;
    shelf.away.store(true, Ordering::Relaxed);
    let tasks = world.scrubber(&shelf);
    let number = world.scrub_now(true).await.unwrap();
    while world.scrub_status().await.pass.unwrap().waits_for.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    shelf.away.store(false, Ordering::Relaxed);
    let status = world.ended(number).await;
    assert!(status.findings.is_empty() && status.pass.unwrap().waits_for.is_empty());
    assert!(tasks.stop(Duration::from_secs(5)).await);
}

async fn passes_come_at_their_interval(world: World) {
    let config = Config { scrub_interval_seconds: 3600, ..asked_only() };
    let (world, shelf) = (scrubbed(&world, config), Arc::new(Shelf::default()));
    let tasks = world.scrubber(&shelf);
    while world.count(&both("SELECT count(*) FROM scrub_passes")).await == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(world.scrub_status().await.pass.is_none(), "nothing is due on the first day");
    if world.database.engine() == Engine::Sqlite {
        world.clock.advance(Duration::from_secs(3601));
    } else {
        world.stage(&[both("UPDATE scrub_passes SET ended_at = 0")], args![]).await;
    }
    world.ended(1).await;
    assert!(tasks.stop(Duration::from_secs(5)).await);
}

async fn without_a_store_nothing_can_be_asked(world: World) {
    assert_eq!(refusal(world.scrub_now(true).await), ErrorCode::Unsupported);
    assert!(world.scrub_status().await.pass.is_none());
}
