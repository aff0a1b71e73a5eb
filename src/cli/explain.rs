//! `threadgate explain`: shows what the proxy would do with a request, and why.
//!
//! The command reads the files now and decides with the same functions as a running proxy. It looks the
//! name up unless an address is given, and connects to nothing.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};
use crossbeam_channel::bounded;
use serde_json::{Value, json};

use crate::cli::effective_options::{GivenOptions, refused_hosts};
use crate::cli::exit::{Exit, Failure};
use crate::cli::logging;
use crate::cli::stdout::print;
use crate::config::listen;
use crate::config::lists::{ListedEffect, ListedLine};
use crate::net::given_names::GivenNames;
use crate::net::hosts::{self, Name};
use crate::net::listener::ListenPlace;
use crate::net::resolve::{Resolve, System};
use crate::policy::Policy;
use crate::policy::decide::{Decision, Verdict};
use crate::policy::destination::host_of_url;
use crate::policy::rule_origin::RuleId;
use crate::policy::trace::{DecisionStep, Note, StepOutcome};
use crate::proxy::OwnAddresses;
use crate::proxy::explain::{Asking, Explained, explain};
use crate::wire::Method;

/// explain what becomes of a request
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(subcommand, name = "explain")]
pub(crate) struct ExplainArgs {
    /// address of the client (default 127.0.0.1)
    #[argh(option, arg_name = "IP")]
    client: Option<String>,

    /// user who asks, taken as proven
    #[argh(option, arg_name = "NAME")]
    user: Option<String>,

    /// address of the name; may be repeated. Without it --resolve, the hosts files or a lookup tell
    #[argh(option, arg_name = "IP")]
    address: Vec<String>,

    /// name with which TLS begins in the tunnel
    #[argh(option, arg_name = "HOST")]
    hello: Option<String>,

    /// listener that is asked, if there are several (default: the first)
    #[argh(option, arg_name = "ADDR")]
    listener: Option<String>,

    /// write JSON
    #[argh(switch)]
    json: bool,

    /// method and URL
    #[argh(positional)]
    request: Vec<String>,
}

/// Prints each step of the decision on a request.
pub(crate) fn run(args: &ExplainArgs, given: &GivenOptions) -> Result<(), Failure> {
    let (method, url) = asked(&args.request)?;
    let (bytes, tunnelled) = head(method, url)?;
    let address = |option: &str, text: &str| {
        text.trim_matches(['[', ']']).parse::<IpAddr>().map_err(|_| {
            Failure::usage(format!(
                "{option}: '{text}' is not an IP address; give one such as 192.0.2.7"
            ))
        })
    };
    let client = match &args.client {
        Some(text) => address("--client", text)?.to_canonical(),
        None => Ipv4Addr::LOCALHOST.into(),
    };
    if args.user.as_deref() == Some("") {
        return Err(Failure::usage(
            "--user: '' is not a name; leave the option out for a client without a user",
        ));
    }
    let hello = args.hello.as_deref().map(hello_name).transpose()?;
    let leads_to = args.address.iter().map(|text| address("--address", text));
    let leads_to = leads_to.collect::<Result<Vec<_>, _>>()?;
    let effective = given.effective()?;
    let config = &effective.config;
    let access = config.access(None).map_err(|e| effective.unusable(&e))?;
    let policy = access.policy(config.listen(), config.server.open);
    let number = listener(args.listener.as_deref(), config.listen())?;
    let Some(rules) = policy.of(number) else {
        return Err(Failure::usage("--listener: there is no such listener"));
    };
    let asking = Asking { client, user: args.user.as_deref() };
    let own = config.own.iter().find(|own| own.number == number);
    let options = own.map_or(&config.access, |own| &own.access);
    let explained = explain(bytes.as_bytes(), asking, rules, policy.limits(number))
        .map_err(|e| Failure::usage(format!("explain: {}{}", e.reason(), advice(method, url))))?
        .ok_or_else(|| {
            Failure::usage(format!(
                "explain: '{url}' is asked of the proxy itself; give a whole URL, such as http://example.com/"
            ))
        })?;
    let listed = options.lines_about(&listed_as(&explained)).map_err(|e| effective.unusable(&e))?;
    let mut told =
        Told { policy: &policy, explained, listed, addresses: Addresses::default(), looped: false };
    let mut end = told.explained.decision;
    if end.verdict == Verdict::Allow {
        let names = &config.server.names;
        let of = GivenNames::new(&names.given, names.hosts_files.clone());
        let of = of.map_err(|wrong| refused_hosts(&wrong, &effective.settings))?;
        told.addresses = addresses(&told.explained, leads_to, &of, config.server.timeouts.connect);
        let admin = config.server.admin.iter().filter_map(|place| match place {
            ListenPlace::Tcp(address) => Some(*address),
            ListenPlace::Unix(_) => None,
        });
        end = told
            .judge(&OwnAddresses::new(config.listen().iter().copied().chain(admin).collect()), end);
        if end.verdict == Verdict::Allow && !told.looped {
            end = told.look_ahead(hello.as_deref(), end);
        }
    }
    let text = match args.json {
        true => format!("{:#}\n", told.json(method, asking, end)),
        false => {
            let colour = logging::is_stdout_colored(config.color);
            told.text(method, url, tunnelled, asking, end, colour)
        }
    };
    print(&text)?;
    match (end.verdict, told.looped) {
        (Verdict::Allow, false) => Ok(()),
        // The text above has already given the reason.
        _ => Err(Failure::new(Exit::Denied, "")),
    }
}

