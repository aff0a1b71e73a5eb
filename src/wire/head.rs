//! The parts that request and response heads share: where a head ends, its limits, and every way to refuse
//! one (RFC 9112 §2).
//!
//! [`find_end`] looks at bytes as they come and answers as soon as the head is complete or can no longer
//! become a valid one. [`RequestHead`](super::RequestHead) and [`ResponseHead`](super::ResponseHead) then
//! read the whole head at once.
//!
//! No reply is written here: a [`HeadError`] gives the status code and the sentence for one.

use memchr::{memchr, memchr_iter, memchr3};

use super::field::is_token_byte;
use super::framing::FramingError;
use super::leniency::Leniency;
use super::start_line::Version;
use super::target::TargetError;

/// The connection options of a message (RFC 9112 §9.3).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Persistence {
    /// The `close` option: no further message on this connection.
    pub close: bool,
    /// The `keep-alive` option, which only HTTP/1.0 needs.
    pub keep_alive: bool,
}

impl Persistence {
    /// Whether another message may follow on the connection.
    pub(super) fn persists(self, version: Version) -> bool {
        !self.close && (version >= Version::Http11 || self.keep_alive)
    }
}

/// How large a head may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HeadLimits {
    /// Bytes of the whole head, empty line included.
    pub max_head_bytes: usize,
    /// Field lines; a value above 128 counts as 128. A mended response may have as many as fit.
    pub max_fields: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { max_head_bytes: 32 * 1024, max_fields: 100 }
    }
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum HeadError {
    /// A field name that is not a token, or a line without a colon (RFC 9110 §5.1).
    BadFieldName,
    /// `Max-Forwards` is not one number (RFC 9110 §7.6.2).
    BadMaxForwards,
    /// A method that is not a token (RFC 9110 §9.1).
    BadMethod,
    /// Not `method SP request-target SP version` (RFC 9112 §3).
    BadRequestLine,
    /// Not `version SP 3DIGIT SP reason` (RFC 9112 §4).
    BadStatusLine,
    /// No `HTTP/1.1` or `HTTP/1.0` in the place of the version (RFC 9112 §2.3).
    BadVersion,
    /// A CR that no LF follows (RFC 9112 §2.2).
    BareCr,
    /// A LF that follows no CR; stricter than RFC 9112 §2.2, which lets a recipient take it for a
    /// line end, because then another may not.
    BareLf,
    /// A CONNECT with content: what follows could be content or the tunnel (RFC 9110 §9.3.6).
    ConnectWithContent,
    /// A control character in a field value (RFC 9110 §5.5).
    ControlInValue,
    /// The first line alone is over the limit (RFC 9112 §3).
    FirstLineTooLong,
    /// The fields do not say where the content ends.
    Framing(FramingError),
    /// The head is over the limit (RFC 6585 §5).
    HeadTooLarge,
    /// `Host` is not a host with an optional port (RFC 9112 §3.2).
    InvalidHost(TargetError),
    /// HTTP/1.1 without `Host` (RFC 9112 §3.2).
    MissingHost,
    /// The bytes are not exactly one head; a mistake of the caller, not of a peer.
    NotOneHead,
    /// A NUL (RFC 9110 §5.5).
    Nul,
    /// A line that starts with white space (RFC 9112 §5.2).
    ObsFold,
    /// More than one `Host` (RFC 9112 §3.2).
    RepeatedHost,
    /// White space between a field name and its colon (RFC 9112 §5.1).
    SpaceBeforeColon,
    /// A status code that RFC 9110 §15 has no class for.
    StatusOutOfRange,
    /// The request-target is not one.
    Target(TargetError),
    /// More than 32 connection options; stricter than RFC 9110 §7.6.1, because each is looked
    /// for among all fields.
    TooManyConnectionOptions,
    /// More field lines than the limit (RFC 6585 §5).
    TooManyFields,
    /// A version of HTTP that is not 1.0 or 1.1 (RFC 9110 §15.6.6).
    UnsupportedVersion,
}

impl HeadError {
    /// Status code of the reply, if it was a request.
    pub fn status(self) -> u16 {
        match self {
            Self::FirstLineTooLong => 414,
            Self::HeadTooLarge | Self::TooManyFields => 431,
            Self::Framing(error) => error.status(),
            Self::UnsupportedVersion => 505,
            _ => 400,
        }
    }

