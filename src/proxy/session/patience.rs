//! Lets a worker wait with a session for a few milliseconds, if that is likely to pay.

use std::time::{Duration, Instant};

use crate::net::either::wait_for_either;
use crate::proxy::context::Turn;
use crate::proxy::sides::UPSTREAM;

use super::{Session, State};

/// Short waits in a row after which a tunnel counts as question and answer.
const PING_PONG: u8 = 8;
/// Patient receives in a row that paid off before edges are switched off.
const STEADY: u8 = 4;

/// How long a worker stays with a stream that has stopped.
const STAY: Duration = Duration::from_millis(4);

impl Session {
    /// Whether waiting on the worker for the socket `tag` is likely to be worth it.
    pub fn would_be_patient(&self, tag: u32) -> bool {
        let Some(habit) = self.habits.get(tag as usize) else { return false };
        match &self.state {
            // Both sides of a tunnel may speak, and the side that the worker does not wait for is kept
            // waiting. So the tunnel has to look like question and answer for a while, and one mistake
            // is enough.
            State::Exchange(exchange) if exchange.is_tunnel() => {
                habit.pays && habit.short >= PING_PONG && !self.impatient
            }
            _ => habit.pays,
        }
    }

    /// Waits on the worker for the socket `tag`, for a few milliseconds at most. Returns whether the
    /// session can go on.
    pub fn be_patient(&mut self, tag: u32, turn: &mut Turn<'_>) -> bool {
        let (end, upstream) = match (tag, &mut self.state) {
            (UPSTREAM, State::Exchange(exchange)) => match exchange.upstream_half() {
                Some(end) => (end, true),
                None => return false,
            },
            _ => (&mut self.client, false),
        };
        turn.buffers.lend(&mut end.buffer);
        if end.buffer.room() == 0 {
            return false;
        }
        let received = end.receive_patiently();
        turn.now = Instant::now();
        let went_on = received.is_some();
        let count = received.unwrap_or(0);
        if let Some(habit) = self.habits.get_mut(tag as usize) {
            habit.pays = went_on;
            habit.in_a_row = if went_on { habit.in_a_row.saturating_add(1) } else { 0 };
            self.impatient |= !went_on;
            if habit.in_a_row >= STEADY {
                // Each byte would wake the parking thread for nothing.
                end.stream.unwatch();
            }
        }
        turn.moved += count;
        if upstream && let State::Exchange(exchange) = &mut self.state {
            exchange.add_received(count);
        }
        went_on
    }

    /// Whether this is a stream between two ends, so that its worker had better look for more bytes than
    /// wait to be told of them. A stream slowed down by a limit waits for something else.
    pub fn is_worth_staying(&mut self) -> bool {
        let State::Exchange(exchange) = &mut self.state else { return false };
        self.waiting.is_streaming() && !exchange.is_limited() && exchange.upstream_half().is_some()
    }

    /// Switches edges off while a worker moves the stream. Each edge would wake the parking thread for
    /// something that the worker finds by itself.
    pub fn hush(&mut self) {
        let State::Exchange(exchange) = &mut self.state else { return };
        let Some(upstream) = exchange.upstream_half() else { return };
        upstream.stream.unwatch();
        self.client.stream.unwatch();
    }

    /// Waits on the worker for either socket of a [hushed](Self::hush) stream, for a few milliseconds at
    /// most and not past `until`. Returns whether the session can go on.
    pub fn stay_with_stream(&mut self, until: Instant, turn: &Turn<'_>) -> bool {
        let most = until.saturating_duration_since(turn.now).min(STAY);
        self.look_both_ways(most)
    }

    /// Looks at both sockets, without waiting. Edges are recorded when a session parks. A session that
    /// never parks, because one direction never stops, would not notice the other.
    pub fn look(&mut self) {
        self.look_both_ways(Duration::ZERO);
    }

    fn look_both_ways(&mut self, most: Duration) -> bool {
        let State::Exchange(exchange) = &mut self.state else { return false };
        let Some(upstream) = exchange.upstream_half() else { return false };
        let client = &mut self.client;
        // A side that takes nothing now needs no bytes from the other.
        let reads = [
            !client.ended && upstream.stream.is_writable(),
            !upstream.ended && client.stream.is_writable(),
        ];
        let [of_client, of_upstream] = reads;
        let ends = [(&mut client.stream, of_client), (&mut upstream.stream, of_upstream)];
        wait_for_either(ends, most)
    }
}
