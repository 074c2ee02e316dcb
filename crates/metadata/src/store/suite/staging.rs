//! Uploads whose bytes are put aside: what is recorded comes back, an older epoch records nothing, a finish may be found
//! out later, and nothing that was left is forgotten.

use berth_blobs::{
    Abandoned, Multipart, ObjectKey, Piece, Place, RESERVED_PARTS, Staging, StagingChange, wire,
};
use berth_database::args;
use berth_oci::{Algorithm, Digest, ErrorCode, Hasher, Problem};
use berth_proto::metadata::{self as proto, metadata_server::Metadata as _};
use prost::Message as _;
use tonic::Request;

use super::{World, answer, both, on_both_engines, refusal};

const APP: &str = "team/app";

on_both_engines!(
    pieces_come_back_with_the_next_lease,
    an_older_epoch_records_no_pieces,
    a_finish_without_an_outcome_is_found_out,
    remains_of_every_end_are_queued,
    a_commit_takes_an_object_of_its_own_session_only,
);

fn aside(mut world: World) -> World {
    let mut metadata = world.metadata.clone();
    metadata.config = std::sync::Arc::new(crate::Config {
        object_storage: true,
        store_id: "s3".to_owned(),
        ..crate::Config::default()
    });
    world.service = crate::MetadataService::new(metadata.clone(), &mut berth_service::Registry::default());
    world.metadata = metadata;
    world
}

fn tail(key: &ObjectKey, epoch: i64, number: u32, start: u64) -> Piece {
    let place = Place::Tail { key: key.tail(epoch, number) };
    Piece { number: number + 1, epoch, start, size: 10, place, checksum: None }
}

fn part(epoch: i64, number: u32, part: u32, start: u64, size: u64) -> Piece {
    let place = Place::Part { number: part, entity_tag: format!("\"{part}\"") };
    Piece { number, epoch, start, size, place, checksum: Some(vec![1, 2]) }
}

fn state() -> bytes::Bytes {
    Hasher::new(Algorithm::Sha256).save().into()
}

fn staging(lease: &proto::Lease) -> Staging {
    wire::staging_from(lease.staging.clone().unwrap()).unwrap()
}

impl World {
    async fn note(
        &self,
        lease: &proto::Lease,
        offset: u64,
        change: &StagingChange,
        end: bool,
    ) -> Result<(), Problem> {
        let change = Some(wire::change_to(change));
        let (upload_id, epoch, hash_state) = (lease.upload_id.clone(), lease.epoch, state());
        if end {
            let request = proto::EndAppendRequest { upload_id, epoch, offset, hash_state, change };
            answer(self.service.end_append(Request::new(request)).await).map(drop)
        } else {
            let request = proto::CheckpointRequest { upload_id, epoch, offset, hash_state, change };
            answer(self.service.checkpoint(Request::new(request)).await).map(drop)
        }
    }

    async fn finish(&self, lease: &proto::Lease, digest: &Digest, size: u64) -> Result<(), Problem> {
        let request = proto::FinishUploadRequest {
            upload_id: lease.upload_id.clone(),
            epoch: lease.epoch,
            digest: digest.to_string(),
            size,
            hash_state: state(),
            change: None,
        };
        answer(self.service.finish_upload(Request::new(request)).await).map(drop)
    }

    async fn commit_at(
        &self,
        lease: &proto::Lease,
        digest: &Digest,
        size: u64,
        key: &str,
    ) -> Result<(), Problem> {
        let request = proto::CommitUploadRequest {
            access: self.access(APP),
            upload_id: lease.upload_id.clone(),
            epoch: lease.epoch,
            digest: digest.to_string(),
            size,
            object_key: key.to_owned(),
            sealing: None,
        };
        answer(self.service.commit_upload(Request::new(request)).await).map(drop)
    }

    async fn queued_remains(&self) -> Vec<Abandoned> {
        let all = both("SELECT remains FROM object_deletes WHERE remains IS NOT NULL ORDER BY object_key");
        let rows = self.database.read_all(&all, args![]).await.unwrap();
        let read = |row: berth_database::Row| {
            let bytes: Vec<u8> = row.get(0).unwrap();
            wire::abandoned_from(berth_proto::blob_store::Abandoned::decode(&bytes[..]).unwrap()).unwrap()
        };
        rows.into_iter().map(read).collect()
    }
}

