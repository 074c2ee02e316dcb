//! Sealed uploads and blobs: their keys are recorded with their bytes, come back with them, go with them, and are never
//! left by the key of the instance that opens them.

use berth_blobs::{Sealing, SealingChange, StagingChange, wire};
use berth_database::args;
use berth_oci::{Algorithm, Digest, ErrorCode, Hasher, Problem};
use berth_proto::metadata::{self as proto, metadata_server::Metadata as _};
use tonic::Request;

use super::{World, answer, both, on_both_engines, refusal};
use crate::sealing::Resealed;

const APP: &str = "team/app";

on_both_engines!(
    what_a_sealed_upload_stands_at_comes_back_with_its_lease,
    a_blob_has_the_key_of_its_upload,
    nothing_of_a_key_outlives_its_upload,
    a_key_that_is_named_is_not_given_up,
    data_keys_are_sealed_again_once_each,
    a_quarantine_for_a_key_holds_for_that_key_alone,
    a_pushed_blob_replaces_the_key_too,
);

fn sealing(key_id: &str, byte: u8) -> Sealing {
    Sealing { key_id: key_id.to_owned(), wrapped_key: vec![byte; 61] }
}

fn change(key: Option<Sealing>, rest: &[u8]) -> StagingChange {
    let sealing = SealingChange { key, hash_state: b"hash".to_vec(), rest: rest.to_vec() };
    StagingChange { sealing: Some(sealing), ..StagingChange::default() }
}

impl World {
    async fn note_sealed(&self, lease: &proto::Lease, to: u64, change: StagingChange) -> Result<(), Problem> {
        let request = proto::EndAppendRequest {
            upload_id: lease.upload_id.clone(),
            epoch: lease.epoch,
            offset: to,
            hash_state: Hasher::new(Algorithm::Sha256).save().into(),
            change: Some(wire::change_to(&change)),
        };
        answer(self.service.end_append(Request::new(request)).await).map(drop)
    }

    async fn commit_sealed(
        &self,
        lease: &proto::Lease,
        content: &str,
        sealing: Option<&Sealing>,
    ) -> Result<Digest, Problem> {
        let digest = Digest::of(Algorithm::Sha256, content.as_bytes());
        let request = proto::CommitUploadRequest {
            access: self.access(APP),
            upload_id: lease.upload_id.clone(),
            epoch: lease.epoch,
            digest: digest.to_string(),
            size: content.len() as u64,
            object_key: String::new(),
            sealing: sealing.map(wire::sealing_to),
        };
        answer(self.service.commit_upload(Request::new(request)).await).map(|_| digest)
    }

    async fn sealed_blob(&self, content: &str, sealing: &Sealing) -> Digest {
        let upload = self.start(APP).await.unwrap();
        let lease = self.begin(APP, &upload.id, None, "").await.unwrap();
        self.commit_sealed(&lease, content, Some(sealing)).await.unwrap()
    }

    async fn object(&self, digest: &Digest) -> proto::Object {
        self.resolve_blob(APP, digest).await.content.unwrap().object.unwrap()
    }

    async fn sealing_of(&self, digest: &Digest) -> Option<Sealing> {
        let object = self.object(digest).await;
        assert_eq!(object.format, i32::from(object.sealing.is_some()));
        object.sealing.map(wire::sealing_from)
    }
}

