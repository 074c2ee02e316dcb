//! What is answered from memory is what the database would say. Every Resolve and every list of the suite compares the
//! two; here is what only memory has: what is kept, and what a change between a read and its keeping does.

use std::fmt::Debug;

use berth_database::{Changes, DatabaseError, Engine};
use berth_model::RepositoryId;
use berth_oci::{Algorithm, Digest};
use berth_proto::{
    ReferrersPage, TagsPage, WarmReads, WarmReference,
    metadata::{
        ListReferrersRequest, ListReferrersResponse, ListTagsRequest, ListTagsResponse, ResolveResponse,
        metadata_server::Metadata as _, resolve_request::Reference,
    },
};
use tonic::Request;

use super::{Manifest, World, answer};
use crate::{resolve::Wanted, warm::Warm};

const APP: &str = "team/app";

impl World {
    /// What memory says, in Resolve's words.
    fn remembered(&self, path: &str, reference: &Reference) -> Option<ResolveResponse> {
        let warm = self.metadata.warm.as_ref()?;
        let path = path.parse().ok()?;
        let resolve = |reference: WarmReference<'_>| {
            let answer = warm.resolve(self.instance, &path, reference)?;
            assert_eq!(answer.content.digest, answer.digest.to_string());
            Some((answer.repository, Some((*answer.content).clone())))
        };
        let (repository, content) = match reference {
            Reference::Tag(tag) => resolve(WarmReference::Tag(&tag.parse().ok()?))?,
            Reference::ManifestDigest(digest) => resolve(WarmReference::Manifest(&digest.parse().ok()?))?,
            Reference::BlobDigest(digest) => resolve(WarmReference::Blob(&digest.parse().ok()?))?,
            Reference::RepositoryOnly(_) => (warm.repository(self.instance, &path)?, None),
        };
        Some(ResolveResponse {
            repository_id: repository.id.to_string(),
            namespace_id: repository.namespace.to_string(),
            public: repository.public,
            content,
        })
    }

    /// The database's answer. If memory has one, it is the same, unless somebody changed something in between.
    async fn compared<T: PartialEq + Debug>(
        &self,
        remembered: impl Fn(&Warm) -> Option<T>,
        ask: impl AsyncFn() -> T,
    ) -> T {
        let Some(warm) = &self.metadata.warm else { return ask().await };
        loop {
            let since = warm.since();
            let before = remembered(warm);
            let stored = ask().await;
            if before.as_ref().is_none_or(|before| *before == stored) {
                return stored;
            }
            // Behind a unit of work of its own, all that was committed before was told.
            let unit = self.database.write("wait", |_| Box::pin(async { Ok::<_, DatabaseError>(()) }));
            unit.await.unwrap();
            assert_ne!(warm.since(), since, "memory: {before:?}\nstored: {stored:?}");
        }
    }

    pub(super) async fn compare_with_memory(&self, path: &str, reference: &Reference) {
        let ask = async || self.ask(path, reference.clone()).await.ok();
        self.compared(|_| self.remembered(path, reference).map(Some), ask).await;
    }

    /// A page of tags.
    pub(super) async fn tags(&self, repository: &str, last: &str, limit: u32) -> ListTagsResponse {
        let page = TagsPage { last: last.to_owned(), limit };
        let id: RepositoryId = repository.parse().unwrap();
        let ask = async || {
            let request =
                ListTagsRequest { repository_id: repository.to_owned(), limit, last: last.to_owned() };
            answer(self.service.list_tags(Request::new(request)).await).unwrap()
        };
        self.compared(|warm| warm.tags(id, &page).map(|listed| (*listed).clone()), ask).await
    }

    /// A page of referrers.
    pub(super) async fn referrers(
        &self,
        repository: &str,
        subject: &Digest,
        kind: &str,
        limit: u32,
        last: &str,
    ) -> ListReferrersResponse {
        let page = ReferrersPage {
            subject: *subject,
            artifact_type: kind.to_owned(),
            limit,
            last: last.parse().ok(),
        };
        let id: RepositoryId = repository.parse().unwrap();
        let ask = async || {
            let request = ListReferrersRequest {
                repository_id: repository.to_owned(),
                subject: subject.to_string(),
                artifact_type: kind.to_owned(),
                limit,
                last_digest: last.to_owned(),
            };
            answer(self.service.list_referrers(Request::new(request)).await).unwrap()
        };
        self.compared(|warm| warm.referrers(id, &page).map(|listed| (*listed).clone()), ask).await
    }
}

