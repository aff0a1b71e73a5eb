//! Changes settings of a running proxy: its rules, its log file, its hosts files.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::net::hosts::WrongHosts;
use crate::policy::{Access, Policy};

use super::worker_pool::WorkerPool;

/// How long to wait for workers to see another policy: a turn is over in a millisecond.
const LET_GO: Duration = Duration::from_millis(200);

/// Changes a running proxy, from any thread. No worker waits for it, and no connection ends. After the
/// end of the proxy it has no effect.
#[derive(Clone)]
pub struct Control {
    pool: Arc<WorkerPool>,
    addresses: Vec<SocketAddr>,
}

impl Control {
    pub(super) fn new(pool: Arc<WorkerPool>, addresses: Vec<SocketAddr>) -> Self {
        Self { pool, addresses }
    }

    /// Puts another policy in force. It decides requests that come from now on; earlier decisions stay.
    /// If `access` was built with the policy in force as `before`, rules keep their hits:
    ///
    /// ```
    /// # use threadgate::{AccessOptions, Options, Server};
    /// # let proxy = Server::start(Options::default())?;
    /// let rules = AccessOptions { deny: vec!["ads.example".to_owned()], ..AccessOptions::default() };
    /// let control = proxy.control();
    /// control.set_access(&rules.build(Some(&control.policy()))?, false);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// `open` is [`Options::open`](crate::Options::open). The call may take 0.2 s, until the workers
    /// have let go of the old policy.
    pub fn set_access(&self, access: &Access, open: bool) {
        let old = self.pool.ctx.policy.set(access.policy(&self.addresses, open));
        self.pool.ready.rouse();
        // Long lists are freed here, not in the turn of the last worker to let them go.
        let until = Instant::now() + LET_GO;
        while Arc::strong_count(&old) > 1 && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// The policy in force, for [`AccessOptions::build`](crate::AccessOptions::build).
    pub fn policy(&self) -> Arc<Policy> {
        self.pool.ctx.policy.get()
    }

    /// Counts a reload, as taken or as refused because of a mistake.
    pub fn count_reload(&self, taken: bool) {
        let [takes, refusals] = &self.pool.reloads;
        let count = if taken { takes } else { refusals };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Opens the access log's file again, after it was moved away.
    pub fn reopen_log(&self) {
        if let Some(log) = &self.pool.ctx.access_log {
            log.reopen();
        }
    }

    /// Reads the hosts files again, on this thread; `None` if there are none. The next lookup uses their
    /// new content. Idle upstream connections are closed, because they may lead to a name's old address,
    /// and those in use are not used again.
    ///
    /// # Errors
    ///
    /// The mistake in a file; everything read before stays in use.
    pub fn reread_hosts(&self) -> Option<Result<usize, WrongHosts>> {
        let given = self.pool.ctx.resolver.given();
        given.have_files().then(|| {
            let count = given.reread()?;
            self.pool.ctx.pool.begin_names_epoch();
            Ok(count)
        })
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Control({:?})", self.addresses)
    }
}
