//! Manifests: pushed with everything they hold or not at all, never deleted under what holds them.

use std::{collections::BTreeSet, sync::Arc};

use berth_database::{BytesList, Row, Transaction, args};
use berth_oci::{Digest, ErrorCode, ManifestError, ManifestView, MediaType, Problem, Tag};
use berth_proto::events::Artifact;
use bytes::Bytes;

use crate::{
    Metadata,
    access::Access,
    dissociation::{self, Dissociated},
    error::{Error, Result},
    event::{self, Kind},
    repository::{self, Maker},
    store::{self, statements as sql},
    tag, terms,
};

/// A manifest to store, read and checked before the transaction.
#[derive(Debug)]
struct Put {
    metadata: Metadata,
    access: Access,
    maker: Maker,
    digest: Digest,
    view: ManifestView,
    annotations: String,
    payload: Bytes,
    tags: BTreeSet<Tag>,
}

/// The blobs and children that a manifest names and its repository doesn't have.
fn missing(what: &[Digest]) -> Error {
    let shown: Vec<String> = what.iter().take(100).map(Digest::to_string).collect();
    let message = format!(
        "the repository lacks content that the manifest names, {} in all, first {}; push that first",
        what.len(),
        shown.first().map_or("", String::as_str)
    );
    Problem::new(ErrorCode::ManifestBlobUnknown, message)
        .with_detail(serde_json::json!({ "digests": shown }))
        .into()
}

async fn put(tx: &mut Transaction, input: &Put) -> Result<()> {
    let Put { metadata, access, digest, view, .. } = input;
    let repository = repository::find_or_make(tx, access, &input.maker).await?;
    let now = tx.now();
    if repository.provisional
        && tx.execute(&sql::CONFIRM_REPOSITORY, args![repository.id.as_str(), now]).await? == 1
    {
        terms::add(tx, &repository.id, access.path.as_str()).await?;
    }
    let before = tag::lock(tx, &repository.id, &input.tags).await?;
    let mut reviewed: BTreeSet<Digest> = before.values().copied().collect();
    reviewed.insert(*digest);
    dissociation::review(tx, metadata, &repository.id, &reviewed, Some(digest)).await?;
    let held = hold_blobs(tx, metadata, &repository.id, view).await?;
    let content_size = check_children(tx, &repository.id, view, &held.missing)
        .await?
        .map(|size| size.saturating_add(held.size));
    let key = || args![repository.id.as_str(), digest.to_bytes()];
    let args = args![
        repository.id.as_str(),
        digest.to_bytes(),
        store::stored_size(input.payload.len() as u64)?,
        view.media_type.as_str(),
        view.artifact_type.as_deref(),
        view.subject.as_ref().map(Digest::to_bytes),
        now,
        input.annotations.as_str(),
        &input.payload[..],
        access.principal.as_str(),
        content_size,
    ];
    let is_new = tx.execute(&sql::ADD_MANIFEST, args).await? == 1;
    // A manifest that is pushed again may find a foreign layer that wasn't there before.
    if is_new || !view.foreign_blobs.is_empty() {
        let mut args = key();
        args.push(held.digests.into());
        tx.execute(&sql::ADD_MANIFEST_BLOBS, args).await?;
    }
    if is_new {
        let mut args = key();
        args.push(store::digests(&view.children).into());
        tx.execute(&sql::ADD_MANIFEST_CHILDREN, args).await?;
        let sequence = tx.sequence(event::SEQUENCE).await?;
        metadata.journal.write(tx, Kind::Pushed, access, sequence, input.artifact(&repository.id)).await?;
    } else {
        let mut args = key();
        args.push(view.media_type.as_str().into());
        args.push(view.artifact_type.as_deref().into());
        args.push(content_size.into());
        tx.execute(&sql::UPDATE_MANIFEST, args).await?;
    }
    berth_service::crash::point("put_manifest.added");
    for name in &input.tags {
        let mut artifact = input.artifact(&repository.id);
        artifact.tag = name.to_string();
        tag::point(tx, metadata, access, &repository, name, before.get(name), digest, artifact).await?;
    }
    berth_service::crash::point("put_manifest.before_commit");
    Ok(())
}

