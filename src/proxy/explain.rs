//! Explains what the proxy would do with a request, with the same functions that do it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::error::Error;
use crate::policy::decide::{AddressRules, Decision, Mode, Rules, Verdict};
use crate::policy::limits::{Applied, Limits, Who};
use crate::policy::response_rules::TypeRule;
use crate::policy::rule_origin::RuleId;
use crate::policy::rules::{Request, Way};
use crate::policy::sni::Sni;
use crate::policy::trace::{DecisionStep, Note, StepOutcome};
use crate::upstream::peer::Endpoint;
use crate::wire::{self, RequestHead, Slots, Target};

use super::blame::refused;
use super::intent::Asked;
use super::request::aim;

/// The client that asks.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// The user it claims to be. The claim counts as proven, if there is such a user.
    pub user: Option<&'a str>,
}

/// The decision before an address is known, and the steps to it.
#[derive(Debug)]
pub struct Explained {
    /// Each step, in order.
    pub notes: Vec<Note>,
    /// The outcome.
    pub decision: Decision,
    /// How the request is made: CONNECT, HTTP or WebSocket.
    pub way: Way,
    /// `host:port`.
    pub authority: String,
    /// The host, without brackets.
    pub host: String,
    /// The host, if it is an address.
    pub ip: Option<IpAddr>,
    /// The port.
    pub port: u16,
    /// The limits that apply to it.
    pub limits: Vec<Applied>,
    addresses: AddressRules,
    rules: Arc<Rules>,
    client: IpAddr,
    user: Option<String>,
}

/// Explains the decision on the request whose head is `bytes`.
///
/// # Errors
///
/// The head is no request that could be forwarded.
pub fn explain(
    bytes: &[u8],
    asking: Asking<'_>,
    rules: &Arc<Rules>,
    limits: Option<&Arc<Limits>>,
) -> Result<Option<Explained>, Error> {
    let (sizes, mut respelt) = (wire::HeadLimits::default(), Vec::new());
    let mut slots = Slots::new();
    let head = match RequestHead::read(bytes, &mut slots, &sizes) {
        Err(e) => RequestHead::read_respelt(bytes, e, &mut slots, &sizes, &mut respelt),
        read => read,
    };
    let head = head.map_err(refused)?;
    if matches!(head.target, Target::Origin(_) | Target::Asterisk) {
        return Ok(None);
    }
    let mut destination = Endpoint::default();
    let (way, _) = aim(&head, &mut destination)?;
    // Without users nobody is one, whatever the client claims.
    let user = asking.user.filter(|_| rules.auth.is_some());
    let asked = Asked::by_http(&head, way, asking.client, &destination);
    let request = asked.request(user.unwrap_or_default());
    let (mut notes, mut addresses) = (Vec::<Note>::new(), AddressRules::default());
    let decision = loop {
        notes.clear();
        let decision = match &rules.auth {
            Some(auth) if !user.is_some_and(|user| auth.has_user(user)) => {
                rules.decide_unproven(&request, &mut addresses, &mut notes)
            }
            _ => rules.decide_traced(&request, &mut addresses, &mut notes),
        };
        if !addresses.is_unfinished() {
            break decision;
        }
    };
    let who = Who {
        client: request.client,
        user: request.user,
        host: request.host,
        ip: request.ip,
        port: request.port,
    };
    let limits = limits.map(|limits| limits.describe(&who)).unwrap_or_default();
    let (host, ip, port) = (request.host.to_owned(), request.ip, request.port);
    Ok(Some(Explained {
        notes,
        decision,
        way,
        authority: destination.authority().to_owned(),
        host,
        ip,
        port,
        limits,
        addresses,
        rules: Arc::clone(rules),
        client: asking.client,
        user: user.map(str::to_owned),
    }))
}

impl Explained {
    /// Judges a connection to this address.
    pub fn judge(&mut self, ip: IpAddr) -> Decision {
        self.addresses.judge_traced(ip, self.port, &mut self.notes)
    }

