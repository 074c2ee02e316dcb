//! Reviews of provisional repositories: made by a push that came to nothing.

use std::sync::Arc;

use berth_database::{Transaction, args};

use super::{Seen, Verdict, is_deleted};
use crate::{
    Metadata,
    error::Result,
    store::{collect_statements as sql, statements},
};

/// What decides about a repository.
struct Facts {
    instance: String,
    namespace: String,
    provisional: bool,
    used: bool,
}

impl Facts {
    async fn read(tx: &mut Transaction, repository: &str) -> Result<Option<Self>> {
        let Some(row) = tx.optional(&sql::REPOSITORY_FACTS, args![repository]).await? else {
            return Ok(None);
        };
        let (instance, namespace) = (row.get(0)?, row.get(1)?);
        Ok(Some(Self { instance, namespace, provisional: row.get(2)?, used: row.get(3)? }))
    }
}

async fn review(tx: &mut Transaction, metadata: &Metadata, seen: &Seen) -> Result<Option<Verdict>> {
    let now = tx.now();
    let Some(row) = tx.optional(&sql::NEXT_REPOSITORY, args![now]).await? else { return Ok(None) };
    let repository: String = row.get(0)?;
    let key = || args![repository.as_str()];
    seen.note(key(), row.get(1)?);
    let facts = Facts::read(tx, &repository).await?;
    let Some(facts) = facts.filter(|facts| facts.provisional) else {
        tx.execute(&sql::DROP_REPOSITORY_REVIEW, key()).await?;
        return Ok(Some(Verdict::Kept));
    };
    // Nothing else asks for this review again.
    let later = now.plus(metadata.config.review_after());
    if facts.used {
        tx.execute(&sql::PUT_OFF_REPOSITORY, args![repository.as_str(), later]).await?;
        return Ok(Some(Verdict::PutOff));
    }
    tx.one(&statements::LOCK_LIMITS, args![facts.instance.as_str()]).await?;
    if tx.optional(&sql::TRY_LOCK_REPOSITORY, key()).await?.is_none() {
        let busy = now.plus(metadata.busy_wait());
        tx.execute(&sql::PUT_OFF_REPOSITORY, args![repository.as_str(), busy]).await?;
        return Ok(Some(Verdict::PutOff));
    }
    // A push may have come until the row was locked; from here on none can.
    match Facts::read(tx, &repository).await? {
        Some(facts) if facts.provisional && !facts.used => {}
        Some(facts) if facts.provisional => {
            tx.execute(&sql::PUT_OFF_REPOSITORY, args![repository.as_str(), later]).await?;
            return Ok(Some(Verdict::PutOff));
        }
        _ => {
            tx.execute(&sql::DROP_REPOSITORY_REVIEW, key()).await?;
            return Ok(Some(Verdict::Kept));
        }
    }
    tx.execute(&sql::DROP_REPOSITORY_REVIEW, key()).await?;
    tx.execute(&sql::DROP_REPOSITORY, key()).await?;
    // Whoever makes a repository in the namespace holds the limits.
    let namespaces = tx.execute(&sql::DROP_EMPTY_NAMESPACE, args![facts.namespace]).await?;
    let namespaces = i64::try_from(namespaces).unwrap_or_default();
    tx.execute(&statements::COUNT_MADE, args![facts.instance, -namespaces, -1]).await?;
    Ok(Some(Verdict::Deleted))
}

impl Metadata {
    /// Reviews the provisional repository that is due first: dropped once no session, link or manifest is left, and its
    /// namespace with it when that was made by push and is empty.
    pub(crate) async fn review_next_repository(&self) -> Result<Option<Verdict>> {
        let seen = Seen::default();
        let input = Arc::new((self.clone(), seen.clone()));
        let outcome = self
            .database
            .write("review_next_repository", move |tx| {
                let input = Arc::clone(&input);
                Box::pin(async move {
                    let outcome = review(tx, &input.0, &input.1).await;
                    if is_deleted(&outcome) {
                        berth_service::crash::point("collect_repository.before_commit");
                    }
                    outcome
                })
            })
            .await;
        if is_deleted(&outcome) {
            berth_service::crash::point("collect_repository.committed");
        }
        self.settle(outcome, &seen, &sql::BACK_OFF_REPOSITORY).await
    }
}
