//! Reading request bodies within limits.

use std::time::Duration;

use berth_oci::ErrorCode;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};

use crate::failure::{Failure, Result};

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
    body: Incoming,
    idle: Duration,
}

impl Reader {
    pub(crate) fn new(body: Incoming, idle: Duration) -> Self {
        Self { body, idle }
    }

    /// The number of bytes that the head announced.
    pub(crate) fn announced(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The next bytes; how the body ended when there are none.
    pub(crate) async fn next(&mut self) -> std::result::Result<Bytes, End> {
        loop {
            match tokio::time::timeout(self.idle, self.body.frame()).await {
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

    /// The whole body, at most `limit` bytes.
    pub(crate) async fn collect(mut self, limit: usize, what: &str) -> Result<Bytes> {
        let too_large =
            || Failure::new(ErrorCode::TooLarge, format!("{what} has at most {limit} bytes")).closing();
        if self.announced().is_some_and(|length| length > limit as u64) {
            return Err(too_large());
        }
        let mut whole = BytesMut::new();
        loop {
            match self.next().await {
                Ok(data) if whole.len() + data.len() > limit => return Err(too_large()),
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
