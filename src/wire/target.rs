//! Request-targets and authorities: which server does this request want? (RFC 9112 §3.2)
//!
//! Every part that decides *which server* gets the request is checked strictly, because rules and the
//! connection must see the same host. The path is passed on unchanged.
//!
//! Names are neither resolved here nor compared with rules.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use memchr::memchr2;

use super::start_line::Method;

/// A request-target (RFC 9112 §3.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target<'b> {
    /// `/path?query`: a request to the proxy itself (RFC 9112 §3.2.1).
    Origin(&'b str),
    /// `http://host/path`: a request to be forwarded (RFC 9112 §3.2.2).
    Absolute {
        /// The part before `://`.
        scheme: Scheme,
        /// The server.
        authority: Authority<'b>,
        /// Path and query as written: empty, or starting with `/` or `?`.
        path: &'b str,
    },
    /// `host:port` of a CONNECT; the port is always there (RFC 9112 §3.2.3).
    Authority(Authority<'b>),
    /// `*` of an OPTIONS (RFC 9112 §3.2.4).
    Asterisk,
}

/// The scheme of an absolute-form target (RFC 9110 §4.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
    /// `ws`, as some clients name the server of a WebSocket. The request itself is HTTP (RFC 6455 §4.1).
    Ws,
    /// Any other.
    Other,
}

/// A host with an optional port (RFC 3986 §3.2), never with userinfo.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Authority<'b> {
    /// As written.
    pub text: &'b str,
    /// The host; an IPv6 address without its brackets.
    pub host: &'b str,
    /// The host, if it is an address: four decimal numbers, or IPv6 in brackets. `127.1` and `0x7f.1` are
    /// names here, whatever the system's resolver makes of them.
    pub ip: Option<IpAddr>,
    /// The port; `None` if absent or empty (RFC 3986 §3.2.3), which means the scheme's default.
    pub port: Option<u16>,
}

/// Why a request-target or an authority is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum TargetError {
    /// A byte outside of printable ASCII (RFC 3986 §2).
    BadCharacter,
    /// None of the four forms (RFC 9112 §3.2), or not the one the method needs.
    BadForm,
    /// A host that is neither a name nor an address. Stricter than RFC 3986 §3.2.2: letters,
    /// digits, `-`, `_` and `.`, because a name with `%41` can be read two ways.
    BadHost,
    /// A port that is not 1 to 65535 in digits.
    BadPort,
    /// No host.
    EmptyHost,
    /// A fragment, which is never sent (RFC 9110 §4.2.5).
    Fragment,
    /// A CONNECT without port (RFC 9112 §3.2.3).
    MissingPort,
    /// A user name or password before the host (RFC 9110 §4.2.4).
    UserInfo,
}

impl TargetError {
    /// One plain sentence saying why, without a full stop.
    pub fn reason(self) -> &'static str {
        match self {
            Self::BadCharacter => "the request-target has a character that must be percent-encoded",
            Self::BadForm => "the request-target is not in a form this method can have",
            Self::BadHost => "the host is neither a name nor an address",
            Self::BadPort => "the port is not a number from 1 to 65535",
            Self::EmptyHost => "the host is empty",
            Self::Fragment => "the request-target has a fragment, which must not be sent",
            Self::MissingPort => "a CONNECT request must name a port",
            Self::UserInfo => "the request-target has a user name or password before the host",
        }
    }
}

impl<'b> Target<'b> {
    /// Reads a request-target, whose form depends on the method.
    ///
    /// # Errors
    ///
    /// Reply 400.
    pub fn parse(method: Method, text: &'b str) -> Result<Self, TargetError> {
        check_characters(text)?;
        if method == Method::Connect {
            let authority = Authority::parse(text)?;
            return match authority.port {
                Some(_) => Ok(Self::Authority(authority)),
                None => Err(TargetError::MissingPort),
            };
        }
        if text.starts_with('/') {
            return Ok(Self::Origin(text));
        }
        match (text, method) {
            ("*", Method::Options) => Ok(Self::Asterisk),
            _ => Self::parse_absolute(text),
        }
    }

    fn parse_absolute(text: &'b str) -> Result<Self, TargetError> {
        let (scheme, rest) = match text.split_at_checked("http://".len()) {
            // Almost every target.
            Some((start, rest)) if start.eq_ignore_ascii_case("http://") => (Scheme::Http, rest),
            _ => {
                let (scheme, rest) = text.split_once("://").ok_or(TargetError::BadForm)?;
                (Scheme::parse(scheme).ok_or(TargetError::BadForm)?, rest)
            }
        };
        let end = memchr2(b'/', b'?', rest.as_bytes()).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end).ok_or(TargetError::BadForm)?;
        Ok(Self::Absolute { scheme, authority: Authority::parse(authority)?, path })
    }

    /// The server the target names, if it names one.
    pub fn authority(&self) -> Option<&Authority<'b>> {
        match self {
            Self::Absolute { authority, .. } | Self::Authority(authority) => Some(authority),
            Self::Origin(_) | Self::Asterisk => None,
        }
    }

    /// The target to send to an origin server. An absolute-form target becomes origin-form, or `*` for an
    /// OPTIONS without path and query (RFC 9112 §3.2.4). Every other target stays as it is.
    pub fn origin_form(&self, method: Method) -> OriginForm<'b> {
        match *self {
            Self::Origin(text) => OriginForm::as_is(text),
            Self::Asterisk => OriginForm::as_is("*"),
            Self::Authority(authority) => OriginForm::as_is(authority.text),
            Self::Absolute { path: "", .. } if method == Method::Options => OriginForm::as_is("*"),
            Self::Absolute { path, .. } if path.starts_with('/') => OriginForm::as_is(path),
            Self::Absolute { path, .. } => OriginForm { prefix: "/", rest: path },
        }
    }
}

