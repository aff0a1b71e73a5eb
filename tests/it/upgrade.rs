//! `Upgrade`: a 101 turns an exchange into a tunnel, any other answer leaves it HTTP (RFC 9110 §7.8).
//!
//! `connect` shows a tunnel in use. These tests show how it comes about, and that bytes sent early on
//! either side reach the right peer.

use std::time::Duration;

use threadgate::error::Side;

use crate::access_log::Logged;
use crate::peers::{End, Moment, Peer, eventually_eq, field, fields, pattern, status};
use crate::proxies::{
    OK, exchange, get_request, proxy, proxy_with, proxy_with_one_worker, proxy_without_via,
};
use crate::servers::Origin;

pub(crate) const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// A GET that offers `protocols`.
pub(crate) fn offer(origin: &Origin, protocols: &str) -> String {
    format!(
        "GET http://{0}/ws HTTP/1.1\r\nHost: {0}\r\nConnection: Upgrade\r\nUpgrade: {protocols}\r\n\r\n",
        origin.addr
    )
}

/// A connection through the proxy that has changed to a WebSocket, as far as any test checks.
#[track_caller]
fn upgraded(proxy: std::net::SocketAddr, origin: &Origin) -> Peer {
    let mut client = Peer::connect(proxy);
    client.send(offer(origin, "websocket"));
    assert_eq!(status(&client.read_head()), 101);
    client
}

/// An origin server that changes the protocol and goes on with `rest`.
fn switching(rest: impl Fn(&mut Peer) + Send + 'static) -> Origin {
    Origin::script(1, move |peer| {
        peer.read_head();
        peer.send(SWITCH);
        rest(peer);
    })
}

