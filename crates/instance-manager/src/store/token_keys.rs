//! The rows of the keys that sign tokens.

use std::time::Duration;

use berth_access::{LEEWAY, LIFETIME};
use berth_database::args;
use berth_service::Timestamp;

use super::{AuditRow, Store, StoredKey, add_audit, statements as sql};
use crate::Error;

/// What became of a wish for another key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Rotation {
    /// This key signs from now on.
    Done(String),
    /// The one that signs is young.
    NotYet,
    /// The next one was not published for long enough that every gateway has it.
    TooSoon,
}

impl Store {
    /// Lets the next key sign when the one that does has done so for `older_than`, publishes a new next one, and lets
    /// the former one be published as long as a token of it can be valid.
    pub(crate) async fn rotate_token_key(
        &self,
        new: StoredKey,
        older_than: Duration,
        published: Duration,
        entry: AuditRow,
    ) -> Result<Rotation, Error> {
        self.database
            .write("rotate_token_key", move |tx| {
                let (new, entry) = (new.clone(), entry.clone());
                Box::pin(async move {
                    // Two processes that want it at once do it once.
                    tx.one(&sql::LOCK_SETTINGS, args![]).await?;
                    let now = tx.now();
                    let signing = tx.one(&sql::SIGNING_KEY, args![]).await?;
                    let since = Timestamp(signing.get(1)?);
                    if now.since(since) < older_than {
                        return Ok(Rotation::NotYet);
                    }
                    let next = tx.one(&sql::NEXT_KEY, args![]).await?;
                    if now.since(Timestamp(next.get(1)?)) < published {
                        return Ok(Rotation::TooSoon);
                    }
                    let (former, id): (String, String) = (signing.get(0)?, next.get(0)?);
                    let until = now.plus(LIFETIME + LEEWAY + LEEWAY);
                    tx.execute(&sql::RETIRE_KEY, args![former, until]).await?;
                    tx.execute(&sql::ACTIVATE_KEY, args![&id, now]).await?;
                    let values = args![&new.id, &new.sealed, &new.jwk, now, None::<i64>];
                    tx.execute(&sql::INSERT_KEY, values).await?;
                    add_audit(tx, entry, now).await?;
                    tx.execute(&sql::BUMP_SETTINGS, args![]).await?;
                    Ok::<_, Error>(Rotation::Done(id))
                })
            })
            .await
    }

    /// Forgets keys whose tokens have all ended. False: there are none.
    pub(crate) async fn forget_token_keys(&self) -> Result<bool, Error> {
        self.database
            .write("forget_token_keys", move |tx| {
                Box::pin(async move {
                    let now = tx.now();
                    let forgotten = tx.execute(&sql::FORGET_KEYS, args![now]).await? > 0;
                    if forgotten {
                        tx.execute(&sql::BUMP_SETTINGS, args![]).await?;
                    }
                    Ok::<_, Error>(forgotten)
                })
            })
            .await
    }
}
