//! The outbox as a relay sees it. The owner of the events keeps one delivery row for each (event, subscriber), written
//! in the transaction that changes the state; this trait only reads and closes those rows.

use std::{error::Error as StdError, fmt::Debug, time::Duration};

use async_trait::async_trait;
use berth_model::EventId;
use berth_proto::events::Event;
use berth_service::Timestamp;

/// The outbox can't be read or written now; nothing was changed.
#[derive(Debug, thiserror::Error)]
#[error("the outbox can't be used")]
pub struct OutboxError(#[source] Box<dyn StdError + Send + Sync>);

impl OutboxError {
    /// From the store's error.
    pub fn new(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(source.into())
    }
}

/// An event that waits for one subscriber.
#[derive(Clone, Debug, PartialEq)]
pub struct Due {
    /// The event.
    pub event: Event,
    /// How often its delivery has failed.
    pub attempts: u32,
}

/// What becomes of a delivery that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Try again after this time, by the store's clock; `None`: never, it is a dead letter.
    pub retry_after: Option<Duration>,
    /// Why, for an operator; at most [`MAX_ERROR_BYTES`] bytes.
    pub error: String,
}

/// The longest failure text that is recorded, in bytes.
pub const MAX_ERROR_BYTES: usize = 1024;

/// A delivery that was given up.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// The event.
    pub event: Event,
    /// How often its delivery failed.
    pub attempts: u32,
    /// The last failure.
    pub error: String,
    /// When it was given up.
    pub failed_at: Timestamp,
}

/// How far behind a subscriber is.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// Events not yet delivered, dead letters apart. May stop counting at an upper bound, such as 100,000.
    pub depth: u64,
    /// The age of the oldest of them by the store's clock; zero when there is none.
    pub oldest_age: Duration,
    /// Dead letters.
    pub dead: u64,
}

/// The deliveries of one service's events. Object safe; every method is one unit of work.
#[async_trait]
pub trait Outbox: Debug + Send + Sync + 'static {
    /// Takes or renews the right to relay to `subscriber` for `lease`: true for `holder` and nobody else until then. A lease of zero gives the right back.
    /// An outbox that only one process can open keeps the default.
    async fn claim(&self, subscriber: &str, holder: &str, lease: Duration) -> Result<bool, OutboxError> {
        let _ = (subscriber, holder, lease);
        Ok(true)
    }

    /// At most `limit` events that may be delivered to `subscriber` now, oldest first (by sequence). An event is left
    /// out while it or an older undelivered event of its key is backed off. Dead letters hold nothing up.
    async fn due(&self, subscriber: &str, limit: u32) -> Result<Vec<Due>, OutboxError>;

    /// Records that the subscriber has applied these events. Unknown ids are ignored.
    async fn delivered(&self, subscriber: &str, ids: &[EventId]) -> Result<(), OutboxError>;

    /// Counts a failed attempt, and backs the event off or makes it a dead letter.
    async fn failed(&self, subscriber: &str, id: EventId, failure: Failure) -> Result<(), OutboxError>;

    /// Dead letters by event id, those after `after`.
    async fn dead_letters(
        &self,
        subscriber: &str,
        after: Option<EventId>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, OutboxError>;

    /// Makes a dead letter due again with no attempts counted; false when there is none of this id.
    async fn replay(&self, subscriber: &str, id: EventId) -> Result<bool, OutboxError>;

    /// How far behind the subscriber is.
    async fn backlog(&self, subscriber: &str) -> Result<Backlog, OutboxError>;
}
