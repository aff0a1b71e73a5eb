//! Tests of the pool: real sockets, and a clock that the tests turn.
#![expect(clippy::disallowed_methods, reason = "a peer of the test may wait for its bytes")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use super::super::peer::PeerKey;
use super::*;
use crate::net::buffer::{Buffer, Buffers};
use crate::net::poll::Events;
use crate::net::stream::Received;
use crate::net::stream::double::{CODED_END, CODED_GARBAGE, CODED_KEY_UPDATE, CODED_TICKET, coded};

const A: PeerKey<'_> = PeerKey("=a:80");
const B: PeerKey<'_> = PeerKey("=b:80");
const C: PeerKey<'_> = PeerKey("=c:80");

fn retired(pool: &Pool) -> [u64; 4] {
    pool.retired()
}

fn kept(pool: &Pool, stream: Stream, made: Instant) -> Kept {
    Kept { stream, address: SocketAddr::from(([127, 0, 0, 1], 80)), lease: pool.lease(made) }
}

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

    fn former(&self) -> Former<'_> {
        Former { who: &*self.owner.who, tags: 1..=2 }
    }

    fn pool(&self, limits: PoolLimits) -> Arc<Pool> {
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
    let pool = bench.pool(PoolLimits::default());
    let now = Instant::now();
    let ((a, _pa), (b, _pb)) = (bench.connection(), bench.connection());
    let (port_a, port_b) = (a.local(), b.local());
    pool.put(A, kept(&pool, a, now), bench.former(), now);
    pool.put(A, kept(&pool, b, now), bench.former(), now);
    assert!(pool.take(B, &bench.owner, true, |_| true, now).is_none());
    let take = || pool.take(A, &bench.owner, true, |_| true, now).unwrap();
    assert_eq!(take().stream.local(), port_b);
    assert_eq!(take().stream.local(), port_a);
    assert!(pool.is_empty());
}

#[test]
fn a_connection_the_upstream_closes_while_idle_is_dropped_at_once() {
    let bench = Bench::new();
    let pool = bench.pool(PoolLimits::default());
    let (stream, peer) = bench.connection();
    pool.put(A, kept(&pool, stream, Instant::now()), bench.former(), Instant::now());
    drop(peer);
    let mut events = Events::default();
    bench.poller.wait(&mut events, Some(Duration::from_secs(5))).unwrap();
    bench.poller.deliver(&events);
    assert!(pool.is_empty());
}

#[test]
fn one_that_is_not_young_or_not_for_a_repeatable_request_is_probed() {
    let bench = Bench::new();
    let pool = bench.pool(PoolLimits::default());
    let now = Instant::now();
    for (repeatable, later, found) in [(true, 0, true), (false, 0, false), (true, 2, false)] {
        let (stream, peer) = bench.connection();
        peer.shutdown(std::net::Shutdown::Both).unwrap();
        pool.put(A, kept(&pool, stream, now), bench.former(), now);
        let at = now + Duration::from_secs(later);
        let taken = pool.take(A, &bench.owner, repeatable, |_| true, at);
        assert_eq!(taken.is_some(), found, "repeatable {repeatable}, {later} s later");
    }
}

#[test]
fn a_request_that_must_not_be_repeated_has_only_one_that_was_just_used() {
    let bench = Bench::new();
    let (now, most) = (Instant::now(), PoolLimits::default().unrepeatable);
    for (repeatable, later, found, left) in [
        (false, Duration::ZERO, true, 1),
        (false, most - Duration::from_millis(1), true, 1),
        // Another connection has to be made, and the first, idle for longest, is closed.
        (false, most, false, 1),
        (false, Duration::from_secs(3), false, 1),
        (true, most, true, 1),
    ] {
        let pool = bench.pool(PoolLimits::default());
        let [(first, mut peer), (second, _peer)] = [bench.connection(), bench.connection()];
        let port = second.socket().local_addr().unwrap();
        pool.put(A, kept(&pool, first, now), bench.former(), now);
        pool.put(A, kept(&pool, second, now), bench.former(), now);
        assert!(pool.take(B, &bench.owner, repeatable, |_| true, now + later).is_none());
        let taken = pool.take(A, &bench.owner, repeatable, |_| true, now + later);
        assert_eq!(taken.is_some(), found, "repeatable {repeatable}, {later:?} later");
        assert_eq!((pool.len(), retired(&pool)[3]), (left, u64::from(!found)));
        if !found {
            peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            assert_eq!(std::io::Read::read(&mut peer, &mut [0]).unwrap(), 0, "it has ended");
            let kept = pool.take(A, &bench.owner, true, |_| true, now).unwrap();
            assert_eq!(kept.stream.socket().local_addr().unwrap(), port);
        }
    }
}

