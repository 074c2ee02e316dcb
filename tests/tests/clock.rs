//! T16: one machine's clock is ten minutes wrong, and steps. Tokens are judged by the deployment's time, and nothing that
//! was just pushed is collected.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

use std::time::Duration;

use berth_testkit::{Client, Content, Deployment, Engine, Image, Layout, ObjectStorage, Setting, Skewed};
use reqwest::Method;

/// Pushes and pulls by either gateway, with the same tokens.
async fn both_gateways_serve(deployment: &Deployment, name: &str) -> Image {
    let image = Content::named(name).image(2, 20_000);
    let scope = format!("repository:{name}:pull,push");
    for (pusher, puller) in [(0, 1), (1, 0)] {
        let token = deployment.client_of_gateway(pusher).fresh_token(&[&scope]).await.unwrap();
        deployment.client_of_gateway(pusher).repository(name).push_image("v1", &image).await.unwrap();
        let path = format!("/v2/{name}/manifests/v1");
        let reply = deployment.client_of_gateway(puller).call(Method::GET, &path).bearer(&token).send().await;
        assert_eq!(reply.unwrap().expect(200).unwrap().body, image.manifest.bytes);
        deployment.client_of_gateway(puller).repository(name).pull_image("v1", &image).await.unwrap();
    }
    image
}

async fn wrong_clocks(engine: Engine, roles: &[&str]) {
    let setting = Setting::new(Layout::RolesApart, engine).with_gateways(2);
    let deployment = Deployment::builder(setting)
        .with_env("BERTH__METADATA__REVIEW_FLOOR_SECONDS", "60")
        .with_env("BERTH__METADATA__REVIEW_DELAY_SECONDS", "0")
        .with_env("BERTH__METADATA__OBJECT_GRACE_SECONDS", "0")
        .with_env("BERTH__METADATA__COLLECTION_POLL_SECONDS", "1")
        .start()
        .await
        .unwrap();
    for role in roles {
        for off in [600, -600] {
            let skewed = Skewed::start(&deployment, role, off).await;
            assert!((skewed.began_off().await - i64::from(off)).abs() < 60, "{role} has a wrong clock");
            let image = both_gateways_serve(&deployment, &format!("clock/{role}-{off}")).await;
            // Blobs that no manifest holds are safe for the floor, whatever the machine thinks.
            let alone = Content::named(role).layer(1000 + usize::try_from(off.abs()).unwrap());
            let repository = deployment.client_of_gateway(0).repository(format!("clock/{role}-{off}"));
            repository.push_blob(&alone).await.unwrap().expect(201).unwrap();

            skewed.step(-off);
            if role.starts_with("gateway") {
                assert!((skewed.gateway_is_off().await + i64::from(off)).abs() < 60, "{role} has stepped");
            }
            // At once, whatever was told before the step.
            deployment
                .client_of_gateway(0)
                .repository(repository.name())
                .pull_image("v1", &image)
                .await
                .unwrap();
            both_gateways_serve(&deployment, &format!("clock/{role}-{off}-stepped")).await;
            assert!(repository.has_blob(&alone.digest).await.unwrap());
            skewed.right_again().await;
        }
    }
    deployment.is_sound().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t16_a_wrong_clock_on_one_machine_of_a_fleet_is_not_seen() {
    wrong_clocks(Engine::Postgres, &["gateway-1", "metadata", "instance-manager", "blob-store"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t16_a_wrong_clock_on_one_gateway_over_sqlite_is_not_seen() {
    wrong_clocks(Engine::Sqlite, &["gateway-1"]).await;
}

/// The URLs that a gateway sends clients to are judged by the object storage's clock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t16_a_gateway_with_a_wrong_clock_gives_out_urls_that_are_right() {
    let storage = ObjectStorage::start();
    let setting = Setting::new(Layout::RolesApart, Engine::Postgres).with_gateways(2);
    let deployment = storage.holds_blobs_of(Deployment::builder(setting)).start().await.unwrap();
    let blob = Content::named("clock/url").layer(10_000);
    deployment.client().repository("clock/url").push_blob_at_once(&blob).await.unwrap();
    deployment.admin(&["set-blob-delivery", "default", "redirect"], "").await.unwrap();
    let skewed = Skewed::start(&deployment, "gateway-1", 600).await;
    for off in [600, -600] {
        skewed.step(off);
        assert!((skewed.gateway_is_off().await - i64::from(off)).abs() < 60);
        // The next heartbeat tells it the deployment's time.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let repository = deployment.client_of_gateway(0).repository("clock/url");
        let sent = repository.get(&format!("/blobs/{}", blob.digest)).await.unwrap().expect(307).unwrap();
        let path = sent.location().unwrap();
        let reply = Client::new(storage.url()).call(Method::GET, path).send().await.unwrap();
        assert_eq!(reply.expect(200).unwrap().body, blob.bytes);
    }
    skewed.right_again().await;
}

/// A token's five minutes are the deployment's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: a token's lifetime in real time"]
async fn long_t16_an_expired_token_is_refused_by_a_gateway_whose_clock_is_slow() {
    let setting = Setting::new(Layout::RolesApart, Engine::Postgres).with_gateways(2);
    let deployment = Deployment::builder(setting).start().await.unwrap();
    both_gateways_serve(&deployment, "clock/slow").await;
    let skewed = Skewed::start(&deployment, "gateway-1", -600).await;
    let token = deployment.client().fresh_token(&["repository:clock/slow:pull"]).await.unwrap();
    let began = std::time::Instant::now();
    let status = |gateway: usize| {
        let client = deployment.client_of_gateway(gateway);
        let call = client.call(Method::GET, "/v2/clock/slow/manifests/v1").bearer(&token);
        async move { call.send().await.unwrap().status }
    };
    while began.elapsed() < Duration::from_secs(295) {
        assert_eq!((status(0).await, status(1).await), (200, 200), "after {:?}", began.elapsed());
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    tokio::time::sleep(Duration::from_secs(65)).await;
    assert_eq!((status(0).await, status(1).await), (401, 401));
    skewed.right_again().await;
}
