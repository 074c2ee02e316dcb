//! Reading request bodies within limits.

use std::time::Duration;

use berth_oci::ErrorCode;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header::EXPECT};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};

use crate::failure::{Failure, Result};

/// The most that is read, and for how long, of a body that is refused.
const LINGER_BYTES: u64 = 16 << 20;
const LINGER_TIME: Duration = Duration::from_secs(5);

/// How the body of an upload ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// All of it came.
    Complete,
    /// The client went away, sent too little, or nothing for too long.
    Cut,
}

/// The body of a request, read frame by frame.
#[derive(Debug)]
pub(crate) struct Reader {
    /// None: taken.
    body: Option<Incoming>,
    idle: Duration,
    /// The client sends nothing before it is asked, which the first read does (`Expect: 100-continue`).
    waits: bool,
}

impl Reader {
    pub(crate) fn new(body: Incoming, headers: &HeaderMap, idle: Duration) -> Self {
        Self { body: Some(body), idle, waits: headers.contains_key(EXPECT) }
    }

    /// The body for whoever reads it; nothing is left here.
    pub(crate) fn take(&mut self) -> Self {
        Self { body: self.body.take(), idle: self.idle, waits: self.waits }
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
            match tokio::time::timeout(self.idle, body.frame()).await {
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => return Ok(data),
                    Err(_trailers) => {}
                },
                Ok(None) => return Err(End::Complete),
                Ok(Some(Err(error))) => {
                    tracing::debug!(%error, "the body was cut");
                    return Err(End::Cut);
                }
                Err(_idle) => {
                    tracing::debug!("the client sent nothing for too long");
                    return Err(End::Cut);
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
                Err(End::Cut) => {
                    return Err(
                        Failure::new(ErrorCode::SizeInvalid, "the body ended before its length").closing()
                    );
                }
            }
        }
    }
}
