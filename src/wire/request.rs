//! Reads a request head into a checked value, and writes it for the next hop (RFC 9112 §3).
//!
//! [`RequestHead::read`] takes one whole head, as [`find_end`](super::head::find_end) found it, and looks
//! at each field once. [`RequestHead::write_fields`] copies every field that need not change.
//!
//! Other modules decide where the request may go, and whether it goes.

use httparse::Status;
use memchr::{memchr, memchr2, memmem, memrchr};

use super::connection_login;
use super::credentials::Credentials;
use super::field::{Field, FieldLines, KnownField, LineSet, Slots, write_line, write_number};
use super::forwarded::{self, Forwarded, ForwardedLines};
use super::framing::{Framing, request_framing};
use super::head::{HeadError, HeadLimits, Persistence, diagnose};
use super::hop_by_hop::Survey;
use super::start_line::{Method, Version};
use super::target::{Authority, Target, TargetError};
use super::upgrade::{self, Protocols};
use super::via;

/// A valid request head; it borrows the bytes it was read from.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'h, 'b> {
    /// The method.
    pub method: Method,
    /// Its name as written.
    pub method_name: &'b str,
    /// The request-target as written.
    pub target_text: &'b str,
    /// The request-target.
    pub target: Target<'b>,
    /// The version the client speaks.
    pub version: Version,
    /// Where the content ends.
    pub framing: Framing,
    /// The options of `Connection`, and of `Proxy-Connection`, which clients still send instead.
    pub persistence: Persistence,
    /// `Host` as written, if there is one: a valid authority, or empty when the target names no server. A
    /// server named by the target wins (RFC 9112 §3.2.2).
    pub host: Option<&'b str>,
    /// The client waits for a 100 before it sends content (RFC 9110 §10.1.1); never in HTTP/1.0.
    pub expect_continue: bool,
    /// `Max-Forwards` of a TRACE or OPTIONS (RFC 9110 §7.6.2); ignored in others.
    pub max_forwards: Option<u32>,
    /// The client [offers](Self::offer) to change the protocol (RFC 9110 §7.8); never in HTTP/1.0.
    pub upgrade: bool,
    lines: FieldLines<'h, 'b>,
    survey: Survey,
    host_at: Option<u8>,
    max_forwards_at: Option<u8>,
    vias: LineSet,
}

/// Changes to a head on its way to the next hop.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The value of `Host`. An equal value stays as it is; another value is replaced in its place. A
    /// request without `Host` gets it as its first field.
    pub host: &'a str,
    /// Our pseudonym, for a `Via` line at the end.
    pub via: Option<&'a str>,
    /// The client, for `Forwarded` and `X-Forwarded-For` lines at the end.
    pub forwarded: Option<Forwarded<'a>>,
    /// Replaces the value of `Max-Forwards` in its place.
    pub max_forwards: Option<u32>,
    /// Adds `Upgrade`, and the `Connection` that names it.
    pub upgrade: Option<&'a Protocols>,
    /// Adds `Connection: close`.
    pub close: bool,
}

/// Facts about the fields that only requests have.
#[derive(Default)]
struct Found<'b> {
    host: Option<&'b [u8]>,
    host_at: Option<u8>,
    expect_at: Option<u8>,
    expect_continue: bool,
    max_forwards: Option<&'b [u8]>,
    max_forwards_at: Option<u8>,
    max_forwards_is_repeated: bool,
    vias: LineSet,
}

impl<'h, 'b> RequestHead<'h, 'b> {
    /// Reads exactly one head, empty line included.
    ///
    /// # Errors
    ///
    /// Reply with the error's status code and close the connection: the start of the next request is
    /// unknown.
    pub fn read(
        head: &'b [u8],
        slots: &'h mut Slots<'b>,
        limits: &HeadLimits,
    ) -> Result<Self, HeadError> {
        if head.len() > limits.max_head_bytes {
            return Err(HeadError::HeadTooLarge);
        }
        // httparse skips empty lines; `leading_empty_lines` leaves none.
        if matches!(head, [b'\r' | b'\n', ..]) {
            return Err(HeadError::BadRequestLine);
        }
        let mut parsed = httparse::Request::new(&mut []);
        match parsed.parse_with_uninit_headers(head, slots.first(limits.max_fields)) {
            Ok(Status::Complete(bytes)) if bytes == head.len() => {}
            Ok(_) => return Err(HeadError::NotOneHead),
            Err(error) => return Err(diagnose(head, error, true)),
        }
        let (Some(method_name), Some(target_text)) = (parsed.method, parsed.path) else {
            return Err(HeadError::NotOneHead);
        };
        let version = Version::from_minor(parsed.version);
        let lines = FieldLines { head, headers: parsed.headers, all: None };
        let method = Method::of(method_name);
        let target = Target::parse(method, target_text).map_err(HeadError::Target)?;

        let mut found = Found::default();
        let mut survey = Survey::of(lines, |place, known, value| found.note(place, known, value))?;
        let framing = request_framing(version, &survey.evidence)?;
        if method == Method::Connect && framing != Framing::Empty {
            return Err(HeadError::ConnectWithContent);
        }
        if version < Version::Http11 {
            // An expectation in HTTP/1.0 is ignored (RFC 9110 §10.1.1). The HTTP/1.1 request that goes out
            // would bring it to life.
            survey.drop.add_some(found.expect_at);
        }
        Ok(Self {
            method,
            method_name,
            target_text,
            target,
            version,
            framing,
            persistence: survey.persistence,
            host: found.host(version, &target)?,
            expect_continue: found.expect_continue && version >= Version::Http11,
            max_forwards: found.max_forwards(method)?,
            upgrade: survey.upgrade && version >= Version::Http11,
            lines,
            survey,
            host_at: found.host_at,
            max_forwards_at: found.max_forwards_at,
            vias: found.vias,
        })
    }

