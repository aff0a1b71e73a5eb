//! Tests lines as lists have them, and the names read from each.

use std::fs;
use std::path::Path;

use super::*;
use crate::policy::domains::MOST_BYTES;
use crate::policy::list_draft::fuzz;

/// What a line says, a word each, or the reason why it says nothing. A name is followed by what else it
/// reaches: `name`, `=name` for the name alone, `.name` for what is below it, `~text` for a pattern. Before it
/// stands `@@` for an exception, `!` for an important rule, `off:` for one that switches others off.
fn line(format: ListFormat, purpose: Purpose, text: &[u8]) -> String {
    said(How { format, purpose, options: ListOptions::Strict }, text)
}

fn said(how: How, text: &[u8]) -> String {
    let mut said = Vec::new();
    let read = read_line(text, how, &mut |item| {
        let mark = match item.said.rank {
            Rank::Block | Rank::Allow => "",
            Rank::Pass => "+",
            Rank::Except => "@@",
            Rank::Important => "!",
            Rank::ImportantExcept => "!@@",
        };
        let (kind, text) = match (&item.what, item.said.reach) {
            (What::Pattern(pattern), _) => ("~", pattern.text()),
            (What::Name(name), Reach::Subtree) => ("", *name),
            (What::Name(name), Reach::Name) => ("=", *name),
            (What::Name(name), Reach::Below) => (".", *name),
        };
        let off = if item.is_off { "off:" } else { "" };
        said.push(format!("{off}{mark}{kind}{}", std::str::from_utf8(text).unwrap()));
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
            ("fe80::1%lo0 localhost", ""),
            ("fe80::1%lo0 b.example", "b.example"),
            ("::1%1 b.example", "b.example"),
            ("fe80::1%eth0 router.example", "Address"),
            ("0.0.0.0 ads.example ; a comment", "ads.example"),
            ("0.0.0.0 ads.example // a comment", "ads.example"),
            ("ads.example", "ads.example"),
            ("0 z.example", "z.example"),
            ("0.0.0.0 q.example; c", "q.example"),
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
            ("ads.example#ad", "ads.example"),
            ("ads.example#see http://x/", "ads.example"),
            ("example.com/#/ads", "Pattern"),
            ("ads.example ## a comment", "ads.example"),
            ("ads.example #c", "ads.example"),
            ("ads.example ; c", "ads.example"),
            ("ads.example // c", "ads.example"),
            ("; a comment", ""),
            ("// a comment", ""),
            ("ads.example\tTAG", "ads.example"),
            ("ads.example\tmalware\t20261129", "ads.example"),
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
            ("*", "General"),
            ("a*.example", "~a*.example"),
            ("ads.*", "~ads.*"),
            ("https://ads.example/", "Pattern"),
            ("ads.example/path", "Pattern"),
            ("ads.example/", "ads.example"),
            (r"^x\.y$", r"~/^x\.y$/"),
            ("b.example CNAME .", "=b.example"),
            ("b.example CNAME trackers", "Unknown"),
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
            ("||ads.example", "~||ads.example"),
            ("||ads.example/", "ads.example"),
            ("||ads.example^*", "ads.example"),
            ("||*.ads.example^", ".ads.example"),
            ("||zip^", "zip"),
            ("||192.0.2.1^", "192.0.2.1"),
            ("||[2001:db8::1]^", "2001:db8::1"),
            ("||müller.example^", "xn--mller-kva.example"),
            ("ads.example", "ads.example"),
            ("0.0.0.0 ads.example", "ads.example"),
            ("@@||good.example^", "@@good.example"),
            ("||ads.example^$important", "!ads.example"),
            ("@@||good.example^$important", "!@@good.example"),
            ("@@||good.example^$important,document", "Options"),
            ("||ads.example^$third-party", "Options"),
            ("||ads.example^$3p", "Options"),
            ("||ads.example^$all", "Options"),
            ("||ads.example^$doc", "Options"),
            ("||ads.example^$popup", "Options"),
            ("||ads.example^$document", "Options"),
            ("||ads.example^$unheard-of", "Options"),
            ("||ads.example^$important,popup", "Options"),
            ("||ads.example^$script", "Options"),
            ("||ads.example^$third-party,domain=a.example", "Options"),
            ("||ads.example^$~third-party", "Options"),
            ("||ads.example^$badfilter", "off:ads.example"),
            ("@@||ads.example^$important,badfilter", "off:!@@ads.example"),
            ("||ads.example^$script,badfilter", "Options"),
            ("||ads*.example^$badfilter", "off:~||ads*.example^"),
            ("||ads.example^$_,important,__", "!ads.example"),
            ("||ads.example^$denyallow=ok.ads.example", "~||ads.example^"),
            ("||ads.example^$denyallow=b/c", "Options"),
            ("||ads.example^$dnsrewrite=NXDOMAIN", "ads.example"),
            ("||ads.example^$dnsrewrite=noerror;A;0.0.0.0", "ads.example"),
            ("||ads.example^$dnsrewrite=127.0.0.1", "ads.example"),
            ("||ads.example^$dnsrewrite=192.0.2.1", "Options"),
            ("|www.example^$dnsrewrite=NOERROR;CNAME;safe.example", "Options"),
            ("@@||ads.example^$dnsrewrite", "Options"),
            ("||ads.example^$dnstype=AAAA", "Options"),
            ("||ads.example^$client=192.0.2.1", "Options"),
            ("||ads.example^$", "Options"),
            ("@@||good.example^$generichide", "Cosmetic"),
            ("||ads.example/banner/*", "Pattern"),
            ("||ads.example^path", "Pattern"),
            ("||ads.", "~||ads."),
            ("||ads.^", "~||ads.^"),
            ("||ads", "~||ads"),
            ("||ads*", "~||ads*"),
            (".ads.example^", ".ads.example"),
            (".ads.example/", ".ads.example"),
            ("*.ads.example^", ".ads.example"),
            (".ads.example", "~.ads.example"),
            ("|ads.example^|", "=ads.example"),
            ("|ads.example^", "=ads.example"),
            ("@@|ads.example^|", "@@=ads.example"),
            ("@@||x*.h.example^", "@@~||x*.h.example^"),
            ("@@/^ok[0-9]\\./", "@@~/^ok[0-9]\\./"),
            ("@@.ok.example^", "@@.ok.example"),
            ("@@ok.example", "@@~ok.example"),
            ("|ads.", "~|ads."),
            ("ads.example^", "~ads.example^"),
            ("://ads.", "~://ads."),
            ("||ads*.example/", "~||ads*.example/"),
            ("||ads*.example^", "~||ads*.example^"),
            ("||ads.example:8080^", "Pattern"),
            ("|https://ads.example^", "Pattern"),
            ("@@|https://good.example^", "Pattern"),
            ("-banner-", "~-banner-"),
            ("-Banner-", "~-banner-"),
            ("adserver", "~adserver"),
            ("ad", "General"),
            ("/ads/*", "Pattern"),
            ("/ads.", "~/ads."),
            ("/ads[0-9]/", "~/ads[0-9]/"),
            ("/ads[0-9]$/", "~/ads[0-9]$/"),
            ("/ads[0-9]$/$important", "!~/ads[0-9]$/"),
            ("/ads[0-9]/$script", "Options"),
            (r"/^https?:\/\/[a-z]{8}\.com\//$script", "Pattern"),
            (r"/^https?:\/\/ads\./", "Pattern"),
            ("/banner[0-9]+/$domain=a.com|google.com|b.com,removeparam=/^utm/", "Options"),
            ("/path/*$removeparam=/^utm_|wiki/", "Options"),
            ("@@/x[0-9]/$domain=q.com|z.example|b.com,replace=/a/b/", "Options"),
            ("/ads$|track/", "~/ads$|track/"),
            ("@@||ok.a.example^ # broken page", "@@ok.a.example"),
            ("@@||ok2.a.example^#c", "@@ok2.a.example"),
            (r"@@/^ok5\./ # x", r"@@~/^ok5\./"),
            ("||a1.example^ # c", "a1.example"),
            ("||example.com/#/ads", "Pattern"),
            ("||b3.example/#c", "Pattern"),
            ("||ten.example/*#!", "Pattern"),
            ("@@||good.example/#/x", "Pattern"),
            ("||cdn.example/path#frag", "Pattern"),
            ("||a.example.^", "a.example"),
            ("@@||ok.b.example.^", "@@ok.b.example"),
            ("###id", "Cosmetic"),
            ("### a heading", ""),
            ("/ads(?=x)/", "Regex"),
            ("/ads[/", "Regex"),
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
            ("@@", "General"),
        ],
    );
}

