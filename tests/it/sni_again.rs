//! The second ClientHello of a connection, which a server may ask for: it has to name the same host as
//! the first.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use threadgate::Server;
use threadgate::config::access::AccessOptions;

use crate::peers::{End, Peer, eventually, eventually_eq, pattern};
use crate::programs::{logged, logging_proxy};
use crate::proxies::{Names, proxy_with, proxy_with_one_worker};
use crate::servers::{Origin, Recorder};

/// A ClientHello that names `www.example.com`.
pub(crate) const HELLO: &[u8] = include_bytes!("../../fuzz/corpus/client_hello/openssl13");
const NAMELESS: &[u8] = include_bytes!("../../fuzz/corpus/client_hello/openssl_nosni");
/// The answer of nginx if it wants another key, and if it does not.
pub(crate) const RETRY: &[u8] = include_bytes!("../../fuzz/corpus/hello_retry/retry");
const SERVER_HELLO: &[u8] = include_bytes!("../../fuzz/corpus/hello_retry/hello13");
const SERVER_HELLO_1_2: &[u8] = include_bytes!("../../fuzz/corpus/hello_retry/hello12");
/// Fatal: unrecognized_name, decode_error.
pub(crate) const REFUSED: &[u8] = &[0x15, 3, 3, 0, 2, 2, 112];
const UNREADABLE: &[u8] = &[0x15, 3, 3, 0, 2, 2, 50];
pub(crate) const CHANGE: &[u8] = &[0x14, 3, 3, 0, 1, 1];

/// The hello for a host with a name of the same length.
pub(crate) fn hello_to(name: &str) -> Vec<u8> {
    let old = b"www.example.com";
    let at = HELLO.windows(old.len()).position(|part| part == old).unwrap();
    assert_eq!(name.len(), old.len());
    [&HELLO[..at], name.as_bytes(), &HELLO[at + old.len()..]].concat()
}

/// A record of encrypted bytes, some of which look like a ClientHello.
fn encrypted(bytes: usize) -> Vec<u8> {
    let length = u16::try_from(bytes).unwrap().to_be_bytes();
    let content = HELLO.iter().copied().cycle().take(bytes).collect();
    [vec![0x17, 3, 3], length.to_vec(), content].concat()
}

fn in_records(hello: &[u8], bytes: usize) -> Vec<u8> {
    let record = |part: &[u8]| {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&[0x16, 3, 3][..], &length, part].concat()
    };
    hello[5..].chunks(bytes).flat_map(record).collect()
}

fn denying(name: &str) -> AccessOptions {
    AccessOptions { deny: vec![name.to_owned()], ..AccessOptions::default() }
}

fn proxy() -> Server {
    proxy_with(|options| {
        options.resolver = Arc::new(Names::all([127, 0, 0, 1].into()));
        options.access = denying("bad.example.com").build(None).unwrap();
    })
}

#[track_caller]
pub(crate) fn tunnel(proxy: SocketAddr, to: SocketAddr) -> Peer {
    let mut client = Peer::connect(proxy);
    let port = to.port();
    client.send(format!("CONNECT www.example.com:{port} HTTP/1.1\r\nHost: a:{port}\r\n\r\n"));
    let head = client.read_head();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    client
}

/// A server that reads a ClientHello, sends `says`, reads `more` bytes, and then the end.
fn server(says: &'static [u8], step: usize, more: usize) -> Origin {
    Origin::script(1, move |peer| {
        assert_eq!(peer.read_exact(HELLO.len()), HELLO);
        for part in says.chunks(step) {
            peer.send(part);
        }
        peer.read_exact(more);
        assert_eq!(peer.read_to_any_end().0, b"", "the second hello");
    })
}

#[test]
fn a_second_hello_that_names_another_host_does_not_reach_the_server() {
    let proxy = proxy();
    let bad = hello_to("bad.example.com");
    let early = [encrypted(700), encrypted(1), encrypted(16_400)].concat();
    for (before, second) in [
        (vec![], bad.clone()),
        (vec![], hello_to("abc.example.com")),
        (vec![], NAMELESS.to_vec()),
        (CHANGE.to_vec(), bad.clone()),
        (early.clone(), bad.clone()),
        ([CHANGE, &early, CHANGE].concat(), bad.clone()),
        (vec![], in_records(&bad, 9)),
        (vec![], [&[0x16, 9, 9], &bad[3..]].concat()),
    ] {
        for (step, answer) in [(1, 1), (7, 50), (usize::MAX, usize::MAX)] {
            let origin = server(RETRY, answer, before.len());
            let mut client = tunnel(proxy.addr(), origin.addr);
            client.send(HELLO);
            assert_eq!(client.read_exact(RETRY.len()), RETRY);
            client.send(&before);
            for part in second.chunks(step.min(second.len())) {
                client.send(part);
            }
            assert_eq!(client.read_to_any_end(), (REFUSED.to_vec(), End::Closed));
            origin.join();
        }
    }
}

