//! Responses that clients accept although the grammar does not. They arrive in the strict form, on a
//! connection that is not used again, unless `--strict-responses` refuses them.

use threadgate::Server;
use threadgate::wire::Repair;

use crate::peers::{Moment, Peer, eventually_eq, status};
use crate::proxies::{Binary, OK, get_request, proxy, proxy_with};
use crate::servers::Origin;
use crate::upgrade::{SWITCH, offer};

/// The server's response, the response that the client gets, and the repair.
type Row = (&'static str, &'static str, Repair);

const MENDED: &[Row] = &[
    (
        "HTTP/1.1 200 OK\r\nA : b\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 2\r\n\r\nok",
        Repair::SpaceBeforeColon,
    ),
    (
        "HTTP/1.1 200 OK\r\nContent-Length\t : 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        Repair::SpaceBeforeColon,
    ),
    (
        "HTTP/1.1 200 OK\r\nA: b\r\n  c\r\n\td\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nA: b c d\r\nContent-Length: 2\r\n\r\nok",
        Repair::Fold,
    ),
    (
        "HTTP/1.1 200 OK\nA: b\nContent-Length: 2\n\nok",
        "HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 2\r\n\r\nok",
        Repair::LineEnd,
    ),
    (
        "HTTP/1.1 200 OK\r\nA: b\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 2\r\n\r\nok",
        Repair::LineEnd,
    ),
    (
        "HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\nok",
        Repair::Status,
    ),
    (
        "HTTP/1.1 600\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 600 \r\nContent-Length: 2\r\n\r\nok",
        Repair::Status,
    ),
    (
        "HTTP/1.9 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        Repair::Version,
    ),
    (
        "ICY 200 OK\r\nicy-name: x\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nicy-name: x\r\nContent-Length: 2\r\n\r\nok",
        Repair::Icy,
    ),
    (
        "HTTP/1.1 200 OK\r\nA: b\x07c\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nA: b c\r\nContent-Length: 2\r\n\r\nok",
        Repair::Control,
    ),
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        Repair::LengthBesideChunked,
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        Repair::Identity,
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2 \r\nok\r\n1;a\n!\n00000000000000000000000000\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n1\r\n!\r\n0\r\n\r\n",
        Repair::ChunkLine,
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX:\r\n y\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n",
        Repair::Fold,
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Forwarded-For: a\r\nX: y\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n",
        Repair::Trailer,
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nHost: a\r\nX: y\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n",
        Repair::Trailer,
    ),
];

fn lenient() -> Server {
    proxy_with(|options| options.via = threadgate::server::Via::Off)
}

fn strict() -> Server {
    proxy_with(|options| {
        options.via = threadgate::server::Via::Off;
        options.strict_responses = true;
    })
}

/// The response to a client whose server sends these pieces, each when the one before has gone out.
fn received(proxy: &Server, pieces: impl Iterator<Item = String> + Send + 'static) -> String {
    let pieces: Vec<_> = pieces.collect();
    let origin = Origin::script(1, move |peer| {
        peer.read_head();
        pieces.iter().for_each(|piece| peer.send(piece));
        peer.read_to_any_end();
    });
    let mut client = Peer::connect(proxy.addr());
    client.send(get_request(origin.addr, "/"));
    client.half_close();
    let (all, _) = client.read_to_any_end();
    origin.join();
    // The proxy's own field comes last in the head.
    String::from_utf8_lossy(&all).replacen("Connection: close\r\n\r\n", "\r\n", 1)
}

#[test]
fn what_clients_take_arrives_in_the_strict_form() {
    for (sent, expected, repair) in MENDED {
        let proxy = lenient();
        assert_eq!(received(&proxy, [(*sent).to_owned()].into_iter()), *expected, "{sent:?}");
        let counted = |proxy: &Server| proxy.stats().response_repairs[*repair as usize];
        assert_eq!(counted(&proxy), 1, "{}", repair.word());
    }
}