async fn pieces_come_back_with_the_next_lease(world: World) {
    let world = aside(world);
    let upload = world.start(APP).await.unwrap();
    let lease = world.begin(APP, &upload.id, Some(0), "").await.unwrap();
    assert_eq!((lease.epoch, staging(&lease)), (1, Staging::default()), "epochs count from 1");
    let key: ObjectKey = lease.object_key.parse().unwrap();
    let first = StagingChange { added: vec![tail(&key, 1, 0, 0)], ..StagingChange::default() };
    world.note(&lease, 10, &first, true).await.unwrap();

    let lease = world.begin(APP, &upload.id, Some(10), "").await.unwrap();
    assert_eq!((lease.epoch, staging(&lease).pieces), (2, vec![tail(&key, 1, 0, 0)]));
    let multipart = Multipart { key: key.at(2), id: "some upload".to_owned() };
    let begun =
        StagingChange { multipart: Some(multipart.clone()), reserved: Some(0), ..StagingChange::default() };
    world.note(&lease, 10, &begun, false).await.unwrap();
    let parts = vec![part(2, 2, 1, 0, 100), part(2, 3, 2, 100, 50)];
    let merged = StagingChange {
        reserved: Some(2),
        added: parts.clone(),
        merged: vec![1],
        ..StagingChange::default()
    };
    world.note(&lease, 150, &merged, false).await.unwrap();

    // The holder was lost: it may have used numbers that are not recorded.
    let lease = world.begin(APP, &upload.id, Some(150), "").await.unwrap();
    let recorded = Staging {
        multipart: Some(multipart.clone()),
        reserved: 2 + RESERVED_PARTS,
        last: 3,
        pieces: parts.clone(),
        sealing: None,
    };
    assert_eq!(staging(&lease), recorded);
    let lease = world.begin(APP, &upload.id, Some(150), "").await.unwrap();
    assert_eq!(staging(&lease).reserved, 2 + 2 * RESERVED_PARTS);
    // One that ends well says what it used.
    let used = StagingChange { reserved: Some(2 + 2 * RESERVED_PARTS), ..StagingChange::default() };
    world.note(&lease, 150, &used, true).await.unwrap();
    let lease = world.begin(APP, &upload.id, Some(150), "").await.unwrap();
    assert_eq!(staging(&lease).reserved, 2 + 2 * RESERVED_PARTS);
}

async fn an_older_epoch_records_no_pieces(world: World) {
    let world = aside(world);
    let upload = world.start(APP).await.unwrap();
    let older = world.begin(APP, &upload.id, Some(0), "").await.unwrap();
    let newer = world.begin(APP, &upload.id, Some(0), "").await.unwrap();
    assert_eq!(newer.epoch, older.epoch + 1);
    let key: ObjectKey = older.object_key.parse().unwrap();
    let change = StagingChange { added: vec![tail(&key, older.epoch, 0, 0)], ..StagingChange::default() };
    for end in [false, true] {
        assert_eq!(refusal(world.note(&older, 10, &change, end).await), ErrorCode::UploadBusy);
    }
    let digest = Digest::of(Algorithm::Sha256, b"x");
    assert_eq!(refusal(world.finish(&older, &digest, 10).await), ErrorCode::UploadBusy);
    let committed = world.commit_at(&older, &digest, 10, key.at(older.epoch).as_str()).await;
    assert_eq!(refusal(committed), ErrorCode::UploadBusy);
    assert_eq!(world.count(&both("SELECT count(*) FROM upload_parts")).await, 0);
    world.note(&newer, 0, &StagingChange::default(), true).await.unwrap();
}

