//! One exchange's share of the rates that apply to it: how much it may receive, and when.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::policy::bucket::{LEAST, Nanos, nanos};
use crate::policy::limits::{Direction, Limits};
use crate::policy::tally::Tally;

/// The first allowance of an exchange.
pub(super) const FIRST: u64 = 4 * 1024;
/// The pause before another look at whether bytes lent to others came back.
pub(super) const AGAIN: Duration = Duration::from_millis(10);
/// The longest pause of a waiting exchange before it checks whether its turn comes sooner, because
/// others have left or another policy holds.
const LOOK: Duration = Duration::from_secs(1);

/// The smallest portion worth a wake-up: a millisecond's worth.
fn least(rate: u64, portion: u64) -> u64 {
    (rate / 1000).max(LEAST).min(portion)
}

/// The answer to an exchange that wants to receive.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Grant {
    /// It may receive this many bytes now.
    Now(u64),
    /// It may receive some at that time.
    At(Instant),
    /// It may receive nothing more: the volume of the run is used up.
    Never,
}

/// One exchange's part in the counts that apply to it.
#[derive(Debug)]
pub struct Share {
    pub(super) limits: Arc<Limits>,
    pub(super) parts: Vec<Part>,
    /// The client of the exchange, if it shares a rate with others.
    pub(super) client: Option<Arc<Tally>>,
    pub(super) ways: [Portion; 2],
    /// The end of the wait in each direction, as far as [`ask`](Self::ask) answered with one since
    /// [`begin_turn`](Self::begin_turn).
    pub(super) dry: [Option<Instant>; 2],
    pub(super) volume: Arc<Mutex<Relayed>>,
    pub(super) epoch: Instant,
}

/// Bytes relayed in the run. Counted only under a limit on the volume.
#[derive(Debug, Default)]
pub(super) struct Relayed {
    pub(super) bytes: u64,
    /// Granted, and not yet known to be used.
    lent: u64,
}

/// A count, and the rates that apply to it.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) tally: Arc<Tally>,
    /// Bytes a second, up and down; 0 is unlimited.
    pub(super) rates: [u64; 2],
    /// Whether several clients share the count.
    pub(super) shared: bool,
}

/// The allowance in one direction.
#[derive(Debug)]
pub(super) struct Portion {
    /// The most to ask for next.
    next: u64,
    /// Bytes that the exchange waits for.
    waits: Option<Waits>,
    /// Bytes lent out of the volume of the run.
    lent: u64,
}

impl Default for Portion {
    fn default() -> Self {
        Self { next: FIRST, waits: None, lent: 0 }
    }
}

#[derive(Debug)]
struct Waits {
    at: Instant,
    /// Nothing is reserved yet, because others of the same client are in line.
    rests: bool,
    since: Instant,
    bytes: u64,
    counted: Option<Counted>,
}

/// Counts one waiting exchange of a client for as long as it lives.
#[derive(Debug)]
struct Counted(Arc<Tally>, Direction);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.waiting(self.1).fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) fn of<T>([up, down]: &mut [T; 2], direction: Direction) -> &mut T {
    match direction {
        Direction::Up => up,
        Direction::Down => down,
    }
}

impl Part {
    fn rate(&self, direction: Direction) -> Option<u64> {
        self.rates.get(direction as usize).copied().filter(|rate| *rate > 0)
    }
}

impl Share {
    /// Whether these are the limits that apply to it.
    pub fn goes_by(&self, limits: &Arc<Limits>) -> bool {
        Arc::ptr_eq(&self.limits, limits)
    }

    /// The limits that apply to it.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// A turn begins: no wait is known yet.
    pub fn begin_turn(&mut self) {
        self.dry = [None, None];
    }

    /// Whether this direction waits for an allowance.
    pub fn is_dry(&self, direction: Direction) -> bool {
        self.wakes_for(direction).is_some()
    }

    /// The earliest end of a wait in either direction.
    pub fn wake_at(&self) -> Option<Instant> {
        let [up, down] = self.dry;
        up.into_iter().chain(down).min()
    }

    fn wakes_for(&self, direction: Direction) -> Option<Instant> {
        self.dry.get(direction as usize).copied().flatten()
    }

    /// Asks how many bytes may be received now: `exactly` this many, or as many as suit. The second
    /// value is the time that was waited for them.
    pub fn ask(
        &mut self,
        direction: Direction,
        exactly: Option<u64>,
        now: Instant,
    ) -> (Grant, Duration) {
        let (grant, waited) = self.grant(direction, exactly, now);
        *of(&mut self.dry, direction) = match grant {
            Grant::At(at) => Some(at.min(now + LOOK)),
            Grant::Now(_) | Grant::Never => None,
        };
        (grant, waited)
    }

