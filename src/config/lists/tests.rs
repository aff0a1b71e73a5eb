//! Tests lists as files: formats together, what they report, and files that change.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::policy::list_format::ListOptions;

fn block(files: &[&Path]) -> Result<Option<Arc<Filter>>, Unusable> {
    let files: Vec<String> = files.iter().map(|f| f.to_str().unwrap().to_owned()).collect();
    read(of(&files), Priority::First, &mut Origins::default())
}

fn of(block: &[String]) -> Lists<'_> {
    Lists { block, allow: &[], options: ListOptions::Strict }
}

/// A list of more than a few pieces.
fn long(from: usize, count: usize) -> String {
    (from..from + count).map(|n| format!("name-{n}.example\n")).collect()
}

#[test]
fn several_files_are_one_filter_and_their_lines_are_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    fs::write(&one, format!("\u{feff}# 1\r\n{}", long(0, 20_000))).unwrap();
    fs::write(&two, format!("||b.test^\n{}", long(20_000, 20_000))).unwrap();
    let mut origins = Origins::default();
    let names = [&one, &two].map(|f| f.to_str().unwrap().to_owned());
    let filter = read(of(&names), Priority::First, &mut origins).unwrap().unwrap();
    assert_eq!(filter.len(), 40_001);
    for (host, file, line) in [
        ("name-0.example", &one, 2),
        ("a.name-19999.example", &one, 20_001),
        ("b.test", &two, 1),
        ("name-20000.example", &two, 2),
        ("name-39999.example", &two, 20_001),
    ] {
        let (_, rule) = filter.find(host).unwrap_or_else(|| panic!("{host}"));
        let expected = format!("{}:{line}", file.display());
        assert_eq!(origins.name(rule).to_string(), expected, "{host}");
    }
    assert!(filter.find("name-40000.example").is_none());
}

#[test]
fn a_file_that_is_replaced_meanwhile_is_read_whole_or_named() {
    let dir = tempfile::tempdir().unwrap();
    let (list, other) = (dir.path().join("list"), dir.path().join("other"));
    fs::write(&list, long(0, 20_000)).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in (0..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                let from = 100_000 * (round % 2);
                fs::write(&other, long(from, 20_000)).unwrap();
                fs::rename(&other, &list).unwrap();
            }
        });
        for _ in 0..20 {
            match block(&[&list]) {
                Err(wrong) => {
                    assert!(wrong.to_string().contains("it changes while it is read"))
                }
                Ok(filter) => {
                    let filter = filter.unwrap();
                    let one = filter.find("name-19999.example").is_some();
                    let other = filter.find("name-119999.example").is_some();
                    assert_eq!((filter.len(), one != other), (20_000, true));
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_file_that_grows_and_grows_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list");
    fs::write(&list, long(0, 100_000)).unwrap();
    let stop = AtomicBool::new(false);
    let wrong = thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = OpenOptions::new().append(true).open(&list).unwrap();
            while !stop.load(Ordering::Relaxed) {
                std::io::Write::write(&mut file, b"a.example\n").unwrap();
            }
        });
        let read = block(&[&list]);
        stop.store(true, Ordering::Relaxed);
        read.unwrap_err()
    });
    assert!(wrong.to_string().ends_with(
        "it changes while it is read; write the new one beside it, and rename it when it is whole"
    ));
    assert!(!wrong.denied);
}

#[test]
fn the_threads_end_with_the_reading() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list");
    fs::write(&list, long(0, 1000)).unwrap();
    let running = || {
        let threads = fs::read_dir("/proc/self/task").unwrap();
        let names = threads.filter_map(|t| fs::read_to_string(t.ok()?.path().join("comm")).ok());
        names.filter(|name| name.starts_with("lists-")).count()
    };
    let filter = block(&[&list]).unwrap();
    assert!(filter.is_some());
    // Threads of other tests may be running, and end meanwhile.
    let until = Instant::now() + std::time::Duration::from_secs(20);
    while running() > 0 {
        assert!(Instant::now() < until);
        thread::yield_now();
    }
}

/// A filter of these files, each in a directory that is gone afterwards.
fn filter_of(files: &[&str], options: ListOptions) -> Arc<Filter> {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..files.len())
        .map(|number| dir.path().join(format!("list-{number}")).to_str().unwrap().to_owned())
        .collect();
    names.iter().zip(files).for_each(|(name, text)| fs::write(name, text).unwrap());
    let lists = Lists { block: &names, allow: &[], options };
    read(lists, Priority::First, &mut Origins::default()).unwrap().unwrap()
}

fn is_refused(filter: &Filter, host: &str) -> bool {
    filter.has(host, host.parse().ok())
}

