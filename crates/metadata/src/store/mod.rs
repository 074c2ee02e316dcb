//! The tables: every SQL text, and how rows become types. The units of work are with their nouns.

pub(crate) mod collect_statements;
pub(crate) mod content_statements;
pub(crate) mod list_statements;
pub(crate) mod scrub_statements;
pub(crate) mod sealing_statements;
pub(crate) mod statements;
#[cfg(test)]
mod suite;
pub(crate) mod task_statements;

use berth_database::{BytesList, Database, Engine, Migrations, Row};
use berth_oci::{Digest, ErrorCode};

use crate::error::{Error, Result};

static SQLITE: berth_database::Migrator = sqlx::migrate!("../../migrations/metadata/sqlite");
static POSTGRES: berth_database::Migrator = sqlx::migrate!("../../migrations/metadata/postgres");

/// The migrations of metadata, for both engines.
pub const MIGRATIONS: Migrations = Migrations { sqlite: &SQLITE, postgres: &POSTGRES };

/// The migrations of metadata for one engine.
pub fn migrator(engine: Engine) -> &'static berth_database::Migrator {
    MIGRATIONS.of(engine)
}

/// Reads a digest column.
pub(crate) fn digest(row: &Row, index: usize) -> Result<Digest> {
    stored_digest(&row.get::<Vec<u8>>(index)?)
}

/// Reads a digest column that may be null.
pub(crate) fn optional_digest(row: &Row, index: usize) -> Result<Option<Digest>> {
    row.get::<Option<Vec<u8>>>(index)?.map(|bytes| stored_digest(&bytes)).transpose()
}

fn stored_digest(bytes: &[u8]) -> Result<Digest> {
    Digest::from_bytes(bytes).ok_or_else(|| Error::new(ErrorCode::Internal, "a stored digest can't be read"))
}

/// Reads a size column.
pub(crate) fn size(row: &Row, index: usize) -> Result<u64> {
    // A CHECK keeps sizes from being negative.
    Ok(row.get::<i64>(index)?.unsigned_abs())
}

/// A size as it is stored.
pub(crate) fn stored_size(size: u64) -> Result<i64> {
    i64::try_from(size).map_err(|_| Error::new(ErrorCode::SizeInvalid, "a size has at most 63 bits"))
}

/// Digests as one parameter, in the order given.
pub(crate) fn digests<'a>(digests: impl IntoIterator<Item = &'a Digest>) -> BytesList {
    BytesList(digests.into_iter().map(Digest::to_bytes).collect())
}

/// The clock that reads compare with: the injected one on SQLite; PostgreSQL uses its own, so 0.
pub(crate) fn read_clock(database: &Database, clock: &berth_service::SharedClock) -> i64 {
    match database.engine() {
        Engine::Sqlite => clock.now().0,
        Engine::Postgres => 0,
    }
}
