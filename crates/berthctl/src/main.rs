//! `berthctl`: the REST API of Berth for a terminal. Its commands are made from the OpenAPI document, which is in the
//! binary, so that all of the API is there. Exit codes: 0 done, 1 refused, 2 not understood, 3 nobody answered.

mod client;
mod commands;
mod contexts;
mod document;
mod failure;
mod request;
mod sessions;
mod show;

use std::process::ExitCode;

use clap::ArgMatches;

use crate::{client::Client, contexts::Contexts, document::Document, failure::Failure, show::Output};

/// What is said to whoever calls.
#[expect(clippy::print_stdout, reason = "this is what it is for")]
pub(crate) fn print(text: &str) {
    println!("{}", text.trim_end_matches('\n'));
}

/// What is said beside the answer.
#[expect(clippy::print_stderr, reason = "this is what it is for")]
pub(crate) fn remark(text: &str) {
    eprintln!("{text}");
}

fn main() -> ExitCode {
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let document = match Document::read() {
        Ok(document) => document,
        Err(error) => {
            remark(&format!("berthctl: {error:#}"));
            return ExitCode::from(2);
        }
    };
    let matches = match commands::command(&document).try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            let _closed = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            remark(&format!("berthctl: {error}"));
            return ExitCode::from(2);
        }
    };
    match runtime.block_on(run(&document, &matches)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            remark(&format!("berthctl: {failure}"));
            ExitCode::from(failure.exit_code())
        }
    }
}

async fn run(document: &Document, matches: &ArgMatches) -> Result<(), Failure> {
    let Some((noun, rest)) = matches.subcommand() else { return Ok(()) };
    let mut contexts = Contexts::open()?;
    let output = Output::of(rest);
    match noun {
        "login" => return sessions::login(&mut contexts, rest).await,
        "logout" => return sessions::logout(&mut contexts, rest).await,
        "whoami" => return sessions::whoami(&contexts, rest, output).await,
        "context" => return sessions::context(&mut contexts, rest),
        "completion" => {
            commands::complete(document, rest);
            return Ok(());
        }
        _ => {}
    }
    let Some((verb, arguments)) = rest.subcommand() else { return Ok(()) };
    let operation = document
        .operation(noun, verb)
        .ok_or_else(|| Failure::usage(format!("there is no command {noun} {verb}")))?;
    let target = contexts.target(arguments)?;
    let client = Client::new(&target)?;
    request::run(&client, &target, operation, arguments, Output::of(arguments)).await
}
