//! Sums the decisions of rules by source, and lists the rules that decide most often.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::policy::rule_origin::Origins;

/// The number of sources shown singly; hits of further ones are one sum. A configuration may have any
/// number of files and named rules, and each is a series wherever numbers are stored.
pub const MOST_SOURCES: usize = 200;

/// The number of single rules shown, those with most hits.
pub const MOST_RULES: usize = 100;

/// The name of the sum of the rest.
const OTHERS: &str = "(other)";

/// The key in JSON.
pub const KEY: &str = "rule_hits";
/// The key of single rules in JSON. Prometheus does not get them: clients determine which lines of a list
/// are hit, and each line would be a series for good.
pub const BUSIEST: &str = "busiest_rules";
/// The name in Prometheus.
const METRIC: &str = "threadgate_rule_hits_total";
/// The help text.
pub const HELP: &str = "Requests decided by rules, by the source of the rule.";
/// The label.
pub const LABEL: &str = "source";

/// Hits by source, in the order in which the sources became known, so that no source changes its name; and
/// the single rules with most hits.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RuleHits {
    sources: Vec<(String, u64)>,
    busiest: Vec<(String, u64)>,
}

impl RuleHits {
    /// The hits as of now.
    pub(crate) fn of(origins: &Origins) -> Self {
        let mut all: Vec<(String, u64)> = Vec::new();
        for (source, hits) in origins.hits() {
            let name = source.to_string();
            // Two sources with the same name cannot be told apart in the output.
            let known = all.iter().position(|(known, _)| *known == name);
            let place = match known {
                Some(place) => place,
                None if all.len() < MOST_SOURCES => {
                    all.push((name, 0));
                    all.len() - 1
                }
                None => {
                    if all.len() == MOST_SOURCES {
                        all.push((OTHERS.to_owned(), 0));
                    }
                    MOST_SOURCES
                }
            };
            if let Some((_, sum)) = all.get_mut(place) {
                *sum += hits;
            }
        }
        Self { sources: all, busiest: busiest(origins) }
    }

    /// The single rules with most hits, by their names in logs, most hits first.
    pub fn busiest(&self) -> &[(String, u64)] {
        &self.busiest
    }

    /// All sources with their hits.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.sources.iter().map(|(source, hits)| (source.as_str(), *hits))
    }

    /// The sources with hits, most hits first.
    pub fn ranked(&self) -> Vec<(&str, u64)> {
        let mut ranked: Vec<_> = self.iter().filter(|(_, hits)| *hits > 0).collect();
        ranked.sort_by_key(|(_, hits)| std::cmp::Reverse(*hits));
        ranked
    }

    /// Appends the hits in the text format of Prometheus.
    pub(super) fn write_prometheus(&self, out: &mut String) {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(out, "# HELP {METRIC} {HELP}\n# TYPE {METRIC} counter");
        for (source, hits) in self.iter() {
            let _ = writeln!(out, "{METRIC}{{{LABEL}=\"{}\"}} {hits}", escaped(source));
        }
    }

    /// Appends the hits as members of a JSON object.
    pub(super) fn write_json(&self, out: &mut String) {
        let _ = write!(out, "\"{KEY}\": ");
        write_object(out, self.iter());
        let _ = write!(out, ",\n\"{BUSIEST}\": ");
        write_object(out, self.busiest.iter().map(|(rule, hits)| (rule.as_str(), *hits)));
    }

    /// The first ten sources: `12 --deny, 3 block.txt`.
    pub(super) fn shown(&self) -> String {
        shown(&self.ranked())
    }

    /// The first ten rules: `11 --deny:2, 3 block.txt:7, 1 --deny:1`.
    pub(super) fn shown_busiest(&self) -> String {
        let all: Vec<_> = self.busiest.iter().map(|(rule, hits)| (rule.as_str(), *hits)).collect();
        shown(&all)
    }
}

/// Hits of each rule by line; hits of a source without a line count for the source.
fn busiest(origins: &Origins) -> Vec<(String, u64)> {
    let lines = origins.hits_by_rule();
    let mut of_source: HashMap<u16, u64> = HashMap::new();
    for (rule, hits) in &lines {
        *of_source.entry(rule.source).or_default() += hits;
    }
    let rest = origins.hits().zip(0..).map(|((source, hits), number)| {
        let of_lines = of_source.get(&number).copied().unwrap_or_default();
        (source.to_string(), hits.saturating_sub(of_lines))
    });
    let lines = lines.iter().map(|(rule, hits)| (origins.name(*rule).to_string(), *hits));
    // Values on one line of a file share one name.
    let mut by_name: HashMap<String, u64> = HashMap::new();
    for (name, hits) in rest.chain(lines).filter(|(_, hits)| *hits > 0) {
        *by_name.entry(name).or_default() += hits;
    }
    let mut all: Vec<_> = by_name.into_iter().collect();
    // Also by name, so that equal counts have an order.
    all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    all.truncate(MOST_RULES);
    all
}

