//! Defines what a line of a list says.

use crate::policy::domains::{Rank, Reach, Said};
use crate::policy::host_patterns::HostPattern;

/// What a line is about.
#[derive(Clone, Debug)]
pub enum What<'l> {
    /// A name in lower case, without a dot at its end, or an address.
    Name(&'l [u8]),
    /// Hosts that match a pattern.
    Pattern(HostPattern),
}

/// One thing that a line says.
#[derive(Clone, Debug)]
pub struct Item<'l> {
    /// The hosts.
    pub what: What<'l>,
    /// The verdict; a pattern has no use for the reach.
    pub said: Said,
    /// It switches off the rules that are spelled like it (`$badfilter`).
    pub is_off: bool,
}

impl Item<'_> {
    /// Whether it is about a host in lower case, which may be an address.
    pub fn is_about(&self, host: &str) -> bool {
        match &self.what {
            What::Pattern(pattern) => pattern.matches(host),
            What::Name(name) => host.as_bytes().strip_suffix(*name).is_some_and(|rest| {
                (rest.is_empty() || rest.ends_with(b".")) && self.said.reach.covers(rest.is_empty())
            }),
        }
    }
}

/// A name that is listed by itself.
pub(super) fn bare(name: &[u8]) -> Item<'_> {
    let said = Said { rank: Rank::Block, reach: Reach::Subtree, is_rule: false };
    Item { what: What::Name(name), said, is_off: false }
}

/// A name that its line lets through, although one above it may be refused.
pub(super) fn passing(name: &[u8]) -> Item<'_> {
    let item = bare(name);
    Item { said: Said { rank: Rank::Pass, ..item.said }, ..item }
}
