//! The name in a tunnel's ClientHello, which is judged before the server gets any byte of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use threadgate::Server;
use threadgate::config::access::{AccessOptions, Hellos};

use crate::peers::{End, Moment, Peer, eventually, eventually_eq, pattern};
use crate::programs::{logged, logging_proxy};
use crate::proxies::{Names, proxy_with, proxy_with_one_worker};
use crate::servers::{Origin, Recorder};

/// A ClientHello that names `www.example.com`.
const HELLO: &[u8] = include_bytes!("../../fuzz/corpus/client_hello/openssl13");
const HELLO_1_2: &[u8] = include_bytes!("../../fuzz/corpus/client_hello/openssl12");
const CHROMIUM: &[u8] = include_bytes!("../../fuzz/corpus/client_hello/chromium");
/// A ClientHello without a name.
const NAMELESS: &[u8] = include_bytes!("../../fuzz/corpus/client_hello/openssl_nosni");
/// Fatal: unrecognized_name, decode_error.
const REFUSED: &[u8] = &[0x15, 3, 3, 0, 2, 2, 112];
const UNREADABLE: &[u8] = &[0x15, 3, 3, 0, 2, 2, 50];

fn denying(names: &[&str]) -> AccessOptions {
    let deny = names.iter().map(|name| (*name).to_owned()).collect();
    AccessOptions { deny, ..AccessOptions::default() }
}

/// A proxy that finds every name on loopback.
fn proxy(access: &AccessOptions) -> Server {
    proxy_with(|options| {
        options.resolver = Arc::new(Names::all([127, 0, 0, 1].into()));
        options.access = access.build(None).unwrap();
    })
}

/// Opens a tunnel to this port under a name, and reads the 200.
#[track_caller]
fn tunnel(proxy: SocketAddr, host: &str, to: SocketAddr) -> Peer {
    let mut client = Peer::connect(proxy);
    let port = to.port();
    client.send(format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"));
    let head = client.read_head();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    client
}

/// Checks that the client was sent this and a regular end, and that no server has had a byte.
#[track_caller]
fn ends_with(client: &mut Peer, alert: &[u8], server: &Recorder) {
    assert_eq!(client.read_to_any_end(), (alert.to_vec(), End::Closed));
    let seen = server.seen_at_end();
    assert!(seen.iter().all(|c| c.bytes.is_empty()), "{seen:?}");
}

/// The handshake message of a hello in records of `bytes` bytes.
fn in_records(hello: &[u8], bytes: usize) -> Vec<u8> {
    let record = |part: &[u8]| {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&[0x16, 3, 1][..], &length, part].concat()
    };
    hello[5..].chunks(bytes).flat_map(record).collect()
}

#[test]
fn nothing_of_a_hello_to_a_refused_name_reaches_the_server() {
    let server = Recorder::answering("hello");
    let proxy = proxy(&denying(&["www.example.com"]));
    let mut refused = 0;
    for hello in [HELLO.to_vec(), HELLO_1_2.to_vec(), CHROMIUM.to_vec(), in_records(HELLO, 9)] {
        for host in ["good.example", "127.0.0.1"] {
            let mut client = tunnel(proxy.addr(), host, server.addr);
            client.send(&hello);
            ends_with(&mut client, REFUSED, &server);
            refused += 1;
        }
    }
    eventually_eq(|| proxy.stats().tunnels_closed, refused);
    let stats = proxy.stats();
    assert_eq!((stats.tunnels_refused, stats.hellos_judged), (refused, refused));
}

#[test]
fn a_hello_that_may_go_on_goes_on_byte_for_byte() {
    let proxy = proxy(&denying(&["bad.example"]));
    for hello in [HELLO.to_vec(), HELLO_1_2.to_vec(), NAMELESS.to_vec(), in_records(HELLO, 9)] {
        for step in [1, 7, hello.len()] {
            let expected = hello.clone();
            let origin = Origin::script(1, move |peer| {
                assert_eq!(peer.read_exact(expected.len()), expected);
                peer.send("answer");
                assert_eq!(peer.read_text(4), "more");
                peer.expect_eof();
            });
            let mut client = tunnel(proxy.addr(), "www.example.com", origin.addr);
            for part in hello.chunks(step) {
                client.send(part);
            }
            assert_eq!(client.read_text(6), "answer");
            client.send("more");
            client.half_close();
            origin.join();
        }
    }
    assert_eq!(proxy.stats().tunnels_refused, 0);
}

