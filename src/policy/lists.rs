//! Block and allow lists together: what do they say about this host?

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use super::domains::{Domains, Listed, Rank};
use super::rule_origin::RuleId;
use super::rules::Action;

/// What a list says of a host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Found {
    /// What is to be done.
    pub action: Action,
    /// File and line.
    pub rule: RuleId,
    /// An allow list says so, not an exception in a block list: the host is allowed also where nothing
    /// else is.
    pub by_allow_list: bool,
}

/// Names with what is to be done about each, and where that is written.
#[derive(Debug)]
pub struct Filter {
    domains: Domains,
    /// The lists in their order: how many lines are before each, and its source.
    lists: Vec<(u32, u16)>,
}

impl Filter {
    /// Of names whose lines are counted through `lists`: how many lines are before each, in rising
    /// order, and its source.
    pub fn new(domains: Domains, lists: Vec<(u32, u16)>) -> Self {
        Self { domains, lists }
    }

    /// What is said of a host: a name in lower case without a dot at its end, from wherever it is known.
    #[cfg(any(test, feature = "internals"))]
    pub fn find(&self, host: &str) -> Option<(Action, RuleId)> {
        self.look_up(host, None).map(|found| (found.action, found.rule))
    }

    /// What is said of a host, which is `ip` if it is an address.
    pub fn look_up(&self, host: &str, ip: Option<IpAddr>) -> Option<Found> {
        let listed = match ip {
            None => self.domains.find(host),
            Some(ip) => self.domains.find_whole(Text::of(ip).as_str()),
        };
        listed.map(|listed| self.found(listed))
    }

    /// How many names there are, those left out that are below others.
    pub fn len(&self) -> usize {
        self.domains.len()
    }

    /// Whether there is none.
    #[cfg(any(test, feature = "internals"))]
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.domains.bytes()
    }

    fn found(&self, listed: Listed) -> Found {
        let at = self.lists.partition_point(|(before, _)| *before < listed.line);
        let list = at.checked_sub(1).and_then(|at| self.lists.get(at));
        let (before, source) = list.copied().unwrap_or_default();
        let action = match listed.rank {
            Rank::Block | Rank::Important => Action::Deny,
            Rank::Except | Rank::ImportantExcept | Rank::Allow => Action::Allow,
        };
        let rule = RuleId { source, line: listed.line - before };
        Found { action, rule, by_allow_list: listed.rank == Rank::Allow }
    }
}

/// An address as lists have it, IPv4 in IPv6 clothes being IPv4; without an allocation.
struct Text {
    bytes: [u8; Self::MOST],
    length: usize,
}

impl Text {
    /// Of IPv6, eight groups of four digits and the colons between.
    const MOST: usize = 39;

    fn of(ip: IpAddr) -> Self {
        let mut text = Self { bytes: [0; Self::MOST], length: 0 };
        // There is room for every address.
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

/// Of lists, the first of which is an allow list, with sources from 5 on.
#[cfg(test)]
pub(super) fn filter_of(lists: &[&str]) -> Filter {
    use super::domains::{Draft, DraftPart, NameKey};
    use super::list_format::{self, ListFormat, Purpose, SkippedLines};

    let key = NameKey::drawn();
    let mut draft = Draft::new(key, 0);
    let (mut places, mut before, mut purpose) = (Vec::new(), 0, Purpose::Allow);
    for (text, source) in lists.iter().zip(5..) {
        let mut part = DraftPart::new(key);
        let format = ListFormat::of(text.as_bytes());
        let lines = list_format::read(
            text.as_bytes(),
            format,
            purpose,
            &mut part,
            &mut SkippedLines::default(),
        );
        places.push((before, source));
        assert!(draft.append(&part, before));
        before += lines;
        purpose = Purpose::Block;
    }
    Filter::new(draft.finish(), places)
}

#[cfg(test)]
mod tests {
    use super::*;

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
