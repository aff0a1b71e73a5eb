//! Implements a token bucket as a time: the moment up to which everything let through is paid for.
//!
//! A caller *reserves* bytes. They are paid for at once, which moves the moment on, and may be used from
//! where the moment stood before. So waiting callers form a line, each with a time of its own: no caller
//! is overtaken, and none is woken for nothing. Reserved bytes that are not used are given back. A
//! bucket that was idle for a while has credit, up to [`CREDIT`].

use std::time::Duration;

/// Nanoseconds since a moment that all buckets have in common.
pub type Nanos = i64;

const SECOND: i128 = 1_000_000_000;
const MILLI: Nanos = 1_000_000;

/// How much of the rate an idle time saves up, and how late a waiting caller may come without losing
/// any: a tenth of a second's worth.
pub const CREDIT: Nanos = 100 * MILLI;
/// The least bytes let through at a time, however low the rate.
pub const LEAST: u64 = 256;
/// The most bytes at a time, while there is no line.
const MOST_AT_ONCE: u64 = 256 * 1024;
/// The portion of a waiting caller is about this many bytes. It never takes longer than the second time
/// below, which the next caller would have to wait, nor less than the first, which limits wake-ups.
const PORTION: u64 = 64 * 1024;
const PORTION_TIME: [Nanos; 2] = [5 * MILLI, 100 * MILLI];
/// In a line longer than this, portions get smaller so that each caller has its turn more often.
const LINE: Nanos = 50 * MILLI;
/// The smallest portion, so that a bucket wakes callers at most a thousand times a second.
const LEAST_TIME: Nanos = MILLI;

/// A rate, kept as time.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// Everything up to this moment is paid for.
    paid: Nanos,
    /// The rate that `paid` was calculated with.
    rate: u64,
    /// The place of the caller that moved up last.
    moved: Nanos,
}

impl Default for Bucket {
    fn default() -> Self {
        // Long ago, so that a new bucket has full credit.
        Self { paid: Nanos::MIN / 2, rate: 0, moved: Nanos::MAX }
    }
}

/// The time that `bytes` take at `rate` bytes a second.
fn time(bytes: u64, rate: u64) -> Nanos {
    let nanos = (i128::from(bytes) * SECOND).div_euclid(i128::from(rate.max(1)));
    Nanos::try_from(nanos).unwrap_or(Nanos::MAX / 4)
}

/// The bytes that `rate` lets through in this time.
fn bytes(time: Nanos, rate: u64) -> u64 {
    u64::try_from(i128::from(time) * i128::from(rate) / SECOND).unwrap_or(0)
}

impl Bucket {
    /// The number of bytes to reserve at a time at this rate.
    pub fn portion(&mut self, rate: u64, now: Nanos) -> u64 {
        self.follow(rate, now);
        let line = self.paid.saturating_sub(now);
        let [least, most] = PORTION_TIME;
        let mut each = time(PORTION, rate).clamp(least, most);
        if line > LINE {
            let smaller = i128::from(each) * i128::from(LINE) / i128::from(line);
            each = Nanos::try_from(smaller).unwrap_or(each).max(LEAST_TIME);
        }
        let portion = bytes(each, rate).max(LEAST);
        if line > 0 { portion } else { portion.min(MOST_AT_ONCE) }
    }

    /// The length of the line.
    pub fn line(&self, now: Nanos) -> Nanos {
        self.paid.saturating_sub(now).max(0)
    }

    /// Reserves bytes; returns the moment from which they may be used.
    pub fn reserve(&mut self, bytes: u64, rate: u64, now: Nanos) -> Nanos {
        self.follow(rate, now);
        let from = self.paid.max(now.saturating_sub(CREDIT));
        self.paid = from.saturating_add(time(bytes, rate));
        from
    }

    /// Gives back reserved bytes that were not used.
    pub fn give_back(&mut self, bytes: u64, rate: u64, now: Nanos) {
        self.follow(rate, now);
        self.paid = self.paid.saturating_sub(time(bytes, rate));
    }

