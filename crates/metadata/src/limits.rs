//! What an instance may have and what it has: one row, locked by whoever makes, drops or limits something counted.

use berth_database::{Row, Transaction, args};
use berth_model::InstanceId;
use berth_oci::{ErrorCode, Problem, RepositoryName};

use crate::{
    Metadata,
    error::{Error, Result},
    store::{self, statements as sql},
};

/// What is left of an instance is counted so far.
const COUNTED: u64 = 100_000;

/// What an instance has, and may have.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Usage {
    pub(crate) namespaces: u64,
    pub(crate) repositories: u64,
    /// Each once, in however many repositories it is; also what is about to be collected.
    pub(crate) blobs: u64,
    pub(crate) blob_bytes: u64,
    pub(crate) max_namespaces: Option<u64>,
    pub(crate) max_repositories: Option<u64>,
    pub(crate) max_depth: Option<u64>,
}

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
    max_depth: Option<i64>,
    /// The instance has come to its end.
    removing: bool,
}

/// Limits that instance-manager wishes for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wish {
    pub(crate) instance: InstanceId,
    pub(crate) revision: i64,
    pub(crate) max_namespaces: Option<u64>,
    pub(crate) max_repositories: Option<u64>,
    /// Parts of a repository's name after its namespace.
    pub(crate) max_depth: Option<u64>,
}

/// What is in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct InForce {
    pub(crate) revision: i64,
    pub(crate) namespaces: u64,
    pub(crate) repositories: u64,
}

impl Counted {
    fn detail(&self) -> serde_json::Value {
        serde_json::json!({ "used": self.used, "limit": self.limit, "unit": self.unit })
    }

    fn says(&self) -> String {
        format!("{} of at most {} {}", self.used, self.limit.unwrap_or(i64::MAX), self.unit)
    }

    /// Whether `more` may be made.
    fn admit(&self, more: i64) -> Result<()> {
        match self.limit {
            Some(limit) if more > 0 && self.used + more > limit => {
                let message = format!(
                    "the instance has {}; delete some, or ask whoever runs the deployment for more",
                    self.says()
                );
                Err(Problem::new(ErrorCode::QuotaExceeded, message).with_detail(self.detail()).into())
            }
            _ => Ok(()),
        }
    }

    /// What stands in the way of this limit.
    fn above(self, limit: Option<i64>) -> Option<Self> {
        limit.is_some_and(|most| self.used > most).then_some(Self { limit, ..self })
    }
}

/// Limits that are below today's use: the first one as in every other refusal, and all of them.
fn below_use(exceeded: &[Counted]) -> Result<()> {
    let Some(first) = exceeded.first() else { return Ok(()) };
    let all: Vec<String> = exceeded.iter().map(Counted::says).collect();
    let message = format!(
        "the instance has {}; a limit can't be below what is in use; delete some first",
        all.join(", ")
    );
    let mut detail = first.detail();
    detail["exceeded"] = exceeded.iter().map(Counted::detail).collect();
    Err(Problem::new(ErrorCode::QuotaExceeded, message).with_detail(detail).into())
}

impl Limits {
    /// Whether so many namespaces and repositories may be made.
    pub(crate) fn admit(&self, namespaces: i64, repositories: i64) -> Result<()> {
        if self.removing {
            return Err(Error::new(ErrorCode::Denied, "the instance is being deleted"));
        }
        self.namespaces.admit(namespaces)?;
        self.repositories.admit(repositories)
    }

    /// Whether a repository's name may have so many parts after its namespace.
    pub(crate) fn admit_depth(&self, path: &RepositoryName) -> Result<()> {
        let depth = i64::try_from(path.depth()).unwrap_or(i64::MAX) - 1;
        match self.max_depth {
            Some(most) if depth > most => {
                let message = format!(
                    "{path} has {depth} parts after its namespace, and the edition of the instance allows {most}"
                );
                Err(Problem::new(ErrorCode::NameInvalid, message).into())
            }
            _ => Ok(()),
        }
    }
}

/// Locks the limits of an instance; its row is made when it is first needed.
pub(crate) async fn lock(tx: &mut Transaction, instance: &str) -> Result<Limits> {
    tx.execute(&sql::ADD_LIMITS, args![instance]).await?;
    let row = tx.one(&sql::LOCK_LIMITS, args![instance]).await?;
    read(&row)
}

fn read(row: &Row) -> Result<Limits> {
    Ok(Limits {
        namespaces: Counted { unit: "namespaces", limit: row.get(0)?, used: row.get(2)? },
        repositories: Counted { unit: "repositories", limit: row.get(1)?, used: row.get(3)? },
        revision: row.get(4)?,
        max_depth: row.get(5)?,
        removing: row.get(6)?,
    })
}

