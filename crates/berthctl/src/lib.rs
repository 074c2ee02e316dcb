//! `berthctl`: the REST API of Berth for a terminal. Its commands are made from the OpenAPI document, which is in the
//! binary, so that all of the API is there. Exit codes: 0 done, 1 refused, 2 not understood, 3 nobody answered.

mod client;
mod commands;
mod contexts;
mod document;
mod examples;
mod failure;
mod files;
mod helper;
mod keyring;
mod reference;
mod request;
mod sessions;
mod setup;
mod show;
mod tasks;

use std::{
    io::{ErrorKind, IsTerminal, Read, Write},
    process::ExitCode,
};

use clap::ArgMatches;

use crate::{client::Client, contexts::Contexts, document::Document, failure::Failure, show::Output};

/// What is said to whoever calls.
pub(crate) fn print(text: &str) {
    write(format!("{}\n", text.trim_end_matches('\n')).as_bytes());
}

/// Bytes as they are, so that their digest is right; on a terminal they end with their line.
pub(crate) fn print_bytes(bytes: &[u8]) {
    if std::io::stdout().is_terminal() {
        return print(&String::from_utf8_lossy(bytes));
    }
    write(bytes);
}

/// Who has read enough, such as `head`, ends the program, and that is no failure.
fn write(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    let Err(error) = stdout.write_all(bytes).and_then(|()| stdout.flush()) else { return };
    if error.kind() == ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    remark(&format!("berthctl: can't write the answer: {error}"));
    std::process::exit(2);
}

/// What is said beside the answer. Who does not listen misses it.
pub(crate) fn remark(text: &str) {
    let _closed = writeln!(std::io::stderr(), "{text}");
}

/// Waits for what has to be done, and says why it can't be.
fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::usage(format!("can't start: {error}")))?;
    runtime.block_on(work)
}

/// `berthctl` itself.
#[must_use]
pub fn terminal() -> ExitCode {
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
    match block_on(run(&document, &matches)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            remark(&format!("berthctl: {failure}"));
            ExitCode::from(failure.exit_code())
        }
    }
}

/// `docker-credential-berth <action>`. As docker's protocol has it, a failure is said on standard output.
#[must_use]
pub fn credential_helper() -> ExitCode {
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let action = std::env::args().nth(1).unwrap_or_default();
    let mut input = String::new();
    if matches!(action.as_str(), "get" | "store" | "erase") {
        // What can't be read is no URL and no JSON either, which is said then.
        let _unread = std::io::stdin().read_to_string(&mut input);
    }
    match block_on(helper::run(&action, input.trim())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            print(&failure.to_string());
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
        "configure-docker" => return setup::configure_docker(&mut contexts, rest),
        "completion" => {
            commands::complete(document, rest);
            return Ok(());
        }
        "reference" => {
            print(&reference::of(commands::command(document)));
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