/// What a line does with the host. In the list of a rule it only says which hosts the rule is about.
fn says(line: &ListedLine) -> &'static str {
    match (&line.rule, line.says) {
        (None, says) => says.word(),
        (Some(_), ListedEffect::Refuses) => "lists",
        (Some(_), ListedEffect::Allows) => "leaves out",
        (Some(_), ListedEffect::SwitchesOff) => ListedEffect::SwitchesOff.word(),
    }
}

/// The host as lists spell it.
fn listed_as(explained: &Explained) -> String {
    explained.ip.map_or_else(|| explained.host.clone(), |ip| ip.to_canonical().to_string())
}

/// The method and the URL among the words.
fn asked(words: &[String]) -> Result<(&str, &str), Failure> {
    let usage = |said: String| Err(Failure::usage(format!("explain: {said}")));
    match words {
        [method, url] if method.contains("://") && !url.contains("://") => {
            usage(format!("the method comes first; write threadgate explain {url} {method}"))
        }
        [method, url] => Ok((method, url)),
        [word] => usage(alone(word)),
        [] => {
            let usual = "threadgate explain GET http://example.com/";
            usage(format!("needs a method and a URL; write for example {usual}"))
        }
        [_, _, more, ..] => usage(format!("'{more}' is one word too many; one request at a time")),
    }
}

/// What a single word lacks: a method, or a URL.
fn alone(word: &str) -> String {
    let method = word.to_ascii_uppercase();
    if Method::ALL.iter().any(|known| known.word() == method) {
        let url = if method == "CONNECT" { "example.com:443" } else { "http://example.com/" };
        return format!(
            "needs a URL behind the method; write for example threadgate explain {method} {url}"
        );
    }
    let asked = match word.rsplit_once(':') {
        _ if word.contains("://") => format!("GET {word}"),
        Some((_, "443")) => format!("CONNECT {word}"),
        _ if word.contains('/') => format!("GET http://{word}"),
        _ => format!("GET http://{word}/"),
    };
    format!("needs a method before the URL; write threadgate explain {asked}")
}

/// Advice for a target that cannot be used.
fn advice(method: &str, url: &str) -> &'static str {
    match (method, url.contains("://")) {
        // Browsers show such a URL decoded, but send it encoded.
        _ if !url.is_ascii() => {
            "; write the host in its xn-- form and other such characters as %XX, as a browser sends them"
        }
        (_, true) if url.contains('#') => "; leave out # and what follows, as a browser does",
        ("CONNECT", true) => "; CONNECT takes HOST:PORT, and GET an https URL",
        ("CONNECT", false) => "; give HOST:PORT, such as example.com:443",
        (_, false) => "; give a whole URL, such as http://example.com/",
        (_, true) => "",
    }
}

/// A host as a ClientHello may name it.
fn hello_name(text: &str) -> Result<String, Failure> {
    match hosts::name(text) {
        Name::Host(name) => Ok(name.into()),
        Name::Address | Name::Wrong => {
            let host = host_of_url(text).and_then(|host| host.split(':').next());
            let advice = match host {
                Some(host) => format!("is a URL; give its host alone: {host}"),
                None => "is not a host name; give one such as www.example.com".to_owned(),
            };
            Err(Failure::usage(format!("--hello: '{text}' {advice}")))
        }
    }
}

