//! T11: everything that remembers something is started anew under full pull load. The database is asked for each key once
//! at a time, and every client gets on.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]
#![allow(clippy::print_stdout, reason = "how long pulls took belongs in the log")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use berth_testkit::{Client, Content, Deployment, Engine, Image, Layout, Setting, eventually};
use futures::future::join_all;
use reqwest::Method;
use tokio::task::JoinSet;

const REPOSITORY: &str = "cold/app";
const CLIENTS: usize = 200;

async fn fleet(engine: Engine) -> Deployment {
    let setting = Setting::new(Layout::RolesApart, engine).with_gateways(2);
    Deployment::builder(setting).start().await.unwrap()
}

async fn pushed(deployment: &Deployment) -> Image {
    let image = Content::named("cold").image(2, 10_000);
    deployment.client().repository(REPOSITORY).push_image("v1", &image).await.unwrap().expect(201).unwrap();
    image
}

async fn sum(deployment: &Deployment, role: &str, series: &str) -> f64 {
    let processes = deployment.processes().iter().filter(|process| process.name().starts_with(role));
    let values = processes.map(|process| async { process.metric(series).await.unwrap_or_default() });
    join_all(values).await.iter().sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t11_a_crowd_that_asks_the_same_is_one_query() {
    let deployment = fleet(Engine::Postgres).await;
    let image = pushed(&deployment).await;
    let token = deployment.client().fresh_token(&["repository:cold/app:pull"]).await.unwrap();
    // Nothing is remembered anywhere, and the database takes its time.
    for role in ["metadata", "gateway-1", "gateway-2"] {
        deployment.restart(role).await.unwrap();
    }
    let mut database = deployment.sql().await.unwrap();
    database.run("BEGIN; LOCK TABLE metadata.manifests IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let mut witness = deployment.sql().await.unwrap();
    let clients: Vec<Client> = (0..2).map(|gateway| deployment.client_of_gateway(gateway)).collect();
    let mut pulls = JoinSet::new();
    for number in 0..CLIENTS {
        let path = format!("/v2/{REPOSITORY}/manifests/v1");
        let call = clients[number % 2].call(Method::GET, path).bearer(&token);
        pulls.spawn(async move { call.send().await?.expect(200) });
    }

    let running = "berth_gateway_requests_running";
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let all = CLIENTS as f64;
    let crowd = eventually("all requests wait", || async {
        (sum(&deployment, "gateway", running).await >= all).then_some(())
    });
    crowd.await.unwrap();
    let waiting =
        "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let queries = witness.texts(waiting).await.unwrap();
    assert_eq!(queries.len(), 1, "{queries:#?}");

    database.run("ROLLBACK").await.unwrap();
    for reply in pulls.join_all().await {
        assert_eq!(reply.unwrap().body, image.manifest.bytes);
    }
    let asked = r#"berth_metadata_call_seconds_count{method="resolve",outcome="ok"}"#;
    let asked = deployment.process("metadata").metric(asked).await.unwrap();
    let joined = deployment.process("metadata").metric("berth_metadata_joined_reads_total").await.unwrap();
    assert!(asked >= all, "every read asks metadata: {asked}");
    // The first who came, and whoever led the rest. The bytes: one read for each gateway.
    assert!(asked + 2.0 - joined <= 8.0, "{asked} reads, of which {joined} joined another's query");
    deployment.is_sound().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t11_every_client_gets_on_after_a_cold_restart_under_load() {
    for engine in [Engine::Sqlite, Engine::Postgres] {
        every_client_gets_on(&fleet(engine).await).await;
    }
}

/// How often a client pulls after the restart.
const PULLS: usize = 5;

async fn every_client_gets_on(deployment: &Deployment) {
    let image = Arc::new(pushed(deployment).await);
    let token = deployment.client().fresh_token(&["repository:cold/app:pull"]).await.unwrap();
    let (restarted, warm) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let client = Client::new(deployment.url());
        let (image, token) = (Arc::clone(&image), token.clone());
        let (restarted, warm) = (Arc::clone(&restarted), Arc::clone(&warm));
        clients.spawn(async move {
            let mut done = 0;
            let mut times = Vec::new();
            while done < PULLS {
                let (after, began) = (restarted.load(Ordering::SeqCst), Instant::now());
                match pull(&client, &token, &image).await {
                    Ok(()) if after => {
                        done += 1;
                        times.push(began.elapsed());
                    }
                    Ok(()) => {
                        warm.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(error) => assert!(!after, "after the restart: {error:#}"),
                }
            }
            times
        });
    }
    eventually("clients pull", || async { (warm.load(Ordering::SeqCst) >= CLIENTS).then_some(()) })
        .await
        .unwrap();
    for role in ["metadata", "gateway-1", "gateway-2"] {
        deployment.process(role).kill();
    }
    for role in ["metadata", "gateway-1", "gateway-2"] {
        deployment.restart(role).await.unwrap();
    }
    restarted.store(true, Ordering::SeqCst);
    let mut times: Vec<Duration> = clients.join_all().await.into_iter().flatten().collect();
    times.sort_unstable();
    let p99 = times[times.len() * 99 / 100];
    println!("{:?}: {} pulls after the restart, p99 {p99:?}", deployment.setting(), times.len());
    deployment.is_sound().await.unwrap();
}

/// One pull: the manifest by tag and by digest, and its layers.
async fn pull(client: &Client, token: &str, image: &Image) -> anyhow::Result<()> {
    let digest = image.manifest.digest.to_string();
    for reference in ["v1", digest.as_str()] {
        let path = format!("/v2/{REPOSITORY}/manifests/{reference}");
        let reply = client.call(Method::GET, path).bearer(token).send().await?.expect(200)?;
        anyhow::ensure!(reply.body == image.manifest.bytes, "other bytes");
    }
    for blob in &image.layers {
        let path = format!("/v2/{REPOSITORY}/blobs/{}", blob.digest);
        let reply = client.call(Method::GET, path).bearer(token).send().await?.expect(200)?;
        anyhow::ensure!(reply.body == blob.bytes, "other bytes");
    }
    Ok(())
}
