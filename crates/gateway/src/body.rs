//! Reading request bodies within limits.

use std::time::Duration;

use berth_oci::ErrorCode;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header::EXPECT};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};

use crate::failure::{Failure, Result};
use tokio::time::Instant;

/// The most that is read, and for how long, of a body that is refused.
const LINGER_BYTES: u64 = 16 << 20;
const LINGER_TIME: Duration = Duration::from_secs(5);
/// The most that is read of a body that a request should not have.
const UNWANTED_BYTES: usize = 64 * 1024;

/// How slowly a client may send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Without a byte, and the window over which the rate is looked at.
    pub(crate) idle: Duration,
    /// The least on average. 0: none.
    pub(crate) bytes_per_second: u64,
}

/// How the body of an upload ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// All of it came.
    Complete,
    /// The client went away, or sent too little.
    Cut,
    /// The client sent nothing for too long, or too slowly.
    Late,
}

/// The body of a request, read frame by frame.
#[derive(Debug)]
pub(crate) struct Reader {
    /// None: taken.
    body: Option<Incoming>,
    pace: Pace,
    /// How long the client was waited for in this window, and what came of it.
    waited: Duration,
    came: u64,
    /// The client sends nothing before it is asked, which the first read does (`Expect: 100-continue`).
    waits: bool,
}

impl Reader {
    pub(crate) fn new(body: Incoming, headers: &HeaderMap, pace: Pace) -> Self {
        let waits = headers.contains_key(EXPECT);
        Self { body: Some(body), pace, waited: Duration::ZERO, came: 0, waits }
    }

    /// The body for whoever reads it; nothing is left here.
    pub(crate) fn take(&mut self) -> Self {
        Self { body: self.body.take(), ..*self }
    }

    /// The number of bytes that the head announced.
    pub(crate) fn announced(&self) -> Option<u64> {
        self.body.as_ref().map_or(Some(0), |body| body.size_hint().exact())
    }

    /// The next bytes; how the body ended when there are none.
    pub(crate) async fn next(&mut self) -> std::result::Result<Bytes, End> {
        let Some(body) = &mut self.body else { return Err(End::Complete) };
        self.waits = false;
        loop {
            // Only the client's time counts: while its bytes are stored it can't send.
            let asked = Instant::now();
            let frame = tokio::time::timeout(self.pace.idle, body.frame()).await;
            self.waited += asked.elapsed();
            if self.waited >= self.pace.idle {
                let least = self.waited.as_secs().saturating_mul(self.pace.bytes_per_second);
                if self.came < least {
                    tracing::debug!(
                        bytes = self.came,
                        seconds = self.waited.as_secs(),
                        "the client sent too slowly"
                    );
                    self.body = None;
                    return Err(End::Late);
                }
                (self.waited, self.came) = (Duration::ZERO, 0);
            }
            match frame {
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => {
                        self.came += data.len() as u64;
                        return Ok(data);
                    }
                    Err(_trailers) => {}
                },
                Ok(None) => return Err(End::Complete),
                Ok(Some(Err(error))) => {
                    tracing::debug!(%error, "the body was cut");
                    return Err(End::Cut);
                }
                Err(_idle) => {
                    tracing::debug!("the client sent nothing for too long");
                    // Nobody waits for it again.
                    self.body = None;
                    return Err(End::Late);
                }
            }
        }
    }

    /// Reads on for a while without keeping anything, before a request is refused. A connection that is closed while
    /// its client still writes shows many clients a broken pipe instead of the refusal.
    pub(crate) async fn linger(mut self) {
        if self.waits || self.announced().is_some_and(|length| length > LINGER_BYTES) {
            return;
        }
        let discard = async {
            let mut discarded = 0;
            while discarded < LINGER_BYTES
                && let Ok(data) = self.next().await
            {
                discarded += data.len() as u64;
            }
        };
        let _read_enough = tokio::time::timeout(LINGER_TIME, discard).await;
    }

    /// Reads a body that means nothing to the request, unless it is large.
    pub(crate) async fn discard(&mut self) -> Result<()> {
        if self.announced() != Some(0) {
            self.take().collect(UNWANTED_BYTES, "the body of a request that has no use for one").await?;
        }
        Ok(())
    }

    /// The whole body, at most `limit` bytes.
    pub(crate) async fn collect(mut self, limit: usize, what: &str) -> Result<Bytes> {
        let too_large =
            || Failure::new(ErrorCode::TooLarge, format!("{what} has at most {limit} bytes")).closing();
        if self.announced().is_some_and(|length| length > limit as u64) {
            self.linger().await;
            return Err(too_large());
        }
        let mut whole = BytesMut::new();
        loop {
            match self.next().await {
                Ok(data) if whole.len() + data.len() > limit => {
                    self.linger().await;
                    return Err(too_large());
                }
                Ok(data) => whole.extend_from_slice(&data),
                Err(End::Complete) => return Ok(whole.freeze()),
                Err(End::Late) => {
                    let message = "the body came too slowly";
                    return Err(Failure::new(ErrorCode::SizeInvalid, message)
                        .with_status(StatusCode::REQUEST_TIMEOUT)
                        .closing());
                }
                Err(End::Cut) => {
                    return Err(
                        Failure::new(ErrorCode::SizeInvalid, "the body ended before its length").closing()
                    );
                }
            }
        }
    }
}
