//! How many manifests an instance's clients may read in a second: the generic cell rate algorithm, in each gateway alone or,
//! with Redis, over all of them. A read is counted in memory, at once and without a lock, and never waits for anybody.

mod bucket;
mod ledger;
mod redis;

use std::sync::Arc;

use berth_model::InstanceId;
use berth_oci::{ErrorCode, Problem};

use crate::{failure::Result, request::Request};

use ledger::Counted;
pub(crate) use ledger::Shared;
pub use redis::{Redis, RedisUrlError};

/// HEADs have a bucket of their own, so many times as large.
const HEADS: u64 = 10;

/// The reads of one instance. It outlives the settings that it came with, as long as its rate stays.
#[derive(Debug)]
pub(crate) struct Meter {
    rate: u64,
    gets: Arc<Counted>,
    heads: Arc<Counted>,
}

impl Meter {
    /// For so many GETs a second of an instance, by this gateway or, with `shared`, by all.
    pub(crate) fn of(instance: InstanceId, rate: u64, shared: Option<&Shared>) -> Self {
        let account = |of: &str| shared.map(|shared| (format!("{instance}:{of}"), shared.clone()));
        let heads = Counted::new(rate.saturating_mul(HEADS), account("heads"));
        Self { rate, gets: Counted::new(rate, account("gets")), heads }
    }

    /// GETs a second.
    pub(crate) fn rate(&self) -> u64 {
        self.rate
    }

    /// Counts a read of a manifest; refused when the instance has had its share.
    pub(crate) fn admit(&self, head: bool) -> Result<()> {
        let counted = if head { &self.heads } else { &self.gets };
        let Err(wait) = counted.take() else { return Ok(()) };
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
mod tests;
