//! Blobs: read whole or in part, delete.

use std::sync::Arc;

use axum::body::Body;
use berth_blobs::{BlobReader, BlobsError, ObjectRef, PLAIN, wire};
use berth_model::{Action, BlobDelivery};
use berth_oci::{ByteRange, Digest, ErrorCode, RangeOutcome, parse_range};
use berth_proto::metadata::{DeleteBlobRequest, Object};
use berth_service::{
    Connection,
    files::{self, Files},
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{HeaderValue, Response, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    answer,
    authorise::authorise,
    cache::{Names, SMALL},
    failure::{Failure, Result},
    manifest::{CONTENT_DIGEST, corrupt, hold, is_match, not_modified},
    names::Name,
    pulled::{Pulled, pulled},
    request::Request,
    resolve::{Wanted, deleted, resolve},
    verified::{Steps, Subject},
};

/// What is handed to the kernel at a time.
const WINDOW: u64 = 8 << 20;

pub(crate) const CACHE_CONTROL: HeaderValue =
    HeaderValue::from_static("private, max-age=31536000, immutable");

/// GET and HEAD: one Resolve, then the bytes.
pub(crate) async fn get(
    request: &Request,
    name: &Name,
    digest: Digest,
    head: bool,
) -> Result<Response<Body>> {
    let grant = authorise(request, name, Action::Pull)?;
    let resolved = resolve(request, name, &grant, Wanted::BlobDigest(digest.to_string())).await?;
    let content = resolved.content.as_ref();
    if content.is_some_and(|content| content.quarantined) {
        // Unknown, so that a client that has it pushes it again.
        let message = format!("the stored bytes of blob {digest} are damaged; push it again");
        return Err(Failure::new(ErrorCode::BlobUnknown, message));
    }
    let Some(object) = content.and_then(|content| content.object.clone()) else {
        let message = format!("blob {digest} is not in repository {}", name.asked);
        return Err(Failure::new(ErrorCode::BlobUnknown, message));
    };
    if head && grant.also(Action::Push) {
        hold(request, &grant, &resolved, &digest.to_string(), false).await?;
    }
    let names = Names::of(&digest);
    if is_match(request, &names.etag) {
        return Ok(not_modified(names, CACHE_CONTROL));
    }
    // Only GET has ranges (RFC 9110 section 14.2).
    let outcome = if head { RangeOutcome::Whole } else { requested_range(request, &names.etag, object.size) };
    let range = match outcome {
        RangeOutcome::Whole => None,
        RangeOutcome::Part(range) => Some(range),
        RangeOutcome::Unsatisfiable => {
            let message = format!("the blob has {} bytes", object.size);
            return Err(Failure::new(ErrorCode::RangeUnsatisfiable, message)
                .with_header(header::CONTENT_RANGE, answer::value(format!("bytes */{}", object.size))));
        }
    };
    if head {
        return Ok(respond(Body::empty(), names, object.size, range));
    }
    let object = reference(&object)?;
    let repository = resolved.repository_id.parse().ok();
    let what = if range.is_some() { Pulled::Part } else { Pulled::Blob };
    if let Some(url) = elsewhere(request, &object).await {
        pulled(request, &grant, name, repository, digest, what);
        return Ok(redirect(&url, digest));
    }
    let size = object.size;
    let body = open(request, digest, object, range).await?;
    pulled(request, &grant, name, repository, digest, what);
    Ok(respond(body, names, size, range))
}

/// The range to serve: none when `If-Range` names other content.
fn requested_range(request: &Request, etag: &HeaderValue, size: u64) -> RangeOutcome {
    let headers = &request.head.headers;
    let Some(range) = headers.get(header::RANGE).and_then(|value| value.to_str().ok()) else {
        return RangeOutcome::Whole;
    };
    match headers.get(header::IF_RANGE) {
        Some(condition) if condition != etag => RangeOutcome::Whole,
        _ => parse_range(range, size),
    }
}

/// The row says that the bytes exist. Whether they are gone for good is for a second look to say.
fn damaged(key: &str, error: &dyn std::fmt::Display) -> Box<Failure> {
    tracing::error!(%error, key, "the bytes of a blob can't be read");
    Failure::new(ErrorCode::Internal, "the stored blob can't be read; tell the operator")
}

pub(crate) fn reference(object: &Object) -> Result<ObjectRef> {
    Ok(ObjectRef {
        store_id: object.store_id.clone(),
        key: object.key.parse().map_err(|error: berth_blobs::KeyError| damaged(&object.key, &error))?,
        size: object.size,
        format: object.format,
        sealing: object.sealing.clone().map(wire::sealing_from),
    })
}

/// Where the client gets the object from, if the instance wants it sent there and the store can.
pub(crate) async fn elsewhere(request: &Request, object: &ObjectRef) -> Option<SecretString> {
    if request.instance.blob_delivery != BlobDelivery::Redirect {
        return None;
    }
    // The store judges the URL by its own clock, so it bears the time that most agree on.
    let now = request.parts.settings.now();
    match request.parts.blobs.presign(object, now.0).await {
        Ok(url) => url,
        Err(error) => {
            tracing::debug!(%error, key = %object.key, "no URL for a blob, which is streamed");
            None
        }
    }
}

/// 307: a client repeats its `Range` there, and not its `Authorization`.
pub(crate) fn redirect(url: &SecretString, digest: Digest) -> Response<Body> {
    let mut response = answer::empty(StatusCode::TEMPORARY_REDIRECT);
    let mut location = answer::value(url.expose_secret());
    // It opens the object for whoever has it: not for logs, nor for tables of headers.
    location.set_sensitive(true);
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, location);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    headers.insert(CONTENT_DIGEST, answer::value(digest.to_string()));
    response
}

