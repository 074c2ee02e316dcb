//! Tags. Every move takes the event sequence's next value while it holds the tag's row, so that a tag's events form one
//! chain, whoever else moves it at the same time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use berth_database::{TextList, Transaction, args};
use berth_model::RepositoryId;
use berth_oci::{Digest, ErrorCode, Tag};
use berth_proto::{TagsPage, events::Artifact, metadata::ListTagsResponse};

use crate::{
    Metadata,
    access::Access,
    dissociation,
    error::{Error, Result},
    event::{self, Kind},
    manager::Order,
    repository::{self, Repository},
    store::{self, statements as sql},
};

/// The tag that moves where others may not.
pub(crate) const LATEST: &str = "latest";

/// Locks those of `tags` that exist, ascending; where each points.
pub(crate) async fn lock(
    tx: &mut Transaction,
    repository: &str,
    tags: &BTreeSet<Tag>,
) -> Result<BTreeMap<Tag, Digest>> {
    let mut before = BTreeMap::new();
    if tags.is_empty() {
        return Ok(before);
    }
    let names = TextList(tags.iter().map(ToString::to_string).collect());
    for row in tx.all(&sql::LOCK_TAGS, args![repository, names]).await? {
        let name: String = row.get(0)?;
        if let Some(tag) = tags.iter().find(|tag| tag.as_str() == name) {
            before.insert(tag.clone(), store::digest(&row, 1)?);
        }
    }
    Ok(before)
}

/// Points a tag to a manifest that is stored and locked. `before` is where it points if its row is locked already.
#[expect(clippy::too_many_arguments, reason = "one row's worth of facts, in one place")]
pub(crate) async fn point(
    tx: &mut Transaction,
    metadata: &Metadata,
    access: &Access,
    repository: &Repository,
    name: &Tag,
    before: Option<&Digest>,
    digest: &Digest,
    mut artifact: Artifact,
) -> Result<()> {
    let now = tx.now();
    if before.is_none() && !claim(tx, &repository.id, name, digest).await? {
        return Err(tx.again().into());
    }
    let previous = before.copied();
    if previous.as_ref() == Some(digest) {
        return Ok(());
    }
    if previous.is_some() && repository.immutable_tags && name.as_str() != LATEST {
        let message = format!(
            "the tag {name} is there, and this repository lets no tag move but {LATEST}; use a new tag"
        );
        return Err(Error::new(ErrorCode::TagImmutable, message));
    }
    if previous.is_some() && access.keeps_tags {
        let message =
            format!("the tag {name} is there, and moving it needs the right to overwrite; use a new tag");
        return Err(Error::new(ErrorCode::Denied, message));
    }
    let sequence = tx.sequence(event::SEQUENCE).await?;
    let who = access.principal.as_str();
    let args = args![repository.id.as_str(), name.as_str(), digest.to_bytes(), sequence, now, who];
    tx.execute(&sql::MOVE_TAG, args).await?;
    artifact.previous_digest = previous.map(|previous| previous.to_string()).unwrap_or_default();
    metadata.journal.write(tx, Kind::Tagged, access, sequence, artifact).await
}

/// Makes the row of a tag that was absent, so that it is this transaction's. False when another made it meanwhile: its
/// row then comes before locks that are held already, so the unit starts again and finds it.
async fn claim(tx: &mut Transaction, repository: &str, name: &Tag, digest: &Digest) -> Result<bool> {
    let now = tx.now();
    let args = args![repository, name.as_str(), digest.to_bytes(), now];
    Ok(tx.execute(&sql::ADD_TAG, args).await? == 1)
}

/// Deletes a tag whose row is locked, with its event.
pub(crate) async fn drop(
    tx: &mut Transaction,
    metadata: &Metadata,
    access: &Access,
    repository: &str,
    artifact: Artifact,
) -> Result<()> {
    let sequence = tx.sequence(event::SEQUENCE).await?;
    tx.execute(&sql::DROP_TAG, args![repository, artifact.tag.as_str()]).await?;
    metadata.journal.write(tx, Kind::Deleted, access, sequence, artifact).await
}

/// What there is not.
pub(crate) fn no_tag(name: &Tag) -> Error {
    Error::new(ErrorCode::ManifestUnknown, format!("there is no tag {name} in this repository"))
}

/// `order` is that of somebody who deletes it by hand.
async fn delete(
    tx: &mut Transaction,
    metadata: &Metadata,
    access: &Access,
    name: &Tag,
    order: Option<&Order<()>>,
) -> Result<()> {
    let repository = repository::existing(tx, access).await?;
    let row = tx.optional(&sql::LOCK_TAG, args![repository.id.as_str(), name.as_str()]).await?;
    let row = row.ok_or_else(|| no_tag(name))?;
    if let Some(order) = order {
        order.check_version(row.get(1)?)?;
    }
    let digest = store::digest(&row, 0)?;
    dissociation::review(tx, metadata, &repository.id, &BTreeSet::from([digest]), None).await?;
    let mut artifact = event::artifact(access, &repository.id, &digest);
    artifact.tag = name.to_string();
    drop(tx, metadata, access, &repository.id, artifact).await?;
    berth_service::crash::point("delete_tag.before_commit");
    Ok(())
}

impl Metadata {
    /// Deletes a tag; the manifest stays, in review. `order` is that of somebody who does it by hand.
    pub(crate) async fn delete_tag(&self, access: Access, name: Tag, order: Option<Order<()>>) -> Result<()> {
        let input = Arc::new((self.clone(), access, name, order));
        self.database
            .write("delete_tag", move |tx| {
                let input = Arc::clone(&input);
                Box::pin(async move { delete(tx, &input.0, &input.1, &input.2, input.3.as_ref()).await })
            })
            .await?;
        berth_service::crash::point("delete_tag.committed");
        self.nudge.nudge();
        Ok(())
    }

    /// A page of tags in byte order.
    pub(crate) async fn list_tags(
        &self,
        repository: RepositoryId,
        page: TagsPage,
    ) -> Result<ListTagsResponse> {
        let since = self.warm.as_ref().map(|warm| warm.since());
        let args = args![repository.to_string(), page.last.as_str(), i64::from(page.limit) + 1];
        let rows = self.database.read_all(&sql::LIST_TAGS, args).await?;
        let (tags, more) = repository::page(&rows, page.limit)?;
        let listed = ListTagsResponse { tags, more };
        if let (Some(warm), Some(since)) = (&self.warm, since) {
            warm.keep_tags(since, repository, page, &listed);
        }
        Ok(listed)
    }
}
