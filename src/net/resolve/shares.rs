//! Shares the resolver's threads among clients and domains, and queues the waiting lookups.
//!
//! A name server that never answers holds a thread for as long as `getaddrinfo` likes to wait. No client
//! and no domain may therefore have more lookups under way than threads are left for others, and one client
//! may have only a few lookups under way in one domain. Waiting lookups queue in a line for each client and
//! domain. Of those that may go on, the client with the fewest under way comes first. Among equals, the
//! line that has waited longest and the one that came last take turns, because names that will never be
//! answered may be ahead of one that will.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

/// The account that a lookup counts on.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct ClientLookups {
    client: IpAddr,
    /// The registered domain: its name servers answer for all names in it, or for none.
    domain: Box<str>,
}

impl ClientLookups {
    pub(super) fn new(client: IpAddr, host: &str) -> Self {
        let host = host.strip_suffix('.').unwrap_or(host);
        Self { client, domain: psl::domain_str(host).unwrap_or(host).into() }
    }
}

/// A number of places, shared among accounts.
#[derive(Debug)]
pub(super) struct Shares {
    most: usize,
    /// Limit for one client in one domain.
    each: usize,
    total: usize,
    clients: HashMap<IpAddr, usize>,
    domains: HashMap<Box<str>, usize>,
    accounts: HashMap<ClientLookups, usize>,
}

/// The places that an account's client has, its domain, and the account itself.
struct Counts {
    client: usize,
    domain: usize,
    account: usize,
}

impl Shares {
    pub(super) fn new(most: usize, each: usize) -> Self {
        let (clients, domains) = (HashMap::new(), HashMap::new());
        Self { most, each, total: 0, clients, domains, accounts: HashMap::new() }
    }

    /// Whether this account may have one more place.
    pub(super) fn admit(&self, account: &ClientLookups) -> bool {
        self.fit(self.most.saturating_sub(self.total), self.counts(account))
    }

    /// The same, if the places of `others` counted here.
    fn admit_beside(&self, others: &Self, account: &ClientLookups) -> bool {
        let left = self.most.saturating_sub(self.total + others.total);
        let (ours, theirs) = (self.counts(account), others.counts(account));
        let counts = Counts {
            client: ours.client + theirs.client,
            domain: ours.domain + theirs.domain,
            account: ours.account + theirs.account,
        };
        self.fit(left, counts)
    }

    fn fit(&self, left: usize, counts: Counts) -> bool {
        counts.client < left && counts.domain < left && counts.account < self.each
    }

    fn counts(&self, account: &ClientLookups) -> Counts {
        Counts {
            client: self.of_client(account),
            domain: self.domains.get(&account.domain).copied().unwrap_or(0),
            account: self.accounts.get(account).copied().unwrap_or(0),
        }
    }

    /// How many places the account's client has.
    fn of_client(&self, account: &ClientLookups) -> usize {
        self.clients.get(&account.client).copied().unwrap_or(0)
    }

    /// Takes one place for this account.
    pub(super) fn take(&mut self, account: &ClientLookups) {
        self.total += 1;
        *self.clients.entry(account.client).or_default() += 1;
        *self.domains.entry(account.domain.clone()).or_default() += 1;
        *self.accounts.entry(account.clone()).or_default() += 1;
    }

    /// Gives back one place of this account.
    pub(super) fn give_back(&mut self, account: &ClientLookups) {
        self.total -= 1;
        take_one(&mut self.clients, &account.client);
        take_one(&mut self.domains, &account.domain);
        take_one(&mut self.accounts, account);
    }

    /// How many places are taken.
    pub(super) fn total(&self) -> usize {
        self.total
    }
}