    /// Reads a head that [`read`](Self::read) refused with `error`, if only the spelling of its first line
    /// is wrong: a byte above 0x7F in path or query, which curl and Go pass to a proxy as they got it, or
    /// HTTP/1.2 to 1.9, which are answered as 1.1 (RFC 9110 §6.2). The strict spelling is written to
    /// `anew`, and the value borrows from there: rules on the target see the same text as the next hop. The
    /// server's name is never respelt.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    #[cold]
    pub fn read_respelt(
        head: &[u8],
        error: HeadError,
        slots: &'h mut Slots<'b>,
        limits: &HeadLimits,
        anew: &'b mut Vec<u8>,
    ) -> Result<Self, HeadError> {
        let spelling =
            [HeadError::Target(TargetError::BadCharacter), HeadError::UnsupportedVersion];
        if !spelling.contains(&error) || !respell(head, anew) {
            return Err(error);
        }
        // The received head was within the limit; this one is at most three times as long.
        Self::read(anew, slots, &HeadLimits { max_head_bytes: usize::MAX, ..*limits })
    }

    /// The protocols to offer to the next hop, if the client offers any that a proxy can step aside for.
    pub fn offer(&self) -> Option<Protocols> {
        self.upgrade.then(|| upgrade::named_in(self.fields())?.forwardable()).flatten()
    }

