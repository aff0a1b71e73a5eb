//! Deadlines: each phase has one, and no peer extends it by being slow instead of silent.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use threadgate::Server;

use crate::hostile::{DripFeed, DropsSyns, HangingResolver, NeverAnswers};
use crate::peers::{Peer, Response, eventually_eq, is_whole_chunked};
use crate::proxies::{Names, OK, get, get_request, proxy, proxy_with};
use crate::servers::{Origin, listen_on_a_port_of_its_own};

const SHORT: Duration = Duration::from_millis(300);
/// How late a deadline may be on a busy machine.
const LATE: Duration = Duration::from_secs(2);

/// A proxy with short timeouts.
fn impatient() -> Server {
    proxy_with(|options| {
        let timeouts = &mut options.timeouts;
        timeouts.head = SHORT;
        timeouts.idle = SHORT;
        timeouts.connect = SHORT;
        timeouts.response = SHORT;
        timeouts.tunnel = SHORT;
    })
}

/// Checks that `wait` ends neither before its time nor long after.
#[track_caller]
fn in_time<T>(wait: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = wait();
    let took = start.elapsed();
    assert!(took >= SHORT * 9 / 10, "too early: {took:?}");
    assert!(took < SHORT + LATE, "too late: {took:?}");
    result
}

#[track_caller]
fn assert_refused(response: &Response, status: u16, error: &str) {
    assert_eq!(response.status, status, "{}", response.head);
    let field = response.field("proxy-status").expect("Proxy-Status");
    assert!(field.contains(&format!("error={error}")), "{field}");
}

#[test]
fn half_a_head_gets_a_408_at_the_head_timeout() {
    let proxy = impatient();
    let mut client = Peer::connect(proxy.addr());
    in_time(|| {
        client.send("GET / HTTP/1.1\r\n");
        let response = client.read_response();
        assert_eq!(response.status, 408, "{}", response.head);
        assert_eq!(response.field("connection"), Some("close"));
    });
    client.expect_eof();
}

#[test]
fn a_dripping_head_gets_its_408_no_later() {
    let proxy = impatient();
    let mut client = Peer::connect(proxy.addr());
    let bytes = [b'x'; 1000];
    client.send("GET / HTTP/1.1\r\nHost: a\r\nA: ");
    in_time(|| {
        let bytes: &'static [u8] = Vec::leak(bytes.to_vec());
        DripFeed { bytes, pace: Duration::from_millis(20) }.until_answered(&mut client);
    });
    assert_eq!(client.read_response().status, 408);
}

#[test]
fn a_slow_second_head_on_a_persistent_connection_gets_a_408_too() {
    let proxy = proxy_with(|options| options.timeouts.head = SHORT);
    let mut client = Peer::connect(proxy.addr());
    client.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read_response().status, 200);
    in_time(|| {
        client.send("GET /healthz HTTP/1.1\r\nHo");
        assert_eq!(client.read_response().status, 408);
    });
}

#[test]
fn a_client_that_says_nothing_is_closed_without_a_word() {
    let proxy = impatient();
    let mut client = Peer::connect(proxy.addr());
    in_time(|| client.expect_eof());
    eventually_eq(|| proxy.stats().connections_closed, 1);
}

#[test]
fn an_idle_persistent_connection_is_closed_without_a_word() {
    let proxy = proxy_with(|options| options.timeouts.idle = SHORT);
    let mut client = Peer::connect(proxy.addr());
    client.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read_response().status, 200);
    in_time(|| client.expect_eof());
}

#[test]
fn a_server_that_never_answers_costs_a_504() {
    let origin = Origin::hostile(1, NeverAnswers);
    let proxy = impatient();
    let response = in_time(|| get(proxy.addr(), origin.addr, "/"));
    assert_refused(&response, 504, "http_response_timeout");
    origin.join();
}

#[test]
fn a_server_whose_head_drips_costs_a_504_no_later() {
    let bytes: &'static [u8] = Vec::leak(b"HTTP/1.1 200 OK\r\nA: ".repeat(20));
    let origin = Origin::hostile(1, DripFeed { bytes, pace: Duration::from_millis(20) });
    let proxy = impatient();
    let response = in_time(|| get(proxy.addr(), origin.addr, "/"));
    assert_refused(&response, 504, "http_response_timeout");
    origin.join();
}

#[test]
fn a_server_that_only_ever_says_100_costs_a_504_no_later() {
    let origin = Origin::script(1, |peer| {
        peer.read_head();
        while !peer.has_something_within(SHORT / 5) {
            if peer.try_send("HTTP/1.1 102 Processing\r\n\r\n").is_err() {
                break;
            }
        }
    });
    let proxy = impatient();
    let mut client = Peer::connect(proxy.addr());
    // HTTP/1.0, so that the client sees none of the interim responses.
    client.send(format!("GET http://{}/ HTTP/1.0\r\n\r\n", origin.addr));
    let response = in_time(|| client.read_response());
    assert_refused(&response, 504, "http_response_timeout");
    origin.join();
}

