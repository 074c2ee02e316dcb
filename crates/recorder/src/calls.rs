//! The functions of the C library that change files, each replaced by one that also writes it down.
//!
//! SAFETY of all of them: a replacement passes its arguments to the function it stands for, unchanged, and looks at
//! memory only as that function was allowed to, for as many bytes as it said it took. `open` and its kin are variadic
//! in C; on the platforms here (System V on x86-64, AAPCS64 on Linux) an argument that follows is where a third or
//! fourth fixed one would be, and when the caller gave none the function behind does not look at it either.

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    slice,
};

use libc::{iovec, mode_t, off_t, size_t, ssize_t};

use crate::{
    counts::{synced, written},
    log::{Record, Recorder, errno, path_at, path_of, recorder, set_errno, status_at, status_of},
};

/// The function that would have been called without this library.
macro_rules! next {
    ($name:ident($($argument:expr => $type:ty),*) -> $out:ty) => {{
        static NEXT: std::sync::atomic::AtomicPtr<c_void> = std::sync::atomic::AtomicPtr::new(std::ptr::null_mut());
        let mut next = NEXT.load(std::sync::atomic::Ordering::Relaxed);
        if next.is_null() {
            // SAFETY: a name that ends with a zero.
            next = unsafe { libc::dlsym(libc::RTLD_NEXT, concat!(stringify!($name), "\0").as_ptr().cast()) };
            if next.is_null() {
                std::process::abort();
            }
            NEXT.store(next, std::sync::atomic::Ordering::Relaxed);
        }
        // SAFETY: the C library's function of this name has this type, and gets what the caller passed: see above.
        unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($type),*) -> $out>(next)($($argument),*) }
    }};
}

/// Replaces functions by bodies.
macro_rules! replace {
    ($(fn $name:ident($($argument:ident: $type:ty),*) -> $out:ty $body:block)*) => {$(
        // SAFETY: the name is taken on purpose, with the same interface.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($argument: $type),*) -> $out $body
    )*};
}

/// The recorder and the inode, when an open file or folder is watched.
fn watched(descriptor: c_int) -> Option<(&'static Recorder, u64)> {
    let recorder = recorder()?;
    let errno = errno();
    let status = status_of(descriptor).filter(|status| {
        let kind = status.st_mode & libc::S_IFMT;
        kind == libc::S_IFREG || kind == libc::S_IFDIR
    });
    let path = status.and_then(|_| path_of(descriptor));
    set_errno(errno);
    path.is_some_and(|path| recorder.watches(&path)).then_some((recorder, status?.st_ino))
}

/// A name as the caller gave it.
fn text<'a>(name: *const c_char) -> &'a CStr {
    // SAFETY: every function here takes a name that ends with a zero, for the time of the call.
    unsafe { CStr::from_ptr(name) }
}

/// Makes a call on an open file; `note` says what to write down of it, were it to succeed.
fn on_file<T: PartialOrd + Default + Copy>(
    descriptor: c_int,
    call: impl FnOnce() -> T,
    note: impl FnOnce(T) -> (u8, u64, Vec<u8>, Vec<u8>),
) -> T {
    let Some((recorder, file)) = watched(descriptor) else { return call() };
    let order = recorder.order();
    let answer = call();
    if answer >= T::default() {
        let (kind, number, first, second) = note(answer);
        order.note(Record { kind, file, number, first: &first, second: &second });
    }
    answer
}

