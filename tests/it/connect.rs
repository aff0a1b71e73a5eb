//! Tunnels: CONNECT, and bytes both ways until both directions have ended.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::hostile::DropsSyns;
use crate::peers::{End, Moment, Peer, eventually_eq, field, pattern};
use crate::proxies::{Binary, Names, OK, get_request, proxy, proxy_with, proxy_with_names};
use crate::servers::{Origin, RefusedPort, Untouched, listen_v6};

/// Opens a tunnel to `authority` through the proxy at `proxy`, and reads the 200.
#[track_caller]
fn tunnel(proxy: std::net::SocketAddr, authority: impl std::fmt::Display) -> Peer {
    let mut client = Peer::connect(proxy);
    client.send(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"));
    let head = client.read_head();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    client
}

#[test]
fn a_tunnel_carries_bytes_both_ways_and_its_200_announces_no_content() {
    let origin = Origin::script(1, |peer| {
        assert_eq!(peer.read_exact(5), b"\x16\x03\0\r\n");
        peer.send(b"\xff\0\r\n\r\n");
        peer.expect_eof();
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.addr));
    let head = client.read_head();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(field(&head, "content-length"), None);
    assert_eq!(field(&head, "transfer-encoding"), None);
    client.send(b"\x16\x03\0\r\n");
    assert_eq!(client.read_exact(6), b"\xff\0\r\n\r\n");
    drop(client);
    origin.join();
}

#[test]
fn a_tunnel_may_be_asked_for_in_1_0_and_by_name_and_in_ipv6() {
    let origin = Origin::script(2, |peer| peer.send("hi"));
    let proxy = proxy_with_names();
    let port = origin.addr.port();
    for request in [
        format!("CONNECT www.example:{port} HTTP/1.0\r\n\r\n"),
        format!("CONNECT WWW.EXAMPLE:{port} HTTP/1.1\r\nHost: www.example\r\n\r\n"),
    ] {
        let mut client = Peer::connect(proxy.addr());
        client.send(&request);
        assert!(client.read_head().starts_with("HTTP/1.1 200 "), "{request}");
        assert_eq!(client.read_text(2), "hi");
        client.expect_eof();
    }
    origin.join();
    let Some(listener) = listen_v6() else { return };
    let origin = Origin::script_on(listener, 1, |peer| peer.send("hi"));
    assert_eq!(tunnel(proxy.addr(), origin.addr).read_text(2), "hi");
    origin.join();
}

#[test]
fn bytes_sent_right_behind_the_head_are_delivered_first() {
    for size in [1, 5, 10_000, 200_000] {
        let origin = Origin::script(1, move |peer| {
            assert!(peer.read_exact(size) == pattern(size), "the first {size} bytes differ");
            assert_eq!(peer.read_text(5), "later");
            peer.send("ok");
        });
        let proxy = proxy();
        let mut client = Peer::connect(proxy.addr());
        let mut request =
            format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.addr).into_bytes();
        request.extend(pattern(size));
        client.send(request);
        assert!(client.read_head().starts_with("HTTP/1.1 200 "));
        client.send("later");
        assert_eq!(client.read_text(2), "ok");
        origin.join();
    }
}

#[test]
fn what_looks_like_http_in_a_tunnel_is_none_of_the_proxys_business() {
    let request =
        "GET http://127.0.0.1/ HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n";
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
    let origin = Origin::script(1, move |peer| {
        assert_eq!(peer.read_text(request.len()), request);
        peer.send(answer);
        peer.expect_eof();
    });
    let proxy = proxy();
    let mut client = tunnel(proxy.addr(), origin.addr);
    client.send(request);
    assert_eq!(client.read_text(answer.len()), answer);
    client.half_close();
    client.expect_eof();
    origin.join();
}

#[test]
fn a_half_close_of_the_client_leaves_the_other_way_open() {
    let origin = Origin::script(1, |peer| {
        assert_eq!(peer.read_to_end(), b"question");
        peer.send("a long ");
        peer.send(pattern(1 << 20));
    });
    let proxy = proxy();
    let mut client = tunnel(proxy.addr(), origin.addr);
    client.send("question");
    client.half_close();
    assert_eq!(client.read_text(7), "a long ");
    assert!(client.read_to_end() == pattern(1 << 20), "bytes differ");
    origin.join();
}

