//! What a manifest lets go of when it is deleted, by a client or by collection, and manifests that may be let go of.

use std::collections::BTreeSet;

use berth_database::{Transaction, args};
use berth_oci::Digest;
use berth_service::Timestamp;

use crate::{
    Metadata,
    error::Result,
    store::{self, collect_statements, statements as sql},
};

/// The manifests that lived with a manifest, and the blobs that it held.
#[derive(Clone, Debug)]
pub(crate) struct Dissociated {
    /// Its children, and the referrers whose subject it is.
    pub(crate) dependants: BTreeSet<Digest>,
    pub(crate) blobs: BTreeSet<Digest>,
}

impl Dissociated {
    /// What a manifest holds now.
    pub(crate) async fn of(tx: &mut Transaction, repository: &str, manifest: &Digest) -> Result<Self> {
        let key = || args![repository, manifest.to_bytes()];
        let mut dependants = BTreeSet::new();
        for row in tx.all(&sql::MANIFEST_DEPENDANTS, key()).await? {
            dependants.insert(store::digest(&row, 0)?);
        }
        let mut blobs = BTreeSet::new();
        for row in tx.all(&sql::MANIFEST_BLOBS, key()).await? {
            blobs.insert(store::digest(&row, 0)?);
        }
        Ok(Self { dependants, blobs })
    }

    /// Whether whatever `later` names was here already.
    pub(crate) fn covers(&self, later: &Self) -> bool {
        later.dependants.is_subset(&self.dependants) && later.blobs.is_subset(&self.blobs)
    }

    /// Queues the reviews, in the lock order; before the manifest itself is locked.
    pub(crate) async fn queue(&self, tx: &mut Transaction, repository: &str, due: Timestamp) -> Result<()> {
        if !self.dependants.is_empty() {
            let args = args![repository, store::digests(&self.dependants), due];
            tx.execute(&collect_statements::RELEASE_MANIFESTS, args).await?;
        }
        if !self.blobs.is_empty() {
            let args = args![repository, store::digests(&self.blobs), due];
            tx.execute(&sql::REVIEW_LINKS, args).await?;
        }
        Ok(())
    }
}

/// Queues manifests for review. `pushed` is one that a client wants to stay by itself, whatever holder it once had.
pub(crate) async fn review(
    tx: &mut Transaction,
    metadata: &Metadata,
    repository: &str,
    digests: &BTreeSet<Digest>,
    pushed: Option<&Digest>,
) -> Result<()> {
    if !digests.is_empty() {
        let review_after = tx.now().plus(metadata.config.review_after());
        let pushed = pushed.map(Digest::to_bytes).unwrap_or_default();
        let args = args![repository, store::digests(digests), review_after, pushed];
        tx.execute(&sql::REVIEW_MANIFESTS, args).await?;
    }
    Ok(())
}
