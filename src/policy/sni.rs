//! Judges the server name in a tunnel's ClientHello (SNI), because a client may name one host in CONNECT
//! and another one in TLS.
//!
//! The name is judged as if the CONNECT had asked for it, on the connection that exists. A hello without
//! a name is not judged, except with [`Sni::Match`]. `docs/threat-model.md` describes the limits of
//! this, and the effect of Encrypted ClientHello.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::decide::{AddressRules, Rules};
use super::rules::Request;
use super::verdict::{Decision, Mode, Verdict, against, allow, deny};

pub use super::access::Sni;

impl Rules {
    /// Whether a tunnel's first bytes have to be read. With [`Mode::Learn`] they are, because the learnt
    /// list needs every name that will be judged once it is enforced.
    pub fn read_hellos(&self) -> bool {
        self.judge_hellos() || self.sni != Sni::Off && self.mode == Mode::Learn
    }

    /// Whether a ClientHello decides anything.
    pub fn judge_hellos(&self) -> bool {
        match self.sni {
            Sni::Off => false,
            Sni::Check(_) => self.judge_names(),
            Sni::Match(_) => true,
        }
    }

    /// Decides on a tunnel whose ClientHello names `sni`, in lower case and without a trailing dot.
    /// `connect` is the CONNECT request, `address` the connected address.
    pub fn decide_hello(
        self: &Arc<Self>,
        connect: &Request<'_>,
        sni: Option<&str>,
        address: Option<SocketAddr>,
    ) -> Decision {
        if sni == Some(connect.host) {
            return allow(None);
        }
        let address_named = sni.and_then(|name| name.parse::<IpAddr>().ok());
        if let Some(named) = address_named {
            // An address is not a server name (RFC 6066 §3), but some clients send the address of their
            // CONNECT.
            return match connect.ip.map(|ip| ip.to_canonical()) == Some(named.to_canonical()) {
                true => allow(None),
                false => self
                    .decide_unreadable("the ClientHello names an address other than the CONNECT's"),
            };
        }
        if let Sni::Match(rule) = self.sni
            && connect.ip.is_none()
        {
            return against(
                self.mode,
                rule,
                "the ClientHello does not name the host of the CONNECT",
            );
        }
        let Some(host) = sni else { return allow(None) };
        if !self.judge_names() {
            return allow(None);
        }
        self.decide_name(&Request { host, ip: None, ..*connect }, address)
    }

    /// Decides on a tunnel whose second ClientHello names `second`. The server asked for it (RFC 8446
    /// §4.1.4) after the first, which names `first` and was already sent on. Servers differ in which of
    /// the two they use.
    pub fn decide_again(&self, first: Option<&str>, second: Option<&str>) -> Decision {
        match first == second {
            true => allow(None),
            false => {
                self.decide_unreadable("the second ClientHello does not name the host of the first")
            }
        }
    }

    /// Decides on a tunnel whose ClientHello cannot be read, for this reason.
    pub fn decide_unreadable(&self, reason: &'static str) -> Decision {
        match self.sni {
            Sni::Check(rule) | Sni::Match(rule) if self.judge_hellos() => {
                against(self.mode, rule, reason)
            }
            _ => allow(None),
        }
    }

