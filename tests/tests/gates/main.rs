//! What an operation costs in things that can be counted, beside what it cost when somebody last looked: statements, syncs,
//! allocations, bytes copied. Never a time. `baseline.toml` has the figures; `BERTH_GATES=accept` writes them anew.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]
#![allow(clippy::print_stdout, reason = "the figures belong in the log")]

mod baseline;
mod figures;
mod operations;

use berth_testkit::{Deployment, Engine, Layout, Setting};
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use baseline::Baseline;
use figures::{Figures, Meter};
use operations::{Operation, Stand};

/// How often each batch is run. Of each figure the lower quartile counts: what is above came from elsewhere, a checkpoint or a
/// tick of something in the background, and what is below was luck, such as two rows in one page.
const BATCHES: usize = 40;

/// Events wait for the audit trail while somebody else writes there, so that the relay does nothing meanwhile.
async fn hold_the_audit_trail(deployment: &Deployment) -> SqliteConnection {
    let file = deployment.folder().join("berth/instance-manager.db");
    let options = SqliteConnectOptions::new().filename(file);
    let mut holder = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut holder).await.unwrap();
    holder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_operation_costs_more_than_it_did() {
    let counts = Meter::new_file();
    let deployment = Deployment::builder(Setting::EMBEDDED)
        .with_env("LD_PRELOAD", Meter::library().to_str().unwrap())
        .with_env("FILE_RECORDER_COUNTS", counts.path().to_str().unwrap())
        .start()
        .await
        .unwrap();
    let mut meter = Meter::new(counts, deployment.process("berth"));
    let stand = Stand::new(&deployment).await.unwrap();
    let _held = hold_the_audit_trail(&deployment).await;
    let (mut measured, baseline) = (Vec::new(), Baseline::read());
    for operation in Operation::ALL {
        let operations = operation.batch();
        let mut prepared = stand.prepare(operation, operations * (BATCHES + 1)).await.unwrap();
        // Whatever is kept of it in memory is there, and the connection open.
        for _ in 0..operations {
            prepared.once(&stand).await.unwrap();
        }
        meter.learn().await.unwrap();
        let mut costs = Vec::with_capacity(BATCHES);
        for _ in 0..BATCHES {
            let before = meter.begin().await.unwrap();
            for _ in 0..operations {
                prepared.once(&stand).await.unwrap();
            }
            costs.push(meter.end(&before).await.unwrap().each(operations));
        }
        let cost = Figures::lower_quartile(&costs);
        println!("{:<22} {cost}", operation.name());
        assert!(!operation.is_pull() || cost.statements == 0, "{} asks the database", operation.name());
        measured.push((operation, cost));
    }
    baseline.judge(&measured);
}

/// In a fleet a pull asks once, and whoever asks for what was asked before asks again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warm_pull_in_a_fleet_is_one_statement() {
    let setting = Setting::new(Layout::RolesApart, Engine::Postgres);
    let deployment = Deployment::builder(setting).start().await.unwrap();
    let stand = Stand::new(&deployment).await.unwrap();
    let series = r#"berth_database_statements_total{database="metadata"}"#;
    let metadata = deployment.process("metadata");
    for operation in Operation::ALL.into_iter().filter(|operation| operation.is_pull()) {
        let mut prepared = stand.prepare(operation, 0).await.unwrap();
        prepared.once(&stand).await.unwrap();
        let mut least = f64::INFINITY;
        for _ in 0..BATCHES {
            let before = metadata.metric(series).await.unwrap();
            prepared.once(&stand).await.unwrap();
            least = least.min(metadata.metric(series).await.unwrap() - before);
        }
        assert!((least - 1.0).abs() < 0.1, "{}: {least} statements", operation.name());
    }
}
