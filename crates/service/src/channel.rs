//! How services speak: one client type, whose far side is a server value in this process or a network peer.
//!
//! In process a call costs no serialisation of its transport, but passes the same guard as on the network: a panic is
//! INTERNAL, too much work at once is UNAVAILABLE, and a call without an answer ends at its deadline.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use futures::FutureExt;
use hyper_util::rt::TokioIo;
use tokio::sync::Semaphore;
use tonic::{Status, body::Body, transport::Endpoint};
use tower::Service;

/// How long a call may take until its answer begins. Streams may go on after that.
const DEADLINE: Duration = Duration::from_secs(30);
/// Bytes of one call's answer that may wait here unread: the slow reader of a blob holds no more.
const STREAM_WINDOW: u32 = 1 << 20;
/// The same of all calls together: no bound of its own (it is the largest that HTTP/2 knows), or a few slow readers
/// would stop every other call of the connection.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// How many calls one guard lets in at once.
const IN_FLIGHT: usize = 4096;

type Request = http::Request<Body>;
type Response = http::Response<Body>;
type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// An address that can't be used as a peer.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// Not a form that is understood.
    #[error("peer address {0:?} has to be unix:/path or http://host:port")]
    Address(String),
    /// Not a valid URI.
    #[error("peer address {address:?} is not valid")]
    Uri {
        /// What was given.
        address: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
}

trait LocalServer: Send + Sync {
    fn call(&self, request: Request) -> BoxFuture<Response>;
}

impl<S> LocalServer for S
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    fn call(&self, request: Request) -> BoxFuture<Response> {
        // Generated servers are always ready and clone by reference count.
        let future = Service::call(&mut self.clone(), request);
        Box::pin(async move {
            match future.await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        })
    }
}

#[derive(Clone)]
enum Target {
    Local(Arc<OnceLock<Arc<dyn LocalServer>>>),
    Remote(tonic::transport::Channel),
}

/// The transport of a generated client. Cheap to clone.
#[derive(Clone)]
pub struct Channel {
    name: &'static str,
    target: Target,
    permits: Arc<Semaphore>,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.target {
            Target::Local(_) => "local",
            Target::Remote(_) => "remote",
        };
        f.debug_struct("Channel").field("name", &self.name).field("kind", &kind).finish()
    }
}

impl Channel {
    fn new(name: &'static str, target: Target) -> Self {
        Self { name, target, permits: Arc::new(Semaphore::new(IN_FLIGHT)) }
    }

    /// To a server value in this process.
    pub fn local<S>(name: &'static str, server: S) -> Self
    where
        S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        let channel = Self::slot(name);
        channel.fill(server);
        channel
    }

    /// To a server value in this process that is built later, since roles call each other. Until [`Self::fill`] every
    /// call is UNAVAILABLE.
    pub fn slot(name: &'static str) -> Self {
        Self::new(name, Target::Local(Arc::new(OnceLock::new())))
    }

    /// Puts the server behind every clone of this slot. A second fill, or one of a remote channel, changes nothing.
    pub fn fill<S>(&self, server: S)
    where
        S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        if let Target::Local(slot) = &self.target {
            let _already_filled = slot.set(Arc::new(server));
        }
    }

    /// To a peer: `unix:/path/of/socket` or `http://host:port`. Connects at the first call and again after a loss.
    pub fn remote(name: &'static str, address: &str) -> Result<Self, ChannelError> {
        let endpoint = |uri: String| {
            let endpoint = Endpoint::from_shared(uri)
                .map_err(|source| ChannelError::Uri { address: address.to_owned(), source })?;
            Ok(endpoint
                .connect_timeout(Duration::from_secs(3))
                .initial_stream_window_size(Some(STREAM_WINDOW))
                .initial_connection_window_size(Some(CONNECTION_WINDOW))
                .http2_keep_alive_interval(Duration::from_secs(20))
                .tcp_nodelay(true))
        };
        let channel = if let Some(path) = address.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            let connector = tower::service_fn(move |_| {
                let path = path.clone();
                async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
            });
            endpoint("http://unix.invalid".to_owned())?.connect_with_connector_lazy(connector)
        } else if address.starts_with("http://") {
            endpoint(address.to_owned())?.connect_lazy()
        } else {
            return Err(ChannelError::Address(address.to_owned()));
        };
        Ok(Self::new(name, Target::Remote(channel)))
    }

    /// Whether the far side is in this process.
    pub fn is_local(&self) -> bool {
        matches!(self.target, Target::Local(_))
    }
}

