//! Bodies that are files, over plain TCP: the kernel sends them from the page cache, without a copy in user space.
//!
//! hyper knows bodies of bytes only, so a file becomes bytes that nobody reads: a read-only mapping. The transport knows
//! where each mapping begins; when hyper hands it bytes of one, it calls `sendfile` for that part of the file in their
//! place. Whoever does read the bytes (TLS, HTTP/2) gets the right ones.
//!
//! Safety: a mapping is sound while its file is not shortened. Files that are given here are objects of a store, written
//! once and only ever unlinked, which leaves the mapping whole; and as its pages are not touched on this way, not even a
//! file that was shortened by somebody else, or a disk that fails, is a fault: `sendfile` reports both, and the connection
//! ends before the body is complete.

use std::{
    fs::File,
    io::{self, IoSlice},
    ops::Range,
    os::fd::AsFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};
use parking_lot::Mutex;
use rustix::io::{Errno, ReadWriteFlags};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

/// The most bytes of one call, so that one fast client does not keep a thread for long.
const MAX_CALL: usize = 2 << 20;
/// What the kernel reads ahead by itself.
const READ_AHEAD: u64 = 128 * 1024;

/// A part of a file that a connection is sending.
#[derive(Debug)]
struct Window {
    /// Where its bytes are mapped.
    addresses: Range<usize>,
    file: Arc<File>,
    /// Where the part begins in the file.
    offset: u64,
}

/// The parts of files that a connection is sending. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Files(Arc<Mutex<Vec<Arc<Window>>>>);

/// The owner of a mapping, as long as its bytes are to be sent.
struct Mapping {
    map: Mmap,
    files: Files,
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // Before the addresses can be another mapping's.
        let start = self.map.as_ptr() as usize;
        self.files.0.lock().retain(|window| window.addresses.start != start);
    }
}

impl Files {
    /// A part of a file as bytes that this connection sends without reading them.
    ///
    /// # Errors
    /// When the file can't be mapped, or ends before the part does.
    pub fn body(&self, file: &Arc<File>, offset: u64, length: usize) -> io::Result<Bytes> {
        if file.metadata()?.len() < offset + length as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        #[expect(unsafe_code, reason = "the file is written once and never shortened; see the module")]
        // SAFETY: see the module's text.
        let map = unsafe { MmapOptions::new().offset(offset).len(length).map(&**file)? };
        let start = map.as_ptr() as usize;
        let window = Window { addresses: start..start + length, file: Arc::clone(file), offset };
        self.0.lock().push(Arc::new(window));
        Ok(Bytes::from_owner(Mapping { map, files: self.clone() }))
    }

    /// The window that these bytes are of.
    fn of(&self, bytes: &[u8]) -> Option<Arc<Window>> {
        let address = bytes.as_ptr() as usize;
        let windows = self.0.lock();
        windows.iter().find(|window| window.addresses.contains(&address)).cloned()
    }
}

/// Whether the kernel has the pages of a part in memory, as far as two of them tell. Where it can't say so, it has.
fn is_cached(file: &File, offset: u64, length: u64) -> bool {
    let look = |at: u64| {
        let mut byte = [0];
        let read =
            rustix::io::preadv2(file, &mut [io::IoSliceMut::new(&mut byte)], at, ReadWriteFlags::NOWAIT);
        !matches!(read, Err(Errno::AGAIN))
    };
    look(offset) && look(offset + length.saturating_sub(1))
}

/// Has the kernel read a part of a file into memory, on a thread that may wait for a disk. Errors show when it is sent.
pub async fn warm(file: &Arc<File>, offset: u64, length: u64) {
    if is_cached(file, offset, length) {
        return;
    }
    let file = Arc::clone(file);
    let reading = tokio::task::spawn_blocking(move || {
        let mut at = offset;
        while at < offset + length {
            let _shows_later = rustix::io::pread(&*file, &mut [0], at);
            at += READ_AHEAD;
        }
    });
    let _no_panic = reading.await;
}

