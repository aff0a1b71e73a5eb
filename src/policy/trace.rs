//! Records step by step how a decision came about, for `threadgate explain`.
//!
//! The code that decides notes what it does at each step. A proxy hands it `()`, which notes nothing and
//! compiles to nothing, so what is explained is what is done.

use std::net::IpAddr;

use super::lists::Found;
use super::rule_origin::RuleId;
use super::rules::{Action, Rule};

/// A step of a decision, in their order.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum DecisionStep {
    /// Who may come, and the rules.
    Acl,
    /// Who it is.
    Auth,
    /// Lists.
    Filter,
    /// How fast.
    Shape,
    /// The address that would be connected to.
    Address,
    /// The name with which TLS begins in a tunnel.
    Hello,
    /// What the response says of itself.
    Response,
}

impl DecisionStep {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Acl => "acl",
            Self::Auth => "auth",
            Self::Filter => "filter",
            Self::Shape => "shape",
            Self::Address => "address",
            Self::Hello => "hello",
            Self::Response => "response",
        }
    }
}

/// What a step came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StepOutcome {
    /// It has nothing against it; the next step says.
    Goes,
    /// A rule allows it.
    Allows,
    /// It refuses it.
    Denies,
    /// It would refuse it if that were enforced.
    WouldDeny,
}

impl StepOutcome {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Goes => "goes on",
            Self::Allows => "allowed",
            Self::Denies => "denied",
            Self::WouldDeny => "would be denied",
        }
    }
}

/// What happened at a step.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Note {
    /// Which.
    pub step: DecisionStep,
    /// What it came to.
    pub outcome: StepOutcome,
    /// The rule that says so, if one does.
    pub rule: Option<RuleId>,
    /// What was compared with what, for a person.
    pub said: String,
}

/// Who is told.
pub trait Trace {
    /// Something happened; `note` is asked for only if somebody wants to know.
    fn note(&mut self, note: impl FnOnce() -> Note);
}

/// Nobody.
impl Trace for () {
    #[inline(always)]
    fn note(&mut self, _: impl FnOnce() -> Note) {}
}

impl Trace for Vec<Note> {
    fn note(&mut self, note: impl FnOnce() -> Note) {
        self.push(note());
    }
}

/// What was compared with what, in words.
pub(super) mod said {
    use super::*;

    /// A URL that is too long to be looked at.
    pub(crate) fn long_url(bytes: usize) -> String {
        format!("a URL of {bytes} bytes")
    }

    /// Whether a client may come.
    pub(crate) fn client(client: IpAddr, decided: Option<RuleId>, rule: Option<&Rule>) -> String {
        match (decided, rule) {
            (Some(_), Some(rule)) => format!("client {client}: {rule}"),
            (Some(_), None) => format!("client {client} is in no private network"),
            (None, _) => format!("client {client} is served"),
        }
    }

    /// Who asks.
    pub(crate) fn user(user: Option<&str>, known: bool) -> String {
        match (user, known) {
            (Some(user), true) => format!("user {user}"),
            (Some(user), false) => format!("{user} is no user"),
            (None, _) => "no user; a 407 asks for one".to_owned(),
        }
    }

    /// No rule has the request.
    pub(crate) fn no_rule(of: usize) -> String {
        match of {
            0 => "there are no rules".to_owned(),
            1 => "the only rule does not name it".to_owned(),
            _ => format!("none of {of} rules names it"),
        }
    }

    /// What the lists say of a host.
    pub(crate) fn listed(host: &str, found: Option<Found>, of: usize) -> String {
        match found {
            None => format!("none of {of} names in lists has {host}"),
            Some(found) if found.by_allow_list => format!("{host} is on an allow list"),
            Some(found) if found.action == Action::Allow => format!("{host} is an exception"),
            Some(_) => format!("{host} is on a block list"),
        }
    }

    /// So many rules judge by address.
    pub(crate) fn by_address(count: usize) -> String {
        match count {
            1 => "1 rule will judge the address".to_owned(),
            _ => format!("{count} rules will judge the address"),
        }
    }

    /// Whether an address may be connected to.
    pub(crate) fn address(ip: IpAddr, rule: Option<&Rule>, reason: Option<&str>) -> String {
        match (rule, reason) {
            (Some(rule), _) => format!("{ip}: {rule}"),
            (None, Some(reason)) => format!("{ip}: {reason}"),
            (None, None) => format!("{ip}: nothing is against it"),
        }
    }
}
