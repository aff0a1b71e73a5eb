//! Rules on URLs of requests that are forwarded as messages; of a tunnel nobody sees any.
//!
//! A regular expression is found anywhere in the URL, which is brought into its normal form first,
//! so that another spelling is no way around a rule (RFC 3986 §6.2.2, §6.2.3): scheme and host in lower
//! case, no dot behind the host, no default port, no `%` encoding of what needs none, `.` and `..` of
//! the path resolved. All patterns are one set: a URL is looked at once, however many there are.

use std::net::IpAddr;

use regex::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

use super::origin::RuleId;
use super::rules::{Action, Request, Way};

/// The most memory one pattern may take, and all of them.
const REGEX_OCTETS: usize = 1 << 20;
const SET_OCTETS: usize = 64 << 20;

/// Rules on URLs, in the order in which they are looked at: the first that has one decides.
#[derive(Clone, Debug, Default)]
pub struct Urls {
    patterns: Option<RegexSet>,
    rules: Vec<(Action, RuleId)>,
}

impl Urls {
    /// Makes one set of them.
    ///
    /// # Errors
    ///
    /// A sentence: all together are too much.
    pub fn new(rules: &[(Action, RuleId, &str)]) -> Result<Self, String> {
        if rules.is_empty() {
            return Ok(Self::default());
        }
        let mut set = RegexSetBuilder::new(rules.iter().map(|(_, _, pattern)| pattern));
        let set = set.size_limit(SET_OCTETS).build();
        let patterns = Some(set.map_err(|e| {
            format!("the patterns are too large together ({}); use fewer", last_line(&e))
        })?);
        Ok(Self { patterns, rules: rules.iter().map(|(action, id, _)| (*action, *id)).collect() })
    }

    /// Whether a pattern can be one.
    ///
    /// # Errors
    ///
    /// A sentence to print after the name of the option.
    pub fn check(pattern: &str) -> Result<(), String> {
        let wrong = |what: &str| {
            format!("'{pattern}' {what}; give a regular expression such as ^http://[^/]+/ads/")
        };
        if pattern.is_empty() {
            return Err(wrong("would have every URL"));
        }
        if pattern.trim_start_matches('^').starts_with("ws:") {
            return Err(wrong("has no URL, since that of a WebSocket is compared as http://, too"));
        }
        let regex: Result<Regex, _> = RegexBuilder::new(pattern).size_limit(REGEX_OCTETS).build();
        regex.map(drop).map_err(|e| wrong(&format!("is none: {}", last_line(&e))))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// That none of them has the request's URL, for a person.
    pub(super) fn describe_none(&self, request: &Request<'_>) -> String {
        match request.way {
            Way::Connect => "of what goes through a tunnel no URL is seen".to_owned(),
            _ if self.rules.len() == 1 => {
                format!("the only pattern is not found in {}", normal(request))
            }
            _ => format!("none of {} patterns is found in {}", self.rules.len(), normal(request)),
        }
    }

    /// The first rule that has the request's URL.
    pub fn decide(&self, request: &Request<'_>) -> Option<(Action, RuleId)> {
        let patterns = self.patterns.as_ref().filter(|_| request.way != Way::Connect)?;
        let found = patterns.matches(&normal(request)).into_iter().next();
        found.and_then(|number| self.rules.get(number).copied())
    }
}

fn last_line(error: &regex::Error) -> String {
    error.to_string().lines().last().unwrap_or_default().trim().to_owned()
}

/// The URL of a request, in its normal form.
pub fn normal(request: &Request<'_>) -> String {
    let mut url = String::with_capacity(request.target.len() + 16);
    // Whoever offers an upgrade still gets the same from a server that has none.
    url.push_str("http://");
    match request.ip.map(|ip| ip.to_canonical()) {
        Some(IpAddr::V4(v4)) => url.push_str(&v4.to_string()),
        Some(IpAddr::V6(v6)) => url.push_str(&format!("[{v6}]")),
        None => url.push_str(request.host),
    }
    if request.port != 80 {
        url.push_str(&format!(":{}", request.port));
    }
    let rest = request.target.split_once("://").map_or(request.target, |(_, rest)| {
        rest.find(['/', '?']).and_then(|at| rest.get(at..)).unwrap_or_default()
    });
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    push_path(&mut url, &decoded(path));
    if let Some(query) = query {
        url.push('?');
        url.push_str(&decoded(query));
    }
    url
}

/// Without the percent-encoding of octets that need none (RFC 3986 §2.3); the others in upper case.
fn decoded(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        plain.push_str(before);
        let digits = after.get(..2).filter(|d| d.bytes().all(|c| c.is_ascii_hexdigit()));
        let octet = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        rest = match octet {
            Some(octet) if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) => {
                plain.push(octet.into());
                after.get(2..).unwrap_or_default()
            }
            Some(octet) => {
                plain.push_str(&format!("%{octet:02X}"));
                after.get(2..).unwrap_or_default()
            }
            None => {
                plain.push('%');
                after
            }
        };
    }
    plain.push_str(rest);
    plain
}

