//! Answers requests to the admin listener: metrics, statistics, health, and a page for people.
//! Nothing here changes anything.
//!
//! Its connections are sessions like all others, on the same workers, with the same deadlines. Only
//! their permits are separate, so that they are answered when the proxy is full. Every answer is one of
//! a few, and bounded, whatever the request says.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use crate::error::RefusedBy;
use crate::observe::counters::{CLASSES, PHASES, Wait};
use crate::observe::gauges::WORKER_STATES;
use crate::observe::histogram::Histogram;
use crate::observe::report::{Life, Report};
use crate::observe::summary::Size;
use crate::wire::{Authority, Method, Target};

use super::reply::{Reply, escape};

/// Connections to the admin listener at once; further ones wait in the kernel.
pub const MAX_CONNECTIONS: usize = 16;

/// How long a connection may take to send its request. A connection carries one request only, so clients
/// that merely hold connections open cannot block a health check.
pub const HEAD_TIME: Duration = Duration::from_secs(2);

/// The source of the proxy's state and numbers. A worker asks it in the middle of a turn, so it must not
/// wait, nor do I/O on sockets.
pub trait Overview {
    /// Whether the proxy starts, serves or drains.
    fn life(&self) -> Life;

    /// All numbers.
    fn report(&self) -> Report;
}

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
/// The media type that Prometheus expects for its text format.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

const FIELDS: &str = "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n";
const FIELDS_405: &str = "Cache-Control: no-store\r\nAllow: GET, HEAD\r\n";
/// The page contains its own style and loads nothing else.
const FIELDS_HTML: &str = "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
    Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; \
    frame-ancestors 'none'\r\n";

/// The paths, and what each is for.
const PATHS: [(&str, &str); 4] = [
    ("/metrics", "all numbers, for Prometheus"),
    ("/stats.json", "the same as JSON"),
    ("/healthz", "200 for as long as the process serves"),
    ("/readyz", "200 while new work is taken, 503 while it starts or drains"),
];

/// An answer, before it is written.
pub struct AdminAnswer {
    status: u16,
    media_type: &'static str,
    content: Cow<'static, str>,
    fields: &'static str,
}

impl AdminAnswer {
    fn new(status: u16, media_type: &'static str, content: impl Into<Cow<'static, str>>) -> Self {
        Self { status, media_type, content: content.into(), fields: FIELDS }
    }

    /// As a reply.
    pub fn reply(&self) -> Reply<'_> {
        let content = Some((self.media_type, self.content.as_bytes()));
        Reply { status: self.status, content, fields: self.fields }
    }
}

/// The names that the admin listener answers to. Under any other name a web page could lead a browser
/// here (DNS rebinding), and would be allowed to read the answer.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// In lower case, without a trailing dot.
    names: Vec<String>,
}

impl Names {
    /// These names; beyond loopback also the host name of the machine.
    pub fn new(given: &[String], on_loopback: bool) -> Self {
        let own =
            (!on_loopback).then(|| rustix::system::uname().nodename().to_string_lossy().into());
        let all = given.iter().cloned().chain(own);
        Self { names: all.map(|name: String| bare(&name)).filter(|n| !n.is_empty()).collect() }
    }

    /// Whether a `Host` is one of these names, an address, `localhost`, or empty: no web page has one of
    /// those as its own.
    pub fn have(&self, host: Option<&str>) -> bool {
        let Some(host) = host.filter(|host| !host.is_empty()) else { return true };
        Authority::parse(host).is_ok_and(|authority| {
            let name = bare(authority.host);
            authority.ip.is_some() || name == "localhost" || self.names.contains(&name)
        })
    }
}

