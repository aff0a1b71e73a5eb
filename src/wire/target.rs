//! Request-targets and authorities: where does this request want to go? (RFC 9112 §3.2)
//!
//! Everything that decides *which server* gets the request is checked strictly, because rules and
//! the connection must see the same host. The path is passed on as it stands.
//!
//! Names are not resolved here, and not compared with rules.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use memchr::memchr2;

use super::head::Method;

/// A request-target (RFC 9112 §3.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target<'b> {
    /// `/path?query`: a request to the proxy itself (RFC 9112 §3.2.1).
    Origin(&'b str),
    /// `http://host/path`: a request to be forwarded (RFC 9112 §3.2.2).
    Absolute {
        /// What stands before `://`.
        scheme: Scheme,
        /// The server.
        authority: Authority<'b>,
        /// Path and query as they stand: empty, or starting with `/` or `?`.
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
    /// `ws`, as some clients name the server of a WebSocket. The request is one of HTTP all the
    /// same (RFC 6455 §4.1).
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
    /// The host, if it is an address: four decimal numbers, or IPv6 in brackets. `127.1` and
    /// `0x7f.1` are names here, whatever the system's resolver makes of them.
    pub ip: Option<IpAddr>,
    /// The port; `None` if absent or empty (RFC 3986 §3.2.3), which means the scheme's default.
    pub port: Option<u16>,
}

/// Why a request-target or an authority is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum TargetError {
    /// An octet outside of printable ASCII (RFC 3986 §2).
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
            // Almost every target there is.
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

    /// The target to send to an origin server: the origin-form of an absolute-form target, with
    /// `*` for an OPTIONS without path and query (RFC 9112 §3.2.4), and every other as it is.
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
    /// Sends `text`, which must be a valid request-target; for a parent proxy, the one received.
    pub fn as_is(text: &'b str) -> Self {
        Self { prefix: "", rest: text }
    }

    /// How many octets [`write`](Self::write) adds.
    #[expect(clippy::len_without_is_empty, reason = "a request-target is never empty")]
    pub fn len(&self) -> usize {
        self.prefix.len() + self.rest.len()
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
        // No valid authority has an `@`, so it need not be looked for in the good ones.
        parsed.map_err(|error| if text.contains('@') { TargetError::UserInfo } else { error })
    }

    fn v6(text: &'b str) -> Result<Self, TargetError> {
        let inside = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let (host, rest) = inside.ok_or(TargetError::BadHost)?;
        // Ipv6Addr takes no zone: it means something on the client's machine only.
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
        if ip.is_none() && ends_in_a_number(host) {
            return Err(TargetError::BadHost);
        }
        Ok(Self { text, host, ip: ip.map(IpAddr::V4), port })
    }
}

/// Printable ASCII without a fragment. Other characters that RFC 3986 does not have (`|`, `{`,
/// `"`) are seen in the wild and cannot change where the request goes.
#[inline]
fn check_characters(text: &str) -> Result<(), TargetError> {
    // Without a branch a character, so that it is done many at a time.
    let wrong = |bad, octet: u8| bad | !(0x21..=0x7e).contains(&octet) | (octet == b'#');
    if !text.is_empty() && !text.bytes().fold(false, wrong) {
        return Ok(());
    }
    match text {
        "" => Err(TargetError::BadForm),
        _ if text.bytes().all(|octet| (0x21..=0x7e).contains(&octet)) => Err(TargetError::Fragment),
        _ => Err(TargetError::BadCharacter),
    }
}

/// Where the name at the start of `text` ends: at a colon or the end. A registered name as we take
/// it is at most 255 letters, digits, `-`, `_`, `.`, with no empty label except after the last dot.
fn name_end(text: &str) -> Result<usize, TargetError> {
    let mut before = b'.';
    let mut end = 0;
    for octet in text.bytes() {
        match octet {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => {}
            b'.' if before != b'.' => {}
            b':' => break,
            _ => return Err(TargetError::BadHost),
        }
        before = octet;
        end += 1;
    }
    match end {
        0 => Err(TargetError::EmptyHost),
        1..=255 => Ok(end),
        _ => Err(TargetError::BadHost),
    }
}

/// Whether some would take a host for an IPv4 address that is no dotted quad: `127.1`, `0x7f000001`,
/// `2130706433`. No name ends like that, and rules on addresses would not have it.
fn ends_in_a_number(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let label = host.rsplit('.').next().unwrap_or_default();
    let hex = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    match hex {
        Some(digits) => digits.bytes().all(|o| o.is_ascii_hexdigit()),
        None => !label.is_empty() && label.bytes().all(|o| o.is_ascii_digit()),
    }
}