    /// One plain sentence saying why, without a full stop.
    pub fn reason(self) -> &'static str {
        match self {
            Self::BadFieldName => "a field name has a character that is not allowed, or no colon",
            Self::BadMaxForwards => "Max-Forwards is not a single number",
            Self::BadMethod => "the method has a character that is not allowed",
            Self::BadRequestLine => {
                "the request line is not method, target and version with one space between"
            }
            Self::BadStatusLine => {
                "the status line is not version, three-digit status code and reason"
            }
            Self::BadVersion => "the version is neither HTTP/1.1 nor HTTP/1.0",
            Self::BareCr => "the head has a CR without an LF",
            Self::BareLf => "the head has an LF without a CR",
            Self::ConnectWithContent => "a CONNECT request must not announce content",
            Self::ControlInValue => "a field value has a control character",
            Self::FirstLineTooLong => "the first line is longer than the limit",
            Self::Framing(error) => error.reason(),
            Self::HeadTooLarge => "the head is larger than the limit",
            Self::InvalidHost(_) => "the Host field is not a host name or address with a port",
            Self::MissingHost => "an HTTP/1.1 request must have a Host field",
            Self::NotOneHead => "the bytes are not exactly one head",
            Self::Nul => "the head has a NUL byte",
            Self::ObsFold => "a line of the head starts with white space",
            Self::RepeatedHost => "the request has more than one Host field",
            Self::SpaceBeforeColon => "there is white space between a field name and its colon",
            Self::StatusOutOfRange => "the status code is not between 100 and 599",
            Self::Target(error) => error.reason(),
            Self::TooManyConnectionOptions => "the Connection field names too many options",
            Self::TooManyFields => "the head has more fields than the limit",
            Self::UnsupportedVersion => "only HTTP/1.1 and HTTP/1.0 are supported",
        }
    }
}

impl From<FramingError> for HeadError {
    fn from(error: FramingError) -> Self {
        Self::Framing(error)
    }
}

/// Looks for the empty line that ends a head. Returns the length of the head with that line.
///
/// `scanned` is where the search continues: 0 for a new head, then as the last call left it, so that a head
/// that comes byte by byte is searched once. `buf` always starts with the head.
///
/// # Errors
///
/// [`HeadError::BareLf`], [`HeadError::BareCr`] (not while the CR is the last byte), [`HeadError::Nul`],
/// [`HeadError::HeadTooLarge`], [`HeadError::FirstLineTooLong`]: at once, without the empty line.
pub fn find_end(
    buf: &[u8],
    scanned: &mut usize,
    limits: &HeadLimits,
) -> Result<Option<usize>, HeadError> {
    find_empty_line::<false>(buf, scanned, limits)
}

/// How far a response head was searched, and what was seen.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct HeadScan {
    /// Where the search continues. A head too long for a `u32` is over every limit.
    scanned: u32,
    /// A line ended with LF alone: the head has to be mended before it is read.
    pub has_bare_lf: bool,
}

/// The same for a response, whose lines may end with LF alone (RFC 9112 §2.2) unless `leniency` refuses
/// that. `scan` is new for a new head.
///
/// # Errors
///
/// As [`find_end`].
pub fn find_response_end(
    buf: &[u8],
    scan: &mut HeadScan,
    limits: &HeadLimits,
    leniency: Leniency,
) -> Result<Option<usize>, HeadError> {
    let mut scanned = scan.scanned as usize;
    let mut found = Err(HeadError::BareLf);
    if !scan.has_bare_lf {
        found = find_end(buf, &mut scanned, limits);
    }
    if leniency == Leniency::Mend && found == Err(HeadError::BareLf) {
        scan.has_bare_lf = true;
        found = find_empty_line::<true>(buf, &mut scanned, limits);
    }
    scan.scanned = u32::try_from(scanned).unwrap_or(u32::MAX);
    found
}

#[inline]
fn find_empty_line<const LF_ENDS: bool>(
    buf: &[u8],
    scanned: &mut usize,
    limits: &HeadLimits,
) -> Result<Option<usize>, HeadError> {
    // Bytes past the limit are not looked at, so that the answer does not depend on how many came with one
    // read.
    let within = buf.get(..limits.max_head_bytes).unwrap_or(buf);
    let mut from = *scanned;
    while let Some(rest) = within.get(from..)
        && let Some(found) = memchr3(b'\r', b'\n', 0, rest)
    {
        let line_end = from + found;
        // Every LF so far ends a line, so a line is empty if an LF is directly before it.
        let is_empty = || line_end.checked_sub(1).is_none_or(|at| within.get(at) == Some(&b'\n'));
        match rest.get(found..) {
            Some([b'\r', b'\n', ..]) => {
                from = line_end + 2;
                if is_empty() {
                    *scanned = from;
                    return Ok(Some(from));
                }
            }
            Some([b'\n', ..]) if LF_ENDS => {
                from = line_end + 1;
                if is_empty() {
                    *scanned = from;
                    return Ok(Some(from));
                }
            }
            Some([b'\r']) => {
                *scanned = line_end;
                return unfinished(buf, within, limits);
            }
            Some([b'\r', ..]) => return Err(HeadError::BareCr),
            Some([b'\n', ..]) => return Err(HeadError::BareLf),
            _ => return Err(HeadError::Nul),
        }
    }
    *scanned = within.len();
    unfinished(buf, within, limits)
}

/// The answer when no end was found: wait, unless the limit is reached.
fn unfinished(buf: &[u8], within: &[u8], limits: &HeadLimits) -> Result<Option<usize>, HeadError> {
    if buf.len() < limits.max_head_bytes {
        Ok(None)
    } else if memchr(b'\n', within).is_some() {
        Err(HeadError::HeadTooLarge)
    } else {
        Err(HeadError::FirstLineTooLong)
    }
}

