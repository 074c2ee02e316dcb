//! Namespaces and repositories by hand: settings, and removal that leaves nothing and shows nothing.

use berth_database::args;
use berth_oci::{ErrorCode, Problem};
use berth_proto::metadata::{
    CreateNamespaceRequest, CreateRepositoryRequest, DeleteNamespaceRequest, DeleteRepositoryRequest,
    GetNamespaceRequest, GetRepositoryRequest, GetUsageRequest, GetUsageResponse, ListNamespacesRequest,
    MountBlobRequest, NamespaceEntry, ReadableSet, RemoveInstanceRequest, RepositoryEntry, SetLimitsRequest,
    UpdateNamespaceRequest, UpdateRepositoryRequest, access::BoundTo, limits_server::Limits,
    metadata_server::Metadata as Server, repositories_server::Repositories,
};
use tonic::Request;

use super::{Manifest, World, answer, both, on_both_engines, refusal};
use crate::collect::Verdict;

on_both_engines!(
    a_namespace_says_what_repositories_begin_with,
    limits_are_judged_by_hand_as_by_push,
    changes_compare_what_was_seen,
    a_tag_that_is_there_stays_where_tags_are_immutable,
    a_removed_repository_is_gone_at_once_and_its_successor_is_another,
    a_removed_repository_leaves_nothing,
    what_was_removed_is_not_mounted,
    a_namespace_goes_with_all_that_is_in_it,
    an_instance_goes_with_all_that_is_in_it,
    use_counts_each_blob_of_an_instance_once,
);

const APP: &str = "team/app";

impl World {
    pub(super) async fn make_namespace(
        &self,
        name: &str,
        change: impl FnOnce(&mut CreateNamespaceRequest),
    ) -> Result<NamespaceEntry, Problem> {
        let mut request = CreateNamespaceRequest {
            instance_id: self.instance.to_string(),
            name: name.to_owned(),
            create_on_push: true,
            ..CreateNamespaceRequest::default()
        };
        change(&mut request);
        answer(self.service.create_namespace(Request::new(request)).await)
    }

    pub(super) async fn make_repository(&self, path: &str) -> Result<RepositoryEntry, Problem> {
        let request = CreateRepositoryRequest {
            instance_id: self.instance.to_string(),
            path: path.to_owned(),
            ..CreateRepositoryRequest::default()
        };
        answer(self.service.create_repository(Request::new(request)).await)
    }

    async fn look(&self, path: &str) -> Result<RepositoryEntry, Problem> {
        let request = GetRepositoryRequest {
            instance_id: self.instance.to_string(),
            path: path.to_owned(),
            id: String::new(),
        };
        answer(self.service.get_repository(Request::new(request)).await)
    }

    pub(super) async fn remove(&self, path: &str) -> Result<(), Problem> {
        let request = DeleteRepositoryRequest {
            instance_id: self.instance.to_string(),
            path: path.to_owned(),
            ..DeleteRepositoryRequest::default()
        };
        answer(self.service.delete_repository(Request::new(request)).await).map(drop)
    }

    pub(super) async fn remove_namespace(&self, name: &str) -> Result<(), Problem> {
        let request = DeleteNamespaceRequest {
            instance_id: self.instance.to_string(),
            name: name.to_owned(),
            ..DeleteNamespaceRequest::default()
        };
        answer(self.service.delete_namespace(Request::new(request)).await).map(drop)
    }

    /// Works on removals and on sessions until nothing is left, without waiting for anything.
    pub(super) async fn drain(&self) -> usize {
        for steps in 1..10_000 {
            // What waits for others comes after them, as it would by the clock.
            let due = "UPDATE removals SET due_at = 0 WHERE kind = 'repository' \
                OR NOT EXISTS (SELECT 1 FROM removals r WHERE r.kind = 'repository')";
            self.stage(&[both(due)], args![]).await;
            let step = self.metadata.remove_next().await.unwrap();
            while self.metadata.reap_next_session().await.unwrap().is_some() {}
            while self.metadata.forget_closed_sessions().await.unwrap() > 0 {}
            match step {
                None => return steps,
                Some(Verdict::PutOff | Verdict::Deleted) => {}
                Some(Verdict::Kept) => panic!("a removal is never given up"),
            }
        }
        panic!("it has no end");
    }

    async fn counted(&self) -> (i64, i64) {
        let namespaces = self.count(&both("SELECT namespaces FROM instance_limits")).await;
        (namespaces, self.count(&both("SELECT repositories FROM instance_limits")).await)
    }
}