#[test]
fn a_connect_that_nobody_answers_costs_a_504() {
    let hole = DropsSyns::new();
    let proxy = impatient();
    let response = in_time(|| get(proxy.addr(), hole.addr, "/"));
    assert_refused(&response, 504, "connection_timeout");
    let mut client = Peer::connect(proxy.addr());
    client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", hole.addr));
    let response = in_time(|| client.read_response());
    assert_refused(&response, 504, "connection_timeout");
}

#[test]
fn a_lookup_that_hangs_costs_a_504() {
    let (resolver, _gate) = HangingResolver::new(vec![Ipv4Addr::LOCALHOST.into()]);
    let proxy = proxy_with(|options| {
        options.timeouts.connect = SHORT;
        options.resolver = Arc::new(resolver);
    });
    let mut client = Peer::connect(proxy.addr());
    client.send("GET http://hang.example/ HTTP/1.1\r\nHost: hang.example\r\n\r\n");
    let response = in_time(|| client.read_response());
    assert_refused(&response, 504, "dns_timeout");
}

#[test]
fn a_black_holed_first_address_costs_a_moment_not_the_timeout() {
    let listener = listen_on_a_port_of_its_own();
    let addr = listener.local_addr().unwrap();
    let hole = DropsSyns::on((Ipv4Addr::new(127, 0, 0, 2), addr.port()).into());
    let origin = Origin::script_on(listener, 1, |peer| {
        peer.read_head();
        peer.send(OK);
    });
    let proxy = proxy_with(|options| {
        let names = Names::default().with("two.example", &[hole.addr.ip(), addr.ip()]);
        options.resolver = Arc::new(names);
    });
    let mut client = Peer::connect(proxy.addr());
    let start = Instant::now();
    client.send(format!("GET http://two.example:{}/ HTTP/1.1\r\nHost: a\r\n\r\n", addr.port()));
    assert_eq!(client.read_response().text(), "ok");
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    origin.join();
}

#[test]
fn a_response_that_stalls_in_its_content_is_cut() {
    let origin = Origin::script(1, |peer| {
        peer.read_head();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n");
        peer.expect_end();
    });
    let proxy = impatient();
    let mut client = Peer::connect(proxy.addr());
    client.send(get_request(origin.addr, "/"));
    client.read_head();
    let (content, _) = in_time(|| client.read_to_any_end());
    assert!(!is_whole_chunked(&content));
    origin.join();
}

#[test]
fn an_upload_that_stalls_is_cut() {
    let origin = Origin::script(1, |peer| {
        peer.read_head();
        assert_eq!(peer.read_text(4), "half");
        peer.expect_end();
    });
    let proxy = impatient();
    let mut client = Peer::connect(proxy.addr());
    client.send(format!(
        "PUT http://{0}/ HTTP/1.1\r\nHost: {0}\r\nContent-Length: 10\r\n\r\nhalf",
        origin.addr
    ));
    in_time(|| client.read_to_any_end());
    origin.join();
}

#[test]
fn a_tunnel_is_kept_while_either_way_is_used() {
    let origin = Origin::script(1, |peer| {
        for _ in 0..20 {
            peer.send(".");
            assert!(
                !peer.has_something_within(Duration::from_millis(50)),
                "nothing comes this way"
            );
        }
    });
    let proxy = proxy_with(|options| options.timeouts.tunnel = SHORT * 2);
    let mut client = Peer::connect(proxy.addr());
    client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.addr));
    client.read_head();
    client.expect_text_and_eof(&".".repeat(20));
    origin.join();
}

/// A long upload is no slow answer: the response timeout starts at its end.
#[test]
fn a_long_upload_does_not_use_up_the_response_timeout() {
    let origin = Origin::script(1, |peer| {
        peer.read_head();
        peer.read_exact(40);
        peer.send(OK);
    });
    let proxy = proxy_with(|options| options.timeouts.response = SHORT);
    let mut client = Peer::connect(proxy.addr());
    client.send(format!(
        "PUT http://{0}/ HTTP/1.1\r\nHost: {0}\r\nContent-Length: 40\r\n\r\n",
        origin.addr
    ));
    DripFeed { bytes: &[b'x'; 40], pace: SHORT / 20 }.until_answered(&mut client);
    assert_eq!(client.read_response().text(), "ok");
    origin.join();
}

#[test]
fn nobody_is_hurried_without_a_reason() {
    let origin = Origin::answer(OK);
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    let request = get_request(origin.addr, "/");
    client.send(&request[..10]);
    assert!(!client.has_something_within(SHORT), "the default head timeout is longer");
    client.send(&request[10..]);
    assert_eq!(client.read_response().text(), "ok");
    drop(proxy);
}
