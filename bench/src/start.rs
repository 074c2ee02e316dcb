//! How long it takes from the start of the program to its first answer.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::ensure;

use crate::{
    http::{Connection, head},
    latency::Latencies,
    server::BerthPlan,
    size,
};

/// How often somebody knocks.
const KNOCK: Duration = Duration::from_micros(500);

/// Starts it, and ends it when it has answered.
async fn once(plan: &BerthPlan) -> anyhow::Result<Duration> {
    let request = head("GET", "/v2/", &[], None);
    let began = Instant::now();
    let (process, address) = plan.spawn()?;
    loop {
        ensure!(began.elapsed() < Duration::from_secs(30), "no answer in 30 s");
        if let Ok(mut connection) = Connection::open(address).await {
            let answer = connection.exchange(&request, &[]).await?;
            // Before it knows its keys it answers too, with 503.
            if answer.status == 401 {
                break;
            }
        }
        tokio::time::sleep(KNOCK).await;
    }
    let took = began.elapsed();
    process.stop()?;
    Ok(took)
}

/// Starts on new folders, and on one with so many manifests; the first start on that comes before what is counted.
pub(crate) async fn measure(
    program: &str,
    folder: &Path,
    rounds: usize,
    manifests: usize,
) -> anyhow::Result<()> {
    let mut empty = Latencies::new();
    for round in 0..rounds {
        empty.record(once(&BerthPlan::new(program, &folder.join(format!("empty-{round}")))).await?);
    }
    let (plan, repositories) = size::filled(program, &folder.join("filled"), manifests).await?;
    let mut filled = Latencies::new();
    for _ in 0..rounds {
        filled.record(once(&plan).await?);
    }
    println!("| start on | p50, ms | longest, ms |\n|---|---:|---:|");
    for (what, latencies) in [
        ("an empty folder".to_owned(), empty),
        (format!("{repositories} repositories of ten manifests"), filled),
    ] {
        let [median, longest] = [latencies.percentile(0.5), latencies.longest()].map(|of| of as f64 / 1e3);
        println!("| {what} | {median:.1} | {longest:.1} |");
    }
    Ok(())
}