async fn a_namespace_says_what_repositories_begin_with(world: World) {
    let made = world
        .make_namespace("team", |request| {
            request.default_public = true;
            request.default_immutable = true;
            request.description = "what it is for".into();
        })
        .await
        .unwrap();
    assert_eq!((made.default_public, made.default_immutable, made.version), (true, true, 1));
    world.image(APP, "a", &["v1"]).await;
    let pushed = world.look(APP).await.unwrap();
    assert!(pushed.public && pushed.immutable_tags && !pushed.provisional);
    assert_eq!(pushed.namespace_id, made.id);
    let by_hand = world.make_repository("team/other").await.unwrap();
    assert!(by_hand.public && by_hand.immutable_tags && !by_hand.provisional);
    assert_eq!(refusal(world.make_repository("team/other").await), ErrorCode::AlreadyExists);
    assert_eq!(refusal(world.make_repository("none/other").await), ErrorCode::NotFound);
    assert_eq!(refusal(world.make_repository("alone").await), ErrorCode::NameInvalid);
    assert_eq!(refusal(world.make_namespace("team", |_| {}).await), ErrorCode::AlreadyExists);
    for name in ["", "x", "a/b", "Team", "a..b", &"x".repeat(121)] {
        assert_eq!(refusal(world.make_namespace(name, |_| {}).await), ErrorCode::NameInvalid, "{name}");
    }
    world.make_namespace("closed", |request| request.create_on_push = false).await.unwrap();
    assert_eq!(refusal(world.start("closed/app").await), ErrorCode::Denied);
    world.make_repository("closed/app").await.unwrap();
    world.image("closed/app", "b", &["v1"]).await;
    let list = async |after: &str, limit| {
        let request = ListNamespacesRequest {
            instance_id: world.instance.to_string(),
            limit,
            after: after.to_owned(),
            ..ListNamespacesRequest::default()
        };
        let listed = answer(world.service.list_namespaces(Request::new(request)).await).unwrap().namespaces;
        listed.into_iter().map(|namespace| namespace.name).collect::<Vec<_>>()
    };
    assert_eq!(list("", 1).await, ["closed"]);
    assert_eq!(list("closed", 10).await, ["team"]);
    assert_eq!(world.counted().await, (2, 3));
}

async fn limits_are_judged_by_hand_as_by_push(world: World) {
    let request = SetLimitsRequest {
        instance_id: world.instance.to_string(),
        revision: 1,
        max_namespaces: Some(1),
        max_repositories: Some(2),
        max_depth: Some(1),
    };
    answer(world.service.set_limits(Request::new(request)).await).unwrap();
    world.make_namespace("team", |_| {}).await.unwrap();
    let refused = world.make_namespace("more", |_| {}).await.unwrap_err();
    assert_eq!(refused.detail.unwrap(), serde_json::json!({ "used": 1, "limit": 1, "unit": "namespaces" }));
    assert_eq!(refusal(world.make_repository("team/a/b").await), ErrorCode::NameInvalid);
    world.make_repository(APP).await.unwrap();
    world.image("team/b", "b", &["v1"]).await;
    let refused = world.make_repository("team/c").await.unwrap_err();
    assert_eq!(refused.detail.unwrap(), serde_json::json!({ "used": 2, "limit": 2, "unit": "repositories" }));
    assert_eq!(refusal(world.start("team/c").await), ErrorCode::QuotaExceeded);
    // What is removed makes room at once.
    world.remove(APP).await.unwrap();
    world.make_repository("team/c").await.unwrap();
}

