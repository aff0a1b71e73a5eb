//! A table of upstreams that leave, at every stage of an exchange and in every way there is.
//!
//! As in `faults_resets`, one proxy with one worker serves all rows, and the next client after each.

use std::time::Duration;

use serde_json::Value;
use socket2::SockRef;
use threadgate::observe::access_log::{LineFormat, LogDestination};
use threadgate::server::Via;

use crate::peers::{End, Peer, STEP, eventually, is_whole_chunked, shown};
use crate::proxies::{Binary, OK, proxy_with_one_worker};
use crate::servers::accept_within;

use super::faults_resets::{HOW, How, NameOnPanic, Scene};

/// A connection at its stage.
struct Held {
    client: Peer,
    upstream: Peer,
    /// Only the connection's end tells the client where the content ends.
    bare: bool,
    /// Lines written to the log on the way here.
    lines: usize,
}

/// The outcome.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// The client gets this reply, and the log has it.
    Replied(u16, &'static str),
    /// The request goes out once more, on a new connection, and is answered.
    SentAgain,
    /// The response that had begun is cut, and does not look complete.
    Cut,
    /// Content that ends by closing has ended: the response is complete (RFC 9112 §8).
    Whole,
    /// The idle connection is forgotten: the next request goes out on a new one.
    Forgotten,
    /// The client sees a reset.
    TunnelReset,
    /// The client sees the end; its further bytes are taken until it ends, too.
    TunnelHalfClosed,
    /// The client sees the end; when it sends something, the tunnel is reset.
    TunnelResetWhenSent,
}

use Then::{
    Cut, Forgotten, Replied, SentAgain, TunnelHalfClosed, TunnelReset, TunnelResetWhenSent, Whole,
};

const UNANSWERED: Then = Replied(502, "connection_terminated");
const GET: &str = "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n";
const PUT: &str = "PUT http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: 10\r\n\r\nhalf";

