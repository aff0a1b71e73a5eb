//! Idle upstream connections: which are kept, for how long, and the consequences when one turns out to
//! be dead. `persistence` shows how one connection serves several exchanges.

use std::time::{Duration, Instant};

use crate::peers::{Moment, Peer, STEP, eventually_eq};
use crate::proxies::{OK, get, get_request, proxy, proxy_with};
use crate::servers::Origin;

/// Asks twice at the same time, so that there are two connections, which may then become idle.
fn two_at_once(proxy: &threadgate::Server, origins: [&Origin; 2]) {
    let mut clients = origins.map(|origin| {
        let mut client = Peer::connect(proxy.addr());
        client.send(get_request(origin.addr, "/"));
        client
    });
    for client in &mut clients {
        assert_eq!(client.read_response().text(), "ok");
    }
    eventually_eq(|| proxy.stats().exchanges_finished, 2);
}

/// Answers two connections once both have asked, and keeps them.
fn answers_two_at_once() -> Origin {
    let both = std::sync::Barrier::new(2);
    Origin::script_at_once(2, move |peer| {
        peer.read_head();
        both.wait();
        peer.send(OK);
        peer.read_to_any_end();
    })
}

#[test]
fn no_more_connections_are_kept_to_one_destination_than_the_limit() {
    let proxy = proxy_with(|options| options.pool.per_destination = 1);
    let origin = answers_two_at_once();
    two_at_once(&proxy, [&origin, &origin]);
    eventually_eq(|| proxy.stats().upstream_retired, [0, 0, 0, 1]);
    drop(proxy);
    origin.join();
}

#[test]
fn no_more_connections_are_kept_in_all_than_the_limit() {
    let proxy = proxy_with(|options| options.pool.total = 1);
    let origins = [(); 2].map(|()| Origin::answer(OK));
    two_at_once(&proxy, origins.each_ref());
    eventually_eq(|| proxy.stats().upstream_retired, [0, 0, 0, 1]);
    drop(proxy);
}

#[test]
fn a_connection_idle_for_too_long_is_closed() {
    let limit = Duration::from_millis(200);
    let proxy = proxy_with(|options| options.pool.idle = limit);
    let origin = Origin::script(1, move |peer| {
        peer.read_head();
        peer.send(OK);
        peer.expect_eof();
    });
    assert_eq!(get(proxy.addr(), origin.addr, "/").text(), "ok");
    origin.join();
    eventually_eq(|| proxy.stats().upstream_retired, [0, 1, 0, 0]);
}

#[test]
fn without_idle_time_none_is_kept() {
    let proxy = proxy_with(|options| options.pool.idle = Duration::ZERO);
    let origin = Origin::script(3, |peer| {
        peer.read_head();
        peer.send(OK);
        peer.expect_eof();
    });
    let mut client = Peer::connect(proxy.addr());
    for _ in 0..3 {
        client.send(get_request(origin.addr, "/"));
        assert_eq!(client.read_response().text(), "ok");
    }
    origin.join();
}

#[test]
fn a_connection_that_is_never_idle_is_not_used_for_ever() {
    let proxy = proxy_with(|options| options.pool.age = Duration::from_millis(200));
    let origin = Origin::script(2, |peer| {
        while peer.try_read_head().is_some() {
            peer.send(OK);
        }
    });
    let mut client = Peer::connect(proxy.addr());
    let begun = Instant::now();
    let mut asked = 0;
    while proxy.stats().upstream_connects < 2 {
        assert!(begun.elapsed() < STEP, "still the same after {asked} requests");
        client.send(get_request(origin.addr, "/"));
        assert_eq!(client.read_response().text(), "ok");
        asked += 1;
    }
    let stats = proxy.stats();
    assert_eq!((stats.upstream_retired, stats.resends), ([0, 0, 1, 0], 0));
    assert!(asked > 2, "it was used again until then");
    drop(proxy);
    origin.join();
}

#[test]
fn a_connection_the_upstream_ends_while_idle_is_dropped_at_once() {
    let done = Moment::new();
    let is_done = done.clone();
    let proxy = proxy();
    let origin = Origin::script(1, move |peer| {
        peer.read_head();
        peer.send(OK);
        is_done.wait();
        peer.half_close();
        peer.expect_eof();
    });
    assert_eq!(get(proxy.addr(), origin.addr, "/").text(), "ok");
    done.has_come();
    origin.join();
    eventually_eq(|| proxy.stats().upstream_retired, [1, 0, 0, 0]);
}

/// A server that sends content behind the head of its answer to HEAD, in a separate segment.
#[test]
fn content_that_was_withheld_and_comes_all_the_same_answers_nobody() {
    const ROUNDS: usize = 20;
    let origin = Origin::script(2 * ROUNDS, move |peer| {
        if peer.read_head().starts_with("HEAD ") {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 41\r\n\r\n");
            // By then the next request is on its way.
            peer.has_something_within(Duration::from_micros(500));
            let _ = peer.try_send("HTTP/1.1 200 No\r\nContent-Length: 3\r\n\r\nbad");
            peer.read_to_any_end();
        } else {
            peer.send(OK);
        }
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    for round in 0..ROUNDS {
        client.send(get_request(origin.addr, "/").replace("GET", "HEAD"));
        client.read_head();
        client.send(get_request(origin.addr, "/"));
        assert_eq!(client.read_response().text(), "ok", "round {round}");
    }
    origin.join();
}

#[test]
fn a_connection_is_kept_behind_what_can_have_no_content_only() {
    for (method, response, kept) in [
        ("HEAD", "200 OK\r\n", false),
        ("HEAD", "404 No\r\nX: y\r\n", false),
        ("HEAD", "304 Not Modified\r\n", false),
        ("HEAD", "200 OK\r\nContent-Length: 1\r\n", false),
        ("HEAD", "200 OK\r\nTransfer-Encoding: chunked\r\n", false),
        ("HEAD", "200 OK\r\nContent-Length: 0\r\n", true),
        ("GET", "304 Not Modified\r\nContent-Length: 1\r\n", false),
        ("GET", "304 Not Modified\r\n", true),
        ("GET", "204 No Content\r\n", true),
        ("GET", "200 OK\r\nContent-Length: 0\r\n", true),
    ] {
        let closed = Moment::new();
        let theirs = closed.clone();
        let origin = Origin::script(1, move |peer| {
            peer.read_head();
            peer.send(format!("HTTP/1.1 {response}\r\n"));
            if kept {
                assert!(peer.read_head().starts_with("GET /again "));
                peer.send(OK);
            }
            peer.expect_eof();
            theirs.has_come();
        });
        let proxy = proxy();
        let mut client = Peer::connect(proxy.addr());
        client.send(get_request(origin.addr, "/").replace("GET", method));
        client.read_head();
        // Otherwise the proxy closes the connection while the client's goes on.
        if kept {
            client.send(get_request(origin.addr, "/again"));
            assert_eq!(client.read_response().text(), "ok");
        } else {
            closed.wait();
        }
        drop(proxy);
        origin.join();
    }
}
