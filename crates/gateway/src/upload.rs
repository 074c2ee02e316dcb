//! Uploads: start, append, finish, ask, cancel (distribution-spec, "Pushing blobs").
//!
//! Appending and finishing run detached from the request: a client that goes away leaves a session that says exactly
//! how many bytes are durable.

use std::sync::Arc;

use axum::body::Body;
use berth_blobs::wire;
use berth_model::Action;
use berth_oci::{Algorithm, ContentRange, Digest, ErrorCode};
use berth_proto::metadata::{
    BeginAppendRequest, CancelUploadRequest, EndAppendRequest, GetUploadRequest, Lease, MountBlobRequest,
    StartUploadRequest, Upload,
};
use http::{HeaderName, Response, StatusCode, header};

use crate::{
    answer,
    append::{Append, Refusal, Session},
    authorise::{Grant, authorise},
    body::Reader,
    failure::{Failure, Result},
    list::readable,
    manifest::CONTENT_DIGEST,
    names::Name,
    query::Query,
    request::Request,
};

/// The least that a chunk should have where bytes go to parts (distribution-spec, "Pushing a blob in chunks"). Smaller ones
/// work, at the cost of being written twice.
const CHUNK_MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");
const MIN_CHUNK: u64 = 5 << 20;
const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
/// `POST /v2/<name>/blobs/uploads/`: mount, or a whole blob, or a new session.
pub(crate) async fn start(request: &Request, name: &Name, body: &mut Reader) -> Result<Response<Body>> {
    let grant = authorise(request, name, Action::Push)?;
    let query = Query::parse(request.head.uri.query());
    if query.get("digest").is_none() {
        body.discard().await?;
    }
    let algorithm = match query.get("digest-algorithm") {
        None => None,
        Some(text) => Some(text.parse::<Algorithm>().map_err(|error| digest_problem(&error))?),
    };
    if let Some(text) = query.get("mount") {
        let digest: Digest = text.parse().map_err(|error| digest_problem(&error))?;
        if mount(request, &grant, digest, query.get("from")).await? {
            return Ok(created(name, digest));
        }
    }
    let whole = match query.get("digest") {
        None => None,
        Some(text) => Some(text.parse::<Digest>().map_err(|error| digest_problem(&error))?),
    };
    let wanted = StartUploadRequest {
        access: Some(grant.access()),
        algorithm: algorithm.map(|algorithm| algorithm.to_string()).unwrap_or_default(),
        store_id: request.instance.store_id.clone(),
        store_stages: request.instance.store_stages,
    };
    berth_service::crash::point("upload.before_start");
    let upload = request
        .parts
        .metadata
        .clone()
        .start_upload(wanted)
        .await
        .map_err(|status| grant.refused(request, status))?
        .into_inner();
    berth_service::crash::point("upload.started");
    match whole {
        None => Ok(session(StatusCode::ACCEPTED, name, &upload)),
        Some(digest) => {
            // Its client never hears of the session.
            let outcome = finish(request, name, &grant, &upload.id, digest, body, Session::Hidden).await;
            outcome.map_err(hidden)
        }
    }
}

/// What a client is told that knows of no session.
fn hidden(mut failure: Box<Failure>) -> Box<Failure> {
    if failure.problem.code == ErrorCode::UploadBusy {
        // Nobody else can have taken it over: its lease ended with the process that gave it.
        let message = "the registry started again meanwhile and stored nothing; push the blob again";
        return Failure::new(ErrorCode::Unavailable, message);
    }
    failure.headers.retain(|(name, _)| *name != header::LOCATION && *name != header::RANGE);
    failure
}

fn digest_problem(error: &dyn std::fmt::Display) -> Box<Failure> {
    Failure::new(ErrorCode::DigestInvalid, error.to_string())
}

/// Mounts when the caller may read the blob somewhere. Found or not, the same questions are asked.
async fn mount(request: &Request, grant: &Grant, digest: Digest, from: Option<&str>) -> Result<bool> {
    let readable = readable(request, grant.principal()).await?;
    let from = match from {
        None | Some("") => String::new(),
        Some(text) => {
            let default = request.instance.default;
            let source = text.parse().ok().and_then(|source| Name::resolve(&source, default).ok());
            match source {
                Some(source) => source.path.to_string(),
                None => return Ok(false),
            }
        }
    };
    let wanted = MountBlobRequest {
        access: Some(grant.access()),
        digest: digest.to_string(),
        from,
        readable: Some(readable),
    };
    let answered = request.parts.metadata.clone().mount_blob(wanted).await;
    Ok(answered.map_err(|status| grant.refused(request, status))?.into_inner().mounted)
}

