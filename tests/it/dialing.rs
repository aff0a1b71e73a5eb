//! Connecting: addresses that drop SYNs, families, source addresses, and the limit on pending connects
//! to one address.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use threadgate::Server;
use threadgate::net::source_address::Sources;
use threadgate::server::Options;

use crate::hostile::{DropsSyns, NeverAnswers};
use crate::peers::{Peer, Response, STEP, eventually, eventually_eq, field};
use crate::proxies::{Binary, Names, OK, get, get_request, proxy_with, proxy_with_one_worker};
use crate::servers::{Origin, listen, listen_on_a_port_of_its_own, listen_v6};

/// The stagger of RFC 8305 §8.
const STAGGER: Duration = Duration::from_millis(250);

pub(crate) fn loopback(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

#[track_caller]
fn assert_refused(response: &Response, status: u16, error: &str) {
    assert_eq!(response.status, status, "{}", response.head);
    let field = response.field("proxy-status").expect("Proxy-Status");
    assert!(field.contains(&format!("error={error}")), "{field}");
}

/// Asks for `http://name:port/` on a connection of its own, which ends with its response.
pub(crate) fn ask(proxy: SocketAddr, name: &str, port: u16) -> Peer {
    let mut client = Peer::connect(proxy);
    client.send(format!("GET http://{name}:{port}/ HTTP/1.1\r\nHost: a\r\n\r\n"));
    client
}

/// A server that answers this many connections, all at once, with OK and `Connection: close`.
pub(crate) fn answers(listener: TcpListener, connections: usize) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        thread::scope(|scope| {
            for _ in 0..connections {
                let (stream, _) = listener.accept().unwrap();
                scope.spawn(|| {
                    let mut peer = Peer::new(stream);
                    peer.read_head();
                    peer.send(OK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
                });
            }
        });
    })
}

/// Holes on 127.0.0.2, 127.0.0.3 …, on the port of `listener`.
pub(crate) fn holes(listener: &TcpListener, count: u8) -> Vec<DropsSyns> {
    let port = listener.local_addr().unwrap().port();
    (2..2 + count).map(|last| DropsSyns::on((loopback(last), port).into())).collect()
}

#[test]
fn three_black_holed_addresses_cost_three_staggers_and_not_the_timeout() {
    let listener = listen_on_a_port_of_its_own();
    let port = listener.local_addr().unwrap().port();
    let holes = holes(&listener, 3);
    let ips: Vec<IpAddr> = holes.iter().map(|h| h.addr.ip()).chain([loopback(1)]).collect();
    let origin = answers(listener, 1);
    let proxy = proxy_with(|options| {
        options.resolver = Arc::new(Names::default().with("four.example", &ips));
    });
    let start = Instant::now();
    assert_eq!(ask(proxy.addr(), "four.example", port).read_response().text(), "ok");
    let took = start.elapsed();
    // The fourth waits one round longer, because it begins while two are pending for the second time.
    assert!((STAGGER * 3..STAGGER * 3 + Duration::from_secs(1)).contains(&took), "{took:?}");
    origin.join().unwrap();
    assert_eq!(proxy.stats().connects_pending, 0, "nothing is left pending");
}

#[test]
fn the_family_that_answered_last_time_goes_first() {
    if listen_v6().is_none() {
        return;
    }
    let listener = listen_on_a_port_of_its_own();
    let port = listener.local_addr().unwrap().port();
    let hole = DropsSyns::on((Ipv6Addr::LOCALHOST, port).into());
    let origin = answers(listener, 3);
    let ips = [hole.addr.ip(), loopback(1)];
    let proxy = proxy_with(|options| {
        options.resolver = Arc::new(Names::default().with("both.example", &ips));
    });
    let took = || {
        let start = Instant::now();
        assert_eq!(ask(proxy.addr(), "both.example", port).read_response().text(), "ok");
        start.elapsed()
    };
    assert!(took() >= STAGGER, "IPv6 is tried first");
    // On a busy machine one of them may be slow; both cannot have waited for IPv6.
    let (second, third) = (took(), took());
    assert!(second.min(third) < STAGGER, "{second:?}, {third:?}");
    origin.join().unwrap();
}

