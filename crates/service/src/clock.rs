//! Time as a parameter. Only [`SystemClock`] asks the operating system.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// A moment: microseconds since 1970-01-01 in UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(pub i64);

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

impl Timestamp {
    /// Whole seconds since 1970.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// From whole seconds since 1970.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// Later by `duration`.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }

    /// Earlier by `duration`.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(micros(duration)))
    }

    /// How long after `earlier`; zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// A source of wall-clock time. It may step; nothing may break when it does.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// A clock to pass around.
pub type SharedClock = Arc<dyn Clock>;

/// The operating system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        #[expect(clippy::disallowed_methods, reason = "the one place that asks the operating system")]
        let now = SystemTime::now();
        Timestamp(now.duration_since(UNIX_EPOCH).map_or(0, micros))
    }
}

/// The time of a whole deployment, as a process with a clock of its own knows it: what it was last told, carried on by time
/// that passes rather than by its own clock, which may be wrong or step. Its own clock counts until it was told anything,
/// and while the two agree.
#[derive(Debug)]
pub struct ToldClock {
    own: SharedClock,
    told: Mutex<Option<(Timestamp, Instant)>>,
}

/// Clocks that lie no farther apart agree: what was told has been under way.
const AGREEMENT: Duration = Duration::from_secs(2);

impl ToldClock {
    /// A clock that is like `own` until it is told otherwise.
    pub fn over(own: SharedClock) -> Arc<Self> {
        Arc::new(Self { own, told: Mutex::new(None) })
    }

    /// The deployment's time is `now`.
    pub fn tell(&self, now: Timestamp) {
        let own = self.own.now();
        let apart = own.since(now).max(now.since(own));
        *self.told.lock() = (apart > AGREEMENT).then(|| (now, Instant::now()));
    }
}

impl Clock for ToldClock {
    fn now(&self) -> Timestamp {
        let told = *self.told.lock();
        told.map_or_else(|| self.own.now(), |(now, at)| now.plus(at.elapsed()))
    }
}

/// A clock that a test moves.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that stands at `now`.
    pub fn at(now: Timestamp) -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(now.0)))
    }

    /// Moves it forward.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(micros(by), Ordering::SeqCst);
    }

    /// Moves it anywhere.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.0, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Timestamp = Timestamp::from_seconds(1_700_000_000);
    const TEN_MINUTES: Duration = Duration::from_secs(600);

    #[tokio::test(start_paused = true)]
    async fn what_was_told_goes_on_whatever_the_own_clock_does() {
        for wrong in [NOON.plus(TEN_MINUTES), NOON.minus(TEN_MINUTES)] {
            let own = ManualClock::at(wrong);
            let clock = ToldClock::over(own.clone());
            assert_eq!(clock.now(), wrong, "nothing was told yet");
            clock.tell(NOON);
            assert_eq!(clock.now(), NOON);
            tokio::time::advance(Duration::from_secs(3)).await;
            own.set(Timestamp::from_seconds(0));
            assert_eq!(clock.now(), NOON.plus(Duration::from_secs(3)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_agrees_is_its_own() {
        let own = ManualClock::at(NOON.plus(Duration::from_secs(1)));
        let clock = ToldClock::over(own.clone());
        clock.tell(NOON);
        assert_eq!(clock.now(), own.now());
        own.advance(TEN_MINUTES);
        clock.tell(NOON);
        assert_eq!(clock.now(), NOON);
        clock.tell(own.now());
        own.advance(TEN_MINUTES);
        assert_eq!(clock.now(), own.now(), "told that it is right after all");
    }
}
