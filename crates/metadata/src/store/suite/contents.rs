//! Tags and artifacts as people see them.

use berth_database::{Database, Engine, args};
use berth_oci::{Algorithm, Digest, ErrorCode, Problem};
use berth_proto::metadata::{
    ArtifactEntry, GetArtifactRequest, GetArtifactResponse, GetTagRequest, ListArtifactsRequest,
    ListTagEntriesRequest, ListTagEntriesResponse, TagEntry, contents_server::Contents,
};
use berth_service::{ManualClock, Timestamp};
use tonic::Request;

use super::{Manifest, World, answer, both, on_both_engines, refusal};
use crate::MIGRATIONS;

on_both_engines!(
    a_tag_says_where_it_points_and_who_moved_it,
    tags_are_listed_by_name_and_by_what_moved_last,
    a_narrow_list_goes_through_everything_in_bounded_pages,
    artifacts_are_listed_newest_first,
    an_artifact_says_what_it_holds_and_what_holds_it,
);

const APP: &str = "team/app";

impl World {
    pub(super) async fn id_of(&self, path: &str) -> String {
        self.resolve_tag(path, "none").await.repository_id
    }

    pub(super) async fn tag(&self, path: &str, tag: &str) -> Result<TagEntry, Problem> {
        let request = GetTagRequest {
            instance_id: self.instance.to_string(),
            repository_id: self.id_of(path).await,
            tag: tag.to_owned(),
        };
        answer(self.service.get_tag(Request::new(request)).await)
    }

    async fn tag_page(
        &self,
        path: &str,
        request: ListTagEntriesRequest,
    ) -> Result<ListTagEntriesResponse, Problem> {
        let request = ListTagEntriesRequest {
            instance_id: self.instance.to_string(),
            repository_id: self.id_of(path).await,
            ..request
        };
        answer(self.service.list_tag_entries(Request::new(request)).await)
    }

    /// All pages of names, and how many pages there were.
    async fn tag_names(&self, path: &str, search: &str, order: &str, limit: u32) -> (Vec<String>, usize) {
        let mut found = Vec::new();
        let mut after = String::new();
        for pages in 1..1000 {
            let request = ListTagEntriesRequest {
                search: search.to_owned(),
                order: order.to_owned(),
                limit,
                after,
                ..ListTagEntriesRequest::default()
            };
            let page = self.tag_page(path, request).await.unwrap();
            assert!(page.tags.len() <= limit as usize);
            found.extend(page.tags.into_iter().map(|tag| tag.name));
            if page.next.is_empty() {
                return (found, pages);
            }
            after = page.next;
        }
        panic!("it has no end");
    }

    async fn artifacts(&self, path: &str, request: &ListArtifactsRequest) -> Vec<ArtifactEntry> {
        let mut found = Vec::new();
        let mut after = String::new();
        for _ in 0..1000 {
            let request = ListArtifactsRequest {
                instance_id: self.instance.to_string(),
                repository_id: self.id_of(path).await,
                after,
                ..request.clone()
            };
            let page = answer(self.service.list_artifacts(Request::new(request)).await).unwrap();
            found.extend(page.artifacts);
            if page.next.is_empty() {
                return found;
            }
            after = page.next;
        }
        panic!("it has no end");
    }

    async fn artifact(&self, path: &str, digest: &Digest) -> Result<GetArtifactResponse, Problem> {
        let request = GetArtifactRequest {
            instance_id: self.instance.to_string(),
            repository_id: self.id_of(path).await,
            digest: digest.to_string(),
        };
        answer(self.service.get_artifact(Request::new(request)).await)
    }

    fn later(&self) {
        self.clock.advance(std::time::Duration::from_secs(1));
    }
}

fn names<'a>(entries: impl IntoIterator<Item = &'a ArtifactEntry>) -> Vec<&'a str> {
    entries.into_iter().map(|entry| entry.digest.as_str()).collect()
}

