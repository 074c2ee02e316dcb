//! Listeners: bind, accept, serve HTTP/1.1 and HTTP/2 on one port (`connection.rs`) with every time limit armed, and drain.

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
use tokio::{
    net::{TcpListener, UnixListener},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tower::Service;

use crate::{
    Limits, Tasks,
    activity::Activity,
    connection::{Connection, Protocols, Stream, one_connection, shake_hands},
    files::{FileStream, Files},
    limits::{Addresses, Connections, Cut},
    opening::Paced,
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
        let protocols = Protocols::new(&limits);
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
            let (service, protocols, tls) = (service.clone(), protocols.clone(), tls.clone());
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
                        one_connection(stream, service, &protocols, connection, &activity, stopping).await
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
