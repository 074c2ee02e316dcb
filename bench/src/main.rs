//! `berth-bench`: what Berth does with a second of CPU, beside other registries and beside the limits of the machine, in
//! one run: the servers on one core, the load on another, round after round in turn. `bench/run` builds everything and
//! calls it.
#![allow(clippy::print_stdout, reason = "its tables are its output")]

mod data;
mod http;
mod latency;
mod lists;
mod load;
mod memory;
mod mix;
mod neighbours;
mod operation;
mod process;
mod rows;
mod server;
mod size;
mod start;
mod table;
mod tenants;
mod tiers;
mod wild;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// Where servers keep their data; a folder in it is made and removed again.
    #[arg(long, global = true)]
    folder: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compare operations, a second of CPU first.
    Tables {
        #[command(flatten)]
        programs: server::Programs,
        /// Only these rows.
        #[arg(long, value_delimiter = ',')]
        rows: Vec<rows::Row>,
        /// How often each server has its turn.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// How many seconds a turn takes.
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
    },
    /// Latencies of rows at a fixed rate.
    Rate {
        #[command(flatten)]
        programs: server::Programs,
        /// These rows.
        #[arg(long, value_delimiter = ',', default_values = ["manifest-tag", "blob-small", "push-small"])]
        rows: Vec<rows::Row>,
        #[command(flatten)]
        pace: wild::Pace,
    },
    /// Pulls and pushes as they are in the wild.
    Mix {
        #[command(flatten)]
        programs: server::Programs,
        #[command(flatten)]
        shape: mix::Shape,
        #[command(flatten)]
        pace: wild::Pace,
    },
    /// Gets and lists in a small and in a large registry.
    Size {
        #[command(flatten)]
        programs: server::Programs,
        /// Manifests of the small one.
        #[arg(long, default_value_t = 1_000)]
        small: usize,
        /// Manifests of the large one; each has eight tags.
        #[arg(long, default_value_t = 1_000_000)]
        large: usize,
        /// How many seconds each operation is asked for.
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
    },
    /// From the start of the program to its first answer.
    Start {
        #[command(flatten)]
        programs: server::Programs,
        /// How often it is started on each folder.
        #[arg(long, default_value_t = 10)]
        rounds: usize,
        /// Manifests in the folder that is not empty.
        #[arg(long, default_value_t = 100_000)]
        manifests: usize,
    },
    /// Memory of idle connections, and under many uploads at once.
    Memory {
        #[command(flatten)]
        programs: server::Programs,
        /// Connections that do nothing.
        #[arg(long, default_value_t = 4_000)]
        connections: usize,
        /// Uploads at once.
        #[arg(long, default_value_t = 50)]
        uploads: usize,
        /// MiB of each.
        #[arg(long, default_value_t = 64)]
        mib: usize,
    },
    /// Memory and changes with many instances; runs the program that `BERTH_BIN` names.
    Tenants {
        /// How many.
        #[arg(long, default_value_t = 10_000)]
        instances: usize,
        /// How often one of them is stopped and started.
        #[arg(long, default_value_t = 20)]
        changes: usize,
    },
    /// Pulls that two gateways with one Redis admit, by edition; runs the program that `BERTH_BIN` names.
    Tiers {
        /// How many seconds each edition is asked for, after two more.
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
        /// How many times its rate is asked for.
        #[arg(long, default_value_t = 4.0)]
        times: f64,
    },
    /// Latencies of a tenant alone, and beside one that asks for far more than its rate; runs the program that `BERTH_BIN`
    /// names.
    Neighbours {
        /// How often each is measured.
        #[arg(long, default_value_t = 7)]
        rounds: usize,
        /// How many seconds a turn takes.
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
        /// How many times its rate the other asks for.
        #[arg(long, default_value_t = 10.0)]
        times: f64,
    },
    /// Lists, gets, makes and searches of the REST API among few repositories and users, and among many; runs the program
    /// that `BERTH_BIN` names.
    Lists {
        /// How many repositories.
        #[arg(long, default_value_t = 100_000)]
        repositories: usize,
        /// How many users.
        #[arg(long, default_value_t = 10_000)]
        users: usize,
        /// On the PostgreSQL that `BERTH_TEST_POSTGRES` names, and not on SQLite.
        #[arg(long)]
        postgres: bool,
    },
    /// Serve a folder from memory with hyper alone.
    #[command(hide = true)]
    ServeBare { address: SocketAddr, files: PathBuf },
}

fn main() -> anyhow::Result<()> {
    let Arguments { folder, command } = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if let Command::ServeBare { address, files } = &command {
        return runtime.block_on(server::serve_bare(*address, files));
    }
    let folder = folder.unwrap_or_else(std::env::temp_dir);
    let folder = tempfile::Builder::new().prefix("berth-bench-").tempdir_in(folder)?;
    process::stay_on_load_core()?;
    println!("data set {}", data::fingerprint());
    runtime.block_on(run(command, folder.path()))
}

async fn run(command: Command, folder: &std::path::Path) -> anyhow::Result<()> {
    match command {
        Command::ServeBare { .. } => Ok(()),
        Command::Tables { programs, rows, rounds, seconds } => {
            let rows = if rows.is_empty() { rows::Row::ALL.to_vec() } else { rows };
            table::run(&programs, &rows, rounds, Duration::from_secs_f64(seconds), folder).await
        }
        Command::Rate { programs, rows, pace } => wild::rows(&programs, &rows, pace, folder).await,
        Command::Mix { programs, shape, pace } => wild::mix(&programs, shape, pace, folder).await,
        Command::Size { programs, small, large, seconds } => {
            let time = Duration::from_secs_f64(seconds);
            size::compare(&programs.berth, folder, (small, large), time).await
        }
        Command::Start { programs, rounds, manifests } => {
            start::measure(&programs.berth, folder, rounds, manifests).await
        }
        Command::Lists { repositories, users, postgres } => {
            let engine =
                if postgres { berth_testkit::Engine::Postgres } else { berth_testkit::Engine::Sqlite };
            lists::measure(engine, repositories, users).await
        }
        Command::Tiers { seconds, times } => tiers::measure(seconds, times).await,
        Command::Neighbours { rounds, seconds, times } => neighbours::measure(rounds, seconds, times).await,
        Command::Tenants { instances, changes } => tenants::measure(instances, changes).await,
        Command::Memory { programs, connections, uploads, mib } => {
            memory::connections(&programs.berth, folder, connections).await?;
            memory::uploads(&programs.berth, folder, uploads, mib).await
        }
    }
}
