//! One way to a relational database for all stores: SQLite in one process, PostgreSQL in a fleet.
//!
//! A store speaks in one-shot units of work ([`Database::write`]) and single-statement reads; it never holds an open
//! transaction across anything but SQL. What differs between the engines (group commit or restarts, whose clock,
//! how lists are bound) ends here; a statement that has to differ has its two texts side by side ([`statements!`]).

mod error;
pub mod idempotency;
mod lock;
mod open;
mod postgres;
mod sqlite;
mod statement;
pub mod tasks;
#[cfg(any(test, feature = "testing"))]
mod testing;
#[cfg(test)]
mod tests;
mod transaction;
mod value;
mod watch;

pub use error::{Constraint, DatabaseError};
pub use idempotency::{Once, OnceError};
pub use lock::{DataLock, LockError};
pub use open::{Database, Engine, Migrations};
pub use postgres::PostgresOptions;
pub use statement::Statement;
pub use transaction::Transaction;
pub use value::{Arg, BytesList, Column, Row, TextList};
pub use watch::{Changes, Freshness, Listener, Since, Touched, Watched};

/// Migrations embedded into the binary; a service passes its own.
pub use sqlx::migrate::Migrator;