/// A port in at most five digits (`str::parse` alone would take a sign).
fn parse_port(digits: &str) -> Result<Option<u16>, TargetError> {
    if digits.is_empty() {
        return Ok(None);
    }
    if digits.len() > 5 || !digits.bytes().all(|octet| octet.is_ascii_digit()) {
        return Err(TargetError::BadPort);
    }
    match digits.parse() {
        Ok(0) | Err(_) => Err(TargetError::BadPort),
        Ok(port) => Ok(Some(port)),
    }
}

/// An accepted target means the same when it is written and read again.
#[doc(hidden)]
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn host(text: &str, host: &str, ip: Option<&str>, port: Option<u16>) {
        let ip = ip.map(|ip| ip.parse().unwrap());
        assert_eq!(Authority::parse(text), Ok(Authority { text, host, ip, port }));
        fuzz(format!("http://{text}").as_bytes());
        fuzz(text.as_bytes());
    }

    #[track_caller]
    fn bad(text: &str, expected: TargetError) {
        assert_eq!(Authority::parse(text), Err(expected), "{text}");
        fuzz(format!("http://{text}/").as_bytes());
    }

    #[test]
    fn an_authority_is_a_host_and_maybe_a_port() {
        host("example.com", "example.com", None, None);
        host("Example.COM.:8080", "Example.COM.", None, Some(8080));
        host("my_host-1:65535", "my_host-1", None, Some(65535));
        host("a:", "a", None, None);
        host("a:00080", "a", None, Some(80));
        host("192.0.2.1", "192.0.2.1", Some("192.0.2.1"), None);
        host("192.0.2.1:1", "192.0.2.1", Some("192.0.2.1"), Some(1));
        host("[::1]", "::1", Some("::1"), None);
        host("[2001:DB8::1]:443", "2001:DB8::1", Some("2001:db8::1"), Some(443));
        host("[::ffff:192.0.2.1]:", "::ffff:192.0.2.1", Some("::ffff:192.0.2.1"), None);
    }

    #[test]
    fn what_only_looks_like_an_address_is_refused() {
        for name in [
            "127.1",
            "0x7f.1",
            "2130706433",
            "0177.0.0.1",
            "192.0.2.01",
            "1.2.3.4.",
            "1.2.3.4.5",
            "0x7f000001",
            "127.0X1",
            "a.0x",
            "1",
            "a.1",
        ] {
            bad(name, TargetError::BadHost);
            bad(&format!("{name}:80"), TargetError::BadHost);
        }
        for name in ["1.a", "127.1a", "0xg", "a.0x1g", "x0", "a.x1", "1-1", "0x7f.example."] {
            host(name, name, None, None);
        }
    }

    #[test]
    fn a_port_is_a_number_that_can_be_connected_to() {
        for text in [
            "a:0", "a:65536", "a:+80", "a:-1", "a:8O", "a:80 ", "a:000080", "a:80:80", "::1",
            "[::1]80", "[::1]x",
        ] {
            bad(text, if text == "::1" { TargetError::EmptyHost } else { TargetError::BadPort });
        }
    }

    #[test]
    fn a_host_that_can_be_read_two_ways_is_refused() {
        for text in [
            "a%41",
            "a b",
            "a,b",
            "a*",
            "a~",
            "a\\b",
            "a/b",
            "a?b",
            ".a",
            "a..b",
            ".",
            "[::1",
            "[::1%25eth0]",
            "[::1%eth0]",
            "[v1.x]",
            "[127.0.0.1]",
            "[]",
            "caf\u{e9}",
            "a\u{0}",
            "a]",
            "'a'",
        ] {
            bad(text, TargetError::BadHost);
        }
        bad("", TargetError::EmptyHost);
        bad(":80", TargetError::EmptyHost);
        bad("u@a", TargetError::UserInfo);
        bad("u:p@a:80", TargetError::UserInfo);
        bad("@", TargetError::UserInfo);
        bad(&"a".repeat(256), TargetError::BadHost);
        host(&"a".repeat(255), &"a".repeat(255), None, None);
    }

    #[track_caller]
    fn refused(method: Method, text: &str, expected: TargetError) {
        assert_eq!(Target::parse(method, text), Err(expected), "{text}");
    }

    #[test]
    fn the_form_fits_the_method() {
        assert_eq!(Target::parse(Method::Get, "/a?b"), Ok(Target::Origin("/a?b")));
        assert_eq!(Target::parse(Method::Get, "//a/b"), Ok(Target::Origin("//a/b")));
        assert_eq!(Target::parse(Method::Options, "*"), Ok(Target::Asterisk));
        assert!(matches!(Target::parse(Method::Connect, "a:443"), Ok(Target::Authority(_))));
        refused(Method::Get, "*", TargetError::BadForm);
        refused(Method::Options, "**", TargetError::BadForm);
        refused(Method::Get, "a:443", TargetError::BadForm);
        refused(Method::Get, "", TargetError::BadForm);
        refused(Method::Get, "urn:a", TargetError::BadForm);
        refused(Method::Get, "http:/a", TargetError::BadForm);
        refused(Method::Get, "://a", TargetError::BadForm);
        refused(Method::Get, "1http://a", TargetError::BadForm);
        refused(Method::Get, "ht_tp://a", TargetError::BadForm);
        refused(Method::Connect, "a", TargetError::MissingPort);
        refused(Method::Connect, "a:", TargetError::MissingPort);
        refused(Method::Connect, "/a", TargetError::BadHost);
        refused(Method::Connect, "http://a:80", TargetError::BadPort);
        refused(Method::Connect, "*", TargetError::BadHost);
    }

    #[test]
    fn an_absolute_target_names_scheme_server_and_path() {
        for (text, scheme, server, path) in [
            ("http://a", Scheme::Http, "a", ""),
            ("HTTP://a:80/", Scheme::Http, "a:80", "/"),
            ("http://a?b", Scheme::Http, "a", "?b"),
            ("https://a/b/../c?d=http://e", Scheme::Https, "a", "/b/../c?d=http://e"),
            ("Ws://a/b?c", Scheme::Ws, "a", "/b?c"),
            ("wss://a/b", Scheme::Other, "a", "/b"),
            ("ftp://a/b", Scheme::Other, "a", "/b"),
            ("http://[::1]:81/x", Scheme::Http, "[::1]:81", "/x"),
            ("http://a/@b", Scheme::Http, "a", "/@b"),
        ] {
            let authority = Authority::parse(server).unwrap();
            let expected = Target::Absolute { scheme, authority, path };
            assert_eq!(Target::parse(Method::Get, text), Ok(expected), "{text}");
            fuzz(text.as_bytes());
        }
        refused(Method::Get, "http://", TargetError::EmptyHost);
        refused(Method::Get, "http:///a", TargetError::EmptyHost);
        refused(Method::Get, "http://:80/", TargetError::EmptyHost);
        refused(Method::Get, "http://u:p@a/", TargetError::UserInfo);
        refused(Method::Get, "http://a\\@b/", TargetError::UserInfo);
        refused(Method::Get, "http://a\\b/", TargetError::BadHost);
    }

    #[test]
    fn characters_that_must_be_encoded_are_refused() {
        for text in ["/a b", "/a\tb", "/\u{e9}", "/\u{7f}", "/a\r", "/\u{0}"] {
            refused(Method::Get, text, TargetError::BadCharacter);
        }
        refused(Method::Get, "/a#b", TargetError::Fragment);
        refused(Method::Get, "http://a#b", TargetError::Fragment);
        assert!(Target::parse(Method::Get, "/a|b{c}\"d\"^`<>%zz").is_ok());
    }

    #[test]
    fn an_origin_server_gets_the_path_alone() {
        for (method, text, expected) in [
            (Method::Get, "http://a", "/"),
            (Method::Get, "http://a/b", "/b"),
            (Method::Get, "http://a?b", "/?b"),
            (Method::Options, "http://a", "*"),
            (Method::Options, "http://a/", "/"),
            (Method::Options, "http://a?b", "/?b"),
            (Method::Options, "*", "*"),
            (Method::Get, "/b", "/b"),
        ] {
            let form = Target::parse(method, text).unwrap().origin_form(method);
            assert_eq!((form.to_string(), form.len()), (expected.to_owned(), expected.len()));
        }
    }

    proptest! {
        #[test]
        fn any_text_keeps_the_invariants(text in "(http|HTTPS|x)?(://)?[a-b0-9.:@\\[\\]%-]{0,12}[/?#*a:]{0,4}") {
            fuzz(text.as_bytes());
        }

        #[test]
        fn an_address_and_a_port_survive(ip: IpAddr, port in 1_u16..) {
            let text = std::net::SocketAddr::new(ip, port).to_string();
            let authority = Authority::parse(&text).unwrap();
            prop_assert_eq!((authority.ip, authority.port), (Some(ip), Some(port)));
        }
    }
}
