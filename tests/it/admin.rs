//! The admin listener: its answers, who may ask, and what its clients cannot do to it or the proxy.
//!
//! The numbers themselves are tested in `metrics`.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use threadgate::Server;
use threadgate::net::listener::ListenPlace;
use threadgate::server::Options;

use crate::hostile::NeverReads;
use crate::peers::{Moment, Peer, Response, STEP, eventually, eventually_eq, field};
use crate::proxies::{Binary, OK, command, get, get_request, proxy_with, proxy_with_one_worker};
use crate::servers::{Origin, listen};

const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const PATHS: [&str; 5] = ["/", "/metrics", "/stats.json", "/healthz", "/readyz"];

/// A proxy with an admin listener on loopback.
pub(crate) fn proxy_with_admin(change: impl FnOnce(&mut Options)) -> Server {
    proxy_with(|options| {
        options.admin = Some(ListenPlace::Tcp(ANYWHERE));
        change(options);
    })
}

#[track_caller]
pub(crate) fn admin_of(proxy: &Server) -> SocketAddr {
    match proxy.admin() {
        Some(ListenPlace::Tcp(address)) => *address,
        other => panic!("an address, not {other:?}"),
    }
}

/// The response to this request, on a connection of its own.
#[track_caller]
pub(crate) fn ask(admin: SocketAddr, request: &str) -> Response {
    let mut client = Peer::connect(admin);
    client.send(request);
    client.read_response()
}

