//! Requests that could be read in two ways: each is refused and ends its connection, and nothing behind
//! it is ever executed as another request.

use crate::peers::{Peer, STEP, eventually, field, is_whole_chunked, status};
use crate::proxies::{get_request, proxy, proxy_with, proxy_with_names};
use crate::servers::{Recorder, Untouched};

/// Head after head; `{o}` is an origin server. Beside each, the statuses that fit.
const REFUSED_HEADS: &[(&str, &[u16])] = &[
    // Two ways to find the end of the content.
    (
        "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &[400],
    ),
    (
        "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\ntransfer-encoding: chunked\r\ncontent-length: 0\r\n\r\n0\r\n\r\n",
        &[400],
    ),
    (
        "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        &[400],
    ),
    ("POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: 3, 4\r\n\r\nabc", &[400]),
    ("POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: 3,\r\n\r\nabc", &[400]),
    ("POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: +3\r\n\r\nabc", &[400]),
    ("POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: -3\r\n\r\nabc", &[400]),
    ("POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: 0x3\r\n\r\nabc", &[400]),
    ("POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: 3 3\r\n\r\nabc", &[400]),
    ("POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: 3.0\r\n\r\nabc", &[400]),
    ("POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length:\r\n\r\nabc", &[400]),
    ("POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: \u{663}\r\n\r\nabc", &[400]),
    (
        "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: 18446744073709551619\r\n\r\nabc",
        &[400, 413],
    ),
    ("GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: 1, 1, 2\r\n\r\na", &[400]),
    // A coding that is not the single `chunked`.
    ("POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n", &[501]),
    (
        "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        &[501],
    ),
    (
        "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        &[501],
    ),
    (
        "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        &[501],
    ),
    (
        "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
        &[400, 501],
    ),
    (
        "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nTransfer-Encoding: chunked;a\r\n\r\n0\r\n\r\n",
        &[400, 501],
    ),
    (
        "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        &[400, 501],
    ),
    (
        "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        &[400, 501],
    ),
    (
        "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nTransfer-Encoding: , chunked\r\n\r\n0\r\n\r\n",
        &[400, 501],
    ),
    ("POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n", &[400, 501]),
    (
        "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &[400, 501],
    ),
    (
        "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
        &[400, 501],
    ),
    (
        "POST http://{o}/ HTTP/1.0\r\nHost: {o}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &[400],
    ),
    // Line ends and bytes that recipients treat differently.
    ("GET http://{o}/ HTTP/1.1\nHost: {o}\n\n", &[400]),
    ("GET http://{o}/ HTTP/1.1\r\nHost: {o}\nA: 1\r\n\r\n", &[400]),
    ("GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA: 1\n\r\n", &[400]),
    ("GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA: 1\rB: 2\r\n\r\n", &[400]),
    ("GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA: 1\r\r\n\r\n", &[400]),
    ("GET http://{o}/ HTTP/1.1\rHost: {o}\r\n\r\n", &[400]),
    ("GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA: 1\0\r\n\r\n", &[400]),
    ("GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA\0: 1\r\n\r\n", &[400]),
    ("GET http://{o}/\0 HTTP/1.1\r\nHost: {o}\r\n\r\n", &[400]),
    ("GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA: \u{1}\r\n\r\n", &[400]),
    ("GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA: \u{7f}\r\n\r\n", &[400]),
    ("GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA: 1\r\n folded\r\n\r\n", &[400]),
    ("GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA: 1\r\n\tfolded\r\n\r\n", &[400]),
    ("GET http://{o}/ HTTP/1.1\r\n A: 1\r\nHost: {o}\r\n\r\n", &[400]),
    ("GET http://{o}/ HTTP/1.1\r\nHost : {o}\r\n\r\n", &[400]),
    (
        "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nTransfer-Encoding : chunked\r\nContent-Length: 3\r\n\r\nabc",
        &[400],
    ),
    ("GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA B: 1\r\n\r\n", &[400]),
    ("GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\n: 1\r\n\r\n", &[400]),
    ("GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nno colon\r\n\r\n", &[400]),
    ("GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA[]: 1\r\n\r\n", &[400]),
    ("GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\n\u{e9}: 1\r\n\r\n", &[400]),
    // Host.
    ("GET http://{o}/ HTTP/1.1\r\nA: 1\r\n\r\n", &[400]),
    ("GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nHost: {o}\r\n\r\n", &[400]),
    ("GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nhost: other.example\r\n\r\n", &[400]),
    ("GET http://{o}/ HTTP/1.0\r\nHost: {o}\r\nHost: other.example\r\n\r\n", &[400]),
    ("GET http://{o}/ HTTP/1.1\r\nHost: a b\r\n\r\n", &[400]),
    ("GET http://{o}/ HTTP/1.1\r\nHost: a/b\r\n\r\n", &[400]),
    ("GET http://{o}/ HTTP/1.1\r\nHost: user@a\r\n\r\n", &[400]),
    ("GET http://{o}/ HTTP/1.1\r\nHost: a:b\r\n\r\n", &[400]),
    ("GET http://{o}/ HTTP/1.1\r\nHost: a, b\r\n\r\n", &[400]),
    ("GET http://{o}/ HTTP/1.1\r\nHost: [::1\r\n\r\n", &[400]),
    ("GET http://{o}/ HTTP/1.1\r\nHost:\r\nHost: {o}\r\n\r\n", &[400]),
    ("GET / HTTP/1.1\r\nHost: \u{e9}\r\n\r\n", &[400]),
    // The request line.
    ("GET http://\u{e9}@{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n", &[400]),
    ("GET http://a..b/ HTTP/1.1\r\nHost: a..b\r\n\r\n", &[400]),
    ("GET http://{o}\u{e9}/ HTTP/1.1\r\nHost: {o}\r\n\r\n", &[400]),
    ("GET http://{o}/\u{e9} a HTTP/1.1\r\nHost: {o}\r\n\r\n", &[400]),
    ("GET http://{o}/\u{e9}\u{7f} HTTP/1.1\r\nHost: {o}\r\n\r\n", &[400]),
    (
        "POST http://{o}/\u{e9} HTTP/1.2\r\nHost: {o}\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
        &[400],
    ),
    ("GET  http://{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n", &[400]),
    ("GET http://{o}/  HTTP/1.1\r\nHost: {o}\r\n\r\n", &[400]),
    ("GET http://{o}/ HTTP/1.1 \r\nHost: {o}\r\n\r\n", &[400]),
    (" GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n", &[400]),
    ("GET\thttp://{o}/\tHTTP/1.1\r\nHost: {o}\r\n\r\n", &[400]),
    ("GET http://{o}/ a HTTP/1.1\r\nHost: {o}\r\n\r\n", &[400]),
    ("GET http://{o}/\r\nHost: {o}\r\n\r\n", &[400]),
    ("G@T http://{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n", &[400]),
    ("GET http://{o}/ http/1.1\r\nHost: {o}\r\n\r\n", &[400]),
    ("GET http://{o}/ HTTP/1.10\r\nHost: {o}\r\n\r\n", &[400, 505]),
    ("GET http://{o}/ HTTP/01.1\r\nHost: {o}\r\n\r\n", &[400, 505]),
    ("GET http://{o}/ HTTP/0.9\r\nHost: {o}\r\n\r\n", &[400, 505]),
    ("GET http://{o}/ HTTP/2.0\r\nHost: {o}\r\n\r\n", &[505]),
    ("GET http://{o}/ HTTP/3.0\r\nHost: {o}\r\n\r\n", &[505]),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[400, 505]),
];

