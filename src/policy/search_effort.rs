//! Bounds the time that one search for patterns may take.

use std::time::Instant;

/// The time limit of one search.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    until: Instant,
}

/// The search ran out of time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Unfinished;

impl Effort {
    /// A search may run until this moment.
    pub fn until(until: Instant) -> Self {
        Self { until }
    }

    pub(super) fn is_used_up(&self) -> bool {
        Instant::now() >= self.until
    }
}
