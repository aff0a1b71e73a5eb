//! Asks the policy about a request, about the address it would go to, and about its response.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::error::{Error, Kind, Phase, Side};
use crate::net::hosts::without_dot;
use crate::observe::counters::Denial;
use crate::policy::decide::{Decision, Rules, Verdict};
use crate::policy::deny_with::DenyWith;
use crate::policy::rules::{Request, Way};
use crate::wire::{Framing, Method, RequestHead, ResponseFraming, ResponseHead};

use super::auth::{self, Caller};
use super::exchange::Exchange;
use super::facts::Destination;
use super::hold::Hold;
use super::request::{Asker, denied};
use super::{Turn, limits};

/// Whether the client may come at all, for a request that goes nowhere.
///
/// # Errors
///
/// It may not: 403.
pub(super) fn come_in(
    head: &RequestHead<'_, '_>,
    asker: Asker,
    exchange: &mut Exchange,
    turn: &Turn<'_>,
) -> Result<(), Error> {
    let Some(rules) = turn.policy.of(asker.listener) else { return Ok(()) };
    follow(rules.decide_client(asker.address.ip()), head, exchange, turn)?;
    limits::come_in(asker, exchange, turn)
}

/// Whether the request may go to its destination, as far as that is known without an address. `Some`
/// is when to look at it again at the latest.
///
/// # Errors
///
/// It may not: 403, or 407.
pub(super) fn pass(
    head: &RequestHead<'_, '_>,
    way: Way,
    caller: &mut Caller<'_>,
    exchange: &mut Exchange,
    turn: &Turn<'_>,
) -> Result<Option<Instant>, Error> {
    let Some(rules) = turn.policy.of(caller.asker.listener) else { return Ok(None) };
    if rules.urls.is_empty() {
        return judge(rules, head, way, caller, exchange, turn);
    }
    exchange.reach.look = caller.proof.look.take();
    let judged = judge(rules, head, way, caller, exchange, turn);
    // What is known of a URL is for this request only, and it does not go to waste while that waits.
    let look = exchange.reach.look.take();
    caller.proof.look = look.filter(|_| matches!(judged, Ok(Some(_))));
    judged
}

fn judge(
    rules: &Arc<Rules>,
    head: &RequestHead<'_, '_>,
    way: Way,
    caller: &mut Caller<'_>,
    exchange: &mut Exchange,
    turn: &Turn<'_>,
) -> Result<Option<Instant>, Error> {
    let asker = caller.asker;
    if rules.are_plain() {
        let decision = rules.decide_client(asker.address.ip());
        if let (Some(users), Verdict::Allow) = (&rules.auth, decision.verdict)
            && let Some(until) = auth::prove(users, head, caller, exchange, turn)?
        {
            return Ok(Some(until));
        }
        exchange.reach.plain(rules.scope);
        follow(decision, head, exchange, turn)?;
        return limits::admit(head, asker, exchange, turn).map(|()| None);
    }
    if let Some(users) = &rules.auth {
        let request = described(head, way, asker.address.ip(), &exchange.destination, "");
        let decision = rules.decide_for_anybody(&request, &mut exchange.reach);
        if exchange.reach.is_unfinished() {
            return Ok(Some(turn.now));
        }
        if decision.verdict != Verdict::Allow {
            return follow(decision, head, exchange, turn).map(|()| None);
        }
        if let Some(until) = auth::prove(users, head, caller, exchange, turn)? {
            return Ok(Some(until));
        }
    }
    let request = described(head, way, asker.address.ip(), &exchange.destination, &exchange.user);
    let decision = rules.decide(&request, &mut exchange.reach);
    if exchange.reach.is_unfinished() {
        return Ok(Some(turn.now));
    }
    if way == Way::Connect && rules.read_hellos() {
        exchange.hold = Some(Box::new(Hold::new(asker.listener, asker.address.ip())));
    }
    if way != Way::Connect && !rules.responses.rules().is_empty() {
        exchange.judge = Some(Arc::clone(&rules.responses));
    }
    follow(decision, head, exchange, turn)?;
    limits::admit(head, asker, exchange, turn).map(|()| None)
}

/// A request as rules see it.
pub(super) fn described<'a>(
    head: &RequestHead<'_, 'a>,
    way: Way,
    client: IpAddr,
    destination: &'a Destination,
    user: &'a str,
) -> Request<'a> {
    Request {
        client,
        user: Some(user).filter(|user| !user.is_empty()),
        method: head.method_name,
        way,
        host: without_dot(destination.host().trim_matches(['[', ']'])),
        ip: destination.ip,
        port: destination.port,
        target: head.target_text,
    }
}

