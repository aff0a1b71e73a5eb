//! The state that the workers of a proxy share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Instant, SystemTime};

use crate::observe::stats::Stats;
use crate::proxy::Context;
use crate::proxy::recycle::SharedSpares;

use super::parking::{Job, Parking};
use super::ready::ReadyQueue;

/// The state that the workers share.
pub struct WorkerPool {
    /// The state that all sessions share.
    pub ctx: Arc<Context>,
    /// The place where sessions wait.
    pub parking: Arc<Parking>,
    /// The counters, one shard for each worker.
    pub stats: Arc<Stats>,
    /// Sessions that can go on.
    pub ready: Arc<ReadyQueue<Job>>,
    /// Finished exchanges that some worker has too many of.
    pub spares: Arc<SharedSpares>,
    /// The facts fixed at start.
    pub birth: Birth,
    /// Set when all listeners accept.
    pub serves: AtomicBool,
    /// How many reloads were taken, and how many refused.
    pub reloads: [AtomicU64; 2],
}

/// The facts that do not change while the proxy runs.
#[derive(Debug)]
pub struct Birth {
    /// The start, by the wall clock.
    pub time: SystemTime,
    /// The start, by the monotonic clock.
    pub moment: Instant,
    /// How many client connections there may be at once.
    pub places: usize,
}