    pub(super) fn grant(
        &mut self,
        direction: Direction,
        exactly: Option<u64>,
        now: Instant,
    ) -> (Grant, Duration) {
        let way = of(&mut self.ways, direction);
        let mut waited = Duration::ZERO;
        let bytes = match way.waits.take() {
            Some(mut waits) => {
                if waits.at > now {
                    waits.at = match waits.rests {
                        true => waits.at.min(self.rests_until(direction, now)),
                        false => self.look(direction, waits.bytes, waits.at, now),
                    };
                }
                if waits.at > now {
                    let at = waits.at;
                    of(&mut self.ways, direction).waits = Some(waits);
                    return (Grant::At(at), waited);
                }
                waited = now.saturating_duration_since(waits.since);
                match waits.rests {
                    true => {
                        drop(waits.counted.take());
                        let bytes = self.portion(direction, now);
                        let at = self.reserve(direction, bytes, now);
                        if at > now {
                            let since = waits.since;
                            return (self.wait(direction, at, since, Some(bytes)), Duration::ZERO);
                        }
                        bytes
                    }
                    false => waits.bytes,
                }
            }
            None => {
                let until = self.rests_until(direction, now);
                if exactly.is_none() && until > now {
                    return (self.wait(direction, until, now, None), waited);
                }
                let bytes = exactly.unwrap_or_else(|| self.portion(direction, now));
                let at = self.reserve(direction, bytes, now);
                if at > now {
                    return (self.wait(direction, at, now, Some(bytes)), waited);
                }
                bytes
            }
        };
        (self.lend(direction, bytes, now), waited)
    }

    /// Gives back the part of an allowance that was not used. A negative `left` is the number of bytes
    /// used beyond it.
    pub fn settle(&mut self, direction: Direction, left: i64, now: Instant) {
        let now = self.nanos(now);
        let bytes = left.unsigned_abs();
        for part in &self.parts {
            let Some(rate) = part.rate(direction) else { continue };
            part.tally.with(direction, |bucket| {
                if left > 0 {
                    bucket.give_back(bytes, rate, now);
                } else if left < 0 {
                    bucket.reserve(bytes, rate, now);
                }
            });
        }
        let way = of(&mut self.ways, direction);
        if left > 0 {
            way.next = (way.next / 2).max(FIRST);
        }
        if self.limits.volume.is_some() {
            let mut volume = self.volume.lock();
            volume.lent = volume.lent.saturating_sub(way.lent);
            let used = way.lent.saturating_add_signed(left.saturating_neg());
            volume.bytes = volume.bytes.saturating_add(used);
        }
        way.lent = 0;
    }

    fn nanos(&self, now: Instant) -> Nanos {
        nanos(now.saturating_duration_since(self.epoch))
    }

    /// The number of bytes to ask for at a time.
    fn portion(&mut self, direction: Direction, now: Instant) -> u64 {
        let now = self.nanos(now);
        let way = of(&mut self.ways, direction);
        let mut bytes = way.next;
        let mates = self.client.as_ref();
        let mates = mates.map_or(0, |c| c.waiting(direction).load(Ordering::Relaxed));
        for part in &self.parts {
            let Some(rate) = part.rate(direction) else { continue };
            let mut portion = part.tally.with(direction, |bucket| bucket.portion(rate, now));
            if part.shared && mates > 0 {
                portion = (portion / (u64::from(mates) + 1)).max(least(rate, portion));
            }
            bytes = bytes.min(portion);
        }
        if bytes == way.next {
            way.next = way.next.saturating_mul(2).min(1 << 40);
        }
        bytes
    }

    fn reserve(&mut self, direction: Direction, bytes: u64, now: Instant) -> Instant {
        let at = self.nanos(now);
        let mut from = at;
        for part in &self.parts {
            let Some(rate) = part.rate(direction) else { continue };
            from = from.max(part.tally.with(direction, |b| b.reserve(bytes, rate, at)));
        }
        later(now, from - at)
    }

    /// Waits until `at` for the bytes reserved, if any are.
    fn wait(
        &mut self,
        direction: Direction,
        at: Instant,
        since: Instant,
        reserved: Option<u64>,
    ) -> Grant {
        let counted = self.client.as_ref().map(|client| {
            client.waiting(direction).fetch_add(1, Ordering::Relaxed);
            Counted(Arc::clone(client), direction)
        });
        let (rests, bytes) = (reserved.is_none(), reserved.unwrap_or(0));
        of(&mut self.ways, direction).waits = Some(Waits { at, rests, since, bytes, counted });
        Grant::At(at)
    }

