//! Applies the policy to a request before it goes anywhere, and to its response before any of it is
//! passed on.

use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, Kind};
use crate::policy::decide::{Decision, Rules, Verdict};
use crate::policy::rules::{Request, Way};
use crate::wire::{Framing, Method, ResponseFraming, ResponseHead};

use super::account::Account;
use super::asker::Asker;
use super::auth::{self, Caller, CredentialsWorth};
use super::blame::denied;
use super::common::Terms;
use super::context::Turn;
use super::intent::Asked;
use super::limits::{self, Allowance};

/// Where decisions on a request are recorded.
pub(super) struct Ruling<'e> {
    pub(super) terms: &'e mut Terms,
    pub(super) allowance: &'e mut Allowance,
    pub(super) account: &'e mut Account,
}

/// Whether the client may come in at all, for a request that the proxy answers itself.
///
/// # Errors
///
/// The client is refused: 403.
pub(super) fn come_in(asker: Asker, ruling: &mut Ruling<'_>, turn: &Turn<'_>) -> Result<(), Error> {
    let Some(rules) = turn.policy.of(asker.listener) else { return Ok(()) };
    follow(rules.decide_client(asker.address.ip()), ruling, turn)?;
    limits::come_in(asker, (ruling.allowance, ruling.account), turn)
}

/// Whether the request may go to its destination, as far as that can be told without an address. `Some`
/// is the latest time to look at it again.
///
/// # Errors
///
/// The request is refused: 403, or 407.
pub(super) fn pass(
    asked: &Asked<'_>,
    caller: &mut Caller<'_>,
    ruling: &mut Ruling<'_>,
    turn: &Turn<'_>,
) -> Result<Option<Instant>, Error> {
    let Some(rules) = turn.policy.of(caller.asker.listener) else { return Ok(None) };
    if rules.urls.is_empty() {
        return judge(rules, asked, caller, ruling, turn);
    }
    ruling.terms.addresses.look = caller.proof.look.take();
    let judged = judge(rules, asked, caller, ruling, turn);
    // The URL rules' findings are about this request only. They are kept while it waits.
    let look = ruling.terms.addresses.look.take();
    caller.proof.look = look.filter(|_| matches!(judged, Ok(Some(_))));
    judged
}

fn judge(
    rules: &Arc<Rules>,
    asked: &Asked<'_>,
    caller: &mut Caller<'_>,
    ruling: &mut Ruling<'_>,
    turn: &Turn<'_>,
) -> Result<Option<Instant>, Error> {
    if rules.are_plain() {
        let decision = rules.decide_client(asked.client);
        if let Verdict::Allow = decision.verdict
            && let Some(until) = prove(rules, asked, caller, ruling, turn)?
        {
            return Ok(Some(until));
        }
        ruling.terms.addresses.plain(rules.scope);
        follow(decision, ruling, turn)?;
        return admit(asked, caller.asker, ruling, turn);
    }
    if rules.auth.is_some() {
        let decision = rules.decide_for_anybody(&asked.request(""), &mut ruling.terms.addresses);
        if ruling.terms.addresses.is_unfinished() {
            return Ok(Some(turn.now));
        }
        if decision.verdict != Verdict::Allow {
            note_entry(rules, decision, asked, ruling, turn);
            return follow(decision, ruling, turn).map(|()| None);
        }
        if let Some(until) = prove(rules, asked, caller, ruling, turn)? {
            return Ok(Some(until));
        }
    }
    let Terms { user, addresses, .. } = &mut *ruling.terms;
    let decision = rules.decide(&asked.request(user), addresses);
    if addresses.is_unfinished() {
        return Ok(Some(turn.now));
    }
    ruling.terms.reads_hello = asked.way == Way::Connect && rules.read_hellos();
    if asked.way != Way::Connect && !rules.responses.rules().is_empty() {
        ruling.terms.judge = Some(Arc::clone(&rules.responses));
    }
    note_entry(rules, decision, asked, ruling, turn);
    follow(decision, ruling, turn)?;
    admit(asked, caller.asker, ruling, turn)
}

/// Keeps the entry of a list that decided, for the access log.
#[inline]
fn note_entry(
    rules: &Rules,
    decision: Decision,
    asked: &Asked<'_>,
    ruling: &mut Ruling<'_>,
    turn: &Turn<'_>,
) {
    if decision.rule.is_some()
        && turn.ctx.access_log.is_some()
        && let Request { host, ip, .. } = asked.request("")
        && let Some(entry) = rules.entry(decision, host, ip)
    {
        ruling.account.note.note_entry(entry);
    }
}

/// Finds out which user asks, if the rules require one. `Some` is the latest time to come again.
#[inline]
fn prove(
    rules: &Rules,
    asked: &Asked<'_>,
    caller: &mut Caller<'_>,
    ruling: &mut Ruling<'_>,
    turn: &Turn<'_>,
) -> Result<Option<Instant>, Error> {
    let Some(users) = &rules.auth else { return Ok(None) };
    let begun = ruling.account.times.started.unwrap_or(turn.now);
    match auth::prove(users, asked.credentials, begun, caller, turn) {
        Ok(CredentialsWorth::User(user)) => {
            ruling.terms.user.push_str(user);
            Ok(None)
        }
        Ok(CredentialsWorth::Later(until)) => Ok(Some(until)),
        Err(refusal) => {
            ruling.account.ended_by(refusal.rule, turn);
            Err(refusal.error)
        }
    }
}

fn admit(
    asked: &Asked<'_>,
    asker: Asker,
    ruling: &mut Ruling<'_>,
    turn: &Turn<'_>,
) -> Result<Option<Instant>, Error> {
    let Ruling { terms, allowance, account } = ruling;
    limits::admit(asker, (&terms.user, asked.destination), (allowance, account), turn)?;
    Ok(None)
}

fn follow(decision: Decision, ruling: &mut Ruling<'_>, turn: &Turn<'_>) -> Result<(), Error> {
    ruling.account.decided(decision, turn);
    match decision.verdict {
        Verdict::Allow => Ok(()),
        Verdict::Deny(reason) => Err(denied(reason, turn.part(decision))),
    }
}

/// The objection to a response, judged by its head. A response to HEAD is judged as the one to GET would
/// be (RFC 9110 §9.3.2). A response that has no content for another reason (204, 304) is not judged.
pub(super) fn judge_response(
    terms: &Terms,
    method: Method,
    head: &ResponseHead<'_, '_>,
) -> Option<(Decision, Kind)> {
    let judge = terms.judge.as_ref()?;
    let is_empty = head.framing == ResponseFraming::Framed(Framing::Empty);
    if is_empty && (method != Method::Head || matches!(head.status, 204 | 304)) {
        return None;
    }
    let lines = head.fields().filter(|field| field.name.eq_ignore_ascii_case("content-type"));
    if let Some(decision) = judge.refuse_type(lines.map(|field| field.value)) {
        return Some((decision, Kind::HttpRequestDenied));
    }
    let decision = judge.refuse_length(head.announced_length())?;
    Some((decision, Kind::HttpResponseBodySize))
}
