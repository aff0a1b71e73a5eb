//! Decides on a request and on the address it would connect to: fixed steps in a fixed order,
//! always with the reason.
//!
//! ```text
//! acl ──▶ auth ──▶ filter ──▶ rewrite ──▶ route ──▶ shape        before a connection is made
//!   └────────────── judge ──────────────▶ the address            before one is used
//!   └──────── decide_hello ─────────────▶ a tunnel's ClientHello before it goes on
//!                     refuse_… ─────────▶ a response's head      before it goes on
//! ```
//!
//! What is known of a request decides as far as it goes; the address it leads to is judged once more
//! when it is known, be it looked up, given, or that of a connection kept from before. A rule that
//! allows comes before everything that would refuse without a rule: the lists and the guard.
//!
//! What is decided can be followed: see [`trace`](super::trace).

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
use super::trace::{DecisionStep, Note, StepOutcome, Trace, said};
use super::url_rules::{UrlLook, UrlVerdict, Urls, normal};
use super::verdict::{allow, deny, would_deny};

pub use super::verdict::{Decision, Mode, Verdict};

/// Which addresses a request may be connected to. Its memory is used again.
#[derive(Debug, Default)]
pub struct AddressRules {
    /// Those that judge addresses, if some do. (Not all of [`Rules`]: a tunnel keeps this for hours, and
    /// long lists must go when others take their place.)
    rules: Option<(Arc<Ruleset>, Mode, Scope)>,
    /// Only rules before this one judge.
    until: u32,
    /// Those of them that do not mean the request.
    except: Vec<u32>,
    /// What holds for addresses none of them has.
    otherwise: Otherwise,
    /// There is something to be noted when the request is connected.
    settles: bool,
    /// Where it is connected to is learnt.
    learns: bool,
    /// The decision is not final: the same request is to be looked at again.
    unfinished: bool,
    /// What is known of the request's URL. It outlasts [`clear`](Self::clear), for the next look.
    pub look: Option<Box<UrlLook>>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Otherwise {
    /// A rule allows it.
    Allow(RuleId),
    /// The listener's scope says.
    Guard(Scope),
    /// A rule refuses it.
    Deny(RuleId, &'static str),
    /// A rule would refuse it; the listener's scope says.
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
    /// Who and what without a rule.
    pub scope: Scope,
    /// What is allowed at all.
    pub bounds: Bounds,
    /// The first that has a request decides.
    pub rules: Arc<Ruleset>,
    /// What is looked at if none has.
    pub filter: Option<Arc<Filter>>,
    /// What happens if that says nothing.
    pub mode: Mode,
    /// What a client gets whose request is refused.
    pub deny_with: DenyWith,
    /// What is made of the name in a tunnel's ClientHello.
    pub sni: Sni,
    /// Rules on URLs.
    pub urls: Urls,
    /// Rules on responses.
    pub responses: Arc<Judge>,
    /// Whose requests are taken; everybody's without it.
    pub auth: Option<Arc<Auth>>,
    /// Only the scope decides.
    plain: bool,
}

impl Rules {
    /// What is configured, with its rules in order, for a listener.
    pub fn new(scope: Scope, rules: Arc<Ruleset>, access: &Access) -> Self {
        let Access { bounds, filter, mode, deny_with, auth, sni, urls, responses, .. } = access;
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
            deny_with: deny_with.clone(),
            sni: *sni,
            urls: urls.clone(),
            responses: Arc::new(Judge::new(responses.clone(), *mode)),
            auth: auth.clone(),
        }
    }

    /// Whether only the scope decides: then nothing of a request needs to be looked at.
    pub fn are_plain(&self) -> bool {
        self.plain
    }

    /// Whether anything depends on the name of a host.
    pub fn judge_names(&self) -> bool {
        matches!(self.mode, Mode::Report | Mode::Enforce)
            || self.filter.is_some()
            || self.rules.judge_names()
    }

    /// Whether a client may come at all, before it says what it wants.
    pub fn decide_client(&self, client: IpAddr) -> Decision {
        match self.rules.find_client(client) {
            Some(rule) if rule.action == Action::Deny => {
                deny("a rule refuses this client", rule.id)
            }
            Some(rule) => allow(Some(rule.id)),
            // Who proves to be a user may come from anywhere.
            None if self.auth.is_none() && !self.scope.serves(client) => {
                deny(UNSERVED, RuleId::PROTECTED)
            }
            None => allow(None),
        }
    }

    /// Whether a request is refused whoever asks: that needs no proof. A rule for some users stands
    /// before those behind it, for it may be about this one.
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

    /// What is to become of a request of somebody who has not proven to be a user where there are users.
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
        trace.note(|| self.told_of_client(request, self.decide_client(request.client)));
        self.auth.iter().for_each(|auth| trace.note(|| told_of_user(auth, request.user)));
        deny(if request.user.is_some() { WRONG } else { UNPROVEN }, RuleId::AUTH)
    }