#[test]
fn published_lists_refuse_what_their_makers_meant() {
    for (text, refused, passing) in [
        (
            "||a.example^\n||a.example^$badfilter\n@@||b.example^\n||b.example^\n@@||b.example^$badfilter\n",
            &["b.example", "x.b.example"][..],
            &["a.example", "x.a.example"][..],
        ),
        (
            "||a.example^$denyallow=ok.a.example\n||z.example^",
            &["a.example", "x.a.example", "z.example"],
            &["ok.a.example", "x.ok.a.example"],
        ),
        (
            "||a.example^$denyallow=ok.a.example|fine.a.example\n||bad.ok.a.example^",
            &["a.example", "bad.ok.a.example"],
            &["ok.a.example", "fine.a.example"],
        ),
        ("*$denyallow=example|test\n", &["a.org"], &["a.example", "b.test"]),
        (
            "a.example # c\nb.example #c\nc.example#c\nd.example ; c\ne.example // c\nf.example\tTAG\n",
            &["a.example", "b.example", "c.example", "d.example", "e.example", "f.example"],
            &["tag", "example"],
        ),
        (
            ".stats.example/\n.ads.example^\n||z.example^\n",
            &["x.stats.example", "x.y.ads.example", "z.example"],
            &["stats.example", "ads.example", "xads.example"],
        ),
        (
            "||a.example^\n@@|ok.a.example^|\n@@|ok2.a.example^\n",
            &["a.example", "x.a.example", "x.ok.a.example"],
            &["ok.a.example", "ok2.a.example"],
        ),
        (
            "||a.example^\n@@||x*.a.example^\n@@/^re[0-9]/\n",
            &["a.example", "y.a.example"],
            &["x1.a.example", "z.x.a.example", "re7.a.example"],
        ),
        (
            "||a.example^$important\n@@||a.example^\n@@||ok.a.example^$important\n",
            &["a.example"],
            &["ok.a.example"],
        ),
        (
            "0.0.0.0 a.example\nfe80::1%lo0 localhost\nfe80::1%lo0 b.example\n",
            &["a.example", "b.example"],
            &["localhost"],
        ),
        (
            "||ads.^\n||name.\n|first.\n",
            &["name.example", "x.name.example", "first.example"],
            &["x.first.example", "ads.example"],
        ),
        (
            "/^ad[0-9]+\\./\n/track(er|ing)\\./$important\n@@||tracker.example^\n",
            &["ad7.example", "x.tracker.example"],
            &["ad.example", "adx.example"],
        ),
        (
            "^ad[0-9]+\\.\n(^|\\.)b\\.example$\n",
            &["ad7.example", "x.b.example"],
            &["xad7.example", "cb.example"],
        ),
        (
            "address=/a.example/0.0.0.0\nserver=/ok.a.example/#\nlocal=/b.example/\n",
            &["a.example", "x.a.example", "b.example"],
            &["ok.a.example", "x.ok.a.example"],
        ),
        (
            "server:\n local-zone: \"a.example\" always_nxdomain\n local-zone: \"ok.a.example\" always_transparent\n local-zone: \"b.example\" redirect\n local-data: \"b.example A 0.0.0.0\"\n",
            &["a.example", "x.b.example"],
            &["ok.a.example"],
        ),
        (
            "$TTL 30\n@ SOA localhost. root.localhost. 1 2 3 4 5\n NS localhost.\na.example CNAME .\n*.b.example CNAME .\nok.b.example CNAME rpz-passthru.\n",
            &["a.example", "x.b.example"],
            &["x.a.example", "b.example", "ok.b.example"],
        ),
        // Resolvers let the longest name decide.
        (
            "server=/example.com/10.0.0.1\naddress=/ads.example.com/0.0.0.0\n",
            &["ads.example.com", "x.ads.example.com"],
            &["example.com", "ok.example.com"],
        ),
        (
            "address=/ads.example/0.0.0.0\nserver=/ok.ads.example/1.2.3.4\naddress=/x.ok.ads.example/\n",
            &["ads.example", "y.x.ok.ads.example"],
            &["ok.ads.example", "y.ok.ads.example"],
        ),
        // An address may be that of a page which says that the name is refused.
        (
            "dc.example CNAME .\n*.dc.example CNAME .\nad.dc.example CNAME sinkhole.example.\n",
            &["dc.example", "ad.dc.example"],
            &["sinkhole.example"],
        ),
        (
            "*.example.com CNAME rpz-passthru.\nads.example.com CNAME .\n*.test CNAME .\nok.test CNAME OK.test.\n",
            &["ads.example.com", "x.test"],
            &["x.example.com", "ok.test"],
        ),
        (
            "||192.0.2.*^\n||198.51.100.7^\n",
            &["192.0.2.200", "198.51.100.7"],
            &["192.0.3.1", "198.51.100.70"],
        ),
    ] {
        let filter = filter_of(&[text], ListOptions::Strict);
        refused.iter().for_each(|host| assert!(is_refused(&filter, host), "{text}: {host}"));
        passing.iter().for_each(|host| assert!(!is_refused(&filter, host), "{text}: {host}"));
    }
}

