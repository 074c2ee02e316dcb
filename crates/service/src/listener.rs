//! Listeners: bind, accept, serve HTTP/1.1 and HTTP/2 on one port with every time limit armed, and drain.

use std::{
    fmt, io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tower::Service;

use crate::{
    Limits, Tasks,
    activity::{Activity, Running, Watched},
    files::{FileStream, Files},
    limits::{Addresses, Connections, Cut},
    opening::{Opening, Paced},
};

/// Where to listen: `host:port` (port 0 picks one) or `unix:/path`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket; only the owner may connect.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        text.parse()
            .map(Self::Tcp)
            .map_err(|_| format!("{text:?} is not an address; use 127.0.0.1:5000, [::1]:5000 or unix:/path"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why a listener can't be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The address is taken or not ours.
    #[error("can't listen on {address} for {name}; is another process using it?")]
    Bind {
        /// The listener.
        name: &'static str,
        /// The address.
        address: Address,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The certificate or key can't be used.
    #[error("can't use the certificate {certificate} with the key {key}: {reason}")]
    Tls {
        /// The certificate chain's file.
        certificate: PathBuf,
        /// The private key's file.
        key: PathBuf,
        /// Why.
        reason: String,
    },
}

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

/// How long a connection without a request may take to end once it was told to.
const LAST_WORDS: Duration = Duration::from_secs(2);

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A bound socket, not yet serving.
pub struct Listener {
    name: &'static str,
    address: Address,
    socket: Socket,
    tls: Option<TlsAcceptor>,
    connections: Connections,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("name", &self.name).field("address", &self.address).finish()
    }
}

impl Listener {
    /// Binds. A stale Unix socket that nobody serves is replaced; a live one is an error.
    pub async fn bind(name: &'static str, address: &Address) -> Result<Self, ListenerError> {
        let failed = |source| ListenerError::Bind { name, address: address.clone(), source };
        let (socket, address) = match address {
            Address::Tcp(wanted) => {
                let socket = TcpListener::bind(wanted).await.map_err(failed)?;
                let bound = socket.local_addr().map_err(failed)?;
                (Socket::Tcp(socket), Address::Tcp(bound))
            }
            Address::Unix(path) => (Socket::Unix(bind_unix(path).await.map_err(failed)?), address.clone()),
        };
        Ok(Self { name, address, socket, tls: None, connections: Connections::default() })
    }

    /// Serves TLS with the given PEM files: ALPN `h2` and `http/1.1`.
    pub fn with_tls(mut self, certificate: &Path, key: &Path) -> Result<Self, ListenerError> {
        let failed =
            |reason: String| ListenerError::Tls { certificate: certificate.into(), key: key.into(), reason };
        use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
        let chain = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| failed(error.to_string()))?;
        let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| failed(error.to_string()))?;
        let mut config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, secret)
            .map_err(|error| failed(error.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        self.tls = Some(TlsAcceptor::from(Arc::new(config)));
        Ok(self)
    }

    /// Counts its connections there.
    #[must_use]
    pub fn counted_by(mut self, connections: &Connections) -> Self {
        self.connections = connections.clone();
        self
    }

    /// The bound address.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The listener's name.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

async fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if tokio::net::UnixStream::connect(path).await.is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process serves this socket"));
    }
    match tokio::fs::remove_file(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Bound under a private name and moved into place with its mode set, so that no moment is open to others.
    let private = path.with_extension(format!("{}.new", std::process::id()));
    let listener = UnixListener::bind(&private)?;
    tokio::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o600)).await?;
    tokio::fs::rename(&private, path).await?;
    Ok(listener)
}

