//! A client connection as a value that moves between workers and the parking thread.
//!
//! ```text
//!              first octets            head complete
//! accepted ──▶ Request ──────────────────────────────▶ Exchange
//!                ▲  │ ended, idle for too long            │ │ │
//!                │  └──────────────────▶ closed ◀──────────┘ │ │ failed, nothing to say
//!                │       next request on the connection      │ │
//!                └───────────────────────────────────────────┘ │ answered, but the client may
//!                                        closed ◀── Linger ◀───┘ still be sending
//! ```
//!
//! A turn does as much as can be done without waiting and answers what becomes of the session. It is
//! owned by exactly one of a queue, a worker or its parking slot; a dropped session is a closed
//! connection with its permit returned. Every wait has a deadline, which the turn checks itself:
//! a queue and a worker have no timer that watches.

mod parked;
mod patience;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Phase, Side};
use crate::net::permits::Permit;
use crate::net::poll::Wake;
use crate::net::stream::{Received, Stream};
use crate::policy::tally::ConnectionTally;
use crate::wire::head::{find_end, leading_empty_lines};
use crate::wire::{Framing, Method};

use super::auth::Proof;
use super::door::{Door, Step};
use super::exchange::{CLIENT, ClientSide, Exchange, Progress};
use super::flow::End;
use super::foreign::foreign;
use super::limits::Limited;
use super::pinned::Pinned;
use super::request::{Asker, Service, Wanted, connection, prepare, refused};
use super::waiting::Waiting;
use super::{Turn, reply};

use patience::Habit;

/// Octets of empty lines accepted before a request line (RFC 9112 §2.2 asks for one line at least).
const MAX_EMPTY_OCTETS: usize = 8;
/// How long a client that may still be sending is read from after a last reply.
const LINGER_TIME: Duration = Duration::from_secs(2);
/// How many octets of it are thrown away at most.
const LINGER_OCTETS: usize = 1024 * 1024;
/// How long a connection that has not said anything may still send a first request when the proxy
/// begins to shut down: it may be on its way.
const LATE_FIRST: Duration = Duration::from_secs(1);
/// A wait shorter than this would have been worth a worker's patience.
const WORTH_PATIENCE: Duration = Duration::from_millis(2);
/// What becomes of a session when its turn ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Next {
    /// The connection is over.
    Close,
    /// Wait without a thread, at most until then. The socket with this tag, if any, is the only
    /// one that can make the session go on.
    Park(Instant, Option<u32>),
    /// The turn is spent but there is more to do: take another, after the others in the queue.
    Yield,
}

/// What a session is doing.
#[derive(Debug)]
enum State {
    /// A request head is awaited; it began then, if it has begun.
    Request { scanned: usize, skipped: usize, begun: Option<Instant> },
    /// A request is being answered.
    Exchange(Box<Exchange>),
    /// The last reply is sent: what the client still sends is thrown away, so that closing does
    /// not reset the connection before the reply was read.
    Linger { left: usize },
}

const AWAITED: State = State::Request { scanned: 0, skipped: 0, begun: None };

/// A client connection.
pub struct Session {
    client: End,
    state: State,
    deadline: Instant,
    /// Exchanges begun on this connection.
    served: u32,
    /// One is begun and not yet counted as finished.
    open: bool,
    asker: Asker,
    waker: Arc<dyn Wake>,
    /// Who asks, as far as that was shown.
    proof: Proof,
    /// For the client and the upstream.
    habits: [Habit; 2],
    /// Patience has failed once.
    impatient: bool,
    /// How it is counted while no worker has it.
    pub waiting: Waiting,
    /// When the last turn ended, and what it waited for.
    left: Option<(Instant, u32)>,
    /// What limits count of it, if there are any.
    line: Option<Arc<ConnectionTally>>,
    /// An upstream connection that the client has logged in on.
    pinned: Option<Box<Pinned>>,
    _permit: Permit,
    /// Between it and the acceptor that has its place. After the permit: who has left has given it back.
    door: Option<Arc<Door>>,
}

/// What a step of a turn came to.
enum Stepped {
    Again,
    Next(Next),
}

