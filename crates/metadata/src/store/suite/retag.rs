//! Tags and manifests by hand, judged as those of a push are.

use berth_database::args;
use berth_oci::{Algorithm, Digest, ErrorCode, Problem};
use berth_proto::metadata::{
    DeleteManifestByManagerRequest, DeleteTagByManagerRequest, Manager, PutTagRequest, TagEntry,
    contents_server::Contents,
};
use futures::future::join_all;
use tonic::Request;

use super::{Manifest, World, answer, both, on_both_engines, refusal};

on_both_engines!(
    a_tag_by_hand_is_judged_like_a_push,
    a_tag_is_moved_once_under_a_key,
    what_is_deleted_by_hand_is_judged_like_any_other,
    by_hand_means_this_repository,
);

const APP: &str = "team/app";

fn manager(key: &str) -> Option<Manager> {
    Some(Manager {
        principal: "user:hand".into(),
        credential: "password".into(),
        idempotency_key: key.to_owned(),
        ..Manager::default()
    })
}

impl World {
    async fn put_tag(
        &self,
        tag: &str,
        digest: &Digest,
        change: impl FnOnce(&mut PutTagRequest),
    ) -> Result<TagEntry, Problem> {
        let mut request = PutTagRequest {
            manager: manager(""),
            instance_id: self.instance.to_string(),
            path: APP.to_owned(),
            tag: tag.to_owned(),
            digest: digest.to_string(),
            ..PutTagRequest::default()
        };
        change(&mut request);
        answer(self.service.put_tag(Request::new(request)).await)
    }

    async fn untag(
        &self,
        tag: &str,
        change: impl FnOnce(&mut DeleteTagByManagerRequest),
    ) -> Result<(), Problem> {
        let mut request = DeleteTagByManagerRequest {
            manager: manager(""),
            instance_id: self.instance.to_string(),
            path: APP.to_owned(),
            tag: tag.to_owned(),
            ..DeleteTagByManagerRequest::default()
        };
        change(&mut request);
        answer(self.service.delete_tag_by_manager(Request::new(request)).await).map(drop)
    }

    async fn drop_manifest(&self, digest: &Digest, repository: &str) -> Result<(), Problem> {
        let request = DeleteManifestByManagerRequest {
            manager: manager(""),
            instance_id: self.instance.to_string(),
            path: APP.to_owned(),
            repository_id: repository.to_owned(),
            digest: digest.to_string(),
        };
        answer(self.service.delete_manifest_by_manager(Request::new(request)).await).map(drop)
    }
}

async fn a_tag_by_hand_is_judged_like_a_push(world: World) {
    let first = world.image(APP, "a", &["v1"]).await.digest();
    let second = world.image(APP, "b", &["v2"]).await.digest();
    let events = async || world.count(&both("SELECT count(*) FROM outbox")).await;
    let before = events().await;
    let made = world.put_tag("stable", &first, |_| {}).await.unwrap();
    assert_eq!((made.digest.clone(), made.updated_by.as_str()), (first.to_string(), "user:hand"));
    assert_eq!(made, world.tag(APP, "stable").await.unwrap());
    assert_eq!(events().await, before + 1);
    assert_eq!(world.put_tag("stable", &first, |_| {}).await.unwrap(), made, "it is there already");
    assert_eq!(events().await, before + 1);
    // Only what was seen is moved.
    let moved = world.put_tag("stable", &second, |request| request.version = made.version).await.unwrap();
    assert_eq!(moved.digest, second.to_string());
    let stale = world.put_tag("stable", &first, |request| request.version = made.version).await;
    assert_eq!(refusal(stale), ErrorCode::PreconditionFailed);
    let absent = world.put_tag("absent", &first, |request| request.version = 7).await;
    assert_eq!(refusal(absent), ErrorCode::PreconditionFailed);
    // What it pointed to is looked at, as after a push.
    let reviewed = both("SELECT count(*) FROM manifest_review_queue");
    assert!(world.count(&reviewed).await >= 2);
    let keeps = |request: &mut PutTagRequest| request.keeps_tags = true;
    assert_eq!(refusal(world.put_tag("stable", &first, keeps).await), ErrorCode::Denied);
    world.put_tag("fresh", &first, keeps).await.unwrap();
    let unknown = Digest::of(Algorithm::Sha256, b"unknown");
    assert_eq!(refusal(world.put_tag("v9", &unknown, |_| {}).await), ErrorCode::ManifestUnknown);
    assert_eq!(refusal(world.tag(APP, "v9").await), ErrorCode::ManifestUnknown);
    world.stage(&[both("UPDATE repositories SET immutable_tags = TRUE")], args![]).await;
    assert_eq!(refusal(world.put_tag("stable", &first, |_| {}).await), ErrorCode::TagImmutable);
    assert!(world.put_tag("newer", &first, |_| {}).await.unwrap().immutable);
    assert!(!world.put_tag("latest", &first, |_| {}).await.unwrap().immutable);
    world.put_tag("latest", &second, |_| {}).await.unwrap();
    let elsewhere = world.put_tag("v1", &first, |request| request.path = "team/none".into()).await;
    assert_eq!(refusal(elsewhere), ErrorCode::NameUnknown);
}

