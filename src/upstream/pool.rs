//! Idle connections to upstreams, by destination.
//!
//! The one used last is taken first: it is the likeliest to be alive still. While a connection is
//! idle the pool owns its edges, so one that the upstream closes is dropped at once, and no probe is
//! needed for one that was used a moment ago.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::net::poll::{Edge, Owner, Poller, Wake};
use crate::net::stream::Stream;
use crate::net::timers::{Expire, Timers};

/// Bounds of a pool.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Idle connections in all.
    pub total: usize,
    /// Idle connections to one destination.
    pub per_destination: usize,
    /// How long a connection may be idle.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { total: 4096, per_destination: 2048, idle: Duration::from_secs(30) }
    }
}

/// Idle younger than this, a watched connection is used unprobed for a request that may be repeated.
const YOUNG: Duration = Duration::from_secs(1);
/// How long a connection may be idle unwatched. One that is used again and again by a patient worker
/// is never watched, which saves a wake-up for each response; it is probed each time instead.
const UNWATCHED: Duration = Duration::from_secs(1);
/// Connections that come due within this are seen to together.
const TOGETHER: Duration = Duration::from_millis(100);
/// Destinations without an idle connection that are remembered, to keep their memory.
const EMPTY_KEPT: usize = 256;

/// The idle connections of one proxy.
pub struct Pool {
    idle: Mutex<Idle>,
    limits: Limits,
    timers: Arc<Timers>,
    poller: Arc<Poller>,
}

#[derive(Default)]
struct Idle {
    places: Vec<Option<Entry>>,
    free: Vec<u32>,
    /// By destination (`host:port`, lower case).
    by_destination: HashMap<Arc<str>, Listed>,
    count: usize,
    /// The moment of the pool's one live timer entry.
    filed: Option<Instant>,
}

struct Listed {
    /// The key once more: finding it in the map would take a second look.
    name: Arc<str>,
    /// Places, the latest last.
    places: Vec<u32>,
}

struct Entry {
    stream: Stream,
    address: Option<SocketAddr>,
    destination: Arc<str>,
    since: Instant,
}

impl Pool {
    /// An empty pool.
    pub fn new(limits: Limits, timers: Arc<Timers>, poller: Arc<Poller>) -> Arc<Self> {
        Arc::new(Self { idle: Mutex::default(), limits, timers, poller })
    }

    /// Takes a connection to `destination` that is fit for use, and gives its edges to `owner`. One
    /// that is not watched, or not quite young, or is wanted for a request that may not be
    /// repeated, is probed. The address is the one that was connected to.
    pub fn take(
        &self,
        destination: &str,
        owner: &Owner,
        repeatable: bool,
        now: Instant,
    ) -> Option<(Stream, Option<SocketAddr>)> {
        loop {
            let (stream, address, since) = {
                let mut idle = self.idle.lock();
                let place = idle.by_destination.get_mut(destination)?.places.pop()?;
                let Some(entry) = idle.vacate(place) else { continue };
                // Under the lock: an edge that finds the connection gone asks its owner next.
                entry.stream.hand_to(owner.clone());
                (entry.stream, entry.address, entry.since)
            };
            let young = now.saturating_duration_since(since) < YOUNG;
            if !(young && repeatable && stream.is_watched()) && stream.is_stale() {
                continue;
            }
            return Some((stream, address));
        }
    }

    /// Keeps a connection, to this address, between exchanges, if there is room. An edge that still reached its
    /// `former` owner is seen to.
    pub fn put(
        self: &Arc<Self>,
        destination: &str,
        (stream, address): (Stream, Option<SocketAddr>),
        former: &Owner,
        now: Instant,
    ) {
        let mut idle = self.idle.lock();
        if idle.count >= self.limits.total {
            return;
        }
        let place = idle.free.pop().unwrap_or_else(|| {
            idle.places.push(None);
            idle.places.len() as u32 - 1
        });
        let Some(destination) = idle.list(destination, place, self.limits.per_destination) else {
            idle.free.push(place);
            return;
        };
        stream.hand_to(Owner { who: Arc::clone(self) as Arc<dyn Wake>, tag: place });
        // From here on edges come to the pool. One that came before is perhaps that of the response
        // just read, perhaps the end: the socket tells.
        let doubtful = former.who.take_edge(former.tag) && stream.is_stale();
        let due = now + if stream.is_watched() { self.limits.idle } else { UNWATCHED };
        if let Some(free) = idle.places.get_mut(place as usize) {
            *free = Some(Entry { stream, address, destination, since: now });
        }
        idle.count += 1;
        if doubtful {
            idle.remove(place);
            return;
        }
        if idle.filed.is_none_or(|filed| filed > due) {
            idle.filed = Some(due);
            drop(idle);
            self.timers.file(due, Arc::clone(self) as Arc<dyn Expire>);
        }
    }

