//! Why a command failed, and with which exit code.

use std::{fmt, process::ExitCode};

/// Exit code of a configuration that can't be used (EX_CONFIG of sysexits).
const EXIT_CONFIG: u8 = 78;

/// Exit code of `berth verify` when something is damaged.
const EXIT_DAMAGE: u8 = 3;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The configuration can't be used.
    Config(String),
    /// `berth verify` found so much damage.
    Damage(u64),
    /// Anything else.
    Other(anyhow::Error),
}

impl Failure {
    pub(crate) fn code(&self) -> ExitCode {
        match self {
            Self::Config(_) => ExitCode::from(EXIT_CONFIG),
            Self::Damage(_) => ExitCode::from(EXIT_DAMAGE),
            Self::Other(_) => ExitCode::FAILURE,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(message) => write!(f, "the configuration can't be used: {message}"),
            Self::Damage(1) => f.write_str("1 finding; nothing was changed"),
            Self::Damage(found) => write!(f, "{found} findings; nothing was changed"),
            Self::Other(error) => write!(f, "{error:#}"),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}
