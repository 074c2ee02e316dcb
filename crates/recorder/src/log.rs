//! The log: a lock that makes the order, and records of one form.
//!
//! A record: kind (1 byte), file (8), number (8), length of the first text (4), length of the second (4), both texts;
//! numbers are little-endian. `file` is an inode, so descriptors and their copies need no bookkeeping.

use std::{
    ffi::{CStr, c_char, c_int},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

/// One line of the log.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Record<'a> {
    /// What was done: see `calls.rs`, where each is made.
    pub(crate) kind: u8,
    pub(crate) file: u64,
    pub(crate) number: u64,
    pub(crate) first: &'a [u8],
    pub(crate) second: &'a [u8],
}

/// The folder that is watched, and the log.
#[derive(Debug)]
pub(crate) struct Recorder {
    root: Vec<u8>,
    log: c_int,
    order: Mutex<()>,
}

/// The lock under which a call is made and written down.
pub(crate) struct Order<'a> {
    log: c_int,
    _held: MutexGuard<'a, ()>,
}

/// The recorder, if the environment asks for one.
pub(crate) fn recorder() -> Option<&'static Recorder> {
    static RECORDER: OnceLock<Option<Recorder>> = OnceLock::new();
    RECORDER.get_or_init(Recorder::of_environment).as_ref()
}

pub(crate) fn variable(name: &CStr) -> Option<&'static CStr> {
    // SAFETY: `name` ends with a zero. The value is read at the first file operation of the program, and Berth never
    // changes its environment.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    // SAFETY: not null, and a text of the environment, which ends with a zero and stays.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) })
}

impl Recorder {
    fn of_environment() -> Option<Self> {
        let (root, log) = (variable(c"FILE_RECORDER_ROOT")?, variable(c"FILE_RECORDER_LOG")?);
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
        // SAFETY: the path ends with a zero. A bare system call, since `open` is one of the functions replaced here.
        let log = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, log.as_ptr(), flags, 0o600) };
        if log < 0 {
            // Nothing must look recorded that is not.
            std::process::abort();
        }
        Some(Self { root: root.to_bytes().to_vec(), log: log as c_int, order: Mutex::new(()) })
    }

    /// Whether a path is in the folder.
    pub(crate) fn watches(&self, path: &[u8]) -> bool {
        path.strip_prefix(self.root.as_slice())
            .is_some_and(|rest| rest.first().is_none_or(|next| *next == b'/'))
    }

    /// Keeps every other recorded call out until it is dropped.
    pub(crate) fn order(&self) -> Order<'_> {
        Order { log: self.log, _held: self.order.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

impl Order<'_> {
    /// Appends a record, whole, and leaves `errno` as it was.
    pub(crate) fn note(&self, record: Record<'_>) {
        let errno = errno();
        let mut bytes = Vec::with_capacity(25 + record.first.len() + record.second.len());
        bytes.push(record.kind);
        bytes.extend_from_slice(&record.file.to_le_bytes());
        bytes.extend_from_slice(&record.number.to_le_bytes());
        bytes.extend_from_slice(&(record.first.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(record.second.len() as u32).to_le_bytes());
        bytes.extend_from_slice(record.first);
        bytes.extend_from_slice(record.second);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            // SAFETY: a pointer and length of one slice. A bare system call, since `write` is replaced here.
            let written = unsafe { libc::syscall(libc::SYS_write, self.log, rest.as_ptr(), rest.len()) };
            match usize::try_from(written) {
                Ok(written) => rest = &rest[written..],
                Err(_) if self::errno() == libc::EINTR => {}
                Err(_) => std::process::abort(),
            }
        }
        set_errno(errno);
    }
}

pub(crate) fn errno() -> c_int {
    // SAFETY: the C library gives each thread a place for it.
    unsafe { *libc::__errno_location() }
}

pub(crate) fn set_errno(errno: c_int) {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno }
}

/// Where a link leads.
fn link(path: &CStr) -> Option<Vec<u8>> {
    let mut target = vec![0u8; 4096];
    // SAFETY: the path ends with a zero, and the buffer is as long as is said.
    let length = unsafe { libc::readlink(path.as_ptr(), target.as_mut_ptr().cast::<c_char>(), target.len()) };
    target.truncate(usize::try_from(length).ok()?);
    Some(target)
}

/// The path of an open file, with ` (deleted)` after it when its name is gone.
pub(crate) fn path_of(descriptor: c_int) -> Option<Vec<u8>> {
    let mut name = format!("/proc/self/fd/{descriptor}").into_bytes();
    name.push(0);
    link(CStr::from_bytes_with_nul(&name).ok()?)
}

/// The whole path of a name below a folder.
pub(crate) fn path_at(folder: c_int, name: &CStr) -> Vec<u8> {
    let name = name.to_bytes();
    if name.starts_with(b"/") {
        return name.to_vec();
    }
    let folder = if folder == libc::AT_FDCWD { link(c"/proc/self/cwd") } else { path_of(folder) };
    let mut path = folder.unwrap_or_default();
    path.push(b'/');
    path.extend_from_slice(name);
    path
}

/// What is known of an open file.
pub(crate) fn status_of(descriptor: c_int) -> Option<libc::stat64> {
    // SAFETY: all zero is a valid value of this plain structure.
    let mut status: libc::stat64 = unsafe { std::mem::zeroed() };
    // SAFETY: writes to the structure it is given.
    (unsafe { libc::fstat64(descriptor, &raw mut status) } == 0).then_some(status)
}

/// What is known of a name.
pub(crate) fn status_at(folder: c_int, name: &CStr) -> Option<libc::stat64> {
    // SAFETY: as above.
    let mut status: libc::stat64 = unsafe { std::mem::zeroed() };
    let flags = libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: the name ends with a zero; writes to the structure it is given.
    (unsafe { libc::fstatat64(folder, name.as_ptr(), &raw mut status, flags) } == 0).then_some(status)
}
