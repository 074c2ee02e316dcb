//! Told after each COMMIT which rows it changed: what a process that alone writes a SQLite file keeps of it in memory can
//! so be as new as the file. The engine itself takes the notes, by triggers of the writing connection, so that no unit
//! of work can forget any; cascades are among them.

use std::sync::Arc;

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

/// The most rows that are listed.
const MAX_LISTED: usize = 1000;

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

    /// What the open transaction noted; the notes are gone then.
    pub(crate) async fn changes(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<Option<Changes>, DatabaseError> {
        let listed = i64::try_from(MAX_LISTED + 1).unwrap_or(i64::MAX);
        let query = sqlx::query("SELECT DISTINCT watched, a, b FROM touched_rows LIMIT $1").bind(listed);
        let rows = query.fetch_all(&mut *connection).await?;
        if rows.is_empty() {
            return Ok(None);
        }
        sqlx::query("DELETE FROM touched_rows").execute(&mut *connection).await?;
        if rows.len() > MAX_LISTED {
            return Ok(Some(Changes::TooMany));
        }
        let touched = rows.into_iter().map(|row| {
            let row = Row(Inner::Sqlite(row));
            let index = usize::try_from(row.get::<i64>(0)?).unwrap_or(usize::MAX);
            let table = self.tables.get(index).map_or("", |watched| watched.table);
            Ok(Touched { table, key: (row.get(1)?, row.get(2)?) })
        });
        Ok(Some(Changes::Rows(touched.collect::<Result<_, DatabaseError>>()?)))
    }
}

async fn run(connection: &mut SqliteConnection, statement: String) -> Result<(), DatabaseError> {
    // Texts of this file and names of tables from the source: nothing that anybody sends.
    sqlx::query(AssertSqlSafe(statement)).execute(connection).await?;
    Ok(())
}
