//! Manifests: read, push, delete.

use std::collections::BTreeSet;

use axum::body::Body;
use berth_model::Action;
use berth_oci::{Algorithm, Digest, ErrorCode, MAX_MANIFEST_BYTES, MediaType, Problem, Reference, Tag};
use berth_proto::metadata::{
    Content, DeleteManifestRequest, DeleteTagRequest, HoldContentRequest, PutManifestRequest,
    ReadManifestRequest, ResolveResponse,
};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use crate::{
    answer,
    authorise::{Grant, authorise},
    body::Reader,
    cache::Names,
    failure::{Failure, Result},
    names::Name,
    pulled::{Pulled, pulled},
    query::Query,
    rate,
    request::Request,
    resolve::{Wanted, deleted, resolve},
};

pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");
pub(crate) const CACHE_CONTROL: HeaderValue = HeaderValue::from_static("private, no-cache");
/// The most tags that one digest push may set.
const MAX_TAGS: usize = 50;

/// GET and HEAD: one Resolve, then bytes from memory.
pub(crate) async fn get(
    request: &Request,
    name: &Name,
    reference: &Reference,
    head: bool,
) -> Result<Response<Body>> {
    let grant = authorise(request, name, Action::Pull)?;
    rate::admit(request, head)?;
    let (resolved, content) = find(request, name, reference, &grant).await?;
    let digest: Digest = content.digest.parse().map_err(corrupt)?;
    if head && grant.also(Action::Push) {
        hold(request, &grant, &resolved, &content.digest, true).await?;
    }
    let names = Names::of(&digest);
    if is_match(request, &names.etag) {
        return Ok(not_modified(names, CACHE_CONTROL));
    }
    if head {
        return Ok(respond(Body::empty(), names, &content));
    }
    let body = Body::from(payload(request, &resolved, digest).await?);
    let what = Pulled::Manifest(tag_of(reference));
    pulled(request, &grant, name, resolved.repository_id.parse().ok(), digest, what);
    Ok(respond(body, names, &content))
}

/// The tag that was asked for; empty: a digest was.
fn tag_of(reference: &Reference) -> &str {
    match reference {
        Reference::Tag(tag) => tag.as_str(),
        Reference::Digest(_) => "",
    }
}

/// 200.
pub(crate) fn respond(body: Body, names: Names, content: &Content) -> Response<Body> {
    let mut response = answer::with_room(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, answer::value(&content.media_type));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(content.size));
    headers.insert(CONTENT_DIGEST, names.digest);
    headers.insert(header::ETAG, names.etag);
    headers.insert(header::CACHE_CONTROL, CACHE_CONTROL);
    response
}

/// 304: what a 200 would say about caching (RFC 9110 section 15.4.5).
pub(crate) fn not_modified(names: Names, cache_control: HeaderValue) -> Response<Body> {
    let mut response = answer::with_room(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    let headers = response.headers_mut();
    headers.insert(header::ETAG, names.etag);
    headers.insert(header::CACHE_CONTROL, cache_control);
    headers.insert(CONTENT_DIGEST, names.digest);
    response
}

/// Whether the client has this content already (`If-None-Match`).
pub(crate) fn is_match(request: &Request, etag: &HeaderValue) -> bool {
    let Some(wanted) = request.head.headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    wanted.split(',').any(|candidate| {
        let candidate = candidate.trim();
        candidate == "*" || candidate.strip_prefix("W/").unwrap_or(candidate).as_bytes() == etag.as_bytes()
    })
}

/// An answer, or the end of a task, that can't be.
pub(crate) fn corrupt(error: impl std::fmt::Display) -> Box<Failure> {
    tracing::error!(%error, "metadata answered something that can't be read");
    Failure::new(ErrorCode::Internal, "internal error; the server's log has it under the request id")
}

async fn find(
    request: &Request,
    name: &Name,
    reference: &Reference,
    grant: &Grant,
) -> Result<(ResolveResponse, Content)> {
    let wanted = match reference {
        Reference::Tag(tag) => Wanted::Tag(tag.to_string()),
        Reference::Digest(digest) => Wanted::ManifestDigest(digest.to_string()),
    };
    let mut resolved = resolve(request, name, grant, wanted).await?;
    let Some(content) = resolved.content.take() else {
        let message = format!("manifest {reference} is not in repository {}", name.asked);
        return Err(Failure::new(ErrorCode::ManifestUnknown, message));
    };
    Ok((resolved, content))
}

async fn payload(request: &Request, resolved: &ResolveResponse, digest: Digest) -> Result<Bytes> {
    let kept = request.parts.contents.get_or_fetch(digest, read(request, resolved, digest)).await?;
    Ok(kept.bytes.clone())
}

fn read(
    request: &Request,
    resolved: &ResolveResponse,
    digest: Digest,
) -> impl Future<Output = std::result::Result<Bytes, Problem>> + Send + 'static {
    let mut metadata = request.parts.metadata.clone();
    let wanted =
        ReadManifestRequest { repository_id: resolved.repository_id.clone(), digest: digest.to_string() };
    async move {
        let answer =
            metadata.read_manifest(wanted).await.map_err(|status| berth_proto::from_status(&status))?;
        let gone = || Problem::new(ErrorCode::ManifestUnknown, "the manifest was deleted meanwhile");
        let payload = answer.into_inner().payload.ok_or_else(gone)?;
        if Digest::of(digest.algorithm(), &payload) != digest {
            tracing::error!(%digest, "stored manifest bytes do not have their digest");
            return Err(Problem::new(
                ErrorCode::Internal,
                "the stored manifest is damaged; tell the operator",
            ));
        }
        // A copy: these bytes are part of the larger buffer in which the message came, which the cache would keep.
        Ok(Bytes::copy_from_slice(&payload))
    }
}

