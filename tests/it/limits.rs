//! Limits: the rate of bytes, and the refusal of clients that want too much.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use threadgate::Server;
use threadgate::config::access::AccessOptions;
use threadgate::config::limits::LimitOptions;
use threadgate::observe::stats::Wait;
use threadgate::policy::Access;

use crate::peers::{Peer, Response, eventually, eventually_eq, pattern};
use crate::proxies::{Binary, OK, get_request, proxy_with, proxy_with_one_worker};
use crate::servers::{Origin, listen};

fn access(limits: LimitOptions) -> Access {
    AccessOptions { limits, ..AccessOptions::default() }.build(None).unwrap()
}

fn rates(limit: &[&str]) -> Access {
    let limit = limit.iter().map(|text| (*text).to_owned()).collect();
    access(LimitOptions { limit, ..LimitOptions::default() })
}

pub(crate) fn limited(limit: &[&str]) -> Server {
    proxy_with(|options| options.access = rates(limit))
}

/// Sends the number of bytes in each request's path, on every connection.
pub(crate) fn downloads() -> SocketAddr {
    let listener = listen();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || serve_downloads(&mut Peer::new(stream)));
        }
    });
    addr
}

fn serve_downloads(peer: &mut Peer) {
    while let Some(head) = peer.try_read_head() {
        let path = head.split(' ').nth(1).unwrap();
        let length: usize = path.trim_start_matches('/').parse().unwrap();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        if peer.try_send([head.into_bytes(), pattern(length)].concat()).is_err() {
            return;
        }
    }
}

/// Asks for `bytes` bytes, and reads the head.
#[track_caller]
pub(crate) fn begin(proxy: SocketAddr, origin: SocketAddr, bytes: usize) -> Peer {
    let mut client = Peer::connect(proxy);
    client.send(get_request(origin, &format!("/{bytes}")));
    assert!(client.read_head().starts_with("HTTP/1.1 200"));
    client
}

/// A download from its head to its last byte, with each byte checked.
#[track_caller]
fn download(proxy: SocketAddr, origin: SocketAddr, bytes: usize) -> Duration {
    let expected = pattern(bytes);
    let mut client = begin(proxy, origin, bytes);
    let started = Instant::now();
    let received = client.read_exact(bytes);
    let took = started.elapsed();
    assert!(received == expected, "other bytes came");
    took
}

/// Checks that `bytes` took as long as they should at `rate`. A pause saves up a tenth of a second's
/// worth. The last portion, of at least ten a second, comes when its turn begins.
#[track_caller]
fn assert_rate(took: Duration, bytes: usize, rate: usize) {
    let exact = bytes as f64 / rate as f64;
    let took = took.as_secs_f64();
    // A busy machine may take longer.
    let right = (exact - 0.2) * 0.97..exact * 1.05 + 0.5;
    assert!(right.contains(&took), "{took} s instead of {exact} s");
}

fn waits_for_tokens(proxy: &Server) -> u64 {
    proxy.stats().parked()[Wait::Tokens as usize]
}

#[test]
fn a_download_has_the_rate_it_may_have() {
    let origin = downloads();
    for (limit, rate, bytes) in [
        ("down=20kB/s", 20_000, 30_000),
        ("client:down=800kbit", 100_000, 150_000),
        ("connection:2MB/s", 2_000_000, 2_000_000),
    ] {
        let proxy = limited(&[limit]);
        let took = download(proxy.addr(), origin, bytes);
        assert_rate(took, bytes, rate);
        let stats = proxy.stats();
        assert!(stats.token_wait_seconds.count() > 5, "{limit}");
        eventually_eq(|| waits_for_tokens(&proxy), 0);
    }
}

#[test]
fn a_fast_rate_goes_through_pipes() {
    let origin = downloads();
    let proxy = limited(&["down=10MB/s"]);
    let bytes = 7_000_000;
    let took = download(proxy.addr(), origin, bytes);
    // A busy machine may take longer.
    assert!(took > Duration::from_millis(480), "{took:?}");
    let stats = proxy.stats();
    assert!(stats.bytes_spliced > 4_000_000, "{}", stats.bytes_spliced);
}

