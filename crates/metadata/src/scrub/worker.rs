//! The scrubber's loop: one process at a time, at its pace, from where the pass was left.

use std::{
    cmp::{max, min},
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use berth_blobs::Blobs;
use berth_service::{Registry, Tasks};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use tokio_util::sync::CancellationToken;

use super::{Finding, Kind, Pass, Progress, check::Interrupted, is_outage};
use crate::{Metadata, error::Result};

/// How long the right to scrub lasts without being renewed.
const LEASE: Duration = Duration::from_secs(15);
/// How often it is renewed, and looked at whether the pass is still the newest.
const RENEW: Duration = Duration::from_secs(4);
/// The longest pause after failures.
const MAX_OUTAGE: Duration = Duration::from_secs(60);
/// Time that the pace may fall behind and catch up.
const CATCH_UP: Duration = Duration::from_millis(100);

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

/// What an operator sees of the scrubber.
#[derive(Clone, Default, Debug)]
pub(crate) struct Metrics {
    objects: Counter,
    bytes: Counter,
    damage: Family<OfKind, Gauge>,
    orphans: Gauge,
    ended: Gauge,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let Self { objects, bytes, damage, orphans, ended } = metrics.clone();
        registry.register("berth_scrub_objects", "Objects that were read back and hashed", objects);
        registry.register("berth_scrub_bytes", "Bytes that were read back and hashed", bytes);
        registry.register("berth_scrub_damage", "Damage that the newest pass has found, by kind", damage);
        registry.register(
            "berth_scrub_orphans",
            "Objects without a row that the newest pass has found",
            orphans,
        );
        registry.register(
            "berth_scrub_last_end_seconds",
            "When the last pass ended, in seconds since 1970",
            ended,
        );
        metrics
    }

    fn gauge(&self, kind: Kind) -> Gauge {
        match kind {
            Kind::Orphan => self.orphans.clone(),
            kind => self.damage.get_or_create(&OfKind { kind: kind.name() }).clone(),
        }
    }
}

/// Goes through everything.
#[derive(Debug)]
pub(crate) struct Scrubber {
    pub(super) metadata: Metadata,
    pub(super) blobs: Arc<dyn Blobs>,
    metrics: Metrics,
    holder: String,
    claimed: Option<Instant>,
    /// The pass that the gauges speak of.
    shown: Option<i64>,
    /// When the next bytes may be read.
    pace: Option<Instant>,
    outages: u32,
    /// Stores of instances that did not answer, and until when they are left out.
    pub(super) away: BTreeMap<String, Instant>,
}

/// What one round came to.
pub(super) enum Round {
    /// There is more at once.
    More,
    /// Nothing is to be done for so long.
    Idle(Duration),
}

impl Scrubber {
    pub(crate) fn new(metadata: Metadata, blobs: Arc<dyn Blobs>, metrics: Metrics) -> Self {
        let holder = metadata.ids.ulid().to_string();
        let away = BTreeMap::new();
        Self { metadata, blobs, metrics, holder, claimed: None, shown: None, pace: None, outages: 0, away }
    }

    /// Starts the loop; it ends soon after `tasks` are told to stop.
    pub(crate) fn spawn(self, tasks: &Tasks) {
        let stopping = tasks.stopping();
        tasks.spawn("scrub", self.run(stopping));
    }

    async fn run(mut self, stopping: CancellationToken) {
        let wake = Arc::clone(&self.metadata.scrub_wake);
        while !stopping.is_cancelled() {
            // What is cut short here was recorded whole or not at all.
            let round = tokio::select! {
                biased;
                () = stopping.cancelled() => break,
                round = self.round() => round,
            };
            let pause = match round {
                Ok(Round::More) => continue,
                Ok(Round::Idle(pause)) => pause,
                Err(error) => self.outage(&error.to_string()),
            };
            tokio::select! {
                () = stopping.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
                () = wake.notified() => {}
            }
        }
        // Whoever comes next need not wait for the lease to end.
        if self.claimed.is_some()
            && let Err(error) = self.metadata.claim_scrub(&self.holder, Duration::ZERO).await
        {
            tracing::debug!(%error, "the lease ends by itself");
        }
    }

