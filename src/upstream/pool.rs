//! Keeps idle upstream connections by next hop: watches them, probes them where necessary, and closes the
//! old ones.
//!
//! The connection used last is taken first, because it is the most likely to be alive. The pool owns the
//! edges of an idle connection. A connection that the upstream closes is therefore dropped at once, and one
//! used a moment ago needs no probe. A full pool closes the connection that has been idle longest.
//!
//! The lock is never held while a connection is made, closed, or probed by its taker. It is held for one
//! short call when the edge of a connection may belong to its predecessor: the call asks the socket whether
//! it has ended. A connection with a layer must receive and decode for that, so it is taken out, checked
//! without the lock, and put back. When a connection comes due, the pool goes through all places under the
//! lock, ten times a second at most, and registers unwatched connections. Few are unwatched by then: most
//! are watched, or reused sooner. `idle` does the bookkeeping.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::net::poll::{Edge, Owner, Poller, Wake};
use crate::net::stream::Stream;
use crate::net::timers::{Expire, Timers};
use crate::observe::counters::Retired;

use super::idle::{Entry, Idle, ListHint};
use super::peer::PeerKey;

pub use super::pool_limits::PoolLimits;

/// A watched connection idle for less than this carries a repeatable request without a probe.
const YOUNG: Duration = Duration::from_secs(1);
/// How long a connection may be idle unwatched. A connection that a patient worker uses again and again is
/// never watched. It is probed each time instead, which saves a wake-up for each response.
const UNWATCHED: Duration = Duration::from_secs(1);
/// Connections that come due within this time are handled together.
const TOGETHER: Duration = Duration::from_millis(100);

/// How many times the pool checks a connection whose peer keeps speaking between checks.
const LOOKS: usize = 4;

/// A connection between exchanges.
#[derive(Debug)]
pub struct Kept {
    /// The connection.
    pub stream: Stream,
    /// The address that was connected to.
    pub address: SocketAddr,
    /// The pool's record of it.
    pub lease: Lease,
}

/// The owner of a connection before it came to the pool.
#[derive(Clone)]
pub struct Former<'a> {
    /// The owner.
    pub who: &'a dyn Wake,
    /// Tags of that owner under which edges of the connection may have arrived.
    pub tags: RangeInclusive<u32>,
}

/// The pool's record of a connection, which stays with the connection while it is in use.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// The connection is not kept beyond this time.
    expires: Instant,
    /// Where its destination was listed, which saves a search by name.
    list: ListHint,
}

/// The time a connection spends idle.
#[derive(Clone, Copy, Debug)]
struct Stay {
    since: Instant,
    until: Instant,
}

/// The owner of a connection during a check. Records whether an edge arrived meanwhile.
#[derive(Default)]
struct Seen(AtomicBool);

/// A connection that must be checked without the lock.
struct Doubtful {
    kept: Kept,
    seen: Arc<Seen>,
}

/// The idle connections of one proxy.
pub struct Pool {
    me: Weak<Self>,
    state: Mutex<State>,
    limits: PoolLimits,
    /// Goes up when names resolve differently. Connections of an earlier epoch are not kept.
    epoch: AtomicU32,
    timers: Arc<Timers>,
    poller: Arc<Poller>,
    began: Instant,
}

#[derive(Default)]
struct State {
    idle: Idle<Kept>,
    /// The moment of the pool's one live timer entry.
    filed: Option<Instant>,
    retired: [u64; Retired::ALL.len()],
}

impl Pool {
    /// An empty pool.
    pub fn new(limits: PoolLimits, timers: Arc<Timers>, poller: Arc<Poller>) -> Arc<Self> {
        let state = Mutex::default();
        let epoch = AtomicU32::new(0);
        Arc::new_cyclic(|me| {
            let (me, began) = (Weak::clone(me), Instant::now());
            Self { me, state, limits, epoch, timers, poller, began }
        })
    }

