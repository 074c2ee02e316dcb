//! Sealed stores against the one suite, and what only they promise: that nothing of a blob is in a store as it is, and
//! that nothing comes out which was not sealed for its place.
#![allow(clippy::unwrap_used, reason = "a test says by a panic what does not hold")]

mod damage;
mod keys;
mod resume;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use berth_blob_store::{Filesystem, Metrics, RemoteBlobs, S3, Sealed, s3::Config, serve};
use berth_blobs::{
    BlobWriter, Blobs, BlobsError, ObjectKey, ObjectRef, Sealing, Staging, WriteOpen, Written, suite::Fixture,
};
use berth_oci::{Algorithm, ByteRange};
use berth_service::{Channel, Ids, SystemClock, Tasks};
use berth_testkit::{
    ObjectStorage,
    object_storage::{ACCESS_KEY, BUCKET, SECRET_KEY},
};
use bytes::Bytes;
use keys::FixedKeys;
use ulid::Ulid;

/// The file of an object in a folder.
fn file_in(root: &Path, key: &ObjectKey) -> PathBuf {
    let object = key.object();
    root.join("i").join(key.instance()).join(&object[object.len() - 2..]).join(object)
}

async fn files(root: &Path, keys: &FixedKeys, seals: bool) -> Arc<dyn Blobs> {
    let files = Filesystem::open(root, "default", Metrics::default()).await.unwrap();
    Arc::new(Sealed::new(Arc::new(files), Arc::new(keys.clone()), seals))
}

async fn bucket(storage: &ObjectStorage, folder: &Path, keys: &FixedKeys) -> Arc<dyn Blobs> {
    let secret = folder.join("secret");
    std::fs::write(&secret, format!("{SECRET_KEY}\n")).unwrap();
    let config = Config {
        bucket: BUCKET.to_owned(),
        endpoint: Some(storage.url()),
        path_style: true,
        access_key: Some(ACCESS_KEY.to_owned()),
        secret_key_file: Some(secret),
        ..Config::default()
    };
    let bucket = S3::open(&config, Ids::random(Arc::new(SystemClock)), Tasks::new(), Metrics::default())
        .await
        .unwrap();
    Arc::new(Sealed::new(Arc::new(bucket), Arc::new(keys.clone()), true))
}

mod filesystem {
    use super::*;

    async fn make() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let blobs = files(folder.path(), &FixedKeys::default(), true).await;
        let root = folder.path().to_owned();
        Fixture {
            blobs,
            store_id: "default".to_owned(),
            cut: Box::new(move |key, length| cut(&file_in(&root, key), length)),
            in_place: true,
            sealed: true,
            cut_under_readers: true,
            keep: Box::new(folder),
        }
    }

    berth_blobs::blobs_suite!(make);
}

mod object_storage {
    use super::*;

    async fn make() -> Fixture {
        let storage = Arc::new(ObjectStorage::start());
        let folder = tempfile::tempdir().unwrap();
        let blobs = bucket(&storage, folder.path(), &FixedKeys::default()).await;
        let kept = Arc::clone(&storage);
        Fixture {
            blobs,
            store_id: "s3".to_owned(),
            cut: Box::new(move |key, length| cut(Path::new(&storage.file(key.as_str())), length)),
            in_place: false,
            sealed: true,
            cut_under_readers: true,
            keep: Box::new((kept, folder)),
        }
    }

    berth_blobs::blobs_suite!(make);
}

mod remote {
    use super::*;

    async fn make() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let blobs = files(folder.path(), &FixedKeys::default(), true).await;
        let root = folder.path().to_owned();
        Fixture {
            blobs: Arc::new(RemoteBlobs::new(Channel::local("blob-store", serve(blobs)))),
            store_id: "default".to_owned(),
            cut: Box::new(move |key, length| cut(&file_in(&root, key), length)),
            in_place: true,
            sealed: true,
            cut_under_readers: true,
            keep: Box::new(folder),
        }
    }

    berth_blobs::blobs_suite!(make);
}