/// Appends a path without its dot segments (RFC 3986 §5.2.4); an empty one is `/`.
fn push_path(url: &mut String, path: &str) {
    let root = url.len();
    let mut segments = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    let end = url.get(root..).and_then(|path| path.rfind('/')).unwrap_or(0);
                    url.truncate(root + end);
                }
                if is_last {
                    url.push('/');
                }
            }
            segment => {
                url.push('/');
                url.push_str(segment);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request<'a>(way: Way, host: &'a str, port: u16, target: &'a str) -> Request<'a> {
        Request {
            client: IpAddr::from([127, 0, 0, 1]),
            user: None,
            method: "GET",
            way,
            host,
            ip: host.parse().ok(),
            port,
            target,
        }
    }

    #[test]
    fn a_url_has_one_spelling() {
        for (host, port, target, expected) in [
            ("a.example", 80, "http://a.example", "http://a.example/"),
            ("a.example", 80, "HTTP://A.Example.:80/X?Y", "http://a.example/X?Y"),
            ("a.example", 8080, "http://a.example:8080?q=/../", "http://a.example:8080/?q=/../"),
            (
                "a.example",
                80,
                "http://a.example/%61%64s/%2f%c3%bC",
                "http://a.example/ads/%2F%C3%BC",
            ),
            ("a.example", 80, "http://a.example/x/../ads/./y/..", "http://a.example/ads/"),
            ("a.example", 80, "http://a.example/x/%2e%2E/ads", "http://a.example/ads"),
            ("a.example", 80, "http://a.example/../../a//b/.", "http://a.example/a//b/"),
            ("a.example", 80, "http://a.example/.../..a/.b", "http://a.example/.../..a/.b"),
            ("a.example", 80, "http://a.example/%", "http://a.example/%"),
            ("a.example", 80, "http://a.example/%4/%zz?%7e", "http://a.example/%4/%zz?~"),
            ("::1", 80, "http://[::1]/", "http://[::1]/"),
        ] {
            assert_eq!(normal(&request(Way::Http, host, port, target)), expected, "{target}");
        }
        assert_eq!(normal(&request(Way::Ws, "a", 80, "ws://a/x")), "http://a/x");
    }

    #[test]
    fn the_first_pattern_that_has_a_url_decides_and_tunnels_have_none() {
        let id = |line| RuleId { source: 3, line };
        let urls = Urls::new(&[
            (Action::Allow, id(1), "/ads/good"),
            (Action::Deny, id(2), "/ads/"),
            (Action::Deny, id(3), r"^http://b\.example/"),
            (Action::Deny, id(4), "(?i)\\.EXE$"),
        ])
        .unwrap();
        let decided = |way, host, target| urls.decide(&request(way, host, 80, target));
        let http = |host, target| decided(Way::Http, host, target).map(|(a, id)| (a, id.line));
        assert_eq!(http("a", "http://a/ads/good"), Some((Action::Allow, 1)));
        assert_eq!(http("a", "http://a/%61ds/x"), Some((Action::Deny, 2)));
        assert_eq!(http("b.example", "http://b.example"), Some((Action::Deny, 3)));
        assert_eq!(http("a", "http://a/x.exe"), Some((Action::Deny, 4)));
        assert_eq!(http("a", "http://a/"), None);
        assert_eq!(decided(Way::Ws, "a", "ws://a/ads/").map(|(_, id)| id.line), Some(2));
        assert_eq!(decided(Way::Connect, "a", "a:443/ads/"), None);
        assert_eq!(Urls::default().decide(&request(Way::Http, "a", 80, "http://a/ads/")), None);
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_what_to_try() {
        for wrong in ["", "(", "a{1000}{1000}{1000}", "[z-a]", "^ws://a", "ws://"] {
            let error = Urls::check(wrong).unwrap_err();
            assert!(error.contains("give a regular expression such as"), "{wrong}: {error}");
        }
        assert!(Urls::check("^http://").is_ok());
    }
}
