//! One process of the built binary.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use reqwest::Method;
use rustix::process::{Pid, Signal};

use crate::{Client, PASSWORD, PATIENCE, janitor};

/// The binary under test: `BERTH_BIN`, else `berth` of the target folder that this test was built into.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("BERTH_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().unwrap();
    let built = test.ancestors().map(|folder| folder.join("berth")).find(|candidate| candidate.is_file());
    built.expect("there is no berth binary beside this test: run `cargo build` first, or set BERTH_BIN")
}

/// A running, or stopped, process of Berth.
#[derive(Debug)]
pub struct Berth {
    name: String,
    arguments: Vec<String>,
    environment: Mutex<Vec<(String, String)>>,
    running: Mutex<Option<Running>>,
    log: Arc<Mutex<Vec<String>>>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    listeners: BTreeMap<String, SocketAddr>,
}

impl Berth {
    /// A process that is described, not started: `berth` with these arguments, and no password given but by this
    /// environment.
    pub fn new(name: impl Into<String>, arguments: Vec<String>, environment: Vec<(String, String)>) -> Self {
        let environment = Mutex::new(environment);
        Self { name: name.into(), arguments, environment, running: Mutex::new(None), log: Arc::default() }
    }

    /// Every role in one process, on any free ports, with `data` as its folder.
    pub fn single(data: &Path) -> Self {
        let data = data.display().to_string();
        let arguments =
            ["serve", "--data", &data, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
        let mut arguments: Vec<String> = arguments.map(str::to_owned).into();
        arguments.extend(["--log-format".to_owned(), "json".to_owned()]);
        Self::new("berth", arguments, vec![("BERTH_ADMIN_PASSWORD".to_owned(), PASSWORD.to_owned())])
    }

    /// The same with another environment variable, for the next start.
    #[must_use]
    pub fn with_env(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.set_env(name, Some(value.into()));
        self
    }

    /// Sets an environment variable, or takes it away, from the next start on.
    pub fn set_env(&self, name: impl Into<String>, value: Option<String>) {
        let (name, mut environment) = (name.into(), self.environment.lock().unwrap());
        environment.retain(|(known, _)| *known != name);
        environment.extend(value.map(|value| (name, value)));
    }

    /// The name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts the process and waits until it says that it is ready.
    ///
    /// # Errors
    /// When it ends before, or is not ready in time; the end of its log is in the message.
    pub async fn start(&self) -> anyhow::Result<()> {
        self.spawn()?;
        self.wait_ready().await
    }

    /// Starts the process without waiting for anything.
    ///
    /// # Errors
    /// When it runs already, or can't be started.
    pub fn spawn(&self) -> anyhow::Result<()> {
        let mut running = self.running.lock().unwrap();
        if running.is_some() {
            bail!("{} runs already", self.name);
        }
        // The lines of the process before would name its ports.
        self.log.lock().unwrap().clear();
        let program = binary();
        let mut child = Command::new(&program)
            .args(&self.arguments)
            .env_remove("BERTH_ADMIN_PASSWORD")
            .envs(self.environment.lock().unwrap().iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("can't start {}", program.display()))?;
        janitor::started(child.id());
        let output = child.stderr.take().context("no standard error")?;
        let log = Arc::clone(&self.log);
        let mut kept = kept_log(&self.name, child.id());
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(file) = &mut kept {
                    writeln!(file, "{line}").unwrap();
                }
                log.lock().unwrap().push(line);
            }
        });
        *running = Some(Running { child, listeners: BTreeMap::new() });
        Ok(())
    }

    /// Waits until `/readyz` on the admin listener says so.
    ///
    /// # Errors
    /// When the process ends, or is not ready in time.
    pub async fn wait_ready(&self) -> anyhow::Result<()> {
        let http = crate::client::http_client(false);
        let started = Instant::now();
        let mut last = "it has no admin listener yet".to_owned();
        while started.elapsed() < PATIENCE {
            if let Some(status) = self.poll_exit() {
                bail!("{} ended at its start with {status}:\n{}", self.name, self.log_tail());
            }
            if let Some(admin) = self.address("admin") {
                match http.get(format!("http://{admin}/readyz")).send().await {
                    Ok(reply) if reply.status().is_success() => return Ok(()),
                    Ok(reply) => last = reply.text().await.unwrap_or_default(),
                    Err(error) => last = error.to_string(),
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("{} is not ready after {PATIENCE:?}: {last}\n{}", self.name, self.log_tail())
    }

    /// The address of the listener `public`, `admin` or `grpc`, once the log has named it.
    pub fn address(&self, listener: &str) -> Option<SocketAddr> {
        let mut running = self.running.lock().unwrap();
        let running = running.as_mut()?;
        if running.listeners.is_empty() || !running.listeners.contains_key(listener) {
            let log = self.log.lock().unwrap();
            running.listeners = log.iter().filter_map(|line| listening(line)).collect();
        }
        running.listeners.get(listener).copied()
    }

    /// `http://` and the address of the public listener.
    pub fn url(&self) -> String {
        format!("http://{}", self.public_address())
    }

    /// The address of the public listener of a process that is ready.
    pub(crate) fn public_address(&self) -> SocketAddr {
        // It can be ready before the last of its log has been read here.
        let started = Instant::now();
        loop {
            match self.address("public") {
                Some(address) => return address,
                None if started.elapsed() > Duration::from_secs(5) => {
                    panic!("{} has no public listener", self.name)
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.running.lock().unwrap().as_ref().map(|running| running.child.id())
    }

    /// Sends a signal to this child, and to no one else.
    pub fn signal(&self, signal: Signal) {
        let running = self.running.lock().unwrap();
        if let Some(running) = running.as_ref() {
            let pid = Pid::from_child(&running.child);
            // Not waited for yet, so the number is still its own, even when it has ended.
            let _ended_already = rustix::process::kill_process(pid, signal);
        }
    }

    /// SIGTERM: a request to drain and end.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Stops it without its doing, so that what it is asked stays unanswered. Only [`Self::kill`] ends that.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&self) {
        let mut running = self.running.lock().unwrap();
        if let Some(mut running) = running.take() {
            let _ended_already = running.child.kill();
            let _status = running.child.wait();
            janitor::ended(running.child.id());
        }
    }

    fn poll_exit(&self) -> Option<ExitStatus> {
        let mut running = self.running.lock().unwrap();
        let status = running.as_mut()?.child.try_wait().ok()??;
        if let Some(running) = running.take() {
            janitor::ended(running.child.id());
        }
        Some(status)
    }

    /// Waits for the process to end by itself.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub async fn wait_exit(&self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.poll_exit() {
                return Ok(status);
            }
            if started.elapsed() > limit {
                bail!("{} still runs after {limit:?}\n{}", self.name, self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Kills the process if it runs, and starts it again on the same data. Its ports change.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn restart(&self) -> anyhow::Result<()> {
        self.kill();
        self.start().await
    }

    /// The log since the last start.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    fn log_tail(&self) -> String {
        let log = self.log.lock().unwrap();
        log[log.len().saturating_sub(30)..].join("\n")
    }

    /// Everything it counts, from its admin listener, as Prometheus reads it.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        let admin = self.address("admin").context("it does not listen")?;
        let reply = Client::new(format!("http://{admin}")).call(Method::GET, "/metrics").send().await?;
        Ok(String::from_utf8(reply.expect(200)?.body.to_vec())?)
    }

    /// One value of [`Self::metrics`], by its name and labels as they are written there.
    ///
    /// # Errors
    /// When there is none.
    pub async fn metric(&self, series: &str) -> anyhow::Result<f64> {
        let text = self.metrics().await?;
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
        value.with_context(|| format!("no {series} in\n{text}"))
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> Option<u64> {
        self.memory("VmRSS:")
    }

    /// The most memory that was resident since its start, in bytes.
    pub fn peak_resident_bytes(&self) -> Option<u64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, what: &str) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(what))?;
        let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        Some(kibibytes * 1024)
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> Option<usize> {
        Some(std::fs::read_dir(format!("/proc/{}/fd", self.pid()?)).ok()?.count())
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        self.kill();
    }
}

/// With `BERTH_TEST_LOGS` set to a folder, every process leaves its log there, for whoever looks into a failure.
fn kept_log(name: &str, pid: u32) -> Option<File> {
    let folder = PathBuf::from(std::env::var_os("BERTH_TEST_LOGS")?);
    Some(
        File::create(folder.join(format!("{name}-{pid}.log")))
            .expect("BERTH_TEST_LOGS is a folder that exists"),
    )
}

/// Reads `{"fields":{"message":"listening","listener":…,"address":…}}`.
fn listening(line: &str) -> Option<(String, SocketAddr)> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let fields = line.get("fields")?;
    if fields.get("message")?.as_str()? != "listening" {
        return None;
    }
    let address = fields.get("address")?.as_str()?.parse().ok()?;
    Some((fields.get("listener")?.as_str()?.to_owned(), address))
}