mod remote_object_storage {
    use super::*;

    async fn make() -> Fixture {
        let storage = Arc::new(ObjectStorage::start());
        let folder = tempfile::tempdir().unwrap();
        let blobs = bucket(&storage, folder.path(), &FixedKeys::default()).await;
        let kept = Arc::clone(&storage);
        Fixture {
            blobs: Arc::new(RemoteBlobs::new(Channel::local("blob-store", serve(blobs)))),
            store_id: "s3".to_owned(),
            cut: Box::new(move |key, length| cut(Path::new(&storage.file(key.as_str())), length)),
            in_place: false,
            sealed: true,
            cut_under_readers: true,
            keep: Box::new((kept, folder)),
        }
    }

    berth_blobs::blobs_suite!(make);
}

fn cut(file: &Path, length: u64) {
    std::fs::File::options().write(true).open(file).unwrap().set_len(length).unwrap();
}

/// A sealed folder and what its metadata would know.
struct Store {
    folder: tempfile::TempDir,
    keys: FixedKeys,
    blobs: Arc<dyn Blobs>,
}

impl Store {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = FixedKeys::default();
        let blobs = files(folder.path(), &keys, true).await;
        Self { folder, keys, blobs }
    }

    /// The same folder as another process finds it.
    async fn reopened(self, seals: bool) -> Self {
        let Self { folder, keys, blobs } = self;
        drop(blobs);
        let blobs = files(folder.path(), &keys, seals).await;
        Self { folder, keys, blobs }
    }

    fn file(&self, key: &ObjectKey) -> PathBuf {
        file_in(self.folder.path(), key)
    }

    async fn put(&self, number: u128, bytes: &Bytes) -> ObjectRef {
        let mut upload = Upload::new(number);
        let mut writer = upload.open(&*self.blobs).await.unwrap();
        writer.write(bytes.clone()).await.unwrap();
        upload.finish(&mut *writer).await
    }

    async fn read(&self, object: &ObjectRef, range: Option<(u64, u64)>) -> Result<Bytes, BlobsError> {
        let range = range.map(|(offset, length)| ByteRange { offset, length });
        self.blobs.open(object, range).await?.into_bytes(u64::MAX).await
    }
}

/// An upload, as its caller records it.
#[derive(Clone)]
struct Upload {
    key: ObjectKey,
    epoch: i64,
    offset: u64,
    hash_state: Option<Vec<u8>>,
    staging: Staging,
}

impl Upload {
    fn new(number: u128) -> Self {
        let instance = Ulid::from_parts(1, 7).to_string().parse().unwrap();
        let key = ObjectKey::new(instance, Ulid::from_parts(2, number));
        Self { key, epoch: 0, offset: 0, hash_state: None, staging: Staging::default() }
    }

    async fn open(&mut self, blobs: &dyn Blobs) -> Result<Box<dyn BlobWriter>, BlobsError> {
        self.epoch += 1;
        let open = WriteOpen {
            store_id: "default".to_owned(),
            key: self.key.clone(),
            epoch: self.epoch,
            offset: self.offset,
            hash_state: self.hash_state.clone(),
            algorithm: Algorithm::Sha256,
            staging: self.staging.clone(),
            expected: None,
            unit: 1,
        };
        blobs.write(open).await
    }

    fn record(&mut self, written: &Written) {
        assert!(written.offset >= self.offset);
        self.offset = written.offset;
        self.hash_state = Some(written.hash_state.clone());
        self.staging.apply(&written.change);
    }

    async fn finish(&mut self, writer: &mut dyn BlobWriter) -> ObjectRef {
        let closed = writer.close().await.unwrap();
        let key = writer.finish().await.unwrap();
        ObjectRef::new("default", key, closed.written.offset, closed.sealing)
    }

    fn sealing(&self) -> Sealing {
        self.staging.sealing.clone().unwrap().key
    }
}
