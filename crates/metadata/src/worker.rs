//! The collector's loop: one process at a time, a few rows at once, never a pause for anybody else. It sleeps until the
//! next review is due, and at most one poll.

use std::{
    cmp::{max, min},
    error::Error as _,
    sync::Arc,
    time::{Duration, Instant},
};

use berth_blobs::{Blobs, BlobsError, ObjectKey};
use berth_database::{DatabaseError, Engine};
use berth_service::{Registry, Tasks};
use futures::future::join_all;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Metadata,
    collect::{Claimed, Queue, Verdict},
    error::Result,
    staging,
};

/// Rows that are worked on at the same time: on SQLite they share a commit, on PostgreSQL each takes a connection.
const fn lanes(engine: Engine) -> usize {
    match engine {
        Engine::Sqlite => 16,
        Engine::Postgres => 4,
    }
}
/// Rows of one queue that a lane takes before the next queue has its turn.
const TURN: usize = 25;
/// How long the right to collect lasts without being renewed.
const LEASE: Duration = Duration::from_secs(15);
/// The longest try to delete an object; shorter than the lease on it.
const DELETE_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest pause after failures of the database.
const MAX_OUTAGE: Duration = Duration::from_secs(60);
/// How often depths are counted.
const MEASURE: Duration = Duration::from_secs(15);
/// How often it is looked after collection that was asked for.
const LOOK: Duration = Duration::from_secs(1);
/// A look takes one part in so many of the time at most.
const LOOK_SHARE: u32 = 20;
/// How often what nobody can ask for any more is looked for.
const TIDY: Duration = Duration::from_secs(60);

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OfQueue {
    queue: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OfReview {
    queue: &'static str,
    verdict: &'static str,
}

/// What an operator sees of collection.
#[derive(Clone, Default, Debug)]
pub(crate) struct Metrics {
    depth: Family<OfQueue, Gauge>,
    overdue: Family<OfQueue, Gauge>,
    reviews: Family<OfReview, Counter>,
    failures: Family<OfQueue, Counter>,
    freed: Counter,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "berth_collection_depth",
            "Rows in a queue of collection, counted to 100,000, by the process that collects",
            metrics.depth.clone(),
        );
        registry.register(
            "berth_collection_overdue_seconds",
            "How long the first row of a queue has been due",
            metrics.overdue.clone(),
        );
        registry.register(
            "berth_collection_reviews",
            "Reviews by queue and verdict; for objects: deletes",
            metrics.reviews.clone(),
        );
        registry.register(
            "berth_collection_failures",
            "Reviews and deletes that failed and are tried again",
            metrics.failures.clone(),
        );
        registry.register(
            "berth_collection_freed_bytes",
            "Bytes of objects that were deleted",
            metrics.freed.clone(),
        );
        metrics
    }

    fn count(&self, queue: Queue, verdict: Verdict) {
        let labels = OfReview { queue: queue.name(), verdict: verdict.name() };
        self.reviews.get_or_create(&labels).inc();
    }

    fn fail(&self, queue: Queue) {
        self.failures.get_or_create(&OfQueue { queue: queue.name() }).inc();
    }
}

/// Works through the queues of collection.
#[derive(Debug)]
pub(crate) struct Collector {
    metadata: Metadata,
    /// Without any, objects wait.
    blobs: Option<Arc<dyn Blobs>>,
    metrics: Metrics,
    holder: String,
    claimed: Option<Instant>,
    measured: Option<Instant>,
    tidied: Option<Instant>,
    /// When it is looked after what was asked for.
    look_at: Option<Instant>,
    outages: u32,
}

/// What one round over all queues came to.
enum Round {
    /// There may be more at once.
    More,
    /// Nothing is to be done for so long.
    Idle(Duration),
}

impl Collector {
    pub(crate) fn new(metadata: Metadata, blobs: Option<Arc<dyn Blobs>>, metrics: Metrics) -> Self {
        let holder = metadata.ids.ulid().to_string();
        let (claimed, measured, tidied, look_at) = (None, None, None, None);
        Self { metadata, blobs, metrics, holder, claimed, measured, tidied, look_at, outages: 0 }
    }

