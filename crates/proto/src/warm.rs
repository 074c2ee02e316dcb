//! What metadata answers from memory to a gateway in its own process.

use std::{fmt::Debug, sync::Arc};

use berth_model::{InstanceId, NamespaceId, RepositoryId};
use berth_oci::{Digest, RepositoryName, Tag};

use crate::metadata::{Content, ListReferrersResponse, ListTagsResponse};

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

/// A repository that is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WarmRepository {
    /// Its id.
    pub id: RepositoryId,
    /// Its namespace.
    pub namespace: NamespaceId,
    /// Whether everybody may read it.
    pub public: bool,
}

/// What `Resolve` would say of content that is there.
#[derive(Clone, Debug)]
pub struct WarmAnswer {
    /// The repository at the path.
    pub repository: WarmRepository,
    /// The content's digest.
    pub digest: Digest,
    /// The content.
    pub content: Arc<Content>,
}

/// A page of a repository's tags, as `ListTags` knows it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TagsPage {
    /// The tag before its first, or nothing.
    pub last: String,
    /// The most tags of it.
    pub limit: u32,
}

/// A page of a manifest's referrers, as `ListReferrers` knows it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ReferrersPage {
    /// The manifest.
    pub subject: Digest,
    /// Of this type only, if it is not empty.
    pub artifact_type: String,
    /// The referrer before its first.
    pub last: Option<Digest>,
    /// The most referrers of it.
    pub limit: u32,
}

/// Reads without a statement and without a wait. An answer is as new as one of metadata's calls: what was acknowledged
/// before the question is in it. What isn't known here, and all that isn't there, is to be asked by those calls.
pub trait WarmReads: Debug + Send + Sync {
    /// What is at a path.
    fn resolve(
        &self,
        instance: InstanceId,
        path: &RepositoryName,
        reference: WarmReference<'_>,
    ) -> Option<WarmAnswer>;

    /// The repository at a path.
    fn repository(&self, instance: InstanceId, path: &RepositoryName) -> Option<WarmRepository>;

    /// Tags of a repository.
    fn tags(&self, repository: RepositoryId, page: &TagsPage) -> Option<Arc<ListTagsResponse>>;

    /// Referrers of a manifest.
    fn referrers(&self, repository: RepositoryId, page: &ReferrersPage)
    -> Option<Arc<ListReferrersResponse>>;
}
