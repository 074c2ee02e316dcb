//! Object storage against the one suite, and what only it promises: what goes wrong on the way to it stays there.
#![allow(clippy::unwrap_used, reason = "a test says by a panic what does not hold")]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use berth_blob_store::{Metrics, RemoteBlobs, S3, s3::Config, serve};
use berth_blobs::{
    Blobs, BlobsError, ObjectKey, ObjectRef, Staging, WriteOpen, Written,
    suite::{Fixture, bytes_of},
};
use berth_oci::{Algorithm, ByteRange, Digest, ErrorCode, Problem};
use berth_service::{Channel, Ids, SystemClock, Tasks};
use berth_testkit::{
    ObjectStorage,
    object_storage::{ACCESS_KEY, BUCKET, Fault, SECRET_KEY},
};
use bytes::Bytes;
use futures::StreamExt;
use ulid::Ulid;

const MIB: usize = 1 << 20;

fn config(storage: &ObjectStorage, folder: &Path) -> Config {
    let secret = folder.join("secret");
    std::fs::write(&secret, format!("{SECRET_KEY}\n")).unwrap();
    Config {
        bucket: BUCKET.to_owned(),
        endpoint: Some(storage.url()),
        path_style: true,
        access_key: Some(ACCESS_KEY.to_owned()),
        secret_key_file: Some(secret),
        ..Config::default()
    }
}

struct Store {
    storage: Arc<ObjectStorage>,
    blobs: Arc<dyn Blobs>,
    _folder: tempfile::TempDir,
}

async fn store_with(change: impl FnOnce(&mut Config)) -> Store {
    let storage = Arc::new(ObjectStorage::start());
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&storage, folder.path());
    change(&mut config);
    let blobs = Arc::new(
        S3::open(&config, Ids::random(Arc::new(SystemClock)), Tasks::new(), Metrics::default())
            .await
            .unwrap(),
    );
    Store { storage, blobs, _folder: folder }
}

async fn store() -> Store {
    store_with(|_| {}).await
}

fn fixture(store: Store, blobs: Arc<dyn Blobs>) -> Fixture {
    let storage = Arc::clone(&store.storage);
    let cut = Box::new(move |key: &ObjectKey, length| {
        let file = std::fs::File::options().write(true).open(storage.file(key.as_str())).unwrap();
        file.set_len(length).unwrap();
    });
    Fixture {
        blobs,
        store_id: "s3".to_owned(),
        cut,
        in_place: false,
        sealed: false,
        cut_under_readers: true,
        keep: Box::new((store.storage, store._folder)),
    }
}

mod driver {
    use super::*;

    async fn make() -> Fixture {
        let store = store().await;
        let blobs = Arc::clone(&store.blobs);
        fixture(store, blobs)
    }

    berth_blobs::blobs_suite!(make);
}

mod driver_with_equal_parts_and_no_conditions {
    use super::*;

    async fn make() -> Fixture {
        let store = store_with(|config| {
            config.equal_parts = true;
            config.conditional_writes = false;
            config.part_size_mib = 6;
        })
        .await;
        let blobs = Arc::clone(&store.blobs);
        fixture(store, blobs)
    }

    berth_blobs::blobs_suite!(make);
}

/// As with Amazon's service.
mod driver_with_checksums {
    use super::*;

    async fn make() -> Fixture {
        let store = store_with(|config| config.checksums = Some(true)).await;
        let blobs = Arc::clone(&store.blobs);
        fixture(store, blobs)
    }

    berth_blobs::blobs_suite!(make);
}

mod remote {
    use super::*;

    async fn make() -> Fixture {
        let store = store().await;
        let server = serve(Arc::clone(&store.blobs));
        let blobs = Arc::new(RemoteBlobs::new(Channel::local("blob-store", server)));
        fixture(store, blobs)
    }

    berth_blobs::blobs_suite!(make);
}

fn key(number: u128) -> ObjectKey {
    ObjectKey::new(Ulid::from_parts(1, 1).to_string().parse().unwrap(), Ulid::from_parts(2, number))
}

fn fresh(key: &ObjectKey) -> WriteOpen {
    WriteOpen {
        store_id: "s3".to_owned(),
        key: key.clone(),
        epoch: 1,
        offset: 0,
        hash_state: None,
        algorithm: Algorithm::Sha256,
        staging: Staging::default(),
        expected: None,
        unit: 1,
    }
}

