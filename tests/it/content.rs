//! Rules on the content of messages: URLs of requests, media types and sizes of responses.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::time::Duration;

use threadgate::Server;
use threadgate::config::access::AccessOptions;

use crate::peers::{End, Moment, Peer, Response, STEP, is_whole_chunked, pattern};
use crate::proxies::{OK, get_request, proxy_with, proxy_with_one_worker};
use crate::servers::{Origin, Untouched};

fn proxy(access: &AccessOptions) -> Server {
    proxy_with(|options| options.access = access.build(None).unwrap())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn refusing_types(types: &[&str]) -> Server {
    proxy(&AccessOptions { deny_type: words(types), ..AccessOptions::default() })
}

/// A proxy that limits the content of responses to `bytes`.
fn with_most(bytes: u64) -> Server {
    let max_response_bytes = NonZeroU64::new(bytes);
    proxy(&AccessOptions { max_response_bytes, ..AccessOptions::default() })
}

/// Answers each connection's one request with one of these, and waits for the proxy to end it.
fn answering(responses: &[&str]) -> Origin {
    let responses: Vec<String> = words(responses);
    let next = std::sync::atomic::AtomicUsize::new(0);
    Origin::script(responses.len(), move |peer| {
        peer.read_head();
        let number = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        peer.send(&responses[number]);
        peer.read_to_any_end();
    })
}

/// Answers one request with this.
fn once(response: &'static str) -> Origin {
    Origin::script(1, move |peer| {
        peer.read_head();
        peer.send(response);
    })
}

#[track_caller]
fn ask(client: &mut Peer, origin: SocketAddr, path: &str) -> Response {
    client.send(get_request(origin, path));
    client.read_response()
}

#[track_caller]
fn refused(response: &Response, status: u16, rule: &str) {
    assert_eq!(response.status, status, "{}", response.head);
    let reason = response.field("x-threadgate-reason").unwrap();
    assert_eq!(reason.split(';').next(), Some(rule), "{}", response.head);
}

#[test]
fn a_url_is_refused_in_every_spelling_and_the_connection_stays() {
    let untouched = Untouched::new();
    let to = untouched.addr;
    let proxy = proxy(&AccessOptions {
        deny_url: words(&["/ads/", r"\.exe(\?|$)", "/caf%C3%A9"]),
        allow_url: words(&["/ads/good"]),
        ..AccessOptions::default()
    });
    let mut client = Peer::connect(proxy.addr());
    for (path, rule) in [
        ("/ads/x", "--deny-url:1"),
        ("/%61%64s/x", "--deny-url:1"),
        ("/x/../ads/", "--deny-url:1"),
        ("/x/%2e%2e/ads/", "--deny-url:1"),
        ("//ads/x", "--deny-url:1"),
        ("/x/..//ads/x", "--deny-url:1"),
        ("/ads%2fx", "--deny-url:1"),
        ("/%2fads/x", "--deny-url:1"),
        ("/x/%2e%2e%2fads/x", "--deny-url:1"),
        ("/%252fads%252fx", "--deny-url:1"),
        ("/ads;v=1/x", "--deny-url:1"),
        ("/x/..;/ads/x", "--deny-url:1"),
        ("/ads\\x", "--deny-url:1"),
        ("/%5cads%5Cx", "--deny-url:1"),
        ("/setup%2eexe%3fx", "--deny-url:2"),
        ("/setup.exe", "--deny-url:2"),
        ("/setup.exe?x", "--deny-url:2"),
        ("/café", "--deny-url:3"),
        ("/caf%c3%A9", "--deny-url:3"),
    ] {
        refused(&ask(&mut client, to, path), 403, rule);
    }
    let origin = once(OK);
    assert_eq!(ask(&mut client, origin.addr, "/ads/good").status, 200);
    origin.join();
}

/// Patterns that each take about as long as is allowed for a hard URL.
fn hard_patterns() -> Vec<String> {
    let hard = (0..12).map(|i| format!("[ab]*a[ab]{{{}}}[yz]", 4990 + i));
    ["/ads/".to_owned()].into_iter().chain(hard).collect()
}

#[test]
fn a_url_that_is_too_long_or_too_hard_to_be_judged_is_refused_and_holds_no_worker() {
    let untouched = Untouched::new();
    let to = untouched.addr;
    let proxy = proxy_with_one_worker(|options| {
        let deny_url = hard_patterns();
        let access = AccessOptions { deny_url, ..AccessOptions::default() };
        options.access = access.build(None).unwrap();
        options.max_head_bytes = 1 << 20;
    });
    let mut client = Peer::connect(proxy.addr());
    // Each byte needs another state of the automaton.
    let hard: String = (0..7_000_u32).map(|i| if i * i % 7 < 3 { 'a' } else { 'b' }).collect();
    for (path, rule) in [
        (format!("/{hard}"), "--deny-url:1"),
        (format!("/{}", "x".repeat(8 * 1024)), "--deny-url:1"),
        (format!("/{}", "a%2f//;".repeat(100_000)), "--deny-url:1"),
        (format!("/ads/{hard}"), "--deny-url:1"),
    ] {
        refused(&ask(&mut client, to, &path), 403, rule);
    }
    let origin = once(OK);
    let path = format!("/{}", "x/".repeat(4_000));
    assert_eq!(ask(&mut client, origin.addr, &path).status, 200);
    origin.join();
}

#[test]
fn hard_urls_hold_nobody_up_and_are_refused_in_the_end() {
    let untouched = Untouched::new();
    let proxy = proxy_with_one_worker(|options| {
        let deny_url = hard_patterns();
        let access = AccessOptions { deny_url, ..AccessOptions::default() };
        options.access = access.build(None).unwrap();
    });
    let hard: String = (0..7_000_u32).map(|i| if i * i % 7 < 3 { 'a' } else { 'b' }).collect();
    let mut slow: Vec<Peer> = (0..12).map(|_| Peer::connect(proxy.addr())).collect();
    for client in &mut slow {
        client.send(get_request(untouched.addr, &format!("/{hard}")));
    }
    let origin = once(OK);
    let mut client = Peer::connect(proxy.addr());
    assert_eq!(ask(&mut client, origin.addr, "/").status, 200);
    origin.join();
    // The others still need a good second, and this request was served within it.
    let has_answer = |peer: &mut Peer| peer.has_something_within(Duration::from_millis(1));
    let answered = slow.iter_mut().map(has_answer).filter(|has| *has).count();
    assert!(answered < slow.len(), "all were answered first");
    for client in &mut slow {
        // A busy machine takes several times as long for that second of looking.
        client.stream().set_read_timeout(Some(STEP * 4)).unwrap();
        refused(&client.read_response(), 403, "--deny-url:1");
    }
}

#[test]
fn thousands_of_words_refuse_no_url_that_has_none_of_them() {
    let mut seed = 7_u64;
    let mut letters = |count: usize| -> String {
        let letter = |_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b'a' + u8::try_from((seed >> 33) % 26).unwrap())
        };
        (0..count).map(letter).collect()
    };
    let deny_url: Vec<String> = (0..3_000).map(|_| letters(7)).collect();
    let last = deny_url[2_999].clone();
    let proxy = proxy_with_one_worker(|options| {
        let access = AccessOptions { deny_url, ..AccessOptions::default() };
        options.access = access.build(None).unwrap();
    });
    let mut client = Peer::connect(proxy.addr());
    let origin = Origin::script(1, |peer| {
        for _ in 0..40 {
            peer.read_head();
            peer.send(OK);
        }
        peer.read_to_any_end();
    });
    for _ in 0..40 {
        let path = format!("/?token={}", letters(1_000));
        assert_eq!(ask(&mut client, origin.addr, &path).status, 200, "{path}");
    }
    let path = format!("/?token={}{last}", letters(4_000));
    refused(&ask(&mut client, origin.addr, &path), 403, "--deny-url:3000");
    drop(client);
    drop(proxy);
    origin.join();
}

