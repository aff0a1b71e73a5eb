//! An origin server that is stopped, or killed in the middle of its response.
//!
//! The server is a process of its own. Only a process has a kernel that goes on accepting and taking
//! bytes for it while it is stopped, and that ends its connections when it is gone.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use socket2::SockRef;

use crate::faults::stop;
use crate::peers::{End, Peer, eventually_eq, is_whole_chunked, pattern};
use crate::proxies::{Binary, OK, get, get_request};
use crate::servers::Origin;

use super::installed::{script, tool};

/// Bytes of `/big`.
const BIG: usize = 16 << 20;

/// How many times that no buffers on the way can hold: those of the proxy's two sockets grow as far as the
/// system lets them, those of client and server are small, and the proxy's own fit into what is beyond.
fn too_many() -> usize {
    let most = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap();
        text.split_whitespace().last().unwrap().parse::<usize>().unwrap()
    };
    (most("tcp_rmem") + most("tcp_wmem")) / BIG + 2
}

/// The process; killed when dropped.
struct OriginProcess {
    child: Child,
    addr: SocketAddr,
}

impl OriginProcess {
    fn start() -> Option<Self> {
        Self::start_on("127.0.0.1:0".parse().unwrap())
    }

    fn start_on(addr: SocketAddr) -> Option<Self> {
        let mut command = tool("python3")?;
        command.arg(script("faults_origin.py"));
        command.args([addr.ip().to_string(), addr.port().to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let addr = lines.into_iter().find_map(|line| {
            line.split_once("listens on ").and_then(|(_, addr)| addr.parse().ok())
        });
        Some(Self { child, addr: addr.expect("it says where it listens") })
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn go_on(&self) {
        kill_process(self.pid(), Signal::CONT).expect("still there");
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for OriginProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A proxy with one worker: if a stopped upstream held that, no client would be served.
fn proxy(args: &[&str]) -> Binary {
    Binary::start_as(&[&["-l", "127.0.0.1:0", "--threads", "1"], args].concat())
}

#[track_caller]
fn others_are_served(proxy: &Binary) {
    let other = Origin::script(1, |peer| {
        peer.read_head();
        peer.send(OK);
    });
    assert_eq!(get(proxy.addr, other.addr, "/").text(), "ok");
}

#[track_caller]
fn asks(proxy: &Binary, origin: &OriginProcess, path: &str) -> Peer {
    let mut client = Peer::connect(proxy.addr);
    client.send(get_request(origin.addr, path));
    client
}

#[test]
fn what_a_stopped_upstream_was_asked_it_answers_when_it_goes_on() {
    let Some(origin) = OriginProcess::start() else { return };
    let proxy = proxy(&[]);
    // One request goes out on an existing connection, the others on new ones.
    assert_eq!(get(proxy.addr, origin.addr, "/first").text(), "/first");
    let mut reader = asks(&proxy, &origin, "/big");
    reader.read_head();
    let beginning = reader.read_exact(1000);
    stop(origin.pid());
    let paths: Vec<_> = (0..10).map(|i| format!("/{i}")).collect();
    let mut clients: Vec<_> = paths.iter().map(|path| asks(&proxy, &origin, path)).collect();
    let (mut uploader, times) = (Peer::connect(proxy.addr), too_many());
    SockRef::from(uploader.stream()).set_send_buffer_size(64 << 10).unwrap();
    uploader.send(format!(
        "PUT http://{0}/upload HTTP/1.1\r\nHost: {0}\r\nContent-Length: {1}\r\n\r\n",
        origin.addr,
        BIG * times
    ));
    let mut writer = Peer::new(uploader.stream().try_clone().unwrap());
    let uploading = thread::spawn(move || writer.send(pattern(BIG).repeat(times)));
    others_are_served(&proxy);
    for client in &mut clients {
        assert!(!client.has_something_within(Duration::from_millis(10)), "nobody can answer");
    }
    assert!(!uploading.is_finished(), "nobody takes that much");
    others_are_served(&proxy);
    origin.go_on();
    for (client, path) in clients.iter_mut().zip(&paths) {
        assert_eq!(client.read_response().text(), path);
    }
    assert_eq!([beginning, reader.read_exact(BIG - 1000)].concat(), pattern(BIG));
    assert_eq!(uploader.read_response().text(), "whole");
    uploading.join().unwrap();
}

/// Its late answers reach nobody who asked for something else.
#[test]
fn a_stopped_upstream_costs_a_504_and_is_used_again_when_it_goes_on() {
    let Some(origin) = OriginProcess::start() else { return };
    let proxy = proxy(&["--timeout-response", "500ms"]);
    assert_eq!(get(proxy.addr, origin.addr, "/first").text(), "/first");
    stop(origin.pid());
    let mut clients: Vec<_> = (0..5).map(|_| asks(&proxy, &origin, "/late")).collect();
    others_are_served(&proxy);
    for client in &mut clients {
        let response = client.read_response();
        assert_eq!(response.status, 504, "{}", response.head);
        let status = response.field("proxy-status").expect("Proxy-Status");
        assert!(status.contains("error=http_response_timeout"), "{status}");
    }
    origin.go_on();
    for i in 0..100 {
        let path = format!("/{i}");
        let client = &mut clients[i % 5];
        client.send(get_request(origin.addr, &path));
        assert_eq!(client.read_response().text(), path);
    }
}

/// The parts of a response that was cut.
struct Cut {
    head: String,
    rest: Vec<u8>,
    end: End,
}

/// Kills `origin` when `request` has got its head and "the beginning".
#[track_caller]
fn cut(proxy: &Binary, origin: &mut OriginProcess, request: &str) -> Cut {
    let mut client = Peer::connect(proxy.addr);
    client.send(request.replace("{o}", &origin.addr.to_string()));
    let head = client.read_head();
    let beginning = client.read_until(b"the beginning");
    origin.kill();
    let (rest, end) = client.read_to_any_end();
    Cut { head, rest: [beginning, rest].concat(), end }
}

#[test]
fn a_response_whose_upstream_is_killed_never_looks_whole() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let log_path = log.path().to_str().unwrap();
    let proxy = proxy(&["--access-log", log_path, "--log-format", "json"]);
    let Some(mut origin) = OriginProcess::start() else { return };
    let get = |path: &str| format!("GET http://{{o}}{path} HTTP/1.1\r\nHost: {{o}}\r\n\r\n");
    // Unread content makes the kernel reset the connection. Only a reset distinguishes content that is
    // cut from content that ends by closing (RFC 9112 §8).
    let post = |path: &str, version: &str| {
        let content = "x".repeat(100);
        format!(
            "POST http://{{o}}{path} HTTP/{version}\r\nHost: {{o}}\r\nContent-Length: 100\r\n\r\n{content}"
        )
    };
    let rows = [
        ("a length", get("/length")),
        ("a length, reset", post("/length", "1.1")),
        ("chunked", get("/chunked")),
        ("chunked, reset", post("/chunked", "1.1")),
        ("chunked, for a client of HTTP/1.0", post("/chunked", "1.0")),
        ("until close, reset", post("/close", "1.1")),
        ("until close, reset, for a client of HTTP/1.0", post("/close", "1.0")),
    ];
    for (at, (name, request)) in rows.iter().enumerate() {
        let Cut { head, rest, end } = cut(&proxy, &mut origin, request);
        if head.contains("Transfer-Encoding: chunked") {
            assert!(!is_whole_chunked(&rest), "{name}: {head}{rest:?}");
        } else if head.contains("Content-Length: 1000") {
            assert_eq!(rest, b"the beginning", "{name}");
        } else {
            assert_eq!(end, End::Reset, "{name}: {head}");
        }
        eventually_eq(|| fs::read_to_string(log_path).unwrap().lines().count(), 2 * at + 1);
        let text = fs::read_to_string(log_path).unwrap();
        let line: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        let told = [&line["error"], &line["side"], &line["phase"]];
        assert_eq!(told, ["http_response_incomplete", "upstream", "transfer"], "{name}: {line}");
        // The server is started again, and the next request works at once.
        origin = OriginProcess::start_on(origin.addr).unwrap();
        let next = crate::proxies::get(proxy.addr, origin.addr, "/next");
        assert_eq!(next.text(), "/next", "{name}");
    }
}
