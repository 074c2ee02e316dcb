//! A limit on how long a request to object storage may stand still while its body goes out. A deadline for the whole of
//! a part would be too long for a service that takes nothing, or too short for one that is slow and steady.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use aws_sdk_s3::{config::SharedHttpClient, primitives::SdkBody};
use aws_smithy_runtime_api::{
    client::{
        http::{
            HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
            http_client_fn,
        },
        orchestrator::HttpRequest,
        result::ConnectorError,
        runtime_components::RuntimeComponents,
    },
    shared::IntoShared,
};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Instant;

/// What may wait in the machine's own buffers once the last byte was taken.
const BUFFERED: u64 = 4 << 20;
/// How slowly that may drain, in bytes a second.
const DRAINING: u64 = 64 * 1024;

/// When something last went on.
#[derive(Debug)]
struct Progress(Mutex<(Instant, Duration)>);

impl Progress {
    fn deadline(&self) -> Instant {
        let (last, patience) = *self.0.lock();
        last + patience
    }

    fn went_on(&self, patience: Duration) {
        *self.0.lock() = (Instant::now(), patience);
    }
}

/// A body that notes when it is asked for more.
struct Watched {
    body: SdkBody,
    progress: Arc<Progress>,
    stall: Duration,
    sent: u64,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = <SdkBody as Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let step = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &step {
            self.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        let draining = Duration::from_secs(self.sent.min(BUFFERED) / DRAINING);
        let patience = if self.body.is_end_stream() { self.stall + draining } else { self.stall };
        self.progress.went_on(patience);
        step
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        Body::size_hint(&self.body)
    }
}

#[derive(Debug)]
struct Watching {
    connector: SharedHttpConnector,
    stall: Duration,
}

impl HttpConnector for Watching {
    fn call(&self, mut request: HttpRequest) -> HttpConnectorFuture {
        if request.body().content_length() == Some(0) {
            return self.connector.call(request);
        }
        let stall = self.stall;
        let progress = Arc::new(Progress(Mutex::new((Instant::now(), stall))));
        let body = std::mem::replace(request.body_mut(), SdkBody::taken());
        let body = Watched { body, progress: Arc::clone(&progress), stall, sent: 0 };
        *request.body_mut() = SdkBody::from_body_1_x(body);
        let answer = self.connector.call(request);
        HttpConnectorFuture::new(async move {
            tokio::pin!(answer);
            loop {
                let deadline = progress.deadline();
                match tokio::time::timeout_at(deadline, answer.as_mut()).await {
                    Ok(answer) => return answer,
                    Err(_elapsed) if progress.deadline() > deadline => {}
                    Err(elapsed) => return Err(ConnectorError::timeout(elapsed.into())),
                }
            }
        })
    }
}

/// The same client, whose requests fail when their body stands still for `stall`. They are made again like any that took
/// too long.
pub(super) fn watch(client: SharedHttpClient, stall: Duration) -> SharedHttpClient {
    http_client_fn(move |settings: &HttpConnectorSettings, components: &RuntimeComponents| {
        let connector = client.http_connector(settings, components);
        Watching { connector, stall }.into_shared()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

    const STALL: Duration = Duration::from_secs(30);

    /// A peer that takes a step of 64 KiB after each of these waits, and then answers after another.
    #[derive(Clone, Debug)]
    struct Peer(Vec<u64>, u64);

    impl HttpConnector for Peer {
        fn call(&self, mut request: HttpRequest) -> HttpConnectorFuture {
            let Self(waits, last) = self.clone();
            HttpConnectorFuture::new(async move {
                let mut body = std::mem::replace(request.body_mut(), SdkBody::taken());
                for wait in waits {
                    tokio::time::sleep(Duration::from_secs(wait)).await;
                    std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
                }
                tokio::time::sleep(Duration::from_secs(last)).await;
                Ok(HttpResponse::new(200.try_into().unwrap(), SdkBody::empty()))
            })
        }
    }

    async fn send(waits: Vec<u64>, last: u64) -> Result<Duration, Duration> {
        let began = Instant::now();
        let watching = Watching { connector: Peer(waits, last).into_shared(), stall: STALL };
        let steps = crate::s3::body::of(Bytes::from(vec![0; 4 * 64 * 1024])).into_inner();
        let outcome = watching.call(HttpRequest::new(steps)).await;
        outcome.map(|_| began.elapsed()).map_err(|error| {
            assert!(error.is_timeout(), "{error:?}");
            began.elapsed()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_may_be_slow_but_not_stand_still() {
        let seconds = Duration::from_secs;
        assert_eq!(send(vec![29, 29, 29, 29], 29).await, Ok(seconds(145)));
        assert_eq!(send(vec![1, 1, 40], 0).await, Err(seconds(32)));
        assert_eq!(send(vec![40], 0).await, Err(seconds(30)));
        // All of it was taken, and 256 KiB may still be on their way for four seconds.
        assert_eq!(send(vec![1, 1, 1, 1], 33).await, Ok(seconds(37)));
        assert_eq!(send(vec![1, 1, 1, 1], 40).await, Err(seconds(38)));
    }
}
