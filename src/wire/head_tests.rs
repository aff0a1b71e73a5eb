use super::super::start_line::Method;
use super::super::tests::at_every_split;
use super::*;

const SMALL: HeadLimits = HeadLimits { max_head_bytes: 32, max_fields: 4 };

/// The answer for `bytes`, wherever they are cut.
#[track_caller]
fn check(bytes: &[u8], expected: Result<Option<usize>, HeadError>) {
    assert_eq!(find_end(bytes, &mut 0, &SMALL), expected, "{:?}", bytes.escape_ascii());
    at_every_split(bytes, |first, _| {
        let mut scanned = 0;
        let early = find_end(first, &mut scanned, &SMALL);
        let answer = if early == Ok(None) { find_end(bytes, &mut scanned, &SMALL) } else { early };
        assert_eq!(answer, expected, "cut at {}", first.len());
    });
    fuzz(bytes, &SMALL);
}

#[test]
fn a_head_ends_with_an_empty_line() {
    check(b"", Ok(None));
    check(b"GET / HTTP/1.1\r\n", Ok(None));
    check(b"GET / HTTP/1.1\r\nA: b\r\n\r", Ok(None));
    check(b"GET / HTTP/1.1\r\n\r\n", Ok(Some(18)));
    check(b"GET / HTTP/1.1\r\nA: b\r\n\r\n", Ok(Some(24)));
    check(b"GET / HTTP/1.1\r\n\r\nGET\0\n\r", Ok(Some(18)));
    check(b"\r\n", Ok(Some(2)));
}

#[test]
fn bytes_that_end_lines_only_for_some_are_refused_at_once() {
    check(b"G\n", Err(HeadError::BareLf));
    check(b"\n", Err(HeadError::BareLf));
    check(b"G\r\n\n", Err(HeadError::BareLf));
    check(b"G\r\r\n", Err(HeadError::BareCr));
    check(b"G\rA", Err(HeadError::BareCr));
    check(b"G\0", Err(HeadError::Nul));
}

#[test]
fn lines_of_a_response_may_end_with_lf_alone() {
    for (bytes, expected) in [
        (&b"HTTP/1.1 200 O\nA: b\n\nx"[..], Ok(Some(21))),
        (b"HTTP/1.1 200 O\r\nA: b\n\r\n", Ok(Some(23))),
        (b"HTTP/1.1 200 O\r\n\n", Ok(Some(17))),
        (b"HTTP/1.1 200 O\n\r", Ok(None)),
        (b"HTTP/1.1 200 O\n\rA", Err(HeadError::BareCr)),
        (b"HTTP/1.1 200 O\n\0", Err(HeadError::Nul)),
        (b"\n", Ok(Some(1))),
    ] {
        at_every_split(bytes, |first, _| {
            let mut scan = HeadScan::default();
            let early = find_response_end(first, &mut scan, &SMALL, Leniency::Mend);
            let answer = match early {
                Ok(None) => find_response_end(bytes, &mut scan, &SMALL, Leniency::Mend),
                early => early,
            };
            assert_eq!(answer, expected, "{} cut at {}", bytes.escape_ascii(), first.len());
        });
        fuzz(bytes, &SMALL);
    }
}

#[test]
fn a_head_over_the_limit_is_refused_without_its_end() {
    let over = b"GET / HTTP/1.1\r\nAbc: 78901234\r\n\r\n";
    assert_eq!(over.len(), 33);
    check(over, Err(HeadError::HeadTooLarge));
    check(b"GET / HTTP/1.1\r\nAbc: 7890123\r\n\r\n", Ok(Some(32)));
    check(b"GET / HTTP/1.1\r\nAbc: 78901234567890", Err(HeadError::HeadTooLarge));
    check(b"GET /78901234567890123456789012345", Err(HeadError::FirstLineTooLong));
    check(b"GET /7890123456789012345678901", Ok(None));
}

#[test]
fn a_drip_feed_is_looked_at_once() {
    let mut scanned = 0;
    let head = b"GET / HTTP/1.1\r\nA: b\r\n";
    for came in 0..=head.len() {
        assert_eq!(find_end(&head[..came], &mut scanned, &HeadLimits::default()), Ok(None));
        // Everything except a CR, which the next byte decides about.
        assert!(scanned + 1 >= came, "{scanned} of {came}");
    }
}

#[test]
fn empty_lines_before_a_request_line_are_counted_in_pairs() {
    for (bytes, expected) in
        [(&b""[..], 0), (b"\r", 0), (b"\r\n", 2), (b"\r\n\r\nG", 4), (b"\n\n", 0), (b"G\r\n", 0)]
    {
        assert_eq!(leading_empty_lines(bytes), expected, "{bytes:?}");
    }
}

#[test]
fn methods_are_told_apart_by_case_and_kind() {
    assert_eq!(Method::of("GET"), Method::Get);
    assert_eq!(Method::of("get"), Method::Other);
    assert_eq!(Method::of("PATCH"), Method::Other);
    for (name, safe, idempotent) in [
        ("CONNECT", false, false),
        ("DELETE", false, true),
        ("GET", true, true),
        ("HEAD", true, true),
        ("OPTIONS", true, true),
        ("PATCH", false, false),
        ("POST", false, false),
        ("PUT", false, true),
        ("TRACE", true, true),
    ] {
        let method = Method::of(name);
        assert_eq!((method.is_safe(), method.is_idempotent()), (safe, idempotent), "{name}");
    }
}

#[test]
fn each_refusal_has_its_status_code() {
    for (error, status) in [
        (HeadError::BareLf, 400),
        (HeadError::FirstLineTooLong, 414),
        (HeadError::HeadTooLarge, 431),
        (HeadError::TooManyFields, 431),
        (HeadError::UnsupportedVersion, 505),
        (HeadError::Framing(FramingError::UnknownCoding), 501),
        (HeadError::Framing(FramingError::LengthAndCoding), 400),
        (HeadError::Target(TargetError::Fragment), 400),
    ] {
        assert_eq!(error.status(), status, "{error:?}");
        assert!(!error.reason().is_empty() && !error.reason().ends_with('.'));
    }
}
