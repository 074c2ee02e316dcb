//! Why blob-store can't start. What goes wrong later is a `BlobsError`.

use std::{io, path::PathBuf};

/// Why blob-store can't start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process holds the root.
    #[error(
        "the blob folder {} is in use by another process; a folder belongs to one blob-store process at a time",
        .0.display()
    )]
    InUse(PathBuf),
    /// The settings of object storage can't be used.
    #[error("can't use the object storage: {0}")]
    ObjectStorage(String),
    /// The root can't be used.
    #[error("can't use the blob folder {}", root.display())]
    Root {
        /// The folder.
        root: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}
