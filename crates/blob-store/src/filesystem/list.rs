//! Listing, a folder at a time: by instance, then by the last two characters of the name, then by the name. A page holds
//! no more names in memory than itself and the folders of one level, however large the store is.

use std::collections::BinaryHeap;

use berth_blobs::{BlobsError, Listed, ObjectKey};
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags},
    io::Errno,
};

use super::{Store, folders::folder_of, path_of};

/// Names in the root's folder of objects.
const OBJECTS: &str = "i";

fn failed(error: Errno) -> BlobsError {
    BlobsError::io("list a folder", error.into())
}

impl Store {
    /// The names in a folder that are at least `from`, at most the `limit` smallest, in order. A folder that is absent is
    /// empty.
    fn names(&self, folder: &str, from: &str, limit: usize) -> Result<Vec<String>, BlobsError> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let opened = match rustix::fs::openat(&self.root, folder, flags, Mode::empty()) {
            Ok(opened) => opened,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut smallest = BinaryHeap::new();
        for entry in Dir::new(opened).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name.starts_with('.') || name < from {
                continue;
            }
            smallest.push(name.to_owned());
            if smallest.len() > limit {
                smallest.pop();
            }
        }
        Ok(smallest.into_sorted_vec())
    }

    /// The next objects after `after`. What bears no object's name, or lies in another folder than that object's, is left
    /// out: no key leads there.
    pub(super) fn list(&self, after: Option<&ObjectKey>, limit: usize) -> Result<Vec<Listed>, BlobsError> {
        let mut page = Vec::new();
        let (first_instance, first_end, first_name) = match after {
            None => ("", "", ""),
            Some(key) => (key.instance(), ending(key), key.object()),
        };
        for instance in self.names(OBJECTS, first_instance, usize::MAX)? {
            let same_instance = instance == first_instance;
            let from = if same_instance { first_end } else { "" };
            for end in self.names(&format!("{OBJECTS}/{instance}"), from, usize::MAX)? {
                let mut from =
                    if same_instance && end == first_end { first_name.to_owned() } else { String::new() };
                let folder = format!("{OBJECTS}/{instance}/{end}");
                // What is left out, and the one that the page comes after, may make a round come short.
                loop {
                    let wanted = limit - page.len();
                    if wanted == 0 {
                        return Ok(page);
                    }
                    let names = self.names(&folder, &from, wanted + 1)?;
                    let ended = names.len() <= wanted;
                    from = names.last().cloned().unwrap_or_default();
                    for name in names.iter().take(wanted) {
                        let key = format!("{OBJECTS}/{instance}/{name}").parse::<ObjectKey>();
                        let Ok(key) = key else { continue };
                        if Some(&key) != after && folder_of(&key) == folder {
                            page.extend(self.look_at(key)?);
                        }
                    }
                    if ended {
                        break;
                    }
                }
            }
        }
        Ok(page)
    }

    /// `None` when it has gone meanwhile, or is no file.
    fn look_at(&self, key: ObjectKey) -> Result<Option<Listed>, BlobsError> {
        let found = match rustix::fs::statat(&self.root, path_of(&key), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        let modified = found.st_mtime.saturating_mul(1_000_000).saturating_add(found.st_mtime_nsec / 1000);
        Ok(Some(Listed { key, size: u64::try_from(found.st_size).unwrap_or_default(), modified }))
    }
}

fn ending(key: &ObjectKey) -> &str {
    let object = key.object();
    &object[object.len() - 2..]
}
