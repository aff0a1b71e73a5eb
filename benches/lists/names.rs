//! Plausible names for block lists, the same for the same seed.

use std::collections::HashSet;
use std::io::{self, Write};

/// Numbers that look random (xorshift64*).
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        ((u128::from(drawn) * end as u128) >> 64) as usize
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

const ENDS: &[&str] = &[
    "com", "com", "com", "com", "com", "com", "net", "net", "org", "info", "ru", "de", "xyz",
    "top", "io", "cn", "site", "online", "co.uk", "com.br", "club", "biz", "fr", "shop",
];
const FRONTS: &[&str] = &[
    "ads",
    "ad",
    "track",
    "tracking",
    "metrics",
    "pixel",
    "px",
    "stats",
    "cdn",
    "www",
    "api",
    "log",
    "telemetry",
    "click",
    "go",
    "beacon",
    "s1",
    "collect",
    "analytics",
    "t",
];
const FIRST: &[&str] = &[
    "b", "c", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "st", "tr",
    "cl", "pr", "sh", "qu",
];
const VOWELS: &[&str] = &["a", "e", "i", "o", "u", "ea", "oo"];
const LAST: &[&str] = &["", "", "", "n", "r", "s", "t", "x", "ck", "ng"];

fn label(draw: &mut Draw, name: &mut String) {
    for _ in 0..2 + draw.below(3) {
        for part in [FIRST, VOWELS, LAST] {
            name.push_str(draw.of(part));
        }
    }
    if draw.below(8) == 0 {
        name.push_str(&draw.below(1000).to_string());
    }
}

/// A name as it might be registered, usually with labels in front.
pub(crate) fn name(draw: &mut Draw) -> String {
    let mut name = String::new();
    if draw.below(10) < 5 {
        match draw.below(3) {
            0 => label(draw, &mut name),
            _ => name.push_str(draw.of(FRONTS)),
        }
        name.push('.');
    }
    label(draw, &mut name);
    if draw.below(6) == 0 {
        name.push('-');
        label(draw, &mut name);
    }
    name.push('.');
    name.push_str(draw.of(ENDS));
    name
}

/// `count` names. No two are the same, and none is below another.
pub(crate) fn distinct(count: usize, draw: &mut Draw) -> Vec<String> {
    let mut seen = HashSet::with_capacity(count);
    let mut names = Vec::with_capacity(count);
    let mut above: HashSet<String> = HashSet::new();
    while names.len() < count {
        let name = name(draw);
        let mut parents = name.match_indices('.').map(|(at, _)| &name[at + 1..]);
        if above.contains(&name) || parents.any(|parent| seen.contains(parent)) {
            continue;
        }
        above.extend(name.match_indices('.').map(|(at, _)| name[at + 1..].to_owned()));
        if seen.insert(name.clone()) {
            names.push(name);
        }
    }
    names
}

/// Writes names in the way of published lists: with comments, doubles, names below others, and garbage.
/// Every hundredth line is one of these.
pub(crate) fn write_list(names: &[String], draw: &mut Draw, to: &mut impl Write) -> io::Result<()> {
    writeln!(to, "# a list of {} names\r", names.len())?;
    for (number, name) in names.iter().enumerate() {
        writeln!(to, "{name}")?;
        let before = &names[draw.below(number + 1)];
        match draw.below(100) {
            0..5 => writeln!(to, "{before}")?,
            5..10 => writeln!(to, "x{}.{before}", draw.below(100))?,
            10 => writeln!(to, "# {name} was here")?,
            11 => writeln!(to, "{}.", name.to_uppercase())?,
            12 => writeln!(to, "0.0.0.0 {before}")?,
            13 => writeln!(to, "<br>{name}")?,
            14 => to.write_all(b"\xff\xfe garbage \x01\n")?,
            _ => {}
        }
    }
    Ok(())
}
