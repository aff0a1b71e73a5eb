//! Streams: long and fast content goes from socket to socket through a pipe, and only the counter shows
//! it. Each promise holds with pipes, with a single one, and with none.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use socket2::SockRef;
use threadgate::Server;

use crate::peers::{End, Moment, Peer, eventually, eventually_eq, field, pattern};
use crate::proxies::{OK, get, get_request, proxy_with};
use crate::servers::Origin;

/// Long enough for every pace, and not a multiple of any size that the proxy works with.
pub(crate) const LONG: usize = (3 << 20) + 12_345;

/// Runs `test` with a proxy of each kind; the number is `max_pipes`.
#[track_caller]
pub(crate) fn with_and_without_pipes(test: impl Fn(&Server, Option<usize>)) {
    for pipes in [None, Some(1), Some(0)] {
        test(&proxy_with(|options| options.max_pipes = pipes), pipes);
    }
}

/// Checks that at least a good part of `bytes` was spliced, if there are pipes.
#[track_caller]
pub(crate) fn assert_spliced(proxy: &Server, pipes: Option<usize>, bytes: usize) {
    let spliced = proxy.stats().bytes_spliced;
    match pipes {
        Some(0) => assert_eq!(spliced, 0, "without pipes everything is copied"),
        _ => assert!(spliced >= bytes as u64 / 4, "{spliced} of {bytes} bytes spliced"),
    }
}

fn tunnel(proxy: SocketAddr, authority: SocketAddr) -> Peer {
    let mut client = Peer::connect(proxy);
    client.send(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"));
    assert!(client.read_head().starts_with("HTTP/1.1 200 "));
    client
}

#[test]
fn a_long_response_is_spliced_and_both_connections_live_on() {
    with_and_without_pipes(|proxy, pipes| {
        let origin = Origin::script(1, |peer| {
            for _ in 0..2 {
                peer.read_head();
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LONG}\r\n\r\n"));
                peer.send(pattern(LONG));
                peer.read_head();
                peer.send(OK);
            }
        });
        let mut client = Peer::connect(proxy.addr());
        for _ in 0..2 {
            client.send(get_request(origin.addr, "/long"));
            let response = client.read_response();
            assert!(response.content == pattern(LONG), "bytes differ");
            // Another message on both connections, which must be in their regular state.
            client.send(get_request(origin.addr, "/short"));
            assert_eq!(client.read_response().status, 200);
        }
        assert_spliced(proxy, pipes, 2 * LONG);
        assert_eq!(proxy.stats().upstream_reuses, 3);
        origin.join();
    });
}

#[test]
fn a_long_upload_is_spliced() {
    with_and_without_pipes(|proxy, pipes| {
        let origin = Origin::script(1, |peer| {
            peer.read_head();
            assert!(peer.read_exact(LONG) == pattern(LONG), "bytes differ");
            peer.send(OK);
            peer.read_head();
            peer.send(OK);
        });
        let mut client = Peer::connect(proxy.addr());
        let o = origin.addr;
        client.send(format!(
            "PUT http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: {LONG}\r\n\r\n"
        ));
        client.send(pattern(LONG));
        assert_eq!(client.read_response().status, 200);
        client.send(get_request(o, "/next"));
        assert_eq!(client.read_response().status, 200);
        assert_spliced(proxy, pipes, LONG);
        origin.join();
    });
}

#[test]
fn content_until_close_is_spliced_plain_to_1_0_and_chunked_to_1_1() {
    with_and_without_pipes(|proxy, pipes| {
        let origin = Origin::script(2, |peer| {
            peer.read_head();
            peer.send("HTTP/1.0 200 OK\r\n\r\n");
            peer.send(pattern(LONG));
        });
        let mut old = Peer::connect(proxy.addr());
        old.send(format!("GET http://{}/ HTTP/1.0\r\n\r\n", origin.addr));
        let head = old.read_head();
        assert_eq!(field(&head, "transfer-encoding"), None);
        assert!(old.read_to_end() == pattern(LONG), "bytes differ");
        assert_spliced(proxy, pipes, LONG);
        let response = get(proxy.addr(), origin.addr, "/");
        assert_eq!(field(&response.head, "transfer-encoding"), Some("chunked"));
        assert!(response.content == pattern(LONG), "bytes differ");
        assert_spliced(proxy, pipes, 2 * LONG);
        origin.join();
    });
}

