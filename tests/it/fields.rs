//! Field lines on their way through the proxy, in both directions.

use threadgate::server::Via;

use crate::peers::{Peer, field, field_lines, fields};
use crate::proxies::{OK, exchange, proxy, proxy_with, proxy_without_via};
use crate::servers::Origin;

#[test]
fn via_is_added_in_both_directions() {
    let (seen, response) = exchange(&proxy(), "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n", OK);
    let via = field(&seen, "via").expect("a Via field");
    assert!(via.starts_with("1.1 "), "{via}");
    assert_eq!(response.field("via"), Some(via));
}

#[test]
fn via_names_the_version_the_message_came_in_and_keeps_who_was_there_before() {
    let proxy = proxy_with(|options| options.via = Via::Named("here".to_owned()));
    let (seen, response) = exchange(
        &proxy,
        "GET http://{o}/ HTTP/1.0\r\nVia: 1.1 first, 1.0 second\r\nVia: 1.1 third\r\n\r\n",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\nVia: 1.0 cache (squid)\r\n\r\nok",
    );
    assert_eq!(fields(&seen, "via").join(", "), "1.1 first, 1.0 second, 1.1 third, 1.0 here");
    assert_eq!(fields(&response.head, "via").join(", "), "1.0 cache (squid), 1.0 here");
}

/// Lines that a proxy which adds nothing must pass on untouched: order, case, spaces inside values,
/// repeats, empty values, bytes beyond ASCII.
const LINES: &[&str] = &[
    "aCCept: */*",
    "X-Twice: 1",
    "User-Agent: curl/8 (two  spaces,\tand a tab)",
    "X-Twice: 2",
    "x-twice: 1",
    "X-Empty:",
    "Cookie: a=b; c=\"d\"",
    "Cookie: e=f",
    "X-Bytes: gr\u{fc}\u{df}e \u{20ac}",
    "X-Odd!#$%&'*+-.^_`|~: :;,",
    "Proxy: kept, it is no hop-by-hop field",
    "Forwarded: for=192.0.2.1",
    "Cache-Control: no-transform",
];

#[test]
fn with_via_off_a_request_arrives_byte_for_byte() {
    let lines = LINES.join("\r\n");
    let request = format!("GET http://{{o}}/x HTTP/1.1\r\nHOST: {{o}}\r\n{lines}\r\n\r\n");
    let (seen, _) = exchange(&proxy_without_via(), &request, OK);
    let (first, rest) = seen.split_once("\r\n").unwrap();
    assert_eq!(first, "GET /x HTTP/1.1");
    let (host, rest) = rest.split_once("\r\n").unwrap();
    assert!(host.starts_with("HOST: 127.0.0.1:"), "{host}");
    assert_eq!(rest, format!("{lines}\r\n\r\n"));
}

