//! Hop-by-hop fields: one pass finds everything in a head that must not travel on (RFC 9110 §7.6.1).
//!
//! `Survey` is the one pass over a head's fields. It marks the lines to drop, collects the framing fields,
//! and hands the names that only requests or only responses care about to its caller.

use super::field::{Field, FieldLines, KnownField, LineSet, trim_ows, write_number};
use super::framing::Evidence;
use super::head::{HeadError, Persistence};

/// Limit on the connection options looked for among the fields; more are refused.
const MAX_OPTIONS: usize = 32;

/// Fields that every recipient needs; a `Connection` field must not name them and cannot remove them.
///
/// The first three frame and route the message: removing one after the proxy has acted on it would
/// let the next hop read another message. The others are known targets of the same trick, used to
/// strip credentials, content metadata or the proxy's own marks on the way (RFC 9110 §7.6.1: "a
/// sender MUST NOT send a connection option corresponding to a field that is intended for all
/// recipients").
const FOR_ALL_RECIPIENTS: &[&str] = &[
    "host",
    "content-length",
    "transfer-encoding",
    "authorization",
    "cache-control",
    "content-encoding",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "forwarded",
    "location",
    "max-forwards",
    "range",
    "set-cookie",
    "via",
    "www-authenticate",
    "x-forwarded-for",
];

/// The results of one pass over the fields.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Survey {
    /// Lines that never travel on. `Transfer-Encoding` is one; a writer adds it again where needed.
    pub(super) drop: LineSet,
    /// The dropped lines that announce trailers: they travel with the trailers.
    pub(super) trailers: LineSet,
    /// The framing fields.
    pub(super) evidence: Evidence,
    /// All `Content-Length` lines.
    pub(super) lengths: LineSet,
    /// The first of them.
    pub(super) first_length: Option<u8>,
    /// The `Transfer-Encoding` line.
    pub(super) coding_at: Option<u8>,
    /// All `Proxy-Authorization` lines.
    pub(super) credentials: LineSet,
    /// All `Authorization` and `WWW-Authenticate` lines.
    pub(super) logins: LineSet,
    /// `Persistent-Auth`: the server remembers the user of the connection.
    pub(super) remembers: bool,
    /// The options of `Connection` and `Proxy-Connection`.
    pub(super) persistence: Persistence,
    /// `Upgrade`, and `Connection` names it (RFC 9110 §7.8).
    pub(super) upgrade: bool,
}

/// The names in the `Connection` lines besides persistence.
#[derive(Default)]
struct Named {
    fields: bool,
    upgrade: bool,
}

impl Survey {
    /// Looks at each line once. `other` gets the known names that this module does not handle.
    #[inline]
    pub(super) fn of<'b>(
        lines: FieldLines<'_, 'b>,
        mut other: impl FnMut(usize, KnownField, &'b [u8]) -> Result<(), HeadError>,
    ) -> Result<Self, HeadError> {
        let mut survey = Self::default();
        let mut named = Named::default();
        let mut has_upgrade = false;
        for (place, header) in lines.headers.iter().enumerate() {
            match KnownField::of(header.name.as_bytes()) {
                KnownField::Other => {}
                KnownField::Connection => {
                    survey.drop.add(place);
                    survey.note_connection(header.value, &mut named);
                }
                KnownField::ContentLength => {
                    survey.evidence.note_length(header.value)?;
                    survey.lengths.add(place);
                    survey.first_length = survey.first_length.or(u8::try_from(place).ok());
                }
                KnownField::TransferEncoding => {
                    survey.evidence.note_coding(header.value);
                    survey.drop.add(place);
                    survey.coding_at = u8::try_from(place).ok();
                }
                KnownField::ProxyConnection => {
                    survey.drop.add(place);
                    survey.note_connection(header.value, &mut Named::default());
                }
                KnownField::Upgrade => {
                    survey.drop.add(place);
                    has_upgrade = true;
                }
                KnownField::ProxyAuthorization => {
                    survey.drop.add(place);
                    survey.credentials.add(place);
                }
                KnownField::Authorization | KnownField::WwwAuthenticate => survey.logins.add(place),
                KnownField::PersistentAuth => survey.remembers = true,
                // The Proxy-… three are for this hop (RFC 9110 §11.7). From an origin server they would
                // make a client show the proxy's password to any server that asks. HTTP2-Settings belongs
                // to an `Upgrade: h2c`, which goes no further.
                KnownField::Http2Settings
                | KnownField::KeepAlive
                | KnownField::ProxyAuthenticate
                | KnownField::ProxyAuthenticationInfo
                | KnownField::ProxySupport
                | KnownField::Te => survey.drop.add(place),
                // Not hop-by-hop itself, but useless without the trailers (RFC 9110 §6.6.2).
                KnownField::Trailer => {
                    survey.drop.add(place);
                    survey.trailers.add(place);
                }
                known => other(place, known, header.value)?,
            }
        }
        survey.upgrade = has_upgrade && named.upgrade;
        if named.fields {
            survey.drop_named(lines)?;
        }
        Ok(survey)
    }

