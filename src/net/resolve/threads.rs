//! The resolver's threads: a few that stay, more while those hang, fewer again when there is no
//! work for them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use parking_lot::Mutex;

/// How many threads there are when.
pub(super) struct Limits {
    /// Threads that stay once started.
    pub(super) steady: usize,
    /// Threads at most, while all the others hang.
    pub(super) most: usize,
    /// How long a thread beyond the steady ones waits for work before it ends.
    pub(super) linger: Duration,
    /// Names that may wait for a thread.
    pub(super) queued: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { steady: 4, most: 32, linger: Duration::from_secs(10), queued: 1024 }
    }
}

type Work = Arc<dyn Fn(&str) + Send + Sync>;

/// The threads, and the names that wait for one.
pub(super) struct Threads {
    crew: Arc<Crew>,
    queue: Sender<Box<str>>,
}

struct Crew {
    limits: Limits,
    work: Work,
    names: Receiver<Box<str>>,
    count: Mutex<Count>,
}

#[derive(Default)]
struct Count {
    started: usize,
    alive: usize,
    /// Threads that wait for work, less the work already queued for them.
    free: isize,
}

impl Threads {
    /// None yet. Each will call `work` with one name after the other.
    pub(super) fn new(limits: Limits, work: Work) -> Self {
        let (queue, names) = crossbeam_channel::bounded(limits.queued);
        let crew = Crew { limits, work, names, count: Mutex::default() };
        Self { crew: Arc::new(crew), queue }
    }

    /// Queues a name. `false` if too many are.
    pub(super) fn queue(&self, name: &str) -> bool {
        self.queue.try_send(name.into()).is_ok()
    }

    /// Sees to it that there is a thread for the name just queued, if there may be one more.
    pub(super) fn see_to_one(&self) {
        let crew = &self.crew;
        let mut count = crew.count.lock();
        count.free -= 1;
        if count.free >= 0 || count.alive >= crew.limits.most {
            return;
        }
        let steady = count.alive < crew.limits.steady;
        let working = Arc::clone(crew);
        let spawned = thread::Builder::new()
            .name(format!("resolver-{}", count.started))
            .stack_size(256 * 1024)
            .spawn(move || working.work(steady));
        match spawned {
            Ok(_) => {
                count.started += 1;
                count.alive += 1;
                count.free += 1;
            }
            // Those already running get to it, or the asker's deadline does.
            Err(e) => log::warn!("cannot start another resolver thread: {e}"),
        }
    }

    /// Threads there are now.
    pub(super) fn alive(&self) -> usize {
        self.crew.count.lock().alive
    }

    /// Whether every thread has work and no name waits.
    #[cfg(test)]
    pub(super) fn crew_is_busy(&self) -> bool {
        self.crew.count.lock().free == 0 && self.crew.names.is_empty()
    }
}

impl Crew {
    fn work(&self, steady: bool) {
        loop {
            let name = if steady {
                self.names.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                self.names.recv_timeout(self.limits.linger)
            };
            match name {
                // A thread that ended by a panic would be counted as one there is, for good.
                Ok(name) => {
                    if catch_unwind(AssertUnwindSafe(|| (self.work)(&name))).is_err() {
                        log::error!("answering a lookup of {name} panicked");
                    }
                }
                Err(e) => {
                    let mut count = self.count.lock();
                    // Work queued since is for this thread: it was counted as free.
                    if e == RecvTimeoutError::Timeout && !self.names.is_empty() {
                        continue;
                    }
                    count.alive -= 1;
                    count.free -= 1;
                    return;
                }
            }
            self.count.lock().free += 1;
        }
    }
}
