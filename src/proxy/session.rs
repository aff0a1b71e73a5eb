//! A client connection as a value that moves between workers and the parking thread.
//!
//! ```text
//!               first bytes      head complete
//! accepted ──▶ Greeting ───▶ Request ────────────────▶ Exchange
//!                │              ▲  │ ended, idle for too    │ │ │
//!                │ no HTTP      │  └────────▶ closed ◀──────┘ │ │ failed, nothing to say
//!                ▼              │  next request on it         │ │
//!              Linger           └─────────────────────────────┘ │ answered, but the client may
//!                                       closed ◀── Linger ◀─────┘ still be sending
//! ```
//!
//! A turn does as much as can be done without waiting and answers what becomes of the session. It is
//! owned by exactly one of a queue, a worker or its parking slot; a dropped session is a closed
//! connection with its permit returned. Every wait has a deadline, which the turn checks itself:
//! a queue and a worker have no timer that watches.

mod asking;
mod ending;
mod habit;
mod parked;
mod patience;

use std::io;
use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, Kind, Side};
use crate::net::permits::Permit;
use crate::net::poll::Wake;
use crate::net::stream::Stream;
use crate::policy::tally::ConnectionTally;
use crate::wire::Method;

use super::asker::Asker;
use super::auth::Proof;
use super::common::Common;
use super::context::Turn;
use super::exchange::Exchange;
use super::half::Half;
use super::pinned::Pinned;
use super::recycle::Spares;
use super::reply::About;
use super::request::connection;
use super::seat::{Occupancy, Seat};
use super::sides::{ClientSide, Progress};
use super::waiting::Waiting;

use habit::Habit;

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
    /// The first bytes are awaited: they tell what the client speaks.
    Greeting,
    /// A request head is awaited; it began then, if it has begun.
    Request { scanned: usize, skipped: usize, begun: Option<Instant> },
    /// A request is being answered.
    Exchange(Box<Exchange>),
    /// The last reply is sent: what the client still sends is thrown away, so that closing does
    /// not reset the connection before the reply was read.
    Linger {
        /// How many bytes are thrown away at most.
        left: usize,
        /// The client was told that nothing more comes.
        told: bool,
        /// Nothing is left but to tell it.
        closes: bool,
    },
}

const AWAITED: State = State::Request { scanned: 0, skipped: 0, begun: None };

/// A client connection.
pub struct Session {
    client: Half,
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
    seat: Option<Arc<Seat>>,
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
            client: Half::new(stream),
            state: State::Greeting,
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
            seat: None,
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
    pub fn on_seat(mut self, seat: Arc<Seat>) -> Self {
        self.seat = Some(seat);
        self
    }

    /// Whether others want its place.
    fn is_asked_to_leave(&self) -> bool {
        self.seat.as_ref().is_some_and(|seat| seat.is_asked_to_leave())
    }

    fn comes_to(&self, occupancy: Occupancy) {
        if let Some(seat) = &self.seat {
            seat.comes_to(occupancy);
        }
    }

    /// Who its client is.
    pub fn asker(&self) -> Asker {
        self.asker
    }

    /// Gets as far as it can without waiting.
    pub fn turn(&mut self, turn: &mut Turn<'_>, spares: &mut Spares) -> Next {
        if let Some((since, tag)) = self.left.take()
            && let Some(habit) = self.habits.get_mut(tag as usize)
        {
            habit.waited(since, turn.now);
        }
        if self.pinned.as_mut().is_some_and(|pinned| pinned.is_over()) {
            self.pinned = None;
        }
        // A layer may have something to say that nobody gave it. What fails is met by the next receive or send.
        let _ = self.flush_layers();
        let mut has_failed = false;
        loop {
            let stepped = match &self.state {
                State::Greeting => self.greet(turn, spares),
                State::Request { .. } => self.read_request(turn, spares),
                State::Exchange(_) => self.exchange(turn, spares),
                State::Linger { .. } => self.linger(turn),
            };
            let Stepped::Next(next) = stepped else { continue };
            // One that cannot be sent to has something to tell.
            if let Next::Park(..) = next
                && self.flush_layers().is_err()
                && !std::mem::replace(&mut has_failed, true)
            {
                continue;
            }
            return next;
        }
    }

