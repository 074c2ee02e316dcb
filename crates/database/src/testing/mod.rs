//! Fresh databases for store suites.

mod pooler;
mod schema;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use berth_service::{SharedClock, Tasks};
use sqlx::{Connection as _, PgConnection};

use crate::{Arg, Database, DatabaseError, Engine, Migrations, Migrator, PostgresOptions, Statement};

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
                let Some((url, schema)) = server() else { return Ok(None) };
                let mut options = PostgresOptions::new(url.into(), schema);
                options.max_connections = 12;
                options.acquire_timeout = Duration::from_secs(30);
                Ok(Some(Self::open_postgres(&options, migrations.postgres).await?))
            }
        }
    }

    /// The same, after a life as an older version: only the migrations up to `version` were there when these rows came.
    pub async fn upgraded_for_tests(
        engine: Engine,
        migrations: Migrations,
        version: i64,
        rows: Vec<(Statement, Vec<Arg>)>,
        clock: SharedClock,
    ) -> Result<Option<Self>, DatabaseError> {
        let older = |all: &Migrator| -> &'static Migrator {
            let older = all.iter().filter(|migration| migration.version <= version).cloned().collect();
            // As static as the others; a test ends.
            Box::leak(Box::new(Migrator::with_migrations(older)))
        };
        let folder = Arc::new(tempfile::tempdir().map_err(sqlx::Error::Io)?);
        let path = folder.path().join("test.db");
        let postgres = match (engine, server()) {
            (Engine::Sqlite, _) => None,
            (Engine::Postgres, None) => return Ok(None),
            (Engine::Postgres, Some((url, schema))) => Some(PostgresOptions::new(url.into(), schema)),
        };
        let open = |migrator: &'static Migrator| {
            let (clock, path, postgres) = (clock.clone(), &path, &postgres);
            async move {
                match postgres {
                    Some(options) => Self::open_postgres(options, migrator).await,
                    None => Self::open_sqlite(path, migrator, clock, &Tasks::new()).await,
                }
            }
        };
        let before = open(older(migrations.of(engine))).await?;
        before
            .write("fill", move |tx| {
                let rows = rows.clone();
                Box::pin(async move {
                    for (statement, args) in &rows {
                        tx.execute(statement, args.clone()).await?;
                    }
                    Ok::<_, DatabaseError>(())
                })
            })
            .await?;
        before.close().await;
        let after = open(migrations.of(engine)).await?;
        Ok(Some(after.keeping(folder)))
    }

    /// The same as the PostgreSQL one of [`Database::for_tests`], through a pgbouncer in transaction mode with fewer
    /// server connections than clients.
    pub async fn for_tests_pooled(migrations: Migrations) -> Result<Option<Self>, DatabaseError> {
        let Some((url, schema)) = server() else { return Ok(None) };
        let Some(program) = pooler::program() else { return Ok(None) };
        let mut direct = PgConnection::connect(&url).await?;
        for statement in [
            format!("CREATE ROLE {schema} LOGIN SUPERUSER"),
            format!("ALTER ROLE {schema} SET search_path = {schema}"),
        ] {
            sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut direct).await?;
        }
        direct.close().await?;
        let pooler = pooler::Pooler::start(&program, &url, &schema).await?;
        let mut options = PostgresOptions::new(pooler.url().into(), schema);
        options.direct_url = Some(url.into());
        options.pooler = true;
        options.max_connections = 12;
        options.acquire_timeout = Duration::from_secs(30);
        let database = Self::open_postgres(&options, migrations.postgres).await?;
        Ok(Some(database.keeping(Arc::new(pooler))))
    }
}

/// The server for tests, and a name for a schema in it that no other test has.
fn server() -> Option<(String, String)> {
    let Ok(url) = std::env::var("BERTH_TEST_POSTGRES") else {
        assert!(
            std::env::var_os("BERTH_TEST_REQUIRE_POSTGRES").is_none(),
            "BERTH_TEST_POSTGRES has to name a server"
        );
        return None;
    };
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
    Some((url, format!("test_{}_{number}_{since}", std::process::id())))
}
