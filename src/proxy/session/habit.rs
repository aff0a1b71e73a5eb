//! Judges by earlier waits whether a worker should wait with a session.

use std::time::{Duration, Instant};

/// A wait shorter than this would have been worth a worker's patience.
const WORTH_PATIENCE: Duration = Duration::from_millis(2);

/// Whether waiting on the worker has been worth it, for one socket.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Habit {
    pub(super) pays: bool,
    pub(super) in_a_row: u8,
    /// Waits in a row that were short, parked ones included.
    pub(super) short: u8,
}

impl Habit {
    /// Records how long the session waited for this socket without a worker.
    pub(super) fn waited(&mut self, since: Instant, now: Instant) {
        self.pays = now.saturating_duration_since(since) < WORTH_PATIENCE;
        self.short = if self.pays { self.short.saturating_add(1) } else { 0 };
    }
}