    /// What is to become of a request; `addresses` then says what addresses it may be connected to. Where
    /// there are users one of them has proven to ask.
    pub fn decide(
        self: &Arc<Self>,
        request: &Request<'_>,
        addresses: &mut AddressRules,
    ) -> Decision {
        self.decide_traced(request, addresses, &mut ())
    }

    /// The same, with each step told to `trace`.
    pub fn decide_traced<T: Trace>(
        self: &Arc<Self>,
        request: &Request<'_>,
        addresses: &mut AddressRules,
        trace: &mut T,
    ) -> Decision {
        addresses.clear();
        let by_client = self.decide_client(request.client);
        trace.note(|| self.told_of_client(request, by_client));
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
                // Enforced, it would not get as far as an address.
                addresses.rules = None;
                would_deny(reason, rule)
            }
            // Its address decides.
            Otherwise::Deny(..) | Otherwise::Report(..) => allow(None),
            Otherwise::Allow(_) | Otherwise::Guard(_) => allow(rule),
        };
        if let (Some(auth), Verdict::Allow) = (&self.auth, decision.verdict) {
            trace.note(|| told_of_user(auth, request.user));
            if request.user.is_none() {
                return deny(UNPROVEN, RuleId::AUTH);
            }
        }
        addresses.learns = self.mode == Mode::Learn;
        addresses.settles = addresses.rules.is_some() || addresses.learns;
        decision
    }

    /// What bounds and rules say of a request, and which rule lets it through, if one does.
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
            trace.note(|| told(DecisionStep::Acl, otherwise, None, reason.to_owned()));
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
                goes(DecisionStep::Acl, said::by_address(count))
            });
        }
        let Some((_, rule)) = found else {
            trace.note(|| goes(DecisionStep::Acl, said::no_rule(self.rules.len())));
            if let UrlVerdict::Allows(rule, url) = by_url
                && !unserved
            {
                // Where it leads is for the guard to say: anybody can write a URL that is allowed.
                let (rule, otherwise) = (Some(rule), Otherwise::Guard(self.scope));
                trace.note(|| told(DecisionStep::Filter, otherwise, rule, url));
                return (rule, otherwise);
            }
            return self.without_a_rule(request, unserved, refuse, trace);
        };
        let otherwise = match rule.action {
            // Where to, the guard says: the rule does not.
            Action::Allow if rule.destinations.is_empty() => Otherwise::Guard(self.scope),
            Action::Allow => Otherwise::Allow(rule.id),
            Action::Deny => refuse(rule.id, "a rule refuses this request"),
        };
        let allowed = (rule.action == Action::Allow).then_some(rule.id);
        trace.note(|| told(DecisionStep::Acl, otherwise, allowed, rule.to_string()));
        (allowed, otherwise)
    }

    /// What the rules on URLs say of a request that may go on, or why it may not.
    fn judge_url<T: Trace>(
        &self,
        request: &Request<'_>,
        addresses: &mut AddressRules,
        refuse: impl Fn(RuleId, &'static str) -> Otherwise,
        trace: &mut T,
    ) -> Result<UrlVerdict, Otherwise> {
        let by_url = self.urls.decide(request, &mut addresses.look);
        // Also of a host that a rule allows: it is about a part of it.
        match &by_url {
            UrlVerdict::Denies(rule, url) => {
                let otherwise = refuse(*rule, "a rule refuses this URL");
                trace.note(|| told(DecisionStep::Filter, otherwise, None, url.clone()));
                return Err(otherwise);
            }
            UrlVerdict::TooLong(rule) => {
                let otherwise = refuse(*rule, "the URL is too long for the rules on URLs");
                trace.note(|| {
                    told(
                        DecisionStep::Filter,
                        otherwise,
                        None,
                        said::long_url(request.target.len()),
                    )
                });
                return Err(otherwise);
            }
            UrlVerdict::NotYet(None) => addresses.unfinished = true,
            UrlVerdict::NotYet(Some(rule)) | UrlVerdict::TooHard(Some(rule)) => {
                let otherwise = refuse(*rule, "the rules on URLs take too long for this one");
                addresses.unfinished = matches!(by_url, UrlVerdict::NotYet(_));
                trace.note(|| told(DecisionStep::Filter, otherwise, None, normal(request)));
                return Err(otherwise);
            }
            UrlVerdict::Allows(..) | UrlVerdict::TooHard(None) | UrlVerdict::Nothing => {}
        }
        if by_url == UrlVerdict::Nothing && !self.urls.is_empty() {
            trace.note(|| goes(DecisionStep::Filter, self.urls.describe_none(request)));
        }
        Ok(by_url)
    }

    /// What becomes of a request that no rule names, and which list lets it through, if one does. Lists
    /// speak of names: the guard judges the address all the same.
    fn without_a_rule<T: Trace>(
        &self,
        request: &Request<'_>,
        unserved: bool,
        refuse: impl Fn(RuleId, &'static str) -> Otherwise,
        trace: &mut T,
    ) -> (Option<RuleId>, Otherwise) {
        if !unserved && let Some(filter) = &self.filter {
            let found = filter.look_up(request.host, request.ip);
            let decided = match found {
                Some(found) if found.action == Action::Deny => {
                    (None, Some(refuse(found.rule, "the destination is on a block list")))
                }
                // An exception in a block list takes back what such a list says, and no more.
                Some(found)
                    if found.by_allow_list || matches!(self.mode, Mode::Open | Mode::Learn) =>
                {
                    (Some(found.rule), Some(Otherwise::Guard(self.scope)))
                }
                _ => (None, None),
            };
            trace.note(|| {
                let said = said::listed(request.host, found, filter.len());
                match decided {
                    (allowed, Some(otherwise)) => {
                        told(DecisionStep::Filter, otherwise, allowed, said)
                    }
                    (_, None) => goes(DecisionStep::Filter, said),
                }
            });
            if let (allowed, Some(otherwise)) = decided {
                return (allowed, otherwise);
            }
        }
        let otherwise = match self.mode {
            _ if unserved => Otherwise::Deny(RuleId::PROTECTED, UNSERVED),
            Mode::Open | Mode::Learn => Otherwise::Guard(self.scope),
            Mode::Report | Mode::Enforce => refuse(RuleId::DEFAULT, "no rule allows this request"),
        };
        trace.note(|| {
            told(DecisionStep::Acl, otherwise, None, format!("--policy {}", self.mode.word()))
        });
        (None, otherwise)
    }

    fn told_of_client(&self, request: &Request<'_>, decision: Decision) -> Note {
        let client = request.client;
        let said = said::client(client, decision.rule, self.rules.find_client(client));
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

    /// The same, told to `trace`.
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
            let said = said::address(ip, by_rule.map(|(rule, ..)| rule), reason);
            let outcome = outcome(decision, StepOutcome::Allows);
            Note { step: DecisionStep::Address, outcome, rule: decision.rule, said }
        });
        decision
    }

    /// Whether some address would be allowed by a rule.
    fn may_allow(&self) -> bool {
        self.rules.as_ref().is_some_and(|(rules, ..)| {
            let mut rules = rules.by_address(self.until, &self.except);
            rules.any(|rule| rule.action == Action::Allow)
        })
    }

    /// A request that goes on without a rule.
    pub fn plain(&mut self, scope: Scope) {
        self.clear();
        self.otherwise = Otherwise::Guard(scope);
    }

    /// Whether there is something to be noted when the request is connected.
    pub fn settles(&self) -> bool {
        self.settles
    }

    /// Whether the same request is to be looked at again with the same [`look`](Self::look): its URL could
    /// not be judged in the time that a worker has for it.
    pub fn is_unfinished(&self) -> bool {
        self.unfinished
    }

    /// Whether it is to be learnt where the request is connected to.
    pub fn learns(&self) -> bool {
        self.learns
    }

    /// Forgets the request, but not what is known of its URL.
    pub fn clear(&mut self) {
        self.rules = None;
        self.except.clear();
        self.otherwise = Otherwise::default();
        (self.settles, self.learns, self.unfinished) = (false, false, false);
    }
}

