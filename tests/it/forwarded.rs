//! `--forwarded-for`: the client's address in requests to servers.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::peers::{Peer, STEP, eventually, field, field_lines};
use crate::proxies::{Binary, OK, get_request, proxy, proxy_with};
use crate::servers::{Origin, listen_v6};

/// A client that connects from `from`, any address of loopback.
pub(crate) fn connect_from(from: Ipv4Addr, to: SocketAddr) -> Peer {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SockAddr::from(SocketAddr::from((from, 0)))).unwrap();
    socket.connect_timeout(&to.into(), STEP).unwrap();
    Peer::new(socket.into())
}

const CAME: &str = "Forwarded: for=10.0.0.1, for=\"[::1]:80\"\r\nX-Forwarded-For: 10.0.0.1\r\n\
                    X-Forwarded-For: spoofed";

pub(crate) fn request(origin: SocketAddr, fields: &str) -> String {
    get_request(origin, "/").replace("\r\n\r\n", &format!("\r\n{fields}\r\n\r\n"))
}

/// The request that an origin server gets for one with `fields` through `proxy`.
fn seen(proxy: SocketAddr, fields: &str) -> String {
    let (sender, seen) = crossbeam_channel::bounded(1);
    let origin = Origin::script(1, move |peer| {
        sender.send(peer.read_head()).unwrap();
        peer.send(OK);
    });
    let mut client = connect_from([127, 0, 0, 7].into(), proxy);
    client.send(request(origin.addr, fields));
    assert_eq!(client.read_response().text(), "ok");
    origin.join();
    seen.recv_timeout(STEP).unwrap()
}

#[test]
fn by_default_nobody_is_told_and_what_came_goes_on() {
    let proxy = proxy();
    let head = seen(proxy.addr(), "A: b");
    assert!(
        !head.to_ascii_lowercase().contains("forwarded") && !head.contains("127.0.0.7"),
        "{head}"
    );
    let head = seen(proxy.addr(), CAME);
    assert!(head.contains(CAME) && !head.contains("127.0.0.7"), "{head}");
}

#[test]
fn asked_to_the_client_comes_last_in_one_line_of_each_name() {
    let proxy = proxy_with(|options| options.forwarded_for = true);
    let name = |head: &str| field(head, "via").unwrap().trim_start_matches("1.1 ").to_owned();
    let head = seen(proxy.addr(), "A: b");
    let ours = format!("for=127.0.0.7;proto=http;by=_{}", name(&head));
    assert_eq!(field(&head, "forwarded"), Some(ours.as_str()), "{head}");
    assert_eq!(field(&head, "x-forwarded-for"), Some("127.0.0.7"), "{head}");
    let head = seen(proxy.addr(), CAME);
    let expected = format!("for=10.0.0.1, for=\"[::1]:80\", {ours}");
    assert_eq!(field(&head, "forwarded"), Some(expected.as_str()), "{head}");
    assert_eq!(field(&head, "x-forwarded-for"), Some("10.0.0.1, spoofed, 127.0.0.7"), "{head}");
    // An open quote would swallow the rest of the field.
    let head = seen(proxy.addr(), "Forwarded: for=\"open");
    assert_eq!(field(&head, "forwarded"), Some(ours.as_str()), "{head}");
}

#[test]
fn the_option_says_on_or_off() {
    let proxy = Binary::start(&["--forwarded-for", "on", "--via", "off"]);
    let head = seen(proxy.addr, "");
    assert_eq!(field(&head, "forwarded"), Some("for=127.0.0.7;proto=http"), "{head}");
    let proxy = Binary::start(&["--forwarded-for=off"]);
    assert!(!seen(proxy.addr, "").contains("127.0.0.7"));
}

#[test]
fn an_ipv6_client_is_quoted_and_in_brackets() {
    if listen_v6().is_none() {
        return;
    }
    let proxy = proxy_with(|options| {
        options.forwarded_for = true;
        options.listen = vec!["[::1]:0".parse().unwrap()];
    });
    let (sender, seen) = crossbeam_channel::bounded(1);
    let origin = Origin::script(1, move |peer| {
        sender.send(peer.read_head()).unwrap();
        peer.send(OK);
    });
    let mut client = Peer::connect(proxy.addr());
    client.send(get_request(origin.addr, "/"));
    client.read_response();
    let head = seen.recv_timeout(STEP).unwrap();
    assert!(
        field(&head, "forwarded").unwrap().starts_with("for=\"[::1]\";proto=http;by=_"),
        "{head}"
    );
    assert_eq!(field(&head, "x-forwarded-for"), Some("::1"), "{head}");
}

#[test]
fn clients_that_share_an_upstream_connection_are_told_apart() {
    let (sender, seen) = crossbeam_channel::bounded(3);
    let origin = Origin::script(1, move |peer| {
        for _ in 0..3 {
            let head = peer.read_head();
            sender.send(field(&head, "x-forwarded-for").unwrap().to_owned()).unwrap();
            peer.send(OK);
        }
    });
    let proxy = proxy_with(|options| options.forwarded_for = true);
    for last in [3, 4, 5] {
        let mut client = connect_from([127, 0, 0, last].into(), proxy.addr());
        client.send(get_request(origin.addr, "/"));
        assert_eq!(client.read_response().text(), "ok");
        assert_eq!(seen.recv_timeout(STEP).unwrap(), format!("127.0.0.{last}"));
        eventually(|| proxy.stats().exchanges_finished == u64::from(last) - 2);
    }
    origin.join();
}

#[test]
fn a_tunnel_carries_what_the_client_sends_and_nothing_else() {
    let origin = Origin::script(1, |peer| {
        assert_eq!(field_lines(&peer.read_head()), ["Host: a"]);
        peer.send(OK);
    });
    let proxy = proxy_with(|options| options.forwarded_for = true);
    let mut client = Peer::connect(proxy.addr());
    client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.addr));
    client.read_head();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read_response().text(), "ok");
    origin.join();
}

#[test]
fn a_head_at_its_limit_still_gets_its_fields() {
    let proxy = proxy_with(|options| {
        options.forwarded_for = true;
        options.max_head_bytes = 4096;
    });
    // 98 fields and `Host`, one below the limit on their number, with nearly as many bytes as allowed.
    let fields: Vec<String> = (0..98).map(|i| format!("N{i:02}: {}", "x".repeat(33))).collect();
    let head = seen(proxy.addr(), &fields.join("\r\n"));
    assert_eq!(field(&head, "x-forwarded-for"), Some("127.0.0.7"));
    assert!(field_lines(&head).len() >= 99 + 3, "{}", field_lines(&head).len());
}
