//! Finds out which user asks: the outcome is a user, a 407, a delay, or a wait for a password check.
//!
//! ```text
//!            ┌──▶ no credentials, or none of ours ──▶ 407
//! head ──────┤             ┌─ delayed ─┐    ┌──── verified elsewhere ───┐
//!            └──▶ token ───┴───────────┴──▶ look ──┬────────────────────┴──┬──▶ user
//!                          (wrong before)          └── known              └──▶ 407
//! ```
//!
//! A session that has to wait leaves the head in its buffer, parks, and comes here again.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Phase, RefusedBy, Side};
use crate::net::poll::{Owner, Wake};
use crate::policy::auth::guessers::{Admission, DelayedPlace};
use crate::policy::auth::token_tag::Tag;
use crate::policy::auth::{Auth, KnownBy, TokenLook};
use crate::policy::decide::{UNPROVEN, WRONG};
use crate::policy::rule_origin::RuleId;
use crate::policy::url_rules;
use crate::wire::Credentials;
use crate::wire::credentials::NoToken;

use super::asker::Asker;
use super::blame::denied;
use super::context::Turn;
use super::sides::CLIENT;
use super::verify::{AwaitedProof, Claim, Verified, note_wrong};

/// How long a session waits for its credentials to be verified. This is enough for a whole office that
/// comes at once from one address, whose queue has 128 places.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a request waits for before its user is known. Dropping it leaves all queues.
#[derive(Debug, Default)]
pub struct Pending {
    /// Its credentials are not looked at before this time.
    delayed: Option<(DelayedPlace, Instant)>,
    /// Its credentials are being verified against these users' hashes.
    asked: Option<(AwaitedProof, u64)>,
    /// The verification must be done by this time.
    until: Option<Instant>,
}

/// What a session remembers of its user.
#[derive(Debug, Default)]
pub struct Proof {
    /// What the current request waits for.
    pending: Option<Box<Pending>>,
    /// Half the tag of the credentials that were last right on this connection; zero if none were. The
    /// same credentials are checked again, but do not count as a guess.
    proven: u64,
    /// What the URL rules know of the current request.
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

    /// Whether it was the first to ask the question that was then answered.
    fn has_asked_first(&self) -> bool {
        let asked = self.pending.as_ref().and_then(|pending| pending.asked.as_ref());
        asked.is_some_and(|(asked, _)| asked.is_first())
    }

    /// Records that the request waits for nothing any more.
    pub fn settle(&mut self) {
        self.pending = None;
        self.look = None;
    }
}

/// The client, and what its request waits for.
pub(super) struct Caller<'a> {
    pub(super) asker: Asker,
    pub(super) waker: &'a Arc<dyn Wake>,
    pub(super) proof: &'a mut Proof,
}

/// What the credentials are worth.
pub(super) enum CredentialsWorth<'a> {
    /// They are this user's.
    User(&'a str),
    /// Look again at this time at the latest. The waker is told if the answer is known earlier.
    Later(Instant),
}

/// The request is refused, by this rule.
pub(super) struct Refusal {
    pub(super) rule: RuleId,
    pub(super) error: Error,
}

/// Finds out which user sent the request, which began at `begun`.
///
/// # Errors
///
/// No user did: 407, or another fault of the credentials.
pub(super) fn prove<'a>(
    auth: &'a Arc<Auth>,
    credentials: Credentials<'_>,
    begun: Instant,
    caller: &mut Caller<'_>,
    turn: &Turn<'_>,
) -> Result<CredentialsWorth<'a>, Refusal> {
    let proven = match credentials {
        Credentials::Basic(token) => weigh(auth, token, begun, caller, turn),
        Credentials::None => Err(unproven(UNPROVEN)),
        Credentials::Other => {
            Err(unproven("only credentials of the Basic scheme are accepted here"))
        }
        Credentials::Repeated => {
            Err(malformed("the request has more than one Proxy-Authorization"))
        }
    };
    proven.map_err(|error| refuse(error, caller, turn))
}

