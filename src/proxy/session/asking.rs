//! Reads a client's first bytes and its request heads, and begins an exchange with each head.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Phase, Side};
use crate::wire::head::leading_empty_lines;
use crate::wire::{Framing, HeadError};

use crate::proxy::blame::refused;
use crate::proxy::context::Turn;
use crate::proxy::exchange::Exchange;
use crate::proxy::front::Greeted;
use crate::proxy::greeting::Foreign;
use crate::proxy::limits::Allowance;
use crate::proxy::recycle::Spares;
use crate::proxy::request::{Wanted, prepare};
use crate::proxy::seat::Occupancy;
use crate::proxy::sides::{CLIENT, ClientSide};

use super::{AWAITED, Next, Session, State, Stepped};

/// Bytes of empty lines accepted before a request line (RFC 9112 §2.2 asks for one line at least).
const MAX_EMPTY_BYTES: usize = 8;
/// How long a silent connection may still send a first request after the proxy has begun to shut down:
/// the request may be on its way.
const LATE_FIRST: Duration = Duration::from_secs(1);

impl Session {
    /// Examines the first bytes. A client of another protocol gets an answer in that protocol.
    pub(super) fn greet(&mut self, turn: &mut Turn<'_>, spares: &mut Spares) -> Stepped {
        loop {
            let held = self.client.buffer.unread();
            let empty = leading_empty_lines(held);
            let bytes = held.get(empty..).unwrap_or_default();
            if !bytes.is_empty() || empty > MAX_EMPTY_BYTES {
                match self.asker.front.greet(bytes) {
                    Greeted::Speaks(front) => {
                        // Permits and counts are those of the listener.
                        debug_assert_eq!(front.is_admin(), self.asker.front.is_admin());
                        self.asker.front = front;
                    }
                    Greeted::Foreign(foreign) => return self.refuse_foreign(&foreign, turn),
                }
                self.state = AWAITED;
                return Stepped::Again;
            }
            if let Some(next) = self.receive_more(None, turn, spares) {
                return next;
            }
        }
    }

    /// Reads a request head as it comes.
    pub(super) fn read_request(&mut self, turn: &mut Turn<'_>, spares: &mut Spares) -> Stepped {
        if self.proof.is_pending() && self.client.stream.broken().is_some() {
            // The client is gone, so its credentials no longer matter.
            self.proof.settle();
            return Stepped::Next(Next::Close);
        }
        loop {
            let State::Request { scanned, skipped, begun } = &mut self.state else {
                return Stepped::Again;
            };
            let empty = leading_empty_lines(self.client.buffer.unread());
            if empty > 0 && *scanned == 0 {
                self.client.buffer.consume(empty);
                *skipped += empty;
            }
            let flooded = *skipped > MAX_EMPTY_BYTES;
            let held = self.client.buffer.unread();
            if held.is_empty() && begun.is_some() && self.served > 0 {
                // The bytes were an empty line, not the start of a request.
                *begun = None;
                self.deadline = turn.now + turn.ctx.timeouts.idle;
            }
            if !held.is_empty() || flooded {
                if begun.is_none() && self.served > 0 {
                    self.deadline = turn.now + turn.ctx.timeouts.head;
                }
                let began = *begun.get_or_insert_with(|| turn.clock());
                let found = match self.asker.front.find(held, scanned, &turn.ctx.limits) {
                    _ if flooded => Err(HeadError::BadRequestLine),
                    found => found,
                };
                match found {
                    Ok(Some(length)) => return self.begin(Ok(length), began, turn, spares),
                    Ok(None) => {}
                    Err(e) => return self.begin(Err(refused(e)), began, turn, spares),
                }
            }
            let begun = *begun;
            if let Some(next) = self.receive_more(begun, turn, spares) {
                return next;
            }
        }
    }

    /// Receives more from the client, whose request began at `begun`. Returns a step for the session if
    /// nothing can be received now.
    fn receive_more(
        &mut self,
        begun: Option<Instant>,
        turn: &mut Turn<'_>,
        spares: &mut Spares,
    ) -> Option<Stepped> {
        if self.client.ended {
            // The client has ended with nothing, or in the middle of a head.
            return Some(self.close(turn));
        }
        let deadline = match turn.ctx.draining.get().filter(|_| begun.is_none()) {
            // The connection is still silent. A client of the admin listener may want to watch the
            // shutdown.
            Some(_) if self.served == 0 && self.asker.front.is_admin() => self.deadline,
            Some(&since) if self.served == 0 => self.deadline.min(since + LATE_FIRST),
            Some(_) => turn.now,
            None => self.deadline,
        };
        let waits = !self.client.stream.is_readable();
        // The deadline applies to the bytes that have come by then, which may be read only now. There is one
        // exception: an idle connection is closed when the proxy drains even if bytes have come.
        if turn.now >= deadline && (waits || begun.is_none() && self.served > 0) {
            let Some(begun) = begun else { return Some(self.close(turn)) };
            let reason = "the request did not come in time";
            let late = Error::new(Side::Client, Phase::Request, Kind::HttpRequestTimeout, reason);
            return Some(self.begin(Err(late), begun, turn, spares));
        }
        if waits {
            return Some(match self.is_asked_to_leave() {
                true => self.close(turn),
                false => Stepped::Next(Next::Park(deadline, Some(CLIENT))),
            });
        }
        turn.buffers.lend(&mut self.client.buffer);
        if self.client.buffer.room() == 0 {
            // A head past the limit has been refused.
            self.client.buffer.grow(turn.ctx.limits.max_head_bytes + 1024);
        }
        match self.client.receive() {
            Ok(_) => None,
            Err(_) => Some(Stepped::Next(Next::Close)),
        }
    }