async fn a_tag_is_moved_once_under_a_key(world: World) {
    let first = world.image(APP, "a", &["v1"]).await.digest();
    let before = world.count(&both("SELECT count(*) FROM outbox")).await;
    let asked = (0..20).map(|_| world.put_tag("stable", &first, |request| request.manager = manager("k")));
    let made: Vec<_> = join_all(asked).await.into_iter().map(Result::unwrap).collect();
    assert!(made.iter().all(|one| *one == made[0]), "{made:?}");
    assert_eq!(world.count(&both("SELECT count(*) FROM outbox")).await, before + 1);
    let second = world.image(APP, "b", &["stable"]).await.digest();
    let again = world.put_tag("stable", &first, |request| request.manager = manager("k")).await.unwrap();
    assert_eq!(again, made[0]);
    assert_eq!(world.tag(APP, "stable").await.unwrap().digest, second.to_string());
}

async fn what_is_deleted_by_hand_is_judged_like_any_other(world: World) {
    let image = world.image(APP, "a", &["v1", "v2"]).await.digest();
    let index = Manifest::index(&[image]);
    world.put(APP, &index, &["all"]).await.unwrap();
    let seen = world.tag(APP, "v1").await.unwrap();
    let stale = world.untag("v1", |request| request.version = seen.version + 1).await;
    assert_eq!(refusal(stale), ErrorCode::PreconditionFailed);
    world.untag("v1", |request| request.version = seen.version).await.unwrap();
    assert_eq!(refusal(world.untag("v1", |_| {}).await), ErrorCode::ManifestUnknown);
    assert!(world.resolve_manifest(APP, &image).await.content.is_some());
    let held = world.drop_manifest(&image, "").await.unwrap_err();
    assert_eq!(held.code, ErrorCode::Held);
    assert_eq!(held.detail.unwrap()["manifest"], index.digest().to_string());
    world.drop_manifest(&index.digest(), "").await.unwrap();
    world.drop_manifest(&image, "").await.unwrap();
    assert!(world.resolve_tag(APP, "v2").await.content.is_none());
    assert_eq!(refusal(world.drop_manifest(&image, "").await), ErrorCode::ManifestUnknown);
}

async fn by_hand_means_this_repository(world: World) {
    let image = world.image(APP, "a", &["v1"]).await.digest();
    let old = world.id_of(APP).await;
    world.remove(APP).await.unwrap();
    assert_eq!(refusal(world.drop_manifest(&image, &old).await), ErrorCode::NameUnknown);
    world.image(APP, "a", &["v1"]).await;
    let of_old = |request: &mut PutTagRequest| request.repository_id.clone_from(&old);
    assert_eq!(refusal(world.put_tag("v2", &image, of_old).await), ErrorCode::NameUnknown);
    let of_old = |request: &mut DeleteTagByManagerRequest| request.repository_id.clone_from(&old);
    assert_eq!(refusal(world.untag("v1", of_old).await), ErrorCode::NameUnknown);
    assert_eq!(refusal(world.drop_manifest(&image, &old).await), ErrorCode::NameUnknown);
    let new = world.id_of(APP).await;
    world.put_tag("v2", &image, |request| request.repository_id = new).await.unwrap();
}
