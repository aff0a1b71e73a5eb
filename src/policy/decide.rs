//! The decision: fixed steps in a fixed order, and always the reason.
//!
//! ```text
//! acl ──▶ auth ──▶ filter ──▶ rewrite ──▶ route ──▶ shape        before a connection is made
//!   └────────────── judge ──────────────▶ the address            before one is used
//! ```
//!
//! What is known of a request decides as far as it goes; the address it leads to is judged once more
//! when it is known, be it looked up, given, or that of a connection kept from before. A rule that
//! allows comes before everything that would refuse without a rule: the lists and the guard.

use std::net::IpAddr;
use std::sync::Arc;

use super::guard::Scope;
use super::origin::RuleId;
use super::rules::{Action, Request, Rule};

/// What a policy says of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It may go on, as far as is known.
    Allow,
    /// It is refused.
    Deny(&'static str),
}

/// A verdict with its reason.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Decision {
    /// What it says.
    pub verdict: Verdict,
    /// The rule that decided, if one did.
    pub rule: Option<RuleId>,
}

/// Which addresses a request may be connected to. Its memory is used again.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Whoever judges, if rules have to be looked at again.
    rules: Option<Arc<Rules>>,
    /// Those that judge by address and come first, by number.
    by_address: Vec<u16>,
    /// What holds for addresses none of them has.
    otherwise: Otherwise,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Otherwise {
    /// A rule allows it.
    Allow(RuleId),
    /// The listener's scope says.
    Guard(Scope),
    /// A rule refuses it.
    Deny(RuleId, &'static str),
}

impl Default for Otherwise {
    fn default() -> Self {
        Self::Guard(Scope::Protected)
    }
}

/// What may be done with a request that no rule speaks of.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// It goes through.
    #[default]
    Open,
    /// It is refused.
    Enforce,
}

/// The rules of one listener.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Who and what without a rule.
    pub scope: Scope,
    /// In the order in which they are looked at: the first that has a request decides.
    pub rules: Vec<Rule>,
    /// What happens if none has.
    pub mode: Mode,
}

impl Rules {
    /// Rules of a listener where none is written.
    pub fn plain(scope: Scope) -> Self {
        Self { scope, rules: Vec::new(), mode: Mode::Open }
    }

    /// Whether only the scope decides: then nothing of a request needs to be looked at.
    pub fn are_plain(&self) -> bool {
        self.rules.is_empty() && self.mode == Mode::Open
    }

    /// Whether a client may come at all, before it says what it wants.
    pub fn decide_client(&self, client: IpAddr) -> Decision {
        let of_admission = |rule: &&Rule| rule.admission;
        let has = |rule: &&Rule| rule.clients.iter().any(|network| network.contains(client));
        match self.rules.iter().filter(of_admission).find(has) {
            Some(rule) if rule.action == Action::Deny => {
                deny("a rule refuses this client", rule.id)
            }
            Some(rule) => allow(Some(rule.id)),
            None if !self.scope.serves(client) => deny(UNSERVED, RuleId::PROTECTED),
            None => allow(None),
        }
    }