#[test]
fn a_second_hello_that_nobody_asked_for_is_judged_as_well() {
    let proxy = proxy();
    let early = encrypted(300);
    for before in [&b""[..], CHANGE, &early] {
        let origin = server(b"", 1, before.len());
        let mut client = tunnel(proxy.addr(), origin.addr);
        client.send([HELLO, before, &hello_to("bad.example.com")].concat());
        assert_eq!(client.read_to_any_end(), (REFUSED.to_vec(), End::Closed));
        origin.join();
    }
    let server = Recorder::new();
    let twice = [HELLO, HELLO].concat();
    let mut client = tunnel(proxy.addr(), server.addr);
    client.send(&twice);
    eventually(|| server.seen().last().is_some_and(|c| c.bytes == twice));
}

#[test]
fn what_follows_a_retry_and_is_no_hello_is_refused() {
    let proxy = proxy();
    let mut short = HELLO.to_vec();
    short[8] -= 1;
    let key_exchange = [0x16, 3, 3, 0, 4, 16, 0, 0, 0];
    for wrong in [&key_exchange[..], &[0x16, 3, 3, 0, 0], b"GET / HTTP/1.1\r\n\r\n", &short] {
        let origin = server(RETRY, 1000, 0);
        let mut client = tunnel(proxy.addr(), origin.addr);
        client.send(HELLO);
        assert_eq!(client.read_exact(RETRY.len()), RETRY);
        client.send(wrong);
        assert_eq!(client.read_to_any_end(), (UNREADABLE.to_vec(), End::Closed));
        origin.join();
    }
    // An end in the middle.
    let origin = server(RETRY, 1000, 0);
    let mut client = tunnel(proxy.addr(), origin.addr);
    client.send(HELLO);
    assert_eq!(client.read_exact(RETRY.len()), RETRY);
    client.send(&HELLO[..50]);
    client.half_close();
    assert_eq!(client.read_to_any_end(), (UNREADABLE.to_vec(), End::Closed));
    origin.join();
}

#[test]
fn what_is_no_tls_behind_a_hello_hides_no_second_one() {
    let proxy = proxy();
    let bad = hello_to("bad.example.com");
    let too_long = [&[0x17, 3, 3, 0xff, 0xff][..], &vec![0; 64 * 1024]].concat();
    let other_type = [0x99, 3, 3, 0, 1, 1];
    for between in [&too_long[..], &other_type, b"GET / HTTP/1.1\r\n\r\n", &[0x17, 3, 3, 0x48, 1]] {
        for early in [&b""[..], CHANGE] {
            let origin = server(b"", 1, early.len());
            let mut client = tunnel(proxy.addr(), origin.addr);
            client.send([HELLO, early].concat());
            client.send([between, &bad].concat());
            assert_eq!(client.read_exact(UNREADABLE.len()), UNREADABLE);
            origin.join();
        }
    }
    assert_eq!(proxy.stats().tunnels_refused, 8);
}

#[test]
fn a_client_that_sends_no_second_hello_for_16_mib_is_refused() {
    let proxy = proxy();
    let record = encrypted(16_379);
    let count = (16 << 20) / record.len();
    let origin = server(RETRY, 1000, count * record.len());
    let mut client = tunnel(proxy.addr(), origin.addr);
    client.send(HELLO);
    assert_eq!(client.read_exact(RETRY.len()), RETRY);
    for _ in 0..count {
        client.send(&record);
    }
    client.send(&record);
    assert_eq!(client.read_exact(UNREADABLE.len()), UNREADABLE);
    origin.join();
}

/// Sends `sent` one way and the same back, and checks that each arrives byte for byte.
#[track_caller]
fn goes_on(proxy: &Server, says: &'static [u8], sent: Vec<Vec<u8>>) {
    let expected = sent.concat();
    let origin = Origin::script(1, move |peer| {
        assert_eq!(peer.read_exact(HELLO.len()), HELLO);
        peer.send(says);
        assert!(peer.read_exact(expected.len()) == expected, "bytes differ");
        peer.send(&expected);
        peer.expect_eof();
    });
    let mut client = tunnel(proxy.addr(), origin.addr);
    client.send(HELLO);
    assert_eq!(client.read_exact(says.len()), says);
    for part in &sent {
        client.send(part);
    }
    let sent = sent.concat();
    assert!(client.read_exact(sent.len()) == sent, "bytes differ");
    client.half_close();
    origin.join();
}

