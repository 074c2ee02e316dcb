//! HTTP/1.1 by hand, for what no well-behaved client would send.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::PATIENCE;

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RawReply {
    /// The status.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body, up to `Content-Length`.
    pub body: Bytes,
}

impl RawReply {
    /// The first header of a name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// The code of the first error in the body.
    pub fn error_code(&self) -> Option<String> {
        let body: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        Some(body.pointer("/errors/0/code")?.as_str()?.to_owned())
    }
}

/// Sends bytes on a new connection and reads one answer.
///
/// # Errors
/// When the connection breaks before the answer, or it is none.
pub async fn exchange(address: SocketAddr, request: impl AsRef<[u8]>) -> anyhow::Result<RawReply> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_ref()).await?;
    timeout(PATIENCE, read_reply(&mut stream)).await.context("no answer in time")?
}

/// Sends `GET <target>` with the target as it stands.
///
/// # Errors
/// As [`exchange`].
pub async fn get(address: SocketAddr, target: &str) -> anyhow::Result<RawReply> {
    exchange(address, format!("GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")).await
}

/// Reads one answer from a connection.
///
/// # Errors
/// When the connection ends before the answer does.
pub async fn read_reply(stream: &mut (impl AsyncRead + Unpin)) -> anyhow::Result<RawReply> {
    let mut received = Vec::new();
    let head_end = loop {
        if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        let mut buffer = [0; 8192];
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            bail!("the connection ended inside the head of an answer");
        }
        received.extend_from_slice(&buffer[..read]);
    };
    let head = std::str::from_utf8(&received[..head_end])?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status line")?.parse()?;
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.map_or(Ok(0), |(_, value)| value.parse())?;
    let mut body = received[head_end + 4..].to_vec();
    while body.len() < length {
        let mut buffer = [0; 8192];
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            bail!("the connection ended inside the body of an answer");
        }
        body.extend_from_slice(&buffer[..read]);
    }
    body.truncate(length);
    Ok(RawReply { status, headers, body: body.into() })
}