/// Ends an instance, unless it has repositories and nobody insists; whether nothing of it is left.
async fn remove(tx: &mut Transaction, instance: &str, force: bool) -> Result<bool> {
    let limits = lock(tx, instance).await?;
    if limits.removing {
        return Ok(tx.optional(&sql::REMOVAL_LEFT, args!["instance", instance]).await?.is_none());
    }
    let used = limits.repositories.used;
    if used > 0 && !force {
        let message = format!("the instance has {used} repositories; delete them first, or insist");
        let detail = limits.repositories.detail();
        return Err(Problem::new(ErrorCode::Conflict, message).with_detail(detail).into());
    }
    tx.execute(&sql::END_INSTANCE, args![instance]).await?;
    tx.execute(&sql::ADD_REMOVAL, args!["instance", instance, tx.now()]).await?;
    Ok(false)
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
    let max_depth = wish.max_depth.map(store::stored_size).transpose()?;
    let mut exceeded: Vec<Counted> =
        [limits.namespaces.above(max_namespaces), limits.repositories.above(max_repositories)]
            .into_iter()
            .flatten()
            .collect();
    let tighter = max_depth.filter(|most| limits.max_depth.is_none_or(|today| *most < today));
    if let Some(most) = tighter
        && let Some(row) = tx.optional(&sql::DEEPER_REPOSITORY, args![instance.clone(), most]).await?
    {
        let path: RepositoryName = row
            .get::<String>(0)?
            .parse()
            .map_err(|_| Error::new(ErrorCode::Internal, "a repository's name can't be read"))?;
        let used = i64::try_from(path.depth()).unwrap_or(i64::MAX) - 1;
        exceeded.push(Counted { unit: "parts in a repository's name", used, limit: max_depth });
    }
    below_use(&exceeded)?;
    let args = args![instance, wish.revision, max_namespaces, max_repositories, max_depth];
    tx.execute(&sql::SET_LIMITS, args).await?;
    in_force.revision = wish.revision;
    Ok(in_force)
}

impl Metadata {
    /// Puts limits into force, unless they are below today's use or older than those in force.
    pub(crate) async fn set_limits(&self, wish: Wish) -> Result<InForce> {
        self.database.write("set_limits", move |tx| Box::pin(async move { set(tx, &wish).await })).await
    }

    /// What an instance has, and may have. Bytes are summed up from an index, some millions of blobs a second.
    pub(crate) async fn usage(&self, instance: InstanceId) -> Result<Usage> {
        let key = || args![instance.to_string()];
        let mut usage = Usage::default();
        if let Some(row) = self.database.read_optional(&sql::INSTANCE_LIMITS, key()).await? {
            let limits = read(&row)?;
            usage.namespaces = limits.namespaces.used.unsigned_abs();
            usage.repositories = limits.repositories.used.unsigned_abs();
            usage.max_namespaces = limits.namespaces.limit.map(i64::unsigned_abs);
            usage.max_repositories = limits.repositories.limit.map(i64::unsigned_abs);
            usage.max_depth = limits.max_depth.map(i64::unsigned_abs);
        }
        if let Some(row) = self.database.read_optional(&sql::BLOB_USAGE, key()).await? {
            usage.blobs = row.get::<i64>(0)?.unsigned_abs();
            usage.blob_bytes = row.get::<i64>(1)?.unsigned_abs();
        }
        Ok(usage)
    }

    /// How many repositories, blobs and objects are left of an instance that ends; none: more than are counted, or they can't
    /// be counted just now, which holds up nothing.
    pub(crate) async fn left_of_instance(&self, instance: InstanceId) -> Option<u64> {
        let keys = args![instance.to_string(), format!("i/{instance}/"), format!("i/{instance}0")];
        let counted = self.database.read_optional(&sql::LEFT_OF_INSTANCE, keys).await;
        let row =
            counted.inspect_err(|error| tracing::debug!(%error, "what is left is not counted")).ok()??;
        let mut left = 0;
        for index in 0..3 {
            let count = store::size(&row, index).ok().filter(|count| *count <= COUNTED)?;
            left += count;
        }
        Some(left)
    }

    /// Ends an instance, unless it has repositories and nobody insists; whether nothing of it is left. What is left goes
    /// by and by.
    pub(crate) async fn remove_instance(&self, instance: InstanceId, force: bool) -> Result<bool> {
        let done = self
            .database
            .write("remove_instance", move |tx| {
                Box::pin(async move { remove(tx, &instance.to_string(), force).await })
            })
            .await?;
        self.wake.notify_one();
        Ok(done)
    }
}