#[test]
fn the_one_idle_for_longest_makes_room() {
    let bench = Bench::new();
    let limits = PoolLimits { total: 3, per_destination: 2, ..PoolLimits::default() };
    let pool = bench.pool(limits);
    let now = Instant::now();
    let mut peers = Vec::new();
    let mut put = |destination| {
        let (stream, peer) = bench.connection();
        let port = stream.socket().local_addr().unwrap();
        peers.push(peer);
        pool.put(destination, kept(&pool, stream, now), bench.former(), now);
        (port, pool.len())
    };
    let take = |destination| {
        let kept = pool.take(destination, &bench.owner, true, |_| true, now)?;
        Some(kept.stream.socket().local_addr().unwrap())
    };
    assert_eq!([put(A).1, put(A).1], [1, 2]);
    let (third, len) = put(A);
    assert_eq!(len, 2, "two a destination");
    let (b, len) = put(B);
    assert_eq!(len, 3);
    let (c, len) = put(C);
    assert_eq!(len, 3, "three in all");
    assert_eq!([take(A), take(A)], [Some(third), None]);
    assert_eq!([take(B), take(C)], [Some(b), Some(c)]);
    assert_eq!(retired(&pool), [0, 0, 0, 2]);
    for nothing in [PoolLimits { total: 0, ..limits }, PoolLimits { per_destination: 0, ..limits }]
    {
        let pool = bench.pool(nothing);
        pool.put(A, kept(&pool, bench.connection().0, now), bench.former(), now);
        assert!(pool.is_empty());
    }
}

#[test]
fn a_connection_is_closed_when_it_was_idle_for_too_long() {
    let bench = Bench::new();
    let pool = bench.pool(PoolLimits::default());
    let idle = PoolLimits::default().idle;
    let now = Instant::now();
    let later = now + Duration::from_secs(10);
    let ((first, _peer), (second, _other)) = (bench.connection(), bench.connection());
    pool.put(A, kept(&pool, first, now), bench.former(), now);
    pool.put(A, kept(&pool, second, now), bench.former(), later);
    assert_eq!(bench.timers.len(), 1);
    let due = Arc::clone(&pool).due(now + idle, now + Duration::from_secs(31));
    assert_eq!((pool.len(), due), (1, Some(later + idle)));
    let due = Arc::clone(&pool).due(later + idle, now + Duration::from_secs(60));
    assert_eq!((pool.len(), due), (0, None));
    assert_eq!(retired(&pool), [0, 2, 0, 0]);

    let pool = bench.pool(PoolLimits { idle: Duration::ZERO, ..PoolLimits::default() });
    let (stream, _peer) = bench.connection();
    pool.put(A, kept(&pool, stream, now), bench.former(), now);
    assert_eq!((pool.len(), retired(&pool)), (0, [0, 1, 0, 0]), "none is kept");
}

#[test]
fn a_connection_is_not_used_again_when_it_is_too_old_however_busy() {
    let bench = Bench::new();
    let pool = bench.pool(PoolLimits::default());
    let PoolLimits { age, idle, .. } = PoolLimits::default();
    let made = pool.began;
    let put = |at| {
        let (stream, peer) = bench.connection();
        pool.put(A, kept(&pool, stream, made), bench.former(), at);
        (pool.len(), peer)
    };
    assert_eq!(put(made + age).0, 0);
    assert_eq!(retired(&pool), [0, 0, 1, 0]);
    // Its age ends sooner than its idle time.
    let at = made + age - idle / 2;
    let (len, _peer) = put(at);
    assert_eq!(len, 1);
    let due = Arc::clone(&pool).due(made + age, made + age);
    assert_eq!((pool.len(), due), (0, None));
    assert_eq!(retired(&pool), [0, 0, 2, 0]);

    let lifetimes = (0..1000).map(|ms| pool.lifetime(made + Duration::from_millis(ms)));
    let (least, most) = lifetimes.fold((age, Duration::ZERO), |(a, b), l| (a.min(l), b.max(l)));
    assert!(least >= age * 3 / 4 && most <= age, "{least:?} to {most:?}");
    assert!(most - least > age / 5, "those made together must not end together");
}