async fn what_a_sealed_upload_stands_at_comes_back_with_its_lease(world: World) {
    let upload = world.start(APP).await.unwrap();
    let lease = world.begin(APP, &upload.id, Some(0), "").await.unwrap();
    let recorded = |lease: &proto::Lease| {
        let staging = lease.staging.clone().unwrap_or_default();
        wire::staging_from(staging).unwrap().sealing
    };
    assert_eq!(recorded(&lease), None);
    world.note_sealed(&lease, 10, change(Some(sealing("k1", 1)), b"rest")).await.unwrap();
    let lease = world.begin(APP, &upload.id, Some(10), "").await.unwrap();
    let state = recorded(&lease).unwrap();
    assert_eq!(
        (state.key, state.hash_state, state.rest),
        (sealing("k1", 1), b"hash".to_vec(), b"rest".to_vec())
    );
    // Later changes leave the key as it is.
    world.note_sealed(&lease, 20, change(None, b"another")).await.unwrap();
    // Also to one who takes it from a live holder.
    for _ in 0..2 {
        let lease = world.begin(APP, &upload.id, Some(20), "").await.unwrap();
        let state = recorded(&lease).unwrap();
        assert_eq!((state.key, state.rest), (sealing("k1", 1), b"another".to_vec()));
    }
}

async fn a_blob_has_the_key_of_its_upload(world: World) {
    let digest = world.sealed_blob("at once", &sealing("k1", 1)).await;
    assert_eq!(world.sealing_of(&digest).await, Some(sealing("k1", 1)));
    let plain = world.blob(APP, "plain").await;
    assert_eq!(world.sealing_of(&plain).await, None);

    // What was recorded, and maybe sealed again since, goes before what the holder remembers.
    let upload = world.start(APP).await.unwrap();
    let lease = world.begin(APP, &upload.id, Some(0), "").await.unwrap();
    world.note_sealed(&lease, 3, change(Some(sealing("k1", 2)), b"rest")).await.unwrap();
    let lease = world.begin(APP, &upload.id, Some(3), "").await.unwrap();
    let named = world.metadata.sessions_of_key("k1", None).await.unwrap();
    let resealed = vec![Resealed { named: named[0].clone(), wrapped_key: vec![3; 61] }];
    assert_eq!(world.metadata.reseal("k1", "k2", resealed).await.unwrap(), 1);
    let digest = world.commit_sealed(&lease, "in two", Some(&sealing("k1", 2))).await.unwrap();
    assert_eq!(world.sealing_of(&digest).await, Some(sealing("k2", 3)));
}

async fn nothing_of_a_key_outlives_its_upload(world: World) {
    let left = both(
        "SELECT count(*) FROM upload_sessions WHERE kek_id IS NOT NULL \
        OR wrapped_dek IS NOT NULL OR sealed_hash IS NOT NULL OR sealed_rest IS NOT NULL",
    );
    for end in ["cancel", "commit", "reap"] {
        let upload = world.start(APP).await.unwrap();
        let lease = world.begin(APP, &upload.id, Some(0), "").await.unwrap();
        world.note_sealed(&lease, 3, change(Some(sealing("k1", 1)), b"rest")).await.unwrap();
        assert_eq!(world.count(&left).await, 1);
        match end {
            "cancel" => world.cancel(APP, &upload.id).await.unwrap(),
            "commit" => {
                let lease = world.begin(APP, &upload.id, Some(3), "").await.unwrap();
                world.commit_sealed(&lease, "some", None).await.unwrap();
            }
            _ => {
                let expire = both(
                    "UPDATE upload_sessions SET expires_at = 1, lease_until = 0 \
                    WHERE state = 'open'",
                );
                world
                    .database
                    .write("expire", move |tx| {
                        let expire = expire;
                        Box::pin(async move { tx.execute(&expire, args![]).await })
                    })
                    .await
                    .unwrap();
                assert!(world.metadata.reap_next_session().await.unwrap().is_some());
            }
        }
        assert_eq!(world.count(&left).await, 0, "{end}");
    }
}