/// Makes a call that writes at `offset`, or where the file stands.
fn write_at(
    descriptor: c_int,
    offset: Option<off_t>,
    pieces: &[iovec],
    call: impl FnOnce() -> ssize_t,
) -> ssize_t {
    let call = || written(call());
    let Some((recorder, file)) = watched(descriptor) else { return call() };
    let order = recorder.order();
    let offset = offset.unwrap_or_else(|| {
        // SAFETY: plain questions about a descriptor.
        let (flags, stands) =
            unsafe { (libc::fcntl(descriptor, libc::F_GETFL), libc::lseek(descriptor, 0, libc::SEEK_CUR)) };
        if flags & libc::O_APPEND == 0 {
            stands
        } else {
            status_of(descriptor).map_or(0, |file| file.st_size)
        }
    });
    let answer = call();
    if let Ok(mut left) = usize::try_from(answer) {
        let mut bytes = Vec::with_capacity(left);
        for piece in pieces {
            let length = piece.iov_len.min(left);
            if length > 0 {
                // SAFETY: the function behind has just read these bytes.
                bytes
                    .extend_from_slice(unsafe { slice::from_raw_parts(piece.iov_base.cast::<u8>(), length) });
            }
            left -= length;
        }
        order.note(Record { kind: b'w', file, number: offset as u64, first: &bytes, second: &[] });
    }
    answer
}

fn one(buffer: *const c_void, length: size_t) -> [iovec; 1] {
    [iovec { iov_base: buffer.cast_mut(), iov_len: length }]
}

fn several<'a>(pieces: *const iovec, count: c_int) -> &'a [iovec] {
    // SAFETY: the caller passes that many of them, for the time of the call.
    unsafe { slice::from_raw_parts(pieces, usize::try_from(count).unwrap_or(0)) }
}

/// Makes a call that may make or empty a file: `c` for a new one, `t` for one that is emptied.
fn opening(folder: c_int, name: *const c_char, flags: c_int, call: impl FnOnce() -> c_int) -> c_int {
    let changes = flags & (libc::O_CREAT | libc::O_TRUNC) != 0;
    let Some(recorder) = recorder().filter(|_| changes) else { return call() };
    let order = recorder.order();
    let before = status_at(folder, text(name));
    let descriptor = call();
    if descriptor < 0 {
        return descriptor;
    }
    let Some((_, file)) = watched(descriptor) else { return descriptor };
    if before.is_none() {
        let (path, mode) = (path_of(descriptor), status_of(descriptor).map_or(0, |status| status.st_mode));
        let path = path.unwrap_or_default();
        order.note(Record { kind: b'c', file, number: mode.into(), first: &path, second: &[] });
    } else if flags & libc::O_TRUNC != 0 {
        order.note(Record { kind: b't', file, number: 0, first: &[], second: &[] });
    }
    descriptor
}

/// Makes a call that makes a folder or a socket: as `d` or `c`, with its inode and mode.
fn making(kind: u8, folder: c_int, name: &CStr, call: impl FnOnce() -> c_int) -> c_int {
    let path = path_at(folder, name);
    let Some(recorder) = recorder().filter(|recorder| recorder.watches(&path)) else { return call() };
    let order = recorder.order();
    let answer = call();
    if answer == 0
        && let Some(made) = status_at(folder, name)
    {
        let number = made.st_mode.into();
        order.note(Record { kind, file: made.st_ino, number, first: &path, second: &[] });
    }
    answer
}

/// Makes a call that changes names: `l` links, `r` renames, `u` removes.
fn naming(
    kind: u8,
    first: (c_int, *const c_char),
    second: Option<(c_int, *const c_char)>,
    call: impl FnOnce() -> c_int,
) -> c_int {
    let paths = [Some(first), second].map(|place| place.map(|(folder, name)| path_at(folder, text(name))));
    let of_ours = |recorder: &&Recorder| paths.iter().flatten().any(|path| recorder.watches(path));
    let Some(recorder) = recorder().filter(of_ours) else { return call() };
    let order = recorder.order();
    let answer = call();
    if answer == 0 {
        let [first, second] = paths.map(Option::unwrap_or_default);
        order.note(Record { kind, file: 0, number: 0, first: &first, second: &second });
    }
    answer
}

/// Makes a call that this recorder can't put into its terms: `?` and the name. A reader of the log must not go on.
fn unseen(descriptor: c_int, name: &str, call: impl FnOnce() -> ssize_t) -> ssize_t {
    on_file(descriptor, call, |_| (b'?', 0, name.as_bytes().to_vec(), Vec::new()))
}

