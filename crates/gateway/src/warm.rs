//! Reads that need nothing but memory: metadata in this process knows the content or the list, and the content's bytes
//! are here or are not asked for. Such a request is answered at once, without a wait, a task or a statement; every other
//! goes the long way, which gives the same answers.

use axum::body::Body;
use berth_model::Action;
use berth_oci::{Digest, Reference, Route};
use berth_proto::{WarmReads, WarmReference, WarmRepository};
use futures::FutureExt as _;
use http::{Response, header};

use crate::{
    authorise::{Grant, authorise},
    blob,
    cache::Names,
    failure::Result,
    list, manifest,
    names::Name,
    pulled::{Pulled, pulled},
    rate,
    request::Request,
};

/// What memory can be asked for.
enum Asked<'a> {
    Content(WarmReference<'a>),
    Tags,
    Referrers(Digest),
}

/// The answer, if memory has it.
pub(crate) fn answer(request: &Request, route: &Route) -> Option<Result<Response<Body>>> {
    let head = match request.head.method {
        http::Method::GET => false,
        http::Method::HEAD => true,
        _ => return None,
    };
    let reads = &**request.parts.warm.as_ref()?;
    let (name, asked) = match route {
        Route::Manifest(name, Reference::Tag(tag)) => (name, Asked::Content(WarmReference::Tag(tag))),
        Route::Manifest(name, Reference::Digest(digest)) => {
            (name, Asked::Content(WarmReference::Manifest(digest)))
        }
        Route::Blob(name, digest) => (name, Asked::Content(WarmReference::Blob(digest))),
        Route::Tags(name) => (name, Asked::Tags),
        Route::Referrers(name, subject) => (name, Asked::Referrers(*subject)),
        _ => return None,
    };
    let name = Name::resolve(name, request.instance.default).ok()?;
    let grant = match authorise(request, &name, Action::Pull) {
        Ok(grant) => grant,
        Err(refused) => return Some(Err(refused)),
    };
    match asked {
        Asked::Content(reference) => content(request, reads, &name, &grant, reference, head),
        Asked::Tags => tags(request, reads, &name, &grant).map(Ok),
        Asked::Referrers(subject) => referrers(request, reads, &name, &grant, subject).map(Ok),
    }
}

/// Whether the token was issued for this repository. The long way says why not.
fn fits(request: &Request, grant: &Grant, repository: WarmRepository) -> bool {
    let WarmRepository { id, namespace, public } = repository;
    grant.fits(request.instance.id, Some(id), Some(namespace), public)
}

fn content(
    request: &Request,
    reads: &dyn WarmReads,
    name: &Name,
    grant: &Grant,
    reference: WarmReference<'_>,
    head: bool,
) -> Option<Result<Response<Body>>> {
    // What a pusher has seen is held, which is a write.
    if head && grant.also(Action::Push) {
        return None;
    }
    let known = reads.resolve(request.instance.id, &name.path, reference)?;
    if !fits(request, grant, known.repository) || known.content.quarantined {
        return None;
    }
    let is_blob = matches!(reference, WarmReference::Blob(_));
    let kept = request.parts.contents.get(&known.digest);
    let names = kept.as_ref().map_or_else(|| Names::of(&known.digest), |kept| kept.names.clone());
    let unchanged = manifest::is_match(request, &names.etag);
    if !is_blob {
        // What goes the long way is counted there.
        if kept.is_none() && !head && !unchanged {
            return None;
        }
        if let Err(refused) = rate::admit(request, head) {
            return Some(Err(refused));
        }
    }
    if unchanged {
        let cache_control = if is_blob { blob::CACHE_CONTROL } else { manifest::CACHE_CONTROL };
        return Some(Ok(manifest::not_modified(names, cache_control)));
    }
    if is_blob && !head {
        if request.head.headers.contains_key(header::RANGE) {
            return None;
        }
        let object = blob::reference(known.content.object.as_ref()?).ok()?;
        // A store whose keys are at hand does not let anybody wait.
        if let Some(url) = blob::elsewhere(request, &object).now_or_never()? {
            pulled(request, grant, name, Some(known.repository.id), known.digest, Pulled::Blob);
            return Some(Ok(blob::redirect(&url, known.digest)));
        }
    }
    let body = if head { Body::empty() } else { Body::from(kept?.bytes.clone()) };
    if !head {
        let what = match reference {
            WarmReference::Blob(_) => Pulled::Blob,
            WarmReference::Tag(tag) => Pulled::Manifest(tag.as_str()),
            WarmReference::Manifest(_) => Pulled::Manifest(""),
        };
        pulled(request, grant, name, Some(known.repository.id), known.digest, what);
    }
    Some(Ok(if is_blob {
        blob::respond(body, names, known.content.size, None)
    } else {
        manifest::respond(body, names, &known.content)
    }))
}

fn tags(request: &Request, reads: &dyn WarmReads, name: &Name, grant: &Grant) -> Option<Response<Body>> {
    let page = list::tags_page(request).ok()?;
    let repository = reads.repository(request.instance.id, &name.path)?;
    if !fits(request, grant, repository) {
        return None;
    }
    let listed = reads.tags(repository.id, &page)?;
    Some(list::tags_answer(name, &page, &listed))
}

fn referrers(
    request: &Request,
    reads: &dyn WarmReads,
    name: &Name,
    grant: &Grant,
    subject: Digest,
) -> Option<Response<Body>> {
    let page = list::referrers_page(request, subject).ok()?;
    let repository = reads.repository(request.instance.id, &name.path)?;
    if !fits(request, grant, repository) {
        return None;
    }
    let listed = reads.referrers(repository.id, &page)?;
    Some(list::referrers_answer(name, &page, &listed))
}
