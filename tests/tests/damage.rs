//! Bytes that changed in the store: never served as a whole blob, out of service once it is certain, mended by a push.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use berth_testkit::{Blob, Content, Deployment, Engine, Layout, Repository, Setting, eventually};

fn flip(file: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// A GET of the whole blob that does not give a whole body: an error, or a connection that breaks.
async fn is_not_served(repository: &Repository, blob: &Blob) {
    let target = format!("blobs/{}", blob.digest);
    if let Ok(reply) = repository.get(&target).await {
        assert!(reply.status != 200, "damaged bytes were served as a whole: {} bytes", reply.body.len());
    }
}

async fn damage(setting: Setting) {
    let deployment = Deployment::builder(setting).start().await.unwrap();
    let repository = deployment.client().repository("damage/app");
    let mut content = Content::named("damage");
    let image = content.image(3, 700_000);
    repository.push_image("v1", &image).await.unwrap();
    let [flipped, shortened, missing] = [0, 1, 2].map(|number| image.layers[number].clone());
    // The last byte: by then all the others have been passed on.
    flip(&deployment.file_of(&flipped), flipped.size() - 1);
    let file = File::options().write(true).open(deployment.file_of(&shortened)).unwrap();
    file.set_len(shortened.size() - 1).unwrap();
    std::fs::remove_file(deployment.file_of(&missing)).unwrap();

    for blob in [&flipped, &shortened, &missing] {
        is_not_served(&repository, blob).await;
        // Out of service: unknown, so that a client that asks before it pushes sends it.
        let out = eventually("the blob is out of service", || async {
            (!repository.has_blob(&blob.digest).await.ok()?).then_some(())
        });
        out.await.unwrap();
        let reply = repository.get(&format!("blobs/{}", blob.digest)).await.unwrap().expect(404).unwrap();
        assert_eq!(reply.error_code().as_deref(), Some("BLOB_UNKNOWN"));
        assert!(reply.json()["errors"][0]["message"].as_str().unwrap().contains("damaged"));
    }
    let metadata = deployment.process("metadata");
    assert!((metadata.metric("berth_metadata_quarantined_blobs_total").await.unwrap() - 3.0).abs() < 0.1);
    let log = metadata.log();
    let alarms =
        log.iter().filter(|line| line.contains("ERROR") && line.contains("no longer served")).count();
    assert_eq!(alarms, 3);

    // What is whole is served all the while; the same push mends the rest.
    repository.pull_blob(&image.config).await.unwrap();
    repository.push_image("v1", &image).await.unwrap();
    repository.pull_image("v1", &image).await.unwrap();
    deployment.is_sound().await.unwrap();

    // A quarantine that turns out wrong ends with the next scrub.
    let file = deployment.file_of(&flipped);
    deployment.restart(deployment.processes()[0].name()).await.unwrap();
    let repository = deployment.client().repository("damage/app");
    flip(&file, 10);
    is_not_served(&repository, &flipped).await;
    eventually("the blob is out of service", || async {
        (!repository.has_blob(&flipped.digest).await.ok()?).then_some(())
    })
    .await
    .unwrap();
    flip(&file, 10);
    deployment.is_sound().await.unwrap();
    repository.pull_image("v1", &image).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_bytes_are_never_served_whole_in_one_process() {
    damage(Setting::EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_bytes_are_never_served_whole_with_roles_apart() {
    damage(Setting::new(Layout::RolesApart, Engine::Postgres)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_bytes_are_never_served_whole_from_a_bucket_in_one_process() {
    damage(Setting::EMBEDDED.on_bucket()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_bytes_are_never_served_whole_from_a_bucket_with_roles_apart() {
    damage(Setting::new(Layout::RolesApart, Engine::Postgres).on_bucket()).await;
}
