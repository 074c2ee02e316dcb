//! Closed loads: each connection sends its next request when it has its answer.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use tokio::task::JoinSet;

use crate::{
    data::Payloads,
    http::{Connection, head},
};

/// What each operation of a load is.
#[derive(Clone)]
pub(crate) enum Operation {
    /// One of these requests after the other, each with the status that it must have.
    Requests(Arc<Vec<(Vec<u8>, u16)>>),
    /// A new blob: POST, then PUT.
    Push(Push),
    /// A new artifact: config, layer of 1 KiB, and a manifest with a tag. `repositories` are taken in turn by connections.
    Artifact { authorisations: Arc<Vec<String>>, repositories: Arc<Vec<String>> },
}

/// A push of blobs.
#[derive(Clone)]
pub(crate) struct Push {
    pub(crate) authorisation: String,
    pub(crate) repository: String,
    pub(crate) payloads: Payloads,
}

/// How a load went.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) operations: u64,
    pub(crate) seconds: f64,
    /// Microseconds, in order.
    pub(crate) latencies: Vec<u32>,
}

impl Outcome {
    /// The latency that this share of the operations had at most, in microseconds.
    pub(crate) fn percentile(&self, share: f64) -> u32 {
        let index = (self.latencies.len() as f64 * share) as usize;
        self.latencies.get(index.min(self.latencies.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

/// Tells one run from another, so that no payload is pushed twice.
static RUN: AtomicU64 = AtomicU64::new(1);

/// Runs `operation` on so many connections for so long, or until so many were done.
pub(crate) async fn closed(
    address: SocketAddr,
    operation: &Operation,
    connections: usize,
    time: Duration,
    most: u64,
) -> anyhow::Result<Outcome> {
    let run = RUN.fetch_add(1, Ordering::Relaxed) + (u64::from(std::process::id()) << 32);
    let numbers = Arc::new(AtomicU64::new(0));
    let mut opened = Vec::with_capacity(connections);
    for _ in 0..connections {
        opened.push(Connection::open(address).await?);
    }
    let began = Instant::now();
    let mut workers = JoinSet::new();
    for (worker, mut connection) in opened.into_iter().enumerate() {
        let (mut operation, numbers) = (operation.clone(), Arc::clone(&numbers));
        workers.spawn(async move {
            let mut latencies = Vec::new();
            while began.elapsed() < time {
                let number = numbers.fetch_add(1, Ordering::Relaxed);
                if number >= most {
                    break;
                }
                let started = Instant::now();
                once(&mut connection, &mut operation, worker, run, number).await?;
                latencies.push(u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX));
            }
            anyhow::Ok(latencies)
        });
    }
    let mut latencies = Vec::new();
    while let Some(worker) = workers.join_next().await {
        latencies.extend(worker??);
    }
    let seconds = began.elapsed().as_secs_f64();
    latencies.sort_unstable();
    Ok(Outcome { operations: latencies.len() as u64, seconds, latencies })
}

async fn request(connection: &mut Connection, (request, status): &(Vec<u8>, u16)) -> anyhow::Result<()> {
    let answer = connection.exchange(request, &[]).await?;
    ensure!(answer.status == *status, "{} for {:?}", answer.status, String::from_utf8_lossy(request));
    Ok(())
}

async fn once(
    connection: &mut Connection,
    operation: &mut Operation,
    worker: usize,
    run: u64,
    number: u64,
) -> anyhow::Result<()> {
    match operation {
        Operation::Requests(requests) => {
            let index = usize::try_from(number)? % requests.len();
            request(connection, &requests[index]).await
        }
        Operation::Push(push) => {
            let (body, digest) = push.payloads.numbered(run, number);
            push_blob(connection, &push.authorisation, &push.repository, body, &digest).await
        }
        Operation::Artifact { authorisations, repositories } => {
            let authorisation = &authorisations[worker % authorisations.len()];
            let repository = &repositories[worker % repositories.len()];
            let mut layer = crate::data::content(1, 1024);
            layer[..8].copy_from_slice(&run.to_le_bytes());
            layer[8..16].copy_from_slice(&number.to_le_bytes());
            push_blob(connection, authorisation, repository, &layer, &crate::data::digest(&layer)).await?;
            let manifest = crate::data::manifest(b"{}", &layer, number);
            let tag = format!("t{run}-{number}");
            put_manifest(connection, authorisation, repository, &tag, &manifest).await
        }
    }
}

/// Pushes a blob by POST and PUT.
pub(crate) async fn push_blob(
    connection: &mut Connection,
    authorisation: &str,
    repository: &str,
    body: &[u8],
    digest: &str,
) -> anyhow::Result<()> {
    let headers = [("Authorization", authorisation)];
    let post = head("POST", &format!("/v2/{repository}/blobs/uploads/"), &headers, Some(0));
    let answer = connection.exchange(&post, &[]).await?;
    ensure!(answer.status == 202, "POST of an upload: {}", answer.status);
    let location = answer.location.context("no Location")?;
    let target = match location.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |start| &rest[start..]),
        None => &location,
    };
    let joint = if target.contains('?') { '&' } else { '?' };
    let target = format!("{target}{joint}digest={}", digest.replace(':', "%3A"));
    let headers = [("Authorization", authorisation), ("Content-Type", "application/octet-stream")];
    let put = head("PUT", &target, &headers, Some(body.len()));
    let answer = connection.exchange(&put, body).await?;
    ensure!(answer.status == 201, "PUT of an upload: {}", answer.status);
    Ok(())
}

/// Pushes a manifest.
pub(crate) async fn put_manifest(
    connection: &mut Connection,
    authorisation: &str,
    repository: &str,
    reference: &str,
    manifest: &[u8],
) -> anyhow::Result<()> {
    let headers = [("Authorization", authorisation), ("Content-Type", crate::data::MANIFEST)];
    let put = head("PUT", &format!("/v2/{repository}/manifests/{reference}"), &headers, Some(manifest.len()));
    let answer = connection.exchange(&put, manifest).await?;
    ensure!(answer.status == 201, "PUT of a manifest: {}", answer.status);
    Ok(())
}
