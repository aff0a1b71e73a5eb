//! Lists made so that their rules meet: the same few names in blocks, exceptions, patterns and regular
//! expressions. The same seed makes the same lists.

use super::lines::Line;

/// Numbers that look random (SplitMix64).
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((x ^ (x >> 31)) % bound as u64).unwrap()
    }

    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    fn of(&mut self, all: &[&'static str]) -> &'static str {
        all[self.below(all.len())]
    }

    fn name<'n>(&mut self, names: &'n [String]) -> &'n str {
        &names[self.below(names.len())]
    }

    fn weighted<'t>(&mut self, all: &[(usize, &'t str)]) -> &'t str {
        let mut at = self.below(all.iter().map(|(weight, _)| weight).sum());
        let chosen = all.iter().find(|(weight, _)| match at.checked_sub(*weight) {
            Some(rest) => {
                at = rest;
                false
            }
            None => true,
        });
        chosen.unwrap().1
    }
}

/// The first labels of names. Some begin like others.
const FIRST: [&str; 10] =
    ["ads", "ad7", "ads-eu", "adserver", "track", "pixel", "stat", "cdn", "log", "beacon2"];
/// The rest of names.
const ZONES: [&str; 7] =
    ["example", "shop.example", "news.test", "test", "brand.co.uk", "a7.example", "my-shop.test"];

/// Patterns, with their weights. `{n}` is a name, `{s}` its first label, `{r}` the rest, `{z}` the last
/// label; `{N}`, `{S}`, `{R}` are the same inside a regular expression.
const PATTERNS: &[(usize, &str)] = &[
    (26, "||{n}^"),
    (3, ".{n}^"),
    (3, ".{n}/"),
    (3, "|{n}^"),
    (3, "|{n}^|"),
    (1, "||{n}/"),
    (1, "||{n}^|"),
    (1, "||{n}^*"),
    // A star.
    (3, "||*.{n}^"),
    (4, "||{s}*.{r}^"),
    (4, "||{s}.*^"),
    (3, "||{s}*^"),
    (2, "*.{n}^"),
    (2, "||{s}-*.{r}^"),
    (2, "|{s}*.{r}^"),
    (2, "|*.{n}^"),
    (2, "||*{s}.{r}^"),
    (2, "||{s}*{r}^"),
    (2, "*{s}*.{r}^"),
    (2, "||{s}.*.{z}^"),
    (1, "||*-{s}.*^"),
    (1, "||{s}*.*.{z}^"),
    // Open ends.
    (2, "||{n}"),
    (2, "||{s}."),
    (1, "||{s}-"),
    (1, "||{s}*.{r}"),
    (1, "||{s}*"),
    (1, "|{s}."),
    (1, "|{n}|"),
    // Text that may stand anywhere.
    (1, "-{s}."),
    (1, "{s}."),
    (1, "{n}^"),
    (1, "{n}|"),
    (1, "/{s}-"),
    (1, "://{n}/"),
    (1, "|http://{n}/"),
    // Regular expressions.
    (2, r"/^{S}[0-9]*\./"),
    (1, r"/(^|\.){N}$/"),
    (1, r"/^{S}-?[a-z0-9]+\.{R}$/"),
    (1, r"/^({S}|log)\.{R}$/"),
    (1, r"/{S}[0-9]{1,3}\./"),
    (1, r"/^[a-z]+\.{N}$/"),
    (1, r"/^{S}\d?\.[a-z]+\./"),
];

/// Rules with parts that either engine reads in its own way, or that both leave out.
const RARE: &[(usize, &str)] = &[
    // Neither takes these.
    (6, "||{n}^$script"),
    (6, "||{n}^$domain=page.test"),
    (3, "||{n}^$~third-party"),
    (3, "||{n}^$dnstype=AAAA"),
    (3, "||{n}^$client=192.0.2.1"),
    (6, "||{n}/ads.js"),
    (3, "||{n}^$removeparam=id"),
    (1, "||{n}^$third-party"),
    (1, "@@||{n}^$third-party"),
    (1, "||{n}^$all"),
    (1, "||{n}^$popup"),
    (1, "@@||{n}^$document"),
    // One of them does.
    (1, "||{n}^$document"),
    (1, "||{n}^$~script"),
    (1, "||{n}^$app=org.example"),
    (1, "||{n}^$dnsrewrite=192.0.2.7"),
    (1, "||{U}^"),
    (1, "||{s}é.{r}^"),
    (1, r"/^(?!sub){S}[a-z]*\.{R}$/"),
    (1, r"/^{S}[0-9]\.|^{S}x\./"),
    (1, r"/{S}x*\.{R}$/"),
    (2, "||{n}|"),
    (2, "/{s}*.{r}"),
    (2, "/{U}"),
    (2, "|z*"),
    (5, "{n}\n{n}$badfilter"),
    (3, "||{n}^\n||{n}/$badfilter"),
    (2, "/{n}/*"),
    (1, "{n}"),
    (1, "@@{n}"),
    (1, "{n}$important"),
    (1, ".{n}"),
    (1, "*.{n}"),
    (2, "||{n}^\n||{n}^$denyallow=sub.{n},badfilter"),
];

/// Lines that are no network rules.
const NOISE: [&str; 6] = [
    "! Section: {n}",
    "# {n}",
    "{n}##.banner",
    "{n}#@#.banner",
    "{n}$$script[tag-content=\"ads\"]",
    "||{n}^ # is no rule, because of the spaces",
];

