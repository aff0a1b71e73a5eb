//! A line of a list taken apart, and the hosts that tell whether a reader understands it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use regex::Regex;
use regex_syntax::hir::{Class, Hir, HirKind};

/// A line of a list.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// The line as it stands.
    pub(crate) text: String,
    /// Whether it begins with `@@`.
    pub(crate) exception: bool,
    pub(crate) form: Form,
    /// What follows `$`, at the commas.
    pub(crate) options: Vec<String>,
}

/// The form of a line, without `@@` and options.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Form {
    /// An address and the names behind it.
    Hosts { address: IpAddr, names: Vec<String> },
    /// A domain alone: `a.example`, `.a.example`, `*.a.example`.
    Domain(String),
    /// A regular expression, without its slashes.
    Regex(String),
    /// Any other pattern.
    Pattern(String),
    /// A comment, a heading, or a rule about elements of pages.
    Other,
}

impl Line {
    pub(crate) fn read(line: &str) -> Self {
        let text = line.trim();
        let other = |form| Self { text: text.to_owned(), exception: false, form, options: vec![] };
        let is_comment = text.is_empty() || text.starts_with(['!', '#', '[']);
        if is_comment || ["##", "#@#", "#?#", "#$#", "#%#", "$$"].iter().any(|m| text.contains(m)) {
            return other(Form::Other);
        }
        let mut words = text.split_whitespace().take_while(|word| !word.starts_with('#'));
        let first = words.next().unwrap_or_default();
        let names: Vec<_> = words.map(str::to_lowercase).collect();
        match first.parse() {
            Ok(address) if !names.is_empty() => return other(Form::Hosts { address, names }),
            _ if !names.is_empty() => return other(Form::Other),
            _ => {}
        }
        // A comment may stand behind a domain, but not behind a rule.
        if first.len() < text.len() && first.contains(['|', '^', '*', '/', '@']) {
            return other(Form::Other);
        }
        let rule = first.strip_prefix("@@").unwrap_or(first);
        let exception = rule.len() < first.len();
        let is_regex = |rule: &str| rule.len() > 2 && rule.starts_with('/') && rule.ends_with('/');
        let (pattern, options) = match rule.rsplit_once('$') {
            Some((pattern, options)) if !is_regex(rule) && !options.is_empty() => {
                (pattern, options.split(',').map(str::to_owned).collect())
            }
            _ => (rule, Vec::new()),
        };
        let form = match pattern {
            _ if is_regex(pattern) => Form::Regex(pattern[1..pattern.len() - 1].to_owned()),
            _ if pattern.trim_start_matches("*.").contains(['|', '^', '*', '/', ':']) => {
                Form::Pattern(pattern.to_owned())
            }
            // Letters without a dot in them are no domain but a piece of one.
            _ if !pattern.trim_matches('.').contains('.') || pattern.starts_with('-') => {
                Form::Pattern(pattern.to_owned())
            }
            _ => Form::Domain(pattern.to_owned()),
        };
        Self { text: text.to_owned(), exception, form, options }
    }

    /// Whether it has this option, or one with this name and a value.
    pub(crate) fn has_option(&self, name: &str) -> bool {
        self.options.iter().any(|option| option.split('=').next() == Some(name))
    }

    /// The names that it lists in full, in lower case and in ASCII.
    pub(crate) fn names(&self) -> Vec<String> {
        let written = match &self.form {
            Form::Hosts { names, .. } => names.clone(),
            Form::Domain(domain) => {
                vec![domain.trim_start_matches("*.").trim_matches('.').to_owned()]
            }
            Form::Pattern(pattern) => {
                let name = pattern.strip_prefix("||").and_then(|rest| rest.strip_suffix('^'));
                name.filter(|name| !name.contains('*')).map(str::to_owned).into_iter().collect()
            }
            _ => Vec::new(),
        };
        written.iter().filter_map(|name| idna::domain_to_ascii(name).ok()).collect()
    }

    /// Whether the host is one of its names.
    pub(crate) fn is_name(&self, host: &str) -> bool {
        self.names().iter().any(|name| name == host)
    }

    /// Whether the host is below one of its names.
    pub(crate) fn is_below(&self, host: &str) -> bool {
        self.names().iter().any(|name| below(host, name))
    }

    /// Hosts that the line matches, and hosts that it nearly matches.
    pub(crate) fn hosts(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for text in self.samples() {
            around(&text.to_lowercase(), &mut found);
        }
        for option in &self.options {
            for name in option.strip_prefix("denyallow=").unwrap_or_default().split('|') {
                around(name, &mut found);
            }
        }
        found.retain(|host| is_host(host));
        found
    }

