//! Deleting objects, in two phases: claimed under a lease in one transaction, deleted outside of any, finished in another.
//! A crash between them leaves a lease that ends; the object that is gone by then counts as deleted.

use std::time::Duration;

use berth_database::{Transaction, args};
use berth_service::Timestamp;

use crate::{Metadata, error::Result, store::collect_statements as sql};

/// How long a claim lasts; longer than any try to delete.
pub(crate) const LEASE: Duration = Duration::from_secs(60);
/// The most of an error that is kept.
const MAX_ERROR_BYTES: usize = 500;

/// An object that may go, for whoever holds its lease.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Claimed {
    pub(crate) store_id: String,
    pub(crate) key: String,
    pub(crate) size: u64,
    /// What an upload left below the key, if it is that.
    pub(crate) remains: Option<Vec<u8>>,
    /// Tries that failed before this one.
    attempts: i64,
    lease: Timestamp,
}

async fn claim(tx: &mut Transaction) -> Result<Option<Claimed>> {
    let now = tx.now();
    let Some(row) = tx.optional(&sql::NEXT_OBJECT, args![now]).await? else { return Ok(None) };
    let claimed = Claimed {
        store_id: row.get(0)?,
        key: row.get(1)?,
        size: crate::store::size(&row, 2)?,
        attempts: row.get(3)?,
        remains: row.get(4)?,
        lease: now.plus(LEASE),
    };
    let args = args![claimed.store_id.as_str(), claimed.key.as_str(), claimed.lease];
    tx.execute(&sql::CLAIM_OBJECT, args).await?;
    Ok(Some(claimed))
}

impl Metadata {
    /// Claims the object that is due first.
    pub(crate) async fn claim_next_object(&self) -> Result<Option<Claimed>> {
        self.database.write("claim_next_object", |tx| Box::pin(claim(tx))).await
    }

    /// Records what the delete came to: the row goes, or it waits twice as long as before. False when the lease had ended
    /// and another has the row, or has finished it.
    pub(crate) async fn finish_object(
        &self,
        claimed: Claimed,
        outcome: std::result::Result<(), String>,
    ) -> Result<bool> {
        let wait = self.back_off(claimed.attempts);
        self.database
            .write("finish_object", move |tx| {
                let (claimed, outcome) = (claimed.clone(), outcome.clone());
                Box::pin(async move {
                    let mut args = args![claimed.store_id, claimed.key, claimed.lease];
                    let statement = match outcome {
                        Ok(()) => &sql::FINISH_OBJECT,
                        Err(mut error) => {
                            error.truncate(error.floor_char_boundary(MAX_ERROR_BYTES));
                            args.extend(args![tx.now().plus(wait), error.replace('\0', "")]);
                            &sql::FAIL_OBJECT
                        }
                    };
                    Ok(tx.execute(statement, args).await? == 1)
                })
            })
            .await
    }
}
