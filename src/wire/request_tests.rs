//! Tests of request heads: which are accepted, which are refused, and how they are forwarded.

use super::super::framing::FramingError;
use super::super::request_line::{RequestLine, write_request_line};
use super::*;

fn read<'h>(
    head: &'static str,
    slots: &'h mut Slots<'static>,
) -> Result<RequestHead<'h, 'static>, HeadError> {
    fuzz(head.as_bytes());
    RequestHead::read(head.as_bytes(), slots, &HeadLimits::default())
}

/// Asserts that the first line of a head is forwarded as `expected`, perhaps respelt, or is refused.
#[track_caller]
fn respelt(line: &[u8], expected: Result<&str, HeadError>) {
    let head = [line, b"\r\nHost: a\r\nA: \xe9\r\n\r\n"].concat();
    fuzz(&head);
    let (limits, mut anew) = (HeadLimits::default(), Vec::new());
    let mut slots = Slots::new();
    let head = match RequestHead::read(&head, &mut slots, &limits) {
        Err(e) => RequestHead::read_respelt(&head, e, &mut slots, &limits, &mut anew),
        read => read,
    };
    let said = head.map(|head| {
        let mut out = Vec::new();
        let (via, max_forwards, upgrade, forwarded) = (None, None, None, None);
        let (target, host) = (head.target_text.into(), "a");
        let rest = Outgoing { host, via, forwarded, max_forwards, upgrade, close: false };
        write_request_line(&mut out, head.method_name, target);
        head.write_fields(&mut out, &rest);
        let end = out.iter().position(|&byte| byte == b'\r').unwrap();
        assert_eq!(&out[end..], b"\r\nHost: a\r\nA: \xe9\r\n\r\n", "the rest is as it was");
        (String::from_utf8_lossy(&out[..end]).into_owned(), head.version)
    });
    let expected = expected.map(|line| (line.to_owned(), Version::Http11));
    assert_eq!(said, expected, "{}", line.escape_ascii());
}

/// Asserts that `head` is refused with `expected`.
#[track_caller]
fn refused(head: &'static str, expected: HeadError) {
    let mut slots = Slots::new();
    assert_eq!(read(head, &mut slots).map(|_| ()), Err(expected), "{head:?}");
}

/// Asserts that `head` is forwarded as `expected`.
#[track_caller]
fn sent(head: &'static str, expected: &str) {
    let mut slots = Slots::new();
    let head = read(head, &mut slots).unwrap();
    let host = head.target.authority().map_or("a", |authority| authority.text);
    let mut line = RequestLine::default();
    line.keep(head.method_name, head.target.origin_form(head.method));
    let mut out = Vec::new();
    let (via, max_forwards, upgrade) = (None, None, None);
    let forwarded = None;
    let rest = Outgoing { host, via, forwarded, max_forwards, upgrade, close: false };
    let (method, target) = line.parts();
    write_request_line(&mut out, method, target);
    head.write_fields(&mut out, &rest);
    assert_eq!(String::from_utf8_lossy(&out), expected);
}

