//! The bytes that a peer sends, read along before the library sees them: which protocol they are, whether HTTP/1 is
//! framed so that nobody can misunderstand it, and whether HTTP/2 is a flood. A connection is the library's only once it
//! is known what the peer speaks, and while there is something to read: its buffers are most of what one costs.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{activity::Activity, frames::Frames, heads::Heads, limits::Cut};

/// What an HTTP/2 connection begins with (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the head of an HTTP/1 request ends with.
const HEAD_END: &[u8] = b"\r\n\r\n";

#[derive(Debug)]
enum Protocol {
    /// So many bytes of the preface have come.
    Unknown(usize),
    Http1(Heads),
    Http2(Frames),
    /// It was refused, and nothing is read any more; so much of the end of its head was made up.
    Refused(usize),
}

/// What a peer speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Spoken {
    Http1,
    Http2,
}

/// A stream whose reads are followed.
pub(crate) struct Opening<I> {
    inner: I,
    activity: Arc<Activity>,
    protocol: Protocol,
    /// Bytes that came and were followed, and that nobody has read.
    ahead: Bytes,
}

impl<I> Opening<I> {
    pub(crate) fn new(inner: I, activity: Arc<Activity>) -> Self {
        Self { inner, activity, protocol: Protocol::Unknown(0), ahead: Bytes::new() }
    }

    /// Follows bytes as they come. Some: the byte at this place is where HTTP/1 is refused.
    fn follow(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let mut rest = bytes;
        if let Protocol::Unknown(matched) = &mut self.protocol {
            let before = *matched;
            let same =
                PREFACE[before..].iter().zip(bytes).take_while(|(wanted, found)| wanted == found).count();
            *matched += same;
            if before + same == PREFACE.len() {
                self.protocol = Protocol::Http2(Frames::new());
                rest = &bytes[same..];
            } else if same < bytes.len() {
                let mut heads = Heads::new();
                // What looked like the preface until now holds nothing that could be wrong.
                heads.follow(&PREFACE[..before]);
                self.protocol = Protocol::Http1(heads);
            } else {
                return Ok(None);
            }
            self.activity.knows_protocol();
        }
        match &mut self.protocol {
            Protocol::Http1(heads) => {
                let refused = heads.follow(rest);
                self.activity.inside_head(heads.inside());
                self.activity.between_requests(heads.between());
                if refused.is_some() {
                    self.activity.note(Cut::Ambiguous);
                    self.protocol = Protocol::Refused(0);
                }
                Ok(refused)
            }
            Protocol::Http2(frames) => {
                if !self.activity.floods_end || frames.follow(rest, self.activity.has_request()) {
                    return Ok(None);
                }
                self.activity.note(Cut::Flood);
                Err(io::Error::new(io::ErrorKind::InvalidData, "frames without any work, over and over"))
            }
            _ => Ok(None),
        }
    }
}

impl<I: AsyncRead + Unpin> Opening<I> {
    /// Waits until the peer has sent something, and enough to know what it speaks. None: it has ended.
    pub(crate) async fn spoken(&mut self) -> io::Result<Option<Spoken>> {
        poll_fn(|context| self.poll_spoken(context)).await
    }

    fn poll_spoken(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Spoken>>> {
        loop {
            let spoken = match self.protocol {
                Protocol::Unknown(_) => None,
                Protocol::Http1(_) | Protocol::Refused(_) => Some(Spoken::Http1),
                Protocol::Http2(_) => Some(Spoken::Http2),
            };
            if spoken.is_some() && !self.ahead.is_empty() {
                return Poll::Ready(Ok(spoken));
            }
            let mut bytes = [0; PREFACE.len()];
            let mut buffer = ReadBuf::new(&mut bytes);
            ready!(self.poll_follow(context, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(None));
            }
            self.ahead = Bytes::from([&self.ahead, buffer.filled()].concat());
        }
    }

    /// Reads, and follows what was read.
    fn poll_follow(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        if read.is_ready()
            && let Some(at) = self.follow(&buffer.filled()[before..])?
        {
            // No head can have this byte: once it has all of it, the library answers with 400, and closes.
            buffer.filled_mut()[before + at] = 0;
            buffer.set_filled(before + at + 1);
        }
        read
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Opening<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.ahead.is_empty() {
            let length = this.ahead.len().min(buffer.remaining());
            buffer.put_slice(&this.ahead[..length]);
            this.ahead.advance(length);
            return Poll::Ready(Ok(()));
        }
        if let Protocol::Refused(given) = &mut this.protocol {
            let rest = &HEAD_END[*given..];
            let length = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..length]);
            *given += length;
            return Poll::Ready(Ok(()));
        }
        this.poll_follow(context, buffer)
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

/// The socket below everything else, which notes whether the peer takes what is sent.
pub(crate) struct Paced<I> {
    inner: I,
    activity: Arc<Activity>,
}

impl<I> Paced<I> {
    pub(crate) fn new(inner: I, activity: Arc<Activity>) -> Self {
        Self { inner, activity }
    }

    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.activity.wrote(written.is_ready());
        written
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Paced<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Paced<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.note(written)
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
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, bytes);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::Limits;

