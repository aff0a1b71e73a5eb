//! Rules on URLs of requests that are forwarded as messages; of a tunnel nobody sees any.
//!
//! A regular expression is found anywhere in the URL, which is brought into its normal form first,
//! so that another spelling is no way around a rule (RFC 3986 §6.2.2, §6.2.3): scheme and host in lower
//! case, no dot behind the host, no default port, no `%` encoding of what needs none, `.` and `..` of
//! the path resolved.
//!
//! Servers read some paths in ways of their own: they decode `%2f`, take several slashes for one or a
//! backslash for a slash, and cut `;parameters` off. Each such [reading](readings) is judged. A rule
//! that refuses one of them refuses the request; a rule that allows has to allow all of them. All
//! patterns are one set: a reading is looked at once, however many patterns there are.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use regex::{Regex, RegexBuilder};

use super::origin::RuleId;
use super::patterns::{Effort, Patterns, Unfinished};
use super::rules::{self, Action, Request};

/// The most memory one pattern may take, and all of them.
const REGEX_OCTETS: usize = 1 << 20;
const SET_OCTETS: usize = 64 << 20;
/// Octets of a URL that are looked at, at most. RFC 9110 §4.1 recommends to support 8,000.
pub const MAX_URL: usize = 8 * 1024;
/// Octets of all its readings.
const MAX_READINGS: usize = 24 * 1024;
/// How long the search of a look may hold a worker, but for the state that it is at. All readings take up to
/// 0.4 ms to write down.
const TIME: Duration = Duration::from_micros(300);

/// Rules on URLs, in the order in which they are looked at: the first that has one decides.
#[derive(Clone, Debug, Default)]
pub struct Urls {
    patterns: Option<Arc<Patterns>>,
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
        let patterns: Vec<_> = rules.iter().map(|(_, _, pattern)| *pattern).collect();
        let set = Patterns::new(&patterns, SET_OCTETS);
        let patterns = Some(Arc::new(
            set.map_err(|e| format!("the patterns are too large together ({e}); use fewer"))?,
        ));
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
            rules::Way::Connect => "of what goes through a tunnel no URL is seen".to_owned(),
            _ if self.rules.len() == 1 => {
                format!("the only pattern is not found in {}", normal(request))
            }
            _ => format!("none of {} patterns is found in {}", self.rules.len(), normal(request)),
        }
    }

    /// What they say of the request's URL.
    pub fn decide(&self, request: &Request<'_>) -> Said {
        let Some(patterns) = self.patterns.as_ref().filter(|_| request.way != rules::Way::Connect)
        else {
            return Said::Nothing;
        };
        let looked_at = Some(request).filter(|request| request.target.len() <= MAX_URL);
        let Some(urls) = looked_at.and_then(readings) else {
            return self.first_that_refuses().map_or(Said::Nothing, Said::TooLong);
        };
        let mut effort = Effort::new(TIME);
        let mut allowed = None;
        let mut all_are = true;
        for (place, url) in urls.into_iter().enumerate() {
            let found = match patterns.first_in(&url, &mut effort) {
                Ok(found) => found.and_then(|number| self.rules.get(number).copied()),
                Err(Unfinished) => return Said::NotYet(self.first_that_refuses()),
            };
            match found {
                Some((Action::Deny, rule)) => return Said::Denies(rule, url),
                Some((Action::Allow, rule)) if place == 0 => allowed = Some((rule, url)),
                Some((Action::Allow, _)) => {}
                None => all_are = false,
            }
        }
        match allowed.filter(|_| all_are) {
            Some((rule, url)) => Said::Allows(rule, url),
            None => Said::Nothing,
        }
    }
}

fn last_line(error: &regex::Error) -> String {
    error.to_string().lines().last().unwrap_or_default().trim().to_owned()
}

impl Urls {
    /// How often a request is looked at before a rule is believed to be found in its URL.
    pub fn looks(&self) -> u8 {
        self.patterns.as_ref().map_or(1, |patterns| patterns.looks())
    }

    fn first_that_refuses(&self) -> Option<RuleId> {
        self.rules.iter().find(|(action, _)| *action == Action::Deny).map(|(_, rule)| *rule)
    }
}

/// What rules on URLs say of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Said {
    /// No pattern is found in it, or not in each of its readings.
    Nothing,
    /// This rule lets it through: the first that is found in this, its normal form.
    Allows(RuleId, String),
    /// This rule refuses it: the first that is found in this reading.
    Denies(RuleId, String),
    /// It is longer than what is looked at, and this is the first rule that refuses URLs.
    TooLong(RuleId),
    /// Looking took longer than a worker may be held, and this is the first rule that refuses URLs, if
    /// one does. The next look gets further.
    NotYet(Option<RuleId>),
}