    /// All field lines, in order.
    pub fn fields(&self) -> impl Iterator<Item = Field<'b>> + Clone + use<'h, 'b> {
        self.lines.iter()
    }

    /// The head as it was read: as received, or in the strict spelling.
    #[cfg(feature = "internals")]
    pub fn as_read(&self) -> &'b [u8] {
        self.lines.head
    }

    /// Bytes of the head as received.
    pub fn bytes(&self) -> usize {
        self.lines.head.len()
    }

    /// Whether the client can send another request on this connection (RFC 9112 §9.3). HTTP/1.0 must ask
    /// for it. `Proxy-Connection: keep-alive` counts as asking, because clients mean it so.
    pub fn persistent(&self) -> bool {
        self.persistence.persists(self.version)
    }

    /// Whether a `Via` entry names `pseudonym`: the request has been here before (RFC 9110 §7.6.3).
    pub fn via_names(&self, pseudonym: &str) -> bool {
        self.lines.marked(self.vias).any(|value| via::names(value, pseudonym))
    }

    /// The client's credentials; for this hop only, and never sent on.
    #[inline]
    pub fn credentials(&self) -> Credentials<'b> {
        Credentials::of(self.lines.marked(self.survey.credentials))
    }

    /// Whether the request logs in its connection to the server, rather than itself (RFC 4559).
    #[inline]
    pub fn logs_connection_in(&self) -> bool {
        self.lines.marked(self.survey.logins).any(connection_login::binds)
    }

    /// Appends the head to send on, from behind the request line: all fields in their order, case and
    /// bytes, without the hop-by-hop ones (RFC 9110 §7.6.1) and with the changes of `outgoing`.
    pub fn write_fields(&self, out: &mut Vec<u8>, outgoing: &Outgoing<'_>) {
        // Room for everything that can be added, so that the copies below never move the bytes written
        // before.
        let via = outgoing.via.map_or(0, str::len);
        let forwarded = outgoing.forwarded.as_ref().map_or(0, forwarded::room);
        out.reserve(self.lines.head.len() + outgoing.host.len() + via + forwarded + 160);

        let mut marked = self.survey.drop;
        if self.host_at.is_none() {
            write_line(out, "Host", outgoing.host);
        } else if self.host != Some(outgoing.host) {
            marked.add_some(self.host_at);
        }
        if outgoing.max_forwards.is_some() {
            marked.add_some(self.max_forwards_at);
        }
        if self.framing == Framing::Chunked {
            marked = marked.without(self.survey.trailers);
        }
        if self.survey.evidence.length_is_odd {
            marked = marked.union(self.survey.lengths);
        }
        let forwarded =
            outgoing.forwarded.as_ref().map(|ours| (ours, ForwardedLines::of(self.lines)));
        if let Some((_, received)) = &forwarded {
            marked = marked.union(received.all());
        }
        self.lines.copy(out, marked, |out, place| self.rewrite(out, place, outgoing));
        if let Some(pseudonym) = outgoing.via {
            via::write(out, self.version, pseudonym);
        }
        if let Some((ours, received)) = forwarded {
            received.write(out, self.lines, ours);
        }
        upgrade::write(out, outgoing.upgrade);
        if outgoing.close {
            out.extend_from_slice(b"Connection: close\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Writes the replacement of a marked line.
    fn rewrite(&self, out: &mut Vec<u8>, place: usize, outgoing: &Outgoing<'_>) {
        let place = u8::try_from(place).ok();
        if place == self.host_at {
            write_line(out, "Host", outgoing.host);
        } else if place == self.survey.coding_at {
            // Rewritten, so that an odd spelling of the line stays here.
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        } else if place == self.survey.first_length {
            self.survey.write_length(out);
        } else if place == self.max_forwards_at
            && let Some(number) = outgoing.max_forwards
        {
            out.extend_from_slice(b"Max-Forwards: ");
            write_number(out, number.into());
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Writes a head with its first line in the strict spelling. Returns whether that differs from the received
/// one.
fn respell(head: &[u8], anew: &mut Vec<u8>) -> bool {
    let end = memchr(b'\r', head).unwrap_or(head.len());
    let (line, rest) = head.split_at_checked(end).unwrap_or_default();
    let (Some(before), Some(behind)) = (memchr(b' ', line), memrchr(b' ', line)) else {
        return false;
    };
    let method = line.get(..before).unwrap_or_default();
    let target = line.get(before..behind).unwrap_or_default();
    let version = line.get(behind..).unwrap_or_default();
    anew.clear();
    anew.reserve(head.len() + 2 * target.len());
    anew.extend_from_slice(method);
    let path = if method == b"CONNECT" { target.len() } else { path_start(target) };
    for (at, &byte) in target.iter().enumerate() {
        if at < path || byte.is_ascii() {
            anew.push(byte);
        } else {
            let digit = |value: u8| b"0123456789ABCDEF".get(usize::from(value)).copied();
            anew.extend([Some(b'%'), digit(byte >> 4), digit(byte & 15)].into_iter().flatten());
        }
    }
    anew.extend_from_slice(match version {
        [b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9'] => b" HTTP/1.1",
        _ => version,
    });
    anew.extend_from_slice(rest);
    anew != head
}

/// Where path and query begin in a target, given with the space before it; its end if it has none.
fn path_start(target: &[u8]) -> usize {
    if target.starts_with(b" /") {
        return 1;
    }
    let Some(scheme) = memmem::find(target, b"://") else { return target.len() };
    let server = target.get(scheme + 3..).unwrap_or_default();
    memchr2(b'/', b'?', server).map_or(target.len(), |length| scheme + 3 + length)
}

impl<'b> Found<'b> {
    #[inline]
    fn note(&mut self, place: usize, known: KnownField, value: &'b [u8]) -> Result<(), HeadError> {
        let at = u8::try_from(place).ok();
        match known {
            KnownField::Host if self.host.is_some() => return Err(HeadError::RepeatedHost),
            KnownField::Host => (self.host, self.host_at) = (Some(value), at),
            KnownField::Expect => {
                self.expect_at = at;
                self.expect_continue |= value.eq_ignore_ascii_case(b"100-continue");
            }
            KnownField::MaxForwards if self.max_forwards.is_some() => {
                self.max_forwards_is_repeated = true;
            }
            KnownField::MaxForwards => {
                (self.max_forwards, self.max_forwards_at) = (Some(value), at)
            }
            KnownField::Via => self.vias.add(place),
            _ => {}
        }
        Ok(())
    }

    /// RFC 9112 §3.2, and §3.2.2 for a target that names the server itself.
    #[inline]
    fn host(&self, version: Version, target: &Target<'b>) -> Result<Option<&'b str>, HeadError> {
        let Some(value) = self.host else {
            return if version < Version::Http11 { Ok(None) } else { Err(HeadError::MissingHost) };
        };
        let authority = target.authority();
        // The usual case, and already checked.
        if let Some(authority) = authority
            && authority.text.as_bytes() == value
        {
            return Ok(Some(authority.text));
        }
        let bad_character = HeadError::InvalidHost(TargetError::BadCharacter);
        let text = std::str::from_utf8(value).map_err(|_| bad_character)?;
        // An empty value names no server, so it cannot contradict the target.
        if !text.is_empty() {
            Authority::parse(text).map_err(HeadError::InvalidHost)?;
        }
        Ok(Some(text))
    }

    fn max_forwards(&self, method: Method) -> Result<Option<u32>, HeadError> {
        let (Some(value), Method::Options | Method::Trace) = (self.max_forwards, method) else {
            return Ok(None);
        };
        let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        if !is_number || self.max_forwards_is_repeated {
            return Err(HeadError::BadMaxForwards);
        }
        let digit = |number: u32, byte: &u8| {
            number.saturating_mul(10).saturating_add(byte.wrapping_sub(b'0').into())
        };
        Ok(Some(value.iter().fold(0, digit)))
    }
}

/// The next hop understands an accepted head in the same way.
#[doc(hidden)]
#[cfg(feature = "internals")]
pub fn fuzz(bytes: &[u8]) {
    use super::request_line::{RequestLine, write_request_line};

    let limits = HeadLimits::default();
    let Some(end) = super::head::fuzz(bytes, &limits) else { return };
    let bytes = bytes.get(..end).unwrap_or_default();
    let mut anew = Vec::new();
    let mut slots = Slots::new();
    let read = match RequestHead::read(bytes, &mut slots, &limits) {
        Err(e) => RequestHead::read_respelt(bytes, e, &mut slots, &limits, &mut anew),
        read => read,
    };
    let head = match read {
        Ok(head) => head,
        Err(error) => {
            assert_ne!(error, HeadError::NotOneHead);
            assert!(matches!(error.status(), 400 | 431 | 501 | 505));
            return;
        }
    };
    assert!(head.target_text.is_ascii());
    let target = head.target.origin_form(head.method);
    let host = head.target.authority().map(|authority| authority.text).or(head.host);
    let offer = head.offer();
    let mut line = RequestLine::default();
    line.keep(head.method_name, head.target.origin_form(head.method));
    let outgoing = Outgoing {
        host: host.unwrap_or("fallback.example"),
        via: Some("gate-7"),
        forwarded: None,
        max_forwards: head.max_forwards.map(|left| left.saturating_sub(1)),
        upgrade: offer.as_ref(),
        close: end % 2 == 0,
    };
    let mut out = Vec::new();
    let (method, path) = line.parts();
    write_request_line(&mut out, method, path);
    head.write_fields(&mut out, &outgoing);

    let roomy = HeadLimits { max_head_bytes: usize::MAX, max_fields: super::field::MAX_FIELDS };
    assert_eq!(super::head::find_end(&out, &mut 0, &roomy), Ok(Some(out.len())));
    let mut slots = Slots::new();
    let again = RequestHead::read(&out, &mut slots, &roomy);
    let Ok(again) = again else { panic!("{again:?} of {}", out.escape_ascii()) };
    assert_eq!(again.method_name, head.method_name);
    assert_eq!(again.target_text, target.to_string());
    assert_eq!(again.framing, head.framing);
    assert_eq!(again.survey.evidence.length, head.survey.evidence.length);
    assert_eq!((again.version, again.host), (Version::Http11, Some(outgoing.host)));
    assert_eq!(again.max_forwards, outgoing.max_forwards);
    assert_eq!(again.persistence, Persistence { close: outgoing.close, keep_alive: false });
    assert!(again.via_names("gate-7"));
    assert_eq!(again.offer(), offer);
    super::hop_by_hop::assert_clean(again.fields(), head.framing == Framing::Chunked);
    super::hop_by_hop::assert_kept(head.fields(), again.fields());

    // A second proxy of this kind passes on the line as it is.
    let mut twice = Vec::new();
    write_request_line(&mut twice, again.method_name, again.target_text.into());
    again.write_fields(&mut twice, &Outgoing { via: None, ..outgoing });
    assert_eq!(twice, out);

    let ours = Forwarded { client: std::net::Ipv4Addr::LOCALHOST.into(), by: Some("gate-7") };
    let mut out = Vec::new();
    let (method, path) = line.parts();
    write_request_line(&mut out, method, path);
    head.write_fields(&mut out, &Outgoing { forwarded: Some(ours), ..outgoing });
    let mut slots = Slots::new();
    let Ok(again) = RequestHead::read(&out, &mut slots, &roomy) else {
        panic!("not read: {}", out.escape_ascii())
    };
    forwarded::assert_appended(head.lines, again.lines, &ours);
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
