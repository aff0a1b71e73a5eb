//! Reports on the proxy's work: counters and the access log.
//!
//! Modules here only receive data: nothing in the proxy waits for them, and none of them can
//! fail an exchange. Diagnostics (start, refusals, trouble) go through the `log` crate instead.
//!
//! - [`measure`]: a number's name, kind and help text, declared once.
//! - [`histogram`]: durations, in fixed buckets.
//! - [`counters`]: the list of counters.
//! - [`gauges`]: the list of numbers measured on request.
//! - [`rule_hits`]: the number of decisions of each rule.
//! - [`stats`]: the counters of all workers, and their sum.
//! - [`summary`]: the sum as text for a person.
//! - [`report`]: all numbers of one moment, for Prometheus and as JSON.
//! - [`access_log`]: one line for each exchange or tunnel, written by a thread of its own.

pub mod access_log;
pub mod counters;
pub mod gauges;
pub mod histogram;
pub mod measure;
pub mod report;
pub mod rule_hits;
pub mod stats;
pub mod summary;
