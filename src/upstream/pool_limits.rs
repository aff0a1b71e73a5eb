//! How many idle connections are kept, and for how long.

use std::time::Duration;

use crate::net::timers::LONGEST;

/// Bounds of a pool.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PoolLimits {
    /// Idle connections in all.
    pub total: usize,
    /// Idle connections to one destination; 0 keeps none.
    pub per_destination: usize,
    /// How long a connection may be idle; zero keeps none.
    pub idle: Duration,
    /// How long after it was made a connection is used again, less up to a quarter, so that those
    /// made together do not end together. However busy, a name is so followed to another address.
    pub age: Duration,
    /// Idle younger than this, a connection is used for a request that must not be repeated: the timer of
    /// no server is that short. What remains is a server that closes unannounced (`docs/performance.md`).
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
    /// The same, no time longer than a year.
    pub fn clamped(self) -> Self {
        let [idle, age, unrepeatable] =
            [self.idle, self.age, self.unrepeatable].map(|time| time.min(LONGEST));
        Self { idle, age, unrepeatable, ..self }
    }
}
