//! Soak tests with bounds: everything opened is closed again, the pool stays as it was, idle costs
//! nothing, and no wake-up is lost.
//!
//! `THREADGATE_STRESS` is the number of round trips of the ping-pong (default 20,000; `make soak` sets
//! 1,000,000).

use std::collections::HashMap;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use socket2::SockRef;
use threadgate::Server;
use threadgate::error::Side;

use crate::hostile::NeverReads;
use crate::peers::{Peer, STEP, comes_true, eventually, eventually_eq};
use crate::proxies::{Binary, OK, get_request, proxy_with};
use crate::servers::{Origin, listen};

/// An origin server that answers every request of every connection, until it is dropped.
struct Busy {
    addr: SocketAddr,
    listener: Arc<TcpListener>,
    open: Arc<Mutex<HashMap<usize, TcpStream>>>,
}

impl Busy {
    fn start(response: Vec<u8>) -> Self {
        let listener = Arc::new(listen());
        let addr = listener.local_addr().unwrap();
        let open = Arc::new(Mutex::new(HashMap::new()));
        let (theirs, all) = (Arc::clone(&listener), Arc::clone(&open));
        let response: Arc<[u8]> = response.into();
        thread::spawn(move || {
            for number in 0.. {
                let Ok((stream, _)) = theirs.accept() else { return };
                all.lock().insert(number, stream.try_clone().unwrap());
                let (all, response) = (Arc::clone(&all), Arc::clone(&response));
                thread::spawn(move || {
                    answer_all(&mut Peer::new(stream), &response);
                    all.lock().remove(&number);
                });
            }
        });
        Self { addr, listener, open }
    }

    /// Ends every connection, idle or not.
    fn close_all(&self) {
        for stream in self.open.lock().values() {
            // The connection may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn answer_all(peer: &mut Peer, response: &[u8]) {
    peer.stream().set_read_timeout(Some(STEP * 12)).unwrap();
    peer.stream().set_write_timeout(Some(STEP * 12)).unwrap();
    while peer.try_read_head().is_some() && peer.try_send(response).is_ok() {}
}

impl Drop for Busy {
    fn drop(&mut self) {
        // Wakes `accept`, which then fails.
        let _ = SockRef::from(&*self.listener).shutdown(Shutdown::Both);
        self.close_all();
    }
}

/// A proxy, and what it had open before the first client.
struct Watched {
    proxy: Binary,
    descriptors: usize,
    threads: Vec<String>,
}

impl Watched {
    /// Starts a proxy that soon gives up stalled peers.
    fn start() -> Self {
        let short = ["--timeout-idle", "--timeout-head", "--timeout-response", "--timeout-tunnel"];
        let args: Vec<_> = short.iter().flat_map(|name| [*name, "2s"]).chain(["-q"]).collect();
        let proxy = Binary::start(&args);
        let client = warm_up(&proxy);
        let (descriptors, threads) = (proxy.descriptors() - 1, proxy.started_threads());
        drop(client);
        Self { proxy, descriptors, threads }
    }

    #[track_caller]
    fn assert_back(&self) {
        let open = || self.proxy.descriptors();
        comes_true(STEP * 4, &mut || open() <= self.descriptors);
        assert!(open() <= self.descriptors, "{} descriptors, {} before", open(), self.descriptors);
        assert_eq!(self.proxy.thread_names(), self.threads);
    }
}

/// Makes the proxy create everything that it makes when first needed.
fn warm_up(proxy: &Binary) -> Peer {
    let mut client = Peer::connect(proxy.addr);
    client.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read_response().status, 200);
    client
}

#[test]
fn descriptors_and_threads_are_back_after_ten_thousand_exchanges() {
    let origin = Busy::start(OK.as_bytes().to_vec());
    let watched = Watched::start();
    let proxy = &watched.proxy;
    let request = get_request(origin.addr, "/");
    thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let mut client = Peer::connect(proxy.addr);
                    for _ in 0..20 {
                        client.send(&request);
                        assert_eq!(client.read_response().text(), "ok");
                    }
                }
            });
        }
    });
    // The proxy notices that idle upstream connections are closed.
    origin.close_all();
    watched.assert_back();
}

