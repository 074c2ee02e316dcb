//! A store that lives in another process.

use async_trait::async_trait;
use berth_blobs::{
    Abandoned, BlobReader, BlobWriter, Blobs, BlobsError, Closed, Listed, ObjectKey, ObjectRef, STEP_BYTES,
    StagingChange, WriteOpen, Written, wire,
};
use berth_oci::{Algorithm, ByteRange, Digest, Problem};
use berth_proto::{
    MAX_MESSAGE_BYTES,
    blob_store::{
        DeleteRequest, ListRequest, PresignRequest, ReadRequest, RehashRequest, ResumeFinishRequest,
        WriteClose, WriteFinish, WriteRequest, WriteResponse, WriteSync, blob_store_client::BlobStoreClient,
        write_request::Step, write_response::Answer,
    },
    from_status,
};
use berth_service::Channel;
use bytes::Bytes;
use futures::{StreamExt, stream};
use secrecy::SecretString;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// Frames that wait between a writer and its connection.
const WAITING_FRAMES: usize = 4;

/// [`Blobs`] over gRPC.
#[derive(Clone, Debug)]
pub struct RemoteBlobs {
    client: BlobStoreClient<Channel>,
}

impl RemoteBlobs {
    /// The store behind `channel`.
    pub fn new(channel: Channel) -> Self {
        let client = BlobStoreClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Self { client }
    }
}

fn failed(status: &Status) -> BlobsError {
    BlobsError::from_problem(from_status(status))
}

/// The far side ended a call that it had not answered.
fn cut_off() -> BlobsError {
    BlobsError::Unavailable("it ended a call without an answer".to_owned())
}

/// It answered something else than was asked.
fn out_of_turn() -> BlobsError {
    BlobsError::Remote("it answered out of turn".to_owned())
}

fn unreadable(problem: Problem) -> BlobsError {
    BlobsError::Remote(problem.message)
}

fn read_key(text: &str) -> Result<ObjectKey, BlobsError> {
    text.parse().map_err(|_| BlobsError::Remote(format!("it answered with no key: {text:?}")))
}

fn read_digest(text: &str) -> Result<Digest, BlobsError> {
    text.parse().map_err(|_| BlobsError::Remote(format!("it answered with no digest: {text:?}")))
}

#[async_trait]
impl Blobs for RemoteBlobs {
    async fn write(&self, open: WriteOpen) -> Result<Box<dyn BlobWriter>, BlobsError> {
        let (frames, waiting) = mpsc::channel(WAITING_FRAMES);
        let offset = open.offset;
        let first = Step::Open(wire::open_to(open));
        frames.send(WriteRequest { step: Some(first) }).await.map_err(|_| cut_off())?;
        let answers = self.client.clone().write(ReceiverStream::new(waiting)).await;
        let answers = answers.map_err(|status| failed(&status))?.into_inner();
        let mut writer =
            RemoteWriter { frames, answers, records: false, waiting: Bytes::new(), offset, broken: false };
        match writer.answer().await? {
            Answer::Opened(opened) => writer.records = opened.records,
            _ => return Err(out_of_turn()),
        }
        Ok(Box::new(writer))
    }

    async fn resume_finish(&self, open: WriteOpen) -> Result<ObjectKey, BlobsError> {
        let request = ResumeFinishRequest { open: Some(wire::open_to(open)) };
        let answers = self.client.clone().resume_finish(request).await.map_err(|status| failed(&status))?;
        let answer = answers.into_inner().message().await.map_err(|status| failed(&status))?;
        read_key(&answer.ok_or_else(cut_off)?.key)
    }

    async fn abandon(&self, abandoned: &Abandoned) -> Result<(), BlobsError> {
        let request = wire::abandoned_to(abandoned);
        self.client.clone().abandon(request).await.map_err(|status| failed(&status))?;
        Ok(())
    }

