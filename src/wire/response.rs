//! Response heads: octets to a value, and the head that goes to the client (RFC 9112 §4).
//!
//! The mirror of [`request`](super::request). How the content is coded for the client is the
//! caller's choice, told by [`Recode`].

use httparse::{ParserConfig, Status};

use super::field::{Field, Known, Lines, Slots, write_line};
use super::framing::{Framing, ResponseFraming, response_framing};
use super::head::{HeadError, Limits, Method, Persistence, Version, diagnose};
use super::hop::Survey;
use super::upgrade::{self, Protocols};
use super::via;

/// A valid response head; it borrows the octets it was read from.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'h, 'b> {
    /// The version the upstream speaks.
    pub version: Version,
    /// The status code, 100 to 599.
    pub status: u16,
    /// The reason phrase; may be empty, may hold obs-text.
    pub reason: &'b [u8],
    /// Where the content ends.
    pub framing: ResponseFraming,
    /// What `Connection` says.
    pub persistence: Persistence,
    /// The upstream changes the protocol or [offers](Self::protocols) to (RFC 9110 §7.8).
    pub upgrade: bool,
    /// Whether there is a `Date` (RFC 9110 §6.6.1).
    pub has_date: bool,
    lines: Lines<'h, 'b>,
    survey: Survey,
}

/// What the head sent to the client has that the received one has not.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResponseOutgoing<'a> {
    /// Our pseudonym, for a `Via` line at the end.
    pub via: Option<&'a str>,
    /// Adds `Upgrade`, and the `Connection` that names it.
    pub upgrade: Option<&'a Protocols>,
    /// Adds `Connection: close`.
    pub close: bool,
    /// Adds `Connection: keep-alive`, for HTTP/1.0 clients; not with `close`.
    pub keep_alive: bool,
    /// How the content will be coded.
    pub coding: Recode,
    /// Added as `Date` if there is none (RFC 9110 §6.6.1).
    pub date: Option<&'a str>,
}

/// What becomes of the transfer coding.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Recode {
    /// Content that ends by closing gets chunked; other content stays as it is.
    Chunk,
    /// Chunked content is sent without coding, and ends by closing.
    Dechunk,
    /// The content is sent as received.
    #[default]
    Keep,
}

impl<'h, 'b> ResponseHead<'h, 'b> {
    /// Reads exactly one head, empty line included, of a response to a request with `method`.
    ///
    /// # Errors
    ///
    /// Reply 502 and close the upstream connection. [`HeadError::status`] is for requests.
    pub fn read(
        head: &'b [u8],
        slots: &'h mut Slots<'b>,
        limits: &Limits,
        method: Method,
    ) -> Result<Self, HeadError> {
        if head.len() > limits.max_head_octets {
            return Err(HeadError::HeadTooLarge);
        }
        // httparse skips empty lines; before a status line there are none (RFC 9112 §2.2).
        if matches!(head, [b'\r' | b'\n', ..]) {
            return Err(HeadError::BadStatusLine);
        }
        let mut parsed = httparse::Response::new(&mut []);
        let slots = slots.first(limits.max_fields);
        match ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, head, slots) {
            Ok(Status::Complete(octets)) if octets == head.len() => {}
            Ok(_) => return Err(HeadError::NotOneHead),
            Err(error) => return Err(diagnose(head, error, false)),
        }
        let version = Version::from_minor(parsed.version);
        let status = match parsed.code {
            Some(status @ 100..=599) => status,
            _ => return Err(HeadError::BadStatusLine),
        };
        let lines = Lines { head, headers: parsed.headers };

