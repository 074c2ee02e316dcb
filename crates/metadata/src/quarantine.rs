//! Blobs whose stored bytes were found damaged. They are not served and not mounted; a push of the same digest brings
//! bytes that are whole, and takes the place of the object. Only a gateway that has read the object twice says so, and
//! the scrubber, which finds it whole after all, takes it back.

use std::sync::Arc;

use berth_database::{Transaction, args};
use berth_model::InstanceId;
use berth_oci::Digest;

use crate::{Metadata, error::Result, store::statements as sql, upload::NewObject};

/// Whether the blob of `digest` is in quarantine.
pub(crate) async fn holds(tx: &mut Transaction, instance: &str, digest: &Digest) -> Result<bool> {
    Ok(tx.optional(&sql::IN_QUARANTINE, args![instance, digest.to_bytes()]).await?.is_some())
}

/// Puts a new object in the place of a damaged one; false when the blob is not in quarantine. The damaged object goes
/// after the grace, like any that no row names.
pub(crate) async fn replace(
    tx: &mut Transaction,
    metadata: &Metadata,
    instance: &str,
    digest: &Digest,
    object: &NewObject<'_>,
) -> Result<bool> {
    let key = args![instance, digest.to_bytes()];
    let Some(row) = tx.optional(&sql::LOCK_QUARANTINED, key).await? else { return Ok(false) };
    let (old_store, old_key, size): (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let mut args = args![instance, digest.to_bytes(), object.store_id, object.key];
    args.extend(object.laid_down());
    tx.execute(&sql::REPLACE_OBJECT, args).await?;
    let grace = tx.now().plus(metadata.config.object_grace());
    tx.execute(&sql::ADD_OBJECT_DELETE, args![old_store, old_key.as_str(), grace, size]).await?;
    tracing::info!(damaged = old_key, object = object.key, "a damaged blob was pushed again");
    Ok(true)
}

impl Metadata {
    /// Takes a blob out of service, if `object_key` is still its object, sealed by `key_id` if that is not empty. False when it is not, or was taken out before.
    pub(crate) async fn quarantine(
        &self,
        instance: InstanceId,
        digest: Digest,
        object_key: String,
        damage: String,
        key_id: String,
    ) -> Result<bool> {
        let named = Arc::new((instance.to_string(), digest.to_bytes(), object_key, key_id));
        let row = Arc::clone(&named);
        let done = self.database.write("quarantine", move |tx| {
            let row = Arc::clone(&row);
            Box::pin(async move {
                let (instance, digest, key, key_id) = &*row;
                let now = tx.now();
                let args = args![instance.as_str(), digest.as_slice(), key.as_str(), now, key_id.as_str()];
                Ok::<_, crate::Error>(tx.execute(&sql::QUARANTINE, args).await? == 1)
            })
        });
        let done = done.await?;
        if done {
            self.quarantined.inc();
            tracing::error!(damage, key = named.2, "a blob is damaged and no longer served; push it again");
        }
        Ok(done)
    }

    /// The scrubber has found it whole.
    pub(crate) async fn lift_quarantine(
        &self,
        instance: &str,
        digest: Digest,
        object_key: &str,
    ) -> Result<()> {
        let row = Arc::new((instance.to_owned(), digest.to_bytes(), object_key.to_owned()));
        let named = Arc::clone(&row);
        let lifted = self.database.write("lift_quarantine", move |tx| {
            let row = Arc::clone(&row);
            Box::pin(async move {
                let (instance, digest, key) = &*row;
                let args = args![instance.as_str(), digest.as_slice(), key.as_str()];
                Ok::<_, crate::Error>(tx.execute(&sql::LIFT_QUARANTINE, args).await? == 1)
            })
        });
        if lifted.await? {
            tracing::warn!(key = named.2, "a blob in quarantine was found whole, and is served again");
        }
        Ok(())
    }
}
