//! Connections to the next server on the way, and which of them may be used again.

mod idle;
pub mod peer;
pub mod pool;
mod pool_limits;
