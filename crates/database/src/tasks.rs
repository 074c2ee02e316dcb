//! Tasks: long work that somebody asked for, and how far it is. A task is made in the transaction that begins the work,
//! moved in those of its steps, and ended in the last one, so that it says what is true whichever process does the work.
//!
//! A service's migrations make the table `tasks (id, instance_id, kind, subject, name, state, steps_done, steps_total,
//! message, created_by, created_at, updated_at, ended_at, waits_until)` with the primary key `id`, the lists' indexes
//! `(instance_id, id)`, `(instance_id, state, id)`, `(instance_id, kind, id)` and `(instance_id, kind, state, id)`, a unique
//! one on `(kind, subject)` where the state is `running`, and one on `ended_at` where that is not NULL.

use std::time::Duration;

use berth_oci::{ErrorCode, Problem};
use berth_proto::tasks as proto;
use berth_service::Timestamp;
use ulid::Ulid;

use crate::{Arg, Database, DatabaseError, Row, Statement, Transaction, args};

/// How long a task is remembered after its end.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// The most tasks of a page.
const MOST: u32 = 100;

crate::statements! {
    ADD = "INSERT INTO tasks (id, instance_id, kind, subject, name, state, created_by, created_at, updated_at) \
        VALUES ($1, $2, $3, $4, $5, 'running', $6, $7, $7) ON CONFLICT DO NOTHING";
    RUNNING = "SELECT id FROM tasks WHERE kind = $1 AND subject = $2 AND state = 'running'";
    STEP = "UPDATE tasks SET steps_done = steps_done + $3, updated_at = $4, message = '', \
        steps_total = CASE WHEN steps_total < steps_done + $3 THEN steps_done + $3 ELSE steps_total END \
        WHERE kind = $1 AND subject = $2 AND state = 'running'";
    LEFT = "UPDATE tasks SET steps_total = COALESCE(steps_total, steps_done + $3), updated_at = $4, message = '', \
        steps_done = CASE WHEN COALESCE(steps_total, steps_done + $3) - $3 > steps_done \
            THEN COALESCE(steps_total, steps_done + $3) - $3 ELSE steps_done END \
        WHERE kind = $1 AND subject = $2 AND state = 'running' \
        AND (steps_total IS NULL OR steps_total - $3 > steps_done OR message <> '')";
    WAIT = "UPDATE tasks SET message = $3, updated_at = $4 \
        WHERE kind = $1 AND subject = $2 AND state = 'running' AND message <> $3";
    END = "UPDATE tasks SET state = 'done', steps_done = COALESCE(steps_total, steps_done), message = $3, \
        updated_at = $4, ended_at = $4, waits_until = NULL WHERE kind = $1 AND subject = $2 AND state = 'running'";
    FAIL = "UPDATE tasks SET state = 'failed', message = $3, updated_at = $4, ended_at = $4, waits_until = NULL \
        WHERE kind = $1 AND subject = $2 AND state = 'running'";
    TASK = "SELECT id, instance_id, kind, subject, name, state, steps_done, steps_total, message, created_by, \
        created_at, updated_at, ended_at, waits_until FROM tasks WHERE id = $1 AND instance_id = $2";
    // Newest first, before $2.
    LIST = "SELECT id, instance_id, kind, subject, name, state, steps_done, steps_total, message, \
        created_by, created_at, updated_at, ended_at, waits_until FROM tasks \
        WHERE instance_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3";
    LIST_IN = "SELECT id, instance_id, kind, subject, name, state, steps_done, steps_total, message, \
        created_by, created_at, updated_at, ended_at, waits_until FROM tasks \
        WHERE instance_id = $1 AND id < $2 AND state = $4 ORDER BY id DESC LIMIT $3";
    LIST_OF = "SELECT id, instance_id, kind, subject, name, state, steps_done, steps_total, message, \
        created_by, created_at, updated_at, ended_at, waits_until FROM tasks \
        WHERE instance_id = $1 AND id < $2 AND kind = $4 ORDER BY id DESC LIMIT $3";
    LIST_OF_IN = "SELECT id, instance_id, kind, subject, name, state, steps_done, steps_total, message, \
        created_by, created_at, updated_at, ended_at, waits_until FROM tasks \
        WHERE instance_id = $1 AND id < $2 AND kind = $4 AND state = $5 ORDER BY id DESC LIMIT $3";
    FORGET = sqlite "DELETE FROM tasks WHERE id IN \
        (SELECT t.id FROM tasks t WHERE t.ended_at < $1 ORDER BY t.ended_at LIMIT 500)"
        postgres "DELETE FROM tasks WHERE id IN \
        (SELECT t.id FROM tasks t WHERE t.ended_at < $1 ORDER BY t.ended_at LIMIT 500 FOR UPDATE SKIP LOCKED)";
}

/// The statements of this module, for a service's test that prepares all of its own.
pub const STATEMENTS: &[(&str, &Statement)] = ALL;

/// What is done, and to what. No two of the same run at the same time; where nobody waits for the work there is no task, and
/// what is said of it is said to nobody.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Work {
    /// `namespace.delete`.
    pub kind: &'static str,
    /// `namespace:<id>`.
    pub subject: String,
}

/// Who asked for work, where, and what it is called.
#[derive(Clone, Copy, Debug)]
pub struct NewTask<'a> {
    /// Its id.
    pub id: &'a str,
    /// Empty: of the deployment.
    pub instance: &'a str,
    /// The name or the path of what it is done to.
    pub name: &'a str,
    /// `user:<id>`.
    pub created_by: &'a str,
}