#[test]
fn an_upload_has_the_rate_it_may_have() {
    let bytes = 150_000;
    let origin = Origin::script(1, move |peer| {
        peer.read_head();
        assert!(peer.read_exact(bytes) == pattern(bytes), "other bytes came");
        peer.send(OK);
    });
    let proxy = limited(&["client:up=100kB/s", "total:down=8kbit"]);
    let mut client = Peer::connect(proxy.addr());
    let to = origin.addr;
    let started = Instant::now();
    client.send(format!(
        "POST http://{to}/ HTTP/1.1\r\nHost: {to}\r\nContent-Length: {bytes}\r\n\r\n"
    ));
    client.send(pattern(bytes));
    assert_eq!(client.read_response().status, 200);
    assert_rate(started.elapsed(), bytes, 100_000);
}

#[test]
fn heads_and_small_responses_count_too() {
    let origin = downloads();
    let get = |client: &mut Peer, filler: usize, bytes| {
        let filler = "x".repeat(filler);
        client.send(format!(
            "GET http://{origin}/{bytes} HTTP/1.1\r\nHost: {origin}\r\nA: {filler}\r\n\r\n"
        ));
        assert_eq!(client.read_response().status, 200);
    };
    for (limit, filler, bytes) in [("client:up=50kB/s", 5_000, 0), ("down=50kB/s", 0, 5_000)] {
        let proxy = limited(&[limit]);
        let started = Instant::now();
        // Each asks on a new connection, and one connection is for all.
        for _ in 0..5 {
            get(&mut Peer::connect(proxy.addr()), filler, bytes);
        }
        let mut client = Peer::connect(proxy.addr());
        (0..5).for_each(|_| get(&mut client, filler, bytes));
        assert_rate(started.elapsed(), 50_000, 50_000);
    }
}

#[test]
fn a_head_larger_than_what_is_let_through_at_a_time_comes_whole() {
    for (bytes, limit, rate) in [
        (600, "down=2kB/s", 2_000),
        (2_000, "down=10kB/s", 10_000),
        (9_000, "client:down=50kB/s", 50_000),
        (20_000, "connection:down=100kB/s", 100_000),
    ] {
        let filler = "x".repeat(bytes);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nA: {filler}\r\n\r\nok");
        let origin = Origin::script(1, move |peer| {
            for _ in 0..3 {
                peer.read_head();
                peer.send(&head);
            }
        });
        let proxy = limited(&[limit]);
        let mut client = Peer::connect(proxy.addr());
        let started = Instant::now();
        for _ in 0..3 {
            client.send(get_request(origin.addr, "/"));
            let response = client.read_response();
            assert_eq!(response.status, 200, "{bytes} {limit}: {}", response.head);
            assert_eq!(response.content, b"ok");
        }
        let least = Duration::from_secs_f64((3 * bytes) as f64 / rate as f64 * 0.9 - 0.2);
        assert!(started.elapsed() >= least, "{bytes} {limit}: {:?}", started.elapsed());
        origin.join();
    }
}

