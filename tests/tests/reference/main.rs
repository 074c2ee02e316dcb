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
mod likely;
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

use std::{
    hash::{BuildHasher as _, RandomState},
    time::{Duration, Instant},
};

use berth_testkit::{Content, Deployment, Engine, Layout, Setting};

use reduce::Runner;
use stage::{Points, Stage};
use step::{Dice, Rates, Step};

/// What is run in one setting.
#[derive(Clone, Copy)]
struct Plan {
    setting: Setting,
    /// Milliseconds; none: nothing is collected.
    floor: Option<u64>,
    /// Processes die by themselves at one in so many crash points.
    one_in: Option<u64>,
    /// Clients at once, of which the first one causes the crashes.
    clients: usize,
    first_seed: u64,
    steps: usize,
    /// No new sequence is begun after this.
    budget: Duration,
}

impl Plan {
    fn rates(&self, client: usize) -> Rates {
        let kills = match (client, self.one_in) {
            (0, None) => 60,
            (0, Some(_)) => 20,
            _ => 0,
        };
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

    async fn stage(&self, seed: u64) -> Stage {
        let mut builder = Deployment::builder(self.setting);
        if let Some(floor) = self.floor {
            builder = builder
                .with_env("BERTH__METADATA__REVIEW_FLOOR_SECONDS", (floor / 1000).to_string())
                .with_env("BERTH__METADATA__REVIEW_DELAY_SECONDS", "0")
                .with_env("BERTH__METADATA__OBJECT_GRACE_SECONDS", "1")
                .with_env("BERTH__METADATA__COLLECTION_POLL_SECONDS", "1");
        }
        let points = self.one_in.map(|one_in| Points { seed, one_in });
        Stage::new(builder.start().await.unwrap(), self.floor, points).await.unwrap()
    }
}

async fn compare(plan: &Plan) {
    let (first, count) = match std::env::var("BERTH_SEED") {
        Ok(seed) => (seed.parse().expect("BERTH_SEED is a number"), 1),
        Err(_) => (plan.first_seed, u64::MAX),
    };
    let runner = Runner::new(plan.stage(first).await);
    let began = Instant::now();
    let mut done = 0;
    while done < count && began.elapsed() < plan.budget {
        let seed = first.wrapping_add(done);
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
            let Plan { setting, clients, steps, .. } = *plan;
            panic!(
                "BERTH_SEED={seed}, {setting:?}, {clients} clients, {steps} steps\n{error}\n\nshorter:\n{shorter}"
            );
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

/// Sequences that are the same every time, as many as fit into a few seconds.
fn short(layout: Layout, engine: Engine) -> Plan {
    let place = u64::from(layout == Layout::RolesApart) * 2 + u64::from(engine == Engine::Postgres);
    Plan {
        setting: Setting::new(layout, engine),
        floor: None,
        one_in: Some(700),
        clients: 1,
        first_seed: 1 + 100 * place,
        steps: 120,
        budget: Duration::from_secs(12),
    }
}

/// Longer ones that are new every time.
fn long(plan: &Plan) -> Plan {
    let first_seed = RandomState::new().hash_one("seed") >> 16;
    Plan { first_seed, steps: 300, budget: Duration::from_secs(200), ..*plan }
}

fn crowd(plan: &Plan) -> Plan {
    Plan { floor: Some(FLOOR), one_in: Some(3_000), clients: 3, budget: Duration::from_secs(8), ..*plan }
}

macro_rules! settings {
    ($($name:ident $long:ident: $plan:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            compare(&$plan).await;
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        #[ignore = "the long form: minutes"]
        async fn $long() {
            compare(&long(&$plan)).await;
        }
    )*};
}

settings! {
    the_answers_are_the_references_in_one_process_on_sqlite long_in_one_process_on_sqlite:
        short(Layout::OneProcess, Engine::Sqlite);
    the_answers_are_the_references_in_one_process_on_postgres long_in_one_process_on_postgres:
        short(Layout::OneProcess, Engine::Postgres);
    the_answers_are_the_references_with_roles_apart_on_sqlite long_with_roles_apart_on_sqlite:
        short(Layout::RolesApart, Engine::Sqlite);
    the_answers_are_the_references_with_roles_apart_on_postgres long_with_roles_apart_on_postgres:
        short(Layout::RolesApart, Engine::Postgres);
    several_clients_beside_collection_in_one_process_on_sqlite long_several_in_one_process_on_sqlite:
        crowd(&short(Layout::OneProcess, Engine::Sqlite));
    several_clients_beside_collection_in_one_process_on_postgres long_several_in_one_process_on_postgres:
        crowd(&short(Layout::OneProcess, Engine::Postgres));
    several_clients_beside_collection_with_roles_apart_on_postgres long_several_with_roles_apart_on_postgres:
        crowd(&short(Layout::RolesApart, Engine::Postgres));
}
