//! How long one search for patterns may take.

use std::time::Instant;

/// How long a look may take.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    until: Instant,
}

/// The effort was used up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Unfinished;

impl Effort {
    /// Until then.
    pub fn until(until: Instant) -> Self {
        Self { until }
    }

    pub(super) fn is_used_up(&self) -> bool {
        Instant::now() >= self.until
    }
}