/// A hello as long as is allowed, which names `www.example.com`.
fn longest() -> Vec<u8> {
    let name = b"www.example.com";
    let host = [&[0, 0, 0, 20, 0, 18, 0, 0, 15][..], name].concat();
    let before = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0]].concat();
    // The rest of 16 KiB, without the heads of the message and of its extensions.
    let extensions = (16 << 10) - 4 - before.len() - 2;
    let padding = extensions - host.len() - 4;
    let be = |n: usize| u16::try_from(n).unwrap().to_be_bytes();
    let body = [&before[..], &be(extensions), &host, &[0, 21], &be(padding), &vec![0; padding]];
    let body = body.concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[1], &length[1..], &body].concat();
    assert_eq!(message.len(), 16 << 10);
    [&[0x16, 3, 1, 0x40, 0], &message[..]].concat()
}

#[test]
fn a_hello_may_be_longer_than_a_buffer() {
    for hello in [longest(), in_records(&longest(), 256)] {
        let server = Recorder::new();
        let refusing = proxy(&denying(&["www.example.com"]));
        let mut client = tunnel(refusing.addr(), "good.example", server.addr);
        client.send(&hello);
        ends_with(&mut client, REFUSED, &server);

        let passing = proxy(&denying(&["bad.example"]));
        let mut client = tunnel(passing.addr(), "good.example", server.addr);
        client.send(&hello);
        eventually(|| server.seen().last().is_some_and(|c| c.bytes == hello));
    }
}

#[test]
fn a_hello_byte_by_byte_is_refused_with_its_last() {
    let server = Recorder::new();
    let proxy = proxy(&denying(&[".example.com"]));
    let mut client = tunnel(proxy.addr(), "good.example", server.addr);
    for byte in HELLO {
        client.send([*byte]);
    }
    ends_with(&mut client, REFUSED, &server);
}

#[test]
fn bytes_right_behind_the_connect_wait_as_well() {
    let head = |to: SocketAddr| {
        format!("CONNECT good.example:{0} HTTP/1.1\r\nHost: a:{0}\r\n\r\n", to.port()).into_bytes()
    };
    let server = Recorder::new();
    let refusing = proxy(&denying(&["www.example.com"]));
    let mut client = Peer::connect(refusing.addr());
    client.send([head(server.addr), HELLO.to_vec(), pattern(40_000)].concat());
    assert!(client.read_head().starts_with("HTTP/1.1 200 "));
    ends_with(&mut client, REFUSED, &server);

    let passing = proxy(&denying(&["bad.example"]));
    // Early data.
    let record = |part: &[u8]| {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&[0x17, 3, 3][..], &length, part].concat()
    };
    let early: Vec<u8> = pattern(60_000).chunks(16_000).flat_map(record).collect();
    let sent = [HELLO, &early].concat();
    let expected = sent.clone();
    let origin = Origin::script(1, move |peer| {
        assert!(peer.read_exact(expected.len()) == expected, "bytes differ");
        peer.send("ok");
    });
    let mut client = Peer::connect(passing.addr());
    client.send([head(origin.addr), sent].concat());
    assert!(client.read_head().starts_with("HTTP/1.1 200 "));
    assert_eq!(client.read_text(2), "ok");
    origin.join();
}

#[test]
fn a_server_that_speaks_first_is_heard_and_what_is_no_tls_goes_on() {
    let proxy = proxy(&denying(&["bad.example"]));
    let garbage = pattern(16 << 10);
    for said in [&b"SSH-2.0-client\r\n"[..], b"EHLO a\r\n", b"\x16EHLO a", b"\0", &garbage] {
        let expected = said.to_vec();
        let origin = Origin::script(1, move |peer| {
            peer.send("SSH-2.0-server\r\n");
            assert!(peer.read_exact(expected.len()) == expected, "bytes differ");
            peer.send("more");
            peer.expect_eof();
        });
        let mut client = tunnel(proxy.addr(), "good.example", origin.addr);
        assert_eq!(client.read_line(), "SSH-2.0-server");
        client.send(said);
        assert_eq!(client.read_text(4), "more");
        client.half_close();
        origin.join();
    }
    assert_eq!(proxy.stats().hellos_judged, 0);
}