fn follow(
    decision: Decision,
    head: &RequestHead<'_, '_>,
    exchange: &mut Exchange,
    turn: &Turn<'_>,
) -> Result<(), Error> {
    exchange.note_decision(decision, turn);
    match decision.verdict {
        Verdict::Allow => Ok(()),
        Verdict::Deny(reason) => {
            // The connection can go on if no content has to be read first.
            exchange.leave_content(head.framing);
            Err(denied(reason))
        }
    }
}

/// What is against a response, by its head. One to HEAD is judged as the one to GET would be (RFC 9110
/// §9.3.2); one that has no content for another reason (204, 304) has nothing to be judged.
pub(super) fn judge_response(
    exchange: &Exchange,
    head: &ResponseHead<'_, '_>,
) -> Option<(Decision, Kind)> {
    let judge = exchange.judge.as_ref()?;
    let is_empty = head.framing == ResponseFraming::Framed(Framing::Empty);
    if is_empty && (exchange.facts.method != Method::Head || matches!(head.status, 204 | 304)) {
        return None;
    }
    let lines = head.fields().filter(|field| field.name.eq_ignore_ascii_case("content-type"));
    if let Some(decision) = judge.refuse_type(lines.map(|field| field.value)) {
        return Some((decision, Kind::HttpRequestDenied));
    }
    let decision = judge.refuse_length(head.announced_length())?;
    Some((decision, Kind::HttpResponseBodySize))
}

impl Exchange {
    /// Follows what was decided of a response.
    ///
    /// # Errors
    ///
    /// It does not go on.
    pub(super) fn follow_response(
        &mut self,
        (decision, kind): (Decision, Kind),
        phase: Phase,
        turn: &Turn<'_>,
    ) -> Result<(), Error> {
        self.note_decision(decision, turn);
        match decision.verdict {
            Verdict::Allow => Ok(()),
            Verdict::Deny(reason) => Err(Error::new(Side::Proxy, phase, kind, reason)),
        }
    }

    /// Whether the upstream's connection may be one to this address.
    pub(super) fn may_use(&self, address: SocketAddr) -> bool {
        self.reach.judge(address.ip(), address.port()).verdict == Verdict::Allow
    }

    /// The request has been connected to this address: what decided that is noted.
    #[cold]
    pub(super) fn settle(&mut self, address: SocketAddr, turn: &Turn<'_>) {
        let decision = self.reach.judge(address.ip(), address.port());
        self.note_decision(decision, turn);
        let Destination { ip, .. } = self.destination;
        self.learn(without_dot(self.destination.host().trim_matches(['[', ']'])), ip, turn);
    }

    /// This host was reached: that is learnt, where it is to be.
    pub(super) fn learn(&self, host: &str, ip: Option<IpAddr>, turn: &Turn<'_>) {
        if self.reach.learns() {
            turn.ctx.learnt.reach(host, self.destination.port, ip, SystemTime::now());
        }
    }

    /// Notes what decided, each rule once: the request may be sent again.
    pub(super) fn note_decision(&mut self, decision: Decision, turn: &Turn<'_>) {
        let Some(rule) = decision.rule.filter(|rule| self.rule != Some(*rule)) else { return };
        let denial = match (decision.verdict, decision.would_deny) {
            (Verdict::Deny(_), _) => Some(Denial::Refused),
            (Verdict::Allow, would_deny) => would_deny.map(|_| Denial::Reported),
        };
        self.rule = Some(rule);
        self.would_deny = denial == Some(Denial::Reported);
        turn.policy.origins.hit(rule);
        if let Some(denial) = denial {
            turn.counters.count(|c| c.count_denial(denial));
        }
    }

    /// What the client gets instead of a refusal by rule: a status, and where it is sent.
    pub(super) fn instead<'d>(
        &self,
        error: &Error,
        deny_with: &'d DenyWith,
    ) -> Option<(u16, Option<&'d str>)> {
        let by_rule =
            matches!(error.kind(), Kind::HttpRequestDenied | Kind::DestinationIpProhibited);
        if !by_rule || error.status() != 403 {
            return None;
        }
        deny_with.instead(self.facts.method == Method::Connect, &self.destination.authority)
    }
}
