//! Compares the verdicts of both engines, and explains the differences by the table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use super::differences::{DIFFERENCES, Difference};
use super::engines::{Action, Case, Engines, Side, Verdict};
use super::lines::{Form, Line};

/// A host on which the engines disagree.
pub(crate) struct Disagreement<'c> {
    case: &'c Case,
    host: &'c str,
    adguard: Verdict,
    threadgate: Verdict,
    /// The lines that were taken out to make the engines agree, and the rows of the table for them.
    taken_out: BTreeSet<String>,
    pub(crate) rows: BTreeSet<usize>,
    pub(crate) is_explained: bool,
}

impl fmt::Display for Disagreement<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, adguard, threadgate, .. } = self;
        let case = &self.case.name;
        write!(f, "{case}, {host}: AdGuard's engine: {adguard}; threadgate: {threadgate}")?;
        match self.taken_out.is_empty() {
            true => Ok(()),
            false => write!(f, " (and that without {:?})", self.taken_out),
        }
    }
}

impl Disagreement<'_> {
    /// Takes out the line that decides, if a row of the table says that the other engine reads it
    /// differently. Of two lines that decide, the one with the higher rank does.
    fn take_out(&mut self) -> bool {
        let (side, verdict) = match self.adguard.rank() > self.threadgate.rank() {
            true => (Side::AdGuard, &self.adguard),
            false => (Side::Threadgate, &self.threadgate),
        };
        let deciding = Line::read(&verdict.rule);
        let is_about = |row: &Difference, line: &Line| (row.is_about)(line, self.host, &deciding);
        let rows = || DIFFERENCES.iter().enumerate();
        let found =
            rows().find(|(_, row)| row.decides_for == Some(side) && is_about(row, &deciding));
        if let Some((number, _)) = found {
            self.rows.insert(number);
            return self.taken_out.insert(verdict.rule.trim().to_owned());
        }
        let before = self.taken_out.len();
        for (number, row) in rows().filter(|(_, row)| row.decides_for.is_none()) {
            for line in self.case.badfilters.iter().filter(|line| is_about(row, line)) {
                self.rows.insert(number);
                self.taken_out.insert(line.text.clone());
            }
        }
        self.taken_out.len() > before
    }

    /// The kinds of lines that decide on both sides.
    fn kinds(&self) -> String {
        let kind = |verdict: &Verdict| {
            let line = Line::read(&verdict.rule);
            let form = match &line.form {
                Form::Hosts { .. } => "hosts",
                Form::Domain(_) => "domain",
                Form::Regex(_) => "regex",
                Form::Pattern(pattern) if pattern.contains('*') => "star",
                Form::Pattern(pattern) if pattern.starts_with("||") && pattern.ends_with('^') => {
                    "||name^"
                }
                Form::Pattern(pattern) if pattern.starts_with("||") => "||open",
                Form::Pattern(pattern) if pattern.starts_with('|') => "|name^",
                Form::Pattern(pattern) if pattern.starts_with('.') => ".name^",
                Form::Pattern(_) => "text",
                Form::Other => "",
            };
            let options: BTreeSet<_> =
                line.options.iter().map(|option| option.split('=').next().unwrap()).collect();
            format!("{:?} {form} {options:?}", verdict.action)
        };
        format!("{} / {}", kind(&self.adguard), kind(&self.threadgate))
    }
}

/// The outcome of a comparison.
pub(crate) struct Compared<'c> {
    pub(crate) asked: usize,
    /// How often AdGuard's engine gives each verdict.
    pub(crate) given: BTreeMap<Action, usize>,
    pub(crate) disagreements: Vec<Disagreement<'c>>,
}

impl<'c> Compared<'c> {
    /// Asks both engines, and finds the rows that explain where they disagree: once the lines that rows
    /// are about are taken out, the engines agree.
    pub(crate) fn new(engines: &Engines, cases: &'c [Case]) -> Self {
        let (mut disagreements, mut given) = (Vec::new(), BTreeMap::new());
        for (case, verdicts) in cases.iter().zip(engines.verdicts(cases)) {
            for (host, (adguard, threadgate)) in case.hosts.iter().zip(verdicts) {
                *given.entry(adguard.action).or_default() += 1;
                if adguard.action != threadgate.action {
                    disagreements.push(Disagreement {
                        case,
                        host,
                        adguard,
                        threadgate,
                        taken_out: BTreeSet::new(),
                        rows: BTreeSet::new(),
                        is_explained: false,
                    });
                }
            }
        }
        let asked = cases.iter().map(|case| case.hosts.len()).sum();
        let mut compared = Self { asked, given, disagreements };
        compared.explain(engines);
        compared
    }

    fn explain(&mut self, engines: &Engines) {
        let mut open: Vec<_> = self.disagreements.iter_mut().collect();
        loop {
            open.retain_mut(|of| of.take_out());
            if open.is_empty() {
                return;
            }
            let cases: Vec<_> = open
                .chunk_by(|one, other| std::ptr::eq(one.case, other.case) && one.case.is_large())
                .map(|of_case| {
                    let lines = of_case.iter().flat_map(|of| &of.taken_out).cloned().collect();
                    let hosts = of_case.iter().map(|of| of.host.to_owned()).collect();
                    of_case[0].case.without(&lines, hosts)
                })
                .collect();
            let verdicts = engines.verdicts(&cases).into_iter().flatten();
            for (of, (adguard, threadgate)) in open.iter_mut().zip(verdicts) {
                of.is_explained = adguard.action == threadgate.action;
                if !of.is_explained {
                    (of.adguard, of.threadgate) = (adguard, threadgate);
                }
            }
            open.retain(|of| !of.is_explained);
        }
    }

    pub(crate) fn unexplained(&self) -> impl Iterator<Item = &Disagreement<'c>> {
        self.disagreements.iter().filter(|of| !of.is_explained)
    }

    /// The number of disagreements of each row.
    pub(crate) fn by_row(&self) -> Vec<usize> {
        let explained = || self.disagreements.iter().filter(|of| of.is_explained);
        let count = |row| explained().filter(|of| of.rows.contains(&row)).count();
        (0..DIFFERENCES.len()).map(count).collect()
    }

    /// Everything that a person needs to see what is wrong.
    pub(crate) fn report(&self) -> String {
        let share = 100.0 * (1.0 - self.disagreements.len() as f64 / self.asked.max(1) as f64);
        let mut text = format!(
            "{} hosts, {} disagreements ({share:.2} % agree), {} unexplained\n",
            self.asked,
            self.disagreements.len(),
            self.unexplained().count()
        );
        for (count, row) in self.by_row().into_iter().zip(DIFFERENCES) {
            writeln!(text, "{count:6} explained by: {}", row.list_has).unwrap();
        }
        let mut kinds: BTreeMap<String, Vec<&Disagreement<'_>>> = BTreeMap::new();
        for of in self.unexplained() {
            kinds.entry(of.kinds()).or_default().push(of);
        }
        for (kind, all) in kinds {
            writeln!(text, "{:6} not explained: {kind}", all.len()).unwrap();
            for of in all.iter().take(3) {
                writeln!(text, "         {of}").unwrap();
            }
        }
        text
    }
}
