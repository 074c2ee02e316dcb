//! What the size of a tenant costs its administrators: lists, gets, makes and searches of the REST API among few
//! repositories and users, and among many.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use berth_testkit::{ADMIN, Deployment, Engine, Layout, PASSWORD, Setting};

use crate::{
    http::{Connection, head},
    latency::Latencies,
};

/// How many make things at the same time.
const MAKERS: usize = 8;
/// How often each operation is asked for.
const SAMPLES: usize = 400;

const HERE: &str = "/api/v1/instances/default";

/// Who calls.
#[derive(Clone, Debug)]
struct Caller {
    address: SocketAddr,
    authorization: Arc<str>,
}

impl Caller {
    fn head(&self, method: &str, target: &str, length: Option<usize>) -> Vec<u8> {
        let headers = [("Authorization", &*self.authorization), ("Content-Type", "application/json")];
        head(method, target, &headers, length)
    }

    async fn post(&self, connection: &mut Connection, target: &str, body: &str) -> anyhow::Result<()> {
        let head = self.head("POST", target, Some(body.len()));
        let answer = connection.exchange(&head, body.as_bytes()).await?;
        ensure!(answer.status == 201, "{target} answers {}", answer.status);
        Ok(())
    }

    async fn get(&self, connection: &mut Connection, target: &str) -> anyhow::Result<()> {
        let answer = connection.exchange(&self.head("GET", target, None), &[]).await?;
        ensure!(answer.status == 200, "{target} answers {}", answer.status);
        Ok(())
    }
}

/// The names of something with a number: spread over the alphabet, so that neighbours in a list are not of one time.
fn named(kind: &str, number: usize) -> String {
    let spread = number.wrapping_mul(0x9e37_79b9) % 1_000_003;
    format!("{kind}-{spread:06}-{number}")
}

/// Makes repositories and users until there are so many.
async fn fill(caller: &Caller, kind: &'static str, from: usize, to: usize) -> anyhow::Result<()> {
    let makers = (0..MAKERS).map(|maker| {
        let caller = caller.clone();
        async move {
            let mut connection = Connection::open(caller.address).await?;
            for number in (from..to).skip(maker).step_by(MAKERS) {
                let (target, body) = made(kind, number);
                caller.post(&mut connection, &target, &body).await?;
            }
            anyhow::Ok(())
        }
    });
    futures::future::try_join_all(makers).await?;
    Ok(())
}

/// Waits until what was made is in the audit, and nothing is done but what is asked for.
async fn settled(deployment: &Deployment) -> anyhow::Result<()> {
    let process = deployment.processes().first().context("a deployment of nothing")?;
    let began = Instant::now();
    loop {
        let metrics = process.metrics().await?;
        let waiting = metrics.lines().filter(|line| line.starts_with("berth_events_outbox_depth{"));
        if waiting.into_iter().all(|line| line.ends_with(" 0")) {
            return Ok(());
        }
        ensure!(
            began.elapsed() < Duration::from_secs(600),
            "the audit was not told everything in ten minutes"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn made(kind: &str, number: usize) -> (String, String) {
    match kind {
        "repository" => {
            (format!("{HERE}/repositories"), format!("{{\"path\":\"team/{}\"}}", named("app", number)))
        }
        _ => (format!("{HERE}/users"), format!("{{\"name\":\"{}\"}}", named("user", number))),
    }
}

/// The operations, each with what it asks for at its nth time, among so many.
fn asked(operation: &str, nth: usize, many: usize) -> String {
    let number = nth.wrapping_mul(7919) % many;
    match operation {
        "list repositories" => format!("{HERE}/repositories?page_size=50"),
        "get repository" => format!("{HERE}/repositories/team%2F{}", named("app", number)),
        "search repositories" => format!("{HERE}/repositories?page_size=50&search={}", named("app", number)),
        "list users" => format!("{HERE}/users?page_size=50"),
        "get user" => format!("{HERE}/users/{}", named("user", number)),
        _ => format!("{HERE}/users?page_size=50&search={}", named("user", number)),
    }
}

const READS: [(&str, &str); 6] = [
    ("list repositories", "repository"),
    ("get repository", "repository"),
    ("search repositories", "repository"),
    ("list users", "user"),
    ("get user", "user"),
    ("search users", "user"),
];

/// The 95th percentile of each operation, in microseconds.
async fn percentiles(
    caller: &Caller,
    round: usize,
    (repositories, users): (usize, usize),
) -> anyhow::Result<Vec<(String, u64)>> {
    let mut connection = Connection::open(caller.address).await?;
    let mut found = Vec::new();
    for (operation, kind) in READS {
        let many = if kind == "repository" { repositories } else { users };
        let mut seen = Latencies::new();
        for nth in 0..SAMPLES {
            let target = asked(operation, nth, many);
            let began = Instant::now();
            caller.get(&mut connection, &target).await?;
            seen.record(began.elapsed());
        }
        found.push((operation.to_owned(), seen.percentile(0.95)));
    }
    for kind in ["repository", "user"] {
        let mut seen = Latencies::new();
        for nth in 0..SAMPLES {
            // Names that nothing else has.
            let (target, body) = made(kind, 10_000_000 * round + nth);
            let began = Instant::now();
            caller.post(&mut connection, &target, &body).await?;
            seen.record(began.elapsed());
        }
        found.push((format!("create {kind}"), seen.percentile(0.95)));
    }
    Ok(found)
}

/// Measures with a hundred repositories and ten users, and with so many.
pub(crate) async fn measure(engine: Engine, repositories: usize, users: usize) -> anyhow::Result<()> {
    let deployment = Deployment::builder(Setting::new(Layout::OneProcess, engine)).start().await?;
    let session = format!("{{\"name\":\"{ADMIN}\",\"password\":\"{PASSWORD}\"}}");
    let mut connection = Connection::open(deployment.address()).await?;
    let mut answer = Vec::new();
    let request =
        head("POST", "/api/v1/sessions", &[("Content-Type", "application/json")], Some(session.len()));
    connection
        .exchange_into(&request, session.as_bytes(), &mut |part| answer.extend_from_slice(part))
        .await?;
    let opened: serde_json::Value = serde_json::from_slice(&answer).context("no session")?;
    let token = opened["token"].as_str().context("no token")?;
    let caller = Caller { address: deployment.address(), authorization: format!("Bearer {token}").into() };
    caller.post(&mut connection, &format!("{HERE}/namespaces"), "{\"name\":\"team\"}").await?;
    let small = (100, 10);
    fill(&caller, "repository", 0, small.0).await?;
    fill(&caller, "user", 0, small.1).await?;
    settled(&deployment).await?;
    // Once for what is only slow the first time.
    percentiles(&caller, 1, small).await?;
    let few = percentiles(&caller, 2, small).await?;
    fill(&caller, "repository", small.0, repositories).await?;
    fill(&caller, "user", small.1, users).await?;
    settled(&deployment).await?;
    let many = percentiles(&caller, 3, (repositories, users)).await?;
    println!(
        "| p95, us | {} repositories, {} users | {repositories}, {users} | times |\n|---|---:|---:|---:|",
        small.0, small.1
    );
    for ((operation, few), (_, many)) in few.into_iter().zip(many) {
        println!("| {operation} | {few} | {many} | {:.2} |", many as f64 / few as f64);
    }
    Ok(())
}
