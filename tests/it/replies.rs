//! The proxy's own responses: its small pages, and refusals that say what went wrong, where, and what to
//! try.

use crate::peers::{Peer, field};
use crate::proxies::{OK, get, get_request, proxy, proxy_with};
use crate::servers::{Origin, RefusedPort};

#[test]
fn a_request_to_the_proxy_itself_gets_a_page_that_says_what_this_is() {
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    for host in ["proxy.example".to_owned(), proxy.addr().to_string()] {
        client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let response = client.read_response();
        assert_eq!(response.status, 200);
        assert!(response.text().contains("threadgate"), "{}", response.text());
    }
}

#[test]
fn healthz_answers_for_people_and_machines() {
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    for version in ["1.1", "1.0"] {
        client.send(format!("GET /healthz HTTP/{version}\r\nHost: a\r\n\r\n"));
        let response = client.read_response();
        assert_eq!(response.status, 200);
        assert!(!response.content.is_empty());
    }
    client.expect_eof();
}

#[test]
fn an_origin_form_request_is_never_relayed() {
    let untouched = crate::servers::Untouched::new();
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    let host = untouched.addr;
    for (request, status) in [
        ("GET /elsewhere", 404),
        ("GET //127.0.0.1/", 404),
        ("GET /healthz/", 404),
        ("POST /", 405),
        ("DELETE /healthz", 405),
        ("BREW /", 405),
    ] {
        client.send(format!("{request} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n"));
        let response = client.read_response();
        assert_eq!(response.status, status, "{request}");
        if status == 405 {
            let allow = response.field("allow").expect("RFC 9110 §15.5.6: Allow");
            assert!(allow.contains("GET"), "{allow}");
        }
    }
}

#[test]
fn a_head_request_to_the_proxy_has_no_content() {
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    for path in ["/", "/healthz", "/elsewhere"] {
        client.send(format!("HEAD {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let head = client.read_head();
        assert!(field(&head, "content-length").is_some(), "{head}");
    }
    client.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read_response().status, 200);
}

#[test]
fn a_failed_upstream_does_not_cost_the_client_its_connection() {
    let refused = RefusedPort::new();
    let origin = Origin::answer(OK);
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    for method in ["GET", "HEAD", "OPTIONS"] {
        client.send(get_request(refused.addr, "/").replace("GET", method));
        let head = client.read_head();
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        if method != "HEAD" {
            let length = field(&head, "content-length").expect("a length");
            client.read_exact(length.parse().unwrap());
        }
    }
    client.send(get_request(origin.addr, "/"));
    assert_eq!(client.read_response().text(), "ok");
    drop(proxy);
}

#[test]
fn a_refusal_names_what_failed_where_and_what_to_try() {
    let refused = RefusedPort::new();
    let response = get(proxy().addr(), refused.addr, "/");
    assert_eq!(response.status, 502);
    let text = response.text().to_ascii_lowercase();
    for word in ["connect", "upstream", "refused"] {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
    assert!(
        text.lines().filter(|line| !line.trim().is_empty()).count() >= 2,
        "what to try? {text}"
    );
}

#[test]
fn proxy_status_names_the_error_in_the_words_of_rfc_9209() {
    let refused = RefusedPort::new();
    let proxy = proxy_with(|options| {
        options.resolver = std::sync::Arc::new(crate::proxies::Names::default());
    });
    let dying = Origin::script(1, |peer| {
        peer.read_head();
    });
    for (target, status, error) in [
        (format!("http://{}/", refused.addr), 502, "connection_refused"),
        ("http://unknown.example/".to_owned(), 502, "dns_error"),
        (format!("http://{}/", dying.addr), 502, "connection_terminated"),
        (format!("http://{}/", proxy.addr()), 508, "proxy_loop_detected"),
        ("http://a:b:c/".to_owned(), 400, "http_request_error"),
    ] {
        let mut client = Peer::connect(proxy.addr());
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n"));
        let response = client.read_response();
        assert_eq!(response.status, status, "{target}");
        let field = response.field("proxy-status").expect("Proxy-Status");
        let (name, parameters) = field.split_once(';').expect("parameters");
        assert!(name.starts_with("threadgate"), "{field}");
        assert!(parameters.split(';').any(|p| p.trim() == format!("error={error}")), "{field}");
    }
}

#[test]
fn browsers_get_html_and_everyone_else_text() {
    let refused = RefusedPort::new();
    let proxy = proxy();
    for (accept, expected) in [
        ("", "text/plain"),
        ("Accept: */*\r\n", "text/plain"),
        ("Accept: application/json\r\n", "text/plain"),
        ("Accept: text/html\r\n", "text/html"),
        (
            "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n",
            "text/html",
        ),
    ] {
        for target in ["/".to_owned(), format!("http://{}/<b>'\"&", refused.addr)] {
            let mut client = Peer::connect(proxy.addr());
            client.send(format!("GET {target} HTTP/1.1\r\nHost: {}\r\n{accept}\r\n", refused.addr));
            let response = client.read_response();
            let kind = response.field("content-type").expect("Content-Type");
            assert!(kind.starts_with(expected), "{accept:?} {target}: {kind}");
            assert_eq!(
                response.text().contains("</"),
                expected == "text/html",
                "{accept:?} {target}"
            );
            assert!(!response.text().contains("<b>"), "{accept:?}: {}", response.text());
        }
    }
}

#[test]
fn a_refusal_is_not_stored_by_caches_and_dated() {
    let refused = RefusedPort::new();
    let response = get(proxy().addr(), refused.addr, "/");
    let date = response.field("date").expect("RFC 9110 §6.6.1: Date");
    assert!(httpdate::parse_http_date(date).is_ok(), "{date}");
    if let Some(cache) = response.field("cache-control") {
        assert!(cache.contains("no-store") || cache.contains("no-cache"), "{cache}");
    }
}

#[test]
fn an_uploading_client_is_told_that_its_upstream_is_dead() {
    let refused = RefusedPort::new();
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(format!(
        "PUT http://{0}/ HTTP/1.1\r\nHost: {0}\r\nContent-Length: 1000000\r\n\r\n",
        refused.addr
    ));
    // The proxy may close while this is still being sent, but not before its reply can be read.
    let _ = client.try_send(vec![b'x'; 1_000_000]);
    let response = client.read_response();
    assert_eq!(response.status, 502, "{}", response.head);
}
