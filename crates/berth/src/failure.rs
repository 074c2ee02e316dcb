//! Why a command failed, and with which exit code.

use std::{fmt, process::ExitCode};

/// Exit code of a configuration that can't be used (EX_CONFIG of sysexits).
const EXIT_CONFIG: u8 = 78;

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