#[test]
fn a_head_that_can_be_read_two_ways_is_refused_and_nothing_behind_it_runs() {
    let untouched = Untouched::new();
    let proxy = proxy_with_names();
    for (head, statuses) in REFUSED_HEADS {
        let head = head.replace("{o}", &untouched.addr.to_string());
        let mut client = Peer::connect(proxy.addr());
        client.send(head.clone() + &get_request(untouched.addr, "/smuggled"));
        refused(&mut client, statuses, &head);
    }
}

/// Checks for one of `statuses`, a `Connection: close`, and the end.
#[track_caller]
fn refused(client: &mut Peer, statuses: &[u16], what: &str) {
    let head = client.read_head();
    let got = status(&head);
    assert!(statuses.contains(&got), "{what:?}: expected {statuses:?}, got {head}");
    assert_eq!(field(&head, "connection"), Some("close"), "{what:?}");
    let length = field(&head, "content-length").expect("a length").parse().unwrap();
    client.read_exact(length);
    client.expect_end();
}

#[test]
fn a_client_that_still_sends_can_read_why_it_was_refused() {
    let untouched = Untouched::new();
    let proxy = proxy();
    // More than any buffer holds: closing at once would reset the connection and lose the reply.
    let rest = vec![b'x'; 1 << 20];
    let mut client = Peer::connect(proxy.addr());
    client.send(format!(
        "POST http://{0}/ HTTP/1.1\r\nHost: {0}\r\nContent-Length: +3\r\n\r\n",
        untouched.addr
    ));
    // The proxy may stop reading at any time.
    let _ = client.try_send(rest);
    refused(&mut client, &[400], "with a megabyte behind it");
}

#[test]
fn a_method_target_or_head_beyond_its_limit_is_refused() {
    let untouched = Untouched::new();
    let o = untouched.addr;
    let long = "x".repeat(70_000);
    let many = "A: 1\r\n".repeat(5_000);
    let proxy = proxy();
    for (head, statuses) in [
        (format!("GET http://{o}/{long} HTTP/1.1\r\nHost: {o}\r\n\r\n"), [414].as_slice()),
        (format!("{long} http://{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n"), &[400, 414, 501]),
        (format!("GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA: {long}\r\n\r\n"), &[431]),
        (format!("GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\n{long}: a\r\n\r\n"), &[431]),
        (format!("GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\n{many}\r\n"), &[431]),
        (format!("GET http://{o}/{long}"), &[414]),
        (format!("GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA: {long}"), &[431]),
        ("\r\n".repeat(50_000), &[400, 431]),
    ] {
        let mut client = Peer::connect(proxy.addr());
        // The proxy may refuse before it has read everything.
        let _ = client.try_send(&head);
        let what = &head[..80.min(head.len())];
        assert!(client.has_something_within(STEP), "{what:?}: no answer and no end");
        refused(&mut client, statuses, what);
    }
}

