//! Tests which hosts patterns match, and the choice among many patterns.

use proptest::prelude::*;

use super::*;

fn glob(text: &str) -> HostPattern {
    HostPattern::glob(text.as_bytes(), Vec::new()).unwrap()
}

#[test]
fn a_pattern_matches_the_hosts_that_it_describes() {
    for (pattern, yes, no) in [
        (
            "||ads.",
            &["ads.example", "x.ads.example", "ads.ads.x"][..],
            &["bads.example", "ads", "x.ads"][..],
        ),
        ("||ads", &["ads", "adserver.example", "x.ads.example"], &["bads.example", "x.y"]),
        (
            "||ad*.example^",
            &["ad.example", "ads7.example", "x.ad-y.z.example"],
            &["ad.example.com", "bad.example", "example"],
        ),
        (
            "||ads*.com",
            &["ads.com", "ads7.com", "x.ads.computer.example"],
            &["ads.org", "xads.com"],
        ),
        ("|ads.", &["ads.example"], &["x.ads.example"]),
        ("|ads*x|", &["ads.x", "adsxx"], &["ads.y", "x.ads.x", "adsx.y"]),
        ("-banner.", &["x-banner.example"], &["banner.example", "x-banner"]),
        ("ads.example^", &["ads.example", "bads.example", "x.ads.example"], &["ads.example.com"]),
        (
            "*-ads.*.example^",
            &["x-ads.y.example", "-ads.y.z.example"],
            &["x-ads.example", "ads.y.example"],
        ),
        ("://ads.", &["ads.example"], &["x.ads.example"]),
        ("/ads.", &["ads.example"], &["x.ads.example"]),
        ("||a*a*b^", &["aab", "axaxb", "x.aa.b"], &["ab", "aba"]),
        ("||192.0.2.*", &["192.0.2.1"], &["192.0.3.1"]),
        (".ads.", &["x.ads.example"], &["ads.example", "x.ads"]),
        ("adserver", &["adserver", "myadserver.example"], &["ad.server"]),
    ] {
        let glob = glob(pattern);
        yes.iter().for_each(|host| assert!(glob.matches(host), "{pattern} {host}"));
        no.iter().for_each(|host| assert!(!glob.matches(host), "{pattern} {host}"));
    }
}

#[test]
fn a_text_that_no_host_or_every_host_matches_is_no_pattern() {
    use NoPattern::{General, NotAHost};
    for (text, reason) in [
        ("", General),
        ("||", General),
        ("*", General),
        ("||*", General),
        ("*.*", General),
        ("ad", General),
        ("||ads.example^path", NotAHost),
        ("ads.example/path", NotAHost),
        ("&ad_type=", NotAHost),
        ("|https://ads.", NotAHost),
        ("/ads/*", NotAHost),
        ("ads example", NotAHost),
        ("größe*", NotAHost),
    ] {
        assert_eq!(HostPattern::glob(text.as_bytes(), Vec::new()).unwrap_err(), reason, "{text}");
    }
    let all_but = HostPattern::glob(b"*", vec![b"example"[..].into()]).unwrap();
    assert!(all_but.matches("a.test") && !all_but.matches("a.example"));
}

#[test]
fn a_regular_expression_is_found_anywhere_in_a_host() {
    for (regex, yes, no) in [
        (
            r"^ads?[0-9]*\.",
            &["ad.example", "ads12.example"][..],
            &["x.ads.example", "adsx.example"][..],
        ),
        (r"ADS", &["xadsx"], &["a.d.s"]),
        (r"(^|\.)a\.example$", &["a.example", "x.a.example"], &["ba.example", "a.example.com"]),
        (r"[_.-]ad[_.-]", &["x-ad.example"], &["ad.example"]),
        (r"\bads\b", &["x.ads.example"], &["xads.example"]),
        (r"^[[:alnum:]]{5}\.example$", &["abc12.example"], &["abcd.example"]),
        (r"\/|^x$", &["x"], &["xy"]),
    ] {
        let pattern = HostPattern::regex(regex.as_bytes(), Vec::new()).unwrap();
        yes.iter().for_each(|host| assert!(pattern.matches(host), "{regex} {host}"));
        no.iter().for_each(|host| assert!(!pattern.matches(host), "{regex} {host}"));
    }
    for wrong in [&b"a(?=b)"[..], b"(a", b"\\1", b"[a", b"\xff"] {
        let reason = HostPattern::regex(wrong, Vec::new()).unwrap_err();
        assert_eq!(reason, NoPattern::Regex);
    }
    for (unfit, reason) in [
        (&b"[ab]*a[ab]{14}c"[..], NoPattern::Regex),
        (b"(a{500}){500}", NoPattern::Regex),
        (b".", NoPattern::General),
        (b"^", NoPattern::General),
        (b".*", NoPattern::General),
        (b"[a-z0-9]", NoPattern::General),
    ] {
        let pattern = HostPattern::regex(unfit, Vec::new()).unwrap();
        assert_eq!(pattern.check(), Err(reason), "{}", String::from_utf8_lossy(unfit));
    }
}

fn set(patterns: &[(&str, Rank)]) -> HostPatterns {
    let listed = (1..).zip(patterns).map(|(line, (text, rank))| {
        let pattern = match text.strip_prefix('/').and_then(|text| text.strip_suffix('/')) {
            Some(regex) => HostPattern::regex(regex.as_bytes(), Vec::new()),
            None => HostPattern::glob(text.as_bytes(), Vec::new()),
        };
        ListedPattern { pattern: pattern.unwrap(), rank: *rank, line }
    });
    HostPatterns::new(listed.collect(), &[], |_, _| {}).unwrap()
}

