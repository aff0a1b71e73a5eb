//! The end of content: every framing both ways, re-framing between versions, and truncation, which must
//! look like truncation on the other side, too.

use std::thread;
use std::time::Duration;

use crate::hostile::{LiesAboutLength, ResetMidBody};
use crate::peers::{
    End, Moment, Peer, comes_true, eventually, field, fields, is_whole_chunked, pattern, shown,
};
use crate::proxies::{OK, get_request, proxy};
use crate::servers::{Origin, Recorder};

/// Sizes around those of buffers, and well beyond what sockets hold.
const SIZES: &[usize] = &[0, 1, 2, 4095, 4096, 16_384, 65_535, 65_536, 65_537, 3_000_000];

#[test]
fn content_by_length_arrives_whole_in_both_directions() {
    let origin = Origin::script(1, |peer| {
        for &size in SIZES {
            let head = peer.read_head();
            assert_eq!(field(&head, "content-length"), Some(&*size.to_string()));
            assert!(peer.read_exact(size) == pattern(size), "{size} bytes of request content");

            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n"));
            peer.send(pattern(size));
        }
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    for &size in SIZES {
        client.send(post(&origin, &format!("Content-Length: {size}\r\n")));
        client.send(pattern(size));
        let response = client.read_response();
        assert_eq!(response.field("content-length"), Some(&*size.to_string()));
        assert!(response.content == pattern(size), "{size} bytes of response content");
    }
    origin.join();
}

#[test]
fn chunked_content_and_its_trailers_arrive_in_both_directions() {
    let origin = Origin::script(1, |peer| {
        for &size in SIZES {
            let head = peer.read_head();
            assert_eq!(field(&head, "transfer-encoding"), Some("chunked"));
            assert_eq!(field(&head, "content-length"), None);
            let (content, trailers) = peer.read_chunked();
            assert!(content == pattern(size), "{size} bytes of request content");
            assert_eq!(trailers, ["X-Sum: 1", "x-sum: 2"]);
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            peer.send(chunked(&pattern(size), "X-Sum: 3\r\nX-Empty:\r\n"));
        }
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    for &size in SIZES {
        client.send(post(&origin, "Transfer-Encoding: chunked\r\n"));
        client.send(chunked(&pattern(size), "X-Sum: 1\r\nx-sum: 2\r\n"));
        let response = client.read_response();
        assert!(response.content == pattern(size), "{size} bytes of response content");
        assert_eq!(response.trailers, ["X-Sum: 3", "X-Empty:"]);
    }
    origin.join();
}

#[test]
fn every_valid_spelling_of_a_chunk_is_read() {
    for (body, content) in [
        ("3\r\nabc\r\n0\r\n\r\n", "abc"),
        ("003\r\nabc\r\n000\r\n\r\n", "abc"),
        ("3;a\r\nabc\r\n0\r\n\r\n", "abc"),
        ("3;a=b;c=\"d;e\\\"\"\r\nabc\r\n0;last\r\n\r\n", "abc"),
        ("a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789"),
        ("1\r\n\n\r\n2\r\n\r\n\r\n0\r\n\r\n", "\n\r\n"),
        ("5\r\n0\r\n\r\n\r\n0\r\n\r\n", "0\r\n\r\n"),
        ("0\r\n\r\n", ""),
    ] {
        let origin = Origin::script(1, move |peer| {
            peer.read_head();
            assert_eq!(peer.read_chunked().0, content.as_bytes(), "{body:?}");
            peer.send(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: CHUNKED\r\n\r\n{body}"));
        });
        let proxy = proxy();
        let mut client = Peer::connect(proxy.addr());
        client.send(post(&origin, "Transfer-Encoding: Chunked\r\n") + body);
        assert_eq!(client.read_response().text(), content, "{body:?}");
        origin.join();
    }
}

#[test]
fn a_body_is_understood_wherever_segments_cut_it() {
    let body = "3\r\nabc\r\n0a;x=y\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n";
    let origin = Origin::script(1, move |peer| {
        for cut in 1..body.len() {
            peer.read_head();
            assert_eq!(peer.read_chunked().0, b"abc0123456789", "cut at {cut}");
            peer.send(OK);
        }
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    for cut in 1..body.len() {
        client.send(post(&origin, "Transfer-Encoding: chunked\r\n") + &body[..cut]);
        client.send(&body[cut..]);
        assert_eq!(client.read_response().status, 200, "cut at {cut}");
    }
    origin.join();
}

#[test]
fn a_small_piece_is_not_held_back_for_more() {
    let origin = Origin::script(1, |peer| {
        peer.read_head();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..3 {
            assert_eq!(peer.read_line(), "1");
            assert_eq!(peer.read_line(), "q");
            peer.send("1\r\na\r\n");
        }
        assert_eq!(peer.read_chunked().0, b"");
        peer.send("0\r\n\r\n");
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(post(&origin, "Transfer-Encoding: chunked\r\n"));
    client.read_head();
    for _ in 0..3 {
        client.send("1\r\nq\r\n");
        assert_eq!(client.read_line(), "1");
        assert_eq!(client.read_line(), "a");
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.read_chunked().0, b"");
    origin.join();
}

#[test]
fn a_response_until_close_becomes_chunked_and_the_client_stays() {
    for response in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n"]
    {
        for &size in SIZES {
            let origin = Origin::script(2, move |peer| {
                peer.read_head();
                peer.send(response);
                peer.send(pattern(size));
            });
            let proxy = proxy();
            let mut client = Peer::connect(proxy.addr());
            for _ in 0..2 {
                client.send(get_request(origin.addr, "/"));
                let response = client.read_response();
                assert_eq!(fields(&response.head, "transfer-encoding"), ["chunked"]);
                assert!(response.content == pattern(size), "{size} bytes");
            }
            origin.join();
        }
    }
}

#[test]
fn a_1_0_client_gets_what_has_no_length_until_close() {
    for response in [
        "HTTP/1.1 200 OK\r\n\r\nuntil close",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nuntil \r\n5\r\nclose\r\n0\r\nX-Sum: 1\r\n\r\n",
    ] {
        let origin = Origin::script(1, move |peer| {
            peer.read_head();
            peer.send(response);
        });
        let proxy = proxy();
        let mut client = Peer::connect(proxy.addr());
        client.send(format!(
            "GET http://{}/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            origin.addr
        ));
        let response = client.read_response();
        assert_eq!(response.field("transfer-encoding"), None, "{}", response.head);
        assert_eq!(response.field("content-length"), None, "{}", response.head);
        assert_eq!(response.text(), "until close");
        origin.join();
    }
}

#[test]
fn equal_lengths_are_one_length() {
    let origin = Origin::script(1, |peer| {
        let head = peer.read_head();
        assert_eq!(field(&head, "content-length"), Some("3"), "{head}");
        assert_eq!(peer.read_text(3), "abc");
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(post(&origin, "Content-Length: 3\r\nContent-Length: 3, 03\r\n") + "abc");
    assert_eq!(client.read_response().text(), "ok");
    origin.join();
}

#[test]
fn a_response_cut_short_reaches_the_client_cut_short() {
    for sent in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\nX-Sum: 1\r\n",
    ] {
        for reset in [false, true] {
            let origin = if reset {
                Origin::hostile(1, ResetMidBody { sent })
            } else {
                Origin::script(1, move |peer| {
                    peer.read_head();
                    peer.send(sent);
                })
            };
            truncated(origin, &format!("{sent:?}, reset: {reset}"));
        }
    }
}

/// A close is the end there. A reset is not, and must not become the last chunk.
#[test]
fn a_response_until_close_that_is_reset_reaches_the_client_cut_short() {
    truncated(Origin::hostile(1, ResetMidBody { sent: "HTTP/1.1 200 OK\r\n\r\nhalf" }), "reset");
}

/// The system reports a reset once: here to the send that is under way.
#[test]
fn a_response_until_close_that_is_reset_under_an_upload_reaches_the_client_cut_short() {
    let come = Moment::new();
    let has_come = come.clone();
    let origin = Origin::script(1, move |peer| {
        peer.read_head();
        peer.send("HTTP/1.1 200 OK\r\n\r\nhalf");
        has_come.wait();
        socket2::SockRef::from(peer.stream()).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(format!(
        "POST http://{0}/ HTTP/1.1\r\nHost: {0}\r\nContent-Length: 100000000\r\n\r\n",
        origin.addr
    ));
    let mut writer = Peer::new(client.stream().try_clone().unwrap());
    // Nobody reads these bytes, so from some moment on the proxy holds some that it cannot send.
    let sending = thread::spawn(move || while writer.try_send([b'x'; 65536]).is_ok() {});
    let content = client.read_until(b"4\r\nhalf\r\n");
    let stuck = || comes_true(Duration::from_millis(100), &mut || sending.is_finished());
    assert!(!stuck(), "somebody took it");
    come.has_come();
    let (rest, _) = client.read_to_any_end();
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{} looks whole", shown(&[content, rest].concat()));
    sending.join().unwrap();
    origin.join();
}

/// Asks `origin`. The client gets a head, some content and the end, and can tell that the end came too
/// early.
#[track_caller]
fn truncated(origin: Origin, what: &str) {
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(get_request(origin.addr, "/"));
    let head = client.read_head();
    assert!(head.starts_with("HTTP/1.1 200 "), "{what}: {head}");
    let (content, _) = client.read_to_any_end();
    match field(&head, "content-length") {
        Some(length) => {
            assert!(content.len() < length.parse().unwrap(), "{what}: {head}{content:?}")
        }
        None => {
            assert_eq!(field(&head, "transfer-encoding"), Some("chunked"), "{what}");
            assert!(!is_whole_chunked(&content), "{what}: {} looks whole", shown(&content));
        }
    }
    origin.join();
}

#[test]
fn a_1_0_client_sees_a_truncated_chunked_response_as_a_reset() {
    let sent = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    let origin = Origin::script(1, move |peer| {
        peer.read_head();
        peer.send(sent);
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(format!("GET http://{}/ HTTP/1.0\r\n\r\n", origin.addr));
    let head = client.read_head();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    // The close is its only framing, so only a reset can tell that this was not the end.
    let (_, end) = client.read_to_any_end();
    assert_eq!(end, End::Reset);
    origin.join();
}

#[test]
fn a_response_longer_than_it_says_is_cut_at_its_length() {
    let origin = Origin::hostile(2, LiesAboutLength { says: 2, sends: "okNEVER" });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    for _ in 0..2 {
        client.send(get_request(origin.addr, "/"));
        assert_eq!(client.read_response().text(), "ok");
    }
    origin.join();
}

#[test]
fn a_response_shorter_than_it_says_ends_the_connection() {
    truncated(Origin::hostile(1, LiesAboutLength { says: 7, sends: "short" }), "lies");
}

#[test]
fn an_upload_cut_short_reaches_the_upstream_cut_short() {
    for (lines, sent) in [
        ("Content-Length: 10\r\n", "half"),
        ("Transfer-Encoding: chunked\r\n", "4\r\nhalf\r\n"),
        ("Transfer-Encoding: chunked\r\n", "a\r\nhalf"),
        ("Transfer-Encoding: chunked\r\n", "4\r\nhalf\r\n0\r\n"),
    ] {
        for reset in [false, true] {
            let recorder = Recorder::new();
            let proxy = proxy();
            let mut client = Peer::connect(proxy.addr());
            client.send(format!(
                "PUT http://{0}/ HTTP/1.1\r\nHost: {0}\r\n{lines}\r\n{sent}",
                recorder.addr
            ));
            eventually(|| {
                recorder.seen().iter().any(|c| String::from_utf8_lossy(&c.bytes).contains("half"))
            });
            if reset {
                client.reset();
            } else {
                client.half_close();
                client.read_to_any_end();
            }
            let seen = recorder.seen_at_end();
            assert_eq!(seen.len(), 1, "{lines}{sent:?}: {seen:?}");
            let text = String::from_utf8_lossy(&seen[0].bytes);
            let (_, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(
                body.contains("half") && !is_whole_chunked(body.as_bytes()),
                "{sent:?}: {body:?}"
            );
        }
    }
}

fn post(origin: &Origin, lines: &str) -> String {
    format!("POST http://{0}/ HTTP/1.1\r\nHost: {0}\r\n{lines}\r\n", origin.addr)
}

/// `content` in chunks of very different sizes, then `trailers`.
fn chunked(content: &[u8], trailers: &str) -> Vec<u8> {
    let mut body = Vec::new();
    let (mut rest, mut size) = (content, 1);
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(size.min(rest.len()));
        body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        body.extend_from_slice(chunk);
        body.extend_from_slice(b"\r\n");
        (rest, size) = (after, size * 3 + 1);
    }
    body.extend_from_slice(format!("0\r\n{trailers}\r\n").as_bytes());
    body
}