impl Session {
    /// A connection just accepted.
    pub fn new(
        stream: Stream,
        asker: Asker,
        waker: Arc<dyn Wake>,
        permit: Permit,
        deadline: Instant,
    ) -> Self {
        // Two system calls make a socket fit for patience: not before it has shown to be worth it.
        let habit = Habit::default();
        Self {
            client: End::new(stream),
            state: AWAITED,
            deadline,
            served: 0,
            open: false,
            asker,
            waker,
            proof: Proof::default(),
            habits: [habit; 2],
            impatient: false,
            waiting: Waiting::new(),
            left: None,
            line: None,
            door: None,
            pinned: None,
            _permit: permit,
        }
    }

    /// The same, counted by limits already.
    #[must_use]
    pub fn on_line(mut self, line: Arc<ConnectionTally>) -> Self {
        self.line = Some(line);
        self
    }

    /// The same, on a place that others may want.
    #[must_use]
    pub fn at_door(mut self, door: Arc<Door>) -> Self {
        self.door = Some(door);
        self
    }

    /// Whether others want its place.
    fn is_asked_to_leave(&self) -> bool {
        self.door.as_ref().is_some_and(|door| door.is_asked_to_leave())
    }

    fn comes_to(&self, step: Step) {
        if let Some(door) = &self.door {
            door.comes_to(step);
        }
    }

    /// Who its client is.
    pub fn asker(&self) -> Asker {
        self.asker
    }

    /// Gets as far as it can without waiting.
    pub fn turn(&mut self, turn: &mut Turn<'_>) -> Next {
        if let Some((since, tag)) = self.left.take()
            && let Some(habit) = self.habits.get_mut(tag as usize)
        {
            habit.pays = turn.now.saturating_duration_since(since) < WORTH_PATIENCE;
            habit.short = if habit.pays { habit.short.saturating_add(1) } else { 0 };
        }
        if self.pinned.as_ref().is_some_and(|pinned| pinned.is_over()) {
            self.pinned = None;
        }
        loop {
            let stepped = match &self.state {
                State::Request { .. } => self.read_request(turn),
                State::Exchange(_) => self.exchange(turn),
                State::Linger { .. } => self.linger(turn),
            };
            if let Stepped::Next(next) = stepped {
                return next;
            }
        }
    }

    fn read_request(&mut self, turn: &mut Turn<'_>) -> Stepped {
        let State::Request { scanned, skipped, begun } = &mut self.state else {
            return Stepped::Again;
        };
        if self.proof.is_pending() && self.client.stream.broken().is_some() {
            // Nobody is left to be told whose the request is.
            self.proof.settle();
            return Stepped::Next(Next::Close);
        }
        loop {
            let empty = leading_empty_lines(self.client.buffer.unread());
            if empty > 0 && *scanned == 0 {
                self.client.buffer.consume(empty);
                *skipped += empty;
            }
            let flooded = *skipped > MAX_EMPTY_OCTETS;
            let held = self.client.buffer.unread();
            if held.is_empty() && begun.is_some() && self.served > 0 {
                // It was an empty line, not the start of a request.
                *begun = None;
                self.deadline = turn.now + turn.ctx.timeouts.idle;
            }
            if !held.is_empty() || flooded {
                if begun.is_none() {
                    *begun = Some(turn.clock());
                    if self.served > 0 {
                        self.deadline = turn.now + turn.ctx.timeouts.head;
                    } else if let Some(foreign) = foreign(held) {
                        return self.refuse_foreign(foreign, turn);
                    }
                }
                let found = match find_end(held, scanned, &turn.ctx.limits) {
                    _ if flooded => Err(crate::wire::HeadError::BadRequestLine),
                    found => found,
                };
                match found {
                    Ok(Some(length)) => {
                        let begun = begun.unwrap_or(turn.now);
                        return self.begin(Ok(length), begun, turn);
                    }
                    Ok(None) => {}
                    Err(e) => {
                        let begun = begun.unwrap_or(turn.now);
                        return self.begin(Err(refused(e)), begun, turn);
                    }
                }
            }
            if self.client.ended {
                // Nothing, or half a head and nobody who would finish it.
                return Stepped::Next(Next::Close);
            }
            let deadline = match turn.ctx.draining.get().filter(|_| begun.is_none()) {
                // It has said nothing yet.
                Some(&since) if self.served == 0 => match self.asker.service {
                    Service::Proxy => self.deadline.min(since + LATE_FIRST),
                    // Who comes to the admin listener meanwhile wants to know just that.
                    Service::Admin => self.deadline,
                },
                Some(_) => turn.now,
                None => self.deadline,
            };
            let waits = !self.client.stream.is_readable();
            // A deadline is held against what has come by then, which may be read only now. Who is idle
            // when the proxy drains is closed all the same.
            if turn.now >= deadline && (waits || begun.is_none() && self.served > 0) {
                let Some(begun) = *begun else { return Stepped::Next(Next::Close) };
                let reason = "the request did not come in time";
                let late =
                    Error::new(Side::Client, Phase::Request, Kind::HttpRequestTimeout, reason);
                return self.begin(Err(late), begun, turn);
            }
            if waits {
                return Stepped::Next(match self.is_asked_to_leave() {
                    true => Next::Close,
                    false => Next::Park(deadline, Some(CLIENT)),
                });
            }
            turn.buffers.lend(&mut self.client.buffer);
            if self.client.buffer.room() == 0 {
                // `find_end` has refused a head past the limit.
                self.client.buffer.grow(turn.ctx.limits.max_head_octets + 1024);
            }
            if self.client.receive().is_err() {
                return Stepped::Next(Next::Close);
            }
        }
    }

