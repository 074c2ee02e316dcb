//! Reading from object storage: a body that breaks off is gone on with where it stopped, a few times. What can't be had
//! ends in an error, which cuts the client's connection: a short answer never looks complete.

use std::time::Duration;

use berth_blobs::{BlobsError, ObjectKey};
use berth_oci::ByteRange;
use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};

use super::client::{Client, Got};

/// The longest wait for the next bytes.
const STALL: Duration = Duration::from_secs(30);
/// How often a body is gone on with.
const RESUMES: u32 = 3;

struct Body {
    client: Client,
    key: ObjectKey,
    got: Got,
    range: ByteRange,
    done: u64,
    resumes: u32,
}

/// Opens `range` of an object of `size` bytes.
pub(super) async fn open(
    client: &Client,
    key: &ObjectKey,
    size: u64,
    range: ByteRange,
) -> Result<BoxStream<'static, Result<Bytes, BlobsError>>, BlobsError> {
    // There is no way to ask for a part of no bytes.
    let part = (range.length > 0).then_some(range);
    let got = client.get(key, part, None).await.map_err(|error| match error {
        BlobsError::Short { .. } => BlobsError::Short { expected: size, found: 0 },
        error => error,
    })?;
    if got.total < size {
        return Err(BlobsError::Short { expected: size, found: got.total });
    }
    if range.length == 0 {
        return Ok(stream::empty().boxed());
    }
    if got.length != range.length {
        return Err(BlobsError::Remote("it answered with another part of an object".to_owned()));
    }
    let body = Body { client: client.clone(), key: key.clone(), got, range, done: 0, resumes: 0 };
    let steps = stream::unfold(Some(body), |body| async move {
        let mut body = body?;
        match body.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(body))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(steps.boxed())
}

impl Body {
    async fn next(&mut self) -> Result<Option<Bytes>, BlobsError> {
        loop {
            if self.done >= self.range.length {
                return Ok(None);
            }
            match tokio::time::timeout(STALL, self.got.next()).await {
                Ok(Some(Ok(bytes))) if bytes.is_empty() => {}
                Ok(Some(Ok(bytes))) => {
                    self.done += bytes.len() as u64;
                    return Ok(Some(bytes));
                }
                Ok(Some(Err(error))) => self.resume(error).await?,
                Ok(None) => self.resume(self.short()).await?,
                Err(_) => self.resume(BlobsError::Unavailable("object storage stalled".to_owned())).await?,
            }
        }
    }

    fn short(&self) -> BlobsError {
        BlobsError::Short { expected: self.range.length, found: self.done }
    }

    /// Goes on behind the last byte that came.
    async fn resume(&mut self, cause: BlobsError) -> Result<(), BlobsError> {
        self.resumes += 1;
        if self.resumes > RESUMES {
            return Err(cause);
        }
        tracing::debug!(error = %cause, object = %self.key, "a body broke off and is gone on with");
        let rest = ByteRange { offset: self.range.offset + self.done, length: self.range.length - self.done };
        let entity_tag = self.got.entity_tag.clone();
        match self.client.get(&self.key, Some(rest), entity_tag).await {
            Ok(got) if got.length == rest.length => {
                self.got = got;
                Ok(())
            }
            // It has become shorter, or another.
            Ok(_) | Err(BlobsError::Short { .. } | BlobsError::NotFound | BlobsError::Remote(_)) => {
                Err(self.short())
            }
            Err(error) => Err(error),
        }
    }
}
