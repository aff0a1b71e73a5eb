//! Whole sessions over connections with a layer below HTTP. A poller watches their sockets: a session
//! that has parked gets another turn only when the kernel reports an edge.
#![expect(clippy::disallowed_methods, reason = "a peer of the test may wait for its bytes")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use socket2::SockRef;

use super::*;
use crate::net::buffer::Buffers;
use crate::net::permits::Permits;
use crate::net::pipe::PIPE_BYTES;
use crate::net::poll::{Edge, Events};
use crate::net::stream::double::{CODED_END, CODED_GARBAGE, CODED_KEY_UPDATE, CODED_TICKET, coded};
use crate::net::timers::Timers;
use crate::observe::report::Life;
use crate::observe::stats::{Counters, Shard};
use crate::policy::protected_mode::Scope;
use crate::policy::{self, Access};
use crate::proxy::Context;
use crate::proxy::admin::tests::At;
use crate::proxy::flow::tests::{context, pair};
use crate::proxy::front::Front;
use crate::proxy::sides::{CLIENT, UPSTREAM};
use crate::proxy::waiting::Edges;
use crate::upstream::peer::{Endpoint, Peer};
use crate::upstream::pool::{Former, Kept, Pool, PoolLimits};

/// The edges reported to a session's slot, for the next turn.
#[derive(Default)]
struct Slot(Mutex<Edges>);

impl Wake for Slot {
    fn wake(&self, tag: u32, edge: Edge) -> bool {
        self.0.lock().add(tag, edge);
        true
    }
}

/// A session, and a worker for it.
struct Bench {
    ctx: Context,
    slot: Arc<Slot>,
    session: Option<Session>,
    parked: bool,
    buffers: Buffers,
    spares: Spares,
    counters: Shard,
    events: Events,
}

/// The address given for the upstream. Nobody listens there: the session uses the connection in the
/// pool.
const UPSTREAM_ADDRESS: ([u8; 4], u16) = ([127, 0, 0, 1], 9);
const LONG: Duration = Duration::from_secs(5);

impl Bench {
    /// For this client, with an upstream connection that was in use a moment ago.
    fn new(client: Stream, upstream: Option<Stream>) -> Self {
        let mut ctx = context(4);
        // Long enough for a slow machine.
        let limits = PoolLimits { unrepeatable: LONG, ..PoolLimits::default() };
        let timers = Arc::new(Timers::new(Arc::clone(&ctx.poller)));
        ctx.pool = Pool::new(limits, timers, Arc::clone(&ctx.poller));
        let everything = Access::default().policy(&[SocketAddr::from(([127, 0, 0, 1], 1))], true);
        ctx.policy = policy::Current::new(everything);
        let slot = Arc::<Slot>::default();
        let waker = Arc::clone(&slot) as Arc<dyn Wake>;
        let now = Instant::now();
        if let Some(stream) = upstream {
            let (mut endpoint, mut peer) = (Endpoint::default(), Peer::default());
            let address = SocketAddr::from(UPSTREAM_ADDRESS);
            endpoint.set("127.0.0.1", Some(address.ip()), address.port());
            peer.direct(&endpoint);
            let kept = Kept { stream, address, lease: ctx.pool.lease(now) };
            ctx.pool.put(peer.key(), kept, Former { who: &*slot, tags: UPSTREAM..=UPSTREAM }, now);
        }
        let asker = Asker {
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            listener: 0,
            scope: Scope::Unrestricted,
            front: Front::Forward,
            names_us: false,
        };
        let permit = Permits::new(1).try_take().unwrap();
        Self {
            session: Some(Session::new(client, asker, waker, permit, now + LONG)),
            ctx,
            slot,
            parked: false,
            buffers: Buffers::default(),
            spares: Spares::new(&Arc::default()),
            counters: Shard::default(),
            events: Events::default(),
        }
    }