#[track_caller]
pub(crate) fn fetch(admin: SocketAddr, path: &str) -> Response {
    ask(admin, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
}

#[test]
fn each_path_says_what_it_is_for_on_a_connection_of_its_own() {
    let proxy = proxy_with_admin(|_| {});
    for (path, status, media_type, says) in [
        ("/", 200, "text/plain; charset=utf-8", "threadgate is serving"),
        ("/metrics", 200, "text/plain; version=0.0.4; charset=utf-8", "# HELP threadgate_"),
        ("/stats.json", 200, "application/json", "\"state\": \"serving\""),
        ("/healthz", 200, "text/plain; charset=utf-8", "ok\n"),
        ("/readyz?verbose", 200, "text/plain; charset=utf-8", "ready\n"),
        ("/nowhere", 404, "text/plain; charset=utf-8", "/stats.json"),
        ("/metrics/../../etc/passwd", 404, "text/plain; charset=utf-8", "not found"),
    ] {
        let mut client = Peer::connect(admin_of(&proxy));
        client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let got = client.read_response();
        client.expect_eof();
        assert_eq!((got.status, got.field("content-type")), (status, Some(media_type)), "{path}");
        assert!(got.text().contains(says), "{path}: {}", got.text());
        assert_eq!(got.field("cache-control"), Some("no-store"), "{path}");
        assert_eq!(got.field("connection"), Some("close"), "{path}");
    }
}

#[test]
fn a_browser_gets_a_page_that_brings_nothing_from_elsewhere() {
    let proxy = proxy_with_admin(|_| {});
    let page = ask(
        admin_of(&proxy),
        "GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/html,*/*;q=0.8\r\n\r\n",
    );
    assert_eq!(page.field("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.field("content-security-policy").unwrap().contains("default-src 'none'"));
    let html = page.text();
    for part in ["<!doctype html>", "prefers-color-scheme:dark", "href=\"/metrics\"", "serving"] {
        assert!(html.contains(part), "{part}: {html}");
    }
    assert!(!html.contains("http:") && !html.contains("src="), "{html}");
}

#[test]
fn only_reading_is_allowed() {
    let proxy = proxy_with_admin(|_| {});
    let admin = admin_of(&proxy);
    for path in PATHS {
        let whole = fetch(admin, path);
        let mut client = Peer::connect(admin);
        client
            .send(format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
        let head = client.read_head();
        assert_eq!(field(&head, "content-type"), whole.field("content-type"), "{path}");
        assert_ne!(field(&head, "content-length"), Some("0"), "{path}");
        client.expect_eof();
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PURGE"] {
            let refused =
                ask(admin, &format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
            assert_eq!(refused.status, 405, "{method} {path}");
            assert_eq!(refused.field("allow"), Some("GET, HEAD"), "{method} {path}");
        }
    }
    assert_eq!(ask(admin, "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n").status, 405);
}

#[test]
fn content_is_not_waited_for_and_never_read_as_a_request() {
    let proxy = proxy_with_admin(|_| {});
    let mut client = Peer::connect(admin_of(&proxy));
    client.send(
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 40\r\n\r\nGET /metrics HTTP/1.1\r\n",
    );
    let got = client.read_response();
    assert_eq!((got.status, got.field("connection")), (200, Some("close")));
    client.expect_end();
}

#[test]
fn it_forwards_nothing() {
    let proxy = proxy_with_admin(|_| {});
    let admin = admin_of(&proxy);
    let origin = crate::servers::Untouched::new();
    for request in [
        get_request(origin.addr, "/"),
        format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.addr),
        "GET https://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n".to_owned(),
    ] {
        let refused = ask(admin, &request);
        assert_eq!(refused.status, 421, "{request}");
        assert!(refused.text().contains("forwards nothing"), "{}", refused.text());
    }
}

/// Otherwise every user of the proxy could read what is meant for this machine alone.
#[test]
fn the_proxy_does_not_lead_to_its_admin_listener() {
    let proxy = proxy_with_admin(|_| {});
    let admin = admin_of(&proxy);
    let refused = get(proxy.addr(), admin, "/metrics");
    assert_eq!(refused.status, 508, "{}", refused.text());
    let mut client = Peer::connect(proxy.addr());
    client.send(format!("CONNECT {admin} HTTP/1.1\r\nHost: {admin}\r\n\r\n"));
    assert_eq!(client.read_response().status, 508);
    assert_eq!(proxy.stats().admin_connections_accepted, 0);
}

#[test]
fn what_is_no_request_is_refused_and_said() {
    let proxy = proxy_with_admin(|_| {});
    let admin = admin_of(&proxy);
    let long = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(40 << 10));
    for (request, status) in [
        ("what is this?\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        (
            "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            400,
        ),
        ("GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", 505),
        (&long, 431),
    ] {
        let mut client = Peer::connect(admin);
        // The server may refuse before it has read everything.
        let _ = client.try_send(request);
        assert_eq!(client.read_response().status, status, "{request:.60}");
        client.expect_end();
    }
    let mut tls = Peer::connect(admin);
    tls.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    assert_eq!(tls.read_to_any_end().0, b"\x15\x03\x01\x00\x02\x02\x46");
    let stats = proxy.stats();
    assert_eq!((stats.exchanges_begun, stats.failures), (0, [0; 3]), "no exchange of the proxy's");
}

#[test]
fn slow_clients_are_refused_in_time_and_hold_no_worker() {
    let origin = Origin::answer(OK);
    let proxy = proxy_with_one_worker(|options| {
        options.admin = Some(ListenPlace::Tcp(ANYWHERE));
        options.timeouts.head = Duration::from_millis(400);
        options.timeouts.response = Duration::from_millis(400);
    });
    let admin = admin_of(&proxy);
    let mut slow: Vec<Peer> = (0..8).map(|_| Peer::connect(admin)).collect();
    slow.iter_mut().for_each(|client| client.send("GET /metrics HTT"));
    // More answers than a socket holds, one request each, and no reader.
    let many = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(400);
    let readers: Vec<_> = (0..4).map(|_| NeverReads::ask(admin, &many)).collect();
    eventually(|| proxy.stats().admin_requests >= 4);
    let start = Instant::now();
    assert_eq!(get(proxy.addr(), origin.addr, "/").status, 200);
    assert_eq!(fetch(admin, "/healthz").status, 200);
    assert!(start.elapsed() < STEP);
    for client in &mut slow {
        assert_eq!(client.read_response().status, 408);
        client.expect_end();
    }
    eventually_eq(|| proxy.report().gauges.admin_connections_open, 0);
    drop(readers);
}

#[test]
fn it_answers_while_the_proxy_is_full() {
    let proxy = proxy_with_admin(|options| options.max_connections = NonZeroUsize::new(2));
    let (asked, answer) = (Moment::new(), Moment::new());
    let (is_asked, may_answer) = (asked.clone(), answer.clone());
    let origin = Origin::script_at_once(2, move |peer| {
        peer.read_head();
        is_asked.has_come();
        may_answer.wait();
        peer.send(OK);
    });
    let mut clients: Vec<Peer> = (0..2).map(|_| Peer::connect(proxy.addr())).collect();
    for client in &mut clients {
        client.send(get_request(origin.addr, "/"));
        asked.wait();
    }
    let mut waits = Peer::connect(proxy.addr());
    waits.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    eventually(|| proxy.stats().accepts_refused_no_permit == 1);
    assert!(!waits.has_something_within(Duration::from_millis(50)), "the proxy is full");
    for path in PATHS {
        assert_eq!(fetch(admin_of(&proxy), path).status, 200, "{path}");
    }
    let gauges = proxy.report().gauges;
    assert_eq!((gauges.connections_open, gauges.connections_max, gauges.ready), (2, 2, 1));
    // Either of the two connections may hear it first.
    clients.iter().for_each(|_| answer.has_come());
    for client in &mut clients {
        assert_eq!(client.read_response().status, 200);
    }
    drop(clients);
    assert_eq!(waits.read_response().status, 200);
}

#[test]
fn the_seventeenth_connection_waits_for_one_to_leave() {
    let origin = Origin::answer(OK);
    let proxy = proxy_with_admin(|_| {});
    let admin = admin_of(&proxy);
    let mut slow: Vec<Peer> = (0..16).map(|_| Peer::connect(admin)).collect();
    eventually_eq(|| proxy.report().gauges.admin_connections_open, 16);
    let mut one_more = Peer::connect(admin);
    one_more.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(!one_more.has_something_within(Duration::from_millis(100)));
    assert_eq!(get(proxy.addr(), origin.addr, "/").status, 200, "the proxy's places are others");
    slow.pop();
    assert_eq!(one_more.read_response().status, 200);
    let stats = proxy.stats();
    assert_eq!(stats.accepts_refused_no_permit, 0, "a number of the proxy's own listeners");
}

/// Less than a wait of seconds, and more than the stall of a busy machine.
const SOON: Duration = Duration::from_millis(1900);

/// Otherwise an orchestrator would kill a proxy that is well. Connections that neither ask nor leave
/// would each keep their place for 2 s, and a client waiting behind many would wait many times that.
#[test]
fn connections_that_do_not_ask_make_way_for_who_asks_whether_it_is_alive() {
    for (count, says) in [
        (16, "G"),
        (17, "G"),
        (47, "G"),
        (256, "G"),
        (16, ""),
        (256, ""),
        (256, "GET /readyz HTTP/1.1\r\nHost: localhost\r\n"),
        // These clients are answered, and stay.
        (256, "GET\r\n\r\n"),
    ] {
        for from in [[127, 0, 0, 1], [127, 0, 0, 2]] {
            let proxy = proxy_with_admin(|_| {});
            let admin = admin_of(&proxy);
            let mut others: Vec<Peer> = (0..count).map(|_| Peer::connect(admin)).collect();
            // A client that had to go already may not take the bytes.
            others.iter_mut().for_each(|other| drop(other.try_send(says)));
            for path in ["/readyz", "/healthz"] {
                let start = Instant::now();
                let mut client = Peer::connect_from(from, admin);
                client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
                assert_eq!(client.read_response().status, 200, "{path} {count} {says:?} {from:?}");
                let took = start.elapsed();
                assert!(took < SOON, "{path} {count} {says:?} {from:?}: {took:?}");
            }
            if says.is_empty() {
                // The newest of them is still there, and is served when it finally asks.
                let newest = others.last_mut().unwrap();
                newest.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
                assert_eq!(newest.read_response().status, 200);
            }
        }
    }
}

/// A web page can have its own name lead to loopback, and would read the answer.
#[test]
fn it_answers_only_to_localhost_and_the_names_it_has() {
    let proxy = proxy_with_admin(|_| {});
    let admin = admin_of(&proxy);
    let with = |host: &str| ask(admin, &format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    let port = admin.port();
    for host in ["localhost", "LOCALHOST:1", "", "192.0.2.1", &format!("127.0.0.1:{port}"), "[::1]"]
    {
        assert_eq!(with(host).status, 200, "{host}");
    }
    for host in ["a", "rebound.example", &format!("rebound.example:{port}"), "localhost.example"] {
        let refused = with(host);
        assert_eq!(refused.status, 421, "{host}");
        assert!(
            refused.text().contains("answers only to addresses, localhost"),
            "{}",
            refused.text()
        );
    }
    assert_eq!(ask(admin, "GET /metrics HTTP/1.0\r\n\r\n").status, 200, "asks for nobody");
    drop(proxy);

    // A listener that others reach may have been given a name, which must be set with an option.
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
    for place in [any, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))] {
        let proxy = proxy_with(|options| {
            options.admin = Some(ListenPlace::Tcp(place));
            options.admin_names = vec!["proxy.lan".into()];
        });
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, admin_of(&proxy).port()));
        let with =
            |host: &str| ask(loopback, &format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        for host in ["proxy.lan", "Proxy.LAN.:9127", "localhost", "10.1.2.3:9127", "[::1]"] {
            assert_eq!(with(host).status, 200, "{place} {host}");
        }
        for host in ["rebound.example", "proxy.lan.example", "x.proxy.lan"] {
            assert_eq!(with(host).status, 421, "{place} {host}");
        }
        if place == any {
            assert_eq!(with(&own).status, 200, "{own}");
        }
    }
}

