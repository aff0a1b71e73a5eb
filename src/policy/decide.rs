//! Decides on a request and on the address it would connect to: fixed steps in a fixed order, each with
//! its reason.
//!
//! ```text
//! acl ──▶ auth ──▶ filter ──▶ rewrite ──▶ route ──▶ shape        before a connection is made
//!   └────────────── judge ──────────────▶ the address            before one is used
//!   └──────── decide_hello ─────────────▶ a tunnel's ClientHello before it goes on
//!                     refuse_… ─────────▶ a response's head      before it goes on
//! ```
//!
//! A request is decided as far as it is known. Its address is then judged as well, as soon as it is known, whether it
//! was looked up, given, or belongs to a connection kept from before. A rule that allows a request goes
//! before everything that would refuse it without a rule: the lists and the guard.
//!
//! The steps of a decision can be followed: see [`trace`](super::trace).

use std::net::IpAddr;
use std::sync::Arc;

use super::access::{Access, Sni};
use super::auth::Auth;
use super::deny_with::DenyWith;
use super::lists::Filter;
use super::protected_mode::Scope;
use super::request_bounds::Bounds;
use super::response_rules::Judge;
use super::rule_id::RuleId;
use super::rule_index::Ruleset;
use super::rules::{Action, Request};
use super::trace::{DecisionStep, Note, StepOutcome, Trace, sentences};
use super::url_rules::{UrlLook, UrlVerdict, Urls, normal};
use super::verdict::{allow, deny, would_deny};

pub use super::verdict::{Decision, Mode, Verdict};