/// A stage, how to get there, and the outcome of each way to leave.
type Row = (&'static str, fn(&Scene) -> Held, [Then; 3]);

const TABLE: &[Row] = &[
    (
        "before it has read anything",
        |s| {
            let client = s.client(GET);
            held(client, Peer::new(accept_within(&s.listener, STEP)))
        },
        [UNANSWERED; 3],
    ),
    ("before it answers", |s| held(s.client(GET), s.upstream()), [UNANSWERED; 3]),
    ("in an upload", |s| held(s.client(PUT), s.upstream()), [UNANSWERED; 3]),
    (
        "before it says 100",
        |s| {
            let head = "Content-Length: 4\r\nExpect: 100-continue";
            held(s.client(&format!("{}{head}\r\n\r\n", start("PUT", "1.1"))), s.upstream())
        },
        [UNANSWERED; 3],
    ),
    ("on a connection used before", |s| used(s, GET), [SentAgain; 3]),
    ("on a connection used before, with content", |s| used(s, PUT), [UNANSWERED; 3]),
    ("in its response head", |s| said(s, "1.1", "HTTP/1.1 200 OK\r\nContent-Le"), [UNANSWERED; 3]),
    (
        "after an interim response",
        |s| said(s, "1.1", "HTTP/1.1 103 Early Hints\r\n\r\n"),
        [UNANSWERED; 3],
    ),
    ("in content by length", |s| content(s, "1.1", "Content-Length: 100"), [Cut; 3]),
    ("in content by length, HTTP/1.0", |s| content(s, "1.0", "Content-Length: 100"), [Cut; 3]),
    ("in chunked content", |s| content(s, "1.1", "Transfer-Encoding: chunked"), [Cut; 3]),
    ("in chunked content, HTTP/1.0", |s| content(s, "1.0", "Transfer-Encoding: chunked"), [Cut; 3]),
    ("in content until close", |s| content(s, "1.1", "Connection: close"), [Cut, Whole, Whole]),
    (
        "in content until close, HTTP/1.0",
        |s| content(s, "1.0", "Connection: close"),
        [Cut, Whole, Whole],
    ),
    ("idle", idle, [Forgotten; 3]),
    ("in a tunnel", tunnel, [TunnelReset, TunnelResetWhenSent, TunnelHalfClosed]),
];

fn held(client: Peer, upstream: Peer) -> Held {
    Held { client, upstream, bare: false, lines: 0 }
}

/// The beginning of a head.
fn start(method: &str, version: &str) -> String {
    format!("{method} http://{{o}}/ HTTP/{version}\r\nHost: {{o}}\r\n")
}

/// The client's first request was answered.
fn idle(scene: &Scene) -> Held {
    let (mut client, mut upstream) = (scene.client(GET), scene.upstream());
    upstream.send(OK);
    assert_eq!(client.read_response().text(), "ok");
    Held { lines: 1, ..held(client, upstream) }
}

/// Its second request has arrived, too.
fn used(scene: &Scene, request: &str) -> Held {
    let mut held = idle(scene);
    held.client.send(request.replace("{o}", &scene.origin.to_string()));
    held.upstream.read_head();
    held
}

/// The upstream has sent `bytes`, and the proxy has received them.
fn said(scene: &Scene, version: &str, bytes: &str) -> Held {
    let client = scene.client(&format!("{}\r\n", start("GET", version)));
    let mut held = held(client, scene.upstream());
    held.upstream.send(bytes);
    if bytes.ends_with("\r\n\r\n") {
        held.client.read_head();
    } else {
        // Half a head has no visible effect: this is the shortest pause that lets it be read.
        held.client.has_something_within(Duration::from_millis(20));
    }
    held
}

fn content(scene: &Scene, version: &str, framing: &str) -> Held {
    let client = scene.client(&format!("{}\r\n", start("GET", version)));
    let mut held = held(client, scene.upstream());
    let chunk = if framing.ends_with("chunked") { "64\r\n" } else { "" };
    held.upstream.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{chunk}"));
    held.upstream.send("the beginning");
    let head = held.client.read_head();
    held.bare = !head.contains("Content-Length") && !head.contains("chunked");
    held.client.read_until(b"the beginning");
    held
}

fn tunnel(scene: &Scene) -> Held {
    let mut client = scene.client("CONNECT {o} HTTP/1.1\r\nHost: {o}\r\n\r\nGET /\r\n\r\n");
    assert!(client.read_head().starts_with("HTTP/1.1 200 "));
    held(client, scene.upstream())
}

fn play(scene: &Scene, (_, setup, thens): &Row, how: How) {
    let before = scene.lines();
    let Held { mut client, upstream, bare, lines } = setup(scene);
    let before = before + lines;
    let left = match how {
        How::Resets => {
            upstream.reset();
            None
        }
        How::Closes => {
            // Unread bytes would turn the close into a reset.
            SockRef::from(upstream.stream()).set_linger(None).unwrap();
            drop(upstream);
            None
        }
        How::HalfCloses => {
            let mut upstream = upstream;
            upstream.half_close();
            Some(upstream)
        }
    };
    let told = |error: &str| {
        let line = scene.line_after(before);
        assert_eq!([&line["error"], &line["side"]], [error, "upstream"], "{line}");
        line
    };
    match thens[how as usize] {
        Replied(status, error) => {
            let response = client.read_response();
            assert_eq!(response.status, status, "{}", response.head);
            let field = response.field("proxy-status").expect("Proxy-Status");
            assert!(field.contains(&format!("error={error}")), "{field}");
            assert_eq!(told(error)["status"], status);
        }
        SentAgain => {
            let mut fresh = scene.upstream();
            fresh.send(OK);
            assert_eq!(client.read_response().text(), "ok");
            assert_eq!(scene.line_after(before)["error"], Value::Null);
        }
        Cut => {
            let (rest, end) = client.read_to_any_end();
            assert!(!is_whole_chunked(&rest), "{}", shown(&rest));
            assert!(!bare || end == End::Reset, "{}", shown(&rest));
            told("http_response_incomplete");
        }
        Whole => {
            // The proxy may keep the client's connection for another request.
            client.half_close_if_open();
            let (rest, end) = client.read_to_any_end();
            assert_eq!(end, End::Closed, "{}", shown(&rest));
            assert!(rest.is_empty() || rest.ends_with(b"0\r\n\r\n"), "{}", shown(&rest));
            assert_eq!(scene.line_after(before)["error"], Value::Null);
        }
        Forgotten => {
            client.send(PUT.replace("{o}", &scene.origin.to_string()));
            let mut fresh = scene.upstream();
            fresh.send(OK);
            assert!(client.read_head().starts_with("HTTP/1.1 200 "));
            client.reset();
            scene.line_after(before);
        }
        TunnelReset => {
            client.expect_reset();
            told("connection_terminated");
        }
        TunnelResetWhenSent => {
            client.expect_eof();
            // A peer that has read the end reads no reset, but cannot send.
            eventually(|| client.try_send("to nobody").is_err());
            told("connection_terminated");
        }
        TunnelHalfClosed => {
            client.expect_eof();
            client.send("the last");
            client.half_close();
            assert_eq!(left.unwrap().read_to_end(), b"the last");
            assert_eq!(scene.line_after(before)["error"], Value::Null);
        }
    }
}

fn play_all(scene: &Scene, is_back: &dyn Fn() -> bool) {
    for row in TABLE {
        for how in HOW {
            let _name = NameOnPanic(format!("{}: the upstream {how:?}", row.0));
            play(scene, row, how);
            scene.serves_the_next();
            eventually(is_back);
        }
    }
}

#[test]
fn an_upstream_that_leaves_at_any_stage_leaves_nothing_behind() {
    let log = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let proxy = proxy_with_one_worker(|options| {
        options.access_log = Some((LogDestination::File(log.to_path_buf()), LineFormat::Json));
        options.via = Via::Off;
        options.max_connections = std::num::NonZeroUsize::new(4);
    });
    let scene = Scene::new(proxy.addr(), log);
    play_all(&scene, &|| {
        let stats = proxy.stats();
        stats.active_connections() + stats.active_exchanges() + stats.active_tunnels() == 0
    });
    assert_eq!(proxy.stats().panics, 0);
}

#[test]
fn an_upstream_that_leaves_at_any_stage_leaves_no_descriptor_open() {
    let log = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let path = log.to_str().unwrap().to_owned();
    let proxy = Binary::start(&["--via", "off", "--access-log", &path, "--log-format", "json"]);
    let scene = Scene::new(proxy.addr, log);
    scene.serves_the_next();
    let mut before = 0;
    eventually(|| std::mem::replace(&mut before, proxy.sockets()) == proxy.sockets());
    play_all(&scene, &|| proxy.sockets() <= before);
}
