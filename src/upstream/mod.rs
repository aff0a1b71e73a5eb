//! Connections to the next server, and which of them may be used again.
//!
//! In reading order: [`pool`] is what others use, `pool_limits` its bounds, `idle` its books.

mod idle;
pub mod peer;
pub mod pool;
mod pool_limits;