        let mut has_date = false;
        let survey = Survey::of(lines, |_, known, _| {
            has_date |= known == Known::Date;
            Ok(())
        })?;
        // `HTTP/1.1 200 OK` and its line end; httparse gives no reason that holds obs-text.
        let reason = head.get(13..lines.start(0).saturating_sub(2)).unwrap_or_default();
        Ok(Self {
            version,
            status,
            reason,
            framing: response_framing(version, status, method, &survey.evidence)?,
            persistence: survey.persistence,
            upgrade: survey.upgrade,
            has_date,
            lines,
            survey,
        })
    }

    /// All field lines in their order.
    pub fn fields(&self) -> impl Iterator<Item = Field<'b>> + Clone + use<'h, 'b> {
        self.lines.iter()
    }

    /// Octets of the head as received.
    pub fn octets(&self) -> usize {
        self.lines.head.len()
    }

    /// The length `Content-Length` announces, also where no content follows (HEAD, 304).
    pub fn announced_length(&self) -> Option<u64> {
        self.survey.evidence.length
    }

    /// Whether content is announced that does not follow, as to HEAD and with 304 (RFC 9110 §8.6).
    pub fn withholds_content(&self) -> bool {
        let announced = self.announced_length().is_some_and(|length| length > 0)
            || self.survey.coding_at.is_some();
        announced && self.framing == ResponseFraming::Framed(Framing::Empty)
    }

    /// Whether another request may be sent on the connection once the content is read (RFC 9112 §9.3).
    pub fn persistent(&self) -> bool {
        matches!(self.framing, ResponseFraming::Framed(_))
            && self.persistence.persists(self.version)
    }

    /// Appends the head to send to the client: all fields in their order, case and octets, but
    /// the hop-by-hop ones (RFC 9110 §7.6.1) and what `outgoing` changes. It is always HTTP/1.1.
    pub fn write_client(&self, out: &mut Vec<u8>, outgoing: &ResponseOutgoing<'_>) {
        out.reserve(self.lines.head.len() + outgoing.via.map_or(0, str::len) + 160);

        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(self.lines.head.get(9..12).unwrap_or_default());
        // The space stands there even without a reason (RFC 9112 §4).
        out.push(b' ');
        out.extend_from_slice(self.reason);
        out.extend_from_slice(b"\r\n");
        let has_no_length = self.has_no_length();
        let mut marked = self.survey.drop;
        if has_no_length || self.survey.evidence.length_is_odd {
            marked = marked.union(self.survey.lengths);
        }
        let is_chunked = self.framing == ResponseFraming::Framed(Framing::Chunked)
            && outgoing.coding != Recode::Dechunk;
        self.lines.copy(out, marked, |out, place| {
            let place = u8::try_from(place).ok();
            if place == self.survey.coding_at && is_chunked {
                out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
            } else if place == self.survey.first_length && !has_no_length {
                self.survey.write_length(out);
            }
        });
        if outgoing.coding == Recode::Chunk && self.framing == ResponseFraming::UntilClose {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        if let (Some(date), false) = (outgoing.date, self.has_date) {
            write_line(out, "Date", date);
        }
        if let Some(pseudonym) = outgoing.via {
            via::write(out, self.version, pseudonym);
        }
        upgrade::write(out, outgoing.upgrade);
        if outgoing.close {
            out.extend_from_slice(b"Connection: close\r\n");
        } else if outgoing.keep_alive {
            out.extend_from_slice(b"Connection: keep-alive\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }

    /// 1xx, 204 and a tunnel's 2xx have no `Content-Length` (RFC 9110 §8.6); one that came is not
    /// passed on, lest the client wait for that content.
    fn has_no_length(&self) -> bool {
        self.framing == ResponseFraming::Tunnel || matches!(self.status, ..200 | 204)
    }
}

/// A head that is accepted is understood the same by the client.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let limits = Limits::default();
    let Some(end) = super::head::fuzz(bytes, &limits) else { return };
    let bytes = bytes.get(..end).unwrap_or_default();
    for method in [Method::Get, Method::Head, Method::Connect] {
        let mut slots = Slots::new();
        let head = match ResponseHead::read(bytes, &mut slots, &limits, method) {
            Ok(head) => head,
            Err(error) => {
                assert_ne!(error, HeadError::NotOneHead);
                continue;
            }
        };
        assert!(!super::detect::cannot_be_response(bytes));
        for coding in [Recode::Chunk, Recode::Dechunk, Recode::Keep] {
            check_sent_on(&head, method, coding);
        }
    }
}

/// Asserts, for fuzzing, that the head a client gets says what the received one said.
fn check_sent_on(head: &ResponseHead<'_, '_>, method: Method, coding: Recode) {
    let date = Some("Sun, 06 Nov 1994 08:49:37 GMT");
    let upgrade = head.protocols().and_then(|protocols| protocols.forwardable());
    let via = Some("g");
    let outgoing = ResponseOutgoing {
        via,
        upgrade: upgrade.as_ref(),
        close: true,
        keep_alive: true,
        coding,
        date,
    };
    let mut out = Vec::new();
    head.write_client(&mut out, &outgoing);

    let roomy = Limits { max_head_octets: usize::MAX, max_fields: super::field::MAX_FIELDS };
    assert_eq!(super::head::find_end(&out, &mut 0, &roomy), Ok(Some(out.len())));
    let mut slots = Slots::new();
    let again = ResponseHead::read(&out, &mut slots, &roomy, method);
    let Ok(again) = again else { panic!("{again:?} of {}", out.escape_ascii()) };
    let chunked = ResponseFraming::Framed(Framing::Chunked);
    let expected = match (coding, head.framing) {
        (Recode::Chunk, ResponseFraming::UntilClose) => chunked,
        (Recode::Dechunk, framing) if framing == chunked => ResponseFraming::UntilClose,
        (_, framing) => framing,
    };
    assert_eq!(again.framing, expected);
    assert_eq!((again.status, again.reason), (head.status, head.reason));
    assert!(again.has_date && !again.persistent());
    assert_eq!(again.protocols(), upgrade);
    super::hop::assert_clean(again.fields(), again.framing == chunked);
    super::hop::assert_kept(head.fields(), again.fields());
}

#[cfg(test)]
mod tests {
    use super::super::framing::FramingError;
    use super::*;

    fn read<'h>(
        head: &'static str,
        method: Method,
        slots: &'h mut Slots<'static>,
    ) -> Result<ResponseHead<'h, 'static>, HeadError> {
        fuzz(head.as_bytes());
        ResponseHead::read(head.as_bytes(), slots, &Limits::default(), method)
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
        refused("HTTP/1.1 099 OK\r\n\r\n", HeadError::BadStatusLine);
        refused("HTTP/1.1 600 OK\r\n\r\n", HeadError::BadStatusLine);
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
}