#[test]
fn while_it_drains_it_is_healthy_and_not_ready() {
    let (asked, answer) = (Moment::new(), Moment::new());
    let (is_asked, may_answer) = (asked.clone(), answer.clone());
    let origin = Origin::script(1, move |peer| {
        peer.read_head();
        is_asked.has_come();
        may_answer.wait();
        peer.send(OK);
    });
    let proxy = proxy_with_admin(|_| {});
    let (addr, admin) = (proxy.addr(), admin_of(&proxy));
    assert_eq!(fetch(admin, "/readyz").text(), "ready\n");
    let mut client = Peer::connect(addr);
    client.send(get_request(origin.addr, "/"));
    asked.wait();
    let stopping = thread::spawn(move || proxy.shutdown(STEP));
    // A load balancer that comes again learns that it should go elsewhere.
    let mut early = Peer::connect(admin);
    assert!(!early.has_something_within(Duration::from_millis(50)));
    early.send("GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let unready = early.read_response();
    assert_eq!((unready.status, unready.text()), (503, "not ready: the proxy is draining\n"));
    assert_eq!(unready.field("connection"), Some("close"));
    assert_eq!(fetch(admin, "/healthz").status, 200);
    let stats = fetch(admin, "/stats.json");
    assert!(stats.text().contains("\"state\": \"draining\""), "{}", stats.text());
    assert!(fetch(admin, "/metrics").text().contains("\nthreadgate_ready 0\n"));
    answer.has_come();
    assert_eq!(client.read_response().status, 200);
    assert_eq!(stopping.join().unwrap(), 0);
    assert!(TcpStream::connect(admin).is_err(), "gone with the proxy");
}

#[test]
fn an_admin_client_does_not_hold_up_the_end() {
    let proxy = proxy_with_admin(|_| {});
    let mut silent = Peer::connect(admin_of(&proxy));
    silent.send("GET /met");
    eventually_eq(|| proxy.stats().admin_connections_accepted, 1);
    let start = Instant::now();
    proxy.shutdown(STEP);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    silent.expect_end();
}

#[test]
fn its_requests_are_in_no_access_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let mut proxy = Binary::start(&["--admin", ":0", "--access-log", log.to_str().unwrap()]);
    let admin = ports(&proxy)[1];
    assert_eq!(fetch(admin, "/healthz").status, 200);
    let mut client = Peer::connect(proxy.addr);
    client.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!(client.read_response().status, 200);
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(0));
    assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), 1, "the proxy's own");
}

