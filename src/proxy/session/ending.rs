//! How an exchange and its connection end: the next request, a close, a client that is still read from for
//! a while; from outside, when the proxy stops; and after a panic.

use std::time::Duration;

use crate::error::{Error, Kind, Phase, Side};
use crate::net::stream::Received;
use crate::observe::stats::Shard;
use crate::proxy::context::Turn;
use crate::proxy::recycle::Spares;
use crate::proxy::seat::Occupancy;
use crate::wire::Method;

use super::{AWAITED, Next, Session, State, Stepped};

/// How long a client that may still be sending is read from after a last reply.
const LINGER_TIME: Duration = Duration::from_secs(2);
/// How many bytes of it are thrown away at most.
const LINGER_BYTES: usize = 1024 * 1024;

impl Session {
    /// The exchange is over, one way or another.
    pub(super) fn end_exchange(&mut self, turn: &mut Turn<'_>, spares: &mut Spares) -> Stepped {
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
        let close = exchange.common.close || !exchange.request_is_clear() || turn.ctx.is_draining();
        self.open = false;
        let pinned = exchange.conclude(self.asker.address, &self.waker, turn);
        exchange.trim(turn);
        spares.give(exchange);
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
                self.close(turn)
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

    pub(super) fn begin_linger(&mut self, turn: &Turn<'_>) -> Stepped {
        self.tell_end(false, turn)
    }

    /// Ends the connection, of which nothing is missing. A layer says so first; else closing does.
    #[inline]
    pub(super) fn close(&mut self, turn: &Turn<'_>) -> Stepped {
        match self.client.stream.has_layer() {
            false => Stepped::Next(Next::Close),
            true => self.tell_end(true, turn),
        }
    }

    /// Tells the client that nothing more comes. If it `closes`, nothing of the client is waited for.
    fn tell_end(&mut self, closes: bool, turn: &Turn<'_>) -> Stepped {
        let Ok(told) = self.client.stream.finish() else {
            return Stepped::Next(Next::Close);
        };
        self.client.buffer.consume(self.client.buffer.len());
        self.pinned = None;
        self.deadline = turn.now + LINGER_TIME;
        self.comes_to(Occupancy::Lingers);
        self.state = State::Linger { left: LINGER_BYTES, told, closes };
        Stepped::Again
    }

    pub(super) fn linger(&mut self, turn: &mut Turn<'_>) -> Stepped {
        let State::Linger { left, told, closes } = &mut self.state else { return Stepped::Again };
        if !*told {
            match self.client.stream.finish() {
                Ok(said) => *told = said,
                Err(_) => return Stepped::Next(Next::Close),
            }
        }
        loop {
            if turn.now >= self.deadline || (*told && *closes) {
                return Stepped::Next(Next::Close);
            }
            if *closes || !self.client.stream.is_readable() {
                if self.seat.as_ref().is_some_and(|seat| seat.is_asked_to_leave()) {
                    return Stepped::Next(Next::Close);
                }
                return Stepped::Next(Next::Park(self.deadline, None));
            }
            if turn.is_spent() {
                return Stepped::Next(Next::Yield);
            }
            turn.buffers.lend(&mut self.client.buffer);
            match self.client.receive() {
                Ok(Received::Bytes(count)) if count < *left => {
                    *left -= count;
                    turn.moved += count;
                    self.client.buffer.consume(count);
                }
                Ok(Received::Nothing) => {}
                Ok(Received::End) => *closes = true,
                _ => return Stepped::Next(Next::Close),
            }
        }
    }

    /// The session is dropped without another turn: what looks whole only by its end must not, and what
    /// was counted as begun is counted as finished.
    pub fn abandon(&self, counters: &Shard) {
        if self.open {
            let (tunnel, method) = match &self.state {
                State::Exchange(exchange) => (exchange.is_tunnel(), exchange.common.intent.method),
                _ => (false, Method::Other),
            };
            counters.count(|c| c.count_lost(tunnel, method));
        }
        if let State::Exchange(exchange) = &self.state
            && exchange.looks_whole_by_its_end()
        {
            self.client.stream.reset_on_close();
        }
    }

    /// The session is closed from outside: what it was doing is told as failed.
    pub fn cut(&mut self, kind: Kind, reason: &'static str, turn: &mut Turn<'_>) {
        let State::Exchange(mut exchange) = std::mem::replace(&mut self.state, AWAITED) else {
            if self.client.stream.has_layer() {
                // Nothing is cut off, which a client takes only a layer's word for.
                let _ = self.client.stream.finish();
            }
            return;
        };
        if exchange.looks_whole_by_its_end() {
            self.client.stream.reset_on_close();
        }
        exchange.abort(Error::new(Side::Proxy, Phase::Transfer, kind, reason));
        self.open = false;
        // The session ends, and with it what was the client's alone.
        drop(exchange.conclude(self.asker.address, &self.waker, turn));
    }
}
