//! What metadata answers from memory to a gateway in its own process.

use std::{fmt::Debug, sync::Arc};

use berth_model::{InstanceId, NamespaceId, RepositoryId};
use berth_oci::{Digest, RepositoryName, Tag};

use crate::metadata::Content;

/// Content that is asked for at a path.
#[derive(Clone, Copy, Debug)]
pub enum WarmReference<'a> {
    /// The manifest that a tag points to.
    Tag(&'a Tag),
    /// A manifest.
    Manifest(&'a Digest),
    /// A blob.
    Blob(&'a Digest),
}

/// What `Resolve` would say of content that is there.
#[derive(Clone, Debug)]
pub struct WarmAnswer {
    /// The repository at the path.
    pub repository: RepositoryId,
    /// Its namespace.
    pub namespace: NamespaceId,
    /// Whether everybody may read it.
    pub public: bool,
    /// The content's digest.
    pub digest: Digest,
    /// The content.
    pub content: Arc<Content>,
}

/// Reads without a statement and without a wait. An answer is as new as one of `Resolve`: what was acknowledged before
/// the question is in it.
pub trait WarmReads: Debug + Send + Sync {
    /// What is at a path, if it is known here. Otherwise, and for all that isn't there, ask `Resolve`.
    fn resolve(
        &self,
        instance: InstanceId,
        path: &RepositoryName,
        reference: WarmReference<'_>,
    ) -> Option<WarmAnswer>;
}