/// The length of the empty lines before a request line, which are ignored (RFC 9112 §2.2).
///
/// The caller limits how many it skips.
pub fn leading_empty_lines(buf: &[u8]) -> usize {
    buf.chunks_exact(2).take_while(|pair| *pair == b"\r\n").count() * 2
}

/// Turns httparse's error into the refusal that names the fault. Not on the hot path.
#[cold]
pub(super) fn diagnose(head: &[u8], error: httparse::Error, is_request: bool) -> HeadError {
    let mut lines = head.split(|&byte| byte == b'\n').map(|l| l.strip_suffix(b"\r").unwrap_or(l));
    let first = lines.next().unwrap_or_default();
    match error {
        httparse::Error::HeaderName => {
            lines.find_map(bad_field_line).unwrap_or(HeadError::BadFieldName)
        }
        httparse::Error::HeaderValue => HeadError::ControlInValue,
        httparse::Error::NewLine if has_bare_cr(head) => HeadError::BareCr,
        // There is something between the version and the line end.
        httparse::Error::NewLine => bad_version(first, is_request),
        httparse::Error::TooManyHeaders => HeadError::TooManyFields,
        httparse::Error::Version => bad_version(first, is_request),
        httparse::Error::Status => HeadError::BadStatusLine,
        httparse::Error::Token => bad_request_line(first),
    }
}

/// `find_end` lets no bare CR through, but a head may come from elsewhere.
fn has_bare_cr(head: &[u8]) -> bool {
    memchr_iter(b'\r', head).any(|at| head.get(at + 1) != Some(&b'\n'))
}

/// The fault in the name of a field line.
fn bad_field_line(line: &[u8]) -> Option<HeadError> {
    if line.is_empty() {
        return None;
    }
    if matches!(line, [b' ' | b'\t', ..]) {
        return Some(HeadError::ObsFold);
    }
    let Some(colon) = memchr(b':', line) else { return Some(HeadError::BadFieldName) };
    let name = line.get(..colon).unwrap_or_default();
    let token = name.trim_ascii_end();
    if token.is_empty() || !token.iter().copied().all(is_token_byte) {
        Some(HeadError::BadFieldName)
    } else if token.len() < name.len() {
        Some(HeadError::SpaceBeforeColon)
    } else {
        None
    }
}

/// The fault in the version of a first line.
fn bad_version(first: &[u8], is_request: bool) -> HeadError {
    let version = if is_request { first.rsplit(|&o| o == b' ').next() } else { first.get(..8) };
    match version {
        Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor])
            if major.is_ascii_digit() && minor.is_ascii_digit() && !is_http_1(*major, *minor) =>
        {
            HeadError::UnsupportedVersion
        }
        _ if !is_request => HeadError::BadStatusLine,
        // `GET /a b HTTP/1.1`: the fault is the space in the target, not the version after it.
        _ if memchr_iter(b' ', first).count() != 2 => HeadError::BadRequestLine,
        _ => HeadError::BadVersion,
    }
}

fn is_http_1(major: u8, minor: u8) -> bool {
    major == b'1' && (minor == b'0' || minor == b'1')
}

/// The fault in the method or target of a request line.
fn bad_request_line(first: &[u8]) -> HeadError {
    let mut words = first.split(|&byte| byte == b' ');
    let method = words.next().unwrap_or_default();
    if !method.iter().copied().all(is_token_byte) {
        return HeadError::BadMethod;
    }
    match (method, words.next(), words.next(), words.next()) {
        ([_, ..], Some([_, ..] | []), Some(_), None) => {}
        _ => return HeadError::BadRequestLine,
    }
    if first.iter().all(|byte| (b' '..=b'~').contains(byte)) {
        HeadError::BadRequestLine
    } else {
        HeadError::Target(TargetError::BadCharacter)
    }
}

/// The end found does not depend on how the bytes come.
#[doc(hidden)]
#[cfg(feature = "internals")]
pub fn fuzz(bytes: &[u8], limits: &HeadLimits) -> Option<usize> {
    let strict = fuzz_as(bytes, limits, Leniency::Strict);
    let mended = fuzz_as(bytes, limits, Leniency::Mend);
    assert!(strict.is_none() || strict == mended, "a strict head ends elsewhere");
    strict
}

/// The same for a response, with this leniency.
#[cfg(feature = "internals")]
pub(super) fn fuzz_as(bytes: &[u8], limits: &HeadLimits, leniency: Leniency) -> Option<usize> {
    let whole = find_response_end(bytes, &mut HeadScan::default(), limits, leniency);
    let mut scan = HeadScan::default();
    let mut last = Ok(None);
    for came in 1..=bytes.len() {
        let first = bytes.get(..came).unwrap_or_default();
        last = find_response_end(first, &mut scan, limits, leniency);
        assert!(scan.scanned as usize <= came);
        if last != Ok(None) {
            break;
        }
    }
    assert_eq!(last, whole, "the answer depends on how the bytes come");
    match whole {
        Ok(Some(end)) => {
            assert!(end <= limits.max_head_bytes);
            Some(end)
        }
        Ok(None) => {
            assert!(bytes.len() < limits.max_head_bytes);
            None
        }
        Err(error) => {
            assert!(!error.reason().is_empty());
            None
        }
    }
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