    /// Begins an exchange, because a head is complete or will never be.
    fn begin(
        &mut self,
        head: Result<usize, Error>,
        begun: Instant,
        turn: &mut Turn<'_>,
        spares: &mut Spares,
    ) -> Stepped {
        let mut exchange = spares.take();
        exchange.reset(begun);
        let common = &mut exchange.common;
        common.intent.front = self.asker.front;
        if let Some(line) = &self.line {
            common.allowance = Allowance::on(line);
        }
        let wanted = match head {
            Ok(length) => {
                let bytes = self.client.buffer.unread().get(..length).unwrap_or_default();
                let wanted = prepare(bytes, self.asker, &self.waker, &mut self.proof, common, turn);
                if let Ok(Wanted::Later(until)) = wanted {
                    exchange.trim(turn);
                    spares.give(exchange);
                    return self.hold(until, turn.now);
                }
                self.client.buffer.consume(length);
                self.proof.settle();
                wanted
            }
            Err(e) => {
                common.intent.head_bytes = self.client.buffer.len() as u64;
                self.client.buffer.consume(self.client.buffer.len());
                Err(e)
            }
        };
        if self.line.is_none() {
            self.line = common.allowance.line().map(Arc::clone);
        }
        self.comes_to(Occupancy::IsAnswered);
        self.served = self.served.saturating_add(1);
        let is_admin = self.asker.front.is_admin();
        self.open = !is_admin;
        turn.counters.count(|c| match is_admin {
            false => c.exchanges_begun += 1,
            true => c.admin_requests += 1,
        });
        self.answer(wanted, exchange, turn, spares)
    }

    /// Answers the request, now that its outcome is known.
    fn answer(
        &mut self,
        wanted: Result<Wanted, Error>,
        mut exchange: Box<Exchange>,
        turn: &mut Turn<'_>,
        spares: &mut Spares,
    ) -> Stepped {
        let refused = match wanted {
            // Never passed here: `begin` puts such a request off.
            Ok(Wanted::Later(_)) => None,
            Ok(Wanted::Forward(framing)) => {
                let (asker, pinned) = (&self.asker, &mut self.pinned);
                let half = &mut self.client;
                let mut client = ClientSide { half, waker: &self.waker, asker, pinned };
                exchange.begin(framing, &mut client, turn);
                None
            }
            Ok(Wanted::Own(status)) => {
                exchange.common.account.times.head = Some(turn.clock());
                exchange.reply_only(status, None, turn);
                None
            }
            Err(e) => {
                let common = &mut exchange.common;
                common.account.times.head = Some(turn.clock());
                // The bytes behind an unreadable head may be content or a request: nobody can tell. A
                // request refused by a rule was understood.
                common.close = e.kind() != Kind::HttpRequestDenied || self.asker.front.is_admin();
                // Content that is already here costs nothing to skip.
                if let Some(length) = common.up.flow.length_left()
                    && let held = self.client.buffer.len()
                    && length <= held as u64
                {
                    self.client.buffer.consume(length as usize);
                    common.intent.head_bytes += length;
                    common.leave_content(Framing::Empty);
                }
                Some(e)
            }
        };
        self.state = State::Exchange(exchange);
        match refused {
            Some(e) => self.fail(e, turn, spares),
            None => Stepped::Again,
        }
    }

    /// Puts a request off that is not decided yet, or may not go on yet. Its head stays in the buffer,
    /// and is looked at again when the session is woken, or at `until`.
    fn hold(&mut self, until: Instant, now: Instant) -> Stepped {
        if let State::Request { scanned, .. } = &mut self.state {
            *scanned = 0;
        }
        Stepped::Next(if until <= now { Next::Yield } else { Next::Park(until, None) })
    }

    /// Answers a client of another protocol in that protocol, as far as possible.
    fn refuse_foreign(&mut self, foreign: &Foreign, turn: &Turn<'_>) -> Stepped {
        log::debug!("{}: {}", self.asker, foreign.reason);
        if !self.asker.front.is_admin() {
            turn.counters.count(|c| c.count_failure(Side::Client, Kind::HttpRequestError));
        }
        // Nothing more can be done for a client that does not take these few bytes.
        let _ = self.client.stream.send(foreign.answer);
        self.client.buffer.consume(self.client.buffer.len());
        self.begin_linger(turn)
    }
}