#[test]
fn a_tunnel_has_its_rates_in_both_directions() {
    let bytes = 100_000;
    let origin = Origin::script(1, move |peer| {
        peer.send(pattern(bytes));
        assert!(peer.read_exact(bytes) == pattern(bytes), "other bytes came");
        peer.send("done");
    });
    let proxy = limited(&["up=50kB/s", "connection:down=100kB/s"]);
    let mut client = Peer::connect(proxy.addr());
    let to = origin.addr;
    let started = Instant::now();
    client.send(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n"));
    assert!(client.read_head().starts_with("HTTP/1.1 200"));
    client.send(pattern(bytes));
    assert!(client.read_exact(bytes) == pattern(bytes), "other bytes came");
    assert_rate(started.elapsed(), bytes, 100_000);
    assert_eq!(client.read_text(4), "done");
    assert_rate(started.elapsed(), bytes, 50_000);
    origin.join();
}

#[test]
fn throttled_downloads_hold_no_worker_and_free_all_when_they_go() {
    let (slow, fast) = (downloads(), downloads());
    let limit = format!("destination=127.0.0.1:{}:down=100kB/s", slow.port());
    let proxy = proxy_with_one_worker(|options| options.access = rates(&[&limit]));
    let clients: Vec<_> = (0..100)
        .map(|_| {
            let mut client = Peer::connect(proxy.addr());
            client.send(get_request(slow, "/1000000"));
            client
        })
        .collect();
    eventually(|| waits_for_tokens(&proxy) > 50);
    let mut client = Peer::connect(proxy.addr());
    let mut times: Vec<_> = (0..200)
        .map(|_| {
            let started = Instant::now();
            client.send(get_request(fast, "/100"));
            assert_eq!(client.read_response().content.len(), 100);
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    assert!(times[190] < Duration::from_millis(50), "{:?}", &times[180..]);
    assert!(waits_for_tokens(&proxy) > 50);
    drop((clients, client));
    eventually_eq(|| waits_for_tokens(&proxy), 0);
    eventually_eq(|| proxy.stats().active_connections(), 0);
    // The allowance that they had reserved and did not take is free again.
    let took = download(proxy.addr(), slow, 50_000);
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn what_the_source_of_a_throttled_download_says_meanwhile_wakes_nobody() {
    let origin = Origin::script(1, |peer| {
        peer.read_head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
        // Often, and more than goes through.
        while peer.try_send([b'x'; 100]).is_ok() {
            thread::sleep(Duration::from_millis(1));
        }
    });
    let proxy = limited(&["down=20kB/s"]);
    let client = begin(proxy.addr(), origin.addr, 0);
    let waits = || proxy.stats().token_wait_seconds.count();
    eventually(|| waits() > 2);
    let (turns, before) = (proxy.stats().turns, waits());
    eventually(|| waits() >= before + 15);
    let turns = proxy.stats().turns - turns;
    assert!(turns < 30, "{turns} turns for 15 waits");
    drop(client);
    origin.join();
}

#[test]
fn another_rate_holds_at_once_for_what_is_under_way() {
    let origin = downloads();
    let proxy = limited(&["client:down=20kB/s"]);
    let bytes = 1_000_000;
    let mut client = begin(proxy.addr(), origin, bytes);
    let started = Instant::now();
    client.read_exact(10_000);
    assert_eq!(proxy.stats().parked()[Wait::Tokens as usize], 1);
    proxy.set_access(&rates(&["client:down=2MB/s"]), false);
    client.read_exact(bytes - 10_000);
    let took = started.elapsed();
    assert!((0.4..3.0).contains(&took.as_secs_f64()), "{took:?}");
    // First no limit at all, then one that was not there before.
    let mut client = begin(proxy.addr(), origin, 1_000_000);
    proxy.set_access(&rates(&[]), false);
    client.read_exact(500_000);
    drop(client);
}

#[test]
fn a_rate_that_is_new_holds_for_what_is_under_way() {
    let origin = Origin::script(1, |peer| {
        peer.read_head();
        peer.send("HTTP/1.1 200 OK\r\n\r\n");
        peer.send(pattern(100_000));
        peer.read_until(b"more");
        peer.send(pattern(100_000));
    });
    let proxy = limited(&[]);
    let mut client = Peer::connect(proxy.addr());
    let to = origin.addr;
    client.send(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n"));
    client.read_head();
    client.send("GET / HTTP/1.1\r\n\r\n");
    client.read_head();
    client.read_exact(100_000);
    proxy.set_access(&rates(&["down=100kB/s"]), false);
    let started = Instant::now();
    client.send("more");
    client.read_exact(100_000);
    assert_rate(started.elapsed(), 100_000, 100_000);
    origin.join();
}

#[test]
fn who_waits_for_long_waits_no_longer_than_there_is_a_reason() {
    let origin = downloads();
    // A large head for each: the later ones would wait for 10 s and more.
    let filler = "x".repeat(10_000);
    let head = format!("GET http://{origin}/10 HTTP/1.1\r\nHost: {origin}\r\nA: {filler}\r\n\r\n");
    for then in [&["up=100MB/s"][..], &["client:up=100MB/s"], &[]] {
        let proxy = limited(&["up=1kB/s"]);
        let mut clients: Vec<_> = (0..4).map(|_| Peer::connect(proxy.addr())).collect();
        clients.iter_mut().for_each(|client| client.send(&head));
        eventually(|| waits_for_tokens(&proxy) == 3);
        let started = Instant::now();
        proxy.set_access(&rates(then), false);
        clients.iter_mut().for_each(|client| assert_eq!(client.read_response().status, 200));
        assert!(started.elapsed() < Duration::from_secs(6), "{then:?}: {:?}", started.elapsed());
    }
}

fn refused(response: &Response, status: u16, rule: &str) {
    assert_eq!(response.status, status, "{}", response.head);
    assert_eq!(response.rule(), Some(rule), "{}", response.head);
}

#[test]
fn too_many_requests_are_told_when_to_come_again() {
    let origin = downloads();
    let limits = LimitOptions { limit_requests: Some("3/m".into()), ..LimitOptions::default() };
    let proxy = proxy_with(|options| options.access = access(limits));
    let mut client = Peer::connect(proxy.addr());
    let mut ask = || {
        client.send(get_request(origin, "/10"));
        client.read_response()
    };
    assert!((0..3).all(|_| ask().status == 200));
    for _ in 0..2 {
        let response = ask();
        refused(&response, 429, "--limit-requests");
        let seconds: u32 = response.field("retry-after").unwrap().parse().unwrap();
        assert!((10..=20).contains(&seconds), "{seconds}");
        assert_eq!(response.field("connection"), None, "the connection is kept");
    }
    assert_eq!(proxy.stats().limited, [2, 0, 0]);
    assert_eq!(proxy.stats().active_connections(), 1);
    let page = "GET / HTTP/1.1\r\nHost: here\r\n\r\n";
    client.send(page);
    assert_eq!(client.read_response().status, 200, "what goes nowhere is no request of these");
}

#[test]
fn a_client_with_too_many_connections_is_told_so() {
    let origin = downloads();
    let limits = LimitOptions { limit_connections: Some("2".into()), ..LimitOptions::default() };
    let proxy = proxy_with(|options| options.access = access(limits));
    let ask = |client: &mut Peer| {
        client.send(get_request(origin, "/10"));
        client.read_response()
    };
    let mut clients: Vec<_> = (0..4).map(|_| Peer::connect(proxy.addr())).collect();
    eventually_eq(|| proxy.stats().connections_accepted, 4);
    assert!(clients[..2].iter_mut().all(|client| ask(client).status == 200));
    let response = ask(&mut clients[3]);
    refused(&response, 429, "--limit-connections");
    assert_eq!(response.field("connection"), Some("close"));
    clients[3].expect_end();
    // Beyond twice as many, clients are not even told.
    let more: Vec<_> = (0..2).map(|_| Peer::connect(proxy.addr())).collect();
    for mut client in more {
        if client.try_send("GET / HTTP/1.1\r\n\r\n").is_ok() {
            client.read_to_any_end();
        }
    }
    clients.remove(0);
    eventually(|| proxy.stats().active_connections() <= 2);
    assert_eq!(ask(&mut clients[1]).status, 200, "there is room for it now");
    assert!(proxy.stats().limited[1] >= 2, "{:?}", proxy.stats().limited);
}

#[test]
fn who_has_ended_its_side_keeps_its_place_until_the_answer() {
    let (answer, answered) = std::sync::mpsc::channel();
    let origin = Origin::script(2, move |peer| {
        peer.read_head();
        answered.recv().unwrap();
        let _ = peer.try_send(OK);
    });
    let limits = LimitOptions { limit_connections: Some("1".into()), ..LimitOptions::default() };
    let proxy = proxy_with(|options| options.access = access(limits));
    // One connection beyond those that are told gets nothing.
    let page = || {
        let mut client = Peer::connect(proxy.addr());
        let _ = client.try_send("GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
        let (received, _) = client.read_to_any_end();
        String::from_utf8_lossy(&received).split(' ').nth(1).map(str::to_owned)
    };
    let is = |status: &str| page().as_deref() == Some(status);
    for resets in [false, true] {
        let mut client = Peer::connect(proxy.addr());
        client.send(get_request(origin.addr, "/"));
        eventually(|| proxy.stats().parked()[Wait::Response as usize] == 1);
        if resets {
            assert!(is("429"));
            client.reset();
            eventually(|| is("200"));
            answer.send(()).unwrap();
            continue;
        }
        client.half_close();
        assert!(is("429"));
        answer.send(()).unwrap();
        assert_eq!(client.read_response().status, 200);
        eventually(|| is("200"));
    }
}

#[test]
fn a_limit_of_connections_that_is_new_holds_for_those_there_are() {
    let origin = downloads();
    for rate in [&["down=10MB/s".to_owned()][..], &[]] {
        let with = |limit_connections: Option<String>| {
            let limit = rate.to_vec();
            access(LimitOptions { limit, limit_connections, ..LimitOptions::default() })
        };
        let proxy = proxy_with(|options| options.access = with(None));
        let mut clients: Vec<_> = (0..3).map(|_| Peer::connect(proxy.addr())).collect();
        let mut ask = || -> Vec<_> {
            let ask = |client: &mut Peer| {
                client.send(get_request(origin, "/10"));
                client.read_response().status
            };
            clients.iter_mut().map(ask).collect()
        };
        assert_eq!(ask(), [200, 200, 200]);
        proxy.set_access(&with(Some("2".into())), false);
        assert_eq!(ask(), [200, 200, 429], "{rate:?}");
    }
}

#[test]
fn the_volume_of_a_run_is_a_hard_stop() {
    let origin = downloads();
    let proxy = Binary::start(&["--max-bytes=100kB"]);
    let mut client = begin(proxy.addr, origin, 1_000_000);
    let (received, _) = client.read_to_any_end();
    // The relayed bytes include the request's head and the response's.
    assert!((95_000..100_000).contains(&received.len()), "{}", received.len());
    for _ in 0..2 {
        let mut client = Peer::connect(proxy.addr);
        client.send(get_request(origin, "/10"));
        let response = client.read_response();
        refused(&response, 503, "--max-bytes");
        assert_eq!(response.field("retry-after"), None, "it does not come back");
    }
    let mut proxy = proxy;
    proxy.signal(rustix::process::Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(0));
    assert_eq!(proxy.stderr().matches("--max-bytes: 100kB were relayed").count(), 1);
}

#[test]
fn nobody_wakes_for_limits_that_nobody_meets() {
    let origin = downloads();
    let proxy = Binary::start(&[
        "--limit=client:10mbit",
        "--limit=total:100mbit",
        "--limit-requests=100/s",
        "--limit-connections=100",
        "--max-bytes=1GB",
    ]);
    let mut client = begin(proxy.addr, origin, 1_000);
    client.read_exact(1_000);
    // The proxy is idle from here on.
    let mut before = Vec::new();
    let quiet = || {
        let now = proxy.context_switches();
        let same = now == before;
        before = now;
        if !same {
            thread::sleep(Duration::from_secs(1));
        }
        same
    };
    eventually(quiet);
}

/// `ann:p` in Base64, as for `--auth ann:p`.
const ANN: &str = "Proxy-Authorization: Basic YW5uOnA=";
const BOB: &str = "Proxy-Authorization: Basic Ym9iOnA=";

#[test]
fn users_have_rates_and_connections_of_their_own() {
    let origin = downloads();
    let proxy = Binary::start(&[
        "--auth=ann:p",
        "--auth=bob:p",
        "--limit=user:down=50kB/s",
        "--limit=user=bob:down=2MB/s",
        "--limit-connections=3",
    ]);
    let ask = |client: &mut Peer, user: &str, bytes: usize| {
        client.send(format!(
            "GET http://{origin}/{bytes} HTTP/1.1\r\nHost: {origin}\r\n{user}\r\n\r\n"
        ));
        client.read_response()
    };
    let mut clients = [0, 1].map(|_| Peer::connect(proxy.addr));
    let started = Instant::now();
    assert_eq!(ask(&mut clients[0], BOB, 100_000).status, 200);
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
    let started = Instant::now();
    // Over two connections, one after the other.
    clients.iter_mut().for_each(|client| assert_eq!(ask(client, ANN, 25_000).status, 200));
    assert_rate(started.elapsed(), 50_000, 50_000);
    // From other addresses, so that the client's own limit is not reached.
    let mut others: Vec<_> = (2..4)
        .map(|last| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from(([127, 0, 0, last], 0)).into()).unwrap();
            socket.connect(&proxy.addr.into()).unwrap();
            Peer::new(socket.into())
        })
        .collect();
    assert_eq!(ask(&mut others[0], ANN, 1).status, 200);
    let response = ask(&mut others[1], ANN, 1);
    refused(&response, 429, "--limit-connections");
    assert!(response.text().contains("this user has too many connections"), "{response:?}");
}
