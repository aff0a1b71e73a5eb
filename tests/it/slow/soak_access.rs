//! Access rules and limits under load: thousands that wait for a rate, files that change ten times a
//! second, and endless refusals. No worker is held, nothing grows, nobody is dropped.
//!
//! `THREADGATE_STRESS` is the number of refusals of each kind times ten (default 100,000; `make soak`
//! sets 1,000,000).

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine};
use rustix::process::Signal;
use serde_json::Value;
use socket2::{Domain, SockRef, Socket, Type};
use tempfile::TempDir;

use crate::admin::fetch;
use crate::peers::{Peer, Response, STEP, comes_true, eventually, eventually_eq, pattern, status};
use crate::programs::free_port;
use crate::proxies::{Binary, OK, get_request};
use crate::servers::listen;

/// An origin server with a thread for each connection, until it is dropped.
pub(super) struct Busy {
    pub(super) addr: SocketAddr,
    listener: Arc<TcpListener>,
    accepted: Arc<AtomicUsize>,
}

impl Busy {
    fn start(play: impl Fn(&mut Peer) + Send + Sync + 'static) -> Self {
        let listener = Arc::new(listen());
        SockRef::from(&*listener).listen(1024).unwrap();
        let addr = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let (theirs, count, play) = (Arc::clone(&listener), Arc::clone(&accepted), Arc::new(play));
        thread::spawn(move || {
            while let Ok((stream, _)) = theirs.accept() {
                count.fetch_add(1, Ordering::SeqCst);
                let play = Arc::clone(&play);
                let of_its_own = thread::Builder::new().stack_size(256 << 10);
                let played = of_its_own.spawn(move || {
                    let mut peer = Peer::new(stream);
                    peer.stream().set_read_timeout(Some(STEP * 12)).unwrap();
                    peer.stream().set_write_timeout(Some(STEP * 12)).unwrap();
                    play(&mut peer);
                });
                drop(played.unwrap());
            }
        });
        Self { addr, listener, accepted }
    }

    /// A server that answers every request with OK.
    pub(super) fn kind() -> Self {
        Self::start(|peer| while peer.try_read_head().is_some() && peer.try_send(OK).is_ok() {})
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        // Wakes `accept`, which then fails.
        let _ = SockRef::from(&*self.listener).shutdown(std::net::Shutdown::Both);
    }
}

/// Sets the flag that ends the other threads when dropped, also when an assertion fails first.
pub(super) struct Stops<'a>(pub(super) &'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Its threads, without those that resolve names and verify passwords, whose number varies.
pub(super) fn fixed_threads(proxy: &Binary) -> Vec<String> {
    let mut all = proxy.started_threads();
    let before = all.len();
    all.retain(|name| !name.starts_with("auth-") && !name.starts_with("resolver-"));
    assert!(before - all.len() <= 6, "{all:?}");
    all
}

fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(&beside, path).unwrap();
}

fn stats(admin: SocketAddr) -> Value {
    serde_json::from_str(fetch(admin, "/stats.json").text()).unwrap()
}

