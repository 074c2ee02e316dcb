//! The gRPC server over a store. It holds nothing of its own: a stream that breaks leaves what was synced, and the rest
//! is cut by whoever writes next.

use std::sync::Arc;

use async_trait::async_trait;
use berth_blobs::{BlobWriter, Blobs, BlobsError, MAX_LISTED, ObjectRef, STEP_BYTES, WriteOpen};
use berth_oci::{ByteRange, ErrorCode, Problem};
use berth_proto::{
    blob_store::{
        DeleteRequest, DeleteResponse, ListRequest, ListResponse, ListedObject, ReadRequest, ReadResponse,
        RehashRequest, RehashResponse, WriteRequest, WriteResponse, blob_store_server::BlobStore,
        write_request::Step,
    },
    parse, to_status,
};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use tonic::{Request, Response, Status, Streaming};

/// The server value.
#[derive(Clone, Debug)]
pub struct Grpc {
    blobs: Arc<dyn Blobs>,
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
        Self { blobs }
    }
}

fn read_open(open: &berth_proto::blob_store::WriteOpen) -> Result<WriteOpen, Problem> {
    Ok(WriteOpen {
        store_id: open.store_id.clone(),
        key: parse("key", &open.key)?,
        epoch: open.epoch,
        offset: open.offset,
        hash_state: (!open.hash_state.is_empty()).then(|| open.hash_state.to_vec()),
        algorithm: parse("algorithm", &open.algorithm)?,
    })
}

/// Goes on until the next sync and answers it; `None` when the client is done.
async fn next_answer(
    writer: &mut dyn BlobWriter,
    steps: &mut Streaming<WriteRequest>,
) -> Result<Option<WriteResponse>, Status> {
    while let Some(request) = steps.message().await? {
        match request.step {
            Some(Step::Data(data)) => writer.write(data).await.map_err(refuse)?,
            Some(Step::Sync(_)) => {
                let written = writer.sync().await.map_err(refuse)?;
                return Ok(Some(WriteResponse {
                    offset: written.offset,
                    hash_state: written.hash_state.into(),
                    digest: written.digest.to_string(),
                }));
            }
            Some(Step::Open(_)) => return Err(invalid("only the first message opens")),
            None => return Err(invalid("field step is missing")),
        }
    }
    Ok(None)
}

#[async_trait]
impl BlobStore for Grpc {
    type WriteStream = Answers<WriteResponse>;
    type RehashStream = Answers<RehashResponse>;
    type ReadStream = Answers<ReadResponse>;

    async fn write(
        &self,
        request: Request<Streaming<WriteRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let mut steps = request.into_inner();
        let Some(WriteRequest { step: Some(Step::Open(open)) }) = steps.message().await? else {
            return Err(invalid("the first message has to open"));
        };
        let open = read_open(&open).map_err(to_status)?;
        let writer = self.blobs.write(open).await.map_err(refuse)?;
        let answers = stream::unfold(Some((writer, steps)), |state| async move {
            let (mut writer, mut steps) = state?;
            match next_answer(&mut *writer, &mut steps).await {
                Ok(Some(answer)) => Some((Ok(answer), Some((writer, steps)))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn rehash(&self, request: Request<RehashRequest>) -> Result<Response<Self::RehashStream>, Status> {
        let request = request.into_inner();
        let key = parse("key", &request.key).map_err(to_status)?;
        let algorithm = parse("algorithm", &request.algorithm).map_err(to_status)?;
        let blobs = Arc::clone(&self.blobs);
        let answer = async move {
            let digest =
                blobs.rehash(&request.store_id, &key, request.size, algorithm).await.map_err(refuse)?;
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
        };
        let range = ByteRange { offset: request.offset, length: request.length };
        let reader = self.blobs.open(&object, Some(range)).await.map_err(refuse)?;
        let Some(steps) = reader.into_stream() else {
            return Err(invalid("this store hands out links, not bytes"));
        };
        let frames = steps.flat_map(|step| {
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

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let request = request.into_inner();
        let key = parse("key", &request.key).map_err(to_status)?;
        self.blobs.delete(&request.store_id, &key).await.map_err(refuse)?;
        Ok(Response::new(DeleteResponse {}))
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
