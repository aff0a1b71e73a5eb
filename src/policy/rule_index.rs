//! Finds the rules that could apply to a host, a few out of thousands, in their order.
//!
//! The first rule that matches a request decides, so only the order matters. Rules that name hosts or
//! networks are filed under each of them. A search only looks at the rules filed under the host, under a
//! name above it, or under a network around it. Rules with patterns, and rules without a destination,
//! are tried one by one.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::IpAddr;

use ipnet::IpNet;

use super::destination::{DestinationKey, meaning};
use super::lists::Filter;
use super::network::inside;
use super::rule_id::RuleId;
use super::rules::{Action, Request, Rule};

/// Rules in order, with an index.
#[derive(Clone, Debug, Default)]
pub struct Ruleset {
    rules: Vec<Rule>,
    /// Rules on clients only, by network.
    clients: Networks,
    names: Table,
    networks: Networks,
    /// Rules without a destination.
    any: Vec<u32>,
    /// Rules with a pattern.
    patterns: Vec<u32>,
    /// Rules for some users.
    users: Vec<u32>,
    /// Rules on addresses with other conditions.
    conditional: Vec<u32>,
    /// Rules on addresses that allow requests without naming clients.
    general: Vec<u32>,
    /// Rules on destinations that are on lists.
    listed: Vec<u32>,
}

impl Ruleset {
    /// Indexes these rules, given in order.
    pub fn new(rules: Vec<Rule>) -> Self {
        let mut set = Self::default();
        for (number, rule) in (0..).zip(&rules) {
            if rule.admission {
                rule.clients.iter().for_each(|network| set.clients.add(network.net(), number));
                continue;
            }
            if rule.destinations.is_empty() {
                set.any.push(number);
            }
            if !rule.users.is_empty() {
                set.users.push(number);
            }
            for destination in &rule.destinations {
                match destination.key() {
                    DestinationKey::Name(name) => set.names.add(hash_name(name), number),
                    DestinationKey::Network(network) => set.networks.add(network.net(), number),
                    DestinationKey::Pattern if set.patterns.last() == Some(&number) => {}
                    DestinationKey::Pattern => set.patterns.push(number),
                }
            }
            if rule.is_by_address() && rule.is_conditional() {
                set.conditional.push(number);
            }
            if rule.is_by_address() && rule.is_general_allowance() {
                set.general.push(number);
            }
        }
        let listed = (0..).zip(&rules).filter(|(_, rule)| rule.lists.is_some());
        set.listed = listed.map(|(number, _)| number).collect();
        set.rules = rules;
        set
    }

    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The number of rules.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// The rule with this number.
    pub fn get(&self, number: u32) -> Option<&Rule> {
        self.rules.get(number as usize)
    }

    /// The lists of a rule.
    pub fn lists_of(&self, id: RuleId) -> Option<&Filter> {
        let mut listed = self.listed.iter().filter_map(|number| self.get(*number));
        listed.find(|rule| rule.id == id)?.lists.as_deref()
    }

    /// The first rule on clients alone that matches this client.
    pub fn find_client(&self, client: IpAddr) -> Option<&Rule> {
        if self.is_empty() {
            return None;
        }
        let mut first = self.first(|rule| rule.has_client(client));
        self.clients.each_meant(client, |rules| first.look(rules));
        first.found()
    }

    /// Whether only clients are served that rules name, and whether a rule refuses some clients, wherever they
    /// go.
    pub fn admission(&self) -> (bool, bool) {
        let is_let_in = |rule: &Rule| rule.admission && rule.action == Action::Allow;
        let is_refused = |rule: &Rule| {
            rule.action == Action::Deny && rule.destinations.is_empty() && rule.lists.is_none()
        };
        (self.rules.iter().any(is_let_in), self.rules.iter().any(is_refused))
    }

    /// The first rule that matches a request as far as is known before a connection, and its number. For
    /// a client `unserved` by the listener, only rules that name clients can allow.
    pub fn find(&self, request: &Request<'_>, unserved: bool) -> Option<(u32, &Rule)> {
        let has = |rule: &Rule| !(unserved && rule.is_general_allowance()) && rule.has(request);
        let mut first = self.first(has);
        match request.ip {
            Some(ip) => {
                self.each_network(ip, |rules| first.look(rules));
                first.look(&self.patterns);
            }
            None => {
                self.names.each_name(request.host, |rules| first.look(rules));
                first.look(&self.patterns);
            }
        }
        first.look(&self.any);
        Some((first.best, first.found()?))
    }