    /// Whether a line with this name is looked at in a response; the lines between two of them are
    /// forwarded together. `options` are those of `Connection`, within the limit.
    pub(super) fn looks_at(name: &str, options: &[&[u8]]) -> bool {
        match KnownField::of(name.as_bytes()) {
            KnownField::Date
            | KnownField::Expect
            | KnownField::Host
            | KnownField::MaxForwards
            | KnownField::Other
            | KnownField::Server
            | KnownField::Via => {
                let is_for_all = |name: &str| {
                    FOR_ALL_RECIPIENTS.iter().any(|all| all.eq_ignore_ascii_case(name))
                };
                options.iter().any(|option| option.eq_ignore_ascii_case(name.as_bytes()))
                    && !is_for_all(name)
            }
            _ => true,
        }
    }

    /// The options of all `Connection` lines, cut off at one more than the limit.
    pub(super) fn connection_options<'b>(headers: &[httparse::Header<'b>]) -> Vec<&'b [u8]> {
        let connection = |name: &str| KnownField::of(name.as_bytes()) == KnownField::Connection;
        let values = headers.iter().filter(|h| connection(h.name)).map(|h| h.value);
        values.flat_map(options).take(MAX_OPTIONS + 1).collect()
    }

    /// Writes the one plain `Content-Length` line that stands for all received ones.
    pub(super) fn write_length(&self, out: &mut Vec<u8>) {
        if let Some(length) = self.evidence.length {
            out.extend_from_slice(b"Content-Length: ");
            write_number(out, length);
            out.extend_from_slice(b"\r\n");
        }
    }

    /// Notes the options of one `Connection` or `Proxy-Connection` line.
    fn note_connection(&mut self, value: &[u8], named: &mut Named) {
        for option in options(value) {
            if option.eq_ignore_ascii_case(b"close") {
                self.persistence.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.persistence.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                named.upgrade = true;
            } else if !option.is_empty() {
                named.fields = true;
            }
        }
    }

    /// Drops the fields that `Connection` names.
    #[cold]
    fn drop_named(&mut self, lines: FieldLines<'_, '_>) -> Result<(), HeadError> {
        let connection = |name: &str| KnownField::of(name.as_bytes()) == KnownField::Connection;
        let values = lines.headers.iter().filter(|h| connection(h.name)).map(|h| h.value);
        for (count, option) in values.flat_map(options).enumerate() {
            if count >= MAX_OPTIONS {
                return Err(HeadError::TooManyConnectionOptions);
            }
            let names = |name: &str| name.as_bytes().eq_ignore_ascii_case(option);
            if FOR_ALL_RECIPIENTS.iter().any(|name| names(name)) {
                continue;
            }
            for (place, header) in lines.headers.iter().enumerate() {
                if names(header.name) {
                    self.drop.add(place);
                    let mut named = LineSet::default();
                    named.add(place);
                    self.trailers = self.trailers.without(named);
                }
            }
        }
        Ok(())
    }
}

