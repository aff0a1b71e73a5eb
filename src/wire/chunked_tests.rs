use proptest::prelude::*;

use super::super::tests::at_every_split;
use super::*;

const LIMITS: ChunkLimits = ChunkLimits {
    max_extension_bytes: 8,
    max_extensions_bytes: 12,
    max_trailer_bytes: 25,
    max_trailer_fields: 2,
    max_data_bytes: u64::MAX,
};

/// Asserts that `body` is one whole body with `data`, wherever it is cut and whatever follows, and that it
/// is forwarded unchanged.
#[track_caller]
fn whole(body: &str, data: &str) {
    for tolerance in [Tolerance::Literal, Tolerance::Mend] {
        sent(body, tolerance, body, &[]);
        let found = data_of(body.as_bytes(), LIMITS, tolerance);
        assert_eq!(found, Ok((data.as_bytes().to_vec(), body.len())), "{body:?}");
    }
}

/// Asserts that `body` is forwarded as `expected`, wherever it is cut and whatever follows.
#[track_caller]
fn sent(body: &str, tolerance: Tolerance, expected: &str, repairs: &[Repair]) {
    let wire = [body.as_bytes(), b"5\r\nGET / HTTP/1.1\r\n"].concat();
    let normal = |sent: &[u8]| {
        let mut trailers = Vec::new();
        let mut chunked = Chunked::new(LIMITS, Tolerance::Mend);
        let (mut used, mut data) = (0, Vec::new());
        while !chunked.is_at_end() {
            let piece = chunked.advance(&sent[used..], Some(&mut trailers)).unwrap();
            data.extend_from_slice(&sent[used..][piece.data.clone()]);
            used += piece.used;
        }
        (String::from_utf8(data).unwrap(), String::from_utf8_lossy(&trailers).into_owned())
    };
    at_every_split(&wire, |first, rest| {
        let relayed = relay([first, rest].into_iter(), LIMITS, tolerance);
        let what = format!("{body:?} cut at {}: {relayed:?}", first.len());
        assert_eq!((relayed.used, relayed.ended), (Ok(body.len()), true), "{what}");
        assert_eq!(relayed.repairs.iter().collect::<Vec<_>>(), repairs, "{what}");
        // The cuts decide how the data is divided into chunks.
        assert_eq!(normal(&relayed.sent), normal(expected.as_bytes()), "{what}");
        if repairs.is_empty() && body == expected {
            assert_eq!(relayed.sent, expected.as_bytes(), "{what}");
        }
    });
    let relayed = relay(std::iter::once(wire.as_slice()), LIMITS, tolerance);
    assert_eq!(String::from_utf8_lossy(&relayed.sent), expected);
    fuzz(body.as_bytes());
}

/// Asserts that `body` is refused at its last byte and not before, wherever it is cut.
#[track_caller]
fn refused_as(body: &str, tolerance: Tolerance, expected: ChunkError) {
    at_every_split(body.as_bytes(), |first, rest| {
        let relayed = relay([first, rest].into_iter(), LIMITS, tolerance);
        assert_eq!(relayed.used, Err(expected), "{body:?} cut at {}", first.len());
    });
    let mut chunked = Chunked::new(LIMITS, tolerance);
    let answer = |chunked: &mut Chunked, mut input: &[u8]| loop {
        match chunked.advance(input, None) {
            Ok(Piece { used: 0, .. }) => return Ok(()),
            Ok(piece) => input = &input[piece.used..],
            Err(e) => return Err(e),
        }
    };
    assert_eq!(answer(&mut chunked, body.as_bytes()), Err(expected), "{body:?}");
    assert_eq!(answer(&mut chunked, b"0\r\n\r\n"), Err(expected), "once refused, always refused");
    let before = &body.as_bytes()[..body.len() - 1];
    assert_eq!(answer(&mut Chunked::new(LIMITS, tolerance), before), Ok(()), "{body:?}");
    fuzz(body.as_bytes());
}

/// Asserts the same for a request.
#[track_caller]
fn refused(body: &str, expected: ChunkError) {
    refused_as(body, Tolerance::Literal, expected);
}

#[test]
fn the_end_and_the_data_are_found_wherever_reads_split_the_body() {
    whole("0\r\n\r\n", "");
    whole("4\r\nWiki\r\nA\r\n0123456789\r\n0\r\n\r\n", "Wiki0123456789");
    whole("0000000000000001\r\na\r\n000\r\n\r\n", "a");
    whole("2\r\n\r\n\r\n0\r\n\r\n", "\r\n");
    whole("1;a=\"b\"\r\nx\r\n0;\r\n\r\n", "x");
    whole("0\r\nA: b\r\nC:d \u{e9}\r\n\r\n", "");
    whole("0\r\nX-Content-Length: 7\r\n\r\n", "");
}

