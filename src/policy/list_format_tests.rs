//! Tests lines as lists have them, and the names read from each.

use std::fs;
use std::path::Path;

use super::*;
use crate::policy::domains::NameKey;

/// The names in a line as `name`, `@@name`, `!name`, `!@@name`, or the reason why it has none.
fn line(format: ListFormat, purpose: Purpose, text: &[u8]) -> String {
    let mut said = Vec::new();
    let read = read_line(text, format, purpose, &mut |name, rank| {
        let mark = match rank {
            Rank::Block | Rank::Allow => "",
            Rank::Except => "@@",
            Rank::Important => "!",
            Rank::ImportantExcept => "!@@",
        };
        said.push(format!("{mark}{}", std::str::from_utf8(name).unwrap()));
    });
    if let Err(kind) = read {
        said.push(format!("{kind:?}"));
    }
    said.join(" ")
}

#[track_caller]
fn check(format: ListFormat, rows: &[(&str, &str)]) {
    for (text, expected) in rows {
        let found = line(format, Purpose::Block, text.as_bytes());
        assert_eq!(found, *expected, "{format:?} {text:?}");
        let with_end = line(format, Purpose::Block, format!("{text}\r\n").as_bytes());
        assert_eq!(with_end, *expected, "{format:?} {text:?} CR LF");
    }
}

#[test]
fn lines_of_a_hosts_file() {
    check(
        ListFormat::Hosts,
        &[
            ("0.0.0.0 ads.example", "ads.example"),
            ("127.0.0.1\tads.example  www.Tracker.example.", "ads.example www.tracker.example"),
            (":: ads.example", "ads.example"),
            ("::1 ads.example # a comment", "ads.example"),
            ("0.0.0.0 ads.example#a comment", "ads.example"),
            ("example.com##.banner", "Cosmetic"),
            ("shop.example#@#.ad", "Cosmetic"),
            ("0.0.0.0 nas", "nas"),
            ("0.0.0.0 0.0.0.0", ""),
            ("127.0.0.1 localhost localhost.localdomain", ""),
            ("ff02::2 ip6-allrouters", ""),
            ("255.255.255.255 broadcasthost", ""),
            ("192.168.1.5 nas.home", "Address"),
            ("## a heading of a file ##", ""),
            ("#@# more", ""),
            ("# ads.example", ""),
            ("! ads.example", ""),
            ("", ""),
            (" \t ", ""),
            ("0.0.0.0", "0.0.0.0"),
            ("0.0.0.0 ads.example b/c", "ads.example Unknown"),
            ("0.0.0.0 -_-.example", "-_-.example"),
            ("ads.example 0.0.0.0", "Unknown"),
            ("0.0.0.0 größe.example", "xn--gre-6ka8i.example"),
        ],
    );
    let allowed = line(ListFormat::Hosts, Purpose::Allow, b"192.168.1.5 nas.home");
    assert_eq!(allowed, "nas.home", "to allow a name that leads somewhere makes sense");
}

#[test]
fn lines_of_a_list_of_domains() {
    let long = format!("{}.example", "a".repeat(63));
    let too_long = format!("{}.example", "a".repeat(64));
    check(
        ListFormat::Domains,
        &[
            ("ads.example", "ads.example"),
            (" ADS.Example. ", "ads.example"),
            (".ads.example", "ads.example"),
            ("*.ads.example", "ads.example"),
            (".zip", "zip"),
            ("*.zip", "zip"),
            ("zip", "Unknown"),
            ("ads.example # a comment", "ads.example"),
            ("ads.example#ad", "Unknown"),
            ("ads.example##.ad", "Cosmetic"),
            ("##.ad", ""),
            ("müller.example", "xn--mller-kva.example"),
            ("MÜLLER.example", "xn--mller-kva.example"),
            ("日本語.jp", "xn--wgv71a119e.jp"),
            ("\u{661f}", "Unknown"),
            ("日本語。jp", "xn--wgv71a119e.jp"),
            ("192.0.2.1", "192.0.2.1"),
            ("2001:DB8:0:0::1", "2001:db8::1"),
            ("[::ffff:192.0.2.1]", "192.0.2.1"),
            ("192.0.2.256", "Unknown"),
            ("1.2.3", "Unknown"),
            ("ads..example", "Unknown"),
            ("..", "Unknown"),
            ("*", "Pattern"),
            ("a*.example", "Pattern"),
            ("https://ads.example/", "Pattern"),
            ("ads.example/path", "Pattern"),
            ("ads.example:443", "Pattern"),
            ("ads example", "Unknown"),
            ("<html>", "Unknown"),
            ("||ads.example^", "ads.example"),
            (&long, &long),
            (&too_long, "Unknown"),
        ],
    );
    assert_eq!(line(ListFormat::Domains, Purpose::Block, b"ads\xff.example"), "Unknown");
    let longest = format!("{}abc", format!("{}.", "a".repeat(49)).repeat(5));
    assert_eq!(longest.len(), MOST_BYTES);
    assert_eq!(line(ListFormat::Domains, Purpose::Block, longest.as_bytes()), longest);
    let longer = format!("a{longest}");
    assert_eq!(line(ListFormat::Domains, Purpose::Block, longer.as_bytes()), "Unknown");
}

