//! Answers clients that speak another protocol than HTTP/1.

use crate::wire::detect::{Protocol, protocol};

/// Protocols other than HTTP/1, by their first octets: what to answer, and what to say of it.
pub(super) fn foreign(held: &[u8]) -> Option<(&'static [u8], &'static str)> {
    match protocol(held)? {
        // A fatal alert, protocol_version (RFC 8446 §6).
        Protocol::Tls => {
            Some((b"\x15\x03\x01\x00\x02\x02\x46", "the client speaks TLS; this listener is plain"))
        }
        // Request rejected.
        Protocol::Socks4 => {
            Some((b"\x00\x5b\x00\x00\x00\x00\x00\x00", "the client speaks SOCKS 4"))
        }
        // No acceptable methods (RFC 1928 §3).
        Protocol::Socks5 => Some((b"\x05\xff", "the client speaks SOCKS 5")),
        _ => None,
    }
}