    /// Sends what layers hold, as far as their sockets take it.
    #[inline]
    fn flush_layers(&mut self) -> io::Result<()> {
        let client = self.client.stream.flush();
        if let State::Exchange(exchange) = &mut self.state
            && let Some(upstream) = exchange.upstream_half()
        {
            upstream.stream.flush()?;
        }
        client.map(|_| ())
    }

    fn exchange(&mut self, turn: &mut Turn<'_>, spares: &mut Spares) -> Stepped {
        let State::Exchange(exchange) = &mut self.state else { return Stepped::Again };
        let (asker, pinned) = (&self.asker, &mut self.pinned);
        let half = &mut self.client;
        let mut client = ClientSide { half, waker: &self.waker, asker, pinned };
        match exchange.advance(&mut client, turn) {
            Ok(Progress::Wait(_)) if self.seat.as_ref().is_some_and(|s| s.is_asked_to_leave()) => {
                Stepped::Next(Next::Close)
            }
            Ok(Progress::Wait(expected)) => {
                let until = exchange.deadline(self.deadline);
                let until = exchange.wake_at().map_or(until, |at| at.min(until));
                Stepped::Next(Next::Park(until, expected))
            }
            Ok(Progress::Spent) => Stepped::Next(Next::Yield),
            Ok(Progress::Finished) => self.end_exchange(turn, spares),
            Err(e) => self.fail(e, turn, spares),
        }
    }

    /// Makes a reply, or a closed connection, of a failure.
    fn fail(&mut self, error: Error, turn: &mut Turn<'_>, spares: &mut Spares) -> Stepped {
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
            if !is_whole && exchange.looks_whole_by_its_end() {
                self.client.stream.reset_on_close();
            }
            exchange.abort(error);
            return self.end_exchange(turn, spares);
        }
        let common = &mut exchange.common;
        common.close |= !common.intent.persistent
            || !common.up.flow.is_clear()
            || error.side() == Side::Client
            // A client may send what is meant for the tunnel without waiting for the answer. Those
            // bytes must not be read as a request (RFC 9931).
            || common.intent.method == Method::Connect
            || (self.client.ended && self.client.buffer.is_empty())
            || turn.ctx.is_draining();
        let error = refuse(error, self.asker, common, turn);
        exchange.reply_only(error.status(), Some(error), turn);
        Stepped::Again
    }
}

/// Stages what a client gets whose request failed. Answers the error, with the status that says so.
fn refuse(error: Error, asker: Asker, common: &mut Common, turn: &mut Turn<'_>) -> Error {
    let rules = turn.policy.of(asker.listener);
    let instead = rules.and_then(|rules| common.instead(&error, &rules.deny_with));
    let (error, location) = match instead {
        Some((status, location)) => (error.with_status(status), location),
        None => (error, None),
    };
    turn.buffers.lend(&mut common.down.staged);
    let about = About {
        name: turn.ctx.name(),
        destination: common.intent.destination.authority(),
        rule: common.account.rule.map(|rule| turn.policy.origins.name(rule)),
        location,
        challenge: challenge(error.status(), asker, turn),
        html: common.intent.html,
    };
    let connection = connection(common.close, common.intent.version);
    let head_only = common.intent.method == Method::Head;
    let out = common.down.staged.tail();
    asker.front.refuse(out, &error, &about, connection, head_only);
    error
}

/// What a client is asked to prove.
fn challenge<'t>(status: u16, asker: Asker, turn: &'t Turn<'_>) -> Option<&'t str> {
    let rules = turn.policy.of(asker.listener).filter(|_| status == 407)?;
    rules.auth.as_ref().map(|auth| auth.challenge())
}

#[cfg(test)]
mod layer_tests;