    async fn after(said: &[&[u8]]) -> (Opening<tokio::io::DuplexStream>, Vec<u8>, tokio::io::DuplexStream) {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let mut server = Opening::new(server, Activity::begin(&Limits::default()));
        let mut received = Vec::new();
        for piece in said {
            client.write_all(piece).await.unwrap();
            let mut buffer = vec![0; 1 << 16];
            let read = server.read(&mut buffer).await.unwrap();
            received.extend_from_slice(&buffer[..read]);
        }
        (server, received, client)
    }

    #[tokio::test]
    async fn the_protocol_is_known_by_the_first_byte_that_tells() {
        for said in [b"".as_slice(), b"P", b"PRI * HTTP/2.0\r\n"] {
            let pieces: &[&[u8]] = if said.is_empty() { &[] } else { &[said] };
            assert!(matches!(after(pieces).await.0.protocol, Protocol::Unknown(_)));
        }
        for said in [b"G".as_slice(), b"PUT", b"PRI * HTTP/1.0", b"\0"] {
            let pieces: Vec<&[u8]> = said.chunks(1).collect();
            for pieces in [&[said][..], &pieces] {
                let (opening, received, _client) = after(pieces).await;
                assert!(matches!(&opening.protocol, Protocol::Http1(heads) if heads.inside()));
                assert_eq!(received, said);
            }
        }
        let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        let whole = [PREFACE, &ping].concat();
        let pieces: Vec<&[u8]> = whole.chunks(1).collect();
        for pieces in [&[whole.as_slice()][..], &pieces] {
            let (opening, received, _client) = after(pieces).await;
            assert!(matches!(opening.protocol, Protocol::Http2(_)));
            assert_eq!(received, whole);
        }
    }

    #[tokio::test]
    async fn what_was_looked_at_is_read_after_all() {
        let whole = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nmore".as_slice();
        let h2 = [PREFACE, b"frames"].concat();
        for (said, spoken) in [(whole, Spoken::Http1), (&h2, Spoken::Http2)] {
            for size in [1, 5, 100] {
                let (mut client, server) = tokio::io::duplex(1 << 20);
                let mut server = Opening::new(server, Activity::begin(&Limits::default()));
                let (found, ()) = tokio::join!(server.spoken(), async {
                    for piece in said.chunks(size) {
                        client.write_all(piece).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                    client.shutdown().await.unwrap();
                });
                assert_eq!(found.unwrap(), Some(spoken));
                let mut received = Vec::new();
                server.read_to_end(&mut received).await.unwrap();
                assert_eq!(received, said);
                assert_eq!(server.spoken().await.unwrap(), None);
            }
        }
    }

    #[tokio::test]
    async fn what_is_refused_is_spoiled_and_nothing_comes_behind_it() {
        let good = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".as_slice();
        let (mut opening, received, mut client) = after(&[good, b"GET / HTTP/1.1\nHost: b\r\n\r\n"]).await;
        assert_eq!(received, [good, b"GET / HTTP/1.1\0"].concat());
        client.write_all(good).await.unwrap();
        let mut end = Vec::new();
        opening.read_to_end(&mut end).await.unwrap();
        assert_eq!(end, HEAD_END);
        assert_eq!(opening.activity.noted(), Some(Cut::Ambiguous));
    }
}