    /// What is to become of a request; `reach` then says what addresses it may be connected to.
    pub fn decide(self: &Arc<Self>, request: &Request<'_>, reach: &mut Reach) -> Decision {
        let by_client = self.decide_client(request.client);
        let unserved = match by_client {
            Decision { verdict: Verdict::Deny(_), rule: Some(RuleId::PROTECTED) } => true,
            Decision { verdict: Verdict::Deny(_), .. } => return by_client,
            _ => false,
        };
        reach.clear();
        let mut found = None;
        for (number, rule) in self.rules.iter().enumerate() {
            // Whom protected mode does not serve only a rule that names the client can let in.
            let is_general = rule.action == Action::Allow && rule.clients.is_empty();
            if rule.admission || (unserved && is_general) {
                continue;
            }
            if rule.has(request) {
                found = Some(rule);
                break;
            }
            if rule.is_by_address() && rule.may_have_address(request) {
                reach.by_address.extend(u16::try_from(number));
            }
        }
        let allowed = found.filter(|rule| rule.action == Action::Allow).map(|rule| rule.id);
        reach.otherwise = match found {
            // Where to, the guard says: the rule does not.
            Some(rule) if rule.action == Action::Allow && rule.destinations.is_empty() => {
                Otherwise::Guard(self.scope)
            }
            Some(rule) if rule.action == Action::Allow => Otherwise::Allow(rule.id),
            Some(rule) => Otherwise::Deny(rule.id, "a rule refuses this request"),
            None if unserved => Otherwise::Deny(RuleId::PROTECTED, UNSERVED),
            None if self.mode == Mode::Enforce => {
                Otherwise::Deny(RuleId::DEFAULT, "no rule allows this request")
            }
            None => Otherwise::Guard(self.scope),
        };
        let may_be_allowed = || {
            let mut rules = reach.by_address.iter().filter_map(|n| self.rules.get(usize::from(*n)));
            rules.any(|rule| rule.action == Action::Allow)
        };
        let decision = match reach.otherwise {
            Otherwise::Deny(rule, reason) if !may_be_allowed() => return deny(reason, rule),
            // Its address decides.
            Otherwise::Deny(..) => allow(None),
            Otherwise::Allow(_) | Otherwise::Guard(_) => allow(allowed),
        };
        if !reach.by_address.is_empty() {
            reach.rules = Some(Arc::clone(self));
        }
        decision
    }
}

impl Reach {
    /// Whether a connection to this address may be used, and why.
    pub fn judge(&self, ip: IpAddr, port: u16) -> Decision {
        if let Some(rules) = &self.rules {
            for number in &self.by_address {
                if let Some(rule) = rules.rules.get(usize::from(*number))
                    && rule.destinations.iter().any(|d| d.has_address(ip, port))
                {
                    return match rule.action {
                        Action::Allow => allow(Some(rule.id)),
                        Action::Deny => deny("a rule refuses the destination's address", rule.id),
                    };
                }
            }
        }
        match self.otherwise {
            Otherwise::Allow(rule) => allow(Some(rule)),
            Otherwise::Deny(rule, reason) => deny(reason, rule),
            Otherwise::Guard(scope) => match scope.forbids(ip) {
                Some(reason) => deny(reason, RuleId::PROTECTED),
                None => allow(None),
            },
        }
    }

    /// A request that goes on without a rule.
    pub fn plain(&mut self, scope: Scope) {
        self.clear();
        self.otherwise = Otherwise::Guard(scope);
    }

    /// Forgets the request.
    pub fn clear(&mut self) {
        self.rules = None;
        self.by_address.clear();
        self.otherwise = Otherwise::default();
    }
}

/// Why protected mode refuses a client.
const UNSERVED: &str = "this proxy serves private networks only";

fn allow(rule: Option<RuleId>) -> Decision {
    Decision { verdict: Verdict::Allow, rule }
}

