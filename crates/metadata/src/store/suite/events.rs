//! Events and the outbox: one chain for each tag, one delivery for each subscriber, in order.

use std::{collections::BTreeMap, time::Duration};

use berth_events::Failure;
use berth_model::EventId;
use berth_proto::events::{Artifact, Event, event::Payload};
use futures::future::join_all;

use super::{Manifest, SUBSCRIBER, World, both, on_both_engines};

const APP: &str = "team/app";

on_both_engines!(
    a_push_is_told_as_pushed_and_tagged,
    t19_64_moves_of_a_tag_are_one_chain,
    deletes_are_told_with_the_tags_version,
    deliveries_close_back_off_die_and_return,
    a_claim_is_one_holders,
    a_repeated_push_says_nothing_new,
);

async fn due(world: &World) -> Vec<Event> {
    let due = world.outbox.due(SUBSCRIBER, 10_000).await.unwrap();
    due.into_iter().map(|due| due.event).collect()
}

fn artifact(event: &Event) -> &Artifact {
    match event.payload.as_ref().unwrap() {
        Payload::Artifact(artifact) => artifact,
        Payload::Management(management) => panic!("by hand: {management:?}"),
    }
}

fn id(event: &Event) -> EventId {
    event.id.parse().unwrap()
}

async fn a_push_is_told_as_pushed_and_tagged(world: World) {
    let manifest = world.image(APP, "config", &["v1", "v2"]).await;
    let mut events = due(&world).await;
    let kinds: Vec<&str> = events.iter().map(|event| event.r#type.as_str()).collect();
    let made = ["namespace.created", "repository.created", "blob.pushed"];
    assert_eq!(kinds, [&made[..], &["artifact.pushed", "artifact.tagged", "artifact.tagged"]].concat());
    assert!(events.is_sorted_by_key(|event| event.sequence));
    for event in &events {
        let (credential, address, request) = match event.payload.as_ref().unwrap() {
            Payload::Artifact(said) => (&said.credential, &said.address, &said.request_id),
            Payload::Management(said) => (&said.credential, &said.address, &said.request_id),
        };
        assert_eq!(
            (credential.as_str(), address.as_str(), request.as_str()),
            ("password", "192.0.2.1", "R1")
        );
    }
    events.drain(..made.len());
    let pushed = artifact(&events[0]);
    assert_eq!(pushed.digest, manifest.digest().to_string());
    assert_eq!((pushed.repository.as_str(), pushed.principal.as_str()), (APP, "user:admin"));
    assert_eq!((pushed.size, pushed.tag.as_str()), (manifest.json.len() as u64, ""));
    assert_eq!(pushed.artifact_type, "application/config");
    assert_eq!(artifact(&events[1]).tag, "v1");
    assert_eq!(events[1].key, format!("{}:v1", pushed.repository_id));
    assert_eq!(events[1].instance_id, world.instance.to_string());
    let version = both("SELECT version FROM tags WHERE name = 'v2'");
    assert_eq!(world.count(&version).await, events[2].sequence);
}

async fn t19_64_moves_of_a_tag_are_one_chain(world: World) {
    let blob = world.blob(APP, "config").await;
    let pushes = (0..64).map(|number| {
        let world = world.clone();
        async move {
            let manifest =
                Manifest::with(&[blob], &serde_json::json!({ "annotations": { "n": number.to_string() } }));
            world.put(APP, &manifest, &["latest"]).await.unwrap();
            manifest.digest().to_string()
        }
    });
    let pushed = join_all(pushes).await;
    let events = due(&world).await;
    let moves: Vec<&Event> = events.iter().filter(|event| event.r#type == "artifact.tagged").collect();
    assert_eq!(moves.len(), 64);
    let mut at = String::new();
    for event in &moves {
        assert_eq!(artifact(event).previous_digest, at);
        at.clone_from(&artifact(event).digest);
    }
    assert_eq!(world.resolve_tag(APP, "latest").await.content.unwrap().digest, at);
    for digest in pushed {
        assert!(world.resolve_manifest(APP, &digest.parse().unwrap()).await.content.is_some());
    }
}

async fn deletes_are_told_with_the_tags_version(world: World) {
    let manifest = world.image(APP, "config", &["v1", "v2"]).await;
    world.delete_tag(APP, "v1").await.unwrap();
    world.delete_manifest(APP, &manifest.digest()).await.unwrap();
    world.put(APP, &Manifest::index(&[]), &["v1"]).await.unwrap();
    let events = due(&world).await;
    let deleted: Vec<&str> = events
        .iter()
        .filter(|event| event.r#type == "artifact.deleted")
        .map(|event| artifact(event).tag.as_str())
        .collect();
    assert_eq!(deleted, ["v1", "v2", ""]);
    let mut sequences: BTreeMap<&str, i64> = BTreeMap::new();
    for event in &events {
        let before = sequences.insert(&event.key, event.sequence);
        assert!(before.is_none_or(|before| before < event.sequence));
    }
    // A tag made anew after its deletion starts from nothing.
    assert_eq!(artifact(events.last().unwrap()).previous_digest, "");
}

async fn deliveries_close_back_off_die_and_return(world: World) {
    world.image(APP, "config", &["v1", "v2"]).await;
    world.put(APP, &Manifest::index(&[]), &["v1"]).await.unwrap();
    let (events, others): (Vec<Event>, Vec<Event>) =
        due(&world).await.into_iter().partition(|event| event.r#type.starts_with("artifact."));
    world.outbox.delivered(SUBSCRIBER, &others.iter().map(id).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(events.len(), 5);
    let backlog = world.outbox.backlog(SUBSCRIBER).await.unwrap();
    assert_eq!((backlog.depth, backlog.dead), (5, 0));
    world.outbox.delivered(SUBSCRIBER, &[id(&events[0])]).await.unwrap();
    assert_eq!(world.count(&both("SELECT count(*) FROM outbox")).await, 4);
    // v1 is backed off: its later move waits too, v2 doesn't.
    let wait = Failure { retry_after: Some(Duration::from_secs(3600)), error: "away".to_owned() };
    world.outbox.failed(SUBSCRIBER, id(&events[1]), wait).await.unwrap();
    let keys: Vec<String> = due(&world).await.into_iter().map(|event| event.key).collect();
    assert!(keys.len() == 2 && keys.iter().all(|key| *key != events[1].key), "{keys:?}");
    let dead = Failure { retry_after: None, error: "never\0".to_owned() };
    world.outbox.failed(SUBSCRIBER, id(&events[1]), dead).await.unwrap();
    assert_eq!(due(&world).await.len(), 3);
    let letters = world.outbox.dead_letters(SUBSCRIBER, None, 10).await.unwrap();
    assert_eq!((letters.len(), letters[0].attempts, letters[0].error.as_str()), (1, 2, "never"));
    assert_eq!(letters[0].event, events[1]);
    assert!(world.outbox.dead_letters(SUBSCRIBER, Some(id(&events[1])), 10).await.unwrap().is_empty());
    assert!(world.outbox.replay(SUBSCRIBER, id(&events[1])).await.unwrap());
    assert!(!world.outbox.replay(SUBSCRIBER, id(&events[1])).await.unwrap());
    let again = due(&world).await;
    assert_eq!(again[0], events[1]);
    let ids: Vec<EventId> = again.iter().map(id).collect();
    world.outbox.delivered(SUBSCRIBER, &ids).await.unwrap();
    assert_eq!(world.count(&both("SELECT count(*) FROM outbox")).await, 0);
    assert_eq!(world.outbox.backlog(SUBSCRIBER).await.unwrap(), berth_events::Backlog::default());
}

async fn a_claim_is_one_holders(world: World) {
    let lease = Duration::from_secs(60);
    assert!(world.outbox.claim(SUBSCRIBER, "one", lease).await.unwrap());
    assert!(world.outbox.claim(SUBSCRIBER, "one", lease).await.unwrap());
    if world.database.engine() == berth_database::Engine::Postgres {
        assert!(!world.outbox.claim(SUBSCRIBER, "two", lease).await.unwrap());
        world.stage(&[both("UPDATE outbox_claims SET held_until = 1")], vec![]).await;
        assert!(world.outbox.claim(SUBSCRIBER, "two", lease).await.unwrap());
    }
}

async fn a_repeated_push_says_nothing_new(world: World) {
    let manifest = world.image(APP, "config", &["v1"]).await;
    let before = due(&world).await.len();
    world.put(APP, &manifest, &["v1"]).await.unwrap();
    assert_eq!(due(&world).await.len(), before);
    assert_eq!(world.metadata.config.store_id, "default");
}
