//! A unit of work's hands: statements inside one transaction.

use berth_service::Timestamp;
use prometheus_client::metrics::counter::Counter;
use sqlx::{Postgres, SqliteConnection};

use crate::{Arg, DatabaseError, Engine, Row, Statement, args, value};

/// The open transaction of a unit of work. The unit runs statements; beginning, committing and rolling back are not
/// its business.
pub struct Transaction {
    pub(crate) connection: Connection,
    pub(crate) now: Timestamp,
    /// The first error that this transaction can't outlive.
    pub(crate) broken: Option<DatabaseError>,
    /// Counts what it asks.
    pub(crate) statements: Counter,
}

pub(crate) enum Connection {
    Sqlite(Box<SqliteConnection>),
    Postgres { transaction: Box<sqlx::Transaction<'static, Postgres>>, persistent: bool },
}

impl Transaction {
    /// The time of this transaction: the database's clock on PostgreSQL, the injected one on SQLite.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Which engine this is.
    pub fn engine(&self) -> Engine {
        match self.connection {
            Connection::Sqlite(_) => Engine::Sqlite,
            Connection::Postgres { .. } => Engine::Postgres,
        }
    }

    /// Runs a statement and counts the rows it touched.
    pub async fn execute(&mut self, statement: &Statement, args: Vec<Arg>) -> Result<u64, DatabaseError> {
        self.statements.inc();
        let outcome = match &mut self.connection {
            Connection::Sqlite(connection) => {
                let bound = value::sqlite_arguments(args)?;
                let query = sqlx::query_with(statement.sqlite, bound);
                query.execute(&mut **connection).await.map(|done| done.rows_affected())
            }
            Connection::Postgres { transaction, persistent } => {
                let bound = value::postgres_arguments(args)?;
                let query = sqlx::query_with(statement.postgres, bound).persistent(*persistent);
                query.execute(&mut ***transaction).await.map(|done| done.rows_affected())
            }
        };
        outcome.map_err(|error| self.note(error))
    }

    /// The first row, or none.
    pub async fn optional(
        &mut self,
        statement: &Statement,
        args: Vec<Arg>,
    ) -> Result<Option<Row>, DatabaseError> {
        self.statements.inc();
        let outcome = match &mut self.connection {
            Connection::Sqlite(connection) => {
                let bound = value::sqlite_arguments(args)?;
                let row = sqlx::query_with(statement.sqlite, bound).fetch_optional(&mut **connection).await;
                row.map(|row| row.map(|row| Row(value::Inner::Sqlite(row))))
            }
            Connection::Postgres { transaction, persistent } => {
                let bound = value::postgres_arguments(args)?;
                let query = sqlx::query_with(statement.postgres, bound).persistent(*persistent);
                let row = query.fetch_optional(&mut ***transaction).await;
                row.map(|row| row.map(|row| Row(value::Inner::Postgres(row))))
            }
        };
        outcome.map_err(|error| self.note(error))
    }

    /// The first row of a statement that always has one.
    pub async fn one(&mut self, statement: &Statement, args: Vec<Arg>) -> Result<Row, DatabaseError> {
        self.optional(statement, args).await?.ok_or_else(|| sqlx::Error::RowNotFound.into())
    }

    /// All rows. The statement bounds their number.
    pub async fn all(&mut self, statement: &Statement, args: Vec<Arg>) -> Result<Vec<Row>, DatabaseError> {
        self.statements.inc();
        let outcome = match &mut self.connection {
            Connection::Sqlite(connection) => {
                let bound = value::sqlite_arguments(args)?;
                let rows = sqlx::query_with(statement.sqlite, bound).fetch_all(&mut **connection).await;
                rows.map(|rows| rows.into_iter().map(|row| Row(value::Inner::Sqlite(row))).collect())
            }
            Connection::Postgres { transaction, persistent } => {
                let bound = value::postgres_arguments(args)?;
                let query = sqlx::query_with(statement.postgres, bound).persistent(*persistent);
                let rows = query.fetch_all(&mut ***transaction).await;
                rows.map(|rows| rows.into_iter().map(|row| Row(value::Inner::Postgres(row))).collect())
            }
        };
        outcome.map_err(|error| self.note(error))
    }

    /// The next value of a sequence: greater than every value handed out before. Gaps are normal.
    ///
    /// SQLite keeps it as a row of `sequences(name, value)`, PostgreSQL as the sequence `<name>_sequence`; the
    /// service's first migration makes both.
    pub async fn sequence(&mut self, name: &'static str) -> Result<i64, DatabaseError> {
        let key = match self.engine() {
            Engine::Sqlite => name.to_owned(),
            Engine::Postgres => format!("{name}_sequence"),
        };
        self.one(&NEXT, args![key]).await?.get(0)
    }

    /// The error with which a unit asks to run again from its start, because another transaction came between and the
    /// locks can't be had in order any more. That counts as a restart. On SQLite nothing comes between.
    pub fn again(&mut self) -> DatabaseError {
        let error = DatabaseError::Again(None);
        if self.engine() == Engine::Postgres && self.broken.is_none() {
            self.broken = Some(error.clone());
        }
        error
    }

    /// BEGIN, SAVEPOINT and the like; SQLite's writer only.
    pub(crate) async fn control(&mut self, statement: &'static str) -> Result<(), DatabaseError> {
        let Connection::Sqlite(connection) = &mut self.connection else { return Ok(()) };
        self.statements.inc();
        sqlx::query(statement).execute(&mut **connection).await?;
        Ok(())
    }

    fn note(&mut self, error: sqlx::Error) -> DatabaseError {
        let error = DatabaseError::from(error);
        // PostgreSQL ends the transaction at any error; SQLite only undoes the statement, unless the file is at fault.
        let ends = match self.connection {
            Connection::Sqlite(_) => error.ends_transaction(),
            Connection::Postgres { .. } => true,
        };
        if ends && self.broken.is_none() {
            self.broken = Some(error.clone());
        }
        error
    }
}

pub(crate) const NEXT: Statement = Statement {
    sqlite: "UPDATE sequences SET value = value + 1 WHERE name = $1 RETURNING value",
    postgres: "SELECT nextval($1::text::regclass)",
};

impl std::fmt::Debug for Transaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transaction").field("engine", &self.engine()).field("broken", &self.broken).finish()
    }
}
