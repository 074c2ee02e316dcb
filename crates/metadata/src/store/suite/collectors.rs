//! Collectors beside others: two at once, one that dies half-way, storage that fails, a crowd of clients.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use berth_blobs::{BlobReader, BlobWriter, Blobs, BlobsError, Listed, ObjectKey, ObjectRef, WriteOpen};
use berth_database::{Engine, args};
use berth_oci::{Algorithm, ByteRange, Digest, ErrorCode, Problem};
use berth_service::{Clock as _, Registry, Tasks};
use futures::future::join_all;
use parking_lot::Mutex;

use super::{Manifest, World, both, on_both_engines};
use crate::{
    Config, Metadata, MetadataService,
    collect::Verdict,
    worker::{Collector, Metrics},
};

const APP: &str = "team/app";

on_both_engines!(
    two_collectors_delete_once,
    one_collector_has_the_lease,
    a_crash_between_claim_and_finish_is_made_good,
    storage_that_fails_is_asked_again_later,
    the_worker_deletes_what_is_due_and_stops_at_once,
    a_crowd_beside_collectors_loses_nothing,
);

/// A store that only deletes.
#[derive(Default, Debug)]
struct Shredder {
    deleted: Mutex<Vec<String>>,
    fails: AtomicBool,
}

#[async_trait]
impl Blobs for Shredder {
    async fn write(&self, _open: WriteOpen) -> Result<Box<dyn BlobWriter>, BlobsError> {
        Err(BlobsError::Invalid("nothing is written here"))
    }

    async fn rehash(&self, _: &ObjectRef, _: Algorithm) -> Result<Digest, BlobsError> {
        Err(BlobsError::Invalid("nothing is read here"))
    }

    async fn open(&self, _: &ObjectRef, _: Option<ByteRange>) -> Result<BlobReader, BlobsError> {
        Err(BlobsError::Invalid("nothing is read here"))
    }

    async fn delete(&self, _store_id: &str, key: &ObjectKey) -> Result<(), BlobsError> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(BlobsError::Unavailable("out of order".to_owned()));
        }
        let mut deleted = self.deleted.lock();
        if deleted.iter().any(|known| known == key.as_str()) {
            return Err(BlobsError::NotFound);
        }
        deleted.push(key.to_string());
        Ok(())
    }

    async fn list(&self, _: &str, _: Option<&ObjectKey>, _: usize) -> Result<Vec<Listed>, BlobsError> {
        Err(BlobsError::Invalid("nothing is listed here"))
    }
}

fn collector(world: &World, shredder: &Arc<Shredder>) -> Collector {
    let blobs: Arc<dyn Blobs> = shredder.clone();
    Collector::new(world.metadata.clone(), Some(blobs), Metrics::default())
}

/// Objects whose grace is over.
async fn doomed(world: &World, number: usize) {
    for index in 0..number {
        world.blob(APP, &format!("loose {index}")).await;
    }
    world.collect().await;
    world.stage(&[both("UPDATE object_deletes SET not_before = 0")], args![]).await;
}

async fn two_collectors_delete_once(world: World) {
    for index in 0..12 {
        world.image(APP, &format!("image {index}"), &[&format!("v{index}")]).await;
    }
    world.stage(&[both("UPDATE repositories SET keep_untagged = FALSE")], args![]).await;
    for index in 0..12 {
        world.delete_tag(APP, &format!("v{index}")).await.unwrap();
    }
    let deleted = Arc::new(AtomicUsize::new(0));
    for _ in 0..4 {
        world.make_due().await;
        let workers = (0..6).map(|_| {
            let (world, deleted) = (world.clone(), Arc::clone(&deleted));
            async move { deleted.fetch_add(world.review_due().await, Ordering::Relaxed) }
        });
        join_all(workers).await;
    }
    assert_eq!(deleted.load(Ordering::Relaxed), 36, "manifests, links and blobs");
    assert_eq!(world.count(&both("SELECT count(*) FROM object_deletes")).await, 12);
    world.stage(&[both("UPDATE object_deletes SET not_before = 0")], args![]).await;
    let shredder = Arc::new(Shredder::default());
    let (first, second) = (collector(&world, &shredder), collector(&world, &shredder));
    let work = |collector: Collector| async move { while collector.delete_next_object().await.unwrap() {} };
    tokio::join!(work(first), work(second));
    let deleted = shredder.deleted.lock().clone();
    assert_eq!((deleted.len(), BTreeSet::from_iter(deleted).len()), (12, 12));
    assert_eq!(world.count(&both("SELECT count(*) FROM object_deletes")).await, 0);
}