#[test]
fn rules_with_options_for_browsers_are_about_the_whole_host_if_so_wanted() {
    let wide =
        How { format: ListFormat::Adblock, purpose: Purpose::Block, options: ListOptions::Wide };
    for (text, expected) in [
        ("||ads.example^$third-party", "ads.example"),
        ("||ads.example^$3p,all,doc,popup", "ads.example"),
        ("||ads.example^$script,important", "!ads.example"),
        ("||ads.example^$unheard-of", "ads.example"),
        ("||ads.example^$popup,badfilter", "Options"),
        ("||ads.example^$badfilter", "off:ads.example"),
        ("||ads.example^$DOMAIN=a.example", "Options"),
        ("||ads.example^$Redirect", "Options"),
        ("||ads.example^$urlskip=?u", "Options"),
        ("||ads.example^$cname", "Options"),
        ("||ads.example^$genericblock", "Options"),
        ("||ads.example^$Popup", "ads.example"),
        ("||ads*.example^$popup", "~||ads*.example^"),
        ("||ads.example^$domain=a.example", "Options"),
        ("||ads.example^$client=192.0.2.1", "Options"),
        ("||ads.example^$removeparam=x", "Options"),
        ("||ads.example^$", "Options"),
        // An exception would allow too much.
        ("@@||good.example^$popup", "Options"),
        ("@@||good.example^$third-party", "Options"),
        ("@@||good.example^$unheard-of", "Options"),
        ("@@||good.example^$important", "!@@good.example"),
    ] {
        assert_eq!(said(wide, text.as_bytes()), expected, "{text}");
    }
    let allow = How { purpose: Purpose::Allow, ..wide };
    assert_eq!(said(allow, b"||good.example^$popup"), "Options", "an allow list is all exceptions");
}