/// Serves `service` on `listener` until the group stops; then no new connection is taken, and open ones end after the
/// request they are in. Never fails: an accept error is logged and waited out.
pub fn serve<S, B>(listener: Listener, service: S, limits: Limits, tasks: &Tasks)
where
    S: Service<hyper::Request<Incoming>, Response = hyper::Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>> + fmt::Debug,
    B: http_body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let group = tasks.clone();
    tracing::info!(listener = listener.name, address = %listener.address, tls = listener.tls.is_some(), "listening");
    tasks.spawn("accept", async move {
        let Listener { name, socket, tls, address, connections } = listener;
        let permits = Arc::new(Semaphore::new(limits.connections.clamp(1, Semaphore::MAX_PERMITS)));
        let addresses = Addresses::new(limits.connections_per_address);
        let builder = connection_builder(&limits);
        let stopping = group.stopping();
        loop {
            let permit = tokio::select! {
                permit = Arc::clone(&permits).acquire_owned() => permit,
                () = stopping.cancelled() => break,
            };
            let Ok(permit) = permit else { break };
            let accepted = tokio::select! {
                accepted = accept(&socket) => accepted,
                () = stopping.cancelled() => break,
            };
            let (stream, peer, files) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // EMFILE and its kin pass; ending the server over them would not help anybody.
                    tracing::warn!(%error, listener = name, "can't accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Some(from_address) = addresses.take(peer.map(|peer| peer.ip())) else {
                connections.cut(name, Cut::Address);
                continue;
            };
            let open = connections.opened(name);
            let files = files.filter(|_| tls.is_none());
            let connection = Connection { listener: name, peer, tls: tls.is_some(), files };
            let (service, builder, tls) = (service.clone(), builder.clone(), tls.clone());
            let (stopping, connections) = (stopping.clone(), connections.clone());
            let serving = async move {
                let _until_it_ends = (permit, from_address, open);
                let activity = Activity::begin(&limits);
                let stream = Paced::new(stream, Arc::clone(&activity));
                // One kind of stream for both: an idle connection is mostly this future.
                let stream: Option<Box<dyn Stream>> = match tls {
                    None => Some(Box::new(stream)),
                    Some(acceptor) => shake_hands(&acceptor, stream, limits.head_timeout).await,
                };
                let cut = match stream {
                    Some(stream) => {
                        one_connection(stream, service, &builder, connection, &activity, stopping).await
                    }
                    None => Some(Cut::Handshake),
                };
                if let Some(reason) = cut {
                    tracing::debug!(%reason, listener = name, "connection ended early");
                    connections.cut(name, reason);
                }
            };
            group.detach(serving);
        }
        if let Address::Unix(path) = address {
            let _gone_already = std::fs::remove_file(path);
        }
    });
}

async fn shake_hands(
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

fn connection_builder(limits: &Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    // No `pipeline_flush`: it keeps back hyper's 400 for bytes that are no request, such as a TLS handshake. Clients tell
    // by that answer that they have to speak plainly, and try a silent listener again and again.
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(limits.head_bytes.max(8192));
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20))
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .max_frame_size(64 * 1024)
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(20);
    builder
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn accept(socket: &Socket) -> io::Result<(Box<dyn Stream>, Option<SocketAddr>, Option<Files>)> {
    match socket {
        Socket::Tcp(listener) => {
            let (stream, peer) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let files = Files::default();
            Ok((Box::new(FileStream::new(stream, files.clone())), Some(peer), Some(files)))
        }
        Socket::Unix(listener) => {
            let (stream, _) = listener.accept().await?;
            Ok((Box::new(stream), None, None))
        }
    }
}

/// Serves a connection until it ends, or has to end: then the reason.
async fn one_connection<S, B>(
    stream: Box<dyn Stream>,
    service: S,
    builder: &Builder<TokioExecutor>,
    connection: Connection,
    activity: &Arc<Activity>,
    stopping: tokio_util::sync::CancellationToken,
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
    let stream = Opening::new(stream, Arc::clone(activity));
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    // When it was told to end, and why.
    let mut told: Option<(tokio::time::Instant, Option<Cut>)> = None;
    let mut look = activity.judge().ok()?;
    loop {
        tokio::select! {
            served = serving.as_mut() => {
                if let Err(error) = served {
                    tracing::debug!(error, "a connection failed");
                }
                return activity.noted().or(told.and_then(|(_, why)| why));
            }
            () = stopping.cancelled(), if told.is_none() => {
                told = Some((tokio::time::Instant::now(), None));
                serving.as_mut().graceful_shutdown();
                look = tokio::time::Instant::now() + LAST_WORDS;
            }
            () = tokio::time::sleep_until(look) => match (activity.judge(), told) {
                // A client of HTTP/2 has to answer before its connection ends by itself.
                (_, Some((at, why))) if !activity.has_request() && at.elapsed() >= LAST_WORDS => return why,
                (Ok(next), None) => look = next,
                (Ok(next), Some(_)) => look = next.min(tokio::time::Instant::now() + LAST_WORDS),
                (Err(Cut::Idle), None) => {
                    // A client of HTTP/2 may begin a request right now; it is told not to.
                    told = Some((tokio::time::Instant::now(), Some(Cut::Idle)));
                    serving.as_mut().graceful_shutdown();
                    look = tokio::time::Instant::now() + LAST_WORDS;
                }
                (Err(cut), _) => return Some(cut),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_unix_socket_is_for_its_owner_and_a_live_one_is_not_taken_over() {
        let folder = std::env::temp_dir().join(format!("berth-listener-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let address = Address::Unix(folder.join("grpc.sock"));
        let first = Listener::bind("grpc", &address).await.unwrap();
        let Address::Unix(path) = first.address() else { panic!("unix") };
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(Listener::bind("grpc", &address).await.is_err());
        drop(first);
        assert!(Listener::bind("grpc", &address).await.is_ok());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
