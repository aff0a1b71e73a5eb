//! A table of clients that leave, at every stage of their connection and in every way there is.
//!
//! One proxy with one worker serves all rows, so that anything a row leaves behind is noticed: a
//! connection, an exchange, a permit, a descriptor. After each row the next client is served.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use threadgate::observe::access_log::{LineFormat, LogDestination};
use threadgate::server::Via;

use crate::hostile::{DropsSyns, HangingResolver};
use crate::peers::{End, Peer, STEP, comes_true, eventually, eventually_eq, shown};
use crate::proxies::{Binary, OK, proxy_with_one_worker};
use crate::servers::{accept_within, listen};

/// The proxy and the servers of a row.
pub(super) struct Scene {
    pub(super) proxy: SocketAddr,
    pub(super) origin: SocketAddr,
    pub(super) listener: TcpListener,
    log: tempfile::TempPath,
    hole: DropsSyns,
}

impl Scene {
    /// `log` is the proxy's access log, in JSON.
    pub(super) fn new(proxy: SocketAddr, log: tempfile::TempPath) -> Self {
        let listener = listen();
        let origin = listener.local_addr().unwrap();
        Self { proxy, origin, listener, log, hole: DropsSyns::new() }
    }

    /// A client that has sent `bytes`; `{o}` is the origin server, `{h}` a server that drops SYNs.
    #[track_caller]
    pub(super) fn client(&self, bytes: &str) -> Peer {
        let mut client = Peer::connect(self.proxy);
        let bytes = bytes.replace("{o}", &self.origin.to_string());
        client.send(bytes.replace("{h}", &self.hole.addr.to_string()));
        client
    }

    /// The proxy's connection to the origin server, at the server's end, with the request head read.
    #[track_caller]
    pub(super) fn upstream(&self) -> Peer {
        let mut upstream = Peer::new(accept_within(&self.listener, STEP));
        upstream.read_head();
        upstream
    }

    /// How many lines the log has.
    pub(super) fn lines(&self) -> usize {
        memchr::memchr_iter(b'\n', &fs::read(&self.log).unwrap()).count()
    }

    /// The one line that was written after the first `before`.
    #[track_caller]
    pub(super) fn line_after(&self, before: usize) -> Value {
        eventually_eq(|| self.lines(), before + 1);
        let text = fs::read_to_string(&self.log).unwrap();
        serde_json::from_str(text.lines().last().unwrap()).unwrap()
    }

    /// Checks that the next client is served, by the one worker and through a permit.
    #[track_caller]
    pub(super) fn serves_the_next(&self) {
        let before = self.lines();
        let mut client = self.client("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.read_response().status, 200);
        self.line_after(before);
    }
}

/// A connection at its stage.
struct Held {
    client: Peer,
    upstream: Option<Peer>,
    /// The rest of the upstream's bytes, and the end of what the client gets for them.
    rest: Vec<u8>,
    tail: &'static str,
    /// Lines written to the log on the way here.
    lines: usize,
}

impl Held {
    fn new(client: Peer) -> Self {
        Self { client, upstream: None, rest: Vec::new(), tail: "", lines: 0 }
    }

    fn with(self, upstream: Peer) -> Self {
        Self { upstream: Some(upstream), rest: OK.into(), tail: "ok", ..self }
    }
}

/// How a peer leaves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum How {
    Resets,
    /// The other end sees the end, and a reset when it sends something.
    Closes,
    /// This end sends no more and still reads.
    HalfCloses,
}

pub(super) const HOW: [How; 3] = [How::Resets, How::Closes, How::HalfCloses];