    fn with<T>(&mut self, f: impl FnOnce(&mut Session, &mut Turn<'_>, &mut Spares) -> T) -> T {
        let policy = self.ctx.policy.get();
        let mut turn = Turn {
            policy: &policy,
            overview: &At(Life::Serving),
            ctx: &self.ctx,
            buffers: &mut self.buffers,
            counters: &self.counters,
            now: Instant::now(),
            moved: 0,
            portion: PIPE_BYTES,
        };
        f(self.session.as_mut().expect("it is closed"), &mut turn, &mut self.spares)
    }

    /// Runs turns until the session parks, or is closed.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let next = self.with(|session, turn, spares| {
                let next = session.turn(turn, spares);
                if let Next::Park(_, tag) = next {
                    session.prepare_to_park(tag, turn).unwrap();
                }
                next
            });
            match next {
                Next::Yield => {}
                Next::Park(..) => return self.parked = true,
                Next::Close => return self.session = None,
            }
        }
        panic!("it spins");
    }

    /// Goes on as the kernel reports edges, until `done` is true.
    #[track_caller]
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let limit = Instant::now() + LONG;
        loop {
            if self.session.is_some() && !self.parked {
                self.settle();
            }
            if done(self) {
                return;
            }
            let wait = self.session.as_ref().map(Session::wait);
            assert!(Instant::now() < limit, "{what}: nothing more comes, it waits for {wait:?}");
            self.ctx.poller.wait(&mut self.events, Some(Duration::from_millis(5))).unwrap();
            self.ctx.poller.deliver(&self.events);
            let edges = std::mem::take(&mut *self.slot.0.lock());
            if let Some(session) = self.session.as_mut().filter(|_| !edges.is_empty()) {
                session.note(edges);
                self.parked = false;
            }
        }
    }

    /// The bytes that this peer receives, as on the wire, until `done` is true. An end or a reset ends
    /// them.
    #[track_caller]
    fn heard(
        &mut self,
        what: &str,
        peer: &mut TcpStream,
        mut done: impl FnMut(&[u8]) -> bool,
    ) -> (Vec<u8>, Option<ErrorKind>) {
        peer.set_nonblocking(true).unwrap();
        let (mut got, mut end, mut over) = (Vec::new(), None, false);
        self.until(what, |_| {
            let mut bytes = [0; 4096];
            match peer.read(&mut bytes) {
                Ok(0) => over = true,
                Ok(count) => got.extend_from_slice(&bytes[..count]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => (over, end) = (true, Some(e.kind())),
            }
            over || done(&got)
        });
        peer.set_nonblocking(false).unwrap();
        (got, end)
    }

    /// The same for a peer under a layer: the decoded bytes, without the layer's own messages.
    #[track_caller]
    fn heard_coded(&mut self, what: &str, peer: &mut TcpStream, end: &[u8]) -> Vec<u8> {
        self.heard(what, peer, |got| coded(got).ends_with(end)).0
    }
}

fn stream() -> (Stream, TcpStream) {
    let (Half { stream, .. }, peer) = pair();
    (stream, peer)
}

const GET: &[u8] = b"GET http://127.0.0.1:9/ HTTP/1.1\r\nHost: 127.0.0.1:9\r\n\r\n";
const GET_OLD: &[u8] = b"GET http://127.0.0.1:9/ HTTP/1.0\r\n\r\n";
const LAST: &[u8] =
    b"GET http://127.0.0.1:9/ HTTP/1.1\r\nHost: 127.0.0.1:9\r\nConnection: close\r\n\r\n";
const HEAD_END: &[u8] = b"\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
const UNTIL_CLOSE: &[u8] = b"HTTP/1.1 200 OK\r\n\r\nhello";

/// The layer takes the last of the content while its socket is full. After that the kernel reports only
/// room.
#[test]
fn a_request_leaves_a_layer_that_has_taken_all_of_it() {
    let (client, mut from) = stream();
    let (upstream, mut to) = stream();
    upstream.socket().set_send_buffer_size(4096).unwrap();
    let mut bench = Bench::new(client, Some(upstream.doubled_willingly(usize::MAX)));
    let mut content: Vec<u8> = (0..600_000_u32).map(|n| b'a' + (n % 23) as u8).collect();
    content.extend_from_slice(b"END");
    let head = format!(
        "POST http://127.0.0.1:9/ HTTP/1.1\r\nHost: 127.0.0.1:9\r\nContent-Length: {}\r\n\r\n",
        content.len()
    );
    let sent = [head.as_bytes(), &content].concat();
    let mut asks = from.try_clone().unwrap();
    let asking = thread::spawn(move || asks.write_all(&sent));
    // The peer reads nothing before the session is stuck.
    bench.until("stuck", |bench| bench.parked && bench.ctx.pool.is_empty());
    let got = bench.heard_coded("the request", &mut to, b"END");
    asking.join().unwrap().unwrap();
    assert!(coded(&got).ends_with(&content));
    to.write_all(&coded(ANSWER)).unwrap();
    let (got, _) = bench.heard("the answer", &mut from, |got| got.ends_with(b"hello"));
    assert!(got.starts_with(b"HTTP/1.1 200 "));
    bench.until("kept", |bench| bench.ctx.pool.len() == 1);
}