const HERE: c_int = libc::AT_FDCWD;

replace! {
    fn open(name: *const c_char, flags: c_int, mode: mode_t) -> c_int {
        opening(HERE, name, flags, || next!(open(name => *const c_char, flags => c_int, mode => mode_t) -> c_int))
    }
    fn open64(name: *const c_char, flags: c_int, mode: mode_t) -> c_int {
        opening(HERE, name, flags, || next!(open64(name => *const c_char, flags => c_int, mode => mode_t) -> c_int))
    }
    fn openat(folder: c_int, name: *const c_char, flags: c_int, mode: mode_t) -> c_int {
        opening(folder, name, flags, || {
            next!(openat(folder => c_int, name => *const c_char, flags => c_int, mode => mode_t) -> c_int)
        })
    }
    fn openat64(folder: c_int, name: *const c_char, flags: c_int, mode: mode_t) -> c_int {
        opening(folder, name, flags, || {
            next!(openat64(folder => c_int, name => *const c_char, flags => c_int, mode => mode_t) -> c_int)
        })
    }
    fn creat(name: *const c_char, mode: mode_t) -> c_int {
        let flags = libc::O_CREAT | libc::O_TRUNC;
        opening(HERE, name, flags, || next!(creat(name => *const c_char, mode => mode_t) -> c_int))
    }
    fn creat64(name: *const c_char, mode: mode_t) -> c_int {
        let flags = libc::O_CREAT | libc::O_TRUNC;
        opening(HERE, name, flags, || next!(creat64(name => *const c_char, mode => mode_t) -> c_int))
    }

    fn write(file: c_int, buffer: *const c_void, length: size_t) -> ssize_t {
        write_at(file, None, &one(buffer, length), || {
            next!(write(file => c_int, buffer => *const c_void, length => size_t) -> ssize_t)
        })
    }
    fn writev(file: c_int, pieces: *const iovec, count: c_int) -> ssize_t {
        write_at(file, None, several(pieces, count), || {
            next!(writev(file => c_int, pieces => *const iovec, count => c_int) -> ssize_t)
        })
    }
    fn pwrite(file: c_int, buffer: *const c_void, length: size_t, offset: off_t) -> ssize_t {
        write_at(file, Some(offset), &one(buffer, length), || {
            next!(pwrite(file => c_int, buffer => *const c_void, length => size_t, offset => off_t) -> ssize_t)
        })
    }
    fn pwrite64(file: c_int, buffer: *const c_void, length: size_t, offset: off_t) -> ssize_t {
        write_at(file, Some(offset), &one(buffer, length), || {
            next!(pwrite64(file => c_int, buffer => *const c_void, length => size_t, offset => off_t) -> ssize_t)
        })
    }
    fn pwritev(file: c_int, pieces: *const iovec, count: c_int, offset: off_t) -> ssize_t {
        write_at(file, Some(offset), several(pieces, count), || {
            next!(pwritev(file => c_int, pieces => *const iovec, count => c_int, offset => off_t) -> ssize_t)
        })
    }
    fn pwritev64(file: c_int, pieces: *const iovec, count: c_int, offset: off_t) -> ssize_t {
        write_at(file, Some(offset), several(pieces, count), || {
            next!(pwritev64(file => c_int, pieces => *const iovec, count => c_int, offset => off_t) -> ssize_t)
        })
    }

    fn ftruncate(file: c_int, length: off_t) -> c_int {
        let call = || next!(ftruncate(file => c_int, length => off_t) -> c_int);
        on_file(file, call, |_| (b't', length as u64, Vec::new(), Vec::new()))
    }
    fn ftruncate64(file: c_int, length: off_t) -> c_int {
        let call = || next!(ftruncate64(file => c_int, length => off_t) -> c_int);
        on_file(file, call, |_| (b't', length as u64, Vec::new(), Vec::new()))
    }
    fn fsync(file: c_int) -> c_int {
        on_file(file, || synced(next!(fsync(file => c_int) -> c_int)), |_| (b's', 0, Vec::new(), Vec::new()))
    }
    fn fdatasync(file: c_int) -> c_int {
        on_file(file, || synced(next!(fdatasync(file => c_int) -> c_int)), |_| (b'f', 0, Vec::new(), Vec::new()))
    }
    fn fsetxattr(file: c_int, name: *const c_char, value: *const c_void, length: size_t, flags: c_int) -> c_int {
        let call = || {
            next!(fsetxattr(file => c_int, name => *const c_char, value => *const c_void, length => size_t,
                flags => c_int) -> c_int)
        };
        on_file(file, call, |_| {
            // SAFETY: the function behind has just read these bytes.
            let value = unsafe { slice::from_raw_parts(value.cast::<u8>(), length) };
            (b'a', 0, text(name).to_bytes().to_vec(), value.to_vec())
        })
    }

    fn mkdir(name: *const c_char, mode: mode_t) -> c_int {
        making(b'd', HERE, text(name), || next!(mkdir(name => *const c_char, mode => mode_t) -> c_int))
    }
    fn mkdirat(folder: c_int, name: *const c_char, mode: mode_t) -> c_int {
        making(b'd', folder, text(name), || {
            next!(mkdirat(folder => c_int, name => *const c_char, mode => mode_t) -> c_int)
        })
    }
    fn bind(socket: c_int, address: *const libc::sockaddr, length: libc::socklen_t) -> c_int {
        let call = || {
            next!(bind(socket => c_int, address => *const libc::sockaddr, length => libc::socklen_t) -> c_int)
        };
        // SAFETY: an address begins with its family, and one of this family holds a path up to its length.
        let name = unsafe {
            match c_int::from((*address).sa_family) {
                libc::AF_UNIX => {
                    let path = (&raw const (*address.cast::<libc::sockaddr_un>()).sun_path).cast::<u8>();
                    slice::from_raw_parts(path, (length as usize).saturating_sub(2)).to_vec()
                }
                _ => return call(),
            }
        };
        let name: Vec<u8> = name.into_iter().take_while(|byte| *byte != 0).chain([0]).collect();
        match CStr::from_bytes_with_nul(&name) {
            Ok(name) if !name.is_empty() => making(b'c', HERE, name, call),
            _ => call(),
        }
    }
    fn rename(from: *const c_char, to: *const c_char) -> c_int {
        naming(b'r', (HERE, from), Some((HERE, to)), || {
            next!(rename(from => *const c_char, to => *const c_char) -> c_int)
        })
    }
    fn renameat(above: c_int, from: *const c_char, below: c_int, to: *const c_char) -> c_int {
        naming(b'r', (above, from), Some((below, to)), || {
            next!(renameat(above => c_int, from => *const c_char, below => c_int, to => *const c_char) -> c_int)
        })
    }
    fn link(from: *const c_char, to: *const c_char) -> c_int {
        naming(b'l', (HERE, from), Some((HERE, to)), || {
            next!(link(from => *const c_char, to => *const c_char) -> c_int)
        })
    }
    fn linkat(above: c_int, from: *const c_char, below: c_int, to: *const c_char, flags: c_int) -> c_int {
        naming(b'l', (above, from), Some((below, to)), || {
            next!(linkat(above => c_int, from => *const c_char, below => c_int, to => *const c_char,
                flags => c_int) -> c_int)
        })
    }
    fn unlink(name: *const c_char) -> c_int {
        naming(b'u', (HERE, name), None, || next!(unlink(name => *const c_char) -> c_int))
    }
    fn unlinkat(folder: c_int, name: *const c_char, flags: c_int) -> c_int {
        naming(b'u', (folder, name), None, || {
            next!(unlinkat(folder => c_int, name => *const c_char, flags => c_int) -> c_int)
        })
    }
    fn remove(name: *const c_char) -> c_int {
        naming(b'u', (HERE, name), None, || next!(remove(name => *const c_char) -> c_int))
    }
    fn rmdir(name: *const c_char) -> c_int {
        naming(b'u', (HERE, name), None, || next!(rmdir(name => *const c_char) -> c_int))
    }

    fn mmap(at: *mut c_void, length: size_t, access: c_int, flags: c_int, file: c_int, offset: off_t) -> *mut c_void {
        mapping(file, access, flags);
        next!(mmap(at => *mut c_void, length => size_t, access => c_int, flags => c_int, file => c_int,
            offset => off_t) -> *mut c_void)
    }
    fn mmap64(at: *mut c_void, length: size_t, access: c_int, flags: c_int, file: c_int, offset: off_t) -> *mut c_void {
        mapping(file, access, flags);
        next!(mmap64(at => *mut c_void, length => size_t, access => c_int, flags => c_int, file => c_int,
            offset => off_t) -> *mut c_void)
    }
    fn copy_file_range(from: c_int, at: *mut off_t, to: c_int, place: *mut off_t, length: size_t, flags: c_uint)
        -> ssize_t
    {
        unseen(to, "copy_file_range", || {
            next!(copy_file_range(from => c_int, at => *mut off_t, to => c_int, place => *mut off_t,
                length => size_t, flags => c_uint) -> ssize_t)
        })
    }
    fn sendfile(to: c_int, from: c_int, offset: *mut off_t, length: size_t) -> ssize_t {
        unseen(to, "sendfile", || {
            next!(sendfile(to => c_int, from => c_int, offset => *mut off_t, length => size_t) -> ssize_t)
        })
    }
    fn sendfile64(to: c_int, from: c_int, offset: *mut off_t, length: size_t) -> ssize_t {
        unseen(to, "sendfile64", || {
            next!(sendfile64(to => c_int, from => c_int, offset => *mut off_t, length => size_t) -> ssize_t)
        })
    }
    fn fallocate(file: c_int, mode: c_int, offset: off_t, length: off_t) -> c_int {
        on_file(file, || {
            next!(fallocate(file => c_int, mode => c_int, offset => off_t, length => off_t) -> c_int)
        }, |_| (b'?', 0, b"fallocate".to_vec(), Vec::new()))
    }
    fn fallocate64(file: c_int, mode: c_int, offset: off_t, length: off_t) -> c_int {
        on_file(file, || {
            next!(fallocate64(file => c_int, mode => c_int, offset => off_t, length => off_t) -> c_int)
        }, |_| (b'?', 0, b"fallocate64".to_vec(), Vec::new()))
    }
    fn pwritev2(file: c_int, pieces: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t {
        unseen(file, "pwritev2", || {
            next!(pwritev2(file => c_int, pieces => *const iovec, count => c_int, offset => off_t,
                flags => c_int) -> ssize_t)
        })
    }
    fn pwritev64v2(file: c_int, pieces: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t {
        unseen(file, "pwritev64v2", || {
            next!(pwritev64v2(file => c_int, pieces => *const iovec, count => c_int, offset => off_t,
                flags => c_int) -> ssize_t)
        })
    }
}

/// A shared mapping for writing is written to without a call; only SQLite's index over its log may be one.
fn mapping(file: c_int, access: c_int, flags: c_int) {
    let written = flags & libc::MAP_TYPE != libc::MAP_PRIVATE && access & libc::PROT_WRITE != 0;
    if !written || flags & libc::MAP_ANONYMOUS != 0 {
        return;
    }
    let Some((recorder, file)) =
        watched(file).filter(|_| !path_of(file).is_some_and(|path| path.ends_with(b"-shm")))
    else {
        return;
    };
    recorder.order().note(Record { kind: b'?', file, number: 0, first: b"mmap", second: &[] });
}