#[test]
fn a_101_turns_the_exchange_into_a_tunnel() {
    let origin = Origin::script(1, |peer| {
        let lines = "Sec-WebSocket-Version: 13\r\nConnection: upgrade\r\nUpgrade: WebSocket";
        let head = peer.read_head();
        assert_eq!(
            head,
            format!(
                "GET /ws HTTP/1.1\r\nHost: {}\r\n{lines}\r\n\r\n",
                field(&head, "host").unwrap()
            )
        );
        peer.send("HTTP/1.1 101 Switching\r\nupgrade:websocket\r\nX-Hop: 1\r\nConnection: keep-alive, x-hop, UPGRADE\r\nSec-WebSocket-Accept: x\r\n\r\n");
        assert_eq!(peer.read_exact(4), b"\x81\0\r\n");
        peer.send(b"\x82\0\r\n\r\n");
        peer.expect_eof();
    });
    let proxy = proxy_without_via();
    let mut client = Peer::connect(proxy.addr());
    client.send(format!(
        "GET http://{0}/ws HTTP/1.1\r\nHost: {0}\r\nUPGRADE: WebSocket\r\nSec-WebSocket-Version: 13\r\nConnection: keep-alive, Upgrade\r\n\r\n",
        origin.addr
    ));
    assert_eq!(
        client.read_head(),
        "HTTP/1.1 101 Switching\r\nSec-WebSocket-Accept: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    client.send(b"\x81\0\r\n");
    assert_eq!(client.read_exact(6), b"\x82\0\r\n\r\n");
    assert_eq!(proxy.stats().active_tunnels(), 1);
    client.half_close();
    client.expect_eof();
    origin.join();
    eventually_eq(|| proxy.stats().connections_closed, 1);
    let stats = proxy.stats();
    assert_eq!((stats.tunnels_opened, stats.upgrades, stats.tunnels_closed), (1, 1, 1));
    assert_eq!(stats.exchanges_by_status[1], 1);
}

/// aiohttp names the server like this, in an otherwise ordinary request.
#[test]
fn a_ws_url_is_an_http_one_that_asks_for_an_upgrade() {
    let origin = Origin::script(1, |peer| {
        assert!(peer.read_head().starts_with("GET /ws HTTP/1.1\r\nHost: 127.0.0.1:"));
        peer.send(SWITCH);
        assert_eq!(peer.read_exact(2), b"\x81\0");
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(offer(&origin, "websocket").replace("http://", "ws://"));
    assert_eq!(status(&client.read_head()), 101);
    client.send(b"\x81\0");
    origin.join();
    // Without an offer that can be passed on, the request is not forwarded.
    for offer in ["", "Connection: upgrade\r\nUpgrade: h2c\r\n", "Upgrade: websocket\r\n"] {
        let mut client = Peer::connect(proxy.addr());
        client.send(format!("GET ws://127.0.0.1:9/ HTTP/1.1\r\nHost: 127.0.0.1:9\r\n{offer}\r\n"));
        assert_eq!(client.read_response().status, 501, "{offer}");
    }
}

#[test]
fn bytes_behind_a_101_arrive_wherever_its_bytes_are_cut() {
    const EARLY: &str = "HTTP/1.1 200 OK\r\n\r\nframes";
    let said = format!("HTTP/1.1 103 Early Hints\r\n\r\n{SWITCH}{EARLY}");
    for cut in 1..=said.len() {
        let text = said.clone();
        let origin = Origin::script(1, move |peer| {
            peer.read_head();
            let (first, rest) = text.split_at(cut);
            peer.send(first);
            // The visible bytes of the first part are on their way to the client.
            if cut < text.len() {
                std::thread::sleep(Duration::from_millis(1));
                peer.send(rest);
            }
            assert_eq!(peer.read_text(4), "ping");
        });
        let proxy = proxy_without_via();
        let mut client = Peer::connect(proxy.addr());
        client.send(offer(&origin, "websocket"));
        assert_eq!(status(&client.read_head()), 103, "cut at {cut}");
        assert_eq!(status(&client.read_head()), 101, "cut at {cut}");
        assert_eq!(client.read_text(EARLY.len()), EARLY, "cut at {cut}");
        client.send("ping");
        origin.join();
    }
}

#[test]
fn bytes_behind_the_request_wait_for_the_101() {
    // More than one buffer, and more than all of them.
    for size in [1, 5_000, 400_000] {
        let origin = Origin::script(1, move |peer| {
            peer.read_head();
            assert!(!peer.has_something_within(Duration::from_millis(50)), "before the 101");
            peer.send(format!("{SWITCH}hello"));
            assert!(peer.read_exact(size) == pattern(size), "the first {size} bytes differ");
            assert_eq!(peer.read_text(5), "later");
        });
        let proxy = proxy();
        let mut client = Peer::connect(proxy.addr());
        let early = [offer(&origin, "websocket").as_bytes(), &pattern(size)].concat();
        let mut writer = Peer::new(client.stream().try_clone().unwrap());
        let sending = std::thread::spawn(move || writer.send(early));
        assert_eq!(status(&client.read_head()), 101);
        assert_eq!(client.read_text(5), "hello");
        sending.join().unwrap();
        client.send("later");
        origin.join();
    }
}

#[test]
fn a_refused_upgrade_stays_http_and_what_follows_is_the_next_request() {
    for (refusal, expected) in [
        (OK, 200),
        (
            "HTTP/1.1 400 No\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
            400,
        ),
        ("HTTP/1.1 204 No Content\r\n\r\n", 204),
        (
            "HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            403,
        ),
    ] {
        // On the same connection, which was HTTP all the time.
        let origin = Origin::script(1, move |peer| {
            assert_eq!(field(&peer.read_head(), "upgrade"), Some("websocket"));
            assert!(!peer.has_something_within(Duration::from_millis(5)), "before the answer");
            peer.send(refusal);
            let next = peer.read_head();
            assert!(next.starts_with("GET /next "), "{next}");
            assert_eq!((field(&next, "upgrade"), field(&next, "connection")), (None, None));
            peer.send(OK);
        });
        let proxy = proxy();
        let mut client = Peer::connect(proxy.addr());
        client.send(format!(
            "{}{}",
            offer(&origin, "websocket"),
            get_request(origin.addr, "/next")
        ));
        let mut response = client.read_response();
        if response.status == 103 {
            response = client.read_response();
        }
        assert_eq!(response.status, expected);
        assert_eq!((response.field("upgrade"), response.field("connection")), (None, None));
        assert_eq!(client.read_response().text(), "ok");
        origin.join();
        assert_eq!(proxy.stats().upgrades, 0);
    }
}

/// RFC 9110 §15.5.22: a 426 has to name the protocol that would be accepted.
#[test]
fn a_426_says_which_protocol_is_wanted_but_for_those_that_stay_here() {
    for (wanted, expected) in [
        ("websocket", Some("websocket")),
        ("h2c, foo/1", Some("foo/1")),
        ("TLS/1.0, HTTP/1.1, h2c-14, SPDY/3.1", None),
    ] {
        let answer: &str = format!(
            "HTTP/1.1 426 Upgrade Required\r\nConnection: upgrade\r\nUpgrade: {wanted}\r\nContent-Length: 0\r\n\r\n"
        )
        .leak();
        for version in ["1.1", "1.0"] {
            let request = format!("GET http://{{o}}/ HTTP/{version}\r\nHost: {{o}}\r\n\r\n");
            let (_, response) = exchange(&proxy(), &request, answer);
            let expected = expected.filter(|_| version == "1.1");
            assert_eq!(response.status, 426);
            assert_eq!(response.field("upgrade"), expected, "{wanted}");
            let named = fields(&response.head, "connection").contains(&"upgrade");
            assert_eq!(named, expected.is_some(), "{}", response.head);
        }
    }
}

#[test]
fn h2c_is_never_offered_alone_or_in_company() {
    for (lines, expected) in [
        ("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA", None),
        ("Connection: Upgrade\r\nUpgrade: H2C\r\nhttp2-settings: AAMA", None),
        (
            "Connection: upgrade\r\nUpgrade: websocket, h2C\r\nHTTP2-Settings: AAMA",
            Some("websocket"),
        ),
        ("Connection: upgrade\r\nUpgrade: h2c\r\nUpgrade: a,, b/2", Some("a, b/2")),
        ("Connection: upgrade\r\nUpgrade: HTTP/2.0, TLS/1.0, h2", None),
        ("HTTP2-Settings: AAMA", None),
        // Not offered by these words at all, or malformed.
        ("Upgrade: websocket", None),
        ("Connection: upgrade", None),
        ("Proxy-Connection: upgrade\r\nUpgrade: websocket", None),
        ("Connection: upgrade\r\nUpgrade: websocket h2c", None),
        ("Connection: upgrade\r\nUpgrade: websocket, \"h2c\"", None),
        ("Connection: upgrade\r\nUpgrade: ,", None),
    ] {
        let request = format!("GET http://{{o}}/ HTTP/1.1\r\nHost: {{o}}\r\n{lines}\r\n\r\n");
        let (seen, _) = exchange(&proxy(), &request, OK);
        assert_eq!(field(&seen, "upgrade"), expected, "{lines}");
        assert_eq!(field(&seen, "connection"), expected.map(|_| "upgrade"), "{lines}");
        assert_eq!(field(&seen, "http2-settings"), None, "{lines}");
    }
}

#[test]
fn a_1_0_client_offers_nothing() {
    let request =
        "GET http://{o}/ HTTP/1.0\r\nConnection: upgrade, keep-alive\r\nUpgrade: websocket\r\n\r\n";
    let (seen, response) = exchange(&proxy(), request, OK);
    assert_eq!((field(&seen, "upgrade"), response.status), (None, 200));
    let (_, response) = exchange(&proxy(), request, SWITCH);
    assert_eq!(response.status, 502);
}

/// The bytes behind such an answer are in a protocol that nobody speaks here.
#[test]
fn a_101_to_what_was_not_offered_is_a_502_and_ends_the_upstream_connection() {
    for (offered, answer) in [
        ("websocket", "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"),
        ("websocket, h2c", "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"),
        ("h2c", "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"),
        ("a, b", "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: a, c\r\n\r\n"),
        ("websocket", "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket/13\r\n\r\n"),
        ("websocket", "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket, \"\"\r\n\r\n"),
        ("websocket", "HTTP/1.1 101 S\r\nConnection: upgrade\r\n\r\n"),
        ("websocket", "HTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n"),
        ("websocket", "HTTP/1.0 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"),
        ("malformed list", SWITCH),
    ] {
        let origin = Origin::script(1, move |peer| {
            peer.read_head();
            peer.send(format!("{answer}secret"));
            peer.expect_end();
        });
        let proxy = proxy();
        let mut client = Peer::connect(proxy.addr());
        client.send(offer(&origin, offered));
        let response = client.read_response();
        assert_eq!(response.status, 502, "{offered}: {answer}");
        let why = response.field("proxy-status").expect("Proxy-Status");
        assert!(why.contains("error=http_protocol_error"), "{why}");
        assert!(!response.text().contains("secret"));
        origin.join();
        // The client's connection was HTTP all the time.
        client.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.read_response().status, 200);
        assert_eq!((proxy.stats().upgrades, proxy.stats().failures_of(Side::Upstream)), (0, 1));
    }
}

#[test]
fn content_is_sent_before_the_protocol_changes() {
    for (framing, content) in
        [("Content-Length: 5", "hello"), ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n")]
    {
        let origin = Origin::script(1, move |peer| {
            let head = peer.read_head();
            assert_eq!(field(&head, "upgrade"), Some("echo"), "{head}");
            peer.send("HTTP/1.1 100 Continue\r\n\r\n");
            assert_eq!(peer.read_text(content.len()), content);
            assert!(!peer.has_something_within(Duration::from_millis(20)), "before the 101");
            peer.send("HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nfirst");
            assert_eq!(peer.read_text(5), "early");
        });
        let proxy = proxy();
        let mut client = Peer::connect(proxy.addr());
        client.send(format!(
            "POST http://{0}/ HTTP/1.1\r\nHost: {0}\r\nConnection: upgrade\r\nUpgrade: echo\r\nExpect: 100-continue\r\n{framing}\r\n\r\n",
            origin.addr
        ));
        assert_eq!(status(&client.read_head()), 100);
        client.send(format!("{content}early"));
        assert_eq!(status(&client.read_head()), 101);
        assert_eq!(client.read_text(5), "first");
        origin.join();
    }
}

#[test]
fn a_101_before_all_content_was_sent_is_a_502_and_nothing_of_the_rest_is_a_request() {
    let origin = Origin::script(1, |peer| {
        peer.read_head();
        peer.send(format!("{SWITCH}secret"));
        let (rest, _) = peer.read_to_any_end();
        assert!(!String::from_utf8_lossy(&rest).contains("/never"), "{rest:?}");
    });
    let never = get_request(origin.addr, "/never");
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(format!(
        "POST http://{0}/ HTTP/1.1\r\nHost: {0}\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: {1}\r\n\r\n",
        origin.addr,
        never.len()
    ));
    let response = client.read_response();
    assert_eq!((response.status, response.field("connection")), (502, Some("close")));
    assert!(!response.text().contains("secret"));
    // The proxy may close instead of reading it.
    let _ = client.try_send(&never);
    client.half_close_if_open();
    client.expect_end();
    origin.join();
}

#[test]
fn an_upgrade_may_follow_exchanges_on_both_connections() {
    let origin = Origin::script(1, |peer| {
        assert!(peer.read_head().starts_with("GET /first "));
        peer.send(OK);
        assert!(peer.read_head().starts_with("GET /ws "));
        peer.send(SWITCH);
        assert_eq!(peer.read_text(4), "ping");
        peer.send("pong");
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(format!(
        "{}{}ping",
        get_request(origin.addr, "/first"),
        offer(&origin, "websocket")
    ));
    assert_eq!(client.read_response().text(), "ok");
    assert_eq!(status(&client.read_head()), 101);
    client.expect_text_and_eof("pong");
    origin.join();
    assert_eq!(proxy.stats().upstream_reuses, 1);
}

/// The request has no content and a safe method, and no bytes behind it were sent on yet.
#[test]
fn an_upgrade_on_a_connection_that_died_goes_out_once_more_with_its_offer() {
    let origin = Origin::script(2, |peer| {
        let head = peer.read_head();
        if head.starts_with("GET /first ") {
            peer.send(OK);
            assert!(peer.read_head().starts_with("GET /ws "));
            return;
        }
        assert_eq!(field(&head, "upgrade"), Some("websocket"), "{head}");
        peer.send(SWITCH);
        assert_eq!(peer.read_text(5), "early");
        peer.send("hello");
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(get_request(origin.addr, "/first"));
    assert_eq!(client.read_response().text(), "ok");
    client.send(format!("{}early", offer(&origin, "websocket")));
    assert_eq!(status(&client.read_head()), 101);
    client.expect_text_and_eof("hello");
    origin.join();
    assert_eq!(proxy.stats().resends, 1);
}

#[test]
fn half_closes_are_passed_on_also_one_from_before_the_101() {
    for early in [true, false] {
        let origin = Origin::script(1, |peer| {
            peer.read_head();
            peer.send(SWITCH);
            assert_eq!(peer.read_to_end(), b"question");
            peer.send(pattern(1 << 20));
        });
        let proxy = proxy();
        let mut client = Peer::connect(proxy.addr());
        client.send(offer(&origin, "websocket"));
        if !early {
            assert_eq!(status(&client.read_head()), 101);
        }
        client.send("question");
        client.half_close();
        if early {
            assert_eq!(status(&client.read_head()), 101);
        }
        assert!(client.read_to_end() == pattern(1 << 20), "bytes differ");
        origin.join();
    }
    let origin = switching(|peer| {
        peer.send("banner");
        peer.half_close();
        assert!(peer.read_to_end() == pattern(1 << 20), "bytes differ");
    });
    let proxy = proxy();
    let mut client = upgraded(proxy.addr(), &origin);
    client.expect_text_and_eof("banner");
    client.send(pattern(1 << 20));
    client.half_close();
    origin.join();
}

#[test]
fn resets_are_passed_on_both_ways() {
    let origin = switching(|peer| {
        assert_eq!(peer.read_text(1), "x");
        peer.send("y");
        peer.expect_reset();
    });
    let proxy = proxy();
    let mut client = upgraded(proxy.addr(), &origin);
    client.send("x");
    assert_eq!(client.read_text(1), "y");
    client.reset();
    origin.join();

    let ready = Moment::new();
    let client_is_ready = ready.clone();
    let origin = switching(move |peer| {
        client_is_ready.wait();
        socket2::SockRef::from(peer.stream()).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let mut client = upgraded(proxy.addr(), &origin);
    ready.has_come();
    client.expect_reset();
    origin.join();
}

#[test]
fn the_time_limit_is_a_tunnels() {
    let short = Duration::from_millis(150);
    let proxy = proxy_with(|options| options.timeouts.response = short);
    let quiet = Moment::new();
    let was_quiet = quiet.clone();
    let origin = switching(move |peer| {
        was_quiet.wait();
        peer.send("still here");
    });
    let mut client = upgraded(proxy.addr(), &origin);
    assert!(!client.has_something_within(3 * short), "ended by an exchange's time limit");
    quiet.has_come();
    client.expect_text_and_eof("still here");
    origin.join();

    let proxy = proxy_with(|options| options.timeouts.tunnel = short);
    let origin = switching(|peer| peer.expect_end());
    upgraded(proxy.addr(), &origin).expect_end();
    origin.join();
}

#[test]
fn nothing_is_written_into_an_upgraded_connection_when_the_proxy_shuts_down() {
    let origin = switching(|peer| {
        assert_eq!(peer.read_text(1), "x");
        peer.send("y");
        assert_eq!(peer.read_to_any_end(), (b"".to_vec(), End::Reset));
    });
    let proxy = proxy();
    let mut client = upgraded(proxy.addr(), &origin);
    client.send("x");
    assert_eq!(client.read_text(1), "y");
    drop(proxy);
    client.expect_reset();
    origin.join();
}

/// A draining proxy sends `Connection: close`, which an answer that changes the protocol cannot have.
#[test]
fn an_upgrade_under_way_when_the_drain_begins_is_still_carried_out() {
    let (asked, draining) = (Moment::new(), Moment::new());
    let (has_asked, is_draining) = (asked.clone(), draining.clone());
    let origin = Origin::script(1, move |peer| {
        peer.read_head();
        has_asked.has_come();
        is_draining.wait();
        peer.send(SWITCH);
        assert_eq!(peer.read_text(4), "ping");
        peer.send("pong");
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(offer(&origin, "websocket"));
    asked.wait();
    let stopping = std::thread::spawn(move || proxy.shutdown(crate::peers::STEP));
    // Nobody listens once the proxy drains.
    let addr = client.stream().peer_addr().unwrap();
    crate::peers::eventually(|| std::net::TcpStream::connect(addr).is_err());
    draining.has_come();
    let head = client.read_head();
    assert_eq!((status(&head), fields(&head, "connection")), (101, vec!["upgrade"]));
    client.send("ping");
    client.expect_text_and_eof("pong");
    drop(client);
    origin.join();
    stopping.join().unwrap();
}

#[test]
fn quiet_upgraded_connections_hold_no_worker() {
    let proxy = proxy_with_one_worker(|_| {});
    let origin = Origin::script_at_once(20, |peer| {
        peer.read_head();
        peer.send(SWITCH);
        peer.read_to_any_end();
    });
    let quiet: Vec<_> = (0..20).map(|_| upgraded(proxy.addr(), &origin)).collect();
    let other = switching(|peer| {
        assert_eq!(peer.read_text(4), "ping");
        peer.send("pong");
    });
    let mut client = upgraded(proxy.addr(), &other);
    client.send("ping");
    client.expect_text_and_eof("pong");
    drop(quiet);
    origin.join();
}

#[test]
fn the_access_log_has_one_line_for_all_of_it() {
    let origin = switching(|peer| {
        assert_eq!(peer.read_exact(1000).len(), 1000);
        peer.send(vec![b'x'; 5000]);
    });
    let logged = Logged::start();
    let mut client = upgraded(logged.proxy.addr, &origin);
    client.send(vec![b'x'; 1000]);
    client.read_exact(5000);
    drop(client);
    origin.join();
    let line = logged.line();
    assert_eq!((&line["kind"], &line["method"]), (&"tunnel".into(), &"GET".into()), "{line}");
    assert_eq!(line["status"], 101);
    assert_eq!(line["target"], format!("http://{}/ws", origin_of(&line)));
    let (to, from) = ("bytes_to_client", "bytes_from_client");
    assert!((5000..5300).contains(&line[to].as_u64().unwrap()), "{line}");
    assert!((1000..1300).contains(&line[from].as_u64().unwrap()), "{line}");
}

fn origin_of(line: &serde_json::Value) -> &str {
    line["upstream"].as_str().unwrap()
}
