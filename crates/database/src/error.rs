//! What can go wrong with a database, sorted by what a caller can do about it.

use std::sync::Arc;

use berth_oci::{ErrorCode, Problem};

/// Which constraint a statement ran into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Constraint {
    /// A primary key or unique index.
    Unique,
    /// A foreign key, on either side.
    ForeignKey,
    /// A check or NOT NULL.
    Check,
}

/// A failed statement or unit of work.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The database gives no answer; nothing is known to have been stored. A retry may help.
    #[error("the database does not answer")]
    Unavailable(#[source] Arc<sqlx::Error>),
    /// The disk under the database is full. Nothing was stored.
    #[error("the disk of the database is full")]
    Full(#[source] Arc<sqlx::Error>),
    /// A constraint refused the statement. On PostgreSQL the transaction is over.
    #[error("a {constraint:?} constraint refused the statement")]
    Conflict {
        /// Which kind.
        constraint: Constraint,
        /// The constraint's name, where the engine tells it.
        name: Option<String>,
        /// The driver's error.
        #[source]
        source: Arc<sqlx::Error>,
    },
    /// The transaction has to run again: PostgreSQL asks for it (serialisation failure, deadlock), or the unit itself
    /// does ([`Transaction::again`](crate::Transaction::again)).
    #[error("the transaction has to run again")]
    Again(#[source] Option<Arc<sqlx::Error>>),
    /// A row is locked and the statement said NOWAIT.
    #[error("the row is locked")]
    Locked(#[source] Arc<sqlx::Error>),
    /// The unit of work panicked; nothing of it was stored.
    #[error("the unit of work {0} panicked")]
    Panicked(&'static str),
    /// Anything else: a statement or a column that does not fit.
    #[error("database error: {0}")]
    Driver(#[source] Arc<sqlx::Error>),
}

/// Primary SQLite result codes that end the transaction or mean that the file can't be used now.
const SQLITE_AWAY: [i32; 9] = [5, 6, 7, 8, 9, 10, 11, 14, 26];
const SQLITE_FULL: i32 = 13;

impl DatabaseError {
    fn classify(error: Arc<sqlx::Error>) -> Self {
        match &*error {
            sqlx::Error::Database(cause) => {
                if cause.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
                    Self::of_sqlite(&error, &**cause)
                } else {
                    Self::of_postgres(&error, &**cause)
                }
            }
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unavailable(error),
            _ => Self::Driver(error),
        }
    }

    fn conflict(error: &Arc<sqlx::Error>, cause: &dyn sqlx::error::DatabaseError) -> Option<Self> {
        let constraint = match cause.kind() {
            sqlx::error::ErrorKind::UniqueViolation => Constraint::Unique,
            sqlx::error::ErrorKind::ForeignKeyViolation => Constraint::ForeignKey,
            sqlx::error::ErrorKind::NotNullViolation | sqlx::error::ErrorKind::CheckViolation => {
                Constraint::Check
            }
            _ => return None,
        };
        let name = cause.constraint().map(str::to_owned);
        Some(Self::Conflict { constraint, name, source: Arc::clone(error) })
    }

    fn of_sqlite(error: &Arc<sqlx::Error>, cause: &dyn sqlx::error::DatabaseError) -> Self {
        if let Some(conflict) = Self::conflict(error, cause) {
            return conflict;
        }
        // The extended code keeps the primary one in its low byte.
        let code = cause.code().and_then(|code| code.parse::<i32>().ok()).unwrap_or_default() & 0xff;
        if code == SQLITE_FULL {
            Self::Full(Arc::clone(error))
        } else if SQLITE_AWAY.contains(&code) {
            Self::Unavailable(Arc::clone(error))
        } else {
            Self::Driver(Arc::clone(error))
        }
    }

    fn of_postgres(error: &Arc<sqlx::Error>, cause: &dyn sqlx::error::DatabaseError) -> Self {
        if let Some(conflict) = Self::conflict(error, cause) {
            return conflict;
        }
        let error = Arc::clone(error);
        match cause.code().as_deref().unwrap_or_default() {
            "40001" | "40P01" => Self::Again(Some(error)),
            "55P03" => Self::Locked(error),
            "53100" => Self::Full(error),
            // A statement time-out, and a server that only reads after a fail-over.
            "57014" | "25006" => Self::Unavailable(error),
            code if ["08", "53", "57", "58", "28", "25P"].iter().any(|class| code.starts_with(class)) => {
                Self::Unavailable(error)
            }
            _ => Self::Driver(error),
        }
    }

    /// Whether the transaction may succeed when it runs again: a serialisation failure, a deadlock, or a foreign key
    /// whose row went away between its check and its use.
    pub(crate) fn is_restartable(&self) -> bool {
        matches!(self, Self::Again(_) | Self::Conflict { constraint: Constraint::ForeignKey, .. })
    }

    /// Whether SQLite's transaction can't be trusted any more.
    pub(crate) fn ends_transaction(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Full(_))
    }
}

impl From<sqlx::Error> for DatabaseError {
    fn from(error: sqlx::Error) -> Self {
        Self::classify(Arc::new(error))
    }
}

impl From<sqlx::migrate::MigrateError> for DatabaseError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        match error {
            sqlx::migrate::MigrateError::Execute(error) => error.into(),
            other => Self::from(sqlx::Error::from(other)),
        }
    }
}

impl From<DatabaseError> for Problem {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::Unavailable(_) | DatabaseError::Again(_) | DatabaseError::Locked(_) => {
                Self::new(ErrorCode::Unavailable, "the database does not answer; try again")
            }
            DatabaseError::Full(_) => Self::new(
                ErrorCode::StorageFull,
                "the disk of the database is full; free some room, then try again",
            ),
            DatabaseError::Conflict { .. } | DatabaseError::Panicked(_) | DatabaseError::Driver(_) => {
                Self::new(
                    ErrorCode::Internal,
                    "internal error; the server's log has the cause under the request id",
                )
            }
        }
    }
}