#[test]
fn how_a_mended_response_comes_changes_nothing() {
    for (sent, expected, _) in MENDED {
        let bytes = sent.chars().map(String::from);
        let got = received(&lenient(), bytes);
        // Chunks are written as their data comes.
        let data = |text: &str| text.replace("\r\n1\r\no\r\n1\r\nk\r\n", "\r\n2\r\nok\r\n");
        assert_eq!(data(&got), *expected, "{sent:?}");
    }
}

#[test]
fn strict_responses_refuses_each_of_them() {
    for (sent, ..) in MENDED {
        let proxy = strict();
        let got = received(&proxy, [(*sent).to_owned()].into_iter());
        let refused = got.starts_with("HTTP/1.1 502 ");
        // Behind a good head, which has gone out, the response is cut.
        let ends_early = sent.contains("chunked\r\n\r\n")
            && !got.ends_with("0\r\n\r\n")
            && !got.ends_with("X: y\r\n\r\n");
        assert!(refused || ends_early, "{sent:?}: {got}");
        assert_eq!(proxy.stats().response_repairs, [0; Repair::ALL.len()]);
    }
}

#[test]
fn a_connection_on_which_something_was_mended_is_not_used_again() {
    for (sent, ..) in MENDED {
        let origin = Origin::script(2, move |peer| {
            if peer.read_head().contains("/next") {
                return peer.send(OK);
            }
            peer.send(sent);
            peer.expect_eof();
        });
        let proxy = lenient();
        let mut client = Peer::connect(proxy.addr());
        client.send(get_request(origin.addr, "/"));
        client.read_response();
        client.send(get_request(origin.addr, "/next"));
        assert_eq!(client.read_response().text(), "ok");
        assert_eq!(origin.accepted(), 2, "{sent:?}");
        origin.join();
    }
}

#[test]
fn any_number_of_fields_and_trailers_arrives_that_fits() {
    let fields = |count: usize| (0..count).map(|n| format!("A{n}: b\r\n")).collect::<String>();
    for count in [101, 129, 2000] {
        let head = format!("HTTP/1.1 200 OK\r\n{}Content-Length: 2\r\n\r\nok", fields(count));
        assert_eq!(received(&lenient(), [head.clone()].into_iter()), head);
        assert!(received(&strict(), [head].into_iter()).starts_with("HTTP/1.1 502 "));
    }
    for count in [65, 70, 2000] {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let all = format!("{head}2\r\nok\r\n0\r\n{}\r\n", fields(count));
        assert_eq!(received(&lenient(), [all.clone()].into_iter()), all);
        assert!(!received(&strict(), [all].into_iter()).ends_with("b\r\n\r\n"));
    }
}

/// Some servers pad the size of each chunk to one width.
#[test]
fn a_long_response_in_padded_chunks_arrives_whole() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let sent = format!("{head}{}0       \r\n\r\n", "a       \r\n0123456789\r\n".repeat(20_000));
    let got = received(&lenient(), [sent].into_iter());
    let (_, body) = got.split_once("\r\n\r\n").unwrap();
    assert!(crate::peers::is_whole_chunked(body.as_bytes()), "it was cut");
    // Some chunks are cut in two by reads.
    let data: String = body.split("\r\n").skip(1).step_by(2).collect();
    assert_eq!(data, "0123456789".repeat(20_000));
}