fn shown(ranked: &[(&str, u64)]) -> String {
    const SHOWN: usize = 10;
    let first = ranked.iter().take(SHOWN).map(|(name, hits)| format!("{hits} {name}"));
    let text = first.collect::<Vec<_>>().join(", ");
    match ranked.len().saturating_sub(SHOWN) {
        0 => text,
        more => format!("{text}, and {more} more"),
    }
}

fn write_object<'a>(out: &mut String, members: impl Iterator<Item = (&'a str, u64)>) {
    out.push('{');
    for (i, (name, hits)) in members.enumerate() {
        let comma = if i > 0 { ", " } else { "" };
        let _ = write!(out, "{comma}{}: {hits}", serde_json::Value::from(name));
    }
    out.push('}');
}

/// `text` as the value of a label.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::rule_origin::{OptionPlace, RuleId, RuleSource};

    #[test]
    fn sources_beyond_the_bound_are_one_sum_and_none_is_there_twice() {
        let mut origins = Origins::default();
        let deny = origins.add(RuleSource::Option("deny"));
        let file = origins.add(RuleSource::File("--deny".into()));
        for n in 0..300 {
            let source = origins.add(RuleSource::File(format!("list{n}").into()));
            origins.hit(RuleId { source, line: 1 });
        }
        for source in [deny, deny, file] {
            origins.hit(RuleId { source, line: 1 });
        }
        let hits = RuleHits::of(&origins);
        let all: Vec<_> = hits.iter().collect();
        assert_eq!(all.len(), MOST_SOURCES + 1);
        let first = [("protected-mode", 0), ("auth", 0), ("--deny", 3), ("list0", 1)];
        assert_eq!(all[..4], first);
        assert_eq!(all[MOST_SOURCES], (OTHERS, 300 + 3 - MOST_SOURCES as u64));
        assert_eq!(hits.ranked()[..2], [(OTHERS, 103), ("--deny", 3)]);
        let text = hits.shown();
        assert!(text.starts_with("103 (other), 3 --deny, 1 list0, "), "{text}");
        assert!(text.ends_with(", and 189 more"), "{text}");
        assert_eq!(hits.busiest().len(), MOST_RULES);
    }

    #[test]
    fn single_rules_are_named_as_logs_name_them_and_all_hits_are_somebodys() {
        let mut origins = Origins::default();
        let [deny, methods, named] = [
            RuleSource::Option("deny"),
            RuleSource::Option("methods"),
            RuleSource::Named("mail".into()),
        ]
        .map(|source| origins.add(source));
        for (source, line, times) in [(deny, 1, 1), (deny, 2, 4), (methods, 0, 2), (named, 0, 3)] {
            (0..times).for_each(|_| origins.hit(RuleId { source, line }));
        }
        let policy = origins.add(RuleSource::OptionValue("policy", "enforce"));
        origins.hit(RuleId { source: policy, line: 0 });
        let hits = RuleHits::of(&origins);
        let text = "4 --deny:2, 3 mail, 2 --methods, 1 --deny:1, 1 --policy enforce";
        assert_eq!(hits.shown_busiest(), text);
        // Hits go on after a reload.
        let after = origins.clone();
        after.hit(RuleId { source: deny, line: 1 });
        assert!(RuleHits::of(&after).shown_busiest().contains(", 2 --deny:1, "));
    }

    #[test]
    fn rules_on_one_line_of_a_file_are_one() {
        let mut origins = Origins::default();
        let said = OptionPlace { option: "deny".into(), at: "t.toml".into(), lines: [4, 4].into() };
        origins.are_said(&[said]);
        let source = origins.add(RuleSource::Option("deny"));
        [1, 2, 2].into_iter().for_each(|line| origins.hit(RuleId { source, line }));
        assert_eq!(RuleHits::of(&origins).shown_busiest(), "3 t.toml:4");
    }

    #[test]
    fn the_name_of_a_file_breaks_no_format() {
        let mut origins = Origins::default();
        let odd = "a \"b\" \\ {c}\nd, e=ü";
        origins.add(RuleSource::File(odd.into()));
        let hits = RuleHits::of(&origins);
        let (mut text, mut json) = (String::new(), String::new());
        hits.write_prometheus(&mut text);
        let line = "threadgate_rule_hits_total{source=\"a \\\"b\\\" \\\\ {c}\\nd, e=ü\"} 0\n";
        assert!(text.ends_with(line), "{text}");
        hits.write_json(&mut json);
        let value: serde_json::Value = serde_json::from_str(&format!("{{{json}}}")).unwrap();
        assert_eq!(value[KEY][odd], 0, "{json}");
    }
}