async fn world() -> World {
    World::open(Engine::Sqlite).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_once_is_answered_from_memory() {
    let world = world().await;
    let manifest = world.image(APP, "config", &["v1"]).await;
    let blob = Digest::of(Algorithm::Sha256, b"config");
    let asked = [
        Reference::Tag("v1".to_owned()),
        Reference::ManifestDigest(manifest.digest().to_string()),
        Reference::BlobDigest(blob.to_string()),
    ];
    for reference in asked {
        let stored = world.ask(APP, reference.clone()).await.unwrap();
        assert_eq!(world.remembered(APP, &reference), Some(stored));
        assert_eq!(world.remembered("team/other", &reference), None);
    }
    let stranger = World { instance: "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(), ..world.clone() };
    assert_eq!(stranger.remembered(APP, &Reference::BlobDigest(blob.to_string())), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_in_memory_when_it_is_answered() {
    let world = world().await;
    world.image(APP, "one", &["v1", "v2"]).await;
    let (first, second) = (Reference::Tag("v1".to_owned()), Reference::Tag("v2".to_owned()));
    let before = world.ask(APP, first.clone()).await.unwrap();
    world.ask(APP, second.clone()).await.unwrap();
    // A moved tag: gone, and then the new one. The other tag stays.
    let moved = world.image(APP, "two", &["v1"]).await;
    assert_eq!(world.remembered(APP, &first), None);
    assert_eq!(world.remembered(APP, &second), Some(before));
    let after = world.ask(APP, first.clone()).await.unwrap();
    assert_eq!(after.content.as_ref().unwrap().digest, moved.digest().to_string());
    assert_eq!(world.remembered(APP, &first), Some(after));
    // Visibility is of the repository: what was known of its content says the new one, or nothing.
    world.publish(APP).await;
    assert_eq!(world.remembered(APP, &first), None);
    assert!(world.ask(APP, first.clone()).await.unwrap().public);
    assert!(world.remembered(APP, &second).unwrap().public);
    world.delete_tag(APP, "v2").await.unwrap();
    assert_eq!(world.remembered(APP, &second), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_while_it_was_read_is_not_kept() {
    let world = world().await;
    world.image(APP, "config", &["v1"]).await;
    let warm = world.metadata.warm.clone().unwrap();
    let (path, tag) = (APP.parse().unwrap(), "v1".parse().unwrap());
    let wanted = Wanted::Tag(tag);
    let read = world.metadata.resolve(world.instance, path, wanted.clone()).await.unwrap();
    warm.apply(&Changes::TooMany);
    let (path, v1) = (APP.parse().unwrap(), Reference::Tag("v1".to_owned()));
    let since = warm.since();
    // The read has its answer; before it is kept, somebody changes something.
    world.image("team/other", "other", &["v1"]).await;
    warm.keep(since, (world.instance, &path, &wanted), &read);
    assert_eq!(world.remembered(APP, &v1), None);
    warm.keep(warm.since(), (world.instance, &path, &wanted), &read);
    assert!(world.remembered(APP, &v1).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_in_a_repository_drops_its_lists_and_no_others() {
    let world = world().await;
    let warm = world.metadata.warm.clone().unwrap();
    let subject = world.image(APP, "config", &["v1"]).await.digest();
    let config = Digest::of(Algorithm::Sha256, b"config");
    world.image("team/other", "config", &["v1"]).await;
    let of = async |path: &str| world.ask(path, Reference::RepositoryOnly(true)).await.unwrap().repository_id;
    let (app, other) = (of(APP).await, of("team/other").await);
    let (app_id, other_id) = (app.parse().unwrap(), other.parse().unwrap());
    let tags = TagsPage { last: String::new(), limit: 2 };
    let referrers = ReferrersPage { subject, artifact_type: String::new(), last: None, limit: 10 };
    for repository in [&app, &other] {
        world.tags(repository, "", 2).await;
        assert!(world.referrers(repository, &subject, "", 10, "").await.referrers.is_empty());
    }
    assert_eq!(warm.tags(app_id, &tags).unwrap().tags, ["v1"]);
    assert!(!warm.tags(app_id, &tags).unwrap().more);
    assert_eq!(warm.tags(app_id, &TagsPage { limit: 3, ..tags.clone() }), None);
    assert!(warm.referrers(app_id, &referrers).unwrap().referrers.is_empty());

    world.put(APP, &Manifest::about(&subject, &config, "application/signature"), &[]).await.unwrap();
    assert_eq!(warm.referrers(app_id, &referrers), None);
    assert!(warm.tags(app_id, &tags).is_some());
    assert_eq!(world.referrers(&app, &subject, "", 10, "").await.referrers.len(), 1);
    assert_eq!(warm.referrers(app_id, &referrers).unwrap().referrers.len(), 1);

    world.image(APP, "config", &["v2", "v3"]).await;
    assert_eq!(warm.tags(app_id, &tags), None);
    let page = world.tags(&app, "", 2).await;
    assert_eq!((page.tags, page.more), (vec!["v1".to_owned(), "v2".to_owned()], true));
    world.delete_tag(APP, "v2").await.unwrap();
    assert_eq!(warm.tags(app_id, &tags), None);
    assert!(warm.tags(other_id, &tags).is_some());
    assert!(warm.referrers(other_id, &referrers).is_some());
    warm.apply(&Changes::TooMany);
    assert_eq!(warm.tags(other_id, &tags), None);
    assert_eq!(warm.referrers(other_id, &referrers), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_changed_while_it_was_read_is_not_kept() {
    let world = world().await;
    let warm = world.metadata.warm.clone().unwrap();
    let subject = world.image(APP, "config", &["v1"]).await.digest();
    let app = world.ask(APP, Reference::RepositoryOnly(true)).await.unwrap().repository_id.parse().unwrap();
    let tags = TagsPage { last: String::new(), limit: 2 };
    let referrers = ReferrersPage { subject, artifact_type: String::new(), last: None, limit: 10 };
    let since = warm.since();
    world.image("team/other", "other", &["v1"]).await;
    warm.keep_tags(since, app, tags.clone(), &ListTagsResponse::default());
    warm.keep_referrers(since, app, referrers.clone(), &ListReferrersResponse::default());
    assert_eq!(warm.tags(app, &tags), None);
    assert_eq!(warm.referrers(app, &referrers), None);
    warm.keep_tags(warm.since(), app, tags.clone(), &ListTagsResponse::default());
    assert!(warm.tags(app, &tags).is_some());
}
