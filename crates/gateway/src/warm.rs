//! Reads that need nothing but memory: metadata in this process knows the content, its bytes are here or are not asked
//! for. Such a request is answered at once, without a wait, a task or a statement; every other goes the long way, which
//! gives the same answers.

use axum::body::Body;
use berth_model::{Action, BlobDelivery};
use berth_oci::{Reference, Route};
use berth_proto::{WarmAnswer, WarmReference};
use http::{Response, header};

use crate::{
    authorise::{Grant, authorise},
    blob,
    cache::Names,
    failure::Result,
    manifest,
    names::Name,
    request::Request,
};

/// The answer, if memory has it.
pub(crate) fn answer(request: &Request, route: &Route) -> Option<Result<Response<Body>>> {
    let head = match request.head.method {
        http::Method::GET => false,
        http::Method::HEAD => true,
        _ => return None,
    };
    let reads = request.parts.warm.as_ref()?;
    let (name, reference) = match route {
        Route::Manifest(name, Reference::Tag(tag)) => (name, WarmReference::Tag(tag)),
        Route::Manifest(name, Reference::Digest(digest)) => (name, WarmReference::Manifest(digest)),
        Route::Blob(name, digest) => (name, WarmReference::Blob(digest)),
        _ => return None,
    };
    let name = Name::resolve(name, request.instance.name == "default").ok()?;
    let grant = match authorise(request, &name, Action::Pull) {
        Ok(grant) => grant,
        Err(refused) => return Some(Err(refused)),
    };
    // What a pusher has seen is held, which is a write.
    if head && grant.also(Action::Push) {
        return None;
    }
    let known = reads.resolve(request.instance.id, &name.path, reference)?;
    match route {
        Route::Blob(..) => read_blob(request, &grant, &known, head),
        _ => read_manifest(request, &grant, &known, head),
    }
}

/// What may be shown of an answer: the long way says why not.
fn allowed(request: &Request, grant: &Grant, known: &WarmAnswer) -> bool {
    grant.fits(request.instance.id, Some(known.repository), Some(known.namespace), known.public)
        && !known.content.quarantined
}

fn read_manifest(
    request: &Request,
    grant: &Grant,
    known: &WarmAnswer,
    head: bool,
) -> Option<Result<Response<Body>>> {
    if !allowed(request, grant, known) {
        return None;
    }
    let kept = request.parts.contents.get(&known.digest);
    if !head && kept.is_none() {
        return None;
    }
    let names = kept.as_ref().map_or_else(|| Names::of(&known.digest), |kept| kept.names.clone());
    if manifest::is_match(request, &names.etag) {
        return Some(Ok(manifest::not_modified(names, manifest::CACHE_CONTROL)));
    }
    let body = match kept {
        Some(kept) if !head => Body::from(kept.bytes.clone()),
        _ => Body::empty(),
    };
    Some(Ok(manifest::respond(body, names, &known.content)))
}

fn read_blob(
    request: &Request,
    grant: &Grant,
    known: &WarmAnswer,
    head: bool,
) -> Option<Result<Response<Body>>> {
    if !allowed(request, grant, known) {
        return None;
    }
    let size = known.content.size;
    let kept = request.parts.contents.get(&known.digest);
    let names = kept.as_ref().map_or_else(|| Names::of(&known.digest), |kept| kept.names.clone());
    if head {
        let modified = !manifest::is_match(request, &names.etag);
        return Some(Ok(if modified {
            blob::respond(Body::empty(), names, size, None)
        } else {
            manifest::not_modified(names, blob::CACHE_CONTROL)
        }));
    }
    let plain = request.instance.blob_delivery == BlobDelivery::Stream
        && !request.head.headers.contains_key(header::RANGE);
    let kept = kept.filter(|_| plain)?;
    if manifest::is_match(request, &names.etag) {
        return Some(Ok(manifest::not_modified(names, blob::CACHE_CONTROL)));
    }
    Some(Ok(blob::respond(Body::from(kept.bytes.clone()), names, size, None)))
}
