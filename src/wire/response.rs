//! Response heads: octets to a value, and the head that goes to the client (RFC 9112 §4).
//!
//! The mirror of [`request`](super::request). How the content is coded for the client is the
//! caller's choice, told by [`Recode`].

use httparse::{ParserConfig, Status};

use super::field::{Field, Known, Lines, Slots, write_line};
use super::framing::{Framing, ResponseFraming, response_framing};
use super::head::{HeadError, Limits, Method, Persistence, Version, diagnose};
use super::hop::Survey;
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
    /// The upstream changes the protocol or offers to (RFC 9110 §7.8).
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
    pub fn fields(&self) -> impl Iterator<Item = Field<'b>> + use<'h, 'b> {
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
