//! A private Redis server, which a test may stop, freeze, empty and start again.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal};

use crate::janitor;

/// Its password, which stands in the URL.
const PASSWORD: &str = "redis-password-of-the-kit";

/// A server on a port of its own, which it keeps.
#[derive(Debug)]
pub struct Redis {
    folder: PathBuf,
    port: u16,
    child: Mutex<Option<Child>>,
}

impl Redis {
    /// Starts a server.
    ///
    /// # Errors
    /// When Redis is not installed, or does not start.
    pub fn start() -> anyhow::Result<Self> {
        let folder = janitor::new_folder("berth-redis-");
        // The port is free a moment before; a server that loses the race ends, and another port is taken.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            let redis = Self { folder: folder.clone(), port, child: Mutex::new(None) };
            if redis.start_again().is_ok() {
                return Ok(redis);
            }
        }
        let log = std::fs::read_to_string(folder.join("redis.log")).unwrap_or_default();
        bail!("Redis does not start: {log}")
    }

    /// Starts it after [`Self::kill`], empty, on the same port.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_again(&self) -> anyhow::Result<()> {
        let log = std::fs::File::create(self.folder.join("redis.log"))?;
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--requirepass", PASSWORD])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no", "--dir"])
            .arg(&self.folder)
            .stdin(Stdio::null())
            .stdout(log)
            .spawn()
            .context("Redis is not installed: install it (Debian: redis-server)")?;
        janitor::started(child.id());
        *self.child.lock().unwrap() = Some(child);
        let started = Instant::now();
        while started.elapsed() < crate::PATIENCE {
            if self.ask("PING").is_ok_and(|answer| answer == "+PONG") {
                return Ok(());
            }
            if self.child.lock().unwrap().as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None))) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.kill();
        bail!("Redis does not answer")
    }

    /// Where it is, with its password.
    pub fn url(&self) -> String {
        format!("redis://:{PASSWORD}@127.0.0.1:{}", self.port)
    }

    /// What stands in the URL and nowhere else.
    pub fn password(&self) -> &'static str {
        PASSWORD
    }

    /// The first line of the answer to a command, such as `FLUSHALL`.
    ///
    /// # Errors
    /// When there is none.
    pub fn ask(&self, command: &str) -> anyhow::Result<String> {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port))?;
        connection.set_read_timeout(Some(crate::PATIENCE))?;
        write!(connection, "AUTH {PASSWORD}\r\n{command}\r\n")?;
        let mut lines = BufReader::new(connection).lines();
        let authorised = lines.next().context("no answer")??;
        if authorised != "+OK" {
            bail!("{authorised}");
        }
        Ok(lines.next().context("no answer")??)
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            let _ended_already = child.kill();
            let _status = child.wait();
            janitor::ended(child.id());
        }
    }

    /// Has it hold its connections and answer nothing, until [`Self::thaw`].
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Ends [`Self::freeze`].
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = self.child.lock().unwrap().as_ref() {
            // Not waited for yet, so the number is still its own, even when it has ended.
            let _ended_already = rustix::process::kill_process(Pid::from_child(child), signal);
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
