//! The command line: what scripts may rely on.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{
    admin,
    arguments::{ConfigArguments, ServeArguments},
    config,
    failure::Failure,
    migrate, reference, root_key, serve, terminal, verify,
};

/// An OCI registry for many tenants.
#[derive(Debug, Parser)]
#[command(name = "berth", version, about, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the registry: every role in this process, or those named with --role
    Serve(ServeArguments),
    /// Bring the databases of the configured roles up to date, then exit
    Migrate(ConfigArguments),
    /// Look at the configuration without running anything
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Manage the running registry of this machine through its socket
    Admin(admin::AdminArguments),
    /// Make another root sealing key and seal every secret again; no instance-manager may run
    RotateRootKey(ConfigArguments),
    /// Print the OpenAPI document of the REST API
    Openapi,
    /// Read every byte back and compare it with the rows; exit code 3 when something is damaged
    Verify(ConfigArguments),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say whether the configuration can be used
    Check(ConfigArguments),
    /// Print the configuration as it will be used, secrets hidden
    Show(ConfigArguments),
    /// Print the reference of all keys in Markdown
    #[command(hide = true)]
    Reference,
}

/// Reads the command line; usage errors and `--help` have been answered when this fails.
pub(crate) fn parse() -> Result<Arguments, ExitCode> {
    Arguments::try_parse().map_err(|error| {
        let _closed = error.print();
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
    })
}

/// Runs the command.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::Serve(arguments) => serve::run(arguments).await,
        Command::Migrate(arguments) => migrate::run(&arguments).await,
        Command::Admin(arguments) => admin::run(arguments).await,
        Command::RotateRootKey(arguments) => root_key::run(&arguments).await,
        Command::Verify(arguments) => verify::run(&arguments).await,
        Command::Openapi => {
            terminal::line(&format!("{:#}", berth_management_api::document()));
            Ok(())
        }
        Command::Config { command: ConfigCommand::Check(arguments) } => {
            config::load(&arguments)?;
            terminal::line("the configuration is fine");
            Ok(())
        }
        Command::Config { command: ConfigCommand::Show(arguments) } => {
            terminal::line(&config::load(&arguments)?.show());
            Ok(())
        }
        Command::Config { command: ConfigCommand::Reference } => {
            terminal::line(reference::markdown().trim_end());
            Ok(())
        }
    }
}
