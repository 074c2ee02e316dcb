//! Reads that need nothing but memory: metadata in this process knows the content, its bytes are here or are not asked
//! for. Such a request is answered at once, without a wait, a task or a statement; every other goes the long way, which
//! gives the same answers.

use axum::body::Body;
use berth_model::{Action, BlobDelivery};
use berth_oci::{Reference, Route};
use berth_proto::WarmReference;
use http::{Response, header};

use crate::{
    authorise::authorise, blob, cache::Names, failure::Result, manifest, names::Name, request::Request,
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
    // The long way says why not.
    let fits = grant.fits(request.instance.id, Some(known.repository), Some(known.namespace), known.public);
    if !fits || known.content.quarantined {
        return None;
    }
    let is_blob = matches!(route, Route::Blob(..));
    let kept = request.parts.contents.get(&known.digest);
    if !head && (kept.is_none() || is_blob && !is_streamed_whole(request)) {
        return None;
    }
    let names = kept.as_ref().map_or_else(|| Names::of(&known.digest), |kept| kept.names.clone());
    if manifest::is_match(request, &names.etag) {
        let cache_control = if is_blob { blob::CACHE_CONTROL } else { manifest::CACHE_CONTROL };
        return Some(Ok(manifest::not_modified(names, cache_control)));
    }
    let body = match kept {
        Some(kept) if !head => Body::from(kept.bytes.clone()),
        _ => Body::empty(),
    };
    Some(Ok(if is_blob {
        blob::respond(body, names, known.content.size, None)
    } else {
        manifest::respond(body, names, &known.content)
    }))
}

/// Whether a blob is not to be had elsewhere, and not in part.
fn is_streamed_whole(request: &Request) -> bool {
    request.instance.blob_delivery == BlobDelivery::Stream
        && !request.head.headers.contains_key(header::RANGE)
}
