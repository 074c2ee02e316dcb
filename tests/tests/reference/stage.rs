//! A deployment that is killed now and then, while one trial or several use it; or whose processes die by themselves at
//! random places between a write, a commit and an answer.

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
/// So long after a failed answer, whoever died has been noticed.
const NOTICED: Duration = Duration::from_secs(2);

/// Where processes die by themselves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Points {
    pub(crate) seed: u64,
    /// At one in so many of the crash points that they come by.
    pub(crate) one_in: u64,
}

/// A deployment.
pub(crate) struct Stage {
    deployment: Deployment,
    /// Milliseconds; none: nothing is collected.
    pub(crate) floor: Option<u64>,
    points: Option<Points>,
    /// Held from a death to the end of the restart.
    crashing: tokio::sync::Mutex<()>,
    last: Mutex<Option<Instant>>,
    starts: AtomicUsize,
    kills: AtomicUsize,
    deaths: AtomicUsize,
}

impl Stage {
    pub(crate) async fn new(
        deployment: Deployment,
        floor: Option<u64>,
        points: Option<Points>,
    ) -> anyhow::Result<Self> {
        let stage = Self {
            deployment,
            floor,
            points,
            crashing: tokio::sync::Mutex::default(),
            last: Mutex::default(),
            starts: AtomicUsize::default(),
            kills: AtomicUsize::default(),
            deaths: AtomicUsize::default(),
        };
        if points.is_some() {
            // From the next start on.
            stage.crash(stage.deployment.processes().len(), None).await?;
        }
        Ok(stage)
    }

    /// How many processes were killed, and how many died by themselves.
    pub(crate) fn ends(&self) -> (usize, usize) {
        (self.kills.load(Ordering::Relaxed), self.deaths.load(Ordering::Relaxed))
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

    /// Whether processes may die by themselves.
    pub(crate) fn is_armed(&self) -> bool {
        self.points.is_some()
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
        self.start_dead().await
    }

    /// After a request that failed: starts again who died. False when nobody did.
    pub(crate) async fn revive(&self) -> anyhow::Result<bool> {
        if !self.is_armed() {
            return Ok(false);
        }
        let _others_wait = self.crashing.lock().await;
        let began = Instant::now();
        while !self.is_anyone_dead().await {
            if began.elapsed() > NOTICED {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.mark();
        self.start_dead().await?;
        Ok(true)
    }

    async fn is_anyone_dead(&self) -> bool {
        let mut dead = false;
        for process in self.deployment.processes() {
            if process.pid().is_some() && process.wait_exit(Duration::ZERO).await.is_ok() {
                self.deaths.fetch_add(1, Ordering::Relaxed);
            }
            dead |= process.pid().is_none();
        }
        dead
    }

    /// Starts whoever is dead until everyone is ready.
    async fn start_dead(&self) -> anyhow::Result<()> {
        for attempt in 0.. {
            for process in self.deployment.processes().iter().filter(|process| process.pid().is_none()) {
                // Who dies again and again on the way up is left alone.
                let points = self.points.filter(|_| attempt < 3).map(|Points { seed, one_in }| {
                    let number = self.starts.fetch_add(1, Ordering::Relaxed) as u64;
                    format!("{}:{one_in}", seed.wrapping_mul(1_000).wrapping_add(number))
                });
                process.set_env("BERTH_CRASH_POINTS", points);
                process.spawn()?;
            }
            let ready = async {
                for process in self.deployment.processes() {
                    process.wait_ready().await?;
                }
                Ok::<_, anyhow::Error>(())
            };
            let dead = async {
                while !self.is_anyone_dead().await {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::select! {
                biased;
                () = dead => {}
                outcome = ready => {
                    if !self.is_anyone_dead().await {
                        outcome?;
                        break;
                    }
                }
            }
        }
        self.mark();
        Ok(())
    }

    /// Starts whatever does not run.
    pub(crate) async fn ensure(&self) -> anyhow::Result<()> {
        let _others_wait = self.crashing.lock().await;
        if self.is_anyone_dead().await { self.start_dead().await } else { Ok(()) }
    }

    /// A client with a token for these repositories.
    pub(crate) async fn wire(&self, repositories: &[String]) -> anyhow::Result<Wire> {
        loop {
            let guard = self.crashing.lock().await;
            let client = self.deployment.client();
            drop(guard);
            match Wire::new(client, repositories).await {
                Err(_) if self.revive().await? => {}
                Err(_) if self.is_disturbed() => tokio::time::sleep(Duration::from_millis(100)).await,
                outcome => return outcome,
            }
        }
    }

    /// The same client after the end of a crash.
    pub(crate) async fn recovered(&self, wire: &Wire) -> Wire {
        let _nobody = self.crashing.lock().await;
        wire.at(self.deployment.client())
    }
}