/// The elements of a `Connection` value (RFC 9110 §5.6.1).
fn options(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim_ows)
}

/// Asserts, for fuzzing, that fields sent on have nothing hop-by-hop except what this hop added.
#[doc(hidden)]
#[cfg(feature = "internals")]
pub fn assert_clean<'b>(fields: impl Iterator<Item = Field<'b>>, chunked: bool) {
    let (mut codings, mut lengths, mut upgrades, mut supports) = (0, 0, (0, 0), (0, 0));
    for field in fields {
        match field.known {
            KnownField::TransferEncoding => {
                assert_eq!(field.value, b"chunked");
                codings += 1;
            }
            KnownField::ContentLength => {
                assert!(!field.value.is_empty() && field.value.iter().all(u8::is_ascii_digit));
                lengths += 1;
            }
            KnownField::Connection if field.value == b"upgrade" => upgrades.0 += 1,
            KnownField::Connection if field.value == b"Proxy-Support" => supports.0 += 1,
            KnownField::Connection => {
                assert!(field.value == b"close" || field.value == b"keep-alive")
            }
            KnownField::ProxySupport => supports.1 += 1,
            KnownField::Upgrade => {
                super::upgrade::assert_sent_on(field.value);
                upgrades.1 += 1;
            }
            KnownField::Http2Settings
            | KnownField::KeepAlive
            | KnownField::ProxyAuthenticate
            | KnownField::ProxyAuthenticationInfo
            | KnownField::ProxyAuthorization
            | KnownField::ProxyConnection
            | KnownField::Te => panic!("{} travelled on", field.name),
            KnownField::Trailer => assert!(chunked, "Trailer travelled on without trailers"),
            _ => {}
        }
    }
    assert_eq!(codings, usize::from(chunked));
    assert!(codings + lengths <= 1, "framed twice");
    assert!(matches!(supports, (0, 0) | (1, 1)));
    assert!(matches!(upgrades, (0, 0) | (1, 1)), "Upgrade, and Connection that names it");
}

/// Asserts, for fuzzing, that all end-to-end fields and no others were sent on, in their order.
#[doc(hidden)]
#[cfg(feature = "internals")]
pub fn assert_kept<'a, 'b>(
    received: impl Iterator<Item = Field<'a>> + Clone,
    sent: impl Iterator<Item = Field<'b>>,
) {
    let is_named = |name: &str| {
        received
            .clone()
            .filter(|field| field.known == KnownField::Connection)
            .flat_map(|field| options(field.value))
            .any(|option| option.eq_ignore_ascii_case(name.as_bytes()))
            && !FOR_ALL_RECIPIENTS.iter().any(|all| all.eq_ignore_ascii_case(name))
    };
    let is_for_all = |known| {
        use KnownField::{Authorization, Other, PersistentAuth, WwwAuthenticate};
        matches!(known, Authorization | Other | PersistentAuth | WwwAuthenticate)
    };
    let expected = received
        .clone()
        .filter(|field| is_for_all(field.known) && !is_named(field.name))
        .map(|field| (field.name, field.value));
    let sent = sent.filter(|field| is_for_all(field.known)).map(|field| (field.name, field.value));
    assert!(expected.eq(sent), "fields were lost, added or changed");
}

#[cfg(test)]
mod tests {
    use super::super::field::Slots;
    use super::super::head::HeadLimits;
    use super::super::request::{Outgoing, RequestHead};
    use super::super::request_line::write_request_line;
    use super::*;

