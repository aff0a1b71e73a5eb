//! Looks a host up in all block and allow lists together.

use std::cmp::Reverse;
use std::fmt::{self, Write as _};
use std::net::IpAddr;

use super::domains::{Domains, Listed, Rank, Reach, Said};
use super::host_patterns::{HostPatterns, ListedPattern};
use super::list_report::ListReport;
use super::rule_origin::RuleId;

/// The effect of a rule or of a line of a list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// The request goes through, even where protected mode or a list would refuse it.
    Allow,
    /// The request is refused.
    Deny,
}

/// A list's verdict on a host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Found {
    /// Whether the host is allowed or refused.
    pub action: Action,
    /// The list and the line that decided.
    pub rule: RuleId,
    /// Set by a line of an allow list, which allows the host even where nothing else is allowed. Not set
    /// by an exception in a block list.
    pub by_allow_list: bool,
}

/// All listed hosts, each with its verdict and the line that it came from.
#[derive(Debug)]
pub struct Filter {
    domains: Domains,
    patterns: HostPatterns,
    /// One entry a list, in order: the number of lines before it, and its source.
    lists: Vec<(u32, u16)>,
    reports: Vec<ListReport>,
}

/// The entry that decides about a host.
#[derive(Clone, Copy, Debug)]
enum Entry<'f> {
    Name(Listed),
    Pattern(&'f ListedPattern),
}

impl Entry<'_> {
    fn rank(&self) -> Rank {
        match self {
            Self::Name(listed) => listed.said.rank,
            Self::Pattern(listed) => listed.rank,
        }
    }

    fn line(&self) -> u32 {
        match self {
            Self::Name(listed) => listed.line,
            Self::Pattern(listed) => listed.line,
        }
    }
}

impl Filter {
    /// Takes names and patterns whose lines are counted through all `lists`. Each entry of `lists` is the
    /// number of lines before that list, in rising order, and its source.
    pub fn new(domains: Domains, patterns: HostPatterns, lists: Vec<(u32, u16)>) -> Self {
        Self { domains, patterns, lists, reports: Vec::new() }
    }

    /// Adds what was read from each list.
    #[must_use]
    pub fn with_reports(self, reports: Vec<ListReport>) -> Self {
        Self { reports, ..self }
    }

    /// What was read from each list.
    pub fn reports(&self) -> &[ListReport] {
        &self.reports
    }

    /// Whether one of its lists is the source of a rule.
    pub fn has_source(&self, rule: RuleId) -> bool {
        self.lists.iter().any(|(_, source)| *source == rule.source)
    }

    /// The verdict on a host: a name in lower case without a trailing dot.
    #[cfg(any(test, feature = "internals"))]
    pub fn find(&self, host: &str) -> Option<(Action, RuleId)> {
        self.look_up(host, None).map(|found| (found.action, found.rule))
    }

    /// The verdict on a host; `ip` is set if the host is an address.
    pub fn look_up(&self, host: &str, ip: Option<IpAddr>) -> Option<Found> {
        self.entry(host, ip).map(|entry| self.found(&entry))
    }

    /// Whether the host is on the lists, and no exception in them says otherwise.
    pub fn has(&self, host: &str, ip: Option<IpAddr>) -> bool {
        self.look_up(host, ip).is_some_and(|found| found.action == Action::Deny)
    }

    /// The entry that decides about a host, as its list may spell it: `||ads.example^`. For a bare name, only
    /// the name.
    pub fn spelled(&self, host: &str, ip: Option<IpAddr>) -> Option<String> {
        let text = ip.map(Text::of);
        let host = text.as_ref().map_or(host, Text::as_str);
        self.entry(host, ip).map(|entry| match entry {
            Entry::Name(listed) => {
                let name = host.len().checked_sub(listed.length).and_then(|at| host.get(at..));
                spelled_name(name.unwrap_or(host), listed.said)
            }
            Entry::Pattern(listed) => {
                spelled_rule(&String::from_utf8_lossy(listed.pattern.text()), listed.rank)
            }
        })
    }

    /// Like [`spelled`](Self::spelled), with file and line: `kids.txt:3 ||ads.example^`.
    pub fn placed(&self, host: &str, ip: Option<IpAddr>) -> Option<String> {
        let (text, line) = (self.spelled(host, ip)?, self.entry(host, ip)?.line());
        let at = self.lists.partition_point(|(before, _)| *before < line).checked_sub(1)?;
        let ((before, _), report) = (self.lists.get(at)?, self.reports.get(at)?);
        Some(format!("{}:{} {text}", report.file.display(), line - before))
    }

