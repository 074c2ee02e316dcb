//! Reviews of links: what no manifest of the repository holds.

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
    let Some(row) = tx.optional(&sql::NEXT_LINK, args![now]).await? else { return Ok(None) };
    let repository: String = row.get(0)?;
    let digest: Vec<u8> = row.get(1)?;
    let key = || args![repository.as_str(), digest.as_slice()];
    seen.note(key(), row.get(2)?);
    let facts = tx.optional(&sql::LINK_FACTS, key()).await?;
    let Some(facts) = facts.filter(|facts| !facts.get::<bool>(1).unwrap_or(true)) else {
        tx.execute(&statements::DROP_LINK_REVIEW, key()).await?;
        return Ok(Some(Verdict::Kept));
    };
    let instance: String = facts.get(0)?;
    let freed = now.plus(metadata.freed_after());
    tx.execute(&statements::REVIEW_BLOB, args![instance, digest.as_slice(), freed]).await?;
    if tx.optional(&sql::TRY_LOCK_LINK, key()).await?.is_none() {
        let busy = now.plus(metadata.busy_wait());
        tx.execute(&sql::PUT_OFF_LINK, args![repository.as_str(), digest.as_slice(), busy]).await?;
        return Ok(Some(Verdict::PutOff));
    }
    // A manifest may have come until the row was locked; from here on none can.
    let held = tx.optional(&statements::BLOB_HOLDER, key()).await?.is_some();
    tx.execute(&statements::DROP_LINK_REVIEW, key()).await?;
    if held {
        return Ok(Some(Verdict::Kept));
    }
    tx.execute(&statements::DROP_LINK, key()).await?;
    Ok(Some(Verdict::Deleted))
}

impl Metadata {
    /// Reviews the link that is due first: dropped unless a manifest of its repository holds it.
    pub(crate) async fn review_next_link(&self) -> Result<Option<Verdict>> {
        let seen = Seen::default();
        let input = Arc::new((self.clone(), seen.clone()));
        let outcome = self
            .database
            .write("review_next_link", move |tx| {
                let input = Arc::clone(&input);
                Box::pin(async move {
                    let outcome = review(tx, &input.0, &input.1).await;
                    if is_deleted(&outcome) {
                        berth_service::crash::point("collect_link.before_commit");
                    }
                    outcome
                })
            })
            .await;
        if is_deleted(&outcome) {
            berth_service::crash::point("collect_link.committed");
        }
        self.settle(outcome, &seen, &sql::BACK_OFF_LINK).await
    }
}