    /// A head is complete, or will never be: an exchange begins.
    fn begin(
        &mut self,
        head: Result<usize, Error>,
        begun: Instant,
        turn: &mut Turn<'_>,
    ) -> Stepped {
        let mut exchange = turn.ctx.spares.take(turn.spare);
        exchange.reset(begun);
        exchange.service = self.asker.service;
        if let Some(line) = &self.line {
            exchange.limited = Some(Limited::on(line));
        }
        let wanted = match head {
            Ok(length) => {
                let octets = self.client.buffer.unread().get(..length).unwrap_or_default();
                let wanted =
                    prepare(octets, self.asker, &self.waker, &mut self.proof, &mut exchange, turn);
                if let Ok(Wanted::Later(until)) = wanted {
                    exchange.trim(turn);
                    turn.ctx.spares.give(turn.spare, exchange);
                    return self.hold(until, turn.now);
                }
                self.client.buffer.consume(length);
                self.proof.settle();
                wanted
            }
            Err(e) => {
                exchange.head_octets = self.client.buffer.len() as u64;
                self.client.buffer.consume(self.client.buffer.len());
                Err(e)
            }
        };
        if let (Some(limited), None) = (&exchange.limited, &self.line) {
            self.line = Some(Arc::clone(&limited.line));
        }
        self.comes_to(Step::IsAnswered);
        self.served = self.served.saturating_add(1);
        self.open = self.asker.service == Service::Proxy;
        turn.counters.count(|c| match self.asker.service {
            Service::Proxy => c.exchanges_begun += 1,
            Service::Admin => c.admin_requests += 1,
        });
        let asker = &self.asker;
        let pinned = &mut self.pinned;
        let mut client = ClientSide { end: &mut self.client, waker: &self.waker, asker, pinned };
        let refused = match wanted {
            // Is not answered for what is to be replied to.
            Ok(Wanted::Later(_)) => None,
            Ok(Wanted::Forward(framing)) => {
                exchange.begin(framing, &mut client, turn);
                None
            }
            Ok(Wanted::Own(status)) => {
                exchange.received(turn);
                exchange.reply_only(status, None, turn);
                None
            }
            Err(e) => {
                exchange.received(turn);
                // What follows a head that could not be read is perhaps content, perhaps a request:
                // nobody can tell. One that is refused by a rule was understood.
                exchange.close =
                    e.kind() != Kind::HttpRequestDenied || self.asker.service == Service::Admin;
                // What is here already costs nothing to pass over.
                if let Some(length) = exchange.content_left()
                    && let held = self.client.buffer.len()
                    && length <= held as u64
                {
                    self.client.buffer.consume(length as usize);
                    exchange.head_octets += length;
                    exchange.leave_content(Framing::Empty);
                }
                Some(e)
            }
        };
        self.state = State::Exchange(exchange);
        match refused {
            Some(e) => self.fail(e, turn),
            None => Stepped::Again,
        }
    }

