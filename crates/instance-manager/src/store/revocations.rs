//! What takes rights away before tokens end: access tokens of a subject from before a moment are refused. A row lasts as
//! long as such a token could.

use berth_access::{LEEWAY, LIFETIME};
use berth_database::{Transaction, args};
use berth_model::{InstanceId, Principal};
use berth_service::Timestamp;

use super::{Store, id, statements as sql};
use crate::Error;

/// Tokens from before a moment are refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NotBefore {
    /// A principal, or `instance:<id>`.
    pub(crate) subject: String,
    pub(crate) instance: InstanceId,
    pub(crate) at: Timestamp,
}

/// How long a row is of use: until the last token that it refuses has ended by itself.
fn horizon(now: Timestamp) -> Timestamp {
    let micros = i64::try_from((LIFETIME + LEEWAY + LEEWAY).as_micros()).unwrap_or(i64::MAX);
    Timestamp(now.0.saturating_sub(micros))
}

async fn refuse(tx: &mut Transaction, subject: String, instance: InstanceId) -> Result<(), Error> {
    let now = tx.now();
    tx.execute(&sql::SET_NOT_BEFORE, args![subject, instance.to_string(), now]).await?;
    tx.execute(&sql::PRUNE_NOT_BEFORES, args![horizon(now)]).await?;
    tx.execute(&sql::BUMP_SETTINGS, args![]).await?;
    Ok(())
}

/// Refuses the tokens that a principal has. The last statements of a unit.
pub(super) async fn refuse_principal(
    tx: &mut Transaction,
    principal: Principal,
    instance: InstanceId,
) -> Result<(), Error> {
    refuse(tx, principal.to_string(), instance).await
}

/// Refuses the tokens of everybody in an instance. The last statements of a unit.
pub(super) async fn refuse_instance(tx: &mut Transaction, instance: InstanceId) -> Result<(), Error> {
    refuse(tx, format!("instance:{instance}"), instance).await
}

impl Store {
    /// What is refused now. A few rows too many do no harm.
    pub(super) async fn not_befores(&self) -> Result<Vec<NotBefore>, Error> {
        let mut found = Vec::new();
        for row in self.database.read_all(&sql::LIST_NOT_BEFORES, args![0]).await? {
            found.push(NotBefore {
                subject: row.get(0)?,
                instance: id(&row, 1)?,
                at: Timestamp(row.get(2)?),
            });
        }
        Ok(found)
    }
}