#[test]
fn a_half_close_of_the_upstream_leaves_the_other_way_open() {
    let origin = Origin::script(1, |peer| {
        peer.send("banner");
        peer.half_close();
        assert!(peer.read_to_end() == pattern(1 << 20), "bytes differ");
    });
    let proxy = proxy();
    let mut client = tunnel(proxy.addr(), origin.addr);
    client.expect_text_and_eof("banner");
    client.send(pattern(1 << 20));
    client.half_close();
    origin.join();
}

#[test]
fn a_half_close_before_the_200_is_passed_on_too() {
    let origin = Origin::script(1, |peer| {
        assert_eq!(peer.read_to_end(), b"early");
        peer.send("late");
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\nearly", origin.addr));
    client.half_close();
    assert!(client.read_head().starts_with("HTTP/1.1 200 "));
    client.expect_text_and_eof("late");
    origin.join();
}

#[test]
fn a_reset_is_passed_on_as_a_reset_to_the_upstream() {
    let origin = Origin::script(1, |peer| {
        assert_eq!(peer.read_text(1), "x");
        peer.send("y");
        peer.expect_reset();
    });
    let proxy = proxy();
    let mut client = tunnel(proxy.addr(), origin.addr);
    client.send("x");
    assert_eq!(client.read_text(1), "y");
    client.reset();
    origin.join();
}

#[test]
fn a_reset_is_passed_on_as_a_reset_to_the_client() {
    let ready = Moment::new();
    let client_is_ready = ready.clone();
    let origin = Origin::script(1, move |peer| {
        client_is_ready.wait();
        socket2::SockRef::from(peer.stream()).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    });
    let proxy = proxy();
    let mut client = tunnel(proxy.addr(), origin.addr);
    ready.has_come();
    client.expect_reset();
    origin.join();
}

#[test]
fn much_in_both_directions_at_once_arrives_whole() {
    const SIZE: usize = 8 << 20;
    let origin = Origin::script(1, |peer| {
        let mut writer = Peer::new(peer.stream().try_clone().unwrap());
        let sending = thread::spawn(move || writer.send(pattern(SIZE)));
        assert!(peer.read_exact(SIZE) == pattern(SIZE), "bytes to the upstream differ");
        sending.join().unwrap();
    });
    let proxy = proxy();
    let mut client = tunnel(proxy.addr(), origin.addr);
    let mut writer = Peer::new(client.stream().try_clone().unwrap());
    let sending = thread::spawn(move || writer.send(pattern(SIZE)));
    assert!(client.read_exact(SIZE) == pattern(SIZE), "bytes to the client differ");
    sending.join().unwrap();
    origin.join();
}

#[test]
fn a_tunnel_may_follow_exchanges_on_the_same_connection() {
    let web = Origin::answer(OK);
    let origin = Origin::script(1, |peer| {
        assert_eq!(peer.read_text(2), "in");
        peer.send("out");
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    // All in one segment: the bytes behind the CONNECT belong to the tunnel.
    client.send(format!(
        "{}CONNECT {1} HTTP/1.1\r\nHost: {1}\r\n\r\nin",
        get_request(web.addr, "/"),
        origin.addr
    ));
    assert_eq!(client.read_response().text(), "ok");
    assert!(client.read_head().starts_with("HTTP/1.1 200 "));
    client.expect_text_and_eof("out");
    origin.join();
    drop(proxy);
}

#[test]
fn nothing_is_written_into_a_tunnel_when_the_proxy_shuts_down() {
    let open = Moment::new();
    let is_open = open.clone();
    let origin = Origin::script(1, move |peer| {
        assert_eq!(peer.read_text(1), "x");
        is_open.has_come();
        let (rest, _) = peer.read_to_any_end();
        assert_eq!(rest, b"");
    });
    let proxy = proxy();
    let mut client = tunnel(proxy.addr(), origin.addr);
    client.send("x");
    open.wait();
    drop(proxy);
    client.expect_end();
    origin.join();
}

#[test]
fn nothing_is_written_into_a_tunnel_that_was_idle_too_long() {
    let proxy =
        proxy_with(|options| options.timeouts.tunnel = std::time::Duration::from_millis(200));
    let origin = Origin::script(1, |peer| peer.expect_end());
    tunnel(proxy.addr(), origin.addr).expect_end();
    origin.join();
}

#[test]
fn an_authority_that_is_none_is_refused() {
    let untouched = Untouched::new();
    let port = untouched.addr.port();
    for target in [
        "127.0.0.1".to_owned(),
        "127.0.0.1:".to_owned(),
        "127.0.0.1:0".to_owned(),
        "127.0.0.1:65536".to_owned(),
        "127.0.0.1:http".to_owned(),
        format!("127.0.0.1:{port}:{port}"),
        format!("127.0.0.1:+{port}"),
        format!("127.0.0.1:{port}/"),
        format!("127.0.0.1:{port}?a"),
        format!("http://127.0.0.1:{port}"),
        format!("http://127.0.0.1:{port}/"),
        format!("user@127.0.0.1:{port}"),
        format!("user:password@127.0.0.1:{port}"),
        format!(":{port}"),
        format!("::1:{port}"),
        format!("[::1:{port}"),
        format!("[::1]{port}"),
        "[::1]".to_owned(),
        "/".to_owned(),
        "*".to_owned(),
        format!("127.0.0.1%00:{port}"),
        format!("a,b:{port}"),
    ] {
        let proxy = proxy_with_names();
        let mut client = Peer::connect(proxy.addr());
        client.send(format!("CONNECT {target} HTTP/1.1\r\nHost: a.example\r\n\r\n"));
        assert_eq!(client.read_response().status, 400, "{target}");
        client.expect_end();
    }
}

#[test]
fn a_refused_connection_is_a_502_that_says_so() {
    let refused = RefusedPort::new();
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", refused.addr));
    let response = client.read_response();
    assert_eq!(response.status, 502);
    let status = response.field("proxy-status").expect("Proxy-Status");
    assert!(status.contains("error=connection_refused"), "{status}");
    assert!(!response.content.is_empty());
}

/// Proxies that refuse a CONNECT to the authority beside them, each with another status.
fn refusing() -> Vec<(u16, Binary, String, &'static str)> {
    let open = |args: &[&str]| Binary::start(args);
    let to = |authority: &str| authority.to_owned();
    vec![
        (400, open(&[]), to("a.example"), ""),
        (403, open(&["--deny=a.example"]), to("a.example:443"), ""),
        (403, open(&["--deny=a.example", "--deny-with=204"]), to("a.example:443"), ""),
        (403, open(&["--connect-ports=443"]), to("127.0.0.1:9"), ""),
        (403, open(&["--methods=GET"]), to("127.0.0.1:9"), ""),
        (407, open(&["--auth=alice:secret"]), to("127.0.0.1:9"), ""),
        (
            407,
            open(&["--auth=alice:secret"]),
            to("127.0.0.1:9"),
            "Proxy-Authorization: Basic eDp4\r\n",
        ),
        (502, open(&["--resolve=a.example:127.0.0.1"]), to("a.example:1"), ""),
        (508, open(&[]), to("PROXY"), ""),
    ]
}

#[test]
fn a_refused_connect_ends_its_connection_and_nothing_behind_it_runs() {
    let untouched = Untouched::new();
    for (status, proxy, authority, fields) in refusing() {
        let authority = authority.replace("PROXY", &proxy.addr.to_string());
        for version in ["1.1", "1.0"] {
            let keep = if version == "1.0" { "Connection: keep-alive\r\n" } else { "" };
            let connect =
                format!("CONNECT {authority} HTTP/{version}\r\nHost: a\r\n{keep}{fields}\r\n");
            let inside = get_request(untouched.addr, "/smuggled");
            // In the same segment, and after the refusal was read.
            for behind in [&inside, ""] {
                let mut client = Peer::connect(proxy.addr);
                client.send(format!("{connect}{behind}"));
                let response = client.read_response();
                assert_eq!(response.status, status, "{connect}");
                assert_eq!(response.field("connection"), Some("close"), "{connect}");
                // The proxy ends the connection, and throws away further bytes.
                let _ = client.try_send(&inside);
                client.expect_eof();
            }
        }
    }
}

#[test]
fn the_answer_to_a_refused_connect_arrives_whatever_was_sent_behind_it() {
    let proxy = Binary::start(&["--deny=a.example"]);
    let mut client = Peer::connect(proxy.addr);
    // More than the proxy reads ahead: closing with unread bytes would reset the connection.
    client.send("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n");
    client.send(pattern(500_000));
    let response = client.read_response();
    assert_eq!(response.status, 403);
    assert!(response.text().ends_with('\n'), "{}", response.text());
    client.expect_eof();
}

#[test]
fn a_connect_refused_for_the_number_of_requests_ends_its_connection_too() {
    let untouched = Untouched::new();
    let proxy = Binary::start(&["--limit-requests=1/m"]);
    let connect = "CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n";
    let refused = |proxy: &Binary| {
        let mut client = Peer::connect(proxy.addr);
        client.send(format!("{connect}{}", get_request(untouched.addr, "/smuggled")));
        let status = client.read_response().status;
        client.expect_eof();
        status
    };
    let statuses: Vec<u16> = (0..100).map(|_| refused(&proxy)).take_while(|s| *s != 429).collect();
    assert!(statuses.len() < 100, "none was refused for their number");
}

#[test]
fn bytes_behind_a_connect_that_nobody_answers_are_not_run_as_a_request() {
    let hole = DropsSyns::new();
    let untouched = Untouched::new();
    let proxy = proxy_with(|options| options.timeouts.connect = Duration::from_millis(200));
    let mut client = Peer::connect(proxy.addr());
    client.send(format!(
        "CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n{1}",
        hole.addr,
        get_request(untouched.addr, "/smuggled")
    ));
    assert_eq!(client.read_response().status, 504);
    client.expect_eof();
}

#[test]
fn all_addresses_of_a_name_are_tried() {
    let origin = Origin::script(1, |peer| peer.send("hi"));
    let proxy = proxy_with(|options| {
        let ips = [[127, 0, 0, 3], [127, 0, 0, 2], [127, 0, 0, 1]].map(std::net::IpAddr::from);
        options.resolver = Arc::new(Names::default().with("three.example", &ips));
    });
    let mut client = tunnel(proxy.addr(), format!("three.example:{}", origin.addr.port()));
    assert_eq!(client.read_text(2), "hi");
    origin.join();
}

#[test]
fn bytes_of_a_tunnel_are_counted_once_each_way() {
    let origin = Origin::script(1, |peer| {
        peer.read_exact(1000);
        peer.send(vec![b'x'; 5000]);
    });
    let proxy = proxy();
    let before = proxy.stats();
    let mut client = tunnel(proxy.addr(), origin.addr);
    client.send(vec![b'x'; 1000]);
    client.read_exact(5000);
    drop(client);
    origin.join();
    eventually_eq(|| proxy.stats().tunnels_closed, 1);
    let after = proxy.stats();
    // The request's and the reply's heads are small, and may be counted with them.
    let (from, to) = (
        after.bytes_from_clients - before.bytes_from_clients,
        after.bytes_to_clients - before.bytes_to_clients,
    );
    assert!((1000..1200).contains(&from), "{from} bytes from the client");
    assert!((5000..5200).contains(&to), "{to} bytes to the client");
}

#[test]
fn an_end_of_both_ways_ends_the_tunnel_at_once() {
    let origin = Origin::script(1, |peer| {
        peer.half_close();
        peer.expect_eof();
    });
    let proxy = proxy();
    let mut client = tunnel(proxy.addr(), origin.addr);
    assert_eq!(client.read_to_any_end().1, End::Closed);
    client.half_close();
    origin.join();
    eventually_eq(|| proxy.stats().connections_closed, 1);
}
