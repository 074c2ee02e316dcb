//! T3: the disk runs full under a push, in the store of bytes and under the database's log. What can't be kept is refused
//! with 507 in the protocol's own form, what is there is pulled all the while, and with room again everything goes on
//! without a restart.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use berth_testkit::{
    Blob, Content, Deployment, Engine, Image, Layout, Manifest, Reply, Setting, Storage, descriptor,
    eventually,
};
use reqwest::Method;

const MIB: usize = 1 << 20;

/// A device of its own of a few MiB, and a file in it that can take all the room.
struct SmallDevice(tempfile::TempDir);

impl SmallDevice {
    fn mount(mebibytes: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={mebibytes}m");
        let mut mount = Command::new("mount");
        let mounted =
            mount.args(["-t", "tmpfs", "-o", &options, "none"]).arg(folder.path()).output().unwrap();
        let said = String::from_utf8_lossy(&mounted.stderr);
        assert!(mounted.status.success(), "a small file system can't be mounted (it takes root): {said}");
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("in the way")
    }

    /// Takes all the room but so many KiB.
    fn fill(&self, but: usize) {
        let mut file = std::fs::File::create(self.filler()).unwrap();
        let block = vec![7_u8; 4096];
        let mut taken: u64 = 0;
        while file.write_all(&block).is_ok() {
            taken += block.len() as u64;
        }
        file.set_len(taken.saturating_sub(but as u64 * 1024)).unwrap();
    }

