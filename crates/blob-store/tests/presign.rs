//! URLs that object storage takes from anybody: for one object, for five minutes, wherever the driver runs.
#![allow(clippy::unwrap_used, reason = "a test says by a panic what does not hold")]

use std::sync::Arc;

use berth_blob_store::{DEFAULT_STORE, Filesystem, Metrics, RemoteBlobs, S3, Stores, s3::Config, serve};
use berth_blobs::{Blobs, BlobsError, ObjectKey, ObjectRef, Staging, WriteOpen, suite::bytes_of};
use berth_oci::Algorithm;
use berth_service::{Channel, Clock, Ids, SystemClock, Tasks};
use berth_testkit::{
    Client, ObjectStorage, Reply, RoundRobin,
    object_storage::{ACCESS_KEY, BUCKET, SECRET_KEY},
};
use http::Method;
use secrecy::ExposeSecret;
use ulid::Ulid;

const MINUTE: i64 = 60_000_000;

struct World {
    storage: ObjectStorage,
    /// Where clients reach the storage.
    front: RoundRobin,
    blobs: Arc<dyn Blobs>,
    folder: tempfile::TempDir,
}

async fn world() -> World {
    let storage = ObjectStorage::start();
    let front = RoundRobin::start(vec![storage.address()]);
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, SECRET_KEY).unwrap();
    let config = Config {
        bucket: BUCKET.to_owned(),
        prefix: "deep inside/".to_owned(),
        endpoint: Some(storage.url()),
        public_endpoint: Some(format!("http://localhost:{}", front.address().port())),
        path_style: true,
        access_key: Some(ACCESS_KEY.to_owned()),
        secret_key_file: Some(secret),
        ..Config::default()
    };
    let blobs = Arc::new(
        S3::open(&config, Ids::random(Arc::new(SystemClock)), Tasks::new(), Metrics::default())
            .await
            .unwrap(),
    );
    World { storage, front, blobs, folder }
}

async fn written(blobs: &dyn Blobs, number: u128, size: usize) -> ObjectRef {
    let key =
        ObjectKey::new(Ulid::from_parts(1, 1).to_string().parse().unwrap(), Ulid::from_parts(2, number));
    let open = WriteOpen {
        store_id: "s3".to_owned(),
        key,
        epoch: 1,
        offset: 0,
        hash_state: None,
        algorithm: Algorithm::Sha256,
        staging: Staging::default(),
        expected: None,
        unit: 1,
    };
    let mut writer = blobs.write(open).await.unwrap();
    writer.write(bytes_of(7, size)).await.unwrap();
    writer.close().await.unwrap();
    let key = writer.finish().await.unwrap();
    ObjectRef::new("s3", key, size as u64, None)
}

/// Asks without any credentials.
async fn ask(method: Method, url: &str, range: Option<&str>) -> Reply {
    let (host, path) = url.split_at(url.match_indices('/').nth(2).unwrap().0);
    let call = Client::new(host).call(method, path);
    let call = if let Some(range) = range { call.header("range", range) } else { call };
    call.send().await.unwrap()
}

async fn presigned(blobs: &dyn Blobs, object: &ObjectRef, now: i64) -> String {
    blobs.presign(object, now).await.unwrap().unwrap().expose_secret().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_opens_its_object_whole_and_in_part() {
    let world = world().await;
    let object = written(&*world.blobs, 1, 100_000).await;
    let remote = RemoteBlobs::new(Channel::local("blob-store", serve(Arc::clone(&world.blobs))));
    for blobs in [&*world.blobs, &remote] {
        let url = presigned(blobs, &object, SystemClock.now().0).await;
        assert!(url.starts_with(&format!("http://localhost:{}/", world.front.address().port())), "{url}");
        assert!(url.contains("X-Amz-Expires=300&"), "{url}");
        let whole = ask(Method::GET, &url, None).await.expect(200).unwrap();
        assert_eq!(whole.body, bytes_of(7, 100_000));
        let part = ask(Method::GET, &url, Some("bytes=1000-1999")).await.expect(206).unwrap();
        assert_eq!(part.body, bytes_of(7, 100_000).slice(1000..2000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_opens_nothing_else_and_not_for_longer() {
    let world = world().await;
    let object = written(&*world.blobs, 1, 1000).await;
    let other = written(&*world.blobs, 2, 1000).await;
    let now = SystemClock.now().0;
    let url = presigned(&*world.blobs, &object, now).await;
    let refused = async |method: Method, url: String| {
        let reply = ask(method.clone(), &url, None).await;
        assert_eq!(reply.status, 403, "{method} {url}");
    };
    refused(Method::GET, url.replace(object.key.as_str(), other.key.as_str())).await;
    refused(Method::GET, url.replace("X-Amz-Expires=300", "X-Amz-Expires=3000")).await;
    let (rest, last) = url.split_at(url.len() - 1);
    refused(Method::GET, format!("{rest}{}", if last == "0" { "1" } else { "0" })).await;
    refused(Method::DELETE, url.clone()).await;
    refused(Method::PUT, url.clone()).await;
    // It lasts from the time that it was asked for at.
    ask(Method::GET, &presigned(&*world.blobs, &object, now - 4 * MINUTE).await, None)
        .await
        .expect(200)
        .unwrap();
    refused(Method::GET, presigned(&*world.blobs, &object, now - 6 * MINUTE).await).await;
    assert!(world.storage.file(&format!("deep inside/{}", object.key)).is_file());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_berth_can_read_has_no_url() {
    let world = world().await;
    let object = written(&*world.blobs, 1, 1000).await;
    let now = SystemClock.now().0;
    let sealed = ObjectRef { format: 1, ..object.clone() };
    assert!(world.blobs.presign(&sealed, now).await.unwrap().is_none());
    let files = Filesystem::open(world.folder.path().join("files"), DEFAULT_STORE, Metrics::default()).await;
    let mut stores = Stores::default();
    stores.add(DEFAULT_STORE, Arc::new(files.unwrap()));
    stores.add("s3", Arc::clone(&world.blobs));
    let in_files = ObjectRef { store_id: DEFAULT_STORE.to_owned(), ..object.clone() };
    assert!(stores.presign(&in_files, now).await.unwrap().is_none());
    assert!(stores.presign(&object, now).await.unwrap().is_some());
    let elsewhere = ObjectRef { store_id: "elsewhere".to_owned(), ..object };
    assert!(matches!(stores.presign(&elsewhere, now).await, Err(BlobsError::Unavailable(_))));
}