/// The form in which names are compared.
fn bare(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// The answer to a request for another host.
pub fn elsewhere() -> AdminAnswer {
    let refusal = "the admin listener answers only to addresses, localhost, the machine's host name (beyond \
                   loopback) and names given with --admin-name; ask for its address, as in \
                   http://127.0.0.1, with its port\n";
    AdminAnswer::new(421, TEXT, refusal)
}

/// The answer to a request for `target`; `html` if the client prefers HTML.
pub fn answer(method: Method, target: &Target<'_>, html: bool, of: &dyn Overview) -> AdminAnswer {
    let path = match target {
        Target::Origin(path) => path.split('?').next().unwrap_or_default(),
        Target::Asterisk => "*",
        Target::Authority(_) | Target::Absolute { .. } => {
            let refusal = "this is the admin listener of a proxy, which forwards nothing; \
                           send the request to the proxy's own address\n";
            return AdminAnswer::new(421, TEXT, refusal);
        }
    };
    if !matches!(method, Method::Get | Method::Head) {
        let only = AdminAnswer::new(405, TEXT, "only GET and HEAD are allowed here\n");
        return AdminAnswer { fields: FIELDS_405, ..only };
    }
    match path {
        "/" if html => {
            AdminAnswer { fields: FIELDS_HTML, ..AdminAnswer::new(200, HTML, page(&of.report())) }
        }
        "/" => {
            AdminAnswer::new(200, TEXT, list(&format!("threadgate is {}\n\n", of.life().word())))
        }
        "/metrics" => AdminAnswer::new(200, METRICS, of.report().prometheus()),
        "/stats.json" => AdminAnswer::new(200, JSON, of.report().json()),
        "/healthz" => AdminAnswer::new(200, TEXT, "ok\n"),
        "/readyz" => match of.life() {
            Life::Serving => AdminAnswer::new(200, TEXT, "ready\n"),
            Life::Starting => AdminAnswer::new(503, TEXT, "not ready: the proxy is starting\n"),
            Life::Draining => AdminAnswer::new(503, TEXT, "not ready: the proxy is draining\n"),
        },
        _ => AdminAnswer::new(404, TEXT, list("not found; these paths exist:\n\n")),
    }
}

fn list(head: &str) -> String {
    let mut text = head.to_owned();
    for (path, about) in [("/", "an overview")].iter().chain(&PATHS) {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(text, "{path:<12} {about}");
    }
    text
}

const STYLE: &str = "\
:root{color-scheme:light dark;--fg:#1c1e21;--dim:#5b636d;--bg:#fff;--line:#d9dde2;--link:#0b57c4;\
--good:#12703a;--bad:#a8321a}\
@media(prefers-color-scheme:dark){:root{--fg:#e4e7eb;--dim:#9aa4b0;--bg:#15181c;--line:#333a42;\
--link:#7ab2ff;--good:#5fd08c;--bad:#ff9478}}\
body{font:16px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:46em;\
margin:2.5em auto;padding:0 1em}h1{font-size:1.5em;margin:0}h2{font-size:1em;margin:2em 0 .4em}\
p{margin:.3em 0}a{color:var(--link)}.dim,th{color:var(--dim);font-weight:400}\
.good{color:var(--good)}.bad{color:var(--bad)}\
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}\
th,td{text-align:left;vertical-align:top;padding:.25em 1em .25em 0;border-top:1px solid var(--line)}\
th{white-space:nowrap}.n td{text-align:right}.n th~th{text-align:right}.n td:last-child,.n \
th:last-child{padding-right:0}";

/// How many sources of rules the page shows: those with the most hits.
const SOURCES: usize = 20;
/// How many single rules it shows.
const RULES: usize = 10;

/// The overview page, for people.
fn page(report: &Report) -> String {
    let class = if report.life == Life::Serving { "good" } else { "bad" };
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>threadgate</title>\n\
         <style>{STYLE}</style>\n<h1>threadgate <span class=\"dim\">{}</span></h1>\n\
         <p><span class=\"{class}\">{}</span> <span class=\"dim\">for {}; reload the page for \
         newer numbers</span>\n<h2>For programs</h2>\n<table>\n",
        env!("CARGO_PKG_VERSION"),
        report.life.word(),
        age(report.uptime.as_secs()),
    );
    for (path, about) in PATHS {
        let _ = writeln!(html, "<tr><th><a href=\"{path}\">{path}</a><td>{about}");
    }
    write_totals(&mut html, report);
    write_decisions(&mut html, report);
    write_times(&mut html, report);
    html
}