    /// The request is not decided yet, or not to go on yet: its head stays where it is, and is looked
    /// at again when somebody wakes the session, or then.
    fn hold(&mut self, until: Instant, now: Instant) -> Stepped {
        if let State::Request { scanned, .. } = &mut self.state {
            *scanned = 0;
        }
        Stepped::Next(if until <= now { Next::Yield } else { Next::Park(until, None) })
    }

    /// The client speaks something else: it is told so in its own protocol, as far as that goes.
    fn refuse_foreign(
        &mut self,
        foreign: (&'static [u8], &'static str),
        turn: &Turn<'_>,
    ) -> Stepped {
        let (answer, reason) = foreign;
        log::debug!("{}: {reason}", self.asker);
        if self.asker.service == Service::Proxy {
            turn.counters.count(|c| c.count_failure(Side::Client, Kind::HttpRequestError));
        }
        // Nothing more can be done for a client that does not take these few octets.
        let _ = self.client.stream.send(answer);
        self.client.buffer.consume(self.client.buffer.len());
        self.begin_linger(turn)
    }

    fn exchange(&mut self, turn: &mut Turn<'_>) -> Stepped {
        let State::Exchange(exchange) = &mut self.state else { return Stepped::Again };
        let asker = &self.asker;
        let pinned = &mut self.pinned;
        let mut client = ClientSide { end: &mut self.client, waker: &self.waker, asker, pinned };
        match exchange.advance(&mut client, turn) {
            Ok(Progress::Wait(_)) if self.door.as_ref().is_some_and(|d| d.is_asked_to_leave()) => {
                Stepped::Next(Next::Close)
            }
            Ok(Progress::Wait(expected)) => {
                let until = exchange.deadline(self.deadline);
                let until = exchange.wake_at().map_or(until, |at| at.min(until));
                Stepped::Next(Next::Park(until, expected))
            }
            Ok(Progress::Spent) => Stepped::Next(Next::Yield),
            Ok(Progress::Finished) => self.finish(turn),
            Err(e) => self.fail(e, turn),
        }
    }

    /// Makes a reply, or a closed connection, of a failure.
    fn fail(&mut self, error: Error, turn: &mut Turn<'_>) -> Stepped {
        let State::Exchange(exchange) = &mut self.state else {
            return Stepped::Next(Next::Close);
        };
        log::debug!("{}: {error}", self.asker);
        if exchange.has_parted() && exchange.failure().is_none() {
            exchange.note_parting(error, turn);
            return Stepped::Again;
        }
        if error.kind() == Kind::ClientGone || !exchange.make_way_for_reply() {
            let is_whole = exchange.is_one_way() && error.side() == Side::Upstream;
            if !is_whole && (exchange.is_tunnel() || exchange.ends_by_closing()) {
                // An end would look like the content's end: only a reset tells.
                self.client.stream.reset_on_close();
            }
            exchange.abort(error);
            return self.finish(turn);
        }
        exchange.close |= !exchange.facts.persistent
            || !exchange.request_is_clear()
            || error.side() == Side::Client
            // A client may send what is meant for the tunnel without waiting for the answer. Those
            // octets must not be read as a request (RFC 9931).
            || exchange.facts.method == Method::Connect
            || (self.client.ended && self.client.buffer.is_empty())
            || turn.ctx.is_draining();
        let rules = turn.policy.of(self.asker.listener);
        let instead = rules.and_then(|rules| exchange.instead(&error, &rules.deny_with));
        let (error, location) = match instead {
            Some((status, location)) => (error.with_status(status), location),
            None => (error, None),
        };
        turn.buffers.lend(&mut exchange.to_client);
        reply::write_error(
            exchange.to_client.tail(),
            &error,
            &reply::About {
                name: turn.ctx.name(),
                destination: &exchange.destination.authority,
                rule: exchange.rule.map(|rule| turn.policy.origins.name(rule)),
                location,
                challenge: challenge(error.status(), self.asker, turn),
                html: exchange.facts.html,
            },
            connection(exchange.close, exchange.facts.version),
            exchange.facts.method == Method::Head,
        );
        exchange.reply_only(error.status(), Some(error), turn);
        Stepped::Again
    }

