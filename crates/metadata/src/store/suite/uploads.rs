//! Uploads: leases, epochs, resuming, closing twice, deduplication.

use std::{sync::Arc, time::Duration};

use berth_database::{DatabaseError, Engine, args};
use berth_oci::{Algorithm, Digest, ErrorCode};
use berth_service::{Clock as _, ManualClock};
use futures::future::join_all;
use tokio::sync::Notify;

use super::{World, both, on_both_engines, refusal};

const APP: &str = "team/app";

on_both_engines!(
    an_upload_goes_on_where_it_stands,
    the_newer_of_two_clients_has_the_upload,
    a_cancelled_upload_is_gone,
    a_repeated_close_gets_its_answer,
    t18_an_explicit_algorithm_binds,
    a_digest_at_the_start_picks_the_algorithm,
    an_upload_belongs_to_repository_and_principal,
    t19_one_digest_from_64_clients_is_one_blob,
    an_expired_session_is_unknown,
    checkpoints_renew_and_never_go_back,
    a_restart_with_the_clock_set_back_hands_out_newer_epochs,
);

fn of(text: &str) -> Digest {
    Digest::of(Algorithm::Sha256, text.as_bytes())
}

async fn an_upload_goes_on_where_it_stands(world: World) {
    let upload = world.start(APP).await.unwrap();
    assert_eq!(world.get(APP, &upload.id).await.unwrap().offset, 0);
    let first = world.begin(APP, &upload.id, Some(0), "").await.unwrap();
    assert!(first.hash_state.is_empty());
    assert!(first.object_key.starts_with(&format!("i/{}/", world.instance)));
    world.end(&first, 100).await.unwrap();
    assert_eq!(world.get(APP, &upload.id).await.unwrap().offset, 100);
    for wrong in [0, 99, 101] {
        let problem = world.begin(APP, &upload.id, Some(wrong), "").await.unwrap_err();
        assert_eq!(problem.code, ErrorCode::UploadOutOfOrder);
        assert_eq!(problem.detail.unwrap()["offset"], 100);
    }
    let second = world.begin(APP, &upload.id, Some(100), "").await.unwrap();
    assert!(second.epoch > first.epoch);
    assert_eq!((second.offset, second.hash_state.is_empty()), (100, false));
    assert_eq!(second.object_key, first.object_key);
    let digest = of("x");
    world.commit(APP, &second, &digest, 150).await.unwrap();
    let found = world.resolve_blob(APP, &digest).await.content.unwrap();
    assert_eq!((found.size, found.object.unwrap().key), (150, first.object_key));
    assert_eq!(refusal(world.get(APP, &upload.id).await), ErrorCode::BlobUploadUnknown);
}

async fn the_newer_of_two_clients_has_the_upload(world: World) {
    let upload = world.start(APP).await.unwrap();
    let old = world.begin(APP, &upload.id, Some(0), "").await.unwrap();
    let new = world.begin(APP, &upload.id, Some(0), "").await.unwrap();
    assert!(new.epoch > old.epoch);
    let problem = world.end(&old, 10).await.unwrap_err();
    assert_eq!(problem.code, ErrorCode::UploadBusy);
    assert_eq!(problem.detail.unwrap()["offset"], 0);
    assert_eq!(refusal(world.commit(APP, &old, &of("x"), 10).await), ErrorCode::UploadBusy);
    world.end(&new, 20).await.unwrap();
    assert_eq!(world.get(APP, &upload.id).await.unwrap().offset, 20);
    // A refused request must not take the lease from its holder.
    let third = world.begin(APP, &upload.id, None, "").await.unwrap();
    assert_eq!(refusal(world.begin(APP, &upload.id, Some(7), "").await), ErrorCode::UploadOutOfOrder);
    world.end(&third, 30).await.unwrap();
}

async fn a_cancelled_upload_is_gone(world: World) {
    let upload = world.start(APP).await.unwrap();
    let lease = world.begin(APP, &upload.id, None, "").await.unwrap();
    world.cancel(APP, &upload.id).await.unwrap();
    assert_eq!(refusal(world.end(&lease, 5).await), ErrorCode::BlobUploadUnknown);
    assert_eq!(refusal(world.commit(APP, &lease, &of("x"), 5).await), ErrorCode::BlobUploadUnknown);
    assert_eq!(refusal(world.begin(APP, &upload.id, None, "").await), ErrorCode::BlobUploadUnknown);
    assert_eq!(refusal(world.get(APP, &upload.id).await), ErrorCode::BlobUploadUnknown);
    assert_eq!(refusal(world.cancel(APP, &upload.id).await), ErrorCode::BlobUploadUnknown);
    assert_eq!(world.count(&both("SELECT count(*) FROM object_deletes")).await, 1);
    assert!(world.resolve_blob(APP, &of("x")).await.content.is_none());
}