async fn one_collector_has_the_lease(world: World) {
    let metadata = &world.metadata;
    let claim = |holder: &'static str, lease| metadata.claim_collection(holder, lease);
    assert!(claim("a", Duration::from_secs(60)).await.unwrap());
    assert!(claim("a", Duration::from_secs(60)).await.unwrap());
    if world.database.engine() == Engine::Postgres {
        assert!(!claim("b", Duration::from_secs(60)).await.unwrap());
        assert!(claim("a", Duration::ZERO).await.unwrap());
        assert!(claim("b", Duration::from_secs(60)).await.unwrap());
    }
}

async fn a_crash_between_claim_and_finish_is_made_good(world: World) {
    doomed(&world, 1).await;
    let shredder = Arc::new(Shredder::default());
    let collector = collector(&world, &shredder);
    let claimed = world.metadata.claim_next_object().await.unwrap().unwrap();
    // It died here, after the store had deleted the object.
    shredder.deleted.lock().push(claimed.key.clone());
    assert!(!collector.delete_next_object().await.unwrap(), "the lease holds");
    world.stage(&[both("UPDATE object_deletes SET lease_until = 0")], args![]).await;
    assert!(collector.delete_next_object().await.unwrap());
    assert_eq!(world.count(&both("SELECT count(*) FROM object_deletes")).await, 0);
    // Back from the dead, it changes nothing.
    assert!(!world.metadata.finish_object(claimed, Ok(())).await.unwrap());
    assert_eq!(shredder.deleted.lock().len(), 1);
}

async fn storage_that_fails_is_asked_again_later(world: World) {
    doomed(&world, 1).await;
    let shredder = Arc::new(Shredder::default());
    let collector = collector(&world, &shredder);
    shredder.fails.store(true, Ordering::Relaxed);
    let mut waits = Vec::new();
    for attempt in 1..=4 {
        assert!(collector.delete_next_object().await.unwrap());
        assert!(!collector.delete_next_object().await.unwrap(), "it waits");
        assert_eq!(world.count(&both("SELECT attempts FROM object_deletes")).await, attempt);
        let (now, due) = world.metadata.first_due().await.unwrap();
        let (_, at) = due.into_iter().find(|(queue, _)| queue.name() == "object").unwrap();
        waits.push(at.since(now));
        world.stage(&[both("UPDATE object_deletes SET not_before = 0")], args![]).await;
    }
    assert!(waits[3] > 2 * waits[0], "{waits:?}");
    let told = both("SELECT count(*) FROM object_deletes WHERE last_error LIKE '%out of order%'");
    assert_eq!(world.count(&told).await, 1);
    shredder.fails.store(false, Ordering::Relaxed);
    assert!(collector.delete_next_object().await.unwrap());
    assert_eq!(world.count(&both("SELECT count(*) FROM object_deletes")).await, 0);
}

