//! Lists the gauges: numbers that are measured on request.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::counters::Wait;
use super::measure::measures;

/// The states of a worker.
pub const WORKER_STATES: [&str; 3] = ["busy", "patient", "asleep"];

measures! {
    /// The state of the proxy when the report was made.
    #[derive(Clone, Debug, Default, PartialEq)]
    #[non_exhaustive]
    pub struct Gauges {
        /// The running version; always 1.
        Gauge build_info: [u64; 1], by "version" in [env!("CARGO_PKG_VERSION")];
        /// When the proxy started, in seconds since 1970.
        Gauge start_time_seconds: f64;
        /// Whether the proxy serves: 0 while it starts, drains or stops.
        Gauge ready: u64;
        /// Client connections open.
        Gauge connections_open: u64;
        /// The most client connections at once.
        Gauge connections_max: u64;
        /// Connections to the admin listener open.
        Gauge admin_connections_open: u64;
        /// Exchanges under way, tunnels included.
        Gauge exchanges_open: u64;
        /// Tunnels open.
        Gauge tunnels_open: u64;
        /// Sessions parked, by what they wait for.
        Gauge parked: [u64; Wait::ALL.len()], by "wait" in Wait::ALL.map(Wait::word);
        /// Workers, by what they are doing; patient ones wait with their session.
        Gauge workers: [u64; WORKER_STATES.len()], by "state" in WORKER_STATES;
        /// Sessions in the ready queue, on their way to a worker.
        Gauge ready_sessions: u64;
        /// Upstream connections kept idle for the next exchange.
        Gauge upstream_idle: u64;
        /// Pipes for streams, in use or kept.
        Gauge pipes: u64;
        /// Names being looked up.
        Gauge lookups_pending: u64;
        /// Resolver threads.
        Gauge resolver_threads: u64;
        /// Seconds of processor time the process has used.
        Counter cpu_seconds: f64 = "process_cpu_seconds";
        /// Resident memory of the process, in bytes.
        Gauge resident_bytes: u64 = "process_resident_memory_bytes";
        /// Descriptors the process has open; 0 if the system does not report them (Linux before 6.2).
        Gauge open_descriptors: u64 = "process_open_fds";
        /// The most descriptors the process may have open.
        Gauge most_descriptors: u64 = "process_max_fds";
    }
}

impl Gauges {
    /// Only the gauges that describe this process; the system is asked for them.
    pub(crate) fn of_process(started: SystemTime) -> Self {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        // Pages: all, and resident ones (proc_pid_statm(5)).
        let pages = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let resident = pages.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        Self {
            build_info: [1],
            start_time_seconds: started
                .duration_since(UNIX_EPOCH)
                .map_or(0.0, |since| since.as_secs_f64()),
            cpu_seconds: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
            resident_bytes: resident * rustix::param::page_size() as u64,
            // The directory's size is their number; counting them could take a second.
            open_descriptors: fs::metadata("/proc/self/fd").map_or(0, |fd| fd.len()),
            most_descriptors: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_has_used_something() {
        let gauges = Gauges::of_process(SystemTime::now());
        assert!(gauges.cpu_seconds > 0.0);
        assert!(gauges.resident_bytes > 100_000, "{}", gauges.resident_bytes);
        assert!(gauges.start_time_seconds > 1.7e9);
        assert!(gauges.most_descriptors > 2);
    }

    #[test]
    fn every_number_is_explained() {
        for measure in Gauges::default().measures() {
            assert!(measure.help.ends_with('.'), "{}", measure.help);
            assert!(!measure.help.contains(['`', '[', '\n', '\\']), "{}", measure.help);
        }
    }
}