#[test]
fn a_family_without_a_way_costs_no_time() {
    let listener = listen();
    let port = listener.local_addr().unwrap().port();
    let origin = answers(listener, 1);
    // A TCP connection to a multicast address never exists: it fails like a missing route.
    let ips = ["ff02::1", "ff02::2", "ff02::3", "127.0.0.1"].map(|ip| ip.parse().unwrap());
    let proxy = proxy_with(|options| {
        options.resolver = Arc::new(Names::default().with("four.example", &ips));
    });
    let start = Instant::now();
    assert_eq!(ask(proxy.addr(), "four.example", port).read_response().text(), "ok");
    assert!(start.elapsed() < STAGGER, "{:?}", start.elapsed());
    origin.join().unwrap();
}

/// A proxy with one worker, which has one pending connect at a time to each address.
fn one_at_a_time(change: impl FnOnce(&mut Options)) -> Server {
    proxy_with_one_worker(|options| {
        options.max_connecting = 1.try_into().unwrap();
        change(options);
    })
}

#[test]
fn a_dead_destination_crowds_nobody_out() {
    const CLIENTS: usize = 300;
    const MOST: usize = 8;
    let hole = DropsSyns::new();
    let proxy = Binary::start_as(&[
        "--listen=127.0.0.1:0",
        "--threads=1",
        "--max-connecting=8",
        "--timeout-connect=3s",
    ]);
    // By then it has closed what the start had open, such as the file with its port.
    eventually(|| proxy.stderr().contains("listening on"));
    let idle = proxy.descriptors();
    let start = Instant::now();
    let mut asking: Vec<_> = (0..CLIENTS)
        .map(|i| {
            let mut client = Peer::connect(proxy.addr);
            client.send(match i % 2 {
                0 => get_request(hole.addr, "/"),
                _ => format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", hole.addr),
            });
            client
        })
        .collect();
    // One descriptor for each client, and those of the few connects that may be pending.
    let most = idle + CLIENTS + MOST;
    eventually(|| proxy.descriptors() == most);
    for _ in 0..20 {
        let listener = listen();
        let addr = listener.local_addr().unwrap();
        let origin = answers(listener, 1);
        let asked = Instant::now();
        assert_eq!(get(proxy.addr, addr, "/").text(), "ok");
        assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
        assert!(proxy.descriptors() <= most + 3, "{} of {most}", proxy.descriptors());
        origin.join().unwrap();
    }
    // Some were pending, and some waited in line, each with its own time.
    let mut limits = 0;
    for client in &mut asking {
        let response = client.read_response();
        match response.status {
            504 => assert_refused(&response, 504, "connection_timeout"),
            _ => {
                assert_refused(&response, 503, "connection_limit_reached");
                limits += 1;
            }
        }
    }
    assert!(limits >= CLIENTS / 2, "{limits} of {CLIENTS} never had their turn");
    assert!(start.elapsed() < STEP, "{:?}", start.elapsed());
    eventually(|| proxy.descriptors() <= idle + CLIENTS + 1);
}

#[test]
fn who_waits_in_line_is_served_in_turn() {
    let hole = DropsSyns::new();
    let addr = hole.addr;
    let proxy = one_at_a_time(|_| {});
    let first = {
        let mut client = Peer::connect(proxy.addr());
        client.send(get_request(addr, "/"));
        client
    };
    eventually_eq(|| proxy.stats().connects_pending, 1);
    let mut waiting: Vec<_> = (1..=3)
        .map(|waits| {
            let mut client = Peer::connect(proxy.addr());
            client.send(get_request(addr, "/"));
            eventually_eq(|| proxy.stats().connect_waits, waits);
            client
        })
        .collect();
    assert_eq!(proxy.stats().connects_pending, 1);
    let listener = hole.relent();
    let origin = answers(listener, 3);
    // The place of the first goes to the next, whose first SYN arrives.
    first.reset();
    for client in &mut waiting {
        assert_eq!(client.read_response().text(), "ok");
    }
    origin.join().unwrap();
    assert_eq!((proxy.stats().connects_pending, proxy.stats().connect_waits), (0, 3));
}

