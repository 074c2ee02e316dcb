//! Where a relay delivers to.

use std::fmt::Debug;

use async_trait::async_trait;
use berth_oci::ErrorCode;
use berth_proto::{
    MAX_MESSAGE_BYTES,
    events::{DeliverRequest, Event, subscriber_client::SubscriberClient},
    from_status,
};
use berth_service::Channel;
use tonic::{Code, Status};

/// Why a delivery was not acknowledged. The events may have been applied all the same.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SinkError {
    /// The sink takes nothing now; that is no fault of these events.
    #[error("the subscriber does not answer: {0}")]
    Unavailable(String),
    /// No answer in time: either of the two others.
    #[error("the subscriber did not answer in time")]
    TimedOut,
    /// The sink can't apply these events.
    #[error("the subscriber refused the event: {0}")]
    Refused(String),
}

/// A destination of events.
#[async_trait]
pub trait Sink: Debug + Send + Sync + 'static {
    /// Delivers events in order. `Ok` means that all are durable at the sink; after an error any part may be.
    async fn deliver(&self, events: &[Event]) -> Result<(), SinkError>;
}

/// A subscriber behind a [`Channel`], in this process or another.
#[derive(Clone, Debug)]
pub struct DirectSink {
    client: SubscriberClient<Channel>,
}

impl DirectSink {
    /// A sink for the subscriber on `channel`.
    pub fn new(channel: Channel) -> Self {
        let client = SubscriberClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Self { client }
    }
}

#[async_trait]
impl Sink for DirectSink {
    async fn deliver(&self, events: &[Event]) -> Result<(), SinkError> {
        let request = DeliverRequest { events: events.to_vec() };
        match self.client.clone().deliver(request).await {
            Ok(_) => Ok(()),
            Err(status) => Err(classify(&status)),
        }
    }
}

/// Only what speaks of the events themselves counts against them: an absent, overloaded or misconfigured subscriber
/// must not turn a day of events into dead letters.
fn classify(status: &Status) -> SinkError {
    if status.code() == Code::DeadlineExceeded {
        return SinkError::TimedOut;
    }
    let problem = from_status(status);
    let text = status.message().to_owned();
    match problem.code {
        ErrorCode::Unavailable
        | ErrorCode::TooManyRequests
        | ErrorCode::StorageFull
        | ErrorCode::Unauthorized
        | ErrorCode::Denied => SinkError::Unavailable(text),
        ErrorCode::Internal => match status.code() {
            Code::Unimplemented | Code::Unauthenticated | Code::PermissionDenied => {
                SinkError::Unavailable(text)
            }
            _ => SinkError::Refused(text),
        },
        _ => SinkError::Refused(text),
    }
}
