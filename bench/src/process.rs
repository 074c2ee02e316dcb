//! Processes of servers, and what they have used.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};

/// A server that runs on one core. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts `program` on the servers' core, its output thrown away.
    pub(crate) fn start(
        program: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let mut command = Command::new("taskset");
        command.args(["-c", SERVER_CORE, program]).args(arguments).stdin(Stdio::null());
        let output = || match std::env::var_os("BERTH_BENCH_LOG") {
            Some(path) => fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map_or_else(|_| Stdio::null(), Stdio::from),
            None => Stdio::null(),
        };
        command.stdout(output()).stderr(output());
        command.envs(environment.iter().copied());
        let child =
            command.spawn().with_context(|| format!("can't start {program} (taskset is of util-linux)"))?;
        Ok(Self { child })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Seconds of CPU, of its own code and of the kernel for it, so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        let after = stat.rsplit_once(')').context("no command in stat")?.1;
        let fields: Vec<&str> = after.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    /// Bytes of memory that are resident now.
    pub(crate) fn resident(&self) -> anyhow::Result<u64> {
        self.memory("VmRSS:")
    }

    /// Forgets what was resident before.
    pub(crate) fn forget_peak(&self) -> anyhow::Result<()> {
        // proc(5): 5 resets the peak to what is resident now.
        fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").context("can't reset a peak")
    }

    /// The most bytes of memory that were resident since [`Self::forget_peak`].
    pub(crate) fn peak_resident(&self) -> anyhow::Result<u64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, what: &str) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(what)).context("no such figure")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
    }

    /// Asks it to end, and waits for that.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        // A child that was not waited for: the number is its own.
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::TERM,
        )?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits until something listens.
    pub(crate) async fn listens(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        let began = Instant::now();
        while tokio::net::TcpStream::connect(address).await.is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended: {status}; set BERTH_BENCH_LOG to a file to see what it said");
            }
            if began.elapsed() > Duration::from_secs(20) {
                bail!("nothing listens on {address} after 20 s");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _gone_already = self.child.wait();
    }
}

/// The core of the servers; the load runs on the other.
const SERVER_CORE: &str = "0";
/// The core of the load.
pub(crate) const LOAD_CORE: usize = 1;

/// Moves a process that others started to the servers' core, with all its threads.
pub(crate) fn move_to_server_core(pid: u32) -> anyhow::Result<()> {
    let moved = Command::new("taskset").args(["-a", "-c", "-p", SERVER_CORE, &pid.to_string()]).output();
    let moved = moved.context("can't start taskset, which is of util-linux")?;
    ensure!(moved.status.success(), "taskset: {}", String::from_utf8_lossy(&moved.stderr));
    Ok(())
}

/// A free port of this machine.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

/// What this process does runs on the load's core from now on.
pub(crate) fn stay_on_load_core() -> anyhow::Result<()> {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(LOAD_CORE);
    rustix::thread::sched_setaffinity(None, &cores).context("this needs a machine with two cores")
}