impl Put {
    fn artifact(&self, repository: &str) -> Artifact {
        let mut artifact = event::artifact(&self.access, repository, &self.digest);
        artifact.media_type = self.view.media_type.to_string();
        artifact.size = self.payload.len() as u64;
        artifact.artifact_type = self.view.artifact_type.clone().unwrap_or_default();
        artifact.subject = self.view.subject.map(|subject| subject.to_string()).unwrap_or_default();
        artifact
    }
}

/// The links that a manifest will hold, locked, and what it needs besides.
struct HeldBlobs {
    digests: BytesList,
    missing: Vec<Digest>,
    /// Bytes of those that are there.
    size: i64,
}

async fn hold_blobs(
    tx: &mut Transaction,
    metadata: &Metadata,
    repository: &str,
    view: &ManifestView,
) -> Result<HeldBlobs> {
    let named: BTreeSet<Digest> = view.blobs.union(&view.foreign_blobs).copied().collect();
    if named.is_empty() {
        return Ok(HeldBlobs { digests: BytesList::default(), missing: Vec::new(), size: 0 });
    }
    let floor = tx.now().plus(metadata.config.review_floor());
    let hold = || args![repository, store::digests(&named), floor];
    if !tx.all(&sql::LOCK_LINK_REVIEWS, hold()).await?.is_empty() {
        tx.execute(&sql::HOLD_LINKS, hold()).await?;
    }
    let mut linked = BTreeSet::new();
    let mut size = 0_i64;
    for row in tx.all(&sql::LOCK_LINKS, args![repository, store::digests(&named)]).await? {
        linked.insert(store::digest(&row, 0)?);
        size = size.saturating_add(row.get(1)?);
    }
    let missing = view.blobs.difference(&linked).copied().collect();
    Ok(HeldBlobs { digests: store::digests(&linked), missing, size })
}

/// Locks the children, and says how many bytes they hold, if that is known of each; an error names everything that the
/// repository lacks, blobs included.
async fn check_children(
    tx: &mut Transaction,
    repository: &str,
    view: &ManifestView,
    missing_blobs: &[Digest],
) -> Result<Option<i64>> {
    let mut lacking = missing_blobs.to_vec();
    let mut size = Some(0_i64);
    if !view.children.is_empty() {
        let mut found = BTreeSet::new();
        for row in tx.all(&sql::LOCK_MANIFESTS, args![repository, store::digests(&view.children)]).await? {
            found.insert(store::digest(&row, 0)?);
            let held: Option<i64> = row.get(1)?;
            size = size.zip(held).map(|(sum, held)| sum.saturating_add(held));
        }
        lacking.extend(view.children.difference(&found).copied());
    }
    if lacking.is_empty() { Ok(size) } else { Err(missing(&lacking)) }
}

async fn delete(tx: &mut Transaction, metadata: &Metadata, access: &Access, digest: &Digest) -> Result<()> {
    let repository = repository::existing(tx, access).await?;
    let key = || args![repository.id.as_str(), digest.to_bytes()];
    // Everything in the lock order: tags, manifest reviews, link reviews, at last the manifest itself.
    let mut tags = BTreeSet::new();
    for row in tx.all(&sql::LOCK_TAGS_OF, key()).await? {
        tags.insert(row.get::<String>(0)?);
    }
    let due = tx.now().plus(metadata.config.review_after());
    let freed = Dissociated::of(tx, &repository.id, digest).await?;
    freed.queue(tx, &repository.id, due).await?;
    let Some(row) = tx.optional(&sql::LOCK_MANIFEST, key()).await? else {
        return Err(Error::new(ErrorCode::ManifestUnknown, "there is no such manifest in this repository"));
    };
    if let Some(row) = tx.optional(&sql::MANIFEST_PARENT, key()).await? {
        let parent = store::digest(&row, 0)?;
        let message = format!("the index {parent} holds this manifest; delete that index first");
        let problem = Problem::new(ErrorCode::Held, message);
        return Err(problem.with_detail(serde_json::json!({ "manifest": parent })).into());
    }
    let artifact = described(access, &repository.id, digest, &row)?;
    // With the manifest's row locked no further tag can come to point to it; one that came before is not locked in order.
    for row in tx.all(&sql::TAGS_OF, key()).await? {
        if !tags.contains(&row.get::<String>(0)?) {
            return Err(tx.again().into());
        }
    }
    // Nor can what it holds change; before, another may have pushed it or what lives with it.
    if !freed.covers(&Dissociated::of(tx, &repository.id, digest).await?) {
        return Err(tx.again().into());
    }
    for name in tags {
        let of_tag = Artifact { tag: name, ..artifact.clone() };
        tag::drop(tx, metadata, access, &repository.id, of_tag).await?;
    }
    remove(tx, metadata, access, &repository.id, digest, artifact).await
}