    /// Whether a rule for some users may match a request before the first rule that matches it now.
    pub fn depends_on_user(&self, request: &Request<'_>) -> bool {
        let until = self.find(request, false).map_or(u32::MAX, |(number, _)| number);
        let mut rules = self.users.iter().take_while(|n| **n < until).filter_map(|n| self.get(*n));
        rules.any(|rule| rule.may_be_about(request))
    }

    /// The first rule before `until`, not in `except`, that names this address.
    pub fn find_address(&self, ip: IpAddr, port: u16, until: u32, except: &[u32]) -> Option<&Rule> {
        let has = |rule: &Rule| rule.has_address(ip, port);
        let mut first = First { best: until, ..self.first(has) };
        self.each_network(ip, |rules| first.look_but(rules, except));
        first.found()
    }

    /// Passes the rules on networks that contain a destination to `f`.
    fn each_network(&self, ip: IpAddr, mut f: impl FnMut(&[u32])) {
        self.networks.each_meant(ip, &mut f);
        if let Some(ip) = meaning(ip) {
            self.networks.each(ip, f);
        }
    }

    /// Whether a rule judges names.
    pub fn judge_names(&self) -> bool {
        !self.names.0.is_empty() || !self.patterns.is_empty() || !self.listed.is_empty()
    }

    /// Whether a rule before `until` judges addresses.
    pub fn judge_addresses(&self, until: u32) -> bool {
        self.networks.first < until
    }

    /// The rules before `until` that judge addresses, without `except`.
    pub fn by_address<'s>(
        &'s self,
        until: u32,
        except: &'s [u32],
    ) -> impl Iterator<Item = &'s Rule> {
        let before = (0..until).zip(&self.rules);
        before.filter(|(n, rule)| rule.is_by_address() && !except.contains(n)).map(|(_, rule)| rule)
    }

    /// Adds to `except` the rules before `until` that judge addresses but do not match this request.
    pub fn except(&self, request: &Request<'_>, unserved: bool, until: u32, except: &mut Vec<u32>) {
        let before = |number: &&u32| **number < until;
        let foreign =
            |number: &&u32| self.get(**number).is_some_and(|rule| !rule.may_have_address(request));
        except.extend(self.conditional.iter().take_while(before).filter(foreign));
        if unserved {
            except.extend(self.general.iter().take_while(before));
        }
    }

    fn first<F: Fn(&Rule) -> bool>(&self, has: F) -> First<'_, F> {
        First { rules: &self.rules, has, best: u32::MAX, found: None }
    }
}

/// The search for the first rule.
struct First<'s, F> {
    rules: &'s [Rule],
    has: F,
    /// Only rules before this one are of interest.
    best: u32,
    found: Option<u32>,
}

impl<'s, F: Fn(&Rule) -> bool> First<'s, F> {
    fn look(&mut self, numbers: &[u32]) {
        self.look_but(numbers, &[]);
    }

    fn look_but(&mut self, numbers: &[u32], except: &[u32]) {
        for &number in numbers {
            if number >= self.best {
                return;
            }
            if !except.contains(&number) && self.rules.get(number as usize).is_some_and(&self.has) {
                self.best = number;
                self.found = Some(number);
                return;
            }
        }
    }

    fn found(&self) -> Option<&'s Rule> {
        self.rules.get(self.found? as usize)
    }
}

/// Rule numbers under a hash of the destination, in order. If two rules share a hash by chance, both are
/// looked at, which costs one comparison.
#[derive(Clone, Debug, Default)]
struct Table(HashMap<u64, Vec<u32>, BuildHasherDefault<Hashed>>);

impl Table {
    fn add(&mut self, hash: u64, number: u32) {
        let numbers = self.0.entry(hash).or_default();
        if numbers.last() != Some(&number) {
            numbers.push(number);
        }
    }

