//! Applies limits: which clients are let in, how much may be received now, and which flows wait for
//! more.
//!
//! Bytes are counted where a flow takes them from its source: a request's head before it goes anywhere,
//! content and tunnels as they are received, a response's head as part of what is received. A flow that
//! has used up its allowance is *dry*: its source is left alone, it holds no buffer or pipe, and its
//! session is parked until the time that its share gives. Bytes that the source sends meanwhile wake
//! nobody.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, Kind, Phase, RefusedBy, Side};
use crate::net::buffer::Buffer;
use crate::net::stream::Stream;
use crate::observe::counters::Refused;
use crate::policy::limits::{Connections, Direction, Limits, Who};
use crate::policy::rule_origin::RuleId;
use crate::policy::shape::{Grant, Share, TooSoon};
use crate::policy::tally::ConnectionTally;
use crate::upstream::peer::Endpoint;

use super::account::Account;
use super::asker::Asker;
use super::blame::{denied, used_up};
use super::context::Turn;
use super::flow::{Broken, Flow, Step};
use super::half::Half;
use super::intent::who;
use super::sides::{CLIENT, UPSTREAM};
use super::waiting::Edges;

/// How much an exchange may receive; without limits, everything that comes.
#[derive(Debug, Default)]
pub(super) struct Allowance(Option<Box<Limited>>);

/// The limits on an exchange.
#[derive(Debug)]
struct Limited {
    /// The counts of its connection.
    line: Arc<ConnectionTally>,
    /// Its share of the rates, if there are any.
    share: Option<Box<Share>>,
    /// The limit that ended the exchange.
    met: Option<RuleId>,
}

impl Limited {
    /// For an exchange on this connection.
    fn on(line: &Arc<ConnectionTally>) -> Box<Self> {
        Box::new(Self { line: Arc::clone(line), share: None, met: None })
    }

    /// When a waiting flow gets an allowance.
    fn wake_at(&self) -> Option<Instant> {
        self.share.as_ref()?.wake_at()
    }

    fn is_dry(&self, direction: Direction) -> bool {
        self.share.as_ref().is_some_and(|share| share.is_dry(direction))
    }

    #[cold]
    fn step(
        &mut self,
        flow: &mut Flow,
        (source, staged, sink): (&mut Half, &mut Buffer, &mut Stream),
        direction: Direction,
        turn: &mut Turn<'_>,
    ) -> Result<Step, Broken> {
        loop {
            let step = flow.step(source, staged, sink, turn);
            if let Ok(Step::Dry) = step {
                match self.refill(direction, None, source, turn) {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(_) => return Err(Broken::UsedUp),
                }
            }
            // A flow whose turn is spent goes on at once, and keeps its allowance.
            if !matches!(step, Ok(Step::Spent)) {
                self.settle(direction, source, turn.now);
            }
            return step;
        }
    }

    /// Allows more to be taken from `half`. Returns false if the session has to wait for that.
    fn refill(
        &mut self,
        direction: Direction,
        exactly: Option<u64>,
        half: &mut Half,
        turn: &Turn<'_>,
    ) -> Result<bool, Error> {
        let Some(share) = &mut self.share else {
            half.lift_limit();
            return Ok(true);
        };
        let (grant, waited) = share.ask(direction, exactly, turn.now);
        if !waited.is_zero() {
            turn.counters.count(|c| c.token_wait_seconds.record(waited));
        }
        match grant {
            Grant::Now(bytes) => half.allow(bytes),
            Grant::At(_) => return Ok(false),
            Grant::Never => {
                let rule = share.limits().volume.as_ref().map(|volume| volume.id);
                self.met = rule;
                return Err(used_up(Phase::Transfer));
            }
        }
        Ok(true)
    }

    /// Gives back the part of the allowance that is not needed now.
    fn settle(&mut self, direction: Direction, half: &mut Half, now: Instant) {
        let left = half.settle();
        self.give_back(direction, left, now);
    }