/// A thousand downloads share a rate, on eight workers, while requests to another server go through.
/// Then the rate is taken away, and each download gets the rest.
#[test]
fn a_thousand_throttled_downloads_hold_no_worker_and_each_is_whole_at_last() {
    const MANY: usize = 1000;
    const BYTES: usize = 60_000;
    let content = pattern(BYTES);
    let response = [
        format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n").into_bytes(),
        content.clone(),
    ];
    let response = response.concat();
    let slow =
        Busy::start(
            move |peer| {
                while peer.try_read_head().is_some() && peer.try_send(&response).is_ok() {}
            },
        );
    let fast = Busy::kind();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("threadgate.toml");
    let limit = format!("limit = ['destination=127.0.0.1:{}:down=500kB/s']\n", slow.addr.port());
    fs::write(&config, limit).unwrap();
    let admin = free_port();
    let config_name = config.to_str().unwrap();
    let proxy = Binary::start_as(&[
        "--listen=127.0.0.1:0",
        "--threads=8",
        "-c",
        config_name,
        "--admin",
        &admin.to_string(),
    ]);
    let (threads, descriptors) = (proxy.started_threads(), proxy.descriptors());
    let parked = || stats(admin)["parked"]["tokens"].as_u64().unwrap();
    let request = get_request(slow.addr, "/");
    let mut clients: Vec<_> = (0..MANY).map(|_| Peer::connect(proxy.addr)).collect();
    clients.iter_mut().for_each(|client| client.send(&request));
    let enough = MANY as u64 * 9 / 10;
    assert!(comes_true(STEP * 3, &mut || parked() >= enough), "{}", stats(admin)["parked"]);

    // The workers are sampled while others are served.
    let (mut samples, mut held) = (0, 0);
    thread::scope(|scope| {
        let asking: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let request = get_request(fast.addr, "/");
                    let mut client = Peer::connect(proxy.addr);
                    for _ in 0..250 {
                        client.send(&request);
                        assert_eq!(client.read_response().text(), "ok");
                    }
                })
            })
            .collect();
        while asking.iter().any(|asks| !asks.is_finished()) {
            let stats = stats(admin);
            samples += 1;
            held += usize::from(stats["workers"]["asleep"] == 0);
            let waiting = stats["parked"]["tokens"].as_u64().unwrap();
            assert!(waiting >= MANY as u64 / 2, "{waiting} wait for the rate: {}", stats["parked"]);
        }
    });
    assert!(held * 2 <= samples, "all workers at work {held} times of {samples}");
    assert_eq!(proxy.thread_names(), threads, "no thread for any of them");

    replace(&config, "# no limit\n");
    proxy.signal(Signal::HUP);
    for client in &mut clients {
        let response = client.read_response();
        assert!(response.status == 200 && response.content == content);
    }
    eventually_eq(&parked, 0);
    drop(clients);
    let idle = || stats(admin)["upstream_idle"].as_u64().unwrap() as usize;
    eventually(|| proxy.descriptors() <= descriptors + idle());
    eventually_eq(|| stats(admin)["connections_open"].as_u64(), Some(0));
    assert_eq!(stats(admin)["panics"], 0);
}

/// The files of one of two states.
struct State {
    config: String,
    block: &'static str,
    users: String,
}

fn states(origin: SocketAddr) -> [State; 2] {
    let hash = bcrypt::hash_with_salt("secret", 4, [9; 16]).unwrap();
    ["one", "two"].map(|name| State {
        config: format!(
            "{}block-list = 'block'\nauth-file = 'users'\ndeny = '.{name}.rule'\n\
             limit = 'connection:down=300kB/s'\n\
             [[rules]]\naction = 'deny'\ndestinations = ['.never']\n",
            // Line numbers shift.
            if name == "one" { "" } else { "# two\n" }
        ),
        block: if name == "one" { "one.list\n" } else { "# two\ntwo.list\n" },
        users: format!("{name}:{hash}\nboth:{hash}\n# {origin}\n"),
    })
}

/// A mistake in a file, and the message about it.
const BROKEN: [(&str, &str, &str); 3] = [
    ("threadgate.toml", "den = '.one.rule'\n", "threadgate.toml:1: unknown key 'den'"),
    ("block", "<html>\n", "block:1: '<html>' cannot be used"),
    ("users", "both:secret\n", "users:1: the user 'both': "),
];

fn put(dir: &TempDir, state: &State) {
    let files =
        [("threadgate.toml", &*state.config), ("block", state.block), ("users", &*state.users)];
    files.iter().for_each(|(name, text)| replace(&dir.path().join(name), text));
}

fn asked_by(host: &str, user: &str) -> String {
    let proof = BASE64_STANDARD.encode(format!("{user}:secret"));
    format!(
        "GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: Basic {proof}\r\n\r\n"
    )
}