async fn changes_compare_what_was_seen(world: World) {
    let namespace = world.make_namespace("team", |_| {}).await.unwrap();
    let change = async |version, description: &str| {
        let request = UpdateNamespaceRequest {
            instance_id: world.instance.to_string(),
            name: "team".into(),
            version,
            description: Some(description.to_owned()),
            ..UpdateNamespaceRequest::default()
        };
        answer(world.service.update_namespace(Request::new(request)).await)
    };
    let changed = change(namespace.version, "one").await.unwrap();
    assert_eq!((changed.description.as_str(), changed.version, changed.create_on_push), ("one", 2, true));
    assert_eq!(refusal(change(namespace.version, "two").await), ErrorCode::PreconditionFailed);
    assert_eq!(change(0, "two").await.unwrap().description, "two");
    let repository = world.make_repository(APP).await.unwrap();
    let change = async |version, public| {
        let request = UpdateRepositoryRequest {
            instance_id: world.instance.to_string(),
            path: APP.into(),
            version,
            public: Some(public),
            summary: Some("a line".into()),
            ..UpdateRepositoryRequest::default()
        };
        answer(world.service.update_repository(Request::new(request)).await)
    };
    assert!(change(repository.version, true).await.unwrap().public);
    assert!(world.resolve_tag(APP, "v1").await.public);
    assert_eq!(refusal(change(repository.version, false).await), ErrorCode::PreconditionFailed);
    let after = change(0, false).await.unwrap();
    assert_eq!((after.public, after.summary.as_str(), after.keep_untagged), (false, "a line", true));
    assert!(!world.resolve_tag(APP, "v1").await.public);
    let request = GetNamespaceRequest {
        instance_id: world.instance.to_string(),
        name: "none".into(),
        ..Default::default()
    };
    assert_eq!(
        refusal(answer(world.service.get_namespace(Request::new(request)).await)),
        ErrorCode::NotFound
    );
    let events = world.count(&both("SELECT count(*) FROM outbox")).await;
    assert_eq!(events, 6, "each change is told once, and none that was refused");
}

async fn a_tag_that_is_there_stays_where_tags_are_immutable(world: World) {
    world.make_namespace("team", |request| request.default_immutable = true).await.unwrap();
    let first = world.image(APP, "a", &["v1", "latest"]).await;
    let second = Manifest::image(&[world.blob(APP, "b").await]);
    let refused = world.put(APP, &second, &["v1"]).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::TagImmutable);
    assert_eq!(refusal(world.put(APP, &second, &["v2", "v1"]).await), ErrorCode::TagImmutable);
    assert!(world.resolve_tag(APP, "v2").await.content.is_none(), "all or nothing");
    world.put(APP, &first, &["v1"]).await.unwrap();
    world.put(APP, &second, &["latest", "v2"]).await.unwrap();
    assert_eq!(world.resolve_tag(APP, "v1").await.content.unwrap().digest, first.digest().to_string());
    assert_eq!(world.resolve_tag(APP, "latest").await.content.unwrap().digest, second.digest().to_string());
    // Deleting is another right, and a tag that went may be made again.
    world.delete_tag(APP, "v1").await.unwrap();
    world.put(APP, &second, &["v1"]).await.unwrap();
}

async fn a_removed_repository_is_gone_at_once_and_its_successor_is_another(world: World) {
    let image = world.image(APP, "a", &["v1"]).await;
    let blob = world.blob(APP, "layer").await;
    let upload = world.start(APP).await.unwrap();
    let old = world.resolve_tag(APP, "v1").await;
    assert_eq!(world.counted().await, (1, 1));
    world.remove(APP).await.unwrap();
    assert_eq!(world.counted().await, (1, 0));
    for resolved in [
        world.resolve_tag(APP, "v1").await,
        world.resolve_manifest(APP, &image.digest()).await,
        world.resolve_blob(APP, &blob).await,
    ] {
        assert!(resolved.repository_id.is_empty() && resolved.content.is_none());
    }
    assert_eq!(refusal(world.look(APP).await), ErrorCode::NotFound);
    world.remove(APP).await.unwrap();
    assert_eq!(world.counted().await, (1, 0), "it is on its way already");
    assert_eq!(refusal(world.get(APP, &upload.id).await), ErrorCode::BlobUploadUnknown);
    let of_old = world.bound(APP, BoundTo::RepositoryId(old.repository_id.clone()));
    assert_eq!(refusal(world.put_as(of_old.clone(), &image, &["v1"]).await), ErrorCode::Unauthorized);
    // The successor begins empty, and is closed to what was for the old one.
    world.make_repository(APP).await.unwrap();
    assert_eq!(refusal(world.put_as(of_old, &image, &["v1"]).await), ErrorCode::Unauthorized);
    let new = world.resolve_tag(APP, "v1").await;
    assert_ne!(new.repository_id, old.repository_id);
    assert!(new.content.is_none());
    assert_eq!(refusal(world.put(APP, &image, &["v1"]).await), ErrorCode::ManifestBlobUnknown);
    assert_eq!(refusal(world.get(APP, &upload.id).await), ErrorCode::BlobUploadUnknown);
    world.drain().await;
    assert_eq!(world.look(APP).await.unwrap().id, new.repository_id);
    assert_eq!(world.counted().await, (1, 1));
}

