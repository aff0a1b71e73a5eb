//! Keeps the parts of a request that its log line will show, until the exchange is over.
//!
//! Nothing is kept without an access log, and `Referer` and `User-Agent` only for a format that shows
//! them. The limit on heads bounds what is kept. The memory is used again for the next request.

use crate::wire::{RequestHead, Version};

/// Memory up to this size is kept for the next request.
const KEPT_BYTES: usize = 4096;

/// Method, target and perhaps two fields, as received.
#[derive(Debug, Default)]
pub struct LogNote {
    /// One after the other; empty while no head could be read.
    bytes: Vec<u8>,
    /// The end of each part but the last: method <= target <= referer <= `bytes.len()`.
    method: usize,
    target: usize,
    referer: usize,
    version: Option<Version>,
    /// The name in the ClientHello of a tunnel, if it differs from the CONNECT's.
    sni: Option<Box<str>>,
    /// The entry of a list that decided, as the list may spell it.
    entry: Option<Box<str>>,
}

impl LogNote {
    /// Keeps the request line of `head`; with `fields` also its `Referer` and `User-Agent`.
    pub fn note(&mut self, head: &RequestHead<'_, '_>, fields: bool) {
        self.note_line(head.method_name, head.target_text, Some(head.version));
        if fields {
            self.note_fields(head);
        }
    }

    /// Keeps the method, the target and the version of HTTP.
    pub fn note_line(&mut self, method: &str, target: &str, version: Option<Version>) {
        self.bytes.extend_from_slice(method.as_bytes());
        self.method = self.bytes.len();
        self.bytes.extend_from_slice(target.as_bytes());
        self.target = self.bytes.len();
        self.referer = self.target;
        self.version = version;
    }

    /// Keeps the first line of each name: others are an attempt to be shown as somebody else.
    #[cold]
    fn note_fields(&mut self, head: &RequestHead<'_, '_>) {
        let first = |name: &str| {
            let mut named = head.fields().filter(|field| field.name.eq_ignore_ascii_case(name));
            named.next().map_or(&b""[..], |field| field.value)
        };
        self.bytes.extend_from_slice(first("referer"));
        self.referer = self.bytes.len();
        self.bytes.extend_from_slice(first("user-agent"));
    }

    /// The method; empty if there was no head.
    pub fn method(&self) -> &str {
        std::str::from_utf8(self.part(0, self.method)).unwrap_or_default()
    }

    /// The request-target.
    pub fn target(&self) -> &[u8] {
        self.part(self.method, self.target)
    }

    /// The version of the request; `None` if there was no head.
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// The value of `Referer`.
    pub fn referer(&self) -> &[u8] {
        self.part(self.target, self.referer)
    }

    /// The value of `User-Agent`.
    pub fn user_agent(&self) -> &[u8] {
        self.part(self.referer, self.bytes.len())
    }

    /// Keeps the name in the ClientHello of a tunnel.
    pub fn note_sni(&mut self, name: String) {
        self.sni = Some(name.into());
    }

    /// The name in the ClientHello of a tunnel, if it differs from the CONNECT's.
    pub fn sni(&self) -> Option<&str> {
        self.sni.as_deref()
    }

    /// Keeps the entry of a list that decided.
    pub fn note_entry(&mut self, entry: String) {
        self.entry = Some(entry.into());
    }

    /// The entry of a list that decided.
    pub fn entry(&self) -> Option<&str> {
        self.entry.as_deref()
    }

    /// Forgets the request; the memory is kept.
    pub fn clear(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        *self = Self { bytes, ..Self::default() };
        self.bytes.clear();
    }

    /// Gives back memory that an ordinary request does not need.
    pub fn trim(&mut self) {
        if self.bytes.capacity() > KEPT_BYTES {
            *self = Self::default();
        }
    }

    fn part(&self, from: usize, to: usize) -> &[u8] {
        self.bytes.get(from..to).unwrap_or_default()
    }
}

/// How many of these bytes to a client come before the content of the final response, which is a reply
/// of ours. These are the heads, or the unsent part of them.
pub fn heads_bytes(staged: &[u8]) -> usize {
    let mut at = 0;
    while let Some(head) = staged.get(at..).filter(|rest| !rest.is_empty()) {
        let Some(end) = memchr::memmem::find(head, b"\r\n\r\n") else { return staged.len() };
        at += end + 4;
        // A part that does not begin like a head is the rest of an interim one.
        let rest = head.strip_prefix(b"HTTP/1.1 ");
        if rest.is_some_and(|rest| rest.first() != Some(&b'1')) {
            break;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{HeadLimits, Slots};

    fn note(kept: &mut LogNote, head: &str, fields: bool) {
        let mut slots = Slots::new();
        let head = RequestHead::read(head.as_bytes(), &mut slots, &HeadLimits::default()).unwrap();
        kept.note(&head, fields);
    }

    #[test]
    fn the_line_and_the_first_field_of_each_name_are_kept() {
        let head = "GET http://a/b HTTP/1.0\r\nuser-AGENT: x y\r\nHost: a\r\n\
                    Referer: http://r/\r\nReferer: 2\r\nUser-Agent: 2\r\n\r\n";
        let mut kept = LogNote::default();
        for _ in 0..2 {
            note(&mut kept, head, true);
            assert_eq!((kept.method(), kept.target()), ("GET", &b"http://a/b"[..]));
            assert_eq!((kept.referer(), kept.user_agent()), (&b"http://r/"[..], &b"x y"[..]));
            assert_eq!(kept.version(), Some(Version::Http10));
            kept.clear();
            assert_eq!((kept.method(), kept.target(), kept.version()), ("", &b""[..], None));
            assert_eq!((kept.referer(), kept.user_agent()), (&b""[..], &b""[..]));
        }
    }

    #[test]
    fn no_field_is_kept_unasked() {
        let mut kept = LogNote::default();
        note(
            &mut kept,
            "GET http://a/ HTTP/1.1\r\nHost: a\r\nReferer: r\r\nUser-Agent: u\r\n\r\n",
            false,
        );
        assert_eq!(kept.bytes, b"GEThttp://a/");
        assert_eq!((kept.referer(), kept.user_agent()), (&b""[..], &b""[..]));
    }

    #[test]
    fn only_ordinary_memory_is_kept() {
        let mut kept = LogNote::default();
        note(&mut kept, "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", true);
        kept.clear();
        kept.trim();
        assert!(kept.bytes.capacity() > 0);
        let long = format!("GET http://a/{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(KEPT_BYTES));
        note(&mut kept, &long, true);
        kept.trim();
        assert_eq!(kept.bytes.capacity(), 0);
    }

    #[test]
    fn heads_end_where_the_content_of_our_reply_begins() {
        let reply = "HTTP/1.1 502 Bad Gateway\r\nA: b\r\n\r\n";
        let interim = "HTTP/1.1 103 Early Hints\r\n\r\n";
        for (before, content) in [
            ("", "text\r\n\r\nHTTP/1.1 103 x\r\n\r\n"),
            ("", ""),
            (interim, "text"),
            (&interim[11..], "text"),
            (&format!("{}{interim}", &interim[20..]), "\r\n\r\n"),
        ] {
            let staged = format!("{before}{reply}{content}");
            assert_eq!(heads_bytes(staged.as_bytes()), before.len() + reply.len(), "{staged}");
        }
        assert_eq!(heads_bytes(b""), 0);
    }
}