/// Part of a push: what a pusher has seen may not be collected before its push ends.
pub(crate) async fn hold(
    request: &Request,
    grant: &Grant,
    resolved: &ResolveResponse,
    digest: &str,
    manifest: bool,
) -> Result<()> {
    let wanted = HoldContentRequest {
        instance_id: request.instance.id.to_string(),
        repository_id: resolved.repository_id.clone(),
        digest: digest.to_owned(),
        manifest,
    };
    request
        .parts
        .metadata
        .clone()
        .hold_content(wanted)
        .await
        .map_err(|status| grant.refused(request, status))?;
    Ok(())
}

/// PUT by tag, or by digest with any number of `tag` parameters.
pub(crate) async fn put(
    request: &Request,
    name: &Name,
    reference: Reference,
    body: &mut Reader,
) -> Result<Response<Body>> {
    let grant = authorise(request, name, Action::Push)?;
    let media_type = content_type(request)?;
    let query = Query::parse(request.head.uri.query());
    let mut tags = BTreeSet::new();
    for tag in query.all("tag") {
        let tag: Tag = tag
            .parse()
            .map_err(|error| Failure::new(ErrorCode::TagInvalid, format!("tag {tag:?}: {error}")))?;
        tags.insert(tag);
    }
    if tags.len() > MAX_TAGS {
        let message = format!("at most {MAX_TAGS} tags can be set at once");
        return Err(Failure::new(ErrorCode::RequestInvalid, message));
    }
    let asked_tags = tags.clone();
    let payload = body.take().collect(MAX_MANIFEST_BYTES, "a manifest").await?;
    let digest = match reference {
        Reference::Tag(tag) => {
            tags.insert(tag);
            match query.get("digest") {
                Some(expected) => has_digest(&payload, expected.parse().map_err(invalid_digest)?)?,
                None => Digest::of(tag_algorithm(&query)?, &payload),
            }
        }
        Reference::Digest(expected) => has_digest(&payload, expected)?,
    };
    let wanted = PutManifestRequest {
        access: Some(grant.access()),
        digest: digest.to_string(),
        media_type: media_type.to_string(),
        payload,
        tags: tags.iter().map(ToString::to_string).collect(),
    };
    berth_service::crash::point("manifest.before_put");
    // Detached: a client that goes away now must not leave the push half done.
    let mut metadata = request.parts.metadata.clone();
    let answered = request.parts.tasks.detach(async move { metadata.put_manifest(wanted).await }).await;
    let answered = answered.map_err(corrupt)?.map_err(|status| grant.refused(request, status))?.into_inner();
    berth_service::crash::point("manifest.stored");
    let mut response = answer::empty(StatusCode::CREATED);
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, answer::value(format!("/v2/{}/manifests/{digest}", name.asked)));
    headers.insert(CONTENT_DIGEST, answer::value(digest.to_string()));
    if !answered.subject.is_empty() {
        headers.insert(OCI_SUBJECT, answer::value(&answered.subject));
    }
    for tag in asked_tags {
        headers.append(OCI_TAG, answer::value(tag.as_str()));
    }
    Ok(response)
}

/// A push by tag may say its digest by `digest=<algorithm>:…`, or only the algorithm by `digest-algorithm=<algorithm>`.
fn tag_algorithm(query: &Query<'_>) -> Result<Algorithm> {
    let Some(asked) = query.get("digest-algorithm") else { return Ok(Algorithm::Sha256) };
    asked.parse().map_err(invalid_digest)
}

fn invalid_digest(error: berth_oci::DigestError) -> Box<Failure> {
    Failure::new(ErrorCode::DigestInvalid, error.to_string())
}

/// The digest that was announced, if it is the content's.
fn has_digest(payload: &[u8], expected: Digest) -> Result<Digest> {
    let found = Digest::of(expected.algorithm(), payload);
    if found == expected {
        return Ok(expected);
    }
    let message = format!("the manifest's digest is {found}, not {expected}");
    Err(Failure::new(ErrorCode::DigestInvalid, message))
}

fn content_type(request: &Request) -> Result<MediaType> {
    let Some(value) = request.head.headers.get(header::CONTENT_TYPE) else {
        let message = "a manifest needs a Content-Type, such as application/vnd.oci.image.manifest.v1+json";
        return Err(Failure::new(ErrorCode::ManifestInvalid, message));
    };
    let parsed = value.to_str().ok().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| Failure::new(ErrorCode::ManifestInvalid, "the Content-Type is not a media type"))
}

/// DELETE of a tag, or of a manifest with all its tags.
pub(crate) async fn delete(request: &Request, name: &Name, reference: &Reference) -> Result<Response<Body>> {
    let grant = authorise(request, name, Action::Delete)?;
    let access = Some(grant.access());
    let mut metadata = request.parts.metadata.clone();
    let wanted = reference.clone();
    berth_service::crash::point("delete.before");
    let answered = request.parts.tasks.detach(async move {
        match wanted {
            Reference::Tag(tag) => {
                let wanted = DeleteTagRequest { access, tag: tag.to_string() };
                metadata.delete_tag(wanted).await.map(|_| ())
            }
            Reference::Digest(digest) => {
                let wanted = DeleteManifestRequest { access, digest: digest.to_string() };
                metadata.delete_manifest(wanted).await.map(|_| ())
            }
        }
    });
    answered.await.map_err(corrupt)?.map_err(|status| grant.refused(request, status))?;
    berth_service::crash::point("delete.done");
    if let Reference::Digest(digest) = reference {
        deleted(request, &grant, *digest, false);
    }
    Ok(answer::empty(StatusCode::ACCEPTED))
}