/// A TCP stream that sends the bytes of its [`Files`] from their files.
#[derive(Debug)]
pub(crate) struct FileStream {
    stream: TcpStream,
    files: Files,
}

impl FileStream {
    pub(crate) fn new(stream: TcpStream, files: Files) -> Self {
        Self { stream, files }
    }

    fn poll_send(&self, context: &mut Context<'_>, window: &Window, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let skipped = bytes.as_ptr() as usize - window.addresses.start;
        let count = bytes.len().min(window.addresses.len() - skipped).min(MAX_CALL);
        loop {
            ready!(self.stream.poll_write_ready(context))?;
            let mut offset = window.offset + skipped as u64;
            let sent = self.stream.try_io(Interest::WRITABLE, || {
                let sent = rustix::fs::sendfile(self.stream.as_fd(), &*window.file, Some(&mut offset), count);
                Ok(sent?)
            });
            match sent {
                Ok(0) => {
                    let message = "a file ended before the part of it that is sent";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, message)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }
}

impl AsyncRead for FileStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for FileStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.files.of(bytes) {
            Some(window) => self.poll_send(context, &window, bytes),
            None => Pin::new(&mut self.stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.files.0.lock().is_empty() {
            return Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        }
        let bytes_first = slices.iter().take_while(|slice| self.files.of(slice).is_none()).count();
        match slices.get(bytes_first) {
            Some(slice) if bytes_first == 0 => match self.files.of(slice) {
                Some(window) => self.poll_send(context, &window, slice),
                None => Pin::new(&mut self.stream).poll_write(context, slice),
            },
            _ => Pin::new(&mut self.stream).poll_write_vectored(context, &slices[..bytes_first]),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (listener.accept().await.unwrap().0, client)
    }

    fn file(content: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        Arc::new(file)
    }

    #[tokio::test]
    async fn bytes_and_files_arrive_in_their_order() {
        let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let (server, mut client) = pair().await;
        let files = Files::default();
        let mut stream = FileStream::new(server, files.clone());
        let file = file(&content);
        let sending = async {
            // An offset that is no multiple of a page, and more than one call sends.
            let (first, second) =
                (files.body(&file, 7, 2_500_000).unwrap(), files.body(&file, 0, 5).unwrap());
            warm(&file, 0, 3_000_000).await;
            let pieces = [Bytes::from_static(b"head"), first, Bytes::from_static(b"mid"), second];
            let mut left: Vec<&[u8]> = pieces.iter().map(|piece| &piece[..]).collect();
            while let Some(front) = left.first_mut() {
                if front.is_empty() {
                    left.remove(0);
                    continue;
                }
                let slices: Vec<IoSlice<'_>> = left.iter().map(|slice| IoSlice::new(slice)).collect();
                let mut sent = stream.write_vectored(&slices).await.unwrap();
                for slice in &mut left {
                    let here = sent.min(slice.len());
                    *slice = &slice[here..];
                    sent -= here;
                }
            }
            stream.shutdown().await.unwrap();
            drop(pieces);
            assert!(files.0.lock().is_empty(), "what was sent is forgotten");
        };
        let mut received = Vec::new();
        let (_, read) = tokio::join!(sending, client.read_to_end(&mut received));
        read.unwrap();
        let expected = [b"head", &content[7..2_500_007], b"mid", &content[..5]].concat();
        assert!(received == expected);
    }

    #[tokio::test]
    async fn a_file_that_was_shortened_is_an_error_and_not_a_fault() {
        let (server, _client) = pair().await;
        let files = Files::default();
        let mut stream = FileStream::new(server, files.clone());
        let file = file(&[1; 100_000]);
        assert!(files.body(&file, 99_999, 2).is_err());
        let body = files.body(&file, 0, 100_000).unwrap();
        file.set_len(10).unwrap();
        let mut sent = 0;
        let error = loop {
            match stream.write(&body.slice(sent..)).await {
                Ok(more) => sent += more,
                Err(error) => break error,
            }
        };
        assert_eq!((sent, error.kind()), (10, io::ErrorKind::UnexpectedEof));
    }
}