#[test]
fn the_highest_rank_decides_and_then_the_first_line() {
    use Rank::{Block, Except, Important};
    let set = set(&[
        ("||ads*", Block),
        ("||ad*.ok.example^", Except),
        ("/^ads/", Block),
        ("/^.{4}$/", Block),
        ("-x.ok.", Important),
        ("/[0-9]$/", Except),
    ]);
    for (host, line) in [
        ("ads.example", Some(1)),
        ("ads.ok.example", Some(2)),
        ("ads-x.ok.example", Some(5)),
        ("abcd", Some(4)),
        ("adsd", Some(1)),
        ("abc7", Some(6)),
        ("other.example", None),
    ] {
        assert_eq!(set.find(host).map(|found| found.line), line, "{host}");
    }
}

#[test]
fn patterns_that_decide_nothing_are_told() {
    let listed = |line, text: &str, rank| ListedPattern { pattern: glob(text), rank, line };
    let all = vec![
        listed(1, "||ads*", Rank::Block),
        listed(2, "||ads*", Rank::Block),
        listed(3, "||bad*", Rank::Block),
        listed(4, "||bad*", Rank::Except),
        listed(5, "||off*", Rank::Block),
        listed(6, "||off*", Rank::Except),
    ];
    let mut unused = Vec::new();
    let off = [(glob("||off*"), Rank::Block)];
    let set = HostPatterns::new(all, &off, |it, why| unused.push((it.line, why))).unwrap();
    unused.sort_by_key(|(line, _)| *line);
    let expected = [(2, Unused::Same), (3, Unused::Overruled), (5, Unused::SwitchedOff)];
    assert_eq!((set.count(), &*unused), (3, &expected[..]));
}

proptest! {
    /// A pattern matches what a regular expression of the same meaning matches.
    #[test]
    fn a_pattern_agrees_with_a_regular_expression(
        start in "(\\|\\||\\||)",
        middle in "[ab.*]{1,7}",
        end in "(\\^|\\||)",
        hosts in prop::collection::vec("[ab]{1,3}(\\.[ab]{1,3}){0,3}", 1..20),
    ) {
        let text = format!("{start}{middle}{end}");
        let Ok(glob) = HostPattern::glob(text.as_bytes(), Vec::new()) else { return Ok(()) };
        let before = match &*start {
            "||" => r"^(.+\.)?",
            "|" => "^",
            _ => "",
        };
        let middle = middle.replace('.', r"\.").replace('*', ".*");
        let after = if end.is_empty() { "" } else { "$" };
        let regex = regex::Regex::new(&format!("{before}{middle}{after}")).unwrap();
        for host in &hosts {
            prop_assert_eq!(glob.matches(host), regex.is_match(host), "{} {}", text, host);
        }
    }

    /// The set finds what a search through all patterns finds.
    #[test]
    fn a_set_answers_as_a_search_through_all_patterns(
        patterns in prop::collection::vec(("(\\|\\|)?[ab][ab.*]{2,6}\\^?", 0..4_usize), 0..30),
        hosts in prop::collection::vec("[ab]{1,3}(\\.[ab]{1,3}){0,3}", 1..20),
    ) {
        let ranks = [Rank::Block, Rank::Except, Rank::Important, Rank::ImportantExcept];
        let listed: Vec<_> = (1..)
            .zip(&patterns)
            .filter_map(|(line, (text, rank))| {
                let pattern = HostPattern::glob(text.as_bytes(), Vec::new()).ok()?;
                Some(ListedPattern { pattern, rank: ranks[*rank], line })
            })
            .collect();
        let set = HostPatterns::new(listed.clone(), &[], |_, _| {}).unwrap();
        for host in &hosts {
            let matching = listed.iter().filter(|it| it.pattern.matches(host));
            let expected = matching.min_by_key(|it| (Reverse(it.rank), it.line));
            let found = set.find(host);
            prop_assert_eq!(found.map(|it| it.line), expected.map(|it| it.line), "{}", host);
        }
    }
}

/// A host that has one text many times is compared with each of its patterns once, and the number of patterns
/// without a text is bounded.
#[test]
fn no_host_is_compared_with_a_pattern_twice() {
    let mut seen = Seen::default();
    let new = (0..200).map(|number| seen.is_new(number % 100, 1000)).filter(|new| *new).count();
    assert_eq!(new, 100);
    let regexes = (0..=MOST_ALWAYS as u32).map(|number| {
        let text = format!("^[ab]{{{}}}[cd]{{{}}}$", number % 60 + 1, number / 60 + 1);
        let pattern = HostPattern::regex(text.as_bytes(), Vec::new()).unwrap();
        ListedPattern { pattern, rank: Rank::Block, line: number + 1 }
    });
    let wrong = HostPatterns::new(regexes.collect(), &[], |_, _| {}).unwrap_err();
    assert!(wrong.contains("regular expressions without a fixed text"), "{wrong}");
}

#[test]
fn regular_expressions_have_a_bound_together() {
    let large = (0..400).map(|number| {
        let text = format!("[ab]*a[ab]{{14}}c{number}");
        let pattern = HostPattern::regex(text.as_bytes(), Vec::new()).unwrap();
        ListedPattern { pattern, rank: Rank::Block, line: number + 1 }
    });
    let wrong = HostPatterns::new(large.collect(), &[], |_, _| {}).unwrap_err();
    assert!(wrong.contains("take more than 64 MiB"), "{wrong}");
}
