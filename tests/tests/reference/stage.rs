//! A deployment that is killed now and then, while one trial or several use it.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use berth_testkit::{Berth, Deployment};
use tokio::sync::oneshot;

use crate::wire::Wire;

/// For so long after a restart, what has lost its connection may still say so.
const AFTERMATH: Duration = Duration::from_secs(10);

/// A deployment.
pub(crate) struct Stage {
    deployment: Deployment,
    /// Milliseconds; none: nothing is collected.
    pub(crate) floor: Option<u64>,
    /// Held from a death to the end of the restart.
    crashing: tokio::sync::Mutex<()>,
    last: Mutex<Option<Instant>>,
    kills: AtomicUsize,
}

impl Stage {
    pub(crate) fn new(deployment: Deployment, floor: Option<u64>) -> Self {
        let (crashing, last, kills) =
            (tokio::sync::Mutex::default(), Mutex::default(), AtomicUsize::default());
        Self { deployment, floor, crashing, last, kills }
    }

    /// How many processes were killed.
    pub(crate) fn kills(&self) -> usize {
        self.kills.load(Ordering::Relaxed)
    }

    /// One process, or all of them.
    fn victims(&self, victim: usize) -> &[Berth] {
        let processes = self.deployment.processes();
        match victim % (processes.len() + 1) {
            all if all == processes.len() => processes,
            one => &processes[one..=one],
        }
    }

    fn mark(&self) {
        *self.last.lock().unwrap() = Some(Instant::now());
    }

    /// Whether a request may fail now for no other reason than a crash.
    pub(crate) fn is_disturbed(&self) -> bool {
        self.last.lock().unwrap().is_some_and(|last| last.elapsed() < AFTERMATH)
    }

    /// Kills a process, or all, drops `then`, and starts again what was killed.
    pub(crate) async fn crash(&self, victim: usize, then: Option<oneshot::Sender<()>>) -> anyhow::Result<()> {
        let _others_wait = self.crashing.lock().await;
        self.mark();
        for process in self.victims(victim) {
            process.kill();
            self.kills.fetch_add(1, Ordering::Relaxed);
        }
        drop(then);
        self.start(self.victims(victim)).await
    }

    async fn start(&self, processes: &[Berth]) -> anyhow::Result<()> {
        for process in processes {
            process.spawn()?;
        }
        for process in processes {
            process.wait_ready().await?;
        }
        self.mark();
        Ok(())
    }

    /// Starts whatever does not run.
    pub(crate) async fn ensure(&self) -> anyhow::Result<()> {
        let _others_wait = self.crashing.lock().await;
        for process in self.deployment.processes().iter().filter(|process| process.pid().is_none()) {
            process.start().await?;
        }
        Ok(())
    }

    /// A client with a token for these repositories.
    pub(crate) async fn wire(&self, repositories: &[String]) -> anyhow::Result<Wire> {
        loop {
            let guard = self.crashing.lock().await;
            let client = self.deployment.client();
            drop(guard);
            match Wire::new(client, repositories).await {
                Err(_) if self.is_disturbed() => tokio::time::sleep(Duration::from_millis(100)).await,
                outcome => return outcome,
            }
        }
    }

    /// The same client at the gateway's new port. Only for who knows that nobody is being killed now, or has no matter.
    pub(crate) fn reconnected(&self, wire: &Wire) -> Wire {
        match self.crashing.try_lock() {
            Ok(_nobody) => wire.at(self.deployment.client()),
            Err(_somebody) => wire.clone(),
        }
    }

    /// The same client after the end of a crash.
    pub(crate) async fn recovered(&self, wire: &Wire) -> Wire {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let _nobody = self.crashing.lock().await;
        wire.at(self.deployment.client())
    }
}