#[test]
fn a_tunnel_is_as_ever_once_no_second_hello_can_come() {
    let proxy = proxy();
    let long = pattern(4 << 20);
    let other = hello_to("bad.example.com");
    let retried = vec![CHANGE.to_vec(), HELLO.to_vec(), other.clone(), long.clone()];
    let early = vec![encrypted(16_000); 8];
    let early = [early, vec![CHANGE.to_vec(), HELLO.to_vec(), long.clone()]].concat();
    for (says, sent) in [
        // Encrypted bytes may look like a hello.
        (SERVER_HELLO, vec![CHANGE.to_vec(), other.clone(), long.clone()]),
        (
            SERVER_HELLO_1_2,
            vec![[0x16, 3, 3, 0, 4, 16, 0, 0, 0].to_vec(), other.clone(), long.clone()],
        ),
        (b"HTTP/1.1 400 No\r\n\r\n", vec![other.clone(), long.clone()]),
        (&[0x15, 3, 3, 0, 2, 2, 40], vec![other.clone(), long.clone()]),
        (RETRY, retried),
        (RETRY, early),
    ] {
        let before = proxy.stats().bytes_spliced;
        goes_on(&proxy, says, sent);
        let spliced = proxy.stats().bytes_spliced - before;
        assert!(spliced > 1 << 20, "{spliced} bytes were spliced");
    }
    assert_eq!(proxy.stats().tunnels_refused, 0);
}

#[test]
fn early_data_goes_on_before_the_server_answers_and_without_end_it_waits() {
    let proxy = proxy();
    let early = encrypted(16_000);
    let more = early.repeat(20);
    let (first, all) = (early.clone(), more.clone());
    let origin = Origin::script(1, move |peer| {
        assert_eq!(peer.read_exact(HELLO.len()), HELLO);
        assert!(peer.read_exact(first.len()) == first, "bytes differ");
        let held = peer.read_exact(64 * 1024 - first.len());
        assert!(!peer.has_something_within(Duration::from_millis(50)), "more than its share");
        peer.send(SERVER_HELLO);
        let rest = peer.read_exact(first.len() + all.len() - 64 * 1024);
        assert!([first.clone(), held, rest].concat() == [&first[..], &all].concat());
        peer.expect_eof();
    });
    let mut client = tunnel(proxy.addr(), origin.addr);
    client.send([HELLO, &early].concat());
    client.send(&more);
    client.half_close();
    assert_eq!(client.read_to_any_end().0, SERVER_HELLO);
    origin.join();
}

#[test]
fn half_a_second_hello_has_the_time_of_a_head_and_holds_no_worker() {
    let proxy = proxy_with_one_worker(|options| {
        options.resolver = Arc::new(Names::all([127, 0, 0, 1].into()));
        options.access = denying("bad.example.com").build(None).unwrap();
        options.timeouts.head = Duration::from_millis(300);
    });
    for part in [&HELLO[..100], &CHANGE[..3]] {
        let origin = server(RETRY, 1000, 0);
        let mut slow = tunnel(proxy.addr(), origin.addr);
        slow.send(HELLO);
        assert_eq!(slow.read_exact(RETRY.len()), RETRY);
        slow.send(part);
        goes_on(&proxy, SERVER_HELLO, vec![pattern(1000)]);
        assert_eq!(slow.read_to_any_end().0, b"");
        origin.join();
    }
    eventually_eq(|| proxy.stats().tunnels_closed, 4);
}

#[test]
fn what_is_only_reported_goes_on_with_its_second_hello() {
    let server = Recorder::new();
    let proxy = logging_proxy(&[
        "--policy=report",
        "--allow=www.example.com",
        "--resolve=www.example.com:127.0.0.1",
    ]);
    let both = [HELLO, &hello_to("bad.example.com")].concat();
    let mut client = tunnel(proxy.addr, server.addr);
    client.send(&both);
    eventually(|| server.seen().last().is_some_and(|c| c.bytes == both));
    drop(client);
    let lines = logged(&proxy, |lines| lines.len() == 1);
    assert_eq!(lines[0]["would_deny"].as_str(), Some("--sni"), "{}", lines[0]);
}