#[test]
fn lines_that_configure_dnsmasq() {
    check(
        ListFormat::Dnsmasq,
        &[
            ("address=/ads.example/0.0.0.0", "ads.example"),
            ("address=/ads.example/", "ads.example"),
            ("address=/ads.example/#", "ads.example"),
            ("address=/ads.example/::", "ads.example"),
            ("address=/a.example/B.example/127.0.0.1 # why", "a.example b.example"),
            ("local=/ads.example/", "ads.example"),
            ("server=/ads.example/", "ads.example"),
            ("server=/ok.ads.example/#", "+ok.ads.example"),
            ("server=/fwd.example/127.0.0.1#5353", "+fwd.example"),
            ("server=/fwd.example/127.0.0.1", "+fwd.example"),
            ("address=/u.example/0.0.0.0#c", "u.example"),
            ("^x\\.y$", "~/^x\\.y$/"),
            ("b.example CNAME .", "=b.example"),
            ("server=/ok.ads.example/192.0.2.53#5353", "+ok.ads.example"),
            ("address=/www.example/192.0.2.1", "Address"),
            ("address=/#/0.0.0.0", "Unknown"),
            ("address=/ads.example", "Unknown"),
            ("cache-size=1000", "Unknown"),
            ("# address=/ads.example/", ""),
        ],
    );
}

#[test]
fn lines_that_configure_unbound() {
    check(
        ListFormat::Unbound,
        &[
            ("server:", ""),
            ("local-zone: \"ads.example\" always_nxdomain", "ads.example"),
            ("local-zone: \"ads.example.\" static # why", "ads.example"),
            ("local-zone: ads.example refuse", "ads.example"),
            ("local-zone: \"ads.example\" redirect", ""),
            ("local-data: \"ads.example A 0.0.0.0\"", "ads.example"),
            ("local-data: \"ads.example. 3600 IN AAAA ::\"", "ads.example"),
            ("local-data: 'ads.example A 0.0.0.0'", "ads.example"),
            ("local-data: \"www.example A 192.0.2.1\"", "Address"),
            ("local-zone: \"c.example\" always_nxdomain#c", "c.example"),
            ("local-data: \"www.example CNAME safe.example\"", "Address"),
            ("local-data-ptr: \"192.0.2.1 a.example\"", ""),
            ("local-zone: \"ok.ads.example\" transparent", "+ok.ads.example"),
            ("local-zone: \"ok.ads.example\" always_transparent", "+ok.ads.example"),
            ("local-zone: \"ads.example\" unheard-of", "Unknown"),
            ("local-zone: ads.example", "Unknown"),
            ("  local-zone: \"ads.example\" always_null", "ads.example"),
            ("cache-max-ttl: 100", "Unknown"),
        ],
    );
}

#[test]
fn lines_of_a_response_policy_zone() {
    check(
        ListFormat::Rpz,
        &[
            ("$TTL 30", ""),
            ("@ SOA localhost. root.localhost. 1 86400 3600 604800 30", ""),
            ("@ IN SOA localhost. root.localhost. (", ""),
            ("    2026112901 ; serial", ""),
            ("    3600 )", ""),
            ("  NS localhost.", ""),
            ("; a comment", ""),
            ("ads.example CNAME .", "=ads.example"),
            ("*.ads.example CNAME .", ".ads.example"),
            ("ads.example 60 IN CNAME *. ; why", "=ads.example"),
            ("ads.example IN 60 CNAME rpz-drop.", "=ads.example"),
            ("ads.example A 0.0.0.0", "=ads.example"),
            ("ok.ads.example CNAME rpz-passthru.", "+=ok.ads.example"),
            ("ok.ads.example CNAME RPZ-PASSTHRU", "+=ok.ads.example"),
            ("ads.example cname .", "=ads.example"),
            ("||o.example^", "o.example"),
            ("0.0.0.0 m.example", "m.example"),
            ("bare.example", "bare.example"),
            ("$INCLUDE other", "Unknown"),
            ("ok.ads.example CNAME ok.ads.example.", "+=ok.ads.example"),
            ("www.example CNAME safe.example.", "Address"),
            ("www.example A 192.0.2.1", "Address"),
            ("ads.example CNAME rpz-tcp-only.", "Options"),
            ("32.1.2.0.192.rpz-ip CNAME .", "Options"),
            ("ads.example MX 10 mail.example.", "Unknown"),
            (" ads.example CNAME .", "Unknown"),
        ],
    );
}

