//! How often rules have decided, by where they are written.

use std::fmt::{self, Write as _};

use crate::policy::origin::Origins;

/// Sources that are told apart; what is hit of more of them is one sum. Configurations may have any number
/// of files and named rules, and each is a series wherever numbers are stored.
pub const MOST_SOURCES: usize = 200;

/// What the sum of the rest is called.
const OTHERS: &str = "(other)";

/// The key in JSON.
pub const KEY: &str = "rule_hits";
/// The name in Prometheus.
const METRIC: &str = "threadgate_rule_hits_total";
/// What is counted.
pub const HELP: &str = "Requests that rules have decided, by where the rules are written.";
/// What tells the numbers apart.
pub const LABEL: &str = "source";

/// Hits by source, in the order in which the sources became known, so that none changes its name.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RuleHits(Vec<(String, u64)>);

impl RuleHits {
    /// As they are now.
    pub fn of(origins: &Origins) -> Self {
        let mut all: Vec<(String, u64)> = Vec::new();
        for (source, hits) in origins.hits() {
            let name = source.to_string();
            // Two that are written alike cannot be told apart by anybody.
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
        Self(all)
    }

    /// Each source with its hits.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(source, hits)| (source.as_str(), *hits))
    }

    /// Those that were hit, most hits first.
    pub fn ranked(&self) -> Vec<(&str, u64)> {
        let mut ranked: Vec<_> = self.iter().filter(|(_, hits)| *hits > 0).collect();
        ranked.sort_by_key(|(_, hits)| std::cmp::Reverse(*hits));
        ranked
    }

    /// Appends them in the text format of Prometheus.
    pub(super) fn write_prometheus(&self, out: &mut String) {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(out, "# HELP {METRIC} {HELP}\n# TYPE {METRIC} counter");
        for (source, hits) in self.iter() {
            let _ = writeln!(out, "{METRIC}{{{LABEL}=\"{}\"}} {hits}", escaped(source));
        }
    }

    /// Appends them as the members of a JSON object.
    pub(super) fn write_json(&self, out: &mut String) {
        out.push('{');
        for (i, (source, hits)) in self.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            let _ = write!(out, "{comma}{}: {hits}", serde_json::Value::from(source));
        }
        out.push('}');
    }
}

/// The first ten: `12 --deny, 3 block.txt`.
impl fmt::Display for RuleHits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 10;
        let ranked = self.ranked();
        for (i, (source, hits)) in ranked.iter().take(SHOWN).enumerate() {
            write!(f, "{}{hits} {source}", if i > 0 { ", " } else { "" })?;
        }
        match ranked.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, ", and {more} more"),
        }
    }
}

/// `text` as a label's value.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::origin::{RuleId, Source};

    #[test]
    fn sources_beyond_the_bound_are_one_sum_and_none_is_there_twice() {
        let mut origins = Origins::default();
        let deny = origins.add(Source::Option("--deny"));
        let file = origins.add(Source::File("--deny".into()));
        for n in 0..300 {
            let source = origins.add(Source::File(format!("list{n}").into()));
            origins.hit(RuleId { source, line: 1 });
        }
        for source in [deny, deny, file] {
            origins.hit(RuleId { source, line: 1 });
        }
        let hits = RuleHits::of(&origins);
        let all: Vec<_> = hits.iter().collect();
        assert_eq!(all.len(), MOST_SOURCES + 1);
        let first =
            [("protected-mode", 0), ("default", 0), ("auth", 0), ("--deny", 3), ("list0", 1)];
        assert_eq!(all[..5], first);
        assert_eq!(all[MOST_SOURCES], (OTHERS, 300 + 4 - MOST_SOURCES as u64));
        assert_eq!(hits.ranked()[..2], [(OTHERS, 104), ("--deny", 3)]);
        let text = hits.to_string();
        assert!(text.starts_with("104 (other), 3 --deny, 1 list0, "), "{text}");
        assert!(text.ends_with(", and 188 more"), "{text}");
    }

    #[test]
    fn the_name_of_a_file_breaks_no_format() {
        let mut origins = Origins::default();
        let odd = "a \"b\" \\ {c}\nd, e=ü";
        origins.add(Source::File(odd.into()));
        let hits = RuleHits::of(&origins);
        let (mut text, mut json) = (String::new(), String::new());
        hits.write_prometheus(&mut text);
        let line = "threadgate_rule_hits_total{source=\"a \\\"b\\\" \\\\ {c}\\nd, e=ü\"} 0\n";
        assert!(text.ends_with(line), "{text}");
        hits.write_json(&mut json);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value[odd], 0, "{json}");
    }
}