async fn a_removed_repository_leaves_nothing(world: World) {
    let mut children = Vec::new();
    for n in 0..30 {
        children.push(world.image(APP, &format!("image {n}"), &[&format!("v{n}")]).await.digest());
    }
    world.put(APP, &Manifest::index(&children), &["all"]).await.unwrap();
    let about = Manifest::about(&children[0], &world.blob(APP, "sbom").await, "application/sbom");
    world.put(APP, &about, &[]).await.unwrap();
    world.start(APP).await.unwrap();
    world.delete_tag(APP, "v1").await.unwrap();
    world.image("team/kept", "image 0", &["v1"]).await;
    world.remove(APP).await.unwrap();
    world.drain().await;
    for table in ["manifests", "tags", "links", "manifest_blobs", "upload_sessions", "manifest_review_queue"]
    {
        // A statement's text lives as long as the process.
        let text: &'static str = Box::leak(format!("SELECT count(*) FROM {table}").into_boxed_str());
        assert_eq!(world.count(&both(text)).await, 1, "{table}: what the other repository has");
    }
    for table in ["manifest_children", "removals"] {
        let text: &'static str = Box::leak(format!("SELECT count(*) FROM {table}").into_boxed_str());
        assert_eq!(world.count(&both(text)).await, 0, "{table}");
    }
    assert_eq!(world.count(&both("SELECT count(*) FROM repositories")).await, 1);
    // 30 configs and one more, one of which the other repository holds too: each is looked at.
    assert_eq!(world.count(&both("SELECT count(*) FROM blob_review_queue")).await, 31);
}

async fn what_was_removed_is_not_mounted(world: World) {
    let layer = world.blob(APP, "layer").await;
    world.put(APP, &Manifest::image(&[layer]), &["v1"]).await.unwrap();
    let old = world.look(APP).await.unwrap();
    world.image("team/other", "b", &["v1"]).await;
    let mount = async || {
        let mut found = Vec::new();
        for (everything, namespace_ids, repository_ids) in [
            (true, vec![], vec![]),
            (false, vec![old.namespace_id.clone()], vec![]),
            (false, vec![], vec![old.id.clone()]),
        ] {
            let request = MountBlobRequest {
                access: world.access("team/new"),
                digest: layer.to_string(),
                from: String::new(),
                readable: Some(ReadableSet { everything, namespace_ids, repository_ids }),
            };
            found.push(answer(world.service.mount_blob(Request::new(request)).await).unwrap().mounted);
        }
        found
    };
    world.remove(APP).await.unwrap();
    assert_eq!(mount().await, [false, false, false]);
    world.drain().await;
    assert_eq!(mount().await, [false, false, false]);
}

async fn a_namespace_goes_with_all_that_is_in_it(world: World) {
    for n in 0..60 {
        world.make_namespace("team", |_| {}).await.ok();
        world.make_repository(&format!("team/r{n}")).await.unwrap();
    }
    world.image("team/r0", "a", &["v1"]).await;
    world.image("else/app", "a", &["v1"]).await;
    world.remove_namespace("team").await.unwrap();
    world.remove_namespace("team").await.unwrap();
    assert_eq!(refusal(world.start("team/new").await), ErrorCode::Denied);
    assert_eq!(refusal(world.make_repository("team/new").await), ErrorCode::Denied);
    world.drain().await;
    assert_eq!(world.counted().await, (1, 1));
    assert!(world.resolve_tag("team/r0", "v1").await.namespace_id.is_empty());
    assert!(world.resolve_tag("else/app", "v1").await.content.is_some());
    assert_eq!(refusal(world.remove_namespace("team").await), ErrorCode::NotFound);
    let again = world.make_namespace("team", |_| {}).await.unwrap();
    assert!(!again.removing);
    world.image("team/r0", "b", &["v2"]).await;
    assert!(world.resolve_tag("team/r0", "v1").await.content.is_none());
}

impl World {
    async fn end_instance(&self, force: bool) -> Result<bool, Problem> {
        let request = RemoveInstanceRequest { instance_id: self.instance.to_string(), force };
        answer(self.service.remove_instance(Request::new(request)).await).map(|answer| answer.done)
    }