#[test]
fn a_rule_is_switched_off_in_all_lists_but_not_in_other_words() {
    let files = [
        "||a.example^\n||b.example^$important\n0.0.0.0 c.example\n||d*.example^\n/^e[0-9]/\n||f.example^",
        "||a.example^$badfilter\n||b.example^$badfilter\n||c.example^$badfilter\n\
         ||d*.example^$badfilter\n/^e[0-9]/$badfilter\n||x.f.example^$badfilter\n@@||f.example^$badfilter",
    ];
    let filter = filter_of(&files, ListOptions::Strict);
    for (host, refused) in [
        ("a.example", false),
        ("b.example", true),
        ("c.example", true),
        ("d1.example", false),
        ("e1.test", false),
        ("x.f.example", true),
    ] {
        assert_eq!(is_refused(&filter, host), refused, "{host}");
    }
}

#[test]
fn an_exception_for_browsers_never_unblocks_and_a_rule_does_only_if_wanted() {
    for options in ["popup", "third-party", "3p", "all", "document", "doc", "script", "unheard-of"]
    {
        let exception = format!("@@||ads.example^${options}\n||cdn.example^${options}\n");
        for (how, is_wide) in [(ListOptions::Strict, false), (ListOptions::Wide, true)] {
            let filter = filter_of(&["0.0.0.0 ads.example\n", &exception, "||z.example^\n"], how);
            assert!(is_refused(&filter, "x.ads.example"), "{options} {how:?}");
            assert_eq!(is_refused(&filter, "cdn.example"), is_wide, "{options} {how:?}");
        }
    }
}

#[test]
fn an_entry_is_spelled_as_its_list_may_have_it() {
    let files = [
        "||a.example^\n|b.example^\n.c.example^\n@@||ok.a.example^\n||d.example^$important\n||e*.example^\n/^f[0-9]/",
        "0.0.0.0 g.example\n",
        "*.h.example CNAME .\n",
    ];
    let filter = filter_of(&files, ListOptions::Strict);
    for (host, text) in [
        ("x.a.example", Some("||a.example^")),
        ("b.example", Some("|b.example^")),
        ("x.c.example", Some(".c.example^")),
        ("x.ok.a.example", Some("@@||ok.a.example^")),
        ("d.example", Some("||d.example^$important")),
        ("e7.example", Some("||e*.example^")),
        ("f7", Some("/^f[0-9]/")),
        ("x.g.example", Some("g.example")),
        ("x.h.example", Some("*.h.example")),
        ("h.example", None),
    ] {
        assert_eq!(filter.spelled(host, None).as_deref(), text, "{host}");
    }
}

/// All remarks on these lists, without their directory.
fn remarks(files: &[&str]) -> Vec<String> {
    let filter = filter_of(files, ListOptions::Strict);
    let all = filter.reports().iter().flat_map(|report| {
        let dir = format!("{}/", report.file.parent().unwrap().display());
        report.remarks().into_iter().map(move |remark| match remark {
            ListRemark::Read(text) => text.replace(&dir, ""),
            ListRemark::Warning(text) => format!("! {}", text.replace(&dir, "")),
        })
    });
    all.collect()
}