impl Scheme {
    fn parse(text: &str) -> Option<Self> {
        if text.eq_ignore_ascii_case("http") {
            Some(Self::Http)
        } else if text.eq_ignore_ascii_case("https") {
            Some(Self::Https)
        } else if text.eq_ignore_ascii_case("ws") {
            Some(Self::Ws)
        } else {
            let rest_may_be = |o: u8| o.is_ascii_alphanumeric() || b"+-.".contains(&o);
            let is_scheme = text.starts_with(|c: char| c.is_ascii_alphabetic())
                && text.bytes().all(rest_may_be);
            is_scheme.then_some(Self::Other)
        }
    }

    /// The port when an authority names none (RFC 9110 §4.2, RFC 6455 §3).
    pub fn default_port(self) -> Option<u16> {
        match self {
            Self::Http | Self::Ws => Some(80),
            Self::Https => Some(443),
            Self::Other => None,
        }
    }
}

/// A request-target ready to be written, in two parts so that nothing is allocated.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OriginForm<'b> {
    prefix: &'static str,
    rest: &'b str,
}

impl<'b> OriginForm<'b> {
    /// Sends `text`, which must be a valid request-target. For a parent proxy it is the one received.
    pub fn as_is(text: &'b str) -> Self {
        Self { prefix: "", rest: text }
    }

    /// How many bytes [`write`](Self::write) adds.
    pub(super) fn len(&self) -> usize {
        self.prefix.len() + self.rest.len()
    }

    /// Appends the target to `text`.
    pub(super) fn push_to(&self, text: &mut String) {
        text.push_str(self.prefix);
        text.push_str(self.rest);
    }

    /// Appends the target to `out`.
    #[inline]
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.prefix.as_bytes());
        out.extend_from_slice(self.rest.as_bytes());
    }
}

impl<'b> From<&'b str> for OriginForm<'b> {
    fn from(text: &'b str) -> Self {
        Self::as_is(text)
    }
}

impl std::fmt::Display for OriginForm<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.prefix)?;
        f.write_str(self.rest)
    }
}

impl<'b> Authority<'b> {
    /// Reads `host`, `host:port`, `[v6]` or `[v6]:port`.
    ///
    /// # Errors
    ///
    /// Reply 400.
    pub fn parse(text: &'b str) -> Result<Self, TargetError> {
        let parsed = if text.starts_with('[') { Self::v6(text) } else { Self::name_or_v4(text) };
        // No valid authority has an `@`, so valid ones need no search for it.
        parsed.map_err(|error| if text.contains('@') { TargetError::UserInfo } else { error })
    }

    fn v6(text: &'b str) -> Result<Self, TargetError> {
        let inside = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let (host, rest) = inside.ok_or(TargetError::BadHost)?;
        // Ipv6Addr accepts no zone, which has a meaning on the client's machine only.
        let ip: Ipv6Addr = host.parse().map_err(|_| TargetError::BadHost)?;
        let port = match rest.strip_prefix(':') {
            Some(digits) => parse_port(digits)?,
            None if rest.is_empty() => None,
            None => return Err(TargetError::BadPort),
        };
        Ok(Self { text, host, ip: Some(IpAddr::V6(ip)), port })
    }

    fn name_or_v4(text: &'b str) -> Result<Self, TargetError> {
        let end = name_end(text)?;
        let (host, rest) = text.split_at_checked(end).ok_or(TargetError::BadHost)?;
        let port = match rest.strip_prefix(':') {
            Some(digits) => parse_port(digits)?,
            None => None,
        };
        let may_be_v4 = host.as_bytes().last().is_some_and(u8::is_ascii_digit);
        let ip = if may_be_v4 { host.parse::<Ipv4Addr>().ok() } else { None };
        if ip.is_none() && may_be_read_as_v4(host) {
            return Err(TargetError::BadHost);
        }
        Ok(Self { text, host, ip: ip.map(IpAddr::V4), port })
    }
}

