use super::super::framing::FramingError;
use super::*;

fn read<'h>(
    head: &'static str,
    method: Method,
    slots: &'h mut Slots<'static>,
) -> Result<ResponseHead<'h, 'static>, HeadError> {
    fuzz(head.as_bytes());
    ResponseHead::read(head.as_bytes(), slots, &HeadLimits::default(), method)
}

#[track_caller]
fn refused(head: &'static str, expected: HeadError) {
    let mut slots = Slots::new();
    assert_eq!(read(head, Method::Get, &mut slots).map(|_| ()), Err(expected), "{head:?}");
}

/// Asserts that `head`, in answer to `method`, is sent to the client as `expected`.
#[track_caller]
fn sent(head: &'static str, method: Method, outgoing: ResponseOutgoing<'_>, expected: &str) {
    let mut slots = Slots::new();
    let mut out = Vec::new();
    read(head, method, &mut slots).unwrap().write_client(&mut out, &outgoing);
    assert_eq!(String::from_utf8_lossy(&out), expected);
}

const AS_IS: ResponseOutgoing<'_> = ResponseOutgoing {
    via: None,
    upgrade: None,
    close: false,
    keep_alive: false,
    coding: Recode::Keep,
    date: None,
};

#[test]
fn a_status_line_has_a_version_and_three_digits() {
    refused("HTTP/1.1 20 OK\r\n\r\n", HeadError::BadStatusLine);
    refused("HTTP/1.1 2000 OK\r\n\r\n", HeadError::BadStatusLine);
    refused("HTTP/1.1 099 OK\r\n\r\n", HeadError::StatusOutOfRange);
    refused("HTTP/1.1 600 OK\r\n\r\n", HeadError::StatusOutOfRange);
    refused("HTTP/1.1  200 OK\r\n\r\n", HeadError::BadStatusLine);
    refused("HTTP/1.1\t200 OK\r\n\r\n", HeadError::BadStatusLine);
    refused("HTTP/1.1 200\tOK\r\n\r\n", HeadError::BadStatusLine);
    refused("HTTP/1.1 200 a\u{7}\r\n\r\n", HeadError::BadStatusLine);
    refused("\r\nHTTP/1.1 200 OK\r\n\r\n", HeadError::BadStatusLine);
    refused("ICY 200 OK\r\n\r\n", HeadError::BadStatusLine);
    refused("-ERR unknown command\r\n\r\n", HeadError::BadStatusLine);
    refused("HTTP/2.0 200 OK\r\n\r\n", HeadError::UnsupportedVersion);
    refused("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", HeadError::SpaceBeforeColon);
    refused("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", HeadError::ObsFold);
}

#[test]
fn the_reason_is_kept_whatever_it_is() {
    for (head, reason, line) in [
        ("HTTP/1.1 200 OK\r\n\r\n", "OK", "HTTP/1.1 200 OK\r\n\r\n"),
        ("HTTP/1.0 404 Not  Found\r\n\r\n", "Not  Found", "HTTP/1.1 404 Not  Found\r\n\r\n"),
        ("HTTP/1.1 200 \r\n\r\n", "", "HTTP/1.1 200 \r\n\r\n"),
        ("HTTP/1.1 200\r\n\r\n", "", "HTTP/1.1 200 \r\n\r\n"),
        ("HTTP/1.1 200 \u{e9}\r\n\r\n", "\u{e9}", "HTTP/1.1 200 \u{e9}\r\n\r\n"),
    ] {
        let mut slots = Slots::new();
        assert_eq!(read(head, Method::Get, &mut slots).unwrap().reason, reason.as_bytes());
        sent(head, Method::Get, AS_IS, line);
    }
}

/// Asserts that `head`, which the strict reader refuses, is sent to the client as `expected`.
#[track_caller]
fn mended(head: &str, expected: &str, repairs: &[Repair]) {
    fuzz(head.as_bytes());
    let (mut slots, mut copy) = (MoreSlots::default(), Vec::new());
    let limits = HeadLimits::default();
    let (head, error) = (head.as_bytes(), HeadError::BareLf);
    let head = ResponseHead::read_mended(head, error, &mut copy, &mut slots, &limits, Method::Get);
    let head = head.unwrap();
    assert_eq!(head.repairs.iter().collect::<Vec<_>>(), repairs);
    assert!(!head.persistent());
    let mut out = Vec::new();
    head.write_client(&mut out, &AS_IS);
    assert_eq!(String::from_utf8_lossy(&out), expected);
}

