//! The gRPC server over a store. It holds nothing of its own: a stream that breaks leaves what was synced, and the rest
//! is cut by whoever writes next.

use std::sync::Arc;

use async_trait::async_trait;
use berth_blobs::{BlobWriter, Blobs, BlobsError, MAX_LISTED, ObjectRef, STEP_BYTES, wire};
use berth_oci::{ByteRange, ErrorCode, Problem};
use berth_proto::{
    blob_store::{
        AbandonResponse, Abandoned, DeleteRequest, DeleteResponse, ListRequest, ListResponse, ListedObject,
        PresignRequest, PresignResponse, ProbeRequest, ProbeResponse, ReadRequest, ReadResponse,
        RehashRequest, RehashResponse, ResumeFinishRequest, ResumeFinishResponse, WriteFinished, WriteOpened,
        WriteRequest, WriteResponse, WriteTaken, blob_store_server::BlobStore, write_request::Step,
        write_response::Answer,
    },
    parse, require, to_status,
};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use secrecy::ExposeSecret;
use tonic::{Request, Response, Status, Streaming};

use crate::opener::Opener;

/// The server value.
#[derive(Clone, Debug)]
pub struct Grpc {
    blobs: Arc<dyn Blobs>,
    opener: Option<Opener>,
}

type Answers<T> = BoxStream<'static, Result<T, Status>>;

fn refuse(error: BlobsError) -> Status {
    if !matches!(error, BlobsError::Stale | BlobsError::NotFound) {
        tracing::warn!(error = &error as &dyn std::error::Error, "a call of the blob store failed");
    }
    to_status(error.into())
}

fn invalid(message: &str) -> Status {
    to_status(Problem::new(ErrorCode::RequestInvalid, message))
}

impl Grpc {
    /// Serves `blobs`.
    pub fn new(blobs: Arc<dyn Blobs>) -> Self {
        Self { blobs, opener: None }
    }

    /// Serves `blobs`, and tries out storage that is to become a store.
    pub(crate) fn with_opener(blobs: Arc<dyn Blobs>, opener: Opener) -> Self {
        Self { blobs, opener: Some(opener) }
    }
}

/// Goes on until the next step that has an answer; `None` when the client is done.
async fn next_answer(
    writer: &mut dyn BlobWriter,
    steps: &mut Streaming<WriteRequest>,
) -> Result<Option<WriteResponse>, Status> {
    while let Some(request) = steps.message().await? {
        let answer = match request.step {
            Some(Step::Data(data)) => {
                let record = writer.write(data).await.map_err(refuse)?;
                if !writer.records() {
                    continue;
                }
                Answer::Taken(WriteTaken { record: record.as_ref().map(wire::written_to) })
            }
            Some(Step::Sync(_)) => Answer::Written(wire::written_to(&writer.sync().await.map_err(refuse)?)),
            Some(Step::Close(_)) => Answer::Closed(wire::closed_to(&writer.close().await.map_err(refuse)?)),
            Some(Step::Finish(_)) => {
                let key = writer.finish().await.map_err(refuse)?;
                Answer::Finished(WriteFinished { key: key.to_string() })
            }
            Some(Step::Open(_)) => return Err(invalid("only the first message opens")),
            None => return Err(invalid("field step is missing")),
        };
        return Ok(Some(WriteResponse { answer: Some(answer) }));
    }
    Ok(None)
}

#[async_trait]
impl BlobStore for Grpc {
    type WriteStream = Answers<WriteResponse>;
    type RehashStream = Answers<RehashResponse>;
    type ReadStream = Answers<ReadResponse>;
    type ResumeFinishStream = Answers<ResumeFinishResponse>;

