//! Names the source of a rule, so that a person who reads the name can find the rule.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::RefusedBy;

use super::hit_counts::Hits;

pub use super::rule_id::RuleId;

/// The source of rules.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RuleSource {
    /// Always there: `protected-mode`, `auth`.
    BuiltIn(&'static str),
    /// An option of the command line: its name, without dashes. A rule's line is its number among
    /// the values of this option.
    Option(&'static str),
    /// An option of the command line that is a rule with this value: `--policy enforce`.
    OptionValue(&'static str, &'static str),
    /// A file. A rule has its line there.
    File(PathBuf),
    /// A block list or an allow list. An entry has its line there.
    List(PathBuf),
    /// A rule with a name of its own.
    Named(String),
    /// An option that was set elsewhere than on the command line.
    Said(OptionPlace),
}

/// The place where an option was set: in a file or a variable.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OptionPlace {
    /// The option, without dashes.
    pub option: String,
    /// The file or the variable.
    pub at: String,
    /// The line of each value, in order, or its number there.
    pub lines: Arc<[u32]>,
}

/// The sources of all rules of a policy, with the hits of each. A source keeps its number over a
/// reload, so that a rule from before can still be named.
#[derive(Clone, Debug)]
pub struct Origins {
    all: Vec<(RuleSource, Arc<AtomicU64>)>,
    said: Vec<OptionPlace>,
    by_rule: Arc<Hits>,
    /// The entries of `all` that rules have been read from since [`Origins::again`].
    used: BTreeSet<usize>,
}

impl Default for Origins {
    fn default() -> Self {
        let (all, said, by_rule, used) = Default::default();
        let mut origins = Self { all, said, by_rule, used };
        for name in Self::ALWAYS {
            origins.add(RuleSource::BuiltIn(name));
        }
        origins
    }
}

impl Origins {
    /// The built-in sources, in the order of their numbers.
    pub const ALWAYS: [&'static str; 2] = ["protected-mode", "auth"];

    /// The same sources for another reading of all rules. Options may be on other lines in it.
    #[must_use]
    pub fn again(&self) -> Self {
        Self { used: BTreeSet::new(), ..self.clone() }
    }

    /// Sets the options that are set in files and variables; all others are on the command line.
    pub fn are_said(&mut self, said: &[OptionPlace]) {
        said.clone_into(&mut self.said);
    }

    /// Adds a source, or finds the existing one.
    pub fn add(&mut self, source: RuleSource) -> u16 {
        let said = match source {
            RuleSource::Option(name) | RuleSource::OptionValue(name, _) => {
                self.said.iter().find(|said| said.option == name).cloned()
            }
            _ => None,
        };
        let source = said.map_or(source, RuleSource::Said);
        let known = self.all.iter().position(|(s, _)| *s == source);
        // Otherwise each edit of a file would leave a source behind.
        let known = known.or_else(|| self.moved(&source));
        if let Some((it, _)) = known.and_then(|place| self.all.get_mut(place)) {
            it.clone_from(&source);
        }
        let place = known.unwrap_or_else(|| {
            // The last source stands for all that no number is left for.
            if self.all.len() <= usize::from(u16::MAX) {
                self.all.push((source, Arc::default()));
            }
            self.all.len() - 1
        });
        self.used.insert(place);
        u16::try_from(place).unwrap_or(u16::MAX)
    }

    /// The source of the same option on other lines, if it is not used yet.
    fn moved(&self, source: &RuleSource) -> Option<usize> {
        let RuleSource::Said(new) = source else { return None };
        self.all.iter().enumerate().position(|(place, (old, _))| {
            let same = |old: &OptionPlace| old.option == new.option && old.at == new.at;
            matches!(old, RuleSource::Said(old) if same(old)) && !self.used.contains(&place)
        })
    }

    /// The source of a rule.
    pub fn source(&self, rule: RuleId) -> Option<&RuleSource> {
        self.all.get(usize::from(rule.source)).map(|(source, _)| source)
    }

    /// A rule's name in logs, replies and statistics: `block.txt:12`, `--deny:2`.
    pub fn name(&self, rule: RuleId) -> RuleName<'_> {
        RuleName { source: self.source(rule), line: rule.line }
    }

