//! Responses before or instead of the expected answer: 1xx responses, `Expect`, answers that arrive
//! while the upload still runs, answers without content.

use crate::peers::{Moment, Peer, field, pattern, status};
use crate::proxies::{OK, get_request, proxy, proxy_without_via};
use crate::servers::Origin;

#[test]
fn interim_responses_are_passed_on_as_they_come() {
    let seen = Moment::new();
    let client_has_seen = seen.clone();
    let origin = Origin::script(1, move |peer| {
        peer.read_head();
        for _ in 0..2 {
            peer.send("HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nLink: </b>\r\n\r\n");
            client_has_seen.wait();
        }
        peer.send(OK);
    });
    let proxy = proxy_without_via();
    let mut client = Peer::connect(proxy.addr());
    client.send(get_request(origin.addr, "/"));
    for _ in 0..2 {
        assert_eq!(
            client.read_head(),
            "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nLink: </b>\r\n\r\n"
        );
        seen.has_come();
    }
    assert_eq!(client.read_response().text(), "ok");
    origin.join();
}

#[test]
fn an_interim_response_in_the_same_segment_as_the_final_one_is_told_from_it() {
    let origin = Origin::answer(
        "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    );
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(get_request(origin.addr, "/"));
    assert_eq!(status(&client.read_head()), 102);
    assert_eq!(status(&client.read_head()), 103);
    assert_eq!(client.read_response().text(), "ok");
    drop(proxy);
}

/// RFC 9110 §15.2: a client of HTTP/1.0 must not get one.
#[test]
fn a_1_0_client_gets_no_interim_response() {
    let origin = Origin::answer(
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    );
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(format!("GET http://{}/ HTTP/1.0\r\n\r\n", origin.addr));
    assert_eq!(client.read_response().text(), "ok");
    client.expect_eof();
    drop(proxy);
}

#[test]
fn a_client_that_expects_continue_sends_its_content_after_the_upstreams_100() {
    let origin = Origin::script(1, |peer| {
        let head = peer.read_head();
        assert_eq!(field(&head, "expect"), Some("100-continue"), "{head}");
        peer.send("HTTP/1.1 100 Continue\r\n\r\n");
        assert_eq!(peer.read_text(5), "hello");
        peer.send(OK);
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(post(&origin, "Expect: 100-continue\r\nContent-Length: 5\r\n"));
    assert_eq!(status(&client.read_head()), 100);
    client.send("hello");
    assert_eq!(client.read_response().text(), "ok");
    origin.join();
}

#[test]
fn a_refused_expectation_is_passed_on_and_the_content_is_never_taken_for_a_request() {
    let origin = Origin::script(1, |peer| {
        peer.read_head();
        peer.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n");
        let (rest, _) = peer.read_to_any_end();
        assert!(!String::from_utf8_lossy(&rest).contains("GET /never"), "{rest:?}");
    });
    let never = get_request(origin.addr, "/never");
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    let length = never.len();
    client.send(post(&origin, &format!("Expect: 100-continue\r\nContent-Length: {length}\r\n")));
    assert_eq!(client.read_response().status, 417);
    // These bytes are content, because they are within the announced length, although they look like a
    // request. The proxy may close instead of reading them.
    let _ = client.try_send(&never);
    client.half_close_if_open();
    client.expect_end();
    drop(proxy);
}

/// curl takes an announced close for the end of its attempt, and asks again if none is announced. The
/// connection ends in either case, and the bytes behind it are nobody's request.
#[test]
fn an_early_answer_ends_the_connection_and_says_so_only_where_the_client_must_know() {
    const EXPECT: &str = "Expect: 100-continue\r\n";
    let answer = |status| format!("HTTP/1.1 {status} No\r\nContent-Length: 2\r\n\r\nno");
    for (expect, sent, status, announced) in [
        (EXPECT, "", 417, false),
        (EXPECT, "", 401, false),
        (EXPECT, "", 200, false),
        (EXPECT, "half", 417, false),
        (EXPECT, "half", 413, true),
        ("", "", 413, true),
        ("", "half", 413, true),
        ("", "half", 417, true),
    ] {
        let origin = Origin::script(1, move |peer| {
            peer.read_head();
            peer.read_exact(sent.len());
            peer.send(answer(status));
            peer.read_to_any_end();
        });
        let proxy = proxy();
        let mut client = Peer::connect(proxy.addr());
        client.send(post(&origin, &format!("Content-Length: 100\r\n{expect}")));
        client.send(sent);
        let response = client.read_response();
        assert_eq!((response.status, response.text()), (status, "no"));
        let close = response.field("connection");
        let expected = announced.then_some("close");
        assert_eq!(close, expected, "{status} after {expect:?} and {sent:?}");
        let _ = client.try_send(get_request(origin.addr, "/next"));
        client.expect_end();
        assert_eq!(proxy.stats().exchanges_begun, 1);
        origin.join();
    }
}

/// A curl that follows a redirect or authenticates goes on at once, as it does without the proxy,
/// because the response says that its connection ends. Content that is wanted costs no connection.
#[test]
fn unended_content_of_a_redirect_is_not_waited_for() {
    for (status, ends) in [(302, true), (307, true), (401, true), (200, false), (404, false)] {
        let origin = Origin::script(1, move |peer| {
            peer.read_head();
            peer.send(format!("HTTP/1.1 {status} Odd\r\nLocation: /x\r\n\r\nmore"));
            peer.read_to_any_end();
        });
        let proxy = proxy();
        let mut client = Peer::connect(proxy.addr());
        client.send(get_request(origin.addr, "/"));
        let head = client.read_head();
        assert_eq!(field(&head, "connection"), ends.then_some("close"), "{head}");
        assert_eq!(field(&head, "transfer-encoding"), Some("chunked"), "{head}");
        assert_eq!(client.read_text(9), "4\r\nmore\r\n");
        drop((client, proxy));
        origin.join();
    }
}

/// The client sends content after a 100, so it has to know.
#[test]
fn an_early_answer_after_a_100_says_that_the_connection_ends() {
    let origin = Origin::answer(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n",
    );
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(post(&origin, "Content-Length: 100\r\nExpect: 100-continue\r\n"));
    assert_eq!(status(&client.read_head()), 100);
    let response = client.read_response();
    assert_eq!((response.status, response.field("connection")), (413, Some("close")));
    client.expect_end();
    drop(proxy);
}

#[test]
fn an_answer_during_the_upload_reaches_a_client_that_is_still_sending() {
    let answered = Moment::new();
    let client_has_it = answered.clone();
    let origin = Origin::script(1, move |peer| {
        peer.read_head();
        peer.read_exact(1000);
        peer.send(
            "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 8\r\n\r\ntoo much",
        );
        client_has_it.wait();
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(post(&origin, "Content-Length: 100000000\r\n"));
    client.send(vec![b'x'; 1000]);
    let response = client.read_response();
    assert_eq!((response.status, response.text()), (413, "too much"));
    answered.has_come();
    origin.join();
}

#[test]
fn an_answer_during_a_stalled_upload_reaches_a_client_that_cannot_send_more() {
    let origin = Origin::script(1, move |peer| {
        peer.read_head();
        peer.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\n\r\ntoo much");
        // The server reads nothing more, and keeps the connection open: the upload stalls.
        peer.has_something_within(crate::peers::STEP);
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(post(&origin, "Content-Length: 100000000\r\n"));
    let response = client.read_response();
    assert_eq!((response.status, response.text()), (413, "too much"));
    drop(client);
    drop(proxy);
}

#[test]
fn an_upload_and_its_answer_may_run_side_by_side() {
    let content = pattern(1 << 20);
    let origin = Origin::script(1, |peer| {
        peer.read_head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n");
        // An echo: it sends nothing before it has received as much.
        let mut left = 1 << 20;
        while left > 0 {
            let n = 4096.min(left);
            let some = peer.read_exact(n);
            peer.send(some);
            left -= n;
        }
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(post(&origin, "Content-Length: 1048576\r\n"));
    client.send(&content[..4096]);
    client.read_head();
    for (i, chunk) in content.chunks(4096).enumerate() {
        if i > 0 {
            client.send(chunk);
        }
        assert!(client.read_exact(4096) == chunk, "bytes differ in block {i}");
    }
    origin.join();
}

#[test]
fn a_response_that_has_no_content_has_none_whatever_its_head_says() {
    for (method, response) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n"),
    ] {
        // If there may be content, nobody can tell whether it comes all the same.
        let is_kept =
            method != "HEAD" && !response.contains("Length") && !response.contains("chunked");
        let origin = Origin::script(if is_kept { 1 } else { 2 }, move |peer| {
            if !peer.read_head().starts_with("GET /next ") {
                peer.send(response);
                if !is_kept {
                    return peer.expect_eof();
                }
                assert!(peer.read_head().starts_with("GET /next "));
            }
            peer.send(OK);
        });
        let proxy = proxy_without_via();
        let mut client = Peer::connect(proxy.addr());
        client.send(get_request(origin.addr, "/").replace("GET ", &format!("{method} ")));
        // `Transfer-Encoding` is for this hop only, and may be left out here (RFC 9112 §6.1).
        let expected = response.replace("Transfer-Encoding: chunked\r\n", "");
        let head = client.read_head().replace("Transfer-Encoding: chunked\r\n", "");
        assert_eq!(head, expected, "{method}");
        client.send(get_request(origin.addr, "/next"));
        assert_eq!(client.read_response().text(), "ok", "after {method} {response:?}");
        origin.join();
    }
}

#[test]
fn a_switch_of_protocols_nobody_asked_for_is_not_passed_on() {
    let origin = Origin::answer(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nbinary",
    );
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(get_request(origin.addr, "/"));
    let response = client.read_response();
    assert_eq!(response.status, 502, "{}", response.head);
    assert!(!response.text().contains("binary"));
    drop(proxy);
}

fn post(origin: &Origin, lines: &str) -> String {
    format!("POST http://{0}/ HTTP/1.1\r\nHost: {0}\r\n{lines}\r\n", origin.addr)
}