/// `PATCH`: the next chunk, or all that is left, streamed.
pub(crate) async fn patch(
    request: &Request,
    name: &Name,
    id: &str,
    body: &mut Reader,
) -> Result<Response<Body>> {
    let grant = authorise(request, name, Action::Push)?;
    let chunk = chunk(request, body)?;
    let lease = begin(request, name, &grant, id, chunk.offset, None).await?;
    if !lease.committed_digest.is_empty() {
        return Err(unknown_upload());
    }
    let reader = body.take();
    let append = Append { parts: Arc::clone(&request.parts), lease, expected: chunk.length };
    let done = request.parts.tasks.detach(async move {
        let upload = append.lease.upload_id.clone();
        let epoch = append.lease.epoch;
        let parts = Arc::clone(&append.parts);
        let written = append.run(reader).await?;
        let wanted = EndAppendRequest {
            upload_id: upload,
            epoch,
            offset: written.offset,
            hash_state: written.hash_state.into(),
            change: Some(wire::change_to(&written.change)),
        };
        Ok::<_, Box<Failure>>(parts.metadata.clone().end_append(wanted).await?.into_inner())
    });
    let upload = joined(done.await).map_err(|failure| located(name, id, failure))?;
    berth_service::crash::point("append.recorded");
    Ok(session(StatusCode::ACCEPTED, name, &upload))
}

/// `PUT ?digest=`: the last chunk, maybe empty, and the end.
pub(crate) async fn put(
    request: &Request,
    name: &Name,
    id: &str,
    body: &mut Reader,
) -> Result<Response<Body>> {
    let grant = authorise(request, name, Action::Push)?;
    let query = Query::parse(request.head.uri.query());
    let Some(text) = query.get("digest") else {
        return Err(Failure::new(ErrorCode::DigestInvalid, "the closing PUT needs the digest parameter"));
    };
    let digest: Digest = text.parse().map_err(|error| digest_problem(&error))?;
    finish(request, name, &grant, id, digest, body, Session::Known).await
}

async fn finish(
    request: &Request,
    name: &Name,
    grant: &Grant,
    id: &str,
    digest: Digest,
    body: &mut Reader,
    session: Session,
) -> Result<Response<Body>> {
    let begun = async {
        let chunk = chunk(request, body)?;
        let lease = begin(request, name, grant, id, chunk.offset, Some(digest)).await?;
        Ok::<_, Box<Failure>>((lease, chunk.length))
    };
    let (lease, expected) = match begun.await {
        Ok((lease, expected)) if lease.committed_digest.is_empty() => (lease, expected),
        Ok((committed, _)) => {
            body.take().linger().await;
            let same = committed.committed_digest == digest.to_string();
            return if same { Ok(created(name, digest)) } else { Err(unknown_upload()) };
        }
        Err(failure) => {
            session.failed(&request.parts, grant.access(), id.to_owned()).await;
            return Err(failure);
        }
    };
    let (parts, reader) = (Arc::clone(&request.parts), body.take());
    let append = Append { parts: Arc::clone(&parts), lease, expected };
    let (access, id_of_failed) = (grant.access(), id.to_owned());
    let done = request.parts.tasks.detach(async move {
        let outcome = append.commit(reader, digest, access.clone()).await;
        if outcome.is_err() {
            session.failed(&parts, access, id_of_failed).await;
        }
        outcome
    });
    match done.await {
        Ok(Ok(())) => Ok(created(name, digest)),
        Ok(Err(Refusal::Status(status))) => Err(located(name, id, grant.refused(request, status))),
        Ok(Err(Refusal::Failure(failure))) => Err(located(name, id, failure)),
        Err(error) => Err(joined::<()>(Err(error)).err().unwrap_or_else(unknown_upload)),
    }
}

/// `GET` of a session: how far it is.
pub(crate) async fn state(request: &Request, name: &Name, id: &str) -> Result<Response<Body>> {
    let grant = authorise(request, name, Action::Push)?;
    let wanted = GetUploadRequest { access: Some(grant.access()), upload_id: id.to_owned() };
    let upload = request.parts.metadata.clone().get_upload(wanted).await;
    let upload = upload.map_err(|status| grant.refused(request, status))?.into_inner();
    Ok(session(StatusCode::NO_CONTENT, name, &upload))
}