fn take_one<K: Eq + std::hash::Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// The names that wait for a place, or values that represent them.
#[derive(Debug)]
pub(super) struct LookupLine<N> {
    most: usize,
    total: usize,
    clients: HashMap<IpAddr, usize>,
    /// No line is empty.
    names: HashMap<ClientLookups, VecDeque<N>>,
    /// Every account with a waiting name, once each.
    turns: VecDeque<ClientLookups>,
    /// Whether the last of equal accounts comes next, rather than the first.
    last_is_next: bool,
}

impl<N: PartialEq> LookupLine<N> {
    /// A line of at most `most` names.
    pub(super) fn new(most: usize) -> Self {
        let (clients, names) = (HashMap::new(), HashMap::new());
        Self { most, total: 0, clients, names, turns: VecDeque::new(), last_is_next: false }
    }

    /// Puts a name at the end of its account's line. `false` if its client has as many names waiting as
    /// there are places left, so that a new client always finds a place.
    pub(super) fn push(&mut self, account: &ClientLookups, name: N) -> bool {
        let own = self.clients.get(&account.client).copied().unwrap_or(0);
        if own >= self.most.saturating_sub(self.total) {
            return false;
        }
        self.total += 1;
        *self.clients.entry(account.client).or_default() += 1;
        let line = self.names.entry(account.clone()).or_default();
        if line.is_empty() {
            self.turns.push_back(account.clone());
        }
        line.push_back(name);
        true
    }

    /// Whether names of this account wait.
    pub(super) fn has(&self, account: &ClientLookups) -> bool {
        self.names.contains_key(account)
    }

    /// Takes the next name among the accounts that may have one more of `shares`, if the places of `others`
    /// counted there.
    pub(super) fn pop(
        &mut self,
        shares: &Shares,
        others: Option<&Shares>,
    ) -> Option<(ClientLookups, N)> {
        let may_go_on = |account: &ClientLookups| match others {
            Some(others) => shares.admit_beside(others, account),
            None => shares.admit(account),
        };
        let turns = self.turns.iter().enumerate();
        let fit = turns.filter(|(_, account)| may_go_on(account));
        let count = |(_, account): &(usize, &ClientLookups)| shares.of_client(account);
        let next = match self.last_is_next {
            true => fit.rev().min_by_key(count),
            false => fit.min_by_key(count),
        };
        let (place, _) = next?;
        self.last_is_next = !self.last_is_next;
        let account = self.turns.remove(place)?;
        let line = self.names.get_mut(&account)?;
        let name = line.pop_front()?;
        if line.is_empty() {
            self.names.remove(&account);
        } else {
            self.turns.push_back(account.clone());
        }
        self.leave(&account);
        Some((account, name))
    }

    /// Takes a name out of the line.
    pub(super) fn remove(&mut self, account: &ClientLookups, name: &N) {
        let Some(line) = self.names.get_mut(account) else { return };
        let Some(place) = line.iter().position(|waiting| waiting == name) else { return };
        line.remove(place);
        if line.is_empty() {
            self.names.remove(account);
            self.turns.retain(|other| other != account);
        }
        self.leave(account);
    }

    fn leave(&mut self, account: &ClientLookups) {
        self.total -= 1;
        take_one(&mut self.clients, &account.client);
    }

