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
mod client;
mod collect;
mod manifest;
mod pool;
mod reduce;
mod registry;
mod request;
mod stage;
mod step;
mod trial;
mod upload;
mod wire;

use std::time::{Duration, Instant};

use berth_testkit::{Content, Deployment, Engine, Layout, Setting};

use reduce::Runner;
use stage::Stage;
use step::{Dice, Rates, Step};

/// What is run in one setting.
struct Plan {
    setting: Setting,
    /// Milliseconds; none: nothing is collected.
    floor: Option<u64>,
    /// Clients at once, of which the first one causes the crashes.
    clients: usize,
    sequences: usize,
    steps: usize,
    /// No new sequence is begun after this.
    budget: Duration,
}

impl Plan {
    fn rates(&self, client: usize) -> Rates {
        let kills = if client == 0 { 60 } else { 0 };
        Rates { kills, cuts: 40, waits: if self.floor.is_some() { 20 } else { 0 } }
    }

    /// The sequences of a seed, one for each client.
    fn sequences(&self, seed: u64) -> Vec<Vec<Step>> {
        let clients = 0..self.clients;
        clients
            .map(|client| {
                let mut content = Content::seeded(seed.wrapping_mul(1_000).wrapping_add(client as u64));
                let mut dice = Dice(&mut content);
                (0..self.steps).map(|_| dice.step(self.rates(client))).collect()
            })
            .collect()
    }

    async fn stage(&self) -> Stage {
        let mut builder = Deployment::builder(self.setting);
        if let Some(floor) = self.floor {
            builder = builder
                .with_env("BERTH__METADATA__REVIEW_FLOOR_SECONDS", (floor / 1000).to_string())
                .with_env("BERTH__METADATA__REVIEW_DELAY_SECONDS", "0")
                .with_env("BERTH__METADATA__OBJECT_GRACE_SECONDS", "1")
                .with_env("BERTH__METADATA__COLLECTION_POLL_SECONDS", "1");
        }
        Stage::new(builder.start().await.unwrap(), self.floor)
    }
}

async fn compare(plan: Plan) {
    let (first, count) = match std::env::var("BERTH_SEED") {
        Ok(seed) => (seed.parse().expect("BERTH_SEED is a number"), 1),
        Err(_) => (1, plan.sequences as u64),
    };
    let runner = Runner::new(plan.stage().await);
    let began = Instant::now();
    let mut done = 0;
    for seed in first..first + count {
        if began.elapsed() > plan.budget {
            break;
        }
        let sequences = plan.sequences(seed);
        let outcome = match &sequences[..] {
            [steps] => runner.run(steps).await,
            _ => runner.run_together(&sequences).await,
        };
        if let Err(error) = outcome {
            let shorter = match &sequences[..] {
                [steps] => runner.shorten(steps, Duration::from_secs(120)).await,
                _ => "several clients' sequences are not made shorter".to_owned(),
            };
            panic!("BERTH_SEED={seed} on {:?}:\n{error}\n\nshorter:\n{shorter}", plan.setting);
        }
        done += 1;
    }
    let (setting, clients, took) = (plan.setting, plan.clients, began.elapsed());
    eprintln!(
        "{setting:?}, {clients} clients: {done} sequences from seed {first} in {took:?}: {}",
        runner.summary()
    );
}

/// The floor where things are collected.
const FLOOR: u64 = 2_000;

fn short(layout: Layout, engine: Engine) -> Plan {
    Plan {
        setting: Setting::new(layout, engine),
        floor: None,
        clients: 1,
        sequences: 8,
        steps: 120,
        budget: Duration::from_secs(12),
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_clients_beside_collection_in_one_process_on_sqlite() {
    compare(Plan { floor: Some(FLOOR), clients: 3, ..short(Layout::OneProcess, Engine::Sqlite) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_clients_beside_collection_with_roles_apart_on_postgres() {
    compare(Plan { floor: Some(FLOOR), clients: 3, ..short(Layout::RolesApart, Engine::Postgres) }).await;
}