async fn a_repeated_close_gets_its_answer(world: World) {
    let upload = world.start(APP).await.unwrap();
    let digest = of("content");
    let lease = world.begin(APP, &upload.id, None, &digest.to_string()).await.unwrap();
    world.commit(APP, &lease, &digest, 7).await.unwrap();
    world.commit(APP, &lease, &digest, 7).await.unwrap();
    assert_eq!(refusal(world.commit(APP, &lease, &of("other"), 7).await), ErrorCode::BlobUploadUnknown);
    let again = world.begin(APP, &upload.id, None, &digest.to_string()).await.unwrap();
    assert_eq!(again.committed_digest, digest.to_string());
    let other = world.begin(APP, &upload.id, None, &of("other").to_string()).await;
    assert_eq!(refusal(other), ErrorCode::BlobUploadUnknown);
    world.delete_blob(APP, &digest).await.unwrap();
    let unlinked = world.begin(APP, &upload.id, None, &digest.to_string()).await;
    assert_eq!(refusal(unlinked), ErrorCode::BlobUploadUnknown);
}

/// The second PUT waits for the first one's commit, and must see what that one did.
#[tokio::test(flavor = "multi_thread")]
async fn a_close_repeated_while_the_first_commits_gets_its_answer() {
    let Some(world) = World::open(Engine::Postgres).await else { return };
    let upload = world.start(APP).await.unwrap();
    let digest = of("content");
    let lease = world.begin(APP, &upload.id, None, &digest.to_string()).await.unwrap();
    let committed = [
        both("UPDATE upload_sessions SET state = 'committed', digest = $2 WHERE id = $1"),
        both(
            "INSERT INTO blobs (instance_id, digest, size, store_id, object_key, created_at) \
             SELECT instance_id, digest, 7, store_id, object_key, 0 FROM upload_sessions \
             WHERE id = $1 AND digest = $2",
        ),
        both(
            "INSERT INTO links (repository_id, digest, instance_id, linked_at) \
             SELECT repository_id, digest, instance_id, 0 FROM upload_sessions WHERE id = $1 AND digest = $2",
        ),
    ];
    let id = upload.id.clone();
    let (locked, is_locked) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let is_held = Arc::clone(&is_locked);
    let go_on = Arc::clone(&locked);
    let first = world.database.write("slow_commit", move |tx| {
        let (id, is_held, go_on) = (id.clone(), Arc::clone(&is_held), Arc::clone(&go_on));
        Box::pin(async move {
            for statement in &committed {
                tx.execute(statement, args![id.as_str(), digest.to_bytes()]).await?;
            }
            is_held.notify_one();
            go_on.notified().await;
            Ok::<_, DatabaseError>(())
        })
    });
    let second = async {
        is_locked.notified().await;
        let text = digest.to_string();
        let (answer, ()) = tokio::join!(world.begin(APP, &upload.id, None, &text), async {
            // Time enough to reach the lock.
            tokio::time::sleep(Duration::from_millis(300)).await;
            locked.notify_one();
        });
        (answer, world.commit(APP, &lease, &digest, 7).await)
    };
    let (first, (begun, committed)) = tokio::join!(first, second);
    first.unwrap();
    assert_eq!(begun.unwrap().committed_digest, digest.to_string());
    committed.unwrap();
    world.delete_blob(APP, &digest).await.unwrap();
    assert_eq!(refusal(world.commit(APP, &lease, &digest, 7).await), ErrorCode::BlobUploadUnknown);
}

async fn t18_an_explicit_algorithm_binds(world: World) {
    let upload = world.start_for(APP, "sha512").await.unwrap();
    assert_eq!(upload.algorithm, "sha512");
    let wrong = of("x");
    let refused = world.begin(APP, &upload.id, None, &wrong.to_string()).await;
    assert_eq!(refusal(refused), ErrorCode::DigestInvalid);
    let lease = world.begin(APP, &upload.id, None, "").await.unwrap();
    assert_eq!((lease.algorithm.as_str(), lease.algorithm_explicit), ("sha512", true));
    assert_eq!(world.end(&lease, 10).await.unwrap().algorithm, "sha512");
    let lease = world.begin(APP, &upload.id, None, "").await.unwrap();
    assert_eq!(refusal(world.commit(APP, &lease, &wrong, 1).await), ErrorCode::DigestInvalid);
    assert_eq!(world.count(&both("SELECT count(*) FROM blobs")).await, 0);
    let right = Digest::of(Algorithm::Sha512, b"x");
    world.commit(APP, &lease, &right, 1).await.unwrap();
    assert_eq!(refusal(world.start_for(APP, "md5").await), ErrorCode::DigestInvalid);
    assert!(world.resolve_blob(APP, &right).await.content.is_some());
}