    /// Closes every idle connection: descriptors are short, or the proxy shuts down. Answers how
    /// many there were.
    pub fn clear(&self) -> usize {
        let closed: Vec<Entry> = {
            let mut idle = self.idle.lock();
            idle.by_destination.clear();
            idle.free.clear();
            idle.count = 0;
            std::mem::take(&mut idle.places).into_iter().flatten().collect()
        };
        closed.len()
    }

    /// Idle connections now.
    pub fn len(&self) -> usize {
        self.idle.lock().count
    }

    /// Whether no connection is idle.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Idle {
    /// Lists a place under its destination, if that may have one more.
    fn list(&mut self, destination: &str, place: u32, most: usize) -> Option<Arc<str>> {
        if let Some(known) = self.by_destination.get_mut(destination) {
            if known.places.len() >= most {
                return None;
            }
            known.places.push(place);
            return Some(Arc::clone(&known.name));
        }
        if self.by_destination.len() >= self.count + EMPTY_KEPT {
            self.by_destination.retain(|_, listed| !listed.places.is_empty());
        }
        let destination: Arc<str> = Arc::from(destination);
        let listed = Listed { name: Arc::clone(&destination), places: vec![place] };
        self.by_destination.insert(Arc::clone(&destination), listed);
        Some(destination)
    }

    /// Empties a place that is no longer listed under its destination.
    fn vacate(&mut self, place: u32) -> Option<Entry> {
        let entry = self.places.get_mut(place as usize)?.take()?;
        self.free.push(place);
        self.count -= 1;
        Some(entry)
    }

    /// Removes a place wherever it is listed.
    fn remove(&mut self, place: u32) -> Option<Entry> {
        let entry = self.vacate(place)?;
        if let Some(listed) = self.by_destination.get_mut(&entry.destination) {
            listed.places.retain(|&p| p != place);
        }
        Some(entry)
    }
}

impl Wake for Pool {
    fn wake(&self, tag: u32, edge: Edge) -> bool {
        let removed = {
            let mut idle = self.idle.lock();
            match idle.places.get(tag as usize) {
                // Whatever an idle upstream says, it says to nobody. The edge may have been for
                // the connection that was here before this one: then its new owner is asked next.
                Some(Some(entry)) if edge.readable && entry.stream.is_stale() => idle.remove(tag),
                _ => return false,
            }
        };
        drop(removed);
        true
    }
}

