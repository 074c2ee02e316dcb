//! A pgbouncer in transaction mode, for as long as a test runs.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};

use crate::DatabaseError;

/// Where pgbouncer is. Absent, its tests are left out, unless PostgreSQL is required.
pub(super) fn program() -> Option<PathBuf> {
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
pub(super) struct Pooler {
    process: Child,
    folder: tempfile::TempDir,
}

impl Pooler {
    pub(super) async fn start(program: &Path, server: &str, role: &str) -> Result<Self, DatabaseError> {
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

    pub(super) fn url(&self) -> String {
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