    /// How much of it is said to be left.
    async fn left(&self) -> Option<u64> {
        let request = RemoveInstanceRequest { instance_id: self.instance.to_string(), force: true };
        answer(self.service.remove_instance(Request::new(request)).await).unwrap().left
    }

    async fn usage(&self) -> GetUsageResponse {
        let request = GetUsageRequest { instance_id: self.instance.to_string() };
        answer(self.service.get_usage(Request::new(request)).await).unwrap()
    }

    /// One step of an instance's end; what waits for others comes after them, as it would by the clock.
    async fn one_step(&self) -> Option<Verdict> {
        let due = "UPDATE removals SET due_at = CASE kind WHEN 'repository' THEN 0 WHEN 'namespace' THEN 1 ELSE 2 END";
        self.stage(&[both(due)], args![]).await;
        self.metadata.remove_next().await.unwrap()
    }
}

async fn an_instance_goes_with_all_that_is_in_it(world: World) {
    for n in 0..3 {
        world.image(&format!("team{n}/app"), &format!("image {n}"), &["v1"]).await;
    }
    world.make_namespace("empty", |_| {}).await.unwrap();
    let refused = world.end_instance(false).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Conflict);
    assert_eq!(refused.detail.unwrap()["used"], 3);
    world.image("team0/app", "image 0", &["v2"]).await;
    assert!(!world.end_instance(true).await.unwrap());
    assert_eq!(world.left().await, Some(7), "three repositories, three blobs, bytes that came twice");
    // Nothing can be made any more, by push or by hand, also where there was nothing before.
    assert_eq!(refusal(world.start("new/app").await), ErrorCode::Denied);
    assert_eq!(refusal(world.start("team0/new").await), ErrorCode::Denied);
    assert_eq!(refusal(world.make_namespace("new", |_| {}).await), ErrorCode::Denied);
    assert_eq!(refusal(world.make_repository("team0/new").await), ErrorCode::Denied);
    while world.count(&both("SELECT count(*) FROM namespaces")).await > 0 {
        assert!(world.one_step().await.is_some());
        while world.metadata.reap_next_session().await.unwrap().is_some() {}
        while world.metadata.forget_closed_sessions().await.unwrap() > 0 {}
    }
    assert_eq!((world.usage().await.repositories, world.usage().await.blobs), (0, 3));
    assert!(matches!(world.one_step().await, Some(Verdict::PutOff)), "blobs wait for their reviews");
    world.stage(&[both("UPDATE blob_review_queue SET review_after = 0")], args![]).await;
    while world.metadata.review_next_blob().await.unwrap().is_some() {}
    assert_eq!(world.usage().await.blobs, 0);
    assert!(matches!(world.one_step().await, Some(Verdict::PutOff)), "objects are not deleted yet");
    assert_eq!(world.left().await, Some(4), "objects");
    assert!(!world.end_instance(true).await.unwrap());
    world.stage(&[both("DELETE FROM object_deletes")], args![]).await;
    assert!(matches!(world.one_step().await, Some(Verdict::Deleted)));
    assert_eq!(world.left().await, Some(0));
    assert!(world.end_instance(true).await.unwrap() && world.end_instance(false).await.unwrap());
    assert_eq!(refusal(world.start("new/app").await), ErrorCode::Denied);
}

async fn use_counts_each_blob_of_an_instance_once(world: World) {
    assert_eq!(world.usage().await, GetUsageResponse::default());
    let request = SetLimitsRequest {
        instance_id: world.instance.to_string(),
        revision: 1,
        max_namespaces: Some(5),
        max_repositories: Some(7),
        max_depth: Some(3),
    };
    answer(world.service.set_limits(Request::new(request)).await).unwrap();
    for path in ["team/a", "team/b", "more/c"] {
        world.image(path, "the same", &["v1"]).await;
    }
    world.image("team/a", "another", &["v2"]).await;
    let bytes = world.count(&both("SELECT CAST(sum(size) AS BIGINT) FROM blobs")).await;
    let usage = world.usage().await;
    let expected = GetUsageResponse {
        namespaces: 2,
        repositories: 3,
        blobs: 2,
        blob_bytes: bytes.unsigned_abs(),
        max_namespaces: Some(5),
        max_repositories: Some(7),
        max_depth: Some(3),
    };
    assert!(usage.blob_bytes > 0);
    assert_eq!(usage, expected);
    world.remove("team/b").await.unwrap();
    assert_eq!(world.usage().await, GetUsageResponse { repositories: 2, ..expected });
}
