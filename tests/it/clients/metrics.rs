//! Prometheus metrics, read by Python's `prometheus_client`.

use std::io::Write as _;
use std::process::Stdio;

use crate::admin::{admin_of, fetch};
use crate::metrics::{Played, Samples, counters_only_rise, play, samples};
use crate::policies::hits_are_told_by_source;

use super::installed::python;

/// The same samples as read by Python's `prometheus_client`, which also checks that each family has a
/// type and a help text, and that histograms are complete. `None` if it is missing.
#[track_caller]
fn read_by_another(text: &str) -> Option<Samples> {
    const SCRIPT: &str = r#"
import json, sys
from prometheus_client.parser import text_string_to_metric_families as parse
seen = {}
for family in parse(sys.stdin.read()):
    assert family.documentation, family.name
    assert family.type in ("counter", "gauge", "histogram"), (family.name, family.type)
    groups = {}
    for sample in family.samples:
        labels = ",".join(f'{k}="{v}"' for k, v in sample.labels.items())
        key = sample.name + ("{%s}" % labels if labels else "")
        assert key not in seen, key
        seen[key] = sample.value
        if family.type == "histogram":
            own = tuple((k, v) for k, v in sample.labels.items() if k != "le")
            group = groups.setdefault(own, {"buckets": []})
            if sample.name.endswith("_bucket"):
                group["buckets"].append((float(sample.labels["le"]), sample.value))
            else:
                group[sample.name[len(family.name):]] = sample.value
        else:
            expected = family.name + ("_total" if family.type == "counter" else "")
            assert sample.name == expected, sample.name
    for own, group in groups.items():
        bounds = [bound for bound, _ in group["buckets"]]
        counts = [count for _, count in group["buckets"]]
        assert bounds == sorted(bounds) and bounds[-1] == float("inf"), own
        assert counts == sorted(counts) and counts[-1] == group["_count"], own
        assert (group["_sum"] > 0) <= (group["_count"] > 0), own
json.dump(seen, sys.stdout)
"#;
    let mut child = python("prometheus_client")?
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn another_parser_reads_the_same() {
    let Played { proxy, .. } = play();
    let admin = admin_of(&proxy);
    let text = fetch(admin, "/metrics");
    let Some(theirs) = read_by_another(text.text()) else { return };
    let ours = samples(text.text());
    assert!(theirs.keys().eq(ours.keys()));
    for (name, value) in ours {
        // JSON in between costs the last digit.
        assert!((value - theirs[&name]).abs() <= value.abs() * 1e-12, "{name} {value}");
    }
}

/// A histogram is complete even while everything moves.
#[test]
fn another_parser_reads_numbers_that_move() {
    let mut rounds = 0;
    counters_only_rise(|text| {
        if rounds % 20 == 0 {
            read_by_another(text);
        }
        rounds += 1;
    });
}

#[test]
fn another_parser_reads_hits_by_source() {
    hits_are_told_by_source(|text| {
        let Some(theirs) = read_by_another(text) else { return };
        assert_eq!(theirs["threadgate_rule_hits_total{source=\"--deny\"}"], 3.0);
    });
}
