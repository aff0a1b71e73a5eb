//! Finds out who asks: a user, a 407, a delay, or a wait for a password to be verified.
//!
//! ```text
//!            ┌──▶ no credentials, or none of ours ──▶ 407
//! head ──────┤             ┌─ delayed ─┐    ┌──── verified elsewhere ───┐
//!            └──▶ token ───┴───────────┴──▶ look ──┬────────────────────┴──┬──▶ user
//!                          (wrong before)          └── known              └──▶ 407
//! ```
//!
//! What has to wait leaves the head where it is, parks, and comes here again.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Phase, Side};
use crate::net::poll::{Owner, Wake};
use crate::policy::auth::guessers::{DelayedPlace, Failures, Gate, Guessing};
use crate::policy::auth::token_tag::Tag;
use crate::policy::auth::{Auth, KnownBy, TokenLook};
use crate::policy::decide::{UNPROVEN, WRONG};
use crate::policy::rule_origin::RuleId;
use crate::policy::url_rules;
use crate::wire::credentials::NoToken;
use crate::wire::{Credentials, RequestHead};

use super::Turn;
use super::exchange::{CLIENT, Exchange};
use super::request::{Asker, denied};
use super::verify::{Answer, Asked, Claim};

/// How long a session waits for its credentials to be verified: enough for a whole office that comes at
/// once from one address, whose line has 128 places.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a request waits for before it is known whose it is; dropping it leaves all lines.
#[derive(Debug, Default)]
pub struct Pending {
    /// Until then its credentials are not looked at.
    delayed: Option<(DelayedPlace, Instant)>,
    /// They are being verified, by these users' hashes.
    asked: Option<(Asked, u64)>,
    /// By then they have to be.
    until: Option<Instant>,
}

/// What a session keeps of who asks.
#[derive(Debug, Default)]
pub struct Proof {
    /// What the request in hand waits for.
    pending: Option<Box<Pending>>,
    /// Half the tag of the credentials that were right on this connection last; zero if none were. These
    /// are looked at again, but they are no guess.
    proven: u64,
    /// What the rules on URLs know of the request in hand.
    pub(super) look: Option<Box<url_rules::UrlLook>>,
}

impl Proof {
    /// Whether a request waits.
    pub fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Whether its delay is over, if it had one.
    fn has_waited(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.delayed.is_some())
    }

    /// Whether it was the first to ask what was then answered.
    fn has_asked_first(&self) -> bool {
        let asked = self.pending.as_ref().and_then(|pending| pending.asked.as_ref());
        asked.is_some_and(|(asked, _)| asked.is_first())
    }

    /// It waits for nothing any more.
    pub fn settle(&mut self) {
        self.pending = None;
        self.look = None;
    }
}

/// Who asks, and what for it waits.
pub(super) struct Caller<'a> {
    pub(super) asker: Asker,
    pub(super) waker: &'a Arc<dyn Wake>,
    pub(super) proof: &'a mut Proof,
}

/// Finds out whose request it is, and leaves the name in the exchange. `Some` is when to come again at
/// the latest: the waker is told earlier if it is known earlier.
///
/// # Errors
///
/// It is nobody's: 407, or what else is wrong with its credentials.
pub(super) fn prove(
    auth: &Arc<Auth>,
    head: &RequestHead<'_, '_>,
    caller: &mut Caller<'_>,
    exchange: &mut Exchange,
    turn: &Turn<'_>,
) -> Result<Option<Instant>, Error> {
    let reason = match head.credentials() {
        Credentials::Basic(token) => match weigh(auth, token, caller, exchange, turn) {
            Ok(later) => return Ok(later),
            Err(e) => return Err(refuse(e, head, caller, exchange, turn)),
        },
        Credentials::None => UNPROVEN,
        Credentials::Other => "only credentials of the Basic scheme are taken here",
        Credentials::Repeated => {
            let e = malformed("the request has more than one Proxy-Authorization");
            return Err(refuse(e, head, caller, exchange, turn));
        }
    };
    Err(refuse(unproven(reason), head, caller, exchange, turn))
}

