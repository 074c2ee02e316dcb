//! Everybody at once on one repository: no deadlock reaches a client, and what the tables say fits together.

use berth_oci::{ErrorCode, Problem};
use futures::future::join_all;

use super::{Manifest, World, both, on_both_engines};

const APP: &str = "team/app";

on_both_engines!(a_crowd_sees_only_what_the_rules_say);

fn expected<T>(outcome: Result<T, Problem>) {
    if let Err(problem) = outcome {
        let known = [
            ErrorCode::ManifestBlobUnknown,
            ErrorCode::ManifestUnknown,
            ErrorCode::BlobUnknown,
            ErrorCode::Held,
        ];
        assert!(known.contains(&problem.code), "{problem:?}");
    }
}

async fn client(world: World, number: usize) {
    for round in 0..12 {
        let shared = format!("layer{}", (number + round) % 3);
        let blob = world.blob(APP, &shared).await;
        let own = world.blob(APP, &format!("layer{}", (number * 7 + round) % 5)).await;
        let manifest = Manifest::image(&[blob, own]);
        expected(world.put(APP, &manifest, &["latest", ["a", "b", "c"][round % 3]]).await);
        let index = Manifest::index(&[manifest.digest()]);
        match (number + round) % 6 {
            0 => expected(world.put(APP, &index, &["latest", "multi"]).await),
            1 => expected(world.delete_manifest(APP, &manifest.digest()).await),
            2 => expected(world.delete_tag(APP, "latest").await),
            3 => expected(world.delete_blob(APP, &blob).await),
            4 => expected(world.delete_manifest(APP, &index.digest()).await),
            _ => expected(world.put(APP, &manifest, &["c", "b", "a"]).await),
        }
        // As memory says, if it says anything.
        let repository = world.resolve_tag(APP, "latest").await.repository_id;
        world.tags(&repository, "", 2).await;
    }
}

async fn a_crowd_sees_only_what_the_rules_say(world: World) {
    join_all((0..16).map(|number| client(world.clone(), number))).await;
    // Every tag's events are one chain: each starts where the one before ended.
    let events = world.outbox.due(super::SUBSCRIBER, 100_000).await.unwrap();
    let mut at: std::collections::BTreeMap<String, String> = std::collections::BTreeMap::new();
    for due in events {
        let Some(berth_proto::events::event::Payload::Artifact(artifact)) = due.event.payload else {
            continue;
        };
        if artifact.tag.is_empty() {
            continue;
        }
        let now = at.entry(artifact.tag.clone()).or_default();
        if due.event.r#type == "artifact.deleted" {
            assert_eq!(*now, artifact.digest, "deleted {}", artifact.tag);
            now.clear();
        } else {
            assert_eq!(*now, artifact.previous_digest, "moved {}", artifact.tag);
            now.clone_from(&artifact.digest);
        }
    }
    for (tag, digest) in at {
        let found = world.resolve_tag(APP, &tag).await.content;
        assert_eq!(found.map(|content| content.digest).unwrap_or_default(), digest, "{tag}");
    }
    let unqueued = both(
        "SELECT count(*) FROM blobs b WHERE NOT EXISTS (SELECT 1 FROM links l \
        WHERE l.instance_id = b.instance_id AND l.digest = b.digest) AND NOT EXISTS (SELECT 1 \
        FROM blob_review_queue q WHERE q.instance_id = b.instance_id AND q.digest = b.digest)",
    );
    assert_eq!(world.count(&unqueued).await, 0);
}
