//! What many instances cost: memory of each process, and how long it takes until a gateway knows of a change.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use berth_testkit::{Berth, Deployment, Engine, Layout, Setting};
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{http::Connection, latency::Latencies};

const DOMAIN: &str = "berth.bench";
const REGION: &str = "eu-central-1";
/// How often somebody looks.
const LOOK: Duration = Duration::from_micros(500);

fn request(instance: &str) -> Vec<u8> {
    format!("GET /v2/ HTTP/1.1\r\nHost: {instance}-registry.{REGION}.{DOMAIN}\r\n\r\n").into_bytes()
}

/// Asks at an instance's host until the status is this; how long it took from `began`.
async fn until(
    deployment: &Deployment,
    instance: &str,
    status: u16,
    began: Instant,
) -> anyhow::Result<Duration> {
    let mut connection = Connection::open(deployment.address()).await?;
    loop {
        if connection.exchange(&request(instance), &[]).await?.status == status {
            return Ok(began.elapsed());
        }
        ensure!(began.elapsed() < Duration::from_secs(60), "{instance} does not answer {status} in 60 s");
        tokio::time::sleep(LOOK).await;
    }
}

fn resident(process: &Berth) -> anyhow::Result<u64> {
    let pid = process.pid().context("it does not run")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no such figure")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? / 1024)
}

/// Copies the row of the first one, under names and ids of their own.
async fn write(deployment: &Deployment, instances: usize) -> anyhow::Result<()> {
    let file = deployment.folder().join("instance-manager/instance-manager.db");
    let mut database = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(file)).await?;
    let columns: Vec<(String,)> =
        sqlx::query_as("SELECT name FROM pragma_table_info('instances') WHERE name NOT IN ('id', 'name')")
            .fetch_all(&mut database)
            .await?;
    let columns: Vec<String> = columns.into_iter().map(|(name,)| name).collect();
    let columns = columns.join(", ");
    sqlx::query("BEGIN IMMEDIATE").execute(&mut database).await?;
    let copy = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) \
         INSERT INTO instances (id, name, {columns}) \
         SELECT printf('01Z%023d', i), 'tenant-' || i, {columns} FROM instances, n WHERE name = 'tenant-0'",
        instances - 1
    );
    sqlx::query(sqlx::AssertSqlSafe(copy)).execute(&mut database).await?;
    sqlx::query("UPDATE settings SET revision = revision + 1").execute(&mut database).await?;
    sqlx::query("COMMIT").execute(&mut database).await?;
    Ok(database.close().await?)
}

/// Measures with one instance beside the default one, and with so many.
pub(crate) async fn measure(instances: usize, changes: usize) -> anyhow::Result<()> {
    let setting = Setting::new(Layout::RolesApart, Engine::Sqlite);
    let deployment =
        Deployment::builder(setting).with_env("BERTH__GATEWAY__BASE_DOMAIN", DOMAIN).start().await?;
    let create = ["create-instance", "tenant-0", "--edition", "basic", "--region", REGION];
    deployment.admin(&create, "").await?;
    println!(
        "| instances | gateway, MiB | instance-manager, MiB | change, p50, ms | longest, ms |\n|---:|---:|---:|---:|---:|"
    );
    for many in [1, instances] {
        if many > 1 {
            deployment.process("instance-manager").kill();
            write(&deployment, many).await?;
            deployment.restart("instance-manager").await?;
        }
        let last = format!("tenant-{}", many - 1);
        until(&deployment, &last, 401, Instant::now()).await?;
        let mut seen = Latencies::new();
        for _ in 0..changes {
            for (command, status) in [("stop-instance", 403), ("start-instance", 401)] {
                let began = Instant::now();
                let arguments = [command, &*last];
                let (done, took) =
                    tokio::join!(deployment.admin(&arguments, ""), until(&deployment, &last, status, began));
                done?;
                seen.record(took?);
            }
        }
        let [gateway, manager] =
            ["gateway-1", "instance-manager"].map(|name| resident(deployment.process(name)));
        let [median, longest] = [seen.percentile(0.5), seen.longest()].map(|of| of as f64 / 1e3);
        println!("| {many} | {} | {} | {median:.0} | {longest:.0} |", gateway?, manager?);
    }
    Ok(())
}