/// The number of the named listener, or of the first if none is named.
fn listener(named: Option<&str>, all: &[SocketAddr]) -> Result<u16, Failure> {
    let Some(text) = named else { return Ok(0) };
    let wrong = |e: String| Failure::usage(format!("--listener: {e}"));
    let (address, number) = match text.parse::<u16>() {
        // A port alone names the first listener with that port.
        Ok(port) => (text.to_owned(), all.iter().position(|of| of.port() == port)),
        Err(_) => {
            let address = listen::parse(text).map_err(wrong)?;
            (address.to_string(), all.iter().position(|of| *of == address))
        }
    };
    number.and_then(|number| u16::try_from(number).ok()).ok_or_else(|| {
        let all: Vec<String> = all.iter().map(ToString::to_string).collect();
        wrong(format!("{address} is not a listener; give one of {}", all.join(", ")))
    })
}

/// The head of the request. `true` means that the head is a CONNECT made for an https or wss URL.
fn head(method: &str, url: &str) -> Result<(String, bool), Failure> {
    // White space and control characters would break the request line.
    if let Some(c) = url.chars().find(|c| c.is_whitespace() || c.is_control()) {
        return Err(Failure::usage(format!("explain: {c:?} is not allowed in a URL; encode it")));
    }
    if let Some(c) = method.chars().find(|c| c.is_whitespace() || c.is_control()) {
        return Err(Failure::usage(format!("explain: {c:?} is not allowed in a method")));
    }
    let secure = ["https://", "wss://"].iter().find_map(|scheme| {
        let start = url.get(..scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then(|| url.get(scheme.len()..)).flatten()
    });
    let (method, target, tunnelled) = match secure {
        Some(rest) if method != "CONNECT" => {
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            let has_port = authority.rsplit(']').next().is_some_and(|end| end.contains(':'));
            let port = if has_port { "" } else { ":443" };
            ("CONNECT", format!("{authority}{port}"), true)
        }
        _ => (method, url.to_owned(), false),
    };
    let upgrade = match url.get(..5) {
        Some(start) if start.eq_ignore_ascii_case("ws://") => {
            "Connection: upgrade\r\nUpgrade: websocket\r\n"
        }
        _ => "",
    };
    Ok((format!("{method} {target} HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n"), tunnelled))
}

/// The addresses of a host, and where they come from.
#[derive(Debug, Default)]
struct Addresses {
    all: Vec<IpAddr>,
    said: String,
}

impl Addresses {
    fn of(&self, host: &str) -> String {
        let all: Vec<String> = self.all.iter().map(ToString::to_string).collect();
        match all.is_empty() {
            true => format!("{host}: {}", self.said),
            false => format!("{host} leads to {}: {}", all.join(", "), self.said),
        }
    }
}

/// Finds the addresses of a host as a proxy would, within a time limit.
fn addresses(
    explained: &Explained,
    given: Vec<IpAddr>,
    names: &GivenNames,
    within: Duration,
) -> Addresses {
    let host = &explained.host;
    let known = |all: Vec<IpAddr>, how: &str| Addresses { all, said: how.to_owned() };
    if let Some(ip) = explained.ip {
        let ignored = if given.is_empty() { "" } else { ", so --address is ignored" };
        return known(vec![ip], &format!("it is an address{ignored}"));
    }
    if !given.is_empty() {
        return known(given, "given by --address");
    }
    if let Some(ips) = names.find(host, explained.port) {
        return known(ips.to_vec(), "given by --resolve or a hosts file");
    }
    let (answers, answered) = bounded(1);
    let asked = host.clone();
    // A lookup may hang, so it runs on a thread that is abandoned when the time is up.
    let spawned = thread::Builder::new().name("resolver".into()).spawn(move || {
        // Sending fails only if the time is up.
        let _ = answers.send(System.resolve(&asked));
    });
    let answer = spawned.ok().and_then(|_| answered.recv_timeout(within).ok());
    match answer {
        Some(Ok(all)) if !all.is_empty() => known(all, "looked up"),
        Some(_) => known(Vec::new(), "the name has no address"),
        None => known(Vec::new(), "the name lookup took too long"),
    }
}

struct Told<'a> {
    policy: &'a Policy,
    explained: Explained,
    /// The lines of lists that are about the host.
    listed: Vec<ListedLine>,
    addresses: Addresses,
    /// Whether an address is the proxy's own.
    looped: bool,
}