/// The addresses in the port file.
fn ports(proxy: &Binary) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(proxy.dir.path().join("port")).unwrap();
    let port = |line: &str| SocketAddr::from((Ipv4Addr::LOCALHOST, line.parse().unwrap()));
    text.lines().map(port).collect()
}

#[test]
fn its_port_is_the_last_line_of_the_port_file_and_stands_in_the_log() {
    let mut proxy = Binary::start(&["--admin", ":0"]);
    let ports = ports(&proxy);
    assert_eq!((ports.len(), ports[0]), (2, proxy.addr));
    assert_eq!(fetch(ports[1], "/readyz").text(), "ready\n");
    eventually(|| proxy.stderr().lines().count() == 2);
    assert!(proxy.stderr().contains(&format!("admin: http://{}/ ", ports[1])));
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(TcpStream::connect(ports[1]).is_err());
}

#[test]
fn who_may_reach_it_beyond_loopback_is_said() {
    for (args, says) in [
        (&["--admin", "0.0.0.0:0"][..], "the admin listener serves private networks only"),
        (&["--admin", "0.0.0.0:0", "--open"], "anyone who can reach the admin listener"),
    ] {
        let proxy = Binary::start(args);
        eventually(|| proxy.stderr().contains(says));
        assert_eq!(fetch(ports(&proxy)[1], "/healthz").status, 200);
    }
}

