//! Lists and hosts on which AdGuard's engine and threadgate agree: each form of a rule, by hand.

use super::engines::Action::{self, Allowed, Nothing, Refused};

/// Lists, and hosts on which both engines must give this verdict.
pub(crate) const AGREED: &[(&str, &[(&str, Action)])] = &[
    (
        "||ads.example^",
        &[
            ("ads.example", Refused),
            ("x.ads.example", Refused),
            ("y.x.ads.example", Refused),
            ("xads.example", Nothing),
            ("example", Nothing),
            ("ads.example.org", Nothing),
            ("ads.exampl", Nothing),
        ],
    ),
    (
        ".ads.example/",
        &[("ads.example", Nothing), ("x.ads.example", Refused), ("x.ads.example.org", Nothing)],
    ),
    (
        ".ads.example^",
        &[("ads.example", Nothing), ("x.ads.example", Refused), ("xads.example", Nothing)],
    ),
    (
        "|ads.example^|",
        &[("ads.example", Refused), ("x.ads.example", Nothing), ("ads.example.org", Nothing)],
    ),
    (
        "|ads.example^",
        &[("ads.example", Refused), ("x.ads.example", Nothing), ("ads.example.org", Nothing)],
    ),
    ("||ads.example/", &[("ads.example", Refused), ("x.ads.example", Refused)]),
    ("||ads.example^|", &[("ads.example", Refused), ("x.ads.example", Refused)]),
    ("||ads.example^*", &[("ads.example", Refused), ("x.ads.example", Refused)]),
    // Exceptions, of each form.
    (
        "||ads.example^\n@@||ok.ads.example^",
        &[("ads.example", Refused), ("ok.ads.example", Allowed), ("x.ok.ads.example", Allowed)],
    ),
    (
        "||ads.example^\n@@|ok.ads.example^",
        &[("ok.ads.example", Allowed), ("x.ok.ads.example", Refused)],
    ),
    (
        "||ads.example^\n@@|ok.ads.example^|",
        &[("ok.ads.example", Allowed), ("x.ok.ads.example", Refused)],
    ),
    (
        "||ads.example^\n@@.ok.ads.example^",
        &[("ok.ads.example", Refused), ("x.ok.ads.example", Allowed)],
    ),
    (
        "||ads.example^\n@@.ok.ads.example/",
        &[("ok.ads.example", Refused), ("x.ok.ads.example", Allowed)],
    ),
    (
        "||ads.example^\n@@||ok*.ads.example^",
        &[("ok.ads.example", Allowed), ("ok7.ads.example", Allowed), ("k.ads.example", Refused)],
    ),
    ("||ads.example^\n@@/^ok[0-9]/", &[("ok7.ads.example", Allowed), ("ok.ads.example", Refused)]),
    ("@@||ads.example^\n||x.ads.example^", &[("x.ads.example", Allowed)]),
    ("0.0.0.0 ads.example\n@@||ads.example^", &[("ads.example", Allowed)]),
    ("ads.example\n@@||ads.example^", &[("ads.example", Allowed)]),
    // A star.
    (
        "||ads*.news.example^",
        &[
            ("ads.news.example", Refused),
            ("ads7.news.example", Refused),
            ("x.ads-eu.news.example", Refused),
            ("ads.x.news.example", Refused),
            ("xads.news.example", Nothing),
            ("news.example", Nothing),
            ("ads.news.example.org", Nothing),
        ],
    ),
    (
        "||*.ads.example^",
        &[("ads.example", Nothing), ("x.ads.example", Refused), ("xads.example", Nothing)],
    ),
    (
        "*.ads.example^",
        &[("ads.example", Nothing), ("x.ads.example", Refused), ("x.ads.example.org", Nothing)],
    ),
    (
        "||ads.*^",
        &[
            ("ads.example", Refused),
            ("x.ads.test", Refused),
            ("ads", Nothing),
            ("ads2.test", Nothing),
        ],
    ),
    (
        "||ads*^",
        &[
            ("ads.example", Refused),
            ("ads2", Refused),
            ("x.ads2.test", Refused),
            ("x-ads.test", Nothing),
        ],
    ),
    ("|ads*.example^", &[("ads1.example", Refused), ("x.ads1.example", Nothing)]),
    ("||*ads.example^", &[("xads.example", Refused), ("ads.example", Refused)]),
    ("||ads*-*-eu.example^", &[("ads-x-eu.example", Refused), ("ads-eu.example", Nothing)]),
    ("||a.*.c.example^", &[("a.b.c.example", Refused), ("a.c.example", Nothing)]),
    // Open ends.
    (
        "||ads.",
        &[
            ("ads.example", Refused),
            ("x.ads.example", Refused),
            ("ads", Nothing),
            ("xads.example", Nothing),
        ],
    ),
    (
        "||ads",
        &[
            ("ads.example", Refused),
            ("adserver.example", Refused),
            ("x.ads2.example", Refused),
            ("xads.example", Nothing),
        ],
    ),
    (
        "||ads.example",
        &[("ads.example", Refused), ("ads.example.org", Refused), ("x.ads.examples", Refused)],
    ),
    // Regular expressions.
    (
        r"/^ads[0-9]+\./",
        &[("ads1.example", Refused), ("ads.example", Nothing), ("x.ads1.example", Nothing)],
    ),
    (r"/ads/", &[("xadsx.example", Refused), ("ad.example", Nothing)]),
    (
        r"/^(ads|track)\.example$/",
        &[("ads.example", Refused), ("track.example", Refused), ("x.ads.example", Nothing)],
    ),
    ("[Adblock Plus]\n/^ads\\.example$/$important", &[("ads.example", Refused)]),
    // $important.
    ("||ads.example^$important\n@@||ads.example^", &[("ads.example", Refused)]),
    ("||ads.example^$important\n@@||ok.ads.example^", &[("ok.ads.example", Refused)]),
    (
        "||ads.example^$important\n@@||ok.ads.example^$important",
        &[("ok.ads.example", Allowed), ("ads.example", Refused)],
    ),
    ("||ads*^$important\n@@||ads.example^", &[("ads.example", Refused)]),
    ("||ok*^$important\n@@/^ok/$important", &[("ok.example", Allowed)]),
    // $badfilter.
    (
        "||ads.example^\n||ads.example^$badfilter",
        &[("ads.example", Nothing), ("x.ads.example", Nothing)],
    ),
    ("||ads.example^$badfilter\n||ads.example^", &[("ads.example", Nothing)]),
    ("||ads.example^\n||x.ads.example^$badfilter", &[("x.ads.example", Refused)]),
    ("||ads.example^$important\n||ads.example^$badfilter", &[("ads.example", Refused)]),
    ("||ads.example^$important\n||ads.example^$important,badfilter", &[("ads.example", Nothing)]),
    ("||ads.example^$important\n||ads.example^$badfilter,important", &[("ads.example", Nothing)]),
    ("||ads.example^\n@@||ads.example^\n@@||ads.example^$badfilter", &[("ads.example", Refused)]),
    ("||ads*^\n||ads*^$badfilter", &[("ads.example", Nothing)]),
    ("/^ads/\n/^ads/$badfilter", &[("ads.example", Nothing)]),
    ("|ads.example^\n||ads.example^$badfilter", &[("ads.example", Refused)]),
    ("||ads.example^\n||ads.example^\n||ads.example^$badfilter", &[("ads.example", Nothing)]),
    // $denyallow.
    (
        "||ads.example^$denyallow=ok.ads.example|fine.ads.example",
        &[
            ("ads.example", Refused),
            ("ok.ads.example", Nothing),
            ("x.fine.ads.example", Nothing),
            ("xok.ads.example", Refused),
        ],
    ),
    (
        "*$denyallow=ok.example",
        &[("ads.example", Refused), ("ok.example", Nothing), ("x.ok.example", Nothing)],
    ),
    ("||ads.example^$denyallow=ok.ads.example\n||ads.example^", &[("ok.ads.example", Refused)]),
    (
        "||example^$important,denyallow=ok.example\n@@||example^",
        &[("a.example", Refused), ("ok.example", Allowed)],
    ),
    // Hosts files and domains.
    (
        "127.0.0.1 localhost\n0.0.0.0 ads.example",
        &[("ads.example", Refused), ("xads.example", Nothing), ("example", Nothing)],
    ),
    (":: ads.example # a comment", &[("ads.example", Refused)]),
    ("0.0.0.0 ads.example track.example", &[("ads.example", Refused), ("track.example", Refused)]),
    (
        "ads.example",
        &[("ads.example", Refused), ("xads.example", Nothing), ("ads.example.org", Nothing)],
    ),
    ("|ads.", &[("ads.example", Refused), ("x.ads.example", Nothing), ("xads.example", Nothing)]),
    ("|ads.example|", &[("ads.example", Refused), ("x.ads.example", Nothing)]),
    // Text that may stand anywhere.
    ("[Adblock Plus]\n-ads.", &[("x-ads.example", Refused), ("ads.example", Nothing)]),
    (
        "ads.example^",
        &[("ads.example", Refused), ("xads.example", Refused), ("ads.example.org", Nothing)],
    ),
    (
        "ads.example|",
        &[("ads.example", Refused), ("xads.example", Refused), ("ads.example.org", Nothing)],
    ),
    ("/ads-", &[("ads-eu.example", Refused), ("x.ads-eu.example", Nothing)]),
    ("://ads.example/", &[("ads.example", Refused), ("x.ads.example", Nothing)]),
    ("|http://ads.example/", &[("ads.example", Nothing)]),
    // Addresses.
    ("||192.0.2.7^", &[("192.0.2.7", Refused), ("192.0.2.70", Nothing), ("1.192.0.2", Nothing)]),
    ("||192.0.2.", &[("192.0.2.7", Refused), ("192.0.20.7", Nothing)]),
    (
        "0.0.0.0 ads.example\n@@||192.0.2.7^\n||192.0.2.*^",
        &[("192.0.2.7", Allowed), ("192.0.2.8", Refused)],
    ),
    ("||ads.example^$dnsrewrite=NXDOMAIN;;", &[("ads.example", Refused)]),
    ("||ads.example^$dnsrewrite=0.0.0.0", &[("ads.example", Refused)]),
    // What is left out.
    ("||ads.example^$third-party", &[("ads.example", Nothing)]),
    ("||ads.example^$all", &[("ads.example", Nothing)]),
    ("||ads.example^\n@@||ads.example^$popup", &[("ads.example", Refused)]),
    ("||ads.example^$script", &[("ads.example", Nothing)]),
    ("||ads.example^$domain=page.example", &[("ads.example", Nothing)]),
    ("||ads.example/ads.js", &[("ads.example", Nothing)]),
    ("||ads.example^$unheard-of", &[("ads.example", Nothing)]),
    ("ads.example##.banner\nads.example#@#.banner\n##.ads.example", &[("ads.example", Nothing)]),
    ("! ads.example\n# ads.example\n#ads.example", &[("ads.example", Nothing)]),
];