#[test]
fn the_limit_of_a_head_is_what_the_options_say() {
    let origin = crate::servers::Origin::answer(crate::proxies::OK);
    let proxy = proxy_with(|options| options.max_head_bytes = 2000);
    let with = |bytes: usize| {
        let line = format!("A: {}", "x".repeat(bytes));
        get_request(origin.addr, "/").replace("\r\n\r\n", &format!("\r\n{line}\r\n\r\n"))
    };
    let mut client = Peer::connect(proxy.addr());
    client.send(with(1800));
    assert_eq!(client.read_response().status, 200);
    client.send(with(2000));
    refused(&mut client, &[431], "2000 bytes and more");
    drop(proxy);
}

/// Bodies that become invalid somewhere.
const BROKEN_BODIES: &[&str] = &[
    "5x\r\nhello\r\n0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n",
    "+5\r\nhello\r\n0\r\n\r\n",
    "-5\r\nhello\r\n0\r\n\r\n",
    " 5\r\nhello\r\n0\r\n\r\n",
    "5 \r\nhello\r\n0\r\n\r\n",
    "\t5\r\nhello\r\n0\r\n\r\n",
    "\r\nhello\r\n0\r\n\r\n",
    ";a\r\nhello\r\n0\r\n\r\n",
    "g\r\nhello\r\n0\r\n\r\n",
    "5\nhello\r\n0\r\n\r\n",
    "5\rhello\r\n0\r\n\r\n",
    "5\r\r\nhello\r\n0\r\n\r\n",
    "5;a\nb\r\nhello\r\n0\r\n\r\n",
    "5;a\rb\r\nhello\r\n0\r\n\r\n",
    "5;\0\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello0\r\n\r\n",
    "5\r\nhello\n0\r\n\r\n",
    "5\r\nhello\r0\r\n\r\n",
    "5\r\nhelloX\r\n0\r\n\r\n",
    "5\r\nhello\r\nX\r\n\r\n",
    "10000000000000000\r\nhello\r\n0\r\n\r\n",
    "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "00000000000000000000000000000005\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n0\r\nA: 1\n\r\n",
    "5\r\nhello\r\n0\r\nno colon\r\n\r\n",
    "5\r\nhello\r\n0\r\nA : 1\r\n\r\n",
    "5\r\nhello\r\n0\r\n A: 1\r\n\r\n",
    "5\r\nhello\r\n0\r\nA: 1\r\n folded\r\n\r\n",
    "5\r\nhello\r\n0\r\nA: \0\r\n\r\n",
    "5\r\nhello\r\n0\r\nA: 1\rB: 2\r\n\r\n",
    "5\r\nhello\r\n0\n\n",
    "5\r\nhello\r\n0\r\n\rX",
];

#[test]
fn a_body_that_stops_making_sense_ends_the_connection_and_nothing_behind_it_runs() {
    for body in BROKEN_BODIES {
        for together in [true, false] {
            broken(body, together);
        }
    }
}

#[test]
fn overlong_extensions_and_trailers_are_refused() {
    let long = "x".repeat(100_000);
    broken(&format!("5;{long}\r\nhello\r\n0\r\n\r\n"), false);
    broken(&format!("5\r\nhello\r\n0\r\nA: {long}\r\n\r\n"), false);
    broken(&format!("5\r\nhello\r\n0\r\n{}\r\n", "A: 1\r\n".repeat(20_000)), false);
    // Extensions cost the sender a few bytes and the reader a line each, so their sum is bounded, too.
    let many =
        "1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nx\r\n".repeat(50_000);
    broken(&format!("{many}0\r\n\r\n"), false);
}

/// A chunked request whose `body` is broken, in one segment with its head or after it.
#[track_caller]
fn broken(body: &str, together: bool) {
    let what = body.get(..60).unwrap_or(body);
    let recorder = Recorder::new();
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    let head = format!(
        "POST http://{0}/ HTTP/1.1\r\nHost: {0}\r\nTransfer-Encoding: chunked\r\n\r\n",
        recorder.addr
    );
    let rest = body.to_owned() + &get_request(recorder.addr, "/smuggled");
    if together {
        client.send(head + &rest);
    } else {
        client.send(head);
        eventually(|| recorder.seen().iter().any(|c| !c.bytes.is_empty()));
        // The proxy may refuse before it has read everything.
        let _ = client.try_send(rest);
    }
    assert!(client.has_something_within(STEP), "{what:?}: no answer and no end");
    let (answer, _) = client.read_to_any_end();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{what:?}: {answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), answer.len().min(1), "{what:?}: {answer}");
    for connection in recorder.seen_at_end() {
        let text = String::from_utf8_lossy(&connection.bytes);
        assert!(!text.contains("/smuggled"), "{what:?}: {text}");
        let (_, content) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        assert!(!is_whole_chunked(content.as_bytes()), "{what:?}: {content:?} has an end");
    }
}
