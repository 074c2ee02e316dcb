//! Fresh databases for store suites.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use berth_service::{SharedClock, Tasks};

use crate::{Database, DatabaseError, Engine, Migrations, PostgresOptions};

static COUNTER: AtomicU32 = AtomicU32::new(0);

impl Database {
    /// A fresh database: a SQLite file in a folder that goes with it, or a schema of its own in the PostgreSQL server
    /// that `BERTH_TEST_POSTGRES` names. `None` when that isn't set: the PostgreSQL half can't run here. With
    /// `BERTH_TEST_REQUIRE_POSTGRES` set that is a failure, so that no test run skips it unseen.
    pub async fn for_tests(
        engine: Engine,
        migrations: Migrations,
        clock: SharedClock,
    ) -> Result<Option<Self>, DatabaseError> {
        match engine {
            Engine::Sqlite => {
                let folder = tempfile::tempdir().map_err(sqlx::Error::Io)?;
                let path = folder.path().join("test.db");
                let database = Self::open_sqlite(&path, migrations.sqlite, clock, &Tasks::new()).await?;
                Ok(Some(database.keeping(Arc::new(folder))))
            }
            Engine::Postgres => {
                let Ok(url) = std::env::var("BERTH_TEST_POSTGRES") else {
                    assert!(
                        std::env::var_os("BERTH_TEST_REQUIRE_POSTGRES").is_none(),
                        "BERTH_TEST_POSTGRES has to name a server"
                    );
                    return Ok(None);
                };
                let folder = tempfile::tempdir().map_err(sqlx::Error::Io)?;
                let random: String = folder
                    .path()
                    .file_name()
                    .map(|name| name.to_string_lossy().chars().filter(char::is_ascii_alphanumeric).collect())
                    .unwrap_or_default();
                let number = COUNTER.fetch_add(1, Ordering::Relaxed);
                let schema = format!("test_{}_{number}_{random}", std::process::id());
                let mut options = PostgresOptions::new(url.into(), schema);
                options.max_connections = 12;
                options.acquire_timeout = std::time::Duration::from_secs(30);
                Ok(Some(Self::open_postgres(&options, migrations.postgres).await?))
            }
        }
    }
}
