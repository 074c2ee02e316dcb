//! What is answered from memory is what the database would say. Every Resolve of the suite compares the two; here is what
//! only memory has: what is kept, and what a change between a read and its keeping does.

use berth_database::{Changes, Engine};
use berth_oci::{Algorithm, Digest};
use berth_proto::{
    WarmReads, WarmReference,
    metadata::{ResolveResponse, resolve_request::Reference},
};

use super::World;
use crate::resolve::Wanted;

const APP: &str = "team/app";

impl World {
    /// What memory says, in Resolve's words.
    fn remembered(&self, path: &str, reference: &Reference) -> Option<ResolveResponse> {
        let warm = self.metadata.warm.as_ref()?;
        let path = path.parse().ok()?;
        let answer = match reference {
            Reference::Tag(tag) => {
                warm.resolve(self.instance, &path, WarmReference::Tag(&tag.parse().ok()?))?
            }
            Reference::ManifestDigest(digest) => {
                warm.resolve(self.instance, &path, WarmReference::Manifest(&digest.parse().ok()?))?
            }
            Reference::BlobDigest(digest) => {
                warm.resolve(self.instance, &path, WarmReference::Blob(&digest.parse().ok()?))?
            }
            Reference::RepositoryOnly(_) => return None,
        };
        assert_eq!(answer.content.digest, answer.digest.to_string());
        Some(ResolveResponse {
            repository_id: answer.repository.to_string(),
            namespace_id: answer.namespace.to_string(),
            public: answer.public,
            content: Some((*answer.content).clone()),
        })
    }

    /// Memory knows it, and as the database does, or does not know it. While others write, one of some tries has to agree.
    pub(super) async fn compare_with_memory(&self, path: &str, reference: &Reference) {
        for attempt in 0.. {
            let Some(remembered) = self.remembered(path, reference) else { return };
            let stored = self.ask(path, reference.clone()).await.unwrap();
            if remembered == stored {
                return;
            }
            assert!(attempt < 20, "memory: {remembered:?}\nstored: {stored:?}");
        }
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
