//! Connections to the next server, and the pool that keeps them for reuse.
//!
//! In reading order: [`pool`] is the part that others use, `pool_limits` its limits, `idle` its
//! bookkeeping.

mod idle;
pub mod peer;
pub mod pool;
mod pool_limits;