/// Accepts printable ASCII without a fragment. Other characters that RFC 3986 does not have (`|`, `{`, `"`)
/// are seen in the wild and cannot change where the request goes.
#[inline]
fn check_characters(text: &str) -> Result<(), TargetError> {
    // One branch for the whole text lets the compiler check many characters at a time.
    let wrong = |bad, byte: u8| bad | !(0x21..=0x7e).contains(&byte) | (byte == b'#');
    if !text.is_empty() && !text.bytes().fold(false, wrong) {
        return Ok(());
    }
    match text {
        "" => Err(TargetError::BadForm),
        _ if text.bytes().all(|byte| (0x21..=0x7e).contains(&byte)) => Err(TargetError::Fragment),
        _ => Err(TargetError::BadCharacter),
    }
}

/// Where the name at the start of `text` ends: at a colon or the end. A registered name here is at most 255
/// letters, digits, `-`, `_`, `.`, with no empty label except after the last dot.
fn name_end(text: &str) -> Result<usize, TargetError> {
    let mut before = b'.';
    let mut end = 0;
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => {}
            b'.' if before != b'.' => {}
            b':' => break,
            _ => return Err(TargetError::BadHost),
        }
        before = byte;
        end += 1;
    }
    match end {
        0 => Err(TargetError::EmptyHost),
        1..=255 => Ok(end),
        _ => Err(TargetError::BadHost),
    }
}

/// Whether a parser of IPv4 addresses could read all of a host that is no dotted quad: `127.1`,
/// `0x7f000001`, `2130706433`. Rules on addresses would miss it. Parsers differ, so a reading counts if any
/// of them has it: one to four numbers, octal behind a `0` (glibc, musl, browsers) or decimal all the same
/// (Java, older Go and Python), hexadecimal behind `0x` even without a digit (browsers), a dot at the end
/// (browsers), and numbers modulo 2^32 (the BSDs). A host with any other label, or with a number too large
/// for its place, is a name for all of them.
fn may_be_read_as_v4(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    // Nearly every name ends here.
    if !host.starts_with(|first: char| first.is_ascii_digit()) {
        return false;
    }
    let (before, last) = host.rsplit_once('.').map_or((None, host), |(b, l)| (Some(b), l));
    let dots = before.map_or(0, |before| before.matches('.').count() + 1);
    let Some(most) = [u32::MAX, 0xff_ffff, 0xffff, 0xff].get(dots) else { return false };
    may_be_number(last, *most)
        && before.is_none_or(|before| before.split('.').all(|part| may_be_number(part, 0xff)))
}

/// Whether a part of an address could be read as a number up to `most`.
fn may_be_number(part: &str, most: u32) -> bool {
    let reads = |digits: &str, base: u32| {
        // The first BSDs accepted 8 and 9 as octal digits.
        let value = digits.chars().try_fold(0_u32, |value, digit| {
            let digit = digit.to_digit(base.max(10))?;
            Some(value.wrapping_mul(base).wrapping_add(digit))
        });
        value.is_some_and(|value| value <= most)
    };
    match part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")) {
        Some(digits) => reads(digits, 16),
        None => reads(part, 10) || (part.starts_with('0') && reads(part, 8)),
    }
}

/// A port of at most five digits (`str::parse` alone would accept a sign).
fn parse_port(digits: &str) -> Result<Option<u16>, TargetError> {
    if digits.is_empty() {
        return Ok(None);
    }
    if digits.len() > 5 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(TargetError::BadPort);
    }
    match digits.parse() {
        Ok(0) | Err(_) => Err(TargetError::BadPort),
        Ok(port) => Ok(Some(port)),
    }
}

/// An accepted target keeps its meaning when it is written and read again.
#[doc(hidden)]
#[cfg(feature = "internals")]
pub fn fuzz(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for method in [Method::Connect, Method::Get, Method::Options] {
        let Ok(target) = Target::parse(method, text) else { continue };
        if let Some(authority) = target.authority() {
            assert_eq!(Authority::parse(authority.text), Ok(*authority));
            assert!(!authority.host.is_empty() && text.contains(authority.text));
            assert!(!authority.text.contains(['@', '/', '?', '#', '\\', '%', ' ']));
            assert_ne!(authority.port, Some(0));
            match authority.ip {
                Some(ip) => assert_eq!(authority.host.parse(), Ok(ip)),
                None => assert!(authority.host.parse::<IpAddr>().is_err()),
            }
        }
        let form = target.origin_form(method);
        let mut out = Vec::new();
        form.write(&mut out);
        let out = String::from_utf8_lossy(&out);
        assert_eq!((out.len(), &*out), (form.len(), &*form.to_string()));
        match (Target::parse(method, &out), method) {
            (Ok(Target::Authority(_)), Method::Connect) => {}
            (Ok(Target::Asterisk), Method::Options) => {}
            (Ok(Target::Origin(path)), _) => assert!(text.ends_with(path.trim_start_matches('/'))),
            (other, _) => panic!("{out} is {other:?}"),
        }
    }
}

#[cfg(test)]
#[path = "target_tests.rs"]
mod tests;