#[test]
fn only_urls_that_are_allowed_go_through_if_that_is_enforced() {
    let untouched = Untouched::new();
    let proxy = proxy(&AccessOptions {
        allow_url: words(&["^http://[^/]+/public/"]),
        policy: threadgate::policy::decide::Mode::Enforce,
        ..AccessOptions::default()
    });
    let mut client = Peer::connect(proxy.addr());
    refused(&ask(&mut client, untouched.addr, "/"), 403, "--policy enforce");
    let origin = once(OK);
    assert_eq!(ask(&mut client, origin.addr, "/public/").status, 200);
    origin.join();
}

#[test]
fn a_response_of_a_refused_type_is_none_and_its_upstream_is_not_used_again() {
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    let origin = answering(&[
        "HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 4\r\n\r\n\x01png",
        &format!("{early}HTTP/1.1 200 OK\r\nContent-Type: VIDEO/mp4; a=b\r\n\r\nvideo"),
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nok",
    ]);
    let proxy = refusing_types(&["audio/*,image/*", "video/mp4"]);
    let mut client = Peer::connect(proxy.addr());
    let image = ask(&mut client, origin.addr, "/");
    refused(&image, 403, "--deny-type:1");
    assert_eq!(image.field("connection"), None, "it goes on: {}", image.head);
    client.send(get_request(origin.addr, "/"));
    let hints = client.read_response();
    assert_eq!((hints.status, hints.field("link")), (103, Some("</a>")));
    refused(&client.read_response(), 403, "--deny-type:2");
    let page = ask(&mut client, origin.addr, "/");
    assert_eq!((page.status, page.text()), (200, "ok"));
    drop(client);
    drop(proxy);
    origin.join();
}