    /// Notes the checks that follow once the request has been connected.
    pub fn foresee(&mut self) {
        match self.way {
            Way::Connect => self.notes.extend(of_hello(&self.rules)),
            Way::Http | Way::Ws => of_responses(&self.rules, &mut self.notes),
        }
    }

    /// Judges a tunnel, connected to this address, whose ClientHello names `name` (in lower case,
    /// without a trailing dot). `None` if no rule looks at the name.
    pub fn judge_hello(&mut self, name: &str, address: Option<IpAddr>) -> Option<Decision> {
        if self.way != Way::Connect || !self.rules.read_hellos() {
            let why = match (self.way, self.rules.sni) {
                (Way::Connect, Sni::Off) => "the ClientHello is not looked at: --sni off",
                (Way::Connect, _) => "the ClientHello is not looked at: no rule is about names",
                _ => "there is no tunnel, so no ClientHello",
            };
            self.notes.push(later(DecisionStep::Hello, None, why.to_owned()));
            return None;
        }
        let connect = Request {
            client: self.client,
            user: self.user.as_deref(),
            method: "CONNECT",
            way: Way::Connect,
            host: &self.host,
            ip: self.ip,
            port: self.port,
            target: &self.authority,
        };
        let to = address.map(|ip| SocketAddr::new(ip, self.port));
        let decision = self.rules.decide_hello(&connect, Some(name), to);
        let outcome = match (decision.verdict, decision.would_deny) {
            (Verdict::Deny(_), _) => StepOutcome::Denies,
            (Verdict::Allow, Some(_)) => StepOutcome::WouldDeny,
            (Verdict::Allow, None) => StepOutcome::Goes,
        };
        let said = format!("the ClientHello names {name}");
        self.notes.push(Note { step: DecisionStep::Hello, outcome, rule: decision.rule, said });
        Some(decision)
    }

    /// Whether a connection to this address is allowed, without a note.
    pub fn allows(&self, ip: IpAddr) -> bool {
        self.addresses.judge(ip, self.port).verdict == Verdict::Allow
    }

    /// Whether there are users.
    pub fn has_users(&self) -> bool {
        self.rules.auth.is_some()
    }

    /// The reply to the client in place of a 403: a status, and a location to send it to.
    pub fn instead(&self) -> Option<(u16, Option<&str>)> {
        self.rules.deny_with.instead(self.way == Way::Connect, &self.authority)
    }
}

/// The note on the check of the ClientHello in a tunnel.
fn of_hello(rules: &Rules) -> Option<Note> {
    let said = match rules.sni {
        Sni::Match(rule) => {
            let said = "the ClientHello in the tunnel must name the host of the CONNECT, if that is a name";
            return Some(later(DecisionStep::Hello, Some(rule), said.to_owned()));
        }
        _ if rules.judge_hellos() => "the name in the tunnel's ClientHello will be judged, too",
        _ if rules.read_hellos() => "the name in the tunnel's ClientHello will be learnt, too",
        _ => return None,
    };
    Some(later(DecisionStep::Hello, None, said.to_owned()))
}

/// The notes on the checks of the response.
fn of_responses(rules: &Rules, notes: &mut Vec<Note>) {
    let becomes = match rules.mode {
        Mode::Report => "would be refused",
        Mode::Open | Mode::Learn | Mode::Enforce => "will be refused",
    };
    // Types of one option stand together.
    for types in rules.responses.rules().types().chunk_by(|a, b| a.id() == b.id()) {
        let all: Vec<String> = types.iter().map(TypeRule::to_string).collect();
        let said = format!("a response of type {} {becomes}", all.join(" or "));
        notes.push(later(DecisionStep::Response, types.first().map(TypeRule::id), said));
    }
    if let Some((most, rule)) = rules.responses.rules().most() {
        let said = format!("a response with more than {most} bytes of content {becomes}");
        notes.push(later(DecisionStep::Response, Some(rule), said));
    }
}

fn later(step: DecisionStep, rule: Option<RuleId>, said: String) -> Note {
    Note { step, outcome: StepOutcome::Goes, rule, said }
}
