//! How many manifests an instance's clients may read in a second: the generic cell rate algorithm (ITU-T I.371) in one
//! number, without a lock. Each gateway counts by itself.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use berth_oci::{ErrorCode, Problem};
use tokio::time::Instant;

use crate::{failure::Result, request::Request};

/// Reads that may come at once, beyond the rate, at least.
const LEAST_BURST: u64 = 50;
/// HEADs have a bucket of their own, so many times as large.
const HEADS: u64 = 10;

/// One bucket.
#[derive(Debug)]
struct Bucket {
    /// Nanoseconds between two reads.
    interval: u64,
    /// Nanoseconds that reads may be ahead of the rate.
    tolerance: u64,
    /// When the next read is due, in nanoseconds since the meter began.
    due: AtomicU64,
}

impl Bucket {
    fn of(rate: u64) -> Self {
        let burst = (rate / 10).max(LEAST_BURST);
        let interval = 1_000_000_000 / rate.max(1);
        Self { interval, tolerance: interval.saturating_mul(burst.saturating_sub(1)), due: AtomicU64::new(0) }
    }

    /// Takes one read at a moment; or how long it is until there is one.
    fn take(&self, now: u64) -> std::result::Result<(), Duration> {
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
}

/// The reads of one instance. It outlives the settings that it came with, as long as its rate stays.
#[derive(Debug)]
pub(crate) struct Meter {
    rate: u64,
    began: Instant,
    gets: Bucket,
    heads: Bucket,
}

impl Meter {
    /// For so many GETs a second.
    pub(crate) fn of(rate: u64) -> Self {
        let heads = Bucket::of(rate.saturating_mul(HEADS));
        Self { rate, began: Instant::now(), gets: Bucket::of(rate), heads }
    }

    /// GETs a second.
    pub(crate) fn rate(&self) -> u64 {
        self.rate
    }

    /// Counts a read of a manifest; refused when the instance has had its share.
    pub(crate) fn admit(&self, head: bool) -> Result<()> {
        let now = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let bucket = if head { &self.heads } else { &self.gets };
        let Err(wait) = bucket.take(now) else { return Ok(()) };
        let (method, rate) = if head { ("HEADs", self.rate * HEADS) } else { ("GETs", self.rate) };
        let message =
            format!("the edition of the instance has {rate} {method} of manifests a second; try again");
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let detail =
            serde_json::json!({ "limit": rate, "unit": "manifests a second", "retry_after": seconds });
        Err(Problem::new(ErrorCode::TooManyRequests, message).with_detail(detail).into())
    }
}

/// Counts a read of a manifest that was authorised, where the instance's reads are counted.
pub(crate) fn admit(request: &Request, head: bool) -> Result<()> {
    request.instance.meter.as_ref().map_or(Ok(()), |meter| meter.admit(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn as_many_are_admitted_as_the_rate_and_its_burst_say() {
        for (rate, burst) in [(250, 50), (500, 50), (1000, 100)] {
            let meter = Meter::of(rate);
            let mut at_once = 0;
            while meter.admit(false).is_ok() {
                at_once += 1;
            }
            assert_eq!(at_once, burst, "{rate}");
            let mut admitted = 0;
            for _ in 0..10_000 {
                tokio::time::advance(Duration::from_millis(1)).await;
                for _ in 0..2 {
                    admitted += u64::from(meter.admit(false).is_ok());
                }
            }
            assert!((admitted * 100).abs_diff(rate * 1000) <= rate * 10, "{rate}: {admitted} in ten seconds");
            // HEADs are counted apart.
            let heads = (0..10 * rate).filter(|_| meter.admit(true).is_ok()).count() as u64;
            assert_eq!(heads, rate.max(LEAST_BURST));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_says_when_to_come_again_and_then_it_works() {
        let meter = Meter::of(1);
        while meter.admit(false).is_ok() {}
        let refused = meter.admit(false).unwrap_err();
        assert_eq!(refused.problem.code, ErrorCode::TooManyRequests);
        let seconds = refused.problem.detail.unwrap()["retry_after"].as_u64().unwrap();
        assert_eq!(seconds, 1);
        tokio::time::advance(Duration::from_secs(seconds)).await;
        meter.admit(false).unwrap();
        meter.admit(false).unwrap_err();
    }
}
