//! Rules on the URLs of plain requests, applied to every way in which a server might read the URL.
//!
//! A rule's regular expression may match anywhere in the URL. The URL is brought into its normal form
//! first, so that another spelling is no way around a rule (RFC 3986 §6.2.2, §6.2.3): scheme and host in
//! lower case, no dot behind the host, no default port, no needless `%` encoding, `.` and `..` of the path
//! resolved.
//!
//! Some servers read paths in ways of their own: they decode `%2f`, take several slashes for one or a
//! backslash for a slash, and cut `;parameters` off. Each such reading is judged. A rule that refuses one
//! reading refuses the request; a rule that allows must allow all of them. All patterns are one set, so a
//! reading is searched once, however many patterns there are.

use std::mem;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use regex::{Regex, RegexBuilder};

use super::destination::regex_problem;
use super::patterns::{Effort, Patterns, Search, Unfinished};
use super::rule_origin::RuleId;
use super::rules::{self, Action, Request};

/// The most memory for one pattern, and for all of them.
const REGEX_BYTES: usize = 1 << 20;
const SET_BYTES: usize = 64 << 20;
/// The longest URL searched, in bytes. RFC 9110 §4.1 recommends supporting 8,000.
pub const MAX_URL: usize = 8 * 1024;
/// The most bytes of paths written down for the readings of one URL.
const MAX_READINGS: usize = 32 * 1024;
/// The time that one look may hold a worker, beyond the state that is being made. Writing all readings
/// down takes up to 0.4 ms.
const TIME: Duration = Duration::from_micros(300);
/// The time for all looks at a URL. A look counts at most twice [`TIME`], because time spent waiting for a
/// processor is not spent looking.
const ALL_LOOKS: Duration = Duration::from_millis(100);

/// Rules on URLs in order: the first whose pattern matches decides.
#[derive(Clone, Debug, Default)]
pub struct Urls {
    patterns: Option<Arc<Patterns>>,
    rules: Vec<(Action, RuleId)>,
}

impl Urls {
    /// Compiles the rules into one set.
    ///
    /// # Errors
    ///
    /// A sentence: the patterns are too large together.
    pub fn new(rules: &[(Action, RuleId, &str)]) -> Result<Self, String> {
        if rules.is_empty() {
            return Ok(Self::default());
        }
        let patterns: Vec<_> = rules.iter().map(|(_, _, pattern)| *pattern).collect();
        let set = Patterns::new(&patterns, SET_BYTES);
        let patterns = Some(Arc::new(
            set.map_err(|e| format!("the patterns are too large together ({e}); use fewer"))?,
        ));
        Ok(Self { patterns, rules: rules.iter().map(|(action, id, _)| (*action, *id)).collect() })
    }

    /// Checks a pattern.
    ///
    /// # Errors
    ///
    /// A sentence to print after the name of the option.
    pub fn check(pattern: &str) -> Result<(), String> {
        let wrong = |what: &str| {
            format!("'{pattern}' {what}; give a regular expression such as ^http://[^/]+/ads/")
        };
        if pattern.is_empty() {
            return Err(wrong("matches every URL"));
        }
        if pattern.trim_start_matches('^').starts_with("ws:") {
            return Err(wrong("matches no URL, because a WebSocket URL is compared as http://"));
        }
        let regex: Result<Regex, _> = RegexBuilder::new(pattern).size_limit(REGEX_BYTES).build();
        let reason =
            |e: regex::Error| wrong(&format!("is not a regular expression: {}", regex_problem(&e)));
        regex.map(drop).map_err(reason)
    }

    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Says that no rule matches the request's URL, for a person to read.
    pub(super) fn describe_none(&self, request: &Request<'_>) -> String {
        match request.way {
            rules::Way::Connect => "URLs inside a tunnel are not visible".to_owned(),
            _ if self.rules.len() == 1 => {
                format!("the only pattern is not found in {}", normal(request))
            }
            _ => format!("none of {} patterns is found in {}", self.rules.len(), normal(request)),
        }
    }

    /// Applies the rules to the request's URL. `kept` is the state from earlier looks at the same request.
    pub fn decide(&self, request: &Request<'_>, kept: &mut Option<Box<UrlLook>>) -> UrlVerdict {
        let Some(patterns) = self.patterns.as_ref().filter(|_| request.way != rules::Way::Connect)
        else {
            return UrlVerdict::Nothing;
        };
        let begun = Instant::now();
        let known = kept.take().filter(|look| Arc::ptr_eq(&look.patterns, patterns));
        let look = known.or_else(|| {
            let is_looked_at = request.target.len() <= MAX_URL;
            let readings = is_looked_at.then(|| readings(request)).flatten()?;
            Some(Box::new(UrlLook::new(Arc::clone(patterns), readings)))
        });
        let Some(look) = look else {
            return self.first_that_refuses().map_or(UrlVerdict::Nothing, UrlVerdict::TooLong);
        };
        kept.insert(look).go_on(self, begun)
    }
}