    /// Takes a usable connection to `peer`, and gives its edges to `owner`. A connection is probed if it is
    /// unwatched, no longer young, or wanted for a request that must not be repeated. Such a request gets
    /// only a connection that was in use a moment ago. If there is none, the caller makes a new one, and the
    /// connection to this peer that has been idle longest is closed, so that these requests do not add a
    /// connection each.
    ///
    /// A connection whose address does not `fit` goes back with its old idle time: the rules of this
    /// request may allow fewer addresses than those of the request it was made for.
    pub fn take(
        self: &Arc<Self>,
        peer: PeerKey<'_>,
        owner: &Owner,
        repeatable: bool,
        fits: impl Fn(SocketAddr) -> bool,
        now: Instant,
    ) -> Option<Kept> {
        loop {
            let Entry { mut kept, since, until, .. } = {
                let mut state = self.state.lock();
                let is_fit = |at| at + self.limits.unrepeatable > now;
                if !repeatable && !state.idle.latest(peer.text()).is_some_and(is_fit) {
                    let gone = state.idle.take_longest(peer.text());
                    if gone.is_some() {
                        state.count(Retired::Full);
                    }
                    // Closing takes a while, and everybody shares the lock.
                    drop(state);
                    gone.into_iter().for_each(part);
                    return None;
                }
                let mut entry = state.idle.take(peer.text())?;
                entry.kept.lease.list = entry.list();
                // Under the lock: if an edge no longer finds the connection here, its owner is asked next.
                entry.kept.stream.hand_to(owner.clone());
                entry
            };
            if !fits(kept.address) {
                self.put_back(peer, kept, owner, Stay { since, until }, now);
                return None;
            }
            let young = now.saturating_duration_since(since) < YOUNG;
            let trusted = young && repeatable && kept.stream.is_watched();
            if !trusted && kept.stream.is_stale() {
                self.state.lock().count(Retired::Ended);
                kept.stream.part();
                continue;
            }
            return Some(kept);
        }
    }

    /// Keeps a connection between exchanges, unless it is too old. Edges that arrived at its `former` owner
    /// are handled here.
    pub fn put(self: &Arc<Self>, peer: PeerKey<'_>, kept: Kept, former: Former<'_>, now: Instant) {
        let until = kept.lease.expires.min(now + self.limits.idle);
        let stay = Stay { since: now, until };
        if let Some(doubtful) = self.place(peer.text(), kept, former, stay, now) {
            self.look(peer.text(), doubtful, stay, now);
        }
    }

    /// Gives a connection a place, unless it is too old. Returns a connection that has a layer and may have
    /// received something: finding out takes more than a short call.
    // Inlined into its usual caller, because a connection is a large value to pass on.
    #[inline(always)]
    fn place(
        self: &Arc<Self>,
        peer: &str,
        mut kept: Kept,
        former: Former<'_>,
        stay: Stay,
        now: Instant,
    ) -> Option<Doubtful> {
        let limits = self.limits;
        let Lease { expires, list } = kept.lease;
        let Stay { since, until } = stay;
        let mut state = self.state.lock();
        // Under the lock, so that an old connection is either found here or cleared.
        let outdated = expires <= now || kept.stream.names_epoch() != self.names_epoch();
        let refused = match () {
            () if outdated => Some(Retired::Age),
            () if until <= now => Some(Retired::Idle),
            () if limits.total == 0 || limits.per_destination == 0 => Some(Retired::Full),
            () => None,
        };
        if let Some(why) = refused {
            state.count(why);
            drop(state);
            kept.stream.part();
            return None;
        }
        let (free, evicted) =
            state.idle.make_room(peer, list, limits.per_destination, limits.total);
        if evicted.is_some() {
            state.count(Retired::Full);
        }
        kept.stream.hand_to(Owner { who: Arc::clone(self) as Arc<dyn Wake>, tag: free.place });
        // From here on edges come to the pool. An earlier edge belongs either to the response just read or
        // to the end of the connection. The socket knows which.
        let had_edge = former.who.take_edges(former.tags);
        if had_edge && kept.stream.has_layer() {
            state.idle.leave(free);
            drop(state);
            evicted.into_iter().for_each(part);
            return Some(Doubtful::new(kept));
        }
        let doubtful = had_edge && kept.stream.is_stale();
        let due = if kept.stream.is_watched() { until } else { until.min(since + UNWATCHED) };
        match since == now {
            true => state.idle.fill(free, kept, since, until),
            false => state.idle.put_back(free, kept, since, until),
        }
        let ended = if doubtful { state.end(free.place) } else { None };
        let file = !doubtful && state.filed.is_none_or(|filed| filed > due);
        if file {
            state.filed = Some(due);
        }
        // Closing takes a while, and everybody shares the lock.
        drop(state);
        evicted.into_iter().chain(ended).for_each(part);
        if file {
            self.timers.file(due, Arc::clone(self) as Arc<dyn Expire>);
        }
        None
    }