#[test]
fn with_via_off_a_response_arrives_byte_for_byte() {
    let lines = LINES.join("\r\n");
    let response = format!(
        "HTTP/1.1 299 Quite  f\u{ef}ne\r\n{lines}\r\nSet-Cookie: a=b\r\ncontent-LENGTH: 2\r\nSet-Cookie: c=d\r\n\r\n"
    );
    let origin = Origin::script(1, {
        let response = response.clone();
        move |peer| {
            peer.read_head();
            peer.send(format!("{response}ok"));
            peer.read_to_any_end();
        }
    });
    let proxy = proxy_without_via();
    let mut client = Peer::connect(proxy.addr());
    client.send(format!("GET http://{0}/ HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.addr));
    assert_eq!(client.read_head(), response);
    assert_eq!(client.read_text(2), "ok");
    drop(proxy);
}

#[test]
fn order_case_and_repeats_are_kept_with_via_on_too() {
    let lines = LINES.join("\r\n");
    let request = format!("GET http://{{o}}/ HTTP/1.1\r\nHost: {{o}}\r\n{lines}\r\n\r\n");
    let (seen, _) = exchange(&proxy(), &request, OK);
    let seen: Vec<_> = field_lines(&seen)
        .into_iter()
        .filter(|line| !line.starts_with("Via:") && !line.starts_with("Host:"))
        .collect();
    assert_eq!(seen, LINES);
}

/// RFC 9110 §7.6.1, and `Proxy-Connection`, which no standard defines but clients send.
const HOP_BY_HOP: &[&str] = &[
    "Connection: X-Drop, keep-alive",
    "Keep-Alive: timeout=5",
    "Proxy-Connection: keep-alive",
    "TE: trailers",
    "Trailer: X-Sum",
    "Upgrade: example/1",
    "X-Drop: 1",
    "connection:  , x-too ,",
    "X-Too: 1",
    "x-drop: 2",
];

#[test]
fn hop_by_hop_fields_are_removed_from_requests() {
    let lines = HOP_BY_HOP.join("\r\n");
    let request = format!(
        "GET http://{{o}}/ HTTP/1.1\r\nHost: {{o}}\r\nA: 1\r\n{lines}\r\nProxy-Authorization: Basic YTpi\r\nB: 2\r\n\r\n"
    );
    let (seen, _) = exchange(&proxy_without_via(), &request, OK);
    let left: Vec<_> =
        field_lines(&seen).into_iter().skip(1).filter(|l| *l != "Connection: close").collect();
    assert_eq!(left, ["A: 1", "B: 2"]);
}

#[test]
fn hop_by_hop_fields_are_removed_from_responses() {
    let (_, response) = exchange(
        &proxy_without_via(),
        "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: 1\r\nConnection: X-Drop, close\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\nTrailer: X-Sum\r\nUpgrade: h2c\r\nX-Drop: 1\r\nContent-Length: 2\r\nB: 2\r\n\r\nok",
    );
    assert_eq!(field_lines(&response.head), ["A: 1", "Content-Length: 2", "B: 2"]);
}

#[test]
fn a_connection_field_cannot_remove_host_or_framing() {
    let origin = Origin::script(1, |peer| {
        let head = peer.read_head();
        assert!(field(&head, "host").is_some(), "{head}");
        assert_eq!(field(&head, "content-length"), Some("3"), "{head}");
        assert_eq!(field(&head, "authorization"), Some("Basic Yzpk"), "{head}");
        assert_eq!(peer.read_text(3), "abc");
        peer.send(
            "HTTP/1.1 200 OK\r\nConnection: content-length, close\r\nContent-Length: 2\r\n\r\nok",
        );
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(format!(
        "POST http://{0}/ HTTP/1.1\r\nHost: {0}\r\nConnection: host, content-length, via, authorization\r\nAuthorization: Basic Yzpk\r\nContent-Length: 3\r\n\r\nabc",
        origin.addr
    ));
    let response = client.read_response();
    assert_eq!(response.field("content-length"), Some("2"), "{}", response.head);
    assert_eq!(response.text(), "ok");
    origin.join();
}

#[test]
fn a_connection_field_cannot_remove_chunked_framing() {
    let origin = Origin::script(1, |peer| {
        let head = peer.read_head();
        assert_eq!(field(&head, "transfer-encoding"), Some("chunked"), "{head}");
        assert_eq!(peer.read_chunked().0, b"abc");
        peer.send(OK);
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(format!(
        "POST http://{0}/ HTTP/1.1\r\nHost: {0}\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        origin.addr
    ));
    assert_eq!(client.read_response().status, 200);
    origin.join();
}

#[test]
fn credentials_for_the_proxy_never_leave_it() {
    let request = "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nproxy-AUTHORIZATION: Basic YTpi\r\nAuthorization: Basic Yzpk\r\n\r\n";
    let (seen, _) = exchange(&proxy(), request, OK);
    assert!(!seen.contains("YTpi"), "{seen}");
    assert_eq!(field(&seen, "authorization"), Some("Basic Yzpk"));
}
