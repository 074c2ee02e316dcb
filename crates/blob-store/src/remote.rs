//! A store that lives in another process.

use async_trait::async_trait;
use berth_blobs::{
    BlobReader, BlobWriter, Blobs, BlobsError, Listed, ObjectKey, ObjectRef, STEP_BYTES, WriteOpen, Written,
};
use berth_oci::{Algorithm, ByteRange, Digest};
use berth_proto::{
    MAX_MESSAGE_BYTES,
    blob_store::{
        self, DeleteRequest, ListRequest, ReadRequest, RehashRequest, WriteRequest, WriteResponse, WriteSync,
        blob_store_client::BlobStoreClient, write_request::Step,
    },
    from_status,
};
use berth_service::Channel;
use bytes::Bytes;
use futures::{StreamExt, stream};
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

fn read_digest(text: &str) -> Result<Digest, BlobsError> {
    text.parse().map_err(|_| BlobsError::Remote(format!("it answered with no digest: {text:?}")))
}

#[async_trait]
impl Blobs for RemoteBlobs {
    async fn write(&self, open: WriteOpen) -> Result<Box<dyn BlobWriter>, BlobsError> {
        let (frames, waiting) = mpsc::channel(WAITING_FRAMES);
        let offset = open.offset;
        let first = Step::Open(blob_store::WriteOpen {
            store_id: open.store_id,
            key: open.key.to_string(),
            epoch: open.epoch,
            offset,
            hash_state: open.hash_state.unwrap_or_default().into(),
            algorithm: open.algorithm.to_string(),
        });
        frames.send(WriteRequest { step: Some(first) }).await.map_err(|_| cut_off())?;
        let answers = self.client.clone().write(ReceiverStream::new(waiting)).await;
        let answers = answers.map_err(|status| failed(&status))?.into_inner();
        Ok(Box::new(RemoteWriter { frames, answers, offset, broken: false }))
    }

    async fn rehash(
        &self,
        store_id: &str,
        key: &ObjectKey,
        size: u64,
        algorithm: Algorithm,
    ) -> Result<Digest, BlobsError> {
        let request = RehashRequest {
            store_id: store_id.to_owned(),
            key: key.to_string(),
            size,
            algorithm: algorithm.to_string(),
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
        let read = |object: blob_store::ListedObject| {
            let key = object.key.parse();
            let key = key.map_err(|_| BlobsError::Remote(format!("it listed no key: {:?}", object.key)))?;
            Ok(Listed { key, size: object.size, modified: object.modified })
        };
        page.objects.into_iter().map(read).collect()
    }
}

/// One write stream. Its frames wait in a short queue, which is what bounds memory here; the far side bounds its own.
#[derive(Debug)]
struct RemoteWriter {
    frames: mpsc::Sender<WriteRequest>,
    answers: Streaming<WriteResponse>,
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
    async fn answer(&mut self) -> Result<WriteResponse, BlobsError> {
        self.answers.message().await.map_err(|status| failed(&status))?.ok_or_else(cut_off)
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
    async fn write(&mut self, mut data: Bytes) -> Result<(), BlobsError> {
        self.begin()?;
        while !data.is_empty() {
            let frame = data.split_to(data.len().min(STEP_BYTES));
            let length = frame.len() as u64;
            self.send(Step::Data(frame)).await?;
            self.offset += length;
        }
        self.broken = false;
        Ok(())
    }

    async fn sync(&mut self) -> Result<Written, BlobsError> {
        self.begin()?;
        self.send(Step::Sync(WriteSync {})).await?;
        let answer = self.answer().await?;
        if answer.offset != self.offset {
            return Err(BlobsError::Remote(format!(
                "it wrote up to byte {}, not {}",
                answer.offset, self.offset
            )));
        }
        self.broken = false;
        let digest = read_digest(&answer.digest)?;
        Ok(Written { offset: answer.offset, hash_state: answer.hash_state.to_vec(), digest })
    }

    fn offset(&self) -> u64 {
        self.offset
    }
}
