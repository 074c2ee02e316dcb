//! What goes over the wire, as the types of the domain.

use berth_blobs::{StagingChange, wire};
use berth_database::TextList;
use berth_model::{NamespaceId, RepositoryId};
use berth_oci::{Algorithm, Digest, DigestError, ErrorCode, Problem, RepositoryName, Tag};
use berth_proto::{metadata as proto, parse};

use crate::{
    repository::Readable,
    resolve::Content,
    upload::{Lease, Upload},
};

pub(super) fn digest(text: &str) -> Result<Digest, Problem> {
    text.parse().map_err(|error: DigestError| Problem::new(ErrorCode::DigestInvalid, error.to_string()))
}

pub(super) fn some_digest(text: &str) -> Result<Option<Digest>, Problem> {
    if text.is_empty() { Ok(None) } else { digest(text).map(Some) }
}

pub(super) fn some_algorithm(text: &str) -> Result<Option<Algorithm>, Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = |error: DigestError| Problem::new(ErrorCode::DigestInvalid, error.to_string());
    text.parse().map(Some).map_err(wrong)
}

pub(super) fn name(text: &str) -> Result<RepositoryName, Problem> {
    text.parse()
        .map_err(|error: berth_oci::NameError| Problem::new(ErrorCode::NameInvalid, error.to_string()))
}

pub(super) fn tag(text: &str) -> Result<Tag, Problem> {
    text.parse().map_err(|error: berth_oci::TagError| Problem::new(ErrorCode::TagInvalid, error.to_string()))
}

pub(super) fn readable(set: Option<proto::ReadableSet>) -> Result<Readable, Problem> {
    granted(set.unwrap_or_default())
}

pub(super) fn granted(set: proto::ReadableSet) -> Result<Readable, Problem> {
    for id in &set.namespace_ids {
        parse::<NamespaceId>("readable.namespace_ids", id)?;
    }
    for id in &set.repository_ids {
        parse::<RepositoryId>("readable.repository_ids", id)?;
    }
    Ok(Readable {
        everything: set.everything,
        namespaces: TextList(set.namespace_ids),
        repositories: TextList(set.repository_ids),
    })
}

/// A position in a list of names, which contain no NUL character, as the database's texts don't.
pub(super) fn position(text: &str) -> &str {
    text.split('\0').next().unwrap_or_default()
}

pub(crate) fn content(content: Content) -> proto::Content {
    let size = content.size;
    proto::Content {
        digest: content.digest.to_string(),
        size,
        media_type: content.media_type,
        object: content.object.map(|object| proto::Object {
            store_id: object.store_id,
            key: object.key,
            size,
            format: i32::try_from(object.format).unwrap_or(i32::MAX),
            sealing: object.sealing.as_ref().map(wire::sealing_to),
        }),
        quarantined: content.quarantined,
    }
}

pub(super) fn upload(upload: &Upload) -> proto::Upload {
    proto::Upload {
        id: upload.id.to_string(),
        offset: upload.offset,
        algorithm: upload.algorithm.map(|algorithm| algorithm.to_string()).unwrap_or_default(),
        staged: upload.staged,
    }
}

pub(super) fn lease(lease: Lease) -> proto::Lease {
    proto::Lease {
        upload_id: lease.upload.to_string(),
        epoch: lease.epoch,
        offset: lease.offset,
        hash_state: lease.hash_state.into(),
        algorithm: lease.algorithm.to_string(),
        algorithm_explicit: lease.algorithm_explicit,
        store_id: lease.store_id,
        object_key: lease.object_key,
        expires_at: lease.expires_at.0,
        committed_digest: lease.committed.map(|digest| digest.to_string()).unwrap_or_default(),
        staging: lease.staging.as_ref().map(wire::staging_to),
        finishing_digest: lease.finishing.map(|digest| digest.to_string()).unwrap_or_default(),
    }
}

pub(super) fn change(
    change: Option<berth_proto::blob_store::StagingChange>,
) -> Result<StagingChange, Problem> {
    Ok(change.map(wire::change_from).transpose()?.unwrap_or_default())
}

/// An id of an upload comes from a URL: what isn't one is an upload that doesn't exist.
pub(super) fn upload_id(text: &str) -> Result<berth_model::UploadId, Problem> {
    text.parse()
        .map_err(|_| Problem::new(ErrorCode::BlobUploadUnknown, "there is no such upload; start a new one"))
}
