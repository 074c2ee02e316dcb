//! The files that the process may open. Each connection is one, and so is each blob that is read; most connections wait.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that are not connections: databases, logs, peers.
const OTHERS: u64 = 128;

/// Lets the process open as many files as it may, and says how many connections that leaves room for: a process that
/// can't open another file fails the requests that it has.
pub(crate) fn for_connections() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let most = if raised.is_ok() { maximum } else { current };
    // None: without a limit.
    let Some(most) = most else { return usize::MAX };
    let room = (most.saturating_sub(OTHERS) / 4 * 3).max(16);
    tracing::debug!(files = most, connections = room, "room for connections");
    usize::try_from(room).unwrap_or(usize::MAX)
}
