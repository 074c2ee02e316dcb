//! One bucket for all gateways. Each counts in a bucket of its own, as if it were alone, and what it took is charged to a
//! common ledger a moment later; the answer says what all have taken, and the own bucket goes on from there. So a read never
//! waits for the ledger, nothing that was taken is forgotten, and what gateways take at once too much they all pay back.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use berth_service::Tasks;
use tokio::time::Instant;

use super::bucket::Bucket;

/// How long a gateway counts on by itself after a word of the ledger. Each gateway may take too early what the rate gives in
/// this time, or, where nothing was read for a while, the burst.
pub(super) const LEASE: Duration = Duration::from_millis(20);
/// The same while little of the burst is in use.
pub(super) const CALM_LEASE: Duration = Duration::from_millis(100);

/// Reads that a gateway took. Times are microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Charge {
    /// How far, as far as the gateway knows, reads were ahead of now before these; below zero: so long there was none. It
    /// counts where the ledger knows less, since it was emptied.
    pub(super) before: i64,
    /// What the reads take.
    pub(super) cost: i64,
    /// Nobody is told that reads are further ahead than this: the rest is let off.
    pub(super) most: i64,
}

impl Charge {
    /// Beyond the tolerance of the bucket, in microseconds. A ledger whose clock was set back costs no more than this.
    pub(super) const MOST: i64 = 2_000_000;
}

/// The ledger gives no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Away;

/// Where gateways add up what they took.
#[async_trait]
pub(super) trait Ledger: fmt::Debug + Send + Sync {
    /// Whether it answered when it was last asked. Takes no time worth mentioning.
    fn is_here(&self) -> bool;

    /// Adds to an account. How many microseconds all reads of it are ahead of now; below zero: there is room for more than
    /// the burst.
    async fn charge(&self, account: &str, charge: Charge) -> Result<i64, Away>;
}

/// What several gateways need to count together.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    ledger: Arc<dyn Ledger>,
    tasks: Tasks,
}

impl Shared {
    pub(super) fn new(ledger: Arc<dyn Ledger>, tasks: Tasks) -> Self {
        Self { ledger, tasks }
    }
}

/// A bucket, and its account where gateways share it.
#[derive(Debug)]
pub(super) struct Counted {
    began: Instant,
    bucket: Bucket,
    account: Option<Account>,
}

#[derive(Debug)]
struct Account {
    name: String,
    shared: Shared,
    /// One task at a time.
    settling: AtomicBool,
}

impl Counted {
    pub(super) fn new(rate: u64, account: Option<(String, Shared)>) -> Arc<Self> {
        let account =
            account.map(|(name, shared)| Account { name, shared, settling: AtomicBool::new(false) });
        Arc::new(Self { began: Instant::now(), bucket: Bucket::of(rate), account })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Takes one read; or how long it is until there is one.
    pub(super) fn take(self: &Arc<Self>) -> Result<(), Duration> {
        self.bucket.take(self.now())?;
        // What is taken while the ledger is away is between this gateway and its clients.
        let Some(account) = self.account.as_ref().filter(|account| account.shared.ledger.is_here()) else {
            return Ok(());
        };
        self.bucket.owe();
        if !account.settling.load(Ordering::Relaxed) && !account.settling.swap(true, Ordering::AcqRel) {
            let (counted, stopping) = (Arc::clone(self), account.shared.tasks.stopping());
            account.shared.tasks.spawn("settle reads", async move {
                tokio::select! {
                    () = stopping.cancelled() => {}
                    () = counted.settle() => {}
                }
            });
        }
        Ok(())
    }

    /// Settles at once, and again after each lease, until there is nothing left to be told.
    async fn settle(&self) {
        let Some(account) = &self.account else { return };
        loop {
            let began = Instant::now();
            let opened = self.bucket.open(self.now());
            let Ok(ahead) = account.shared.ledger.charge(&account.name, opened.charge).await else {
                // What it was to be told is let off: it may have heard it.
                return account.settling.store(false, Ordering::Release);
            };
            self.bucket.adopt(&opened, ahead);
            let lease = if self.bucket.is_calm(ahead) { CALM_LEASE } else { LEASE };
            tokio::time::sleep_until(began + lease).await;
            if self.bucket.owes() {
                continue;
            }
            account.settling.store(false, Ordering::Release);
            // Somebody may have taken a read since, and have left it to this task.
            if !self.bucket.owes() || account.settling.swap(true, Ordering::AcqRel) {
                return;
            }
        }
    }
}