    /// Starts the loop; it ends soon after `tasks` are told to stop.
    pub(crate) fn spawn(self, tasks: &Tasks) {
        let stopping = tasks.stopping();
        tasks.spawn("collection", self.run(stopping));
    }

    async fn run(mut self, stopping: CancellationToken) {
        let wake = Arc::clone(&self.metadata.wake);
        while !stopping.is_cancelled() {
            let pause = match self.round(&stopping).await {
                Ok(Round::More) => continue,
                Ok(Round::Idle(pause)) => pause,
                Err(error) => self.outage(&error),
            };
            tokio::select! {
                () = stopping.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
                () = wake.notified() => {}
            }
        }
        // Whoever comes next need not wait for the lease to end.
        if self.claimed.is_some()
            && let Err(error) = self.metadata.claim_collection(&self.holder, Duration::ZERO).await
        {
            tracing::debug!(%error, "the lease ends by itself");
        }
    }

    /// One turn for every queue with something due.
    async fn round(&mut self, stopping: &CancellationToken) -> Result<Round> {
        let poll = self.spread(self.metadata.config.collection_poll());
        if !self.claim().await? {
            return Ok(Round::Idle(poll));
        }
        let (now, due) = self.metadata.first_due().await?;
        let mut done = 0;
        for queue in Queue::ALL {
            let is_due = due.iter().any(|(of, at)| *of == queue && *at <= now);
            if !is_due || stopping.is_cancelled() || !self.claim().await? {
                continue;
            }
            let lanes = (0..lanes(self.metadata.database.engine())).map(|_| self.lane(queue, stopping));
            for lane in join_all(lanes).await {
                done += lane?;
            }
        }
        self.outages = 0;
        if self.measured.is_none_or(|at| at.elapsed() >= MEASURE) {
            self.measure().await?;
            self.measured = Some(Instant::now());
        }
        if self.tidied.is_none_or(|at| at.elapsed() >= TIDY) {
            self.tidy(stopping).await?;
            self.tidied = Some(Instant::now());
        }
        let looks = self.look_at.is_none_or(|at| at <= Instant::now());
        if looks {
            let began = Instant::now();
            while !stopping.is_cancelled() && self.claim().await? && self.metadata.go_on_with_runs().await? {}
            self.look_at = Some(Instant::now() + max(LOOK, began.elapsed() * LOOK_SHARE));
        }
        if done > 0 {
            return Ok(Round::More);
        }
        let poll = if looks { poll } else { min(poll, LOOK) };
        let next = due.iter().map(|(_, at)| *at).filter(|at| *at > now).min();
        // A little late is better than a look too early.
        let next = next.map_or(poll, |at| at.since(now) + Duration::from_millis(5));
        Ok(Round::Idle(min(next, poll)))
    }

    /// Takes or renews the right to collect, well before it ends and not with every queue.
    async fn claim(&mut self) -> Result<bool> {
        if self.claimed.is_some_and(|at| at.elapsed() < LEASE / 3) {
            return Ok(true);
        }
        let claimed = self.metadata.claim_collection(&self.holder, LEASE).await?;
        self.claimed = claimed.then(Instant::now);
        Ok(claimed)
    }

    /// Works on a queue until nothing is due or the turn is over; how many rows it went through.
    async fn lane(&self, queue: Queue, stopping: &CancellationToken) -> Result<usize> {
        for done in 0..TURN {
            let step = tokio::select! {
                biased;
                // What is cut short here was either done whole or not at all; a claim's lease ends by itself.
                () = stopping.cancelled() => return Ok(done),
                step = self.step(queue) => step,
            };
            match step {
                Ok(true) => {}
                Ok(false) => return Ok(done),
                Err(error) => {
                    self.metrics.fail(queue);
                    let source = error.source().map(ToString::to_string);
                    tracing::warn!(queue = queue.name(), %error, source, "a review failed");
                    // The row is put off, and the others have their turn; unless it is the database that is away.
                    return if is_outage(&error) { Err(error) } else { Ok(done) };
                }
            }
        }
        Ok(TURN)
    }

