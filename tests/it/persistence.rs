//! Connections that serve more than one exchange, on both sides, and the consequences when one dies.

use std::time::Duration;

use crate::hostile::HalfCloses;
use crate::peers::{Moment, Peer, eventually_eq, field, status};
use crate::proxies::{OK, get, get_request, proxy, proxy_with};
use crate::servers::{Origin, Untouched};

#[test]
fn two_requests_on_one_client_connection_use_one_upstream_connection() {
    let origin = Origin::script(1, |peer| {
        for (path, content) in [("/a", "A"), ("/b", "B")] {
            let head = peer.read_head();
            assert!(head.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{head}");
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{content}"));
        }
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    for (path, content) in [("/a", "A"), ("/b", "B")] {
        client.send(get_request(origin.addr, path));
        assert_eq!(client.read_response().text(), content);
    }
    origin.join();
    eventually_eq(|| proxy.stats().exchanges_finished, 2);
    assert_eq!(proxy.stats().upstream_reuses, 1);
}

#[test]
fn one_client_after_another_uses_the_same_upstream_connection() {
    let origin = Origin::script(1, |peer| {
        for _ in 0..3 {
            peer.read_head();
            peer.send(OK);
        }
    });
    let proxy = proxy();
    for i in 1..=3 {
        assert_eq!(get(proxy.addr(), origin.addr, "/").text(), "ok");
        // By then its upstream connection is free.
        eventually_eq(|| proxy.stats().connections_closed, i);
    }
    origin.join();
}

#[test]
fn a_client_that_asks_two_origin_servers_gets_each_ones_answer() {
    let a = Origin::answer("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nA");
    let b = Origin::answer("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nB");
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    for (origin, content) in [(&a, "A"), (&b, "B")] {
        client.send(get_request(origin.addr, "/"));
        assert_eq!(client.read_response().text(), content);
    }
    drop(proxy);
}

#[test]
fn pipelined_requests_are_answered_in_order_each_by_its_own_origin_server() {
    let servers = ["1", "2", "3"].map(|content| {
        Origin::script(1, move |peer| {
            assert!(peer.read_head().starts_with(&format!("GET /{content} ")));
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{content}"));
            peer.read_to_any_end();
        })
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    let pipeline: String =
        servers.iter().zip(["/1", "/2", "/3"]).map(|(o, path)| get_request(o.addr, path)).collect();
    client.send(pipeline);
    for content in ["1", "2", "3"] {
        assert_eq!(client.read_response().text(), content);
    }
    drop(proxy);
}

#[test]
fn a_hundred_pipelined_requests_are_all_answered() {
    let origin = Origin::script(1, |peer| {
        for i in 0..100 {
            assert!(peer.read_head().starts_with(&format!("GET /{i} ")));
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{i:02}"));
        }
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    let pipeline: String = (0..100).map(|i| get_request(origin.addr, &format!("/{i}"))).collect();
    client.send(pipeline);
    for i in 0..100 {
        assert_eq!(client.read_response().text(), format!("{i:02}"));
    }
    origin.join();
}

#[test]
fn requests_pipelined_behind_content_are_found_at_its_end() {
    let origin = Origin::script(1, |peer| {
        peer.read_head();
        assert_eq!(peer.read_text(4), "GET ");
        peer.send(OK);
        assert!(peer.read_head().starts_with("GET /next "));
        peer.send(OK);
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(format!(
        "PUT http://{0}/ HTTP/1.1\r\nHost: {0}\r\nContent-Length: 4\r\n\r\nGET {1}",
        origin.addr,
        get_request(origin.addr, "/next")
    ));
    for _ in 0..2 {
        assert_eq!(client.read_response().status, 200);
    }
    origin.join();
}

#[test]
fn an_empty_line_before_a_request_is_ignored() {
    let origin = Origin::script(1, |peer| {
        for _ in 0..2 {
            peer.read_head();
            peer.send(OK);
        }
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    for _ in 0..2 {
        client.send(format!("\r\n{}", get_request(origin.addr, "/")));
        assert_eq!(client.read_response().status, 200);
    }
    origin.join();
}

#[test]
fn a_1_0_connection_persists_only_when_the_client_asks() {
    for (line, persists) in [
        ("", false),
        ("Connection: keep-alive\r\n", true),
        ("Connection: Keep-Alive\r\n", true),
        ("Proxy-Connection: keep-alive\r\n", true),
        ("Connection: close\r\n", false),
        ("Connection: keep-alive, close\r\n", false),
    ] {
        let origin = Origin::answer(OK);
        let proxy = proxy();
        let mut client = Peer::connect(proxy.addr());
        client.send(format!("GET http://{}/ HTTP/1.0\r\n{line}\r\n", origin.addr));
        let response = client.read_response();
        assert_eq!(response.text(), "ok", "{line:?}");
        if persists {
            // Without this a 1.0 client does not know that it may go on.
            let connection = [response.field("connection"), response.field("proxy-connection")];
            let says =
                connection.into_iter().flatten().any(|v| v.eq_ignore_ascii_case("keep-alive"));
            assert!(says, "{line:?}: {}", response.head);
            client.send("GET /healthz HTTP/1.0\r\n\r\n");
            assert_eq!(client.read_response().status, 200, "{line:?}");
        }
        client.expect_eof();
        drop(proxy);
    }
}

#[test]
fn a_client_that_says_close_is_closed_after_its_answer() {
    for line in ["Connection: close", "connection: x, CLOSE"] {
        let origin = Origin::answer(OK);
        let untouched = Untouched::new();
        let proxy = proxy();
        let mut client = Peer::connect(proxy.addr());
        let request =
            get_request(origin.addr, "/").replace("\r\n\r\n", &format!("\r\n{line}\r\n\r\n"));
        client.send(request + &get_request(untouched.addr, "/never"));
        let response = client.read_response();
        assert_eq!(response.field("connection"), Some("close"), "{line}: {}", response.head);
        client.expect_end();
        drop(proxy);
    }
}

#[test]
fn an_upstream_that_says_close_is_not_used_again_and_the_client_stays() {
    for response in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ] {
        let origin = Origin::script(2, move |peer| {
            peer.read_head();
            peer.send(response);
            peer.expect_end();
        });
        let proxy = proxy();
        let mut client = Peer::connect(proxy.addr());
        for _ in 0..2 {
            client.send(get_request(origin.addr, "/"));
            let response = client.read_response();
            assert_eq!(response.text(), "ok");
            assert!(response.head.starts_with("HTTP/1.1 "), "{}", response.head);
            assert_eq!(response.field("connection"), None);
        }
        origin.join();
    }
}

#[test]
fn a_1_0_upstream_that_keeps_alive_is_used_again() {
    let origin = Origin::script(1, |peer| {
        for _ in 0..2 {
            peer.read_head();
            peer.send("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    for _ in 0..2 {
        client.send(get_request(origin.addr, "/"));
        assert_eq!(client.read_response().text(), "ok");
    }
    origin.join();
}

/// For any size of buffer, "it was full" must not be taken for "there is more".
#[test]
fn a_response_that_fills_a_buffer_exactly_leaves_its_connection_usable() {
    let head_is_there = Moment::new();
    let has_head = head_is_there.clone();
    let origin = Origin::script(1, move |peer| {
        for power in 9..18 {
            let size = 1 << power;
            peer.read_head();
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n"));
            has_head.wait();
            peer.send(vec![b'x'; size]);
        }
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    for power in 9..18 {
        client.send(get_request(origin.addr, &format!("/{power}")));
        client.read_head();
        head_is_there.has_come();
        client.read_exact(1 << power);
    }
    origin.join();
}

/// On its first connection answers one request and dies on the second; on every other connection
/// answers.
fn dies_when_reused(connections: usize) -> Origin {
    let first = std::sync::atomic::AtomicBool::new(true);
    Origin::script(connections, move |peer| {
        peer.read_head();
        peer.send(OK);
        if first.swap(false, std::sync::atomic::Ordering::SeqCst) {
            peer.try_read_head();
        }
    })
}

#[test]
fn a_get_that_met_a_dying_reused_connection_is_sent_once_more() {
    let origin = dies_when_reused(2);
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    for _ in 0..2 {
        client.send(get_request(origin.addr, "/"));
        assert_eq!(client.read_response().text(), "ok");
    }
    origin.join();
    assert_eq!(proxy.stats().resends, 1);
}

/// A POST goes out on a kept connection only because that was just used.
#[test]
fn a_post_is_never_sent_twice() {
    for content in ["", "abc"] {
        let origin = dies_when_reused(1);
        let proxy = proxy();
        let mut client = Peer::connect(proxy.addr());
        client.send(get_request(origin.addr, "/"));
        assert_eq!(client.read_response().text(), "ok");
        client.send(format!(
            "POST http://{0}/ HTTP/1.1\r\nHost: {0}\r\nContent-Length: {1}\r\n\r\n{content}",
            origin.addr,
            content.len()
        ));
        let response = client.read_response();
        assert_eq!(response.status, 502, "{}", response.head);
        let proxy_status = field(&response.head, "proxy-status").expect("Proxy-Status");
        assert!(proxy_status.contains("error=connection_terminated"), "{proxy_status}");
        origin.join();
        assert_eq!(proxy.stats().resends, 0);
    }
}

/// The kept connection would die of it, like one whose server has waited long enough.
#[test]
fn a_post_on_a_connection_that_was_idle_for_a_while_goes_out_on_a_fresh_one() {
    for (method, content) in
        [("POST", ""), ("POST", "abc"), ("PUT", "abc"), ("PATCH", "abc"), ("ODD", "")]
    {
        let origin = dies_when_reused(2);
        let proxy = proxy_with(|options| options.pool.unrepeatable = Duration::from_millis(10));
        let mut client = Peer::connect(proxy.addr());
        client.send(get_request(origin.addr, "/"));
        assert_eq!(client.read_response().text(), "ok");
        // Longer than a connection counts as just used.
        assert!(!client.has_something_within(Duration::from_millis(20)));
        client.send(format!(
            "{method} http://{0}/ HTTP/1.1\r\nHost: {0}\r\nContent-Length: {1}\r\n\r\n{content}",
            origin.addr,
            content.len()
        ));
        let response = client.read_response();
        assert_eq!((response.status, response.text()), (200, "ok"), "{method} {content:?}");
        let stats = proxy.stats();
        assert_eq!((stats.resends, stats.upstream_connects, stats.upstream_reuses), (0, 2, 0));
    }
}

#[test]
fn a_request_is_repeated_once_not_twice() {
    let first = std::sync::atomic::AtomicBool::new(true);
    let origin = Origin::script(2, move |peer| {
        peer.read_head();
        if first.swap(false, std::sync::atomic::Ordering::SeqCst) {
            peer.send(OK);
            peer.read_head();
        }
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(get_request(origin.addr, "/"));
    assert_eq!(client.read_response().text(), "ok");
    // The reused connection dies on it, and so does the fresh one.
    client.send(get_request(origin.addr, "/"));
    assert_eq!(client.read_response().status, 502);
    origin.join();
    assert_eq!(proxy.stats().resends, 1);
}

#[test]
fn a_fresh_connection_that_dies_is_an_answer_not_a_reason_to_repeat() {
    let origin = Origin::script(1, |peer| {
        peer.read_head();
    });
    let proxy = proxy();
    assert_eq!(get(proxy.addr(), origin.addr, "/").status, 502);
    origin.join();
    assert_eq!(proxy.stats().resends, 0);
}

/// Answers one request on its first connection, sends `rest` after the second and closes. On all other
/// connections it answers.
fn dies_when_reused_after(connections: usize, rest: &'static str) -> Origin {
    let first = std::sync::atomic::AtomicBool::new(true);
    Origin::script(connections, move |peer| {
        peer.read_head();
        peer.send(OK);
        if first.swap(false, std::sync::atomic::Ordering::SeqCst) {
            peer.read_head();
            peer.send(rest);
        }
    })
}

#[test]
fn a_get_is_sent_once_more_until_anything_of_an_answer_has_reached_the_client() {
    let proxy = proxy();
    for (resends, rest) in ["H", "HTTP/1.1 200 OK\r\nContent-Le"].into_iter().enumerate() {
        let origin = dies_when_reused_after(2, rest);
        let mut client = Peer::connect(proxy.addr());
        for _ in 0..2 {
            client.send(get_request(origin.addr, "/"));
            assert_eq!(client.read_response().text(), "ok");
        }
        origin.join();
        assert_eq!(proxy.stats().resends, resends as u64 + 1);
    }
    for (rest, statuses) in [
        ("HTTP/1.1 103 Hints\r\n\r\n", &[103, 502][..]),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 O", &[100, 502]),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nha", &[200]),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", &[200]),
    ] {
        let origin = dies_when_reused_after(1, rest);
        let mut client = Peer::connect(proxy.addr());
        client.send(get_request(origin.addr, "/"));
        assert_eq!(client.read_response().text(), "ok");
        client.send(get_request(origin.addr, "/"));
        for &expected in statuses {
            assert_eq!(status(&client.read_head()), expected, "{rest:?}");
        }
        origin.join();
        assert_eq!(proxy.stats().resends, 2, "{rest:?}");
    }
}

/// Such a 408 answers no request: the server had received none for a while (RFC 9110 §15.5.9).
#[test]
fn a_408_that_crossed_a_request_on_a_kept_connection_is_not_its_answer() {
    const LATE: &str = "HTTP/1.1 408 Late\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    const KEPT: &str = "HTTP/1.1 408 Late\r\nContent-Length: 0\r\n\r\n";
    for (method, late, connections, expected) in
        [("GET", LATE, 2, 200), ("GET", KEPT, 1, 408), ("POST", LATE, 1, 408)]
    {
        let origin = dies_when_reused_after(connections, late);
        let proxy = proxy();
        let mut client = Peer::connect(proxy.addr());
        client.send(get_request(origin.addr, "/"));
        assert_eq!(client.read_response().text(), "ok");
        client.send(get_request(origin.addr, "/").replace("GET", method));
        assert_eq!(client.read_response().status, expected, "{method} {late}");
        origin.join();
    }
    // The first answer on a connection is an answer.
    let origin = Origin::answer(LATE);
    let proxy = proxy();
    assert_eq!(get(proxy.addr(), origin.addr, "/").status, 408);
    drop(proxy);
}

/// Other idle connections may be dead, too.
#[test]
fn a_request_is_repeated_on_a_fresh_connection_not_on_another_kept_one() {
    let both = std::sync::Arc::new(std::sync::Barrier::new(2));
    let count = std::sync::atomic::AtomicUsize::new(0);
    let origin = Origin::script_at_once(3, move |peer| {
        let place = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        peer.read_head();
        if place < 2 {
            both.wait();
        }
        peer.send(OK);
        if place < 2 {
            // Dies of the next request, if there is one.
            peer.try_read_head();
        }
    });
    let proxy = proxy();
    let mut clients = [(); 2].map(|()| Peer::connect(proxy.addr()));
    for client in &mut clients {
        client.send(get_request(origin.addr, "/"));
    }
    for client in &mut clients {
        assert_eq!(client.read_response().text(), "ok");
    }
    eventually_eq(|| proxy.stats().exchanges_finished, 2);
    let [client, _] = &mut clients;
    client.send(get_request(origin.addr, "/"));
    assert_eq!(client.read_response().text(), "ok");
    assert_eq!((proxy.stats().resends, proxy.stats().upstream_connects), (1, 3));
    drop(proxy);
    origin.join();
}

#[test]
fn a_connection_closed_while_idle_is_not_used_even_for_a_post() {
    let closed = Moment::new();
    let has_closed = closed.clone();
    let origin = Origin::script(2, move |peer| {
        peer.read_head();
        peer.send(OK);
        peer.half_close();
        has_closed.has_come();
        peer.read_to_any_end();
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    for _ in 0..2 {
        client.send(format!(
            "POST http://{0}/ HTTP/1.1\r\nHost: {0}\r\nContent-Length: 0\r\n\r\n",
            origin.addr
        ));
        assert_eq!(client.read_response().text(), "ok");
        closed.wait();
    }
    drop(client);
    drop(proxy);
}

#[test]
fn a_client_that_half_closes_is_still_answered() {
    let origin = Origin::answer(OK);
    let proxy = proxy();
    let mut client = HalfCloses::ask(proxy.addr(), &get_request(origin.addr, "/"));
    assert_eq!(client.read_response().text(), "ok");
    client.expect_eof();
    drop(proxy);
}

#[test]
fn a_client_that_half_closes_is_answered_for_all_it_had_pipelined() {
    let origin = Origin::script(1, |peer| {
        for _ in 0..3 {
            peer.read_head();
            peer.send(OK);
        }
        peer.read_to_any_end();
    });
    let proxy = proxy();
    let mut client = HalfCloses::ask(proxy.addr(), &get_request(origin.addr, "/").repeat(3));
    for _ in 0..3 {
        assert_eq!(client.read_response().text(), "ok");
    }
    client.expect_eof();
    drop(proxy);
}

#[test]
fn a_client_that_resets_frees_its_upstream() {
    let asked = Moment::new();
    let is_asked = asked.clone();
    let origin = Origin::script(1, move |peer| {
        peer.read_head();
        is_asked.has_come();
        peer.expect_end();
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(get_request(origin.addr, "/"));
    asked.wait();
    client.reset();
    origin.join();
}