    /// Passes the rules under a name, and under each name above it, to `f`.
    fn each_name(&self, name: &str, mut f: impl FnMut(&[u32])) {
        if self.0.is_empty() {
            return;
        }
        let mut hash = Name::default();
        for (at, byte) in name.bytes().enumerate().rev() {
            hash.take(byte);
            if at == 0 || name.as_bytes().get(at - 1) == Some(&b'.') {
                self.0.get(&hash.end()).into_iter().for_each(|numbers| f(numbers));
            }
        }
    }
}

/// The networks that rules name.
#[derive(Clone, Debug)]
struct Networks {
    table: Table,
    /// The prefix lengths that occur, for IPv4 and IPv6.
    lengths: [Vec<u8>; 2],
    /// The lowest number of a rule.
    first: u32,
}

impl Default for Networks {
    fn default() -> Self {
        Self { table: Table::default(), lengths: Default::default(), first: u32::MAX }
    }
}

impl Networks {
    fn add(&mut self, net: IpNet, number: u32) {
        self.first = self.first.min(number);
        let [v4, v6] = &mut self.lengths;
        let lengths = if net.addr().is_ipv4() { v4 } else { v6 };
        if !lengths.contains(&net.prefix_len()) {
            lengths.push(net.prefix_len());
        }
        self.table.add(hash_address(net.addr(), net.prefix_len()), number);
    }

    /// Passes the rules under each network that contains the address, or an IPv4 address inside it, to
    /// `f`.
    fn each_meant(&self, ip: IpAddr, mut f: impl FnMut(&[u32])) {
        self.each(ip, &mut f);
        inside(ip).for_each(|v4| self.each(v4.into(), &mut f));
    }

    /// Passes the rules under each network that contains the address to `f`.
    fn each(&self, ip: IpAddr, mut f: impl FnMut(&[u32])) {
        let ip = ip.to_canonical();
        let [v4, v6] = &self.lengths;
        for &length in if ip.is_ipv4() { v4 } else { v6 } {
            if let Some(numbers) = self.table.0.get(&hash_address(ip, length)) {
                f(numbers);
            }
        }
    }
}

/// The hash of a name, computed from its end (FNV-1a, stirred), so that the hash of each name above it
/// comes up on the way.
struct Name(u64);

impl Default for Name {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Name {
    fn take(&mut self, byte: u8) {
        self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }

    fn end(&self) -> u64 {
        stir(self.0)
    }
}

fn hash_name(name: &str) -> u64 {
    let mut hash = Name::default();
    name.bytes().rev().for_each(|byte| hash.take(byte));
    hash.end()
}

/// The hash of the network of this length that an address is in.
fn hash_address(ip: IpAddr, length: u8) -> u64 {
    let (bits, width) = match ip {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)), 32),
        IpAddr::V6(ip) => (u128::from(ip), 128),
    };
    let network = bits.checked_shr(width - u32::from(length)).unwrap_or(0);
    let (high, low) = ((network >> 64) as u64, network as u64);
    stir(stir(high ^ u64::from(length) ^ (u64::from(width) << 8)) ^ low)
}

