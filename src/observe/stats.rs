//! Counters: what happened how often since the start?
//!
//! Each worker has a shard of its own behind a lock of its own, so that counting never makes two
//! workers wait for each other; the threads that are no workers (acceptors, parking, resolver)
//! share one more. A [`Snapshot`] is the sum over all shards. It is taken shard after shard while
//! counting goes on: each number is exact as of some moment during the call, but two numbers may
//! be a few events apart.
//!
//! Nothing here knows sockets or clocks. The engine counts once at each end of an exchange.

use std::fmt;

use parking_lot::Mutex;

use crate::error::Side;

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
    /// [`other`](Self::other): a wrong number costs contention, never a count.
    pub fn shard(&self, worker: usize) -> &Shard {
        self.workers.get(worker).unwrap_or(&self.other)
    }

    /// The shard of all threads that are not workers.
    pub fn other(&self) -> &Shard {
        &self.other
    }

    /// The sums as of now. Locks each shard for one copy; call it from any thread, as often as a
    /// person looks, not once a request.
    pub fn snapshot(&self) -> Snapshot {
        let mut sum = Counters::default();
        // Acceptors count in `other` before a worker can count the end: read last, it makes
        // `accepted >= closed` in every snapshot.
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

/// Defines [`Counters`] and its sum from one list, so that no counter can be left out of it.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What is counted. All counts are events since the start, except where octets are said.
        #[derive(Clone, Debug, Default, Eq, PartialEq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
            /// Exchanges finished, by the class of the status code the client got: index 1 for
            /// 1xx (101) to 5 for 5xx, 0 for none (the client was gone).
            pub by_status: [u64; 6],
        }

        impl Counters {
            /// Adds each of `more`'s counters to its own.
            pub fn add(&mut self, more: &Self) {
                $(self.$name = self.$name.wrapping_add(more.$name);)*
                for (sum, n) in self.by_status.iter_mut().zip(more.by_status) {
                    *sum = sum.wrapping_add(n);
                }
            }
        }
    };
}

counters! {
    /// Client connections accepted.
    connections_accepted,
    /// Client connections closed, by either side.
    connections_closed,
    /// Times an acceptor had to wait because no connection permit was left.
    accepts_refused_no_permit,
    /// Times `accept` failed (EMFILE, ENOMEM …).
    accept_failures,
    /// Exchanges begun: a request head was complete, or failed to be one.
    exchanges_begun,
    /// Exchanges finished, well or not.
    exchanges_finished,
    /// Exchanges and tunnels that failed by the client's doing.
    failures_client,
    /// Exchanges and tunnels that failed by the proxy's doing: a rule, a limit, a defect.
    failures_proxy,
    /// Exchanges and tunnels that failed by the upstream's doing.
    failures_upstream,
    /// Tunnels opened, by CONNECT or by an upgrade.
    tunnels_opened,
    /// Those of `tunnels_opened` that began with a 101: a WebSocket, for one.
    upgrades,
    /// Tunnels closed.
    tunnels_closed,
    /// Octets received from clients.
    octets_from_clients,
    /// Octets sent to clients.
    octets_to_clients,
    /// Octets that went from socket to socket through a pipe, uncopied; part of the two above.
    octets_spliced,
    /// Upstream connections made.
    upstream_connects,
    /// Attempts to connect to an upstream that failed.
    upstream_connect_failures,
    /// Exchanges that began on an idle upstream connection.
    upstream_reuses,
    /// Requests sent again because a reused upstream connection died before it answered.
    resends,
    /// Names asked of the resolver threads.
    lookups,
    /// Names answered from the cache, not counted in `lookups`.
    lookup_cache_hits,
    /// Turns of sessions on workers.
    turns,
    /// Turns that ended with the session parked.
    parks,
    /// Turns that ended because they were spent while others waited.
    yields,
    /// Reads that waited a little on the worker instead of parking at once.
    patient_reads,
    /// Those of `patient_reads` that got octets.
    patient_reads_paid,
    /// Turns that panicked; each closed its session.
    panics,
    /// Access log lines dropped. No thread counts this one: who takes a snapshot sets it from
    /// `AccessLog::dropped`.
    log_lines_dropped,
}

/// The sums of all shards at one time; `Display` is what USR2 writes to the log: several lines,
/// rare events only if there were any, no newline at the end.
pub type Snapshot = Counters;

impl Counters {
    /// Counts a finished exchange's status code in its class; 0, or a code of no class, counts as
    /// none.
    pub fn count_status(&mut self, status: u16) {
        let class = match status / 100 {
            class @ 1..=5 => usize::from(class),
            _ => 0,
        };
        if let Some(n) = self.by_status.get_mut(class) {
            *n += 1;
        }
    }

    /// Counts a failure as the doing of `side`.
    pub fn count_failure(&mut self, side: Side) {
        match side {
            Side::Client => self.failures_client += 1,
            Side::Proxy => self.failures_proxy += 1,
            Side::Upstream => self.failures_upstream += 1,
        }
    }

    /// Client connections open now.
    pub fn active_connections(&self) -> u64 {
        self.connections_accepted.saturating_sub(self.connections_closed)
    }

    /// Exchanges under way now.
    pub fn active_exchanges(&self) -> u64 {
        self.exchanges_begun.saturating_sub(self.exchanges_finished)
    }

