//! Counts that limits are held against: of clients, users, destinations, connections, and of all.
//!
//! They live as long as the proxy, and go on when the policy is read again; what they are compared
//! with is the policy's. Each exchange has a [`Share`] in the counts that concern it, and asks for an
//! allowance before it receives anything. Who has to wait is told until when, once: it has its place in
//! the line of each rate from then on (see [`bucket`](super::bucket)).
//!
//! What an exchange may have at a time begins small and doubles for as long as it uses all of it, so
//! that short exchanges do not reserve what they will not need. Where clients share a rate, those of
//! one that wait divide its portion among themselves: a client does not get more by making more
//! connections, as far as portions can be divided. That is ten connections at any rate; beyond them
//! half a millisecond's worth each adds up to more than a portion.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::bucket::{LEAST, Nanos};
use super::limits::{Direction, Limits, Per, Who, client_key};
use super::tally::{Line, MOST_REMEMBERED, Place, Tables, Tally};

/// What an exchange is allowed first.
const FIRST: u64 = 4 * 1024;
/// How soon to look again whether octets lent to others came back.
const AGAIN: Duration = Duration::from_millis(10);
/// How soon one who waits for longer looks whether its turn comes sooner: others have left, or another
/// policy holds.
const LOOK: Duration = Duration::from_secs(1);

/// All counts of a proxy.
#[derive(Debug)]
pub struct Shaper {
    epoch: Instant,
    groups: RwLock<Vec<(u16, Arc<Tables>)>>,
    volume: Arc<Mutex<Relayed>>,
    said: AtomicBool,
    most: usize,
}

/// Octets relayed in the run, as far as they are counted.
#[derive(Debug, Default)]
struct Relayed {
    octets: u64,
    /// Allowed, and not known to be used yet.
    lent: u64,
}

impl Default for Shaper {
    fn default() -> Self {
        Self::new(MOST_REMEMBERED)
    }
}

/// Too many requests: when to come again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TooSoon(pub Duration);

impl Shaper {
    /// With so many clients, users and destinations remembered at most, of each.
    pub fn new(most: usize) -> Self {
        Self {
            epoch: Instant::now(),
            groups: RwLock::default(),
            volume: Arc::default(),
            said: AtomicBool::new(false),
            most,
        }
    }

    fn nanos(&self, now: Instant) -> Nanos {
        nanos(now.saturating_duration_since(self.epoch))
    }

    fn tables(&self, group: u16) -> Arc<Tables> {
        let find = |groups: &[(u16, Arc<Tables>)]| {
            groups.iter().find(|(g, _)| *g == group).map(|(_, tables)| Arc::clone(tables))
        };
        if let Some(known) = find(&self.groups.read()) {
            return known;
        }
        let mut groups = self.groups.write();
        find(&groups).unwrap_or_else(|| {
            let tables = Arc::new(Tables::new(self.most));
            groups.push((group, Arc::clone(&tables)));
            tables
        })
    }

    fn client(&self, client: IpAddr, limits: &Limits, now: Nanos) -> Arc<Tally> {
        self.tables(limits.group).clients.get(&(None, client_key(client)), pause(limits), now)
    }

    /// A connection begins; `None` if its client has so many over its limit already that one more is
    /// not even told.
    pub fn enter(&self, client: IpAddr, limits: &Limits, now: Instant) -> Option<Arc<Line>> {
        let line = Line::default();
        if let Some(connections) = limits.connections {
            let most = connections.count.get();
            let tally = self.client(client, limits, self.nanos(now));
            let place = Place::take(tally, most);
            if place.over && place.tally.connections() > most.saturating_mul(2) {
                return None;
            }
            *line.client.lock() = Some(place);
        }
        Some(Arc::new(line))
    }

    /// Whether a connection is one too many for its client. One that was let in when there was no limit
    /// has its place from now on.
    pub fn is_over(&self, client: IpAddr, line: &Line, limits: &Limits, now: Instant) -> bool {
        let Some(connections) = limits.connections else { return false };
        let most = connections.count.get();
        let mut held = line.client.lock();
        let take = || Place::take(self.client(client, limits, self.nanos(now)), most);
        held.get_or_insert_with(take).is_over(most)
    }

    /// Whether the connection of a user is one too many for it.
    pub fn is_over_for(&self, user: &str, line: &Line, limits: &Limits, now: Instant) -> bool {
        let Some(connections) = limits.connections else { return false };
        let most = connections.count.get();
        let mut held = line.user.lock();
        if held.as_ref().is_none_or(|(name, _)| **name != *user) {
            let tables = self.tables(limits.group);
            let tally = tables.users.get(user, pause(limits), self.nanos(now));
            *held = Some((user.into(), Place::take(tally, most)));
        }
        held.as_mut().is_some_and(|(_, place)| place.is_over(most))
    }