    /// The part of the policy that a refusal by this rule belongs to. Limits are not told from other
    /// options here.
    pub fn part(&self, rule: RuleId) -> RefusedBy {
        match (rule, self.source(rule)) {
            (RuleId::PROTECTED, _) => RefusedBy::Guard,
            (RuleId::AUTH, _) => RefusedBy::Auth,
            (_, Some(RuleSource::List(_))) => RefusedBy::List,
            _ => RefusedBy::Rule,
        }
    }

    /// Counts a decision of the rule.
    pub fn hit(&self, rule: RuleId) {
        if let Some((_, hits)) = self.all.get(usize::from(rule.source)) {
            hits.fetch_add(1, Ordering::Relaxed);
        }
        self.by_rule.hit(rule);
    }

    /// The hits of rules with a line, as far as they are counted singly.
    pub fn hits_by_rule(&self) -> Vec<(RuleId, u64)> {
        self.by_rule.all()
    }

    /// The hits of each source.
    pub fn hits(&self) -> impl Iterator<Item = (&RuleSource, u64)> {
        self.all.iter().map(|(source, hits)| (source, hits.load(Ordering::Relaxed)))
    }
}

/// A rule's name, ready to be printed.
#[derive(Clone, Copy, Debug)]
pub struct RuleName<'a> {
    source: Option<&'a RuleSource>,
    line: u32,
}

impl RuleName<'_> {
    /// Whether it is `--policy`, which refuses what no rule allows.
    pub fn is_policy(&self) -> bool {
        match self.source {
            Some(RuleSource::OptionValue(option, _)) => *option == "policy",
            Some(RuleSource::Said(said)) => said.option == "policy",
            _ => false,
        }
    }

    /// Whether it is protected mode.
    pub fn is_protected_mode(&self) -> bool {
        matches!(self.source, Some(RuleSource::BuiltIn("protected-mode")))
    }
}

impl fmt::Display for RuleName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source {
            None => f.write_str("unknown"),
            Some(source) => source.fmt(f),
        }?;
        let line = match self.source {
            // An option that is one rule has the line of its value.
            Some(RuleSource::Said(said)) => {
                let value = usize::try_from(self.line.max(1) - 1).unwrap_or(usize::MAX);
                said.lines.get(value).copied().unwrap_or(0)
            }
            _ => self.line,
        };
        match line {
            0 => Ok(()),
            line => write!(f, ":{line}"),
        }
    }
}