async fn a_digest_at_the_start_picks_the_algorithm(world: World) {
    let upload = world.start(APP).await.unwrap();
    let long = Digest::of(Algorithm::Sha512, b"x").to_string();
    let lease = world.begin(APP, &upload.id, None, &long).await.unwrap();
    assert_eq!((lease.algorithm.as_str(), lease.algorithm_explicit), ("sha512", false));
    world.end(&lease, 10).await.unwrap();
    // The running hash goes on; a digest of the other algorithm is checked by reading back, not refused.
    let lease = world.begin(APP, &upload.id, None, &of("x").to_string()).await.unwrap();
    assert_eq!(lease.algorithm, "sha512");
    world.commit(APP, &lease, &of("x"), 10).await.unwrap();
}

async fn an_upload_belongs_to_repository_and_principal(world: World) {
    let upload = world.start(APP).await.unwrap();
    world.start("team/other").await.unwrap();
    assert_eq!(refusal(world.get("team/other", &upload.id).await), ErrorCode::BlobUploadUnknown);
    assert_eq!(refusal(world.get("team/absent", &upload.id).await), ErrorCode::BlobUploadUnknown);
    let mut access = world.access(APP);
    access.as_mut().unwrap().principal = "user:other".to_owned();
    let request = berth_proto::metadata::BeginAppendRequest {
        access,
        upload_id: upload.id.clone(),
        offset: None,
        digest: String::new(),
    };
    use berth_proto::metadata::metadata_server::Metadata as _;
    let refused = super::answer(world.service.begin_append(tonic::Request::new(request)).await);
    assert_eq!(refusal(refused), ErrorCode::BlobUploadUnknown);
    assert_eq!(refusal(world.get(APP, "not-an-id").await), ErrorCode::BlobUploadUnknown);
}

async fn t19_one_digest_from_64_clients_is_one_blob(world: World) {
    let digest = of("layer");
    let pushes = (0..64).map(|number| {
        let world = world.clone();
        async move {
            let path = format!("team/app{}", number % 4);
            let upload = world.start(&path).await.unwrap();
            let lease = world.begin(&path, &upload.id, None, &digest.to_string()).await.unwrap();
            world.commit(&path, &lease, &digest, 5).await.unwrap();
        }
    });
    join_all(pushes).await;
    assert_eq!(world.count(&both("SELECT count(*) FROM blobs")).await, 1);
    assert_eq!(world.count(&both("SELECT count(*) FROM links")).await, 4);
    assert_eq!(world.count(&both("SELECT count(*) FROM object_deletes")).await, 63);
    let kept = both("SELECT count(*) FROM object_deletes d JOIN blobs b ON b.object_key = d.object_key");
    assert_eq!(world.count(&kept).await, 0);
}

async fn an_expired_session_is_unknown(world: World) {
    let upload = world.start(APP).await.unwrap();
    world.stage(&[both("UPDATE upload_sessions SET expires_at = 1")], vec![]).await;
    assert_eq!(refusal(world.get(APP, &upload.id).await), ErrorCode::BlobUploadUnknown);
    assert_eq!(refusal(world.begin(APP, &upload.id, None, "").await), ErrorCode::BlobUploadUnknown);
}

async fn checkpoints_renew_and_never_go_back(world: World) {
    use berth_proto::metadata::{CheckpointRequest, metadata_server::Metadata as _};
    let upload = world.start(APP).await.unwrap();
    let lease = world.begin(APP, &upload.id, None, "").await.unwrap();
    let checkpoint = |offset: u64| {
        let request = CheckpointRequest {
            upload_id: lease.upload_id.clone(),
            epoch: lease.epoch,
            offset,
            hash_state: berth_oci::Hasher::new(Algorithm::Sha256).save().into(),
            change: None,
        };
        let world = world.clone();
        async move { super::answer(world.service.checkpoint(tonic::Request::new(request)).await) }
    };
    assert!(checkpoint(64).await.unwrap().expires_at >= lease.expires_at);
    assert_eq!(world.get(APP, &upload.id).await.unwrap().offset, 64);
    assert_eq!(refusal(checkpoint(63).await), ErrorCode::UploadBusy);
    world.clock.advance(Duration::from_secs(3));
    assert!(checkpoint(128).await.unwrap().expires_at > lease.expires_at);
    world.end(&lease, 130).await.unwrap();
    assert_eq!(world.get(APP, &upload.id).await.unwrap().offset, 130);
}

async fn a_restart_with_the_clock_set_back_hands_out_newer_epochs(world: World) {
    let upload = world.start(APP).await.unwrap();
    // Nothing is recorded under these; only the store has seen them.
    let mut last = 0;
    for _ in 0..3 {
        last = world.begin(APP, &upload.id, Some(0), "").await.unwrap().epoch;
    }
    for _ in 0..2 {
        let clock = ManualClock::at(world.clock.now().minus(Duration::from_secs(3600)));
        let restarted = World { instance: world.instance, ..World::over(world.database.clone(), clock) };
        let lease = restarted.begin(APP, &upload.id, Some(0), "").await.unwrap();
        assert!(lease.epoch > last, "{} after {last}", lease.epoch);
        last = lease.epoch;
    }
}
