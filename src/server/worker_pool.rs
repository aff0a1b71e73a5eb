//! What the workers of a proxy share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Instant, SystemTime};

use crate::observe::stats::Stats;
use crate::proxy::Context;
use crate::proxy::recycle::SharedSpares;

use super::parking::{Job, Parking};
use super::ready::ReadyQueue;

/// What the workers share.
pub struct WorkerPool {
    /// What all sessions share.
    pub ctx: Arc<Context>,
    /// Where sessions wait.
    pub parking: Arc<Parking>,
    /// Counters, a shard a worker.
    pub stats: Arc<Stats>,
    /// Sessions that can go on.
    pub ready: Arc<ReadyQueue<Job>>,
    /// Finished exchanges that some worker has too many of.
    pub spares: Arc<SharedSpares>,
    /// When it all began.
    pub birth: Birth,
    /// Set when all listeners accept.
    pub serves: AtomicBool,
    /// Reloads that were taken, and that were refused.
    pub reloads: [AtomicU64; 2],
}

/// What does not change while it runs.
#[derive(Debug)]
pub struct Birth {
    /// When it started, by the clock on the wall.
    pub time: SystemTime,
    /// When it started.
    pub moment: Instant,
    /// Client connections there may be at once.
    pub places: usize,
}