/// Names that lie above, below and beside each other.
pub(crate) fn names(draw: &mut Draw) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..3 {
        let name = format!("{}.{}", draw.of(&FIRST), draw.of(&ZONES));
        let deeper = format!("{}.{name}", draw.of(&FIRST));
        names.push(format!("{}.{deeper}", draw.of(&FIRST)));
        let (_, zone) = name.split_once('.').unwrap();
        names.push(format!("{}.{zone}", draw.of(&FIRST)));
        names.extend([name, deeper]);
    }
    names
}

/// The lists of a case in adblock format: texts with `rules` rules each, of which `rare` in a thousand
/// are rare.
pub(crate) fn adblock_lists(
    draw: &mut Draw,
    names: &[String],
    lists: usize,
    rules: usize,
    rare: usize,
) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for _ in 0..lists * rules {
        let rule = match draw.below(100) {
            0..8 if !all.is_empty() => taken_back(draw, &all),
            8..11 => filled(draw.of(&NOISE), draw.name(names)),
            _ if draw.below(1000) < rare => {
                let (template, name) = (draw.weighted(RARE), name_or_new(draw, names));
                filled(template, &name)
            }
            _ => rule(draw, names),
        };
        all.push(rule);
    }
    let text = |rules: &[String]| format!("[Adblock Plus 2.0]\n{}\n", rules.join("\n"));
    all.chunks(rules).map(text).collect()
}

/// One of the names, or one that no other line is about.
fn name_or_new(draw: &mut Draw, names: &[String]) -> String {
    match draw.percent(50) {
        true => draw.name(names).to_owned(),
        false => format!("{}-{}.{}", draw.of(&FIRST), draw.below(1000), draw.of(&ZONES)),
    }
}

fn rule(draw: &mut Draw, names: &[String]) -> String {
    let pattern = filled(draw.weighted(PATTERNS), draw.name(names));
    let mut options = Vec::new();
    if draw.percent(18) {
        options.push("important".to_owned());
    }
    if draw.percent(8) {
        let (one, other) = (draw.name(names), draw.name(names));
        options.push(match draw.percent(50) {
            true => format!("denyallow={one}|{other}"),
            false => format!("denyallow={one}"),
        });
    }
    if draw.percent(30) {
        options.reverse();
    }
    let exception = if draw.percent(30) { "@@" } else { "" };
    let dollar = if options.is_empty() { "" } else { "$" };
    format!("{exception}{pattern}{dollar}{}", options.join(","))
}

/// A rule with `$badfilter` that takes an earlier one back, or nearly.
fn taken_back(draw: &mut Draw, earlier: &[String]) -> String {
    let rule = draw.name(earlier).lines().next().unwrap();
    let line = Line::read(rule);
    // What AdGuard's engine makes of a mere difference in $denyallow is among the rare rules.
    let mut options: Vec<_> = line.options.clone();
    let bare = match line.options.is_empty() {
        true => rule,
        false => rule.rsplit_once('$').unwrap().0,
    };
    match draw.below(10) {
        0 => options.retain(|option| option != "important"),
        1 if !line.has_option("important") => options.push("important".to_owned()),
        _ => {}
    }
    options.insert(draw.below(options.len() + 1), "badfilter".to_owned());
    let bare = match draw.below(12) {
        0 => bare.replace("||", "|"),
        1 => format!("@@{bare}").replace("@@@@", ""),
        _ => bare.to_owned(),
    };
    format!("{bare}${}", options.join(","))
}

/// A hosts file about these names.
pub(crate) fn hosts_file(draw: &mut Draw, names: &[String]) -> String {
    let mut text = "# hosts\n127.0.0.1 localhost\n::1 ip6-loopback\n".to_owned();
    for _ in 0..12 {
        let (one, other) = (name_or_new(draw, names), draw.name(names));
        text += &match draw.below(20) {
            0..10 => format!("0.0.0.0 {one}\n"),
            10..13 => format!("127.0.0.1 {one} {other} # two\n"),
            13..15 => format!(":: {one}\n"),
            15 => format!("0.0.0.0\t{one}\n"),
            16 => format!("192.168.1.5 {one}\n"),
            17 => format!("0.0.0.0 {}\n", one.to_uppercase()),
            18 => format!("0.0.0.0 {}\n", one.replacen('.', "ü.", 1)),
            _ => "#0.0.0.0 switched.off.example\n".to_owned(),
        };
    }
    text
}

/// A list of domains about these names.
pub(crate) fn domains(draw: &mut Draw, names: &[String]) -> String {
    let mut text = "# domains\n".to_owned();
    for _ in 0..12 {
        let name = name_or_new(draw, names);
        text += &match draw.below(20) {
            0..14 => format!("{name}\n"),
            14 => format!(".{name}\n"),
            15 => format!("*.{name}\n"),
            16 => format!("{}\n", name.to_uppercase()),
            17 => format!("{name} # with a comment\n"),
            18 => "192.0.2.1\n".to_owned(),
            _ => format!("{name}.\n"),
        };
    }
    text
}

/// A rule out of a template.
fn filled(template: &str, name: &str) -> String {
    let (first, rest) = name.split_once('.').unwrap();
    let last = name.rsplit('.').next().unwrap();
    let in_regex = |text: &str| text.replace('.', r"\.").replace('-', r"\-");
    let mut filled = template.to_owned();
    for (mark, text) in [
        ("{n}", name.to_owned()),
        ("{s}", first.to_owned()),
        ("{r}", rest.to_owned()),
        ("{z}", last.to_owned()),
        ("{N}", in_regex(name)),
        ("{S}", in_regex(first)),
        ("{R}", in_regex(rest)),
        ("{U}", name[..1].to_uppercase() + &name[1..]),
    ] {
        filled = filled.replace(mark, &text);
    }
    filled
}