#[test]
fn ten_thousand_rapid_connections_leave_nothing_behind_and_hold_up_nobody() {
    let origin = Busy::start(
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nonly the beginning".to_vec(),
    );
    let good = Busy::start(OK.as_bytes().to_vec());
    let watched = Watched::start();
    let proxy = &watched.proxy;
    // Buffers, table and heap grow to what such a rush takes, and no further.
    rush(proxy, &origin, 2000);
    let kib = proxy.memory();
    thread::scope(|scope| {
        let rushing = scope.spawn(|| rush(proxy, &origin, 10_000));
        let request = get_request(good.addr, "/");
        let mut client = Peer::connect(proxy.addr);
        let mut served = 0;
        while !rushing.is_finished() {
            client.send(&request);
            assert_eq!(client.read_response().text(), "ok");
            served += 1;
        }
        assert!(served > 100, "only {served} exchanges beside them");
    });
    assert!(proxy.memory() <= kib + 2048, "{} KiB, {kib} before", proxy.memory());
    // The proxy notices that idle upstream connections are closed.
    origin.close_all();
    good.close_all();
    watched.assert_back();
    drop(warm_up(proxy));
}

/// Makes this many connections and gives them up at once, or a little later: closed or reset, at every
/// stage that is reached without waiting.
fn rush(proxy: &Binary, origin: &Busy, connections: usize) {
    let request = get_request(origin.addr, "/");
    let connect = format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.addr);
    let upload = format!(
        "PUT http://{0}/ HTTP/1.1\r\nHost: {0}\r\nContent-Length: 9\r\n\r\nhalf",
        origin.addr
    );
    thread::scope(|scope| {
        for worker in 0..10 {
            let (request, connect, upload) = (&request, &connect, &upload);
            let addr = proxy.addr;
            scope.spawn(move || {
                for i in 0..connections / 10 {
                    let mut client = Peer::connect(addr);
                    match (worker + i) % 8 {
                        0 => {}
                        1 => client.send(&request[..20]),
                        2 => client.send(request),
                        3 => client.send(connect),
                        4 => client.send(upload),
                        5 => client.send("nonsense\r\n\r\n"),
                        6 => {
                            client.send(connect);
                            client.read_head();
                            client.send("GET / HTTP/1.1\r\n\r\n");
                        }
                        _ => {
                            client.send(request);
                            client.read_head();
                        }
                    }
                    if i % 2 == 0 {
                        client.reset();
                    }
                }
            });
        }
    });
}

#[test]
fn the_number_of_threads_does_not_depend_on_the_load() {
    const MANY: usize = 200;
    let origin = Origin::script_at_once(MANY, |peer| {
        peer.read_head();
        peer.read_to_any_end();
    });
    let proxy = Binary::start_as(&["-l", "127.0.0.1:0", "-q", "--threads", "3"]);
    warm_up(&proxy);
    let before = proxy.started_threads();
    let workers = before.iter().filter(|name| name.starts_with("worker-")).count();
    assert_eq!(workers, 3, "{before:?}");
    let mut clients: Vec<_> = (0..MANY).map(|_| Peer::connect(proxy.addr)).collect();
    for client in &mut clients {
        client.send(get_request(origin.addr, "/"));
    }
    eventually_eq(|| origin.accepted(), MANY);
    assert_eq!(proxy.thread_names(), before);
    // A client that only closes could still be reading.
    clients.into_iter().for_each(Peer::reset);
    origin.join();
    assert_eq!(proxy.thread_names(), before);
}

/// Waits for a whole second in which `count` stays the same. Bytes may still trickle into buffers for a
/// while, but a thread that spins never has such a second.
#[track_caller]
fn a_second_comes_without<T: PartialEq + std::fmt::Debug>(what: &str, count: impl Fn() -> T) {
    let still = || {
        let before = count();
        thread::sleep(Duration::from_secs(1));
        Some((before, count())).filter(|(before, after)| before != after)
    };
    let mut change = None;
    comes_true(STEP * 3, &mut || {
        change = still();
        change.is_none()
    });
    assert!(change.is_none(), "no second without {what}: {change:?}");
}

