//! Reviews of blobs: what no repository of the instance links.

use std::sync::Arc;

use berth_database::{Transaction, args};

use super::{Seen, Verdict, is_deleted};
use crate::{
    Metadata,
    error::Result,
    store::{collect_statements as sql, statements},
};

async fn review(tx: &mut Transaction, metadata: &Metadata, seen: &Seen) -> Result<Option<Verdict>> {
    let now = tx.now();
    let Some(row) = tx.optional(&sql::NEXT_BLOB, args![now]).await? else { return Ok(None) };
    let instance: String = row.get(0)?;
    let digest: Vec<u8> = row.get(1)?;
    let key = || args![instance.as_str(), digest.as_slice()];
    seen.note(key(), row.get(2)?);
    let unlinked = |facts: &berth_database::Row| !facts.get::<bool>(3).unwrap_or(true);
    if !tx.optional(&sql::BLOB_FACTS, key()).await?.as_ref().is_some_and(unlinked) {
        tx.execute(&sql::DROP_BLOB_REVIEW, key()).await?;
        return Ok(Some(Verdict::Kept));
    }
    if tx.optional(&sql::TRY_LOCK_BLOB, key()).await?.is_none() {
        let busy = now.plus(metadata.busy_wait());
        tx.execute(&sql::PUT_OFF_BLOB, args![instance.as_str(), digest.as_slice(), busy]).await?;
        return Ok(Some(Verdict::PutOff));
    }
    // A link may have come until the row was locked; from here on none can.
    let facts = tx.optional(&sql::BLOB_FACTS, key()).await?.filter(unlinked);
    tx.execute(&sql::DROP_BLOB_REVIEW, key()).await?;
    let Some(facts) = facts else { return Ok(Some(Verdict::Kept)) };
    let (size, store_id, object_key): (i64, String, String) = (facts.get(0)?, facts.get(1)?, facts.get(2)?);
    let not_before = now.plus(metadata.config.object_grace());
    tx.execute(&statements::ADD_OBJECT_DELETE, args![store_id, object_key, not_before, size]).await?;
    tx.execute(&sql::DROP_BLOB, key()).await?;
    Ok(Some(Verdict::Deleted))
}

impl Metadata {
    /// Reviews the blob that is due first: deleted unless a link is left, and its object with it after the grace.
    pub(crate) async fn review_next_blob(&self) -> Result<Option<Verdict>> {
        let seen = Seen::default();
        let input = Arc::new((self.clone(), seen.clone()));
        let outcome = self
            .database
            .write("review_next_blob", move |tx| {
                let input = Arc::clone(&input);
                Box::pin(async move {
                    let outcome = review(tx, &input.0, &input.1).await;
                    if is_deleted(&outcome) {
                        berth_service::crash::point("collect_blob.before_commit");
                    }
                    outcome
                })
            })
            .await;
        if is_deleted(&outcome) {
            berth_service::crash::point("collect_blob.committed");
        }
        self.settle(outcome, &seen, &sql::BACK_OFF_BLOB).await
    }
}
