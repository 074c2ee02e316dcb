//! A PostgreSQL server for tests: the one of `BERTH_TEST_POSTGRES`, else a private one in a temporary folder.

use std::{
    net::TcpListener,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::sync::OnceCell;

use crate::janitor;

/// A server and how to reach it.
#[derive(Debug)]
pub struct Postgres {
    /// Ends in the name of a database that one may connect to.
    url: String,
    child: Mutex<Option<Child>>,
}

impl Postgres {
    /// The server that all tests of this process share.
    pub async fn shared() -> &'static Self {
        static SERVER: OnceCell<Postgres> = OnceCell::const_new();
        SERVER
            .get_or_init(|| async {
                match std::env::var("BERTH_TEST_POSTGRES") {
                    Ok(url) => Self { url, child: Mutex::new(None) },
                    Err(_) => Self::start().await.unwrap(),
                }
            })
            .await
    }

    /// Starts a private server. As root it runs as the user `postgres`, since PostgreSQL refuses root.
    ///
    /// # Errors
    /// When PostgreSQL is not installed, or does not start.
    pub async fn start() -> anyhow::Result<Self> {
        let programs = programs()?;
        let folder = janitor::new_folder("berth-postgres-");
        let owner = if rustix::process::geteuid().is_root() { Some(user("postgres")?) } else { None };
        if let Some((uid, gid)) = owner {
            chown(&folder, Some(uid), Some(gid)).context("can't hand the folder to the user postgres")?;
        }
        let command = |program: &str| {
            let mut command = Command::new(programs.join(program));
            command.stdin(Stdio::null()).stdout(Stdio::null()).current_dir(&folder);
            if let Some((uid, gid)) = owner {
                command.uid(uid).gid(gid);
            }
            command
        };
        let data = folder.join("data");
        let made = command("initdb")
            .args([
                "--auth=trust",
                "--username=postgres",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
                "-D",
            ])
            .arg(&data)
            .stderr(Stdio::piped())
            .output()?;
        if !made.status.success() {
            bail!("initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        }
        // The port is free a moment before; a server that loses the race ends, and another port is taken.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            let mut server = command("postgres");
            server.arg("-D").arg(&data).arg("-k").arg(&folder).arg("-p").arg(port.to_string());
            for setting in
                ["listen_addresses=127.0.0.1", "fsync=off", "max_connections=400", "shared_buffers=128MB"]
            {
                server.args(["-c", setting]);
            }
            let log = std::fs::File::create(folder.join("server.log"))?;
            let mut child = server.stderr(log).spawn()?;
            janitor::started(child.id());
            let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
            if answers(&url, &mut child).await? {
                return Ok(Self { url, child: Mutex::new(Some(child)) });
            }
            janitor::ended(child.id());
        }
        let log = std::fs::read_to_string(folder.join("server.log")).unwrap_or_default();
        bail!("PostgreSQL does not start: {log}")
    }

    /// The server's URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Makes an empty database, and gives its URL.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn fresh_database(&self) -> anyhow::Result<String> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let since = std::time::UNIX_EPOCH.elapsed()?.as_millis();
        let name = format!("berth_test_{}_{since}_{number}", std::process::id());
        let mut connection =
            PgConnection::connect(&self.url).await.context("BERTH_TEST_POSTGRES does not answer")?;
        connection.execute(AssertSqlSafe(format!("CREATE DATABASE {name} TEMPLATE template0"))).await?;
        connection.close().await?;
        let (server, _) = self.url.rsplit_once('/').context("the URL names no database")?;
        Ok(format!("{server}/{name}"))
    }

    /// Ends the private server at once, as a crash would.
    pub fn stop(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            let _ended_already = rustix::process::kill_process(Pid::from_child(&child), Signal::QUIT);
            let _status = child.wait();
            janitor::ended(child.id());
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn answers(url: &str, child: &mut Child) -> anyhow::Result<bool> {
    let started = std::time::Instant::now();
    while started.elapsed() < crate::PATIENCE {
        if child.try_wait()?.is_some() {
            return Ok(false);
        }
        if let Ok(connection) = PgConnection::connect(url).await {
            connection.close().await?;
            return Ok(true);
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    bail!("PostgreSQL does not answer")
}

/// The folder of the newest installed version's programs.
fn programs() -> anyhow::Result<PathBuf> {
    let missing = "PostgreSQL is not installed: install it (Debian: postgresql), or set BERTH_TEST_POSTGRES to a server";
    let versions = std::fs::read_dir("/usr/lib/postgresql").context(missing)?;
    let newest = versions
        .flatten()
        .map(|version| version.path().join("bin"))
        .filter(|folder| folder.join("initdb").is_file())
        .max_by_key(|folder| version_of(folder));
    newest.context(missing)
}

fn version_of(programs: &Path) -> u32 {
    let version = programs.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    version.and_then(|version| version.parse().ok()).unwrap_or_default()
}

/// User and group of a name in `/etc/passwd`.
fn user(name: &str) -> anyhow::Result<(u32, u32)> {
    let users = std::fs::read_to_string("/etc/passwd")?;
    let line = users.lines().find(|line| line.split(':').next() == Some(name));
    let fields: Vec<_> = line.with_context(|| format!("there is no user {name}"))?.split(':').collect();
    match fields.as_slice() {
        [_, _, uid, gid, ..] => Ok((uid.parse()?, gid.parse()?)),
        _ => bail!("/etc/passwd has an odd line for {name}"),
    }
}

/// A connection of a test's own.
#[derive(Debug)]
pub struct Sql(PgConnection);

impl Sql {
    pub(crate) async fn connect(url: &str) -> anyhow::Result<Self> {
        Ok(Self(PgConnection::connect(url).await.context("the database does not answer")?))
    }

    /// Runs statements.
    ///
    /// # Errors
    /// When one fails.
    pub async fn run(&mut self, statements: &str) -> anyhow::Result<()> {
        self.0.execute(AssertSqlSafe(statements.to_owned())).await?;
        Ok(())
    }

    /// The texts in the first column of what a query finds.
    ///
    /// # Errors
    /// When it fails.
    pub async fn texts(&mut self, query: &str) -> anyhow::Result<Vec<String>> {
        Ok(sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_all(&mut self.0).await?)
    }
}