#[test]
fn one_that_is_not_watched_is_probed_and_soon_watched() {
    let bench = Bench::new();
    let pool = bench.pool(PoolLimits::default());
    let now = Instant::now();
    let unwatched = || {
        let (mut stream, peer) = bench.connection();
        stream.unwatch();
        (stream, peer)
    };
    let (stream, peer) = unwatched();
    peer.shutdown(std::net::Shutdown::Both).unwrap();
    pool.put(A, kept(&pool, stream, now), bench.former(), now);
    assert!(pool.take(A, &bench.owner, true, |_| true, now).is_none(), "a probe finds the end");

    let (stream, peer) = unwatched();
    pool.put(A, kept(&pool, stream, now), bench.former(), now);
    drop(peer);
    let due = Arc::clone(&pool).due(now + UNWATCHED, now + UNWATCHED);
    assert_eq!((pool.len(), due), (1, Some(now + PoolLimits::default().idle)));
    let mut events = Events::default();
    bench.poller.wait(&mut events, Some(Duration::from_secs(5))).unwrap();
    bench.poller.deliver(&events);
    assert!(pool.is_empty());
}

#[test]
fn the_longest_times_there_are_end_nothing() {
    let bench = Bench::new();
    let limits = PoolLimits { idle: Duration::MAX, age: Duration::MAX, ..PoolLimits::default() };
    let pool = bench.pool(limits.clamped());
    let (stream, _peer) = bench.connection();
    pool.put(A, kept(&pool, stream, Instant::now()), bench.former(), Instant::now());
    assert_eq!(pool.len(), 1);
}

/// An owner that has already received an edge of the connection.
struct Late;
impl Wake for Late {
    fn wake(&self, _: u32, _: Edge) -> bool {
        true
    }
    fn take_edges(&self, _: RangeInclusive<u32>) -> bool {
        true
    }
}

#[test]
fn an_edge_that_reached_the_former_owner_is_not_lost() {
    let bench = Bench::new();
    let pool = bench.pool(PoolLimits::default());
    let former = Former { who: &Late, tags: 1..=2 };
    let ((alive, _peer), (dead, peer)) = (bench.connection(), bench.connection());
    peer.shutdown(std::net::Shutdown::Both).unwrap();
    pool.put(A, kept(&pool, alive, Instant::now()), former.clone(), Instant::now());
    assert_eq!(pool.len(), 1, "a late edge alone is no reason to close");
    pool.put(A, kept(&pool, dead, Instant::now()), former, Instant::now());
    assert_eq!(pool.len(), 1);
}

/// Puts a connection with a layer into the pool. Returns its peer.
fn put_doubled(bench: &Bench, pool: &Arc<Pool>, now: Instant) -> TcpStream {
    let (mut stream, peer) = bench.connection();
    // Everything received so far is known, as after a response.
    let mut buffer = Buffer::default();
    Buffers::default().lend(&mut buffer);
    assert_eq!(stream.receive(&mut buffer).unwrap(), Received::Nothing);
    pool.put(A, kept(pool, stream.doubled_willingly(100), now), bench.former(), now);
    peer
}

/// Delivers the kernel's events to the pool.
fn deliver(bench: &Bench) {
    let mut events = Events::default();
    bench.poller.wait(&mut events, Some(Duration::from_secs(5))).unwrap();
    bench.poller.deliver(&events);
}

#[test]
fn what_a_layer_says_to_itself_ends_no_idle_connection_and_what_it_says_to_others_does() {
    let rows: [(Vec<u8>, bool); 7] = [
        (vec![CODED_TICKET], true),
        (vec![CODED_TICKET; 200], true),
        (vec![CODED_END], false),
        (vec![CODED_TICKET, CODED_END], false),
        (coded(b"x"), false),
        (vec![CODED_GARBAGE], false),
        // No peer has that much to say to itself.
        (vec![CODED_TICKET; 100_000], false),
    ];
    for (says, stays) in &rows {
        let what = format!("{} bytes, it stays: {stays}", says.len());
        let bench = Bench::new();
        let pool = bench.pool(PoolLimits::default());
        let now = Instant::now();
        // Found by an edge.
        let mut peer = put_doubled(&bench, &pool, now);
        peer.write_all(says).unwrap();
        deliver(&bench);
        assert_eq!(pool.len(), usize::from(*stays), "{what}");
        assert_eq!(retired(&pool)[0], u64::from(!stays), "{what}");
        // Its age is what it was.
        let taken = pool.take(A, &bench.owner, false, |_| true, now);
        assert_eq!(taken.is_some(), *stays, "{what}");
        // Found by a probe, as for an unwatched connection.
        let mut peer = put_doubled(&bench, &pool, now);
        peer.write_all(says).unwrap();
        assert_eq!(
            pool.take(A, &bench.owner, false, |_| true, now).is_some(),
            *stays,
            "{what}, probed"
        );
        // The edge has already reached the owner.
        let (stream, mut peer) = bench.connection();
        peer.write_all(says).unwrap();
        let former = Former { who: &Late, tags: 1..=2 };
        pool.put(A, kept(&pool, stream.doubled_willingly(100), now), former, now);
        assert_eq!(pool.len(), usize::from(*stays), "{what}, late");
    }
}