fn ask(client: &mut Peer, host: &str, user: &str) -> Response {
    client.send(asked_by(host, user));
    client.read_response()
}

fn count(proxy: &Binary, what: &str) -> usize {
    proxy.stderr().matches(what).count()
}

/// Configuration, list and users are all replaced ten times a second, some of them by broken ones.
/// Meanwhile a request that both states allow is never refused, no connection ends, a rate is kept, and
/// nothing grows.
#[test]
fn files_that_change_ten_times_a_second_fail_no_request_and_drop_no_connection() {
    const TIME: Duration = Duration::from_secs(4);
    const BYTES: usize = 1_000_000;
    let origin = Busy::kind();
    let echo = Busy::start(|peer| {
        loop {
            match peer.fill() {
                Ok(1..) => {
                    let bytes = peer.take();
                    if peer.try_send(bytes).is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    });
    let content = pattern(BYTES);
    let response = [
        format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n").into_bytes(),
        content.clone(),
    ];
    let response = response.concat();
    let download = Busy::start(move |peer| {
        if peer.try_read_head().is_some() {
            // The proxy may be gone when the test has failed.
            let _ = peer.try_send(&response);
        }
    });
    let (host, far) = (origin.addr.to_string(), echo.addr.to_string());
    let states = states(origin.addr);
    let dir = tempfile::tempdir().unwrap();
    put(&dir, &states[0]);
    let config = dir.path().join("threadgate.toml");
    let admin = free_port().to_string();
    let proxy = Binary::start(&["-c", config.to_str().unwrap(), "--admin", &admin]);
    let admin = admin.parse().unwrap();
    let refused_by = |host: &str| {
        let got = ask(&mut Peer::connect(proxy.addr), host, "both");
        got.rule().map(|rule| rule.rsplit('/').next().unwrap().to_owned())
    };
    // The decisions of each state.
    let names = ["a.one.rule", "a.two.rule", "one.list", "two.list"];
    let decided: Vec<[Option<String>; 4]> = states
        .iter()
        .map(|state| {
            put(&dir, state);
            let before = count(&proxy, ".toml was read again");
            proxy.signal(Signal::HUP);
            eventually(|| count(&proxy, ".toml was read again") > before);
            names.map(&refused_by)
        })
        .collect();
    assert!(decided[0][0].is_some() && decided[0][1].is_none() && decided[0][3].is_none());
    assert_ne!(decided[0], decided[1]);
    let threads = fixed_threads(&proxy);

    let stop = AtomicBool::new(false);
    let (answered, seen) =
        (AtomicUsize::new(0), [[(); 2]; 4].map(|two| two.map(|()| AtomicUsize::new(0))));
    let (mut reloads, mut broken) = (0, 0);
    let mut first: Option<(usize, usize)> = None;
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = Peer::connect(proxy.addr);
                let mut tunnel = Peer::connect(proxy.addr);
                let connect = asked_by(&far, "both")
                    .replace(&format!("GET http://{far}/"), &format!("CONNECT {far}"));
                tunnel.send(connect);
                assert_eq!(status(&tunnel.read_head()), 200);
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(ask(&mut client, &host, "both").status, 200);
                    tunnel.send([n as u8; 50]);
                    assert_eq!(tunnel.read_exact(50), [n as u8; 50]);
                    answered.fetch_add(2, Ordering::Relaxed);
                    // On the same connection: a name that the states decide differently.
                    let which = n % 4;
                    let got = ask(&mut client, names[which], "both");
                    let rule = got.rule().map(|rule| rule.rsplit('/').next().unwrap().to_owned());
                    let is = decided.iter().position(|state| state[which] == rule);
                    let Some(is) = is else { panic!("{}: {}", names[which], got.head) };
                    seen[which][is].fetch_add(1, Ordering::Relaxed);
                    n += 1;
                }
            });
        }
        let downloading = scope.spawn(|| {
            let mut client = Peer::connect(proxy.addr);
            let begin = Instant::now();
            client.send(asked_by(&download.addr.to_string(), "both"));
            let response = client.read_response();
            assert!(response.status == 200 && response.content == content);
            begin.elapsed()
        });
        let stops = Stops(&stop);
        let begin = Instant::now();
        while begin.elapsed() < TIME {
            reloads += 1;
            put(&dir, &states[reloads % 2]);
            if reloads % 5 == 0 {
                let (name, text, says) = BROKEN[broken % 3];
                let before = count(&proxy, says);
                replace(&dir.path().join(name), text);
                proxy.signal(Signal::HUP);
                eventually(|| count(&proxy, says) > before);
                broken += 1;
            } else {
                proxy.signal(Signal::HUP);
            }
            if begin.elapsed() > TIME / 4 && first.is_none() {
                first = Some((proxy.memory(), proxy.descriptors()));
            }
            thread::sleep(Duration::from_millis(100));
        }
        let took = downloading.join().unwrap();
        drop(stops);
        // A tenth of a second's worth is saved up, and comes at once.
        let exact = BYTES as f64 / 300_000.0;
        assert!(took.as_secs_f64() > (exact - 0.2) * 0.97, "{took:?} for {exact} s");
    });
    let (memory, descriptors) = first.unwrap();
    let (grown, open) = (proxy.memory().saturating_sub(memory), proxy.descriptors());
    assert!(grown < 3 << 10, "{grown} KiB in {reloads} reloads");
    assert!(open <= descriptors + 8, "{open} descriptors, {descriptors} before");
    // One for each client, and one for each tunnel: none was closed.
    assert!(origin.accepted.load(Ordering::SeqCst) <= 4, "{:?}", origin.accepted);
    assert_eq!(echo.accepted.load(Ordering::SeqCst), 4);
    // A reload still to come when a file was broken has read the broken file, too.
    let refused = count(&proxy, "ERROR not reloaded");
    assert!((broken..=2 * broken).contains(&refused), "{refused} for {broken}");
    assert_eq!(count(&proxy, "the reload changed nothing"), refused);
    assert_eq!(stats(admin)["reloads"]["refused"], refused);

    put(&dir, &states[0]);
    proxy.signal(Signal::HUP);
    eventually_eq(|| names.map(&refused_by), decided[0].clone());
    for (user, status) in [("one", 200), ("both", 200), ("two", 407)] {
        assert_eq!(ask(&mut Peer::connect(proxy.addr), &host, user).status, status, "{user}");
    }
    assert_eq!(fixed_threads(&proxy), threads);
    assert_eq!(stats(admin)["panics"], 0);
    let (answered, seen) =
        (answered.into_inner(), seen.map(|two| two.map(AtomicUsize::into_inner)));
    assert!(reloads >= 10 && broken >= 2 && answered > 100, "{reloads} {broken} {answered}");
    let both = seen.iter().all(|[one, two]| *one > 0 && *two > 0);
    assert!(both, "each state decides for a while: {seen:?}");
    eprintln!("{reloads} reloads, {broken} broken, {answered} answers, {seen:?}, {grown} KiB");
}