#[track_caller]
fn not_mended(head: &str, expected: HeadError) {
    fuzz(head.as_bytes());
    let (mut slots, mut copy, mut more) = (Slots::new(), Vec::new(), MoreSlots::default());
    let limits = HeadLimits::default();
    let (head, method) = (head.as_bytes(), Method::Get);
    let error = ResponseHead::read(head, &mut slots, &limits, method).unwrap_err();
    let read = ResponseHead::read_mended(head, error, &mut copy, &mut more, &limits, method);
    assert_eq!(read.map(|_| ()), Err(expected), "{}", head.escape_ascii());
}

#[test]
fn a_response_is_sent_on_in_the_strict_form() {
    let ok = "HTTP/1.1 200 OK\r\nA: b\r\n\r\n";
    mended("HTTP/1.1 200 OK\nA: b\n\n", ok, &[Repair::LineEnd]);
    mended("ICY 200 OK\r\nA : b\r\n\r\n", ok, &[Repair::Icy, Repair::SpaceBeforeColon]);
    mended("HTTP/1.4 200 OK\r\nA:\r\n b\r\n\r\n", ok, &[Repair::Fold, Repair::Version]);
    mended("HTTP/1.1 999 OK\n\n", "HTTP/1.1 999 OK\r\n\r\n", &[Repair::LineEnd, Repair::Status]);
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    mended(
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        chunked,
        &[Repair::LengthBesideChunked],
    );
    mended("HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n chunked\r\n\r\n", chunked, &[Repair::Fold]);
    mended(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        &[Repair::Identity],
    );
}

#[test]
fn a_response_with_two_readings_is_not_mended() {
    let head = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
    for (fields, expected) in [
        ("A: b\0", HeadError::Nul),
        ("Content-Length: 5\r\nContent-Length: 6", FramingError::DifferingLengths.into()),
        ("Content-Length : 5\r\nContent-Length: 6", HeadError::SpaceBeforeColon),
        ("Transfer-Encoding: chunked, identity", FramingError::UnknownCoding.into()),
        ("Transfer-Encoding: gzip", FramingError::UnknownCoding.into()),
    ] {
        not_mended(&head(fields), expected);
    }
    not_mended(
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        FramingError::CodingInHttp10.into(),
    );
    not_mended("HTTP/1.1 099 OK\r\n\r\n", HeadError::StatusOutOfRange);
    not_mended(
        "HTTP/1.1 101 OK\r\nUpgrade : x\r\nConnection: upgrade\r\n\r\n",
        HeadError::SpaceBeforeColon,
    );
}

#[test]
fn as_many_fields_are_sent_on_as_fit() {
    for count in [101, 128, 129, 3000] {
        let lines = |skip: bool| {
            let line = |at: usize| match at % 50 {
                7 if skip => String::new(),
                7 => format!("X-Hop: {at}\r\n"),
                8 => "Date: x\r\n".to_owned(),
                _ => format!("A{at}:\r\n"),
            };
            (0..count).map(line).collect::<String>()
        };
        let head = |lines: &str, last| format!("HTTP/1.1 200 OK\r\n{lines}{last}\r\n\r\n");
        let many = head(&lines(false), "Content-Length: 5\r\nConnection: x-hop\r\nZ: z");
        if many.len() > HeadLimits::default().max_head_bytes {
            continue;
        }
        let expected = head(&lines(true), "Content-Length: 5\r\nZ: z");
        match count * 2 / 50 + 3 < MAX_FIELDS {
            true => mended(&many, &expected, &[Repair::ManyFields]),
            false => not_mended(&many, HeadError::TooManyFields),
        }
    }
}

#[test]
fn an_upstream_connection_persists_if_the_content_has_an_end() {
    for (head, persistent) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\n\r\n", false),
        ("HTTP/1.1 204 OK\r\n\r\n", true),
        ("HTTP/1.1 101 OK\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n", false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n", true),
    ] {
        let mut slots = Slots::new();
        let head_read = read(head, Method::Get, &mut slots).unwrap();
        assert_eq!(head_read.persistent(), persistent, "{head:?}");
    }
}