#[test]
fn a_tunnel_that_turns_into_a_stream_is_spliced_both_ways_at_once() {
    with_and_without_pipes(|proxy, pipes| {
        let origin = Origin::script(1, |peer| {
            let mut other = Peer::new(peer.stream().try_clone().unwrap());
            thread::scope(|scope| {
                scope.spawn(move || {
                    other.send(pattern(LONG));
                    other.half_close();
                });
                assert!(peer.read_to_end() == pattern(LONG), "bytes up differ");
            });
        });
        let mut client = tunnel(proxy.addr(), origin.addr);
        let mut other = Peer::new(client.stream().try_clone().unwrap());
        thread::scope(|scope| {
            scope.spawn(move || {
                other.send(pattern(LONG));
                other.half_close();
            });
            assert!(client.read_to_end() == pattern(LONG), "bytes down differ");
        });
        assert_spliced(proxy, pipes, 2 * LONG);
        origin.join();
        eventually_eq(|| proxy.stats().tunnels_closed, 1);
    });
}

#[test]
fn a_stream_that_turns_back_into_messages_is_copied_again_and_none_is_late() {
    with_and_without_pipes(|proxy, pipes| {
        let origin = Origin::script(1, |peer| {
            peer.send(pattern(LONG));
            for _ in 0..500 {
                let question = peer.read_exact(64);
                peer.send(question);
            }
        });
        let mut client = tunnel(proxy.addr(), origin.addr);
        assert!(client.read_exact(LONG) == pattern(LONG), "bytes differ");
        assert_spliced(proxy, pipes, LONG);
        let before = proxy.stats().bytes_spliced;
        for round in 0..500 {
            let mut question = String::new();
            write!(question, "{round:064}").unwrap();
            client.send(&question);
            assert_eq!(client.read_text(64), question);
        }
        // Only the first few small messages find the flow still at the pace of a stream.
        let small = proxy.stats().bytes_spliced - before;
        assert!(small <= 16 * 64, "{small} bytes of small messages spliced");
        origin.join();
    });
}

#[test]
fn a_stream_that_is_cut_short_does_not_look_whole() {
    with_and_without_pipes(|proxy, pipes| {
        for reset in [false, true] {
            let read = Moment::new();
            let theirs = read.clone();
            let origin = Origin::script(3, move |peer| {
                let head = peer.read_head();
                let fields = match () {
                    () if head.contains("/length") => format!("Content-Length: {}\r\n", 2 * LONG),
                    () => String::new(),
                };
                peer.send(format!("HTTP/1.1 200 OK\r\n{fields}\r\n"));
                peer.send(pattern(LONG));
                if reset || fields.is_empty() {
                    // A reset overtakes bytes: only after they were read is it known what it cuts.
                    theirs.wait();
                    SockRef::from(peer.stream()).set_linger(Some(Duration::ZERO)).unwrap();
                }
            });
            let mut client = Peer::connect(proxy.addr());
            client.send(get_request(origin.addr, "/length"));
            client.read_head();
            assert!(client.read_exact(LONG) == pattern(LONG), "bytes differ");
            if reset {
                read.has_come();
            }
            client.expect_end();
            // Without a length only a reset, or a chunked body that does not end, shows the cut.
            let mut client = Peer::connect(proxy.addr());
            client.send(get_request(origin.addr, "/close"));
            let head = client.read_head();
            assert_eq!(field(&head, "transfer-encoding"), Some("chunked"));
            client.read_exact(LONG);
            read.has_come();
            let (rest, _) = client.read_to_any_end();
            assert!(!rest.ends_with(b"0\r\n\r\n"), "it looks whole");
            let mut old = Peer::connect(proxy.addr());
            old.send(format!("GET http://{}/close HTTP/1.0\r\n\r\n", origin.addr));
            old.read_head();
            assert!(old.read_exact(LONG) == pattern(LONG), "bytes differ");
            read.has_come();
            assert_eq!(old.read_to_any_end().1, End::Reset);
            origin.join();
        }
        assert_spliced(proxy, pipes, LONG);
    });
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_stream_frees_the_upstream_and_its_pipe() {
    with_and_without_pipes(|proxy, pipes| {
        let origin = Origin::script(4, |peer| {
            peer.read_head();
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 64 * LONG));
            // Until the proxy is gone, too.
            while peer.try_send(pattern(LONG)).is_ok() {}
        });
        for _ in 0..4 {
            let mut client = Peer::connect(proxy.addr());
            client.send(get_request(origin.addr, "/"));
            client.read_head();
            client.read_exact(LONG);
            client.reset();
        }
        origin.join();
        assert_spliced(proxy, pipes, 4 * LONG);
        // Each held bytes that nobody wanted. With one pipe in all, a leak would show in the second.
        eventually(|| proxy.stats().connections_closed == 4);
    });
}