fn deny(reason: &'static str, rule: RuleId) -> Decision {
    Decision { verdict: Verdict::Deny(reason), rule: Some(rule) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::destination::Destination;
    use crate::policy::network::Network;
    use crate::policy::rules::Way;

    /// `allow client 10.0.0.0/8`, `deny to .example.com`, a line a rule.
    fn rules(mode: Mode, scope: Scope, written: &str) -> Arc<Rules> {
        let rule = |(line, text): (u32, &str)| {
            let mut rule = Rule::new(RuleId { source: 9, line }, Action::Allow);
            let mut words = text.split(' ');
            while let Some(word) = words.next() {
                match word {
                    "allow" => {}
                    "deny" => rule.action = Action::Deny,
                    "client" => rule.clients.push(Network::parse(words.next().unwrap()).unwrap()),
                    "user" => rule.users.push(words.next().unwrap().into()),
                    "method" => rule.methods.push(words.next().unwrap().into()),
                    "to" => {
                        rule.destinations.push(Destination::parse(words.next().unwrap()).unwrap())
                    }
                    "if-client" => {
                        rule.clients.push(Network::parse(words.next().unwrap()).unwrap());
                    }
                    other => panic!("{other}"),
                }
            }
            rule.admission = text.contains(" client ");
            rule
        };
        let rules = (1..).zip(written.lines().map(str::trim).filter(|l| !l.is_empty())).map(rule);
        Arc::new(Rules { scope, rules: rules.collect(), mode })
    }

    fn request(host: &str) -> Request<'_> {
        Request {
            client: "10.0.0.1".parse().unwrap(),
            user: None,
            method: "GET",
            way: Way::Http,
            host,
            ip: host.parse().ok(),
            port: 80,
            target: "/",
        }
    }

    /// What is said before a connection, and of this address: `allow`, `deny`, with the rule's line.
    fn said(rules: &Arc<Rules>, request: &Request<'_>, address: &str) -> String {
        let mut reach = Reach::default();
        let word = |d: Decision| {
            let line = d.rule.map_or("-".into(), |rule| match rule {
                RuleId::PROTECTED => "protected".into(),
                RuleId::DEFAULT => "default".into(),
                rule => rule.line.to_string(),
            });
            match d.verdict {
                Verdict::Allow => format!("allow {line}"),
                Verdict::Deny(_) => format!("deny {line}"),
            }
        };
        let first = rules.decide(request, &mut reach);
        match first.verdict {
            Verdict::Deny(_) => word(first),
            Verdict::Allow => {
                let then = reach.judge(address.parse().unwrap(), request.port);
                format!("{}, {}", word(first), word(then))
            }
        }
    }

    #[test]
    fn the_first_rule_that_has_a_request_decides_and_addresses_are_judged_when_known() {
        use Mode::{Enforce, Open};
        use Scope::{Protected, Unrestricted};
        let public = "93.184.216.34";
        for (mode, scope, written, host, address, expected) in [
            (Open, Unrestricted, "", "a.example", "127.0.0.1", "allow -, allow -"),
            (Open, Protected, "", "a.example", public, "allow -, allow -"),
            (Open, Protected, "", "a.example", "127.0.0.1", "allow -, deny protected"),
            (Open, Protected, "allow to a.example", "a.example", "127.0.0.1", "allow 1, allow 1"),
            (Open, Protected, "allow to 127.0.0.0/8", "a.example", "127.0.0.1", "allow -, allow 1"),
            (
                Open,
                Protected,
                "allow to 127.0.0.0/8",
                "a.example",
                "::ffff:127.0.0.1",
                "allow -, allow 1",
            ),
            (
                Open,
                Protected,
                "allow to 127.0.0.0/8",
                "a.example",
                "10.0.0.1",
                "allow -, deny protected",
            ),
            (Open, Unrestricted, "deny to 10.0.0.0/8", "a.example", "10.0.0.1", "allow -, deny 1"),
            (Open, Unrestricted, "deny to 10.0.0.0/8", "10.0.0.1", "10.0.0.1", "deny 1"),
            (Open, Unrestricted, "deny to 10.0.0.0/8", "::ffff:10.0.0.1", "10.0.0.1", "deny 1"),
            (
                Open,
                Unrestricted,
                "allow to b.example\ndeny to .example",
                "a.example",
                public,
                "deny 2",
            ),
            (
                Open,
                Unrestricted,
                "allow to b.example\ndeny to .example",
                "b.example",
                public,
                "allow 1, allow 1",
            ),
            (Enforce, Unrestricted, "allow to b.example", "a.example", public, "deny default"),
            (Enforce, Unrestricted, "allow to b.example", "b.example", public, "allow 1, allow 1"),
            (
                Enforce,
                Unrestricted,
                "allow to 10.0.0.0/8",
                "a.example",
                "10.0.0.1",
                "allow -, allow 1",
            ),
            (
                Enforce,
                Unrestricted,
                "allow to 10.0.0.0/8",
                "a.example",
                public,
                "allow -, deny default",
            ),
            // A denial by name stands before an address that comes later in the list.
            (
                Open,
                Protected,
                "deny to a.example\nallow to 10.0.0.0/8",
                "a.example",
                "10.0.0.1",
                "deny 1",
            ),
            (
                Open,
                Protected,
                "allow to 10.0.0.0/8\ndeny to a.example",
                "a.example",
                "10.0.0.1",
                "allow -, allow 1",
            ),
            (
                Open,
                Protected,
                "allow to 10.0.0.0/8\ndeny to a.example",
                "a.example",
                public,
                "allow -, deny 2",
            ),
            (
                Open,
                Unrestricted,
                "deny user eve to a.example",
                "a.example",
                public,
                "allow -, allow -",
            ),
            (
                Open,
                Unrestricted,
                "deny method POST to a.example",
                "a.example",
                public,
                "allow -, allow -",
            ),
            (Open, Unrestricted, "deny method GET to a.example", "a.example", public, "deny 1"),
            (Open, Unrestricted, "deny client 10.0.0.0/8", "a.example", public, "deny 1"),
            (
                Open,
                Unrestricted,
                "allow client 10.0.0.1\ndeny client 10.0.0.0/8",
                "a.example",
                public,
                "allow -, allow -",
            ),
        ] {
            let rules = rules(mode, scope, written);
            let said = said(&rules, &request(host), address);
            assert_eq!(said, expected, "{mode:?} {scope:?} {written:?} {host} {address}");
        }
    }

    #[test]
    fn protected_mode_serves_an_allowed_client_from_anywhere() {
        let far = Request { client: "8.8.8.8".parse().unwrap(), ..request("a.example") };
        let plain = rules(Mode::Open, Scope::Protected, "");
        assert_eq!(said(&plain, &far, "93.184.216.34"), "deny protected");
        let allowed = rules(Mode::Open, Scope::Protected, "allow client 8.8.8.0/24");
        assert_eq!(said(&allowed, &far, "93.184.216.34"), "allow -, allow -");
    }

    #[test]
    fn a_rule_that_names_clients_among_others_is_looked_at_in_its_place() {
        use Scope::{Protected, Unrestricted};
        let public = "93.184.216.34";
        for (scope, written, client, address, expected) in [
            // The first that has the request, whatever it is about.
            (
                Unrestricted,
                "allow to a.example\ndeny if-client 10.0.0.1",
                "10.0.0.1",
                public,
                "allow 1, allow 1",
            ),
            (
                Unrestricted,
                "deny if-client 10.0.0.1\nallow to a.example",
                "10.0.0.1",
                public,
                "deny 1",
            ),
            // One that says nothing of destinations leaves those to the guard.
            (Protected, "allow if-client 10.0.0.1", "10.0.0.1", public, "allow 1, allow -"),
            (
                Protected,
                "allow if-client 10.0.0.1",
                "10.0.0.1",
                "127.0.0.1",
                "allow 1, deny protected",
            ),
            (Protected, "allow method GET", "10.0.0.1", "127.0.0.1", "allow 1, deny protected"),
            // Who comes from anywhere has to be named.
            (Protected, "allow to a.example", "8.8.8.8", public, "deny protected"),
            (Protected, "allow to 93.0.0.0/8", "8.8.8.8", public, "deny protected"),
            (Protected, "deny to a.example", "8.8.8.8", public, "deny 1"),
            (Protected, "allow if-client 8.8.8.0/24", "8.8.8.8", public, "allow 1, allow -"),
            (
                Protected,
                "allow if-client 8.8.8.0/24 to a.example",
                "8.8.8.8",
                public,
                "allow 1, allow 1",
            ),
            (
                Protected,
                "allow if-client 8.8.8.0/24 to 93.0.0.0/8",
                "8.8.8.8",
                public,
                "allow -, allow 1",
            ),
            (
                Protected,
                "allow if-client 8.8.8.0/24 to 94.0.0.0/8",
                "8.8.8.8",
                public,
                "allow -, deny protected",
            ),
        ] {
            let rules = rules(Mode::Open, scope, written);
            let request = Request { client: client.parse().unwrap(), ..request("a.example") };
            assert_eq!(said(&rules, &request, address), expected, "{written:?} {client} {address}");
        }
    }

    #[test]
    fn reach_forgets_the_request_before() {
        let mut reach = Reach::default();
        let all = rules(Mode::Open, Scope::Protected, "allow to 10.0.0.0/8");
        let _ = all.decide(&request("a.example"), &mut reach);
        reach.clear();
        let verdict = reach.judge("10.0.0.1".parse().unwrap(), 80).verdict;
        assert!(matches!(verdict, Verdict::Deny(_)));
    }
}