#[test]
fn who_leaves_the_line_leaves_nothing_behind() {
    let hole = DropsSyns::new();
    let proxy = one_at_a_time(|_| {});
    let clients: Vec<_> = (0..50)
        .map(|_| {
            let mut client = Peer::connect(proxy.addr());
            client.send(get_request(hole.addr, "/"));
            client
        })
        .collect();
    eventually_eq(|| proxy.stats().connect_waits, 49);
    assert_eq!(proxy.stats().connects_pending, 1);
    clients.into_iter().for_each(Peer::reset);
    eventually_eq(|| proxy.stats().connections_closed, 50);
    assert_eq!(proxy.stats().connects_pending, 0);
}

#[test]
fn connections_come_from_the_source_address() {
    let origin = Origin::script(2, |peer| {
        assert_eq!(peer.stream().peer_addr().unwrap().ip(), loopback(5));
        peer.read_head();
        peer.send(OK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
    });
    let proxy = Binary::start(&["--source-address", "127.0.0.5"]);
    for _ in 0..2 {
        assert_eq!(get(proxy.addr, origin.addr, "/").text(), "ok");
    }
    origin.join();
    // There is no source address for IPv6.
    let response = get(proxy.addr, "[::1]:9".parse().unwrap(), "/");
    assert_refused(&response, 502, "destination_ip_unroutable");
    assert!(response.text().contains("source address"), "{}", response.text());
}

#[test]
fn a_source_address_of_each_family_serves_its_own() {
    let Some(six) = listen_v6() else { return };
    let origins = [Origin::script_on(six, 1, from_loopback), Origin::script(1, from_loopback)];
    let proxy = proxy_with(|options| {
        let v6 = Some(Ipv6Addr::LOCALHOST.into());
        options.sources = Sources { v4: Some(loopback(5)), v6 };
    });
    for origin in origins {
        assert_eq!(get(proxy.addr(), origin.addr, "/").text(), "ok");
        origin.join();
    }
}

fn from_loopback(peer: &mut Peer) {
    let ip = peer.stream().peer_addr().unwrap().ip();
    assert!(ip == loopback(5) || ip == Ipv6Addr::LOCALHOST, "{ip}");
    peer.read_head();
    peer.send(OK);
}

/// The kind and the time (s) of the kernel's timer for each connection with this remote port, and this
/// local one if it is given; kind 2 is keepalive.
fn timers(local: Option<u16>, remote: u16) -> Vec<(u8, u64)> {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let ends = |place: &str, port: u16| place.ends_with(&format!(":{port:04X}"));
    let connections = table.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        if !ends(words[2], remote) || !local.is_none_or(|local| ends(words[1], local)) {
            return None;
        }
        let (kind, when) = words[5].split_once(':')?;
        // The field is in hundredths of a second.
        let when = u64::from_str_radix(when, 16).unwrap() / 100;
        Some((u8::from_str_radix(kind, 16).unwrap(), when))
    });
    connections.collect()
}

#[test]
fn the_kernel_looks_after_both_sides_of_a_tunnel_that_lasts() {
    const KEEPALIVE: u8 = 2;
    let origin = Origin::hostile(1, NeverAnswers);
    // A tunnel counts as lasting after a tenth of this.
    let proxy = proxy_with(|options| options.timeouts.tunnel = Duration::from_secs(5));
    let mut client = Peer::connect(proxy.addr());
    client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.addr));
    let head = client.read_head();
    assert!(head.starts_with("HTTP/1.1 200 ") && field(&head, "content-length").is_none());
    // The origin server sends nothing of its own accord: it waits for the head.
    let here = client.stream().local_addr().unwrap().port();
    let of_client = timers(Some(proxy.addr().port()), here);
    let lasts = |(kind, when): &(u8, u64)| *kind == KEEPALIVE && (50..=60).contains(when);
    assert!(of_client.iter().any(lasts), "{of_client:?}");
    // An older connection that lingers may have had a port of the same number at its other end.
    eventually(|| timers(None, origin.addr.port()).iter().any(|(kind, _)| *kind == KEEPALIVE));
    client.send("GET / HTTP/1.1\r\n\r\n");
    client.half_close();
    assert_eq!(client.read_to_end(), b"");
    origin.join();
}
