//! Rounds, and the table of what they gave.

use std::{path::Path, time::Duration};

use crate::{
    load,
    rows::{Content, Row},
    server::{Kind, Programs, Server},
};

/// One measured round of one server.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Operations a second of the server's CPU.
    a_cpu_second: f64,
    /// Operations a second.
    a_second: f64,
    /// Microseconds.
    median: u64,
    high: u64,
}

/// Runs every row on every server, round after round in turn, and prints a table for each row.
pub(crate) async fn run(
    programs: &Programs,
    rows: &[Row],
    rounds: usize,
    time: Duration,
    folder: &Path,
) -> anyhow::Result<()> {
    let content = Content::new();
    let files = folder.join("files");
    content.write_files(&files)?;
    let mut servers = Vec::new();
    for kind in [Kind::Berth, Kind::Redirecting, Kind::Distribution, Kind::Zot, Kind::Nginx, Kind::Bare] {
        if kind == Kind::Redirecting && !rows.contains(&Row::BlobRedirect) {
            continue;
        }
        let home = folder.join(kind.name().replace(' ', "-"));
        std::fs::create_dir_all(&home)?;
        let Some(server) = Server::start(kind, programs, &home, &files).await? else {
            println!("{}: not given, left out", kind.name());
            continue;
        };
        if kind.is_registry() {
            content.push(&server).await?;
        }
        servers.push(server);
    }
    println!("\n| operation | server | a CPU-second | range | a second | p50, us | p99, us | of berth |");
    println!("|---|---|---:|---|---:|---:|---:|---:|");
    for row in rows {
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); servers.len()];
        for _ in 0..rounds {
            for (server, samples) in servers.iter().zip(&mut samples) {
                if let Some(sample) = measure(*row, server, &content, time).await? {
                    samples.push(sample);
                }
            }
        }
        let ours = samples.first().and_then(|samples| median(samples.iter().map(|s| s.a_cpu_second)));
        for (server, samples) in servers.iter().zip(&samples) {
            print(*row, server.kind, samples, ours);
        }
    }
    for server in &servers {
        println!(
            "resident memory of {} at the end: {} MiB",
            server.kind.name(),
            server.process.resident()? >> 20
        );
    }
    Ok(())
}

async fn measure(
    row: Row,
    server: &Server,
    content: &Content,
    time: Duration,
) -> anyhow::Result<Option<Sample>> {
    let Some(plan) = row.plan(server, content, time).await? else { return Ok(None) };
    let before = server.process.cpu()?;
    let outcome = load::closed(server.address, &plan.operation, plan.connections, plan.time, plan.most)
        .await?
        .sound()?;
    let cpu = (server.process.cpu()? - before).max(0.01);
    let latencies = outcome.all();
    Ok(Some(Sample {
        a_cpu_second: latencies.count() as f64 / cpu,
        a_second: latencies.count() as f64 / outcome.seconds,
        median: latencies.percentile(0.5),
        high: latencies.percentile(0.99),
    }))
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn print(row: Row, kind: Kind, samples: &[Sample], ours: Option<f64>) {
    let Some(a_cpu_second) = median(samples.iter().map(|s| s.a_cpu_second)) else { return };
    let least = samples.iter().map(|s| s.a_cpu_second).fold(f64::INFINITY, f64::min);
    let most = samples.iter().map(|s| s.a_cpu_second).fold(0.0, f64::max);
    let of = |value: fn(&Sample) -> f64| median(samples.iter().map(value)).unwrap_or_default();
    let ratio = match ours {
        Some(ours) if kind != Kind::Berth => format!("{:.2}", a_cpu_second / ours),
        _ => String::new(),
    };
    println!(
        "| {} | {} | {} | {}-{} | {} | {:.0} | {:.0} | {ratio} |",
        row.name(),
        kind.name(),
        figure(a_cpu_second),
        figure(least),
        figure(most),
        figure(of(|s| s.a_second)),
        of(|s| s.median as f64),
        of(|s| s.high as f64),
    );
}

fn figure(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}
