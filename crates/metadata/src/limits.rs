//! What an instance may have and what it has: one row, locked by whoever makes, drops or limits something counted.

use berth_database::{Transaction, args};
use berth_model::InstanceId;
use berth_oci::{ErrorCode, Problem};

use crate::{
    Metadata,
    error::{Error, Result},
    store::{self, statements as sql},
};

/// One thing that is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Counted {
    unit: &'static str,
    used: i64,
    limit: Option<i64>,
}

/// An instance's limits and counters. The row is locked until the transaction ends.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    revision: i64,
    namespaces: Counted,
    repositories: Counted,
}

/// Limits that instance-manager wishes for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wish {
    pub(crate) instance: InstanceId,
    pub(crate) revision: i64,
    pub(crate) max_namespaces: Option<u64>,
    pub(crate) max_repositories: Option<u64>,
}

/// What is in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct InForce {
    pub(crate) revision: i64,
    pub(crate) namespaces: u64,
    pub(crate) repositories: u64,
}

impl Counted {
    fn exceeded(&self, advice: &str) -> Error {
        let Self { unit, used, limit } = *self;
        let limit = limit.unwrap_or(i64::MAX);
        let message = format!("the instance has {used} of at most {limit} {unit}; {advice}");
        let detail = serde_json::json!({ "used": used, "limit": limit, "unit": unit });
        Problem::new(ErrorCode::QuotaExceeded, message).with_detail(detail).into()
    }

    /// Whether `more` may be made.
    fn admit(&self, more: i64) -> Result<()> {
        match self.limit {
            Some(limit) if more > 0 && self.used + more > limit => {
                Err(self.exceeded("delete some, or ask its administrator for more"))
            }
            _ => Ok(()),
        }
    }

    /// Whether `limit` is enough for what there is.
    fn admit_limit(self, limit: Option<i64>) -> Result<()> {
        match limit {
            Some(most) if self.used > most => {
                Err(Self { limit, ..self }
                    .exceeded("a limit can't be below what is in use; delete some first"))
            }
            _ => Ok(()),
        }
    }
}

impl Limits {
    /// Whether so many namespaces and repositories may be made.
    pub(crate) fn admit(&self, namespaces: i64, repositories: i64) -> Result<()> {
        self.namespaces.admit(namespaces)?;
        self.repositories.admit(repositories)
    }
}

/// Locks the limits of an instance; its row is made when it is first needed.
pub(crate) async fn lock(tx: &mut Transaction, instance: &str) -> Result<Limits> {
    tx.execute(&sql::ADD_LIMITS, args![instance]).await?;
    let row = tx.one(&sql::LOCK_LIMITS, args![instance]).await?;
    Ok(Limits {
        namespaces: Counted { unit: "namespaces", limit: row.get(0)?, used: row.get(2)? },
        repositories: Counted { unit: "repositories", limit: row.get(1)?, used: row.get(3)? },
        revision: row.get(4)?,
    })
}

async fn set(tx: &mut Transaction, wish: &Wish) -> Result<InForce> {
    let instance = wish.instance.to_string();
    let limits = lock(tx, &instance).await?;
    let mut in_force = InForce {
        revision: limits.revision,
        namespaces: limits.namespaces.used.unsigned_abs(),
        repositories: limits.repositories.used.unsigned_abs(),
    };
    if wish.revision <= limits.revision {
        return Ok(in_force);
    }
    let max_namespaces = wish.max_namespaces.map(store::stored_size).transpose()?;
    let max_repositories = wish.max_repositories.map(store::stored_size).transpose()?;
    limits.namespaces.admit_limit(max_namespaces)?;
    limits.repositories.admit_limit(max_repositories)?;
    let args = args![instance, wish.revision, max_namespaces, max_repositories];
    tx.execute(&sql::SET_LIMITS, args).await?;
    in_force.revision = wish.revision;
    Ok(in_force)
}

impl Metadata {
    /// Puts limits into force, unless they are below today's use or older than those in force.
    pub(crate) async fn set_limits(&self, wish: Wish) -> Result<InForce> {
        self.database.write("set_limits", move |tx| Box::pin(async move { set(tx, &wish).await })).await
    }
}
