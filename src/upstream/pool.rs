//! Keeps idle upstream connections by next hop: watches them, probes them where necessary, and closes the old
//! ones.
//!
//! The one used last is taken first: it is the likeliest to be alive still. While a connection is
//! idle the pool owns its edges, so one that the upstream closes is dropped at once, and no probe is
//! needed for one that was used a moment ago. Where there is no room for one more, the one that has
//! been idle for longest goes. The lock is never held while a connection is made, closed, or probed by who takes it.
//! It is held for one short call where an edge has to be told from its predecessor's: the socket is
//! asked whether it has ended. A connection with a layer has to receive and decode for that, so it is taken
//! out, looked at without the lock, and put back. All places are gone through under the lock when a
//! connection comes due, ten times a second at most, and those that nobody watches are registered: most
//! connections are watched, or used again before that. Which is which is `idle`'s.

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

/// Idle younger than this, a watched connection is used unprobed for a request that may be repeated.
const YOUNG: Duration = Duration::from_secs(1);
/// How long a connection may be idle unwatched. One that is used again and again by a patient worker
/// is never watched, which saves a wake-up for each response; it is probed each time instead.
const UNWATCHED: Duration = Duration::from_secs(1);
/// Connections that come due within this are seen to together.
const TOGETHER: Duration = Duration::from_millis(100);

/// How often a connection is looked at whose peer speaks whenever nobody looks.
const LOOKS: usize = 4;

/// A connection between exchanges.
#[derive(Debug)]
pub struct Kept {
    /// The connection.
    pub stream: Stream,
    /// The address that was connected to.
    pub address: SocketAddr,
    /// What the pool knows of it.
    pub lease: Lease,
}

/// Who had a connection before it came to the pool.
#[derive(Clone)]
pub struct Former<'a> {
    /// The owner.
    pub who: &'a dyn Wake,
    /// Under which of its tags edges of the connection may have reached it.
    pub tags: RangeInclusive<u32>,
}

/// What the pool knows of a connection, carried along while that is in use.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// From then on it is not kept.
    expires: Instant,
    /// Where its destination was listed: saves looking for it by name.
    list: ListHint,
}

/// How long a connection is idle.
#[derive(Clone, Copy, Debug)]
struct Stay {
    since: Instant,
    until: Instant,
}

/// The owner of a connection that is looked at: whether an edge came meanwhile.
#[derive(Default)]
struct Seen(AtomicBool);

/// A connection that has to be looked at without the lock.
struct Doubtful {
    kept: Kept,
    seen: Arc<Seen>,
}

/// The idle connections of one proxy.
pub struct Pool {
    me: Weak<Self>,
    state: Mutex<State>,
    limits: PoolLimits,
    /// Goes up when names lead elsewhere: a connection of an earlier epoch is not kept.
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

    /// Takes a connection to `peer` that is fit for use, and gives its edges to `owner`. One
    /// that is not watched, or not quite young, or wanted for a request that may not be repeated, is
    /// probed. For such a request there is none but one that was in use a moment ago; if another has
    /// to be made for it, the one idle for longest ends, or each such request would leave one more.
    ///
    /// One whose address does not `fit` goes back, and has been idle since it came: who asks may use less
    /// than those whom it was made for.
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
                    // Closing takes a while, and the lock is everybody's.
                    drop(state);
                    gone.into_iter().for_each(part);
                    return None;
                }
                let mut entry = state.idle.take(peer.text())?;
                entry.kept.lease.list = entry.list();
                // Under the lock: an edge that finds the connection gone asks its owner next.
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

    /// Keeps a connection between exchanges, unless it is too old. An edge that still reached its
    /// `former` owner is seen to.
    pub fn put(self: &Arc<Self>, peer: PeerKey<'_>, kept: Kept, former: Former<'_>, now: Instant) {
        let until = kept.lease.expires.min(now + self.limits.idle);
        let stay = Stay { since: now, until };
        if let Some(doubtful) = self.place(peer.text(), kept, former, stay, now) {
            self.look(peer.text(), doubtful, stay, now);
        }
    }

    /// Gives a connection a place, unless it is too old. Answers one that has a layer and may have said
    /// something: whether it has takes more than a short call to find out.
    // Inline in the one place where it is usually called: a connection is a large value to hand on.
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
        // Under the lock, so that it is either found to be old here or cleared.
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
        // From here on edges come to the pool. One that came before is perhaps that of the response
        // just read, perhaps the end: the socket tells.
        let told = former.who.take_edges(former.tags);
        if told && kept.stream.has_layer() {
            state.idle.leave(free);
            drop(state);
            evicted.into_iter().for_each(part);
            return Some(Doubtful::new(kept));
        }
        let doubtful = told && kept.stream.is_stale();
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
        // Closing takes a while, and the lock is everybody's.
        drop(state);
        evicted.into_iter().chain(ended).for_each(part);
        if file {
            self.timers.file(due, Arc::clone(self) as Arc<dyn Expire>);
        }
        None
    }

    /// Gives a connection its place again that was taken by this owner.
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

    /// Looks at a connection with a layer, and gives it its place if it has said nothing. Edges that come
    /// meanwhile are seen to before it has one.
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

    /// The present epoch. Who looks a name up asks beforehand, and tells the connection.
    pub fn names_epoch(&self) -> u32 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Begins another epoch, since names lead elsewhere: closes every idle connection, and keeps none
    /// of those in use when they are given back.
    pub fn begin_names_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.clear(Retired::Age);
    }

    /// Closes every idle connection, for this reason. Answers how many there were.
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

    /// How many were not kept any longer so far, by why.
    pub fn retired(&self) -> [u64; Retired::ALL.len()] {
        self.state.lock().retired
    }

    /// For a connection made now.
    pub fn lease(&self, now: Instant) -> Lease {
        Lease { expires: now + self.lifetime(now), list: ListHint::default() }
    }

    /// How long a connection made then is used again: [`PoolLimits::age`] or up to a quarter less.
    fn lifetime(&self, made: Instant) -> Duration {
        let nanos = made.saturating_duration_since(self.began).subsec_nanos();
        // 2^32 divided by the golden ratio: the upper bits of the product are spread evenly.
        let spread = nanos.wrapping_mul(0x9e37_79b9) >> 24;
        self.limits.age - self.limits.age / 1024 * spread
    }
}

/// Closes what is kept no longer.
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

    /// Removes one that the upstream has ended, or spoken on.
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
            // Whatever an idle upstream says, it says to nobody. The edge may have been for the
            // connection that was here before this one: then its new owner is asked next.
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
    /// Looks at a connection with a layer, of which an edge came.
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
    /// Closes what was idle for too long, or is too old, and watches what nobody does.
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
            // One that cannot be watched is not kept.
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
        // Not for each of many on its own: this looks at all of them.
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
