//! Holds the counters in shards, one for each worker; a snapshot is their sum.
//!
//! Each worker has a shard with a lock of its own, so that counting never makes two workers wait
//! for each other. All other threads (acceptors, parking, resolver) share one more. A [`Snapshot`]
//! is the sum over all shards. It is taken shard after shard while counting goes on: each number
//! is exact as of some moment during the call, but two numbers may be a few events apart.
//!
//! This module knows no sockets or clocks. The engine counts once at each end of an exchange.

use parking_lot::Mutex;

pub use super::counters::{Counters, Wait};

/// All counters of one proxy, sharded by worker.
#[derive(Debug)]
pub struct Stats {
    workers: Box<[Shard]>,
    other: Shard,
}

impl Stats {
    /// Counters at zero, with a shard for each of `workers` workers and one for all other threads.
    pub fn new(workers: usize) -> Self {
        Self { workers: (0..workers).map(|_| Shard::default()).collect(), other: Shard::default() }
    }

    /// The shard of this worker (from 0). A number without a shard of its own gets
    /// [`other`](Self::other), so a wrong number costs contention, never a count.
    pub fn shard(&self, worker: usize) -> &Shard {
        self.workers.get(worker).unwrap_or(&self.other)
    }

    /// The shard of all threads that are not workers.
    pub fn other(&self) -> &Shard {
        &self.other
    }

    /// The sums as of now. Locks each shard for one copy. Call it from any thread, as often as a
    /// person looks, but not for each request.
    pub fn snapshot(&self) -> Snapshot {
        let mut sum = Counters::default();
        // Acceptors count in `other` before a worker can count the end. So `other` is read last,
        // which keeps `accepted >= closed` in every snapshot.
        for shard in self.workers.iter().chain([&self.other]) {
            let counters = shard.0.lock().clone();
            sum.add(&counters);
        }
        sum
    }
}

/// One thread's counters, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Shard(Mutex<Counters>);

impl Shard {
    /// Counts under the shard's lock. `f` only adds numbers: no I/O, no other lock.
    pub fn count(&self, f: impl FnOnce(&mut Counters)) {
        f(&mut self.0.lock());
    }
}

/// The sums of all shards at one time; `Display` is the text that USR2 writes to the log.
pub type Snapshot = Counters;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_the_sum_over_all_shards() {
        let stats = Stats::new(2);
        stats.shard(0).count(|c| c.turns += 1);
        stats.shard(1).count(|c| c.turns += 2);
        stats.other().count(|c| c.turns += 4);
        stats.shard(7).count(|c| c.turns += 8);
        assert_eq!(stats.snapshot(), Counters { turns: 15, ..Counters::default() });
    }

    #[test]
    fn no_count_is_lost_between_threads_that_share_a_shard() {
        let stats = Stats::new(0);
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let stats = &stats;
                scope.spawn(move || {
                    for _ in 0..10_000 {
                        stats.shard(worker).count(|c| c.yields += 1);
                    }
                });
            }
        });
        assert_eq!(stats.snapshot().yields, 40_000);
    }

    #[test]
    fn shards_share_no_cache_line() {
        assert_eq!(align_of::<Shard>(), 64);
        assert_eq!(size_of::<Shard>() % 64, 0);
    }
}
