//! What can go wrong in instance-manager, and what of it the outside hears.

use berth_access::{KeyError, PasswordError, SealError};
use berth_database::{DatabaseError, OnceError};
use berth_oci::{ErrorCode, Problem};
use berth_service::outbound::OutboundError;

/// Any failure of this service.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request can't be served; the caller is told why.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// The request was done before, under the same key.
    #[error("the request was done before")]
    Repeated,
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// A secret at rest can't be sealed or opened.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A token key can't be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A password could not be checked.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The client for outbound HTTP can't be made.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    /// A generated password can't be kept for its reader.
    #[error("the generated password of the administrator can't be kept")]
    Keeper(#[source] std::io::Error),
    /// Editions or regions that are configured can't be used.
    #[error("{0}")]
    Catalogue(String),
    /// What the database holds contradicts itself.
    #[error("the database holds {0}")]
    Inconsistent(&'static str),
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
                tracing::error!(error = &error as &dyn std::error::Error, "database");
                error.into()
            }
            Error::Password(PasswordError::Busy) => {
                Self::new(ErrorCode::TooManyRequests, "too many people log in at the same time; try again")
            }
            Error::Repeated => {
                Self::new(ErrorCode::Conflict, "the same request is being done just now; try again")
            }
            Error::Seal(_)
            | Error::Key(_)
            | Error::Password(_)
            | Error::Outbound(_)
            | Error::Keeper(_)
            | Error::Catalogue(_)
            | Error::Inconsistent(_) => {
                tracing::error!(error = &error as &dyn std::error::Error, "instance-manager");
                Self::new(
                    ErrorCode::Internal,
                    "internal error; the server's log has the cause under the request id",
                )
            }
        }
    }
}

/// The one answer to every credential that does not fit, so that it tells nothing about which part was wrong.
pub(crate) fn wrong_credentials() -> Problem {
    Problem::new(ErrorCode::Unauthorized, "the user name or the password is wrong")
}

pub(crate) fn invalid(message: impl Into<String>) -> Problem {
    Problem::new(ErrorCode::RequestInvalid, message)
}

pub(crate) fn no_instance() -> Problem {
    Problem::new(ErrorCode::NotFound, "there is no such instance")
}

/// What a request made that comes again is not there any more.
pub(crate) fn gone() -> Problem {
    let message = "this was done under this key before, and what it made was deleted since; use a new key to make it anew";
    Problem::new(ErrorCode::NotFound, message)
}

/// What a request that comes again made, if it is still there.
pub(crate) fn still<T>(found: Result<T, Error>) -> Result<T, Error> {
    match found {
        Err(Error::Problem(problem)) if problem.code == ErrorCode::NotFound => Err(gone().into()),
        found => found,
    }
}

/// What was seen is no longer so.
pub(crate) fn stale() -> Problem {
    Problem::new(ErrorCode::PreconditionFailed, "it was changed meanwhile; look at it again")
}
