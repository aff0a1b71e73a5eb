use super::*;
use crate::policy::rules::Way;

fn request<'a>(way: Way, host: &'a str, port: u16, target: &'a str) -> Request<'a> {
    Request {
        client: IpAddr::from([127, 0, 0, 1]),
        user: None,
        method: "GET",
        way,
        host,
        ip: host.parse().ok(),
        port,
        target,
    }
}

/// The final verdict, after as many looks as the automata need.
fn judged(urls: &Urls, request: &Request<'_>) -> UrlVerdict {
    let mut look = None;
    loop {
        match urls.decide(request, &mut look) {
            UrlVerdict::NotYet(_) => {}
            said => return said,
        }
    }
}

#[test]
fn a_url_has_one_spelling() {
    for (host, port, target, expected) in [
        ("a.example", 80, "http://a.example", "http://a.example/"),
        ("a.example", 80, "HTTP://A.Example.:80/X?Y", "http://a.example/X?Y"),
        ("a.example", 8080, "http://a.example:8080?q=/../", "http://a.example:8080/?q=/../"),
        ("a.example", 80, "http://a.example/%61%64s/%2f%c3%bC", "http://a.example/ads/%2F%C3%BC"),
        ("a.example", 80, "http://a.example/x/../ads/./y/..", "http://a.example/ads/"),
        ("a.example", 80, "http://a.example/x/%2e%2E/ads", "http://a.example/ads"),
        ("a.example", 80, "http://a.example/../../a//b/.", "http://a.example/a//b/"),
        ("a.example", 80, "http://a.example/.../..a/.b", "http://a.example/.../..a/.b"),
        ("a.example", 80, "http://a.example/%", "http://a.example/%"),
        ("a.example", 80, "http://a.example/%4/%zz?%7e", "http://a.example/%4/%zz?~"),
        ("::1", 80, "http://[::1]/", "http://[::1]/"),
    ] {
        assert_eq!(normal(&request(Way::Http, host, port, target)), expected, "{target}");
    }
    assert_eq!(normal(&request(Way::Ws, "a", 80, "ws://a/x")), "http://a/x");
}

#[test]
fn the_first_pattern_that_has_a_url_decides_and_tunnels_have_none() {
    let id = |line| RuleId { source: 3, line };
    let urls = Urls::new(&[
        (Action::Allow, id(1), "/ads/good"),
        (Action::Deny, id(2), "/ads/"),
        (Action::Deny, id(3), r"^http://b\.example/"),
        (Action::Deny, id(4), "(?i)\\.EXE$"),
    ])
    .unwrap();
    let decided = |way, host, target| match judged(&urls, &request(way, host, 80, target)) {
        UrlVerdict::Allows(rule, _) => Some((Action::Allow, rule)),
        UrlVerdict::Denies(rule, _) => Some((Action::Deny, rule)),
        UrlVerdict::TooLong(_)
        | UrlVerdict::NotYet(_)
        | UrlVerdict::TooHard(_)
        | UrlVerdict::Nothing => None,
    };
    let http = |host, target| decided(Way::Http, host, target).map(|(a, id)| (a, id.line));
    assert_eq!(http("a", "http://a/ads/good"), Some((Action::Allow, 1)));
    assert_eq!(http("a", "http://a/%61ds/x"), Some((Action::Deny, 2)));
    assert_eq!(http("b.example", "http://b.example"), Some((Action::Deny, 3)));
    assert_eq!(http("a", "http://a/x.exe"), Some((Action::Deny, 4)));
    assert_eq!(http("a", "http://a/"), None);
    assert_eq!(decided(Way::Ws, "a", "ws://a/ads/").map(|(_, id)| id.line), Some(2));
    assert_eq!(decided(Way::Connect, "a", "a:443/ads/"), None);
    let none = judged(&Urls::default(), &request(Way::Http, "a", 80, "http://a/ads/"));
    assert_eq!(none, UrlVerdict::Nothing);
}