/// What an event says of a manifest that is there; `row` is what the lock on it gave.
pub(crate) fn described(access: &Access, repository: &str, digest: &Digest, row: &Row) -> Result<Artifact> {
    let mut artifact = event::artifact(access, repository, digest);
    artifact.media_type = row.get(0)?;
    artifact.size = store::size(row, 1)?;
    artifact.artifact_type = row.get::<Option<String>>(2)?.unwrap_or_default();
    artifact.subject = store::optional_digest(row, 3)?.map(|subject| subject.to_string()).unwrap_or_default();
    Ok(artifact)
}

/// Deletes a manifest that is locked and that nothing points to any more, with its event. What it held is in review.
pub(crate) async fn remove(
    tx: &mut Transaction,
    metadata: &Metadata,
    access: &Access,
    repository: &str,
    digest: &Digest,
    artifact: Artifact,
) -> Result<()> {
    let key = || args![repository, digest.to_bytes()];
    tx.execute(&sql::DROP_MANIFEST_BLOBS, key()).await?;
    tx.execute(&sql::DROP_MANIFEST_CHILDREN, key()).await?;
    tx.execute(&sql::DROP_MANIFEST, key()).await?;
    // Its own review may stay: whoever comes to it finds nothing to do.
    let sequence = tx.sequence(event::SEQUENCE).await?;
    metadata.journal.write(tx, Kind::Deleted, access, sequence, artifact).await?;
    berth_service::crash::point("delete_manifest.before_commit");
    Ok(())
}

fn invalid(error: &ManifestError) -> Problem {
    let code = match error {
        ManifestError::TooLarge => ErrorCode::TooLarge,
        _ => ErrorCode::ManifestInvalid,
    };
    Problem::new(code, error.to_string())
}

/// What a push of a manifest came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Pushed {
    pub(crate) subject: Option<Digest>,
    pub(crate) tags: Vec<String>,
}

impl Metadata {
    /// Stores a manifest and points tags to it.
    pub(crate) async fn put_manifest(
        &self,
        access: Access,
        digest: Digest,
        media_type: &MediaType,
        payload: Bytes,
        tags: BTreeSet<Tag>,
    ) -> Result<Pushed> {
        if Digest::of(digest.algorithm(), &payload) != digest {
            return Err(Error::new(
                ErrorCode::DigestInvalid,
                "the digest is not that of the manifest's bytes",
            ));
        }
        let view = ManifestView::parse(media_type, &payload).map_err(|error| invalid(&error))?;
        if view.artifact_type.as_deref().is_some_and(|kind| kind.contains('\0')) {
            return Err(Error::new(ErrorCode::ManifestInvalid, "artifactType can't contain a NUL character"));
        }
        let annotations = serde_json::to_string(&view.annotations)
            .map_err(|error| Problem::new(ErrorCode::ManifestInvalid, error.to_string()))?;
        let pushed = Pushed { subject: view.subject, tags: tags.iter().map(ToString::to_string).collect() };
        let maker = self.maker();
        let input =
            Arc::new(Put { metadata: self.clone(), access, maker, digest, view, annotations, payload, tags });
        self.database
            .write("put_manifest", move |tx| {
                let input = Arc::clone(&input);
                Box::pin(async move { put(tx, &input).await })
            })
            .await?;
        berth_service::crash::point("put_manifest.committed");
        self.nudge.nudge();
        Ok(pushed)
    }

    /// Deletes a manifest with its tags, unless an index holds it. What lived with it goes into review.
    pub(crate) async fn delete_manifest(&self, access: Access, digest: Digest) -> Result<()> {
        let input = Arc::new((self.clone(), access));
        self.database
            .write("delete_manifest", move |tx| {
                let input = Arc::clone(&input);
                Box::pin(async move { delete(tx, &input.0, &input.1, &digest).await })
            })
            .await?;
        berth_service::crash::point("delete_manifest.committed");
        self.nudge.nudge();
        Ok(())
    }
}
