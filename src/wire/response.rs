//! Reads a response head into a checked value, and writes it for the client (RFC 9112 §4).
//!
//! The mirror of [`request`](super::request). The caller chooses the coding of the content for the client
//! with [`Recode`]. A head that is not in the strict form is rewritten by
//! [`response_repair`](super::response_repair) and read from there.

use httparse::{EMPTY_HEADER, Header, ParserConfig, Status};

use super::connection_login;
use super::field::{Field, FieldLines, KnownField, MAX_FIELDS, MoreSlots, Slots, write_line};
use super::framing::{Framing, ResponseFraming, response_framing};
use super::head::{HeadError, HeadLimits, Persistence, diagnose};
use super::hop_by_hop::Survey;
use super::leniency::{Leniency, Repair, Repairs};
use super::response_repair::mend;
use super::start_line::{Method, Version};
use super::upgrade::{self, Protocols};
use super::via;

/// A valid response head; it borrows the bytes it was read from.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'h, 'b> {
    /// The version the upstream speaks.
    pub version: Version,
    /// The status code, 100 to 599; up to 999 if mended.
    pub status: u16,
    /// The reason phrase; may be empty, may hold obs-text.
    pub reason: &'b [u8],
    /// Where the content ends.
    pub framing: ResponseFraming,
    /// The options of `Connection`.
    pub persistence: Persistence,
    /// The upstream changes the protocol or [offers](Self::protocols) to (RFC 9110 §7.8).
    pub upgrade: bool,
    /// Whether there is a `Date` (RFC 9110 §6.6.1).
    pub has_date: bool,
    /// The faults that were mended.
    pub repairs: Repairs,
    lines: FieldLines<'h, 'b>,
    survey: Survey,
}

/// Changes to a head on its way to the client.
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
    /// The coding of the content for the client.
    pub coding: Recode,
    /// Added as `Date` if there is none (RFC 9110 §6.6.1).
    pub date: Option<&'a str>,
}

/// The choice of transfer coding for the client.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Recode {
    /// Content that ends by closing gets chunked; other content stays as it is.
    Chunk,
    /// Chunked content is sent without coding, and ends by closing.
    Dechunk,
    /// Content is sent as received.
    #[default]
    Keep,
}