    #[cold]
    fn may_receive(&mut self, upstream: &mut Half, turn: &Turn<'_>) -> Result<bool, Error> {
        // The bytes received before there was a limit may be more than one portion.
        while upstream.is_dry() {
            if !self.refill(Direction::Down, None, upstream, turn)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn give_back(&mut self, direction: Direction, left: i64, now: Instant) {
        if let Some(share) = &mut self.share {
            share.settle(direction, left, now);
        }
    }
}

/// Checks the limits for a request that the rules allow.
///
/// # Errors
///
/// The client has too many of something, or nobody gets more: 429 or 503.
pub(super) fn admit(
    asker: Asker,
    (user, destination): (&str, &Endpoint),
    (allowance, account): (&mut Allowance, &mut Account),
    turn: &Turn<'_>,
) -> Result<(), Error> {
    let Some(limits) = turn.policy.limits(asker.listener) else { return Ok(()) };
    let who = who(asker.address.ip(), user, destination);
    let Some((rule, which, error)) = find_refusal(limits, &who, allowance, turn) else {
        return Ok(());
    };
    turn.counters.count(|c| c.count_limited(which));
    account.ended_by(rule, turn);
    Err(error)
}

/// Checks the limit on connections for a request that the proxy answers itself.
///
/// # Errors
///
/// The client has too many: 429.
pub(super) fn come_in(
    asker: Asker,
    (allowance, account): (&mut Allowance, &mut Account),
    turn: &Turn<'_>,
) -> Result<(), Error> {
    let Some(limits) = turn.policy.limits(asker.listener) else { return Ok(()) };
    let client = asker.address.ip();
    let Some(rule) = is_crowded(limits, client, allowance, turn) else { return Ok(()) };
    turn.counters.count(|c| c.count_limited(Refused::Connections));
    account.ended_by(rule, turn);
    Err(crowded("this client has too many connections"))
}

#[cold]
fn find_refusal(
    limits: &Arc<Limits>,
    who: &Who<'_>,
    allowance: &mut Allowance,
    turn: &Turn<'_>,
) -> Option<(RuleId, Refused, Error)> {
    let shaper = &turn.ctx.shaper;
    if let Some(rule) = is_crowded(limits, who.client, allowance, turn) {
        let error = crowded("this client has too many connections");
        return Some((rule, Refused::Connections, error));
    }
    let limited = allowance.0.as_mut()?;
    if let (Some(connections), Some(user)) = (limits.connections, who.user)
        && shaper.is_over_for(user, &limited.line, limits, turn.now)
    {
        let error = crowded("this user has too many connections");
        return Some((connections.id, Refused::Connections, error));
    }
    if let Some(volume) = &limits.volume
        && shaper.is_used_up(limits)
    {
        say_used_up(limits, turn);
        return Some((volume.id, Refused::Volume, used_up(Phase::Request)));
    }
    if let Err(TooSoon(wait)) = shaper.request(who.client, limits, turn.now) {
        let rule = limits.requests?.id;
        let seconds = u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
        let reason = "this client makes requests too fast";
        let error =
            denied(reason, RefusedBy::Limit).with_status(429).with_retry_after(seconds.max(1));
        return Some((rule, Refused::Requests, error));
    }
    if limits.count_bytes() {
        limited.share = Some(shaper.share(limits, who, &limited.line, turn.now));
    }
    None
}

/// The rule that forbids the request's connection as one too many, if one does.
fn is_crowded(
    limits: &Limits,
    client: IpAddr,
    allowance: &mut Allowance,
    turn: &Turn<'_>,
) -> Option<RuleId> {
    let shaper = &turn.ctx.shaper;
    if allowance.0.is_none() {
        let Some(line) = shaper.enter(client, limits, turn.now) else {
            return limits.connections.map(|connections| connections.id);
        };
        allowance.0 = Some(Limited::on(&line));
    }
    let line = &allowance.0.as_ref()?.line;
    let is_over = |_: &Connections| shaper.is_over(client, line, limits, turn.now);
    limits.connections.filter(is_over).map(|c| c.id)
}

fn crowded(reason: &'static str) -> Error {
    Error::new(Side::Proxy, Phase::Request, Kind::ConnectionLimitReached, reason)
        .with_status(429)
        .with_refused_by(RefusedBy::Limit)
}

fn say_used_up(limits: &Limits, turn: &Turn<'_>) {
    if let Some(volume) = &limits.volume
        && turn.ctx.shaper.says_so()
    {
        log::warn!(
            "--max-bytes: {} were relayed; exchanges under way are cut, and new requests are refused",
            volume.text
        );
    }
}

impl Allowance {
    /// For an exchange on a connection that is counted already.
    pub(super) fn on(line: &Arc<ConnectionTally>) -> Self {
        Self(Some(Limited::on(line)))
    }

    /// The counts of its connection.
    pub(super) fn line(&self) -> Option<&Arc<ConnectionTally>> {
        self.0.as_ref().map(|limited| &limited.line)
    }

    /// Whether limits apply to the exchange.
    pub(super) fn is_limited(&self) -> bool {
        self.0.is_some()
    }

    /// When a waiting flow gets an allowance.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.0.as_ref()?.wake_at()
    }

    /// Whether the exchange waits for an allowance.
    pub(super) fn is_dry(&self) -> bool {
        self.wake_at().is_some()
    }

    /// Whether its bytes are counted.
    pub(super) fn counts_bytes(&self) -> bool {
        self.0.as_ref().is_some_and(|limited| limited.share.is_some())
    }

    /// Lets a flow go as far as it can and may.
    ///
    /// # Errors
    ///
    /// The flow has failed.
    #[inline]
    pub(super) fn step(
        &mut self,
        flow: &mut Flow,
        (source, staged, sink): (&mut Half, &mut Buffer, &mut Stream),
        direction: Direction,
        turn: &mut Turn<'_>,
    ) -> Result<Step, Broken> {
        match &mut self.0 {
            None => flow.step(source, staged, sink, turn),
            Some(limited) => limited.step(flow, (source, staged, sink), direction, turn),
        }
    }

    /// Applies the limits that are in force now. This is one branch if there never were any.
    #[inline]
    pub(super) fn follow<'a>(
        &mut self,
        asker: &Asker,
        wanted: (&'a str, &'a Endpoint),
        halves: (&mut Half, Option<&mut Half>),
        turn: &Turn<'_>,
    ) {
        let limits = turn.policy.limits(asker.listener);
        if limits.is_some() || self.0.is_some() {
            self.follow_these(limits, &who(asker.address.ip(), wanted.0, wanted.1), halves, turn);
        }
    }

