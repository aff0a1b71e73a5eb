//! Invalid responses of upstreams: the client gets a 502 and none of the garbage, and bytes past the end
//! of a response never answer another request.

use std::time::Duration;

use crate::hostile::SpeaksRedis;
use crate::peers::{Moment, Peer, eventually_eq, is_whole_chunked};
use crate::proxies::{OK, get, get_request, proxy, proxy_with_one_worker};
use crate::servers::Origin;

const REFUSED: &[&str] = &[
    "",
    "H",
    "HTTP/1.1 200 OK\r\nContent-Le",
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n",
    "SSH-2.0-OpenSSH_9.2p1 garbage\r\n",
    "220 mail.example ESMTP garbage\r\n",
    "\x16\x03\x01garbage\r\n\r\n",
    "<html>garbage</html>\r\n\r\n",
    "garbage\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "ICY/1.0 200 OK\r\n\r\ngarbage",
    "HTTP/1.10 200 OK\r\nContent-Length: 7\r\n\r\ngarbage",
    "HTTP/2.0 200 OK\r\nContent-Length: 7\r\n\r\ngarbage",
    "HTTP/0.9 200 OK\r\nContent-Length: 7\r\n\r\ngarbage",
    "http/1.1 200 OK\r\nContent-Length: 7\r\n\r\ngarbage",
    "HTTP/1.1  200 OK\r\nContent-Length: 7\r\n\r\ngarbage",
    "HTTP/1.1 20 OK\r\nContent-Length: 7\r\n\r\ngarbage",
    "HTTP/1.1 2000 OK\r\nContent-Length: 7\r\n\r\ngarbage",
    "HTTP/1.1 099 OK\r\nContent-Length: 7\r\n\r\ngarbage",
    "HTTP/1.1 abc OK\r\nContent-Length: 7\r\n\r\ngarbage",
    "HTTP/1.1 +20 OK\r\nContent-Length: 7\r\n\r\ngarbage",
    "HTTP/1.1 200 O\0K\r\nContent-Length: 7\r\n\r\ngarbage",
    "HTTP/1.1 200 OK\r\nA: 1\rContent-Length: 7\r\n\r\ngarbage",
    "HTTP/1.1 200 OK\r\nA: \0\r\nContent-Length: 7\r\n\r\ngarbage",
    "HTTP/1.1 200 OK\r\n A: folded\r\nContent-Length: 7\r\n\r\ngarbage",
    "HTTP/1.1 200 OK\r\nA b: 1\r\nContent-Length: 7\r\n\r\ngarbage",
    "HTTP/1.1 200 OK\r\nContent-Length: \x0b7\r\n\r\ngarbage",
    "HTTP/1.1 200 OK\r\nContent-Length : 7\r\nContent-Length: 8\r\n\r\ngarbage!",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\nContent-Length: 7\r\n\r\ngarbage",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\n7\r\ngarbage\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\n: 1\r\nContent-Length: 7\r\n\r\ngarbage",
    "HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 7\r\n\r\ngarbage",
    "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nContent-Length: 8\r\n\r\ngarbage!",
    "HTTP/1.1 200 OK\r\nContent-Length: 7, 8\r\n\r\ngarbage!",
    "HTTP/1.1 200 OK\r\nContent-Length: +7\r\n\r\ngarbage",
    "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\ngarbage",
    "HTTP/1.1 200 OK\r\nContent-Length: seven\r\n\r\ngarbage",
    "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\ngarbage",
    "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\ngarbage",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\ngarbage",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n7\r\ngarbage\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n7\r\ngarbage\r\n0\r\n\r\n",
    "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\ngarbage\r\n0\r\n\r\n",
];

#[test]
fn what_is_no_valid_response_becomes_a_502_without_a_trace_of_it() {
    let proxy = proxy();
    for sent in REFUSED {
        let origin = Origin::script(1, move |peer| {
            peer.read_head();
            peer.send(sent);
        });
        let response = get(proxy.addr(), origin.addr, "/");
        assert_eq!(response.status, 502, "{sent:?}: {}", response.head);
        assert!(!response.head.contains("garbage"), "{sent:?}: {}", response.head);
        assert!(!response.text().contains("garbage"), "{sent:?}: {}", response.text());
        origin.join();
    }
}

#[test]
fn a_502_says_what_was_wrong_with_the_upstream() {
    for (sent, token) in [
        ("", "connection_terminated"),
        ("HTTP/1.1 200 OK\r\nContent-Le", "connection_terminated"),
        ("SSH-2.0-OpenSSH_9.2p1\r\n", "http_protocol_error"),
        ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "http_protocol_error"),
    ] {
        let origin = Origin::script(1, move |peer| {
            peer.read_head();
            peer.send(sent);
        });
        let response = get(crate::proxies::proxy().addr(), origin.addr, "/");
        assert_eq!(response.status, 502);
        let status = response.field("proxy-status").expect("Proxy-Status");
        assert!(status.contains(&format!("error={token}")), "{sent:?}: {status}");
    }
}

