//! One HTTP/1.1 connection that knows just what a load needs: it writes a request and reads its response, without a copy
//! of the body.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// An open connection.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Bytes in the buffer that are not used yet.
    filled: usize,
}

/// The head of a response, and how much its body had.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) length: u64,
    pub(crate) location: Option<String>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; 256 * 1024], filled: 0 })
    }

    /// Sends a part of a request; [`Self::exchange`] with nothing more reads the response.
    pub(crate) async fn send(&mut self, part: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(part).await?;
        Ok(())
    }

    /// Sends a request whose head is written already, and reads the whole response.
    pub(crate) async fn exchange(&mut self, head: &[u8], body: &[u8]) -> anyhow::Result<Answer> {
        self.exchange_into(head, body, &mut |_| {}).await
    }

    /// The same; `sink` gets the body piece by piece.
    pub(crate) async fn exchange_into(
        &mut self,
        head: &[u8],
        body: &[u8],
        sink: &mut (dyn FnMut(&[u8]) + Send),
    ) -> anyhow::Result<Answer> {
        self.stream.write_all(head).await?;
        if !body.is_empty() {
            self.stream.write_all(body).await?;
        }
        let is_head = head.starts_with(b"HEAD");
        let (answer, used) = loop {
            if let Some(end) = find(&self.buffer[..self.filled], b"\r\n\r\n") {
                break (parse(&self.buffer[..end])?, end + 4);
            }
            if self.filled == self.buffer.len() {
                bail!("the head of a response is too large");
            }
            self.fill().await?;
        };
        let mut left =
            if is_head || answer.status == 204 || answer.status == 304 { 0 } else { answer.length };
        let here = left.min((self.filled - used) as u64);
        let taken = used + usize::try_from(here)?;
        sink(&self.buffer[used..taken]);
        left -= here;
        self.buffer.copy_within(taken..self.filled, 0);
        self.filled -= taken;
        while left > 0 {
            let room = self.buffer.len().min(usize::try_from(left)?);
            let read = self.stream.read(&mut self.buffer[..room]).await?;
            if read == 0 {
                bail!("the connection ended {left} bytes before its response");
            }
            sink(&self.buffer[..read]);
            left -= read as u64;
        }
        Ok(answer)
    }

    async fn fill(&mut self) -> anyhow::Result<()> {
        let read = self.stream.read(&mut self.buffer[self.filled..]).await?;
        if read == 0 {
            bail!("the connection ended before a response");
        }
        self.filled += read;
        Ok(())
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn parse(head: &[u8]) -> anyhow::Result<Answer> {
    let text = std::str::from_utf8(head).context("the head of a response is not text")?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status")?.parse()?;
    let mut answer = Answer { status, length: 0, location: None };
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            answer.length = value.trim().parse()?;
        } else if name.eq_ignore_ascii_case("location") {
            answer.location = Some(value.trim().to_owned());
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            bail!("chunked responses are not expected here");
        }
    }
    Ok(answer)
}

/// The head of a request.
pub(crate) fn head(method: &str, target: &str, headers: &[(&str, &str)], length: Option<usize>) -> Vec<u8> {
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: bench\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(length) = length {
        text.push_str(&format!("Content-Length: {length}\r\n"));
    }
    text.push_str("\r\n");
    text.into_bytes()
}
