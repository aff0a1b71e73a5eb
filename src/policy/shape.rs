//! Keeps the counts that limits apply to, and decides how much an exchange may receive now.
//!
//! Counts live as long as the proxy and survive a reload; the limits they are compared with belong to
//! the policy. Each exchange has a [`Share`] in the counts that apply to it, and asks for an allowance
//! before it receives anything. An exchange that has to wait is given a time once; it then has a place
//! in the line of each rate (see [`bucket`](super::bucket)).
//!
//! The allowance of an exchange begins small and doubles while all of it is used, so that short
//! exchanges do not reserve bytes they will not need. Where clients share a rate, the waiting exchanges
//! of one client divide its portion: more connections do not bring a client more. Where a portion
//! cannot be divided further, each of them stands in line for part of the time.

mod share;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::bucket::{Nanos, nanos};
use super::limits::{Direction, Limits, Per, Who, client_key};
use super::tally::{ConnectionPlace, ConnectionTally, MOST_REMEMBERED, Tables, Tally};

use share::{Part, Portion, Relayed, of};

pub use share::{Grant, Share};

/// All counts of a proxy.
#[derive(Debug)]
pub struct Shaper {
    epoch: Instant,
    groups: RwLock<Vec<(u16, Arc<Tables>)>>,
    volume: Arc<Mutex<Relayed>>,
    reported: AtomicBool,
    most: usize,
}

impl Default for Shaper {
    fn default() -> Self {
        Self::new(MOST_REMEMBERED)
    }
}

/// Too many requests; the client may try again after this time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TooSoon(pub Duration);

impl Shaper {
    /// Remembers at most `most` clients, `most` users and `most` destinations.
    pub fn new(most: usize) -> Self {
        Self {
            epoch: Instant::now(),
            groups: RwLock::default(),
            volume: Arc::default(),
            reported: AtomicBool::new(false),
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

    /// A connection begins. `None` if the client has more than twice its limit of connections: the new
    /// one is then closed without an answer.
    pub fn enter(
        &self,
        client: IpAddr,
        limits: &Limits,
        now: Instant,
    ) -> Option<Arc<ConnectionTally>> {
        let line = ConnectionTally::default();
        if let Some(connections) = limits.connections {
            let most = connections.count.get();
            let tally = self.client(client, limits, self.nanos(now));
            let place = ConnectionPlace::take(tally, most);
            if place.over && place.tally.connections() > most.saturating_mul(2) {
                return None;
            }
            *line.client.lock() = Some(place);
        }
        Some(Arc::new(line))
    }

    /// Whether this connection exceeds its client's limit. A connection accepted before there was a
    /// limit is counted from the first call on.
    pub fn is_over(
        &self,
        client: IpAddr,
        line: &ConnectionTally,
        limits: &Limits,
        now: Instant,
    ) -> bool {
        let Some(connections) = limits.connections else { return false };
        let most = connections.count.get();
        let mut held = line.client.lock();
        let take = || ConnectionPlace::take(self.client(client, limits, self.nanos(now)), most);
        held.get_or_insert_with(take).is_over(most)
    }

    /// Whether this connection exceeds its user's limit.
    pub fn is_over_for(
        &self,
        user: &str,
        line: &ConnectionTally,
        limits: &Limits,
        now: Instant,
    ) -> bool {
        let Some(connections) = limits.connections else { return false };
        let most = connections.count.get();
        let mut held = line.user.lock();
        if held.as_ref().is_none_or(|(name, _)| **name != *user) {
            let tables = self.tables(limits.group);
            let tally = tables.users.get(user, pause(limits), self.nanos(now));
            *held = Some((user.into(), ConnectionPlace::take(tally, most)));
        }
        held.as_mut().is_some_and(|(_, place)| place.is_over(most))
    }

    /// Counts a request of a client.
    ///
    /// # Errors
    ///
    /// The client has made too many requests.
    pub fn request(&self, client: IpAddr, limits: &Limits, now: Instant) -> Result<(), TooSoon> {
        let Some(requests) = limits.requests else { return Ok(()) };
        let (count, now) = (requests.count.get().into(), self.nanos(now));
        let tally = self.client(client, limits, now);
        let mut counts = tally.counts.lock();
        let taken = counts.requests.take_one(count, nanos(requests.period), now);
        taken.map_err(|wait| TooSoon(Duration::from_nanos(wait.unsigned_abs())))
    }

    /// Whether the volume of the run is used up.
    pub fn is_used_up(&self, limits: &Limits) -> bool {
        limits.volume.as_ref().is_some_and(|v| self.volume.lock().bytes >= v.bytes)
    }

    /// Whether this is the first call: the message is logged once.
    pub fn says_so(&self) -> bool {
        !self.reported.swap(true, Ordering::Relaxed)
    }

    /// Bytes relayed so far. Only runs with a limit on the volume count them.
    #[cfg(feature = "internals")]
    pub fn relayed(&self) -> u64 {
        self.volume.lock().bytes
    }

    /// A request's share in the counts that apply to it.
    pub fn share(
        &self,
        limits: &Arc<Limits>,
        who: &Who<'_>,
        line: &ConnectionTally,
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

    /// Moves the share to other limits if they differ from its own.
    pub fn follow(
        &self,
        share: &mut Share,
        limits: &Arc<Limits>,
        who: &Who<'_>,
        line: &ConnectionTally,
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

    fn find_parts(&self, share: &mut Share, who: &Who<'_>, line: &ConnectionTally, now: Nanos) {
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

/// The idle time after which a client has its whole allowance of requests again.
fn pause(limits: &Limits) -> Nanos {
    limits.requests.map_or(0, |requests| nanos(requests.period))
}

#[cfg(test)]
#[path = "shape_tests.rs"]
mod tests;
