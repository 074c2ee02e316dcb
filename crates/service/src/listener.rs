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

use crate::{Tasks, opening::Opening};

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

/// Bounds on what one peer may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; more wait in the kernel's queue.
    pub connections: usize,
    /// For the TLS handshake, until the protocol is known, and until the head of a request has arrived.
    pub head_timeout: Duration,
    /// Bytes of an HTTP/1 head, and of an HTTP/2 header list.
    pub head_bytes: usize,
    /// HTTP/2 streams of one connection.
    pub streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            head_timeout: Duration::from_secs(30),
            head_bytes: 64 * 1024,
            streams: 200,
        }
    }
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
}

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
        Ok(Self { name, address, socket, tls: None })
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
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let group = tasks.clone();
    tracing::info!(listener = listener.name, address = %listener.address, tls = listener.tls.is_some(), "listening");
    tasks.spawn("accept", async move {
        let Listener { name, socket, tls, address } = listener;
        let permits = Arc::new(Semaphore::new(limits.connections));
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
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // EMFILE and its kin pass; ending the server over them would not help anybody.
                    tracing::warn!(%error, listener = name, "can't accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let connection = Connection { listener: name, peer, tls: tls.is_some() };
            let (service, builder, tls) = (service.clone(), builder.clone(), tls.clone());
            let stopping = stopping.clone();
            group.detach(async move {
                let _permit = permit;
                let limit = limits.head_timeout;
                let served = match tls {
                    None => {
                        let stream = Opening::new(stream, limit);
                        one_connection(stream, service, &builder, connection, stopping).await
                    }
                    Some(acceptor) => match tokio::time::timeout(limit, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => {
                            let stream = Opening::new(stream, limit);
                            one_connection(stream, service, &builder, connection, stopping).await
                        }
                        Ok(Err(error)) => Err(error.into()),
                        Err(elapsed) => Err(elapsed.into()),
                    },
                };
                if let Err(error) = served {
                    tracing::debug!(error, listener = name, "connection ended early");
                }
            });
        }
        if let Address::Unix(path) = address {
            let _gone_already = std::fs::remove_file(path);
        }
    });
}

fn connection_builder(limits: &Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    // No `pipeline_flush`: it keeps back hyper's 400 for bytes that are no request, such as a TLS handshake. Clients tell
    // by that answer that they have to speak plainly, and try a silent listener again and again.
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
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

async fn accept(socket: &Socket) -> io::Result<(Box<dyn Stream>, Option<SocketAddr>)> {
    match socket {
        Socket::Tcp(listener) => {
            let (stream, peer) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Box::new(stream), Some(peer)))
        }
        Socket::Unix(listener) => {
            let (stream, _) = listener.accept().await?;
            Ok((Box::new(stream), None))
        }
    }
}

async fn one_connection<S, B, I>(
    stream: I,
    service: S,
    builder: &Builder<TokioExecutor>,
    connection: Connection,
    stopping: tokio_util::sync::CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    S: Service<hyper::Request<Incoming>, Response = hyper::Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(connection.clone());
        service.clone().call(request)
    });
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    tokio::select! {
        served = serving.as_mut() => served,
        () = stopping.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
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