/// The outcome.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// The connection is closed; there was nothing to log.
    Quiet,
    /// The upstream is freed at once, and the log says that the client has gone.
    Freed,
    /// The upstream is freed when it sends more, and the log says that the client has gone.
    FreedWhenSent,
    /// The upstream is freed, and the log has this status, error and side. A client that still reads
    /// gets the reply.
    Refused(u16, &'static str, &'static str),
    /// A client that still reads gets the whole answer.
    Answered,
    /// The tunnel is reset.
    TunnelReset,
    /// The upstream sees the end; its last bytes arrive, and the tunnel ends well.
    TunnelHalfClosed,
    /// The upstream sees the end; when it sends something, the tunnel is reset.
    TunnelResetWhenSent,
    /// The upstream's connection is kept for the next client.
    Kept,
}

use Then::{
    Answered, Freed, FreedWhenSent, Kept, Quiet, Refused, TunnelHalfClosed, TunnelReset,
    TunnelResetWhenSent,
};

const INCOMPLETE: Then = Refused(400, "http_request_error", "client");
const NO_LOOKUP: Then = Refused(504, "dns_timeout", "upstream");
const NO_CONNECT: Then = Refused(504, "connection_timeout", "upstream");

const GET: &str = "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n";
const CONNECT: &str = "CONNECT {o} HTTP/1.1\r\nHost: {o}\r\n\r\n";

