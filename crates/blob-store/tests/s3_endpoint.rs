//! The driver suite on any S3 service: on the one that `BERTH_TEST_S3_ENDPOINT` names, with
//! `BERTH_TEST_S3_BUCKET`, `BERTH_TEST_S3_ACCESS_KEY`, `BERTH_TEST_S3_SECRET_KEY` and maybe `BERTH_TEST_S3_REGION`; without
//! it on the one in this process. Nothing is known of it but the protocol.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use aws_sdk_s3::{
    config::{BehaviorVersion, Credentials, Region},
    primitives::ByteStream,
};
use berth_blob_store::{Metrics, S3, s3::Config};
use berth_blobs::{Blobs, ObjectKey, suite::Fixture};
use berth_service::{Ids, SystemClock, Tasks};
use berth_testkit::{
    ObjectStorage,
    object_storage::{ACCESS_KEY, BUCKET, SECRET_KEY},
};

/// A service to test, and what has to live as long.
struct Service {
    endpoint: String,
    bucket: String,
    access_key: String,
    secret_key: String,
    region: String,
    _in_process: Option<ObjectStorage>,
}

impl Service {
    fn new() -> Self {
        let set = |name: &str| std::env::var(format!("BERTH_TEST_S3_{name}")).ok();
        let Some(endpoint) = set("ENDPOINT") else {
            let storage = ObjectStorage::start();
            return Self {
                endpoint: storage.url(),
                bucket: BUCKET.to_owned(),
                access_key: ACCESS_KEY.to_owned(),
                secret_key: SECRET_KEY.to_owned(),
                region: "us-east-1".to_owned(),
                _in_process: Some(storage),
            };
        };
        let needed = |name: &str| set(name).unwrap_or_else(|| panic!("BERTH_TEST_S3_{name} is not set"));
        Self {
            endpoint,
            bucket: needed("BUCKET"),
            access_key: needed("ACCESS_KEY"),
            secret_key: needed("SECRET_KEY"),
            region: set("REGION").unwrap_or_else(|| "us-east-1".to_owned()),
            _in_process: None,
        }
    }

    /// Reads an object and writes it again under its name, shorter.
    async fn cut(&self, name: &str, length: u64) {
        let credentials = Credentials::new(&self.access_key, &self.secret_key, None, None, "test");
        let config = aws_sdk_s3::config::Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(self.region.clone()))
            .endpoint_url(&self.endpoint)
            .force_path_style(true)
            .credentials_provider(credentials);
        let client = aws_sdk_s3::Client::from_conf(config.build());
        let object = client.get_object().bucket(&self.bucket).key(name).send().await.unwrap();
        let bytes = object.body.collect().await.unwrap().into_bytes();
        let rest = ByteStream::from(bytes.slice(..usize::try_from(length).unwrap()));
        client.put_object().bucket(&self.bucket).key(name).body(rest).send().await.unwrap();
    }
}

/// A store under a prefix of its own.
async fn store() -> (Arc<Service>, Arc<dyn Blobs>, String, tempfile::TempDir) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let service = Arc::new(Service::new());
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let began = std::time::UNIX_EPOCH.elapsed().unwrap().as_micros();
    let prefix = format!("suite-{began}-{}-{number}/", std::process::id());
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, &service.secret_key).unwrap();
    let config = Config {
        bucket: service.bucket.clone(),
        prefix: prefix.clone(),
        endpoint: Some(service.endpoint.clone()),
        region: service.region.clone(),
        path_style: true,
        access_key: Some(service.access_key.clone()),
        secret_key_file: Some(secret),
        ..Config::default()
    };
    let blobs = Arc::new(
        S3::open(&config, Ids::random(Arc::new(SystemClock)), Tasks::new(), Metrics::default())
            .await
            .unwrap(),
    );
    (service, blobs, prefix, folder)
}

mod driver {
    use super::*;

    async fn make() -> Fixture {
        let (service, blobs, prefix, folder) = store().await;
        let held = (Arc::clone(&service), folder);
        let cut = Box::new(move |key: &ObjectKey, length| {
            let (service, name) = (Arc::clone(&service), format!("{prefix}{key}"));
            // The suite cuts without waiting: on a runtime of its own.
            let cutting = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(service.cut(&name, length));
            });
            cutting.join().unwrap();
        });
        Fixture {
            blobs,
            store_id: "s3".to_owned(),
            cut,
            in_place: false,
            sealed: false,
            cut_under_readers: false,
            keep: Box::new(held),
        }
    }

    berth_blobs::blobs_suite!(make);
}
