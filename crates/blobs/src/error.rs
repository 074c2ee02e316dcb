//! What can go wrong with bytes, and its one translation into and out of a [`Problem`].

use std::io;

use berth_oci::{ErrorCode, Problem};

/// Why a store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum BlobsError {
    /// No such object.
    #[error("no such object")]
    NotFound,
    /// The store has no room; what was synced before is kept.
    #[error("the store has no room left")]
    Full,
    /// A newer epoch has taken over the object, or it was deleted.
    #[error("another request has taken over this upload")]
    Stale,
    /// The object holds fewer bytes than were recorded.
    #[error("the object has {found} bytes, {expected} are recorded")]
    Short {
        /// Bytes that were recorded.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// What is stored is not what was sealed: it was changed, moved or exchanged.
    #[error("the stored content is damaged: {0}")]
    Damaged(&'static str),
    /// The key of what is sealed was destroyed.
    #[error("the key that sealed the object was destroyed")]
    KeyGone,
    /// A call that can't be right, such as a hash state that is none.
    #[error("invalid call: {0}")]
    Invalid(&'static str),
    /// The store's device failed.
    #[error("the store failed to {operation}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The blob-store process does not answer.
    #[error("the blob store does not answer: {0}")]
    Unavailable(String),
    /// The blob-store process failed; its own log has the cause.
    #[error("the blob store failed: {0}")]
    Remote(String),
}

/// Key of a problem's detail under which the sizes of [`BlobsError::Short`] travel.
const SHORT: &str = "recorded_bytes";
const FOUND: &str = "found_bytes";
/// Keys of the details of a problem that stands for [`BlobsError::Damaged`] and [`BlobsError::KeyGone`].
const DAMAGED: &str = "damaged";
const KEY_GONE: &str = "key_gone";

impl BlobsError {
    /// Wraps an error of the system, telling a full disk from a failing one.
    pub fn io(operation: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::Full
            }
            io::ErrorKind::NotFound => Self::NotFound,
            _ => Self::Io { operation, source },
        }
    }

    /// Reads a problem that a blob-store process answered with.
    pub fn from_problem(problem: Problem) -> Self {
        let number = |key| problem.detail.as_ref().and_then(|detail| detail.get(key)?.as_u64());
        let says = |key| problem.detail.as_ref().is_some_and(|detail| detail.get(key).is_some());
        match problem.code {
            _ if says(DAMAGED) => Self::Damaged("says the blob store, whose log has the cause"),
            _ if says(KEY_GONE) => Self::KeyGone,
            ErrorCode::BlobUnknown => Self::NotFound,
            ErrorCode::StorageFull => Self::Full,
            ErrorCode::UploadBusy => Self::Stale,
            ErrorCode::Unavailable => Self::Unavailable(problem.message),
            _ => match (number(SHORT), number(FOUND)) {
                (Some(expected), Some(found)) => Self::Short { expected, found },
                _ => Self::Remote(problem.message),
            },
        }
    }
}

impl From<BlobsError> for Problem {
    fn from(error: BlobsError) -> Self {
        match error {
            BlobsError::NotFound => Self::new(ErrorCode::BlobUnknown, "blob unknown to this registry"),
            BlobsError::Full => Self::new(
                ErrorCode::StorageFull,
                "the registry's storage is full; ask its administrator for room",
            ),
            BlobsError::Stale => Self::new(
                ErrorCode::UploadBusy,
                "another request has taken over this upload; ask for its state with GET and go on from there",
            ),
            BlobsError::Short { expected, found } => Self::new(
                ErrorCode::Internal,
                "the stored content is damaged; the server's log has the cause",
            )
            .with_detail(serde_json::json!({ SHORT: expected, FOUND: found })),
            BlobsError::Damaged(_) => Self::new(
                ErrorCode::Internal,
                "the stored content is damaged; the server's log has the cause",
            )
            .with_detail(serde_json::json!({ DAMAGED: true })),
            BlobsError::KeyGone => Self::new(
                ErrorCode::BlobUnknown,
                "the key that sealed the stored bytes was destroyed; push the blob again",
            )
            .with_detail(serde_json::json!({ KEY_GONE: true })),
            BlobsError::Unavailable(_) => {
                Self::new(ErrorCode::Unavailable, "the registry's storage does not answer; try again")
            }
            BlobsError::Invalid(_) | BlobsError::Io { .. } | BlobsError::Remote(_) => Self::new(
                ErrorCode::Internal,
                "the registry's storage failed; the server's log has the cause under the request id",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_way_between_processes() {
        let through = |error: BlobsError| BlobsError::from_problem(Problem::from(error));
        assert!(matches!(through(BlobsError::NotFound), BlobsError::NotFound));
        assert!(matches!(through(BlobsError::Full), BlobsError::Full));
        assert!(matches!(through(BlobsError::Stale), BlobsError::Stale));
        let short = through(BlobsError::Short { expected: 9, found: 3 });
        assert!(matches!(short, BlobsError::Short { expected: 9, found: 3 }));
        assert!(matches!(through(BlobsError::Damaged("x")), BlobsError::Damaged(_)));
        assert!(matches!(through(BlobsError::KeyGone), BlobsError::KeyGone));
        assert!(matches!(through(BlobsError::Unavailable("x".to_owned())), BlobsError::Unavailable(_)));
        assert!(matches!(through(BlobsError::Invalid("x")), BlobsError::Remote(_)));
    }

    #[test]
    fn a_full_disk_is_told_from_a_failing_one() {
        for code in [28, 122, 27] {
            let error = BlobsError::io("write", io::Error::from_raw_os_error(code));
            assert!(matches!(error, BlobsError::Full), "{code}");
        }
        assert!(matches!(BlobsError::io("write", io::Error::from_raw_os_error(5)), BlobsError::Io { .. }));
    }
}