fn refusals() -> usize {
    match std::env::var("THREADGATE_STRESS") {
        Ok(n) => n.parse::<usize>().expect("THREADGATE_STRESS is a number of refusals") / 10,
        Err(_) => 10_000,
    }
}

/// A client from one of many addresses of loopback.
fn connect_as(client: usize, proxy: SocketAddr) -> Peer {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let [_, a, b, c] = (client as u32 % (1 << 22)).to_be_bytes();
    let address = Ipv4Addr::new(127, 64 | a, b, c.max(1));
    socket.bind(&SocketAddr::from((address, 0)).into()).unwrap();
    socket.connect(&proxy.into()).unwrap();
    Peer::new(TcpStream::from(socket))
}

/// Refusals of every kind, pipelined on one connection, and on a separate connection for each of as many
/// clients. Each client gets its status and is counted, and nothing is left behind.
#[test]
fn refusals_without_end_are_all_counted_and_leave_nothing() {
    const AT_ONCE: usize = 50;
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list");
    fs::write(&list, "ads.list\n").unwrap();
    let list = list.to_str().unwrap();
    let admin = free_port();
    let proxy = Binary::start(&[
        "-q",
        "--deny=.rule",
        "--block-list",
        list,
        "--auth=alice:secret",
        "--limit-requests=1000000/s",
        "--limit-connections=1000",
        "--limit=client:1gbit",
        "--admin",
        &admin.to_string(),
    ]);
    let proof = |password: &str| {
        let proof = BASE64_STANDARD.encode(format!("alice:{password}"));
        format!("Proxy-Authorization: Basic {proof}\r\n")
    };
    // The request, its outcome, and the source that counts it.
    let kinds = [
        ("x.rule", String::new(), 403, Some("--deny")),
        ("x.ads.list", proof("secret"), 403, Some(list)),
        ("a.example", String::new(), 407, Some("auth")),
        // Each client twice, so that none is slowed for guessing.
        ("a.example", proof("wrong"), 407, Some("auth")),
    ];
    let asks = |kind: usize, n: usize| {
        let (host, line, ..) = &kinds[kind];
        format!("GET http://n{n}.{host}/ HTTP/1.1\r\nHost: a\r\n{line}\r\n")
    };
    let mut total = [0; 4];
    let mut refuse = |count: usize, clients: usize| {
        for kind in 0..3 {
            let mut client = Peer::connect(proxy.addr);
            let line = format!("HTTP/1.1 {} ", kinds[kind].2);
            for n in 0..count / AT_ONCE {
                client.send(asks(kind, n).repeat(AT_ONCE));
                // All responses requested at once are as long as the first.
                let one = client.read_response();
                let rest = client.read_exact((one.head.len() + one.content.len()) * (AT_ONCE - 1));
                let found = memchr::memmem::find_iter(&rest, line.as_bytes()).count();
                assert_eq!((one.status, found), (kinds[kind].2, AT_ONCE - 1));
            }
            total[kind] += count / AT_ONCE * AT_ONCE;
        }
        // Each client has its own address, and one exchange.
        for n in 0..clients {
            let kind = n % 4;
            let mut client = connect_as(n, proxy.addr);
            client.send(asks(kind, n));
            assert_eq!(client.read_response().status, kinds[kind].2, "{}", kinds[kind].0);
            total[kind] += 1;
        }
    };
    let count = refusals();
    // Each client is remembered once: 200 bytes for limits, and 150 for a wrong password.
    let clients = count / 8;
    refuse(count.min(4_000), clients);
    let open = || stats(admin)["connections_open"].as_u64();
    eventually_eq(open, Some(0));
    let (memory, descriptors) = (proxy.memory(), proxy.descriptors());
    refuse(count, clients);
    eventually_eq(open, Some(0));
    let grown = proxy.memory().saturating_sub(memory);
    assert!(grown < 1 << 10, "{grown} KiB");
    eventually(|| proxy.descriptors() <= descriptors);
    let stats = stats(admin);
    let hits = &stats["rule_hits"];
    for source in ["--deny", list, "auth"] {
        let all: usize =
            (0..4).filter(|kind| kinds[*kind].3 == Some(source)).map(|kind| total[kind]).sum();
        assert_eq!(hits[source], all, "{source}: {hits}");
    }
    assert_eq!(stats["denials"]["refused"], total[0] + total[1], "{}", stats["denials"]);
    assert_eq!((&stats["panics"], &stats["upstream_connects"]), (&Value::from(0), &Value::from(0)));
}
