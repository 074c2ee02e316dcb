//! What collection keeps and what it deletes, rule by rule.

use berth_database::{Engine, Statement, args};
use berth_oci::{Algorithm, Digest, ErrorCode};
use berth_proto::metadata::{self as proto, metadata_server::Metadata as Server};
use tonic::Request;

use super::{Manifest, SUBSCRIBER, World, answer, both, on_both_engines, refusal};
use crate::collect::Verdict;

const APP: &str = "team/app";

on_both_engines!(
    an_untagged_manifest_is_kept_unless_the_repository_says_otherwise,
    children_go_after_their_index,
    t21_a_referrer_goes_after_its_subject,
    t21_a_referrer_that_comes_first_has_a_day,
    a_link_goes_when_no_manifest_holds_it,
    bytes_go_when_the_last_link_goes,
    what_was_touched_within_the_floor_is_kept,
    asking_for_now_keeps_the_floor,
    an_expired_session_is_reaped,
    closed_sessions_are_forgotten,
    a_provisional_repository_goes_with_its_namespace,
    a_repository_in_use_stays,
    a_review_that_fails_is_put_off_alone,
    t19_the_same_layer_from_many_is_one_blob,
);

const QUEUES: [Statement; 4] = [
    both("UPDATE manifest_review_queue SET review_after = 0"),
    both("UPDATE link_review_queue SET review_after = 0"),
    both("UPDATE blob_review_queue SET review_after = 0"),
    both("UPDATE repository_review_queue SET review_after = 0"),
];

impl World {
    /// As if every delay had passed.
    pub(super) async fn make_due(&self) {
        self.stage(&QUEUES, args![]).await;
    }

    /// Everything that is due, once; what that frees is due later.
    pub(super) async fn review_due(&self) -> usize {
        let (metadata, mut deleted) = (&self.metadata, 0);
        while let Some(verdict) = metadata.review_next_manifest().await.unwrap() {
            deleted += usize::from(verdict == Verdict::Deleted);
        }
        while let Some(verdict) = metadata.review_next_link().await.unwrap() {
            deleted += usize::from(verdict == Verdict::Deleted);
        }
        while let Some(verdict) = metadata.review_next_blob().await.unwrap() {
            deleted += usize::from(verdict == Verdict::Deleted);
        }
        while let Some(verdict) = metadata.review_next_repository().await.unwrap() {
            deleted += usize::from(verdict == Verdict::Deleted);
        }
        deleted
    }

    /// Reviews until nothing more goes.
    pub(super) async fn collect(&self) -> usize {
        let mut deleted = 0;
        loop {
            self.make_due().await;
            match self.review_due().await {
                0 => return deleted,
                more => deleted += more,
            }
        }
    }

    async fn has_manifest(&self, manifest: &Manifest) -> bool {
        self.resolve_manifest(APP, &manifest.digest()).await.content.is_some()
    }

    async fn has_blob(&self, path: &str, digest: &Digest) -> bool {
        self.resolve_blob(path, digest).await.content.is_some()
    }

    async fn rows(&self, table: &str) -> i64 {
        let text: &'static str = Box::leak(format!("SELECT count(*) FROM {table}").into_boxed_str());
        self.count(&both(text)).await
    }
}

fn of(content: &str) -> Digest {
    Digest::of(Algorithm::Sha256, content.as_bytes())
}

