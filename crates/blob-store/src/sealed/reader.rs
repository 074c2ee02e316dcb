//! Opening segments as they come from the store. Nothing of a segment is passed on before all of it was found to be what
//! was sealed.

use berth_blobs::BlobsError;
use bytes::{Bytes, BytesMut};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};

use super::segment::{DataKey, Place, STORED, Segments};

type Steps = BoxStream<'static, Result<Bytes, BlobsError>>;

struct Opening {
    steps: Steps,
    key: DataKey,
    /// Came, and not opened yet.
    stored: BytesMut,
    /// Bytes of the object that are still to come or to be opened.
    left: u64,
    /// The number of the next segment.
    number: u64,
    skip: usize,
    /// Bytes of the blob that are still to be passed on.
    length: u64,
}

impl Opening {
    /// The next piece of the blob; `None` at its end.
    async fn next(&mut self) -> Result<Option<Bytes>, BlobsError> {
        if self.length == 0 {
            return Ok(None);
        }
        let whole = usize::try_from(self.left.min(STORED)).unwrap_or(usize::MAX);
        while self.stored.len() < whole {
            match self.steps.next().await {
                Some(step) => self.stored.extend_from_slice(&step?),
                // The store's own streams end in an error of their own.
                None => {
                    let found = self.stored.len() as u64;
                    return Err(BlobsError::Short { expected: self.left, found });
                }
            }
        }
        // A segment takes some ten microseconds.
        tokio::task::consume_budget().await;
        let sealed = self.stored.split_to(whole);
        let mut plain = self.key.open(Place::Segment(self.number), sealed)?;
        self.left -= whole as u64;
        self.number += 1;
        let _before = plain.split_to(std::mem::take(&mut self.skip).min(plain.len()));
        plain.truncate(usize::try_from(self.length).unwrap_or(usize::MAX));
        if plain.is_empty() {
            return Err(BlobsError::Damaged("a segment without bytes"));
        }
        self.length -= plain.len() as u64;
        Ok(Some(plain))
    }
}

/// The bytes of the range that `segments` lie around, from what the store says of them.
pub(super) fn open_segments(steps: Steps, key: DataKey, segments: Segments) -> Steps {
    let opening = Opening {
        steps,
        key,
        stored: BytesMut::new(),
        left: segments.stored.length,
        number: segments.first,
        skip: segments.skip,
        length: segments.length,
    };
    stream::unfold(Some(opening), |opening| async move {
        let mut opening = opening?;
        match opening.next().await {
            Ok(Some(plain)) => Some((Ok(plain), Some(opening))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}
