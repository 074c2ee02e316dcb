//! Writing into an upload under its lease: what has come is made durable, then recorded, and the last of it committed.

use std::{sync::Arc, time::Duration};

use berth_blobs::{BlobWriter, BlobsError, ObjectKey, ObjectRef, Sealing, WriteOpen, Written, wire};
use berth_oci::{Digest, ErrorCode};
use berth_proto::metadata::{
    Access, CancelUploadRequest, CheckpointRequest, CommitUploadRequest, EndAppendRequest,
    FinishUploadRequest, Lease,
};
use http::StatusCode;
use tokio::time::Instant;

use crate::{
    body::{End, Reader},
    failure::{Failure, Result},
    request::Parts,
};

/// Bytes after which what has come is made durable and recorded.
const CHECKPOINT_BYTES: u64 = 64 << 20;
/// Leases last a minute and are renewed while bytes flow.
const RENEWAL: Duration = Duration::from_secs(20);

/// Whether a client knows its session and may go on with it after a failure.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Session {
    Known,
    Hidden,
}

impl Session {
    /// Cancels a session whose only request failed. One that can't be cancelled now expires.
    pub(crate) async fn failed(self, parts: &Parts, access: Access, upload_id: String) {
        if self == Self::Known {
            return;
        }
        let wanted = CancelUploadRequest { access: Some(access), upload_id };
        if let Err(status) = parts.metadata.clone().cancel_upload(wanted).await {
            tracing::debug!(cause = status.message(), "a failed upload was not cancelled");
        }
    }
}

/// A refusal inside a detached task: metadata's still has to be read against the token.
pub(crate) enum Refusal {
    Failure(Box<Failure>),
    Status(tonic::Status),
}

impl From<Box<Failure>> for Refusal {
    fn from(failure: Box<Failure>) -> Self {
        Self::Failure(failure)
    }
}

impl From<tonic::Status> for Refusal {
    fn from(status: tonic::Status) -> Self {
        Self::Status(status)
    }
}

/// Writing under a lease.
pub(crate) struct Append {
    pub(crate) parts: Arc<Parts>,
    pub(crate) lease: Lease,
    /// Bytes that the head announced.
    pub(crate) expected: Option<u64>,
}

impl Append {
    /// Takes in the body and makes it durable. When it was cut, what came first is recorded.
    pub(crate) async fn run(&self, mut reader: Reader) -> Result<Written> {
        let outcome = async {
            let written = self.take_in(&mut reader).await?.sync().await?;
            berth_service::crash::point("append.synced");
            Ok(written)
        };
        let outcome = outcome.await;
        if outcome.is_err() {
            reader.linger().await;
        }
        outcome
    }

    async fn take_in(&self, reader: &mut Reader) -> Result<Box<dyn BlobWriter>> {
        let opened = self.parts.blobs.write(self.open()?).await;
        let mut writer = opened.map_err(|error| match error {
            BlobsError::KeyGone => {
                let message = "the key of this upload was destroyed; start a new one";
                Failure::new(ErrorCode::BlobUploadUnknown, message).closing()
            }
            error => error.into(),
        })?;
        berth_service::crash::point("append.opened");
        let start = writer.offset();
        if self.expected.is_some_and(|expected| start.saturating_add(expected) > self.parts.blob_bytes) {
            return Err(self.too_large());
        }
        let mut recorded = start;
        let mut recorded_at = Instant::now();
        loop {
            let data = match reader.next().await {
                Ok(data) => data,
                Err(End::Complete) => break,
                Err(End::Cut) => return Err(self.cut(writer).await),
                Err(End::Late) => {
                    return Err(self.cut(writer).await.with_status(StatusCode::REQUEST_TIMEOUT));
                }
            };
            let taken = writer.offset() - start + data.len() as u64;
            if start + taken > self.parts.blob_bytes {
                return Err(self.too_large());
            }
            if self.expected.is_some_and(|expected| taken > expected) {
                let message = "the body is longer than announced; nothing of it was kept";
                return Err(Failure::new(ErrorCode::SizeInvalid, message).closing());
            }
            self.parts.metrics.uploaded_bytes.inc_by(data.len() as u64);
            let asked = writer.write(data).await?;
            // A store that asks by itself is only hurried when the lease has to be renewed.
            let due = !writer.records() && writer.offset() - recorded >= CHECKPOINT_BYTES;
            let written = match asked {
                Some(written) => written,
                None if due || recorded_at.elapsed() >= RENEWAL => writer.sync().await?,
                None => continue,
            };
            berth_service::crash::point("append.checkpoint_synced");
            recorded = self.checkpoint(written).await?;
            recorded_at = Instant::now();
        }
        if self.expected.is_some_and(|expected| writer.offset() - start != expected) {
            let message = "the body is shorter than announced; nothing of it was kept";
            return Err(Failure::new(ErrorCode::SizeInvalid, message));
        }
        Ok(writer)
    }

    fn too_large(&self) -> Box<Failure> {
        let message = format!("a blob has at most {} bytes", self.parts.blob_bytes);
        Failure::new(ErrorCode::TooLarge, message).closing()
    }

    fn open(&self) -> Result<WriteOpen> {
        let lease = &self.lease;
        let unreadable = |error: &dyn std::fmt::Display| {
            tracing::error!(%error, "metadata gave a lease that can't be used");
            Failure::new(ErrorCode::Internal, "internal error; the server's log has it under the request id")
        };
        let staging = lease.staging.clone().map(wire::staging_from).transpose();
        Ok(WriteOpen {
            store_id: lease.store_id.clone(),
            key: lease.object_key.parse().map_err(|error: berth_blobs::KeyError| unreadable(&error))?,
            epoch: lease.epoch,
            offset: lease.offset,
            hash_state: (!lease.hash_state.is_empty()).then(|| lease.hash_state.to_vec()),
            algorithm: lease.algorithm.parse().map_err(|error: berth_oci::DigestError| unreadable(&error))?,
            staging: staging.map_err(|problem| unreadable(&problem))?.unwrap_or_default(),
            expected: self.expected,
            unit: 1,
        })
    }