#[test]
fn lines_of_an_adblock_list() {
    check(
        ListFormat::Adblock,
        &[
            ("||ads.example^", "ads.example"),
            ("||Ads.Example^|", "ads.example"),
            ("||ads.example", "ads.example"),
            ("||ads.example/", "ads.example"),
            ("||ads.example^*", "ads.example"),
            ("||*.ads.example^", "ads.example"),
            ("||zip^", "zip"),
            ("||192.0.2.1^", "192.0.2.1"),
            ("||[2001:db8::1]^", "2001:db8::1"),
            ("||müller.example^", "xn--mller-kva.example"),
            ("ads.example", "ads.example"),
            ("0.0.0.0 ads.example", "ads.example"),
            ("@@||good.example^", "@@good.example"),
            ("||ads.example^$important", "!ads.example"),
            ("@@||good.example^$important,document", "!@@good.example"),
            ("||ads.example^$third-party", "ads.example"),
            ("||ads.example^$3p, all,doc,popup", "ads.example"),
            ("||ads.example^$script", "Options"),
            ("||ads.example^$third-party,domain=a.example", "Options"),
            ("||ads.example^$~third-party", "Options"),
            ("||ads.example^$badfilter", "Options"),
            ("||ads.example^$", "Options"),
            ("@@||good.example^$generichide", "Cosmetic"),
            ("||ads.example/banner/*", "Pattern"),
            ("||ads.example^path", "Pattern"),
            ("||ads.", "Pattern"),
            ("||ads*.example^", "Pattern"),
            ("||ads.example:8080^", "Pattern"),
            ("|https://ads.example^", "Pattern"),
            ("@@|https://good.example^", "Pattern"),
            ("-banner-", "Pattern"),
            ("/ads[0-9]/", "Pattern"),
            ("&ad_type=", "Pattern"),
            ("example.com##.ad", "Cosmetic"),
            ("##.ad", "Cosmetic"),
            ("example.com#@#.ad", "Cosmetic"),
            ("example.com#?#div:has(.ad)", "Cosmetic"),
            ("example.com$$script[data-ad]", "Cosmetic"),
            ("[Adblock Plus 2.0]", ""),
            ("! a comment ||ads.example^", ""),
            ("# a comment", ""),
            ("################", ""),
            ("||", "Pattern"),
            ("@@", "Pattern"),
        ],
    );
}

#[test]
fn the_format_is_that_of_the_first_line_that_tells() {
    use ListFormat::{Adblock, Domains, Hosts};
    for (beginning, expected) in [
        ("", Domains),
        ("# a comment\n\n0.0.0.0 ads.example\n", Hosts),
        ("## a heading\n# 2\nads.example\n||b.example^\n", Domains),
        ("[Adblock Plus 2.0]\n! x\n", Adblock),
        ("! Title: x\nads.example\n", Adblock),
        ("##.ad\n", Adblock),
        ("example.com##.ad\n0.0.0.0 a\n", Adblock),
        ("@@||a.example^\n", Adblock),
        ("127.0.0.1  # 2 requests\nads.example\n", Domains),
        ("192.0.2.1 #\n", Domains),
        ("garbage here\n::1 localhost\n", Hosts),
        ("garbage here\r\n*.ads.example\r\n", Domains),
        ("\u{feff}", Domains),
    ] {
        assert_eq!(ListFormat::of(beginning.as_bytes()), expected, "{beginning:?}");
    }
}

#[test]
fn what_is_left_out_is_counted_by_kind_with_the_first_of_each() {
    let text = format!(
        "||a.example^\n||b.example^$script\n##.ad\n||c.example^$image\n{}\n||d.example/x",
        "e".repeat(MOST_LINE + 1)
    );
    let (mut part, mut skipped) = (DraftPart::new(NameKey::drawn()), SkippedLines::default());
    let lines = read(text.as_bytes(), ListFormat::Adblock, Purpose::Block, &mut part, &mut skipped);
    assert_eq!((lines, part.len(), skipped.sum()), (6, 1, 5));
    let kinds: Vec<_> = skipped.each().map(|(kind, count, f)| (kind, count, f.line)).collect();
    let expected = [
        (Skipped::Cosmetic, 1, 3),
        (Skipped::Options, 2, 2),
        (Skipped::Pattern, 1, 6),
        (Skipped::Long, 1, 5),
    ];
    assert_eq!(kinds, expected);
    let (.., first) = skipped.each().last().unwrap();
    assert_eq!(first.text.len(), SkippedLines::SHOWN + 1);
    let longest = [vec![b'e'; MOST_LINE], b"\n".to_vec()].concat();
    let mut skipped = SkippedLines::default();
    read(&longest, ListFormat::Domains, Purpose::Block, &mut part, &mut skipped);
    assert_eq!(skipped.each().next().unwrap().0, Skipped::Unknown, "as long as it may be");
}

/// The seeds keep what the fuzz targets assert, in every plain `cargo test`.
#[test]
fn every_seed_keeps_the_invariants() {
    for (name, format) in [
        ("list_adblock", ListFormat::Adblock),
        ("list_domains", ListFormat::Domains),
        ("list_hosts", ListFormat::Hosts),
    ] {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let mut count = 0;
        for seed in fs::read_dir(&corpus).unwrap() {
            let bytes = fs::read(seed.unwrap().path()).unwrap();
            fuzz(format, &bytes);
            for cut in 0..=bytes.len() {
                fuzz(format, &bytes[..cut]);
            }
            count += 1;
        }
        assert!(count > 3, "{name} has too few seeds");
    }
}