/// The current values, and the totals since the start.
fn write_totals(html: &mut String, report: &Report) {
    let (c, g) = (&report.counters, &report.gauges);
    html.push_str("</table>\n<h2>Now, and since the start</h2>\n<table>\n");
    let [client, proxy, upstream] = c.failures;
    let workers = WORKER_STATES.iter().zip(g.workers);
    let parked = Wait::ALL.iter().map(|w| w.word()).zip(g.parked).filter(|(_, n)| *n > 0);
    let classes = CLASSES.iter().copied().zip(c.exchanges_by_status).filter(|(_, n)| *n > 0);
    let rows = [
        (
            "connections",
            format!(
                "{} open of {}, {} accepted",
                grouped(g.connections_open),
                grouped(g.connections_max),
                grouped(c.connections_accepted)
            ),
        ),
        (
            "exchanges",
            format!(
                "{} under way, {} finished",
                grouped(g.exchanges_open),
                grouped(c.exchanges_finished)
            ),
        ),
        ("by status", counted(classes)),
        (
            "failures",
            counted([("client", client), ("proxy", proxy), ("upstream", upstream)].into_iter()),
        ),
        (
            "tunnels",
            format!("{} open, {} opened", grouped(g.tunnels_open), grouped(c.tunnels_opened)),
        ),
        (
            "bytes",
            format!(
                "{} from clients, {} to clients",
                Size(c.bytes_from_clients),
                Size(c.bytes_to_clients)
            ),
        ),
        (
            "upstream",
            format!(
                "{} connects, {} reuses, {} idle",
                grouped(c.upstream_connects),
                grouped(c.upstream_reuses),
                grouped(g.upstream_idle)
            ),
        ),
        (
            "names",
            format!(
                "{} looked up, {} from the cache, {} under way",
                grouped(c.lookups),
                grouped(c.lookup_cache_hits),
                grouped(g.lookups_pending)
            ),
        ),
        ("workers", counted(workers.map(|(word, n)| (*word, n)))),
        ("ready queue", format!("{} sessions", grouped(g.ready_sessions))),
        ("parked", counted(parked)),
        ("memory", format!("{} resident", Size(g.resident_bytes))),
    ];
    for (name, text) in rows {
        let text = if text.is_empty() { "none" } else { &text };
        let _ = writeln!(html, "<tr><th>{name}<td>{text}");
    }
}

/// What the policy refused and decided, and how often.
fn write_decisions(html: &mut String, report: &Report) {
    let c = &report.counters;
    let [refused, reported] = c.denials;
    let denied = counted([("refused", refused), ("reported", reported)].into_iter());
    let reasons = RefusedBy::ALL.map(RefusedBy::word).into_iter().zip(c.refused);
    html.push_str("</table>\n<h2>What the policy decided</h2>\n<table>\n");
    let _ = writeln!(html, "<tr><th>refused by<td>{}", counted(reasons));
    let _ = writeln!(html, "<tr><th>against a request<td>{denied}");
    for (source, hits) in report.rule_hits.ranked().into_iter().take(SOURCES) {
        let _ = writeln!(html, "<tr><th>{}<td>{}", escape(source), grouped(hits));
    }
    let busiest = report.rule_hits.busiest().iter().take(RULES);
    let busiest: Vec<String> =
        busiest.map(|(rule, hits)| format!("{} {}", grouped(*hits), escape(rule))).collect();
    if !busiest.is_empty() {
        let _ = writeln!(html, "<tr><th>busiest rules<td>{}", busiest.join("<br>"));
    }
}

/// How long each phase took.
fn write_times(html: &mut String, report: &Report) {
    let c = &report.counters;
    html.push_str(
        "</table>\n<h2>How long things took</h2>\n<table class=\"n\">\n\
         <tr><th>phase<th>count<th>50 % within<th>90 % within<th>99 % within\n",
    );
    let phases = PHASES.iter().copied().zip(&c.phase_seconds);
    let wholes = [("exchange", &c.exchange_seconds), ("ready queue", &c.queue_wait_seconds)];
    for (name, histogram) in phases.chain(wholes) {
        let _ = write!(html, "<tr><th>{name}<td>{}", grouped(histogram.count()));
        for hundredths in [50, 90, 99] {
            let _ = write!(html, "<td>{}", within(histogram, hundredths));
        }
        html.push('\n');
    }
    html.push_str("</table>\n");
}

/// `12 idle, 3 tunnel`.
fn counted<'a>(numbers: impl Iterator<Item = (&'a str, u64)>) -> String {
    numbers.map(|(word, n)| format!("{} {word}", grouped(n))).collect::<Vec<_>>().join(", ")
}

/// A number with a narrow space between groups of three digits.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut grouped = String::with_capacity(digits.len() * 2);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

