//! Blobs of a repository: mounting and deleting links, and keeping what a pusher has just seen.

use std::sync::Arc;

use berth_database::{Engine, Statement, Transaction, args};
use berth_model::{InstanceId, RepositoryId};
use berth_oci::{Digest, ErrorCode};

use crate::{
    Metadata,
    access::Access,
    error::{Error, Result},
    event::Kind,
    quarantine,
    repository::{self, Maker, Readable},
    store::{self, statements as sql},
    upload::queue_reviews,
};

#[derive(Debug)]
struct Mount {
    metadata: Metadata,
    access: Access,
    maker: Maker,
    digest: Digest,
    readable: Readable,
}

fn source(access: &Access, digest: &Digest, readable: &Readable) -> Vec<berth_database::Arg> {
    args![
        access.instance.to_string(),
        digest.to_bytes(),
        readable.everything,
        readable.repositories.clone(),
        readable.namespaces.clone(),
    ]
}

async fn mount(tx: &mut Transaction, input: &Mount) -> Result<bool> {
    let Mount { access, digest, readable, .. } = input;
    if tx.optional(&sql::FIND_READABLE_LINK, source(access, digest, readable)).await?.is_none() {
        return Ok(false);
    }
    // What is damaged is uploaded, which mends it.
    if quarantine::holds(tx, &access.instance.to_string(), digest).await? {
        return Ok(false);
    }
    let repository = repository::find_or_make(tx, access, &input.maker).await?;
    let instance = access.instance.to_string();
    let now = tx.now();
    let review_after = now.plus(input.metadata.config.review_after());
    queue_reviews(tx, &instance, &repository.id, digest, review_after).await?;
    // The foreign key takes the blob's row; if the last link went meanwhile, the unit runs again and finds nothing.
    tx.execute(&sql::ADD_LINK, args![repository.id.as_str(), digest.to_bytes(), instance, now]).await?;
    input.metadata.journal.write_blob(tx, Kind::BlobMounted, access, &repository.id, digest, 0).await?;
    berth_service::crash::point("mount_blob.before_commit");
    Ok(true)
}

async fn delete(tx: &mut Transaction, metadata: &Metadata, access: &Access, digest: &Digest) -> Result<()> {
    let repository = repository::existing(tx, access).await?;
    let review_after = tx.now().plus(metadata.config.review_after());
    let instance = access.instance.to_string();
    let key = || args![repository.id.as_str(), digest.to_bytes()];
    tx.execute(&sql::DROP_LINK_REVIEW, key()).await?;
    tx.execute(&sql::REVIEW_BLOB, args![instance, digest.to_bytes(), review_after]).await?;
    if tx.optional(&sql::LOCK_LINK, key()).await?.is_none() {
        return Err(Error::new(ErrorCode::BlobUnknown, "there is no such blob in this repository"));
    }
    if let Some(row) = tx.optional(&sql::BLOB_HOLDER, key()).await? {
        let holder = store::digest(&row, 0)?;
        let problem = berth_oci::Problem::new(
            ErrorCode::Held,
            format!("the manifest {holder} needs this blob; delete that manifest first"),
        );
        return Err(problem.with_detail(serde_json::json!({ "manifest": holder })).into());
    }
    tx.execute(&sql::DROP_LINK, key()).await?;
    metadata.journal.write_blob(tx, Kind::BlobDeleted, access, &repository.id, digest, 0).await?;
    berth_service::crash::point("delete_blob.before_commit");
    Ok(())
}

/// Whether a repository has a manifest, or a link.
fn content(manifest: bool) -> &'static Statement {
    if manifest { &sql::MANIFEST } else { &sql::LINK }
}

fn gone(manifest: bool) -> Error {
    if manifest {
        Error::new(ErrorCode::ManifestUnknown, "there is no such manifest in this repository")
    } else {
        Error::new(ErrorCode::BlobUnknown, "there is no such blob in this repository")
    }
}

impl Metadata {
    /// Links a blob that the caller may read anywhere in the instance. False for "not there" and "not yours" alike.
    pub(crate) async fn mount_blob(
        &self,
        access: Access,
        digest: Digest,
        readable: Readable,
    ) -> Result<bool> {
        // Most tries find nothing; those don't wait for a writer.
        let args = source(&access, &digest, &readable);
        if self.database.read_optional(&sql::FIND_READABLE_LINK, args).await?.is_none() {
            return Ok(false);
        }
        let input = Arc::new(Mount { metadata: self.clone(), maker: self.maker(), access, digest, readable });
        let mounted = self
            .database
            .write("mount_blob", move |tx| {
                let input = Arc::clone(&input);
                Box::pin(async move { mount(tx, &input).await })
            })
            .await;
        berth_service::crash::point("mount_blob.committed");
        self.nudge.nudge();
        mounted
    }

    /// Drops a link that no manifest of the repository holds.
    pub(crate) async fn delete_blob(&self, access: Access, digest: Digest) -> Result<()> {
        let input = Arc::new((self.clone(), access));
        self.database
            .write("delete_blob", move |tx| {
                let input = Arc::clone(&input);
                Box::pin(async move { delete(tx, &input.0, &input.1, &digest).await })
            })
            .await?;
        berth_service::crash::point("delete_blob.committed");
        self.nudge.nudge();
        Ok(())
    }

    /// Puts off the reviews of what a pusher has just seen, where they are due before the floor. Looks again after that:
    /// a review that was under way may have ended with its collection, and then the pusher must hear so.
    pub(crate) async fn hold_content(
        &self,
        instance: InstanceId,
        repository: RepositoryId,
        digest: Digest,
        manifest: bool,
    ) -> Result<()> {
        let floor = self.config.review_floor();
        let (instance, repository) = (instance.to_string(), repository.to_string());
        if self.database.engine() == Engine::Sqlite {
            // Usually there is nothing to put off; then the writer is not bothered.
            let until = self.clock.now().plus(floor);
            let by_repository = || args![repository.as_str(), digest.to_bytes()];
            let until_by_repository = || args![repository.as_str(), digest.to_bytes(), until];
            let sooner = if manifest {
                self.database
                    .read_optional(&sql::MANIFEST_REVIEW_SOONER, until_by_repository())
                    .await?
                    .is_some()
            } else {
                let by_instance = args![instance.as_str(), digest.to_bytes(), until];
                self.database.read_optional(&sql::LINK_REVIEW_SOONER, until_by_repository()).await?.is_some()
                    || self.database.read_optional(&sql::BLOB_REVIEW_SOONER, by_instance).await?.is_some()
            };
            if !sooner {
                let found = self.database.read_optional(content(manifest), by_repository()).await?;
                return found.map(|_| ()).ok_or_else(|| gone(manifest));
            }
        }
        self.database
            .write("hold_content", move |tx| {
                let (instance, repository) = (instance.clone(), repository.clone());
                Box::pin(async move {
                    let until = tx.now().plus(floor);
                    if manifest {
                        let args = args![repository.as_str(), digest.to_bytes(), until];
                        tx.execute(&sql::HOLD_MANIFEST, args).await?;
                    } else {
                        let args = args![repository.as_str(), digest.to_bytes(), until];
                        tx.execute(&sql::HOLD_LINK, args).await?;
                        tx.execute(&sql::HOLD_BLOB, args![instance, digest.to_bytes(), until]).await?;
                    }
                    let found = tx.optional(content(manifest), args![repository, digest.to_bytes()]).await?;
                    found.map(|_| ()).ok_or_else(|| gone(manifest))
                })
            })
            .await
    }
}
