//! The built binary on object storage: pushes of every kind, what it does while the storage is away, and that it leaves
//! nothing behind.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

use berth_testkit::{Content, Deployment, Engine, Layout, Setting, eventually, object_storage::Fault};
use bytes::Bytes;
use futures::stream;
use reqwest::{Body, Method};

async fn every_way_to_push(setting: Setting, sealed: bool) {
    let builder = Deployment::builder(setting.on_bucket());
    let builder = builder.with_env("BERTH__BLOB_STORE__ENCRYPT", sealed.to_string());
    let deployment = builder.start().await.unwrap();
    let storage = deployment.object_storage();
    let repository = deployment.client().repository("bucket/app");
    let mut content = Content::seeded(5);
    for size in [0, 1000, 3_000_000, 20_000_000] {
        let two = content.layer(size);
        repository.push_blob(&two).await.unwrap();
        repository.pull_blob(&two).await.unwrap();
        let one = content.layer(size);
        repository.push_blob_at_once(&one).await.unwrap();
        repository.pull_blob(&one).await.unwrap();
        let chunks = content.layer(size);
        repository.push_blob_in_chunks(&chunks, 2_999_999).await.unwrap();
        repository.pull_blob(&chunks).await.unwrap();
    }
    // Larger chunks are asked for; those above were smaller.
    let started = repository.call(Method::POST, "/blobs/uploads/").await.unwrap().send().await.unwrap();
    assert_eq!(started.expect(202).unwrap().header("oci-chunk-min-length"), Some("5242880"));
    // Without a length, as docker does.
    let streamed = content.layer(12_000_000);
    let upload = repository.start_upload().await.unwrap();
    let pieces: Vec<_> = (0..12)
        .map(|i| Ok::<_, std::io::Error>(streamed.bytes.slice(i * 1_000_000..(i + 1) * 1_000_000)))
        .collect();
    let call = repository.call(Method::PATCH, &upload).await.unwrap();
    let reply = call.body(Body::wrap_stream(stream::iter(pieces))).send().await.unwrap().expect(202).unwrap();
    let upload = reply.location().unwrap();
    let digest = streamed.digest.to_string();
    repository.finish(&upload, &digest, Bytes::new()).await.unwrap().expect(201).unwrap();
    repository.pull_blob(&streamed).await.unwrap();
    let image = content.image(3, 500_000);
    repository.push_image("v1", &image).await.unwrap();
    repository.pull_image("v1", &image).await.unwrap();
    assert!(!deployment.folder().join("berth/blobs").exists(), "no folder is made");
    assert_eq!(storage.parts_left(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_bucket_takes_every_way_to_push_in_one_process() {
    every_way_to_push(Setting::EMBEDDED, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_bucket_takes_every_way_to_push_with_roles_apart() {
    let setting = Setting::new(Layout::RolesApart, Engine::Postgres);
    every_way_to_push(setting, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_push_a_blob_gives_the_same_blob() {
    every_way_to_push(Setting::EMBEDDED, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_push_a_blob_gives_the_same_blob_with_roles_apart() {
    every_way_to_push(Setting::new(Layout::RolesApart, Engine::Postgres), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_storage_is_away_nothing_is_promised_and_afterwards_it_goes_on() {
    let deployment = Deployment::builder(Setting::EMBEDDED.on_bucket()).start().await.unwrap();
    let storage = deployment.object_storage();
    let repository = deployment.client().repository("bucket/away");
    let mut content = Content::seeded(6);
    let kept = content.layer(100_000);
    repository.push_blob_at_once(&kept).await.unwrap();
    let blob = content.layer(200_000);
    let upload = repository.start_upload().await.unwrap();
    let half = repository.patch(&upload, Some(0), blob.bytes.slice(..100_000)).await.unwrap();
    let upload = half.expect(202).unwrap().location().unwrap();
    storage.set_away(true);
    let read = repository.get(&format!("/blobs/{}", kept.digest)).await.unwrap();
    assert_eq!(read.status, 503);
    assert!(read.header("retry-after").is_some());
    let refused = repository.finish(&upload, &blob.digest.to_string(), blob.bytes.slice(100_000..)).await;
    assert_eq!(refused.unwrap().status, 503);
    storage.set_away(false);
    repository.pull_blob(&kept).await.unwrap();
    let done = repository.finish(&upload, &blob.digest.to_string(), blob.bytes.slice(100_000..)).await;
    done.unwrap().expect(201).unwrap();
    repository.pull_blob(&blob).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_without_an_answer_is_a_whole_blob_all_the_same() {
    let deployment = Deployment::builder(Setting::EMBEDDED.on_bucket()).start().await.unwrap();
    let storage = deployment.object_storage();
    let repository = deployment.client().repository("bucket/ambiguous");
    let mut content = Content::seeded(7);
    for fault in [Fault::Status(500), Fault::CutAfter, Fault::StatusAfter(500)] {
        storage.plan("POST", "uploadId=", fault, 1);
        let blob = content.layer(18_000_000);
        repository.push_blob_at_once(&blob).await.unwrap();
        repository.pull_blob(&blob).await.unwrap();
        assert!(storage.all_happened());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_stays_but_what_a_row_names() {
    let builder = Deployment::builder(Setting::EMBEDDED.on_bucket()).collecting_at_once();
    let deployment =
        builder.with_env("BERTH__METADATA__LONGEST_OPERATION_SECONDS", "1").start().await.unwrap();
    let storage = deployment.object_storage();
    let repository = deployment.client().repository("bucket/clean");
    let mut content = Content::seeded(8);
    let image = content.image(1, 1000);
    repository.push_image("v1", &image).await.unwrap();
    // A cancelled upload in parts, one that nobody needs, and one in many pieces that an image needs.
    let blob = content.layer(25_000_000);
    let upload = repository.start_upload().await.unwrap();
    let begun = repository.patch(&upload, Some(0), blob.bytes.slice(..20_000_000)).await.unwrap();
    let upload = begun.expect(202).unwrap().location().unwrap();
    assert!(storage.parts_left() > 0);
    repository.delete(&upload).await.unwrap().expect(204).unwrap();
    repository.push_blob_in_chunks(&content.layer(9_000_000), 1_000_000).await.unwrap();
    eventually("only the image's objects stay", || async {
        let keys = storage.keys();
        (storage.parts_left() == 0 && keys.len() == image.blobs().count()).then_some(())
    })
    .await
    .unwrap_or_else(|error| panic!("{error}: {:?}", storage.keys()));
    repository.pull_image("v1", &image).await.unwrap();
}
