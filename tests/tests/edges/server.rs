//! The built binary with one kind of listener, and connections to it by hand.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use berth_oci::{Algorithm, Digest};
use berth_testkit::{ADMIN, Berth, Content, PASSWORD, eventually, raw};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpSocket,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{self, ClientConfig, RootCertStore, pki_types::ServerName},
};

/// Which listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Listener {
    Plain,
    Tls,
}

/// How long a test waits for what has to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection.
pub(crate) type Wire = Box<dyn Stream>;

/// A running registry.
pub(crate) struct Server {
    pub(crate) process: Berth,
    trusted: Option<Arc<RootCertStore>>,
    _folder: TempDir,
}

impl Server {
    /// Starts with keys below `BERTH__`.
    pub(crate) async fn start(listener: Listener, settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Berth::single(&folder.path().join("data"));
        for (key, value) in settings {
            process = process.with_env(format!("BERTH__{key}"), *value);
        }
        let mut trusted = None;
        if listener == Listener::Tls {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
            std::fs::write(&certificate, made.cert.pem()).unwrap();
            std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
            process = process
                .with_env("BERTH__LISTEN__TLS_CERTIFICATE", certificate.to_str().unwrap())
                .with_env("BERTH__LISTEN__TLS_KEY", key.to_str().unwrap());
            let mut roots = RootCertStore::empty();
            roots.add(made.cert.der().clone()).unwrap();
            trusted = Some(Arc::new(roots));
        }
        process.start().await.unwrap();
        Self { process, trusted, _folder: folder }
    }

    /// Where it listens.
    pub(crate) fn authority(&self) -> String {
        format!("localhost:{}", self.process.address("public").unwrap().port())
    }

    pub(crate) fn scheme(&self) -> &'static str {
        if self.trusted.is_some() { "https" } else { "http" }
    }

    /// A TCP connection whose receiving side holds little, without TLS.
    pub(crate) async fn tcp(&self) -> std::io::Result<tokio::net::TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(64 * 1024)?;
        let stream = socket.connect(self.process.address("public").unwrap()).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A connection for this protocol (by ALPN where there is TLS).
    async fn connect(&self, protocol: &[u8]) -> std::io::Result<Wire> {
        let stream = self.tcp().await?;
        let Some(trusted) = &self.trusted else { return Ok(Box::new(stream)) };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = config.unwrap().with_root_certificates(Arc::clone(trusted)).with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let name = ServerName::try_from("localhost").unwrap();
        let connected = timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(name, stream));
        Ok(Box::new(connected.await??))
    }

    /// A connection for HTTP/1.1.
    pub(crate) async fn wire(&self) -> Wire {
        self.connect(b"http/1.1").await.unwrap()
    }

    /// The same, if it is to be had.
    pub(crate) async fn try_wire(&self) -> std::io::Result<Wire> {
        self.connect(b"http/1.1").await
    }

    /// A connection for HTTP/2.
    pub(crate) async fn wire_for_http2(&self) -> Wire {
        self.connect(b"h2").await.unwrap()
    }

    /// The head of a request, without the empty line behind it.
    pub(crate) fn head(&self, method: &str, target: &str) -> String {
        format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n", self.authority())
    }

    /// One request on a new connection.
    pub(crate) async fn call(&self, method: &str, target: &str, headers: &str, body: &[u8]) -> raw::RawReply {
        let mut wire = self.wire().await;
        let length = format!("Content-Length: {}\r\n", body.len());
        let head = format!("{}{headers}{length}\r\n", self.head(method, target));
        say(&mut wire, &[head.as_bytes(), body].concat()).await;
        timeout(PATIENCE, raw::read_reply(&mut wire)).await.unwrap().unwrap()
    }

    /// The header with a token for one repository.
    pub(crate) async fn authorization(&self, repository: &str) -> String {
        let target = format!("/token?service=default&scope=repository:{repository}:pull,push,delete");
        let basic = STANDARD.encode(format!("{ADMIN}:{PASSWORD}"));
        let reply = self.call("GET", &target, &format!("Authorization: Basic {basic}\r\n"), b"").await;
        assert_eq!(reply.status, 200);
        let token: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        format!("Authorization: Bearer {}\r\n", token["token"].as_str().unwrap())
    }

    /// Pushes a blob of this size; where it is.
    pub(crate) async fn push_blob(&self, repository: &str, authorization: &str, size: usize) -> String {
        let bytes = Content::named("edges").bytes(size);
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        let target = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let reply = self.call("POST", &target, authorization, &bytes).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        format!("/v2/{repository}/blobs/{digest}")
    }

    /// Begins an upload; where it goes on.
    pub(crate) async fn begin_upload(&self, repository: &str, authorization: &str) -> String {
        let reply = self.call("POST", &format!("/v2/{repository}/blobs/uploads/"), authorization, b"").await;
        assert_eq!(reply.status, 202, "{reply:?}");
        reply.header("location").unwrap().to_owned()
    }

    /// Another client is served.
    pub(crate) async fn serves(&self) {
        assert_eq!(self.call("GET", "/v2/", "", b"").await.status, 401);
    }

    /// Connections that were ended for a reason, so far.
    pub(crate) async fn cut(&self, reason: &str) -> u64 {
        let series = format!("berth_connections_cut_total{{listener=\"public\",reason=\"{reason}\"}}");
        self.process.metric(&series).await.map_or(0, |count| count as u64)
    }

    /// Waits until so many connections were ended for a reason.
    pub(crate) async fn has_cut(&self, reason: &str, count: u64) {
        let what = format!("{count} connections were ended: {reason}");
        eventually(&what, || async { (self.cut(reason).await >= count).then_some(()) }).await.unwrap();
    }

    /// Seconds of processor time so far.
    pub(crate) fn processor_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.pid().unwrap())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        ticks as f64 / 100.0
    }
}

/// Everything until the connection ends, however it does.
pub(crate) async fn rest(wire: &mut Wire) -> Vec<u8> {
    let mut received = Vec::new();
    let _reset = timeout(PATIENCE, wire.read_to_end(&mut received)).await.expect("the connection ends");
    received
}

/// Sends bytes, all of them: TLS may hold some back otherwise.
pub(crate) async fn say(wire: &mut Wire, bytes: impl AsRef<[u8]>) {
    wire.write_all(bytes.as_ref()).await.unwrap();
    wire.flush().await.unwrap();
}

/// One request on a connection that stays open.
pub(crate) async fn ask(wire: &mut Wire, head: &str) -> raw::RawReply {
    say(wire, format!("{head}\r\n")).await;
    timeout(PATIENCE, raw::read_reply(wire)).await.unwrap().unwrap()
}
