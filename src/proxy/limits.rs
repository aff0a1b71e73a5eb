//! Applies limits: who is let in, how much may be received now, and who waits for more.
//!
//! Octets are accounted for where a flow takes them from its source: a request's head before it goes
//! anywhere, content and tunnels as they are received, a response's head as part of what is received.
//! A flow that has used up its allowance is *dry*: its source is left alone, no buffer or pipe is
//! held for it, and its session is parked until the moment the share was told. What its source says
//! meanwhile wakes nobody.

use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, Kind, Phase, Side};
use crate::net::buffer::Buffer;
use crate::net::hosts::without_dot;
use crate::net::stream::Stream;
use crate::observe::counters::Refused;
use crate::policy::limits::{Connections, Direction, Limits, Who};
use crate::policy::rule_origin::RuleId;
use crate::policy::shape::{Grant, Share, TooSoon};
use crate::policy::tally::ConnectionTally;
use crate::wire::RequestHead;

use super::Turn;
use super::exchange::{CLIENT, ClientSide, Exchange, Stage, UPSTREAM};
use super::facts::Destination;
use super::flow::{Broken, End, Flow, Step};
use super::request::Asker;
use super::waiting::Edges;

/// What limits have to do with an exchange.
#[derive(Debug)]
pub(super) struct Limited {
    /// What is counted for its connection.
    pub(super) line: Arc<ConnectionTally>,
    /// Its part in the rates, if there are any.
    share: Option<Box<Share>>,
    /// The limit that ended it.
    met: Option<RuleId>,
}

impl Limited {
    /// Of an exchange on this connection.
    pub(super) fn on(line: &Arc<ConnectionTally>) -> Box<Self> {
        Box::new(Self { line: Arc::clone(line), share: None, met: None })
    }

    /// When there will be an allowance for a flow that waits for one.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.share.as_ref()?.wake_at()
    }

    fn is_dry(&self, direction: Direction) -> bool {
        self.share.as_ref().is_some_and(|share| share.is_dry(direction))
    }

    #[cold]
    fn step(
        &mut self,
        flow: &mut Flow,
        (source, out, sink): (&mut End, &mut Buffer, &mut Stream),
        direction: Direction,
        turn: &mut Turn<'_>,
    ) -> Result<Step, Broken> {
        loop {
            let step = flow.step(source, out, sink, turn);
            if let Ok(Step::Dry) = step {
                match self.refill(direction, None, source, turn) {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(_) => return Err(Broken::UsedUp),
                }
            }
            // One whose turn is spent goes on at once.
            if !matches!(step, Ok(Step::Spent)) {
                self.settle(direction, source, turn.now);
            }
            return step;
        }
    }

    /// Allows more to be taken from `end`. Answers whether it has; else the session has to wait.
    fn refill(
        &mut self,
        direction: Direction,
        exactly: Option<u64>,
        end: &mut End,
        turn: &Turn<'_>,
    ) -> Result<bool, Error> {
        let Some(share) = &mut self.share else {
            end.lift_limit();
            return Ok(true);
        };
        let (grant, waited) = share.ask(direction, exactly, turn.now);
        if !waited.is_zero() {
            turn.counters.count(|c| c.token_wait_seconds.record(waited));
        }
        match grant {
            Grant::Now(octets) => end.allow(octets),
            Grant::At(_) => return Ok(false),
            Grant::Never => {
                let rule = share.limits().volume.as_ref().map(|volume| volume.id);
                self.met = rule;
                return Err(used_up(Phase::Transfer));
            }
        }
        Ok(true)
    }

    /// Gives back what was allowed and is not needed now.
    fn settle(&mut self, direction: Direction, end: &mut End, now: Instant) {
        let left = end.settle();
        self.give_back(direction, left, now);
    }

    fn give_back(&mut self, direction: Direction, left: i64, now: Instant) {
        if let Some(share) = &mut self.share {
            share.settle(direction, left, now);
        }
    }
}

/// Has a flow go as far as it can, and may.
///
/// # Errors
///
/// The flow is over, and not well.
#[inline]
pub(super) fn step(
    flow: &mut Flow,
    (source, out, sink): (&mut End, &mut Buffer, &mut Stream),
    (limited, direction): (&mut Option<Box<Limited>>, Direction),
    turn: &mut Turn<'_>,
) -> Result<Step, Broken> {
    match limited {
        None => flow.step(source, out, sink, turn),
        Some(limited) => limited.step(flow, (source, out, sink), direction, turn),
    }
}

/// Whether limits let a request pass that may go where it wants.
///
/// # Errors
///
/// Its client has too many of something, or nobody gets more: 429 or 503.
pub(super) fn admit(
    head: &RequestHead<'_, '_>,
    asker: Asker,
    exchange: &mut Exchange,
    turn: &Turn<'_>,
) -> Result<(), Error> {
    let Some(limits) = turn.policy.limits(asker.listener) else { return Ok(()) };
    let refused = match find_refusal(limits, asker, exchange, turn) {
        None => return Ok(()),
        Some(refused) => refused,
    };
    let (rule, which, error) = refused;
    turn.counters.count(|c| c.count_limited(which));
    exchange.rule = Some(rule);
    turn.policy.origins.hit(rule);
    exchange.leave_content(head.framing);
    Err(error)
}

