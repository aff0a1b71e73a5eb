//! Forbidden destinations: the proxy itself, and private networks for a listener open to others.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use threadgate::Server;
use threadgate::server::Via;

use crate::peers::{Peer, Response};
use crate::proxies::{Names, OK, get_request, proxy, proxy_with};
use crate::servers::{Origin, Untouched};

#[track_caller]
fn ask(proxy: SocketAddr, target: &str) -> Response {
    let mut client = Peer::connect(proxy);
    client.send(format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n"));
    client.read_response()
}

#[test]
fn a_request_to_the_proxys_own_address_is_a_loop_in_every_spelling() {
    // The system's resolver understands the old spellings of addresses, too.
    let proxy = proxy();
    let port = proxy.addr().port();
    for host in [
        "127.0.0.1",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0x7f000001",
        "0177.0.0.1",
        "127.0.0.1.",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:ffff:7f00:0001]",
        "0.0.0.0",
        "0",
    ] {
        let response = ask(proxy.addr(), &format!("http://{host}:{port}/"));
        // Some resolvers take some of these for no name. None of them reaches the proxy.
        let refused = [508, 502, 400].contains(&response.status);
        assert!(refused, "{host}: {}", response.head);
        let certain = ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0"];
        // Neither addresses as written, nor names.
        let neither =
            ["127.1", "2130706433", "0x7f.1", "0x7f000001", "0177.0.0.1", "127.0.0.1.", "0"];
        if certain.contains(&host) {
            assert_eq!(response.status, 508, "{host}: {} {}", response.head, response.text());
        }
        if neither.contains(&host) {
            assert_eq!(response.status, 400, "{host}: {}", response.head);
        }
    }
    assert_eq!(proxy.stats().upstream_connects, 0, "nothing may have been connected to");
}

#[test]
fn a_tunnel_to_the_proxy_itself_is_a_loop_too() {
    let proxy = proxy();
    let port = proxy.addr().port();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0"] {
        let mut client = Peer::connect(proxy.addr());
        client.send(format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"));
        assert_eq!(client.read_response().status, 508, "{host}");
    }
}

#[test]
fn a_listener_on_every_address_knows_all_of_them_as_its_own() {
    let proxy = proxy_with(|options| {
        options.listen = vec!["0.0.0.0:0".parse().unwrap()];
        options.open = true;
    });
    let port = proxy.addr().port();
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    for host in ["127.0.0.1", "127.0.0.2", "127.255.255.254", "0.0.0.0", "localhost"] {
        assert_eq!(ask(addr, &format!("http://{host}:{port}/")).status, 508, "{host}");
    }
}

#[test]
fn a_request_that_carries_the_proxys_own_via_is_a_loop() {
    let untouched = Untouched::new();
    let proxy = proxy_with(|options| options.via = Via::Named("gate-7".to_owned()));
    for via in ["1.1 gate-7", "1.1 other, 1.1 gate-7 (comment)", "1.0 GATE-7", "HTTP/1.1 gate-7"] {
        let mut client = Peer::connect(proxy.addr());
        let request = get_request(untouched.addr, "/")
            .replace("\r\n\r\n", &format!("\r\nVia: {via}\r\n\r\n"));
        client.send(request);
        assert_eq!(client.read_response().status, 508, "{via}");
    }
}

#[test]
fn a_via_that_only_resembles_the_proxys_own_is_none() {
    let origin = Origin::script(1, |peer| {
        for _ in 0..3 {
            peer.read_head();
            peer.send(OK);
        }
    });
    let proxy = proxy_with(|options| options.via = Via::Named("gate-7".to_owned()));
    let mut client = Peer::connect(proxy.addr());
    for via in ["1.1 gate-77", "1.1 other (gate-7)", "1.1 gate-7.example"] {
        client.send(
            get_request(origin.addr, "/").replace("\r\n\r\n", &format!("\r\nVia: {via}\r\n\r\n")),
        );
        assert_eq!(client.read_response().status, 200, "{via}");
    }
    origin.join();
}

#[test]
fn two_proxies_do_not_take_each_other_for_themselves() {
    let mut names = [(); 2].map(|()| {
        let request = "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n";
        let (seen, _) = crate::proxies::exchange(&proxy(), request, OK);
        crate::peers::field(&seen, "via").expect("a Via field").to_owned()
    });
    names.sort();
    assert_ne!(names[0], names[1]);
}

/// A proxy with a listener that others could reach; asked over loopback.
fn beyond_loopback(open: bool, resolver: Names) -> (Server, SocketAddr) {
    let proxy = proxy_with(|options| {
        options.listen = vec!["0.0.0.0:0".parse().unwrap()];
        options.open = open;
        options.resolver = Arc::new(resolver);
    });
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, proxy.addr().port()));
    (proxy, addr)
}

#[test]
fn a_listener_beyond_loopback_does_not_lead_into_private_networks() {
    let untouched = Untouched::new();
    let port = untouched.addr.port();
    let rebinding: [IpAddr; 2] = ["127.0.0.1".parse().unwrap(), "10.0.0.1".parse().unwrap()];
    let names =
        Names::default().with("rebinding.example", &rebinding).with("localhost", &rebinding[..1]);
    let (_proxy, addr) = beyond_loopback(false, names);
    for host in [
        "127.0.0.1",
        "127.8.9.10",
        "localhost",
        "rebinding.example",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:10.1.2.3]",
        "[fe80::1]",
        "[fc00::1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b::a01:203]",
        "[2002:7f00:1::1]",
    ] {
        let response = ask(addr, &format!("http://{host}:{port}/"));
        assert_eq!(response.status, 403, "{host}: {}", response.head);
        let status = response.field("proxy-status").expect("Proxy-Status");
        assert!(status.contains("error=destination_ip_prohibited"), "{host}: {status}");
        let mut client = Peer::connect(addr);
        client.send(format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"));
        assert_eq!(client.read_response().status, 403, "CONNECT {host}");
    }
}

#[test]
fn an_open_listener_goes_wherever_it_is_asked_to() {
    let origin = Origin::answer(OK);
    let (proxy, addr) = beyond_loopback(true, Names::default());
    assert_eq!(ask(addr, &format!("http://{}/", origin.addr)).text(), "ok");
    drop(proxy);
}

#[test]
fn a_listener_on_loopback_may_lead_to_loopback() {
    let origin = Origin::answer(OK);
    let proxy = proxy();
    assert_eq!(ask(proxy.addr(), &format!("http://{}/", origin.addr)).text(), "ok");
    drop(proxy);
}