async fn open(
    request: &Request,
    digest: Digest,
    object: ObjectRef,
    range: Option<ByteRange>,
) -> Result<Body> {
    let damaged = |error: &dyn std::fmt::Display| damaged(object.key.as_str(), error);
    let subject = || Subject { instance: request.instance.id, digest, object: object.clone() };
    let reader = match request.parts.blobs.open(&object, range).await {
        Ok(reader) => reader,
        Err(error @ BlobsError::Unavailable(_)) => return Err(error.into()),
        Err(error) => {
            let lost = matches!(
                error,
                BlobsError::NotFound
                    | BlobsError::Short { .. }
                    | BlobsError::Damaged(_)
                    | BlobsError::KeyGone
            );
            if lost {
                request.parts.whole.suspect(subject());
            }
            if matches!(error, BlobsError::KeyGone) {
                tracing::error!(key = %object.key, "the key of a blob was destroyed");
                return Err(error.into());
            }
            return Err(damaged(&error));
        }
    };
    let reader = match (reader, sends_files(request, &object, range)) {
        (BlobReader::File { file, offset, length }, Some(files)) => {
            return Ok(Body::from_stream(send(files, file, offset, length)));
        }
        (reader, _) => reader,
    };
    // A part says nothing about the whole.
    let steps = match range {
        None if object.size <= SMALL && object.format == PLAIN => {
            let bytes = small(request.parts.whole.read(subject(), reader), object.size).await?;
            return Ok(Body::from(request.parts.contents.keep(digest, bytes).bytes.clone()));
        }
        None => request.parts.whole.read(subject(), reader),
        Some(_) => request.parts.whole.watched(subject(), reader.into_stream()),
    };
    Ok(Body::from_stream(steps))
}

/// The connection's files, if the kernel can send an object as it is: nobody has to look at the bytes, since they were
/// hashed lately, or are a part, which says nothing about the whole.
fn sends_files(request: &Request, object: &ObjectRef, range: Option<ByteRange>) -> Option<Files> {
    let looked_at = range.is_none() && !request.parts.whole.trusts(object);
    if looked_at || object.format != PLAIN || object.size <= SMALL {
        return None;
    }
    let connection = request.head.extensions.get::<Connection>()?;
    connection.files.clone().filter(|_| request.head.version <= http::Version::HTTP_11)
}

/// A file as it is, window by window; each is read from the disk by a thread that may wait for it.
fn send(
    files: Files,
    file: std::fs::File,
    offset: u64,
    length: u64,
) -> impl futures::Stream<Item = std::result::Result<Bytes, BlobsError>> {
    let (file, end) = (Arc::new(file), offset + length);
    futures::stream::unfold(offset, move |at| {
        let (files, file) = (files.clone(), Arc::clone(&file));
        async move {
            let window = (end - at).min(WINDOW);
            if window == 0 {
                return None;
            }
            files::warm(&file, at, window).await;
            let length = usize::try_from(window).unwrap_or_default();
            let failed = |source| BlobsError::Io { operation: "map a file", source };
            Some((files.body(&file, at, length).map_err(failed), at + window))
        }
    })
}

/// The bytes of a small blob, which are its digest's once they are all here.
async fn small(mut steps: Steps, size: u64) -> Result<Bytes> {
    let mut whole = BytesMut::with_capacity(usize::try_from(size).unwrap_or_default());
    while let Some(step) = steps.next().await {
        whole.extend_from_slice(&step?);
    }
    Ok(whole.freeze())
}

/// 200, or 206 for a part.
pub(crate) fn respond(body: Body, names: Names, size: u64, range: Option<ByteRange>) -> Response<Body> {
    let mut response = answer::with_room(body);
    let length = range.map_or(size, |range| range.length);
    if let Some(range) = range {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let text = format!("bytes {}-{}/{size}", range.offset, range.offset + range.length - 1);
        response.headers_mut().insert(header::CONTENT_RANGE, answer::value(text));
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::ETAG, names.etag);
    headers.insert(header::CACHE_CONTROL, CACHE_CONTROL);
    headers.insert(CONTENT_DIGEST, names.digest);
    response
}

/// DELETE: drops the repository's link, unless a manifest of it holds the blob.
pub(crate) async fn delete(request: &Request, name: &Name, digest: Digest) -> Result<Response<Body>> {
    let grant = authorise(request, name, Action::Delete)?;
    let wanted = DeleteBlobRequest { access: Some(grant.access()), digest: digest.to_string() };
    // Detached: whether a client waits for the answer or not, it is one delete.
    let mut metadata = request.parts.metadata.clone();
    let answered = request.parts.tasks.detach(async move { metadata.delete_blob(wanted).await }).await;
    answered.map_err(corrupt)?.map_err(|status| grant.refused(request, status))?;
    deleted(request, &grant, digest, true);
    Ok(answer::empty(StatusCode::ACCEPTED))
}
