//! Refusals: each is counted once, for the part of the policy that refuses, in every place that shows
//! numbers.

use std::fs;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;

use rustix::process::Signal;
use serde_json::Value;
use socket2::SockRef;

use crate::admin::{ask, fetch};
use crate::auth::proof;
use crate::metrics::samples;
use crate::peers::{Peer, eventually, eventually_eq, status};
use crate::programs::free_port;
use crate::proxies::{Binary, OK, get_request};
use crate::servers::{RefusedPort, listen_on_a_port_of_its_own};

/// A ClientHello that names `www.example.com`.
const HELLO: &[u8] = include_bytes!("../../fuzz/corpus/client_hello/openssl13");
const REASONS: [&str; 5] = ["rule", "list", "auth", "limit", "guard"];

/// An origin server for any number of connections, for as long as it exists.
struct Site {
    addr: SocketAddr,
    listener: Arc<TcpListener>,
}

impl Site {
    fn start() -> Self {
        let listener = Arc::new(listen_on_a_port_of_its_own());
        let (addr, accepting) = (listener.local_addr().unwrap(), Arc::clone(&listener));
        thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                thread::spawn(move || answer(&mut Peer::new(stream)));
            }
        });
        Self { addr, listener }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Wakes `accept`, which then fails.
        let _ = SockRef::from(&*self.listener).shutdown(Shutdown::Both);
    }
}

/// Answers what a connection asks, by the path.
fn answer(peer: &mut Peer) {
    while let Some(head) = peer.try_read_head() {
        let path = head.split(' ').nth(1).unwrap_or_default();
        let image = "HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 2\r\n\r\nok";
        let sent = match path {
            "/image" => peer.try_send(image),
            "/long" => peer.try_send(long("Content-Length: 100000\r\n")),
            "/endless" => peer.try_send(long("")),
            _ => peer.try_send(OK),
        };
        if sent.is_err() || path == "/endless" {
            return;
        }
    }
}

/// A proxy with an admin listener, and an origin server behind it.
struct Scene {
    proxy: Binary,
    admin: SocketAddr,
    origin: Site,
    /// Connections that stay open until the end.
    open: Vec<Peer>,
}

impl Scene {
    /// `@` in an option stands for the name of a list that has `www.example.com` and `ads.example`.
    fn start(args: &[&str]) -> Self {
        let origin = Site::start();
        let admin = free_port();
        let list = tempfile::NamedTempFile::new().unwrap();
        fs::write(list.path(), "www.example.com\nads.example\n").unwrap();
        let name = list.path().to_str().unwrap();
        let mut all = vec!["--admin".to_owned(), admin.to_string()];
        all.extend(args.iter().map(|arg| arg.replace('@', name)));
        let args: Vec<&str> = all.iter().map(String::as_str).collect();
        let proxy = match args.contains(&"--guarded") {
            false => Binary::start(&args),
            true => {
                let args = args.iter().copied().filter(|arg| *arg != "--guarded");
                let guarded = ["--listen=0.0.0.0:0", "--threads=1"];
                Binary::start_as(&guarded.into_iter().chain(args).collect::<Vec<_>>())
            }
        };
        Self { proxy, admin, origin, open: Vec::new() }
    }

    /// Where the proxy listens, on loopback.
    fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.proxy.addr.port()))
    }

    /// Sends a request and returns the status of the answer. `@` in it is the origin's address.
    fn asks(&self, request: &str, lines: &str) -> u16 {
        let mut client = Peer::connect(self.addr());
        self.asks_on(&mut client, request, lines)
    }

    fn asks_on(&self, client: &mut Peer, request: &str, lines: &str) -> u16 {
        let request = request.replace('@', &self.origin.addr.to_string());
        client.send(format!("{request} HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
        status(&client.read_head())
    }

    /// Opens a tunnel and sends this. The tunnel has to be refused.
    fn tunnels(&self, first: &[u8]) {
        let mut client = Peer::connect(self.addr());
        assert_eq!(self.asks_on(&mut client, "CONNECT @", ""), 200);
        client.send(first);
        client.half_close_if_open();
        let (alert, _) = client.read_to_any_end();
        assert_eq!(alert.first(), Some(&0x15), "{alert:?}");
    }

    /// Receives a response that is cut.
    fn is_cut(&self, path: &str) {
        let mut client = Peer::connect(self.addr());
        client.send(get_request(self.origin.addr, path));
        assert_eq!(status(&client.read_head()), 200);
        client.read_to_any_end();
    }

    /// The counts of refusals, from `/stats.json`.
    fn refused(&self) -> [u64; 5] {
        let stats = self.stats();
        REASONS.map(|reason| stats["refused"][reason].as_u64().unwrap_or(u64::MAX))
    }

    fn stats(&self) -> Value {
        serde_json::from_str(fetch(self.admin, "/stats.json").text()).unwrap()
    }
}

/// A response with too much content.
fn long(framing: &str) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\n{framing}\r\n");
    [head.as_bytes(), &vec![b'x'; 100_000]].concat()
}