fn after(open: WriteOpen, written: &Written) -> WriteOpen {
    let mut staging = open.staging;
    staging.apply(&written.change);
    WriteOpen {
        epoch: open.epoch + 1,
        offset: written.offset,
        hash_state: Some(written.hash_state.clone()),
        staging,
        ..open
    }
}

/// Writes an object whole; the key that it has then.
async fn put(store: &Store, number: u128, bytes: &Bytes) -> Result<ObjectKey, BlobsError> {
    let mut writer = store.blobs.write(fresh(&key(number))).await?;
    for start in (0..bytes.len()).step_by(MIB) {
        writer.write(bytes.slice(start..bytes.len().min(start + MIB))).await?;
    }
    let closed = writer.close().await?;
    assert_eq!(closed.written.digest, Digest::of(Algorithm::Sha256, bytes));
    writer.finish().await
}

async fn read(store: &Store, key: &ObjectKey, size: usize) -> Result<Bytes, BlobsError> {
    let object = ObjectRef::new("s3", key.clone(), size as u64, None);
    store.blobs.open(&object, None).await?.into_bytes(u64::MAX).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_blob_is_one_request() {
    let store = store().await;
    let bytes = bytes_of(1, 100_000);
    let written = put(&store, 1, &bytes).await.unwrap();
    assert_eq!(store.storage.requests(), 1, "{:?}", store.storage.log());
    assert_eq!(read(&store, &written, bytes.len()).await.unwrap(), bytes);
    // So is one that came in a request of its own before the one that closes it.
    let before = store.storage.requests();
    let mut writer = store.blobs.write(fresh(&key(2))).await.unwrap();
    writer.write(bytes.clone()).await.unwrap();
    let recorded = after(fresh(&key(2)), &writer.sync().await.unwrap());
    let mut writer = store.blobs.write(recorded).await.unwrap();
    assert!(!writer.close().await.unwrap().two_phase);
    let written = writer.finish().await.unwrap();
    assert_eq!(store.storage.requests() - before, 1, "{:?}", store.storage.log());
    assert_eq!(read(&store, &written, bytes.len()).await.unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t04_a_store_that_is_busy_is_asked_again() {
    let store = store().await;
    let bytes = bytes_of(2, 20 * MIB);
    for method in ["PUT", "POST"] {
        store.storage.plan(method, "/i/", Fault::Status(503), 3);
    }
    let written = put(&store, 1, &bytes).await.unwrap();
    store.storage.plan("GET", "/i/", Fault::Status(503), 3);
    assert_eq!(read(&store, &written, bytes.len()).await.unwrap(), bytes);
    assert!(store.storage.all_happened());
}

/// T6 while bytes are sent: parts larger than what the machine's own buffers take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t06_bytes_that_nobody_takes_are_sent_again_and_slow_ones_are_waited_for() {
    let store = store_with(|config| {
        config.stall_seconds = 1;
        config.part_size_mib = 24;
    })
    .await;
    let bytes = bytes_of(3, 24 * MIB);
    let sent = || store.storage.log().len();
    let began = Instant::now();
    store.storage.plan("PUT", "/i/", Fault::StopTaking(MIB as u64), 1);
    let written = put(&store, 1, &bytes).await.unwrap();
    assert_eq!((sent(), store.storage.all_happened()), (2, true));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(read(&store, &written, bytes.len()).await.unwrap(), bytes);
    // It takes several times as long as it may stand still.
    let before = sent();
    let began = Instant::now();
    store.storage.plan("PUT", "/i/", Fault::TakeSlowly(6 * MIB as u64), 1);
    let written = put(&store, 2, &bytes).await.unwrap();
    assert_eq!((sent() - before, store.storage.all_happened()), (1, true));
    assert!(began.elapsed() > Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(read(&store, &written, bytes.len()).await.unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t05_a_completion_without_an_answer_is_found_out() {
    for (number, fault) in [Fault::Status(500), Fault::CutBefore, Fault::CutAfter, Fault::StatusAfter(500)]
        .into_iter()
        .enumerate()
    {
        let store = store().await;
        let bytes = bytes_of(3, 17 * MIB);
        store.storage.plan("POST", "uploadId=", fault, 1);
        let written = put(&store, number as u128, &bytes).await.unwrap();
        assert!(store.storage.all_happened());
        assert_eq!(read(&store, &written, bytes.len()).await.unwrap(), bytes, "{fault:?}");
        assert_eq!(store.storage.parts_left(), 0, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_answer_was_lost_is_known_as_ours() {
    for fault in [Fault::CutAfter, Fault::StatusAfter(500)] {
        let store = store().await;
        let bytes = bytes_of(4, 50_000);
        store.storage.plan("PUT", "/i/", fault, 1);
        let written = put(&store, 1, &bytes).await.unwrap();
        assert!(store.storage.all_happened());
        assert_eq!(read(&store, &written, bytes.len()).await.unwrap(), bytes);
        // Another's object under the name is not.
        std::fs::write(store.storage.file(key(2).at(1).as_str()), b"other").unwrap();
        let refused = put(&store, 2, &bytes).await;
        assert!(matches!(refused, Err(BlobsError::Stale)), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_breaks_off_is_gone_on_with() {
    let store = store().await;
    let bytes = bytes_of(5, 3 * MIB);
    let written = put(&store, 1, &bytes).await.unwrap();
    for length in [0, 1, 1_000_000, 3 * MIB as u64 - 1] {
        store.storage.plan("GET", "/i/", Fault::Truncate(length), 1);
        assert!(read(&store, &written, bytes.len()).await.unwrap() == bytes, "{length}");
    }
    // Every time: then the reader ends in an error.
    store.storage.plan("GET", "/i/", Fault::Truncate(100_000), 1000);
    let object = ObjectRef::new("s3", written, 3 * MIB as u64, None);
    let range = ByteRange { offset: 5, length: 2 * MIB as u64 };
    let mut steps = store.blobs.open(&object, Some(range)).await.unwrap().into_stream();
    let mut last = None;
    while let Some(step) = steps.next().await {
        last = Some(step);
    }
    assert!(matches!(last, Some(Err(_))), "{last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_is_503_and_works_again() {
    let store = store().await;
    let bytes = bytes_of(6, 1000);
    let written = put(&store, 1, &bytes).await.unwrap();
    store.storage.set_away(true);
    let started = Instant::now();
    for error in [
        read(&store, &written, bytes.len()).await.err().unwrap(),
        put(&store, 2, &bytes).await.err().unwrap(),
        store.blobs.delete("s3", &written).await.err().unwrap(),
    ] {
        let problem = Problem::from(error);
        assert_eq!((problem.code, problem.code.http_status()), (ErrorCode::Unavailable, 503));
    }
    assert!(started.elapsed() < Duration::from_secs(120));
    store.storage.set_away(false);
    assert_eq!(read(&store, &written, bytes.len()).await.unwrap(), bytes);
    put(&store, 3, &bytes).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_chunks_cost_linear_bytes_and_requests() {
    let store = store().await;
    let bytes = bytes_of(7, 2000 * 1024);
    let mut open = fresh(&key(1));
    for chunk in 0..2000 {
        let mut writer = store.blobs.write(open.clone()).await.unwrap();
        writer.write(bytes.slice(chunk * 1024..(chunk + 1) * 1024)).await.unwrap();
        open = after(open, &writer.sync().await.unwrap());
    }
    let mut writer = store.blobs.write(open).await.unwrap();
    assert_eq!(writer.close().await.unwrap().written.digest, Digest::of(Algorithm::Sha256, &bytes));
    let written = writer.finish().await.unwrap();
    // One write for each chunk, one read back of each, one object.
    assert_eq!(store.storage.requests(), 4001);
    assert!(read(&store, &written, bytes.len()).await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_waits_for_memory_and_holds_no_more_than_its_share() {
    let store = store_with(|config| config.upload_memory_mib = 16).await;
    let bytes = bytes_of(8, 20 * MIB);
    let uploads = (0..8).map(|number| {
        let (store, bytes) = (&store, &bytes);
        async move { put(store, number, bytes).await.unwrap() }
    });
    for written in futures::future::join_all(uploads).await {
        assert!(read(&store, &written, bytes.len()).await.unwrap() == bytes);
    }
}