/// Why a request without a user goes no further.
pub const UNPROVEN: &str = "this proxy wants a user name and a password";
/// Why one whose credentials are nobody's goes no further.
pub const WRONG: &str = "the user name or the password is wrong";

fn told_of_user(auth: &Auth, user: Option<&str>) -> Note {
    let known = user.is_some_and(|user| auth.has_user(user));
    let said = said::user(user, known);
    let outcome = if known { StepOutcome::Goes } else { StepOutcome::Denies };
    Note { step: DecisionStep::Auth, outcome, rule: (!known).then_some(RuleId::AUTH), said }
}

/// Why protected mode refuses a client.
const UNSERVED: &str = "this proxy serves private networks only";

fn guard(scope: Scope, ip: IpAddr) -> Decision {
    match scope.forbids(ip) {
        Some(reason) => deny(reason, RuleId::PROTECTED),
        None => allow(None),
    }
}

/// A rule would refuse it. Protected mode does all the same: no mode lifts that.
fn report(rule: RuleId, reason: &'static str, scope: Scope, ip: IpAddr) -> Decision {
    match guard(scope, ip) {
        guarded @ Decision { verdict: Verdict::Deny(_), .. } => guarded,
        _ => would_deny(reason, rule),
    }
}

fn told(step: DecisionStep, otherwise: Otherwise, allowed: Option<RuleId>, said: String) -> Note {
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
