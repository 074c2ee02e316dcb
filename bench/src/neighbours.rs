//! What a tenant that asks for far more than its pull rate costs the tenant beside it.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use berth_testkit::{Deployment, Engine, Layout, Setting};
use tokio::task::JoinSet;

use crate::{
    http::Connection,
    latency::Latencies,
    load, process,
    tiers::{DOMAIN, instance},
};

/// Of each tenant.
const CONNECTIONS: usize = 8;
/// Of the tenant that is measured, within its rate of 1,000.
const CALM: f64 = 800.0;
/// The rate of the one beside it, by its edition.
const RATE: f64 = 250.0;

/// What a tenant was answered.
#[derive(Default)]
struct Told {
    admitted: u64,
    refused: u64,
}

/// Asks at a rate, and counts latencies from the moments at which requests were due.
async fn ask(
    deployment: &Deployment,
    request: &[u8],
    per_second: f64,
    time: Duration,
) -> anyhow::Result<(Told, Latencies)> {
    let address = deployment.address();
    let mut running = JoinSet::new();
    let began = Instant::now();
    for number in 0..CONNECTIONS {
        let request = request.to_vec();
        running.spawn(async move {
            let mut connection = Connection::open(address).await?;
            let (mut told, mut seen) = (Told::default(), Latencies::new());
            // Each connection has its turn.
            for turn in (number..).step_by(CONNECTIONS) {
                let planned = began + Duration::from_secs_f64(turn as f64 / per_second);
                if planned.duration_since(began) >= time {
                    break;
                }
                load::until(planned).await;
                match connection.exchange(&request, &[]).await?.status {
                    200 => told.admitted += 1,
                    429 => told.refused += 1,
                    status => anyhow::bail!("a pull is answered with {status}"),
                }
                seen.record(planned.elapsed());
            }
            anyhow::Ok((told, seen))
        });
    }
    let (mut all, mut latencies) = (Told::default(), Latencies::new());
    while let Some(done) = running.join_next().await {
        let (told, seen) = done??;
        all.admitted += told.admitted;
        all.refused += told.refused;
        latencies.add(&seen);
    }
    Ok((all, latencies))
}

fn median(values: &mut [u64]) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Measures a tenant alone and beside one that asks for `times` its rate, in turn.
pub(crate) async fn measure(rounds: usize, seconds: f64, times: f64) -> anyhow::Result<()> {
    let deployment = Deployment::builder(Setting::new(Layout::OneProcess, Engine::Sqlite))
        .with_env("BERTH__GATEWAY__BASE_DOMAIN", DOMAIN)
        .start()
        .await?;
    let server = deployment.processes().first().context("a deployment of nothing")?;
    process::move_to_server_core(server.pid().context("the server has ended")?)?;
    let calm = instance(&deployment, "calm", "advanced").await?;
    let noisy = instance(&deployment, "noisy", "basic").await?;
    let time = Duration::from_secs_f64(seconds);
    ask(&deployment, &calm, CALM, Duration::from_secs(2)).await?;
    let mut found: [[Vec<u64>; 2]; 2] = Default::default();
    let mut loud = Told::default();
    for _ in 0..rounds {
        for beside in [false, true] {
            let noise = async {
                if beside {
                    ask(&deployment, &noisy, RATE * times, time).await.map(|(told, _)| told)
                } else {
                    Ok(Told::default())
                }
            };
            let (told, (calm, seen)) = tokio::try_join!(noise, ask(&deployment, &calm, CALM, time))?;
            ensure!(calm.refused == 0, "{} pulls within the rate were refused", calm.refused);
            loud.admitted += told.admitted;
            loud.refused += told.refused;
            for (kept, share) in found[usize::from(beside)].iter_mut().zip([0.5, 0.99]) {
                kept.push(seen.percentile(share));
            }
        }
    }
    let [[alone_half, alone], [beside_half, beside]] =
        found.each_mut().map(|of| of.each_mut().map(|values| median(values)));
    println!(
        "| {CALM:.0} pulls a second, us | alone | beside {:.0} a second | times |\n|---|---:|---:|---:|",
        RATE * times
    );
    for (name, alone, beside) in [("p50", alone_half, beside_half), ("p99", alone, beside)] {
        println!("| {name} | {alone} | {beside} | {:.2} |", beside as f64 / alone as f64);
    }
    println!("\nnone of these refused; beside: {} admitted, {} refused", loud.admitted, loud.refused);
    Ok(())
}