/// Bytes that a layer holds are not sent: the connection cannot change the protocol or be used again.
#[test]
fn a_connection_whose_layer_holds_the_request_is_not_changed_and_not_kept() {
    let upgrade =
        b"GET http://127.0.0.1:9/ HTTP/1.1\r\nHost: 127.0.0.1:9\r\nConnection: upgrade\r\n\
        Upgrade: websocket\r\n\r\n";
    let changes: &[u8] =
        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    for (asked, answer, expected) in [
        (GET, ANSWER, "HTTP/1.1 200 "),
        (upgrade, changes, "the upstream changed the protocol before the request was whole"),
    ] {
        let ((client, mut from), (upstream, mut to)) = (stream(), stream());
        let mut bench = Bench::new(client, Some(upstream.doubled_stuck()));
        from.write_all(asked).unwrap();
        bench.until("asked", |bench| bench.parked && bench.ctx.pool.is_empty());
        to.write_all(&coded(answer)).unwrap();
        let (got, _) =
            bench.heard(expected, &mut from, |got| String::from_utf8_lossy(got).contains(expected));
        assert!(String::from_utf8_lossy(&got).contains(expected));
        bench.until("over", |bench| bench.parked || bench.session.is_none());
        assert_eq!(bench.ctx.pool.len(), 0);
    }
}

/// The bytes and the end come in one receive, and the kernel has nothing more to report.
#[test]
fn an_end_that_came_with_the_last_bytes_is_told() {
    for (asked, ends) in [(GET, "5\r\nhello\r\n0\r\n\r\n"), (GET_OLD, "hello")] {
        let ((client, mut from), (upstream, mut to)) = (stream(), stream());
        let mut bench = Bench::new(client, Some(upstream.doubled_willingly(1000)));
        from.write_all(asked).unwrap();
        bench.heard_coded("the request", &mut to, HEAD_END);
        to.write_all(&[&coded(UNTIL_CLOSE)[..], &[CODED_END]].concat()).unwrap();
        let is_old = asked == GET_OLD;
        let (got, end) =
            bench.heard(ends, &mut from, |got| !is_old && got.ends_with(ends.as_bytes()));
        assert!(got.ends_with(ends.as_bytes()) && end.is_none(), "{end:?}");
    }
}

/// Anybody on the way could have made an end of the socket alone.
#[test]
fn content_that_only_the_end_completes_is_cut_when_the_end_was_not_said() {
    let garbage = [&coded(UNTIL_CLOSE)[..], &[CODED_GARBAGE]].concat();
    for (wire, ends) in [(coded(UNTIL_CLOSE), true), (garbage, false)] {
        for asked in [GET, GET_OLD] {
            let ((client, mut from), (upstream, mut to)) = (stream(), stream());
            let mut bench = Bench::new(client, Some(upstream.doubled_willingly(1000)));
            from.write_all(asked).unwrap();
            bench.heard_coded("the request", &mut to, HEAD_END);
            to.write_all(&wire).unwrap();
            if ends {
                to.shutdown(Shutdown::Write).unwrap();
            }
            let (got, end) = bench.heard("the end", &mut from, |_| false);
            // A reset may overtake the bytes before it.
            match asked == GET_OLD {
                true => assert_eq!(end, Some(ErrorKind::ConnectionReset), "it looks whole"),
                false => assert!(got.ends_with(b"hello\r\n"), "no last chunk"),
            }
            assert!(bench.session.is_none());
        }
    }
}

