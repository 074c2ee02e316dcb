//! The folders of objects: made when first needed, and remembered once their entries are known to be on the device.

use std::{collections::HashSet, os::fd::OwnedFd};

use berth_blobs::ObjectKey;
use parking_lot::Mutex;
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

/// Folders that are remembered; beyond that all are forgotten, which only costs some syncs.
const REMEMBERED: usize = 65_536;

/// Folders whose own entries, and those above them, are durable.
#[derive(Debug, Default)]
pub(super) struct Folders(Mutex<HashSet<String>>);

/// The folder of an object, relative to the root. The last characters of a ULID are random, so objects spread evenly.
pub(super) fn folder_of(key: &ObjectKey) -> String {
    let object = key.object();
    format!("i/{}/{}", key.instance(), &object[object.len() - 2..])
}

fn parent_of(folder: &str) -> Option<&str> {
    folder.rsplit_once('/').map(|(parent, _)| parent)
}

impl Folders {
    /// Makes a folder and those above it.
    pub(super) fn make(&self, root: &OwnedFd, folder: &str) -> Result<(), Errno> {
        if self.0.lock().contains(folder) {
            return Ok(());
        }
        match rustix::fs::mkdirat(root, folder, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(Errno::NOENT) => {
                self.make(root, parent_of(folder).ok_or(Errno::NOENT)?)?;
                match rustix::fs::mkdirat(root, folder, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => Ok(()),
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Makes the entries in a folder durable.
    pub(super) fn sync(&self, root: &OwnedFd, folder: &str) -> Result<(), Errno> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::fsync(rustix::fs::openat(root, folder, flags, Mode::empty())?)
    }

    /// Makes a new entry in `folder` durable, and the way to it. Somebody else may have made the folder a moment ago
    /// and not synced it yet, so only folders that were synced by this process are taken for durable.
    pub(super) fn sync_new_entry(&self, root: &OwnedFd, folder: &str) -> Result<(), Errno> {
        self.sync(root, folder)?;
        if self.0.lock().contains(folder) {
            return Ok(());
        }
        let mut above = parent_of(folder);
        while let Some(parent) = above {
            self.sync(root, parent)?;
            above = parent_of(parent);
        }
        rustix::fs::fsync(root)?;
        let mut durable = self.0.lock();
        if durable.len() >= REMEMBERED {
            durable.clear();
        }
        durable.insert(folder.to_owned());
        Ok(())
    }
}