#[test]
fn another_protocol_is_recognised_without_waiting_for_its_end() {
    let origin = Origin::hostile(1, SpeaksRedis);
    let proxy = proxy();
    let response = get(proxy.addr(), origin.addr, "/");
    assert_eq!(response.status, 502);
    assert!(!response.text().contains("ERR"), "{}", response.text());
    assert!(!SpeaksRedis::ANSWER.is_empty());
    origin.join();
}

#[test]
fn a_response_head_that_does_not_end_is_refused() {
    let origin = Origin::script(1, |peer| {
        peer.read_head();
        peer.send("HTTP/1.1 200 OK\r\n");
        // Until the proxy gives up.
        while peer.try_send(format!("A: {}\r\n", "x".repeat(1000))).is_ok() {}
    });
    let proxy = proxy();
    assert_eq!(get(proxy.addr(), origin.addr, "/").status, 502);
    origin.join();
}

#[test]
fn interim_responses_without_end_have_their_time() {
    let origin = Origin::script(1, |peer| {
        peer.read_head();
        while peer.try_send("HTTP/1.1 100 Continue\r\n\r\n".repeat(100)).is_ok() {}
    });
    let proxy = proxy_with_one_worker(|options| {
        options.timeouts.response = Duration::from_secs(1);
    });
    let mut client = Peer::connect(proxy.addr());
    // HTTP/1.0, so that the client sees none of the interim responses.
    client.send(format!("GET http://{}/ HTTP/1.0\r\n\r\n", origin.addr));
    // They hold no worker meanwhile.
    let other = Origin::answer(OK);
    assert_eq!(get(proxy.addr(), other.addr, "/").text(), "ok");
    assert_eq!(client.read_response().status, 504);
    drop(proxy);
    origin.join();
}

#[test]
fn bytes_past_the_end_of_a_response_never_answer_the_next_request() {
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    for (method, response, content) in [
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok"),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "ok"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", ""),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", ""),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", ""),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""),
    ] {
        let origin = Origin::script(2, move |peer| {
            let head = peer.read_head();
            if head.contains("/next") {
                peer.send(OK);
            } else {
                peer.send(format!("{response}{poison}"));
            }
            peer.read_to_any_end();
        });
        let proxy = proxy();
        let mut client = Peer::connect(proxy.addr());
        client.send(get_request(origin.addr, "/").replace("GET ", &format!("{method} ")));
        if method == "HEAD" {
            client.read_head();
        } else {
            assert_eq!(client.read_response().text(), content);
        }
        client.send(get_request(origin.addr, "/next"));
        assert_eq!(client.read_response().text(), "ok", "after {method} {response:?}");
        assert_eq!(origin.accepted(), 2);
        drop(client);
        drop(proxy);
    }
}

#[test]
fn what_an_idle_upstream_connection_says_unasked_answers_nobody() {
    let (idle, said) = (Moment::new(), Moment::new());
    let (is_idle, is_said) = (idle.clone(), said.clone());
    let origin = Origin::script(2, move |peer| {
        let head = peer.read_head();
        peer.send(OK);
        if head.contains("/first") {
            is_idle.wait();
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison");
            is_said.has_come();
        }
        peer.read_to_any_end();
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(get_request(origin.addr, "/first"));
    assert_eq!(client.read_response().text(), "ok");
    eventually_eq(|| proxy.stats().exchanges_finished, 1);
    idle.has_come();
    said.wait();
    client.send(get_request(origin.addr, "/next"));
    assert_eq!(client.read_response().text(), "ok");
    assert_eq!(origin.accepted(), 2);
    drop(client);
    drop(proxy);
}

#[test]
fn a_chunked_response_that_stops_making_sense_ends_before_its_end() {
    for body in [
        "2\r\nok\r\nZ\r\n",
        "2\r\nokX\r\n0\r\n\r\n",
        "2\r\nok\r\n-1\r\n",
        "2\r\nok\r0\r\n",
        "2\r\nok\r\nffffffffffffffffff\r\n",
        "2\r\nok\r\n0\r\nbad\0trailer\r\n\r\n",
    ] {
        let origin = Origin::script(1, move |peer| {
            peer.read_head();
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            peer.send(body);
            peer.read_to_any_end();
        });
        let proxy = proxy();
        let mut client = Peer::connect(proxy.addr());
        client.send(get_request(origin.addr, "/"));
        // If nothing had gone out yet the answer is a 502, after which the connection lives on.
        client.half_close();
        let (all, _) = client.read_to_any_end();
        let text = String::from_utf8_lossy(&all);
        let content = all.windows(4).position(|w| w == b"\r\n\r\n").map_or(0, |at| at + 4);
        let whole = text.starts_with("HTTP/1.1 200 ") && is_whole_chunked(&all[content..]);
        assert!(!whole, "{body:?}: {text}");
        assert!(!text.contains("okX") && !text.contains("trailer"), "{body:?}: {text}");
        origin.join();
    }
}