impl Expire for Pool {
    /// Closes what was idle for too long, and watches what nobody does.
    fn due(self: Arc<Self>, filed: Instant, now: Instant) -> Option<Instant> {
        let mut closed = Vec::new();
        let mut idle = self.idle.lock();
        if idle.filed != Some(filed) {
            return None;
        }
        let mut next: Option<Instant> = None;
        for place in 0..idle.places.len() as u32 {
            let Some(Some(entry)) = idle.places.get_mut(place as usize) else { continue };
            let owner = Owner { who: Arc::clone(&self) as Arc<dyn Wake>, tag: place };
            let end = entry.since + self.limits.idle;
            let watch = entry.since + UNWATCHED;
            let due = if entry.stream.is_watched() {
                end
            } else if watch > now {
                watch
            } else if entry.stream.watch(&self.poller, &owner, false).is_ok() {
                end
            } else {
                // It cannot be watched, so it is not kept.
                now
            };
            if due <= now {
                closed.extend(idle.remove(place));
            } else {
                next = Some(next.map_or(due, |n| n.min(due)));
            }
        }
        // Not for each of many on its own: this looks at all of them.
        let next = next.map(|next| next.max(now + TOGETHER));
        idle.filed = next;
        drop(idle);
        drop(closed);
        next
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::net::poll::Events;

    struct Nobody;
    impl Wake for Nobody {
        fn wake(&self, _: u32, _: Edge) -> bool {
            true
        }
    }

    struct Bench {
        poller: Arc<Poller>,
        timers: Arc<Timers>,
        listener: TcpListener,
        owner: Owner,
    }

    impl Bench {
        fn new() -> Self {
            let poller = Arc::new(Poller::new().unwrap());
            Self {
                timers: Arc::new(Timers::new(Arc::clone(&poller))),
                poller,
                listener: TcpListener::bind("127.0.0.1:0").unwrap(),
                owner: Owner { who: Arc::new(Nobody), tag: 1 },
            }
        }

        fn pool(&self, limits: Limits) -> Arc<Pool> {
            Pool::new(limits, Arc::clone(&self.timers), Arc::clone(&self.poller))
        }

        fn connection(&self) -> (Stream, TcpStream) {
            let one = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
            let mut stream = Stream::accepted(one);
            stream.watch(&self.poller, &self.owner, false).unwrap();
            (stream, self.listener.accept().unwrap().0)
        }
    }

    #[test]
    fn the_latest_comes_first_and_only_for_its_destination() {
        let bench = Bench::new();
        let pool = bench.pool(Limits::default());
        let now = Instant::now();
        let ((a, _pa), (b, _pb)) = (bench.connection(), bench.connection());
        let (port_a, port_b) = (a.socket().local_addr().unwrap(), b.socket().local_addr().unwrap());
        pool.put("a:80", (a, None), &bench.owner, now);
        pool.put("a:80", (b, None), &bench.owner, now);
        assert!(pool.take("b:80", &bench.owner, true, now).is_none());
        let take = || pool.take("a:80", &bench.owner, true, now).unwrap();
        assert_eq!(take().0.socket().local_addr().unwrap(), port_b);
        assert_eq!(take().0.socket().local_addr().unwrap(), port_a);
        assert!(pool.is_empty());
    }

    #[test]
    fn a_connection_the_upstream_closes_while_idle_is_dropped_at_once() {
        let bench = Bench::new();
        let pool = bench.pool(Limits::default());
        let (stream, peer) = bench.connection();
        pool.put("a:80", (stream, None), &bench.owner, Instant::now());
        drop(peer);
        let mut events = Events::default();
        bench.poller.wait(&mut events, Some(Duration::from_secs(5))).unwrap();
        bench.poller.deliver(&events);
        assert!(pool.is_empty());
    }

    #[test]
    fn one_that_is_not_young_or_not_for_a_repeatable_request_is_probed() {
        let bench = Bench::new();
        let pool = bench.pool(Limits::default());
        let now = Instant::now();
        for (repeatable, later, found) in [(true, 0, true), (false, 0, false), (true, 2, false)] {
            let (stream, peer) = bench.connection();
            peer.shutdown(std::net::Shutdown::Both).unwrap();
            pool.put("a:80", (stream, None), &bench.owner, now);
            let at = now + Duration::from_secs(later);
            let taken = pool.take("a:80", &bench.owner, repeatable, at);
            assert_eq!(taken.is_some(), found, "repeatable {repeatable}, {later} s later");
        }
    }

    #[test]
    fn bounds_hold_and_old_connections_are_closed() {
        let bench = Bench::new();
        let limits = Limits { total: 3, per_destination: 2, idle: Duration::from_secs(30) };
        let pool = bench.pool(limits);
        let now = Instant::now();
        let mut peers = Vec::new();
        let mut put = |destination, at| {
            let (stream, peer) = bench.connection();
            peers.push(peer);
            pool.put(destination, (stream, None), &bench.owner, at);
            pool.len()
        };
        let later = now + Duration::from_secs(10);
        assert_eq!(put("a:80", now), 1);
        assert_eq!(put("a:80", later), 2);
        assert_eq!(put("a:80", later), 2, "two a destination");
        assert_eq!(put("b:80", later), 3);
        assert_eq!(put("c:80", later), 3, "three in all");
        assert_eq!(bench.timers.len(), 1);
        let first = now + limits.idle;
        let due = Arc::clone(&pool).due(first, now + Duration::from_secs(31));
        assert_eq!((pool.len(), due), (2, Some(later + limits.idle)));
        let due = Arc::clone(&pool).due(later + limits.idle, now + Duration::from_secs(60));
        assert_eq!((pool.len(), due), (0, None));
    }

    #[test]
    fn one_that_is_not_watched_is_probed_and_soon_watched() {
        let bench = Bench::new();
        let pool = bench.pool(Limits::default());
        let now = Instant::now();
        let unwatched = || {
            let (mut stream, peer) = bench.connection();
            stream.unwatch();
            (stream, peer)
        };
        let (stream, peer) = unwatched();
        peer.shutdown(std::net::Shutdown::Both).unwrap();
        pool.put("a:80", (stream, None), &bench.owner, now);
        assert!(pool.take("a:80", &bench.owner, true, now).is_none(), "a probe finds the end");

        let (stream, peer) = unwatched();
        pool.put("a:80", (stream, None), &bench.owner, now);
        drop(peer);
        let due = Arc::clone(&pool).due(now + UNWATCHED, now + UNWATCHED);
        assert_eq!((pool.len(), due), (1, Some(now + Limits::default().idle)));
        let mut events = Events::default();
        bench.poller.wait(&mut events, Some(Duration::from_secs(5))).unwrap();
        bench.poller.deliver(&events);
        assert!(pool.is_empty());
    }

    #[test]
    fn an_edge_that_reached_the_former_owner_is_not_lost() {
        struct Late;
        impl Wake for Late {
            fn wake(&self, _: u32, _: Edge) -> bool {
                true
            }
            fn take_edge(&self, _: u32) -> bool {
                true
            }
        }
        let bench = Bench::new();
        let pool = bench.pool(Limits::default());
        let former = Owner { who: Arc::new(Late), tag: 1 };
        let ((alive, _peer), (dead, peer)) = (bench.connection(), bench.connection());
        peer.shutdown(std::net::Shutdown::Both).unwrap();
        pool.put("a:80", (alive, None), &former, Instant::now());
        assert_eq!(pool.len(), 1, "a late edge alone is no reason to close");
        pool.put("a:80", (dead, None), &former, Instant::now());
        assert_eq!(pool.len(), 1);
    }
}