/// A stage, how to get there, and the outcome of each way to leave.
type Row = (&'static str, fn(&Scene) -> Held, [Then; 3]);

const TABLE: &[Row] = &[
    ("before the first byte", |s| Held::new(s.client("")), [Quiet; 3]),
    ("in the request line", |s| Held::new(s.client("GET http://{o}/")), [Quiet; 3]),
    ("in the head", |s| Held::new(s.client("GET / HTTP/1.1\r\nHo")), [Quiet; 3]),
    ("lookup", |s| Held::new(s.client(HANGS)), [Freed, NO_LOOKUP, NO_LOOKUP]),
    ("lookup for a tunnel", |s| Held::new(s.client(HANGS_TOO)), [Freed, NO_LOOKUP, NO_LOOKUP]),
    (
        "dial",
        |s| Held::new(s.client("GET http://{h}/ HTTP/1.1\r\nHost: {h}\r\n\r\n")),
        [Freed, NO_CONNECT, NO_CONNECT],
    ),
    (
        "dial for a tunnel",
        |s| Held::new(s.client("CONNECT {h} HTTP/1.1\r\nHost: {h}\r\n\r\n")),
        [Freed, NO_CONNECT, NO_CONNECT],
    ),
    ("response awaited", awaiting, [Freed, Answered, Answered]),
    (
        "in the response head",
        |s| {
            let mut held = awaiting(s);
            let (now, rest) = OK.split_at(20);
            held.upstream.as_mut().unwrap().send(now);
            Held { rest: rest.into(), ..held }
        },
        [Freed, Answered, Answered],
    ),
    (
        "after an interim response",
        |s| {
            let mut held = awaiting(s);
            held.upstream.as_mut().unwrap().send("HTTP/1.1 103 Early Hints\r\n\r\n");
            held.client.read_head();
            held
        },
        [Freed, Answered, Answered],
    ),
    ("in content by length", |s| content(s, "1.1", Body::Length), CONTENT),
    ("in chunked content", |s| content(s, "1.1", Body::Chunked), CONTENT),
    ("in content until close", |s| content(s, "1.1", Body::UntilClose), CONTENT),
    ("in content by length, HTTP/1.0", |s| content(s, "1.0", Body::Length), CONTENT),
    ("in chunked content, HTTP/1.0", |s| content(s, "1.0", Body::Chunked), CONTENT),
    ("in content until close, HTTP/1.0", |s| content(s, "1.0", Body::UntilClose), CONTENT),
    ("in an upload", |s| upload(s, "Content-Length: 10\r\n\r\nhalf", "half"), UPLOAD),
    (
        "in a chunked upload",
        |s| upload(s, "Transfer-Encoding: chunked\r\n\r\n8\r\nhalf", "8\r\nhalf"),
        UPLOAD,
    ),
    ("100 awaited", |s| upload(s, "Content-Length: 4\r\nExpect: 100-continue\r\n\r\n", ""), UPLOAD),
    (
        "100 received",
        |s| {
            let head = "Content-Length: 4\r\nExpect: 100-continue\r\n\r\n";
            let mut held = upload(s, head, "");
            held.upstream.as_mut().unwrap().send("HTTP/1.1 100 Continue\r\n\r\n");
            assert!(held.client.read_head().starts_with("HTTP/1.1 100 "));
            held
        },
        UPLOAD,
    ),
    ("in a tunnel", tunnel, [TunnelReset, TunnelResetWhenSent, TunnelHalfClosed]),
    ("in a tunnel full both ways", full_tunnel, [TunnelReset, TunnelReset, TunnelHalfClosed]),
    (
        "lingering",
        |s| {
            let mut client = s.client("nonsense\r\n\r\n");
            assert_eq!(client.read_response().status, 400);
            Held { lines: 1, ..Held::new(client) }
        },
        [Quiet; 3],
    ),
    (
        "in the second of two pipelined",
        |s| {
            let mut client = s.client(&GET.repeat(2));
            let mut upstream = s.upstream();
            upstream.send(OK);
            assert_eq!(client.read_response().text(), "ok");
            upstream.read_head();
            Held { lines: 1, ..Held::new(client).with(upstream) }
        },
        [Freed, Answered, Answered],
    ),
    (
        "idle",
        |s| {
            let mut held = awaiting(s);
            held.upstream.as_mut().unwrap().send(OK);
            assert_eq!(held.client.read_response().text(), "ok");
            // The upstream's connection is kept after the response, but before the next request.
            held.client.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(held.client.read_response().status, 200);
            Held { lines: 2, ..held }
        },
        [Kept; 3],
    ),
];

const CONTENT: [Then; 3] = [Freed, FreedWhenSent, Answered];
const UPLOAD: [Then; 3] = [Freed, INCOMPLETE, INCOMPLETE];
const HANGS: &str = "GET http://hang.example/ HTTP/1.1\r\nHost: hang.example\r\n\r\n";
const HANGS_TOO: &str = "CONNECT hang-too.example:1 HTTP/1.1\r\nHost: hang-too.example:1\r\n\r\n";

fn awaiting(scene: &Scene) -> Held {
    Held::new(scene.client(GET)).with(scene.upstream())
}

enum Body {
    Length,
    Chunked,
    UntilClose,
}

/// The client has the beginning; the rest is more than can be sent to it unnoticed.
fn content(scene: &Scene, version: &str, body: Body) -> Held {
    const LEFT: usize = 1 << 20;
    let client = scene.client(&format!("GET http://{{o}}/ HTTP/{version}\r\nHost: {{o}}\r\n\r\n"));
    let mut held = Held::new(client).with(scene.upstream());
    let length = LEFT + 4;
    let (head, rest, tail) = match body {
        Body::Length => (format!("Content-Length: {length}\r\n\r\nhalf"), "the end", "the end"),
        Body::Chunked => (
            format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\nhalf"),
            "the end\r\n0\r\n\r\n",
            if version == "1.0" { "the end" } else { "the end\r\n0\r\n\r\n" },
        ),
        Body::UntilClose => (
            "Connection: close\r\n\r\nhalf".to_owned(),
            "the end",
            if version == "1.0" { "the end" } else { "the end\r\n0\r\n\r\n" },
        ),
    };
    held.upstream.as_mut().unwrap().send(format!("HTTP/1.1 200 OK\r\n{head}"));
    held.client.read_until(b"half");
    held.rest = [vec![b'x'; LEFT - "the end".len()], rest.into()].concat();
    Held { tail, ..held }
}

fn upload(scene: &Scene, bytes: &str, seen: &str) -> Held {
    let client = scene.client(&format!("PUT http://{{o}}/ HTTP/1.1\r\nHost: {{o}}\r\n{bytes}"));
    let mut upstream = scene.upstream();
    assert_eq!(upstream.read_text(seen.len()), seen);
    Held::new(client).with(upstream)
}

fn tunnel(scene: &Scene) -> Held {
    let mut client = scene.client(CONNECT);
    client.send("GET / HTTP/1.1\r\n\r\n");
    assert!(client.read_head().starts_with("HTTP/1.1 200 "));
    Held::new(client).with(scene.upstream())
}

/// Neither end has read what the other has sent.
fn full_tunnel(scene: &Scene) -> Held {
    let mut held = tunnel(scene);
    let upstream = held.upstream.as_mut().unwrap();
    for peer in [&mut held.client, &mut *upstream] {
        peer.stream().set_write_timeout(Some(Duration::from_millis(50))).unwrap();
        let sent = peer.try_send(vec![b'x'; 64 << 20]);
        assert!(sent.is_err(), "there is an end to what fits");
        peer.stream().set_write_timeout(Some(STEP)).unwrap();
    }
    held
}

/// Plays a row, one way; `is_back` is whether the proxy has let go of everything it had.
fn play(scene: &Scene, (_, setup, thens): &Row, how: How, is_back: &dyn Fn() -> bool) {
    let before = scene.lines();
    let Held { mut client, mut upstream, rest, tail, lines } = setup(scene);
    let before = before + lines;
    let mut client = match how {
        How::Resets => {
            client.reset();
            None
        }
        How::Closes => {
            drop(client);
            None
        }
        How::HalfCloses => {
            client.half_close();
            Some(client)
        }
    };
    let gone = |line: &Value, error| {
        assert_eq!([&line["error"], &line["side"]], [error, "client"], "{line}");
    };
    match thens[how as usize] {
        Quiet => {
            client.iter_mut().for_each(Peer::expect_end);
            eventually_eq(|| scene.lines(), before);
            // Now, and not when a wait is over.
            assert!(comes_true(Duration::from_millis(1500), &mut || is_back()));
        }
        Freed => {
            upstream.iter_mut().for_each(Peer::expect_end);
            gone(&scene.line_after(before), "client_gone");
        }
        FreedWhenSent => {
            let mut upstream = upstream.take().unwrap();
            let _ = upstream.try_send(&rest);
            upstream.read_to_any_end();
            gone(&scene.line_after(before), "client_gone");
        }
        Refused(status, error, side) => {
            if let Some(client) = &mut client {
                let response = client.read_response();
                assert_eq!(response.status, status, "{}", response.head);
                client.expect_end();
            }
            upstream.iter_mut().for_each(Peer::expect_end);
            let line = scene.line_after(before);
            assert_eq!(line["status"], status, "{line}");
            assert_eq!([&line["error"], &line["side"]], [error, side], "{line}");
        }
        Answered => {
            let mut upstream = upstream.take().unwrap();
            let Some(client) = &mut client else {
                // Whether anybody has read it is a matter of luck.
                upstream.send(&rest);
                let line = scene.line_after(before);
                assert!([Value::Null, "client_gone".into()].contains(&line["error"]), "{line}");
                return;
            };
            let (all, end) = thread::scope(|scope| {
                scope.spawn(move || upstream.send(&rest));
                client.read_to_any_end()
            });
            assert_eq!(end, End::Closed);
            assert!(all.ends_with(tail.as_bytes()), "{}", shown(&all));
            let line = scene.line_after(before);
            assert_eq!([&line["status"], &line["error"]], [&Value::from(200), &Value::Null]);
        }
        TunnelReset => {
            upstream.take().unwrap().expect_reset();
            gone(&scene.line_after(before), "connection_terminated");
        }
        TunnelHalfClosed => {
            let (mut client, mut upstream) = (client.take().unwrap(), upstream.take().unwrap());
            let (down, up) = thread::scope(|scope| {
                let up = scope.spawn(move || {
                    let up = upstream.read_to_end();
                    upstream.send("the last");
                    up
                });
                (client.read_to_end(), up.join().unwrap())
            });
            assert!(down.ends_with(b"the last"), "{}", shown(&down));
            let line = scene.line_after(before);
            assert_eq!([&line["error"], &line["kind"]], [&Value::Null, &"tunnel".into()], "{line}");
            // Nothing was lost on the way, however much there was.
            let (told_down, told_up) = (&line["bytes_to_client"], &line["bytes_from_client"]);
            assert!(told_down.as_u64().unwrap() >= down.len() as u64, "{line}");
            assert!(told_up.as_u64().unwrap() >= up.len() as u64, "{line}");
        }
        TunnelResetWhenSent => {
            let mut upstream = upstream.take().unwrap();
            upstream.expect_eof();
            // A peer that has read the end reads no reset, but cannot send.
            eventually(|| upstream.try_send("to nobody").is_err());
            gone(&scene.line_after(before), "connection_terminated");
        }
        Kept => {
            client.iter_mut().for_each(Peer::expect_end);
            // The client has its answer a moment before the connection is free for the next.
            eventually_eq(|| scene.lines(), before);
            let mut upstream = upstream.take().unwrap();
            let mut next = scene.client(GET);
            upstream.read_head();
            upstream.send(OK);
            assert_eq!(next.read_response().text(), "ok");
            assert_eq!(scene.line_after(before)["reused"], true);
        }
    }
    drop((client, upstream));
    assert!(comes_true(STEP, &mut || is_back()), "something of it is still there");
}

/// Plays all rows allowed by `may`, each way, and names the one that fails.
fn play_all(scene: &Scene, may: impl Fn(&str) -> bool, is_back: &dyn Fn() -> bool) {
    for row in TABLE.iter().filter(|row| may(row.0)) {
        for how in HOW {
            let _name = NameOnPanic(format!("{}: the client {how:?}", row.0));
            play(scene, row, how, is_back);
            scene.serves_the_next();
            eventually(is_back);
        }
    }
}

/// Names the row that failed.
pub(super) struct NameOnPanic(pub(super) String);

impl Drop for NameOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the row that failed: {}", self.0);
        }
    }
}

