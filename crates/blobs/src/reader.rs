//! Reading an object: a file of this machine, or a stream from elsewhere. Each ends after exactly the promised bytes, or
//! in an error.

use std::{
    fmt,
    fs::File,
    io::{self, IoSliceMut},
    os::unix::fs::FileExt,
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use rustix::io::ReadWriteFlags;

use crate::BlobsError;

/// Bytes that are read at a time.
pub const STEP_BYTES: usize = 256 * 1024;

/// An object, or a part of one, opened for reading.
pub enum BlobReader {
    /// A file of this machine.
    File {
        /// The open file.
        file: File,
        /// The first byte to read.
        offset: u64,
        /// Bytes to read.
        length: u64,
    },
    /// A stream, and its length in bytes.
    Stream(BoxStream<'static, Result<Bytes, BlobsError>>, u64),
}

impl fmt::Debug for BlobReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { offset, length, .. } => {
                f.debug_struct("File").field("offset", offset).field("length", length).finish_non_exhaustive()
            }
            Self::Stream(_, length) => f.debug_tuple("Stream").field(length).finish(),
        }
    }
}

impl BlobReader {
    /// Bytes that will come.
    pub fn length(&self) -> u64 {
        match self {
            Self::File { length, .. } | Self::Stream(_, length) => *length,
        }
    }

    /// The bytes, in steps of at most [`STEP_BYTES`] from a file. Yields exactly the promised length, else ends in an
    /// error.
    pub fn into_stream(self) -> BoxStream<'static, Result<Bytes, BlobsError>> {
        match self {
            Self::File { file, offset, length } => read_file(file, offset, length),
            Self::Stream(stream, length) => exactly(stream, length),
        }
    }

    /// All bytes at once, for objects that are known to be small.
    ///
    /// # Errors
    /// [`BlobsError::Invalid`] above `limit` bytes.
    pub async fn into_bytes(self, limit: u64) -> Result<Bytes, BlobsError> {
        let length = self.length();
        if length > limit {
            return Err(BlobsError::Invalid("not small enough to be read at once"));
        }
        let mut stream = self.into_stream();
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
        while let Some(step) = stream.next().await {
            bytes.extend_from_slice(&step?);
        }
        Ok(bytes.into())
    }
}

fn read_file(file: File, offset: u64, length: u64) -> BoxStream<'static, Result<Bytes, BlobsError>> {
    let file = Arc::new(file);
    stream::unfold(Some(0u64), move |done| {
        let file = Arc::clone(&file);
        async move {
            let done = done?;
            let left = length - done;
            if left == 0 {
                return None;
            }
            let step = usize::try_from(left).map_or(STEP_BYTES, |left| left.min(STEP_BYTES));
            match read_step(&file, offset + done, step).await {
                Ok(bytes) if bytes.is_empty() => {
                    Some((Err(BlobsError::Short { expected: length, found: done }), None))
                }
                Ok(bytes) => {
                    let done = done + bytes.len() as u64;
                    Some((Ok(bytes), Some(done)))
                }
                Err(error) => Some((Err(BlobsError::io("read an object", error)), None)),
            }
        }
    })
    .boxed()
}

/// Reads at most `step` bytes. What is in the page cache is read at once; only what has to come from the device takes a
/// blocking thread.
async fn read_step(file: &Arc<File>, offset: u64, step: usize) -> io::Result<Bytes> {
    let mut buffer = BytesMut::zeroed(step);
    let cached =
        rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut buffer)], offset, ReadWriteFlags::NOWAIT);
    // A short read here may be the end of the cached pages as well as the end of the file: the next step finds out.
    if let Ok(read) = cached
        && read > 0
    {
        buffer.truncate(read);
        return Ok(buffer.freeze());
    }
    let file = Arc::clone(file);
    tokio::task::spawn_blocking(move || {
        let read = file.read_at(&mut buffer, offset)?;
        buffer.truncate(read);
        Ok(buffer.freeze())
    })
    .await
    .map_err(io::Error::other)?
}

/// Passes a stream on until exactly `length` bytes have come; fewer or more end in an error.
fn exactly(
    stream: BoxStream<'static, Result<Bytes, BlobsError>>,
    length: u64,
) -> BoxStream<'static, Result<Bytes, BlobsError>> {
    stream::unfold(Some((stream, 0u64)), move |state| async move {
        let (mut stream, done) = state?;
        match stream.next().await {
            Some(Ok(bytes)) if done + bytes.len() as u64 <= length => {
                let done = done + bytes.len() as u64;
                Some((Ok(bytes), Some((stream, done))))
            }
            Some(Ok(_)) => {
                Some((Err(BlobsError::Invalid("a store sent more bytes than were asked for")), None))
            }
            Some(Err(error)) => Some((Err(error), None)),
            None if done == length => None,
            None => Some((Err(BlobsError::Short { expected: length, found: done }), None)),
        }
    })
    .boxed()
}