/// Messages mark their own end, and between them nothing is missing.
#[test]
fn an_end_that_was_not_said_is_an_end_between_messages() {
    // On the upstream's side: the response is whole, and its connection is not kept.
    let ((client, mut from), (upstream, mut to)) = (stream(), stream());
    let mut bench = Bench::new(client, Some(upstream.doubled_willingly(1000)));
    from.write_all(GET).unwrap();
    bench.heard_coded("the request", &mut to, HEAD_END);
    to.write_all(&coded(ANSWER)).unwrap();
    to.shutdown(Shutdown::Write).unwrap();
    let (got, end) = bench.heard("the answer", &mut from, |got| got.ends_with(b"hello"));
    assert!(got.ends_with(b"hello") && end.is_none());
    bench.until("dropped", |bench| bench.ctx.pool.is_empty());

    // On the client's side, behind its request: the client gets its answer, and is told the end.
    let ((client, mut from), (upstream, mut to)) = (stream(), stream());
    let client = client.doubled_willingly(1000);
    let mut bench = Bench::new(client, Some(upstream.doubled_willingly(1000)));
    from.write_all(&coded(GET)).unwrap();
    from.shutdown(Shutdown::Write).unwrap();
    bench.heard_coded("the request", &mut to, HEAD_END);
    to.write_all(&coded(ANSWER)).unwrap();
    let (got, end) = bench.heard("the answer", &mut from, |_| false);
    assert_eq!((got.last(), end), (Some(&CODED_END), None));
    assert!(coded(&got).windows(5).any(|five| five == b"hello"));
}

/// A client with a layer believes only its layer about the end, even if the connection is closed at
/// once, and even if the last bytes do not go out at once.
#[test]
fn a_client_with_a_layer_is_told_the_end() {
    for length in [5, 300_000] {
        for (asked, answer, ends) in [
            (LAST, &b"HTTP/1.1 200 OK\r\nContent-Length: LENGTH\r\n\r\n"[..], false),
            (GET, b"HTTP/1.1 200 OK\r\nContent-Length: LENGTH\r\n\r\n", true),
            (GET_OLD, b"HTTP/1.1 200 OK\r\n\r\n", false),
        ] {
            let what =
                format!("{length} bytes, it ends {ends}, {}", String::from_utf8_lossy(asked));
            let ((client, mut from), (upstream, mut to)) = (stream(), stream());
            client.socket().set_send_buffer_size(4096).unwrap();
            let client = client.doubled_willingly(usize::MAX);
            let mut bench = Bench::new(client, Some(upstream.doubled_willingly(usize::MAX)));
            from.write_all(&coded(asked)).unwrap();
            if ends {
                from.write_all(&[CODED_END]).unwrap();
            }
            bench.heard_coded(&what, &mut to, HEAD_END);
            let head = String::from_utf8_lossy(answer).replace("LENGTH", &length.to_string());
            let mut wire = coded(&[head.as_bytes(), &vec![b'x'; length]].concat());
            wire.push(CODED_END);
            let answering = thread::spawn(move || to.write_all(&wire).map(|()| to));
            let (got, end) = bench.heard(&what, &mut from, |_| false);
            let _to = answering.join().unwrap().unwrap();
            assert_eq!((got.last(), end), (Some(&CODED_END), None), "{what}");
            let bytes = coded(&got).iter().filter(|byte| **byte == b'x').count();
            assert_eq!(bytes, length, "{what}");
            assert!(bench.session.is_none(), "{what}");
        }
    }
}

#[test]
fn an_idle_client_with_a_layer_is_told_the_end() {
    let ((client, mut from), (upstream, mut to)) = (stream(), stream());
    let client = client.doubled_willingly(1000);
    let mut bench = Bench::new(client, Some(upstream.doubled_willingly(1000)));
    bench.ctx.timeouts.idle = Duration::ZERO;
    from.write_all(&coded(GET)).unwrap();
    bench.heard_coded("the request", &mut to, HEAD_END);
    to.write_all(&coded(ANSWER)).unwrap();
    let (got, end) = bench.heard("the answer", &mut from, |_| false);
    assert_eq!((got.last(), end), (Some(&CODED_END), None));
}

/// A tunnel whose client has a layer: its session, the client, and the server.
fn tunnel() -> (Bench, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (client, mut from) = stream();
    let mut bench = Bench::new(client.doubled_willingly(1000), None);
    let connect = format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    from.write_all(&coded(connect.as_bytes())).unwrap();
    let got = bench.heard_coded("the tunnel", &mut from, HEAD_END);
    assert!(coded(&got).starts_with(b"HTTP/1.1 200 "));
    let to = listener.accept().unwrap().0;
    (bench, from, to)
}

/// The client ends first; the server's end must still reach it.
#[test]
fn each_end_of_a_tunnel_is_told_to_a_client_with_a_layer() {
    let (mut bench, mut from, mut to) = tunnel();
    from.write_all(&[&coded(b"ping")[..], &[CODED_END]].concat()).unwrap();
    let (got, end) = bench.heard("the client's end", &mut to, |_| false);
    assert_eq!((got, end), (b"ping".to_vec(), None));
    to.write_all(b"pong").unwrap();
    drop(to);
    let (got, end) = bench.heard("the server's end", &mut from, |_| false);
    assert_eq!((got, end), ([&coded(b"pong")[..], &[CODED_END]].concat(), None));
    assert!(bench.session.is_none());
}

