//! Connections to the next server, and which of them may be used again.

mod idle;
pub mod pool;
mod pool_limits;
