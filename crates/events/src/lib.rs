//! Events: how what a service has done reaches others. The owner writes each event in the transaction of its effect
//! ([`Outbox`]); a [`Relay`] hands it to a [`Sink`] at least once, in order for each key; the consumer applies it once
//! ([`fresh`]). No request ever waits for a sink.

mod consumer;
mod metrics;
mod outbox;
mod relay;
mod sink;
#[cfg(test)]
mod tests;

pub use consumer::{fresh, keys};
pub use metrics::RelayMetrics;
pub use outbox::{Backlog, DeadLetter, Due, Failure, MAX_ERROR_BYTES, Outbox, OutboxError};
pub use relay::{Nudge, Relay, RelayConfig};
pub use sink::{DirectSink, Sink, SinkError};
