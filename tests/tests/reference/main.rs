//! A second truth: random sequences of requests, with crashes and cut bodies among them, go to the service and to a
//! registry in memory that was written from the specification; every answer is compared, and everything at the end.
//!
//! A sequence is a seed. `BERTH_SEED` runs that one, else the first ones of a constant; a failure is made shorter and
//! printed.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test ends with what can't be had, and says what it did for whoever has to repeat it"
)]

mod answer;
mod collect;
mod manifest;
mod pool;
mod reduce;
mod registry;
mod request;
mod step;
mod trial;
mod upload;
mod wire;

use std::time::{Duration, Instant};

use berth_testkit::{Content, Deployment, Engine, Layout, Setting};

use reduce::Runner;
use step::{Dice, Rates, Step};

/// What is run in one setting.
struct Plan {
    setting: Setting,
    /// Milliseconds; none: nothing is collected.
    floor: Option<u64>,
    sequences: usize,
    steps: usize,
    /// No new sequence is begun after this.
    budget: Duration,
    rates: Rates,
}

/// Where the seeds begin, and how many there are.
fn seeds(plan: &Plan) -> (u64, usize) {
    match std::env::var("BERTH_SEED") {
        Ok(seed) => (seed.parse().expect("BERTH_SEED is a number"), 1),
        Err(_) => (1, plan.sequences),
    }
}

fn steps(seed: u64, count: usize, rates: Rates) -> Vec<Step> {
    let mut content = Content::seeded(seed);
    let mut dice = Dice(&mut content);
    (0..count).map(|_| dice.step(rates)).collect()
}

async fn deployment(setting: Setting, floor: Option<u64>) -> Deployment {
    let mut builder = Deployment::builder(setting);
    if let Some(floor) = floor {
        builder = builder
            .with_env("BERTH__METADATA__REVIEW_FLOOR_SECONDS", (floor / 1000).to_string())
            .with_env("BERTH__METADATA__REVIEW_DELAY_SECONDS", "0")
            .with_env("BERTH__METADATA__OBJECT_GRACE_SECONDS", "1")
            .with_env("BERTH__METADATA__COLLECTION_POLL_SECONDS", "1");
    }
    builder.start().await.unwrap()
}

async fn compare(plan: Plan) {
    let began = Instant::now();
    let runner = Runner::new(deployment(plan.setting, plan.floor).await, plan.floor);
    let (first, count) = seeds(&plan);
    let mut done = 0;
    for seed in first..first + count as u64 {
        if began.elapsed() > plan.budget {
            break;
        }
        let steps = steps(seed, plan.steps, plan.rates);
        if let Err(error) = runner.run(&steps).await {
            let shorter = runner.shorten(&steps, Duration::from_secs(120)).await;
            panic!("BERTH_SEED={seed} on {:?}:\n{error}\n\nshorter:\n{shorter}", plan.setting);
        }
        done += 1;
    }
    eprintln!(
        "{:?}: {done} sequences of {} steps from BERTH_SEED={first} in {:?}: {}",
        plan.setting,
        plan.steps,
        began.elapsed(),
        runner.summary()
    );
}

const SHORT: Rates = Rates { kills: 60, cuts: 40, waits: 0 };

fn short(layout: Layout, engine: Engine) -> Plan {
    Plan {
        setting: Setting::new(layout, engine),
        floor: None,
        sequences: 10,
        steps: 100,
        budget: Duration::from_secs(40),
        rates: SHORT,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_answers_as_the_reference_in_one_process_on_sqlite() {
    compare(short(Layout::OneProcess, Engine::Sqlite)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_answers_as_the_reference_in_one_process_on_postgres() {
    compare(short(Layout::OneProcess, Engine::Postgres)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_answers_as_the_reference_with_roles_apart_on_sqlite() {
    compare(short(Layout::RolesApart, Engine::Sqlite)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_answers_as_the_reference_with_roles_apart_on_postgres() {
    compare(short(Layout::RolesApart, Engine::Postgres)).await;
}