/// The URL of a request in its normal form, and as servers read it that read its path otherwise. `None` if
/// that is more than what is looked at.
pub fn readings(request: &Request<'_>) -> Option<Vec<String>> {
    let (mut url, path, query) = parts(request);
    let server = url.len();
    let query = query.map(|query| format!("?{}", decoded(query, is_unreserved)));
    let query = query.unwrap_or_default();
    let plain = decoded(path, is_unreserved);
    push_path(&mut url, &plain, Way::default());
    url.push_str(&query);
    let mut urls = vec![url];
    // As almost every path is.
    if !plain.contains(['%', '\\', ';']) && !plain.contains("//") {
        return Some(urls);
    }
    let once = decoded(path, is_printable);
    let twice = decoded(&once, is_printable);
    let mut octets = 0;
    let twice = (twice != once).then_some(twice);
    let once = (once != plain).then_some(once);
    for path in [Some(plain), once, twice].into_iter().flatten() {
        for way in Way::all_for(&path) {
            let mut url = String::with_capacity(server + path.len() + query.len());
            url.push_str(urls.first()?.get(..server)?);
            push_path(&mut url, &path, way);
            url.push_str(&query);
            octets += url.len();
            if octets > MAX_READINGS {
                return None;
            }
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
    }
    Some(urls)
}

/// How a server reads a path that it has decoded.
#[derive(Clone, Copy, Debug, Default)]
struct Way {
    /// A backslash is a slash.
    backslashes: bool,
    /// A segment ends at a `;`.
    parameters: bool,
    /// Several slashes are one, before dots are resolved, or after.
    merges_before: bool,
    merges_after: bool,
}

impl Way {
    /// All that may make a difference for this path.
    fn all_for(path: &str) -> impl Iterator<Item = Self> {
        let (has_backslash, has_parameter) = (path.contains('\\'), path.contains(';'));
        // What is cut off, or turned, may bring slashes together.
        let merges = has_backslash || has_parameter || path.contains("//");
        let both = |may_be| [false, true].into_iter().take(if may_be { 2 } else { 1 });
        both(has_backslash).flat_map(move |backslashes| {
            both(has_parameter).flat_map(move |parameters| {
                both(merges).flat_map(move |merges_before| {
                    both(merges && !merges_before).map(move |merges_after| Self {
                        backslashes,
                        parameters,
                        merges_before,
                        merges_after,
                    })
                })
            })
        })
    }
}

/// The URL of a request, in its normal form.
pub fn normal(request: &Request<'_>) -> String {
    let (mut url, path, query) = parts(request);
    push_path(&mut url, &decoded(path, is_unreserved), Way::default());
    if let Some(query) = query {
        url.push('?');
        url.push_str(&decoded(query, is_unreserved));
    }
    url
}

/// Scheme and server in their normal form; the path and the query as they stand.
fn parts<'a>(request: &Request<'a>) -> (String, &'a str, Option<&'a str>) {
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
    match rest.split_once('?') {
        Some((path, query)) => (url, path, Some(query)),
        None => (url, rest, None),
    }
}

/// What needs no percent-encoding (RFC 3986 §2.3).
fn is_unreserved(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"-._~".contains(&octet)
}

/// What some servers decode before they look at a path.
fn is_printable(octet: u8) -> bool {
    (b' '..=b'~').contains(&octet)
}