    /// How many names wait.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(client: u8, host: &str) -> ClientLookups {
        ClientLookups::new([192, 0, 2, client].into(), host)
    }

    /// How many more places the account gets, one after the other.
    fn fill(shares: &mut Shares, account: impl Fn(usize) -> ClientLookups) -> usize {
        let take = |n: usize| {
            let account = account(n);
            let fits = shares.admit(&account);
            if fits {
                shares.take(&account);
            }
            fits
        };
        (0..1000).map(take).take_while(|fits| *fits).count()
    }

    #[test]
    fn an_account_is_a_client_and_what_somebody_can_register() {
        for (one, other, same) in [
            ("a.example.com", "b.c.example.com", true),
            ("a.example.com.", "example.com", true),
            ("a.example.co.uk", "b.example.co.uk", true),
            ("one.co.uk", "other.co.uk", false),
            ("a.slow.test", "b.slow.test", true),
            ("com", "com", true),
            ("localhost", "router", false),
        ] {
            assert_eq!(account(1, one) == account(1, other), same, "{one} {other}");
            assert_ne!(account(1, one), account(2, one));
        }
    }

    #[test]
    fn nobody_gets_all_and_a_newcomer_always_gets_one() {
        let mut shares = Shares::new(32, 4);
        assert_eq!(fill(&mut shares, |_| account(1, "a.example.com")), 4, "one domain");
        assert_eq!(fill(&mut shares, |n| account(1, &format!("a.{n}.com"))), 12, "one client");
        assert_eq!(fill(&mut shares, |n| account(2, &format!("b.{n}.com"))), 8);
        for client in 3..6 {
            assert!(fill(&mut shares, |n| account(client, &format!("c.{client}-{n}.com"))) >= 1);
        }
        let mut shares = Shares::new(32, 4);
        let clients = fill(&mut shares, |n| account(n as u8, "a.example.com"));
        assert_eq!(clients, 16, "one domain, from any client");
        assert!(shares.admit(&account(1, "a.example.org")));
    }

    #[test]
    fn what_is_given_back_leaves_nothing_behind() {
        let mut shares = Shares::new(8, 2);
        let accounts: Vec<_> = (0..4).map(|n| account(n, &format!("{n}.com"))).collect();
        accounts.iter().for_each(|account| shares.take(account));
        accounts.iter().for_each(|account| shares.give_back(account));
        let maps = (shares.clients.len(), shares.domains.len(), shares.accounts.len());
        assert_eq!((shares.total(), maps), (0, (0, 0, 0)));
    }

    #[test]
    fn the_client_with_the_fewest_under_way_comes_first_and_equals_take_turns() {
        let (mut shares, mut line) = (Shares::new(32, 4), LookupLine::new(1024));
        for name in ["a.one.com", "b.one.com", "a.two.com"] {
            assert!(line.push(&account(1, name), name));
        }
        assert!(line.push(&account(2, "a.one.com"), "c.one.com"));
        let mut order = Vec::new();
        while let Some((account, name)) = line.pop(&shares, None) {
            shares.take(&account);
            order.push(name);
        }
        assert_eq!(order, ["a.one.com", "c.one.com", "a.two.com", "b.one.com"]);
        assert!(line.len() == 0 && line.names.is_empty() && line.clients.is_empty());
    }

    #[test]
    fn what_may_not_go_on_lets_others_pass_and_can_be_taken_out() {
        let (mut shares, mut line) = (Shares::new(32, 1), LookupLine::new(1024));
        let stuck = account(1, "a.one.com");
        shares.take(&stuck);
        assert!(line.push(&stuck, "a.one.com") && line.push(&stuck, "b.one.com"));
        assert!(line.push(&account(1, "a.two.com"), "a.two.com"));
        assert_eq!(line.pop(&shares, None).unwrap().1, "a.two.com");
        assert!(line.pop(&shares, None).is_none());
        line.remove(&stuck, &"a.one.com");
        line.remove(&stuck, &"unknown");
        assert_eq!(line.len(), 1);
        line.remove(&stuck, &"b.one.com");
        assert!(line.len() == 0 && line.turns.is_empty() && line.names.is_empty());
    }

    #[test]
    fn a_client_cannot_fill_the_line() {
        let mut line = LookupLine::new(8);
        let fill = |line: &mut LookupLine<u32>, client| {
            (0_u32..100).take_while(|n| line.push(&account(client, "a.com"), *n)).count()
        };
        assert_eq!([fill(&mut line, 1), fill(&mut line, 2), fill(&mut line, 3)], [4, 2, 1]);
        assert_eq!(fill(&mut line, 4), 1);
        assert_eq!(fill(&mut line, 5), 0);
    }
}