#[test]
fn lines_of_a_list_of_regular_expressions() {
    check(
        ListFormat::Regex,
        &[
            (r"^ads?[0-9]+\.", r"~/^ads?[0-9]+\./"),
            (r"(^|\.)ads\.example$", r"~/(^|\.)ads\.example$/"),
            (
                r"^ad([sxv]?[0-9]*|system)[_.-]([^.[:space:]]+\.){1,}",
                r"~/^ad([sxv]?[0-9]*|system)[_.-]([^.[:space:]]+\.){1,}/",
            ),
            (r"/^ads/", r"~/^ads/"),
            ("||ads.example^", "ads.example"),
            ("@@||ok.example^", "@@ok.example"),
            (r"^ads;querytype=AAAA", "Options"),
            (r"^ads;invert", "Options"),
            (r"^(?!ok)ads", "Regex"),
            ("# ^ads", ""),
            ("[ads", "Regex"),
        ],
    );
}

#[test]
fn the_format_is_that_of_the_first_line_that_tells() {
    use ListFormat::{Adblock, Dnsmasq, Domains, Hosts, Regex, Rpz, Unbound};
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
        (".stats.example/\n.ads.example^\n||z.example^", Adblock),
        ("|ads.example^\n", Adblock),
        ("/^ads[0-9]/\n", Adblock),
        ("/^ads[0-9]/$important\n", Adblock),
        ("-ads.\n", Adblock),
        ("# x\naddress=/ads.example/0.0.0.0\n", Dnsmasq),
        ("server=/ads.example/\n", Dnsmasq),
        ("server:\n  local-zone: \"a.example\" static\n", Unbound),
        ("local-data: \"a.example A 0.0.0.0\"\n", Unbound),
        ("$TTL 1h\n@ SOA a. b. 1 2 3 4 5\n", Rpz),
        ("; x\nads.example CNAME .\n", Rpz),
        ("^ads\\.\n", Regex),
        ("(^|\\.)ads\\.example$\n", Regex),
        ("ads.example#c\n", Domains),
        ("ads.example ; c\n", Domains),
        ("; Blocks CNAME trackers\nads.example\n", Domains),
        ("// our CNAME list\n0.0.0.0 ads.example\n", Hosts),
        ("NextDNS CNAME cloaking list\nads.example\n", Domains),
        ("127.0.0.1 a.example CNAME\n", Hosts),
        ("a.example\tCNAME\n", Domains),
        ("ads.example cname .\n", Rpz),
        ("(c)2024\nads.example\n", Domains),
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
    let (mut count, mut skipped) = (0, SkippedLines::default());
    let how =
        How { format: ListFormat::Adblock, purpose: Purpose::Block, options: ListOptions::Strict };
    let lines = read(text.as_bytes(), how, &mut skipped, |_, _, _| count += 1);
    assert_eq!((lines, count, skipped.sum()), (6, 1, 5));
    let kinds: Vec<_> = skipped.kinds().map(|(kind, count, f)| (kind, count, f.line)).collect();
    let expected = [
        (Skipped::Cosmetic, 1, 3),
        (Skipped::Options, 2, 2),
        (Skipped::Pattern, 1, 6),
        (Skipped::Long, 1, 5),
    ];
    assert_eq!(kinds, expected);
    let (.., first) = skipped.kinds().last().unwrap();
    assert_eq!(first.text.len(), 61);
    assert_eq!(skipped.each().count(), 0, "they are not all kept");
    let longest = [vec![b'e'; MOST_LINE], b"\n".to_vec()].concat();
    let mut skipped = SkippedLines::default();
    read(&longest, How { format: ListFormat::Domains, ..how }, &mut skipped, |_, _, _| {});
    assert_eq!(skipped.kinds().next().unwrap().0, Skipped::Unknown, "as long as it may be");
}

/// The seeds keep what the fuzz targets assert, in every plain `cargo test`.
#[test]
fn every_seed_keeps_the_invariants() {
    for (name, format) in [
        ("list_adblock", ListFormat::Adblock),
        ("list_domains", ListFormat::Domains),
        ("list_hosts", ListFormat::Hosts),
        ("list_zones", ListFormat::Rpz),
        ("list_resolvers", ListFormat::Dnsmasq),
        ("list_regexes", ListFormat::Regex),
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