/// Without the percent-encoding of octets that need none; the others in upper case.
fn decoded(text: &str, needs_none: fn(u8) -> bool) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        plain.push_str(before);
        let digits = after.get(..2).filter(|d| d.bytes().all(|c| c.is_ascii_hexdigit()));
        let octet = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        rest = match octet {
            Some(octet) if needs_none(octet) => {
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
fn push_path(url: &mut String, path: &str, way: Way) {
    let root = url.len();
    let is_slash = |c: char| c == '/' || way.backslashes && c == '\\';
    let mut segments = path.strip_prefix(is_slash).unwrap_or(path).split(is_slash).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        let segment = match segment.split_once(';') {
            Some((name, _)) if way.parameters => name,
            _ => segment,
        };
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
            "" if way.merges_before && !is_last => {}
            segment => {
                url.push('/');
                url.push_str(segment);
            }
        }
    }
    if way.merges_after {
        let mut before = ' ';
        let path = url.split_off(root);
        url.extend(path.chars().filter(|c| std::mem::replace(&mut before, *c) != '/' || *c != '/'));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::rules::Way;

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

    /// What is said in the end: states of automata have to be made first.
    fn judged(urls: &Urls, request: &Request<'_>) -> Said {
        let looks = (0..urls.looks()).map(|_| urls.decide(request));
        let mut known = looks.skip_while(|said| matches!(said, Said::NotYet(_)));
        known.next().unwrap_or(Said::Nothing)
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
        let decided = |way, host, target| match judged(&urls, &request(way, host, 80, target)) {
            Said::Allows(rule, _) => Some((Action::Allow, rule)),
            Said::Denies(rule, _) => Some((Action::Deny, rule)),
            Said::TooLong(_) | Said::NotYet(_) | Said::Nothing => None,
        };
        let http = |host, target| decided(Way::Http, host, target).map(|(a, id)| (a, id.line));
        assert_eq!(http("a", "http://a/ads/good"), Some((Action::Allow, 1)));
        assert_eq!(http("a", "http://a/%61ds/x"), Some((Action::Deny, 2)));
        assert_eq!(http("b.example", "http://b.example"), Some((Action::Deny, 3)));
        assert_eq!(http("a", "http://a/x.exe"), Some((Action::Deny, 4)));
        assert_eq!(http("a", "http://a/"), None);
        assert_eq!(decided(Way::Ws, "a", "ws://a/ads/").map(|(_, id)| id.line), Some(2));
        assert_eq!(decided(Way::Connect, "a", "a:443/ads/"), None);
        let none = judged(&Urls::default(), &request(Way::Http, "a", 80, "http://a/ads/"));
        assert_eq!(none, Said::Nothing);
    }

    #[test]
    fn a_rule_refuses_a_path_in_every_reading_of_some_server() {
        let id = |line| RuleId { source: 3, line };
        let rule = |action, line, pattern| Urls::new(&[(action, id(line), pattern)]).unwrap();
        let urls = rule(Action::Deny, 1, "^http://a/ads(/|$)");
        let decide =
            |path: &str| judged(&urls, &request(Way::Http, "a", 80, &format!("http://a{path}")));
        for path in [
            "/ads/x",
            "//ads/x",
            "///ads//x",
            "/x/..//ads/x",
            "/x/..///../ads/x",
            "//x/../ads/x",
            "/ads%2fx",
            "/ads%2Fx",
            "/%2fads/x",
            "/%2f%2Fads%2f",
            "/x%2f..%2fads/x",
            "/x/..%2fads/x",
            "/x%2f%2e%2e%2fads/x",
            "/%252fads/x",
            "/x/%252e%252e/ads/x",
            "/./ads",
            "/%2e/ads",
            "/x/%2e%2e/ads",
            "/x/%2E./ads/",
            "/%61%64%73/x",
            "/%2561ds/x",
            "/ads;v=1/x",
            "/ads;/x",
            "/ads%3bv=1/x",
            "/;v=1/ads/x",
            "/x/..;/ads/x",
            "/x/..;a=b/ads/x",
            "/x/..%3b/ads/x",
            "/\\ads/x",
            "/ads\\x",
            "/x\\..\\ads",
            "/%5cads%5Cx",
            "/x/..%5cads",
            "/%255cads",
            "/x/;/..//..;\\ads%2f",
            "/ads/?q",
            "//ads/?/../",
            "/x/y/..//../ads/",
            "/x//..//../ads/x",
        ] {
            assert!(matches!(decide(path), Said::Denies(..)), "{path}: {:?}", decide(path));
        }
        for path in [
            "/",
            "/adsx",
            "/x/ads/",
            "/ad%2fs/",
            "/x?/ads/",
            "/x?//ads",
            "/x?%2fads",
            "/a;ds/",
            "/%ads/",
        ] {
            assert_eq!(decide(path), Said::Nothing, "{path}");
        }
        // Rules still see it as it stands.
        for (pattern, path) in
            [("//", "/a//b"), ("%2F", "/a%2fb"), (";", "/a;b"), ("\\\\", "/a\\b")]
        {
            let urls = rule(Action::Deny, 1, pattern);
            let said = judged(&urls, &request(Way::Http, "a", 80, &format!("http://a{path}")));
            assert!(matches!(said, Said::Denies(..)), "{pattern} {path}");
        }
        let urls = rule(Action::Allow, 1, "^http://a/good/");
        for (path, allows) in [
            ("/good/x", true),
            ("/good//x", true),
            ("/good/x;v=1", true),
            ("/x/../good/", true),
            ("/good/..%2fbad", false),
            ("/good/x\\..\\..\\bad", false),
            ("/good/..;/bad", false),
            ("//good/x", false),
            ("/good%2fx", false),
        ] {
            let said = judged(&urls, &request(Way::Http, "a", 80, &format!("http://a{path}")));
            assert_eq!(matches!(said, Said::Allows(..)), allows, "{path}: {said:?}");
        }
    }

    #[test]
    fn a_url_that_is_too_long_to_be_looked_at_is_refused_where_a_rule_refuses_urls() {
        let id = |line| RuleId { source: 3, line };
        let longest = format!("http://a/{}", "x".repeat(MAX_URL - 9));
        let longer = format!("{longest}x");
        let both = [(Action::Allow, id(1), "^http://a/"), (Action::Deny, id(2), "/ads/")];
        for (rules, target, expected) in [
            (&both[..], &longest, Said::Allows(id(1), longest.clone())),
            (&both, &longer, Said::TooLong(id(2))),
            (&both[..1], &longest, Said::Allows(id(1), longest.clone())),
            (&both[..1], &longer, Said::Nothing),
        ] {
            let urls = Urls::new(rules).unwrap();
            assert_eq!(judged(&urls, &request(Way::Http, "a", 80, target)), expected);
        }
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
