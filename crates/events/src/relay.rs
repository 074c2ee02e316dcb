//! The relay: one background task for each (outbox, subscriber). It never stands between a producer and its answer.

use std::{cmp::min, collections::HashSet, sync::Arc, time::Duration};

use berth_model::EventId;
use berth_proto::events::Event;
use berth_service::{Ids, Tasks};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    Due, Failure, MAX_ERROR_BYTES, Outbox, OutboxError, RelayMetrics, Sink, SinkError,
    metrics::SubscriberMetrics,
};

/// Wakes relays after a commit. Cheap to clone; it never blocks and no nudge is lost.
#[derive(Clone, Debug)]
pub struct Nudge(watch::Sender<u64>);

impl Default for Nudge {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Nudge {
    /// Says that an event may be due.
    pub fn nudge(&self) {
        self.0.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// How a relay behaves. The defaults fit a direct subscriber.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    /// Events in one delivery, at most.
    pub batch: u32,
    /// How often the outbox is read without a nudge.
    pub poll: Duration,
    /// How long one delivery may take.
    pub timeout: Duration,
    /// The wait after the first failure; it doubles with each further one.
    pub backoff: Duration,
    /// The longest wait after a failure.
    pub max_backoff: Duration,
    /// Failures of one event until a refusal makes it a dead letter. One that is never answered is retried for good.
    pub max_attempts: u32,
    /// How long a relay holds its right to the subscriber without renewing it; so long nobody relays after a crash.
    /// A delivery that outlives it only means that another relay may deliver the same again.
    pub lease: Duration,
    /// How long deliveries go on after the process was asked to stop.
    pub drain: Duration,
    /// How often the backlog is measured.
    pub measure: Duration,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            batch: 100,
            poll: Duration::from_secs(1),
            timeout: Duration::from_secs(10),
            backoff: Duration::from_millis(500),
            max_backoff: Duration::from_secs(600),
            max_attempts: 20,
            lease: Duration::from_secs(15),
            drain: Duration::from_secs(5),
            measure: Duration::from_secs(5),
        }
    }
}

/// Carries the events of one outbox to one subscriber.
#[derive(Debug)]
pub struct Relay {
    subscriber: String,
    outbox: Arc<dyn Outbox>,
    sink: Arc<dyn Sink>,
    config: RelayConfig,
    metrics: SubscriberMetrics,
    holder: String,
    ids: Ids,
    /// When the lease was last taken or renewed.
    claimed: Option<Instant>,
    /// Deliveries in a row that the subscriber did not answer.
    outages: u32,
}

/// What one look into the outbox came to.
enum Round {
    /// Nothing more is due.
    Idle,
    /// There may be more.
    More,
    /// The subscriber, the outbox or the lease is not to be had; wait this long.
    Wait(Duration),
}

impl Relay {
    /// A relay of `outbox` to `subscriber`, whose name is the one in the delivery rows.
    pub fn new(
        subscriber: impl Into<String>,
        outbox: Arc<dyn Outbox>,
        sink: Arc<dyn Sink>,
        config: RelayConfig,
        metrics: &RelayMetrics,
        ids: &Ids,
    ) -> Self {
        let subscriber = subscriber.into();
        let metrics = metrics.of(&subscriber);
        let holder = ids.ulid().to_string();
        Self {
            subscriber,
            outbox,
            sink,
            config,
            metrics,
            holder,
            ids: ids.clone(),
            claimed: None,
            outages: 0,
        }
    }

    /// Starts the relay as a tracked task; it drains and ends when `tasks` stop.
    pub fn spawn(self, nudge: &Nudge, tasks: &Tasks) {
        let nudged = nudge.0.subscribe();
        let stopping = tasks.stopping();
        tasks.spawn("relay", self.run(nudged, stopping));
    }

    async fn run(mut self, mut nudged: watch::Receiver<u64>, stopping: CancellationToken) {
        let mut measured: Option<Instant> = None;
        while !stopping.is_cancelled() {
            nudged.mark_unchanged();
            let wait = match self.round().await {
                Round::More => continue,
                Round::Idle => None,
                Round::Wait(wait) => Some(wait),
            };
            if measured.is_none_or(|at| at.elapsed() >= self.config.measure) {
                self.measure().await;
                measured = Some(Instant::now());
            }
            let pause = wait.unwrap_or(self.config.poll);
            tokio::select! {
                () = stopping.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
                // During an outage a nudge changes nothing. A dropped nudge leaves the poll.
                Ok(()) = nudged.changed(), if wait.is_none() => {}
            }
        }
        let limit = self.config.drain;
        let drain = async { while matches!(self.round().await, Round::More) {} };
        if tokio::time::timeout(limit, drain).await.is_err() {
            tracing::info!(subscriber = self.subscriber, "events are left for the next start");
        }
        // Whoever comes next need not wait for the lease to end.
        if self.claimed.is_some()
            && let Err(error) = self.outbox.claim(&self.subscriber, &self.holder, Duration::ZERO).await
        {
            tracing::debug!(error = &error as &dyn std::error::Error, "the lease ends by itself");
        }
    }

    async fn round(&mut self) -> Round {
        match self.try_round().await {
            Ok(round) => round,
            Err(error) => {
                tracing::warn!(
                    subscriber = self.subscriber,
                    error = &error as &dyn std::error::Error,
                    "outbox"
                );
                Round::Wait(self.outage())
            }
        }
    }