async fn a_finish_without_an_outcome_is_found_out(world: World) {
    let world = aside(world);
    let upload = world.start(APP).await.unwrap();
    let lease = world.begin(APP, &upload.id, Some(0), "").await.unwrap();
    let key: ObjectKey = lease.object_key.parse().unwrap();
    let digest = Digest::of(Algorithm::Sha256, b"right");
    let other = Digest::of(Algorithm::Sha256, b"wrong");
    world.finish(&lease, &digest, 500).await.unwrap();
    // While its lease lasts somebody is at it.
    for wanted in [digest.to_string(), other.to_string(), String::new()] {
        let refused = world.begin(APP, &upload.id, None, &wanted).await;
        assert_eq!(refusal(refused), ErrorCode::UploadBusy, "{wanted}");
    }
    assert_eq!(
        refusal(world.note(&lease, 600, &StagingChange::default(), true).await),
        ErrorCode::UploadBusy
    );
    world.stage(&[both("UPDATE upload_sessions SET lease_until = 0")], args![]).await;
    for wanted in [other.to_string(), String::new()] {
        assert_eq!(refusal(world.begin(APP, &upload.id, None, &wanted).await), ErrorCode::UploadBusy);
    }
    let taken = world.begin(APP, &upload.id, None, &digest.to_string()).await.unwrap();
    assert_eq!((taken.finishing_digest, taken.offset), (digest.to_string(), 500));
    let taken = proto::Lease { finishing_digest: String::new(), ..taken };
    let at = key.at(1);
    assert_eq!(refusal(world.commit_at(&lease, &digest, 500, at.as_str()).await), ErrorCode::UploadBusy);
    let wrong = world.commit_at(&taken, &other, 500, at.as_str()).await;
    assert_eq!(refusal(wrong), ErrorCode::BlobUploadUnknown);
    world.commit_at(&taken, &digest, 500, at.as_str()).await.unwrap();
    let found = world.resolve_blob(APP, &digest).await.content.unwrap().object.unwrap();
    assert_eq!((found.key, found.store_id, found.size), (at.to_string(), "s3".to_owned(), 500));
}

async fn remains_of_every_end_are_queued(world: World) {
    let world = aside(world);
    let digest = Digest::of(Algorithm::Sha256, b"content");
    let mut keys = Vec::new();
    for end in ["commit at once", "commit", "again", "cancel", "reap"] {
        let upload = world.start(APP).await.unwrap();
        let mut lease = world.begin(APP, &upload.id, Some(0), "").await.unwrap();
        let key: ObjectKey = lease.object_key.parse().unwrap();
        if end != "commit at once" {
            let multipart = Some(Multipart { key: key.at(1), id: "it".to_owned() });
            let tails = vec![tail(&key, 1, 0, 0), tail(&key, 1, 1, 10)];
            let change = StagingChange { multipart, added: tails, ..StagingChange::default() };
            world.note(&lease, 20, &change, true).await.unwrap();
            lease = world.begin(APP, &upload.id, Some(20), "").await.unwrap();
        }
        match end {
            "cancel" => world.cancel(APP, &upload.id).await.unwrap(),
            "reap" => {
                world.note(&lease, 20, &StagingChange::default(), true).await.unwrap();
                let expired =
                    "UPDATE upload_sessions SET expires_at = 1, lease_until = 0 WHERE state = 'open'";
                world.stage(&[both(expired)], args![]).await;
                world.metadata.reap_next_session().await.unwrap().unwrap();
            }
            _ => {
                let digest =
                    if end == "commit at once" { Digest::of(Algorithm::Sha256, b"at once") } else { digest };
                world.commit_at(&lease, &digest, 20, key.at(lease.epoch).as_str()).await.unwrap();
            }
        }
        keys.push(key);
    }
    let queued = world.queued_remains().await;
    let of = |key: &ObjectKey| queued.iter().find(|one| one.key == *key);
    assert_eq!(queued.len(), 4);
    assert!(of(&keys[0]).is_none(), "one epoch that recorded nothing leaves its object alone");
    for (key, keep) in keys[1..].iter().zip([Some(keys[1].at(2)), None, None, None]) {
        let remains = of(key).unwrap();
        assert_eq!((remains.epochs, &remains.tails, &remains.keep), (Some(2), &vec![(1, 2)], &keep));
        assert_eq!(remains.multipart.as_ref().unwrap().key, key.at(1));
        assert_eq!(remains.store_id, "s3");
    }
}

async fn a_commit_takes_an_object_of_its_own_session_only(world: World) {
    let world = aside(world);
    let other = world.start(APP).await.unwrap();
    let other = world.begin(APP, &other.id, Some(0), "").await.unwrap().object_key;
    let upload = world.start(APP).await.unwrap();
    let lease = world.begin(APP, &upload.id, Some(0), "").await.unwrap();
    let digest = Digest::of(Algorithm::Sha256, b"content");
    for key in [other.clone(), format!("{other}.1"), "somewhere".to_owned()] {
        let refused = world.commit_at(&lease, &digest, 20, &key).await;
        assert_eq!(refusal(refused), ErrorCode::RequestInvalid, "{key}");
    }
    world.commit_at(&lease, &digest, 20, &format!("{}.1", lease.object_key)).await.unwrap();
}