async fn a_tag_says_where_it_points_and_who_moved_it(world: World) {
    let first = world.image(APP, "four", &["v1"]).await;
    let made = world.tag(APP, "v1").await.unwrap();
    assert_eq!(made.digest, first.digest().to_string());
    assert_eq!((made.size, made.content_size), (first.json.len() as u64, 4));
    assert_eq!(
        (made.media_type.as_str(), made.artifact_type.as_str()),
        (first.media_type, "application/config")
    );
    assert_eq!((made.updated_by.as_str(), made.created_at), ("user:admin", Some(made.updated_at)));
    assert!(!made.immutable);
    world.later();
    world.image(APP, "seven77", &["v1"]).await;
    let moved = world.tag(APP, "v1").await.unwrap();
    assert_eq!((moved.content_size, moved.created_at), (7, made.created_at));
    assert!(moved.version > made.version && moved.updated_at > made.updated_at);
    assert_eq!(refusal(world.tag(APP, "v2").await), ErrorCode::ManifestUnknown);
    let elsewhere = GetTagRequest {
        instance_id: berth_model::InstanceId::new(world.metadata.ids.ulid()).to_string(),
        repository_id: world.id_of(APP).await,
        tag: "v1".into(),
    };
    let refused = answer(world.service.get_tag(Request::new(elsewhere)).await);
    assert_eq!(refusal(refused), ErrorCode::NameUnknown, "another instance's repository");
}

async fn tags_are_listed_by_name_and_by_what_moved_last(world: World) {
    let image = world.image(APP, "a", &["v1", "v2", "latest"]).await;
    world.later();
    world.put(APP, &image, &["V0", "v1.1", "v10"]).await.unwrap();
    world.later();
    world.image(APP, "b", &["v1"]).await;
    let by_name = ["V0", "latest", "v1", "v1.1", "v10", "v2"];
    let newest = ["v1", "v10", "v1.1", "V0", "v2", "latest"];
    for limit in [1, 2, 5, 6, 100] {
        assert_eq!(world.tag_names(APP, "", "", limit).await.0, by_name);
        assert_eq!(world.tag_names(APP, "", "name", limit).await.0, by_name);
        assert_eq!(world.tag_names(APP, "", "-updated_at", limit).await.0, newest);
        assert_eq!(world.tag_names(APP, "v1", "", limit).await.0, ["v1", "v1.1", "v10"]);
        assert_eq!(world.tag_names(APP, "v1", "-updated_at", limit).await.0, ["v1", "v10", "v1.1"]);
        assert!(world.tag_names(APP, "1", "", limit).await.0.is_empty());
        assert!(world.tag_names(APP, "\u{e9}", "-updated_at", limit).await.0.is_empty());
    }
    for (order, after) in
        [("", "v1"), ("", "updated_at:1:v1"), ("-updated_at", "name:v1"), ("-updated_at", "updated_at:x:y")]
    {
        let request =
            ListTagEntriesRequest { order: order.into(), after: after.into(), ..Default::default() };
        assert_eq!(
            refusal(world.tag_page(APP, request).await),
            ErrorCode::PaginationInvalid,
            "{order} {after}"
        );
    }
    let request = ListTagEntriesRequest { order: "size".into(), ..Default::default() };
    assert_eq!(refusal(world.tag_page(APP, request).await), ErrorCode::RequestInvalid);
}

