//! A client connection as a value, which moves between workers and the parking thread.
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
//! A turn does as much as possible without waiting, and returns what to do with the session next. A
//! session is owned by exactly one of a queue, a worker or its parking slot. Dropping it closes its
//! connection and returns its permit. Every wait has a deadline, which the turn checks itself, because
//! no timer watches queues and workers.

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

/// What to do with a session when its turn ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Next {
    /// The connection is over.
    Close,
    /// Wait without a thread, at most until this time. The socket with this tag, if any, is the only one
    /// that can make the session go on.
    Park(Instant, Option<u32>),
    /// The turn is spent but there is more to do: take another, after the others in the queue.
    Yield,
}

/// What the session is doing.
#[derive(Debug)]
enum State {
    /// Waits for the first bytes, which tell what the client speaks.
    Greeting,
    /// Waits for a request head, which began at `begun`, if it has begun.
    Request { scanned: usize, skipped: usize, begun: Option<Instant> },
    /// Answers a request.
    Exchange(Box<Exchange>),
    /// The last reply is sent. Further bytes of the client are thrown away, so that closing does not
    /// reset the connection before the reply is read.
    Linger {
        /// How many more bytes may be thrown away.
        left: usize,
        /// The client was told that nothing more comes.
        end_sent: bool,
        /// The session closes as soon as the client is told.
        closes: bool,
    },
}

const AWAITED: State = State::Request { scanned: 0, skipped: 0, begun: None };

/// A client connection.
pub struct Session {
    client: Half,
    state: State,
    deadline: Instant,
    /// How many exchanges began on this connection.
    served: u32,
    /// An exchange has begun and is not yet counted as finished.
    open: bool,
    asker: Asker,
    waker: Arc<dyn Wake>,
    /// What is known of the user.
    proof: Proof,
    /// For the client's socket and the upstream's.
    habits: [Habit; 2],
    /// A patient wait has failed.
    impatient: bool,
    /// How the session is counted while no worker has it.
    pub waiting: Waiting,
    /// When the last turn ended, and for which socket it waited.
    left: Option<(Instant, u32)>,
    /// Its entry in the counts of limits, if there are any.
    line: Option<Arc<ConnectionTally>>,
    /// An upstream connection that the client has logged in on.
    pinned: Option<Box<Pinned>>,
    _permit: Permit,
    /// Shared with the acceptor of its place. Dropped after the permit, so that a session that has left
    /// has returned it.
    seat: Option<Arc<Seat>>,
}

/// The outcome of a step of a turn.
enum Stepped {
    Again,
    Next(Next),
}

impl Session {
    /// For a connection just accepted.
    pub fn new(
        stream: Stream,
        asker: Asker,
        waker: Arc<dyn Wake>,
        permit: Permit,
        deadline: Instant,
    ) -> Self {
        // Patience costs a socket two system calls, so it has to prove worthwhile first.
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

    /// The same session, counted by limits already.
    #[must_use]
    pub fn on_line(mut self, line: Arc<ConnectionTally>) -> Self {
        self.line = Some(line);
        self
    }

    /// The same session, on a place that others may want.
    #[must_use]
    pub fn on_seat(mut self, seat: Arc<Seat>) -> Self {
        self.seat = Some(seat);
        self
    }

    /// Whether others want the session's place.
    fn is_asked_to_leave(&self) -> bool {
        self.seat.as_ref().is_some_and(|seat| seat.is_asked_to_leave())
    }

    fn comes_to(&self, occupancy: Occupancy) {
        if let Some(seat) = &self.seat {
            seat.comes_to(occupancy);
        }
    }

    /// The session's client.
    pub fn asker(&self) -> Asker {
        self.asker
    }

    /// Goes as far as it can without waiting.
    pub fn turn(&mut self, turn: &mut Turn<'_>, spares: &mut Spares) -> Next {
        if let Some((since, tag)) = self.left.take()
            && let Some(habit) = self.habits.get_mut(tag as usize)
        {
            habit.waited(since, turn.now);
        }
        if self.pinned.as_mut().is_some_and(|pinned| pinned.is_over()) {
            self.pinned = None;
        }
        // A layer may have messages of its own to send. An error shows at the next receive or send.
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
            // If a send fails, a receive may still find out why, so the session goes round once more.
            if let Next::Park(..) = next
                && self.flush_layers().is_err()
                && !std::mem::replace(&mut has_failed, true)
            {
                continue;
            }
            return next;
        }
    }

    /// Sends the bytes that layers hold, as far as their sockets take them.
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

    /// Turns a failure into a reply or a closed connection.
    fn fail(&mut self, error: Error, turn: &mut Turn<'_>, spares: &mut Spares) -> Stepped {
        let State::Exchange(exchange) = &mut self.state else {
            return Stepped::Next(Next::Close);
        };
        log::debug!("{}: {error}", self.asker);
        // An exchange is refused once at most. Its client may vanish before it has read the refusal.
        if let Some(by) = error.refused_by()
            && exchange.failure().is_none()
            && !self.asker.front.is_admin()
        {
            turn.counters.count(|c| c.count_refused(by));
        }
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
            // A client may send bytes for the tunnel without waiting for the answer. They must not be
            // read as a request (RFC 9931).
            || common.intent.method == Method::Connect
            || (self.client.ended && self.client.buffer.is_empty())
            || turn.ctx.is_draining();
        let error = refuse(error, self.asker, common, turn);
        exchange.reply_only(error.status(), Some(error), turn);
        Stepped::Again
    }
}

/// Stages the reply to a failed request. Returns the error with the status in that reply.
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

/// The challenge in a 407.
fn challenge<'t>(status: u16, asker: Asker, turn: &'t Turn<'_>) -> Option<&'t str> {
    let rules = turn.policy.of(asker.listener).filter(|_| status == 407)?;
    rules.auth.as_ref().map(|auth| auth.challenge())
}

#[cfg(test)]
mod layer_tests;
