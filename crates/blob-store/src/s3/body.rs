//! The body of a request to object storage. Given out in steps: the HTTP client copies what it gets in one piece into a
//! buffer of its own, which as large as a part would double the memory that a part takes.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Bytes of a step.
const STEP: usize = 64 * 1024;

struct Steps(Bytes);

impl Body for Steps {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let length = self.0.len().min(STEP);
        Poll::Ready((length > 0).then(|| Ok(Frame::data(self.0.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}

/// `bytes` as a body that can be sent again.
pub(super) fn of(bytes: Bytes) -> ByteStream {
    if bytes.len() <= STEP {
        return ByteStream::from(bytes);
    }
    ByteStream::new(SdkBody::retryable(move || SdkBody::from_body_1_x(Steps(bytes.clone()))))
}
