//! What `berth serve` and everything else that reads the configuration take from the command line.

use std::path::PathBuf;

use berth_service::telemetry::LogFormat;
use clap::{Args, ValueEnum};

use crate::roles::Role;

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

/// The flags of `berth serve`, which come after the configuration.
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
