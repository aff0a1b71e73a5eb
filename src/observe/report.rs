//! Collects all numbers of one moment, and writes them for Prometheus and as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use super::counters::Counters;
use super::gauges::Gauges;
use super::histogram::Histogram;
use super::measure::{Measure, NumberKind, Sample};
use super::rule_hits::RuleHits;

/// The stage of the proxy's life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Life {
    /// Not all of its listeners accept yet.
    Starting,
    /// The proxy serves.
    Serving,
    /// It accepts nothing new, and lets open exchanges end.
    Draining,
}

impl Life {
    /// The stage's name in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Draining => "draining",
        }
    }
}

/// All numbers at one time, as the admin listener reports them; [`prometheus`](Self::prometheus) and
/// [`json`](Self::json) write them. Each is exact as of some moment while the report was made; two may be a
/// few events apart.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The stage of the proxy's life.
    pub life: Life,
    /// The time since the start.
    pub uptime: Duration,
    /// Events since the start.
    pub counters: Counters,
    /// Current values.
    pub gauges: Gauges,
    /// The hits of rules.
    pub rule_hits: RuleHits,
}

impl Report {
    /// Every number, current values first.
    pub fn measures(&self) -> Vec<Measure<'_>> {
        let mut all = self.gauges.measures();
        all.extend(self.counters.measures());
        all
    }

    /// Writes the text format of Prometheus, version 0.0.4.
    pub fn prometheus(&self) -> String {
        let mut out = String::with_capacity(32 * 1024);
        for measure in self.measures() {
            let name = measure.metric();
            let kind = match measure.kind {
                NumberKind::Counter => "counter",
                NumberKind::Gauge => "gauge",
                NumberKind::Histogram => "histogram",
            };
            // Writing to a String cannot fail, here and below.
            let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}", measure.help);
            let label = measure.label.as_ref().map(|(label, _)| *label);
            for (word, sample) in measure.samples() {
                let own = match (label, word) {
                    (Some(label), Some(word)) => format!("{label}=\"{word}\""),
                    _ => String::new(),
                };
                match sample {
                    Sample::Histogram(h) => write_histogram(&mut out, &name, &own, h),
                    Sample::Count(n) => write_sample(&mut out, &name, &own, n),
                    Sample::Fraction(n) => write_sample(&mut out, &name, &own, n),
                }
            }
        }
        self.rule_hits.write_prometheus(&mut out);
        out
    }

    /// Writes a JSON object with a key for each number, one a line.
    pub fn json(&self) -> String {
        let mut out = String::with_capacity(16 * 1024);
        let (version, state) = (env!("CARGO_PKG_VERSION"), self.life.word());
        let uptime = self.uptime.as_secs_f64();
        let _ = write!(
            out,
            "{{\n\"version\": \"{version}\",\n\"state\": \"{state}\",\n\"uptime_seconds\": {uptime:?}"
        );
        for measure in self.measures() {
            // The version is written above.
            if measure.field == "build_info" {
                continue;
            }
            let _ = write!(out, ",\n\"{}\": ", measure.field);
            if measure.label.is_some() {
                out.push('{');
            }
            for (i, (word, sample)) in measure.samples().into_iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                if let Some(word) = word {
                    let _ = write!(out, "\"{word}\": ");
                }
                match sample {
                    Sample::Histogram(h) => write_json_histogram(&mut out, h),
                    Sample::Count(n) => {
                        let _ = write!(out, "{n}");
                    }
                    Sample::Fraction(n) => {
                        let _ = write!(out, "{n:?}");
                    }
                }
            }
            if measure.label.is_some() {
                out.push('}');
            }
        }
        out.push_str(",\n");
        self.rule_hits.write_json(&mut out);
        out.push_str("\n}\n");
        out
    }
}

fn write_sample(out: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = match labels {
        "" => writeln!(out, "{name} {value}"),
        _ => writeln!(out, "{name}{{{labels}}} {value}"),
    };
}

fn write_histogram(out: &mut String, name: &str, labels: &str, h: &Histogram) {
    let comma = if labels.is_empty() { "" } else { "," };
    for (bound, count) in h.cumulative() {
        let labels = format!("{labels}{comma}le=\"{}\"", bound_word(bound));
        write_sample(out, &format!("{name}_bucket"), &labels, count);
    }
    write_sample(out, &format!("{name}_sum"), labels, h.sum().as_secs_f64());
    write_sample(out, &format!("{name}_count"), labels, h.count());
}