    async fn try_round(&mut self) -> Result<Round, OutboxError> {
        if !self.claim().await? {
            return Ok(Round::Wait(self.config.poll));
        }
        let due = self.outbox.due(&self.subscriber, self.config.batch).await?;
        if due.is_empty() {
            return Ok(Round::Idle);
        }
        let events: Vec<Event> = due.iter().map(|due| due.event.clone()).collect();
        berth_service::crash::point("relay.before_delivery");
        match self.deliver(&events).await {
            Ok(()) => {
                berth_service::crash::point("relay.delivered");
                self.acknowledge(&events).await?;
                berth_service::crash::point("relay.marked");
                Ok(Round::More)
            }
            Err(SinkError::Unavailable(error)) => Ok(self.unavailable(&error)),
            Err(error) if due.len() == 1 => {
                self.fail(&due[0], &error).await?;
                Ok(Round::More)
            }
            Err(_) => self.isolate(&due).await,
        }
    }

    /// Takes or renews the lease, well before it ends and not with every look into the outbox.
    async fn claim(&mut self) -> Result<bool, OutboxError> {
        if self.claimed.is_some_and(|at| at.elapsed() < self.config.lease / 3) {
            return Ok(true);
        }
        let claimed = self.outbox.claim(&self.subscriber, &self.holder, self.config.lease).await?;
        self.claimed = claimed.then(Instant::now);
        Ok(claimed)
    }

    /// Something in the batch can't be delivered: one event at a time, and a failure holds up only its own key.
    async fn isolate(&mut self, due: &[Due]) -> Result<Round, OutboxError> {
        let mut held: HashSet<&str> = HashSet::new();
        let started = Instant::now();
        for one in due {
            // A slow pass must not outlive the lease; the rest comes with the next round.
            if started.elapsed() > self.config.lease / 3 {
                break;
            }
            if held.contains(one.event.key.as_str()) {
                continue;
            }
            let event = std::slice::from_ref(&one.event);
            match self.deliver(event).await {
                Ok(()) => self.acknowledge(event).await?,
                Err(SinkError::Unavailable(error)) => return Ok(self.unavailable(&error)),
                Err(error) => {
                    self.fail(one, &error).await?;
                    held.insert(&one.event.key);
                }
            }
        }
        Ok(Round::More)
    }

    async fn deliver(&self, events: &[Event]) -> Result<(), SinkError> {
        match tokio::time::timeout(self.config.timeout, self.sink.deliver(events)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(SinkError::TimedOut),
        }
    }

    async fn acknowledge(&mut self, events: &[Event]) -> Result<(), OutboxError> {
        let ids: Vec<EventId> = events.iter().filter_map(|event| event.id.parse().ok()).collect();
        self.outbox.delivered(&self.subscriber, &ids).await?;
        self.metrics.delivered.inc_by(ids.len() as u64);
        self.outages = 0;
        Ok(())
    }

    async fn fail(&mut self, due: &Due, error: &SinkError) -> Result<(), OutboxError> {
        let Ok(id) = due.event.id.parse::<EventId>() else {
            return Err(OutboxError::new(format!("an event has the id {:?}", due.event.id)));
        };
        let attempts = due.attempts.saturating_add(1);
        // Silence may be the subscriber's fault, for as long as an outage lasts; only a refusal is about the event.
        let is_hopeless = attempts >= self.config.max_attempts && *error != SinkError::TimedOut;
        let retry_after = (!is_hopeless).then(|| self.backoff(attempts));
        let mut text = error.to_string();
        text.truncate(text.floor_char_boundary(MAX_ERROR_BYTES));
        self.outbox.failed(&self.subscriber, id, Failure { retry_after, error: text }).await?;
        self.metrics.failed.inc();
        if retry_after.is_none() {
            self.metrics.dead.inc();
            tracing::error!(
                subscriber = self.subscriber,
                event = due.event.id,
                attempts,
                %error,
                "event given up; it stays among the dead letters until it is replayed"
            );
        } else {
            tracing::warn!(subscriber = self.subscriber, event = due.event.id, attempts, %error, "delivery failed");
        }
        Ok(())
    }

    fn unavailable(&mut self, error: &str) -> Round {
        self.metrics.failed.inc();
        let wait = self.outage();
        // Said once for each outage; the metrics tell how long it lasts.
        if self.outages == 1 {
            tracing::warn!(
                subscriber = self.subscriber,
                error,
                "the subscriber does not answer; events wait"
            );
        }
        Round::Wait(wait)
    }

    /// An outage is no fault of an event, so it is retried at least twice a minute and counts against none.
    fn outage(&mut self) -> Duration {
        self.outages = self.outages.saturating_add(1);
        min(self.backoff(self.outages), Duration::from_secs(30))
    }

    fn backoff(&self, attempts: u32) -> Duration {
        let doubled = self.config.backoff.saturating_mul(1 << min(attempts.saturating_sub(1), 30));
        // Spread over [half, whole], so that relays do not come back all at once.
        let permille = 500 + u32::try_from(self.ids.below(501)).unwrap_or_default();
        min(doubled, self.config.max_backoff).saturating_mul(permille) / 1000
    }

    async fn measure(&self) {
        match self.outbox.backlog(&self.subscriber).await {
            Ok(backlog) => {
                self.metrics.depth.set(i64::try_from(backlog.depth).unwrap_or(i64::MAX));
                self.metrics.oldest.set(i64::try_from(backlog.oldest_age.as_secs()).unwrap_or(i64::MAX));
                self.metrics.dead_letters.set(i64::try_from(backlog.dead).unwrap_or(i64::MAX));
            }
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "backlog not measured"),
        }
    }
}
