//! Whether a worker waits with a session for a few milliseconds, and what comes of it.

use std::time::Instant;

use crate::proxy::context::Turn;
use crate::proxy::sides::UPSTREAM;

use super::{Session, State};

/// Short waits in a row after which a tunnel is taken for question and answer.
const PING_PONG: u8 = 8;
/// Patient receives in a row that paid off before edges are switched off.
const STEADY: u8 = 4;

impl Session {
    /// Whether waiting on the worker for the socket `tag` is likely to be worth it.
    pub fn would_be_patient(&self, tag: u32) -> bool {
        let Some(habit) = self.habits.get(tag as usize) else { return false };
        match &self.state {
            // Both sides of a tunnel may speak: the one not waited for would be kept waiting. So
            // it has to look like question and answer for a while, and one mistake is enough.
            State::Exchange(exchange) if exchange.is_tunnel() => {
                habit.pays && habit.short >= PING_PONG && !self.impatient
            }
            _ => habit.pays,
        }
    }

    /// Waits on the worker, a few milliseconds at most, for the socket `tag`. Answers whether the
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
                // Each octet would wake the parking thread for nothing.
                end.stream.unwatch();
            }
        }
        turn.moved += count;
        if upstream && let State::Exchange(exchange) = &mut self.state {
            exchange.add_received(count);
        }
        went_on
    }
}