    /// Asserts that `head` is forwarded as `expected`.
    #[track_caller]
    fn sent(head: &str, expected: &str) {
        let mut slots = Slots::new();
        let read = RequestHead::read(head.as_bytes(), &mut slots, &HeadLimits::default()).unwrap();
        let target = read.target_text.into();
        let (via, max_forwards, upgrade) = (None, None, None);
        let rest =
            Outgoing { host: "a", via, forwarded: None, max_forwards, upgrade, close: false };
        let mut out = Vec::new();
        write_request_line(&mut out, read.method_name, target);
        read.write_fields(&mut out, &rest);
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }

    #[test]
    fn hop_by_hop_fields_stay_here() {
        sent(
            "GET / HTTP/1.1\r\nConnection: x-hop , close\r\nHost: a\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nA: b\r\n\
             Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\nProxy-Authenticate: Basic\r\n\
             Proxy-Authentication-Info: x\r\nTE: trailers\r\nTrailer: Digest\r\nUpgrade: x\r\nX-HOP: 2\r\nHTTP2-Settings: AAMAAABk\r\nC: d\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nA: b\r\nC: d\r\n\r\n",
        );
    }

    #[test]
    fn trailer_travels_with_the_trailers_only() {
        let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTrailer: x\r\nTransfer-Encoding: chunked\r\n";
        sent(&format!("{chunked}\r\n"), &format!("{chunked}\r\n"));
        sent(
            &format!("{chunked}Connection: trailer\r\n\r\n"),
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        sent(
            "POST / HTTP/1.1\r\nHost: a\r\nTrailer: x\r\nContent-Length: 5\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
        );
    }

    #[test]
    fn connection_cannot_remove_what_others_need() {
        sent(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: host, content-length, authorization, cookie, via, x\r\n\
             Authorization: b\r\nCookie: c\r\nVia: 1.1 d\r\nx: y\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nAuthorization: b\r\nCookie: c\r\nVia: 1.1 d\r\n\r\n",
        );
        sent(
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
    }

    #[test]
    fn connection_options_are_bounded() {
        let head = |count: usize| {
            format!(
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: {}\r\n\r\n",
                vec!["x"; count].join(",")
            )
        };
        for (count, expected) in [(32, Ok(())), (33, Err(HeadError::TooManyConnectionOptions))] {
            let head = head(count);
            let mut slots = Slots::new();
            let read = RequestHead::read(head.as_bytes(), &mut slots, &HeadLimits::default());
            assert_eq!(read.map(|_| ()), expected);
        }
    }

    #[test]
    fn framing_fields_leave_in_one_plain_line() {
        sent(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nA: b\r\ncontent-length: 5\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nA: b\r\n\r\n",
        );
        sent(
            "POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 005 , 5\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
        );
        sent(
            "POST / HTTP/1.1\r\nHost: a\r\ncontent-LENGTH:0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\ncontent-LENGTH:0\r\n\r\n",
        );
        sent(
            "POST / HTTP/1.1\r\ntransfer-encoding:\tCHUNKED\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: a\r\n\r\n",
        );
    }

    #[test]
    fn a_connection_persists_as_its_version_says() {
        for (head, persistent) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, CLOSE\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nHost: a\r\nConnection: close, keep-alive\r\n\r\n", false),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n",
                false,
            ),
            ("GET / HTTP/1.1\r\nHost: a\r\nProxy-Connection: close\r\n\r\n", false),
            ("GET / HTTP/1.0\r\n\r\n", false),
            ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
            ("GET / HTTP/1.0\r\nProxy-Connection: keep-alive\r\n\r\n", true),
            ("GET / HTTP/1.0\r\nConnection: keep-alive\r\nProxy-Connection: close\r\n\r\n", false),
        ] {
            let mut slots = Slots::new();
            let read =
                RequestHead::read(head.as_bytes(), &mut slots, &HeadLimits::default()).unwrap();
            assert_eq!(read.persistent(), persistent, "{head:?}");
        }
    }
}