    pub(crate) async fn checkpoint(&self, written: Written) -> Result<u64> {
        let wanted = CheckpointRequest {
            upload_id: self.lease.upload_id.clone(),
            epoch: self.lease.epoch,
            offset: written.offset,
            hash_state: written.hash_state.into(),
            change: Some(wire::change_to(&written.change)),
        };
        self.parts.metadata.clone().checkpoint(wanted).await?;
        berth_service::crash::point("append.checkpointed");
        Ok(written.offset)
    }

    /// The client went away: what came is made durable and recorded, so that it can come back.
    async fn cut(&self, mut writer: Box<dyn BlobWriter>) -> Box<Failure> {
        let recorded = async {
            let written = writer.sync().await?;
            berth_service::crash::point("append.cut_synced");
            let wanted = EndAppendRequest {
                upload_id: self.lease.upload_id.clone(),
                epoch: self.lease.epoch,
                offset: written.offset,
                hash_state: written.hash_state.into(),
                change: Some(wire::change_to(&written.change)),
            };
            Ok::<_, Box<Failure>>(self.parts.metadata.clone().end_append(wanted).await?)
        };
        if let Err(failure) = recorded.await {
            tracing::debug!(cause = %failure.problem, "what came of a cut body was not recorded");
        }
        berth_service::crash::point("append.cut_recorded");
        Failure::new(ErrorCode::BlobUploadInvalid, "the body was cut; ask for the upload's state and go on")
            .closing()
    }

    /// Makes the bytes an object with this digest, and commits it.
    pub(crate) async fn commit(
        self,
        reader: Reader,
        digest: Digest,
        access: Access,
    ) -> std::result::Result<(), Refusal> {
        let end = self.finish(reader, digest).await?;
        if end.rehash {
            let Append { parts, lease, .. } = &self;
            let object = ObjectRef::new(&lease.store_id, end.key.clone(), end.size, end.sealing.clone());
            let rehashed = parts.blobs.rehash(&object, digest.algorithm());
            let found = rehashed.await.map_err(Box::<Failure>::from)?;
            if found != digest {
                if end.last {
                    // The bytes can't be gone on with.
                    Session::Hidden.failed(parts, access, lease.upload_id.clone()).await;
                }
                return Err(wrong(found, digest).into());
            }
        }
        let wanted = CommitUploadRequest {
            access: Some(access),
            upload_id: self.lease.upload_id.clone(),
            epoch: self.lease.epoch,
            digest: digest.to_string(),
            size: end.size,
            object_key: end.key.to_string(),
            sealing: end.sealing.as_ref().map(wire::sealing_to),
        };
        berth_service::crash::point("finish.verified");
        self.parts.metadata.clone().commit_upload(wanted).await?;
        berth_service::crash::point("finish.committed");
        Ok(())
    }

    /// Takes in the last bytes, compares their digest, and makes the object whole.
    async fn finish(&self, mut reader: Reader, digest: Digest) -> Result<Whole> {
        if !self.lease.finishing_digest.is_empty() {
            // The bytes came with an earlier request, whose end had no outcome.
            reader.linger().await;
            let open = self.open()?;
            let (size, rehash) = (open.offset, open.algorithm != digest.algorithm());
            let sealing = open.staging.sealing.as_ref().map(|state| state.key.clone());
            let key = self.parts.blobs.resume_finish(open).await?;
            return Ok(Whole { key, size, rehash, last: true, sealing });
        }
        let closed = async {
            let mut writer = self.take_in(&mut reader).await?;
            let closed = writer.close().await?;
            Ok::<_, Box<Failure>>((writer, closed))
        };
        let (mut writer, closed) = match closed.await {
            Ok(closed) => closed,
            Err(failure) => {
                reader.linger().await;
                return Err(failure);
            }
        };
        berth_service::crash::point("append.synced");
        let written = closed.written;
        let rehash = written.digest.algorithm() != digest.algorithm();
        if !rehash && written.digest != digest {
            return Err(wrong(written.digest, digest));
        }
        if closed.two_phase {
            let wanted = FinishUploadRequest {
                upload_id: self.lease.upload_id.clone(),
                epoch: self.lease.epoch,
                digest: digest.to_string(),
                size: written.offset,
                hash_state: written.hash_state.into(),
                change: Some(wire::change_to(&written.change)),
            };
            self.parts.metadata.clone().finish_upload(wanted).await?;
            berth_service::crash::point("finish.recorded");
        }
        let key = writer.finish().await?;
        let (last, sealing) = (closed.two_phase, closed.sealing);
        Ok(Whole { key, size: written.offset, rehash, last, sealing })
    }
}

/// What a finished write came to.
struct Whole {
    key: ObjectKey,
    size: u64,
    /// The digest was not compared: it is of another algorithm than the running hash.
    rehash: bool,
    /// Nothing can be appended any more.
    last: bool,
    sealing: Option<Sealing>,
}

fn wrong(found: Digest, digest: Digest) -> Box<Failure> {
    let message = format!("the content's digest is {found}, not {digest}; nothing was stored");
    Failure::new(ErrorCode::DigestInvalid, message)
}