async fn a_key_that_is_named_is_not_given_up(world: World) {
    let digest = world.sealed_blob("blob", &sealing("k1", 1)).await;
    assert!(!world.metadata.give_up_key("k1").await.unwrap());
    let upload = world.start(APP).await.unwrap();
    let lease = world.begin(APP, &upload.id, Some(0), "").await.unwrap();
    world.note_sealed(&lease, 3, change(Some(sealing("k2", 1)), b"rest")).await.unwrap();
    assert!(!world.metadata.give_up_key("k2").await.unwrap());
    world.cancel(APP, &upload.id).await.unwrap();
    assert!(world.metadata.give_up_key("k2").await.unwrap());
    assert!(world.metadata.give_up_key("k2").await.unwrap(), "it may be said twice");

    // Whoever made a data key before and comes late records nothing, and may go on with another.
    let upload = world.start(APP).await.unwrap();
    let lease = world.begin(APP, &upload.id, Some(0), "").await.unwrap();
    let late = world.note_sealed(&lease, 3, change(Some(sealing("k2", 1)), b"rest")).await;
    assert_eq!(refusal(late), ErrorCode::Unavailable);
    let late = world.commit_sealed(&lease, "late", Some(&sealing("k2", 1))).await.map(drop);
    assert_eq!(refusal(late), ErrorCode::Unavailable);
    world.commit_sealed(&lease, "late", Some(&sealing("k3", 1))).await.unwrap();
    assert_eq!(world.sealing_of(&digest).await, Some(sealing("k1", 1)));
}

async fn data_keys_are_sealed_again_once_each(world: World) {
    let mut digests = Vec::new();
    for number in 0..5u8 {
        digests.push(world.sealed_blob(&format!("blob {number}"), &sealing("k1", number)).await);
    }
    let page = world.metadata.blobs_of_key("k1", None).await.unwrap();
    assert_eq!(page.len(), 5);
    assert_eq!(world.metadata.blobs_of_key("k1", Some(&page[2])).await.unwrap(), page[3..]);
    assert!(page.iter().all(|named| named.session().is_some()));
    let resealed: Vec<_> = page
        .into_iter()
        .map(|named| Resealed { wrapped_key: vec![named.wrapped_key[0] + 100; 61], named })
        .collect();
    assert_eq!(world.metadata.reseal("k1", "k2", resealed.clone()).await.unwrap(), 5);
    assert_eq!(world.metadata.reseal("k1", "k2", resealed).await.unwrap(), 0, "compared with the key");
    for (digest, number) in digests.iter().zip(100..) {
        assert_eq!(world.sealing_of(digest).await, Some(sealing("k2", number)));
    }
    assert!(world.metadata.give_up_key("k1").await.unwrap());
}

async fn a_quarantine_for_a_key_holds_for_that_key_alone(world: World) {
    let digest = world.sealed_blob("blob", &sealing("k2", 1)).await;
    let key = world.object(&digest).await.key;
    let quarantine = |key_id: &str| {
        let key_id = key_id.to_owned();
        world.metadata.quarantine(world.instance, digest, key.clone(), "key_gone".to_owned(), key_id)
    };
    assert!(!quarantine("k1").await.unwrap(), "it was sealed again meanwhile");
    assert!(quarantine("k2").await.unwrap());
}

async fn a_pushed_blob_replaces_the_key_too(world: World) {
    let digest = world.sealed_blob("blob", &sealing("k1", 1)).await;
    // One that is whole stays as it is.
    world.sealed_blob("blob", &sealing("k2", 2)).await;
    assert_eq!(world.sealing_of(&digest).await, Some(sealing("k1", 1)));
    let key = world.object(&digest).await.key;
    let (damage, none) = ("wrong_digest".to_owned(), String::new());
    assert!(world.metadata.quarantine(world.instance, digest, key, damage, none).await.unwrap());
    world.sealed_blob("blob", &sealing("k2", 2)).await;
    assert_eq!(world.sealing_of(&digest).await, Some(sealing("k2", 2)));
    let key = world.object(&digest).await.key;
    let (damage, none) = ("wrong_digest".to_owned(), String::new());
    assert!(world.metadata.quarantine(world.instance, digest, key, damage, none).await.unwrap());
    // By a store that seals no longer.
    world.blob(APP, "blob").await;
    assert_eq!(world.sealing_of(&digest).await, None);
}