    /// Counts a request of a client.
    ///
    /// # Errors
    ///
    /// It has made too many.
    pub fn request(&self, client: IpAddr, limits: &Limits, now: Instant) -> Result<(), TooSoon> {
        let Some(requests) = limits.requests else { return Ok(()) };
        let (count, now) = (requests.count.get().into(), self.nanos(now));
        let tally = self.client(client, limits, now);
        let mut counts = tally.counts.lock();
        let taken = counts.requests.take_one(count, nanos(requests.period), now);
        taken.map_err(|wait| TooSoon(Duration::from_nanos(wait.unsigned_abs())))
    }

    /// Whether all octets of the run are used up.
    pub fn is_used_up(&self, limits: &Limits) -> bool {
        limits.volume.as_ref().is_some_and(|v| self.volume.lock().octets >= v.octets)
    }

    /// Whether this is the first time that somebody asks: what is said once.
    pub fn says_so(&self) -> bool {
        !self.said.swap(true, Ordering::Relaxed)
    }

    /// Octets relayed so far, as far as they are counted.
    pub fn relayed(&self) -> u64 {
        self.volume.lock().octets
    }

    /// A request's share in the counts that concern it.
    pub fn share(
        &self,
        limits: &Arc<Limits>,
        who: &Who<'_>,
        line: &Line,
        now: Instant,
    ) -> Box<Share> {
        let mut share = Share {
            limits: Arc::clone(limits),
            parts: Vec::new(),
            client: None,
            ways: [Portion::default(), Portion::default()],
            dry: [None, None],
            volume: Arc::clone(&self.volume),
            epoch: self.epoch,
        };
        self.find_parts(&mut share, who, line, self.nanos(now));
        Box::new(share)
    }

    /// Goes on with other limits, if these are others.
    pub fn follow(
        &self,
        share: &mut Share,
        limits: &Arc<Limits>,
        who: &Who<'_>,
        line: &Line,
        now: Instant,
    ) {
        if share.goes_by(limits) {
            return;
        }
        share.limits = Arc::clone(limits);
        let before = std::mem::take(&mut share.parts);
        self.find_parts(share, who, line, self.nanos(now));
        for direction in Direction::ALL {
            share.move_over(direction, &before, now);
        }
    }

    fn find_parts(&self, share: &mut Share, who: &Who<'_>, line: &Line, now: Nanos) {
        let limits = &share.limits;
        let tables = self.tables(limits.group);
        let pause = pause(limits);
        for per in Per::ALL {
            let shared = !matches!(per, Per::Connection | Per::Client);
            for direction in Direction::ALL {
                let Some(limit) = limits.rate(per, direction, who) else { continue };
                let Some(rate) = limit.in_direction(direction).map(u64::from) else { continue };
                let tally = match per {
                    Per::Connection => Arc::clone(&line.tally),
                    Per::Client => {
                        let key = (limit.names_by(), client_key(who.client));
                        tables.clients.get(&key, pause, now)
                    }
                    Per::User => tables.users.get(who.user.unwrap_or_default(), pause, now),
                    Per::Destination => {
                        tables.destinations.get(&*limit.destination_key(who), pause, now)
                    }
                    Per::Total => Arc::clone(&tables.total),
                };
                let mut rates = [0, 0];
                *of(&mut rates, direction) = rate;
                match share.parts.last_mut() {
                    Some(last) if Arc::ptr_eq(&last.tally, &tally) => {
                        *of(&mut last.rates, direction) = rate;
                    }
                    _ => share.parts.push(Part { tally, rates, shared }),
                }
            }
        }
        let shared = share.parts.iter().any(|part| part.shared);
        let client = || tables.clients.get(&(None, client_key(who.client)), pause, now);
        share.client = shared.then(client);
    }
}

fn nanos(time: Duration) -> Nanos {
    Nanos::try_from(time.as_nanos()).unwrap_or(Nanos::MAX / 4)
}

fn later(now: Instant, nanos: Nanos) -> Instant {
    now + Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

/// After how long without a request a client has all of them again.
fn pause(limits: &Limits) -> Nanos {
    limits.requests.map_or(0, |requests| nanos(requests.period))
}

/// What an exchange may receive.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Grant {
    /// So many octets, now.
    Now(u64),
    /// Some, then.
    At(Instant),
    /// None, ever: the volume of the run is used up.
    Never,
}

