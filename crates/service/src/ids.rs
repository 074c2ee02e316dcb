//! The source of ids. Random in production, seeded in tests.

use std::{
    cell::RefCell,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ulid::Ulid;

use crate::SharedClock;

/// Random bytes for the next ids of a thread: a call of the generator costs the same for one and for many.
struct Pool {
    bytes: [[u8; 16]; 32],
    left: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { bytes: [[0; 16]; 32], left: 0 }) };
}

impl Pool {
    fn take(&mut self) -> u128 {
        if self.left == 0 {
            // The system's generator does not fail once it is up; if it did, no id may be given out.
            aws_lc_rs::rand::fill(self.bytes.as_flattened_mut()).expect("the random generator works");
            self.left = self.bytes.len();
        }
        self.left -= 1;
        // What was given out is here no more.
        u128::from_be_bytes(self.bytes.get_mut(self.left).map(std::mem::take).unwrap_or_default())
    }
}

#[derive(Clone)]
enum Source {
    /// From the operating system, by aws-lc-rs; ids can't be guessed.
    Random,
    /// A counter mixed with a seed, for tests.
    Seeded(u64, Arc<AtomicU64>),
}

/// Draws ULIDs: 48 bits of time in milliseconds, 80 bits of randomness.
#[derive(Clone)]
pub struct Ids {
    source: Source,
    clock: SharedClock,
}

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ids")
    }
}

/// splitmix64, to spread a test's seed over all bits.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Ids {
    /// Ids that can't be guessed.
    pub fn random(clock: SharedClock) -> Self {
        Self { source: Source::Random, clock }
    }

    /// The same ids for the same seed and clock.
    pub fn seeded(seed: u64, clock: SharedClock) -> Self {
        Self { source: Source::Seeded(seed, Arc::new(AtomicU64::new(0))), clock }
    }

    /// The next id.
    pub fn ulid(&self) -> Ulid {
        let milliseconds = u64::try_from(self.clock.now().0 / 1000).unwrap_or(0);
        Ulid::from_parts(milliseconds, self.bits())
    }

    /// A random number in `0..bound` (0 when `bound` is 0), for jitter.
    pub fn below(&self, bound: u64) -> u64 {
        let bits = u64::try_from(self.bits() & u128::from(u64::MAX)).unwrap_or(0);
        bits.checked_rem(bound).unwrap_or(0)
    }

    fn bits(&self) -> u128 {
        match &self.source {
            Source::Random => POOL.with_borrow_mut(Pool::take),
            Source::Seeded(seed, counter) => {
                let n = counter.fetch_add(1, Ordering::Relaxed);
                let high = mix(seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
                (u128::from(high) << 64) | u128::from(mix(high ^ n))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ManualClock, Timestamp};

    #[test]
    fn seeded_ids_repeat_and_differ() {
        let clock = ManualClock::at(Timestamp::from_seconds(1_000));
        let (a, b) = (Ids::seeded(7, clock.clone()), Ids::seeded(7, clock.clone()));
        let first = a.ulid();
        assert_eq!(first, b.ulid());
        assert_ne!(first, a.ulid());
        assert_ne!(Ids::random(clock.clone()).ulid(), Ids::random(clock).ulid());
    }

    #[test]
    fn random_ids_differ_also_from_those_of_other_threads() {
        let ids = Ids::random(ManualClock::at(Timestamp::from_seconds(1_000)));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let ids = ids.clone();
                std::thread::spawn(move || (0..1_000).map(|_| ids.ulid()).collect::<Vec<_>>())
            })
            .collect();
        let mut all: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 4_000);
        assert!(all.iter().all(|id| id.random() != 0));
    }
}