#[test]
fn a_size_is_hexadecimal_digits_and_nothing_else() {
    for body in [
        "\r",
        ";",
        "x",
        "0x",
        "+",
        "-",
        "g",
        "5\n",
        "1\0",
        "\n",
        "8000000000000000",
        "ffffffffffffffff",
        "5G",
        "5_",
    ] {
        refused(body, ChunkError::BadSize);
    }
    for body in [" ", "\t", "5 \r", "5\t\r", "5 a"] {
        refused(body, ChunkError::PaddedSize);
    }
    refused("00000000000000001", ChunkError::SizeTooLong);
    for body in ["8000000000000000", "00000000000000008000000000000000", "5 a", " x", "\n", "5\0"] {
        refused_as(body, Tolerance::Mend, ChunkError::BadSize);
    }
    let mut chunked = Chunked::new(LIMITS, Tolerance::Literal);
    assert_eq!(chunked.pass(b"7FFFfffffFFFFFFF\r\nabc"), Ok(21));
    assert_eq!(chunked.left, i64::MAX as u64 - 3);
}

#[test]
fn white_space_before_an_extension_is_grammar_and_goes_no_further() {
    refused("1         ", ChunkError::ExtensionTooLong);
    for tolerance in [Tolerance::Literal, Tolerance::Mend] {
        sent("2 ;a=b\r\nxy\r\n0\t;c\r\n\r\n", tolerance, "2\r\nxy\r\n0\r\n\r\n", &[]);
    }
}

#[test]
fn chunks_of_a_response_are_written_anew_where_clients_take_them() {
    let lines = &[Repair::ChunkLine];
    let mended = |body: &str, expected: &str, repairs: &[Repair]| {
        sent(body, Tolerance::Mend, expected, repairs);
    };
    mended("2 \r\nxy\r\n0 \r\n\r\n", "2\r\nxy\r\n0\r\n\r\n", lines);
    mended("\t 2\r\nxy\r\n0\r\n\r\n", "2\r\nxy\r\n0\r\n\r\n", lines);
    let zeros = "0".repeat(700);
    mended(&format!("{zeros}2\r\nxy\r\n{zeros}\r\n\r\n"), "2\r\nxy\r\n0\r\n\r\n", lines);
    mended("2\nxy\n0\n\n", "2\r\nxy\r\n0\r\n\r\n", lines);
    mended("2\r\nxy\r\n1\r\nz\n0\r\n\r\n", "2\r\nxy\r\n1\r\nz\r\n0\r\n\r\n", lines);
    mended("1;a\nz\r\n0\r\nA: b\n\r\n", "1\r\nz\r\n0\r\nA: b\r\n\r\n", lines);
    mended("0\r\nA: b\r\nB:c\n\n", "0\r\nA: b\r\nB:c\r\n\r\n", lines);
    mended("0\r\nA : b\r\n\r\n", "0\r\nA: b\r\n\r\n", &[Repair::SpaceBeforeColon]);
    mended("0\r\nA:\u{7}b\r\n\r\n", "0\r\nA: b\r\n\r\n", &[Repair::Control]);
    mended("0\r\nA: b\r\n\t c\r\n\r\n", "0\r\nA: b  c\r\n\r\n", &[Repair::Fold]);
    for none in
        [" A: b", "A b: c", "A", ": b", "A\u{7}: b", "\u{e9}: b", "A\r\n B: c", "Host: a\r\n b"]
    {
        let body = format!("0\r\nB: c\r\nX: y\r\n{none}\r\nD: e\r\n\r\n");
        if !none.starts_with(' ') {
            mended(&body, "0\r\nB: c\r\nX: y\r\nD: e\r\n\r\n", &[Repair::Trailer]);
        }
    }
    mended("0\r\n A: b\r\nC: d\r\n\r\n", "0\r\nC: d\r\n\r\n", &[Repair::Trailer]);
    let padded = "1 \r\nx\r\n".repeat(200);
    mended(&format!("{padded}0\r\n\r\n"), &format!("{}0\r\n\r\n", "1\r\nx\r\n".repeat(200)), lines);
    let extended = format!("1;{}\r\nx\r\n", "a".repeat(600));
    mended(&format!("{extended}0\r\n\r\n"), "1\r\nx\r\n0\r\n\r\n", &[]);
    for (body, error) in [
        ("1\rx", ChunkError::BadLineEnd),
        ("1\r\nab", ChunkError::BadLineEnd),
        ("0\r\nA:\0", ChunkError::BadTrailer),
        ("0\r\n\0", ChunkError::BadTrailer),
        ("0\r\n(\0", ChunkError::BadTrailer),
        ("0\r\nA: b\rx", ChunkError::BadLineEnd),
        ("0\r\n\rx", ChunkError::BadLineEnd),
    ] {
        refused_as(body, Tolerance::Mend, error);
    }
}

#[test]
fn a_line_ends_with_cr_lf() {
    for body in ["1\rx", "1\r\r", "1\r\na\n", "1\r\nab", "1\r\na\r\r", "0\r\n\r\r", "0\r\nA:\rx"] {
        refused(body, ChunkError::BadLineEnd);
    }
    refused("1;a\n", ChunkError::BadExtension);
    refused("1;a\u{7f}", ChunkError::BadExtension);
    refused("0\r\nA:\n", ChunkError::BadTrailer);
}