/// Spreads differences over all bits (the end of SplitMix64).
fn stir(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A hasher for values that are hashes already.
#[derive(Clone, Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = stir(self.0 ^ u64::from(*byte)));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::destination::DestinationPattern;
    use crate::policy::network::Network;
    use crate::policy::rule_origin::RuleId;
    use crate::policy::rules::{Action, Way};

    const HOSTS: [&str; 12] = [
        "a.example",
        "b.a.example",
        "ba.example",
        "example",
        "c.b.a.example",
        "10.0.0.1",
        "10.1.0.1",
        "2001:db8::1",
        "::ffff:10.0.0.1",
        "0.0.0.0",
        "::",
        "::ffff:0.0.0.0",
    ];
    const DESTINATIONS: [&str; 15] = [
        "a.example",
        ".a.example",
        ".example",
        "example:80",
        "*.a.*",
        "re:^b",
        "10.0.0.0/8",
        "10.0.0.0/16:80",
        "10.0.0.1",
        "2001:db8::/32",
        "0.0.0.0/0",
        "::/0",
        "127.0.0.1",
        "::1",
        "*",
    ];

    #[test]
    fn a_refused_client_is_refused_inside_ipv6_and_an_allowed_one_is_not_allowed_there() {
        for (action, client, is_found) in [
            (Action::Deny, "10.0.0.1", true),
            (Action::Deny, "::ffff:10.0.0.1", true),
            (Action::Deny, "64:ff9b::10.0.0.1", true),
            (Action::Deny, "2002:a00:1::9", true),
            (Action::Deny, "::10.0.0.1", true),
            (Action::Deny, "64:ff9b::11.0.0.1", false),
            (Action::Allow, "10.0.0.1", true),
            (Action::Allow, "64:ff9b::10.0.0.1", false),
            (Action::Allow, "2002:a00:1::9", false),
        ] {
            let mut rule = Rule::new(RuleId { source: 9, line: 1 }, action);
            rule.clients.push(Network::parse("10.0.0.0/8").unwrap());
            rule.admission = true;
            let set = Ruleset::new(vec![rule]);
            let found = set.find_client(client.parse().unwrap()).is_some();
            assert_eq!(found, is_found, "{action:?} {client}");
        }
    }

    fn rule() -> impl Strategy<Value = (Vec<usize>, Option<&'static str>, bool, bool)> {
        let destinations = prop::collection::vec(0..DESTINATIONS.len(), 0..3);
        let method = prop::option::of(prop::sample::select(vec!["GET", "POST"]));
        (destinations, method, any::<bool>(), any::<bool>())
    }

    proptest! {
        /// The index finds the same rule as trying one rule after the other.
        #[test]
        fn the_first_rule_is_found(
            written in prop::collection::vec(rule(), 0..12),
            host in prop::sample::select(HOSTS.to_vec()),
            port in prop::sample::select(vec![80, 443]),
            unserved in any::<bool>(),
            address in prop::sample::select(HOSTS[5..].to_vec()),
        ) {
            let rules: Vec<Rule> = (1..).zip(&written).map(|(line, (to, method, allow, near))| {
                let action = if *allow { Action::Allow } else { Action::Deny };
                let mut rule = Rule::new(RuleId { source: 9, line }, action);
                rule.destinations = to.iter().map(|n| DestinationPattern::parse(DESTINATIONS[*n]).unwrap()).collect();
                rule.methods = method.iter().map(|method| Box::from(*method)).collect();
                let network = if *near { "192.0.2.0/24" } else { "198.51.100.0/24" };
                if *near || to.is_empty() {
                    rule.clients.push(Network::parse(network).unwrap());
                }
                rule.admission = to.is_empty() && rule.methods.is_empty();
                rule
            }).collect();
            let request = Request {
                client: [192, 0, 2, 1].into(),
                user: None,
                method: "GET",
                way: Way::Http,
                host,
                ip: host.parse().ok(),
                port,
                target: "/",
            };
            let set = Ruleset::new(rules.clone());
            let looked_at =
                |rule: &Rule| !(rule.admission || unserved && rule.is_general_allowance());
            let numbered = || rules.iter().enumerate().filter(|(_, rule)| looked_at(rule));
            let expected = numbered().find(|(_, rule)| rule.has(&request));
            let until = expected.map_or(u32::MAX, |(number, _)| number as u32);
            let line = |rule: &Rule| rule.id.line;
            prop_assert_eq!(set.find(&request, unserved).map(|(_, r)| line(r)), expected.map(|(_, r)| line(r)));

            let client = rules.iter().filter(|rule| rule.admission);
            let mut client = client.filter(|r| r.clients.iter().any(|n| n.contains(request.client)));
            prop_assert_eq!(set.find_client(request.client).map(line), client.next().map(line));

            let address: IpAddr = address.parse().unwrap();
            let mut except = Vec::new();
            set.except(&request, unserved, until, &mut except);
            let found = set.find_address(address, port, until, &except).map(line);
            let mut by_address = numbered()
                .filter(|(number, rule)| (*number as u32) < until && rule.may_have_address(&request))
                .filter(|(_, rule)| rule.destinations.iter().any(|d| d.has_address(address, port)));
            prop_assert_eq!(found, by_address.next().map(|(_, r)| line(r)));
            let judges = numbered().any(|(number, rule)| (number as u32) < until && rule.is_by_address());
            prop_assert!(set.judge_addresses(until) || !judges);
        }
    }
}
