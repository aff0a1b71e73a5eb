//! What is told about the proxy's work: counters and the access log.
//!
//! Modules here are told things and never asked what to do: nothing in the proxy waits for them,
//! and none of them can fail an exchange. Diagnostics (start, refusals, trouble) go through the
//! `log` crate instead.
//!
//! - [`stats`]: what happened how often, summed over the workers.
//! - [`access_log`]: one line an exchange or tunnel, written by a thread of its own.

pub mod access_log;
pub mod stats;
