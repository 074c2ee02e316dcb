//! What only the filesystem driver promises.
#![allow(clippy::unwrap_used, reason = "a test says by a panic what does not hold")]

use std::{
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use berth_blob_store::{Error, Filesystem, Metrics, RemoteBlobs, serve};
use berth_blobs::{Blobs, BlobsError, ObjectKey, ObjectRef, Staging, WriteOpen, suite::bytes_of};
use berth_oci::{Algorithm, Digest, ErrorCode, Problem};
use berth_service::Channel;
use ulid::Ulid;

fn key(number: u128) -> ObjectKey {
    ObjectKey::new(Ulid::from_parts(1, 1).to_string().parse().unwrap(), Ulid::from_parts(2, number))
}

fn fresh(key: &ObjectKey, epoch: i64) -> WriteOpen {
    WriteOpen {
        store_id: "default".to_owned(),
        key: key.clone(),
        epoch,
        offset: 0,
        hash_state: None,
        algorithm: Algorithm::Sha256,
        staging: Staging::default(),
        expected: None,
        unit: 1,
    }
}

async fn open(root: &Path) -> Result<Filesystem, Error> {
    Filesystem::open(root, "default", Metrics::default()).await
}

#[tokio::test]
async fn a_root_has_one_store_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("a/b");
    let first = open(&root).await.unwrap();
    let refused = open(&root).await.unwrap_err();
    assert!(matches!(refused, Error::InUse(_)));
    assert!(refused.to_string().contains("in use by another process"), "{refused}");
    drop(first);
    open(&root).await.unwrap();
}

#[tokio::test]
async fn a_root_is_made_for_this_user_alone_with_the_folders_above_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("a/b/c");
    open(&root).await.unwrap();
    for made in root.ancestors().take(3) {
        assert_eq!(std::fs::metadata(made).unwrap().permissions().mode() & 0o777, 0o700, "{made:?}");
    }
}

#[tokio::test]
async fn objects_lie_where_the_layout_says() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await.unwrap();
    let key = key(0x1234);
    let mut writer = store.write(fresh(&key, 1)).await.unwrap();
    writer.write(bytes_of(1, 10)).await.unwrap();
    writer.sync().await.unwrap();
    let object = key.object();
    let path = folder.path().join("i").join(key.instance()).join(&object[24..]).join(object);
    assert_eq!(std::fs::read(path).unwrap(), bytes_of(1, 10));
}

#[tokio::test]
async fn an_object_of_another_store_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await.unwrap();
    let other = WriteOpen { store_id: "elsewhere".to_owned(), ..fresh(&key(1), 1) };
    assert!(matches!(store.write(other).await, Err(BlobsError::Unavailable(_))));
}

#[tokio::test]
async fn a_call_held_up_across_a_restart_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let probe = std::fs::File::create(folder.path().join("probe")).unwrap();
    if rustix::fs::fsetxattr(&probe, "user.probe", b"1", rustix::fs::XattrFlags::empty()).is_err() {
        // Said in the log at start; nothing to hold it to.
        return;
    }
    let store = open(folder.path()).await.unwrap();
    let mut writer = store.write(fresh(&key(1), 7)).await.unwrap();
    writer.write(bytes_of(1, 1000)).await.unwrap();
    let written = writer.sync().await.unwrap();
    drop((writer, store));
    let store = open(folder.path()).await.unwrap();
    assert!(matches!(store.write(fresh(&key(1), 6)).await, Err(BlobsError::Stale)));
    let resumed =
        WriteOpen { offset: written.offset, hash_state: Some(written.hash_state), ..fresh(&key(1), 8) };
    let mut writer = store.write(resumed).await.unwrap();
    assert_eq!(writer.sync().await.unwrap().digest, Digest::of(Algorithm::Sha256, &bytes_of(1, 1000)));
}

/// Run by `a_full_disk_keeps_what_was_synced` with a limit of 3 MiB on every file, which the kernel treats as a disk
/// does that has no more room.
#[tokio::test]
#[ignore = "run by another test with a limit on files"]
async fn child_with_little_room() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await.unwrap();
    let key = key(1);
    let mut writer = store.write(fresh(&key, 1)).await.unwrap();
    writer.write(bytes_of(1, 2_000_000)).await.unwrap();
    let durable = writer.sync().await.unwrap();
    let mut refused = None;
    for seed in 0..20 {
        if let Err(error) = writer.write(bytes_of(seed, 500_000)).await {
            refused = Some(error);
            break;
        }
    }
    assert!(matches!(refused, Some(BlobsError::Full)), "{refused:?}");
    assert!(writer.sync().await.is_err(), "a writer that failed is of no more use");
    let object = key.object();
    let path = folder.path().join("i").join(key.instance()).join(&object[24..]).join(object);
    assert_eq!(std::fs::metadata(path).unwrap().len(), 2_000_000, "the room is given back");
    let resumed =
        WriteOpen { offset: durable.offset, hash_state: Some(durable.hash_state), ..fresh(&key, 2) };
    let mut writer = store.write(resumed).await.unwrap();
    writer.write(bytes_of(2, 1000)).await.unwrap();
    assert_eq!(writer.sync().await.unwrap().offset, 2_001_000);
}

#[test]
fn t03_a_full_disk_keeps_what_was_synced() {
    let script = r#"trap "" XFSZ; ulimit -f 3072; exec "$0" --exact child_with_little_room --ignored"#;
    let test = std::env::current_exe().unwrap();
    let run = Command::new("bash").arg("-c").arg(script).arg(test).output().unwrap();
    let output = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && output.contains("1 passed"), "{output}");
}