async fn the_worker_deletes_what_is_due_and_stops_at_once(world: World) {
    doomed(&world, 40).await;
    world.image(APP, "kept", &["v1"]).await;
    let (shredder, tasks) = (Arc::new(Shredder::default()), Tasks::new());
    collector(&world, &shredder).spawn(&tasks);
    for _ in 0..600 {
        if shredder.deleted.lock().len() == 40 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(shredder.deleted.lock().len(), 40);
    // It sleeps for up to a poll of ten seconds now; being told wakes it.
    let started = std::time::Instant::now();
    assert!(tasks.stop(Duration::from_secs(5)).await);
    assert!(started.elapsed() < Duration::from_secs(2));
    assert!(world.resolve_tag(APP, "v1").await.content.is_some());
}

fn expected<T>(outcome: Result<T, Problem>) -> Option<T> {
    match outcome {
        Ok(value) => Some(value),
        Err(problem) => {
            let known = [ErrorCode::ManifestUnknown, ErrorCode::BlobUnknown, ErrorCode::Held];
            assert!(known.contains(&problem.code), "{problem:?}");
            None
        }
    }
}

async fn client(world: World, number: usize) {
    for round in 0..10 {
        let (real, told) = (std::time::Instant::now(), world.clock.now());
        let layer = world.blob(APP, &format!("layer{}", (number * 7 + round) % 5)).await;
        let config = world.blob(APP, &format!("config{number}-{round}")).await;
        let image = Manifest::image(&[config, layer]);
        let tag = format!("t{number}");
        // Nothing that was uploaded within the floor is missing, whatever collectors do.
        if let Err(problem) = world.put(APP, &image, &[tag.as_str(), "latest"]).await {
            // On a machine that is busy elsewhere it may take longer.
            let since = match world.database.engine() {
                Engine::Sqlite => world.clock.now().since(told),
                Engine::Postgres => real.elapsed(),
            };
            assert!(
                problem.code == ErrorCode::ManifestBlobUnknown && since >= FLOOR,
                "{problem:?} {since:?}"
            );
            continue;
        }
        let about = Manifest::about(&image.digest(), &config, "application/note");
        world.put(APP, &about, &[]).await.unwrap();
        match (number + round) % 4 {
            0 => expected(world.delete_manifest(APP, &image.digest()).await),
            1 => expected(world.delete_tag(APP, &tag).await),
            2 => {
                let index = Manifest::index(&[image.digest()]);
                world.put(APP, &index, &["multi"]).await.unwrap();
                expected(world.delete_manifest(APP, &index.digest()).await)
            }
            _ => None,
        };
    }
}

/// What was touched is safe for so long.
const FLOOR: Duration = Duration::from_secs(2);

/// The same world where nothing waits, but for what was touched within the last two seconds.
fn hasty(world: &World) -> World {
    let config =
        Config { review_floor_seconds: FLOOR.as_secs(), review_delay_seconds: 0, ..Config::default() };
    let metadata = Metadata { config: Arc::new(config), ..world.metadata.clone() };
    let service = MetadataService::new(metadata.clone(), &mut Registry::default());
    World { service, metadata, ..world.clone() }
}

async fn a_crowd_beside_collectors_loses_nothing(world: World) {
    let world = hasty(&world);
    let deleted = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let collectors = (0..3).map(|_| {
        let (world, deleted, done) = (world.clone(), Arc::clone(&deleted), Arc::clone(&done));
        async move {
            while !done.load(Ordering::Relaxed) {
                deleted.fetch_add(world.review_due().await, Ordering::Relaxed);
                // On SQLite time is what the test says.
                world.clock.advance(Duration::from_millis(20));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    });
    let clients = async {
        for _ in 0..3 {
            join_all((0..8).map(|number| client(world.clone(), number))).await;
            tokio::time::sleep(Duration::from_millis(1500)).await;
        }
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(join_all(collectors), clients);
    world.collect().await;
    for number in 0..8 {
        // A live tag has its manifest, and that its blobs: the foreign keys say so. Gone is only what was let go.
        let _resolved = world.resolve_tag(APP, &format!("t{number}")).await;
    }
    let unqueued = both(
        "SELECT count(*) FROM blobs b WHERE NOT EXISTS (SELECT 1 FROM links l \
        WHERE l.instance_id = b.instance_id AND l.digest = b.digest)",
    );
    assert_eq!(world.count(&unqueued).await, 0, "at rest no blob is without a link");
    let unheld = both(
        "SELECT count(*) FROM links l WHERE NOT EXISTS (SELECT 1 FROM manifest_blobs b \
        WHERE b.repository_id = l.repository_id AND b.blob_digest = l.digest)",
    );
    assert_eq!(world.count(&unheld).await, 0, "and no link without a manifest");
    let orphans = both(
        "SELECT count(*) FROM manifests m WHERE m.subject IS NOT NULL AND NOT EXISTS (SELECT 1 FROM manifests s \
        WHERE s.repository_id = m.repository_id AND s.digest = m.subject)",
    );
    assert_eq!(world.count(&orphans).await, 0, "and no referrer without its subject");
    assert_eq!(world.metadata.review_next_manifest().await.unwrap(), None::<Verdict>);
    tracing::info!(deleted = deleted.load(Ordering::Relaxed), "collected beside the crowd");
}
