//! What a session waits for, as the counters name it, and what has arrived for it meanwhile.

use std::time::Instant;

use crate::net::poll::Edge;
use crate::observe::stats::Wait;

use super::sides::SOCKETS;

/// Who moves so many octets in a turn is a stream.
const STREAM: usize = 64 * 1024;

/// How a session is counted while no worker has it.
#[derive(Debug)]
pub struct Waiting {
    /// What it is counted as waiting for.
    parked: Option<Wait>,
    /// Its next way through the ready queue is measured.
    measure: bool,
    /// Since when it is in the queue, if that is measured.
    queued: Option<Instant>,
    /// Its last turn moved as much as only a stream does.
    streams: bool,
    /// The turn before did.
    streamed: bool,
}

impl Waiting {
    /// Of a connection just accepted; its way to the first turn is measured.
    pub fn new() -> Self {
        Self { parked: None, measure: true, queued: None, streams: false, streamed: false }
    }

    /// It is about to park, counted until [`resumed`](Self::resumed). If `measure`, its way through
    /// the ready queue will be measured.
    pub fn parks(&mut self, wait: Wait, measure: bool) {
        self.parked = Some(wait);
        self.measure = measure;
    }

    /// What it was counted as waiting for, and is no more.
    pub fn resumed(&mut self) -> Option<Wait> {
        self.parked.take()
    }

    /// Its last turn moved so many octets.
    pub fn moved(&mut self, octets: usize) {
        self.streamed = std::mem::replace(&mut self.streams, octets >= STREAM);
    }

    /// Whether it is a stream, by its last turn or the one before: one may pause for a turn.
    pub fn is_streaming(&self) -> bool {
        self.streams || self.streamed
    }

    /// It goes into the ready queue.
    pub fn enqueued(&mut self) {
        if std::mem::take(&mut self.measure) {
            self.queued = Some(Instant::now());
        }
    }

    /// It leaves the ready queue: since when it was there, if that was measured.
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
    /// Adds one.
    pub fn add(&mut self, tag: u32, edge: Edge) {
        self.any = true;
        if let Some(known) = self.sockets.get_mut(tag as usize) {
            known.add(edge);
        }
    }

    /// Whether there was one on the socket with this tag, which is seen to now.
    pub fn take(&mut self, tag: u32) -> bool {
        let edge = self.sockets.get_mut(tag as usize).map(std::mem::take);
        edge.is_some_and(|edge| edge != Edge::default())
    }

    /// Those there were, with their tags.
    pub(super) fn each(&self) -> impl Iterator<Item = (u32, &Edge)> {
        (0..).zip(&self.sockets).filter(|(_, edge)| **edge != Edge::default())
    }

    /// Whether there was none.
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