#[test]
fn a_rule_refuses_a_path_in_every_reading_of_some_server() {
    let id = |line| RuleId { source: 3, line };
    let rule = |action, line, pattern| Urls::new(&[(action, id(line), pattern)]).unwrap();
    let urls = rule(Action::Deny, 1, "^http://a/ads(/|$)");
    let decide =
        |path: &str| judged(&urls, &request(Way::Http, "a", 80, &format!("http://a{path}")));
    for path in [
        "/ads/x",
        "//ads/x",
        "///ads//x",
        "/x/..//ads/x",
        "/x/..///../ads/x",
        "//x/../ads/x",
        "/ads%2fx",
        "/ads%2Fx",
        "/%2fads/x",
        "/%2f%2Fads%2f",
        "/x%2f..%2fads/x",
        "/x/..%2fads/x",
        "/x%2f%2e%2e%2fads/x",
        "/%252fads/x",
        "/x/%252e%252e/ads/x",
        "/./ads",
        "/%2e/ads",
        "/x/%2e%2e/ads",
        "/x/%2E./ads/",
        "/%61%64%73/x",
        "/%2561ds/x",
        "/ads;v=1/x",
        "/ads;/x",
        "/ads%3bv=1/x",
        "/;v=1/ads/x",
        "/x/..;/ads/x",
        "/x/..;a=b/ads/x",
        "/x/..%3b/ads/x",
        "/\\ads/x",
        "/ads\\x",
        "/x\\..\\ads",
        "/%5cads%5Cx",
        "/x/..%5cads",
        "/%255cads",
        "/x/;/..//..;\\ads%2f",
        "/ads/?q",
        "//ads/?/../",
        "/x/y/..//../ads/",
        "/x//..//../ads/x",
        "/ads%25252fx",
        "/%252561ds/x",
        "/ads%00/x",
        "/ads%09/x",
        "/a%0d%0Ads%7f/x",
        "/a%2500ds/x",
        "/%c0%afads/x",
        "/ads%C0%AFx",
        "/x/%c0%ae%c0%ae/ads/",
        "/ads%e0%80%afx",
        "/x%25c0%25afads/../../ads/",
        "/%c1%9cads",
    ] {
        assert!(matches!(decide(path), UrlVerdict::Denies(..)), "{path}: {:?}", decide(path));
    }
    for path in [
        "/",
        "/adsx",
        "/x/ads/",
        "/ad%2fs/",
        "/x?/ads/",
        "/x?//ads",
        "/x?%2fads",
        "/a;ds/",
        "/%ads/",
    ] {
        assert_eq!(decide(path), UrlVerdict::Nothing, "{path}");
    }
    // Rules still see the path as written.
    let urls_with = |pattern, path: &str| {
        let urls = rule(Action::Deny, 1, pattern);
        judged(&urls, &request(Way::Http, "a", 80, &format!("http://a{path}")))
    };
    assert!(matches!(urls_with("%00", "/a%00b"), UrlVerdict::Denies(..)));
    assert!(matches!(urls_with("%C0%AF", "/a%c0%afb"), UrlVerdict::Denies(..)));
    for (pattern, path) in [("//", "/a//b"), ("%2F", "/a%2fb"), (";", "/a;b"), ("\\\\", "/a\\b")] {
        let urls = rule(Action::Deny, 1, pattern);
        let said = judged(&urls, &request(Way::Http, "a", 80, &format!("http://a{path}")));
        assert!(matches!(said, UrlVerdict::Denies(..)), "{pattern} {path}");
    }
    let urls = rule(Action::Allow, 1, "^http://a/good/");
    for (path, allows) in [
        ("/good/x", true),
        ("/good//x", true),
        ("/good/x;v=1", true),
        ("/x/../good/", true),
        ("/good/..%2fbad", false),
        ("/good/x\\..\\..\\bad", false),
        ("/good/..;/bad", false),
        ("//good/x", false),
        ("/good%2fx", false),
    ] {
        let said = judged(&urls, &request(Way::Http, "a", 80, &format!("http://a{path}")));
        assert_eq!(matches!(said, UrlVerdict::Allows(..)), allows, "{path}: {said:?}");
    }
}

#[test]
fn a_url_that_is_too_long_to_be_looked_at_is_refused_where_a_rule_refuses_urls() {
    let id = |line| RuleId { source: 3, line };
    let longest = format!("http://a/{}", "x".repeat(MAX_URL - 9));
    let longer = format!("{longest}x");
    let both = [(Action::Allow, id(1), "^http://a/"), (Action::Deny, id(2), "/ads/")];
    for (rules, target, expected) in [
        (&both[..], &longest, UrlVerdict::Allows(id(1), longest.clone())),
        (&both, &longer, UrlVerdict::TooLong(id(2))),
        (&both[..1], &longest, UrlVerdict::Allows(id(1), longest.clone())),
        (&both[..1], &longer, UrlVerdict::Nothing),
    ] {
        let urls = Urls::new(rules).unwrap();
        assert_eq!(judged(&urls, &request(Way::Http, "a", 80, target)), expected);
    }
}

