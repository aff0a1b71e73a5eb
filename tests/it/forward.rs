//! Forwarding of requests: every form of target, and every method.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::peers::{Peer, field, field_lines};
use crate::proxies::{
    Names, OK, exchange, get_request, proxy, proxy_with, proxy_with_names, proxy_without_via,
};
use crate::servers::{Origin, Untouched, listen_v6};

#[test]
fn an_absolute_form_request_reaches_its_origin_server_in_origin_form() {
    let (seen, response) =
        exchange(&proxy(), "GET http://{o}/a/b?c=d&e=%20f HTTP/1.1\r\nHost: {o}\r\n\r\n", OK);
    assert!(seen.starts_with("GET /a/b?c=d&e=%20f HTTP/1.1\r\n"), "{seen}");
    assert!(response.head.starts_with("HTTP/1.1 200 OK\r\n"), "{}", response.head);
    assert_eq!(response.text(), "ok");
}

#[test]
fn the_scheme_is_read_in_any_case_and_the_path_is_left_as_it_is() {
    for (target, path) in [
        ("HTTP://{o}/", "/"),
        ("hTTp://{o}/%7Euser/../%2e/A//b;c=d", "/%7Euser/../%2e/A//b;c=d"),
        ("http://{o}/?", "/?"),
        ("http://{o}/a?b?c/d:e@f", "/a?b?c/d:e@f"),
        ("http://{o}/http://other.example/", "/http://other.example/"),
    ] {
        let (seen, _) =
            exchange(&proxy(), &format!("GET {target} HTTP/1.1\r\nHost: {{o}}\r\n\r\n"), OK);
        assert!(seen.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{target}: {seen}");
    }
}

/// In the form that curl and Go send to a proxy.
#[test]
fn bytes_above_ascii_in_path_or_query_go_on_percent_encoded() {
    const ROWS: [(&[u8], &str); 5] = [
        (b"/\xc3\xa9", "/%C3%A9"),
        (b"/?q=\xc3\xbc", "/?q=%C3%BC"),
        (b"?\xc3\xbc/", "/?%C3%BC/"),
        (b"/%c3\xa9/%", "/%c3%A9/%"),
        (b"/\xff\x80", "/%FF%80"),
    ];
    let origin = Origin::script(1, |peer| {
        for (_, path) in ROWS {
            let head = peer.read_head();
            assert!(head.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{head}");
            peer.send(OK);
        }
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    for (path, _) in ROWS {
        let to = origin.addr.to_string();
        let to = to.as_bytes();
        client.send([b"GET http://", to, path, b" HTTP/1.1\r\nHost: ", to, b"\r\n\r\n"].concat());
        assert_eq!(client.read_response().status, 200, "{}", path.escape_ascii());
    }
    origin.join();
}

#[test]
fn an_empty_host_beside_a_url_is_filled_in_from_it() {
    let origin = Origin::script(1, |peer| {
        let here = peer.stream().local_addr().unwrap().to_string();
        assert_eq!(field(&peer.read_head(), "host"), Some(here.as_str()));
        peer.send(OK);
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(format!("GET http://{}/ HTTP/1.1\r\nHost:\r\n\r\n", origin.addr));
    assert_eq!(client.read_response().text(), "ok");
    origin.join();
}

#[test]
fn a_request_of_a_later_minor_version_is_served_as_1_1() {
    for minor in [2, 9] {
        let request = format!("GET http://{{o}}/ HTTP/1.{minor}\r\nHost: {{o}}\r\n\r\n");
        let (seen, response) = exchange(&proxy(), &request, OK);
        assert!(seen.starts_with("GET / HTTP/1.1\r\n"), "{seen}");
        assert!(response.head.starts_with("HTTP/1.1 200 OK\r\n"), "{}", response.head);
        assert_eq!(field(&response.head, "connection"), None, "it persists: {}", response.head);
    }
}

#[test]
fn an_empty_path_becomes_a_slash_and_for_options_an_asterisk() {
    for (request_line, expected) in [
        ("GET http://{o} HTTP/1.1", "GET / HTTP/1.1\r\n"),
        ("GET http://{o}?q=1 HTTP/1.1", "GET /?q=1 HTTP/1.1\r\n"),
        ("OPTIONS http://{o} HTTP/1.1", "OPTIONS * HTTP/1.1\r\n"),
        ("OPTIONS http://{o}/ HTTP/1.1", "OPTIONS / HTTP/1.1\r\n"),
        ("OPTIONS http://{o}?q HTTP/1.1", "OPTIONS /?q HTTP/1.1\r\n"),
    ] {
        let (seen, _) = exchange(&proxy(), &format!("{request_line}\r\nHost: {{o}}\r\n\r\n"), OK);
        assert!(seen.starts_with(expected), "{request_line}: {seen}");
    }
}

#[test]
fn host_is_replaced_from_the_target_in_its_place() {
    let origin = Origin::script(1, |peer| {
        let head = peer.read_head();
        let here = format!("Host: {}", peer.stream().local_addr().unwrap());
        assert_eq!(field_lines(&head), ["A: 1", &here, "B: 2"]);
        peer.send(OK);
    });
    let proxy = proxy_without_via();
    let mut client = Peer::connect(proxy.addr());
    client.send(format!(
        "GET http://{}/ HTTP/1.1\r\nA: 1\r\nHost: elsewhere.example\r\nB: 2\r\n\r\n",
        origin.addr
    ));
    assert_eq!(client.read_response().status, 200);
    origin.join();
}

#[test]
fn a_1_0_request_without_host_gets_one() {
    let (seen, _) = exchange(&proxy(), "GET http://{o}/ HTTP/1.0\r\nA: 1\r\n\r\n", OK);
    assert!(seen.starts_with("GET / HTTP/1.1\r\n"), "{seen}");
    let host = field(&seen, "host").expect("a Host field");
    assert!(host.starts_with("127.0.0.1:"), "{seen}");
    assert_eq!(field(&seen, "a"), Some("1"));
}

#[test]
fn a_host_name_in_any_case_is_looked_up_and_passed_on() {
    let origin = Origin::script(1, |peer| {
        let head = peer.read_head();
        let port = peer.stream().local_addr().unwrap().port();
        let host = field(&head, "host").unwrap().to_ascii_lowercase();
        assert_eq!(host, format!("www.example:{port}"));
        peer.send(OK);
    });
    let proxy = proxy_with(|options| {
        let names = Names::default().with("www.example", &[Ipv4Addr::LOCALHOST.into()]);
        options.resolver = Arc::new(names);
    });
    let mut client = Peer::connect(proxy.addr());
    let port = origin.addr.port();
    client.send(format!(
        "GET http://WWW.Example:{port}/ HTTP/1.1\r\nHost: WWW.Example:{port}\r\n\r\n"
    ));
    assert_eq!(client.read_response().status, 200);
    origin.join();
}

#[test]
fn the_second_address_of_a_name_is_tried_when_the_first_refuses() {
    // 127.0.0.2 is loopback too, and nobody listens there.
    let origin = Origin::answer(OK);
    let proxy = proxy_with(|options| {
        let ips = [Ipv4Addr::new(127, 0, 0, 2).into(), Ipv4Addr::LOCALHOST.into()];
        options.resolver = Arc::new(Names::default().with("two.example", &ips));
    });
    let mut client = Peer::connect(proxy.addr());
    let authority = format!("two.example:{}", origin.addr.port());
    client.send(format!("GET http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\n\r\n"));
    assert_eq!(client.read_response().status, 200);
    drop(proxy);
}

#[test]
fn an_ipv6_literal_is_a_target_like_any_other() {
    let Some(listener) = listen_v6() else { return };
    let origin = Origin::script_on(listener, 1, |peer| {
        let head = peer.read_head();
        let host = format!("[::1]:{}", peer.stream().local_addr().unwrap().port());
        assert_eq!(field(&head, "host"), Some(&*host));
        peer.send(OK);
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(get_request(origin.addr, "/"));
    assert_eq!(client.read_response().status, 200);
    origin.join();
}

#[test]
fn a_target_that_names_no_usable_server_is_refused() {
    let untouched = Untouched::new();
    let port = untouched.addr.port();
    for target in [
        "http://127.0.0.1:0/".to_owned(),
        "http://127.0.0.1:65536/".to_owned(),
        format!("http://127.0.0.1:+{port}/"),
        format!("http://127.0.0.1:{port}x/"),
        format!("http://127.0.0.1:{port}:{port}/"),
        format!("http://:{port}/"),
        "http:///path".to_owned(),
        "http://".to_owned(),
        format!("http:/127.0.0.1:{port}/"),
        format!("http:127.0.0.1:{port}/"),
        format!("127.0.0.1:{port}/"),
        format!("http://[::1:{port}/"),
        format!("http://::1:{port}/"),
        format!("http://[::g]:{port}/"),
        format!("http://a b:{port}/"),
        format!("http://127.0.0.1%20:{port}/"),
        format!("http://127.0.0.1\\@x:{port}/"),
        format!("http://127.0.0.1:{port}/#fragment"),
        format!("http://127.0.0.1\u{e9}:{port}/"),
        format!("http://127.0.0.1:{port}/\u{1}"),
    ] {
        let proxy = proxy_with_names();
        let mut client = Peer::connect(proxy.addr());
        client.send(format!("GET {target} HTTP/1.1\r\nHost: x.example\r\n\r\n"));
        let response = client.read_response();
        assert_eq!(response.status, 400, "{target:?}: {}", response.head);
        client.expect_eof();
    }
}

/// RFC 9110 §4.2.4: treated as an error, because it is used to hide where a link leads.
#[test]
fn userinfo_in_a_target_is_refused() {
    let untouched = Untouched::new();
    let proxy = proxy();
    for userinfo in ["user", "user:password", ":", "", "www.example:80"] {
        let mut client = Peer::connect(proxy.addr());
        let origin = untouched.addr;
        client.send(format!("GET http://{userinfo}@{origin}/ HTTP/1.1\r\nHost: {origin}\r\n\r\n"));
        assert_eq!(client.read_response().status, 400, "{userinfo:?}");
        client.expect_eof();
    }
}

#[test]
fn another_scheme_is_never_sent_in_clear() {
    let untouched = Untouched::new();
    let proxy = proxy();
    for scheme in ["https", "ftp", "ws", "file", "http+unix"] {
        let mut client = Peer::connect(proxy.addr());
        let origin = untouched.addr;
        client.send(format!("GET {scheme}://{origin}/ HTTP/1.1\r\nHost: {origin}\r\n\r\n"));
        let status = client.read_response().status;
        assert!([400, 501].contains(&status), "{scheme}: {status}");
    }
}

#[test]
fn unknown_methods_pass_and_methods_keep_their_case() {
    for method in ["BREW", "PROPFIND", "M-SEARCH", "get", "Get", "!#$%&'*+-.^_`|~0aZ", "QUERY"] {
        let request = format!("{method} http://{{o}}/pot HTTP/1.1\r\nHost: {{o}}\r\n\r\n");
        let (seen, response) = exchange(&proxy(), &request, OK);
        assert!(seen.starts_with(&format!("{method} /pot HTTP/1.1\r\n")), "{seen}");
        assert_eq!(response.status, 200);
    }
}

#[test]
fn an_unknown_method_may_have_content() {
    let origin = Origin::script(1, |peer| {
        assert!(peer.read_head().starts_with("BREW / HTTP/1.1\r\n"));
        assert_eq!(peer.read_text(6), "arabic");
        peer.send(OK);
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(format!(
        "BREW http://{0}/ HTTP/1.1\r\nHost: {0}\r\nContent-Length: 6\r\n\r\narabic",
        origin.addr
    ));
    assert_eq!(client.read_response().status, 200);
    origin.join();
}

#[test]
fn max_forwards_is_counted_down_for_options_and_trace_only() {
    for (method, sent, expected) in [
        ("OPTIONS", "5", "4"),
        ("TRACE", "1", "0"),
        ("OPTIONS", "10", "9"),
        ("GET", "5", "5"),
        ("GET", "0", "0"),
        ("BREW", "0", "0"),
    ] {
        let request = format!(
            "{method} http://{{o}}/ HTTP/1.1\r\nHost: {{o}}\r\nA: 1\r\nMax-Forwards: {sent}\r\nB: 2\r\n\r\n"
        );
        let (seen, _) = exchange(&proxy_without_via(), &request, OK);
        let max_forwards = format!("Max-Forwards: {expected}");
        assert_eq!(field_lines(&seen)[1..], ["A: 1", &max_forwards, "B: 2"], "{method} {sent}");
    }
}

#[test]
fn a_trace_with_no_forward_left_is_answered_with_itself() {
    let untouched = Untouched::new();
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    let request = format!(
        "TRACE http://{0}/a HTTP/1.1\r\nHost: {0}\r\nMax-Forwards: 0\r\nX-Mine: yes\r\nProxy-Authorization: Basic c2VjcmV0\r\nCookie: secret\r\n\r\n",
        untouched.addr
    );
    client.send(&request);
    let response = client.read_response();
    assert_eq!(response.status, 200);
    assert_eq!(response.field("content-type"), Some("message/http"));
    let echo = response.text();
    assert!(echo.starts_with(request.lines().next().unwrap()), "{echo}");
    assert!(echo.contains("\r\nX-Mine: yes\r\n"), "{echo}");
    assert!(!echo.contains("c2VjcmV0") && !echo.contains("secret"), "{echo}");
}

#[test]
fn options_with_no_forward_left_are_the_proxys_own() {
    let untouched = Untouched::new();
    let proxy = proxy();
    let origin = untouched.addr;
    for target in [format!("http://{origin}/"), format!("http://{origin}"), "*".to_owned()] {
        let mut client = Peer::connect(proxy.addr());
        client.send(format!(
            "OPTIONS {target} HTTP/1.1\r\nHost: {origin}\r\nMax-Forwards: 0\r\n\r\n"
        ));
        let response = client.read_response();
        assert!([200, 204].contains(&response.status), "{target}: {}", response.head);
    }
}

#[test]
fn the_asterisk_form_means_the_proxy_itself_and_only_for_options() {
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send("OPTIONS * HTTP/1.1\r\nHost: proxy.example\r\n\r\n");
    let response = client.read_response();
    assert!([200, 204].contains(&response.status), "{}", response.head);
    client.send("GET * HTTP/1.1\r\nHost: proxy.example\r\n\r\n");
    assert_eq!(client.read_response().status, 400);
    client.expect_eof();
}
