//! Counts what passes between the program and its kernel. `FILE_RECORDER_COUNTS` names a file of three 64-bit numbers, in
//! the machine's order, that whoever watches reads while the program runs: calls that make a file durable, bytes copied
//! from the kernel, bytes copied to it. What is mapped, or sent by the kernel alone, is not copied.
//!
//! SAFETY of all replacements: see `calls.rs`.

use std::{
    ffi::{c_int, c_void},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use libc::{iovec, msghdr, off_t, size_t, sockaddr, socklen_t, ssize_t};

use crate::log::variable;

/// The numbers of the file, in their order.
#[derive(Debug)]
#[repr(C)]
struct Counts {
    syncs: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
}

/// The numbers, if the environment asks for them.
fn counts() -> Option<&'static Counts> {
    static COUNTS: OnceLock<Option<&'static Counts>> = OnceLock::new();
    *COUNTS.get_or_init(|| {
        let name = variable(c"FILE_RECORDER_COUNTS")?;
        let access = libc::c_long::from(libc::PROT_READ | libc::PROT_WRITE);
        let (sharing, length) = (libc::c_long::from(libc::MAP_SHARED), size_of::<Counts>());
        // SAFETY: the name ends with a zero, and the rest are numbers. Bare system calls, since their functions are replaced
        // here. The file is as long as the structure, or the first count ends the program.
        let mapped = unsafe {
            let flags = libc::O_RDWR | libc::O_CLOEXEC;
            let file = libc::syscall(libc::SYS_openat, libc::AT_FDCWD, name.as_ptr(), flags);
            let (anywhere, start) = (std::ptr::null::<c_void>(), 0_i64);
            libc::syscall(libc::SYS_mmap, anywhere, length, access, sharing, file, start)
        };
        if mapped < 0 {
            // Nothing must look free of cost that was not counted.
            std::process::abort();
        }
        // SAFETY: a new mapping, aligned to a page, which stays; any bytes are valid numbers.
        Some(unsafe { &*(mapped as *const Counts) })
    })
}

fn add(of: impl Fn(&Counts) -> &AtomicU64, bytes: ssize_t) -> ssize_t {
    if let (Ok(bytes @ 1..), Some(counts)) = (u64::try_from(bytes), counts()) {
        of(counts).fetch_add(bytes, Ordering::Relaxed);
    }
    bytes
}

/// Counts what a call has written.
pub(crate) fn written(bytes: ssize_t) -> ssize_t {
    add(|counts| &counts.written, bytes)
}

/// Counts what a call has read.
fn read(bytes: ssize_t) -> ssize_t {
    add(|counts| &counts.read, bytes)
}

/// Counts a call that makes a file durable.
pub(crate) fn synced(answer: c_int) -> c_int {
    if answer == 0 {
        add(|counts| &counts.syncs, 1);
    }
    answer
}

/// A module, since the names of some of these are taken above.
mod replaced {
    use super::*;

    replace! {
        fn read(file: c_int, buffer: *mut c_void, length: size_t) -> ssize_t {
            super::read(next!(read(file => c_int, buffer => *mut c_void, length => size_t) -> ssize_t))
        }
        fn readv(file: c_int, pieces: *const iovec, count: c_int) -> ssize_t {
            super::read(next!(readv(file => c_int, pieces => *const iovec, count => c_int) -> ssize_t))
        }
        fn pread(file: c_int, buffer: *mut c_void, length: size_t, offset: off_t) -> ssize_t {
            super::read(next!(pread(file => c_int, buffer => *mut c_void, length => size_t, offset => off_t)
                -> ssize_t))
        }
        fn pread64(file: c_int, buffer: *mut c_void, length: size_t, offset: off_t) -> ssize_t {
            super::read(next!(pread64(file => c_int, buffer => *mut c_void, length => size_t, offset => off_t)
                -> ssize_t))
        }
        fn preadv(file: c_int, pieces: *const iovec, count: c_int, offset: off_t) -> ssize_t {
            super::read(next!(preadv(file => c_int, pieces => *const iovec, count => c_int, offset => off_t)
                -> ssize_t))
        }
        fn preadv64(file: c_int, pieces: *const iovec, count: c_int, offset: off_t) -> ssize_t {
            super::read(next!(preadv64(file => c_int, pieces => *const iovec, count => c_int, offset => off_t)
                -> ssize_t))
        }
        fn recv(socket: c_int, buffer: *mut c_void, length: size_t, flags: c_int) -> ssize_t {
            super::read(next!(recv(socket => c_int, buffer => *mut c_void, length => size_t, flags => c_int)
                -> ssize_t))
        }
        fn recvfrom(socket: c_int, buffer: *mut c_void, length: size_t, flags: c_int, from: *mut sockaddr,
            size: *mut socklen_t) -> ssize_t
        {
            super::read(next!(recvfrom(socket => c_int, buffer => *mut c_void, length => size_t, flags => c_int,
                from => *mut sockaddr, size => *mut socklen_t) -> ssize_t))
        }
        fn recvmsg(socket: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
            super::read(next!(recvmsg(socket => c_int, message => *mut msghdr, flags => c_int) -> ssize_t))
        }
        fn send(socket: c_int, buffer: *const c_void, length: size_t, flags: c_int) -> ssize_t {
            written(next!(send(socket => c_int, buffer => *const c_void, length => size_t, flags => c_int)
                -> ssize_t))
        }
        fn sendto(socket: c_int, buffer: *const c_void, length: size_t, flags: c_int, to: *const sockaddr,
            size: socklen_t) -> ssize_t
        {
            written(next!(sendto(socket => c_int, buffer => *const c_void, length => size_t, flags => c_int,
                to => *const sockaddr, size => socklen_t) -> ssize_t))
        }
        fn sendmsg(socket: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
            written(next!(sendmsg(socket => c_int, message => *const msghdr, flags => c_int) -> ssize_t))
        }
    }
}