    /// Decides on a tunnel that is connected as if its request had asked for this name.
    fn decide_name(self: &Arc<Self>, named: &Request<'_>, address: Option<SocketAddr>) -> Decision {
        let mut addresses = AddressRules::default();
        let decision = self.decide(named, &mut addresses);
        let decision = match (decision.verdict, address) {
            (Verdict::Allow, Some(to)) => addresses.judge(to.ip(), to.port()),
            _ => decision,
        };
        match (decision.verdict, decision.rule) {
            (Verdict::Deny(_), Some(rule)) => {
                deny("the ClientHello names a host that is refused", rule)
            }
            _ => decision,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Access;
    use crate::policy::destination::DestinationPattern;
    use crate::policy::protected_mode::Scope;
    use crate::policy::rule_id::RuleId;
    use crate::policy::rule_index::Ruleset;
    use crate::policy::rules::{Action, Rule, Way};

    const CHECK: Sni = Sni::Check(RuleId { source: 7, line: 1 });
    const MATCH: Sni = Sni::Match(RuleId { source: 7, line: 0 });

    /// `+a` allows a destination, `-a` refuses it.
    fn rules(mode: Mode, sni: Sni, written: &str) -> Arc<Rules> {
        let rule = |(text, line): (&str, u32)| {
            let (sign, to) = text.split_at(1);
            let action = if sign == "+" { Action::Allow } else { Action::Deny };
            let destinations = vec![DestinationPattern::parse(to).unwrap()];
            Rule { destinations, ..Rule::new(RuleId { source: 9, line }, action) }
        };
        let rules = written.split_whitespace().zip(1..).map(rule).collect();
        let by_default = RuleId { source: 1, line: 0 };
        let access = Access { mode, by_default, sni, ..Access::default() };
        Arc::new(Rules::new(Scope::Protected, Arc::new(Ruleset::new(rules)), &access))
    }

    /// `allow`, or `deny` with the source and line of the rule.
    fn said(rules: &Arc<Rules>, host: &str, sni: Option<&str>, address: &str) -> String {
        let connect = Request {
            client: "10.0.0.1".parse().unwrap(),
            user: None,
            method: "CONNECT",
            way: Way::Connect,
            host,
            ip: host.parse().ok(),
            port: 443,
            target: host,
        };
        let to = SocketAddr::new(address.parse().unwrap(), 443);
        let decision = rules.decide_hello(&connect, sni, Some(to));
        match (decision.verdict, decision.rule) {
            (Verdict::Allow, Some(rule)) if decision.would_deny.is_some() => {
                format!("would deny {}:{}", rule.source, rule.line)
            }
            (Verdict::Allow, _) => "allow".to_owned(),
            (Verdict::Deny(_), Some(rule)) => format!("deny {}:{}", rule.source, rule.line),
            (Verdict::Deny(_), None) => "deny".to_owned(),
        }
    }

    #[test]
    fn the_name_in_a_hello_is_judged_as_if_the_connect_had_named_it() {
        use Mode::{Enforce, Open, Report};
        let public = "93.184.216.34";
        for (mode, sni, written, host, named, address, expected) in [
            (Open, CHECK, "-bad.example", "good.example", Some("bad.example"), public, "deny 9:1"),
            (Open, CHECK, "-bad.example", "good.example", Some("other.example"), public, "allow"),
            (Open, CHECK, "-bad.example", "good.example", None, public, "allow"),
            (Open, CHECK, "-bad.example", public, Some("bad.example"), public, "deny 9:1"),
            (Open, CHECK, "-bad.example:80", "good.example", Some("bad.example"), public, "allow"),
            // An address is not a server name, except the address of the CONNECT.
            (Open, CHECK, "-bad.example", "10.0.0.7", Some("10.0.0.7"), "10.0.0.7", "allow"),
            (Open, CHECK, "-bad.example", "10.0.0.7", Some("::ffff:a00:7"), "10.0.0.7", "allow"),
            (Open, CHECK, "-bad.example", "10.0.0.7", Some("10.0.0.8"), "10.0.0.7", "deny 7:1"),
            (Open, CHECK, "-bad.example", "good.example", Some("10.0.0.7"), public, "deny 7:1"),
            (Open, CHECK, "-bad.example", "good.example", Some("::1"), public, "deny 7:1"),
            (Open, CHECK, "-10.0.0.0/8", "good.example", Some("10.0.0.7"), public, "allow"),
            (Enforce, CHECK, "+10.0.0.0/8", "10.0.0.7", Some("10.0.0.8"), "10.0.0.7", "deny 7:1"),
            (Open, MATCH, "", "10.0.0.7", Some("10.0.0.8"), "10.0.0.7", "deny 7:0"),
            (Report, CHECK, "-x.example", public, Some("10.0.0.8"), public, "would deny 7:1"),
            // Already judged, when the CONNECT named it.
            (Open, CHECK, "-bad.example", "bad.example", Some("bad.example"), public, "allow"),
            (
                Enforce,
                CHECK,
                "+good.example",
                "good.example",
                Some("good.example"),
                public,
                "allow",
            ),
            (
                Enforce,
                CHECK,
                "+good.example",
                "good.example",
                Some("x.example"),
                public,
                "deny 1:0",
            ),
            (Enforce, CHECK, "+10.0.0.0/8", "10.0.0.7", Some("x.example"), "10.0.0.7", "allow"),
            (Enforce, CHECK, "+10.0.0.0/8", "good.example", Some("x.example"), public, "deny 1:0"),
            // An allowed name gives access to a private address only through itself.
            (Open, CHECK, "+a.lan", "a.lan", Some("a.lan"), "10.0.0.7", "allow"),
            (Open, CHECK, "+a.lan", "a.lan", Some("b.lan"), "10.0.0.7", "deny 0:0"),
            (Open, CHECK, "+a.lan", "a.lan", Some("b.example"), public, "allow"),
            // Only rules on networks judge, so the name does not matter.
            (Open, CHECK, "+10.0.0.0/8", "good.example", Some("x.example"), "10.0.0.7", "allow"),
            (Open, MATCH, "", "good.example", Some("good.example"), public, "allow"),
            (Open, MATCH, "", "good.example", Some("www.good.example"), public, "deny 7:0"),
            (Open, MATCH, "", "good.example", None, public, "deny 7:0"),
            (Open, MATCH, "", public, Some("x.example"), public, "allow"),
            (Open, MATCH, "-x.example", public, Some("x.example"), public, "deny 9:1"),
            (Report, CHECK, "-x.example", public, Some("x.example"), public, "would deny 9:1"),
            (Report, CHECK, "+x.example", public, Some("y.example"), public, "would deny 1:0"),
            (Report, MATCH, "", "a.example", None, public, "would deny 7:0"),
        ] {
            let rules = rules(mode, sni, written);
            let found = said(&rules, host, named, address);
            assert_eq!(found, expected, "{written:?} {host} {named:?} {address}");
        }
    }

    #[test]
    fn a_second_hello_has_to_name_what_the_first_did() {
        for (mode, sni, written, expected) in [
            (Mode::Open, CHECK, "-bad.example", "deny"),
            (Mode::Open, MATCH, "", "deny"),
            (Mode::Enforce, CHECK, "", "deny"),
            (Mode::Report, CHECK, "-bad.example", "would deny"),
            (Mode::Learn, CHECK, "", "allow"),
            (Mode::Open, CHECK, "", "allow"),
        ] {
            let rules = rules(mode, sni, written);
            for (first, second) in [
                (Some("a.example"), Some("b.example")),
                (Some("a.example"), None),
                (None, Some("a.example")),
            ] {
                let decision = rules.decide_again(first, second);
                let said = match (decision.verdict, decision.would_deny) {
                    (Verdict::Deny(_), _) => "deny",
                    (Verdict::Allow, Some(_)) => "would deny",
                    (Verdict::Allow, None) => "allow",
                };
                assert_eq!(said, expected, "{mode:?} {sni:?} {first:?} {second:?}");
            }
            for same in [None, Some("a.example")] {
                assert_eq!(rules.decide_again(same, same), allow(None));
            }
        }
    }

    #[test]
    fn hellos_are_looked_at_only_if_something_depends_on_them() {
        for (mode, sni, written, expected) in [
            (Mode::Open, CHECK, "", false),
            (Mode::Open, CHECK, "-10.0.0.0/8 +2001:db8::1", false),
            (Mode::Open, CHECK, "-10.0.0.0/8 -a.example", true),
            (Mode::Open, CHECK, "+*.a.example", true),
            (Mode::Enforce, CHECK, "", true),
            (Mode::Enforce, Sni::Off, "-a.example", false),
            (Mode::Open, MATCH, "", true),
            (Mode::Learn, MATCH, "", true),
            (Mode::Learn, CHECK, "-a.example", true),
            (Mode::Learn, CHECK, "", false),
            (Mode::Learn, Sni::Off, "-a.example", false),
        ] {
            let rules = rules(mode, sni, written);
            assert_eq!(rules.judge_hellos(), expected, "{mode:?} {sni:?} {written}");
            // In learn mode a hello that cannot be read goes on.
            let reads = expected || mode == Mode::Learn && sni != Sni::Off;
            assert_eq!(rules.read_hellos(), reads, "{mode:?} {sni:?} {written}");
            let unreadable = rules.decide_unreadable("it is odd").verdict;
            assert_eq!(unreadable != Verdict::Allow, expected, "{mode:?} {sni:?} {written}");
            assert!(!reads || !rules.are_plain());
        }
    }
}
