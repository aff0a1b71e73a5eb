//! Writes the counters as text for a person, as SIGUSR2 does to the log.

use std::fmt;

use crate::error::RefusedBy;

use super::counters::{CLASSES, Counters};
use super::report::Report;
use super::rule_hits::RuleHits;

/// Several lines without a final newline. Rare events are shown only if there were any.
impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_summary(f, &RuleHits::default())
    }
}

/// The same, with the decisions of rules.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counters.write_summary(f, &self.rule_hits)
    }
}

impl Counters {
    fn write_summary(&self, f: &mut fmt::Formatter<'_>, hits: &RuleHits) -> fmt::Result {
        let rows = [self.of_clients(), self.of_upstreams(), self.of_workers(), self.of_rules(hits)];
        let shown =
            || rows.iter().flatten().filter_map(|(name, text)| Some((name, text.as_ref()?)));
        let width = shown().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (i, (name, text)) in shown().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{name:<width$}  {text}")?;
        }
        Ok(())
    }

    fn of_clients(&self) -> Vec<Row> {
        let [client, proxy, upstream] = self.failures;
        let failures = format!("{client} client, {proxy} proxy, {upstream} upstream");
        let [requests, connections, volume] = self.limited;
        let limited =
            format!("{requests} by requests, {connections} by connections, {volume} by volume");
        let (from, to) = (Size(self.bytes_from_clients), Size(self.bytes_to_clients));
        vec![
            always(
                "connections",
                active(self.active_connections(), self.connections_accepted, "accepted"),
            ),
            always(
                "exchanges",
                active(self.active_exchanges(), self.exchanges_finished, "finished"),
            ),
            unless_empty("statuses", counted(&CLASSES, &self.exchanges_by_status)),
            if_any("failures", &self.failures, failures),
            if_any("limited", &self.limited, limited),
            rare("waits for a rate", self.token_wait_seconds.count()),
            always("tunnels", active(self.active_tunnels(), self.tunnels_opened, "opened")),
            rare("upgrades", self.upgrades),
            always("bytes", format!("{from} from clients, {to} to clients")),
        ]
    }

    fn of_upstreams(&self) -> Vec<Row> {
        let [ended, idle, age, full] = self.upstream_retired;
        let retired =
            format!("{ended} ended, {idle} idle too long, {age} too old, {full} without room");
        vec![
            always(
                "upstream",
                format!("{} connects, {} reuses", self.upstream_connects, self.upstream_reuses),
            ),
            rare("connect failures", self.upstream_connect_failures),
            rare("connects pending now", self.connects_pending),
            rare("waits in line to connect", self.connect_waits),
            if_any("upstream retired", &self.upstream_retired, retired),
            rare("resends", self.resends),
            always(
                "lookups",
                format!("{} asked, {} from the cache", self.lookups, self.lookup_cache_hits),
            ),
            rare("names given", self.lookups_given),
        ]
    }

    fn of_workers(&self) -> Vec<Row> {
        vec![
            always(
                "turns",
                format!("{}, {} parked, {} yielded", self.turns, self.all_parks(), self.yields),
            ),
            always(
                "patient reads",
                format!("{}, {} paid off", self.patient_reads, self.patient_reads_paid),
            ),
            (
                "waits with streams",
                (self.stream_waits > 0)
                    .then(|| format!("{}, {} paid off", self.stream_waits, self.stream_waits_paid)),
            ),
            rare("waits for a connection permit", self.accepts_refused_no_permit),
            rare("accept failures", self.accept_failures),
        ]
    }

    fn of_rules(&self, hits: &RuleHits) -> Vec<Row> {
        let [refused, reported] = self.denials;
        let denials = format!("{refused} refused, {reported} reported");
        let [taken, kept] = self.reloads;
        let reloads = format!("{taken} taken, {kept} refused");
        vec![
            unless_empty("refused", counted(&RefusedBy::ALL.map(RefusedBy::word), &self.refused)),
            if_any("denials", &self.denials, denials),
            unless_empty("rule hits", hits.shown()),
            unless_empty("busiest rules", hits.shown_busiest()),
            if_any("reloads", &self.reloads, reloads),
            rare("panics", self.panics),
            rare("access log lines dropped", self.log_lines_dropped),
        ]
    }
}

/// A row's name, and its text if it is shown.
type Row = (&'static str, Option<String>);

fn always(name: &'static str, text: String) -> Row {
    (name, Some(text))
}

fn rare(name: &'static str, count: u64) -> Row {
    (name, (count > 0).then(|| count.to_string()))
}

fn if_any(name: &'static str, counts: &[u64], text: String) -> Row {
    (name, counts.iter().any(|count| *count > 0).then_some(text))
}

fn unless_empty(name: &'static str, text: String) -> Row {
    (name, Some(text).filter(|text| !text.is_empty()))
}

fn active(now: u64, all: u64, done: &str) -> String {
    format!("{now} active, {all} {done}")
}

/// The numbers of a row that were counted, by name.
fn counted(names: &[&str], numbers: &[u64]) -> String {
    let counted = names.iter().zip(numbers).filter(|(_, n)| **n > 0);
    counted.map(|(name, n)| format!("{n} {name}")).collect::<Vec<_>>().join(", ")
}

/// A number of bytes, shown with its binary unit.
pub struct Size(pub u64);

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
    use crate::error::{Kind, Side};

    #[test]
    fn a_fresh_snapshot_shows_no_rare_lines() {
        let expected = "\
connections    0 active, 0 accepted
exchanges      0 active, 0 finished
tunnels        0 active, 0 opened
bytes          0 B from clients, 0 B to clients
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
            bytes_from_clients: 1_500,
            bytes_to_clients: 5 << 30,
            panics: 1,
            log_lines_dropped: 17,
            ..Counters::default()
        };
        c.count_status(200);
        c.count_status(0);
        c.count_failure(Side::Upstream, Kind::DnsError);
        c.count_refused(RefusedBy::List);
        c.count_refused(RefusedBy::List);
        c.count_refused(RefusedBy::Auth);
        let expected = "\
connections               12 active, 1234 accepted
exchanges                 3 active, 5000 finished
statuses                  1 none, 1 2xx
failures                  0 client, 0 proxy, 1 upstream
tunnels                   0 active, 0 opened
bytes                     1.5 KiB from clients, 5.0 GiB to clients
upstream                  0 connects, 0 reuses
lookups                   0 asked, 0 from the cache
turns                     0, 0 parked, 0 yielded
patient reads             0, 0 paid off
refused                   2 list, 1 auth
panics                    1
access log lines dropped  17";
        assert_eq!(c.to_string(), expected);
    }

    #[test]
    fn sizes_carry_the_unit_that_fits() {
        for (bytes, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), expected);
        }
    }
}