/// The kernel reports an edge once: none may be lost while a connection is checked, and the edge must find
/// the connection at the place it was put back to.
#[test]
fn an_idle_connection_with_a_layer_is_looked_at_at_each_edge() {
    let bench = Bench::new();
    let pool = bench.pool(PoolLimits::default());
    let now = Instant::now();
    let mut peers = [(); 3].map(|()| put_doubled(&bench, &pool, now));
    for _ in 0..3 {
        for peer in &mut peers {
            peer.write_all(&[CODED_TICKET, CODED_KEY_UPDATE]).unwrap();
            deliver(&bench);
            let mut answer = [0];
            peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            peer.read_exact(&mut answer).unwrap();
            assert_eq!((answer, pool.len()), ([CODED_KEY_UPDATE], 3), "its layer has answered");
        }
    }
    for (peer, left) in peers.iter_mut().zip([2, 1, 0]) {
        peer.write_all(&[CODED_END]).unwrap();
        deliver(&bench);
        assert_eq!(pool.len(), left);
        // The peer sees the end, too.
        let mut last = Vec::new();
        peer.read_to_end(&mut last).unwrap();
        assert_eq!(last, [CODED_END]);
    }
}

#[test]
fn a_connection_that_is_put_back_is_no_younger() {
    let bench = Bench::new();
    let limits = PoolLimits::default();
    for doubled in [false, true] {
        let pool = bench.pool(limits);
        let now = Instant::now();
        let peers = [0, 1].map(|later| {
            let (stream, peer) = bench.connection();
            let stream = if doubled { stream.doubled_willingly(100) } else { stream };
            let at = now + Duration::from_secs(later);
            pool.put(A, kept(&pool, stream, now), bench.former(), at);
            peer
        });
        // Requests that may not use it take it again and again. It stays idle for as long as the other.
        let ports = peers.each_ref().map(|peer| peer.peer_addr().ok());
        for second in 2..29 {
            let at = now + Duration::from_secs(second);
            assert!(pool.take(A, &bench.owner, true, |_| false, at).is_none());
            assert_eq!(pool.len(), 2, "it went back");
        }
        let latest = pool.take(A, &bench.owner, true, |_| true, now).unwrap();
        assert_eq!(latest.stream.local(), ports[1], "the latest is taken first");
        let since = now + Duration::from_secs(1);
        pool.put(A, latest, bench.former(), since);
        let at = now + Duration::from_secs(29);
        let moment_ago = now + Duration::from_secs(1) + limits.unrepeatable;
        assert!(
            pool.take(A, &bench.owner, false, |_| true, at).is_none(),
            "it was not in use just now"
        );
        assert_eq!((pool.len(), retired(&pool)), (1, [0, 0, 0, 1]), "the oldest went for it");
        assert!(pool.take(A, &bench.owner, false, |_| true, moment_ago).is_none());
        let (stream, _peer) = bench.connection();
        pool.put(A, kept(&pool, stream, now), bench.former(), now + Duration::from_secs(1));
        let filed = pool.state.lock().filed.unwrap();
        Arc::clone(&pool).due(filed, now + Duration::from_secs(1) + limits.idle);
        assert_eq!(pool.len(), 0, "with a layer: {doubled}");
    }
}

#[test]
fn connections_that_are_closed_together_are_counted_by_why() {
    let bench = Bench::new();
    let pool = bench.pool(PoolLimits::default());
    let now = Instant::now();
    let put = |doubled: bool| {
        let (stream, peer) = bench.connection();
        let stream = if doubled { stream.doubled_willingly(100) } else { stream };
        pool.put(A, kept(&pool, stream, now), bench.former(), now);
        peer
    };
    let mut peers = [put(true), put(false)];
    assert_eq!((pool.clear(Retired::Full), retired(&pool)), (2, [0, 0, 0, 2]));
    for (peer, expected) in peers.iter_mut().zip([&[CODED_END][..], &[]]) {
        let mut last = Vec::new();
        peer.read_to_end(&mut last).unwrap();
        assert_eq!(last, expected, "a layer says the end");
    }
    let _peers = [put(true), put(false), put(false)];
    pool.begin_names_epoch();
    assert_eq!((pool.len(), retired(&pool)), (0, [0, 0, 3, 2]));
}