/// Bytes without framing have no other end either.
#[test]
fn a_tunnel_is_reset_when_the_end_was_not_said() {
    let (mut bench, mut from, mut to) = tunnel();
    from.write_all(&coded(b"ping")).unwrap();
    from.shutdown(Shutdown::Write).unwrap();
    let (_, end) = bench.heard("the client's end", &mut to, |_| false);
    assert_eq!(end, Some(ErrorKind::ConnectionReset));
}

/// Messages of the layer itself, which no flow carries.
#[test]
fn what_a_layer_has_to_say_by_itself_goes_out() {
    let ((mut client, mut from), (upstream, mut to)) = (stream(), stream());
    client = client.doubled_willingly(1000);
    client.issue_ticket();
    let mut bench = Bench::new(client, Some(upstream.doubled_willingly(1000)));
    let is_ticket = |got: &[u8]| got == [CODED_TICKET];
    bench.heard("before the first request", &mut from, is_ticket);
    from.write_all(&coded(GET)).unwrap();
    bench.heard_coded("the request", &mut to, HEAD_END);
    // In the middle of a download.
    let (first, second) = ANSWER.split_at(ANSWER.len() - 2);
    to.write_all(&[&coded(first)[..], &[CODED_KEY_UPDATE]].concat()).unwrap();
    bench.heard("the answer to the server", &mut to, |got| got == [CODED_KEY_UPDATE]);
    // While the upstream is waited for.
    from.write_all(&[CODED_KEY_UPDATE]).unwrap();
    let (got, _) = bench
        .heard("the answer to the client", &mut from, |got| got.last() == Some(&CODED_KEY_UPDATE));
    assert!(coded(&got[..got.len() - 1]).ends_with(b"hel"));
    to.write_all(&coded(second)).unwrap();
    bench.heard_coded("the rest", &mut from, b"lo");
}

/// A receive that filled its room with tickets may have left something.
#[test]
fn a_patient_receive_that_brought_only_tickets_may_have_left_something() {
    let (client, mut from) = stream();
    let mut bench = Bench::new(client.doubled_willingly(1000), None);
    bench.until("the session waits", |bench| bench.parked);
    from.write_all(&[[CODED_TICKET; 64].as_slice(), &coded(b"G")].concat()).unwrap();
    let went_on =
        |bench: &mut Bench| bench.with(|session, turn, _| session.be_patient(CLIENT, turn));
    assert!(went_on(&mut bench), "its socket is known to be readable");
    assert!(went_on(&mut bench), "a byte came");
    assert!(!went_on(&mut bench));
}

/// A socket that cannot be sent to does not make the session take turns for ever.
#[test]
fn a_layer_that_cannot_send_ends_its_session() {
    let (mut client, from) = stream();
    client = client.doubled_willingly(1000);
    client.issue_ticket();
    SockRef::from(&from).set_linger(Some(Duration::ZERO)).unwrap();
    drop(from);
    let mut bench = Bench::new(client, None);
    bench.until("closed", |bench| bench.session.is_none());
}

/// Over the network, no test has a client outside private networks.
#[test]
fn a_client_that_protected_mode_refuses_is_counted_as_that() {
    for (front, expected) in [(Front::Forward, [0, 0, 0, 0, 1]), (Front::Admin, [0; 5])] {
        let (client, mut from) = stream();
        let mut bench = Bench::new(client, None);
        let guarded = Access::default().policy(&[SocketAddr::from(([0, 0, 0, 0], 1))], false);
        bench.ctx.policy = policy::Current::new(guarded);
        bench.with(|session, _, _| {
            let address = SocketAddr::from(([192, 0, 2, 1], 1));
            session.asker = Asker { address, front, scope: Scope::Protected, ..session.asker };
        });
        from.write_all(LAST).unwrap();
        let (got, _) = bench.heard("the refusal", &mut from, |got| got.ends_with(b"\n"));
        assert!(got.starts_with(b"HTTP/1.1 403 "), "{}", String::from_utf8_lossy(&got));
        let mut counted = Counters::default();
        bench.counters.count(|c| counted.clone_from(c));
        assert_eq!((counted.refused, counted.admin_requests), (expected, 1 - expected[4]));
    }
}