#[test]
fn urgent_data_in_a_stream_holds_nothing_up() {
    with_and_without_pipes(|proxy, _| {
        let origin = Origin::script(1, |peer| {
            peer.send(pattern(LONG));
            let socket = SockRef::from(peer.stream());
            socket.send_out_of_band(b"!").unwrap();
            peer.send("behind it");
            assert_eq!(peer.read_text(2), "ok");
        });
        let mut client = tunnel(proxy.addr(), origin.addr);
        assert!(client.read_exact(LONG) == pattern(LONG), "bytes differ");
        // The urgent byte itself is not part of the stream (RFC 6093 §3).
        assert_eq!(client.read_text(9), "behind it");
        client.send("ok");
        origin.join();
    });
}

#[test]
fn the_end_behind_urgent_data_cuts_nothing_off() {
    with_and_without_pipes(|proxy, _| {
        for version in ["1.0", "1.1", "tunnel"] {
            let sent = Moment::new();
            let told = sent.clone();
            let origin = Origin::script(1, move |peer| {
                if version != "tunnel" {
                    peer.read_head();
                    peer.send("HTTP/1.1 200 OK\r\n\r\n");
                }
                peer.send(pattern(LONG));
                SockRef::from(peer.stream()).send_out_of_band(b"!").unwrap();
                peer.send("behind it");
                peer.half_close();
                told.has_come();
                peer.expect_eof();
            });
            let mut client = match version {
                "tunnel" => tunnel(proxy.addr(), origin.addr),
                _ => {
                    let mut client = Peer::connect(proxy.addr());
                    let request = get_request(origin.addr, "/");
                    client.send(request.replace("HTTP/1.1", &format!("HTTP/{version}")));
                    client
                }
            };
            let head = if version == "tunnel" { String::new() } else { client.read_head() };
            let mut expected = pattern(LONG);
            expected.extend(b"behind it");
            let got = if field(&head, "transfer-encoding").is_some() {
                sent.wait();
                client.read_chunked().0
            } else {
                // All bytes are under way, and the end, too, when the proxy comes to the mark.
                let mut got = client.read_exact(LONG / 2);
                sent.wait();
                got.extend(client.read_to_end());
                got
            };
            assert_eq!(got.len(), expected.len(), "{version}");
            assert!(got == expected, "bytes differ");
            client.half_close_if_open();
            origin.join();
        }
    });
}

#[test]
fn many_streams_share_few_pipes() {
    let proxy = proxy_with(|options| options.max_pipes = Some(2));
    let origin = Origin::script_at_once(12, |peer| {
        peer.read_head();
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LONG}\r\n\r\n"));
        peer.send(pattern(LONG));
    });
    thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let response = get(proxy.addr(), origin.addr, "/");
                assert!(response.content == pattern(LONG), "bytes differ");
            });
        }
    });
    assert_spliced(&proxy, Some(2), LONG);
    origin.join();
}