    /// Puts a connection back in its place after this owner took it.
    #[cold]
    fn put_back(
        self: &Arc<Self>,
        peer: PeerKey<'_>,
        kept: Kept,
        owner: &Owner,
        stay: Stay,
        now: Instant,
    ) {
        let former = Former { who: &*owner.who, tags: owner.tag..=owner.tag };
        if let Some(doubtful) = self.place_again(peer.text(), kept, former, stay, now) {
            self.look(peer.text(), doubtful, stay, now);
        }
    }

    #[cold]
    fn place_again(
        self: &Arc<Self>,
        peer: &str,
        kept: Kept,
        former: Former<'_>,
        stay: Stay,
        now: Instant,
    ) -> Option<Doubtful> {
        self.place(peer, kept, former, stay, now)
    }

    /// Checks a connection with a layer, and gives it its place if nothing arrived. Edges that arrive
    /// meanwhile are handled before it has a place.
    #[cold]
    fn look(self: &Arc<Self>, peer: &str, mut doubtful: Doubtful, stay: Stay, now: Instant) {
        for _ in 0..LOOKS {
            let Doubtful { mut kept, seen } = doubtful;
            if kept.stream.is_stale() {
                self.state.lock().count(Retired::Ended);
                return kept.stream.part();
            }
            let former = Former { who: &*seen, tags: 0..=0 };
            match self.place_again(peer, kept, former, stay, now) {
                Some(again) => doubtful = again,
                None => return,
            }
        }
        self.state.lock().count(Retired::Ended);
        doubtful.kept.stream.part();
    }

    /// The present epoch. A lookup reads it first, and records it in the connection.
    pub fn names_epoch(&self) -> u32 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Begins another epoch, because names resolve differently: closes every idle connection, and keeps
    /// none of those now in use when they come back.
    pub fn begin_names_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.clear(Retired::Age);
    }

    /// Closes every idle connection and counts `why`. Returns their number.
    pub fn clear(&self, why: Retired) -> usize {
        let closed = {
            let mut state = self.state.lock();
            let closed = state.idle.clear();
            closed.iter().for_each(|_| state.count(why));
            closed
        };
        let count = closed.len();
        closed.into_iter().for_each(part);
        count
    }

    /// Idle connections now.
    pub fn len(&self) -> usize {
        self.state.lock().idle.len()
    }

    /// Whether no connection is idle.
    #[cfg(feature = "internals")]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Connections retired so far, by reason.
    pub fn retired(&self) -> [u64; Retired::ALL.len()] {
        self.state.lock().retired
    }

    /// The lease of a connection made now.
    pub fn lease(&self, now: Instant) -> Lease {
        Lease { expires: now + self.lifetime(now), list: ListHint::default() }
    }

    /// How long a connection made at this time is reused: [`PoolLimits::age`] or up to a quarter less.
    fn lifetime(&self, made: Instant) -> Duration {
        let nanos = made.saturating_duration_since(self.began).subsec_nanos();
        // 2^32 divided by the golden ratio: the upper bits of the product are spread evenly.
        let spread = nanos.wrapping_mul(0x9e37_79b9) >> 24;
        self.limits.age - self.limits.age / 1024 * spread
    }
}

