//! Tells by a client's first bytes whether it speaks HTTP/1, and answers other protocols in their own
//! form.

use crate::wire::detect::{Protocol, protocol};

/// A client that does not speak HTTP/1.
pub(super) struct Foreign {
    /// The answer, in the client's own protocol as far as possible.
    pub(super) answer: &'static [u8],
    /// The reason, for the log.
    pub(super) reason: &'static str,
}

/// Judges a connection by its first bytes. Returns `None` if they may be HTTP/1.
pub(super) fn foreign(held: &[u8]) -> Option<Foreign> {
    let (answer, reason): (&[u8], _) = match protocol(held)? {
        // A fatal alert, protocol_version (RFC 8446 §6).
        Protocol::Tls => {
            (b"\x15\x03\x01\x00\x02\x02\x46", "the client speaks TLS; this listener is plain")
        }
        // Request rejected.
        Protocol::Socks4 => (b"\x00\x5b\x00\x00\x00\x00\x00\x00", "the client speaks SOCKS 4"),
        // No acceptable methods (RFC 1928 §3).
        Protocol::Socks5 => (b"\x05\xff", "the client speaks SOCKS 5"),
        _ => return None,
    };
    Some(Foreign { answer, reason })
}
