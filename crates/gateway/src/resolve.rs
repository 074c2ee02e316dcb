//! One question to metadata for every read: what is at this path now. While metadata gives no answer, what it last said
//! about content by digest is repeated (see `recall.rs`).

use berth_model::RepositoryId;
use berth_oci::{Digest, ErrorCode};
use berth_proto::metadata::{ResolveRequest, ResolveResponse, resolve_request};

use crate::{
    authorise::Grant,
    failure::{Failure, Result},
    names::Name,
    recall::Key,
    request::Request,
};

pub(crate) use resolve_request::Reference as Wanted;

/// What is at the path, compared with what the token was issued for.
pub(crate) async fn resolve(
    request: &Request,
    name: &Name,
    grant: &Grant,
    wanted: Wanted,
) -> Result<ResolveResponse> {
    let recall = &request.parts.recall;
    let key = key(request, grant.repository(), &wanted);
    let asked = ResolveRequest {
        instance_id: request.instance.id.to_string(),
        path: name.path.to_string(),
        reference: Some(wanted),
    };
    let resolved = match request.parts.metadata.clone().resolve(asked).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => {
            let failure: Box<Failure> = status.into();
            let no_answer = failure.problem.code == ErrorCode::Unavailable;
            let repeated = key.filter(|_| no_answer).and_then(|key| recall.repeat(&key)).ok_or(failure)?;
            tracing::debug!("metadata gives no answer, so its last one is repeated");
            grant.check(request, &repeated)?;
            return Ok(repeated);
        }
    };
    if let Err(failure) = grant.check(request, &resolved) {
        if let Some(repository) = grant.repository() {
            recall.refused(repository);
        }
        return Err(failure);
    }
    match (&resolved.content, key) {
        (None, Some(key)) => recall.forget(&key),
        (Some(content), Some(key)) if content.quarantined => recall.forget(&key),
        (Some(content), _) => keep(request, &resolved, content),
        (None, None) => {}
    }
    Ok(resolved)
}

/// What a question about a digest is about, if the token carries the repository's id.
fn key(request: &Request, repository: Option<RepositoryId>, wanted: &Wanted) -> Option<Key> {
    let (text, blob) = match wanted {
        Wanted::BlobDigest(text) => (text, true),
        Wanted::ManifestDigest(text) => (text, false),
        Wanted::Tag(_) | Wanted::RepositoryOnly(_) => return None,
    };
    Some(Key { instance: request.instance.id, repository: repository?, digest: text.parse().ok()?, blob })
}

/// An answer for a tag says as much about the manifest's digest.
fn keep(request: &Request, resolved: &ResolveResponse, content: &berth_proto::metadata::Content) {
    if let (Ok(repository), Ok(digest)) = (resolved.repository_id.parse(), content.digest.parse()) {
        let blob = content.object.is_some();
        let key = Key { instance: request.instance.id, repository, digest, blob };
        request.parts.recall.keep(key, resolved);
    }
}

/// Content was deleted through this gateway.
pub(crate) fn deleted(request: &Request, grant: &Grant, digest: Digest, blob: bool) {
    if let Some(repository) = grant.repository() {
        request.parts.recall.forget(&Key { instance: request.instance.id, repository, digest, blob });
    }
}
