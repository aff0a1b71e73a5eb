//! Good and hostile traffic side by side, for `THREADGATE_SOAK` seconds (6 by default; `make soak` takes
//! ten minutes at each number of workers). Whatever the hostile peers do, no good exchange fails, and
//! memory, descriptors and threads stay constant.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::SockRef;

use crate::hostile::NeverReads;
use crate::peers::{Peer, STEP, comes_true, pattern};
use crate::proxies::{Binary, threads};
use crate::servers::listen;

/// The bytes of a bulk response.
const BULK: usize = 4 << 20;

fn duration() -> Duration {
    match std::env::var("THREADGATE_SOAK") {
        Ok(n) => Duration::from_secs(n.parse().expect("THREADGATE_SOAK is a number of seconds")),
        Err(_) => Duration::from_secs(6),
    }
}

/// A server that gives each connection, with its number, to `serve`, until it is dropped.
struct Crowd {
    addr: SocketAddr,
    listener: Arc<TcpListener>,
    open: Arc<Mutex<HashMap<usize, TcpStream>>>,
}

impl Crowd {
    fn start(serve: impl Fn(usize, &mut Peer) + Send + Sync + 'static) -> Self {
        let listener = Arc::new(listen());
        let addr = listener.local_addr().unwrap();
        let open = Arc::new(Mutex::new(HashMap::new()));
        let (theirs, all, serve) = (Arc::clone(&listener), Arc::clone(&open), Arc::new(serve));
        thread::spawn(move || {
            for number in 0.. {
                let Ok((stream, _)) = theirs.accept() else { return };
                all.lock().insert(number, stream.try_clone().unwrap());
                let (all, serve) = (Arc::clone(&all), Arc::clone(&serve));
                thread::spawn(move || {
                    let mut peer = Peer::new(stream);
                    serve(number, &mut peer);
                    all.lock().remove(&number);
                });
            }
        });
        Self { addr, listener, open }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // Wakes `accept`, which then fails.
        let _ = SockRef::from(&*self.listener).shutdown(Shutdown::Both);
        for stream in self.open.lock().values() {
            // The connection may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Answers GET by the length in its path, and everything else with its content.
fn good_origin(peer: &mut Peer, content: &[u8]) {
    while let Some(head) = peer.try_read_head() {
        let path = head.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
        let field = |name| crate::peers::field(&head, name);
        let sent = if let Some(length) = field("content-length") {
            let echo = peer.read_exact(length.parse().unwrap());
            peer.try_send(with_length(&echo))
        } else if field("transfer-encoding").is_some() {
            let (echo, _) = peer.read_chunked();
            peer.try_send(in_chunks(&echo))
        } else {
            peer.try_send(with_length(&content[..path.parse::<usize>().unwrap()]))
        };
        if sent.is_err() {
            return;
        }
    }
}

fn with_length(content: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", content.len());
    [head.as_bytes(), content].concat()
}

fn in_chunks(content: &[u8]) -> Vec<u8> {
    let mut response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    response.extend(chunks(content));
    response
}

fn chunks(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in content.chunks(3000) {
        out.extend(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend(chunk);
        out.extend(b"\r\n");
    }
    out.extend(b"0\r\n\r\n");
    out
}

/// Sends back all bytes.
fn echo(peer: &mut Peer) {
    let mut buf = vec![0; 64 << 10];
    while let Ok(count @ 1..) = io::Read::read(&mut peer.stream(), &mut buf) {
        if peer.try_send(&buf[..count]).is_err() {
            return;
        }
    }
}

/// Takes all bytes.
fn sink(peer: &mut Peer) {
    while peer.fill().is_ok_and(|count| count > 0) {
        peer.discard();
    }
}

/// Does something wrong, and something else with the next connection.
fn hostile_origin(number: usize, peer: &mut Peer) {
    const OK: &str = "HTTP/1.1 200 OK\r\n";
    let step = Duration::from_millis(20);
    if number.is_multiple_of(12) {
        // Before any request.
        return;
    }
    let _ = peer.try_read_head();
    match number % 12 {
        1 => {}
        2 => reset_later(peer, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nthe beginning"),
        3 => drop(peer.try_send([0x16, 3, 1, 0, 200, 0xff, 0, 0, 0])),
        4 => {
            // A head that drips, for longer than anybody waits.
            let drip = |byte| peer.try_send([byte]).is_ok() && !peer.has_something_within(step);
            let _ = b"HTTP/1.1 200 OK\r\nA: ".iter().cycle().take(500).copied().all(drip);
        }
        5 => drop(peer.try_send(format!("{OK}A: {}\r\n\r\n", "x".repeat(100_000)))),
        6 => while peer.try_send("HTTP/1.1 103 Early Hints\r\n\r\n").is_ok() {},
        7 => drop(peer.try_send(format!("{OK}Content-Length: 5\r\n\r\nmore than five bytes"))),
        8 => drop(peer.try_send(format!("{OK}Transfer-Encoding: chunked\r\n\r\nxyz\r\n"))),
        9 => {
            let _ = peer.try_send(format!("{OK}\r\n"));
            while peer.try_send([b'x'; 10_000]).is_ok() {}
        }
        10 => {
            // An answer that nobody asked for follows the one that is due.
            let _ = peer.try_send(with_length(b"ok").repeat(2));
            peer.has_something_within(step);
        }
        _ => {
            peer.has_something_within(STEP);
        }
    }
}

fn reset_later(peer: &mut Peer, bytes: &str) {
    let _ = peer.try_send(bytes);
    let _ = SockRef::from(peer.stream()).set_linger(Some(Duration::ZERO));
}

/// The addresses of all servers, and the counts so far.
struct Field {
    proxy: SocketAddr,
    good: SocketAddr,
    echo: SocketAddr,
    sink: SocketAddr,
    hostile: SocketAddr,
    content: Arc<[u8]>,
    stop: AtomicBool,
    exchanges: AtomicU64,
    attacks: AtomicU64,
    /// The slowest small exchange, in microseconds.
    slowest: AtomicU64,
}

impl Field {
    fn get(&self, origin: SocketAddr, path: usize) -> String {
        format!("GET http://{origin}/{path} HTTP/1.1\r\nHost: {origin}\r\n\r\n")
    }

    fn connect(&self, to: SocketAddr) -> String {
        format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n")
    }

    /// Asks for a small response, which is checked and timed.
    fn asks(&self, client: &mut Peer, bytes: usize) {
        let begun = Instant::now();
        client.send(self.get(self.good, bytes));
        self.gets(client, &self.content[..bytes]);
        let took = begun.elapsed().as_micros().try_into().unwrap();
        self.slowest.fetch_max(took, Ordering::Relaxed);
    }

    fn gets(&self, client: &mut Peer, content: &[u8]) {
        let response = client.read_response();
        assert_eq!(response.status, 200, "{}", response.head);
        // Not `assert_eq`: nobody wants to see megabytes.
        assert!(response.content == content, "{} bytes, spoilt", response.content.len());
        self.exchanges.fetch_add(1, Ordering::Relaxed);
    }

    /// One round of good work of a kind.
    fn good(&self, kind: usize, round: usize) {
        let mut client = Peer::connect(self.proxy);
        match kind {
            // Persistent connections, pipelined at times.
            0 | 1 => {
                for i in 0..100 {
                    self.asks(&mut client, (round * 31 + i * 7) % 5000);
                }
                client.send(self.get(self.good, 10).repeat(5));
                (0..5).for_each(|_| self.gets(&mut client, &self.content[..10]));
            }
            2 => self.asks(&mut client, 1000),
            3 => {
                let content = &self.content[..1 + (round * 7919) % 200_000];
                let start = format!("POST http://{0}/ HTTP/1.1\r\nHost: {0}\r\n", self.good);
                client.send(format!("{start}Content-Length: {}\r\n\r\n", content.len()));
                client.send(content);
                self.gets(&mut client, content);
                client.send(format!("{start}Transfer-Encoding: chunked\r\n\r\n"));
                client.send(chunks(content));
                self.gets(&mut client, content);
            }
            4 => {
                client.send(self.connect(self.echo));
                assert!(client.read_head().starts_with("HTTP/1.1 200 "));
                for i in 0..200 {
                    let message = &self.content[i..2 * i + 1];
                    client.send(message);
                    assert_eq!(client.read_exact(message.len()), message, "round trip {i}");
                }
                client.half_close();
                client.expect_eof();
                self.exchanges.fetch_add(1, Ordering::Relaxed);
            }
            _ => {
                if round % 2 == 1 {
                    client.send(self.connect(self.good));
                    assert!(client.read_head().starts_with("HTTP/1.1 200 "));
                    client.send(format!("GET /{BULK} HTTP/1.1\r\nHost: a\r\n\r\n"));
                } else {
                    client.send(self.get(self.good, BULK));
                }
                self.gets(&mut client, &self.content);
            }
        }
    }

    /// One piece of mischief. Clients that should stay for a while are kept.
    fn attack(&self, round: usize, kept: &mut Vec<NeverReads>) {
        const HEALTHZ: &str = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut client = Peer::connect(self.proxy);
        client.stream().set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let upload = format!(
            "PUT http://{0}/ HTTP/1.1\r\nHost: {0}\r\nContent-Length: 99\r\n\r\n",
            self.sink
        );
        let _ = match round % 16 {
            0 => Ok(()),
            1 => client.try_send(&HEALTHZ[..round % HEALTHZ.len()]),
            2 => client.try_send([0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]),
            3 => client.try_send("GET / HTTP/1.1\r\nA: ".to_owned() + &"x".repeat(100_000)),
            4 => client
                .try_send("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: +1\r\n\r\n"),
            5 => client.try_send(upload + "half"),
            6 => client.try_send(
                upload.replace("Content-Length: 99", "Transfer-Encoding: chunked") + "5\r\nabcdefg",
            ),
            7 => client.try_send(HEALTHZ.repeat(1000)),
            8 => client.try_send(self.get(self.good, BULK)).map(|()| {
                let _ = client.fill();
            }),
            9 => client.try_send(self.connect(self.echo) + &"x".repeat(round % 50_000)),
            10 => client.try_send(self.get(self.good, 100)).map(|()| client.half_close_if_open()),
            11 => {
                if kept.len() == 8 {
                    kept.remove(0);
                }
                kept.push(NeverReads::ask(self.proxy, &self.get(self.good, BULK)));
                Ok(())
            }
            // Whatever the hostile server does, its client gets an answer or an end.
            12 => client.try_send(self.connect(self.hostile) + HEALTHZ),
            _ => client.try_send(self.get(self.hostile, 1)).map(|()| {
                let mut bytes = 0;
                while let Ok(count @ 1..) = client.fill() {
                    client.discard();
                    bytes += count;
                    if bytes > 1 << 20 {
                        break;
                    }
                }
            }),
        };
        match round / 16 % 3 {
            0 => client.reset(),
            1 => {
                client.half_close_if_open();
                client.has_something_within(Duration::from_millis(5));
            }
            _ => {}
        }
        self.attacks.fetch_add(1, Ordering::Relaxed);
    }

    /// Works round after round until the end; a panic ends all threads.
    fn work(&self, mut round: impl FnMut(usize)) {
        let rounds = || {
            let going = |_: &usize| !self.stop.load(Ordering::Relaxed);
            (0..).take_while(going).for_each(&mut round);
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(rounds)) {
            self.stop.store(true, Ordering::Relaxed);
            resume_unwind(panic);
        }
    }
}

/// The resources of the process at one moment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    kib: usize,
    descriptors: usize,
}

/// The value in the middle.
fn median(samples: &[Sample], of: impl Fn(&Sample) -> usize) -> usize {
    let mut values: Vec<_> = samples.iter().map(of).collect();
    values.sort_unstable();
    values[values.len() / 2]
}

/// A value near the beginning and at the end, both after warming up.
struct Trend {
    first: usize,
    last: usize,
}

impl Trend {
    fn of(samples: &[Sample], of: impl Fn(&Sample) -> usize) -> Self {
        let third = samples.len() / 3;
        let last = median(&samples[samples.len() - third..], &of);
        Self { first: median(&samples[..third], &of), last }
    }

    #[track_caller]
    fn assert_flat(&self, what: &str, noise: usize) {
        assert!(self.last <= self.first * 11 / 10 + noise, "{what} grow: {self}");
    }
}

impl fmt::Display for Trend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → {}", self.first, self.last)
    }
}

/// Writes to the terminal directly, because the test harness keeps output for failures.
fn tell(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

#[test]
fn good_traffic_beside_hostile_traffic_does_not_fail_and_nothing_grows() {
    let content: Arc<[u8]> = pattern(BULK).into();
    let theirs = Arc::clone(&content);
    let good = Crowd::start(move |_, peer| good_origin(peer, &theirs));
    let (echo, sink) = (Crowd::start(|_, peer| echo(peer)), Crowd::start(|_, peer| sink(peer)));
    let hostile = Crowd::start(hostile_origin);
    let timeouts = ["--timeout-head", "--timeout-idle", "--timeout-response", "--timeout-tunnel"];
    let mut args: Vec<_> = timeouts.iter().flat_map(|name| [*name, "2s"]).collect();
    args.extend(["-q", "--access-log", "/dev/null"]);
    let proxy = Binary::start(&args);
    let mut client = Peer::connect(proxy.addr);
    client.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read_response().status, 200);
    let (sockets, names) = (proxy.sockets() - 1, proxy.started_threads());
    drop(client);
    let field = Field {
        proxy: proxy.addr,
        good: good.addr,
        echo: echo.addr,
        sink: sink.addr,
        hostile: hostile.addr,
        content,
        stop: AtomicBool::new(false),
        exchanges: AtomicU64::new(0),
        attacks: AtomicU64::new(0),
        slowest: AtomicU64::new(0),
    };
    let mut samples = Vec::new();
    thread::scope(|scope| {
        for kind in 0..6 {
            let field = &field;
            scope.spawn(move || field.work(|round| field.good(kind, round)));
        }
        for attacker in 0..16 {
            let field = &field;
            let mut kept = Vec::new();
            scope.spawn(move || field.work(|round| field.attack(round * 5 + attacker, &mut kept)));
        }
        samples = watch(&field, &proxy, &names);
        field.stop.store(true, Ordering::Relaxed);
    });

    // In the first fifth buffers, pipes and pools come into being.
    let settled = &samples[samples.len() / 5..];
    let memory = Trend::of(settled, |s| s.kib);
    let descriptors = Trend::of(settled, |s| s.descriptors);
    let summary = format!(
        "{} s at {} workers: {} good exchanges (the slowest small one {} ms), {} attacks, none failed; \
         KiB {memory}, descriptors {descriptors}\n",
        duration().as_secs(),
        threads(),
        field.exchanges.load(Ordering::Relaxed),
        field.slowest.load(Ordering::Relaxed) / 1000,
        field.attacks.load(Ordering::Relaxed),
    );
    if std::env::var_os("THREADGATE_SOAK").is_some() {
        tell(&format!("\n{summary}"));
    }
    eprintln!("{summary}");
    memory.assert_flat("KiB", 4096);
    descriptors.assert_flat("descriptors", 40);
    assert!(field.exchanges.load(Ordering::Relaxed) > 100, "{summary}");
    assert!(field.attacks.load(Ordering::Relaxed) > 100, "{summary}");

    drop((good, echo, sink, hostile));
    comes_true(STEP * 2, &mut || proxy.sockets() <= sockets);
    assert!(proxy.sockets() <= sockets, "{} sockets, {sockets} before", proxy.sockets());
    assert_eq!(proxy.thread_names(), names);
    assert!(proxy.memory() <= memory.first * 11 / 10 + 4096, "{} KiB at last", proxy.memory());
}

/// Takes a sample once a second, more often in a short run, until the time is over.
fn watch(field: &Field, proxy: &Binary, names: &[String]) -> Vec<Sample> {
    let mut samples = Vec::new();
    let begun = Instant::now();
    let interval = Duration::from_secs(1).min(duration() / 40);
    let terminal = io::stderr().is_terminal() && std::env::var_os("THREADGATE_SOAK").is_some();
    while begun.elapsed() < duration() && !field.stop.load(Ordering::Relaxed) {
        thread::sleep(interval);
        let sample = Sample { kib: proxy.memory(), descriptors: proxy.descriptors() };
        assert_eq!(proxy.thread_names(), names, "the pool is fixed");
        samples.push(sample);
        if terminal {
            tell(&format!(
                "\r{}/{} s, {} exchanges, {} attacks, {} KiB, {} descriptors  ",
                begun.elapsed().as_secs(),
                duration().as_secs(),
                field.exchanges.load(Ordering::Relaxed),
                field.attacks.load(Ordering::Relaxed),
                sample.kib,
                sample.descriptors,
            ));
        }
    }
    samples
}
