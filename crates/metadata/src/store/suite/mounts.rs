//! Mounts: a link without bytes, for what the caller may read anywhere in its instance, and the same answer otherwise.

use berth_oci::{Algorithm, Digest, ErrorCode, Problem};
use berth_proto::metadata::{self as proto, ReadableSet, metadata_server::Metadata as _};
use tonic::Request;

use super::{World, answer, both, on_both_engines, refusal};

const APP: &str = "team/app";
const SOURCE: &str = "other/source";

on_both_engines!(
    a_readable_blob_is_mounted_with_and_without_from,
    t34_unreadable_and_absent_are_alike,
    a_mount_into_a_new_repository_makes_it,
    a_public_repository_is_a_source_for_all,
    another_instance_is_no_source,
);

async fn mount(
    world: &World,
    path: &str,
    digest: &Digest,
    from: &str,
    readable: ReadableSet,
) -> Result<bool, Problem> {
    let request = proto::MountBlobRequest {
        access: world.access(path),
        digest: digest.to_string(),
        from: from.to_owned(),
        readable: Some(readable),
    };
    answer(world.service.mount_blob(Request::new(request)).await).map(|response| response.mounted)
}

fn everything() -> ReadableSet {
    ReadableSet { everything: true, ..ReadableSet::default() }
}

async fn a_readable_blob_is_mounted_with_and_without_from(world: World) {
    let digest = world.blob(SOURCE, "layer").await;
    let found = world.resolve_blob(SOURCE, &digest).await;
    let by_repository = ReadableSet { repository_ids: vec![found.repository_id], ..ReadableSet::default() };
    let by_namespace = ReadableSet { namespace_ids: vec![found.namespace_id], ..ReadableSet::default() };
    assert!(mount(&world, "a/one", &digest, SOURCE, by_repository).await.unwrap());
    assert!(mount(&world, "a/two", &digest, "", by_namespace).await.unwrap());
    assert!(mount(&world, "a/three", &digest, "", everything()).await.unwrap());
    for path in ["a/one", "a/two", "a/three"] {
        let object = world.resolve_blob(path, &digest).await.content.unwrap().object.unwrap();
        assert_eq!(object, found.content.as_ref().unwrap().object.clone().unwrap());
    }
    // The source may go; the blob stays.
    world.delete_blob(SOURCE, &digest).await.unwrap();
    assert!(world.resolve_blob("a/one", &digest).await.content.is_some());
}

async fn t34_unreadable_and_absent_are_alike(world: World) {
    let digest = world.blob(SOURCE, "secret").await;
    world.start(APP).await.unwrap();
    let mine = world.resolve_blob(APP, &digest).await;
    assert!(mine.content.is_none());
    let readable = ReadableSet { repository_ids: vec![mine.repository_id], ..ReadableSet::default() };
    assert!(!mount(&world, APP, &digest, SOURCE, readable.clone()).await.unwrap());
    let absent = Digest::of(Algorithm::Sha256, b"absent");
    assert!(!mount(&world, APP, &absent, SOURCE, readable.clone()).await.unwrap());
    assert!(!mount(&world, APP, &digest, "other/absent", readable).await.unwrap());
    assert!(world.resolve_blob(APP, &digest).await.content.is_none());
}

async fn a_mount_into_a_new_repository_makes_it(world: World) {
    let digest = world.blob(SOURCE, "layer").await;
    assert!(
        !mount(&world, "fresh/app", &Digest::of(Algorithm::Sha256, b"absent"), "", everything())
            .await
            .unwrap()
    );
    assert_eq!(world.resolve_blob("fresh/app", &digest).await.namespace_id, "");
    assert!(mount(&world, "fresh/app", &digest, "", everything()).await.unwrap());
    assert!(world.resolve_blob("fresh/app", &digest).await.content.is_some());
    assert_eq!(world.count(&both("SELECT count(*) FROM repository_review_queue")).await, 2);
}

async fn a_public_repository_is_a_source_for_all(world: World) {
    let digest = world.blob(SOURCE, "layer").await;
    assert!(!mount(&world, APP, &digest, "", ReadableSet::default()).await.unwrap());
    world.publish(SOURCE).await;
    assert!(mount(&world, APP, &digest, SOURCE, ReadableSet::default()).await.unwrap());
}

async fn another_instance_is_no_source(world: World) {
    let digest = world.blob(SOURCE, "layer").await;
    let stranger = World { instance: "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(), ..world.clone() };
    assert!(!mount(&stranger, APP, &digest, SOURCE, everything()).await.unwrap());
    stranger.blob(APP, "layer").await;
    assert_eq!(world.count(&both("SELECT count(*) FROM blobs")).await, 2);
    assert_eq!(refusal(mount(&world, "single", &digest, "", everything()).await), ErrorCode::NameInvalid);
}
