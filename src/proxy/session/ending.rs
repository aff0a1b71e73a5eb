//! Ends exchanges and connections: goes on to the next request, closes, or reads on for a while; also
//! when the proxy stops, and after a panic.

use std::time::Duration;

use crate::error::{Error, Kind, Phase, Side};
use crate::net::stream::Received;
use crate::observe::stats::Shard;
use crate::proxy::context::Turn;
use crate::proxy::recycle::Spares;
use crate::proxy::seat::Occupancy;
use crate::wire::Method;

use super::{AWAITED, Next, Session, State, Stepped};

/// How long to go on reading, after a last reply, from a client that may still be sending.
const LINGER_TIME: Duration = Duration::from_secs(2);
/// How many of its bytes to throw away at most.
const LINGER_BYTES: usize = 1024 * 1024;

impl Session {
    /// Ends an exchange, however it went.
    pub(super) fn end_exchange(&mut self, turn: &mut Turn<'_>, spares: &mut Spares) -> Stepped {
        let State::Exchange(mut exchange) = std::mem::replace(&mut self.state, AWAITED) else {
            return Stepped::Next(Next::Close);
        };
        let gone = exchange.is_aborted() || exchange.is_tunnel();
        let unread = !exchange.request_is_clear() || exchange.failure().is_some();
        // The last bytes of an upstream that is gone may still be on their way.
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
        // A connection is kept across a reply of ours, which used none.
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

    /// Ends the connection, which is complete. A layer announces the end first; without one, closing
    /// does.
    #[inline]
    pub(super) fn close(&mut self, turn: &Turn<'_>) -> Stepped {
        match self.client.stream.has_layer() {
            false => Stepped::Next(Next::Close),
            true => self.tell_end(true, turn),
        }
    }

    /// Tells the client that nothing more comes. If `closes`, the session does not wait for the client's
    /// end.
    fn tell_end(&mut self, closes: bool, turn: &Turn<'_>) -> Stepped {
        let Ok(end_sent) = self.client.stream.finish() else {
            return Stepped::Next(Next::Close);
        };
        self.client.buffer.consume(self.client.buffer.len());
        self.pinned = None;
        self.deadline = turn.now + LINGER_TIME;
        self.comes_to(Occupancy::Lingers);
        self.state = State::Linger { left: LINGER_BYTES, end_sent, closes };
        Stepped::Again
    }

    pub(super) fn linger(&mut self, turn: &mut Turn<'_>) -> Stepped {
        let State::Linger { left, end_sent, closes } = &mut self.state else {
            return Stepped::Again;
        };
        if !*end_sent {
            match self.client.stream.finish() {
                Ok(is_sent) => *end_sent = is_sent,
                Err(_) => return Stepped::Next(Next::Close),
            }
        }
        loop {
            if turn.now >= self.deadline || (*end_sent && *closes) {
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

    /// Prepares the session to be dropped without another turn. A response that only the end completes must
    /// not look complete, so its close becomes a reset. An exchange counted as begun is counted as lost.
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

    /// Closes the session from outside; its exchange is reported as failed.
    pub fn cut(&mut self, kind: Kind, reason: &'static str, turn: &mut Turn<'_>) {
        let State::Exchange(mut exchange) = std::mem::replace(&mut self.state, AWAITED) else {
            if self.client.stream.has_layer() {
                // Nothing is cut off here, but only the layer's own end tells the client so.
                let _ = self.client.stream.finish();
            }
            return;
        };
        if exchange.looks_whole_by_its_end() {
            self.client.stream.reset_on_close();
        }
        exchange.abort(Error::new(Side::Proxy, Phase::Transfer, kind, reason));
        self.open = false;
        // The session ends, and so does the connection reserved for its client.
        drop(exchange.conclude(self.asker.address, &self.waker, turn));
    }
}