#[test]
fn extensions_are_bounded_by_chunk_and_by_body() {
    whole("1;2345678\r\nx\r\n0;234\r\n\r\n", "x");
    refused("1;23456789", ChunkError::ExtensionTooLong);
    refused("1;2345678\r\nx\r\n1;2345", ChunkError::ExtensionTooLong);
}

#[test]
fn a_trailer_line_is_a_field_line() {
    for body in [
        "0\r\n ",
        "0\r\nA: b\r\n\t",
        "0\r\n:",
        "0\r\nA ",
        "0\r\nA\r",
        "0\r\nA: \u{0}",
        "0\r\n\n",
        "0\r\n(",
    ] {
        refused(body, ChunkError::BadTrailer);
    }
}

#[test]
fn a_trailer_that_frames_routes_or_authenticates_is_refused() {
    for name in
        ["Content-Length", "transfer-ENCODING", "Host", "Connection", "Trailer", "TE", "Set-Cookie"]
    {
        refused(&format!("0\r\n{name}:"), ChunkError::ForbiddenTrailer);
    }
    refused("0\r\nProxy-Authorization:", ChunkError::ForbiddenTrailer);
    refused("0\r\nA:b\r\nHost:", ChunkError::ForbiddenTrailer);
    for name in ["Content-Length", "host", "Transfer-Encoding", "Set-Cookie"] {
        let body = format!("0\r\n{name}: 7\r\nA:b\r\n\r\n");
        sent(&body, Tolerance::Mend, "0\r\nA:b\r\n\r\n", &[Repair::Trailer]);
    }
}

#[test]
fn a_trailer_that_says_who_asks_goes_no_further() {
    for name in ["X-Forwarded-For", "forwarded", "x_real_ip", "Via", "X_Forwarded-Host"] {
        let body = format!("0\r\n{name}: 1\r\n\r\n");
        sent(&body, Tolerance::Literal, "0\r\n\r\n", &[]);
        let body = format!("0\r\nA:\r\n{name}: 1\r\nB:\r\n\r\n");
        sent(&body, Tolerance::Mend, "0\r\nA:\r\nB:\r\n\r\n", &[Repair::Trailer]);
    }
    let long = "0\r\nX-Forwarded-Protocol-Version: 1\r\nX-Checksum-Of-All-The-Content:2\r\n\r\n";
    let kept = "0\r\nX-Checksum-Of-All-The-Content:2\r\n\r\n";
    sent(long, Tolerance::Mend, kept, &[Repair::Trailer]);
    whole("0\r\nProxy-Authorizations:\r\n\r\n", "");
    whole("0\r\nTE2:\r\nHos:\r\n\r\n", "");
}

#[test]
fn the_trailer_section_is_bounded() {
    whole("0\r\nA: 456789012345678901\r\n\r\n", "");
    refused("0\r\nA: 45678901234567890123456", ChunkError::TrailerTooLarge);
    refused("0\r\nA:\r\nB:\r\nC", ChunkError::TrailerTooLarge);
    let many = format!("0\r\n{}\r\n", "A:\r\n".repeat(40));
    sent(&many, Tolerance::Mend, &many, &[Repair::Trailer]);
    let more = format!("0\r\n{}", "A:\r\n".repeat(51));
    refused_as(&more[..4 + 200], Tolerance::Mend, ChunkError::TrailerTooLarge);
}

#[test]
fn a_large_chunk_is_passed_without_looking_at_its_data() {
    let mut chunked = Chunked::new(LIMITS, Tolerance::Literal);
    assert_eq!(chunked.pass(b"100000\r\n"), Ok(8));
    let data = vec![b'\n'; 1 << 19];
    assert_eq!(chunked.advance(&data, None), Ok(Piece { used: 1 << 19, data: 0..1 << 19 }));
    assert_eq!(chunked.pass(&data), Ok(1 << 19));
    assert_eq!(chunked.pass(b"\r\n0\r\n\r\nx"), Ok(7));
    assert!(chunked.is_at_end());
    assert_eq!(chunked.advance(b"x", None), Ok(Piece { used: 0, data: 0..0 }));
}

#[test]
fn a_chunk_head_is_the_length_in_hexadecimal() {
    for (len, expected) in [(1, "1\r\n"), (15, "f\r\n"), (16, "10\r\n"), (0x1_2abc, "12abc\r\n")] {
        let mut out = Vec::new();
        write_chunk_head(&mut out, len);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

proptest! {
    #[test]
    fn any_bytes_keep_the_invariants(body in "[0-9a-b\r\n;:A ]{0,24}") {
        fuzz(body.as_bytes());
    }

    #[test]
    fn data_survives_our_chunks(data: Vec<u8>) {
        check_written_again(&data);
    }
}