#[test]
fn hop_by_hop_fields_of_a_response_stay_here() {
    sent(
        "HTTP/1.1 407 No\r\nServer: s\r\nConnection: x-hop\r\nX-Hop: 1\r\nProxy-Authenticate: Basic\r\n\
         Keep-Alive: 5\r\nUpgrade: h2c\r\nTrailer: A\r\nContent-Length: 0\r\nSet-Cookie: a\r\n\r\n",
        Method::Get,
        AS_IS,
        "HTTP/1.1 407 No\r\nServer: s\r\nContent-Length: 0\r\nSet-Cookie: a\r\n\r\n",
    );
}

#[test]
fn the_coding_is_what_the_client_will_see() {
    let chunked = "HTTP/1.1 200 OK\r\nA: b\r\ntransfer-encoding:  Chunked\r\nC: d\r\n\r\n";
    let plain = "HTTP/1.1 200 OK\r\nA: b\r\nC: d\r\n\r\n";
    let kept = "HTTP/1.1 200 OK\r\nA: b\r\nTransfer-Encoding: chunked\r\nC: d\r\n\r\n";
    sent(chunked, Method::Get, AS_IS, kept);
    sent(chunked, Method::Get, ResponseOutgoing { coding: Recode::Chunk, ..AS_IS }, kept);
    sent(chunked, Method::Get, ResponseOutgoing { coding: Recode::Dechunk, ..AS_IS }, plain);
    let trailer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n";
    sent(trailer, Method::Get, AS_IS, trailer);
    sent(
        trailer,
        Method::Get,
        ResponseOutgoing { coding: Recode::Dechunk, ..AS_IS },
        "HTTP/1.1 200 OK\r\n\r\n",
    );
    sent(chunked, Method::Head, AS_IS, plain);
    sent(plain, Method::Get, AS_IS, plain);
    sent(
        plain,
        Method::Get,
        ResponseOutgoing { coding: Recode::Chunk, ..AS_IS },
        "HTTP/1.1 200 OK\r\nA: b\r\nC: d\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    sent(plain, Method::Head, ResponseOutgoing { coding: Recode::Chunk, ..AS_IS }, plain);
}

#[test]
fn a_length_is_passed_on_only_where_it_may_stand() {
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    sent(length, Method::Get, AS_IS, length);
    sent(length, Method::Head, AS_IS, length);
    sent(length, Method::Connect, AS_IS, "HTTP/1.1 200 OK\r\n\r\n");
    sent(
        "HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n",
        Method::Get,
        AS_IS,
        "HTTP/1.1 204 No\r\n\r\n",
    );
    sent(
        "HTTP/1.1 103 Hint\r\nContent-Length: 5\r\n\r\n",
        Method::Get,
        AS_IS,
        "HTTP/1.1 103 Hint\r\n\r\n",
    );
    sent(
        "HTTP/1.1 304 Not\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        Method::Get,
        AS_IS,
        "HTTP/1.1 304 Not\r\nContent-Length: 5\r\n\r\n",
    );
    refused(
        "HTTP/1.1 204 No\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        HeadError::Framing(FramingError::LengthAndCoding),
    );
}

#[test]
fn what_we_add_to_a_response_comes_last() {
    let all = ResponseOutgoing {
        via: Some("gate"),
        upgrade: None,
        close: false,
        keep_alive: true,
        coding: Recode::Chunk,
        date: Some("now"),
    };
    sent(
        "HTTP/1.0 200 OK\r\nA: b\r\n\r\n",
        Method::Get,
        all,
        "HTTP/1.1 200 OK\r\nA: b\r\nTransfer-Encoding: chunked\r\nDate: now\r\nVia: 1.0 gate\r\nConnection: keep-alive\r\n\r\n",
    );
    sent(
        "HTTP/1.1 200 OK\r\ndate: then\r\nContent-Length: 1\r\n\r\n",
        Method::Get,
        ResponseOutgoing { close: true, ..all },
        "HTTP/1.1 200 OK\r\ndate: then\r\nContent-Length: 1\r\nVia: 1.1 gate\r\nConnection: close\r\n\r\n",
    );
}
