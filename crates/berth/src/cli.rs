//! The command line: what scripts may rely on.

use std::{fmt, path::PathBuf, process::ExitCode};

use berth_service::telemetry::LogFormat;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{admin, config, migrate, reference, roles::Role, serve, terminal};

/// Exit code of a configuration that can't be used (EX_CONFIG of sysexits).
const EXIT_CONFIG: u8 = 78;

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

/// Where the configuration comes from.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConfigArguments {
    /// Configuration file in TOML
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Folder for databases, blobs and keys
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ServeArguments {
    #[command(flatten)]
    pub(crate) config: ConfigArguments,
    /// Address of the registry; port 0 picks one
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Option<String>,
    /// Address of /healthz, /readyz and /metrics
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) admin_listen: Option<String>,
    /// Roles of this process; all when absent
    #[arg(long, value_name = "ROLE", value_delimiter = ',')]
    pub(crate) role: Vec<Role>,
    /// Log lines for a person or as JSON
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormatArgument>,
}

/// The values of `--log-format`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogFormatArgument {
    Text,
    Json,
}

impl From<LogFormatArgument> for LogFormat {
    fn from(format: LogFormatArgument) -> Self {
        match format {
            LogFormatArgument::Text => Self::Text,
            LogFormatArgument::Json => Self::Json,
        }
    }
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The configuration can't be used.
    Config(String),
    /// Anything else.
    Other(anyhow::Error),
}

impl Failure {
    pub(crate) fn code(&self) -> ExitCode {
        match self {
            Self::Config(_) => ExitCode::from(EXIT_CONFIG),
            Self::Other(_) => ExitCode::FAILURE,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(message) => write!(f, "the configuration can't be used: {message}"),
            Self::Other(error) => write!(f, "{error:#}"),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
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