#[test]
fn what_has_no_content_has_no_type_but_a_head_is_what_its_get_would_be() {
    let typed = "Content-Type: image/png\r\nContent-Length: 9\r\n";
    for (method, response, status) in [
        ("HEAD", format!("HTTP/1.1 200 OK\r\n{typed}\r\n"), 403),
        ("HEAD", format!("HTTP/1.1 304 Not Modified\r\n{typed}\r\n"), 304),
        ("GET", format!("HTTP/1.1 304 Not Modified\r\n{typed}\r\n"), 304),
        ("GET", "HTTP/1.1 204 No Content\r\nContent-Type: image/png\r\n\r\n".to_owned(), 204),
        (
            "GET",
            "HTTP/1.1 206 Partial Content\r\nContent-Type: multipart/byteranges; boundary=x\r\n\
             Content-Length: 5\r\n\r\n--x--"
                .to_owned(),
            403,
        ),
    ] {
        let (proxy, origin) = (refusing_types(&["image/*"]), answering(&[&response]));
        let mut client = Peer::connect(proxy.addr());
        let host = origin.addr;
        client.send(format!("{method} http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let head = client.read_head();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {response}: {head}");
        client.half_close();
        let rest = client.read_to_end();
        assert_eq!(rest.is_empty(), method == "HEAD" || status != 403, "{method} {response}");
        drop(proxy);
        origin.join();
    }
}

#[test]
fn an_announced_length_over_the_limit_gets_a_reply_before_anything_is_sent() {
    let origin = answering(&[
        "HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n",
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-1000/9999\r\n\
         Content-Length: 1001\r\n\r\n",
        // All content is there at once.
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n",
    ]);
    let proxy = with_most(1000);
    let mut client = Peer::connect(proxy.addr());
    for _ in 0..3 {
        let reply = ask(&mut client, origin.addr, "/");
        refused(&reply, 502, "--max-response-size");
        let status = reply.field("proxy-status").unwrap();
        assert!(status.contains("error=http_response_body_size;"), "{status}");
    }
    assert_eq!(proxy.stats().upstream_reuses, 0);
    drop(client);
    drop(proxy);
    origin.join();
}

/// The framing of a body: its head, and what goes round a part of it.
#[derive(Clone, Copy)]
enum Way {
    Length,
    Chunked,
    UntilClose,
}

/// Sends `parts` parts of `part` bytes, each when the one before it has come through.
fn in_parts(way: Way, parts: usize, part: usize, come: Moment) -> Origin {
    Origin::script(1, move |peer| {
        peer.read_head();
        let head = match way {
            Way::Length => format!("Content-Length: {}\r\n", parts * part),
            Way::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
            Way::UntilClose => String::new(),
        };
        peer.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n"));
        for _ in 0..parts {
            let part = pattern(part);
            let sent = match way {
                Way::Chunked => {
                    let head = format!("{:x}\r\n", part.len()).into_bytes();
                    peer.try_send([head, part, b"\r\n".to_vec()].concat())
                }
                _ => peer.try_send(part),
            };
            if sent.is_err() {
                return;
            }
            come.wait();
        }
        if let Way::Chunked = way {
            // The proxy may have closed already.
            let _ = peer.try_send("0\r\n\r\n");
        }
    })
}

#[test]
fn content_that_does_not_announce_its_length_is_cut_so_that_it_shows() {
    const PART: usize = 100;
    for (way, version) in [
        (Way::Chunked, "1.1"),
        (Way::Chunked, "1.0"),
        (Way::UntilClose, "1.1"),
        (Way::UntilClose, "1.0"),
    ] {
        let proxy = with_most(2 * PART as u64);
        let come = Moment::new();
        let origin = in_parts(way, 3, PART, come.clone());
        let mut client = Peer::connect(proxy.addr());
        let host = origin.addr;
        client.send(format!("GET http://{host}/ HTTP/{version}\r\nHost: {host}\r\n\r\n"));
        let head = client.read_head();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let mut body = Vec::new();
        for _ in 0..2 {
            // A client of HTTP/1.0 gets the content without a coding.
            let coded = if version == "1.1" { b"64\r\n".len() + b"\r\n".len() } else { 0 };
            body.extend(client.read_exact(PART + coded));
            come.has_come();
        }
        let (rest, end) = client.read_to_any_end();
        body.extend(rest);
        if version == "1.1" {
            assert!(!is_whole_chunked(&body));
        } else {
            assert_eq!((end, body.len()), (End::Reset, 2 * PART));
        }
        come.has_come();
        drop(origin);
        assert_eq!(proxy.stats().upstream_reuses, 0);
    }
}

#[test]
fn as_much_as_is_allowed_goes_through_whole() {
    const PART: usize = 100_000;
    const PARTS: usize = 20;
    for version in ["1.1", "1.0"] {
        for way in [Way::Length, Way::Chunked, Way::UntilClose] {
            let proxy = with_most((PARTS * PART) as u64);
            let come = Moment::new();
            // The origin need not wait for anybody.
            (0..PARTS).for_each(|_| come.has_come());
            let origin = in_parts(way, PARTS, PART, come);
            let mut client = Peer::connect(proxy.addr());
            let host = origin.addr;
            client.send(format!("GET http://{host}/ HTTP/{version}\r\nHost: {host}\r\n\r\n"));
            let response = client.read_response();
            assert!(response.content == pattern(PART).repeat(PARTS), "{}", response.head);
            origin.join();
        }
    }
}

#[test]
fn a_stream_is_cut_at_the_limit_at_the_latest() {
    let proxy = with_most(5_000_000);
    let origin = Origin::script(1, |peer| {
        peer.read_head();
        peer.send("HTTP/1.1 200 OK\r\n\r\n");
        let part = pattern(100_000);
        // The origin ends by itself if nobody cuts it.
        let _ = (0..400).find(|_| peer.try_send(&part).is_err());
    });
    let mut client = Peer::connect(proxy.addr());
    let host = origin.addr;
    client.send(format!("GET http://{host}/ HTTP/1.0\r\nHost: {host}\r\n\r\n"));
    client.read_head();
    let (content, end) = client.read_to_any_end();
    assert_eq!(end, End::Reset);
    // A reset throws away the bytes under way.
    assert!(content.len() <= 5_000_000, "{}", content.len());
    origin.join();
    let failed = &proxy.stats().failures_by_kind;
    assert_eq!(failed.iter().sum::<u64>(), 1, "{failed:?}");
}