/// Whether its client may have another connection, for a request that goes nowhere.
///
/// # Errors
///
/// It has too many: 429.
pub(super) fn come_in(asker: Asker, exchange: &mut Exchange, turn: &Turn<'_>) -> Result<(), Error> {
    let Some(limits) = turn.policy.limits(asker.listener) else { return Ok(()) };
    let Some(rule) = is_crowded(limits, asker, exchange, turn) else { return Ok(()) };
    turn.counters.count(|c| c.count_limited(Refused::Connections));
    exchange.rule = Some(rule);
    turn.policy.origins.hit(rule);
    Err(crowded("this client has too many connections"))
}

#[cold]
fn find_refusal(
    limits: &Arc<Limits>,
    asker: Asker,
    exchange: &mut Exchange,
    turn: &Turn<'_>,
) -> Option<(RuleId, Refused, Error)> {
    let shaper = &turn.ctx.shaper;
    if let Some(rule) = is_crowded(limits, asker, exchange, turn) {
        let error = crowded("this client has too many connections");
        return Some((rule, Refused::Connections, error));
    }
    let Exchange { limited, destination, user, .. } = exchange;
    let limited = limited.as_mut()?;
    let who = who(asker, user, destination);
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
        let error = Error::new(Side::Proxy, Phase::Request, Kind::HttpRequestDenied, reason)
            .with_status(429)
            .with_retry_after(seconds.max(1));
        return Some((rule, Refused::Requests, error));
    }
    if limits.count_octets() {
        limited.share = Some(shaper.share(limits, &who, &limited.line, turn.now));
    }
    None
}

/// Whether the request came on a connection too many, and by which rule.
fn is_crowded(
    limits: &Limits,
    asker: Asker,
    exchange: &mut Exchange,
    turn: &Turn<'_>,
) -> Option<RuleId> {
    let shaper = &turn.ctx.shaper;
    if exchange.limited.is_none() {
        let Some(line) = shaper.enter(asker.address.ip(), limits, turn.now) else {
            return limits.connections.map(|connections| connections.id);
        };
        exchange.limited = Some(Limited::on(&line));
    }
    let line = &exchange.limited.as_ref()?.line;
    let is_over = |_: &Connections| shaper.is_over(asker.address.ip(), line, limits, turn.now);
    limits.connections.filter(is_over).map(|c| c.id)
}

fn who<'a>(asker: Asker, user: &'a str, destination: &'a Destination) -> Who<'a> {
    Who {
        client: asker.address.ip(),
        user: Some(user).filter(|user| !user.is_empty()),
        host: without_dot(destination.host().trim_matches(['[', ']'])),
        ip: destination.ip,
        port: destination.port,
    }
}

fn crowded(reason: &'static str) -> Error {
    Error::new(Side::Proxy, Phase::Request, Kind::ConnectionLimitReached, reason).with_status(429)
}

pub(super) fn used_up(phase: Phase) -> Error {
    let reason = "the traffic this proxy may relay is used up";
    Error::new(Side::Proxy, phase, Kind::HttpRequestDenied, reason).with_status(503)
}

fn say_used_up(limits: &Limits, turn: &Turn<'_>) {
    if let Some(volume) = &limits.volume
        && turn.ctx.shaper.says_so()
    {
        log::warn!(
            "--max-bytes: {} were relayed: what was under way is cut, and requests are refused",
            volume.text
        );
    }
}

impl Exchange {
    /// Goes by the limits that are in force now. One branch where there never were any.
    #[inline]
    pub(super) fn follow_limits(&mut self, client: &mut ClientSide<'_>, turn: &Turn<'_>) {
        let limits = turn.policy.limits(client.asker.listener);
        if limits.is_some() || self.limited.is_some() {
            self.follow_these(limits, client, turn);
        }
    }