    async fn write(
        &self,
        request: Request<Streaming<WriteRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let mut steps = request.into_inner();
        let Some(WriteRequest { step: Some(Step::Open(open)) }) = steps.message().await? else {
            return Err(invalid("the first message has to open"));
        };
        let open = wire::open_from(open).map_err(to_status)?;
        let writer = self.blobs.write(open).await.map_err(refuse)?;
        let opened = Answer::Opened(WriteOpened { records: writer.records() });
        let opened = stream::iter([Ok(WriteResponse { answer: Some(opened) })]);
        let answers = stream::unfold(Some((writer, steps)), |state| async move {
            let (mut writer, mut steps) = state?;
            match next_answer(&mut *writer, &mut steps).await {
                Ok(Some(answer)) => Some((Ok(answer), Some((writer, steps)))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(opened.chain(answers).boxed()))
    }

    async fn rehash(&self, request: Request<RehashRequest>) -> Result<Response<Self::RehashStream>, Status> {
        let request = request.into_inner();
        let object = ObjectRef {
            store_id: request.store_id,
            key: parse("key", &request.key).map_err(to_status)?,
            size: request.size,
            format: request.format,
            sealing: request.sealing.map(wire::sealing_from),
        };
        let algorithm = parse("algorithm", &request.algorithm).map_err(to_status)?;
        let blobs = Arc::clone(&self.blobs);
        let answer = async move {
            let digest = blobs.rehash(&object, algorithm).await.map_err(refuse)?;
            Ok(RehashResponse { digest: digest.to_string() })
        };
        Ok(Response::new(stream::once(answer).boxed()))
    }

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let object = ObjectRef {
            store_id: request.store_id,
            key: parse("key", &request.key).map_err(to_status)?,
            size: request.size,
            format: request.format,
            sealing: request.sealing.map(wire::sealing_from),
        };
        let range = ByteRange { offset: request.offset, length: request.length };
        let reader = self.blobs.open(&object, Some(range)).await.map_err(refuse)?;
        let frames = reader.into_stream().flat_map(|step| {
            let frames = match step {
                Ok(mut bytes) => {
                    let mut frames = Vec::with_capacity(bytes.len().div_ceil(STEP_BYTES));
                    while !bytes.is_empty() {
                        let data = bytes.split_to(bytes.len().min(STEP_BYTES));
                        frames.push(Ok(ReadResponse { data }));
                    }
                    frames
                }
                Err(error) => vec![Err(refuse(error))],
            };
            stream::iter(frames)
        });
        Ok(Response::new(frames.boxed()))
    }

    async fn presign(&self, request: Request<PresignRequest>) -> Result<Response<PresignResponse>, Status> {
        let request = request.into_inner();
        let object = ObjectRef {
            store_id: request.store_id,
            key: parse("key", &request.key).map_err(to_status)?,
            size: request.size,
            format: request.format,
            // What is sealed is never sent elsewhere.
            sealing: None,
        };
        let url = self.blobs.presign(&object, request.now).await.map_err(refuse)?;
        Ok(Response::new(PresignResponse { url: url.map(|url| url.expose_secret().to_owned()) }))
    }

    async fn resume_finish(
        &self,
        request: Request<ResumeFinishRequest>,
    ) -> Result<Response<Self::ResumeFinishStream>, Status> {
        let open = require("open", request.into_inner().open).and_then(wire::open_from).map_err(to_status)?;
        let blobs = Arc::clone(&self.blobs);
        let answer = async move {
            let key = blobs.resume_finish(open).await.map_err(refuse)?;
            Ok(ResumeFinishResponse { key: key.to_string() })
        };
        Ok(Response::new(stream::once(answer).boxed()))
    }

    async fn abandon(&self, request: Request<Abandoned>) -> Result<Response<AbandonResponse>, Status> {
        let abandoned = wire::abandoned_from(request.into_inner()).map_err(to_status)?;
        self.blobs.abandon(&abandoned).await.map_err(refuse)?;
        Ok(Response::new(AbandonResponse {}))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let request = request.into_inner();
        let key = parse("key", &request.key).map_err(to_status)?;
        self.blobs.delete(&request.store_id, &key).await.map_err(refuse)?;
        Ok(Response::new(DeleteResponse {}))
    }

    async fn probe(&self, request: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        let Some(opener) = &self.opener else {
            return Err(invalid("this blob store has no stores of instances"));
        };
        let probed = opener.probe(request.into_inner()).await;
        probed.map(Response::new).map_err(|reason| invalid(&format!("the storage can't be used: {reason}")))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let request = request.into_inner();
        let after = match request.after.as_str() {
            "" => None,
            text => Some(parse("after", text).map_err(to_status)?),
        };
        let limit = usize::try_from(request.limit).unwrap_or(MAX_LISTED).min(MAX_LISTED);
        let page = self.blobs.list(&request.store_id, after.as_ref(), limit).await.map_err(refuse)?;
        let objects = page.into_iter().map(|listed| ListedObject {
            key: listed.key.to_string(),
            size: listed.size,
            modified: listed.modified,
        });
        Ok(Response::new(ListResponse { objects: objects.collect() }))
    }
}
