//! Told after each COMMIT which rows it changed: what a process that alone writes a SQLite file keeps of it in memory can
//! so be as new as the file. The engine itself takes the notes, by triggers of the writing connection, so that no unit
//! of work can forget any; cascades are among them.

use std::sync::Arc;

use futures::TryStreamExt as _;
use parking_lot::Mutex;
use sqlx::{AssertSqlSafe, SqliteConnection};

use crate::{DatabaseError, Row, value::Inner};

/// A table whose changed rows are told by two columns, of texts or bytes, that name a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watched {
    /// The table.
    pub table: &'static str,
    /// The columns.
    pub key: (&'static str, &'static str),
}

/// A row that was made, changed or deleted. When its key changed it is told under both.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Touched {
    /// The table.
    pub table: &'static str,
    /// The values of the columns.
    pub key: (Vec<u8>, Vec<u8>),
}

/// What one COMMIT changed in the watched tables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Changes {
    /// These rows.
    Rows(Vec<Touched>),
    /// More than are listed.
    TooMany,
}

/// Who is told, between a COMMIT and the answers to its callers.
pub type Listener = Arc<dyn Fn(Changes) + Send + Sync>;

/// Sees to it that what was read before a change is not kept after it: counts changes, and whoever keeps or forgets
/// something does it under its lock.
#[derive(Debug, Default)]
pub struct Freshness(Mutex<u64>);

/// How far the changes were when a read began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Since(u64);

impl Freshness {
    /// To be asked before a read whose answer is to be kept.
    pub fn since(&self) -> Since {
        Since(*self.0.lock())
    }

    /// Keeps an answer, if nothing at all was changed since its read began.
    pub fn keep(&self, since: Since, keep: impl FnOnce()) {
        let changes = self.0.lock();
        if *changes == since.0 {
            keep();
        }
    }

    /// Forgets what was changed.
    pub fn forget(&self, forget: impl FnOnce()) {
        let mut changes = self.0.lock();
        *changes += 1;
        forget();
    }
}

/// The most rows that are listed.
const MAX_LISTED: usize = 1000;
const COMMIT: &str = "COMMIT; DELETE FROM touched_rows RETURNING watched, a, b";

/// What is watched, and who is told.
pub(crate) struct Watch {
    pub(crate) tables: &'static [Watched],
    pub(crate) listener: Listener,
}

impl Watch {
    /// Has the connection take notes from now on.
    pub(crate) async fn begin(&self, connection: &mut SqliteConnection) -> Result<(), DatabaseError> {
        run(connection, "CREATE TEMP TABLE touched_rows (watched INTEGER, a BLOB, b BLOB)".to_owned())
            .await?;
        for (index, Watched { table, key: (a, b) }) in self.tables.iter().enumerate() {
            let note = |row: &str| {
                format!(
                    "INSERT INTO touched_rows VALUES ({index}, CAST({row}.{a} AS BLOB), CAST({row}.{b} AS BLOB));"
                )
            };
            let trigger = |name: &str, event: &str, notes: String| {
                format!("CREATE TEMP TRIGGER {table}_{name} AFTER {event} ON main.{table} BEGIN {notes} END")
            };
            run(connection, trigger("made", "INSERT", note("NEW"))).await?;
            run(connection, trigger("gone", "DELETE", note("OLD"))).await?;
            run(connection, trigger("changed", "UPDATE", note("OLD") + &note("NEW"))).await?;
        }
        Ok(())
    }

    /// Commits the open transaction; what it noted, which is gone then. One call does both: the thread of the connection
    /// is a hop away.
    pub(crate) async fn commit(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<Option<Changes>, DatabaseError> {
        let mut rows = sqlx::query(COMMIT).fetch(connection);
        let mut touched = Vec::new();
        while let Some(row) = rows.try_next().await? {
            if touched.len() > MAX_LISTED {
                continue;
            }
            let row = Row(Inner::Sqlite(row));
            let index = usize::try_from(row.get::<i64>(0)?).unwrap_or(usize::MAX);
            let table = self.tables.get(index).map_or("", |watched| watched.table);
            let row = Touched { table, key: (row.get(1)?, row.get(2)?) };
            // A unit often changes a row that it has made.
            if touched.last() != Some(&row) {
                touched.push(row);
            }
        }
        Ok(match touched.len() {
            0 => None,
            listed if listed > MAX_LISTED => Some(Changes::TooMany),
            _ => Some(Changes::Rows(touched)),
        })
    }
}

async fn run(connection: &mut SqliteConnection, statement: String) -> Result<(), DatabaseError> {
    // Texts of this file and names of tables from the source: nothing that anybody sends.
    sqlx::query(AssertSqlSafe(statement)).execute(connection).await?;
    Ok(())
}
