//! One connection: its handshake, what it speaks, and its end, be it its own, a limit's or the drain's.

use std::{future::Future, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::Instant,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::{
    Limits,
    activity::{Activity, Running, Watched},
    files::Files,
    limits::Cut,
    opening::{Opening, Spoken},
};

/// What a request's connection says about it; in the extensions of every request.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The listener's name.
    pub listener: &'static str,
    /// The peer, on TCP.
    pub peer: Option<SocketAddr>,
    /// Whether TLS protects it.
    pub tls: bool,
    /// Files that the kernel sends to the peer, where nothing has to be done to their bytes.
    pub files: Option<Files>,
}

/// How often it is looked whether a connection of HTTP/1 rests.
const REST_CHECK: Duration = Duration::from_secs(1);
/// How long a connection without a request may take to end once it was told to.
const LAST_WORDS: Duration = Duration::from_secs(2);

pub(crate) async fn shake_hands(
    acceptor: &TlsAcceptor,
    stream: impl Stream + 'static,
    limit: Duration,
) -> Option<Box<dyn Stream>> {
    // Boxed: a handshake is large, and over soon.
    match tokio::time::timeout(limit, Box::pin(acceptor.accept(stream))).await {
        Ok(Ok(stream)) => Some(Box::new(stream)),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            None
        }
        Err(_elapsed) => None,
    }
}

/// How connections are served, once it is known what they speak.
#[derive(Clone, Debug)]
pub(crate) struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

impl Protocols {
    pub(crate) fn new(limits: &Limits) -> Self {
        let (mut http1, mut http2) = (http1::Builder::new(), http2::Builder::new(TokioExecutor::new()));
        // No `pipeline_flush`: it keeps back hyper's 400 for bytes that are no request, such as a TLS handshake. Clients
        // tell by that answer that they have to speak plainly, and try a silent listener again and again.
        http1.timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(limits.head_bytes.max(8192));
        http2
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20))
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
            .max_frame_size(64 * 1024)
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(20);
        Self { http1, http2 }
    }
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Serves a connection until it ends, or has to end: then the reason.
pub(crate) async fn one_connection<S, B>(
    stream: Box<dyn Stream>,
    service: S,
    protocols: &Protocols,
    connection: Connection,
    activity: &Arc<Activity>,
    stopping: CancellationToken,
) -> Option<Cut>
where
    S: Service<hyper::Request<Incoming>, Response = hyper::Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: http_body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let of_requests = Arc::clone(activity);
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(connection.clone());
        let running = Running::new(&of_requests);
        let answer = service.clone().call(request);
        async move { answer.await.map(|response| response.map(|body| Watched::new(body, running))) }
    });
    let mut stream = Opening::new(stream, Arc::clone(activity));
    loop {
        // Here a connection waits for its first bytes, and rests between requests, without the library.
        let spoken = tokio::select! {
            spoken = stream.spoken() => spoken,
            cut = overdue(activity) => {
                if cut == Cut::Idle {
                    farewell(stream).await;
                }
                return Some(cut);
            }
            () = stopping.cancelled() => {
                farewell(stream).await;
                return None;
            }
        };
        let following = Following { activity, stopping: &stopping };
        match spoken {
            Ok(Some(Spoken::Http1)) => {
                let serving = protocols.http1.serve_connection(TokioIo::new(stream), service.clone());
                let mut serving = Box::new(serving);
                let shut_down = http1::Connection::graceful_shutdown;
                match following.until_it_ends(Pin::new(&mut *serving), shut_down, true).await {
                    End::Over(cut) => return cut,
                    End::Rests => {}
                }
                let parts = serving.into_parts();
                if !parts.read_buf.is_empty() {
                    // Bytes between two requests that belong to none: whatever they are, nobody waits for an answer.
                    return None;
                }
                stream = parts.io.into_inner();
            }
            Ok(Some(Spoken::Http2)) => {
                let serving = protocols.http2.serve_connection(TokioIo::new(stream), service.clone());
                let shut_down = http2::Connection::graceful_shutdown;
                return match following.until_it_ends(Box::pin(serving).as_mut(), shut_down, false).await {
                    End::Over(cut) => cut,
                    End::Rests => None,
                };
            }
            Ok(None) => {
                farewell(stream).await;
                return activity.noted();
            }
            Err(error) => {
                tracing::debug!(%error, "a connection failed");
                return activity.noted();
            }
        }
    }
}

/// Until the connection has to end.
async fn overdue(activity: &Activity) -> Cut {
    loop {
        match activity.judge() {
            Ok(next) => tokio::time::sleep_until(next).await,
            Err(cut) => return cut,
        }
    }
}

/// Says to a peer that the connection ends here, if it listens.
async fn farewell(mut stream: impl Stream) {
    let _gone_already = tokio::time::timeout(LAST_WORDS, stream.shutdown()).await;
}

/// How the library's part of a connection ends.
enum End {
    Over(Option<Cut>),
    /// Nothing goes on; the stream can be taken back.
    Rests,
}

struct Following<'a> {
    activity: &'a Activity,
    stopping: &'a CancellationToken,
}