/// The progress of judging one request's URL.
#[derive(Debug)]
pub struct UrlLook {
    patterns: Arc<Patterns>,
    readings: Readings,
    /// The current reading, its number, and the progress in it.
    url: String,
    place: usize,
    search: Search,
    /// The rule that allows the normal form, if one does, and whether all readings so far are allowed.
    allowed: Option<(RuleId, String)>,
    all_are: bool,
    /// The time spent looking.
    spent: Duration,
    /// The final verdict.
    verdict: Option<UrlVerdict>,
}

impl UrlLook {
    fn new(patterns: Arc<Patterns>, readings: Readings) -> Self {
        Self {
            patterns,
            url: readings.get(0).unwrap_or_default(),
            readings,
            place: 0,
            search: Search::default(),
            allowed: None,
            all_are: true,
            spent: Duration::ZERO,
            verdict: None,
        }
    }

    fn go_on(&mut self, urls: &Urls, begun: Instant) -> UrlVerdict {
        if let Some(verdict) = &self.verdict {
            return verdict.clone();
        }
        let verdict = self.judge(urls, &Effort::until(begun + TIME)).unwrap_or_else(|_| {
            self.spent += begun.elapsed().min(2 * TIME);
            let rule = urls.first_that_refuses();
            if self.spent < ALL_LOOKS {
                UrlVerdict::NotYet(rule)
            } else {
                UrlVerdict::TooHard(rule)
            }
        });
        if !matches!(verdict, UrlVerdict::NotYet(_)) {
            self.search = Search::default();
            self.verdict = Some(verdict.clone());
        }
        verdict
    }

    fn judge(&mut self, urls: &Urls, effort: &Effort) -> Result<UrlVerdict, Unfinished> {
        loop {
            let found = self.patterns.first_in(&self.url, &mut self.search, effort)?;
            let next = self.readings.get(self.place + 1).unwrap_or_default();
            let url = mem::replace(&mut self.url, next);
            match found.and_then(|number| urls.rules.get(number).copied()) {
                Some((Action::Deny, rule)) => return Ok(UrlVerdict::Denies(rule, url)),
                Some((Action::Allow, rule)) if self.place == 0 => self.allowed = Some((rule, url)),
                Some((Action::Allow, _)) => {}
                None => self.all_are = false,
            }
            self.search = Search::default();
            self.place += 1;
            if self.place == self.readings.paths.len() {
                break;
            }
            if effort.is_used_up() {
                return Err(Unfinished);
            }
        }
        Ok(match self.allowed.take().filter(|_| self.all_are) {
            Some((rule, url)) => UrlVerdict::Allows(rule, url),
            None => UrlVerdict::Nothing,
        })
    }
}

impl Urls {
    fn first_that_refuses(&self) -> Option<RuleId> {
        self.rules.iter().find(|(action, _)| *action == Action::Deny).map(|(_, rule)| *rule)
    }
}

/// The verdict of rules on URLs on a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum UrlVerdict {
    /// No pattern matches, or an allowing one does not match every reading.
    Nothing,
    /// This rule allows the request: the first that matches its normal form, which is given.
    Allows(RuleId, String),
    /// This rule refuses the request: the first that matches the reading given.
    Denies(RuleId, String),
    /// The URL is too long to be searched; the first rule that refuses URLs is given.
    TooLong(RuleId),
    /// This look has used up its time; the first rule that refuses URLs is given, if there is one. The
    /// next look continues.
    NotYet(Option<RuleId>),
    /// All looks together have used up their time; otherwise like `NotYet`.
    TooHard(Option<RuleId>),
}

/// The URL of a request, in its normal form and in the other ways that servers may read its path.
#[derive(Debug, Default)]
struct Readings {
    /// Server and path of each reading, without doubles; the first is the normal form.
    paths: Vec<String>,
    /// The query that follows each of them.
    query: String,
}

impl Readings {
    fn get(&self, number: usize) -> Option<String> {
        self.paths.get(number).map(|path| [path.as_str(), &self.query].concat())
    }
}