#[test]
fn what_begins_like_tls_and_cannot_be_read_is_refused() {
    let server = Recorder::new();
    let proxy = proxy(&denying(&["bad.example"]));
    let garbage = [&[0x16, 3, 1, 0x40, 0][..], &pattern(16 << 10)].concat();
    let warning_first = [&[0x15, 3, 1, 0, 2, 1, 0][..], HELLO].concat();
    let mut short = HELLO.to_vec();
    short[8] -= 1;
    for hello in [&garbage[..], &warning_first, &short, &[0x16, 3, 1, 0, 0]] {
        let mut client = tunnel(proxy.addr(), "good.example", server.addr);
        client.send(hello);
        ends_with(&mut client, UNREADABLE, &server);
    }
}

#[test]
fn a_hello_under_another_version_or_format_is_no_way_around_a_rule() {
    let server = Recorder::new();
    let proxy = proxy(&denying(&["www.example.com"]));
    let versioned = |version: [u8; 2]| [&HELLO[..1], &version, &HELLO[3..]].concat();
    for version in [[0, 0], [2, 0], [4, 1], [0x0f, 0xff], [0x7f, 3]] {
        let mut client = tunnel(proxy.addr(), "good.example", server.addr);
        client.send(versioned(version));
        ends_with(&mut client, REFUSED, &server);
        let mut client = tunnel(proxy.addr(), "good.example", server.addr);
        client.send([&[0x15, version[0], version[1], 0, 2, 1, 0][..], HELLO].concat());
        ends_with(&mut client, UNREADABLE, &server);
    }
    let mut client = tunnel(proxy.addr(), "good.example", server.addr);
    client.send(b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10");
    ends_with(&mut client, UNREADABLE, &server);
}

/// A ClientHello with these bytes as its host name.
fn hello_naming(name: &[u8]) -> Vec<u8> {
    let be = |n: usize| u16::try_from(n).unwrap().to_be_bytes();
    let host = [&[0][..], &be(name.len()), name].concat();
    let list = [&be(host.len())[..], &host].concat();
    let extension = [&[0, 0][..], &be(list.len()), &list].concat();
    let before = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0]].concat();
    let body = [&before[..], &be(extension.len()), &extension].concat();
    let message = [&[1, 0][..], &be(body.len()), &body].concat();
    [&[0x16, 3, 1][..], &be(message.len()), &message].concat()
}

#[test]
fn a_name_that_is_no_host_is_refused_wherever_names_are_judged() {
    let list = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(list.path(), "bad.example\n").unwrap();
    let list = format!("--block-list={}", list.path().display());
    for rule in ["--deny=bad.example", &list, "--sni=match", "--policy=enforce"] {
        let server = Recorder::new();
        let allow = "--allow=good.example";
        let proxy = logging_proxy(&[rule, allow, "--resolve=good.example:127.0.0.1"]);
        let long = "a.".repeat(128) + "a";
        for name in [
            "bad.example:443",
            "bad.example:",
            "bad.example..",
            ".bad.example",
            "bad..example",
            "bad.example\0",
            "bad.example ",
            "b\u{e4}d.example",
            "192.0.2.1",
            "127.1",
            "[::1]",
            &long,
        ] {
            let mut client = tunnel(proxy.addr, "good.example", server.addr);
            client.send(hello_naming(name.as_bytes()));
            let (alert, end) = client.read_to_any_end();
            assert_eq!(alert.len(), REFUSED.len(), "{rule} {name}");
            assert_eq!((&alert[..6], end), (&REFUSED[..6], End::Closed), "{rule} {name}");
        }
        assert!(server.seen_at_end().iter().all(|c| c.bytes.is_empty()), "{rule}");
        let mut client = tunnel(proxy.addr, "good.example", server.addr);
        let good = hello_naming(b"Good.example.");
        client.send(&good);
        eventually(|| server.seen().last().is_some_and(|c| c.bytes == good));
    }
}