    /// Gives back the bytes of a caller that leaves the line; those behind it may move up.
    pub fn leave(&mut self, bytes: u64, rate: u64, now: Nanos) {
        self.give_back(bytes, rate, now);
        self.moved = Nanos::MAX;
    }

    /// The moment from which bytes reserved from `at` on could be used, now that others may have given
    /// back theirs. Callers that stand behind the end of the line move up: the first to ask to the end
    /// of the line, the next to just before that one, so that the freed time is used once.
    pub fn sooner(&mut self, bytes: u64, rate: u64, at: Nanos, now: Nanos) -> Nanos {
        self.follow(rate, now);
        if self.moved <= now {
            self.moved = Nanos::MAX;
        }
        let long = time(bytes, rate);
        let alone = self.paid.saturating_sub(long) <= now;
        match (alone, at >= self.paid) {
            (true, _) => now,
            (false, true) => self.paid.min(self.moved).saturating_sub(long).max(now),
            (false, false) => at,
        }
    }

    /// Moves reserved bytes to that moment.
    pub fn move_up(&mut self, bytes: u64, rate: u64, to: Nanos) {
        self.paid = self.paid.max(to.saturating_add(time(bytes, rate)));
        self.moved = to;
    }

    /// Takes one of `burst` units. All may be taken at once; they come back over `period`.
    ///
    /// # Errors
    ///
    /// No unit is left; the error is the time until there is one.
    pub fn take_one(&mut self, burst: u64, period: Nanos, now: Nanos) -> Result<(), Nanos> {
        let each = period / Nanos::try_from(burst.max(1)).unwrap_or(Nanos::MAX);
        let paid = self.paid.max(now.saturating_sub(period)).saturating_add(each);
        if paid > now {
            return Err(paid - now);
        }
        self.paid = paid;
        Ok(())
    }

    /// Whether the bucket has full credit, so that it can be forgotten.
    pub fn is_full(&self, pause: Nanos, now: Nanos) -> bool {
        self.paid <= now.saturating_sub(pause)
    }

    /// Changes the rate. Bytes that wait do so for less if the rate has become higher.
    fn follow(&mut self, rate: u64, now: Nanos) {
        if self.rate == rate {
            return;
        }
        if self.rate > 0 && self.paid > now {
            let owed =
                i128::from(self.paid - now) * i128::from(self.rate) / i128::from(rate.max(1));
            self.paid = now.saturating_add(Nanos::try_from(owed).unwrap_or(Nanos::MAX / 4));
        }
        self.rate = rate;
        self.moved = Nanos::MAX;
    }
}

