//! Latencies in a histogram of microseconds, each to a part in a thousand, whatever their size: as HdrHistogram keeps them,
//! exact below 2,048, and above that in 1,024 steps for each doubling.

use std::{fmt, time::Duration};

/// Steps of a doubling, as a power of two.
const FINE: u32 = 10;
/// Steps from nothing to more than an hour.
const STEPS: usize = step(u32::MAX as u64) + 1;

/// The latencies of many operations.
#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    /// How many each step has.
    steps: Vec<u64>,
    count: u64,
    longest: u64,
}

/// The step of a value.
const fn step(value: u64) -> usize {
    let doublings = (u64::BITS - 1 - (value | 1).leading_zeros()).saturating_sub(FINE);
    ((doublings as usize) << FINE) + (value >> doublings) as usize
}

/// The largest value of a step.
fn most_of(step: usize) -> u64 {
    let doublings = (step >> FINE).saturating_sub(1);
    (((step - (doublings << FINE)) as u64 + 1) << doublings) - 1
}

impl Latencies {
    pub(crate) fn new() -> Self {
        Self { steps: vec![0; STEPS], count: 0, longest: 0 }
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        let value = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX).into();
        self.steps[step(value)] += 1;
        self.count += 1;
        self.longest = self.longest.max(value);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.steps.iter_mut().zip(&other.steps).for_each(|(own, others)| *own += others);
        self.count += other.count;
        self.longest = self.longest.max(other.longest);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn longest(&self) -> u64 {
        self.longest
    }

    /// What this share of them had at most, in microseconds; nothing of none.
    pub(crate) fn percentile(&self, share: f64) -> u64 {
        let mut left = (self.count as f64 * share).ceil().max(1.0) as u64;
        for (step, count) in self.steps.iter().enumerate() {
            if *count >= left {
                return most_of(step).min(self.longest);
            }
            left -= count;
        }
        self.longest
    }
}

impl fmt::Display for Latencies {
    /// Cells of a table: p50, p99, p99.9, longest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [median, high, higher] = [0.5, 0.99, 0.999].map(|share| self.percentile(share));
        write!(f, "{median} | {high} | {higher} | {}", self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_one_of_the_sorted_values_to_a_part_in_a_thousand() {
        let mut latencies = Latencies::new();
        let mut values: Vec<u64> = (0..20_000_u64).map(|n| n * n % 3_000_017 + n % 7).collect();
        for value in &values {
            latencies.record(Duration::from_micros(*value));
        }
        values.sort_unstable();
        for share in [0.0, 0.01, 0.5, 0.95, 0.99, 0.999, 1.0] {
            let rank = ((values.len() as f64 * share).ceil() as usize).max(1);
            let (exact, kept) = (values[rank - 1], latencies.percentile(share));
            assert!(kept >= exact && kept - exact <= exact / 1000, "{share}: {exact}, kept as {kept}");
        }
        assert_eq!(latencies.longest(), values[values.len() - 1]);
    }

    #[test]
    fn steps_follow_each_other_without_a_gap() {
        for value in (0..5_000).chain([1 << 20, (1 << 20) + 1, (1 << 31) - 1, u64::from(u32::MAX)]) {
            assert!(most_of(step(value)) >= value, "{value}");
            assert_eq!(step(most_of(step(value)) + 1), step(value) + 1, "{value}");
        }
    }

    #[test]
    fn two_that_are_added_are_one() {
        let (mut one, mut two) = (Latencies::new(), Latencies::new());
        one.record(Duration::from_micros(10));
        two.record(Duration::from_secs(1));
        one.add(&two);
        assert_eq!((one.count(), one.percentile(0.5), one.percentile(1.0)), (2, 10, 1_000_000));
        assert_eq!(Latencies::new().percentile(0.5), 0);
    }
}