#[test]
fn a_report_says_what_was_used_what_was_skipped_and_what_looks_wrong() {
    for (files, expected) in [
        (&["0.0.0.0 a.example b.example\n"][..], &["list-0: a hosts file, 2 rules used"][..]),
        (
            &[
                "a.example\na.example\nx.a.example\n",
                "||a.example^\n||b.example^\n||ad*.b.example^\n||ad*.b.example^",
            ],
            &[
                "list-0: domains, 1 rule used, 2 duplicates (1 by name, 1 by a wider rule)",
                "list-1: adblock rules, 2 rules used, 2 duplicates (by name)",
            ],
        ),
        (
            &["||a.example^\n@@||a.example^\n||b.example^\n||b.example^$badfilter\n||c.example^"],
            &["list-0: adblock rules, 2 rules used, 1 overruled by others, 1 switched off"],
        ),
        (
            &[
                "||a.example^\nx##.ad\n||b.example^$script\n##.x\n@@||c.example^$popup\n||d.example/x\n",
            ],
            &[
                "list-0: adblock rules, 1 rule used",
                "! list-0: 5 lines skipped: 2 cosmetic, the first at list-0:2: 'x##.ad'; 2 with options that cannot be \
                 kept, the first at list-0:3: '||b.example^$script'; 1 about more than a host, the first at list-0:6: \
                 '||d.example/x'",
                "! list-0: most of it is skipped; if it is made for browsers, look for its edition for DNS or hosts",
                "! list-0: 1 exception among the skipped lines: what such a line names stays refused if a rule refuses it",
            ],
        ),
        (
            &["##.ad\n||a.example^$script\n"],
            &[
                "! list-0: no rule in it can be kept, so it has no effect",
                "! list-0: 2 lines skipped: 1 cosmetic, the first at list-0:1: '##.ad'; 1 with options that cannot be \
                 kept, the first at list-0:2: '||a.example^$script'",
            ],
        ),
        (
            &["||a.example^\n/[ab]*a[ab]{14}c/\n/./\n||com\n"],
            &[
                "list-0: adblock rules, 2 rules used",
                "! list-0: 2 lines skipped: 1 about almost every host, the first at list-0:3: '/./'; 1 with regular \
                 expressions that cannot be kept, the first at list-0:2: '/[ab]*a[ab]{14}c/'",
                "! list-0: 'com' in line 4 is a public suffix, so it refuses everything below it",
            ],
        ),
        (
            &["a.example\nco.uk\n.zip\ngithub.io\nexample.co.uk\n"],
            &[
                "list-0: domains, 4 rules used, 1 duplicate (by a wider rule)",
                "! list-0: 'co.uk' in line 2 is a public suffix, so it refuses everything below it (1 more such)",
            ],
        ),
        (
            &["a.example\nb.example\n", "b.example\n"],
            &[
                "list-0: domains, 2 rules used",
                "list-1: domains, 0 rules used, 1 duplicate (by name)",
                "! list-1: other rules say all that it says; leave it out",
            ],
        ),
    ] {
        assert_eq!(remarks(files), expected, "{files:?}");
    }
}

#[test]
fn a_file_that_is_given_twice_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (list, link) = (dir.path().join("list"), dir.path().join("link"));
    fs::write(&list, "a.example\n").unwrap();
    std::os::unix::fs::symlink(&list, &link).unwrap();
    let filter = block(&[&list, &link]).unwrap().unwrap();
    let said: Vec<String> =
        filter.reports().iter().flat_map(|r| r.remarks()).map(|r| format!("{r:?}")).collect();
    let expected =
        format!("{} is the same file as {}; leave one out", link.display(), list.display());
    assert!(said.iter().any(|text| text.contains(&expected)), "{said:?}");
}

#[test]
fn a_url_or_a_missing_file_is_told_what_to_do() {
    for (file, says) in [
        ("https://lists.example/ads.txt", "it is a URL: download it, and give the file"),
        ("no-such-list.txt", "check the name, which is looked up in"),
    ] {
        let wrong = block(&[Path::new(file)]).unwrap_err();
        assert!(wrong.to_string().contains(says), "{wrong}");
    }
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("page");
    fs::write(&page, "\n<!DOCTYPE HTML>\n<html>").unwrap();
    assert!(block(&[&page]).unwrap_err().to_string().contains("it is a web page"));
}

#[test]
fn all_lines_about_a_host_are_found_with_their_places() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    fs::write(&one, "\u{feff}||a.example^\n||b.example^\n/^x/\n||a.example^$badfilter\n").unwrap();
    let many = long(0, 20_000);
    fs::write(&two, format!("{many}0.0.0.0 x.a.example x.a.example # why\n@@||x.a.example^\n"))
        .unwrap();
    let names = [&one, &two].map(|file| file.to_str().unwrap().to_owned());
    let found: Vec<_> = about(of(&names), "x.a.example")
        .unwrap()
        .into_iter()
        .map(|it| (it.file, it.line, it.text, it.says.word()))
        .collect();
    let expected = [
        (&one, 1, "||a.example^", "refuses"),
        (&one, 3, "/^x/", "refuses"),
        (&one, 4, "||a.example^$badfilter", "switches off"),
        (&two, 20_001, "0.0.0.0 x.a.example x.a.example # why", "refuses"),
        (&two, 20_002, "@@||x.a.example^", "allows"),
    ];
    let expected =
        expected.map(|(file, line, text, says)| (file.clone(), line, text.to_owned(), says));
    assert_eq!(found, expected);
    let mut lines = Vec::new();
    fs::write(&one, format!("! x\n{many}##.x\n||a.example/x\n##.y\n")).unwrap();
    skipped(of(&names[..1]), |_, kind, line| lines.push((kind, line.line))).unwrap();
    use crate::policy::list_format::Skipped::{Cosmetic, Pattern};
    assert_eq!(lines, [(Cosmetic, 20_002), (Pattern, 20_003), (Cosmetic, 20_004)]);
}