/// The binary's message when it does not start, and its exit code.
#[track_caller]
fn refused(args: &[&str]) -> (Option<i32>, String) {
    let usual = ["--listen", "127.0.0.1:0"];
    let mut child = command(&[&usual, args].concat()).spawn().unwrap();
    eventually(|| child.try_wait().unwrap().is_some());
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_place_that_cannot_be_had_is_said_with_the_right_code() {
    let taken = listen();
    let address = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let nowhere = dir.path().join("no/such/socket");
    let unix = |path: &Path| format!("unix:{}", path.display());
    for (place, code, says) in [
        (address.clone(), 69, "in use"),
        (unix(&file), 69, "is not a socket"),
        (unix(&nowhere), 69, "does not exist"),
        ("9127".to_owned(), 2, "write :9127"),
        ("unix:".to_owned(), 2, "has no path"),
        ("192.0.2.1:9127".to_owned(), 69, "not an address of this machine"),
    ] {
        let (exit, said) = refused(&["--admin", &place]);
        assert_eq!(exit, Some(code), "{place}: {said}");
        assert!(said.contains("--admin") && said.contains(says), "{place}: {said}");
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}

/// The answer on a unix socket to a request for `path`.
#[track_caller]
fn fetch_unix(socket: &Path, path: &str) -> String {
    let mut client = UnixStream::connect(socket).expect("connects");
    client.set_read_timeout(Some(STEP)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    client.write_all(request.as_bytes()).unwrap();
    let mut said = String::new();
    client.read_to_string(&mut said).unwrap();
    said
}

#[test]
fn a_unix_socket_is_for_its_owner_and_goes_with_the_proxy() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("admin");
    let place = format!("unix:{}", socket.display());
    let mut proxy = Binary::start(&["--admin", &place]);
    let file = std::fs::symlink_metadata(&socket).unwrap();
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    for path in PATHS {
        assert!(fetch_unix(&socket, path).starts_with("HTTP/1.1 200 OK\r\n"), "{path}");
    }
    assert_eq!(ports(&proxy).len(), 1, "a file has no port");
    eventually(|| proxy.stderr().contains(&format!("--unix-socket {} ", socket.display())));

    let (exit, said) = refused(&["--admin", &place]);
    assert_eq!(exit, Some(69), "{said}");
    assert!(said.contains("another process listens there"), "{said}");
    assert!(fetch_unix(&socket, "/readyz").ends_with("ready\n"), "the first one goes on");

    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn a_socket_left_by_a_dead_proxy_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("admin");
    let place = format!("unix:{}", socket.display());
    let mut killed = Binary::start(&["--admin", &place]);
    killed.signal(Signal::KILL);
    killed.wait();
    assert!(socket.exists(), "nobody was left to remove it");
    let proxy = Binary::start(&["--admin", &place]);
    assert!(fetch_unix(&socket, "/readyz").ends_with("ready\n"));
    drop(proxy);
}

#[test]
fn a_unix_client_may_be_slow_too() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("admin");
    let proxy = proxy_with_one_worker(|options| {
        options.admin = Some(ListenPlace::Unix(socket.clone()));
        options.timeouts.head = Duration::from_millis(200);
    });
    let mut slow = UnixStream::connect(&socket).unwrap();
    slow.set_read_timeout(Some(STEP)).unwrap();
    slow.write_all(b"GET /metr").unwrap();
    assert!(fetch_unix(&socket, "/healthz").ends_with("ok\n"));
    let mut said = String::new();
    slow.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
    assert!(UnixListener::bind(&socket).is_err(), "still there");
    drop(proxy);
    assert!(!socket.exists());
}