/// One exchange's part in the counts that concern it.
#[derive(Debug)]
pub struct Share {
    limits: Arc<Limits>,
    parts: Vec<Part>,
    /// Its client, if it shares a rate with others.
    client: Option<Arc<Tally>>,
    ways: [Portion; 2],
    /// Until when it waits, as far as it was told so since [`begin_turn`](Self::begin_turn).
    dry: [Option<Instant>; 2],
    volume: Arc<Mutex<Relayed>>,
    epoch: Instant,
}

#[derive(Debug)]
struct Part {
    tally: Arc<Tally>,
    /// Octets a second, up and down; 0 is any.
    rates: [u64; 2],
    /// Clients share it.
    shared: bool,
}

/// What is allowed in one direction.
#[derive(Debug)]
struct Portion {
    /// The most to ask for.
    next: u64,
    /// Reserved, to be used from then on.
    waits: Option<Waits>,
    /// Lent of the volume.
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
    since: Instant,
    octets: u64,
    _counted: Option<Counted>,
}

/// Counts as one of a client's that wait for as long as it lives.
#[derive(Debug)]
struct Counted(Arc<Tally>, Direction);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.waiting(self.1).fetch_sub(1, Ordering::Relaxed);
    }
}

fn of<T>([up, down]: &mut [T; 2], direction: Direction) -> &mut T {
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
    /// Whether it is held to these.
    pub fn goes_by(&self, limits: &Arc<Limits>) -> bool {
        Arc::ptr_eq(&self.limits, limits)
    }

    /// What it is held to.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// A turn begins: nothing is known yet of what will be waited for.
    pub fn begin_turn(&mut self) {
        self.dry = [None, None];
    }

    /// Whether this direction waits for an allowance.
    pub fn is_dry(&self, direction: Direction) -> bool {
        self.wakes_for(direction).is_some()
    }

    /// When there will be an allowance for a direction that waits for one.
    pub fn wake_at(&self) -> Option<Instant> {
        let [up, down] = self.dry;
        up.into_iter().chain(down).min()
    }

    fn wakes_for(&self, direction: Direction) -> Option<Instant> {
        self.dry.get(direction as usize).copied().flatten()
    }

    /// How many octets may be received now: `exactly` so many, or as many as is good. The second of the
    /// answer is how long they were waited for.
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

    fn grant(
        &mut self,
        direction: Direction,
        exactly: Option<u64>,
        now: Instant,
    ) -> (Grant, Duration) {
        let way = of(&mut self.ways, direction);
        let mut waited = Duration::ZERO;
        let octets = match way.waits.take() {
            Some(mut waits) => {
                if waits.at > now {
                    waits.at = self.look(direction, waits.octets, waits.at, now);
                }
                if waits.at > now {
                    let at = waits.at;
                    of(&mut self.ways, direction).waits = Some(waits);
                    return (Grant::At(at), waited);
                }
                waited = now.saturating_duration_since(waits.since);
                waits.octets
            }
            None => {
                let octets = exactly.unwrap_or_else(|| self.portion(direction, now));
                let at = self.reserve(direction, octets, now);
                if at > now {
                    let counted = self.client.as_ref().map(|client| {
                        client.waiting(direction).fetch_add(1, Ordering::Relaxed);
                        Counted(Arc::clone(client), direction)
                    });
                    let waits = Waits { at, since: now, octets, _counted: counted };
                    of(&mut self.ways, direction).waits = Some(waits);
                    return (Grant::At(at), waited);
                }
                octets
            }
        };
        (self.lend(direction, octets, now), waited)
    }

    /// Gives back what was allowed and not used; less than nothing is what was used beyond.
    pub fn settle(&mut self, direction: Direction, left: i64, now: Instant) {
        let now = self.nanos(now);
        let octets = left.unsigned_abs();
        for part in &self.parts {
            let Some(rate) = part.rate(direction) else { continue };
            part.tally.with(direction, |bucket| {
                if left > 0 {
                    bucket.give_back(octets, rate, now);
                } else if left < 0 {
                    bucket.reserve(octets, rate, now);
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
            volume.octets = volume.octets.saturating_add(used);
        }
        way.lent = 0;
    }

    fn nanos(&self, now: Instant) -> Nanos {
        nanos(now.saturating_duration_since(self.epoch))
    }

    /// As many octets as it is good to have at a time.
    fn portion(&mut self, direction: Direction, now: Instant) -> u64 {
        let now = self.nanos(now);
        let way = of(&mut self.ways, direction);
        let mut octets = way.next;
        let mates = self.client.as_ref();
        let mates = mates.map_or(0, |c| c.waiting(direction).load(Ordering::Relaxed));
        for part in &self.parts {
            let Some(rate) = part.rate(direction) else { continue };
            let mut portion = part.tally.with(direction, |bucket| bucket.portion(rate, now));
            if part.shared && mates > 0 {
                // Half a millisecond's worth is the least worth a wake-up.
                let least = (rate / 2000).max(LEAST).min(portion);
                portion = (portion / (u64::from(mates) + 1)).max(least);
            }
            octets = octets.min(portion);
        }
        if octets == way.next {
            way.next = way.next.saturating_mul(2).min(1 << 40);
        }
        octets
    }

    fn reserve(&mut self, direction: Direction, octets: u64, now: Instant) -> Instant {
        let at = self.nanos(now);
        let mut from = at;
        for part in &self.parts {
            let Some(rate) = part.rate(direction) else { continue };
            from = from.max(part.tally.with(direction, |b| b.reserve(octets, rate, at)));
        }
        later(now, from - at)
    }

    /// From when what is reserved from `at` on may be used, now that others may have given back theirs.
    fn look(&self, direction: Direction, octets: u64, at: Instant, now: Instant) -> Instant {
        let (then, start) = (self.nanos(at), self.nanos(now));
        let mut from = start;
        for part in &self.parts {
            let Some(rate) = part.rate(direction) else { continue };
            from = from.max(part.tally.with(direction, |b| b.sooner(octets, rate, then, start)));
        }
        if from >= then {
            return at;
        }
        for part in &self.parts {
            let Some(rate) = part.rate(direction) else { continue };
            part.tally.with(direction, |b| b.move_up(octets, rate, from));
        }
        later(now, from - start)
    }

    /// What waits goes on under other limits: in counts that it was in it keeps its place, and in those
    /// that are new it is reserved.
    fn move_over(&mut self, direction: Direction, before: &[Part], now: Instant) {
        let Some(mut waits) = of(&mut self.ways, direction).waits.take() else { return };
        let (octets, start, then) = (waits.octets, self.nanos(now), self.nanos(waits.at));
        let rate_in = |parts: &[Part], part: &Part| {
            let same = parts.iter().find(|p| Arc::ptr_eq(&p.tally, &part.tally));
            same.and_then(|part| part.rate(direction))
        };
        for part in before.iter().filter(|part| rate_in(&self.parts, part).is_none()) {
            let Some(rate) = part.rate(direction) else { continue };
            part.tally.with(direction, |b| b.leave(octets, rate, start));
        }
        let mut from = start;
        for part in &self.parts {
            let Some(rate) = part.rate(direction) else { continue };
            from = from.max(match rate_in(before, part) {
                Some(before) => {
                    let left = i128::from(then - start) * i128::from(before) / i128::from(rate);
                    start.saturating_add(Nanos::try_from(left).unwrap_or(Nanos::MAX / 4))
                }
                None => part.tally.with(direction, |b| b.reserve(octets, rate, start)),
            });
        }
        waits.at = waits.at.min(later(now, from - start));
        of(&mut self.ways, direction).waits = Some(waits);
    }

    /// Takes octets that rates allow out of the volume of the run.
    fn lend(&mut self, direction: Direction, octets: u64, now: Instant) -> Grant {
        let Some(most) = self.limits.volume.as_ref().map(|v| v.octets) else {
            return Grant::Now(octets);
        };
        let mut volume = self.volume.lock();
        let left = most.saturating_sub(volume.octets + volume.lent).min(octets);
        if left > 0 {
            volume.lent += left;
            of(&mut self.ways, direction).lent += left;
        }
        let some_are_lent = volume.lent > 0;
        drop(volume);
        if left < octets {
            self.refund(direction, octets - left, now);
        }
        match left {
            0 if some_are_lent => Grant::At(now + AGAIN),
            0 => Grant::Never,
            left => Grant::Now(left),
        }
    }

    fn refund(&self, direction: Direction, octets: u64, now: Instant) {
        let now = self.nanos(now);
        for part in &self.parts {
            let Some(rate) = part.rate(direction) else { continue };
            part.tally.with(direction, |bucket| bucket.give_back(octets, rate, now));
        }
    }

    fn leave(&self, direction: Direction, octets: u64, now: Instant) {
        let now = self.nanos(now);
        for part in &self.parts {
            let Some(rate) = part.rate(direction) else { continue };
            part.tally.with(direction, |bucket| bucket.leave(octets, rate, now));
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
                self.leave(direction, waits.octets, Instant::now());
            }
        }
    }
}

#[cfg(test)]
#[path = "shape_tests.rs"]
mod tests;
