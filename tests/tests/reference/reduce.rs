//! Runs sequences on one deployment, and makes those that fail shorter.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    pool::Pool,
    stage::Stage,
    step::Step,
    trial::{Counts, Trial},
};

/// Runs trials on a deployment, each in a namespace of its own.
pub(crate) struct Runner {
    stage: Stage,
    trials: AtomicUsize,
    total: Mutex<(Counts, BTreeMap<String, usize>)>,
}

impl Runner {
    pub(crate) fn new(stage: Stage) -> Self {
        Self { stage, trials: AtomicUsize::new(1), total: Mutex::default() }
    }

    /// One trial; what happened and where it went wrong.
    pub(crate) async fn run(&self, steps: &[Step]) -> Result<(), String> {
        self.run_with(steps, None).await
    }

    /// Several at once, with the same content.
    pub(crate) async fn run_together(&self, sequences: &[Vec<Step>]) -> Result<(), String> {
        let salt = format!("shared{}", self.trials.load(Ordering::Relaxed));
        let trials = sequences.iter().map(|steps| self.run_with(steps, Some(&salt)));
        futures::future::try_join_all(trials).await.map(|_| ())
    }

    async fn run_with(&self, steps: &[Step], salt: Option<&str>) -> Result<(), String> {
        self.stage.ensure().await.map_err(|error| format!("{error:#}"))?;
        // In the order of the numbers, so that nothing is listed after a trial's own repositories.
        let number = self.trials.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("trial{number:06}");
        let pool = Pool::new(&namespace, salt.unwrap_or(&namespace));
        let trial = Trial::new(&self.stage, pool).await;
        let mut trial = trial.map_err(|error| format!("{error:#}"))?;
        let outcome = trial.run(steps).await;
        let mut total = self.total.lock().unwrap();
        total.0.add(trial.counts);
        for (status, times) in &trial.statuses {
            *total.1.entry(status.clone()).or_default() += times;
        }
        outcome.map_err(|error| {
            let last = trial.history.len().saturating_sub(60);
            format!("{}\n{error:#}", trial.history[last..].join("\n"))
        })
    }

    /// Leaves out steps, and then faults, as long as what is left fails.
    pub(crate) async fn shorten(&self, steps: &[Step], limit: Duration) -> String {
        let began = Instant::now();
        let mut best = steps.to_vec();
        let mut error = "it did not fail again".to_owned();
        let mut size = best.len().div_ceil(2);
        while size > 0 && began.elapsed() < limit {
            let mut start = 0;
            let mut progress = false;
            while start < best.len() && began.elapsed() < limit {
                let end = best.len().min(start + size);
                let candidate: Vec<Step> = [&best[..start], &best[end..]].concat();
                match self.run(&candidate).await {
                    Err(found) => {
                        (best, error, progress) = (candidate, found, true);
                    }
                    Ok(()) => start = end,
                }
            }
            if !progress || size > 1 {
                size /= 2;
            }
        }
        for number in 0..best.len() {
            let mut candidate = best.clone();
            if candidate[number].fault.take().is_some()
                && began.elapsed() < limit
                && let Err(found) = self.run(&candidate).await
            {
                (best, error) = (candidate, found);
            }
        }
        let listed: Vec<_> = best.iter().map(|step| format!("{step:?}")).collect();
        format!("{}\n\n{error}", listed.join("\n"))
    }

    pub(crate) fn summary(&self) -> String {
        let total = self.total.lock().unwrap();
        let (kills, deaths) = self.stage.ends();
        format!("{kills} killed, {deaths} died, {:?}, {:?}", total.0, total.1)
    }
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.lost += other.lost;
        self.forked += other.forked;
        self.resolved += other.resolved;
        self.collected += other.collected;
    }
}
