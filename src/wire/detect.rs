//! Tells HTTP/1 from other protocols by as few first bytes of a connection as possible.
//!
//! One listener serves several protocols. A peer that speaks none of them should hear so at once instead of
//! at a timeout. Nothing is parsed here.

use super::field::is_token_byte;
use super::head::leading_empty_lines;

/// The protocol of a connection, by its first bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Protocol {
    /// HTTP/1: a method's first letter.
    Http,
    /// The preface of HTTP/2, sent without asking first (RFC 9113 §3.4).
    Http2Preface,
    /// SOCKS 4 or 4a.
    Socks4,
    /// SOCKS 5 (RFC 1928 §3).
    Socks5,
    /// A TLS handshake record (RFC 8446 §5.1).
    Tls,
    /// None of these.
    Unknown,
}

/// The start of the HTTP/2 preface, as far as it looks like a request line.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// The protocol that `first` is the start of; `None` when more bytes are needed.
///
/// Empty lines before a request line are skipped (RFC 9112 §2.2); the caller limits their number.
pub fn protocol(first: &[u8]) -> Option<Protocol> {
    let first = first.get(leading_empty_lines(first)..).unwrap_or_default();
    Some(match first {
        [] | [b'\r'] => return None,
        [0x16, ..] => Protocol::Tls,
        [0x04, ..] => Protocol::Socks4,
        [0x05, ..] => Protocol::Socks5,
        _ if first.starts_with(HTTP2_PREFACE) => Protocol::Http2Preface,
        _ if HTTP2_PREFACE.starts_with(first) => return None,
        [byte, ..] if is_token_byte(*byte) => Protocol::Http,
        _ => Protocol::Unknown,
    })
}

/// Whether these bytes can no longer become a response's status line (RFC 9112 §4). The proxy need not wait
/// for an upstream that speaks another protocol. Radio streams answer `ICY 200`.
pub fn cannot_be_response(prefix: &[u8]) -> bool {
    let shape: &[u8] = if prefix.first() == Some(&b'I') { b"ICY ddd" } else { b"HTTP/1.d ddd" };
    prefix.iter().zip(shape).any(|(byte, wanted)| match wanted {
        b'd' => !byte.is_ascii_digit(),
        _ => byte != wanted,
    })
}

/// More bytes never change an answer.
#[doc(hidden)]
#[cfg(feature = "internals")]
pub fn fuzz(bytes: &[u8]) {
    let mut answer = None;
    let mut hopeless = false;
    for came in 0..=bytes.len() {
        let first = bytes.get(..came).unwrap_or_default();
        let now = protocol(first);
        assert!(answer.is_none() || now == answer, "{answer:?} became {now:?}");
        answer = now;
        assert!(!hopeless || cannot_be_response(first));
        hopeless = cannot_be_response(first);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::at_every_split;
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: Option<Protocol>) {
        assert_eq!(protocol(bytes), expected, "{:?}", bytes.escape_ascii());
        at_every_split(bytes, |first, _| {
            let early = protocol(first);
            assert!(early.is_none() || early == expected, "cut at {}", first.len());
        });
        fuzz(bytes);
    }

    #[test]
    fn the_first_bytes_tell_the_protocol() {
        use Protocol::*;
        check(b"G", Some(Http));
        check(b"POST / HTTP/1.1\r\n", Some(Http));
        check(b"\r\n\r\nGET / HTTP/1.1\r\n", Some(Http));
        check(b"PRI * HTTP/1.1\r\n", Some(Http));
        check(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Http2Preface));
        check(b"\x16\x03\x01", Some(Tls));
        check(b"\x04\x01", Some(Socks4));
        check(b"\x05\x01\x00", Some(Socks5));
        check(b"\n", Some(Unknown));
        check(b"\rG", Some(Unknown));
        check(b" GET", Some(Unknown));
        check(b"\x00", Some(Unknown));
        check(b"\xff", Some(Unknown));
    }

    #[test]
    fn an_open_question_waits_for_more() {
        check(b"", None);
        check(b"\r", None);
        check(b"\r\n", None);
        check(b"P", None);
        check(b"PRI * HTTP/2.", None);
    }

    #[test]
    fn an_upstream_that_does_not_speak_http_is_known_by_its_first_wrong_byte() {
        for bytes in [
            &b"-ERR"[..],
            b"SSH-2.0",
            b"\x15\x03",
            b"http/1.1",
            b"HTTP/2.0",
            b"HTTP/1.x",
            b"HTTP/1.1\t",
            b"HTTP/1.1 2x",
            b"\r\n",
            b"ICY OK",
            b"ICY/1.1",
        ] {
            assert!(cannot_be_response(bytes), "{:?}", bytes.escape_ascii());
            fuzz(bytes);
        }
        let head = b"HTTP/1.1 200 OK\r\n\r\n";
        at_every_split(head, |first, _| assert!(!cannot_be_response(first)));
        at_every_split(b"ICY 200 OK\n\n", |first, _| assert!(!cannot_be_response(first)));
    }
}