    #[cold]
    fn follow_these(
        &mut self,
        limits: Option<&Arc<Limits>>,
        client: &mut ClientSide<'_>,
        turn: &Turn<'_>,
    ) {
        if matches!(self.stage, Stage::Reply) {
            return;
        }
        let shaper = &turn.ctx.shaper;
        let who = who(*client.asker, &self.user, &self.destination);
        let ends = [Some(&mut *client.end), self.upstream.as_mut().map(|u| &mut u.end)];
        let Some(limits) = limits.filter(|l| l.count_octets()) else {
            if self.limited.as_mut().is_some_and(|limited| limited.share.take().is_some()) {
                ends.into_iter().flatten().for_each(End::lift_limit);
            }
            return;
        };
        // Of one that is under way already it is too late to say that its connection is one too many.
        let limited = self.limited.get_or_insert_with(|| Limited::on(&Arc::default()));
        match &mut limited.share {
            Some(share) => {
                share.begin_turn();
                if !share.goes_by(limits) {
                    // What is allowed and has not come goes back to the counts that it is from.
                    for (direction, end) in Direction::ALL.into_iter().zip(ends) {
                        let Some(end) = end else { continue };
                        share.settle(direction, end.settle_unreceived(), turn.now);
                    }
                }
                shaper.follow(share, limits, &who, &limited.line, turn.now);
            }
            none => {
                *none = Some(shaper.share(limits, &who, &limited.line, turn.now));
                ends.into_iter().flatten().for_each(End::limit);
            }
        }
    }

    /// Whether the octets of an exchange that begins are accounted for; then its request's head is, and
    /// has to wait for its turn.
    pub(super) fn begins_limited(&mut self, client: &mut ClientSide<'_>) -> bool {
        if self.limited.as_ref().is_none_or(|limited| limited.share.is_none()) {
            return false;
        }
        client.end.limit();
        client.end.charge(usize::try_from(self.head_octets).unwrap_or(0));
        true
    }

    /// Whether the request may go on now; until then nothing is connected to for it.
    pub(super) fn is_let_go(
        &mut self,
        client: &mut ClientSide<'_>,
        turn: &Turn<'_>,
    ) -> Result<bool, Error> {
        let Some(limited) = &mut self.limited else { return Ok(true) };
        let go = limited.refill(Direction::Up, Some(self.head_octets), client.end, turn)?;
        self.wait_on(turn);
        Ok(go)
    }

    /// Receives a response's head as far as that may be received. Answers whether it may.
    pub(super) fn may_receive(&mut self, turn: &Turn<'_>) -> Result<bool, Error> {
        if self.limited.is_none() { Ok(true) } else { self.may_receive_limited(turn) }
    }

    #[cold]
    fn may_receive_limited(&mut self, turn: &Turn<'_>) -> Result<bool, Error> {
        let (Some(limited), Some(upstream)) = (&mut self.limited, &mut self.upstream) else {
            return Ok(true);
        };
        // What was received before there was a limit may be more than one portion.
        while upstream.end.is_dry() {
            if !limited.refill(Direction::Down, None, &mut upstream.end, turn)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Gives back what was allowed for a response's head, since none comes now.
    pub(super) fn settle_response(&mut self, turn: &Turn<'_>) {
        if let (Some(limited), Some(upstream)) = (&mut self.limited, &mut self.upstream) {
            let left = upstream.end.settle_unreceived();
            limited.give_back(Direction::Down, left, turn.now);
        }
    }

    /// Waiting for an allowance is nobody's fault: the time for the next step begins after it.
    pub(super) fn wait_on(&mut self, turn: &Turn<'_>) {
        let Some(at) = self.limited.as_ref().and_then(|limited| limited.wake_at()) else { return };
        let times = &turn.ctx.timeouts;
        let then = at + if self.is_tunnel() { times.tunnel } else { times.response };
        self.deadline = self.deadline.map(|deadline| deadline.max(then));
    }

    /// Whether it waits for an allowance.
    pub(super) fn is_dry(&self) -> bool {
        self.limited.as_ref().is_some_and(|limited| limited.wake_at().is_some())
    }

    /// An upstream's connection, in so far as its octets are accounted for.
    pub(super) fn limit_end(&self, end: &mut End) {
        if self.limited.as_ref().is_some_and(|limited| limited.share.is_some()) {
            end.limit();
        }
    }

    /// Notes the limit that ended it, if one did.
    #[cold]
    pub(super) fn ended_by<T>(&mut self, e: Error, turn: &Turn<'_>) -> Result<T, Error> {
        if let Some(limited) = &mut self.limited
            && let Some(rule) = limited.met.take()
        {
            self.rule = Some(rule);
            turn.policy.origins.hit(rule);
            turn.counters.count(|c| c.count_limited(Refused::Volume));
            limited.share.iter().for_each(|share| say_used_up(share.limits(), turn));
        }
        Err(e)
    }

    /// Whether edges are worth a turn: more from a source that is left alone for now is not.
    pub(super) fn heeds(&self, edges: &Edges, client: &End) -> bool {
        if !self.is_dry() {
            return true;
        }
        let Some(limited) = &self.limited else { return true };
        edges.each().any(|(tag, edge)| {
            let (dry, stream) = match (tag, &self.upstream) {
                (CLIENT, _) => (limited.is_dry(Direction::Up), &client.stream),
                (UPSTREAM, Some(upstream)) => {
                    (limited.is_dry(Direction::Down), &upstream.end.stream)
                }
                _ => return true,
            };
            let more = edge.readable && !dry;
            more || edge.closed || edge.broken || (edge.writable && !stream.is_writable())
        })
    }
}
