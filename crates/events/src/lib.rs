//! Events: how what a service has done reaches others. The owner writes each event in the transaction of its effect
//! ([`Outbox`]).

mod outbox;

pub use outbox::{Backlog, DeadLetter, Due, Failure, MAX_ERROR_BYTES, Outbox, OutboxError};