fn within(histogram: &Histogram, hundredths: u64) -> String {
    match histogram.quantile(hundredths) {
        _ if histogram.count() == 0 => "–".to_owned(),
        None => "> 10 min".to_owned(),
        Some(bound) if bound.as_secs() >= 60 => format!("{} min", bound.as_secs() / 60),
        Some(bound) if bound.as_secs() >= 1 => format!("{} s", bound.as_secs_f64()),
        Some(bound) => format!("{} ms", bound.as_micros() as f64 / 1000.0),
    }
}

/// `3 d 4 h`, `4 h 5 min`, `5 min 6 s`, `6 s`.
fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::observe::counters::Counters;
    use crate::observe::gauges::Gauges;
    use crate::observe::rule_hits::RuleHits;

    /// A proxy in which nothing has happened.
    pub(in super::super) struct At(pub(in super::super) Life);

    impl Overview for At {
        fn life(&self) -> Life {
            self.0
        }

        fn report(&self) -> Report {
            let uptime = Duration::from_secs(7385);
            let (counters, gauges) = (Counters::default(), Gauges::default());
            let rule_hits = RuleHits::default();
            Report { life: self.0, uptime, counters, gauges, rule_hits }
        }
    }

    fn get(path: &str, html: bool, life: Life) -> AdminAnswer {
        answer(Method::Get, &Target::Origin(path), html, &At(life))
    }

    #[test]
    fn each_path_has_its_answer() {
        let ready = |life| get("/readyz", false, life).status;
        assert_eq!(
            [ready(Life::Starting), ready(Life::Serving), ready(Life::Draining)],
            [503, 200, 503]
        );
        for (path, status, media_type) in [
            ("/", 200, TEXT),
            ("/metrics?x=y", 200, METRICS),
            ("/stats.json", 200, JSON),
            ("/healthz", 200, TEXT),
            ("/metrics/", 404, TEXT),
            ("/../etc/passwd", 404, TEXT),
        ] {
            let answer = get(path, false, Life::Draining);
            assert_eq!((answer.status, answer.media_type), (status, media_type), "{path}");
            assert!(answer.content.ends_with('\n'), "{path}");
        }
        assert!(get("/x", false, Life::Serving).content.contains("/stats.json"));
        assert!(get("/", true, Life::Draining).content.contains("draining</span> "));
    }

    #[test]
    fn it_goes_by_addresses_localhost_and_the_names_it_has() {
        let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let given = ["Proxy.Example".to_owned()];
        for (names, on_loopback) in [(&given[..], true), (&given[..], false), (&[], true)] {
            let names = Names::new(names, on_loopback);
            for host in
                ["", "localhost", "LocalHost:9127", "127.0.0.1", "192.0.2.1:1", "[::1]:9127"]
            {
                assert!(names.have(Some(host)), "{host}");
            }
            assert!(names.have(None));
            for host in ["a", "a:9127", "localhost.example", "127.0.0.1.example:80", "::1", "@"] {
                assert!(!names.have(Some(host)), "{host}");
            }
            for host in ["proxy.example", "PROXY.example.:9127"] {
                assert_eq!(names.have(Some(host)), !names.names.is_empty(), "{host}");
            }
            for host in ["x.proxy.example", "proxy.example.example", "proxy"] {
                assert!(!names.have(Some(host)) || host == own, "{host}");
            }
            assert!(on_loopback || names.have(Some(&own)), "{own}");
        }
    }

    #[test]
    fn only_reading_is_allowed_and_nothing_is_forwarded() {
        let at = At(Life::Serving);
        for method in Method::ALL {
            let answer = answer(method, &Target::Origin("/metrics"), false, &at);
            let reads = matches!(method, Method::Get | Method::Head);
            assert_eq!(answer.status, if reads { 200 } else { 405 }, "{method:?}");
            assert_eq!(answer.fields.contains("Allow: GET, HEAD\r\n"), !reads);
        }
        assert_eq!(answer(Method::Options, &Target::Asterisk, false, &at).status, 405);
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
        for (seconds, text) in
            [(6, "6 s"), (306, "5 min 6 s"), (14_700, "4 h 5 min"), (273_600, "3 d 4 h")]
        {
            assert_eq!(age(seconds), text);
        }
        let mut h = Histogram::default();
        assert_eq!(within(&h, 50), "–");
        h.record(Duration::from_millis(2));
        assert_eq!(within(&h, 50), "2.5 ms");
        h.record(Duration::from_secs(601));
        assert_eq!(within(&h, 99), "> 10 min");
    }
}
