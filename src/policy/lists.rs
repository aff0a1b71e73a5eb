//! Looks a host up in all block and allow lists together.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use super::domains::{Domains, Listed, Rank};
use super::rule_origin::RuleId;
use super::rules::Action;

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

/// All listed names, each with its verdict and the line that it came from.
#[derive(Debug)]
pub struct Filter {
    domains: Domains,
    /// One entry a list, in order: the number of lines before it, and its source.
    lists: Vec<(u32, u16)>,
}

impl Filter {
    /// Takes names whose lines are counted through all `lists`. Each entry of `lists` is the number of
    /// lines before that list, in rising order, and its source.
    pub fn new(domains: Domains, lists: Vec<(u32, u16)>) -> Self {
        Self { domains, lists }
    }

    /// The verdict on a host: a name in lower case without a trailing dot.
    #[cfg(any(test, feature = "internals"))]
    pub fn find(&self, host: &str) -> Option<(Action, RuleId)> {
        self.look_up(host, None).map(|found| (found.action, found.rule))
    }

    /// The verdict on a host; `ip` is set if the host is an address.
    pub fn look_up(&self, host: &str, ip: Option<IpAddr>) -> Option<Found> {
        let listed = match ip {
            None => self.domains.find(host),
            Some(ip) => self.domains.find_whole(Text::of(ip).as_str()),
        };
        listed.map(|listed| self.found(listed))
    }

    /// The number of names. Names below a listed one are not kept, and not counted.
    pub fn len(&self) -> usize {
        self.domains.len()
    }

    /// Whether no name is listed.
    #[cfg(any(test, feature = "internals"))]
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }

    /// Memory in use, in bytes.
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

/// A filter of these lists. The first is an allow list; sources are numbered from 5.
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
