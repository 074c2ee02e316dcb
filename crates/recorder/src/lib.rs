//! Records what a program does to the files of one folder: every write with its bytes, every sync, every change of a
//! name, in the order in which they happened. The program is started with this library in `LD_PRELOAD`,
//! `FILE_RECORDER_ROOT` naming the folder (absolute, without links) and `FILE_RECORDER_LOG` the log, a file outside it.
//!
//! What goes past the C library (io_uring, bare system calls) is not seen; neither are writes through a shared mapping,
//! which are named in the log when such a mapping is made, except for SQLite's `-shm` files, that hold nothing after a
//! crash. Whoever reads a log replays it and compares with the folder, so that nothing unseen goes unnoticed.
//!
//! With `FILE_RECORDER_COUNTS` it also, or only, counts syncs and copied bytes: `counts.rs`.
#![expect(unsafe_code, reason = "it stands between a program and its C library")]

#[macro_use]
mod calls;
mod counts;
mod log;