/// Finds out what the token is worth.
fn weigh<'a>(
    auth: &'a Arc<Auth>,
    token: &[u8],
    begun: Instant,
    caller: &mut Caller<'_>,
    turn: &Turn<'_>,
) -> Result<CredentialsWorth<'a>, Error> {
    let tag = auth.tag(token);
    let client = caller.asker.address.ip();
    let is_known = caller.proof.proven == tag.head();
    let answer = answered(auth, caller);
    if answer == Some(Verified::Early) {
        caller.proof.pending = None;
    }
    if !is_known && let Some(until) = delayed(client, tag, caller, turn)? {
        return Ok(CredentialsWorth::Later(until));
    }
    let user = match answer {
        Some(Verified::User(user)) => auth.user(Some(user)).ok_or(KnownBy::Compared),
        Some(Verified::Nobody) => Err(KnownBy::Compared),
        Some(Verified::Early) | None => match auth.look(tag, token, turn.now) {
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
                let failures = Arc::clone(&turn.ctx.failures);
                let claim = Claim { tag, read, client, begun, has_waited, failures };
                return verify(auth, claim, caller, turn).map(CredentialsWorth::Later);
            }
        },
    };
    match user {
        Ok(user) => {
            if !is_known {
                turn.ctx.failures.right(client, tag);
                caller.proof.proven = tag.head();
            }
            caller.proof.pending = None;
            Ok(CredentialsWorth::User(user))
        }
        Err(known) => {
            if is_known {
                caller.proof.proven = 0;
            }
            turn.counters.count(|c| {
                c.auth_failures += 1;
                c.auth_cache_hits += u64::from(known == KnownBy::Remembered);
            });
            // The outcome of its own question has been counted already.
            if answer.is_none() || !caller.proof.has_asked_first() {
                note_wrong(&turn.ctx.failures, client, tag, begun, turn.now);
            }
            Err(unproven(WRONG))
        }
    }
}

/// Until when credentials not known to be right have to wait before they are looked at.
///
/// # Errors
///
/// Too many requests of this client wait already.
fn delayed(
    client: IpAddr,
    tag: Tag,
    caller: &mut Caller<'_>,
    turn: &Turn<'_>,
) -> Result<Option<Instant>, Error> {
    match caller.proof.pending.as_ref().map(|pending| &pending.delayed) {
        None => match turn.ctx.failures.gate(client, tag, turn.now) {
            Admission::Open => Ok(None),
            Admission::Delayed(place, until) => {
                turn.counters.count(|c| c.auth_delays += 1);
                let delayed = Some((place, until));
                caller.proof.pending = Some(Box::new(Pending { delayed, ..Pending::default() }));
                Ok(Some(until))
            }
            Admission::Full => Err(too_many("too many wrong credentials came from this address")),
        },
        Some(Some((_, until))) if turn.now < *until => Ok(Some(*until)),
        Some(_) => Ok(None),
    }
}

/// The answer to the question that the request waits for, if the question is about these users.
fn answered(auth: &Auth, caller: &Caller<'_>) -> Option<Verified> {
    let (asked, number) = caller.proof.pending.as_ref()?.asked.as_ref()?;
    asked.answer().filter(|_| *number == auth.number())
}

/// Has the credentials verified. Returns until when to wait for that.
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

/// Refuses the request.
#[cold]
fn refuse(error: Error, caller: &mut Caller<'_>, turn: &Turn<'_>) -> Refusal {
    caller.proof.pending = None;
    if error.status() == 407 {
        turn.counters.count(|c| c.auth_challenges += 1);
    }
    Refusal { rule: RuleId::AUTH, error: error.with_refused_by(RefusedBy::Auth) }
}

fn unproven(reason: &'static str) -> Error {
    denied(reason, RefusedBy::Auth).with_status(407)
}

fn too_many(reason: &'static str) -> Error {
    Error::new(Side::Client, Phase::Request, Kind::HttpRequestDenied, reason)
        .with_status(429)
        .with_retry_after(5)
}

fn busy(reason: &'static str) -> Error {
    denied(reason, RefusedBy::Auth).with_status(503).with_retry_after(5)
}

fn malformed(reason: &'static str) -> Error {
    Error::new(Side::Client, Phase::Request, Kind::HttpRequestError, reason)
}