/// Closes a connection that is no longer kept.
fn part(entry: Entry<Kept>) {
    entry.kept.stream.part();
}

impl Doubtful {
    fn new(kept: Kept) -> Self {
        let seen = Arc::<Seen>::default();
        kept.stream.hand_to(Owner { who: Arc::clone(&seen) as Arc<dyn Wake>, tag: 0 });
        Self { kept, seen }
    }
}

impl Wake for Seen {
    fn wake(&self, _: u32, _: Edge) -> bool {
        self.0.store(true, Ordering::SeqCst);
        true
    }

    fn take_edges(&self, _: RangeInclusive<u32>) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

impl State {
    fn count(&mut self, why: Retired) {
        if let Some(count) = self.retired.get_mut(why as usize) {
            *count += 1;
        }
    }

    /// Removes a connection whose upstream has ended it or sent something.
    fn end(&mut self, place: u32) -> Option<Entry<Kept>> {
        self.count(Retired::Ended);
        self.idle.remove(place)
    }
}

impl Wake for Pool {
    fn wake(&self, tag: u32, edge: Edge) -> bool {
        let removed = {
            let mut state = self.state.lock();
            let Some(entry) = state.idle.at(tag).filter(|_| edge.readable) else { return false };
            if entry.kept.stream.has_layer() {
                drop(state);
                return self.look_at(tag);
            }
            // Any byte from an idle upstream makes the connection stale, as its end does. Otherwise the edge
            // may belong to the connection that had this place before: its new owner is asked next.
            if !entry.kept.stream.is_stale() {
                return false;
            }
            state.end(tag)
        };
        drop(removed);
        true
    }
}

impl Pool {
    /// Checks a connection with a layer that has received an edge.
    #[cold]
    fn look_at(&self, place: u32) -> bool {
        let Some(me) = self.me.upgrade() else { return false };
        let (peer, doubtful, stay) = {
            let mut state = self.state.lock();
            let Some(peer) = state.idle.destination(place).map(Box::<str>::from) else {
                return false;
            };
            let Some(mut entry) = state.idle.remove(place) else { return false };
            entry.kept.lease.list = entry.list();
            let stay = Stay { since: entry.since, until: entry.until };
            (peer, Doubtful::new(entry.kept), stay)
        };
        me.look(&peer, doubtful, stay, Instant::now());
        true
    }
}

impl Expire for Pool {
    /// Closes connections that are idle for too long or too old, and watches the unwatched ones.
    fn due(self: Arc<Self>, filed: Instant, now: Instant) -> Option<Instant> {
        let mut closed = Vec::new();
        let mut state = self.state.lock();
        if state.filed != Some(filed) {
            return None;
        }
        let mut next: Option<Instant> = None;
        for place in 0..state.idle.places() {
            let Some(entry) = state.idle.at(place) else { continue };
            let owner = Owner { who: Arc::clone(&self) as Arc<dyn Wake>, tag: place };
            let stream = &mut entry.kept.stream;
            let watch = entry.since + UNWATCHED;
            // A connection that cannot be watched is closed.
            let watched = stream.is_watched()
                || (watch <= now && stream.watch(&self.poller, &owner, false).is_ok());
            let due = if watched { entry.until } else { entry.until.min(watch) };
            if due > now {
                next = Some(next.map_or(due, |n| n.min(due)));
                continue;
            }
            let why = match () {
                () if entry.since + self.limits.idle <= now => Retired::Idle,
                () if entry.until <= now => Retired::Age,
                () => Retired::Full,
            };
            state.count(why);
            closed.extend(state.idle.remove(place));
        }
        // Nearby deadlines share one pass, because each pass looks at every connection.
        let next = next.map(|next| next.max(now + TOGETHER));
        state.filed = next;
        drop(state);
        closed.into_iter().for_each(part);
        next
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