    /// Tunnels open now.
    pub fn active_tunnels(&self) -> u64 {
        self.tunnels_opened.saturating_sub(self.tunnels_closed)
    }

    /// The classes that were counted, by name.
    fn statuses(&self) -> String {
        let names = ["no status", "1xx", "2xx", "3xx", "4xx", "5xx"];
        let counted = names.iter().zip(self.by_status).filter(|(_, n)| *n > 0);
        counted.map(|(name, n)| format!("{n} {name}")).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let active = |now: u64, all: u64, done: &str| format!("{now} active, {all} {done}");
        let always = |name, text| (name, Some(text));
        let rare = |name, count: u64| (name, (count > 0).then(|| count.to_string()));
        let failures = self.failures_client + self.failures_proxy + self.failures_upstream;

        let rows = [
            always(
                "connections",
                active(self.active_connections(), self.connections_accepted, "accepted"),
            ),
            always(
                "exchanges",
                active(self.active_exchanges(), self.exchanges_finished, "finished"),
            ),
            ("statuses", Some(self.statuses()).filter(|s| !s.is_empty())),
            (
                "failures",
                (failures > 0).then(|| {
                    format!(
                        "{} client, {} proxy, {} upstream",
                        self.failures_client, self.failures_proxy, self.failures_upstream
                    )
                }),
            ),
            always("tunnels", active(self.active_tunnels(), self.tunnels_opened, "opened")),
            rare("upgrades", self.upgrades),
            always(
                "octets",
                format!(
                    "{} from clients, {} to clients",
                    Size(self.octets_from_clients),
                    Size(self.octets_to_clients)
                ),
            ),
            always(
                "upstream",
                format!("{} connects, {} reuses", self.upstream_connects, self.upstream_reuses),
            ),
            rare("connect failures", self.upstream_connect_failures),
            rare("resends", self.resends),
            always(
                "lookups",
                format!("{} asked, {} from the cache", self.lookups, self.lookup_cache_hits),
            ),
            always(
                "turns",
                format!("{}, {} parked, {} yielded", self.turns, self.parks, self.yields),
            ),
            always(
                "patient reads",
                format!("{}, {} paid off", self.patient_reads, self.patient_reads_paid),
            ),
            rare("waits for a connection permit", self.accepts_refused_no_permit),
            rare("accept failures", self.accept_failures),
            rare("panics", self.panics),
            rare("access log lines dropped", self.log_lines_dropped),
        ];

        let shown = || rows.iter().filter_map(|(name, text)| Some((name, text.as_ref()?)));
        let width = shown().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (i, (name, text)) in shown().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{name:<width$}  {text}")?;
        }
        Ok(())
    }
}

/// A number of octets, shown with its binary unit.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let mut value = self.0 as f64 / 1024.0;
        let mut shown = "KiB";
        for unit in units {
            shown = unit;
            // 1023.95 would round to 1024.0.
            if value < 1023.95 {
                break;
            }
            value /= 1024.0;
        }
        write!(f, "{value:.1} {shown}")
    }
}

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
                        stats.shard(worker).count(|c| c.parks += 1);
                    }
                });
            }
        });
        assert_eq!(stats.snapshot().parks, 40_000);
    }

    #[test]
    fn shards_share_no_cache_line() {
        assert_eq!(align_of::<Shard>(), 64);
        assert_eq!(size_of::<Shard>() % 64, 0);
    }

    #[test]
    fn statuses_are_counted_by_class() {
        let mut c = Counters::default();
        for status in [0, 101, 200, 206, 304, 404, 502, 600, 99] {
            c.count_status(status);
        }
        assert_eq!(c.by_status, [3, 1, 2, 1, 1, 1]);
    }

    #[test]
    fn a_fresh_snapshot_shows_no_rare_lines() {
        let expected = "\
connections    0 active, 0 accepted
exchanges      0 active, 0 finished
tunnels        0 active, 0 opened
octets         0 B from clients, 0 B to clients
upstream       0 connects, 0 reuses
lookups        0 asked, 0 from the cache
turns          0, 0 parked, 0 yielded
patient reads  0, 0 paid off";
        assert_eq!(Counters::default().to_string(), expected);
    }

    #[test]
    fn a_busy_snapshot_is_aligned_and_has_units() {
        let mut c = Counters {
            connections_accepted: 1234,
            connections_closed: 1222,
            exchanges_begun: 5003,
            exchanges_finished: 5000,
            octets_from_clients: 1_500,
            octets_to_clients: 5 << 30,
            panics: 1,
            log_lines_dropped: 17,
            ..Counters::default()
        };
        c.count_status(200);
        c.count_status(0);
        c.count_failure(Side::Upstream);
        let expected = "\
connections               12 active, 1234 accepted
exchanges                 3 active, 5000 finished
statuses                  1 no status, 1 2xx
failures                  0 client, 0 proxy, 1 upstream
tunnels                   0 active, 0 opened
octets                    1.5 KiB from clients, 5.0 GiB to clients
upstream                  0 connects, 0 reuses
lookups                   0 asked, 0 from the cache
turns                     0, 0 parked, 0 yielded
patient reads             0, 0 paid off
panics                    1
access log lines dropped  17";
        assert_eq!(c.to_string(), expected);
    }

    #[test]
    fn sizes_carry_the_unit_that_fits() {
        for (octets, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(Size(octets).to_string(), expected);
        }
    }
}
