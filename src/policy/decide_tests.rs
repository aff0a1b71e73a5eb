//! Tests decisions: rules and a request in, a verdict out.

use super::*;
use crate::policy::destination::DestinationPattern;
use crate::policy::network::Network;
use crate::policy::rules::{Rule, Way};

/// The rule that `--policy` is.
const POLICY: RuleId = RuleId { source: 8, line: 0 };

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
                "to" => rule
                    .destinations
                    .push(DestinationPattern::parse(words.next().unwrap()).unwrap()),
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
    let rules = Arc::new(Ruleset::new(rules.collect()));
    Arc::new(Rules::new(scope, rules, &Access { mode, by_default: POLICY, ..Access::default() }))
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

/// The verdicts before a connection and on this address: `allow`, `deny`, with the rule's line.
fn said(rules: &Arc<Rules>, request: &Request<'_>, address: &str) -> String {
    let mut addresses = AddressRules::default();
    let word = |d: Decision| {
        let line = d.rule.map_or("-".into(), |rule| match rule {
            RuleId::PROTECTED => "protected".into(),
            POLICY => "default".into(),
            rule => rule.line.to_string(),
        });
        match d.verdict {
            Verdict::Allow if d.would_deny.is_some() => format!("would deny {line}"),
            Verdict::Allow => format!("allow {line}"),
            Verdict::Deny(_) => format!("deny {line}"),
        }
    };
    let first = rules.decide(request, &mut addresses);
    match first.verdict {
        Verdict::Deny(_) => word(first),
        Verdict::Allow => {
            let then = addresses.judge(address.parse().unwrap(), request.port);
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
        (Open, Unrestricted, "allow to b.example\ndeny to .example", "a.example", public, "deny 2"),
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
        (Enforce, Unrestricted, "allow to 10.0.0.0/8", "a.example", "10.0.0.1", "allow -, allow 1"),
        (
            Enforce,
            Unrestricted,
            "allow to 10.0.0.0/8",
            "a.example",
            public,
            "allow -, deny default",
        ),
        // A denial by name comes before an address later in the list.
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
        (Open, Unrestricted, "deny user eve to a.example", "a.example", public, "allow -, allow -"),
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
        // The first rule that matches decides, whatever it is about.
        (
            Unrestricted,
            "allow to a.example\ndeny if-client 10.0.0.1",
            "10.0.0.1",
            public,
            "allow 1, allow 1",
        ),
        (Unrestricted, "deny if-client 10.0.0.1\nallow to a.example", "10.0.0.1", public, "deny 1"),
        // A rule without destinations leaves them to the guard.
        (Protected, "allow if-client 10.0.0.1", "10.0.0.1", public, "allow 1, allow -"),
        (Protected, "allow if-client 10.0.0.1", "10.0.0.1", "127.0.0.1", "allow 1, deny protected"),
        (Protected, "allow method GET", "10.0.0.1", "127.0.0.1", "allow 1, deny protected"),
        // A client from anywhere has to be named.
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
fn report_lets_through_what_enforce_refuses_and_names_the_same_rule() {
    use Scope::{Protected, Unrestricted};
    let (public, near) = ("93.184.216.34", "127.0.0.1");
    for (scope, written, host, address, enforced, reported) in [
        (Unrestricted, "", "a.example", public, "deny default", "would deny default"),
        (
            Unrestricted,
            "allow to a.example",
            "a.example",
            public,
            "allow 1, allow 1",
            "allow 1, allow 1",
        ),
        (Unrestricted, "deny to a.example", "a.example", public, "deny 1", "would deny 1"),
        // The rule is that of the address if the address decides.
        (
            Unrestricted,
            "deny to 127.0.0.1\nallow to 127.0.0.0/8",
            "a.example",
            near,
            "allow -, deny 1",
            "allow -, would deny 1",
        ),
        (
            Unrestricted,
            "deny to 127.0.0.1\nallow to 127.0.0.0/8",
            "a.example",
            public,
            "allow -, deny default",
            "allow -, would deny default",
        ),
        (
            Unrestricted,
            "deny to 127.0.0.1\nallow to 127.0.0.0/8",
            "a.example",
            "127.0.0.2",
            "allow -, allow 2",
            "allow -, allow 2",
        ),
        // If enforced, it would not get as far as an address.
        (
            Unrestricted,
            "deny to 127.0.0.1",
            "a.example",
            near,
            "deny default",
            "would deny default",
        ),
        // Rules on clients and protected mode are enforced all the same.
        (Unrestricted, "deny client 10.0.0.1", "a.example", public, "deny 1", "deny 1"),
        (Protected, "", "a.example", near, "deny default", "would deny default, deny protected"),
        (
            Protected,
            "deny to 127.0.0.1\nallow to 127.0.0.0/8",
            "a.example",
            near,
            "allow -, deny 1",
            "allow -, deny protected",
        ),
        (
            Protected,
            "deny to .example",
            "a.example",
            "10.0.0.1",
            "deny 1",
            "would deny 1, deny protected",
        ),
    ] {
        let of = |mode| said(&rules(mode, scope, written), &request(host), address);
        assert_eq!(of(Mode::Enforce), enforced, "{written:?} {address}");
        // An allowed request is judged by its address, as before.
        let said = of(Mode::Report);
        let said = match said.split_once(", ") {
            Some((first, then)) if first == then && first.starts_with("would") => first,
            _ => &said,
        };
        assert_eq!(said, reported, "{written:?} {address}");
    }
    // Report mode lets no client in.
    let far = Request { client: "8.8.8.8".parse().unwrap(), ..request("a.example") };
    for written in ["", "deny to a.example", "allow to a.example"] {
        let rules = rules(Mode::Report, Protected, written);
        assert_eq!(said(&rules, &far, public), "deny protected", "{written}");
    }
}

#[test]
fn a_bound_comes_before_what_allows_and_is_reported_like_a_rule() {
    let bounded = |mode| {
        let rules = rules(mode, Scope::Unrestricted, "allow to a.example");
        let id = RuleId { source: 9, line: 77 };
        let bounds = Bounds { methods: Some((id, vec!["GET".into()])), ..Bounds::default() };
        Arc::new(Rules { bounds, ..Rules::clone(&rules) })
    };
    let post = Request { method: "POST", ..request("a.example") };
    let public = "93.184.216.34";
    assert_eq!(said(&bounded(Mode::Open), &post, public), "deny 77");
    assert_eq!(said(&bounded(Mode::Enforce), &post, public), "deny 77");
    assert_eq!(said(&bounded(Mode::Report), &post, public), "would deny 77, would deny 77");
    assert_eq!(said(&bounded(Mode::Enforce), &request("a.example"), public), "allow 1, allow 1");
}

#[test]
fn reach_forgets_the_request_before() {
    let mut addresses = AddressRules::default();
    let all = rules(Mode::Open, Scope::Protected, "allow to 10.0.0.0/8");
    let _ = all.decide(&request("a.example"), &mut addresses);
    addresses.clear();
    let verdict = addresses.judge("10.0.0.1".parse().unwrap(), 80).verdict;
    assert!(matches!(verdict, Verdict::Deny(_)));
}

#[test]
fn a_rule_on_urls_comes_before_what_allows_and_opens_no_address() {
    use Mode::{Enforce, Open, Report};
    let public = "93.184.216.34";
    let id = |line| RuleId { source: 8, line };
    let urls = [(Action::Allow, id(11), "/good"), (Action::Deny, id(12), "/bad")];
    let urls = Urls::new(&urls).unwrap();
    for (mode, written, target, address, expected) in [
        (Open, "", "http://a.example/bad", public, "deny 12"),
        (Open, "", "http://a.example/bad/good", public, "allow 11, allow -"),
        (Open, "", "http://a.example/", public, "allow -, allow -"),
        (Open, "allow to a.example", "http://a.example/bad", public, "deny 12"),
        (Open, "allow to a.example", "http://a.example/good", public, "allow 1, allow 1"),
        (Open, "deny to a.example", "http://a.example/good", public, "deny 1"),
        (Open, "allow to 10.0.0.0/8", "http://a.example/bad", "10.0.0.1", "deny 12"),
        (Open, "", "http://a.example/good", "10.0.0.1", "allow 11, deny protected"),
        (Enforce, "", "http://a.example/good", public, "allow 11, allow -"),
        (Enforce, "", "http://a.example/", public, "deny default"),
        (Report, "", "http://a.example/good", public, "allow 11, allow -"),
        (Report, "", "http://a.example/bad", public, "would deny 12, would deny 12"),
    ] {
        let named = rules(mode, Scope::Protected, written);
        let rules = Arc::new(Rules { urls: urls.clone(), ..Rules::clone(&named) });
        let request = Request { target, ..request("a.example") };
        assert_eq!(said(&rules, &request, address), expected, "{mode:?} {written:?} {target}");
    }
}

/// Lists together with everything else that decides, in the order of the decision.
#[test]
fn lists_come_behind_rules_and_before_what_holds_without_one() {
    use Mode::{Enforce, Open, Report};
    use Scope::{Protected, Unrestricted};
    let public = "93.184.216.34";
    let list = Arc::new(crate::policy::list_draft::filter_of(&[
        "good.ads.test\nours.test",
        "||ads.test^\n@@||fine.ads.test^\n@@||other.test^\n||192.0.2.1^",
    ]));
    for (mode, scope, written, host, address, expected) in [
        (Open, Unrestricted, "", "x.ads.test", public, "deny 1"),
        (Open, Unrestricted, "", "a.test", public, "allow -, allow -"),
        (Open, Unrestricted, "", "192.0.2.1", "192.0.2.1", "deny 4"),
        // A name is not listed because its address is.
        (Open, Unrestricted, "", "a.test", "192.0.2.1", "allow -, allow -"),
        (Open, Unrestricted, "", "good.ads.test", public, "allow 1, allow -"),
        (Open, Unrestricted, "", "fine.ads.test", public, "allow 2, allow -"),
        (Open, Unrestricted, "allow to .ads.test", "x.ads.test", public, "allow 1, allow 1"),
        (Open, Unrestricted, "deny to .test", "good.ads.test", public, "deny 1"),
        // A rule may still allow the address.
        (Open, Protected, "allow to 10.0.0.0/8", "x.ads.test", "10.0.0.1", "allow -, allow 1"),
        (Open, Protected, "allow to 10.0.0.0/8", "x.ads.test", public, "allow -, deny 1"),
        // Under `enforce` an allow list allows, and an exception does not.
        (Enforce, Unrestricted, "", "a.ours.test", public, "allow 2, allow -"),
        (Enforce, Unrestricted, "", "other.test", public, "deny default"),
        (Enforce, Unrestricted, "", "a.test", public, "deny default"),
        (Enforce, Unrestricted, "", "x.ads.test", public, "deny 1"),
        // A list judges names, and lifts no guard.
        (Open, Protected, "", "ours.test", "10.0.0.1", "allow 2, deny protected"),
        (Enforce, Protected, "", "ours.test", "10.0.0.1", "allow 2, deny protected"),
        (Report, Unrestricted, "", "x.ads.test", public, "would deny 1, would deny 1"),
        (Report, Unrestricted, "", "ours.test", public, "allow 2, allow -"),
        (Report, Unrestricted, "", "other.test", public, "would deny default, would deny default"),
    ] {
        let mut all = Arc::unwrap_or_clone(rules(mode, scope, written));
        all.filter = Some(Arc::clone(&list));
        let said = said(&Arc::new(all), &request(host), address);
        assert_eq!(said, expected, "{mode:?} {scope:?} {written:?} {host} {address}");
    }
}

#[test]
fn what_a_list_says_is_explained() {
    let list =
        crate::policy::list_draft::filter_of(&["good.ads.test", "||ads.test^\n@@||ok.test^"]);
    let mut all = Arc::unwrap_or_clone(rules(Mode::Open, Scope::Unrestricted, ""));
    all.filter = Some(Arc::new(list));
    let all = Arc::new(all);
    for (host, expected) in [
        ("x.ads.test", "denied: x.ads.test is on a block list"),
        ("good.ads.test", "goes on: good.ads.test is on an allow list"),
        ("ok.test", "goes on: ok.test is an exception"),
        ("a.test", "goes on: none of 3 names in lists has a.test"),
    ] {
        let mut notes = Vec::new();
        let _ = all.decide_traced(&request(host), &mut AddressRules::default(), &mut notes);
        let note = notes.iter().find(|note| note.step == DecisionStep::Filter).unwrap();
        assert_eq!(format!("{}: {}", note.outcome.word(), note.said), expected);
    }
}
