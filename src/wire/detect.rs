//! Which protocol do these octets speak? Answered from as few of them as possible.
//!
//! One listener serves several protocols, and a peer that speaks none of them should hear so at
//! once instead of at a timeout. Nothing is parsed here.

use super::field::is_token_octet;
use super::head::leading_empty_lines;

/// What a connection speaks, by its first octets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Protocol {
    /// HTTP/1: a method's first letter.
    Http,
    /// HTTP/2 without asking first (RFC 9113 §3.4).
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

/// Which protocol `first` is the start of; `None` when more octets are needed.
///
/// Empty lines before a request line are skipped (RFC 9112 §2.2); the caller bounds how many.
pub fn protocol(first: &[u8]) -> Option<Protocol> {
    let first = first.get(leading_empty_lines(first)..).unwrap_or_default();
    Some(match first {
        [] | [b'\r'] => return None,
        [0x16, ..] => Protocol::Tls,
        [0x04, ..] => Protocol::Socks4,
        [0x05, ..] => Protocol::Socks5,
        _ if first.starts_with(HTTP2_PREFACE) => Protocol::Http2Preface,
        _ if HTTP2_PREFACE.starts_with(first) => return None,
        [octet, ..] if is_token_octet(*octet) => Protocol::Http,
        _ => Protocol::Unknown,
    })
}

/// Whether these octets can no longer become a response's status line (RFC 9112 §4), so that an
/// upstream that speaks something else is not waited for.
pub fn cannot_be_response(prefix: &[u8]) -> bool {
    let shape = b"HTTP/1.d ddd";
    prefix.iter().zip(shape).any(|(octet, wanted)| match wanted {
        b'd' => !octet.is_ascii_digit(),
        _ => octet != wanted,
    })
}