/// `DELETE` of a session.
pub(crate) async fn cancel(request: &Request, name: &Name, id: &str) -> Result<Response<Body>> {
    let grant = authorise(request, name, Action::Push)?;
    let wanted = CancelUploadRequest { access: Some(grant.access()), upload_id: id.to_owned() };
    request
        .parts
        .metadata
        .clone()
        .cancel_upload(wanted)
        .await
        .map_err(|status| grant.refused(request, status))?;
    let mut response = answer::empty(StatusCode::NO_CONTENT);
    response.headers_mut().remove(header::CONTENT_LENGTH);
    Ok(response)
}

fn unknown_upload() -> Box<Failure> {
    Failure::new(ErrorCode::BlobUploadUnknown, "no such upload; start a new one")
}

fn joined<T>(outcome: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    outcome.unwrap_or_else(|error| {
        tracing::error!(%error, "an upload task failed");
        Err(Failure::new(ErrorCode::Internal, "internal error; the server's log has it under the request id"))
    })
}

/// Where a chunk goes and how long it has to be.
struct Chunk {
    offset: Option<u64>,
    length: Option<u64>,
}

fn chunk(request: &Request, reader: &Reader) -> Result<Chunk> {
    let announced = reader.announced();
    let Some(value) = request.head.headers.get(header::CONTENT_RANGE) else {
        return Ok(Chunk { offset: None, length: announced });
    };
    let range = value.to_str().ok().and_then(ContentRange::parse).ok_or_else(|| {
        Failure::new(ErrorCode::BlobUploadInvalid, "Content-Range has the form <first byte>-<last byte>")
            .closing()
    })?;
    if announced.is_some_and(|length| length != range.length()) {
        let message = "Content-Range and Content-Length do not say the same length";
        return Err(Failure::new(ErrorCode::SizeInvalid, message).closing());
    }
    Ok(Chunk { offset: Some(range.first), length: Some(range.length()) })
}

async fn begin(
    request: &Request,
    name: &Name,
    grant: &Grant,
    id: &str,
    offset: Option<u64>,
    digest: Option<Digest>,
) -> Result<Lease> {
    let wanted = BeginAppendRequest {
        access: Some(grant.access()),
        upload_id: id.to_owned(),
        offset,
        digest: digest.map(|digest| digest.to_string()).unwrap_or_default(),
    };
    let lease = request.parts.metadata.clone().begin_append(wanted).await;
    let lease = lease.map_err(|status| located(name, id, grant.refused(request, status)).closing())?;
    Ok(lease.into_inner())
}

/// Puts the session's state beside a refusal that is about it, so that the client can go on from there.
fn located(name: &Name, id: &str, failure: Box<Failure>) -> Box<Failure> {
    let about_state = matches!(failure.problem.code, ErrorCode::UploadOutOfOrder | ErrorCode::UploadBusy);
    let offset = failure.problem.detail.as_ref().and_then(|detail| detail.get("offset")?.as_u64());
    match (about_state, offset) {
        (true, Some(offset)) => failure
            .with_header(header::RANGE, answer::value(range(offset)))
            .with_header(header::LOCATION, answer::value(location(name, id))),
        _ => failure,
    }
}

fn location(name: &Name, id: &str) -> String {
    format!("/v2/{}/blobs/uploads/{id}", name.asked)
}

/// `Range` of a session: `0-<last byte>`; `0-0` while it is empty, as clients expect.
fn range(offset: u64) -> String {
    format!("0-{}", offset.saturating_sub(1))
}

fn session(status: StatusCode, name: &Name, upload: &Upload) -> Response<Body> {
    let mut response = answer::empty(status);
    let headers = response.headers_mut();
    if status == StatusCode::NO_CONTENT {
        headers.remove(header::CONTENT_LENGTH);
    }
    headers.insert(header::LOCATION, answer::value(location(name, &upload.id)));
    headers.insert(header::RANGE, answer::value(range(upload.offset)));
    headers.insert(UPLOAD_UUID, answer::value(&upload.id));
    if upload.staged {
        headers.insert(CHUNK_MIN_LENGTH, answer::value(MIN_CHUNK.to_string()));
    }
    response
}

fn created(name: &Name, digest: Digest) -> Response<Body> {
    let mut response = answer::empty(StatusCode::CREATED);
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, answer::value(format!("/v2/{}/blobs/{digest}", name.asked)));
    headers.insert(CONTENT_DIGEST, answer::value(digest.to_string()));
    response
}