impl Following<'_> {
    async fn until_it_ends<C>(
        &self,
        mut serving: Pin<&mut C>,
        shut_down: fn(Pin<&mut C>),
        may_rest: bool,
    ) -> End
    where
        C: Future<Output = hyper::Result<()>>,
    {
        let Self { activity, stopping } = self;
        // When it was told to end, and why.
        let mut told: Option<(Instant, Option<Cut>)> = None;
        // Whether it rests is looked at more often than how long it does.
        let soon = |next: Instant| if may_rest { next.min(Instant::now() + REST_CHECK) } else { next };
        let mut look = match activity.judge() {
            Ok(next) => soon(next),
            Err(cut) => return End::Over(Some(cut)),
        };
        loop {
            tokio::select! {
                served = serving.as_mut() => {
                    if let Err(error) = served {
                        tracing::debug!(%error, "a connection failed");
                    }
                    return End::Over(activity.noted().or(told.and_then(|(_, why)| why)));
                }
                () = stopping.cancelled(), if told.is_none() => {
                    told = Some((Instant::now(), None));
                    shut_down(serving.as_mut());
                    look = Instant::now() + LAST_WORDS;
                }
                () = tokio::time::sleep_until(look) => match (activity.judge(), told) {
                    // A client of HTTP/2 has to answer before its connection ends by itself.
                    (_, Some((at, why))) if !activity.has_request() && at.elapsed() >= LAST_WORDS => {
                        return End::Over(why);
                    }
                    (Ok(_), None) if may_rest && activity.rests() => return End::Rests,
                    (Ok(next), None) => look = soon(next),
                    (Ok(next), Some(_)) => look = next.min(Instant::now() + LAST_WORDS),
                    (Err(Cut::Idle), None) => {
                        // A client of HTTP/2 may begin a request right now; it is told not to.
                        told = Some((Instant::now(), Some(Cut::Idle)));
                        shut_down(serving.as_mut());
                        look = Instant::now() + LAST_WORDS;
                    }
                    (Err(cut), _) => return End::Over(Some(cut)),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::Tasks;

    /// A stream that notes for how many bytes it is asked.
    struct Asked(tokio::io::DuplexStream, Arc<parking_lot::Mutex<Vec<usize>>>);

    impl AsyncRead for Asked {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            self.1.lock().push(buffer.remaining());
            Pin::new(&mut self.0).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for Asked {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
            bytes: &[u8],
        ) -> std::task::Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(context, bytes)
        }

        fn poll_flush(
            mut self: Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(context)
        }

        fn poll_shutdown(
            mut self: Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(context)
        }
    }

    /// Answers with the body of the request, after two seconds.
    async fn echo(
        request: hyper::Request<Incoming>,
    ) -> Result<hyper::Response<http_body_util::Full<bytes::Bytes>>, hyper::Error> {
        let body = http_body_util::BodyExt::collect(request.into_body()).await?.to_bytes();
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(hyper::Response::new(http_body_util::Full::new(body)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_rests_between_requests_and_never_inside_one() {
        use tokio::io::AsyncReadExt as _;
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let asked = Arc::<parking_lot::Mutex<Vec<usize>>>::default();
        let stream = Box::new(Asked(server, Arc::clone(&asked)));
        let limits = Limits::default();
        let activity = Activity::begin(&limits);
        let tasks = Tasks::new();
        let (protocols, stopping) = (Protocols::new(&limits), tasks.stopping());
        let connection = Connection { listener: "test", peer: None, tls: false, files: None };
        let serving = tasks.spawn("connection", async move {
            let service = tower::service_fn(echo);
            one_connection(stream, service, &protocols, connection, &activity, stopping).await
        });
        let answer = async |client: &mut tokio::io::DuplexStream, body: &str| {
            let mut answer = String::new();
            while !answer.ends_with(&format!("\r\n\r\n{body}")) {
                answer.push(char::from(client.read_u8().await.unwrap()));
            }
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        };
        let rests = || asked.lock().last() == Some(&24);
        let pause = || tokio::time::sleep(Duration::from_secs(3));
        pause().await;
        assert!(rests(), "nothing has come");
        for _ in 0..2 {
            client.write_all(b"PUT / HTTP/1.1\r\nHost: a\r\n").await.unwrap();
            pause().await;
            assert!(!rests(), "inside a head");
            client.write_all(b"Content-Length: 6\r\n\r\nabc").await.unwrap();
            pause().await;
            assert!(!rests(), "inside a body");
            client.write_all(b"def").await.unwrap();
            tokio::time::sleep(Duration::from_millis(1500)).await;
            assert!(!rests(), "before the answer");
            answer(&mut client, "abcdef").await;
            pause().await;
            assert!(rests(), "after the answer");
        }
        // Two at once, the second in two pieces.
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nPUT / HTTP/1.1\r\nHost: a\r\nCon").await.unwrap();
        answer(&mut client, "").await;
        pause().await;
        assert!(!rests(), "inside a head");
        client.write_all(b"tent-Length: 3\r\n\r\nghi").await.unwrap();
        answer(&mut client, "ghi").await;
        pause().await;
        assert!(rests());
        drop(client);
        assert_eq!(serving.await.unwrap(), None);
    }
}
