//! Sealed blobs against the built binary: nothing of them lies in the store, everything of them is served, and they go
//! with their keys.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

use std::{fs::File, os::unix::fs::FileExt, path::Path, time::Duration};

use berth_testkit::{Blob, Builder, Content, Deployment, Engine, Layout, Repository, Setting, eventually};
use bytes::Bytes;

const APART: Setting = Setting::new(Layout::RolesApart, Engine::Postgres);

fn sealing(setting: Setting) -> Builder {
    Deployment::builder(setting).with_env("BERTH__BLOB_STORE__ENCRYPT", "true")
}

/// Keys are forgotten and former ones dropped within a second or two.
fn forgetful(setting: Setting) -> Builder {
    sealing(setting)
        .with_env("BERTH__BLOB_STORE__KEY_CACHE_SECONDS", "1")
        .with_env("BERTH__METADATA__LONGEST_OPERATION_SECONDS", "2")
        .with_env("BERTH__METADATA__COLLECTION_POLL_SECONDS", "1")
}

fn stored_size(size: u64) -> u64 {
    size + 28 * size.div_ceil(65_536)
}

fn sealed_files(deployment: &Deployment) -> Vec<Vec<u8>> {
    deployment.objects().iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// The file of a sealed blob: none other has its size.
fn file_of(deployment: &Deployment, blob: &Blob) -> std::path::PathBuf {
    let has_its_size =
        |file: &&std::path::PathBuf| std::fs::metadata(file).unwrap().len() == stored_size(blob.size());
    let objects = deployment.objects();
    let found: Vec<_> = objects.iter().filter(has_its_size).collect();
    assert_eq!(found.len(), 1, "{objects:?}");
    found[0].clone()
}

fn flip(file: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

async fn range(repository: &Repository, blob: &Blob, first: usize, last: usize) -> Bytes {
    let call = repository.call(reqwest::Method::GET, &format!("blobs/{}", blob.digest)).await.unwrap();
    let reply = call.header("range", format!("bytes={first}-{last}")).send().await.unwrap();
    reply.expect(206).unwrap().body
}

async fn serves(setting: Setting) {
    let deployment = sealing(setting).start().await.unwrap();
    let repository = deployment.client().repository("sealed/app");
    let mut content = Content::named("sealed");
    let image = content.image(2, 700_000);
    repository.push_image("v1", &image).await.unwrap();
    repository.pull_image("v1", &image).await.unwrap();
    let text = Blob::new("text/plain", b"what must not be seen in the store; ".repeat(9000));
    repository.push_blob(&text).await.unwrap().expect(201).unwrap();
    repository.pull_blob(&text).await.unwrap();
    let empty = Blob::new("text/plain", Bytes::new());
    repository.push_blob_at_once(&empty).await.unwrap().expect(201).unwrap();
    repository.pull_blob(&empty).await.unwrap();

    for stored in sealed_files(&deployment) {
        for plain in [&text.bytes[..36], &image.layers[0].bytes[..32], &image.config.bytes[..32]] {
            assert!(!stored.windows(plain.len()).any(|window| window == plain));
        }
    }
    let mut sizes: Vec<u64> = sealed_files(&deployment).iter().map(|stored| stored.len() as u64).collect();
    let mut expected: Vec<u64> =
        image.blobs().chain([&text, &empty]).map(|blob| stored_size(blob.size())).collect();
    sizes.sort_unstable();
    expected.sort_unstable();
    assert_eq!(sizes, expected);

    for (first, last) in [(0, 0), (65_535, 65_536), (65_536, 131_071), (1, 323_998), (323_999, 323_999)] {
        assert_eq!(range(&repository, &text, first, last).await, text.bytes.slice(first..=last));
    }
    // With another algorithm than the bytes were hashed by as they came.
    let other = content.layer(200_000);
    let upload = repository.start_upload().await.unwrap();
    let digest = berth_oci::Digest::of(berth_oci::Algorithm::Sha512, &other.bytes);
    repository.patch(&upload, Some(0), other.bytes.slice(..100_000)).await.unwrap().expect(202).unwrap();
    let last = other.bytes.slice(100_000..);
    repository.finish(&upload, &digest.to_string(), last).await.unwrap().expect(201).unwrap();
    let reply = repository.get(&format!("blobs/{digest}")).await.unwrap().expect(200).unwrap();
    assert_eq!(reply.body, other.bytes);
    deployment.is_sound().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealed_blobs_are_served_from_one_process() {
    serves(Setting::EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealed_blobs_are_served_with_roles_apart() {
    serves(APART).await;
}

async fn resumes(setting: Setting) {
    let deployment = sealing(setting).start().await.unwrap();
    let blob = Content::named("resumed").layer(500_001);
    let repository = deployment.client().repository("sealed/resumed");
    let upload = repository.start_upload().await.unwrap();
    let mut start = 0;
    for end in [1, 65_535, 65_536, 65_537, 70_000, 300_000] {
        let chunk = blob.bytes.slice(start..end);
        // Every start has another port.
        let repository = deployment.client().repository("sealed/resumed");
        repository.patch(&upload, Some(start as u64), chunk).await.unwrap().expect(202).unwrap();
        start = end;
        for process in deployment.processes() {
            process.kill();
        }
        for process in deployment.processes() {
            process.spawn().unwrap();
        }
        for process in deployment.processes() {
            process.wait_ready().await.unwrap();
        }
    }
    let repository = deployment.client().repository("sealed/resumed");
    let last = blob.bytes.slice(start..);
    repository.finish(&upload, &blob.digest.to_string(), last).await.unwrap().expect(201).unwrap();
    repository.pull_blob(&blob).await.unwrap();
    deployment.is_sound().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_goes_on_after_every_kill_in_one_process() {
    resumes(Setting::EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_goes_on_after_every_kill_on_postgresql() {
    resumes(Setting::new(Layout::OneProcess, Engine::Postgres)).await;
}

async fn damage(setting: Setting) {
    let deployment = sealing(setting).start().await.unwrap();
    let repository = deployment.client().repository("sealed/damage");
    let image = Content::named("sealed damage").image(2, 400_000);
    repository.push_image("v1", &image).await.unwrap();
    let blob = Content::named("sealed and ranged").layer(400_100);
    repository.push_blob(&blob).await.unwrap().expect(201).unwrap();
    // A byte of the last tag: by then all else has been passed on.
    let file = file_of(&deployment, &blob);
    flip(&file, stored_size(blob.size()) - 1);
    assert_eq!(range(&repository, &blob, 0, 99).await, blob.bytes.slice(..100));
    let call = repository.call(reqwest::Method::GET, &format!("blobs/{}", blob.digest)).await.unwrap();
    let reply = call.header("range", "bytes=400000-400099").send().await;
    assert!(reply.is_err() || reply.is_ok_and(|reply| reply.status != 206), "damaged bytes were served");
    eventually("the blob is out of service", || async {
        (!repository.has_blob(&blob.digest).await.ok()?).then_some(())
    })
    .await
    .unwrap();
    let reply = repository.get(&format!("blobs/{}", blob.digest)).await.unwrap().expect(404).unwrap();
    assert!(reply.json()["errors"][0]["message"].as_str().unwrap().contains("damaged"));
    repository.push_blob(&blob).await.unwrap().expect(201).unwrap();
    repository.pull_blob(&blob).await.unwrap();
    repository.pull_image("v1", &image).await.unwrap();
    deployment.is_sound().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_segment_is_never_served_in_one_process() {
    damage(Setting::EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_segment_is_never_served_with_roles_apart() {
    damage(APART).await;
}

async fn rotates(setting: Setting) {
    let deployment = forgetful(setting).start().await.unwrap();
    let repository = deployment.client().repository("sealed/rotated");
    let mut content = Content::named("rotated");
    let image = content.image(3, 200_000);
    repository.push_image("v1", &image).await.unwrap();
    let begun = content.layer(300_000);
    let upload = repository.start_upload().await.unwrap();
    repository.patch(&upload, Some(0), begun.bytes.slice(..100_000)).await.unwrap().expect(202).unwrap();

    let rotation = async {
        deployment.admin(&["rotate-instance-key"], "").await.unwrap();
        let metadata = deployment.process("metadata");
        eventually("the former key is destroyed", || async {
            let dropped = metadata.metric("berth_keys_dropped_total").await.ok()?;
            (dropped > 0.5).then_some(())
        })
        .await
        .unwrap();
    };
    let traffic = async {
        for number in 0..20 {
            let blob = content.layer(100_000 + number);
            repository.push_blob(&blob).await.unwrap().expect(201).unwrap();
            repository.pull_blob(&blob).await.unwrap();
            repository.pull_image("v1", &image).await.unwrap();
        }
    };
    tokio::join!(rotation, traffic);
    let resealed = deployment.process("metadata").metric("berth_keys_resealed_total").await.unwrap();
    assert!(resealed > 4.5, "the image's blobs and the upload: {resealed}");
    let last = begun.bytes.slice(100_000..);
    repository.finish(&upload, &begun.digest.to_string(), last).await.unwrap().expect(201).unwrap();
    // Not from a memory of keys.
    tokio::time::sleep(Duration::from_secs(2)).await;
    repository.pull_image("v1", &image).await.unwrap();
    repository.pull_blob(&begun).await.unwrap();
    deployment.is_sound().await.unwrap();
    let audit = deployment.audit().await.unwrap();
    assert_eq!(audit.iter().filter(|entry| entry["type"] == "instance_key.rotated").count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_rotated_while_blobs_come_and_go_in_one_process() {
    rotates(Setting::EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_rotated_while_blobs_come_and_go_with_roles_apart() {
    rotates(APART).await;
}

async fn shreds(setting: Setting) {
    let deployment = forgetful(setting).start().await.unwrap();
    let repository = deployment.client().repository("sealed/shredded");
    let blob = Content::named("shredded").layer(100_000);
    repository.push_blob(&blob).await.unwrap().expect(201).unwrap();
    let refused = deployment.admin(&["shred-instance-keys", "--instance", "default"], "").await;
    assert!(refused.unwrap_err().to_string().contains("--yes"));
    repository.pull_blob(&blob).await.unwrap();
    let said =
        deployment.admin(&["shred-instance-keys", "--instance", "default", "--yes"], "").await.unwrap();
    assert!(said.contains("1 keys"), "{said}");
    let target = format!("blobs/{}", blob.digest);
    let reply = eventually("the key is forgotten", || async {
        let reply = repository.get(&target).await.ok()?;
        (reply.status != 200).then_some(reply)
    });
    let reply = reply.await.unwrap().expect(404).unwrap();
    assert_eq!(reply.error_code().as_deref(), Some("BLOB_UNKNOWN"));
    let message = reply.json()["errors"][0]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("was destroyed"), "{message}");
    // Whoever has it pushes it again, under a new key.
    eventually("the blob is out of service", || async {
        (!repository.has_blob(&blob.digest).await.ok()?).then_some(())
    })
    .await
    .unwrap();
    repository.push_blob(&blob).await.unwrap().expect(201).unwrap();
    repository.pull_blob(&blob).await.unwrap();
    let audit = deployment.audit().await.unwrap();
    assert!(audit.iter().any(|entry| entry["type"] == "instance_keys.shredded"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shredded_blobs_are_gone_in_one_process() {
    shreds(Setting::EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shredded_blobs_are_gone_with_roles_apart() {
    shreds(APART).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_are_served_while_the_keys_are_away() {
    let deployment = sealing(APART).start().await.unwrap();
    let repository = deployment.client().repository("sealed/away");
    let blob = Content::named("away").layer(100_000);
    repository.push_blob(&blob).await.unwrap().expect(201).unwrap();
    let manager = deployment.process("instance-manager");
    manager.kill();
    repository.pull_blob(&blob).await.unwrap();
    // A store that does not have the key can't open anything, and says so.
    deployment.restart("blob-store").await.unwrap();
    let target = format!("blobs/{}", blob.digest);
    let reply = repository.get(&target).await.unwrap();
    assert_eq!(reply.status, 503);
    manager.start().await.unwrap();
    eventually("the key is there again", || async { repository.pull_blob(&blob).await.ok() }).await.unwrap();
    assert!(repository.has_blob(&blob.digest).await.unwrap(), "it was not taken for damaged");
    deployment.is_sound().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_may_begin_to_seal_and_end_it() {
    let deployment = Deployment::builder(Setting::EMBEDDED).start().await.unwrap();
    let mut content = Content::named("both kinds");
    let mut blobs = Vec::new();
    for encrypt in ["false", "true", "false"] {
        deployment.processes()[0].set_env("BERTH__BLOB_STORE__ENCRYPT", Some(encrypt.to_owned()));
        deployment.restart("berth").await.unwrap();
        let repository = deployment.client().repository("sealed/both");
        let blob = content.layer(100_000 + blobs.len());
        repository.push_blob(&blob).await.unwrap().expect(201).unwrap();
        blobs.push(blob);
        for blob in &blobs {
            repository.pull_blob(blob).await.unwrap();
        }
    }
    let mut sizes: Vec<u64> = sealed_files(&deployment).iter().map(|stored| stored.len() as u64).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [100_000, 100_002, stored_size(100_001)]);
    deployment.is_sound().await.unwrap();
}

/// `berth rotate-root-key` with the configuration of the process that has the root key.
async fn rotate_root_key(deployment: &Deployment, process: &str) -> std::process::Output {
    let config = deployment.folder().join(format!("{process}.toml"));
    let mut command = tokio::process::Command::new(berth_testkit::binary());
    command.arg("rotate-root-key").arg("--config").arg(config).output().await.unwrap()
}

async fn changes_the_root_key(setting: Setting) {
    let deployment = sealing(setting).start().await.unwrap();
    let process = if setting.layout == Layout::RolesApart { "instance-manager" } else { "berth" };
    let repository = deployment.client().repository("sealed/app");
    let mut content = Content::named("root-key");
    let (image, more) = (content.image(2, 10_000), content.image(2, 10_000));
    repository.push_image("v1", &image).await.unwrap();
    let path = deployment.folder().join(process).join("root.key");
    let former = std::fs::read(&path).unwrap();
    let refused = rotate_root_key(&deployment, process).await;
    assert!(!refused.status.success(), "while the registry runs");
    assert_eq!(std::fs::read(&path).unwrap(), former);
    deployment.process(process).kill();
    // As a run leaves it that was cut short: another key is there, and nothing is sealed by it yet.
    let kept = path.with_file_name("root.key.former");
    std::fs::rename(&path, &kept).unwrap();
    std::fs::write(&path, [7; 32]).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    deployment.restart(process).await.unwrap();
    deployment.client().repository("sealed/app").pull_image("v1", &image).await.unwrap();
    deployment.process(process).kill();
    for _ in 0..2 {
        let done = rotate_root_key(&deployment, process).await;
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        // Two keys that sign tokens, and one of the instance.
        assert!(said.starts_with("3 secrets are sealed by the new root key"), "{said}");
    }
    assert!(!kept.exists());
    let current = std::fs::read(&path).unwrap();
    assert!(current != former && current != [7; 32]);
    deployment.restart(process).await.unwrap();
    let repository = deployment.client().repository("sealed/app");
    repository.pull_image("v1", &image).await.unwrap();
    repository.push_image("v2", &more).await.unwrap();
    // The former key opens nothing any more: a start with it is refused, and changes nothing.
    deployment.process(process).kill();
    std::fs::write(&path, &former).unwrap();
    let refused = rotate_root_key(&deployment, process).await;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("root key"), "{refused:?}");
    std::fs::write(&path, &current).unwrap();
    deployment.restart(process).await.unwrap();
    deployment.client().repository("sealed/app").pull_image("v2", &more).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_root_key_is_changed_between_two_runs_in_one_process() {
    changes_the_root_key(Setting::EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_root_key_is_changed_between_two_runs_with_roles_apart() {
    changes_the_root_key(APART).await;
}
