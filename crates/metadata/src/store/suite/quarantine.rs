//! Damaged blobs: out of service, and mended by a push.

use berth_oci::Digest;
use berth_proto::metadata::{self as proto, ReadableSet, metadata_server::Metadata as _};
use tonic::Request;

use super::{World, answer, both, on_both_engines};

const APP: &str = "team/app";

on_both_engines!(
    a_damaged_blob_is_out_of_service_until_it_is_pushed_again,
    only_the_object_that_was_read_is_taken_out,
    what_is_whole_after_all_is_served_again,
);

async fn quarantine(world: &World, digest: &Digest, object_key: &str) -> bool {
    let request = proto::QuarantineBlobRequest {
        instance_id: world.instance.to_string(),
        digest: digest.to_string(),
        object_key: object_key.to_owned(),
        damage: "wrong_digest".to_owned(),
        key_id: String::new(),
    };
    answer(world.service.quarantine_blob(Request::new(request)).await).unwrap().quarantined
}

async fn object_of(world: &World, path: &str, digest: &Digest) -> String {
    world.resolve_blob(path, digest).await.content.unwrap().object.unwrap().key
}

async fn mounts(world: &World, path: &str, digest: &Digest) -> bool {
    let request = proto::MountBlobRequest {
        access: world.access(path),
        digest: digest.to_string(),
        from: String::new(),
        readable: Some(ReadableSet { everything: true, ..ReadableSet::default() }),
    };
    answer(world.service.mount_blob(Request::new(request)).await).unwrap().mounted
}

async fn a_damaged_blob_is_out_of_service_until_it_is_pushed_again(world: World) {
    let digest = world.blob(APP, "layer").await;
    let damaged = object_of(&world, APP, &digest).await;
    assert!(quarantine(&world, &digest, &damaged).await);
    assert!(!quarantine(&world, &digest, &damaged).await, "it is already");
    assert!(world.resolve_blob(APP, &digest).await.content.unwrap().quarantined);
    assert!(!mounts(&world, "team/other", &digest).await, "a mount would spread the damage");

    // By another repository of the instance: it mends the blob for all of them.
    let before = world.count(&both("SELECT count(*) FROM object_deletes")).await;
    world.blob("team/other", "layer").await;
    let mended = world.resolve_blob(APP, &digest).await.content.unwrap();
    assert!(!mended.quarantined);
    assert_ne!(mended.object.unwrap().key, damaged);
    let after = world.count(&both("SELECT count(*) FROM object_deletes")).await;
    assert_eq!(after, before + 1, "the damaged object goes, the new one stays");
    assert!(mounts(&world, "team/third", &digest).await);
}

async fn only_the_object_that_was_read_is_taken_out(world: World) {
    let digest = world.blob(APP, "layer").await;
    let key = object_of(&world, APP, &digest).await;
    assert!(!quarantine(&world, &digest, &format!("{key}0")).await);
    let stranger = World { instance: "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(), ..world.clone() };
    assert!(!quarantine(&stranger, &digest, &key).await);
    assert!(!world.resolve_blob(APP, &digest).await.content.unwrap().quarantined);
}

async fn what_is_whole_after_all_is_served_again(world: World) {
    let digest = world.blob(APP, "layer").await;
    let key = object_of(&world, APP, &digest).await;
    assert!(quarantine(&world, &digest, &key).await);
    let instance = world.instance.to_string();
    world.metadata.lift_quarantine(&instance, digest, &format!("{key}0")).await.unwrap();
    assert!(world.resolve_blob(APP, &digest).await.content.unwrap().quarantined);
    world.metadata.lift_quarantine(&instance, digest, &key).await.unwrap();
    assert!(!world.resolve_blob(APP, &digest).await.content.unwrap().quarantined);
    assert_eq!(world.count(&both("SELECT count(*) FROM blobs WHERE quarantined_at IS NOT NULL")).await, 0);
}