    fn make_room(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn files(&self) -> usize {
        fn below(folder: &Path) -> usize {
            let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
            entries.map(|path| if path.is_dir() { below(&path) } else { 1 }).sum()
        }
        below(&self.path().join("i"))
    }
}

impl Drop for SmallDevice {
    fn drop(&mut self) {
        // Lazily: a process may still hold it open.
        let _gone_later = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn assert_full(reply: &Reply) {
    assert_eq!(reply.status, 507, "{reply:?}");
    assert_eq!(reply.error_code().as_deref(), Some("UNAVAILABLE"), "{reply:?}");
    let message = reply.json()["errors"][0]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("full") || message.contains("room"), "{message}");
}

/// Everything with its bytes in a small device.
async fn with_small_blobs(setting: Setting, device: &SmallDevice) -> Deployment {
    Deployment::builder(setting)
        .with_env("BERTH__BLOB_STORE__ROOT", device.path().display().to_string())
        .with_env("BERTH__METADATA__OBJECT_GRACE_SECONDS", "1")
        .with_env("BERTH__METADATA__COLLECTION_POLL_SECONDS", "1")
        .start()
        .await
        .unwrap()
}

async fn pushed(deployment: &Deployment, name: &str) -> Image {
    let image = Content::named(name).image(2, 100_000);
    deployment.client().repository(name).push_image("v1", &image).await.unwrap().expect(201).unwrap();
    image
}

async fn no_room_for_bytes(setting: Setting) {
    let device = SmallDevice::mount(16);
    let deployment = with_small_blobs(setting, &device).await;
    let repository = deployment.client().repository("full/app");
    let image = pushed(&deployment, "full/app").await;
    let before = device.files();
    let mut content = Content::named("full");

    // Under a PATCH, into a session that has bytes already.
    let layer = content.layer(6 * MIB);
    let upload = repository.start_upload().await.unwrap();
    repository.patch(&upload, Some(0), layer.bytes.slice(..MIB)).await.unwrap().expect(202).unwrap();
    device.fill(1024);
    assert_full(&repository.patch(&upload, Some(MIB as u64), layer.bytes.slice(MIB..5 * MIB)).await.unwrap());
    let state = repository.get(&upload).await.unwrap().expect(204).unwrap();
    let durable = state.session_bytes().unwrap();
    assert!((MIB as u64..5 * MIB as u64).contains(&durable), "{durable} bytes");
    repository.pull_image("v1", &image).await.unwrap();
    // Nothing fits: neither a blob in one request, nor a closing PUT with the rest.
    let other = content.layer(3 * MIB);
    let call =
        repository.call(Method::POST, &format!("/blobs/uploads/?digest={}", other.digest)).await.unwrap();
    assert_full(&call.body(other.bytes.clone()).send().await.unwrap());
    let rest = layer.bytes.slice(usize::try_from(durable).unwrap()..);
    assert_full(&repository.finish(&upload, &layer.digest.to_string(), rest).await.unwrap());
    repository.pull_image("v1", &image).await.unwrap();
    assert!(
        !repository.has_blob(&layer.digest).await.unwrap()
            && !repository.has_blob(&other.digest).await.unwrap()
    );

    // With room again the session goes on, the others start afresh, and nothing is left of what failed.
    device.make_room();
    let state = repository.get(&upload).await.unwrap().expect(204).unwrap();
    let durable = usize::try_from(state.session_bytes().unwrap()).unwrap();
    let rest = layer.bytes.slice(durable..);
    repository.finish(&upload, &layer.digest.to_string(), rest).await.unwrap().expect(201).unwrap();
    repository.push_blob_at_once(&other).await.unwrap().expect(201).unwrap();
    for blob in [&layer, &other] {
        repository.pull_blob(blob).await.unwrap();
    }
    pushed(&deployment, "full/later").await;
    let whole = before + 2 + 3;
    let gone = eventually("what failed is gone", || async { (device.files() == whole).then_some(()) });
    if let Err(error) = gone.await {
        panic!("{error}: {} files, not {whole}", device.files());
    }
    deployment.is_sound().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t3_bytes_that_do_not_fit_are_507_in_one_process() {
    no_room_for_bytes(Setting::EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t3_bytes_that_do_not_fit_are_507_with_roles_apart() {
    no_room_for_bytes(Setting::new(Layout::RolesApart, Engine::Postgres)).await;
}

/// A manifest of some size over blobs that are there.
fn note(image: &Image, number: usize) -> Manifest {
    let document = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": image.manifest.media_type,
        "config": descriptor(&image.config),
        "layers": [],
        "annotations": { "number": number.to_string(), "text": "n".repeat(200_000) },
    });
    Manifest::json(&image.manifest.media_type, &document)
}

/// The database's log can't grow: every kind of write is refused, every kind of read is answered.
async fn no_room_for_rows(setting: Setting) {
    let device = SmallDevice::mount(48);
    let blobs = tempfile::tempdir().unwrap();
    let mut builder = Deployment::builder(setting).within(device.path());
    if setting.storage == Storage::Folder {
        builder = builder.with_env("BERTH__BLOB_STORE__ROOT", blobs.path().display().to_string());
    }
    let deployment = builder.start().await.unwrap();
    let client = deployment.client();
    let repository = client.repository("log/app");
    let image = pushed(&deployment, "log/app").await;
    let token = client.fresh_token(&["repository:log/app:pull"]).await.unwrap();
    let read = |path: String| client.call(Method::GET, format!("/v2/log/app/{path}")).bearer(&token);

    let mut content = Content::named("log");
    let ready: Blob = content.layer(1000);
    let upload = repository.start_upload().await.unwrap();
    repository.patch(&upload, Some(0), ready.bytes.clone()).await.unwrap().expect(202).unwrap();
    device.fill(0);

    // Manifests are rows: they soon need room that is not there.
    let mut kept = Vec::new();
    let refused = loop {
        assert!(kept.len() < 500, "the database never runs out of room");
        let manifest = note(&image, kept.len());
        let reply = repository.put_manifest(&manifest.digest.to_string(), &manifest).await.unwrap();
        if reply.status != 201 {
            break reply;
        }
        kept.push(manifest);
    };
    assert_full(&refused);
    assert_full(&repository.put_manifest("v2", &image.manifest).await.unwrap());
    assert_full(&repository.finish(&upload, &ready.digest.to_string(), bytes::Bytes::new()).await.unwrap());
    assert_full(&repository.delete("manifests/v1").await.unwrap());
    let started = repository.call(Method::POST, "/blobs/uploads/").await.unwrap().send().await.unwrap();
    assert_full(&started);
    // Reads of every kind.
    for path in [format!("manifests/{}", image.manifest.digest), "manifests/v1".to_owned()] {
        assert_eq!(read(path).send().await.unwrap().expect(200).unwrap().body, image.manifest.bytes);
    }
    for layer in &image.layers {
        let reply = read(format!("blobs/{}", layer.digest)).send().await.unwrap();
        assert_eq!(reply.expect(200).unwrap().body, layer.bytes);
    }
    read("tags/list".to_owned()).send().await.unwrap().expect(200).unwrap();
    read(format!("referrers/{}", image.manifest.digest)).send().await.unwrap().expect(200).unwrap();
    client.fresh_token(&["repository:log/app:pull"]).await.unwrap();

    device.make_room();
    repository.put_manifest("v2", &image.manifest).await.unwrap().expect(201).unwrap();
    repository
        .finish(&upload, &ready.digest.to_string(), bytes::Bytes::new())
        .await
        .unwrap()
        .expect(201)
        .unwrap();
    pushed(&deployment, "log/later").await;
    // What was answered 201 on the way is there, also after a crash.
    deployment.process("berth").kill();
    deployment.restart("berth").await.unwrap();
    let repository = deployment.client().repository("log/app");
    for manifest in &kept {
        let reply = repository.manifest(&manifest.digest.to_string()).await.unwrap().expect(200).unwrap();
        assert_eq!(reply.body, manifest.bytes);
    }
    for tag in ["v1", "v2"] {
        repository.pull_image(tag, &image).await.unwrap();
    }
    repository.pull_blob(&ready).await.unwrap();
    let audited = eventually("every push is in the audit trail", || async {
        let entries = deployment.audit().await.ok()?;
        let pushes = |tag: &str| {
            entries.iter().filter(|entry| entry["tag"] == tag && entry["repository"] == "log/app").count()
        };
        (pushes("v1") == 1 && pushes("v2") == 1).then_some(())
    });
    audited.await.unwrap();
    deployment.is_sound().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t3_a_database_without_room_refuses_writes_and_goes_on_reading() {
    no_room_for_rows(Setting::EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t3_a_database_without_room_refuses_writes_to_a_bucket_and_goes_on_reading() {
    no_room_for_rows(Setting::EMBEDDED.on_bucket()).await;
}
