//! Asks AdGuard's DNS filtering engine and threadgate about the same hosts and lists.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;
use threadgate::config::access::AccessOptions;
use threadgate::policy::rules::Action as RuleAction;

use crate::clients::installed::{node_modules, script, tool};
use crate::programs::output;

use super::lines::Line;

/// What lists say about a host.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Action {
    Allowed,
    Refused,
    /// No line is about it.
    Nothing,
}

/// One of the two engines.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    AdGuard,
    Threadgate,
}

/// An engine's verdict on a host, and the line that it comes from.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) action: Action,
    /// The list, from 0, and the line, from 1 or 0 if it is not known.
    pub(crate) place: Option<(usize, usize)>,
    pub(crate) rule: String,
}

impl Verdict {
    const NOTHING: Self = Self { action: Action::Nothing, place: None, rule: String::new() };

    /// The higher rank decides, in either engine: `@@` with `$important`, `$important`, `@@`, the rest.
    pub(crate) fn rank(&self) -> u8 {
        let line = Line::read(&self.rule);
        match (self.action, line.has_option("important"), line.exception) {
            (Action::Nothing, ..) => 0,
            (_, false, false) => 1,
            (_, false, true) => 2,
            (_, true, false) => 3,
            (_, true, true) => 4,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some((list, line)) => {
                write!(f, "{:?} by list {list} line {line} {:?}", self.action, self.rule)
            }
            None => write!(f, "{:?}", self.action),
        }
    }
}

/// Lists that are read together, and the hosts to ask about.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// What a message calls it.
    pub(crate) name: String,
    pub(crate) lists: Vec<String>,
    pub(crate) hosts: Vec<String>,
    /// The lines with `$badfilter`, which take part in what other lines mean.
    pub(crate) badfilters: Vec<Line>,
}

impl Case {
    fn new(name: String, lists: Vec<String>, hosts: Vec<String>) -> Self {
        let lines = lists.iter().flat_map(|list| list.lines());
        let badfilters = lines.filter(|line| line.contains("badfilter")).map(Line::read).collect();
        Self { name, lists, hosts, badfilters }
    }

    /// One list.
    pub(crate) fn of(list: &str, hosts: &[&str]) -> Self {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        Self::new(format!("{list:?}"), vec![list.to_owned()], hosts)
    }

    /// With hosts from its own lines.
    pub(crate) fn with_own_hosts(name: String, lists: Vec<String>) -> Self {
        let lines = lists.iter().flat_map(|list| list.lines());
        let hosts: BTreeSet<_> = lines.flat_map(|line| Line::read(line).hosts()).collect();
        Self::new(name, lists, hosts.into_iter().collect())
    }

    /// Whether it is too large to be asked about each host alone.
    pub(crate) fn is_large(&self) -> bool {
        self.lists.iter().map(String::len).sum::<usize>() > 100_000
    }

    /// The same lists without some lines, and other hosts. The other lines keep their numbers.
    pub(crate) fn without(&self, lines: &BTreeSet<String>, hosts: Vec<String>) -> Self {
        let kept = |line: &str| match lines.contains(line.trim()) {
            true => "!\n".to_owned(),
            false => format!("{line}\n"),
        };
        let lists = self.lists.iter().map(|list| list.lines().map(kept).collect()).collect();
        Self::new(self.name.clone(), lists, hosts)
    }
}

/// Both engines, ready to be asked.
pub(crate) struct Engines {
    modules: PathBuf,
    dir: TempDir,
    /// The number of the first list among the sources of rules.
    first_source: u16,
}

impl Engines {
    pub(crate) fn installed() -> Option<Self> {
        tool("node")?;
        let modules = node_modules("@adguard/tsurlfilter")?;
        let mut engines = Self { modules, dir: tempfile::tempdir().unwrap(), first_source: 0 };
        let probe = engines.threadgate(&Case::of("", &["list-0.invalid"]));
        let (list, _) = probe[0].place.unwrap();
        engines.first_source = u16::try_from(list).unwrap();
        Some(engines)
    }

    /// Each host of each case with AdGuard's verdict and ours.
    pub(crate) fn verdicts(&self, cases: &[Case]) -> Vec<Vec<(Verdict, Verdict)>> {
        let theirs = self.adguard(cases);
        let both = cases.iter().zip(theirs);
        both.map(|(case, theirs)| theirs.into_iter().zip(self.threadgate(case)).collect()).collect()
    }

    fn adguard(&self, cases: &[Case]) -> Vec<Vec<Verdict>> {
        let (questions, answers) =
            (self.dir.path().join("cases"), self.dir.path().join("verdicts"));
        let asked: Value =
            cases.iter().map(|case| json!({"lists": case.lists, "hosts": case.hosts})).collect();
        fs::write(&questions, asked.to_string()).unwrap();
        let mut node = tool("node").unwrap();
        node.arg(script("with_adguard.mjs")).arg(&self.modules);
        output(node.arg(questions).arg(&answers));
        let answers: Value = serde_json::from_slice(&fs::read(answers).unwrap()).unwrap();
        let verdict = |numbers: &[HashMap<&str, usize>], answer: &Value| {
            let Some(rule) = answer["rule"].as_str() else { return Verdict::NOTHING };
            let list = usize::try_from(answer["list"].as_u64().unwrap()).unwrap();
            let action = match answer["refused"].as_bool().unwrap() {
                true => Action::Refused,
                false => Action::Allowed,
            };
            let place = Some((list, numbers[list].get(rule).copied().unwrap_or_default()));
            Verdict { action, place, rule: rule.to_owned() }
        };
        let each = cases.iter().zip(answers.as_array().unwrap());
        let verdicts: Vec<Vec<_>> = each
            .map(|(case, answers)| {
                let numbers: Vec<_> = case.lists.iter().map(|list| line_numbers(list)).collect();
                let answers = answers.as_array().unwrap().iter();
                answers.map(|answer| verdict(&numbers, answer)).collect()
            })
            .collect();
        assert!(cases.iter().zip(&verdicts).all(|(case, got)| case.hosts.len() == got.len()));
        verdicts
    }

    fn threadgate(&self, case: &Case) -> Vec<Verdict> {
        let mut options = AccessOptions::default();
        for (number, list) in case.lists.iter().enumerate() {
            let file = self.dir.path().join(format!("list-{number}"));
            // A file without a usable line is refused, so each has one.
            fs::write(&file, format!("{list}\n||list-{number}.invalid^\n")).unwrap();
            options.block_list.push(file.to_str().unwrap().to_owned());
        }
        let access = options.build(None).unwrap();
        let filter = access.filter().unwrap();
        let lines: Vec<Vec<_>> = case.lists.iter().map(|list| list.lines().collect()).collect();
        let verdict = |host: &String| {
            let Some(found) = filter.look_up(host, host.parse().ok()) else {
                return Verdict::NOTHING;
            };
            let list = usize::from(found.rule.source - self.first_source);
            let line = found.rule.line as usize;
            let rule = lines.get(list).and_then(|lines| lines.get(line - 1)).unwrap_or(&"");
            let action = match found.action {
                RuleAction::Allow => Action::Allowed,
                RuleAction::Deny => Action::Refused,
            };
            Verdict { action, place: Some((list, line)), rule: (*rule).to_owned() }
        };
        case.hosts.iter().map(verdict).collect()
    }
}

/// The number of each line of a list; of equal lines, that of the first.
fn line_numbers(list: &str) -> HashMap<&str, usize> {
    let mut numbers = HashMap::new();
    for (line, number) in list.lines().zip(1..) {
        numbers.entry(line.trim()).or_insert(number);
    }
    numbers
}