    /// The exchange is over, one way or another.
    fn finish(&mut self, turn: &mut Turn<'_>) -> Stepped {
        let State::Exchange(mut exchange) = std::mem::replace(&mut self.state, AWAITED) else {
            return Stepped::Next(Next::Close);
        };
        let gone = exchange.is_aborted() || exchange.is_tunnel();
        let unread = !exchange.request_is_clear() || exchange.failure().is_some();
        // The last that a gone upstream said may still be on its way.
        let upstream_gone = exchange.failure().is_some_and(|e| e.side() == Side::Upstream);
        let last_words = (exchange.is_one_way() && upstream_gone) || exchange.has_parted();
        let lingers = last_words && !self.client.ended;
        // The rest of a request is never read as another one.
        let close = exchange.close || !exchange.request_is_clear() || turn.ctx.is_draining();
        self.open = false;
        let pinned = exchange.finish(self.asker.address, &self.waker, turn);
        exchange.trim(turn);
        turn.ctx.spares.give(turn.spare, exchange);
        self.client.lift_limit();
        if lingers {
            return self.begin_linger(turn);
        }
        if gone {
            return Stepped::Next(Next::Close);
        }
        if close {
            let quiet = !unread && self.client.buffer.is_empty();
            return if quiet || self.client.ended {
                Stepped::Next(Next::Close)
            } else {
                self.begin_linger(turn)
            };
        }
        // Kept across a reply of ours, which went out on no connection.
        if pinned.is_some() {
            self.pinned = pinned;
        }
        self.deadline = turn.now + turn.ctx.timeouts.idle;
        // One exchange a turn.
        if !self.client.buffer.is_empty() {
            return Stepped::Next(Next::Yield);
        }
        Stepped::Again
    }

    fn begin_linger(&mut self, turn: &Turn<'_>) -> Stepped {
        if self.client.stream.finish().is_err() {
            return Stepped::Next(Next::Close);
        }
        self.client.buffer.consume(self.client.buffer.len());
        self.pinned = None;
        self.deadline = turn.now + LINGER_TIME;
        self.comes_to(Step::Lingers);
        self.state = State::Linger { left: LINGER_OCTETS };
        Stepped::Again
    }

    fn linger(&mut self, turn: &mut Turn<'_>) -> Stepped {
        let State::Linger { left } = &mut self.state else { return Stepped::Again };
        loop {
            if turn.now >= self.deadline {
                return Stepped::Next(Next::Close);
            }
            if !self.client.stream.is_readable() {
                if self.door.as_ref().is_some_and(|door| door.is_asked_to_leave()) {
                    return Stepped::Next(Next::Close);
                }
                return Stepped::Next(Next::Park(self.deadline, None));
            }
            if turn.is_spent() {
                return Stepped::Next(Next::Yield);
            }
            turn.buffers.lend(&mut self.client.buffer);
            match self.client.receive() {
                Ok(Received::Octets(count)) if count < *left => {
                    *left -= count;
                    turn.moved += count;
                    self.client.buffer.consume(count);
                }
                Ok(Received::Nothing) => {}
                _ => return Stepped::Next(Next::Close),
            }
        }
    }
}

/// What a client is asked to prove.
fn challenge<'t>(status: u16, asker: Asker, turn: &'t Turn<'_>) -> Option<&'t str> {
    let rules = turn.policy.of(asker.listener).filter(|_| status == 407)?;
    rules.auth.as_ref().map(|auth| auth.challenge())
}
