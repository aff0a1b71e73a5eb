//! Gathers the state and the numbers of the proxy when somebody asks for them.

use std::sync::atomic::Ordering;

use crate::observe::gauges::Gauges;
use crate::observe::report::{Life, Report};
use crate::observe::rule_hits::RuleHits;
use crate::observe::stats::Snapshot;
use crate::proxy::admin::Overview;

use super::worker_pool::WorkerPool;

impl WorkerPool {
    /// The counters.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = self.stats.snapshot();
        snapshot.upstream_retired = self.ctx.pool.retired();
        if let Some(log) = &self.ctx.access_log {
            snapshot.log_lines_dropped = log.dropped();
        }
        let connecting = &self.ctx.dialer.connecting;
        snapshot.connect_waits = connecting.waits();
        snapshot.connects_pending = connecting.pending() as u64;
        snapshot.reloads = self.reloads.each_ref().map(|count| count.load(Ordering::Relaxed));
        snapshot
    }
}

impl Overview for WorkerPool {
    fn life(&self) -> Life {
        if self.ctx.is_draining() {
            Life::Draining
        } else if self.serves.load(Ordering::SeqCst) {
            Life::Serving
        } else {
            Life::Starting
        }
    }

    fn report(&self) -> Report {
        let life = self.life();
        let counters = self.snapshot();
        let gauges = Gauges {
            ready: u64::from(life == Life::Serving),
            connections_open: counters.active_connections(),
            connections_max: self.birth.places as u64,
            admin_connections_open: counters
                .admin_connections_accepted
                .saturating_sub(counters.admin_connections_closed),
            exchanges_open: counters.active_exchanges(),
            tunnels_open: counters.active_tunnels(),
            parked: counters.parked(),
            workers: self.ready.workers(),
            ready_sessions: self.ready.len() as u64,
            upstream_idle: self.ctx.pool.len() as u64,
            pipes: self.ctx.pipes.made() as u64,
            lookups_pending: self.ctx.resolver.pending() as u64,
            resolver_threads: self.ctx.resolver.threads() as u64,
            ..Gauges::of_process(self.birth.time)
        };
        let rule_hits = RuleHits::of(&self.ctx.policy.get().origins);
        Report { life, uptime: self.birth.moment.elapsed(), counters, gauges, rule_hits }
    }
}
