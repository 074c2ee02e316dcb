//! Tasks: long work that somebody asked for, and how far it is. A task is made in the transaction that begins the work,
//! moved in those of its steps, and ended in the last one, so that it says what is true whichever process does the work.

use std::time::Duration;

use berth_database::{Row, Transaction, args};
use berth_model::InstanceId;
use berth_oci::ErrorCode;
use berth_proto::metadata as proto;
use ulid::Ulid;

use crate::{
    Metadata,
    error::{Error, Result},
    listing,
    manager::Manager,
    store::task_statements as sql,
};

/// How long a task is remembered after its end.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// What is done. Its subject is `<noun>:<id>`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A step is a repository.
    DeleteNamespace,
    /// A step is a manifest.
    DeleteRepository,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::DeleteNamespace => "namespace.delete",
            Self::DeleteRepository => "repository.delete",
        }
    }

    fn subject(self, id: &str) -> String {
        match self {
            Self::DeleteNamespace => format!("namespace:{id}"),
            Self::DeleteRepository => format!("repository:{id}"),
        }
    }
}

/// The work that runs already on what has this id.
pub(crate) async fn running(tx: &mut Transaction, kind: Kind, id: &str) -> Result<Option<String>> {
    let found = tx.optional(&sql::RUNNING_TASK, args![kind.name(), kind.subject(id)]).await?;
    Ok(found.map(|row| row.get(0)).transpose()?)
}

/// The work that runs on what had this name.
pub(crate) async fn running_on(
    tx: &mut Transaction,
    kind: Kind,
    instance: &str,
    name: &str,
) -> Result<Option<String>> {
    let found = tx.optional(&sql::RUNNING_TASK_NAMED, args![instance, kind.name(), name]).await?;
    Ok(found.map(|row| row.get(0)).transpose()?)
}

/// Begins a task about something whose row is locked.
pub(crate) async fn begin(
    tx: &mut Transaction,
    task: &str,
    kind: Kind,
    manager: &Manager,
    (instance, id, name): (&str, &str, &str),
) -> Result<()> {
    let now = tx.now();
    let values = args![task, instance, kind.name(), kind.subject(id), name, &manager.principal, now];
    tx.execute(&sql::ADD_TASK, values).await?;
    Ok(())
}

/// Says how much there is to be done, unless that is known. Where nobody waits for the work there is no task.
pub(crate) async fn measure(tx: &mut Transaction, kind: Kind, id: &str) -> Result<()> {
    let statement = match kind {
        Kind::DeleteNamespace => &sql::MEASURE_NAMESPACE,
        Kind::DeleteRepository => &sql::MEASURE_REPOSITORY,
    };
    let now = tx.now();
    tx.execute(statement, args![kind.name(), kind.subject(id), id, now]).await?;
    Ok(())
}

/// Some of it is done.
pub(crate) async fn step(tx: &mut Transaction, kind: Kind, id: &str, steps: u64) -> Result<()> {
    let now = tx.now();
    let steps = i64::try_from(steps).unwrap_or(i64::MAX);
    tx.execute(&sql::STEP_TASK, args![kind.name(), kind.subject(id), steps, now]).await?;
    Ok(())
}

/// All of it is done.
pub(crate) async fn end(tx: &mut Transaction, kind: Kind, id: &str) -> Result<()> {
    let now = tx.now();
    tx.execute(&sql::END_TASK, args![kind.name(), kind.subject(id), now]).await?;
    Ok(())
}

fn task(row: &Row) -> Result<proto::Task> {
    Ok(proto::Task {
        id: row.get(0)?,
        instance_id: row.get(1)?,
        kind: row.get(2)?,
        subject: row.get(3)?,
        name: row.get(4)?,
        state: row.get(5)?,
        steps_done: row.get::<i64>(6)?.unsigned_abs(),
        steps_total: row.get::<Option<i64>>(7)?.map(i64::unsigned_abs),
        message: row.get(8)?,
        created_by: row.get(9)?,
        created_at: row.get(10)?,
        updated_at: row.get(11)?,
        ended_at: row.get(12)?,
    })
}

impl Metadata {
    /// A task of an instance.
    pub(crate) async fn task(&self, instance: InstanceId, id: &str) -> Result<proto::Task> {
        let row = match id.parse::<Ulid>() {
            Ok(id) => {
                let key = args![id.to_string(), instance.to_string()];
                self.database.read_optional(&sql::TASK, key).await?
            }
            Err(_) => None,
        };
        let no_task =
            || Error::new(ErrorCode::NotFound, "there is no such task, or it ended over a week ago");
        task(&row.ok_or_else(no_task)?)
    }

    /// A page of an instance's tasks, newest first, and where the next one begins. Empty: whichever.
    pub(crate) async fn tasks(
        &self,
        instance: InstanceId,
        (state, kind): (&str, &str),
        limit: u32,
        after: &str,
    ) -> Result<(Vec<proto::Task>, Option<String>)> {
        if !["", "running", "done", "failed"].contains(&state) {
            return Err(Error::new(ErrorCode::RequestInvalid, "a task's state is running, done or failed"));
        }
        let after = match after {
            "" => "~".to_owned(),
            id => id.parse::<Ulid>().map_err(|_| listing::no_position())?.to_string(),
        };
        let kind = kind.replace('\0', "");
        let limit = listing::page_size(limit);
        let mut values = args![instance.to_string(), after, i64::from(limit) + 1];
        let statement = match (kind.is_empty(), state.is_empty()) {
            (true, true) => &sql::LIST_TASKS,
            (true, false) => &sql::LIST_TASKS_IN,
            (false, true) => &sql::LIST_TASKS_OF,
            (false, false) => &sql::LIST_TASKS_OF_IN,
        };
        for wish in [kind.as_str(), state] {
            if !wish.is_empty() {
                values.push(wish.into());
            }
        }
        let rows = self.database.read_all(statement, values).await?;
        let more = rows.len() > limit as usize;
        let shown = rows.iter().take(limit as usize).map(task).collect::<Result<Vec<_>>>()?;
        let next = shown.last().filter(|_| more).map(|task| task.id.clone());
        Ok((shown, next))
    }

    /// Forgets tasks that ended long ago, a bounded number of them; how many.
    pub(crate) async fn forget_tasks(&self) -> Result<u64> {
        self.database
            .write("forget_tasks", |tx| {
                Box::pin(async move {
                    let before = tx.now().minus(KEPT);
                    Ok(tx.execute(&sql::FORGET_TASKS, args![before]).await?)
                })
            })
            .await
    }
}
