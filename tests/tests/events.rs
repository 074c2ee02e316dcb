//! Events reach the audit trail at least once on the way and once in effect, whatever dies meanwhile.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

use std::collections::{BTreeMap, BTreeSet};

use berth_testkit::{Content, Deployment, Engine, Layout, Setting, eventually};
use futures::future::join_all;

const ROUNDS: usize = 6;
const PUSHES: usize = 8;

/// Pushes while `victim` is killed, and returns the tags that were acknowledged.
async fn round(deployment: &Deployment, number: usize, victim: &str) -> BTreeSet<String> {
    let mut content = Content::seeded(number as u64);
    let images: Vec<_> = (0..PUSHES).map(|_| content.image(1, 100)).collect();
    let repository = deployment.client().repository("events/kill");
    let pushes = images.iter().enumerate().map(|(index, image)| {
        let repository = &repository;
        async move {
            let tag = format!("r{number}-{index}");
            let pushed = repository.push_image(&tag, image).await;
            pushed.ok().filter(|reply| reply.status == 201).map(|_| tag)
        }
    });
    let kill = async {
        // Somewhere within the pushes: as soon as the first manifests are in, in some rounds earlier.
        if number.is_multiple_of(2) {
            let seen = || async { repository.tags().await.ok().filter(|tags| !tags.is_empty()) };
            let _timing_only =
                tokio::time::timeout(std::time::Duration::from_millis(400), eventually("a tag", seen)).await;
        }
        deployment.process(victim).kill();
    };
    let (acknowledged, ()) = tokio::join!(join_all(pushes), kill);
    deployment.restart(victim).await.unwrap();
    acknowledged.into_iter().flatten().collect()
}

async fn applied_once(setting: Setting, victims: &[&str]) {
    let deployment = Deployment::builder(setting).start().await.unwrap();
    let mut acknowledged = BTreeSet::new();
    for number in 0..ROUNDS {
        acknowledged.extend(round(&deployment, number, victims[number % victims.len()]).await);
    }
    // One push in peace, so that something is acknowledged whatever the timing was.
    let image = Content::seeded(99).image(1, 100);
    let repository = deployment.client().repository("events/kill");
    repository.push_image("last", &image).await.unwrap().expect(201).unwrap();
    acknowledged.insert("last".to_owned());

    let tagged = |entries: &[serde_json::Value]| {
        let mut counts = BTreeMap::new();
        for entry in entries.iter().filter(|entry| entry["type"] == "artifact.tagged") {
            *counts.entry(entry["tag"].as_str().unwrap().to_owned()).or_insert(0) += 1;
        }
        counts
    };
    let entries = eventually("every acknowledged tag is in the audit trail", || async {
        let entries = deployment.audit().await.ok()?;
        let counts = tagged(&entries);
        acknowledged.iter().all(|tag| counts.contains_key(tag)).then_some(entries)
    })
    .await
    .unwrap();
    let ids: BTreeSet<_> = entries.iter().map(|entry| entry["event_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), entries.len(), "an event was written twice");
    // Each tag moved once, so each has one event; a push whose answer was lost may add one, but never two.
    for (tag, count) in tagged(&entries) {
        assert_eq!(count, 1, "{tag}");
    }
    let tags = repository.tags().await.unwrap();
    for tag in &acknowledged {
        assert!(tags.contains(tag), "{tag} was acknowledged and is gone");
    }
    deployment.is_sound().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_applied_once_across_kills_of_the_one_process() {
    applied_once(Setting::EMBEDDED, &["berth"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_applied_once_across_kills_of_either_end() {
    let setting = Setting::new(Layout::RolesApart, Engine::Postgres);
    applied_once(setting, &["metadata", "instance-manager"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_applied_once_across_kills_of_either_end_on_sqlite() {
    let setting = Setting::new(Layout::RolesApart, Engine::Sqlite);
    applied_once(setting, &["metadata", "instance-manager"]).await;
}