async fn a_narrow_list_goes_through_everything_in_bounded_pages(world: World) {
    let image = world.image(APP, "a", &["wanted-1"]).await;
    for part in 0..5 {
        let many: Vec<String> = (0..500).map(|number| format!("other-{part}-{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        world.put(APP, &image, &many).await.unwrap();
        world.later();
    }
    world.put(APP, &image, &["wanted-2"]).await.unwrap();
    let (found, pages) = world.tag_names(APP, "wanted", "-updated_at", 10).await;
    assert_eq!(found, ["wanted-2", "wanted-1"]);
    assert_eq!(pages, 3, "two thousand rows, and the rest");
    let shown = world.artifact(APP, &image.digest()).await.unwrap().artifact.unwrap();
    assert_eq!((shown.tags.len(), shown.more_tags), (20, true));
    assert_eq!(shown.tags[0], "other-0-0");
}

async fn artifacts_are_listed_newest_first(world: World) {
    let mut images = Vec::new();
    for number in 0..5 {
        let tag = format!("v{number}");
        let tags: &[&str] = if number % 2 == 0 { &[&tag] } else { &[] };
        images.push(world.image(APP, &format!("image {number}"), tags).await.digest());
        if number != 2 {
            world.later();
        }
    }
    let about = Manifest::about(&images[0], &world.blob(APP, "sbom").await, "application/sbom");
    world.put(APP, &about, &[]).await.unwrap();
    world.later();
    let index = Manifest::index(&images[..3]);
    world.put(APP, &index, &["all"]).await.unwrap();
    let list = |artifact_type: &str, media_type: &str, tagged: &str, limit| ListArtifactsRequest {
        artifact_type: artifact_type.to_owned(),
        media_type: media_type.to_owned(),
        tagged: tagged.to_owned(),
        limit,
        ..ListArtifactsRequest::default()
    };
    let whole = world.artifacts(APP, &list("", "", "", 100)).await;
    let mut expected = whole.clone();
    expected.sort_by_key(|entry| std::cmp::Reverse((entry.pushed_at, entry.digest.clone())));
    assert_eq!((whole.len(), &whole), (7, &expected));
    assert_eq!(whole[0].digest, index.digest().to_string());
    assert_eq!(whole[0].tags, ["all"]);
    for limit in [1, 2, 3, 7] {
        assert_eq!(world.artifacts(APP, &list("", "", "", limit)).await, whole);
        for (artifact_type, media_type, tagged) in [
            ("application/sbom", "", ""),
            ("", index.media_type, ""),
            ("", about.media_type, ""),
            ("", about.media_type, "no"),
            ("application/config", about.media_type, "yes"),
            ("", "", "yes"),
            ("", "", "no"),
            ("none", "", ""),
        ] {
            let fits = |entry: &&ArtifactEntry| {
                (artifact_type.is_empty() || entry.artifact_type == artifact_type)
                    && (media_type.is_empty() || entry.media_type == media_type)
                    && (tagged.is_empty() || (tagged == "yes") != entry.tags.is_empty())
            };
            let expected: Vec<_> = names(whole.iter().filter(fits));
            let found = world.artifacts(APP, &list(artifact_type, media_type, tagged, limit)).await;
            assert_eq!(names(&found), expected, "{artifact_type} {media_type} {tagged} {limit}");
        }
    }
    let sbom = &world.artifacts(APP, &list("application/sbom", "", "", 1)).await[0];
    assert_eq!((sbom.subject.as_str(), sbom.content_size), (images[0].to_string().as_str(), 4));
    assert_eq!(sbom.pushed_by, "user:admin");
}

async fn an_artifact_says_what_it_holds_and_what_holds_it(world: World) {
    let (config, layer) = (world.blob(APP, "config").await, world.blob(APP, "layer one").await);
    let foreign = Digest::of(Algorithm::Sha256, b"foreign");
    let image = Manifest::image(&[config, layer]);
    world.put(APP, &image, &[]).await.unwrap();
    let other = world.image(APP, "other", &[]).await;
    let inner = Manifest::index(&[image.digest(), other.digest()]);
    world.put(APP, &inner, &[]).await.unwrap();
    let outer = Manifest::index(&[inner.digest(), image.digest()]);
    world.put(APP, &outer, &["v1"]).await.unwrap();
    let shown = world.artifact(APP, &image.digest()).await.unwrap();
    let mut holders = [inner.digest(), outer.digest()];
    holders.sort_by_key(Digest::to_bytes);
    assert_eq!(shown.holders, holders.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(shown.artifact.unwrap().content_size, 15);
    for (index, size) in [(&inner, 20), (&outer, 35)] {
        let shown = world.artifact(APP, &index.digest()).await.unwrap().artifact.unwrap();
        assert_eq!((shown.content_size, shown.size), (size, index.json.len() as u64));
    }
    assert_eq!(refusal(world.artifact(APP, &foreign).await), ErrorCode::ManifestUnknown);
    // A foreign layer counts from when it is there.
    let with_foreign = Manifest::with(
        &[config],
        &serde_json::json!({ "layers": [{
            "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "digest": foreign,
            "size": 7,
            "urls": ["https://example.com/layer"],
        }] }),
    );
    world.put(APP, &with_foreign, &["foreign"]).await.unwrap();
    assert_eq!(world.tag(APP, "foreign").await.unwrap().content_size, 6);
    world.blob(APP, "foreign").await;
    world.put(APP, &with_foreign, &["foreign"]).await.unwrap();
    assert_eq!(world.tag(APP, "foreign").await.unwrap().content_size, 13);
}

/// Manifests from before it was kept what they hold.
async fn an_older_database_is_measured(engine: Engine) {
    let clock = ManualClock::at(Timestamp::from_seconds(1_700_000_000));
    let ids = berth_service::Ids::random(clock.clone());
    let instance = berth_model::InstanceId::new(ids.ulid());
    let [space, app] = [0; 2].map(|_| ids.ulid().to_string());
    let of = instance.to_string();
    let digest = |name: &str| Digest::of(Algorithm::Sha256, name.as_bytes()).to_bytes();
    let mut rows = vec![
        (
            both(
                "INSERT INTO namespaces (id, instance_id, name, made_by_push, created_at) VALUES ($1, $2, 'team', TRUE, 0)",
            ),
            args![&space, &of],
        ),
        (
            both(
                "INSERT INTO repositories (id, instance_id, namespace_id, path, provisional, created_at, updated_at) \
                VALUES ($1, $2, $3, 'team/app', FALSE, 0, 0)",
            ),
            args![&app, &of, &space],
        ),
        (
            both(
                "INSERT INTO blobs (instance_id, digest, size, store_id, object_key, created_at) VALUES ($1, $2, 5, 's', 'k', 0)",
            ),
            args![&of, digest("blob")],
        ),
        (
            both("INSERT INTO links (repository_id, digest, instance_id, linked_at) VALUES ($1, $2, $3, 0)"),
            args![&app, digest("blob"), &of],
        ),
    ];
    for name in ["image", "other", "index", "outer"] {
        rows.push((
            both("INSERT INTO manifests (repository_id, digest, size, media_type, pushed_at, annotations, payload) \
                VALUES ($1, $2, 2, 'application/x', 0, '{}', $3)"),
            args![&app, digest(name), b"{}".to_vec()],
        ));
    }
    for name in ["image", "other"] {
        rows.push((
            both("INSERT INTO manifest_blobs (repository_id, manifest_digest, blob_digest) VALUES ($1, $2, $3)"),
            args![&app, digest(name), digest("blob")],
        ));
    }
    for (parent, child) in [("index", "image"), ("index", "other"), ("outer", "index"), ("outer", "image")] {
        rows.push((
            both("INSERT INTO manifest_children (repository_id, parent, child) VALUES ($1, $2, $3)"),
            args![&app, digest(parent), digest(child)],
        ));
    }
    rows.push((
        both(
            "INSERT INTO tags (repository_id, name, digest, version, updated_at) VALUES ($1, 'v1', $2, 3, 0)",
        ),
        args![&app, digest("outer")],
    ));
    let upgraded = Database::upgraded_for_tests(engine, MIGRATIONS, 11, rows, clock.clone()).await;
    let Some(database) = upgraded.unwrap() else { return };
    let world = World { instance, ..World::over(database, clock) };
    let before = world.tag(APP, "v1").await.unwrap();
    assert_eq!((before.content_size, before.created_at, before.updated_by.as_str()), (0, None, ""));
    for filled in [2, 1, 1, 0] {
        assert_eq!(world.metadata.fill_sizes().await.unwrap(), filled, "what is in it comes first");
    }
    assert_eq!(world.tag(APP, "v1").await.unwrap().content_size, 15);
    let listed = world.artifacts(APP, &ListArtifactsRequest { limit: 10, ..Default::default() }).await;
    let mut sizes: Vec<u64> = listed.iter().map(|entry| entry.content_size).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [5, 5, 10, 15]);
    assert!(listed.iter().all(|entry| entry.pushed_by.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_sqlite_is_measured() {
    an_older_database_is_measured(Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_postgresql_is_measured() {
    an_older_database_is_measured(Engine::Postgres).await;
}