    /// The time until which this exchange leaves the line to others of its client. They divide one
    /// portion; where it cannot be divided further, each is in line for part of the time, and rests
    /// long enough to make up for the rest.
    fn rests_until(&self, direction: Direction, now: Instant) -> Instant {
        let start = self.nanos(now);
        let mates = self.client.as_ref();
        let mates = mates.map_or(0, |c| c.waiting(direction).load(Ordering::Relaxed));
        let mut rest = 0;
        for part in self.parts.iter().filter(|part| part.shared && mates > 0) {
            let Some(rate) = part.rate(direction) else { continue };
            let (portion, line) =
                part.tally.with(direction, |b| (b.portion(rate, start), b.line(start)));
            let all = i128::from(least(rate, portion)) * (i128::from(mates) + 1);
            let beyond = (all - i128::from(portion)).max(0) * i128::from(line);
            let long = beyond / i128::from(portion.max(1));
            rest = rest.max(Nanos::try_from(long).unwrap_or(Nanos::MAX / 4));
        }
        later(now, rest)
    }

    /// The time from which the bytes reserved from `at` on may be used, now that others may have given
    /// back theirs.
    fn look(&self, direction: Direction, bytes: u64, at: Instant, now: Instant) -> Instant {
        let (then, start) = (self.nanos(at), self.nanos(now));
        let mut from = start;
        for part in &self.parts {
            let Some(rate) = part.rate(direction) else { continue };
            from = from.max(part.tally.with(direction, |b| b.sooner(bytes, rate, then, start)));
        }
        if from >= then {
            return at;
        }
        for part in &self.parts {
            let Some(rate) = part.rate(direction) else { continue };
            // Each count moves up only as far as its own line allows; the lines of the other counts
            // differ.
            part.tally.with(direction, |b| {
                let own = b.sooner(bytes, rate, then, start);
                b.move_up(bytes, rate, own);
            });
        }
        later(now, from - start)
    }

    /// Carries a wait over to other limits. It keeps its place in counts that it was in before, and
    /// reserves its bytes in new ones.
    pub(super) fn move_over(&mut self, direction: Direction, before: &[Part], now: Instant) {
        let Some(mut waits) = of(&mut self.ways, direction).waits.take() else { return };
        let (bytes, start, then) = (waits.bytes, self.nanos(now), self.nanos(waits.at));
        let rate_in = |parts: &[Part], part: &Part| {
            let same = parts.iter().find(|p| Arc::ptr_eq(&p.tally, &part.tally));
            same.and_then(|part| part.rate(direction))
        };
        for part in before.iter().filter(|part| rate_in(&self.parts, part).is_none()) {
            let Some(rate) = part.rate(direction) else { continue };
            part.tally.with(direction, |b| b.leave(bytes, rate, start));
        }
        let mut from = start;
        for part in &self.parts {
            let Some(rate) = part.rate(direction) else { continue };
            from = from.max(match rate_in(before, part) {
                Some(before) => {
                    let left = i128::from(then - start) * i128::from(before) / i128::from(rate);
                    start.saturating_add(Nanos::try_from(left).unwrap_or(Nanos::MAX / 4))
                }
                None => part.tally.with(direction, |b| b.reserve(bytes, rate, start)),
            });
        }
        waits.at = waits.at.min(later(now, from - start));
        of(&mut self.ways, direction).waits = Some(waits);
    }

    /// Takes bytes that the rates allow out of the volume of the run.
    fn lend(&mut self, direction: Direction, bytes: u64, now: Instant) -> Grant {
        let Some(most) = self.limits.volume.as_ref().map(|v| v.bytes) else {
            return Grant::Now(bytes);
        };
        let mut volume = self.volume.lock();
        let left = most.saturating_sub(volume.bytes + volume.lent).min(bytes);
        if left > 0 {
            volume.lent += left;
            of(&mut self.ways, direction).lent += left;
        }
        let some_are_lent = volume.lent > 0;
        drop(volume);
        if left < bytes {
            self.refund(direction, bytes - left, now);
        }
        match left {
            0 if some_are_lent => Grant::At(now + AGAIN),
            0 => Grant::Never,
            left => Grant::Now(left),
        }
    }

    fn refund(&self, direction: Direction, bytes: u64, now: Instant) {
        let now = self.nanos(now);
        for part in &self.parts {
            let Some(rate) = part.rate(direction) else { continue };
            part.tally.with(direction, |bucket| bucket.give_back(bytes, rate, now));
        }
    }

    fn leave(&self, direction: Direction, bytes: u64, now: Instant) {
        let now = self.nanos(now);
        for part in &self.parts {
            let Some(rate) = part.rate(direction) else { continue };
            part.tally.with(direction, |bucket| bucket.leave(bytes, rate, now));
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        for direction in Direction::ALL {
            let way = of(&mut self.ways, direction);
            let lent = std::mem::take(&mut way.lent);
            let waits = way.waits.take();
            if lent > 0 {
                let mut volume = self.volume.lock();
                volume.lent = volume.lent.saturating_sub(lent);
            }
            if let Some(waits) = waits {
                self.leave(direction, waits.bytes, Instant::now());
            }
        }
    }
}

fn later(now: Instant, nanos: Nanos) -> Instant {
    now + Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}
