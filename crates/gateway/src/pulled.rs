//! Telling the audit that content goes out, or that its reader was sent to where it is.

use berth_audit::Seen;
use berth_model::{AuditKind, RepositoryId};
use berth_oci::Digest;

use crate::{authorise::Grant, heard::seen_by, names::Name, request::Request};

/// What is read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pulled<'a> {
    /// A manifest, by a tag; empty: by its digest.
    Manifest(&'a str),
    /// A blob.
    Blob,
    /// A part of one. Parts are told apart, so that they can't pass for pulls, nor pass unseen.
    Part,
}

/// Tells it.
pub(crate) fn pulled(
    request: &Request,
    grant: &Grant,
    name: &Name,
    repository: Option<RepositoryId>,
    digest: Digest,
    what: Pulled<'_>,
) {
    let (kind, tag, subject) = match what {
        Pulled::Manifest(tag) => (AuditKind::ArtifactPulled, tag, ("", "")),
        Pulled::Blob => (AuditKind::BlobPulled, "", ("", "")),
        Pulled::Part => (AuditKind::BlobPulled, "", ("GET", "part")),
    };
    request.saw(&Seen {
        subject,
        repository: name.path.as_str(),
        repository_id: repository,
        digest: Some(digest),
        tag,
        ..seen_by(grant.token(), kind)
    });
}