/// A kind of refusal: its name, options, and what a client does.
type Row = (&'static str, &'static [&'static str], fn(&mut Scene), [u64; 5]);

const ROWS: &[Row] = &[
    (
        "a client that a rule refuses, also for the proxy's own pages",
        &["--deny-client=127.0.0.1"],
        |scene| {
            for request in ["GET http://@/", "CONNECT @", "GET /healthz", "OPTIONS *"] {
                assert_eq!(scene.asks(request, ""), 403, "{request}");
            }
        },
        [4, 0, 0, 0, 0],
    ),
    (
        "a destination that a rule refuses, on one connection",
        &["--deny=.ads.example"],
        |scene| {
            let mut client = Peer::connect(scene.addr());
            for _ in 0..2 {
                client.send("GET http://x.ads.example/ HTTP/1.1\r\nHost: a\r\n\r\n");
                assert_eq!(client.read_response().status, 403);
            }
            assert_eq!(scene.asks_on(&mut client, "CONNECT x.ads.example:443", ""), 403);
        },
        [3, 0, 0, 0, 0],
    ),
    (
        "a refusal that is answered in another way",
        &["--deny=.ads.example", "--deny-with=204"],
        |scene| assert_eq!(scene.asks("GET http://x.ads.example/", ""), 204),
        [1, 0, 0, 0, 0],
    ),
    (
        "a request that no rule allows",
        &["--policy=enforce"],
        |scene| assert_eq!(scene.asks("GET http://@/", ""), 403),
        [1, 0, 0, 0, 0],
    ),
    (
        "a URL",
        &["--deny-url=/ads/"],
        |scene| {
            assert_eq!(scene.asks("GET http://@/x/%2e%2e/ads/", ""), 403);
            assert_eq!(scene.asks("GET http://@/", ""), 200);
        },
        [1, 0, 0, 0, 0],
    ),
    (
        "bounds",
        &["--methods=GET,CONNECT", "--connect-ports=443", "--schemes=http,connect"],
        |scene| {
            assert_eq!(scene.asks("DELETE http://@/", ""), 403);
            assert_eq!(scene.asks("CONNECT @", ""), 403);
            let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n";
            assert_eq!(scene.asks("GET http://@/", upgrade), 403);
        },
        [3, 0, 0, 0, 0],
    ),
    (
        "an upgrade, which would become a tunnel",
        &["--methods=GET"],
        |scene| {
            let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n";
            assert_eq!(scene.asks("GET http://@/", upgrade), 403);
        },
        [1, 0, 0, 0, 0],
    ),
    (
        "an address that a rule refuses",
        &["--deny=127.0.0.1", "--resolve=here.example:127.0.0.1"],
        |scene| {
            let port = scene.origin.addr.port();
            assert_eq!(scene.asks("GET http://@/", ""), 403);
            assert_eq!(scene.asks(&format!("GET http://here.example:{port}/"), ""), 403);
            assert_eq!(scene.asks(&format!("CONNECT here.example:{port}"), ""), 403);
        },
        [3, 0, 0, 0, 0],
    ),
    (
        "a refused address before one without a route",
        &[
            "--deny=127.0.0.9",
            "--resolve=two.example:127.0.0.9",
            "--resolve=two.example:255.255.255.255",
        ],
        |scene| assert_eq!(scene.asks("GET http://two.example/", ""), 403),
        [1, 0, 0, 0, 0],
    ),
    (
        "a name in a ClientHello",
        &["--deny=www.example.com"],
        |scene| scene.tunnels(HELLO),
        [1, 0, 0, 0, 0],
    ),
    (
        "a ClientHello that cannot be judged",
        &["--deny=www.example.com"],
        |scene| scene.tunnels(&HELLO[..20]),
        [1, 0, 0, 0, 0],
    ),
    (
        "a type of response",
        &["--deny-type=image/*"],
        |scene| assert_eq!(scene.asks("GET http://@/image", ""), 403),
        [1, 0, 0, 0, 0],
    ),
    (
        "a response that is too large, as announced and as it comes",
        &["--max-response-size=50000"],
        |scene| {
            assert_eq!(scene.asks("GET http://@/long", ""), 502);
            scene.is_cut("/endless");
        },
        [2, 0, 0, 0, 0],
    ),
    (
        "a name on a list",
        &["--block-list=@", "--deny=.other.example"],
        |scene| {
            assert_eq!(scene.asks("GET http://x.ads.example/", ""), 403);
            assert_eq!(scene.asks("CONNECT ads.example:443", ""), 403);
            assert_eq!(scene.asks("GET http://other.example/", ""), 403);
        },
        [1, 2, 0, 0, 0],
    ),
    (
        "a name on a list in a ClientHello",
        &["--block-list=@"],
        |scene| scene.tunnels(HELLO),
        [0, 1, 0, 0, 0],
    ),
    (
        "credentials: none, wrong ones, of another kind, twice",
        &["--auth=ann:secret"],
        |scene| {
            let (right, wrong) = (proof("ann", "secret"), proof("ann", "wrong"));
            let bearer = "Proxy-Authorization: Bearer x\r\n";
            assert_eq!(scene.asks("GET http://@/", ""), 407);
            assert_eq!(scene.asks("CONNECT @", ""), 407);
            assert_eq!(scene.asks("GET http://@/", &wrong), 407);
            assert_eq!(scene.asks("GET http://@/", bearer), 407);
            assert_eq!(scene.asks("GET http://@/", &format!("{right}{wrong}")), 400);
            assert_eq!(scene.asks("GET http://@/", &right), 200);
        },
        [0, 0, 5, 0, 0],
    ),
    (
        "a rule that comes before credentials",
        &["--auth=ann:secret", "--deny=.ads.example"],
        |scene| assert_eq!(scene.asks("GET http://x.ads.example/", ""), 403),
        [1, 0, 0, 0, 0],
    ),
    (
        "requests too fast",
        &["--limit-requests=1/m"],
        |scene| {
            for expected in [200, 429, 429] {
                assert_eq!(scene.asks("GET http://@/", ""), expected);
            }
        },
        [0, 0, 0, 2, 0],
    ),
    (
        "a connection too many, also for the proxy's own pages",
        &["--limit-connections=1"],
        |scene| {
            let mut first = Peer::connect(scene.addr());
            first.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(first.read_response().status, 200);
            assert_eq!(scene.asks("GET /healthz", ""), 429);
            scene.open.push(first);
        },
        [0, 0, 0, 1, 0],
    ),
    (
        "a connection beyond those that are told",
        &["--limit-connections=1"],
        |scene| {
            scene.open = (0..2).map(|_| Peer::connect(scene.addr())).collect();
            // One more is closed unanswered.
            Peer::connect(scene.addr()).read_to_any_end();
        },
        [0, 0, 0, 1, 0],
    ),
    (
        "a transfer that is cut because everything is used up, and a request after it",
        &["--max-bytes=50kB"],
        |scene| {
            scene.is_cut("/long");
            assert_eq!(scene.asks("GET http://@/", ""), 503);
        },
        [0, 0, 0, 2, 0],
    ),
    (
        "destinations in protected mode, by address, by name, and in a tunnel",
        &["--guarded", "--resolve=here.example:127.0.0.1"],
        |scene| {
            let port = scene.origin.addr.port();
            assert_eq!(scene.asks("GET http://@/", ""), 403);
            assert_eq!(scene.asks(&format!("GET http://here.example:{port}/"), ""), 403);
            assert_eq!(scene.asks(&format!("CONNECT here.example:{port}"), ""), 403);
        },
        [0, 0, 0, 0, 3],
    ),
    (
        "protected mode under a rehearsal, which does not lift it",
        &["--guarded", "--policy=report"],
        |scene| assert_eq!(scene.asks("GET http://@/", ""), 403),
        [0, 0, 0, 0, 1],
    ),
    (
        "a client that goes before it has read any refusal",
        &["--deny=.ads.example"],
        |scene| {
            let mut client = Peer::connect(scene.addr());
            client.send("GET http://ads.example/ HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100));
            // The first is refused, so the others are on their way.
            eventually(|| scene.refused()[0] > 0);
            client.half_close_if_open();
            eventually(|| scene.refused()[0] == 100);
            client.reset();
        },
        [100, 0, 0, 0, 0],
    ),
    (
        "failures that are no refusals: malformed, another scheme, a loop, a closed port",
        &["--deny=.ads.example", "--max-response-size=1MB", "--auth=ann:secret"],
        |scene| {
            let ann = proof("ann", "secret");
            assert_eq!(scene.asks("GET http://@/ x", &ann), 400);
            assert_eq!(scene.asks("GET https://a.example/", &ann), 501);
            let own = format!("GET http://{}/", scene.addr());
            assert_eq!(scene.asks(&own, &ann), 508);
            let refused = RefusedPort::new();
            assert_eq!(scene.asks(&format!("GET http://{}/", refused.addr), &ann), 502);
            assert_eq!(scene.asks("GET /nothing", ""), 404);
        },
        [0; 5],
    ),
    (
        "a rehearsal, which refuses nothing",
        &["--policy=report", "--deny=127.0.0.1"],
        |scene| assert_eq!(scene.asks("GET http://@/", ""), 200),
        [0; 5],
    ),
];

#[test]
fn each_refusal_is_counted_once_for_the_part_of_the_policy_that_refuses() {
    for (what, args, act, expected) in ROWS {
        let mut scene = Scene::start(args);
        act(&mut scene);
        eventually_eq(|| scene.refused(), *expected);
        // Everything that was asked is over.
        let open = scene.open.len() as u64;
        eventually(|| scene.stats()["connections_open"].as_u64().is_some_and(|n| n <= open));
        assert_eq!(scene.refused(), *expected, "{what}");
        agrees(&scene, *expected, what);
    }
}

/// All places that show refusals show these, and the other counters agree.
#[track_caller]
fn agrees(scene: &Scene, expected: [u64; 5], what: &str) {
    let shown = REASONS.iter().zip(expected);
    let metrics = fetch(scene.admin, "/metrics");
    let samples = samples(metrics.text());
    for (reason, count) in shown.clone() {
        let name = format!("threadgate_refused_total{{reason=\"{reason}\"}}");
        assert_eq!(samples.get(&name), Some(&(count as f64)), "{what}: {name}");
    }
    let words: Vec<_> = shown.clone().map(|(reason, count)| format!("{count} {reason}")).collect();
    let page = ask(scene.admin, "GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n");
    let row = format!("<tr><th>refused by<td>{}\n", words.join(", "));
    assert!(page.text().contains(&row), "{what}: {}", page.text());
    let counted: Vec<_> = words.into_iter().filter(|words| !words.starts_with("0 ")).collect();
    eventually(|| {
        let said = scene.proxy.snapshot();
        let row = said.lines().find_map(|line| line.split_once("stats: refused "));
        row.map_or("", |(_, row)| row.trim()) == counted.join(", ")
    });

    let stats = scene.stats();
    let [rule, list, auth, limit, guard] = expected;
    assert_eq!(stats["denials"]["refused"], rule + list + guard, "{what}");
    let limited = stats["limited"].as_object().unwrap().values();
    assert_eq!(limited.filter_map(Value::as_u64).sum::<u64>(), limit, "{what}");
    assert_eq!(stats["rule_hits"]["auth"], auth, "{what}");
    assert_eq!(stats["rule_hits"]["protected-mode"], guard, "{what}");
    let hits = stats["rule_hits"].as_object().unwrap().values().filter_map(Value::as_u64);
    let reported = stats["denials"]["reported"].as_u64().unwrap();
    assert_eq!(hits.sum::<u64>(), expected.iter().sum::<u64>() + reported, "{what}");
}

#[test]
fn the_summary_at_the_end_has_the_refusals() {
    let mut proxy = Binary::start(&["-v", "--deny=.ads.example"]);
    let mut client = Peer::connect(proxy.addr);
    client.send("GET http://ads.example/ HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read_response().status, 403);
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(0));
    let said = proxy.stderr();
    let row = said.lines().find_map(|line| line.split_once("stats: refused "));
    assert_eq!(row.expect(&said).1.trim(), "1 rule");
}
