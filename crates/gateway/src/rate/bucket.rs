//! The generic cell rate algorithm (ITU-T I.371) in one number, without a lock.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::ledger::Charge;

/// Reads that may come at once, beyond the rate, at least.
pub(super) const LEAST_BURST: u64 = 50;

/// One bucket. Moments are nanoseconds since its meter began.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Nanoseconds between two reads.
    interval: u64,
    /// Nanoseconds that reads may be ahead of the rate.
    tolerance: u64,
    /// When the next read is due.
    due: AtomicU64,
    /// Reads that the ledger has not been told.
    untold: AtomicU64,
}

/// What is being told the ledger.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) charge: Charge,
    /// The moment, and what was due then.
    now: u64,
    due: u64,
}

fn micros(nanos: i128) -> i64 {
    i64::try_from(nanos / 1000).unwrap_or(i64::MAX)
}

impl Bucket {
    pub(super) fn of(rate: u64) -> Self {
        let burst = (rate / 10).max(LEAST_BURST);
        let interval = 1_000_000_000 / rate.max(1);
        let tolerance = interval.saturating_mul(burst.saturating_sub(1));
        Self { interval, tolerance, due: AtomicU64::new(0), untold: AtomicU64::new(0) }
    }

    /// Takes one read at a moment; or how long it is until there is one.
    pub(super) fn take(&self, now: u64) -> Result<(), Duration> {
        let mut due = self.due.load(Ordering::Relaxed);
        loop {
            let begins = due.max(now);
            if begins - now > self.tolerance {
                return Err(Duration::from_nanos(begins - now - self.tolerance));
            }
            let next = begins.saturating_add(self.interval);
            match self.due.compare_exchange_weak(due, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => due = other,
            }
        }
    }

    /// Has the ledger told of one read that was taken.
    pub(super) fn owe(&self) {
        self.untold.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether there is anything to tell.
    pub(super) fn owes(&self) -> bool {
        self.untold.load(Ordering::Relaxed) > 0
    }

    /// What is to be told, which is from then on counted as told, whatever comes of it.
    pub(super) fn open(&self, now: u64) -> Opened {
        let reads = self.untold.swap(0, Ordering::Relaxed);
        let due = self.due.load(Ordering::Relaxed);
        let cost = i128::from(reads) * i128::from(self.interval);
        let charge = Charge {
            before: micros(i128::from(due) - cost - i128::from(now)),
            cost: micros(cost),
            most: micros(i128::from(self.tolerance)).saturating_add(Charge::MOST),
        };
        Opened { charge, now, due }
    }

    /// Whether reads that are so many microseconds ahead use no more than a quarter of the burst.
    pub(super) fn is_calm(&self, ahead: i64) -> bool {
        i128::from(ahead) * 4000 <= i128::from(self.tolerance)
    }

    /// Takes over how far all reads of all gateways are ahead of the moment of `opened`, in microseconds; those that were
    /// taken here since come on top.
    pub(super) fn adopt(&self, opened: &Opened, ahead: i64) {
        let ahead = ahead.min(opened.charge.most).saturating_mul(1000);
        let told = opened.now.saturating_add_signed(ahead);
        let _applied = self.due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |due| {
            Some(if told >= opened.due {
                due.saturating_add(told - opened.due)
            } else {
                due.saturating_sub(opened.due - told)
            })
        });
    }
}
