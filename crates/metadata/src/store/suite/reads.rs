//! Resolve, lookups and lists: absence is an answer, and nothing unreadable is listed.

use berth_oci::{Algorithm, Digest, ErrorCode};
use berth_proto::metadata::{
    self as proto, ReadableSet, metadata_server::Metadata as _, resolve_request::Reference,
};
use tonic::Request;

use super::{Manifest, World, answer, both, on_both_engines, refusal};

const APP: &str = "team/app";

on_both_engines!(
    resolve_tells_what_there_is_and_what_not,
    lookups_keep_the_order_asked,
    the_catalog_lists_what_may_be_read,
    holding_moves_only_what_is_due_sooner,
    holding_what_is_gone_says_so,
    an_absent_repository_has_no_visibility,
);

async fn resolve_tells_what_there_is_and_what_not(world: World) {
    let nothing = world.resolve(APP, Reference::RepositoryOnly(true)).await.unwrap();
    assert_eq!(nothing, proto::ResolveResponse::default());
    let manifest = world.image(APP, "config", &["v1"]).await;
    let blob = Digest::of(Algorithm::Sha256, b"config");
    let repository = world.resolve(APP, Reference::RepositoryOnly(true)).await.unwrap();
    assert!(!repository.repository_id.is_empty() && !repository.namespace_id.is_empty());
    assert!(!repository.public && repository.content.is_none());
    let sibling = world.resolve_tag("team/absent", "v1").await;
    assert_eq!((sibling.repository_id.as_str(), sibling.content.is_none()), ("", true));
    assert_eq!(sibling.namespace_id, repository.namespace_id);
    let by_tag = world.resolve_tag(APP, "v1").await;
    let by_digest = world.resolve_manifest(APP, &manifest.digest()).await;
    assert_eq!(by_tag, by_digest);
    assert!(by_tag.content.unwrap().object.is_none());
    let of_blob = world.resolve_blob(APP, &blob).await.content.unwrap();
    let object = of_blob.object.unwrap();
    assert_eq!((object.store_id.as_str(), object.size, object.format), ("default", 6, 0));
    assert_eq!((of_blob.size, of_blob.media_type.as_str()), (6, ""));
    // A manifest is no blob, a blob no manifest, and a tag of another repository is none.
    assert!(world.resolve_blob(APP, &manifest.digest()).await.content.is_none());
    assert!(world.resolve_manifest(APP, &blob).await.content.is_none());
    world.start("team/other").await.unwrap();
    assert!(world.resolve_tag("team/other", "v1").await.content.is_none());
    assert!(world.resolve_blob("team/other", &blob).await.content.is_none());
    world.publish(APP).await;
    assert!(world.resolve_tag(APP, "v1").await.public);
    let stranger = World { instance: "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(), ..world.clone() };
    assert_eq!(stranger.resolve_tag(APP, "v1").await, proto::ResolveResponse::default());
    let wrong = world.resolve(APP, Reference::BlobDigest("sha256:short".to_owned())).await;
    assert_eq!(refusal(wrong), ErrorCode::DigestInvalid);
}

async fn lookups_keep_the_order_asked(world: World) {
    world.start(APP).await.unwrap();
    world.publish(APP).await;
    let request = proto::LookupRepositoriesRequest {
        instance_id: world.instance.to_string(),
        paths: ["x/y", APP, "team/absent", APP].map(str::to_owned).to_vec(),
    };
    let found = answer(world.service.lookup_repositories(Request::new(request)).await).unwrap().repositories;
    assert_eq!(found.len(), 4);
    assert_eq!((found[0].namespace_id.as_str(), found[0].repository_id.as_str()), ("", ""));
    assert!(found[1].public && !found[1].repository_id.is_empty());
    assert_eq!((found[2].repository_id.as_str(), &found[2].namespace_id), ("", &found[1].namespace_id));
    assert_eq!(found[3], found[1]);
}

async fn the_catalog_lists_what_may_be_read(world: World) {
    for path in ["b/two", "a/one", "a/two", "c/open"] {
        world.put(path, &Manifest::index(&[]), &["v1"]).await.unwrap();
    }
    world.start("a/provisional").await.unwrap();
    world.publish("c/open").await;
    let list = |readable: ReadableSet, limit: u32, last: &str| {
        let request = proto::ListRepositoriesRequest {
            instance_id: world.instance.to_string(),
            readable: Some(readable),
            limit,
            last: last.to_owned(),
        };
        let world = world.clone();
        async move {
            let response = answer(world.service.list_repositories(Request::new(request)).await).unwrap();
            (response.paths.join(" "), response.more)
        }
    };
    let everything = ReadableSet { everything: true, ..ReadableSet::default() };
    assert_eq!(list(everything.clone(), 10, "").await, ("a/one a/two b/two c/open".to_owned(), false));
    assert_eq!(list(everything.clone(), 2, "a/one").await, ("a/two b/two".to_owned(), true));
    assert_eq!(list(everything, 2, "b/two").await, ("c/open".to_owned(), false));
    assert_eq!(list(ReadableSet::default(), 10, "").await, ("c/open".to_owned(), false));
    let found = world.resolve_tag("a/one", "v1").await;
    let one = ReadableSet { repository_ids: vec![found.repository_id], ..ReadableSet::default() };
    assert_eq!(list(one, 10, "").await, ("a/one c/open".to_owned(), false));
    let namespace = ReadableSet { namespace_ids: vec![found.namespace_id], ..ReadableSet::default() };
    assert_eq!(list(namespace, 10, "").await, ("a/one a/two c/open".to_owned(), false));
}

async fn holding_moves_only_what_is_due_sooner(world: World) {
    let manifest = world.image(APP, "config", &[]).await;
    let blob = Digest::of(Algorithm::Sha256, b"config");
    let repository_id = world.resolve_blob(APP, &blob).await.repository_id;
    let soon = &[
        both("UPDATE manifest_review_queue SET review_after = 5"),
        both("UPDATE link_review_queue SET review_after = 5"),
        both("UPDATE blob_review_queue SET review_after = 5"),
    ];
    let due = both(
        "SELECT (SELECT count(*) FROM manifest_review_queue WHERE review_after = 5) \
        + (SELECT count(*) FROM link_review_queue WHERE review_after = 5) \
        + (SELECT count(*) FROM blob_review_queue WHERE review_after = 5)",
    );
    let hold = |digest: String, manifest: bool| {
        let request = proto::HoldContentRequest {
            instance_id: world.instance.to_string(),
            repository_id: repository_id.clone(),
            digest,
            manifest,
        };
        let world = world.clone();
        async move { answer(world.service.hold_content(Request::new(request)).await).unwrap() }
    };
    world.stage(soon, vec![]).await;
    assert_eq!(world.count(&due).await, 3);
    hold(blob.to_string(), false).await;
    assert_eq!(world.count(&due).await, 1);
    hold(manifest.digest().to_string(), true).await;
    assert_eq!(world.count(&due).await, 0);
    let far = &[both("UPDATE link_review_queue SET review_after = 9000000000000000000")];
    world.stage(far, vec![]).await;
    hold(blob.to_string(), false).await;
    assert_eq!(
        world
            .count(&both("SELECT count(*) FROM link_review_queue WHERE review_after = 9000000000000000000"))
            .await,
        1
    );
}

async fn holding_what_is_gone_says_so(world: World) {
    world.image(APP, "config", &[]).await;
    let blob = Digest::of(Algorithm::Sha256, b"config");
    let absent = Digest::of(Algorithm::Sha256, b"collected meanwhile");
    let repository_id = world.resolve_blob(APP, &blob).await.repository_id;
    for (manifest, expected) in [(false, ErrorCode::BlobUnknown), (true, ErrorCode::ManifestUnknown)] {
        let request = proto::HoldContentRequest {
            instance_id: world.instance.to_string(),
            repository_id: repository_id.clone(),
            digest: absent.to_string(),
            manifest,
        };
        let outcome = answer(world.service.hold_content(Request::new(request)).await);
        assert_eq!(refusal(outcome), expected);
    }
}

async fn an_absent_repository_has_no_visibility(world: World) {
    let request = proto::SetRepositoryVisibilityRequest {
        instance_id: world.instance.to_string(),
        path: APP.to_owned(),
        public: true,
        manager: None,
    };
    let outcome = answer(world.service.set_repository_visibility(Request::new(request)).await);
    assert_eq!(refusal(outcome), ErrorCode::NameUnknown);
}
