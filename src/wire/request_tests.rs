//! Which request heads are taken, which are refused, and how they go on.

use super::super::framing::FramingError;
use super::*;

fn read<'h>(
    head: &'static str,
    slots: &'h mut Slots<'static>,
) -> Result<RequestHead<'h, 'static>, HeadError> {
    fuzz(head.as_bytes());
    RequestHead::read(head.as_bytes(), slots, &Limits::default())
}

/// Asserts that `head` is refused with `expected`.
#[track_caller]
fn refused(head: &'static str, expected: HeadError) {
    let mut slots = Slots::new();
    assert_eq!(read(head, &mut slots).map(|_| ()), Err(expected), "{head:?}");
}

/// Asserts that `head` goes on as `expected`.
#[track_caller]
fn sent(head: &'static str, expected: &str) {
    let mut slots = Slots::new();
    let head = read(head, &mut slots).unwrap();
    let host = head.target.authority().map_or("a", |authority| authority.text);
    let target = head.target.origin_form(head.method);
    let mut out = Vec::new();
    let (via, max_forwards, upgrade) = (None, None, None);
    let forwarded = None;
    let rest = Outgoing { target, host, via, forwarded, max_forwards, upgrade, close: false };
    head.write_upstream(&mut out, &rest);
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
        "GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n",
        HeadError::Target(TargetError::BadCharacter),
    );
    refused(
        "GET /\u{7f} HTTP/1.1\r\nHost: a\r\n\r\n",
        HeadError::Target(TargetError::BadCharacter),
    );
    refused("GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::Target(TargetError::Fragment));
}

#[test]
fn only_two_versions_are_spoken() {
    refused("GET / HTTP/2.0\r\nHost: a\r\n\r\n", HeadError::UnsupportedVersion);
    refused("GET / HTTP/1.2\r\nHost: a\r\n\r\n", HeadError::UnsupportedVersion);
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
fn the_limits_count_octets_and_lines() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n";
    let check = |max_head_octets, max_fields| {
        let limits = Limits { max_head_octets, max_fields };
        RequestHead::read(head, &mut Slots::new(), &limits).map(|head| head.fields().count())
    };
    assert_eq!(check(head.len(), 2), Ok(2));
    assert_eq!(check(head.len(), usize::MAX), Ok(2));
    assert_eq!(check(head.len() - 1, 2), Err(HeadError::HeadTooLarge));
    assert_eq!(check(head.len(), 1), Err(HeadError::TooManyFields));
    let many = |lines| format!("GET / HTTP/1.0\r\n{}\r\n", "A: b\r\n".repeat(lines));
    let limits = Limits { max_fields: 1000, ..Limits::default() };
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
    refused(
        "GET http://a/ HTTP/1.1\r\nHost:\r\n\r\n",
        HeadError::InvalidHost(TargetError::EmptyHost),
    );
    refused(
        "CONNECT a:1 HTTP/1.1\r\nHost:\r\n\r\n",
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
fn fields_travel_in_order_case_and_octets() {
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
    head.write_upstream(
        &mut out,
        &Outgoing {
            target: head.target_text.into(),
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