#[test]
fn half_a_hello_has_the_time_of_a_head_and_holds_no_worker() {
    let limit = Duration::from_millis(400);
    let server = Recorder::new();
    let proxy = proxy_with_one_worker(|options| {
        options.resolver = Arc::new(Names::all([127, 0, 0, 1].into()));
        options.access = denying(&["bad.example"]).build(None).unwrap();
        options.timeouts.head = limit;
    });
    let mut slow = tunnel(proxy.addr(), "good.example", server.addr);
    slow.send(&HELLO[..100]);
    // A silent client waits for nothing.
    let mut silent = tunnel(proxy.addr(), "good.example", server.addr);
    let origin = Origin::script(1, |peer| {
        assert_eq!(peer.read_exact(HELLO.len()), HELLO);
        peer.send("ok");
    });
    let mut other = tunnel(proxy.addr(), "good.example", origin.addr);
    other.send(HELLO);
    assert_eq!(other.read_text(2), "ok", "meanwhile, on the one worker");
    drop(other);
    origin.join();
    // Each byte moves, but none buys time.
    let dripped = std::thread::scope(|scope| {
        let writer = slow.stream().try_clone().unwrap();
        scope.spawn(move || {
            let mut writer = Peer::new(writer);
            for byte in &HELLO[100..200] {
                if writer.try_send([*byte]).is_err() {
                    return;
                }
                std::thread::sleep(limit / 20);
            }
        });
        slow.read_to_any_end().0
    });
    assert_eq!(dripped, b"");
    eventually_eq(|| proxy.stats().tunnels_closed, 2);
    silent.send(HELLO);
    eventually(|| server.seen().iter().any(|c| c.bytes == HELLO));
    assert!(server.seen().iter().all(|c| c.bytes.is_empty() || c.bytes == HELLO));
}

#[test]
fn an_end_without_a_word_is_passed_on_and_one_in_a_hello_is_not() {
    let proxy = proxy(&denying(&["bad.example"]));
    let origin = Origin::script(1, |peer| {
        peer.expect_eof();
        peer.send("late");
    });
    let mut client = tunnel(proxy.addr(), "good.example", origin.addr);
    client.half_close();
    client.expect_text_and_eof("late");
    origin.join();

    let server = Recorder::new();
    let mut client = tunnel(proxy.addr(), "good.example", server.addr);
    client.send(&HELLO[..100]);
    client.half_close();
    ends_with(&mut client, UNREADABLE, &server);
}

#[test]
fn a_peer_that_goes_while_bytes_wait_ends_the_tunnel() {
    let proxy = proxy(&denying(&["bad.example"]));
    let server = Recorder::new();
    let mut client = tunnel(proxy.addr(), "good.example", server.addr);
    client.send(&HELLO[..100]);
    client.reset();
    assert!(server.seen_at_end().iter().all(|c| c.bytes.is_empty()));
    eventually_eq(|| proxy.stats().tunnels_closed, 1);

    let gone = Moment::new();
    let says = gone.clone();
    let origin = Origin::script(1, move |peer| {
        peer.send("bye");
        says.has_come();
    });
    let mut client = tunnel(proxy.addr(), "good.example", origin.addr);
    client.send(&HELLO[..100]);
    gone.wait();
    client.expect_text_and_eof("bye");
    client.half_close_if_open();
    origin.join();
    eventually_eq(|| proxy.stats().tunnels_closed, 2);
}

#[test]
fn the_name_has_to_be_the_same_if_that_is_asked_for() {
    let server = Recorder::new();
    let access = AccessOptions { sni: Hellos::Match, ..AccessOptions::default() };
    let proxy = proxy(&access);
    let mut passed = 0;
    for (host, hello, passes) in [
        ("www.example.com", HELLO, true),
        ("WWW.Example.COM.", HELLO, true),
        ("example.com", HELLO, false),
        ("www.example.com", NAMELESS, false),
        ("127.0.0.1", HELLO, true),
        ("127.0.0.1", NAMELESS, true),
        ("www.example.com", b"SSH-2.0-x\r\n", true),
    ] {
        let mut client = tunnel(proxy.addr(), host, server.addr);
        client.send(hello);
        if passes {
            passed += 1;
            let whole = || server.seen().iter().filter(|c| !c.bytes.is_empty()).count() == passed;
            eventually(whole);
        } else {
            assert_eq!(client.read_to_any_end(), (REFUSED.to_vec(), End::Closed), "{host}");
        }
    }
}

