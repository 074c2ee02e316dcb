//! Fresh databases for store suites.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use berth_service::{SharedClock, Tasks};
use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};

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
                let Some((url, schema)) = server() else { return Ok(None) };
                let mut options = PostgresOptions::new(url.into(), schema);
                options.max_connections = 12;
                options.acquire_timeout = Duration::from_secs(30);
                Ok(Some(Self::open_postgres(&options, migrations.postgres).await?))
            }
        }
    }

    /// The same as the PostgreSQL one of [`Database::for_tests`], through a pgbouncer in transaction mode with fewer
    /// server connections than clients.
    pub async fn for_tests_pooled(migrations: Migrations) -> Result<Option<Self>, DatabaseError> {
        let Some((url, schema)) = server() else { return Ok(None) };
        let Some(program) = pgbouncer() else { return Ok(None) };
        let mut direct = PgConnection::connect(&url).await?;
        for statement in [
            format!("CREATE ROLE {schema} LOGIN SUPERUSER"),
            format!("ALTER ROLE {schema} SET search_path = {schema}"),
        ] {
            sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut direct).await?;
        }
        direct.close().await?;
        let pooler = Pooler::start(&program, &url, &schema).await?;
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

fn pgbouncer() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join("pgbouncer"))
        .find(|program| program.is_file());
    assert!(
        found.is_some() || std::env::var_os("BERTH_TEST_REQUIRE_POSTGRES").is_none(),
        "pgbouncer has to be installed"
    );
    found
}

/// A running pgbouncer, with a folder for its socket and its log.
struct Pooler {
    process: Child,
    folder: tempfile::TempDir,
}

impl Pooler {
    async fn start(program: &Path, server: &str, role: &str) -> Result<Self, DatabaseError> {
        let options: PgConnectOptions = server.parse().map_err(DatabaseError::from)?;
        let (host, port) = (options.get_host(), options.get_port());
        let database = options.get_database().unwrap_or("postgres");
        let folder = tempfile::tempdir().map_err(sqlx::Error::Io)?;
        let place = folder.path().display();
        let settings = format!(
            "[databases]\n* = host={host} port={port} dbname={database} user={role}\n\
             [pgbouncer]\nlisten_addr =\nunix_socket_dir = {place}\nlogfile = {place}/log\nauth_type = any\n\
             pool_mode = transaction\ndefault_pool_size = 3\n"
        );
        let file = folder.path().join("pgbouncer.ini");
        std::fs::write(&file, settings).map_err(sqlx::Error::Io)?;
        let mut command = Command::new(program);
        command.arg("-q").arg(&file);
        if rustix::process::geteuid().is_root() {
            // It refuses to run as root.
            command.args(["-u", "nobody"]);
            let open = std::fs::Permissions::from_mode(0o777);
            std::fs::set_permissions(folder.path(), open).map_err(sqlx::Error::Io)?;
        }
        let process = command.spawn().map_err(sqlx::Error::Io)?;
        let pooler = Self { process, folder };
        let probe: PgConnectOptions = pooler.url().parse().map_err(DatabaseError::from)?;
        for _ in 0..100 {
            match PgConnection::connect_with(&probe.clone().extra_float_digits(None)).await {
                Ok(connection) => {
                    connection.close().await?;
                    return Ok(pooler);
                }
                Err(sqlx::Error::Io(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(error) => return Err(error.into()),
            }
        }
        Err(sqlx::Error::PoolTimedOut.into())
    }

    fn url(&self) -> String {
        let folder = self.folder.path().display().to_string().replace('/', "%2F");
        format!("postgres://berth@{folder}:6432/postgres")
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