    /// One row; false when none is due.
    async fn step(&self, queue: Queue) -> Result<bool> {
        let metadata = &self.metadata;
        let verdict = match queue {
            Queue::Manifest => metadata.review_next_manifest().await?,
            Queue::Link => metadata.review_next_link().await?,
            Queue::Blob => metadata.review_next_blob().await?,
            Queue::Repository => metadata.review_next_repository().await?,
            Queue::Session => match metadata.reap_next_session().await? {
                None => return Ok(metadata.forget_closed_sessions().await? > 0),
                verdict => verdict,
            },
            Queue::Object => return self.delete_next_object().await,
            Queue::Removal => metadata.remove_next().await?,
        };
        if let Some(verdict) = verdict {
            self.metrics.count(queue, verdict);
        }
        Ok(verdict.is_some())
    }

    /// Claims an object, deletes it outside of any transaction, and records the outcome.
    pub(crate) async fn delete_next_object(&self) -> Result<bool> {
        let Some(blobs) = &self.blobs else { return Ok(false) };
        let Some(claimed) = self.metadata.claim_next_object().await? else { return Ok(false) };
        berth_service::crash::point("collect_object.claimed");
        let outcome = delete(&**blobs, &claimed).await;
        berth_service::crash::point("collect_object.deleted");
        let verdict = match &outcome {
            Ok(()) => {
                self.metrics.freed.inc_by(claimed.size);
                Verdict::Deleted
            }
            Err(error) => {
                self.metrics.fail(Queue::Object);
                tracing::warn!(object = claimed.key, error, "an object can't be deleted yet");
                Verdict::PutOff
            }
        };
        self.metrics.count(Queue::Object, verdict);
        self.metadata.finish_object(claimed, outcome).await?;
        berth_service::crash::point("collect_object.finished");
        Ok(true)
    }

    async fn measure(&self) -> Result<()> {
        let status = self.metadata.collection_status().await?;
        for standing in status.queues {
            let labels = OfQueue { queue: standing.queue.name() };
            let depth = i64::try_from(standing.depth).unwrap_or(i64::MAX);
            self.metrics.depth.get_or_create(&labels).set(depth);
            let overdue = standing.first_due.map(|at| status.now.since(at)).unwrap_or_default();
            let overdue = i64::try_from(overdue.as_secs()).unwrap_or(i64::MAX);
            self.metrics.overdue.get_or_create(&labels).set(overdue);
        }
        Ok(())
    }

    /// Drops what nobody can ask for any more, and completes what older versions didn't write, a batch at a time.
    async fn tidy(&self, stopping: &CancellationToken) -> Result<()> {
        let metadata = &self.metadata;
        while !stopping.is_cancelled() && berth_database::idempotency::forget(&metadata.database).await? > 0 {
        }
        while !stopping.is_cancelled() && metadata.forget_tasks().await? > 0 {}
        while !stopping.is_cancelled() && metadata.fill_sizes().await? > 0 {}
        Ok(())
    }

    fn outage(&mut self, error: &crate::Error) -> Duration {
        self.outages = self.outages.saturating_add(1);
        if self.outages == 1 {
            tracing::warn!(%error, "collection waits");
        }
        let doubled = Duration::from_millis(500).saturating_mul(1 << min(self.outages, 16));
        self.spread(min(doubled, MAX_OUTAGE))
    }

    /// Spread over [half, whole], so that processes don't look all at once.
    fn spread(&self, wait: Duration) -> Duration {
        let permille = 500 + u32::try_from(self.metadata.ids.below(501)).unwrap_or_default();
        wait.saturating_mul(permille) / 1000
    }
}

fn is_outage(error: &crate::Error) -> bool {
    matches!(error, crate::Error::Database(DatabaseError::Unavailable(_) | DatabaseError::Full(_)))
}

async fn delete(blobs: &dyn Blobs, claimed: &Claimed) -> std::result::Result<(), String> {
    let key: ObjectKey = claimed.key.parse().map_err(|error: berth_blobs::KeyError| error.to_string())?;
    let delete = async {
        match claimed.remains.as_deref().map(staging::read_remains).transpose() {
            Ok(Some(remains)) => blobs.abandon(&remains).await,
            Ok(None) => blobs.delete(&claimed.store_id, &key).await,
            Err(error) => Err(BlobsError::Remote(error)),
        }
    };
    match tokio::time::timeout(DELETE_TIMEOUT, delete).await {
        Ok(Ok(()) | Err(BlobsError::NotFound)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {DELETE_TIMEOUT:?}")),
    }
}