/// The addresses that a request may be connected to. The memory is reused for the next request.
#[derive(Debug, Default)]
pub struct AddressRules {
    /// The rules, if some of them judge addresses. (Not all of [`Rules`]: a tunnel keeps this for hours,
    /// and replaced lists must be freed.)
    rules: Option<(Arc<Ruleset>, Mode, Scope)>,
    /// Only rules before this number judge.
    until: u32,
    /// Rules before it that do not match the request.
    except: Vec<u32>,
    /// The decision for addresses that none of these rules matches.
    otherwise: Otherwise,
    /// Whether the connected address has to be noted.
    settles: bool,
    /// Whether the connected host is learnt.
    learns: bool,
    /// The decision is not final: the same request has to be looked at again.
    unfinished: bool,
    /// The state of the search in the request's URL. It survives [`clear`](Self::clear), for the next
    /// look.
    pub look: Option<Box<UrlLook>>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Otherwise {
    /// A rule allows the request.
    Allow(RuleId),
    /// The listener's scope decides.
    Guard(Scope),
    /// A rule refuses the request.
    Deny(RuleId, &'static str),
    /// A rule would refuse the request if the policy were enforced; the listener's scope decides.
    Report(RuleId, &'static str, Scope),
}

impl Default for Otherwise {
    fn default() -> Self {
        Self::Guard(Scope::Protected)
    }
}

/// The rules of one listener.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The clients and destinations that are allowed without a rule.
    pub scope: Scope,
    /// Bounds that come before every rule.
    pub bounds: Bounds,
    /// The first rule that matches a request decides.
    pub rules: Arc<Ruleset>,
    /// The lists, for requests that no rule matches.
    pub filter: Option<Arc<Filter>>,
    /// The policy for requests that neither rules nor lists decide.
    pub mode: Mode,
    /// The rule of the policy, which refuses what nothing allows.
    pub by_default: RuleId,
    /// The answer to a refused request.
    pub deny_with: DenyWith,
    /// How the name in a tunnel's ClientHello is used.
    pub sni: Sni,
    /// Rules on URLs.
    pub urls: Urls,
    /// Rules on responses.
    pub responses: Arc<Judge>,
    /// The users of the listener; anyone may use it if this is `None`.
    pub auth: Option<Arc<Auth>>,
    /// Whether only the scope decides.
    plain: bool,
}

impl Rules {
    /// The rules of a listener from the configuration; `rules` is already in order.
    pub fn new(scope: Scope, rules: Arc<Ruleset>, access: &Access) -> Self {
        let Access {
            bounds, filter, mode, by_default, deny_with, auth, sni, urls, responses, ..
        } = access;
        Self {
            scope,
            plain: rules.is_empty()
                && filter.is_none()
                && *mode == Mode::Open
                && bounds.are_none()
                && urls.is_empty()
                && responses.is_empty()
                && !matches!(sni, Sni::Match(_)),
            bounds: bounds.clone(),
            rules,
            filter: filter.clone(),
            mode: *mode,
            by_default: *by_default,
            deny_with: deny_with.clone(),
            sni: *sni,
            urls: urls.clone(),
            responses: Arc::new(Judge::new(responses.clone(), *mode)),
            auth: auth.clone(),
        }
    }

    /// Whether only the scope decides, so that a request need not be looked at.
    pub fn are_plain(&self) -> bool {
        self.plain
    }

    /// Whether a decision may depend on the name of a host.
    pub fn judge_names(&self) -> bool {
        matches!(self.mode, Mode::Report | Mode::Enforce)
            || self.filter.is_some()
            || self.rules.judge_names()
    }

    /// Whether a client may use the proxy at all, before it sends a request.
    pub fn decide_client(&self, client: IpAddr) -> Decision {
        match self.rules.find_client(client) {
            Some(rule) if rule.action == Action::Deny => {
                deny("a rule refuses this client", rule.id)
            }
            Some(rule) => allow(Some(rule.id)),
            // A client that proves to be a user may come from anywhere.
            None if self.auth.is_none() && !self.scope.serves(client) => {
                deny(UNSERVED, RuleId::PROTECTED)
            }
            None => allow(None),
        }
    }

    /// Whether a request is refused whoever the user is, so that no proof has to be asked for. A rule for
    /// some users shields the request from later rules, because the rule may match this user.
    pub fn decide_for_anybody(
        self: &Arc<Self>,
        request: &Request<'_>,
        addresses: &mut AddressRules,
    ) -> Decision {
        addresses.clear();
        let by_client = self.decide_client(request.client);
        if let Verdict::Deny(_) = by_client.verdict {
            return by_client;
        }
        let (_, otherwise) = self.acl(request, false, addresses, &mut ());
        match otherwise {
            Otherwise::Deny(rule, reason)
                if !addresses.may_allow()
                    && (self.bounds.refuse(request).is_some()
                        || !self.rules.depends_on_user(request)) =>
            {
                deny(reason, rule)
            }
            _ => allow(None),
        }
    }

    /// Decides on a request without a proven user, on a listener that has users.
    pub fn decide_unproven<T: Trace>(
        self: &Arc<Self>,
        request: &Request<'_>,
        addresses: &mut AddressRules,
        trace: &mut T,
    ) -> Decision {
        let decision = self.decide_for_anybody(request, addresses);
        if let Verdict::Deny(_) = decision.verdict {
            return self.decide_traced(request, addresses, trace);
        }
        trace.note(|| self.client_note(request, self.decide_client(request.client)));
        self.auth.iter().for_each(|auth| trace.note(|| user_note(auth, request.user)));
        deny(if request.user.is_some() { WRONG } else { UNPROVEN }, RuleId::AUTH)
    }

    /// Decides on a request; `addresses` then holds the addresses it may be connected to. If the listener
    /// has users, the request's user is proven.
    pub fn decide(
        self: &Arc<Self>,
        request: &Request<'_>,
        addresses: &mut AddressRules,
    ) -> Decision {
        self.decide_traced(request, addresses, &mut ())
    }

    /// Decides like [`decide`](Self::decide), and notes each step in `trace`.
    pub fn decide_traced<T: Trace>(
        self: &Arc<Self>,
        request: &Request<'_>,
        addresses: &mut AddressRules,
        trace: &mut T,
    ) -> Decision {
        addresses.clear();
        let by_client = self.decide_client(request.client);
        trace.note(|| self.client_note(request, by_client));
        let unserved = match (by_client.verdict, by_client.rule) {
            // A rule that names the client can still let it in.
            (Verdict::Deny(_), Some(RuleId::PROTECTED)) => true,
            (Verdict::Deny(_), _) => return by_client,
            (Verdict::Allow, _) => false,
        };
        let (rule, otherwise) = self.acl(request, unserved, addresses, trace);
        addresses.otherwise = otherwise;
        let decision = match addresses.otherwise {
            Otherwise::Deny(rule, reason) if !addresses.may_allow() => deny(reason, rule),
            Otherwise::Report(rule, reason, _) if !addresses.may_allow() => {
                // If the policy were enforced, the request would not get as far as an address.
                addresses.rules = None;
                would_deny(reason, rule)
            }
            // The address decides.
            Otherwise::Deny(..) | Otherwise::Report(..) => allow(None),
            Otherwise::Allow(_) | Otherwise::Guard(_) => allow(rule),
        };
        if let (Some(auth), Verdict::Allow) = (&self.auth, decision.verdict) {
            trace.note(|| user_note(auth, request.user));
            if request.user.is_none() {
                return deny(UNPROVEN, RuleId::AUTH);
            }
        }
        addresses.learns = self.mode == Mode::Learn;
        addresses.settles = addresses.rules.is_some() || addresses.learns;
        decision
    }

    /// Applies bounds and rules to a request. The first value is the rule that allows it, if one does.
    fn acl<T: Trace>(
        self: &Arc<Self>,
        request: &Request<'_>,
        unserved: bool,
        addresses: &mut AddressRules,
        trace: &mut T,
    ) -> (Option<RuleId>, Otherwise) {
        let refuse = |rule, reason| match self.mode {
            Mode::Report if unserved => Otherwise::Deny(RuleId::PROTECTED, UNSERVED),
            Mode::Report => Otherwise::Report(rule, reason, self.scope),
            Mode::Open | Mode::Learn | Mode::Enforce => Otherwise::Deny(rule, reason),
        };
        if let Some((rule, reason)) = self.bounds.refuse(request) {
            let otherwise = refuse(rule, reason);
            trace.note(|| decided(DecisionStep::Acl, otherwise, None, reason.to_owned()));
            return (None, otherwise);
        }
        if !self.bounds.are_none() {
            trace.note(|| goes(DecisionStep::Acl, self.bounds.describe(request)));
        }
        let by_url = match self.judge_url(request, addresses, refuse, trace) {
            Ok(by_url) => by_url,
            Err(refused) => return (None, refused),
        };
        let found = self.rules.find(request, unserved);
        let until = found.map_or(u32::MAX, |(number, _)| number);
        if self.rules.judge_addresses(until) {
            self.rules.except(request, unserved, until, &mut addresses.except);
            addresses.until = until;
            addresses.rules = Some((Arc::clone(&self.rules), self.mode, self.scope));
            trace.note(|| {
                let count = self.rules.by_address(until, &addresses.except).count();
                goes(DecisionStep::Acl, sentences::by_address(count))
            });
        }
        let Some((_, rule)) = found else {
            trace.note(|| goes(DecisionStep::Acl, sentences::no_rule(self.rules.len())));
            if let UrlVerdict::Allows(rule, url) = by_url
                && !unserved
            {
                // The guard judges the address, because anyone can write a URL that is allowed.
                let (rule, otherwise) = (Some(rule), Otherwise::Guard(self.scope));
                trace.note(|| decided(DecisionStep::Filter, otherwise, rule, url));
                return (rule, otherwise);
            }
            return self.without_a_rule(request, unserved, refuse, trace);
        };
        let otherwise = match rule.action {
            // The rule names no destination, so the guard judges the address.
            Action::Allow if rule.destinations.is_empty() => Otherwise::Guard(self.scope),
            Action::Allow => Otherwise::Allow(rule.id),
            Action::Deny => refuse(rule.id, "a rule refuses this request"),
        };
        let allowed = (rule.action == Action::Allow).then_some(rule.id);
        trace.note(|| decided(DecisionStep::Acl, otherwise, allowed, rule.to_string()));
        (allowed, otherwise)
    }

    /// Applies the rules on URLs to a request. The error is the refusal, if they refuse it.
    fn judge_url<T: Trace>(
        &self,
        request: &Request<'_>,
        addresses: &mut AddressRules,
        refuse: impl Fn(RuleId, &'static str) -> Otherwise,
        trace: &mut T,
    ) -> Result<UrlVerdict, Otherwise> {
        let by_url = self.urls.decide(request, &mut addresses.look);
        // These rules also apply to a host that a rule allows, because they are about a part of it.
        match &by_url {
            UrlVerdict::Denies(rule, url) => {
                let otherwise = refuse(*rule, "a rule refuses this URL");
                trace.note(|| decided(DecisionStep::Filter, otherwise, None, url.clone()));
                return Err(otherwise);
            }
            UrlVerdict::TooLong(rule) => {
                let otherwise = refuse(*rule, "the URL is too long for the rules on URLs");
                trace.note(|| {
                    decided(
                        DecisionStep::Filter,
                        otherwise,
                        None,
                        sentences::long_url(request.target.len()),
                    )
                });
                return Err(otherwise);
            }
            UrlVerdict::NotYet(None) => addresses.unfinished = true,
            UrlVerdict::NotYet(Some(rule)) | UrlVerdict::TooHard(Some(rule)) => {
                let otherwise = refuse(*rule, "the rules on URLs take too long for this URL");
                addresses.unfinished = matches!(by_url, UrlVerdict::NotYet(_));
                trace.note(|| decided(DecisionStep::Filter, otherwise, None, normal(request)));
                return Err(otherwise);
            }
            UrlVerdict::Allows(..) | UrlVerdict::TooHard(None) | UrlVerdict::Nothing => {}
        }
        if by_url == UrlVerdict::Nothing && !self.urls.is_empty() {
            trace.note(|| goes(DecisionStep::Filter, self.urls.describe_none(request)));
        }
        Ok(by_url)
    }

    /// Decides on a request that no rule matches. The first value is the list line that allows it, if one
    /// does. Lists name hosts, so the guard still judges the address.
    fn without_a_rule<T: Trace>(
        &self,
        request: &Request<'_>,
        unserved: bool,
        refuse: impl Fn(RuleId, &'static str) -> Otherwise,
        trace: &mut T,
    ) -> (Option<RuleId>, Otherwise) {
        if !unserved && let Some(filter) = &self.filter {
            let found = filter.look_up(request.host, request.ip);
            let result = match found {
                Some(found) if found.action == Action::Deny => {
                    (None, Some(refuse(found.rule, "the destination is on a block list")))
                }
                // An exception in a block list only takes back what a block list says.
                Some(found)
                    if found.by_allow_list || matches!(self.mode, Mode::Open | Mode::Learn) =>
                {
                    (Some(found.rule), Some(Otherwise::Guard(self.scope)))
                }
                _ => (None, None),
            };
            trace.note(|| {
                let said = sentences::listed(request.host, found, filter.len());
                match result {
                    (allowed, Some(otherwise)) => {
                        decided(DecisionStep::Filter, otherwise, allowed, said)
                    }
                    (_, None) => goes(DecisionStep::Filter, said),
                }
            });
            if let (allowed, Some(otherwise)) = result {
                return (allowed, otherwise);
            }
        }
        let otherwise = match self.mode {
            _ if unserved => Otherwise::Deny(RuleId::PROTECTED, UNSERVED),
            Mode::Open | Mode::Learn => Otherwise::Guard(self.scope),
            Mode::Report | Mode::Enforce => refuse(self.by_default, "no rule allows this request"),
        };
        trace.note(|| {
            let said = match unserved {
                true => sentences::no_rule_for_client(request.client),
                false => format!("--policy {}", self.mode.word()),
            };
            decided(DecisionStep::Acl, otherwise, None, said)
        });
        (None, otherwise)
    }

    /// The entry of a list behind a decision about a host, as the list may spell it. For a rule that names
    /// lists, file and line come before it.
    pub fn entry(&self, decision: Decision, host: &str, ip: Option<IpAddr>) -> Option<String> {
        let rule = decision.rule?;
        match &self.filter {
            Some(filter) if filter.has_source(rule) => filter.spelled(host, ip),
            _ => self.rules.lists_of(rule)?.placed(host, ip),
        }
    }

    fn client_note(&self, request: &Request<'_>, decision: Decision) -> Note {
        let client = request.client;
        let said = sentences::client(client, decision.rule, self.rules.find_client(client));
        Note {
            step: DecisionStep::Acl,
            outcome: outcome(decision, StepOutcome::Goes),
            rule: decision.rule,
            said,
        }
    }
}

impl AddressRules {
    /// Whether a connection to this address may be used, and why.
    pub fn judge(&self, ip: IpAddr, port: u16) -> Decision {
        self.judge_traced(ip, port, &mut ())
    }

    /// Judges like [`judge`](Self::judge), and notes the step in `trace`.
    pub fn judge_traced<T: Trace>(&self, ip: IpAddr, port: u16, trace: &mut T) -> Decision {
        let by_rule = self.rules.as_ref().and_then(|(rules, mode, scope)| {
            let rule = rules.find_address(ip, port, self.until, &self.except)?;
            Some((rule, *mode, *scope))
        });
        let decision = match by_rule {
            Some((rule, ..)) if rule.action == Action::Allow => allow(Some(rule.id)),
            Some((rule, mode, scope)) => {
                let reason = "a rule refuses the destination's address";
                match mode {
                    Mode::Report => report(rule.id, reason, scope, ip),
                    Mode::Open | Mode::Learn | Mode::Enforce => deny(reason, rule.id),
                }
            }
            None => match self.otherwise {
                Otherwise::Allow(rule) => allow(Some(rule)),
                Otherwise::Deny(rule, reason) => deny(reason, rule),
                Otherwise::Report(rule, reason, scope) => report(rule, reason, scope, ip),
                Otherwise::Guard(scope) => guard(scope, ip),
            },
        };
        trace.note(|| {
            let reason = match decision.verdict {
                Verdict::Deny(reason) => Some(reason),
                Verdict::Allow => decision.would_deny,
            };
            let said = sentences::address(ip, by_rule.map(|(rule, ..)| rule), reason);
            let outcome = outcome(decision, StepOutcome::Allows);
            Note { step: DecisionStep::Address, outcome, rule: decision.rule, said }
        });
        decision
    }

    /// Whether a rule would allow some address.
    fn may_allow(&self) -> bool {
        self.rules.as_ref().is_some_and(|(rules, ..)| {
            let mut rules = rules.by_address(self.until, &self.except);
            rules.any(|rule| rule.action == Action::Allow)
        })
    }

    /// Sets this for a request that only the scope decides.
    pub fn plain(&mut self, scope: Scope) {
        self.clear();
        self.otherwise = Otherwise::Guard(scope);
    }

    /// Whether the connected address has to be noted.
    pub fn settles(&self) -> bool {
        self.settles
    }

    /// Whether the same request has to be looked at again with the same [`look`](Self::look), because a
    /// worker did not have enough time to judge its URL.
    pub fn is_unfinished(&self) -> bool {
        self.unfinished
    }

    /// Whether the connected host is to be learnt.
    pub fn learns(&self) -> bool {
        self.learns
    }

    /// Forgets the request, but not the state of the search in its URL.
    pub fn clear(&mut self) {
        self.rules = None;
        self.except.clear();
        self.otherwise = Otherwise::default();
        (self.settles, self.learns, self.unfinished) = (false, false, false);
    }
}

/// The refusal of a request without a user.
pub const UNPROVEN: &str = "this proxy requires a user name and a password";
/// The refusal of a request with wrong credentials.
pub const WRONG: &str = "the user name or the password is wrong";

fn user_note(auth: &Auth, user: Option<&str>) -> Note {
    let known = user.is_some_and(|user| auth.has_user(user));
    let said = sentences::user(user, known);
    let outcome = if known { StepOutcome::Goes } else { StepOutcome::Denies };
    Note { step: DecisionStep::Auth, outcome, rule: (!known).then_some(RuleId::AUTH), said }
}

/// The refusal of a client by protected mode.
const UNSERVED: &str = "the client is not in a private network, and no rule lets it in";

fn guard(scope: Scope, ip: IpAddr) -> Decision {
    match scope.forbids(ip) {
        Some(reason) => deny(reason, RuleId::PROTECTED),
        None => allow(None),
    }
}

/// A rule would refuse the address. Protected mode is enforced in every policy.
fn report(rule: RuleId, reason: &'static str, scope: Scope, ip: IpAddr) -> Decision {
    match guard(scope, ip) {
        guarded @ Decision { verdict: Verdict::Deny(_), .. } => guarded,
        _ => would_deny(reason, rule),
    }
}

fn decided(
    step: DecisionStep,
    otherwise: Otherwise,
    allowed: Option<RuleId>,
    said: String,
) -> Note {
    let (outcome, rule) = match otherwise {
        Otherwise::Allow(rule) => (StepOutcome::Allows, Some(rule)),
        Otherwise::Guard(_) => (StepOutcome::Goes, allowed),
        Otherwise::Deny(rule, _) => (StepOutcome::Denies, Some(rule)),
        Otherwise::Report(rule, ..) => (StepOutcome::WouldDeny, Some(rule)),
    };
    Note { step, outcome, rule, said }
}

fn goes(step: DecisionStep, said: String) -> Note {
    Note { step, outcome: StepOutcome::Goes, rule: None, said }
}

fn outcome(decision: Decision, allowed: StepOutcome) -> StepOutcome {
    match (decision.verdict, decision.would_deny) {
        (Verdict::Deny(_), _) => StepOutcome::Denies,
        (Verdict::Allow, Some(_)) => StepOutcome::WouldDeny,
        (Verdict::Allow, None) => allowed,
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
