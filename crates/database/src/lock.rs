//! The lock on a data folder: one process at a time.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

/// Holds a data folder for this process until it is dropped; the kernel gives it back when the process dies.
#[derive(Debug)]
pub struct DataLock {
    _file: File,
}

/// Why a data folder can't be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error(
        "the data folder {} is in use by another Berth process; stop that one first, or name another folder \
         with --data", .0.display()
    )]
    InUse(PathBuf),
    /// The folder or the lock file in it can't be used.
    #[error("the data folder {} can't be used", .folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl DataLock {
    /// Takes the folder, which is made if it is absent.
    pub fn acquire(folder: &Path) -> Result<Self, LockError> {
        let wrong = |source| LockError::Folder { folder: folder.to_owned(), source };
        make_durably(folder).map_err(wrong)?;
        let path = folder.join("berth.lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(wrong)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(LockError::InUse(folder.to_owned())),
            Err(error) => Err(wrong(error.into())),
        }
    }
}

/// Makes a folder and those above it, for this user alone. What is stored in it later would go with it if the entries
/// that lead to it were lost, so each new one is on the device before this returns.
fn make_durably(folder: &Path) -> io::Result<()> {
    let parent = match folder.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    if folder.is_dir() {
        // A start that was cut short may have made it and not synced it; a parent that can't be read was there before.
        return File::open(parent).map_or(Ok(()), |parent| parent.sync_all());
    }
    make_durably(parent)?;
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    File::open(parent)?.sync_all()
}
