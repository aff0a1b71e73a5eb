//! Something to do once, when a number of exchanges is over.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;

/// Something to do once, when a number of exchanges and tunnels is over: see
/// [`Options::after`](crate::Options::after).
#[derive(Clone)]
pub struct After {
    pub(super) exchanges: NonZeroU64,
    pub(super) then: Arc<dyn Fn() + Send + Sync>,
}

impl After {
    /// `then` is called once, by a worker, when so many `exchanges` and tunnels are over, failed ones
    /// included; it must not wait.
    pub fn new(exchanges: NonZeroU64, then: impl Fn() + Send + Sync + 'static) -> Self {
        Self { exchanges, then: Arc::new(then) }
    }
}

impl fmt::Debug for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {} exchanges", self.exchanges)
    }
}