impl Told<'_> {
    /// The decision on the addresses: one address that may be connected to is enough.
    fn judge(&mut self, own: &OwnAddresses, before: Decision) -> Decision {
        let mut end = None;
        for ip in self.addresses.all.clone() {
            if own.contain((ip, self.explained.port).into()) {
                self.looped = true;
                return before;
            }
            let decision = self.explained.judge(ip);
            let allowed = |d: &Decision| d.verdict == Verdict::Allow;
            if end.as_ref().is_none_or(|end| !allowed(end)) {
                end = Some(decision);
            }
        }
        match end {
            Some(end) if end.rule.is_some() || end.verdict != Verdict::Allow => end,
            _ => before,
        }
    }

    /// The decision on the steps after connecting, such as the ClientHello.
    fn look_ahead(&mut self, hello: Option<&str>, before: Decision) -> Decision {
        let Some(name) = hello else {
            self.explained.foresee();
            return before;
        };
        let all = &self.addresses.all;
        let address = all.iter().copied().find(|ip| self.explained.allows(*ip));
        match self.explained.judge_hello(name, address) {
            Some(end) if end.verdict != Verdict::Allow || end.would_deny.is_some() => end,
            _ => before,
        }
    }

    fn note(&self, lines: &mut Lines, note: &Note) {
        let rule = note.rule.map(|rule| self.rule(rule));
        lines.outcome(note.step.word(), note.outcome, &note.said, rule.as_deref());
    }

    fn rule(&self, rule: RuleId) -> String {
        self.policy.origins.name(rule).to_string()
    }

    /// Outcome, reason and status of the final decision.
    fn verdict(&self, end: Decision) -> (StepOutcome, Option<&'static str>, Option<u16>) {
        match (end.verdict, end.would_deny) {
            _ if self.looped => {
                (StepOutcome::Denies, Some("the request would come back to this proxy"), Some(508))
            }
            (Verdict::Deny(reason), _) if end.rule == Some(RuleId::AUTH) => {
                (StepOutcome::Denies, Some(reason), Some(407))
            }
            // The tunnel has already been answered with 200 by then.
            (Verdict::Deny(reason), _) if self.hello_refused() => {
                (StepOutcome::Denies, Some(reason), Some(200))
            }
            (Verdict::Deny(reason), _) => {
                let status = self.explained.instead().map_or(403, |(status, _)| status);
                (StepOutcome::Denies, Some(reason), Some(status))
            }
            (Verdict::Allow, Some(reason)) => (StepOutcome::WouldDeny, Some(reason), None),
            (Verdict::Allow, None) if self.addresses.all.is_empty() => {
                (StepOutcome::Allows, Some("as far as is known without an address"), None)
            }
            (Verdict::Allow, None) => (StepOutcome::Allows, None, None),
        }
    }

    fn text(
        &self,
        method: &str,
        url: &str,
        tunnelled: bool,
        asking: Asking<'_>,
        end: Decision,
        colour: bool,
    ) -> String {
        let of = &self.explained;
        let mut lines = Lines { text: String::new(), colour };
        lines.row("request", "", &format!("{method} {url}"), None);
        if tunnelled {
            lines.row(
                "",
                "",
                &format!("by CONNECT {}, which is all that the proxy sees", of.authority),
                None,
            );
        }
        let user = asking.user.map(|user| format!(", user {user}")).unwrap_or_default();
        lines.row("from", "", &format!("{}{user}", asking.client), None);
        if let Some(known) = known_as(method) {
            lines.row("", "", &format!("methods are case-sensitive: {known} is another one"), None);
        }
        if asking.user.is_some() && !of.has_users() {
            lines.row("", "", "there are no users here, so --user is ignored", None);
        }
        let (of_address, before): (Vec<_>, Vec<_>) =
            of.notes.iter().partition(|note| note.step >= DecisionStep::Address);
        before.iter().for_each(|note| self.note(&mut lines, note));
        for (at, line) in self.listed.iter().enumerate() {
            let name = if at == 0 { "lines" } else { "" };
            let says = format!("{:<15}", says(line));
            let mut place = format!("{}:{}", line.file.display(), line.line);
            if let Some(rule) = &line.rule {
                place.push_str(&format!(", a list of rule {rule}"));
            }
            lines.row(name, &says, &line.text, Some(&place));
        }
        for limit in &of.limits {
            lines.row(DecisionStep::Shape.word(), "", &limit.text, Some(&self.rule(limit.id)));
        }
        if !self.addresses.said.is_empty() {
            lines.row("name", "", &self.addresses.of(&of.host), None);
        }
        of_address.iter().for_each(|note| self.note(&mut lines, note));
        let (outcome, reason, status) = self.verdict(end);
        let status = status.map(|status| format!(" ({status}{})", self.behind(status)));
        let status = status.unwrap_or_default();
        let reason = reason.map(|reason| format!("{reason}{status}")).unwrap_or_default();
        let rule = end.rule.filter(|_| !self.looped).map(|rule| self.rule(rule));
        lines.outcome("verdict", outcome, &reason, rule.as_deref());
        if let Some(advice) = self.advice(end, asking) {
            lines.row("try", "", &advice, None);
        }
        lines.text
    }

    /// The narrow option that lets through what protected mode refuses.
    fn advice(&self, end: Decision, asking: Asking<'_>) -> Option<String> {
        if self.looped || end.verdict == Verdict::Allow || end.rule != Some(RuleId::PROTECTED) {
            return None;
        }
        Some(match self.addresses.all.is_empty() {
            true => format!(
                "--allow-client {}, with every other network to serve, or a rule that names the client",
                asking.client
            ),
            false => {
                let authority = &self.explained.authority;
                format!("--allow {authority}, or a rule that names it")
            }
        })
    }

    /// Details that the status alone does not show.
    fn behind(&self, status: u16) -> String {
        match (status, self.explained.instead()) {
            (200, _) => ", then a TLS alert".to_owned(),
            (302, Some((_, Some(to)))) => format!(" to {to}"),
            _ => String::new(),
        }
    }

    fn hello_refused(&self) -> bool {
        let last = self.explained.notes.last();
        last.is_some_and(|note| {
            note.step == DecisionStep::Hello && note.outcome == StepOutcome::Denies
        })
    }

    fn json(&self, method: &str, asking: Asking<'_>, end: Decision) -> Value {
        let of = &self.explained;
        let rule = |rule: Option<RuleId>| rule.map(|rule| self.rule(rule));
        let steps: Vec<Value> = of
            .notes
            .iter()
            .map(|note| {
                json!({
                    "step": note.step.word(),
                    "outcome": note.outcome.word(),
                    "rule": rule(note.rule),
                    "said": note.said,
                })
            })
            .collect();
        let listed: Vec<Value> = self
            .listed
            .iter()
            .map(|line| {
                json!({
                    "file": line.file,
                    "line": line.line,
                    "text": line.text,
                    "says": says(line),
                    "rule": line.rule,
                })
            })
            .collect();
        let limits = of.limits.iter();
        let limits = limits.map(|l| json!({ "rule": self.rule(l.id), "limit": l.text }));
        let (outcome, reason, status) = self.verdict(end);
        json!({
            "method": method,
            "way": of.way.word(),
            "host": of.host,
            "port": of.port,
            "client": asking.client.to_string(),
            "user": asking.user,
            "steps": steps,
            "lines": listed,
            "addresses": self.addresses.all.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "limits": limits.collect::<Vec<_>>(),
            "verdict": outcome.word(),
            "rule": rule(end.rule.filter(|_| !self.looped)),
            "reason": reason,
            "status": status,
        })
    }
}

