//! Loads at a fixed rate, and the mix of the wild: the same on every registry that is given, in turn, with every latency's end.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::ensure;

use crate::{
    load::{self, Outcome},
    mix::{Mix, Shape},
    operation::Operation,
    rows::{Content, Row},
    server::{Kind, Programs, Server},
};

const REGISTRIES: [Kind; 3] = [Kind::Berth, Kind::Distribution, Kind::Zot];

/// How a load is given.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Pace {
    /// Connections, and so the most operations at a time.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Operations a second, due whatever the server does; without it each client sends its next one when it has its answer.
    #[arg(long)]
    rate: Option<f64>,
    /// How many seconds it takes.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

impl Pace {
    async fn run(&self, server: &Server, operation: &Operation) -> anyhow::Result<()> {
        let (address, time) = (server.address, Duration::from_secs_f64(self.seconds));
        let before = server.process.cpu()?;
        let outcome = match self.rate {
            Some(rate) => load::open(address, operation, self.clients, time, rate).await?,
            None => load::closed(address, operation, self.clients, time, u64::MAX).await?,
        };
        let cpu = server.process.cpu()? - before;
        print(server.kind, operation, &outcome, cpu)?;
        // Not comparable with anything then.
        outcome.sound().map(drop)
    }

    fn begin(&self, what: &str) {
        match self.rate {
            Some(rate) => println!("\n{what}: {rate} a second, at most {} at a time\n", self.clients),
            None => println!("\n{what}: {} clients, one after the other each\n", self.clients),
        }
        println!(
            "| server | operation | done | a second | MiB a second | CPU seconds | errors | p50, us | p99 | p99.9 | longest |"
        );
        println!("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    }
}

fn print(kind: Kind, operation: &Operation, outcome: &Outcome, cpu: f64) -> anyhow::Result<()> {
    let line = |name: &str, latencies: &crate::latency::Latencies, whole: bool| {
        let a_second = latencies.count() as f64 / outcome.seconds;
        let cell = |text: String| if whole { text } else { String::new() };
        println!(
            "| {} | {name} | {} | {a_second:.0} | {} | {} | {} | {latencies} |",
            kind.name(),
            latencies.count(),
            cell(format!("{:.0}", outcome.bytes as f64 / outcome.seconds / f64::from(1 << 20))),
            cell(format!("{cpu:.2}")),
            cell(outcome.errors.to_string()),
        );
    };
    line("all", &outcome.all(), true);
    if let kinds @ [_, _, ..] = operation.kinds() {
        for (name, latencies) in kinds.iter().zip(&outcome.latencies) {
            line(name, latencies, false);
        }
    }
    Ok(())
}

/// Starts a registry with a folder of its own; nothing when its program was not given.
async fn start(kind: Kind, programs: &Programs, folder: &Path) -> anyhow::Result<Option<Server>> {
    let home = folder.join(kind.name());
    std::fs::create_dir_all(&home)?;
    Server::start(kind, programs, &home, folder).await
}

/// Rows of the table at a rate.
pub(crate) async fn rows(programs: &Programs, rows: &[Row], pace: Pace, folder: &Path) -> anyhow::Result<()> {
    let content = Content::new();
    let mut servers = Vec::new();
    for kind in REGISTRIES {
        let Some(server) = start(kind, programs, folder).await? else { continue };
        content.push(&server).await?;
        servers.push(server);
    }
    for row in rows {
        pace.begin(row.name());
        for server in &servers {
            let time = Duration::from_secs_f64(pace.seconds);
            if let Some(plan) = row.plan(server, &content, time).await? {
                pace.run(server, &plan.operation).await?;
            }
        }
    }
    Ok(())
}

/// The mix.
pub(crate) async fn mix(programs: &Programs, shape: Shape, pace: Pace, folder: &Path) -> anyhow::Result<()> {
    let mut filled = Vec::new();
    for kind in REGISTRIES {
        let Some(server) = start(kind, programs, folder).await? else { continue };
        let (mix, bytes) = Mix::fill(&server, shape).await?;
        filled.push((server, mix, bytes));
    }
    let sizes: Vec<u64> = filled.iter().map(|(.., bytes)| *bytes).collect();
    ensure!(sizes.windows(2).all(|pair| pair[0] == pair[1]), "the registries have other content");
    println!("{} MiB of layers", sizes.first().map_or(0, |bytes| bytes >> 20));
    pace.begin("mix");
    for (server, mix, _) in filled {
        pace.run(&server, &Operation::Mix(Arc::new(mix))).await?;
    }
    Ok(())
}