    async fn rehash(&self, object: &ObjectRef, algorithm: Algorithm) -> Result<Digest, BlobsError> {
        let request = RehashRequest {
            store_id: object.store_id.clone(),
            key: object.key.to_string(),
            size: object.size,
            algorithm: algorithm.to_string(),
            format: object.format,
            sealing: object.sealing.as_ref().map(wire::sealing_to),
        };
        let answers = self.client.clone().rehash(request).await.map_err(|status| failed(&status))?;
        let answer = answers.into_inner().message().await.map_err(|status| failed(&status))?;
        read_digest(&answer.ok_or_else(cut_off)?.digest)
    }

    async fn open(&self, object: &ObjectRef, range: Option<ByteRange>) -> Result<BlobReader, BlobsError> {
        let range = range.unwrap_or(ByteRange { offset: 0, length: object.size });
        let request = ReadRequest {
            store_id: object.store_id.clone(),
            key: object.key.to_string(),
            size: object.size,
            format: object.format,
            offset: range.offset,
            length: range.length,
            sealing: object.sealing.as_ref().map(wire::sealing_to),
        };
        let frames = self.client.clone().read(request).await.map_err(|status| failed(&status))?.into_inner();
        // Ends after the first error; the reader compares the length.
        let steps = stream::unfold(Some(frames), |state| async move {
            let mut frames = state?;
            match frames.message().await {
                Ok(Some(frame)) => Some((Ok(frame.data), Some(frames))),
                Ok(None) => None,
                Err(status) => Some((Err(failed(&status)), None)),
            }
        });
        Ok(BlobReader::Stream(steps.boxed(), range.length))
    }

    async fn presign(&self, object: &ObjectRef, now: i64) -> Result<Option<SecretString>, BlobsError> {
        let request = PresignRequest {
            store_id: object.store_id.clone(),
            key: object.key.to_string(),
            size: object.size,
            format: object.format,
            now,
        };
        let answer = self.client.clone().presign(request).await.map_err(|status| failed(&status))?;
        Ok(answer.into_inner().url.map(SecretString::from))
    }

    async fn delete(&self, store_id: &str, key: &ObjectKey) -> Result<(), BlobsError> {
        let request = DeleteRequest { store_id: store_id.to_owned(), key: key.to_string() };
        self.client.clone().delete(request).await.map_err(|status| failed(&status))?;
        Ok(())
    }

    async fn list(
        &self,
        store_id: &str,
        after: Option<&ObjectKey>,
        limit: usize,
    ) -> Result<Vec<Listed>, BlobsError> {
        let request = ListRequest {
            store_id: store_id.to_owned(),
            after: after.map(ToString::to_string).unwrap_or_default(),
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        };
        let page = self.client.clone().list(request).await.map_err(|status| failed(&status))?.into_inner();
        let read = |object: berth_proto::blob_store::ListedObject| {
            Ok(Listed { key: read_key(&object.key)?, size: object.size, modified: object.modified })
        };
        page.objects.into_iter().map(read).collect()
    }
}

/// One write stream. Its frames wait in a short queue, which is what bounds memory here; the far side bounds its own.
#[derive(Debug)]
struct RemoteWriter {
    frames: mpsc::Sender<WriteRequest>,
    answers: Streaming<WriteResponse>,
    /// Whether the far side answers every frame, and may ask for something to be recorded.
    records: bool,
    /// Taken in, and not sent before something else is recorded.
    waiting: Bytes,
    /// Bytes that were sent.
    offset: u64,
    /// A call failed or did not end.
    broken: bool,
}

impl RemoteWriter {
    fn begin(&mut self) -> Result<(), BlobsError> {
        if std::mem::replace(&mut self.broken, true) {
            return Err(BlobsError::Invalid("a writer whose last call failed or was dropped"));
        }
        Ok(())
    }

