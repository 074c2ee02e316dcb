//! What a unit of work may end with, and its one conversion for the outside.

use std::error::Error as _;

use berth_database::{DatabaseError, OnceError};
use berth_oci::{ErrorCode, Problem};

/// Why a call failed: something to tell the caller, or the database.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An answer for the caller.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl Error {
    /// A refusal with `code` and a message that says what to do.
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::Problem(Problem::new(code, message))
    }
}

impl From<OnceError> for Error {
    fn from(error: OnceError) -> Self {
        match error {
            OnceError::Database(error) => Self::Database(error),
            reused @ OnceError::Reused => Self::Problem(reused.into()),
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Problem(problem) => problem,
            Error::Database(error) => {
                tracing::error!(%error, source = ?error.source(), "a metadata call failed at the database");
                error.into()
            }
        }
    }
}

pub(crate) type Result<T> = std::result::Result<T, Error>;