fn write_json_histogram(out: &mut String, h: &Histogram) {
    let _ = write!(out, "{{\"count\": {}, \"sum\": {:?}", h.count(), h.sum().as_secs_f64());
    for hundredths in [50, 90, 99] {
        let bound = h.quantile(hundredths).map(|bound| bound.as_secs_f64().to_string());
        let _ = write!(out, ", \"p{hundredths}\": {}", bound.as_deref().unwrap_or("null"));
    }
    out.push_str(", \"buckets\": {");
    for (i, (bound, count)) in h.cumulative().enumerate() {
        let comma = if i > 0 { ", " } else { "" };
        let _ = write!(out, "{comma}\"{}\": {count}", bound_word(bound));
    }
    out.push_str("}}");
}

fn bound_word(bound: Option<Duration>) -> String {
    bound.map_or("+Inf".to_owned(), |bound| bound.as_secs_f64().to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::error::{Kind, Side};

    fn report() -> Report {
        let mut counters = Counters::default();
        counters.count_status(200);
        counters.count_failure(Side::Upstream, Kind::DnsError);
        counters.exchange_seconds.record(Duration::from_millis(3));
        counters.exchange_seconds.record(Duration::from_secs(1000));
        let gauges = Gauges { start_time_seconds: 1.5, ready: 1, ..Gauges::default() };
        let (uptime, rule_hits) = (Duration::from_secs(3), RuleHits::default());
        Report { life: Life::Serving, uptime, counters, gauges, rule_hits }
    }

    #[test]
    fn every_number_is_in_both_under_its_name_once() {
        let report = report();
        let (text, json) = (report.prometheus(), report.json());
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        let mut names = HashSet::new();
        for measure in report.measures() {
            let name = measure.metric();
            assert!(names.insert(name.clone()), "{name} twice");
            for what in ["HELP", "TYPE"] {
                assert_eq!(text.matches(&format!("# {what} {name} ")).count(), 1, "{what} {name}");
            }
            if measure.field != "build_info" {
                assert!(value.get(measure.field).is_some(), "{}", measure.field);
            }
        }
        let keys = value.as_object().unwrap().len();
        // Keys beyond the numbers: version, state, uptime, rule hits and busiest rules. `build_info` is
        // left out.
        assert_eq!(keys, names.len() - 1 + 5);
    }

    #[test]
    fn the_text_format_is_that_of_prometheus() {
        let text = report().prometheus();
        for line in [
            "# TYPE threadgate_exchanges_by_status_total counter",
            "threadgate_exchanges_by_status_total{class=\"2xx\"} 1",
            "threadgate_failures_by_kind_total{kind=\"dns_error\"} 1",
            "threadgate_failures_total{side=\"client\"} 0",
            "# TYPE threadgate_exchange_seconds histogram",
            "threadgate_exchange_seconds_bucket{le=\"0.0025\"} 0",
            "threadgate_exchange_seconds_bucket{le=\"0.005\"} 1",
            "threadgate_exchange_seconds_bucket{le=\"600\"} 1",
            "threadgate_exchange_seconds_bucket{le=\"+Inf\"} 2",
            "threadgate_exchange_seconds_sum 1000.003",
            "threadgate_exchange_seconds_count 2",
            "threadgate_phase_seconds_bucket{phase=\"wait\",le=\"0.000025\"} 0",
            "threadgate_phase_seconds_count{phase=\"wait\"} 0",
            "threadgate_start_time_seconds 1.5",
            "# TYPE process_cpu_seconds_total counter",
            "threadgate_ready 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    #[test]
    fn json_has_rows_as_objects_and_histograms_with_quantiles() {
        let value: serde_json::Value = serde_json::from_str(&report().json()).unwrap();
        assert_eq!(value["state"], "serving");
        assert_eq!(value["uptime_seconds"], 3.0);
        assert_eq!(value["exchanges_by_status"]["2xx"], 1);
        let h = &value["exchange_seconds"];
        assert_eq!((&h["count"], &h["sum"]), (&2.into(), &1000.003.into()));
        assert_eq!((&h["p50"], &h["p99"]), (&0.005.into(), &serde_json::Value::Null));
        assert_eq!(h["buckets"]["+Inf"], 2);
        assert_eq!(value["phase_seconds"]["wait"]["count"], 0);
    }
}