/// All readings of a request's URL. `None` if they are longer than [`MAX_READINGS`].
fn readings(request: &Request<'_>) -> Option<Readings> {
    let (mut url, path, query) = parts(request);
    let server = url.clone();
    let query = query.map(|query| format!("?{}", decoded(query, is_unreserved)));
    let query = query.unwrap_or_default();
    let plain = decoded(path, is_unreserved);
    push_path(&mut url, &plain, Way::default());
    let mut paths = vec![url];
    // Almost every path takes this way.
    if !plain.contains(['%', '\\', ';']) && !plain.contains("//") {
        return Some(Readings { paths, query });
    }
    let mut bytes = 0;
    let mut next = Some(plain);
    for _ in 0..=DECODED {
        let Some(path) = next.take() else { break };
        let once_more = decoded(&path, is_printable);
        next = (once_more != path).then_some(once_more);
        for path in lenient(&path).into_iter().chain([path]) {
            for way in Way::all_for(&path) {
                bytes += path.len();
                if bytes > MAX_READINGS {
                    return None;
                }
                let mut url = String::with_capacity(server.len() + path.len() + 1);
                url.push_str(&server);
                push_path(&mut url, &path, way);
                if !paths.contains(&url) {
                    paths.push(url);
                }
            }
        }
    }
    Some(Readings { paths, query })
}

/// The number of times that servers, and the proxies before them, decode a path.
const DECODED: usize = 3;

/// UTF-8 that is longer than necessary, as some servers decode it (RFC 3629 §3).
const OVERLONG: [(&str, char); 6] = [
    ("%C0%AF", '/'),
    ("%C0%AE", '.'),
    ("%C1%9C", '\\'),
    ("%E0%80%AF", '/'),
    ("%E0%80%AE", '.'),
    ("%E0%81%9C", '\\'),
];

/// The path as read by servers that drop control characters and accept overlong UTF-8, if that differs.
fn lenient(path: &str) -> Option<String> {
    let mut read = String::new();
    let mut rest = path;
    let mut has_any = false;
    while let Some((before, from)) = rest.find('%').and_then(|at| rest.split_at_checked(at)) {
        read.push_str(before);
        let overlong = OVERLONG.iter().find_map(|(long, c)| Some((from.strip_prefix(long)?, *c)));
        let digits = from.get(1..3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        rest = match (overlong, digits) {
            (Some((after, c)), _) => {
                read.push(c);
                has_any = true;
                after
            }
            (None, Some(0..0x20 | 0x7f)) => {
                has_any = true;
                from.get(3..).unwrap_or_default()
            }
            _ => {
                read.push('%');
                from.get(1..).unwrap_or_default()
            }
        };
    }
    read.push_str(rest);
    has_any.then_some(read)
}

/// A server's way of reading a decoded path.
#[derive(Clone, Copy, Debug, Default)]
struct Way {
    /// A backslash is a slash.
    backslashes: bool,
    /// A segment ends at a `;`.
    parameters: bool,
    /// Several slashes count as one: merged before dots are resolved, or after.
    merges_before: bool,
    merges_after: bool,
}

impl Way {
    /// All ways that may differ for this path.
    fn all_for(path: &str) -> impl Iterator<Item = Self> {
        let (has_backslash, has_parameter) = (path.contains('\\'), path.contains(';'));
        let both = |may_be| [false, true].into_iter().take(if may_be { 2 } else { 1 });
        both(has_backslash).flat_map(move |backslashes| {
            both(has_parameter).flat_map(move |parameters| {
                // Cut parameters and turned backslashes may bring slashes together.
                let is_slash = |c: u8| c == b'/' || backslashes && c == b'\\';
                let ends = |c: u8| is_slash(c) || parameters && c == b';';
                let pairs = path.as_bytes().iter().zip(path.as_bytes().iter().skip(1));
                let merges = pairs.into_iter().any(|(one, other)| is_slash(*one) && ends(*other));
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

/// Scheme and server in their normal form; path and query unchanged.
fn parts<'a>(request: &Request<'a>) -> (String, &'a str, Option<&'a str>) {
    let mut url = String::with_capacity(request.target.len() + 16);
    // A request with an offer to upgrade gets the same as one without, from a server that ignores the
    // offer.
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

/// Whether a byte needs no percent-encoding (RFC 3986 §2.3).
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// Whether some servers decode a byte before they look at a path.
fn is_printable(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte)
}

/// Decodes the percent-encoding of bytes that need none, and puts the rest in upper case.
fn decoded(text: &str, needs_none: fn(u8) -> bool) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        plain.push_str(before);
        let digits = after.get(..2).filter(|d| d.bytes().all(|c| c.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        rest = match byte {
            Some(byte) if needs_none(byte) => {
                plain.push(byte.into());
                after.get(2..).unwrap_or_default()
            }
            Some(byte) => {
                plain.push_str(&format!("%{byte:02X}"));
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
#[path = "url_rules_tests.rs"]
mod tests;