/// A span of time in nanoseconds.
pub(super) fn nanos(time: Duration) -> Nanos {
    Nanos::try_from(time.as_nanos()).unwrap_or(Nanos::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Nanos = 1_000 * MILLI;

    /// Runs `flows` that always want more for ten seconds, each as late for its turn as `late` says.
    /// Returns the bytes of each, the number of wake-ups, and the longest wait.
    fn downloads(rate: u64, flows: usize, late: Nanos) -> (Vec<u64>, u64, Nanos) {
        let mut bucket = Bucket::default();
        // For each flow: when it may use which bytes, and since when it waits.
        let mut waiting = vec![(0, 0, 0); flows];
        let mut got = vec![0; flows];
        let (mut wakes, mut longest) = (0, 0);
        loop {
            let (flow, _) = waiting.iter().enumerate().min_by_key(|(_, w)| w.0).unwrap();
            let (at, held, since) = waiting[flow];
            let mut now: Nanos = at;
            if at > since {
                now = at + late;
                wakes += 1;
                longest = longest.max(now - since);
            }
            if now >= 10 * S {
                return (got, wakes, longest);
            }
            got[flow] += held;
            let portion = bucket.portion(rate, now);
            let from = bucket.reserve(portion, rate, now);
            waiting[flow] = (from.max(now), portion, now);
        }
    }

    #[test]
    fn a_rate_is_kept_within_a_twentieth_and_shared_equally() {
        for rate in [1_000, 10_000, 1_000_000, 100_000_000, 1_000_000_000] {
            for (flows, late) in [(1, 0), (1, MILLI), (1, 20 * MILLI), (2, MILLI), (10, MILLI)] {
                let (got, wakes, longest) = downloads(rate, flows, late);
                let row = format!("{rate} bytes/s, {flows} flows, {late} ns late: {got:?}");
                let (all, wanted) = (got.iter().sum::<u64>() as f64, rate as f64 * 10.0);
                // Bytes reserved at the end are not received yet.
                let short = LEAST.max(bytes(PORTION_TIME[1], rate)) * flows as u64;
                assert!((wanted * 0.95 - short as f64..wanted * 1.05).contains(&all), "{row}");
                let least = *got.iter().min().unwrap() as f64;
                let most = *got.iter().max().unwrap() as f64;
                // The first flow has the credit, and one larger portion.
                let once = bytes(CREDIT, rate).max(2 * LEAST) as f64 * 3.0;
                assert!(most - least <= wanted / flows as f64 * 0.1 + once, "{row}");
                assert!(wakes <= 10_000, "{wakes} times: {row}");
                assert!(longest <= 3 * S, "{longest} ns: {row}");
            }
        }
    }

    #[test]
    fn a_long_line_has_smaller_portions_and_nobody_starves() {
        let (got, wakes, longest) = downloads(1_000_000, 1_000, 0);
        let least = *got.iter().min().unwrap();
        assert!(least > 5_000, "{least}");
        assert!(wakes <= 10_000 && longest < 4 * S, "{wakes} {longest}");
    }

    #[test]
    fn a_pause_saves_up_a_tenth_of_a_second() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.reserve(1_000, 1_000, 100 * S), 100 * S - CREDIT);
        // 100 bytes were credit, so 900 are owed.
        assert_eq!(bucket.reserve(1, 1_000, 100 * S), 100 * S + 900 * MILLI);
        assert!(!bucket.is_full(CREDIT, 100 * S) && bucket.is_full(CREDIT, 102 * S));
    }

    #[test]
    fn what_is_given_back_was_never_taken() {
        let (mut one, mut other) = (Bucket::default(), Bucket::default());
        one.reserve(5_000, 1_000, 10 * S);
        one.give_back(4_000, 1_000, 10 * S);
        other.reserve(1_000, 1_000, 10 * S);
        let next = |bucket: &mut Bucket| bucket.reserve(0, 1_000, 10 * S);
        assert_eq!(next(&mut one), next(&mut other));
    }

    #[test]
    fn another_rate_holds_for_what_is_owed_too() {
        let mut bucket = Bucket::default();
        bucket.reserve(10_000, 1_000, 0);
        let owed = |bucket: &mut Bucket, rate| bucket.reserve(0, rate, 0);
        assert_eq!(owed(&mut bucket, 1_000), 9_900 * MILLI);
        assert_eq!(owed(&mut bucket, 10_000), 990 * MILLI);
        assert_eq!(owed(&mut bucket, 1_000), 9_900 * MILLI);
    }

    #[test]
    fn so_many_at_once_and_then_one_by_one() {
        let mut bucket = Bucket::default();
        let mut take = |now| bucket.take_one(5, S, now);
        assert!((0..5).all(|_| take(7 * S).is_ok()));
        assert_eq!(take(7 * S), Err(200 * MILLI));
        assert_eq!(take(7 * S + 199 * MILLI), Err(MILLI), "a refusal costs nothing");
        assert_eq!(take(7 * S + 200 * MILLI), Ok(()));
        assert_eq!(take(7 * S + 200 * MILLI), Err(200 * MILLI));
        assert!((0..5).all(|_| take(9 * S).is_ok()));
        assert!(take(9 * S).is_err());
    }
}