#[test]
fn two_hundred_clients_that_never_read_cost_no_cpu() {
    let content =
        [b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n".to_vec(), vec![b'x'; 50_000_000]];
    let origin = Busy::start(content.concat());
    let proxy = Binary::start(&["-q"]);
    let request = get_request(origin.addr, "/");
    let connect =
        format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\nGET / HTTP/1.1\r\n\r\n", origin.addr);
    let _clients: Vec<_> = (0..200)
        .map(|i| NeverReads::ask(proxy.addr, if i % 2 == 0 { &request } else { &connect }))
        .collect();
    eventually_eq(|| origin.open.lock().len(), 200);
    a_second_comes_without("CPU time", || proxy.cpu_ticks());
    warm_up(&proxy);
}

#[test]
fn idle_connections_wake_nobody() {
    let origin = Busy::start(OK.as_bytes().to_vec());
    let proxy = Binary::start(&["-q"]);
    let mut clients: Vec<_> = (0..100).map(|_| Peer::connect(proxy.addr)).collect();
    for (i, client) in clients.iter_mut().enumerate() {
        if i % 2 == 0 {
            client.send(get_request(origin.addr, "/"));
            assert_eq!(client.read_response().text(), "ok");
        } else {
            client.send(format!(
                "CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\nGET / HTTP/1.1\r\n\r\n",
                origin.addr
            ));
            client.read_head();
            assert_eq!(client.read_response().text(), "ok");
        }
    }
    a_second_comes_without("context switches", || proxy.context_switches());
}

/// No lost wake-up: each round trip parks and wakes both directions of a tunnel.
#[test]
fn a_ping_pong_through_tunnels_never_stalls() {
    for threads in [1, 8] {
        let rounds = stress() / 4;
        let proxy = proxy_with(|options| options.threads = NonZeroUsize::new(threads));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| ping_pong(&proxy, rounds));
            }
        });
        assert_eq!(proxy.stats().panics, 0);
    }
}

fn stress() -> usize {
    match std::env::var("THREADGATE_STRESS") {
        Ok(n) => n.parse().expect("THREADGATE_STRESS is a number of round trips"),
        Err(_) => 20_000,
    }
}

/// Sends `rounds` messages of changing length one way, and gets each back.
fn ping_pong(proxy: &Server, rounds: usize) {
    let origin = Origin::script(1, move |peer| {
        for i in 0..rounds {
            let message = peer.read_exact(1 + i % 64);
            peer.send(message);
        }
    });
    let mut client = Peer::connect(proxy.addr());
    client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.addr));
    client.read_head();
    for i in 0..rounds {
        let message = vec![i as u8; 1 + i % 64];
        client.send(&message);
        assert_eq!(client.read_exact(message.len()), message, "round {i}");
    }
    origin.join();
}

/// No lost wake-up in exchanges either, many clients on few workers.
#[test]
fn thousands_of_exchanges_of_many_clients_never_stall() {
    let origin = Busy::start(OK.as_bytes().to_vec());
    for threads in [1, 8] {
        let proxy = proxy_with(|options| options.threads = NonZeroUsize::new(threads));
        let request = get_request(origin.addr, "/");
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let mut client = Peer::connect(proxy.addr());
                    for _ in 0..stress() / 40 {
                        client.send(&request);
                        assert_eq!(client.read_response().text(), "ok");
                    }
                });
            }
        });
        let stats = proxy.stats();
        assert_eq!((stats.panics, stats.failures_of(Side::Upstream)), (0, 0));
    }
}

#[test]
fn at_the_limit_of_connections_newcomers_wait_and_are_then_served() {
    let proxy = proxy_with(|options| options.max_connections = NonZeroUsize::new(10));
    let healthz = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut clients: Vec<_> = (0..10).map(|_| Peer::connect(proxy.addr())).collect();
    for client in &mut clients {
        client.send(healthz);
        assert_eq!(client.read_response().status, 200);
    }
    let mut newcomer = Peer::connect(proxy.addr());
    newcomer.send(healthz);
    assert!(!newcomer.has_something_within(Duration::from_millis(300)));
    assert_eq!(proxy.stats().connections_accepted, 10);
    for client in &mut clients {
        client.send(healthz);
        assert_eq!(client.read_response().status, 200);
    }
    clients.pop();
    assert_eq!(newcomer.read_response().status, 200);
    drop(clients);
    eventually(|| proxy.stats().active_connections() == 1);
}

#[test]
fn out_of_descriptors_it_waits_and_recovers() {
    let proxy = Binary::start_limited(40, &["--max-connections", "1000"]);
    let healthz = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    // The kernel accepts them all; the proxy cannot.
    let mut clients: Vec<_> = (0..80).map(|_| Peer::connect(proxy.addr)).collect();
    clients[0].send(healthz);
    assert_eq!(clients[0].read_response().status, 200);
    // The proxy waits instead of trying again and again.
    a_second_comes_without("much CPU time", || proxy.cpu_ticks() / 10);
    let mut last = clients.pop().unwrap();
    last.send(healthz);
    assert!(!last.has_something_within(Duration::from_millis(100)), "no descriptor was left");
    drop(clients);
    assert_eq!(last.read_response().status, 200);
}