#[test]
fn without_a_rule_on_names_nothing_waits() {
    let networks = denying(&["192.0.2.0/24"]);
    let off = AccessOptions { sni: Hellos::Off, ..denying(&["www.example.com"]) };
    for access in [AccessOptions::default(), networks, off] {
        let server = Recorder::new();
        let proxy = proxy(&access);
        let mut client = tunnel(proxy.addr(), "good.example", server.addr);
        client.send(&HELLO[..100]);
        eventually(|| server.seen().iter().any(|c| c.bytes == HELLO[..100]));
        client.send(&HELLO[100..]);
        eventually(|| server.seen().iter().any(|c| c.bytes == HELLO));
        assert_eq!(proxy.stats().hellos_judged, 0);
    }
}

#[test]
fn an_upgraded_connection_is_not_looked_at() {
    let origin = Origin::script(1, |peer| {
        peer.read_head();
        peer.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n");
        assert_eq!(peer.read_exact(HELLO.len()), HELLO);
        peer.send("ok");
    });
    let proxy = proxy(&denying(&["www.example.com"]));
    let mut client = Peer::connect(proxy.addr());
    let host = format!("good.example:{}", origin.addr.port());
    client.send(format!(
        "GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
    ));
    assert!(client.read_head().starts_with("HTTP/1.1 101 "));
    client.send(HELLO);
    assert_eq!(client.read_text(2), "ok");
    origin.join();
}

#[test]
fn the_log_has_the_rule_and_the_name_that_was_not_said() {
    let server = Recorder::new();
    let proxy = logging_proxy(&[
        "--deny=a.example",
        "--deny=.example.com",
        "--resolve=good.example:127.0.0.1",
        "--resolve=also.example:127.0.0.1",
    ]);
    let mut client = tunnel(proxy.addr, "good.example", server.addr);
    client.send(HELLO);
    ends_with(&mut client, REFUSED, &server);
    let lines = logged(&proxy, |lines| lines.len() == 1);
    let line = &lines[0];
    let has = |key: &str, value: &str| assert_eq!(line[key].as_str(), Some(value), "{line}");
    has("rule", "--deny:2");
    has("sni", "www.example.com");
    has("error", "http_request_denied");
    has("side", "proxy");
    has("reason", "the ClientHello names a host that is refused");
    has("kind", "tunnel");
    has("upstream", &server.addr.to_string());
    assert_eq!(line["status"], 200, "{line}");
}

#[test]
fn a_name_on_a_block_list_is_refused_by_its_line() {
    let server = Recorder::new();
    let list = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(list.path(), "# names\nads.example\nexample.com\n").unwrap();
    let file = list.path().display().to_string();
    let proxy =
        logging_proxy(&[&format!("--block-list={file}"), "--resolve=good.example:127.0.0.1"]);
    let mut client = tunnel(proxy.addr, "good.example", server.addr);
    client.send(HELLO);
    ends_with(&mut client, REFUSED, &server);
    let lines = logged(&proxy, |lines| lines.len() == 1);
    assert_eq!(lines[0]["rule"].as_str(), Some(&*format!("{file}:3")), "{}", lines[0]);
}

#[test]
fn what_is_only_reported_goes_on() {
    let server = Recorder::new();
    let proxy = logging_proxy(&[
        "--policy=report",
        "--deny=.example.com",
        "--allow=good.example",
        "--resolve=good.example:127.0.0.1",
    ]);
    for hello in [HELLO, &[0x16, 3, 1, 0, 0]] {
        let mut client = tunnel(proxy.addr, "good.example", server.addr);
        client.send(hello);
        eventually(|| server.seen().last().is_some_and(|c| c.bytes == hello));
    }
    let lines = logged(&proxy, |lines| lines.len() == 2);
    let reported: Vec<_> = lines.iter().map(|line| line["would_deny"].as_str()).collect();
    assert_eq!(reported, [Some("--deny:1"), Some("--sni")]);
}