/// What the token is worth.
fn weigh(
    auth: &Arc<Auth>,
    token: &[u8],
    caller: &mut Caller<'_>,
    exchange: &mut Exchange,
    turn: &Turn<'_>,
) -> Result<Option<Instant>, Error> {
    let tag = auth.tag(token);
    let client = caller.asker.address.ip();
    let is_known = caller.proof.proven == tag.head();
    let answer = answered(auth, caller);
    if answer == Some(Answer::Early) {
        caller.proof.pending = None;
    }
    match caller.proof.pending.as_ref().map(|pending| &pending.delayed) {
        _ if is_known => {}
        None => match turn.ctx.failures.gate(client, tag, turn.now) {
            Gate::Open => {}
            Gate::Delayed(place, until) => {
                turn.counters.count(|c| c.auth_delays += 1);
                let delayed = Some((place, until));
                caller.proof.pending = Some(Box::new(Pending { delayed, ..Pending::default() }));
                return Ok(Some(until));
            }
            Gate::Full => {
                return Err(too_many("too many wrong credentials came from this address"));
            }
        },
        Some(Some((_, until))) if turn.now < *until => return Ok(Some(*until)),
        Some(_) => {}
    }
    let user = match answer {
        Some(Answer::User(user)) => auth.user(Some(user)).ok_or(KnownBy::Compared),
        Some(Answer::Nobody) => Err(KnownBy::Compared),
        Some(Answer::Early) | None => match auth.look(tag, token, turn.now) {
            TokenLook::Proven(user, known) => {
                if known == KnownBy::Remembered {
                    turn.counters.count(|c| c.auth_cache_hits += 1);
                }
                Ok(user)
            }
            TokenLook::Wrong(known) => Err(known),
            TokenLook::NoToken(NoToken::Malformed(reason)) => return Err(unproven(reason)),
            TokenLook::NoToken(NoToken::Ambiguous) => {
                return Err(malformed("the request's Proxy-Authorization can be read in two ways"));
            }
            TokenLook::Unknown(read) => {
                let has_waited = is_known || caller.proof.has_waited();
                let claim = Claim {
                    tag,
                    read,
                    client,
                    begun: exchange.times.started.unwrap_or(turn.now),
                    has_waited,
                    failures: Arc::clone(&turn.ctx.failures),
                };
                return verify(auth, claim, caller, turn).map(Some);
            }
        },
    };
    match user {
        Ok(user) => {
            exchange.user.push_str(user);
            if !is_known {
                turn.ctx.failures.right(client, tag);
                caller.proof.proven = tag.head();
            }
            caller.proof.pending = None;
            Ok(None)
        }
        Err(known) => {
            if is_known {
                caller.proof.proven = 0;
            }
            turn.counters.count(|c| {
                c.auth_failures += 1;
                c.auth_cache_hits += u64::from(known == KnownBy::Remembered);
            });
            // What its own question came to is counted already.
            if answer.is_none() || !caller.proof.has_asked_first() {
                let begun = exchange.times.started.unwrap_or(turn.now);
                note_wrong(&turn.ctx.failures, client, tag, begun, turn.now);
            }
            Err(unproven(WRONG))
        }
    }
}

/// Counts wrong credentials, and says so of a client that guesses.
pub(super) fn note_wrong(
    failures: &Failures,
    client: IpAddr,
    tag: Tag,
    begun: Instant,
    now: Instant,
) {
    if let Some(Guessing(count)) = failures.wrong(client, tag, begun, now) {
        log::warn!(
            "{client} has sent {count} wrong credentials; its next ones are looked at after a delay"
        );
    }
}

/// What was answered to the question that the request waits for, if it is one about these users.
fn answered(auth: &Auth, caller: &Caller<'_>) -> Option<Answer> {
    let (asked, number) = caller.proof.pending.as_ref()?.asked.as_ref()?;
    asked.answer().filter(|_| *number == auth.number())
}

/// Has them verified. Answers until when to wait for that.
#[cold]
fn verify(
    auth: &Arc<Auth>,
    claim: Claim,
    caller: &mut Caller<'_>,
    turn: &Turn<'_>,
) -> Result<Instant, Error> {
    let pending = caller.proof.pending.get_or_insert_default();
    let until = *pending.until.get_or_insert(turn.now + PATIENCE);
    if turn.now >= until {
        return Err(busy("the password could not be checked in time"));
    }
    if pending.asked.as_ref().is_some_and(|(_, number)| *number == auth.number()) {
        return Ok(until);
    }
    let owner = Owner { who: Arc::clone(caller.waker), tag: CLIENT };
    let Some(asked) = turn.ctx.verifier.ask(auth, claim, &owner) else {
        return Err(busy("too many passwords are being checked"));
    };
    if asked.is_first() {
        turn.counters.count(|c| c.auth_verifications += 1);
    }
    pending.asked = Some((asked, auth.number()));
    Ok(until)
}

/// The request goes no further.
#[cold]
fn refuse(
    error: Error,
    head: &RequestHead<'_, '_>,
    caller: &mut Caller<'_>,
    exchange: &mut Exchange,
    turn: &Turn<'_>,
) -> Error {
    caller.proof.pending = None;
    exchange.rule = Some(RuleId::AUTH);
    turn.policy.origins.hit(RuleId::AUTH);
    if error.status() == 407 {
        turn.counters.count(|c| c.auth_challenges += 1);
    }
    // The connection can go on if no content has to be read first.
    exchange.leave_content(head.framing);
    error
}

fn unproven(reason: &'static str) -> Error {
    denied(reason).with_status(407)
}

fn too_many(reason: &'static str) -> Error {
    Error::new(Side::Client, Phase::Request, Kind::HttpRequestDenied, reason)
        .with_status(429)
        .with_retry_after(5)
}

fn busy(reason: &'static str) -> Error {
    denied(reason).with_status(503).with_retry_after(5)
}

fn malformed(reason: &'static str) -> Error {
    Error::new(Side::Client, Phase::Request, Kind::HttpRequestError, reason)
}