/// A device of its own of a few MiB. `None` where this user can't mount one.
struct SmallDevice(tempfile::TempDir);

impl SmallDevice {
    fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "none"]).arg(folder.path());
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then_some(Self(folder))
    }
}

impl Drop for SmallDevice {
    fn drop(&mut self) {
        // Lazily: the store may still hold it open.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// The driver and what gateways see of it from another process: the same answers on a device that runs full, and work
/// again as soon as there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t03_a_full_device_is_507_and_works_again_with_room() {
    let Some(device) = SmallDevice::mount("6m") else { return };
    let files: Arc<dyn Blobs> = Arc::new(open(device.0.path()).await.unwrap());
    let remote: Arc<dyn Blobs> =
        Arc::new(RemoteBlobs::new(Channel::local("blob-store", serve(Arc::clone(&files)))));
    let in_the_way = device.0.path().join("in the way");
    for (number, store) in [(1, &files), (2, &remote)] {
        let (begun, whole, late) = (key(number * 10), key(number * 10 + 1), key(number * 10 + 2));
        let kept = bytes_of(1, 1_500_000);
        let mut writer = store.write(fresh(&begun, 1)).await.unwrap();
        writer.write(kept.clone()).await.unwrap();
        let durable = writer.sync().await.unwrap();
        // One begun and one fresh upload run out of room together.
        for (mut writer, seed) in [(writer, 2), (store.write(fresh(&whole, 1)).await.unwrap(), 3)] {
            let mut refused = None;
            for _ in 0..20 {
                let written = match writer.write(bytes_of(seed, 900_000)).await {
                    Ok(_) => writer.sync().await.map(drop),
                    Err(error) => Err(error),
                };
                if let Err(error) = written {
                    refused = Some(error);
                    break;
                }
            }
            let problem = Problem::from(refused.unwrap());
            assert_eq!((problem.code, problem.code.http_status()), (ErrorCode::StorageFull, 507));
            assert!(writer.sync().await.is_err(), "a writer that failed is of no more use");
            std::fs::write(&in_the_way, vec![0; 6 << 20]).unwrap_err();
        }
        // Nothing more fits, not even a new folder; what is stored is read all the same.
        let refused = async {
            let mut writer = store.write(fresh(&late, 1)).await?;
            writer.write(bytes_of(4, 100_000)).await?;
            writer.sync().await
        };
        assert!(matches!(refused.await, Err(BlobsError::Full)));
        let object = ObjectRef::new("default", begun.clone(), durable.offset, None);
        let read = store.open(&object, None).await.unwrap().into_bytes(u64::MAX).await.unwrap();
        assert_eq!(read, kept);
        // With room again the upload goes on where it was recorded, and the others start afresh.
        std::fs::remove_file(&in_the_way).unwrap();
        store.delete("default", &whole).await.unwrap();
        let resumed =
            WriteOpen { offset: durable.offset, hash_state: Some(durable.hash_state), ..fresh(&begun, 2) };
        let mut writer = store.write(resumed).await.unwrap();
        writer.write(bytes_of(5, 300_000)).await.unwrap();
        let expected = [&kept[..], &bytes_of(5, 300_000)].concat();
        assert_eq!(writer.sync().await.unwrap().digest, Digest::of(Algorithm::Sha256, &expected));
        let mut writer = store.write(fresh(&late, 2)).await.unwrap();
        writer.write(bytes_of(4, 100_000)).await.unwrap();
        assert_eq!(writer.sync().await.unwrap().offset, 100_000);
        for done in [begun, late] {
            store.delete("default", &done).await.unwrap();
        }
    }
}

/// The budget of a write is its hash; a number for a person, and a generous bound against a lost batch or pipeline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: run it alone, in a release build"]
async fn writing_keeps_up_with_hashing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await.unwrap();
    let bytes = bytes_of(1, 100 << 20);
    let started = Instant::now();
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    let hashing = started.elapsed();
    let mut best = (Duration::MAX, Duration::MAX);
    for round in 0..8 {
        let key = key(round);
        let started = Instant::now();
        let mut writer = store.write(fresh(&key, 1)).await.unwrap();
        for start in (0..bytes.len()).step_by(64 << 10) {
            writer.write(bytes.slice(start..start + (64 << 10))).await.unwrap();
        }
        let writing = started.elapsed();
        assert_eq!(writer.sync().await.unwrap().digest, digest);
        best = best.min((writing, started.elapsed()));
        let object = ObjectRef::new("default", key, 100 << 20, None);
        let started = Instant::now();
        store.open(&object, None).await.unwrap().into_bytes(u64::MAX).await.unwrap();
        println!("read {:?}", started.elapsed());
    }
    println!("hash {hashing:?}, write {:?}, write and sync {:?}", best.0, best.1);
    let small = bytes_of(2, 2000);
    let started = Instant::now();
    for round in 0..500 {
        let mut writer = store.write(fresh(&key(1000 + round), 1)).await.unwrap();
        writer.write(small.clone()).await.unwrap();
        writer.sync().await.unwrap();
    }
    println!("a small object {:?}", started.elapsed() / 500);
    assert!(best.0 < hashing * 3, "a write takes {:?}, its hash {hashing:?}", best.0);
}
