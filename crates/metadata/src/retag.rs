//! Tags by hand: pointed to a manifest that is there, as a push would point them.

use std::{collections::BTreeSet, sync::Arc};

use berth_database::{Transaction, args};
use berth_oci::{Digest, ErrorCode, Tag};
use berth_proto::metadata as proto;

use crate::{
    Metadata,
    access::Access,
    contents, dissociation,
    error::{Error, Result},
    manager::Order,
    manifest, repository,
    store::{self, content_statements, statements as sql},
    tag,
};

/// Which tag is to point where.
#[derive(Clone, Debug)]
pub(crate) struct Retag {
    pub(crate) tag: Tag,
    pub(crate) digest: Digest,
}

async fn put(
    tx: &mut Transaction,
    metadata: &Metadata,
    access: &Access,
    order: &Order<Retag>,
) -> Result<proto::TagEntry> {
    if let Some(tagged) = order.replay(tx).await? {
        return Ok(tagged);
    }
    let Retag { tag: name, digest } = &order.change;
    let repository = repository::existing(tx, access).await?;
    let key = || args![repository.id.as_str(), name.as_str()];
    let (before, version) = match tx.optional(&sql::LOCK_TAG, key()).await? {
        Some(row) => (Some(store::digest(&row, 0)?), row.get(1)?),
        None => (None, 0),
    };
    order.check_version(version)?;
    let mut reviewed: BTreeSet<Digest> = before.into_iter().collect();
    reviewed.insert(*digest);
    dissociation::review(tx, metadata, &repository.id, &reviewed, Some(digest)).await?;
    let of_manifest = args![repository.id.as_str(), digest.to_bytes()];
    let Some(row) = tx.optional(&content_statements::MANIFEST_TO_TAG, of_manifest).await? else {
        return Err(Error::new(ErrorCode::ManifestUnknown, "there is no such manifest in this repository"));
    };
    let mut artifact = manifest::described(access, &repository.id, digest, &row)?;
    artifact.tag = name.to_string();
    tag::point(tx, metadata, access, &repository, name, before.as_ref(), digest, artifact).await?;
    let row = tx.one(&content_statements::TAG, key()).await?;
    let tagged = contents::tag_entry(&row, repository.immutable_tags)?;
    order.record(tx, &tagged).await?;
    Ok(tagged)
}

impl Metadata {
    /// Makes a tag or moves it.
    pub(crate) async fn put_tag(&self, access: Access, order: Order<Retag>) -> Result<proto::TagEntry> {
        let input = Arc::new((self.clone(), access, order));
        let tagged = self
            .database
            .write("put_tag", move |tx| {
                let input = Arc::clone(&input);
                Box::pin(async move { put(tx, &input.0, &input.1, &input.2).await })
            })
            .await?;
        self.nudge.nudge();
        Ok(tagged)
    }
}
