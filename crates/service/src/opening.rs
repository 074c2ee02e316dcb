//! The first bytes of a connection, which say whether it speaks HTTP/1.1 or HTTP/2. hyper waits for them without a limit:
//! without this one a client that says nothing would hold its connection, and thousands of them the listener, for ever.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

/// What an HTTP/2 connection begins with (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream whose reads fail when the protocol is not known in time.
pub(crate) struct Opening<I> {
    inner: I,
    /// None: the protocol is known, and hyper's own limits are at work.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Bytes of the preface that have come.
    matched: usize,
}

impl<I> Opening<I> {
    pub(crate) fn new(inner: I, limit: Duration) -> Self {
        Self { inner, deadline: Some(Box::pin(tokio::time::sleep(limit))), matched: 0 }
    }

    fn saw(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.deadline.is_none() {
                return;
            }
            let fits = PREFACE.get(self.matched) == Some(byte);
            self.matched += 1;
            if !fits || self.matched == PREFACE.len() {
                self.deadline = None;
            }
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Opening<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.inner).poll_read(context, buffer);
        if let Some(deadline) = &mut this.deadline {
            if read.is_pending() && deadline.as_mut().poll(context).is_ready() {
                let message = "nothing that tells the protocol came in time";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)));
            }
            this.saw(&buffer.filled()[before..]);
        }
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Opening<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn silence_and_half_a_preface_end_at_the_limit() {
        for said in [b"".as_slice(), b"P", b"PRI * HTTP/2.0\r\n"] {
            let (mut client, server) = tokio::io::duplex(1024);
            client.write_all(said).await.unwrap();
            let mut server = Opening::new(server, LIMIT);
            let mut received = Vec::new();
            let error = server.read_to_end(&mut received).await.unwrap_err();
            assert_eq!((error.kind(), received.as_slice()), (io::ErrorKind::TimedOut, said));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_known_protocol_has_no_limit_here() {
        for said in [b"G".as_slice(), b"PUT", b"PRI * HTTP/1.0", b"\0", PREFACE] {
            let (mut client, server) = tokio::io::duplex(1024);
            let mut server = Opening::new(server, LIMIT);
            client.write_all(said).await.unwrap();
            let mut received = vec![0; said.len()];
            server.read_exact(&mut received).await.unwrap();
            tokio::time::advance(2 * LIMIT).await;
            client.write_all(b"x").await.unwrap();
            assert_eq!(server.read_u8().await.unwrap(), b'x');
            let more = tokio::time::timeout(2 * LIMIT, server.read_u8()).await;
            assert!(more.is_err(), "{}", String::from_utf8_lossy(said));
        }
    }
}