/// The known method that differs from this one only in case.
fn known_as(method: &str) -> Option<String> {
    let upper = method.to_ascii_uppercase();
    (upper != method && Method::of(&upper) != Method::Other).then_some(upper)
}

/// Aligned lines, in colour for a terminal.
struct Lines {
    text: String,
    colour: bool,
}

impl Lines {
    fn outcome(&mut self, name: &str, outcome: StepOutcome, said: &str, rule: Option<&str>) {
        let code = match outcome {
            StepOutcome::Goes => "",
            StepOutcome::Allows => "\x1b[32m",
            StepOutcome::Denies => "\x1b[31m",
            StepOutcome::WouldDeny => "\x1b[33m",
        };
        let word = format!("{:<15}", outcome.word());
        let word = match self.colour && !code.is_empty() {
            true => format!("{code}{word}\x1b[0m"),
            false => word,
        };
        self.row(name, &word, said, rule);
    }

    /// Adds one line: the step, its outcome, what was compared, and the rule.
    fn row(&mut self, name: &str, outcome: &str, said: &str, rule: Option<&str>) {
        let outcome = if outcome.is_empty() { format!("{:<15}", "") } else { outcome.to_owned() };
        let (dim, plain) = if self.colour { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
        let rule = rule.map(|rule| format!("  [{rule}]")).unwrap_or_default();
        let line = format!("{dim}{name:<8}{plain} {outcome} {said}{rule}");
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{}", line.trim_end());
    }
}
