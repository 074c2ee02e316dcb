//! What is left of a request's body when the request is answered. A connection on which more is to come can't carry another
//! request, and one that is closed while its client still writes shows many clients a broken pipe instead of the answer.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::header;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;

/// The most that is read on, in bytes, and for how long.
const MOST: u64 = 256 * 1024;
const TIME: Duration = Duration::from_secs(2);

/// A body that can be looked at again when its request was answered.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    body: Arc<Mutex<Incoming>>,
    /// The client sends nothing before it is asked to.
    waits: Arc<AtomicBool>,
}

impl Shared {
    pub(crate) fn new(request: http::Request<Incoming>) -> (http::Request<()>, Self) {
        let (head, body) = request.into_parts();
        let waits = head.headers.contains_key(header::EXPECT);
        let shared = Self { body: Arc::new(Mutex::new(body)), waits: Arc::new(AtomicBool::new(waits)) };
        (http::Request::from_parts(head, ()), shared)
    }

    /// Reads on for a while without keeping anything. False: there is more.
    pub(crate) async fn read_on(mut self) -> bool {
        if self.is_end_stream() {
            return true;
        }
        if self.waits.load(Ordering::Relaxed) || self.size_hint().lower() > MOST {
            return false;
        }
        let rest = async {
            let mut passed = 0;
            while let Some(frame) = self.frame().await {
                let Ok(frame) = frame else { return false };
                passed += frame.data_ref().map_or(0, |data| data.len() as u64);
                if passed > MOST {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(TIME, rest).await.unwrap_or(false)
    }
}

impl Body for Shared {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.waits.store(false, Ordering::Relaxed);
        Pin::new(&mut *self.body.lock()).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.lock().size_hint()
    }
}