#[test]
fn a_client_that_leaves_at_any_stage_leaves_nothing_behind() {
    let log = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let (resolver, _gate) = HangingResolver::new(vec![Ipv4Addr::LOCALHOST.into()]);
    let proxy = proxy_with_one_worker(|options| {
        options.access_log = Some((LogDestination::File(log.to_path_buf()), LineFormat::Json));
        options.resolver = Arc::new(resolver);
        options.via = Via::Off;
        options.timeouts.connect = Duration::from_millis(300);
        // A permit that does not come back soon stops everything.
        options.max_connections = NonZeroUsize::new(4);
    });
    let scene = Scene::new(proxy.addr(), log);
    play_all(&scene, |_| true, &|| {
        let stats = proxy.stats();
        stats.active_connections() + stats.active_exchanges() + stats.active_tunnels() == 0
    });
    assert_eq!(proxy.stats().panics, 0);
}

#[test]
fn a_client_that_leaves_at_any_stage_leaves_no_descriptor_open() {
    let log = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let proxy = Binary::start(&[
        "--timeout-connect",
        "300ms",
        "--via",
        "off",
        "--access-log",
        log.to_str().unwrap(),
        "--log-format",
        "json",
    ]);
    let scene = Scene::new(proxy.addr, log);
    scene.serves_the_next();
    let mut before = 0;
    // The same number twice running: the connection of the client just served has gone.
    eventually(|| std::mem::replace(&mut before, proxy.sockets()) == proxy.sockets());
    let (threads, others) = (proxy.started_threads(), proxy.descriptors() - proxy.sockets());
    // Names are not looked up here.
    play_all(&scene, |name| !name.starts_with("lookup"), &|| proxy.sockets() <= before);
    // Two for each pipe that is kept.
    let now = proxy.descriptors() - proxy.sockets();
    assert!(now <= others + 32, "{now} descriptors, {others} before");
    assert_eq!(proxy.thread_names(), threads);
}
