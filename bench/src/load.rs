//! Loads. In a closed one each connection sends its next request when it has its answer. In an open one requests are due at a
//! fixed rate, whatever the server does, and a latency counts from the moment at which its request was due.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::ensure;
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
};

use crate::{
    http::Connection,
    latency::Latencies,
    operation::{Operation, Turn},
};

/// How a load went.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) seconds: f64,
    /// Bytes of bodies, either way.
    pub(crate) bytes: u64,
    /// Of each kind of operation.
    pub(crate) latencies: Vec<Latencies>,
    /// Operations that failed.
    pub(crate) errors: u64,
    /// What the first of them was.
    pub(crate) first_error: Option<anyhow::Error>,
}

/// So many failures end a load.
const TOO_MANY: u64 = 100;

impl Outcome {
    fn new(operation: &Operation) -> Self {
        let latencies = operation.kinds().iter().map(|_| Latencies::new()).collect();
        Self { seconds: 0.0, bytes: 0, latencies, errors: 0, first_error: None }
    }

    /// Those of all kinds.
    pub(crate) fn all(&self) -> Latencies {
        let mut all = Latencies::new();
        self.latencies.iter().for_each(|latencies| all.add(latencies));
        all
    }

    /// The outcome, if nothing failed.
    pub(crate) fn sound(self) -> anyhow::Result<Self> {
        match self.first_error {
            Some(error) => Err(error.context(format!("{} operations failed", self.errors))),
            None => Ok(self),
        }
    }
}

/// Does operations of one worker after the other.
struct Worker {
    address: SocketAddr,
    connection: Connection,
    operation: Operation,
    turn: Turn,
    outcome: Outcome,
}

impl Worker {
    async fn open(
        address: SocketAddr,
        operation: &Operation,
        worker: usize,
        run: u64,
    ) -> anyhow::Result<Self> {
        let (operation, outcome) = (operation.clone(), Outcome::new(operation));
        let connection = Connection::open(address).await?;
        Ok(Self { address, connection, operation, turn: Turn { worker, run, number: 0 }, outcome })
    }

    /// Does one that was due at `due`.
    async fn once(&mut self, number: u64, due: Instant) -> anyhow::Result<()> {
        let done = self.operation.once(&mut self.connection, Turn { number, ..self.turn }).await;
        match done {
            Ok(done) => {
                self.outcome.latencies[done.kind].record(due.elapsed());
                self.outcome.bytes += done.bytes;
            }
            Err(error) => {
                self.outcome.errors += 1;
                ensure!(self.outcome.errors < TOO_MANY, "failed too often: {error:#}");
                self.outcome.first_error.get_or_insert(error);
                self.connection = Connection::open(self.address).await?;
            }
        }
        Ok(())
    }
}

static RUN: AtomicU64 = AtomicU64::new(1);

/// A number for each run, so that no payload is pushed twice.
pub(crate) fn next_run() -> u64 {
    RUN.fetch_add(1, Ordering::Relaxed) + (u64::from(std::process::id()) << 32)
}

async fn workers(
    address: SocketAddr,
    operation: &Operation,
    connections: usize,
) -> anyhow::Result<Vec<Worker>> {
    let (run, mut workers) = (next_run(), Vec::with_capacity(connections));
    for worker in 0..connections {
        workers.push(Worker::open(address, operation, worker, run).await?);
    }
    Ok(workers)
}

async fn ended(
    operation: &Operation,
    began: Instant,
    mut workers: JoinSet<anyhow::Result<Worker>>,
) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new(operation);
    while let Some(worker) = workers.join_next().await {
        let of_worker = worker??.outcome;
        for (all, latencies) in outcome.latencies.iter_mut().zip(&of_worker.latencies) {
            all.add(latencies);
        }
        outcome.bytes += of_worker.bytes;
        outcome.errors += of_worker.errors;
        outcome.first_error = outcome.first_error.or(of_worker.first_error);
    }
    outcome.seconds = began.elapsed().as_secs_f64();
    Ok(outcome)
}

/// Runs `operation` on so many connections for so long, or until so many were done.
pub(crate) async fn closed(
    address: SocketAddr,
    operation: &Operation,
    connections: usize,
    time: Duration,
    most: u64,
) -> anyhow::Result<Outcome> {
    let numbers = Arc::new(AtomicU64::new(0));
    let opened = workers(address, operation, connections).await?;
    let began = Instant::now();
    let mut running = JoinSet::new();
    for mut worker in opened {
        let numbers = Arc::clone(&numbers);
        running.spawn(async move {
            while began.elapsed() < time {
                let number = numbers.fetch_add(1, Ordering::Relaxed);
                if number >= most {
                    break;
                }
                worker.once(number, Instant::now()).await?;
            }
            Ok(worker)
        });
    }
    ended(operation, began, running).await
}

/// A timer of the runtime is this coarse; the rest of a wait is spent looking at the clock.
const COARSE: Duration = Duration::from_millis(2);

/// Waits more exactly than timers do: the load's core has nothing else to do.
pub(crate) async fn until(at: Instant) {
    if let Some(early) = at.checked_duration_since(Instant::now() + COARSE) {
        tokio::time::sleep(early).await;
    }
    while Instant::now() < at {
        tokio::task::yield_now().await;
    }
}

/// Runs `operation` at so many a second for so long. What is due waits while all of the connections are busy, and the time
/// that it waits is part of its latency.
pub(crate) async fn open(
    address: SocketAddr,
    operation: &Operation,
    connections: usize,
    time: Duration,
    rate: f64,
) -> anyhow::Result<Outcome> {
    let opened = workers(address, operation, connections).await?;
    let (due, queue) = mpsc::unbounded_channel::<(u64, Instant)>();
    let queue = Arc::new(Mutex::new(queue));
    let mut running = JoinSet::new();
    for mut worker in opened {
        let queue = Arc::clone(&queue);
        running.spawn(async move {
            loop {
                let next = queue.lock().await.recv().await;
                let Some((number, due)) = next else { return Ok(worker) };
                worker.once(number, due).await?;
            }
        });
    }
    let began = Instant::now();
    for number in 0..(time.as_secs_f64() * rate) as u64 {
        let at = began + Duration::from_secs_f64(number as f64 / rate);
        until(at).await;
        // Nobody takes it any more when the workers have failed, which `ended` says.
        let _taken = due.send((number, at));
    }
    drop(due);
    ended(operation, began, running).await
}