#[test]
fn all_interim_responses_are_passed_on() {
    for count in [17, 30, 1000] {
        let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(count);
        let all = format!("{interim}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!(received(&lenient(), [all.clone()].into_iter()), all);
        let refused = received(&strict(), [all].into_iter());
        let passed = refused.matches("HTTP/1.1 103 ").count();
        assert!(passed <= 16 && refused.contains("HTTP/1.1 502 "), "{refused}");
    }
}

/// A client that does not read can bind only the memory of the sockets and one buffer each way.
#[test]
fn a_client_that_does_not_read_interim_responses_gets_no_more_of_them() {
    let stopped = Moment::new();
    let sender_stopped = stopped.clone();
    let origin = Origin::script(1, move |peer| {
        peer.read_head();
        peer.stream().set_write_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
        let head = format!("HTTP/1.1 103 Early Hints\r\nLink: <{}>\r\n\r\n", "x".repeat(16_000));
        let mut sent = 0_usize;
        // Until nothing takes any more: the proxy, the sockets.
        while sent < 64 << 20 && peer.try_send(&head).is_ok() {
            sent += head.len();
        }
        assert!(sent < 64 << 20, "all was taken");
        sender_stopped.has_come();
    });
    let proxy = Binary::start(&[]);
    let before = proxy.memory();
    let mut client = Peer::connect(proxy.addr);
    client.send(get_request(origin.addr, "/"));
    stopped.wait();
    let grown = proxy.memory().saturating_sub(before);
    assert!(grown < 1024, "{grown} KiB more");
    drop(client);
    origin.join();
}

#[test]
fn what_leaves_two_readings_stays_refused_with_a_true_reason() {
    for (sent, reason) in [
        ("HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n", "NUL"),
        ("HTTP/1.1 200 OK\r\nA: b\rC: d\r\n\r\n", "a CR without an LF"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
            "two different values",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length : 2\r\nContent-Length: 3\r\n\r\nok!",
            "white space between",
        ),
        (
            "HTTP/1.1 200 OK\nTransfer-Encoding : chunked\nContent-Length: 2\n\nok",
            "white space between",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\nok",
            "the only supported transfer coding is chunked",
        ),
        (
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "HTTP/1.0 has no Transfer-Encoding",
        ),
        ("HTTP/1.1 099 Odd\r\n\r\n", "not between 100 and 599"),
        ("HTTP/1.1 200 OK\r\n A: b\r\n\r\n", "starts with white space"),
    ] {
        let got = received(&lenient(), [sent.to_owned()].into_iter());
        assert!(got.starts_with("HTTP/1.1 502 ") && got.contains(reason), "{sent:?}: {got}");
    }
}

#[test]
fn a_switch_of_protocols_in_a_head_that_has_to_be_mended_is_refused() {
    for head in [
        "HTTP/1.1 101 Ok\nConnection: upgrade\nUpgrade: x\n\n",
        "HTTP/1.1 101 Ok\r\nConnection : upgrade\r\nUpgrade: x\r\n\r\n",
        "HTTP/1.1 101 Ok\r\nConnection: upgrade\r\nUpgrade: x\r\nA:\r\n b\r\n\r\n",
        "HTTP/1.1 103 x\nLink: a\n\nHTTP/1.1 101 Ok\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    ] {
        let origin = Origin::script(1, move |peer| {
            peer.read_head();
            peer.send(head);
            peer.expect_eof();
        });
        let proxy = lenient();
        let mut client = Peer::connect(proxy.addr());
        let request = get_request(origin.addr, "/");
        let lines = "\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
        client.send(request.replace("\r\n\r\n", lines));
        let answer = match head.contains("103") {
            true => client.read_head().contains(" 103 ").then(|| client.read_response()),
            false => Some(client.read_response()),
        };
        assert_eq!(answer.map(|response| response.status), Some(502), "{head:?}");
        origin.join();
    }
}

#[test]
fn a_request_gets_none_of_this() {
    for (request, status) in [
        ("GET http://a/ HTTP/1.1\nHost: a\n\n", 400),
        ("GET http://a/ HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        ("GET http://a/ HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n", 400),
        ("GET http://a/ HTTP/1.1\r\nHost: a\r\nA: b\x07\r\n\r\n", 400),
        ("POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", 501),
        (
            "POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n",
            400,
        ),
    ] {
        let proxy = lenient();
        let mut client = Peer::connect(proxy.addr());
        client.send(request);
        assert_eq!(client.read_response().status, status, "{request:?}");
    }
}

/// RFC 9112 §7.1.1 has white space before a `;`. No client identifies itself behind its content.
#[test]
fn the_chunks_of_a_request_are_written_anew_where_the_grammar_allows_it() {
    for (body, expected) in [
        ("2 ;a=b\r\nok\r\n0\r\n\r\n", "2\r\nok\r\n0\r\n\r\n"),
        ("2\r\nok\r\n0\t;a\r\n\r\n", "2\r\nok\r\n0\r\n\r\n"),
        (
            "2\r\nok\r\n0\r\nX-Forwarded-For: 10.0.0.1\r\nA: b\r\nx_real_ip: 1\r\nVia: 1.1 x\r\n\r\n",
            "2\r\nok\r\n0\r\nA: b\r\n\r\n",
        ),
    ] {
        let length = expected.len();
        let origin = Origin::script(1, move |peer| {
            peer.read_head();
            let got = peer.read_text(length);
            assert_eq!(got, expected);
            peer.send(OK);
        });
        let proxy = lenient();
        let mut client = Peer::connect(proxy.addr());
        client.send(format!(
            "POST http://{0}/ HTTP/1.1\r\nHost: {0}\r\nTransfer-Encoding: chunked\r\n\r\n{body}",
            origin.addr
        ));
        assert_eq!(client.read_response().text(), "ok", "{body:?}");
        origin.join();
    }
    for body in [
        "2 \r\nok\r\n0\r\n\r\n",
        " 2\r\nok\r\n0\r\n\r\n",
        "2\nok\n0\n\n",
        "00000000000000002\r\nok\r\n0\r\n\r\n",
        "2\r\nok\r\n0\r\nContent-Length: 2\r\n\r\n",
    ] {
        let origin = Origin::script(1, move |peer| {
            let (all, _) = peer.read_to_any_end();
            let ended = String::from_utf8_lossy(&all).ends_with("\r\n\r\n");
            assert!(all.is_empty() || !ended, "{all:?}");
        });
        let proxy = lenient();
        let mut client = Peer::connect(proxy.addr());
        client.send(format!(
            "POST http://{0}/ HTTP/1.1\r\nHost: {0}\r\nTransfer-Encoding: chunked\r\n\r\n{body}",
            origin.addr
        ));
        assert_eq!(client.read_response().status, 400, "{body:?}");
        origin.join();
    }
}

#[test]
fn an_interim_response_makes_the_wait_begin_again_for_a_client_that_gets_it() {
    let timeout = std::time::Duration::from_millis(400);
    let origin = Origin::script(1, move |peer| {
        peer.read_head();
        for _ in 0..4 {
            assert!(!peer.has_something_within(timeout / 2));
            peer.send("HTTP/1.1 102 Processing\r\n\r\n");
        }
        peer.send(OK);
    });
    let proxy = proxy_with(|options| options.timeouts.response = timeout);
    let mut client = Peer::connect(proxy.addr());
    client.send(get_request(origin.addr, "/"));
    for _ in 0..4 {
        assert!(client.read_head().starts_with("HTTP/1.1 102 "));
    }
    assert_eq!(client.read_response().text(), "ok");
    eventually_eq(|| proxy.stats().exchanges_finished, 1);
    origin.join();
}

/// More interim responses than are passed on in strict mode are no fault of the 101 behind them. A
/// repaired response is.
#[test]
fn a_101_behind_many_interim_responses_counts_and_one_behind_a_mended_one_does_not() {
    for (interim, expected) in [
        ("HTTP/1.1 103 Early Hints\r\n\r\n".repeat(40), 101),
        ("HTTP/1.1 103 Early Hints\r\nLink : </a>\r\n\r\n".to_owned(), 502),
    ] {
        let said = format!("{interim}{SWITCH}hello");
        let origin = Origin::script(1, move |peer| {
            peer.read_head();
            peer.send(&said);
            peer.read_to_any_end();
        });
        let proxy = proxy();
        let mut client = Peer::connect(proxy.addr());
        client.send(offer(&origin, "websocket"));
        let mut last = 103;
        while last == 103 {
            last = status(&client.read_head());
        }
        assert_eq!(last, expected);
        if expected == 101 {
            assert_eq!(client.read_text(5), "hello");
        }
        drop(client);
        origin.join();
    }
}