#[test]
fn a_long_query_behind_a_path_with_several_readings_is_looked_at() {
    let id = RuleId { source: 3, line: 1 };
    let urls = Urls::new(&[(Action::Deny, id, "/ads/")]).unwrap();
    let decide =
        |path: &str| judged(&urls, &request(Way::Http, "a", 80, &format!("http://a{path}")));
    for path in ["/a;jsessionid=1/b%2fc", "/a;x=1/b;y=2%2f..\\c//d", "/a%20b/c%252fd", "/a//b%3bc"]
    {
        for bytes in [2_100, 8_000 - path.len()] {
            let query = "q".repeat(bytes);
            assert_eq!(decide(&format!("{path}?{query}")), UrlVerdict::Nothing, "{path}? {bytes}");
            let refused = decide(&format!("{path}/..;/%2fads%2f?{query}"));
            assert!(matches!(refused, UrlVerdict::Denies(..)), "{path}: {refused:?}");
        }
    }
    let long = "/segment;v=1/%2fx".repeat(100);
    assert_eq!(decide(&long), UrlVerdict::Nothing);
    // The longest path whose readings are written down, with a query that is searched with
    // each.
    let longest = (1..200).rev().map(|count| "/a%2f//;\\%00".repeat(count));
    let longest = longest.map(|path| format!("http://a{path}?{}", "q".repeat(5_000)));
    let known = |target: &String| readings(&request(Way::Http, "a", 80, target)).is_some();
    let longest = longest.into_iter().find(known).unwrap();
    let begun = Instant::now();
    let count = readings(&request(Way::Http, "a", 80, &longest)).unwrap().paths.len();
    println!("{:?} to write {count} readings down", begun.elapsed());
    assert_eq!(judged(&urls, &request(Way::Http, "a", 80, &longest)), UrlVerdict::Nothing);
    // A path with too many readings is still refused.
    assert_eq!(decide(&"/a%2f//;\\".repeat(800)), UrlVerdict::TooLong(id));
}

#[test]
fn no_path_is_read_twice_in_the_same_way() {
    for (path, count) in [
        ("/a;jsessionid=1/b%2fc", 4),
        ("/a/b", 1),
        ("/a%20b", 2),
        ("/a//b", 2),
        ("/a;b/c", 2),
        ("/a\\b", 2),
    ] {
        let target = format!("http://a{path}");
        let paths = readings(&request(Way::Http, "a", 80, &target)).unwrap().paths;
        assert_eq!(paths.len(), count, "{paths:?}");
    }
}

#[test]
fn looks_at_a_hard_url_take_bounded_time_and_what_is_known_is_kept() {
    let id = RuleId { source: 3, line: 1 };
    let hard = format!("http://a/{}", {
        (0..7_000_u32).map(|i| if i * i % 7 < 3 { 'a' } else { 'b' }).collect::<String>()
    });
    // Each pattern takes about as long as a URL may.
    let patterns: Vec<String> =
        (0..12).map(|i| format!("[ab]*a[ab]{{{}}}[yz]", 4990 + i)).collect();
    assert!(patterns.iter().all(|pattern| Urls::check(pattern).is_ok()));
    let rules = |action| -> Vec<_> { patterns.iter().map(|p| (action, id, p.as_str())).collect() };
    let urls = Urls::new(&rules(Action::Deny)).unwrap();
    let asked = request(Way::Http, "a", 80, &hard);
    let (mut look, mut looks, mut longest) = (None, 0_u128, Duration::ZERO);
    let said = loop {
        let begun = Instant::now();
        let said = urls.decide(&asked, &mut look);
        longest = longest.max(begun.elapsed());
        looks += 1;
        if !matches!(said, UrlVerdict::NotYet(_)) {
            break said;
        }
    };
    println!("{longest:?} a look, {looks} looks");
    assert_eq!(said, UrlVerdict::TooHard(Some(id)));
    assert!(looks <= ALL_LOOKS.as_micros() / TIME.as_micros() + 1, "{looks}");
    assert!(look.is_some_and(|look| look.search.is_new()), "it keeps no states");
    // If the rules only allow, the URL is merely not allowed.
    let urls = Urls::new(&rules(Action::Allow)).unwrap();
    assert_eq!(judged(&urls, &asked), UrlVerdict::TooHard(None));
    // A verdict is kept, but only for the same rules.
    let ordinary = request(Way::Http, "a", 80, "http://a/ads/");
    let urls = Urls::new(&[(Action::Deny, id, "/ads/")]).unwrap();
    let mut look = None;
    assert!(matches!(urls.decide(&ordinary, &mut look), UrlVerdict::Denies(..)));
    assert!(matches!(urls.decide(&ordinary, &mut look), UrlVerdict::Denies(..)));
    let others = Urls::new(&[(Action::Deny, id, "/other/")]).unwrap();
    assert_eq!(others.decide(&ordinary, &mut look), UrlVerdict::Nothing);
}

#[test]
fn what_is_no_pattern_is_refused_with_what_to_try() {
    for wrong in ["", "(", "a{1000}{1000}{1000}", "[z-a]", "^ws://a", "ws://"] {
        let error = Urls::check(wrong).unwrap_err();
        assert!(error.contains("give a regular expression such as"), "{wrong}: {error}");
    }
    assert!(Urls::check("^http://").is_ok());
}