impl<'h, 'b> ResponseHead<'h, 'b> {
    /// Reads exactly one head, empty line included, of a response to a request with `method`. Its lines end
    /// with CR LF, which [`find_response_end`](super::head::find_response_end) makes sure of.
    ///
    /// # Errors
    ///
    /// The head is not in the strict form. [`read_mended`](Self::read_mended) may be able to read it.
    pub fn read(
        head: &'b [u8],
        slots: &'h mut Slots<'b>,
        limits: &HeadLimits,
        method: Method,
    ) -> Result<Self, HeadError> {
        if head.len() > limits.max_head_bytes {
            return Err(HeadError::HeadTooLarge);
        }
        // httparse skips empty lines; none is allowed before a status line (RFC 9112 §2.2).
        if matches!(head, [b'\r' | b'\n', ..]) {
            return Err(HeadError::BadStatusLine);
        }
        let mut parsed = httparse::Response::new(&mut []);
        let slots = slots.first(limits.max_fields);
        match ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, head, slots) {
            Ok(Status::Complete(bytes)) if bytes == head.len() => {}
            Ok(_) => return Err(HeadError::NotOneHead),
            Err(error) => return Err(diagnose(head, error, false)),
        }
        let version = Version::from_minor(parsed.version);
        let lines = FieldLines { head, headers: parsed.headers, all: None };
        Self::judge((version, parsed.code), lines, method, Leniency::Strict)
    }

    /// Reads a head that [`read`](Self::read) refused with `error`, after rewriting it into `mended`.
    ///
    /// # Errors
    ///
    /// Reply 502 and close the upstream connection. [`HeadError::status`] is for requests.
    #[cold]
    pub fn read_mended(
        head: &[u8],
        error: HeadError,
        mended: &'b mut Vec<u8>,
        slots: &'h mut MoreSlots<'b>,
        limits: &HeadLimits,
        method: Method,
    ) -> Result<Self, HeadError> {
        if head.len() > limits.max_head_bytes || matches!(head, [b'\r' | b'\n', ..]) {
            return Err(error);
        }
        let mut repairs = mend(head, mended)?;
        let head = mended.as_slice();
        let count = memchr::memchr_iter(b'\n', head).count();
        slots.all.resize(count, EMPTY_HEADER);
        let mut parsed = httparse::Response::new(&mut slots.all);
        match parsed.parse(head) {
            Ok(Status::Complete(bytes)) if bytes == head.len() => {}
            Ok(_) => return Err(HeadError::NotOneHead),
            Err(error) => return Err(diagnose(head, error, false)),
        }
        let start_line = (Version::from_minor(parsed.version), parsed.code);
        let fields = parsed.headers.len();
        slots.all.truncate(fields);
        if fields > limits.max_fields.min(MAX_FIELDS) {
            repairs.add(Repair::ManyFields);
            slots.runs = runs(&slots.all);
        }
        let slots = &*slots;
        let has_runs = repairs.has(Repair::ManyFields);
        let (headers, all) =
            if has_runs { (&slots.runs, Some(&*slots.all)) } else { (&slots.all, None) };
        if headers.len() > MAX_FIELDS {
            return Err(HeadError::TooManyFields);
        }
        let mut read =
            Self::judge(start_line, FieldLines { head, headers, all }, method, Leniency::Mend)?;
        read.repairs = read.repairs.union(repairs);
        // Two peers that disagree about a head would disagree about where the new protocol begins.
        if read.framing == ResponseFraming::Tunnel { Err(error) } else { Ok(read) }
    }

    /// Judges the parsed lines. Inline, because a head is a large value to hand back.
    #[inline(always)]
    fn judge(
        (version, code): (Version, Option<u16>),
        lines: FieldLines<'h, 'b>,
        method: Method,
        leniency: Leniency,
    ) -> Result<Self, HeadError> {
        let mut repairs = Repairs::default();
        let status = match code {
            Some(status @ 100..=599) => status,
            Some(status @ 600..=999) if leniency == Leniency::Mend => {
                repairs.add(Repair::Status);
                status
            }
            Some(_) => return Err(HeadError::StatusOutOfRange),
            None => return Err(HeadError::BadStatusLine),
        };
        let mut has_date = false;
        let survey = Survey::of(lines, |_, known, _| {
            has_date |= known == KnownField::Date;
            Ok(())
        })?;
        if lines.all.is_some() {
            has_date = lines.iter().any(|field| field.known == KnownField::Date);
        }
        // The reason follows `HTTP/1.1 200 `. httparse returns no reason that has obs-text.
        let reason = lines.head.get(13..lines.start(0).saturating_sub(2)).unwrap_or_default();
        let evidence = &survey.evidence;
        Ok(Self {
            version,
            status,
            reason,
            framing: response_framing(version, status, method, evidence, leniency, &mut repairs)?,
            persistence: survey.persistence,
            upgrade: survey.upgrade,
            has_date,
            repairs,
            lines,
            survey,
        })
    }

    /// All field lines, in order.
    pub fn fields(&self) -> impl Iterator<Item = Field<'b>> + Clone + use<'h, 'b> {
        self.lines.iter()
    }

    /// Bytes of the head as received.
    #[cfg(feature = "internals")]
    pub fn bytes(&self) -> usize {
        self.lines.head.len()
    }

    /// The length in `Content-Length`, even where no content follows (HEAD, 304).
    pub fn announced_length(&self) -> Option<u64> {
        self.survey.evidence.length
    }

    /// Whether content may exist that must not follow in answer to `method`. It is announced to a HEAD or
    /// with a 304 (RFC 9110 §8.6), or the answer to a HEAD leaves open whether a GET would have content.
    pub fn withholds_content(&self, method: Method) -> bool {
        let announced = self.announced_length().is_some_and(|length| length > 0)
            || self.survey.coding_at.is_some()
            || self.is_silent_on_content(method);
        announced && self.framing == ResponseFraming::Framed(Framing::Empty)
    }

    /// Whether a response to HEAD leaves open if a GET would have content.
    pub fn is_silent_on_content(&self, method: Method) -> bool {
        method == Method::Head
            && self.announced_length().is_none()
            && self.survey.coding_at.is_none()
    }

    /// The protocols that the upstream changes to, or offers.
    pub fn protocols(&self) -> Option<Protocols> {
        self.upgrade.then(|| upgrade::named_in(self.fields())).flatten()
    }

    /// Whether the response offers or continues a login that belongs to its connection (RFC 4559).
    #[inline]
    fn challenges_connection(&self) -> bool {
        self.lines.marked(self.survey.logins).any(connection_login::binds)
    }

    /// Whether later requests on the connection may count as its user's: the response has such a login, or
    /// the server says that it remembers the user.
    #[inline]
    pub fn binds_connection(&self) -> bool {
        self.survey.remembers || self.challenges_connection()
    }

    /// Whether another request may be sent on the connection once the content is read (RFC 9112 §9.3).
    pub fn persistent(&self) -> bool {
        matches!(self.framing, ResponseFraming::Framed(_))
            && self.persistence.persists(self.version)
            && self.repairs.is_empty()
    }

    /// Appends the head to send to the client: all fields in their order, case and bytes, without the
    /// hop-by-hop ones (RFC 9110 §7.6.1) and with the changes of `outgoing`. It is always HTTP/1.1.
    pub fn write_client(&self, out: &mut Vec<u8>, outgoing: &ResponseOutgoing<'_>) {
        out.reserve(self.lines.head.len() + outgoing.via.map_or(0, str::len) + 160);

        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(self.lines.head.get(9..12).unwrap_or_default());
        // The space is required even without a reason (RFC 9112 §4).
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
        if is_chunked {
            marked = marked.without(self.survey.trailers);
        }
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
        if self.challenges_connection() {
            out.extend_from_slice(connection_login::SUPPORT);
        }
        upgrade::write(out, outgoing.upgrade);
        if outgoing.close {
            out.extend_from_slice(b"Connection: close\r\n");
        } else if outgoing.keep_alive {
            out.extend_from_slice(b"Connection: keep-alive\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }

    /// 1xx, 204 and a tunnel's 2xx have no `Content-Length` (RFC 9110 §8.6). A received one is dropped,
    /// because the client would wait for that content. A length beside chunked content is dropped, too.
    fn has_no_length(&self) -> bool {
        self.framing == ResponseFraming::Tunnel
            || matches!(self.status, ..200 | 204)
            || self.repairs.has(Repair::LengthBesideChunked)
    }
}

/// The lines that a hop looks at, and the first line of each run between them.
fn runs<'b>(all: &[Header<'b>]) -> Vec<Header<'b>> {
    let options = Survey::connection_options(all);
    let mut in_run = false;
    let starts = all.iter().filter(|header| {
        let looked_at = Survey::looks_at(header.name, &options);
        let goes_along = in_run && !looked_at;
        in_run = !looked_at;
        !goes_along
    });
    starts.copied().collect()
}