    #[cold]
    fn follow_these(
        &mut self,
        limits: Option<&Arc<Limits>>,
        who: &Who<'_>,
        (client, upstream): (&mut Half, Option<&mut Half>),
        turn: &Turn<'_>,
    ) {
        let shaper = &turn.ctx.shaper;
        let halves = [Some(client), upstream];
        let Some(limits) = limits.filter(|l| l.count_bytes()) else {
            if self.0.as_mut().is_some_and(|limited| limited.share.take().is_some()) {
                halves.into_iter().flatten().for_each(Half::lift_limit);
            }
            return;
        };
        // An exchange under way is not refused any more, even if its connection is one too many.
        let limited = self.0.get_or_insert_with(|| Limited::on(&Arc::default()));
        match &mut limited.share {
            Some(share) => {
                share.begin_turn();
                if !share.goes_by(limits) {
                    // Bytes that were allowed but have not come go back to the counts they are from.
                    for (direction, half) in Direction::ALL.into_iter().zip(halves) {
                        let Some(half) = half else { continue };
                        share.settle(direction, half.settle_unreceived(), turn.now);
                    }
                }
                shaper.follow(share, limits, who, &limited.line, turn.now);
            }
            none => {
                *none = Some(shaper.share(limits, who, &limited.line, turn.now));
                halves.into_iter().flatten().for_each(Half::limit);
            }
        }
    }

    /// Whether a request with a head of this size may be sent now. Before that, no connection is made
    /// for it.
    ///
    /// # Errors
    ///
    /// Nobody gets more.
    pub(super) fn lets_go(
        &mut self,
        head_bytes: u64,
        client: &mut Half,
        turn: &Turn<'_>,
    ) -> Result<bool, Error> {
        let Some(limited) = &mut self.0 else { return Ok(true) };
        limited.refill(Direction::Up, Some(head_bytes), client, turn)
    }

    /// Whether a response's head may be received now.
    ///
    /// # Errors
    ///
    /// Nobody gets more.
    pub(super) fn may_receive(
        &mut self,
        upstream: &mut Half,
        turn: &Turn<'_>,
    ) -> Result<bool, Error> {
        match &mut self.0 {
            None => Ok(true),
            Some(limited) => limited.may_receive(upstream, turn),
        }
    }

    /// Gives back the allowance for a response's head, because none comes now.
    pub(super) fn settle_response(&mut self, upstream: &mut Half, turn: &Turn<'_>) {
        if let Some(limited) = &mut self.0 {
            let left = upstream.settle_unreceived();
            limited.give_back(Direction::Down, left, turn.now);
        }
    }

    /// The limit that ended the exchange, if one did.
    #[cold]
    pub(super) fn take_met(&mut self, turn: &Turn<'_>) -> Option<RuleId> {
        let limited = self.0.as_mut()?;
        let rule = limited.met.take()?;
        turn.counters.count(|c| c.count_limited(Refused::Volume));
        limited.share.iter().for_each(|share| say_used_up(share.limits(), turn));
        Some(rule)
    }

    /// Whether these edges are worth a turn. More bytes from a source that is left alone for now are
    /// not.
    pub(super) fn heeds(&self, edges: &Edges, client: &Half, upstream: Option<&Half>) -> bool {
        let Some(limited) = self.0.as_ref().filter(|limited| limited.wake_at().is_some()) else {
            return true;
        };
        edges.each().any(|(tag, edge)| {
            let (dry, stream) = match (tag, upstream) {
                (CLIENT, _) => (limited.is_dry(Direction::Up), &client.stream),
                (UPSTREAM, Some(half)) => (limited.is_dry(Direction::Down), &half.stream),
                _ => return true,
            };
            let more = edge.readable && !dry;
            more || edge.closed || edge.broken || (edge.writable && !stream.is_writable())
        })
    }
}