async fn an_untagged_manifest_is_kept_unless_the_repository_says_otherwise(world: World) {
    let tagged = world.image(APP, "tagged", &["v1"]).await;
    let untagged = world.image(APP, "untagged", &[]).await;
    let was_tagged = world.image(APP, "was tagged", &["v2"]).await;
    world.delete_tag(APP, "v2").await.unwrap();
    assert_eq!(world.collect().await, 0);
    assert_eq!(world.rows("manifest_review_queue").await, 0);
    assert!(world.has_manifest(&untagged).await && world.has_manifest(&was_tagged).await);

    world.stage(&[both("UPDATE repositories SET keep_untagged = FALSE")], args![]).await;
    // Whoever touches them asks for the review; what is not in a queue is not looked for.
    world.put(APP, &untagged, &["v3"]).await.unwrap();
    world.put(APP, &was_tagged, &["v3"]).await.unwrap();
    world.delete_tag(APP, "v3").await.unwrap();
    assert_eq!(world.collect().await, 6, "two manifests, two links, two blobs");
    assert!(!world.has_manifest(&untagged).await && !world.has_manifest(&was_tagged).await);
    assert!(world.has_manifest(&tagged).await && world.has_blob(APP, &of("tagged")).await);
    assert!(!world.has_blob(APP, &of("untagged")).await);
    assert_eq!(world.rows("object_deletes").await, 2);

    let events = world.outbox.due(SUBSCRIBER, 1000).await.unwrap();
    let deleted: Vec<_> = events
        .into_iter()
        .filter(|due| due.event.r#type == "artifact.deleted")
        .map(|due| {
            let Some(berth_proto::events::event::Payload::Artifact(artifact)) = due.event.payload else {
                panic!("an event of something else")
            };
            artifact
        })
        .filter(|artifact| artifact.tag.is_empty())
        .collect();
    assert_eq!(deleted.len(), 2);
    assert!(deleted.iter().all(|artifact| artifact.principal == "system:collection"));
    assert!(deleted.iter().all(|artifact| artifact.repository == APP && artifact.size > 0));
}

async fn children_go_after_their_index(world: World) {
    let plain = world.image(APP, "plain", &[]).await;
    let tagged = world.image(APP, "tagged", &["child"]).await;
    let shared = world.image(APP, "shared", &[]).await;
    let first = Manifest::index(&[plain.digest(), tagged.digest(), shared.digest()]);
    let second = Manifest::index(&[shared.digest()]);
    world.put(APP, &first, &["first"]).await.unwrap();
    world.put(APP, &second, &["second"]).await.unwrap();
    assert_eq!(world.collect().await, 0);
    world.delete_manifest(APP, &first.digest()).await.unwrap();
    world.collect().await;
    assert!(!world.has_manifest(&plain).await && !world.has_blob(APP, &of("plain")).await);
    assert!(world.has_manifest(&tagged).await && world.has_manifest(&shared).await);
    world.delete_manifest(APP, &second.digest()).await.unwrap();
    world.collect().await;
    assert!(!world.has_manifest(&shared).await);

    // An index that collection deletes lets go in the same way, and untagging a child does not hold it.
    let inner = Manifest::index(&[tagged.digest()]);
    world.put(APP, &inner, &[]).await.unwrap();
    world.delete_tag(APP, "child").await.unwrap();
    let outer = Manifest::index(&[inner.digest()]);
    world.put(APP, &outer, &[]).await.unwrap();
    world.delete_manifest(APP, &outer.digest()).await.unwrap();
    world.put(APP, &tagged, &["child"]).await.unwrap();
    world.stage(&[both("UPDATE manifest_review_queue SET released = TRUE")], args![]).await;
    world.delete_tag(APP, "child").await.unwrap();
    world.collect().await;
    assert!(!world.has_manifest(&inner).await && !world.has_manifest(&tagged).await);
    assert_eq!((world.rows("manifests").await, world.rows("blobs").await), (0, 0));

    // A child that is pushed again is its own.
    let again = world.image(APP, "again", &[]).await;
    let index = Manifest::index(&[again.digest()]);
    world.put(APP, &index, &[]).await.unwrap();
    world.delete_manifest(APP, &index.digest()).await.unwrap();
    world.put(APP, &again, &[]).await.unwrap();
    world.collect().await;
    assert!(world.has_manifest(&again).await);
}

async fn t21_a_referrer_goes_after_its_subject(world: World) {
    let config = world.blob(APP, "config").await;
    let subject = Manifest::image(&[config]);
    world.put(APP, &subject, &["v1"]).await.unwrap();
    let signature = Manifest::about(&subject.digest(), &config, "application/signature");
    let about_it = Manifest::about(&signature.digest(), &config, "application/note");
    let tagged = Manifest::about(&subject.digest(), &config, "application/sbom");
    world.put(APP, &signature, &[]).await.unwrap();
    world.put(APP, &about_it, &[]).await.unwrap();
    world.put(APP, &tagged, &["sbom"]).await.unwrap();
    world.stage(&[both("UPDATE repositories SET keep_untagged = FALSE")], args![]).await;
    assert_eq!(world.collect().await, 0, "a referrer lives with its subject");
    world.delete_manifest(APP, &subject.digest()).await.unwrap();
    world.collect().await;
    assert!(!world.has_manifest(&signature).await && !world.has_manifest(&about_it).await);
    assert!(world.has_manifest(&tagged).await && world.has_blob(APP, &config).await);
    world.delete_manifest(APP, &tagged.digest()).await.unwrap();
    world.collect().await;
    assert_eq!((world.rows("links").await, world.rows("blobs").await), (0, 0));
}

async fn t21_a_referrer_that_comes_first_has_a_day(world: World) {
    let config = world.blob(APP, "config").await;
    let subject = Manifest::image(&[config]);
    let signature = Manifest::about(&subject.digest(), &config, "application/signature");
    world.put(APP, &signature, &[]).await.unwrap();
    assert_eq!(world.collect().await, 0);
    assert_eq!(world.rows("manifest_review_queue").await, 1, "it is looked at again");
    world.stage(&[both("UPDATE manifests SET pushed_at = 1")], args![]).await;
    world.put(APP, &subject, &[]).await.unwrap();
    assert_eq!(world.collect().await, 0, "its subject came");
    assert_eq!(world.rows("manifest_review_queue").await, 0);

    let lonely = Manifest::about(&of("nothing"), &config, "application/signature");
    world.put(APP, &lonely, &[]).await.unwrap();
    world.stage(&[both("UPDATE manifests SET pushed_at = 1")], args![]).await;
    assert_eq!(world.collect().await, 1);
    assert!(!world.has_manifest(&lonely).await && world.has_manifest(&signature).await);
}

async fn a_link_goes_when_no_manifest_holds_it(world: World) {
    let (held, loose) = (world.blob(APP, "held").await, world.blob(APP, "loose").await);
    world.put(APP, &Manifest::image(&[held]), &["v1"]).await.unwrap();
    world.make_due().await;
    assert_eq!(world.review_due().await, 1);
    assert!(world.has_blob(APP, &held).await && !world.has_blob(APP, &loose).await);
    assert_eq!(world.rows("blobs").await, 2, "the blob's own review comes later");
    let later = both("SELECT count(*) FROM blob_review_queue WHERE review_after > 0");
    assert_eq!(world.count(&later).await, 1);
    let stale = world.put(APP, &Manifest::image(&[held, loose]), &[]).await;
    assert_eq!(refusal(stale), ErrorCode::ManifestBlobUnknown);
    assert_eq!(world.collect().await, 1);
    assert_eq!((world.rows("blobs").await, world.rows("link_review_queue").await), (1, 0));
}

async fn bytes_go_when_the_last_link_goes(world: World) {
    let manifest = world.image(APP, "shared layer", &["v1"]).await;
    let other = world.image("team/other", "shared layer", &["v1"]).await;
    let layer = of("shared layer");
    assert_eq!(world.rows("object_deletes").await, 1, "the second upload's bytes");
    world.delete_manifest(APP, &manifest.digest()).await.unwrap();
    world.collect().await;
    assert!(!world.has_blob(APP, &layer).await && world.has_blob("team/other", &layer).await);
    assert_eq!((world.rows("blobs").await, world.rows("object_deletes").await), (1, 1));
    world.delete_manifest("team/other", &other.digest()).await.unwrap();
    world.delete_blob("team/other", &layer).await.unwrap();
    world.collect().await;
    assert_eq!((world.rows("blobs").await, world.rows("object_deletes").await), (0, 2));
    let sized = both("SELECT CAST(sum(size) AS BIGINT) FROM object_deletes");
    assert_eq!(world.count(&sized).await, 24);
    let status = proto::CollectionStatusRequest {};
    let status = answer(world.service.collection_status(Request::new(status)).await).unwrap();
    assert_eq!(status.reclaimable_bytes, 24);
    assert!(status.reclaimable_at.is_some());
    let objects = status.queues.iter().find(|queue| queue.name == "object").unwrap();
    assert_eq!(objects.depth, 2);
    // Not before the grace.
    assert!(world.metadata.claim_next_object().await.unwrap().is_none());
}

async fn hold(world: &World, digest: &Digest, manifest: bool) -> bool {
    let request = proto::HoldContentRequest {
        instance_id: world.instance.to_string(),
        repository_id: world.resolve_tag(APP, "none").await.repository_id,
        digest: digest.to_string(),
        manifest,
    };
    answer(world.service.hold_content(Request::new(request)).await).is_ok()
}

async fn what_was_touched_within_the_floor_is_kept(world: World) {
    let (seen, unseen) = (world.blob(APP, "seen").await, world.blob(APP, "unseen").await);
    let (mounted, pushed) = (world.blob(APP, "mounted").await, world.blob(APP, "pushed").await);
    let child = world.image(APP, "child", &[]).await;
    world.stage(&[both("UPDATE repositories SET keep_untagged = FALSE")], args![]).await;
    assert_eq!(world.review_due().await, 0, "nothing is due so soon");
    world.make_due().await;
    assert!(hold(&world, &seen, false).await && hold(&world, &child.digest(), true).await);
    let mount = proto::MountBlobRequest {
        access: world.access(APP),
        digest: mounted.to_string(),
        from: String::new(),
        readable: Some(proto::ReadableSet { everything: true, ..proto::ReadableSet::default() }),
    };
    assert!(answer(world.service.mount_blob(Request::new(mount)).await).unwrap().mounted);
    world.blob(APP, "pushed").await;
    assert_eq!(world.review_due().await, 1);
    for kept in [&seen, &mounted, &pushed] {
        assert!(world.has_blob(APP, kept).await, "{kept}");
    }
    assert!(!world.has_blob(APP, &unseen).await && world.has_manifest(&child).await);
    // What is gone is said to be gone, also when it went between a look and the hold.
    assert!(!hold(&world, &unseen, false).await && !hold(&world, &of("no manifest"), true).await);
}

async fn asking_for_now_keeps_the_floor(world: World) {
    world.blob(APP, "loose").await;
    let ask = async || {
        let request = Request::new(proto::CollectNowRequest::default());
        answer(world.service.collect_now(request).await).unwrap();
        while world.metadata.go_on_with_runs().await.unwrap() {}
    };
    ask().await;
    let (now, due) = world.metadata.first_due().await.unwrap();
    let floor = world.metadata.config.review_floor();
    for (queue, at) in due {
        let wait = at.since(now);
        assert!(wait + std::time::Duration::from_secs(5) > floor, "{queue:?} is due in {wait:?}");
        let is_hastened = wait <= floor;
        assert!(is_hastened || queue.name() == "session", "{queue:?} is due in {wait:?}");
    }
    // What is due already stays due.
    world.make_due().await;
    ask().await;
    assert_eq!(world.review_due().await, 1);
}

async fn an_expired_session_is_reaped(world: World) {
    let upload = world.start(APP).await.unwrap();
    let digest = of("late");
    let lease = world.begin(APP, &upload.id, None, &digest.to_string()).await.unwrap();
    assert_eq!(world.metadata.reap_next_session().await.unwrap(), None);
    world.stage(&[both("UPDATE upload_sessions SET expires_at = 1")], args![]).await;
    // Somebody has the lease: not yet.
    let held = world.metadata.reap_next_session().await.unwrap();
    let expected = if world.database.engine() == Engine::Sqlite { Some(Verdict::PutOff) } else { None };
    assert_eq!(held, expected);
    world.clock.advance(std::time::Duration::from_secs(61));
    world.stage(&[both("UPDATE upload_sessions SET expires_at = 1, lease_until = 0")], args![]).await;
    assert_eq!(world.metadata.reap_next_session().await.unwrap(), Some(Verdict::Deleted));
    assert_eq!(world.metadata.reap_next_session().await.unwrap(), None);
    // CVE-2026-32590: whoever held it, and whoever knows its name, finds nothing.
    assert_eq!(refusal(world.commit(APP, &lease, &digest, 4).await), ErrorCode::BlobUploadUnknown);
    assert_eq!(refusal(world.end(&lease, 4).await), ErrorCode::BlobUploadUnknown);
    assert_eq!(refusal(world.get(APP, &upload.id).await), ErrorCode::BlobUploadUnknown);
    let (now, due) = world.metadata.first_due().await.unwrap();
    let (_, at) = due.into_iter().find(|(queue, _)| queue.name() == "object").unwrap();
    let wait = at.since(now) + std::time::Duration::from_secs(30);
    assert!(wait > world.metadata.config.longest_operation(), "{wait:?}");
}

async fn closed_sessions_are_forgotten(world: World) {
    world.blob(APP, "committed").await;
    let cancelled = world.start(APP).await.unwrap();
    world.cancel(APP, &cancelled.id).await.unwrap();
    let open = world.start(APP).await.unwrap();
    assert_eq!(world.metadata.forget_closed_sessions().await.unwrap(), 0);
    let part = both(
        "INSERT INTO upload_parts (upload_id, number, epoch, start, size) \
         SELECT id, 1, 0, 0, 0 FROM upload_sessions",
    );
    world.stage(&[part, both("UPDATE upload_sessions SET expires_at = 1")], args![]).await;
    assert_eq!(world.metadata.forget_closed_sessions().await.unwrap(), 2);
    assert_eq!((world.rows("upload_sessions").await, world.rows("upload_parts").await), (1, 1));
    assert_eq!(refusal(world.cancel("team/none", &open.id).await), ErrorCode::BlobUploadUnknown);
}

async fn a_provisional_repository_goes_with_its_namespace(world: World) {
    let upload = world.start(APP).await.unwrap();
    world.blob("team/other", "loose").await;
    assert_eq!(world.collect().await, 2, "a link and its blob");
    let limits = both("SELECT namespaces * 100 + repositories FROM instance_limits");
    assert_eq!(world.count(&limits).await, 102, "sessions hold them");
    world.cancel(APP, &upload.id).await.unwrap();
    world.stage(&[both("DELETE FROM upload_sessions")], args![]).await;
    assert_eq!(world.collect().await, 2);
    assert_eq!((world.rows("repositories").await, world.rows("namespaces").await), (0, 0));
    assert_eq!(world.count(&limits).await, 0);
    assert_eq!(world.rows("repository_review_queue").await, 0);
    // It can be made again.
    world.image(APP, "again", &["v1"]).await;
    assert_eq!(world.count(&limits).await, 101);
}

async fn a_repository_in_use_stays(world: World) {
    let manifest = world.image(APP, "config", &["v1"]).await;
    world.start("team/second").await.unwrap();
    world.collect().await;
    assert_eq!(world.rows("repository_review_queue").await, 1, "only the provisional one is looked at again");
    world.delete_manifest(APP, &manifest.digest()).await.unwrap();
    world.stage(&[both("DELETE FROM upload_sessions")], args![]).await;
    world.collect().await;
    // Empty, but not provisional any more: it stays until somebody deletes it.
    assert_eq!((world.rows("repositories").await, world.rows("namespaces").await), (1, 1));
    let limits = both("SELECT namespaces * 100 + repositories FROM instance_limits");
    assert_eq!(world.count(&limits).await, 101);
}

async fn a_review_that_fails_is_put_off_alone(world: World) {
    let broken = world.image("team/broken", "one", &["v1"]).await;
    let fine = world.image(APP, "two", &["v1"]).await;
    world.stage(&[both("UPDATE repositories SET keep_untagged = FALSE")], args![]).await;
    world.delete_tag("team/broken", "v1").await.unwrap();
    world.delete_tag(APP, "v1").await.unwrap();
    let spoil = both("UPDATE repositories SET path = '?' WHERE path = 'team/broken'");
    world.stage(&[spoil], args![]).await;
    world.make_due().await;
    let (mut failed, mut deleted) = (0, 0);
    for _ in 0..4 {
        match world.metadata.review_next_manifest().await {
            Err(_) => failed += 1,
            Ok(Some(Verdict::Deleted)) => deleted += 1,
            Ok(_) => {}
        }
    }
    assert_eq!((failed, deleted), (1, 1));
    assert!(!world.has_manifest(&fine).await);
    assert_eq!(world.count(&both("SELECT attempts FROM manifest_review_queue")).await, 1);
    world.stage(&[both("UPDATE repositories SET path = 'team/broken' WHERE path = '?'")], args![]).await;
    world.collect().await;
    assert!(world.resolve_manifest("team/broken", &broken.digest()).await.content.is_none());
}

async fn t19_the_same_layer_from_many_is_one_blob(world: World) {
    let pushes = (0..64).map(|_| {
        let world = world.clone();
        async move { world.blob(APP, "the same").await }
    });
    futures::future::join_all(pushes).await;
    assert_eq!((world.rows("blobs").await, world.rows("links").await), (1, 1));
    assert_eq!(world.rows("object_deletes").await, 63);
    let kept = both("SELECT count(*) FROM object_deletes o JOIN blobs b ON b.object_key = o.object_key");
    assert_eq!(world.count(&kept).await, 0);
}
