//! Who may write to an upload. On PostgreSQL leases are in the session's row; on SQLite, where one process has the
//! database, they are here and end with the process. An epoch never repeats and never goes back, whether the process
//! starts again or the clock is set back: a store refuses every epoch below one that it has seen.

use std::{collections::HashMap, time::Duration};

use berth_database::{Database, DatabaseError};
use berth_service::Timestamp;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::event;

/// How long a lease lasts without being renewed.
pub(crate) const LEASE: Duration = Duration::from_secs(60);
/// How long an epoch that nobody gave back is remembered; long after any unit that knows it has run.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// From this many on, forgotten epochs are looked for.
const CROWDED: usize = 1024;

/// Epochs of one process, at most 2 to this power. The number of the process is above them.
const EPOCHS_OF_A_PROCESS: u32 = 28;

/// The leases of a process that has its database for itself.
#[derive(Default, Debug)]
pub(crate) struct Leases {
    state: Mutex<State>,
    started: OnceCell<()>,
}

#[derive(Default, Debug)]
struct State {
    held: HashMap<String, Held>,
    last: i64,
    prune_at: usize,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    epoch: i64,
    until: Timestamp,
}

impl Leases {
    /// Puts this process's epochs above those of every process before it. Once, before the first is handed out.
    pub(crate) async fn start(&self, database: &Database) -> Result<(), DatabaseError> {
        let start = || async {
            // Any number that only grows and outlives the process will do; events leave gaps anyway.
            let number = database
                .write("number_process", |tx| Box::pin(async move { tx.sequence(event::SEQUENCE).await }))
                .await?;
            let mut state = self.state.lock();
            state.last = state.last.max(number << EPOCHS_OF_A_PROCESS);
            Ok::<_, DatabaseError>(())
        };
        self.started.get_or_try_init(start).await?;
        Ok(())
    }

    /// A new epoch, unless one of this upload is out: then a unit with it may be running, and only one that runs after
    /// it may take the next.
    pub(crate) fn take_if_free(&self, upload: &str, now: Timestamp) -> Option<i64> {
        let mut state = self.state.lock();
        if state.held.contains_key(upload) { None } else { Some(state.take(upload, 0, now)) }
    }

    /// A new epoch, above the one in the row and above every other; the older one is void from now on.
    pub(crate) fn take(&self, upload: &str, recorded: i64, now: Timestamp) -> i64 {
        self.state.lock().take(upload, recorded, now)
    }

    /// Whether `epoch` is the upload's newest.
    pub(crate) fn holds(&self, upload: &str, epoch: i64) -> bool {
        self.state.lock().held.get(upload).is_some_and(|held| held.epoch == epoch)
    }

    /// Until when an upload has a live holder, if it has one.
    pub(crate) fn live_until(&self, upload: &str, now: Timestamp) -> Option<Timestamp> {
        self.state.lock().held.get(upload).map(|held| held.until).filter(|until| *until > now)
    }

    /// Puts off the end of a lease.
    pub(crate) fn renew(&self, upload: &str, epoch: i64, now: Timestamp) {
        if let Some(held) = self.state.lock().held.get_mut(upload).filter(|held| held.epoch == epoch) {
            held.until = now.plus(LEASE);
        }
    }

    /// Gives a lease back, after the transaction that it was needed for.
    pub(crate) fn release(&self, upload: &str, epoch: i64) {
        let mut state = self.state.lock();
        if state.held.get(upload).is_some_and(|held| held.epoch == epoch) {
            state.held.remove(upload);
        }
    }
}

impl State {
    fn take(&mut self, upload: &str, recorded: i64, now: Timestamp) -> i64 {
        let epoch = recorded.max(self.last) + 1;
        self.last = epoch;
        self.held.insert(upload.to_owned(), Held { epoch, until: now.plus(LEASE) });
        if self.held.len() > self.prune_at.max(CROWDED) {
            self.held.retain(|_, held| held.until.plus(REMEMBERED) > now);
            self.prune_at = self.held.len() * 2;
        }
        epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_never_goes_back() {
        let leases = Leases::default();
        let first = leases.take("a", 0, Timestamp(1_000));
        let second = leases.take("a", 0, Timestamp(10));
        assert!(second > first);
        assert!(!leases.holds("a", first));
        assert!(leases.holds("a", second));
        assert!(leases.take("b", second + 50, Timestamp(0)) > second + 50);
        leases.release("a", first);
        assert!(leases.take_if_free("a", Timestamp(0)).is_none());
        leases.release("a", second);
        assert!(leases.take_if_free("a", Timestamp(0)).is_some());
    }

    #[test]
    fn forgotten_leases_are_bounded() {
        let leases = Leases::default();
        for number in 0..5_000i64 {
            leases.take(&number.to_string(), 0, Timestamp(number * 60_000_000));
        }
        assert!(leases.state.lock().held.len() <= 2 * CROWDED + 1);
    }
}
