//! A session between its turns: what it waits for, as the counters name it, and the edges that came
//! meanwhile.

use std::time::{Duration, Instant};

use crate::net::poll::Edge;
use crate::observe::stats::Wait;

use super::sides::SOCKETS;

/// A session that moves this many bytes in a turn is a stream.
const STREAM: usize = 64 * 1024;
/// How often a session that does not wait checks all its sockets.
const LOOK: Duration = Duration::from_millis(1);

/// How a session is counted while no worker has it.
#[derive(Debug)]
pub struct Waiting {
    /// What the session is counted as waiting for.
    parked: Option<Wait>,
    /// The session's next passage through the ready queue is measured.
    measure: bool,
    /// Since when the session is in the queue, if that is measured.
    queued: Option<Instant>,
    /// The last turn moved as much as only a stream does.
    streams: bool,
    /// The turn before did.
    streamed: bool,
    /// The session goes on without having waited since its last turn.
    goes_on: bool,
    /// When its sockets were last checked, if ever.
    looked: Option<Instant>,
}

impl Waiting {
    /// For a connection just accepted; its passage to the first turn is measured.
    pub fn new() -> Self {
        Self {
            parked: None,
            measure: true,
            queued: None,
            streams: false,
            streamed: false,
            goes_on: false,
            looked: None,
        }
    }

    /// Records that the session is about to park. It is counted until [`resumed`](Self::resumed). With
    /// `measure`, its passage through the ready queue will be measured.
    pub fn parks(&mut self, wait: Wait, measure: bool) {
        self.parked = Some(wait);
        self.measure = measure;
    }

    /// Ends the count, and returns what the session was counted as waiting for.
    pub fn resumed(&mut self) -> Option<Wait> {
        self.parked.take()
    }

    /// Records how many bytes the last turn moved.
    pub fn moved(&mut self, bytes: usize) {
        self.streamed = std::mem::replace(&mut self.streams, bytes >= STREAM);
    }

    /// Whether the session is a stream, by its last turn or the one before: a stream may pause for a
    /// turn.
    pub fn is_streaming(&self) -> bool {
        self.streams || self.streamed
    }

    /// Records that the session takes another turn without having waited.
    pub fn goes_on(&mut self) {
        self.goes_on = true;
    }

    /// Whether to check the sockets for events that nobody reported, because the session goes on and the
    /// time has come. To be asked before a turn; true once a millisecond at most.
    pub fn is_to_look(&mut self, now: Instant) -> bool {
        let looks = std::mem::take(&mut self.goes_on)
            && self.looked.is_none_or(|at| now.saturating_duration_since(at) >= LOOK);
        if looks {
            self.looked = Some(now);
        }
        looks
    }

    /// Records that the session enters the ready queue.
    pub fn enqueued(&mut self) {
        if std::mem::take(&mut self.measure) {
            self.queued = Some(Instant::now());
        }
    }

    /// Records that the session leaves the ready queue. Returns since when it was there, if that was
    /// measured.
    pub fn dequeued(&mut self) -> Option<Instant> {
        self.queued.take()
    }
}

impl Default for Waiting {
    fn default() -> Self {
        Self::new()
    }
}

/// Edges that came for a session while it was parked or running.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Edges {
    pub(super) sockets: [Edge; SOCKETS],
    any: bool,
}

impl Edges {
    /// Adds an edge.
    pub fn add(&mut self, tag: u32, edge: Edge) {
        self.any = true;
        if let Some(known) = self.sockets.get_mut(tag as usize) {
            known.add(edge);
        }
    }

    /// Takes the edge on the socket with this tag, and returns whether there was one.
    pub fn take(&mut self, tag: u32) -> bool {
        let edge = self.sockets.get_mut(tag as usize).map(std::mem::take);
        edge.is_some_and(|edge| edge != Edge::default())
    }

    /// All edges, with their tags.
    pub(super) fn each(&self) -> impl Iterator<Item = (u32, &Edge)> {
        (0..).zip(&self.sockets).filter(|(_, edge)| **edge != Edge::default())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        !self.any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_is_taken_once_whatever_the_tag() {
        let readable = Edge { readable: true, ..Edge::default() };
        let mut edges = Edges::default();
        edges.add(2, readable);
        assert!(!edges.take(1) && edges.take(2) && !edges.take(2) && !edges.take(3));
    }

    #[test]
    fn only_one_that_goes_on_looks_and_once_a_millisecond() {
        let mut waiting = Waiting::new();
        let begun = Instant::now();
        assert!(!waiting.is_to_look(begun));
        for (after, looks) in [(0, true), (999, false), (1000, true), (1999, false), (2500, true)] {
            waiting.goes_on();
            let now = begun + Duration::from_micros(after);
            assert_eq!(waiting.is_to_look(now), looks, "{after}");
            assert!(!waiting.is_to_look(now + LOOK), "it has waited since");
        }
    }

    #[test]
    fn a_stream_is_one_for_a_turn_longer_than_it_moves_much() {
        let mut waiting = Waiting::new();
        assert!(!waiting.is_streaming());
        for (moved, streaming) in [
            (STREAM - 1, false),
            (STREAM, true),
            (0, true),
            (STREAM, true),
            (1, true),
            (STREAM - 1, false),
        ] {
            waiting.moved(moved);
            assert_eq!(waiting.is_streaming(), streaming, "{moved}");
        }
    }
}