impl fmt::Display for RuleSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn(name) => f.write_str(name),
            Self::Option(name) => write!(f, "--{name}"),
            Self::OptionValue(name, value) => write!(f, "--{name} {value}"),
            Self::File(path) | Self::List(path) => path.display().fmt(f),
            Self::Named(name) => f.write_str(name),
            Self::Said(said) => f.write_str(&said.at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_named_by_source_and_line() {
        let mut origins = Origins::default();
        let file = origins.add(RuleSource::File("block.txt".into()));
        let option = origins.add(RuleSource::Option("deny"));
        assert_eq!(origins.add(RuleSource::Option("deny")), option);
        let name = |source, line| origins.name(RuleId { source, line }).to_string();
        assert_eq!(name(file, 12), "block.txt:12");
        assert_eq!(name(option, 2), "--deny:2");
        assert_eq!(name(option, 0), "--deny");
        assert_eq!(name(77, 1), "unknown:1");
    }

    #[test]
    fn a_refusal_belongs_to_the_part_of_the_policy_that_its_rule_is_in() {
        let mut origins = Origins::default();
        let mut rule = |source| RuleId { source: origins.add(source), line: 1 };
        let deny = rule(RuleSource::Option("deny"));
        let rules = rule(RuleSource::File("both.txt".into()));
        let list = rule(RuleSource::List("both.txt".into()));
        let named = rule(RuleSource::Named("mail".into()));
        let enforced = rule(RuleSource::OptionValue("policy", "enforce"));
        for (rule, part) in [
            (deny, RefusedBy::Rule),
            (rules, RefusedBy::Rule),
            (named, RefusedBy::Rule),
            (enforced, RefusedBy::Rule),
            (list, RefusedBy::List),
            (RuleId::AUTH, RefusedBy::Auth),
            (RuleId::PROTECTED, RefusedBy::Guard),
        ] {
            assert_eq!(origins.part(rule), part, "{}", origins.name(rule));
        }
        assert_eq!(origins.name(list).to_string(), "both.txt:1");
    }

    #[test]
    fn an_option_is_named_by_where_it_was_said() {
        let said = |option: &str, at: &str, lines: &[u32]| OptionPlace {
            option: option.to_owned(),
            at: at.to_owned(),
            lines: lines.into(),
        };
        let mut origins = Origins::default();
        origins.are_said(&[said("deny", "t.toml", &[3, 5]), said("sni", "t.toml", &[9])]);
        let enforce = origins.add(RuleSource::OptionValue("policy", "enforce"));
        let [deny, sni, allow] =
            ["deny", "sni", "allow"].map(|option| origins.add(RuleSource::Option(option)));
        origins.are_said(&[said("deny", "t.toml", &[7]), said("policy", "t.toml", &[8])]);
        let own_policy = origins.add(RuleSource::OptionValue("policy", "enforce"));
        let own = origins.add(RuleSource::Option("deny"));
        origins.are_said(&[]);
        let flag = origins.add(RuleSource::Option("deny"));
        for (source, line, name) in [
            (deny, 1, "t.toml:3"),
            (deny, 2, "t.toml:5"),
            (deny, 3, "t.toml"),
            (sni, 0, "t.toml:9"),
            (allow, 2, "--allow:2"),
            (own, 1, "t.toml:7"),
            (flag, 1, "--deny:1"),
            (enforce, 0, "--policy enforce"),
            (own_policy, 0, "t.toml:8"),
        ] {
            let found = origins.name(RuleId { source, line });
            assert_eq!(found.to_string(), name);
            let is_policy = [enforce, own_policy].contains(&source);
            assert_eq!(
                (found.is_policy(), found.is_protected_mode()),
                (is_policy, false),
                "{name}"
            );
        }
    }

    #[test]
    fn options_that_move_in_a_file_are_the_same_sources() {
        let said = |line: u32| OptionPlace {
            option: "deny".to_owned(),
            at: "t.toml".to_owned(),
            lines: [line].into(),
        };
        let mut origins = Origins::default();
        let mut read = |lines: [u32; 2]| {
            origins = origins.again();
            let numbers = lines.map(|line| {
                origins.are_said(&[said(line)]);
                origins.add(RuleSource::Option("deny"))
            });
            let named = numbers.map(|source| origins.name(RuleId { source, line: 1 }).to_string());
            assert_eq!(named, lines.map(|line| format!("t.toml:{line}")));
            (numbers, origins.hits().count())
        };
        let before = read([3, 9]);
        assert_eq!(read([4, 11]), before);
        assert_eq!(read([9, 3]).1, before.1);
        assert_eq!(read([5, 5]).0[0], read([5, 5]).0[1]);
    }

    #[test]
    fn numbers_and_hits_go_on_after_a_reload() {
        let mut before = Origins::default();
        let rule = RuleId { source: before.add(RuleSource::Option("deny")), line: 1 };
        before.hit(rule);
        let mut after = before.clone();
        let file = after.add(RuleSource::File("a".into()));
        assert_eq!(after.add(RuleSource::Option("deny")), rule.source);
        after.hit(rule);
        assert_ne!(file, rule.source);
        let hits: Vec<u64> = after.hits().map(|(_, hits)| hits).collect();
        assert_eq!(hits, [0, 0, 2, 0]);
        assert_eq!(after.name(RuleId::PROTECTED).to_string(), "protected-mode");
        assert_eq!(after.name(RuleId::UNNAMED).to_string(), "unknown");
        assert_eq!(after.name(RuleId::AUTH).to_string(), "auth");
    }
}