    /// Waits for an answer. The far side speaks unasked only to say that it failed.
    async fn answer(&mut self) -> Result<Answer, BlobsError> {
        let response = self.answers.message().await.map_err(|status| failed(&status))?;
        response.ok_or_else(cut_off)?.answer.ok_or_else(out_of_turn)
    }

    /// Sends what waits, until something has to be recorded.
    async fn push(&mut self) -> Result<Option<Written>, BlobsError> {
        while !self.waiting.is_empty() {
            let frame = self.waiting.split_to(self.waiting.len().min(STEP_BYTES));
            let length = frame.len() as u64;
            self.send(Step::Data(frame)).await?;
            self.offset += length;
            if !self.records {
                continue;
            }
            match self.answer().await? {
                Answer::Taken(taken) => {
                    if let Some(record) = taken.record {
                        return wire::written_from(record).map(Some).map_err(unreadable);
                    }
                }
                _ => return Err(out_of_turn()),
            }
        }
        Ok(None)
    }

    /// Sends what waits before a sync or a close. What would have to be recorded in between is handed out with it.
    async fn push_all(&mut self) -> Result<StagingChange, BlobsError> {
        let mut change = StagingChange::default();
        while let Some(record) = self.push().await? {
            change.then(record.change);
        }
        Ok(change)
    }

    fn check(&self, mut written: Written, before: StagingChange) -> Result<Written, BlobsError> {
        if written.offset != self.offset {
            let message = format!("it wrote up to byte {}, not {}", written.offset, self.offset);
            return Err(BlobsError::Remote(message));
        }
        let mut change = before;
        change.then(std::mem::take(&mut written.change));
        written.change = change;
        Ok(written)
    }

    async fn send(&mut self, step: Step) -> Result<(), BlobsError> {
        let request = WriteRequest { step: Some(step) };
        let answer = tokio::select! {
            biased;
            sent = self.frames.send(request) => {
                if sent.is_ok() {
                    return Ok(());
                }
                self.answers.message().await
            }
            answer = self.answers.message() => answer,
        };
        match answer {
            Err(status) => Err(failed(&status)),
            Ok(_) => Err(cut_off()),
        }
    }
}

#[async_trait]
impl BlobWriter for RemoteWriter {
    async fn write(&mut self, data: Bytes) -> Result<Option<Written>, BlobsError> {
        self.begin()?;
        let mut asked = self.push().await?;
        self.waiting =
            if self.waiting.is_empty() { data } else { [&self.waiting[..], &data].concat().into() };
        if asked.is_none() {
            asked = self.push().await?;
        }
        self.broken = false;
        Ok(asked)
    }

    async fn sync(&mut self) -> Result<Written, BlobsError> {
        self.begin()?;
        let before = self.push_all().await?;
        self.send(Step::Sync(WriteSync {})).await?;
        let Answer::Written(written) = self.answer().await? else { return Err(out_of_turn()) };
        let written = self.check(wire::written_from(written).map_err(unreadable)?, before)?;
        self.broken = false;
        Ok(written)
    }

    async fn close(&mut self) -> Result<Closed, BlobsError> {
        self.begin()?;
        let before = self.push_all().await?;
        self.send(Step::Close(WriteClose {})).await?;
        let Answer::Closed(closed) = self.answer().await? else { return Err(out_of_turn()) };
        let mut closed = wire::closed_from(closed).map_err(unreadable)?;
        closed.written = self.check(closed.written, before)?;
        self.broken = false;
        Ok(closed)
    }

    async fn finish(&mut self) -> Result<ObjectKey, BlobsError> {
        self.begin()?;
        self.send(Step::Finish(WriteFinish {})).await?;
        let Answer::Finished(finished) = self.answer().await? else { return Err(out_of_turn()) };
        self.broken = false;
        read_key(&finished.key)
    }

    fn records(&self) -> bool {
        self.records
    }

    fn offset(&self) -> u64 {
        self.offset + self.waiting.len() as u64
    }
}
