//! `berth-bench`: what Berth does with a second of CPU, beside other registries and beside the limits of the machine, in
//! one run: the servers on one core, the load on another, round after round in turn. `bench/run` builds everything and
//! calls it.
#![allow(clippy::print_stdout, reason = "its tables are its output")]

mod data;
mod http;
mod load;
mod process;
mod rows;
mod server;
mod table;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compare operations, a second of CPU first.
    Tables {
        /// The program `berth`, of a release build.
        #[arg(long)]
        berth: String,
        /// The program `registry` of distribution v3.
        #[arg(long)]
        distribution: Option<String>,
        /// The program `zot`.
        #[arg(long)]
        zot: Option<String>,
        /// The program `nginx`.
        #[arg(long)]
        nginx: Option<String>,
        /// Only these rows.
        #[arg(long, value_delimiter = ',')]
        rows: Vec<rows::Row>,
        /// How often each server has its turn.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// How many seconds a turn takes.
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
        /// Where servers keep their data; a folder in it is made and removed again.
        #[arg(long)]
        folder: Option<PathBuf>,
    },
    /// Serve a folder from memory with hyper alone.
    #[command(hide = true)]
    ServeBare { address: SocketAddr, files: PathBuf },
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match Arguments::parse().command {
        Command::ServeBare { address, files } => runtime.block_on(server::serve_bare(address, &files)),
        Command::Tables { berth, distribution, zot, nginx, rows, rounds, seconds, folder } => {
            let folder = tempfile::Builder::new()
                .prefix("berth-bench-")
                .tempdir_in(folder.unwrap_or_else(std::env::temp_dir))?;
            process::stay_on_load_core()?;
            println!("data set {}", data::fingerprint());
            let programs = server::Programs { berth, distribution, zot, nginx };
            let rows = if rows.is_empty() { rows::Row::ALL.to_vec() } else { rows };
            let time = Duration::from_secs_f64(seconds);
            runtime.block_on(table::run(&programs, &rows, rounds, time, folder.path()))
        }
    }
}
