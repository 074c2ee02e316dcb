//! Why a command did not do what it was asked for, with what to do.

use std::fmt;

/// A failure, by whose fault.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The registry said no.
    Refused { detail: String, code: String, request: String, hint: &'static str },
    /// What was asked for can't be understood, or something on this machine is not as it has to be.
    Usage(String),
    /// Nobody answered.
    Unreachable(String),
}

impl Failure {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// 1: refused; 2: not understood; 3: nobody answered.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { .. } => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { detail, code, request, hint } => {
                write!(f, "{detail}")?;
                if !hint.is_empty() {
                    write!(f, "\n  {hint}")?;
                }
                write!(f, "\n  {code}, request {request}")
            }
            Self::Usage(message) | Self::Unreachable(message) => f.write_str(message),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Usage(format!("{error:#}"))
    }
}