    /// One step of the pass that runs, or a look at whether one is due.
    pub(super) async fn round(&mut self) -> Result<Round> {
        let poll = self.metadata.config.collection_poll();
        if !self.claim().await? {
            return Ok(Round::Idle(poll));
        }
        let newest = self.metadata.newest_pass().await?;
        if let Some(pass) = &newest {
            self.show(pass).await?;
            if pass.ended_at.is_none() {
                return self.go_on(pass).await;
            }
        }
        let Some(interval) = self.metadata.config.scrub_interval() else { return Ok(Round::Idle(poll)) };
        match newest {
            None => self.metadata.note_base_pass().await?,
            Some(pass) => {
                let due = pass.ended_at.map(|at| at.plus(interval));
                if due.is_some_and(|due| due <= self.metadata.clock.now()) {
                    self.metadata.begin_due_pass(pass.number).await?;
                    return Ok(Round::More);
                }
            }
        }
        Ok(Round::Idle(poll))
    }

    async fn go_on(&mut self, pass: &Pass) -> Result<Round> {
        match self.step(pass).await {
            Ok(progress) => {
                if self.metadata.advance_pass(pass, &progress).await? {
                    self.report(&progress);
                }
                self.outages = 0;
                Ok(Round::More)
            }
            Err(Interrupted::Moved) => Ok(Round::More),
            Err(Interrupted::Error(error)) if is_outage(&error) => Err(error),
            Err(Interrupted::Error(error)) => {
                self.metadata.note_wait(pass.number, error.to_string()).await?;
                Err(error)
            }
            Err(Interrupted::Store(reason)) => {
                self.metadata.note_wait(pass.number, reason.clone()).await?;
                Ok(Round::Idle(self.outage(&reason)))
            }
        }
    }

    fn report(&self, progress: &Progress) {
        self.metrics.objects.inc_by(progress.counts.blobs);
        self.metrics.bytes.inc_by(progress.counts.bytes);
        for Finding { kind, object, digest } in &progress.findings {
            self.metrics.gauge(*kind).inc();
            let object = object.as_deref().unwrap_or("none");
            let digest = digest.map(|digest| digest.to_string());
            let digest = digest.as_deref().unwrap_or("none");
            match kind {
                Kind::Orphan => tracing::error!(object, "no row names an object"),
                kind => tracing::error!(kind = kind.name(), object, digest, "stored content is damaged"),
            }
        }
    }

    /// Makes the gauges speak of this pass.
    async fn show(&mut self, pass: &Pass) -> Result<()> {
        if let Some(ended) = pass.ended_at.filter(|_| pass.number > 0) {
            self.metrics.ended.set(ended.seconds());
        }
        if self.shown == Some(pass.number) {
            return Ok(());
        }
        let counts = self.metadata.count_findings(pass.number).await?;
        for kind in Kind::ALL {
            let count = counts.iter().find(|(of, _)| *of == kind).map_or(0, |(_, count)| *count);
            self.metrics.gauge(kind).set(count);
        }
        self.shown = Some(pass.number);
        Ok(())
    }

    /// Takes or renews the right to scrub, well before it ends and not with every step.
    async fn claim(&mut self) -> Result<bool> {
        if self.claimed.is_some_and(|at| at.elapsed() < RENEW) {
            return Ok(true);
        }
        let claimed = self.metadata.claim_scrub(&self.holder, LEASE).await?;
        self.claimed = claimed.then(Instant::now);
        Ok(claimed)
    }

    /// Accounts for bytes that were read: keeps the pace and the lease, and notices when the pass was given up.
    pub(super) async fn tend(&mut self, pass: &Pass, bytes: u64) -> std::result::Result<(), Interrupted> {
        let rate = self.metadata.config.scrub_bytes_per_second;
        let mut woken = false;
        if pass.paced && rate > 0 {
            let now = Instant::now();
            let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
            let next = max(self.pace.unwrap_or(now), earliest) + cost(bytes, rate);
            self.pace = Some(next);
            if next > now + Duration::from_millis(5) {
                woken = tokio::select! {
                    () = tokio::time::sleep(next - now) => false,
                    () = self.metadata.scrub_wake.notified() => true,
                };
            }
        }
        if !woken && self.claimed.is_some_and(|at| at.elapsed() < RENEW) {
            return Ok(());
        }
        self.claimed = None;
        let newest = self.metadata.newest_pass().await?.map(|newest| newest.number);
        if newest != Some(pass.number) || !self.claim().await? {
            return Err(Interrupted::Moved);
        }
        Ok(())
    }

    fn outage(&mut self, reason: &str) -> Duration {
        self.outages = self.outages.saturating_add(1);
        if self.outages == 1 {
            tracing::warn!(reason, "scrubbing waits");
        }
        min(Duration::from_millis(500).saturating_mul(1 << min(self.outages, 16)), MAX_OUTAGE)
    }
}

/// The time that so many bytes are worth.
fn cost(bytes: u64, rate: u64) -> Duration {
    let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}