    /// Texts that the pattern matches, mostly.
    fn samples(&self) -> Vec<String> {
        const IN_PLACE_OF_A_STAR: [&str; 4] = ["", "7", "ab", "a.b"];
        let written = match &self.form {
            Form::Regex(regex) => {
                let looking = Regex::new(r"\(\?<?[!=][^)]*\)").unwrap();
                match regex_syntax::parse(&looking.replace_all(regex, "")) {
                    Ok(hir) => (0..3).map(|which| sample(&hir, which)).collect(),
                    Err(_) => Vec::new(),
                }
            }
            Form::Pattern(pattern) => {
                let text = pattern.trim_start_matches(['|', ':', '/']);
                let text = text.split(['^', '|', '/']).next().unwrap_or_default();
                match text.contains('*') {
                    true => IN_PLACE_OF_A_STAR.map(|some| text.replace('*', some)).to_vec(),
                    false => vec![text.to_owned()],
                }
            }
            _ => self.names(),
        };
        // A piece of a name becomes a name.
        let whole = |text: String| {
            let ascii = idna::domain_to_ascii(&text).unwrap_or(text);
            let begin = if ascii.starts_with(['.', '-']) { "w" } else { "" };
            let is_address = ascii.bytes().all(|o| o.is_ascii_digit() || o == b'.');
            let end = match ascii.ends_with(['.', '-']) {
                true if is_address => "7.9.9.9",
                true => "z.test",
                false => "",
            };
            // Of an address that goes on, as much as belongs to one.
            if is_address {
                let octets: Vec<_> =
                    format!("{ascii}{end}").split('.').take(4).map(str::to_owned).collect();
                return octets.join(".");
            }
            format!("{begin}{ascii}{end}")
        };
        written.into_iter().map(whole).collect()
    }
}

/// Whether a host is below a name.
pub(crate) fn below(host: &str, name: &str) -> bool {
    host.strip_suffix(name).is_some_and(|before| before.ends_with('.'))
}

/// The name itself, names below and above it, and names that only look like it.
fn around(name: &str, found: &mut BTreeSet<String>) {
    let (front, last) = name.rsplit_once('.').unwrap_or((name, ""));
    let (first, parent) = name.split_once('.').unwrap_or((name, ""));
    let mut without_one = name.to_owned();
    if let Some((at, _)) = name.char_indices().nth(name.len() / 2) {
        without_one.remove(at);
    }
    found.extend([
        name.to_owned(),
        format!("sub.{name}"),
        format!("x{name}"),
        parent.to_owned(),
        format!("{front}.other"),
        format!("{name}.other"),
        format!("{front}.{last}x"),
        format!("{first}9.{parent}"),
        without_one,
    ]);
}

/// Whether both engines can be asked about it: a name as a proxy sees it, or an IPv4 address.
fn is_host(host: &str) -> bool {
    let is_label = |label: &str| {
        let is_in_a_name =
            |o: u8| o.is_ascii_lowercase() || o.is_ascii_digit() || b"-_".contains(&o);
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(is_in_a_name)
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|o| o.is_ascii_digit());
    // AdGuard's engine takes no host that begins with an underscore.
    host.len() <= 253
        && !host.starts_with('_')
        && host.split('.').all(is_label)
        && (!is_number || host.parse::<Ipv4Addr>().is_ok())
}

/// A text that a regular expression matches: `which` chooses among its alternatives.
fn sample(hir: &Hir, which: u32) -> String {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => String::new(),
        HirKind::Literal(literal) => String::from_utf8_lossy(&literal.0).into_owned(),
        HirKind::Class(class) => "ak7.-_"
            .chars()
            .cycle()
            .skip(which as usize)
            .take(6)
            .find(|letter| has(class, *letter))
            .map_or_else(String::new, String::from),
        HirKind::Repetition(repetition) => {
            let most = repetition.max.unwrap_or(u32::MAX).min(16);
            let times = repetition.min.max(which.min(most));
            sample(&repetition.sub, which).repeat(times.min(16) as usize)
        }
        HirKind::Capture(capture) => sample(&capture.sub, which),
        HirKind::Concat(parts) => parts.iter().map(|part| sample(part, which)).collect(),
        HirKind::Alternation(parts) => sample(&parts[which as usize % parts.len()], which),
    }
}

fn has(class: &Class, letter: char) -> bool {
    match class {
        Class::Unicode(class) => class.iter().any(|r| (r.start()..=r.end()).contains(&letter)),
        Class::Bytes(class) => {
            class.iter().any(|r| (r.start()..=r.end()).contains(&(letter as u8)))
        }
    }
}
