//! What the proxy tells about its work: counters and the access log.
//!
//! Modules here are told things and never asked what to do: nothing in the proxy waits for them,
//! and none of them can fail an exchange. Diagnostics (start, refusals, trouble) go through the
//! `log` crate instead.
//!
//! - [`measure`]: what a number is called and means, said once.
//! - [`histogram`]: how long things took, in fixed buckets.
//! - [`counters`]: the list of what is counted.
//! - [`gauges`]: the list of what is measured when somebody asks.
//! - [`rule_hits`]: how often rules have decided.
//! - [`stats`]: the counters of all workers, and their sum.
//! - [`summary`]: the sum for a person.
//! - [`report`]: all of it at one time, for Prometheus and as JSON.
//! - [`access_log`]: one line an exchange or tunnel, written by a thread of its own.

pub mod access_log;
pub mod counters;
pub mod gauges;
pub mod histogram;
pub mod measure;
pub mod report;
pub mod rule_hits;
pub mod stats;
pub mod summary;