impl Work {
    /// The task of it that runs.
    pub async fn running(&self, tx: &mut Transaction) -> Result<Option<String>, DatabaseError> {
        let found = tx.optional(&RUNNING, args![self.kind, &self.subject]).await?;
        found.map(|row| row.get(0)).transpose()
    }

    /// Begins a task. The caller has locked what it is about, or runs again when another began one of the same work.
    pub async fn begin(&self, tx: &mut Transaction, task: NewTask<'_>) -> Result<(), DatabaseError> {
        let now = tx.now();
        let NewTask { id, instance, name, created_by } = task;
        let values = args![id, instance, self.kind, &self.subject, name, created_by, now];
        if tx.execute(&ADD, values).await? == 0 { Err(tx.again()) } else { Ok(()) }
    }

    async fn say(
        &self,
        tx: &mut Transaction,
        how: &Statement,
        what: impl Into<Arg>,
    ) -> Result<(), DatabaseError> {
        let now = tx.now();
        tx.execute(how, vec![self.kind.into(), (&self.subject).into(), what.into(), now.into()]).await?;
        Ok(())
    }

    /// So many steps more are done.
    pub async fn step(&self, tx: &mut Transaction, steps: u64) -> Result<(), DatabaseError> {
        self.say(tx, &STEP, i64::try_from(steps).unwrap_or(i64::MAX)).await
    }

    /// So many steps are left. The first time that says how many there are in all; what is found later does not take back
    /// what was done.
    pub async fn left(&self, tx: &mut Transaction, steps: u64) -> Result<(), DatabaseError> {
        self.say(tx, &LEFT, i64::try_from(steps).unwrap_or(i64::MAX)).await
    }

    /// Why it can't go on just now; empty: it can.
    pub async fn wait(&self, tx: &mut Transaction, reason: &str) -> Result<(), DatabaseError> {
        self.say(tx, &WAIT, reason.replace('\0', "")).await
    }

    /// All of it is done, and what it came to; empty: nothing to say.
    pub async fn end(&self, tx: &mut Transaction, outcome: &str) -> Result<(), DatabaseError> {
        self.say(tx, &END, outcome).await
    }

    /// It will not be done, and why.
    pub async fn fail(&self, tx: &mut Transaction, reason: &str) -> Result<(), DatabaseError> {
        self.say(tx, &FAIL, reason.replace('\0', "")).await
    }
}

fn task(row: &Row) -> Result<proto::Task, DatabaseError> {
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
        waits_until: row.get(13)?,
    })
}

/// What is said of a task that is not there.
pub fn no_task() -> Problem {
    Problem::new(ErrorCode::NotFound, "there is no such task, or it ended over a week ago")
}

/// A task of an instance, or of the deployment; none: there is no such.
pub async fn find(
    database: &Database,
    asked: &proto::GetTaskRequest,
) -> Result<Option<proto::Task>, DatabaseError> {
    let Ok(id) = asked.id.parse::<Ulid>() else { return Ok(None) };
    let found = database.read_optional(&TASK, args![id.to_string(), &asked.instance_id]).await?;
    found.as_ref().map(task).transpose()
}

/// Which tasks are listed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    instance: String,
    /// Empty: whichever.
    state: String,
    kind: String,
    limit: u32,
    /// Before this id.
    before: String,
}

impl Wanted {
    /// Reads what was asked for.
    pub fn read(asked: proto::ListTasksRequest) -> Result<Self, Problem> {
        let proto::ListTasksRequest { instance_id: instance, state, kind, limit, after } = asked;
        if !["", "running", "done", "failed"].contains(&state.as_str()) {
            return Err(Problem::new(ErrorCode::RequestInvalid, "a task's state is running, done or failed"));
        }
        let before = match after.as_str() {
            "" => "~".to_owned(),
            id => id
                .parse::<Ulid>()
                .map_err(|_| {
                    let message = "this position was not given by such a list; begin at its start";
                    Problem::new(ErrorCode::PaginationInvalid, message)
                })?
                .to_string(),
        };
        let limit = if (1..=MOST).contains(&limit) { limit } else { MOST };
        Ok(Self { instance, state, kind: kind.replace('\0', ""), limit, before })
    }
}

/// A page of tasks, newest first.
pub async fn list(database: &Database, wanted: &Wanted) -> Result<proto::ListTasksResponse, DatabaseError> {
    let mut values = args![&wanted.instance, &wanted.before, i64::from(wanted.limit) + 1];
    let statement = match (wanted.kind.is_empty(), wanted.state.is_empty()) {
        (true, true) => &LIST,
        (true, false) => &LIST_IN,
        (false, true) => &LIST_OF,
        (false, false) => &LIST_OF_IN,
    };
    for wish in [&wanted.kind, &wanted.state] {
        if !wish.is_empty() {
            values.push(wish.into());
        }
    }
    let rows = database.read_all(statement, values).await?;
    let shown = wanted.limit as usize;
    let tasks = rows.iter().take(shown).map(task).collect::<Result<Vec<_>, _>>()?;
    let next = tasks.last().filter(|_| rows.len() > shown).map(|task| task.id.clone());
    Ok(proto::ListTasksResponse { tasks, next: next.unwrap_or_default() })
}

/// Forgets tasks that ended long before `now`, a bounded number of them; how many.
pub async fn forget(database: &Database) -> Result<u64, DatabaseError> {
    database
        .write("forget_tasks", |tx| {
            Box::pin(async move {
                let before: Timestamp = tx.now().minus(KEPT);
                tx.execute(&FORGET, args![before]).await
            })
        })
        .await
}
