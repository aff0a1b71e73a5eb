//! Counts durations in fixed buckets.
//!
//! All histograms have the same bounds, so that any two can be compared. They go from 25 µs, below
//! which a step did not wait for any peer, to 10 minutes.

use std::time::Duration;

const MICRO: u64 = 1_000;
const MILLI: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

/// The upper bounds of all buckets but the last, which has none, in nanoseconds. A bound belongs
/// to its bucket.
const BOUNDS: [u64; 18] = [
    25 * MICRO,
    100 * MICRO,
    250 * MICRO,
    500 * MICRO,
    MILLI,
    2_500 * MICRO,
    5 * MILLI,
    10 * MILLI,
    25 * MILLI,
    50 * MILLI,
    100 * MILLI,
    250 * MILLI,
    500 * MILLI,
    SECOND,
    2_500 * MILLI,
    10 * SECOND,
    60 * SECOND,
    600 * SECOND,
];

const BUCKETS: usize = BOUNDS.len() + 1;

/// The first bucket that may hold a number of nanoseconds, by its logarithm.
#[allow(clippy::indexing_slicing, reason = "the compiler evaluates it")]
const FIRST: [u8; 64] = {
    let mut first = [0; 64];
    let mut log = 0;
    while log < 64 {
        let mut bucket = 0;
        while bucket < BOUNDS.len() && BOUNDS[bucket] < 1 << log {
            bucket += 1;
        }
        first[log] = bucket as u8;
        log += 1;
    }
    first
};

/// Counts of durations by size, and their sum.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Histogram {
    buckets: [u64; BUCKETS],
    nanos: u64,
}

impl Histogram {
    /// Counts a duration.
    pub(crate) fn record(&mut self, took: Duration) {
        // 584 years fit.
        let nanos = took.as_secs().saturating_mul(1_000_000_000);
        self.record_nanos(nanos.saturating_add(took.subsec_nanos().into()));
    }

    /// Counts a duration of this many nanoseconds.
    #[inline]
    pub(crate) fn record_nanos(&mut self, nanos: u64) {
        // Most steps begin and end in one turn.
        if nanos == 0 {
            self.buckets[0] += 1;
        } else {
            self.record_some(nanos);
        }
    }

    fn record_some(&mut self, nanos: u64) {
        self.nanos = self.nanos.wrapping_add(nanos);
        // Bounds below this power of two are too small.
        let log = nanos.checked_ilog2().unwrap_or(0);
        let mut bucket = usize::from(FIRST.get(log as usize).copied().unwrap_or_default());
        while BOUNDS.get(bucket).is_some_and(|bound| *bound < nanos) {
            bucket += 1;
        }
        if let Some(count) = self.buckets.get_mut(bucket) {
            *count += 1;
        }
    }

    /// Adds the counts of another histogram.
    pub(crate) fn add(&mut self, more: &Self) {
        for (sum, n) in self.buckets.iter_mut().zip(more.buckets) {
            *sum = sum.wrapping_add(n);
        }
        self.nanos = self.nanos.wrapping_add(more.nanos);
    }

    /// The number of durations counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The sum of all durations.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.nanos)
    }

    /// For each bound, the number of durations up to it; the bound `None` covers all.
    pub fn cumulative(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        let bounds = BOUNDS.into_iter().map(|n| Some(Duration::from_nanos(n))).chain([None]);
        let counts = self.buckets.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        bounds.zip(counts)
    }

    /// A bound that this many hundredths of the durations do not exceed, as tight as the buckets
    /// allow. `None` if nothing was counted, or if it is beyond the last bound.
    pub fn quantile(&self, hundredths: u64) -> Option<Duration> {
        let rank = self.count().saturating_mul(hundredths).div_ceil(100).max(1);
        self.cumulative().find(|(_, count)| *count >= rank)?.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        for (bucket, nanos) in BOUNDS.into_iter().enumerate() {
            let bound = Duration::from_nanos(nanos);
            for (took, expected) in [
                (bound - Duration::from_nanos(1), bucket),
                (bound, bucket),
                (bound + Duration::from_nanos(1), bucket + 1),
            ] {
                let mut h = Histogram::default();
                h.record(took);
                assert_eq!(h.buckets[expected], 1, "{took:?}");
                assert_eq!((h.count(), h.sum()), (1, took));
            }
        }
        let mut h = Histogram::default();
        h.record(Duration::ZERO);
        assert_eq!((h.buckets[0], h.count()), (1, 1));
    }

    #[test]
    fn cumulative_counts_rise_to_the_count_of_all() {
        let mut h = Histogram::default();
        [1, 3, 30, 700_000].into_iter().for_each(|ms| h.record(Duration::from_millis(ms)));
        let mut twice = h.clone();
        twice.add(&h);
        let counts: Vec<_> = twice.cumulative().collect();
        assert!(counts.is_sorted_by_key(|(_, n)| *n));
        assert_eq!(counts.last(), Some(&(None, 8)));
        let below = |ms| counts.iter().find(|(b, _)| *b == Some(Duration::from_millis(ms)));
        assert_eq!(below(1).map(|b| b.1), Some(2));
        assert_eq!(below(5).map(|b| b.1), Some(4));
        assert_eq!(below(600_000).map(|b| b.1), Some(6));
        assert_eq!(twice.sum(), h.sum() * 2);
    }

    #[test]
    fn a_quantile_is_the_bound_of_its_bucket() {
        let mut h = Histogram::default();
        assert_eq!(h.quantile(50), None);
        (0..99).for_each(|_| h.record(Duration::from_micros(600)));
        h.record(Duration::from_secs(3));
        assert_eq!(h.quantile(50), Some(Duration::from_millis(1)));
        assert_eq!(h.quantile(99), Some(Duration::from_millis(1)));
        assert_eq!(h.quantile(100), Some(Duration::from_secs(10)));
        h = Histogram::default();
        h.record(Duration::from_secs(601));
        assert_eq!(h.quantile(50), None);
    }
}
