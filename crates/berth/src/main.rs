//! The only binary of Berth. It reads the command line and the configuration, puts the roles together and runs them.

mod admin;
#[cfg(debug_assertions)]
mod allocations;
mod arguments;
mod audit;
mod cli;
mod config;
mod content;
mod counts;
mod failure;
mod files;
mod front;
mod identity;
mod instances;
mod migrate;
mod password;
mod people;
mod reference;
mod roles;
mod root_key;
mod serve;
mod storage;
mod terminal;
mod verify;

use std::process::ExitCode;

#[cfg(debug_assertions)]
#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

#[cfg(not(debug_assertions))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = match cli::parse() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    // Databases, keys and blobs are for the owner alone, whatever the shell's default is.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            terminal::error(&format!("can't start the runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(cli::run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            terminal::error(&failure.to_string());
            failure.code()
        }
    }
}
