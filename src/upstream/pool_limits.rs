//! Limits of the pool of idle upstream connections: how many it keeps, and for how long.

use std::time::Duration;

use crate::net::timers::LONGEST;

/// Limits of a pool.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PoolLimits {
    /// Idle connections in all.
    pub total: usize,
    /// Idle connections to one destination; 0 keeps none.
    pub per_destination: usize,
    /// How long a connection may be idle; zero keeps none.
    pub idle: Duration,
    /// How long after its creation a connection is reused. Up to a quarter is subtracted, so that
    /// connections made together do not end together. The limit makes even a busy destination follow its
    /// name to a new address.
    pub age: Duration,
    /// A connection idle for less than this may carry a request that must not be repeated, because no
    /// server's idle timer is that short. A server that closes unannounced can still lose such a request
    /// (`docs/performance.md`).
    pub unrepeatable: Duration,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            total: usize::MAX,
            per_destination: 2048,
            idle: Duration::from_secs(30),
            age: Duration::from_secs(600),
            unrepeatable: Duration::from_millis(10),
        }
    }
}

impl PoolLimits {
    /// The same limits, with no time longer than a year.
    pub fn clamped(self) -> Self {
        let [idle, age, unrepeatable] =
            [self.idle, self.age, self.unrepeatable].map(|time| time.min(LONGEST));
        Self { idle, age, unrepeatable, ..self }
    }
}