/// The client understands an accepted head in the same way, and in one way only.
#[doc(hidden)]
#[cfg(feature = "internals")]
pub fn fuzz(bytes: &[u8]) {
    let limits = HeadLimits::default();
    super::head::fuzz(bytes, &limits);
    let Some(end) = super::head::fuzz_as(bytes, &limits, Leniency::Mend) else { return };
    let bytes = bytes.get(..end).unwrap_or_default();
    for method in [Method::Get, Method::Head, Method::Connect] {
        let (mut slots, mut more, mut mended) = (Slots::new(), MoreSlots::default(), Vec::new());
        let strict = match super::head::find_end(bytes, &mut 0, &limits) {
            Ok(_) => ResponseHead::read(bytes, &mut slots, &limits, method)
                .inspect(|head| assert!(head.repairs.is_empty())),
            Err(error) => Err(error),
        };
        let head = strict.or_else(|error| {
            ResponseHead::read_mended(bytes, error, &mut mended, &mut more, &limits, method)
                .inspect(|head| assert!(!head.repairs.is_empty() && !head.persistent()))
        });
        let head = match head {
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

/// Asserts, for fuzzing, that the head for the client says the same as the received one.
#[cfg(feature = "internals")]
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

    let roomy = HeadLimits { max_head_bytes: usize::MAX, max_fields: super::field::MAX_FIELDS };
    assert_eq!(super::head::find_end(&out, &mut 0, &roomy), Ok(Some(out.len())));
    let (mut slots, mut more, mut copy) = (Slots::new(), MoreSlots::default(), Vec::new());
    // The strict reader takes everything written, except for faults that only a client can judge.
    let again = ResponseHead::read(&out, &mut slots, &roomy, method);
    let again = match again {
        Err(e @ (HeadError::StatusOutOfRange | HeadError::TooManyFields)) => {
            let again = ResponseHead::read_mended(&out, e, &mut copy, &mut more, &roomy, method);
            let mut left = again.iter().flat_map(|head| head.repairs.iter());
            assert!(left.all(|r| matches!(r, Repair::Status | Repair::ManyFields)));
            again
        }
        again => again,
    };
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
    super::hop_by_hop::assert_clean(again.fields(), again.framing == chunked);
    super::hop_by_hop::assert_kept(head.fields(), again.fields());
}

#[cfg(test)]
#[path = "response_tests.rs"]
mod tests;