async fn guarded<T, E>(
    name: &'static str,
    permits: Arc<Semaphore>,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, Status>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Ok(_permit) = permits.try_acquire_owned() else {
        return Err(Status::unavailable(format!("{name} has too many requests in flight")));
    };
    match tokio::time::timeout(DEADLINE, AssertUnwindSafe(call).catch_unwind()).await {
        Ok(Ok(Ok(response))) => Ok(response),
        Ok(Ok(Err(error))) => Err(Status::from_error(error.into())),
        Ok(Err(_panic)) => {
            tracing::error!(service = name, "a call panicked");
            Err(Status::internal(format!("{name} failed inside")))
        }
        Err(_elapsed) => Err(Status::deadline_exceeded(format!("{name} did not answer in time"))),
    }
}

impl Service<Request> for Channel {
    type Response = Response;
    type Error = Status;
    type Future = BoxFuture<Result<Response, Status>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        match &mut self.target {
            Target::Local(_) => Poll::Ready(Ok(())),
            Target::Remote(channel) => {
                channel.poll_ready(context).map_err(|error| Status::unavailable(error.to_string()))
            }
        }
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let (name, permits) = (self.name, Arc::clone(&self.permits));
        match &mut self.target {
            Target::Local(slot) => {
                let Some(server) = slot.get() else {
                    return Box::pin(async move {
                        Err(Status::unavailable(format!("{name} is not started yet")))
                    });
                };
                let call = server.call(request).map(Ok::<_, Infallible>);
                Box::pin(guarded(name, permits, call))
            }
            Target::Remote(channel) => {
                let call = channel.call(request);
                Box::pin(guarded(name, permits, call))
            }
        }
    }
}

/// The same guard in front of a server that is reached over the network.
#[derive(Clone, Debug)]
pub struct Guard<S> {
    name: &'static str,
    inner: S,
    permits: Arc<Semaphore>,
}

impl<S> Guard<S> {
    /// Guards `inner`.
    pub fn new(name: &'static str, inner: S) -> Self {
        Self { name, inner, permits: Arc::new(Semaphore::new(IN_FLIGHT)) }
    }
}

impl<S: tonic::server::NamedService> tonic::server::NamedService for Guard<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request> for Guard<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<Result<Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let guarded = guarded(self.name, Arc::clone(&self.permits), self.inner.call(request));
        Box::pin(async move { Ok(guarded.await.unwrap_or_else(Status::into_http)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct Server(fn() -> Response);

    impl Service<Request> for Server {
        type Response = Response;
        type Error = Infallible;
        type Future = BoxFuture<Result<Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request) -> Self::Future {
            let answer = self.0;
            Box::pin(async move { Ok(answer()) })
        }
    }

    #[tokio::test]
    async fn a_slot_is_unavailable_until_it_is_filled() {
        let mut channel = Channel::slot("metadata");
        let status = channel.call(Request::default()).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unavailable);
        channel.clone().fill(Server(|| Response::new(Body::empty())));
        assert!(channel.call(Request::default()).await.is_ok());
    }

    #[tokio::test]
    async fn a_panic_is_internal_and_the_next_call_works() {
        let mut channel = Channel::local("metadata", Server(|| panic!("on purpose")));
        assert_eq!(channel.call(Request::default()).await.unwrap_err().code(), tonic::Code::Internal);
        assert_eq!(channel.call(Request::default()).await.unwrap_err().code(), tonic::Code::Internal);
    }

    #[test]
    fn a_peer_address_has_two_forms() {
        assert!(matches!(Channel::remote("x", "ftp://a"), Err(ChannelError::Address(_))));
        assert!(matches!(Channel::remote("x", "127.0.0.1:1"), Err(ChannelError::Address(_))));
    }
}