    fn entry(&self, host: &str, ip: Option<IpAddr>) -> Option<Entry<'_>> {
        let text = ip.map(Text::of);
        let (name, host) = match &text {
            None => (self.domains.find(host), host),
            Some(text) => (self.domains.find_whole(text.as_str()), text.as_str()),
        };
        let name = name.map(Entry::Name);
        let Some(pattern) = self.patterns.find(host).map(Entry::Pattern) else { return name };
        let key = |entry: &Entry<'_>| (Reverse(entry.rank()), entry.line());
        match name {
            Some(name) if key(&name) <= key(&pattern) => Some(name),
            _ => Some(pattern),
        }
    }

    /// The number of names and patterns that can decide something.
    pub fn len(&self) -> usize {
        self.domains.len() + self.patterns.count()
    }

    /// Whether nothing is listed.
    #[cfg(any(test, feature = "internals"))]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory in use, in bytes.
    pub fn bytes(&self) -> usize {
        self.domains.bytes() + self.patterns.bytes()
    }

    fn found(&self, entry: &Entry<'_>) -> Found {
        let (rank, line) = (entry.rank(), entry.line());
        let at = self.lists.partition_point(|(before, _)| *before < line);
        let list = at.checked_sub(1).and_then(|at| self.lists.get(at));
        let (before, source) = list.copied().unwrap_or_default();
        let action = match rank {
            Rank::Block | Rank::Important => Action::Deny,
            Rank::Pass | Rank::Except | Rank::ImportantExcept | Rank::Allow => Action::Allow,
        };
        let rule = RuleId { source, line: line - before };
        Found { action, rule, by_allow_list: rank == Rank::Allow }
    }
}

fn spelled_name(name: &str, said: Said) -> String {
    let (before, after) = match (said.is_rule, said.reach) {
        (true, Reach::Subtree) => ("||", "^"),
        (true, Reach::Name) => ("|", "^"),
        (true, Reach::Below) => (".", "^"),
        (false, Reach::Subtree | Reach::Name) => ("", ""),
        (false, Reach::Below) => ("*.", ""),
    };
    let text = format!("{before}{name}{after}");
    if said.is_rule { spelled_rule(&text, said.rank) } else { text }
}

fn spelled_rule(text: &str, rank: Rank) -> String {
    match rank {
        Rank::Pass | Rank::Block | Rank::Allow => text.to_owned(),
        Rank::Except => format!("@@{text}"),
        Rank::Important => format!("{text}$important"),
        Rank::ImportantExcept => format!("@@{text}$important"),
    }
}

/// An address as lists spell it, without an allocation. An IPv4-mapped address is spelled as IPv4.
struct Text {
    bytes: [u8; Self::MOST],
    length: usize,
}

impl Text {
    /// The longest IPv6 address: eight groups of four digits and seven colons.
    const MOST: usize = 39;

    fn of(ip: IpAddr) -> Self {
        let mut text = Self { bytes: [0; Self::MOST], length: 0 };
        // Every address fits.
        let _ = write!(text, "{}", ip.to_canonical());
        text
    }

    fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..self.length).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let end = self.length + more.len();
        let room = self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?;
        room.copy_from_slice(more.as_bytes());
        self.length = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::list_draft::filter_of;

    #[test]
    fn what_is_found_names_its_file_and_line() {
        let filter = filter_of(&[
            "good.example\n192.0.2.1\n",
            "# none\n",
            "\n0.0.0.0 example\n0.0.0.0 192.0.2.1",
            "||b.test^\n@@||c.b.test^\n||192.0.2.1^\n||192.0.2.2^\n||[2001:DB8:0::1]^\n||[1111:2222:3333:4444:5555:6666:7777:8888]^",
        ]);
        let (allow, deny) = (Action::Allow, Action::Deny);
        for (host, expected) in [
            ("a.good.example", Some((allow, 5, 1, true))),
            ("other.example", Some((deny, 7, 2, false))),
            ("b.test", Some((deny, 8, 1, false))),
            ("x.c.b.test", Some((allow, 8, 2, false))),
            ("192.0.2.1", Some((allow, 5, 2, true))),
            ("192.0.2.2", Some((deny, 8, 4, false))),
            ("::ffff:192.0.2.2", Some((deny, 8, 4, false))),
            ("2001:db8::1", Some((deny, 8, 5, false))),
            ("2001:db8::2", None),
            ("1111:2222:3333:4444:5555:6666:7777:8888", Some((deny, 8, 6, false))),
            ("test", None),
        ] {
            let found = filter.look_up(host, host.parse().ok());
            let found = found.map(|f| (f.action, f.rule.source, f.rule.line, f.by_allow_list));
            assert_eq!(found, expected, "{host}");
        }
        assert_eq!(filter.find("b.test"), Some((deny, RuleId { source: 8, line: 1 })));
    }
}