#[test]
fn a_request_line_has_three_words_and_single_spaces() {
    refused("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::BadRequestLine);
    refused("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::BadRequestLine);
    refused("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", HeadError::BadRequestLine);
    refused("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::BadRequestLine);
    refused("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::BadMethod);
    refused(" GET / HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::BadRequestLine);
    refused("GET /\r\n\r\n", HeadError::BadRequestLine);
    refused("GET\r\n\r\n", HeadError::BadRequestLine);
    refused("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::BadRequestLine);
    refused("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::BadMethod);
    refused(
        "GET /\u{7f} HTTP/1.1\r\nHost: a\r\n\r\n",
        HeadError::Target(TargetError::BadCharacter),
    );
    refused("GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::Target(TargetError::Fragment));
}

#[test]
fn bytes_above_ascii_in_path_or_query_go_on_percent_encoded() {
    let bad = Err(HeadError::Target(TargetError::BadCharacter));
    for (line, expected) in [
        ("GET http://a/\u{e9} HTTP/1.1", Ok("GET http://a/%C3%A9 HTTP/1.1")),
        (
            "GET http://a/?q=\u{fc}&\u{201c} HTTP/1.1",
            Ok("GET http://a/?q=%C3%BC&%E2%80%9C HTTP/1.1"),
        ),
        ("GET http://a?\u{fc} HTTP/1.1", Ok("GET http://a?%C3%BC HTTP/1.1")),
        ("GET /\u{e9} HTTP/1.1", Ok("GET /%C3%A9 HTTP/1.1")),
        // Encoded bytes stay, and so does a `%` that begins nothing.
        ("PUT http://a/%c3%A9/%\u{e9}% HTTP/1.1", Ok("PUT http://a/%c3%A9/%%C3%A9% HTTP/1.1")),
        ("OPTIONS http://a/\u{e9} HTTP/1.1", Ok("OPTIONS http://a/%C3%A9 HTTP/1.1")),
        ("X-M http://a:80/b://c\u{e9}/d HTTP/1.1", Ok("X-M http://a:80/b://c%C3%A9/d HTTP/1.1")),
        ("GET ws://a/\u{e9} HTTP/1.1", Ok("GET ws://a/%C3%A9 HTTP/1.1")),
        // The server's name is never respelt.
        ("GET http://caf\u{e9}/ HTTP/1.1", bad),
        ("GET http://caf\u{e9}/\u{e9} HTTP/1.1", bad),
        ("GET http://a\u{e9} HTTP/1.1", bad),
        ("GET http://a:8\u{663}/ HTTP/1.1", bad),
        ("GET htt\u{fc}p://a/ HTTP/1.1", bad),
        ("CONNECT caf\u{e9}:443 HTTP/1.1", bad),
        ("CONNECT a/\u{e9}:443 HTTP/1.1", bad),
        ("GET \u{e9} HTTP/1.1", bad),
        ("OPTIONS *\u{e9} HTTP/1.1", bad),
        // Other faults stay faults.
        ("GET http://a/\u{e9}\u{7f} HTTP/1.1", bad),
        ("GET http://a/\u{e9}#b HTTP/1.1", Err(HeadError::Target(TargetError::Fragment))),
        ("GET http://a/\u{e9} b HTTP/1.1", Err(HeadError::BadRequestLine)),
        ("GET http://u@a/\u{e9} HTTP/1.1", Err(HeadError::Target(TargetError::UserInfo))),
        ("G\u{e9}T http://a/ HTTP/1.1", Err(HeadError::BadMethod)),
        ("GET http://a/ HTTP/1.\u{e9}", Err(HeadError::BadVersion)),
        ("GET http://a/\u{e9} HTTP/1.\u{661}", Err(HeadError::BadVersion)),
    ] {
        respelt(line.as_bytes(), expected);
    }
    // Bytes that are not UTF-8 are encoded one by one.
    respelt(b"GET http://a/\xe9\x80?\xff HTTP/1.1", Ok("GET http://a/%E9%80?%FF HTTP/1.1"));
    respelt(b"GET http://\xe9/ HTTP/1.1", bad);
    respelt(b"CONNECT a\xff:443 HTTP/1.1", bad);
}

#[test]
fn a_respelt_head_may_be_longer_than_the_limit_and_is_bounded_by_it() {
    let line = format!("GET http://a/{} HTTP/1.1\r\nHost: a\r\n\r\n", "\u{e9}".repeat(16_000));
    let limits = HeadLimits::default();
    for (max_head_bytes, expected) in
        [(line.len(), Ok(())), (line.len() - 1, Err(HeadError::HeadTooLarge))]
    {
        let limits = HeadLimits { max_head_bytes, ..limits };
        let mut anew = Vec::new();
        let mut slots = Slots::new();
        let read = match RequestHead::read(line.as_bytes(), &mut slots, &limits) {
            Err(e) => RequestHead::read_respelt(line.as_bytes(), e, &mut slots, &limits, &mut anew),
            read => read,
        };
        assert_eq!(read.map(|_| ()), expected);
        assert!(anew.len() <= 3 * line.len());
    }
}

#[test]
fn a_later_minor_version_is_served_as_1_1() {
    for minor in '2'..='9' {
        let line = format!("GET http://a/\u{e9} HTTP/1.{minor}");
        respelt(line.as_bytes(), Ok("GET http://a/%C3%A9 HTTP/1.1"));
        respelt(format!("GET / HTTP/1.{minor}").as_bytes(), Ok("GET / HTTP/1.1"));
    }
    respelt(b"CONNECT a:1 HTTP/1.2", Ok("CONNECT a:1 HTTP/1.1"));
    for version in ["HTTP/2.0", "HTTP/0.9", "HTTP/3.0", "HTTP/2.1", "HTTP/9.9"] {
        respelt(format!("GET / {version}").as_bytes(), Err(HeadError::UnsupportedVersion));
        let line = format!("GET http://a/\u{e9} {version}");
        respelt(line.as_bytes(), Err(HeadError::UnsupportedVersion));
    }
    for version in ["HTTP/1.10", "HTTP/01.1", "HTTP/1.2.", "HTTP/1.a", "HTTP/1", "http/1.2"] {
        respelt(format!("GET / {version}").as_bytes(), Err(HeadError::BadVersion));
    }
    // The framing rules are those of HTTP/1.1, too.
    let mut anew = Vec::new();
    let head =
        b"POST / HTTP/1.3\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n";
    let e = HeadError::UnsupportedVersion;
    let mut slots = Slots::new();
    let read = RequestHead::read_respelt(head, e, &mut slots, &HeadLimits::default(), &mut anew);
    let expected = HeadError::Framing(FramingError::LengthAndCoding);
    assert_eq!(read.map(|_| ()), Err(expected));
    respelt(b"GET http://a/\xe9 HTTP/1.1\r\nHost: a", Err(HeadError::RepeatedHost));
}

#[test]
fn only_the_versions_1_x_are_spoken() {
    refused("GET / HTTP/2.0\r\nHost: a\r\n\r\n", HeadError::UnsupportedVersion);
    refused("GET / HTTP/0.9\r\nHost: a\r\n\r\n", HeadError::UnsupportedVersion);
    refused("GET / http/1.1\r\nHost: a\r\n\r\n", HeadError::BadVersion);
    refused("GET / HTTP/1.10\r\nHost: a\r\n\r\n", HeadError::BadVersion);
    refused("GET / HTTP/1,1\r\nHost: a\r\n\r\n", HeadError::BadVersion);
    refused("GET / TTP/1.1\r\nHost: a\r\n\r\n", HeadError::BadVersion);
}

#[test]
fn a_field_line_is_a_token_a_colon_and_a_value() {
    refused("GET / HTTP/1.1\r\nHost : a\r\n\r\n", HeadError::SpaceBeforeColon);
    refused("GET / HTTP/1.1\r\nHost: a\r\nA\t: b\r\n\r\n", HeadError::SpaceBeforeColon);
    refused("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", HeadError::ObsFold);
    refused("GET / HTTP/1.1\r\nHost: a\r\n\tb: c\r\n\r\n", HeadError::ObsFold);
    refused("GET / HTTP/1.1\r\n Host: a\r\n\r\n", HeadError::ObsFold);
    refused("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", HeadError::BadFieldName);
    refused("GET / HTTP/1.1\r\nHost: a\r\nA b: c\r\n\r\n", HeadError::BadFieldName);
    refused("GET / HTTP/1.1\r\nHost: a\r\nAb\r\n\r\n", HeadError::BadFieldName);
    refused("GET / HTTP/1.1\r\nHost: a\r\n\u{e9}: c\r\n\r\n", HeadError::BadFieldName);
    refused("GET / HTTP/1.1\r\nHost: a\r\nA: b\u{b}c\r\n\r\n", HeadError::ControlInValue);
    refused("GET / HTTP/1.1\r\nHost: a\r\nA: \u{7f}\r\n\r\n", HeadError::ControlInValue);
    sent(
        "GET / HTTP/1.1\r\nHost: a\r\nA:\r\nb:  \u{e9}\t \r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nA:\r\nb:  \u{e9}\t \r\n\r\n",
    );
}

#[test]
fn the_limits_count_bytes_and_lines() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n";
    let check = |max_head_bytes, max_fields| {
        let limits = HeadLimits { max_head_bytes, max_fields };
        RequestHead::read(head, &mut Slots::new(), &limits).map(|head| head.fields().count())
    };
    assert_eq!(check(head.len(), 2), Ok(2));
    assert_eq!(check(head.len(), usize::MAX), Ok(2));
    assert_eq!(check(head.len() - 1, 2), Err(HeadError::HeadTooLarge));
    assert_eq!(check(head.len(), 1), Err(HeadError::TooManyFields));
    let many = |lines| format!("GET / HTTP/1.0\r\n{}\r\n", "A: b\r\n".repeat(lines));
    let limits = HeadLimits { max_fields: 1000, ..HeadLimits::default() };
    for (lines, expected) in [(128, Ok(())), (129, Err(HeadError::TooManyFields))] {
        let head = many(lines);
        let read = RequestHead::read(head.as_bytes(), &mut Slots::new(), &limits).map(|_| ());
        assert_eq!(read, expected);
    }
}

#[test]
fn there_is_one_host_and_it_is_valid() {
    refused("GET / HTTP/1.1\r\n\r\n", HeadError::MissingHost);
    refused("GET http://a/ HTTP/1.1\r\n\r\n", HeadError::MissingHost);
    refused("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", HeadError::RepeatedHost);
    refused("GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n", HeadError::RepeatedHost);
    refused("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", HeadError::InvalidHost(TargetError::BadHost));
    refused("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", HeadError::InvalidHost(TargetError::BadHost));
    refused(
        "GET / HTTP/1.1\r\nHost: http://a\r\n\r\n",
        HeadError::InvalidHost(TargetError::BadPort),
    );
    refused("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", HeadError::InvalidHost(TargetError::UserInfo));
    refused("GET / HTTP/1.1\r\nHost: a:0\r\n\r\n", HeadError::InvalidHost(TargetError::BadPort));
    refused(
        "GET http://a/ HTTP/1.1\r\nHost: a/b\r\n\r\n",
        HeadError::InvalidHost(TargetError::BadHost),
    );
    refused("GET http://a/ HTTP/1.1\r\nHost:\r\nHost: a\r\n\r\n", HeadError::RepeatedHost);
    refused(
        "GET http://a/ HTTP/1.1\r\nHost: :80\r\n\r\n",
        HeadError::InvalidHost(TargetError::EmptyHost),
    );
    let mut slots = Slots::new();
    assert_eq!(read("OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n", &mut slots).unwrap().host, Some(""));
    let mut slots = Slots::new();
    assert_eq!(read("GET http://a/ HTTP/1.0\r\n\r\n", &mut slots).unwrap().host, None);
    let mut slots = Slots::new();
    let differs = read("GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", &mut slots).unwrap();
    assert_eq!(differs.target.authority().unwrap().host, "a");
}

#[test]
fn an_empty_host_beside_a_target_that_names_the_server_is_filled_in() {
    for (version, empty) in [("1.1", "Host:"), ("1.1", "hOST: \t "), ("1.0", "Host:")] {
        let head = format!("GET http://a:81/b HTTP/{version}\r\nA: b\r\n{empty}\r\n\r\n");
        sent(String::leak(head), "GET /b HTTP/1.1\r\nA: b\r\nHost: a:81\r\n\r\n");
    }
    let mut slots = Slots::new();
    let connect = read("CONNECT a:1 HTTP/1.1\r\nHost:\r\n\r\n", &mut slots).unwrap();
    assert_eq!(connect.target.authority().unwrap().text, "a:1");
}

#[test]
fn a_connect_cannot_announce_content() {
    refused(
        "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 1\r\n\r\n",
        HeadError::ConnectWithContent,
    );
    refused(
        "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nTransfer-Encoding: chunked\r\n\r\n",
        HeadError::ConnectWithContent,
    );
    let mut slots = Slots::new();
    assert!(
        read("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 0\r\n\r\n", &mut slots).is_ok()
    );
}

#[test]
fn a_request_says_what_it_expects() {
    for (head, expect, upgrade, left) in [
        ("GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\n\r\n", true, false, None),
        ("GET / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n", false, false, None),
        ("GET / HTTP/1.1\r\nHost: a\r\nExpect: other\r\n\r\n", false, false, None),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
            false,
            true,
            None,
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\n\r\n", false, false, None),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n\r\n", false, false, None),
        ("GET / HTTP/1.0\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", false, false, None),
        ("GET / HTTP/1.1\r\nHost: a\r\nMax-Forwards: x\r\n\r\n", false, false, None),
        ("TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 7\r\n\r\n", false, false, Some(7)),
        (
            "OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 99999999999\r\n\r\n",
            false,
            false,
            Some(u32::MAX),
        ),
    ] {
        let mut slots = Slots::new();
        let head = read(head, &mut slots).unwrap();
        assert_eq!(
            (head.expect_continue, head.upgrade, head.max_forwards),
            (expect, upgrade, left)
        );
    }
    refused("TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: -1\r\n\r\n", HeadError::BadMaxForwards);
    refused("TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards:\r\n\r\n", HeadError::BadMaxForwards);
    refused(
        "TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 1\r\nMax-Forwards: 1\r\n\r\n",
        HeadError::BadMaxForwards,
    );
}

#[test]
fn fields_travel_in_order_case_and_bytes() {
    sent(
        "GET http://a/x?y HTTP/1.1\r\nhOST:a\r\nAccept:  */* \r\nX-Empty:\r\nx-a: 1\r\nX-A: 2\r\n\r\n",
        "GET /x?y HTTP/1.1\r\nhOST:a\r\nAccept:  */* \r\nX-Empty:\r\nx-a: 1\r\nX-A: 2\r\n\r\n",
    );
    sent("GET http://a HTTP/1.0\r\nA: b\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n");
    sent("GET http://a?q HTTP/1.0\r\n\r\n", "GET /?q HTTP/1.1\r\nHost: a\r\n\r\n");
    sent(
        "OPTIONS http://a:81 HTTP/1.1\r\nB: c\r\nHost:  evil\r\nA: b\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nB: c\r\nHost: a:81\r\nA: b\r\n\r\n",
    );
    sent("GET / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
}

#[test]
fn a_request_framed_two_ways_is_refused() {
    refused(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        HeadError::Framing(FramingError::LengthAndCoding),
    );
}

#[test]
fn what_we_add_comes_last() {
    let mut slots = Slots::new();
    let head = read(
        "TRACE http://a/ HTTP/1.0\r\nVia: 1.1 b\r\nMax-Forwards:  3\r\nA: b\r\n\r\n",
        &mut slots,
    )
    .unwrap();
    assert!(head.via_names("b") && !head.via_names("gate"));
    let mut out = b"kept".to_vec();
    write_request_line(&mut out, head.method_name, head.target_text.into());
    head.write_fields(
        &mut out,
        &Outgoing {
            host: "a",
            via: Some("gate"),
            forwarded: None,
            max_forwards: Some(2),
            upgrade: None,
            close: true,
        },
    );
    assert_eq!(
        String::from_utf8_lossy(&out),
        "keptTRACE http://a/ HTTP/1.1\r\nHost: a\r\nVia: 1.1 b\r\nMax-Forwards: 2\r\nA: b\r\nVia: 1.0 gate\r\nConnection: close\r\n\r\n"
    );
}
