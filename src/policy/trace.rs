//! Records step by step how a decision came about, for `threadgate explain`.
//!
//! The deciding code itself notes each step. The proxy passes `()`, which notes nothing and compiles to
//! nothing, so `explain` shows exactly what the proxy does.

use std::net::IpAddr;

use super::lists::Found;
use super::rule_origin::RuleId;
use super::rules::{Action, Rule};

/// A step of a decision. Variants are in the order of the steps.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum DecisionStep {
    /// Clients that may use the proxy, and the rules.
    Acl,
    /// The user.
    Auth,
    /// Block and allow lists.
    Filter,
    /// Rates and limits.
    Shape,
    /// The address that would be connected to.
    Address,
    /// The server name in a tunnel's ClientHello.
    Hello,
    /// The head of the response.
    Response,
}

impl DecisionStep {
    /// The step's name in the output.
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

/// The result of a step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StepOutcome {
    /// No objection; the next step decides.
    Goes,
    /// Allowed by a rule.
    Allows,
    /// Refused.
    Denies,
    /// Refused if the policy were enforced.
    WouldDeny,
}

impl StepOutcome {
    /// The result's name in the output.
    pub fn word(self) -> &'static str {
        match self {
            Self::Goes => "goes on",
            Self::Allows => "allowed",
            Self::Denies => "denied",
            Self::WouldDeny => "would be denied",
        }
    }
}

/// One step as it happened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Note {
    /// The step.
    pub step: DecisionStep,
    /// Its result.
    pub outcome: StepOutcome,
    /// The rule that decided, if one did.
    pub rule: Option<RuleId>,
    /// The comparison in words, for a person to read.
    pub said: String,
}

/// A receiver of notes.
pub trait Trace {
    /// Takes a note of one step; `note` is called only if the receiver wants it.
    fn note(&mut self, note: impl FnOnce() -> Note);
}

/// Drops all notes.
impl Trace for () {
    #[inline(always)]
    fn note(&mut self, _: impl FnOnce() -> Note) {}
}

impl Trace for Vec<Note> {
    fn note(&mut self, note: impl FnOnce() -> Note) {
        self.push(note());
    }
}

/// The sentences of notes: each says which values were compared.
pub(super) mod sentences {
    use super::*;

    /// A URL longer than the rules on URLs read.
    pub(crate) fn long_url(bytes: usize) -> String {
        format!("a URL of {bytes} bytes")
    }

    /// Whether a client may use the proxy.
    pub(crate) fn client(client: IpAddr, decided: Option<RuleId>, rule: Option<&Rule>) -> String {
        match (decided, rule) {
            (Some(_), Some(rule)) if rule.is_for_other_clients() => {
                format!("client {client} is in none of the networks that are served")
            }
            (Some(_), Some(rule)) => format!("client {client}: {rule}"),
            (Some(_), None) => format!("client {client} is not in a private network"),
            (None, _) => format!("client {client} is served"),
        }
    }

    /// No rule lets in a client that protected mode does not serve.
    pub(crate) fn no_rule_for_client(client: IpAddr) -> String {
        format!("no rule lets client {client} in")
    }

    /// The user who asks.
    pub(crate) fn user(user: Option<&str>, known: bool) -> String {
        match (user, known) {
            (Some(user), true) => format!("user {user}"),
            (Some(user), false) => format!("there is no user {user}"),
            (None, _) => "no user; a 407 asks for one".to_owned(),
        }
    }

    /// No rule matches the request.
    pub(crate) fn no_rule(of: usize) -> String {
        match of {
            0 => "there are no rules".to_owned(),
            1 => "the only rule does not name it".to_owned(),
            _ => format!("none of {of} rules names it"),
        }
    }

    /// The verdict of the lists on a host.
    pub(crate) fn listed(host: &str, found: Option<Found>, of: usize) -> String {
        match found {
            None => format!("none of {of} names in lists has {host}"),
            Some(found) if found.by_allow_list => format!("{host} is on an allow list"),
            Some(found) if found.action == Action::Allow => format!("{host} is an exception"),
            Some(_) => format!("{host} is on a block list"),
        }
    }

    /// The number of rules that judge by address.
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
