//! The differences between AdGuard's DNS filtering engine and threadgate: a row for each, with the
//! reason. `docs/lists-adguard.md` is made from this table.

use std::collections::BTreeSet;

use regex::{NoExpand, Regex, RegexBuilder};

use super::engines::Action::{self, Nothing, Refused};
use super::engines::Side;
use super::lines::{Form, Line, below};

/// A kind of line that the two engines read differently.
pub(crate) struct Difference {
    /// What a list has.
    pub(crate) list_has: &'static str,
    pub(crate) adguard: &'static str,
    pub(crate) threadgate: &'static str,
    pub(crate) why: &'static str,
    pub(crate) example: Example,
    /// The engine whose verdict comes from such a line; `None` if such a line only takes part.
    pub(crate) decides_for: Option<Side>,
    /// Whether a line can be the reason for a different verdict on this host, where the second line decides.
    pub(crate) is_about: fn(&Line, &str, &Line) -> bool,
}

/// A list of one or more lines, a host, and what each engine says.
pub(crate) struct Example {
    pub(crate) list: &'static str,
    pub(crate) host: &'static str,
    pub(crate) adguard: Action,
    pub(crate) threadgate: Action,
}

const fn example(
    list: &'static str,
    host: &'static str,
    adguard: Action,
    threadgate: Action,
) -> Example {
    Example { list, host, adguard, threadgate }
}

/// All of them.
pub(crate) const DIFFERENCES: &[Difference] = &[
    Difference {
        list_has: "a domain alone, or a line of a hosts file",
        adguard: "stands for that name only",
        threadgate: "stands for the name and all names below it",
        why: "Such lists mean whole domains, and their formats have no other way to say so.",
        example: example("0.0.0.0 ads.example", "www.ads.example", Nothing, Refused),
        decides_for: Some(Side::Threadgate),
        is_about: |line, host, _| is_listed_alone(line) && line.is_below(host),
    },
    Difference {
        list_has: "a domain alone whose first label is shorter than three letters, or with digits or `-` in a later label",
        adguard: "is a text that may stand anywhere in the host",
        threadgate: "is a domain like any other",
        why: "Other names that happen to contain the text should not be refused.",
        example: example("t1.ads2.example", "not1.ads2.example", Refused, Nothing),
        decides_for: Some(Side::AdGuard),
        is_about: |line, host, _| is_word(line) && !line.is_name(host) && !line.is_below(host),
    },
    Difference {
        list_has: "a comment behind such a domain",
        adguard: "the line is left out, because of its spaces",
        threadgate: "the domain counts",
        why: "Comments change nothing.",
        example: example("t1.ads2.example # a comment", "t1.ads2.example", Nothing, Refused),
        decides_for: Some(Side::Threadgate),
        is_about: |line, host, _| is_word(line) && line.text.contains(" #") && line.is_name(host),
    },
    Difference {
        list_has: "a comment behind a rule",
        adguard: "the line is left out, because of its spaces",
        threadgate: "the rule counts",
        why: "Comments change nothing.",
        example: example("||ads.example^ # a comment", "ads.example", Nothing, Refused),
        decides_for: Some(Side::Threadgate),
        is_about: |line, _, _| !is_word(line) && line.text.contains("^ #"),
    },
    Difference {
        list_has: "a domain alone with `.` or `*.` before it, or with `.` behind it",
        adguard: "stands for names below it, or for names that go on behind it",
        threadgate: "stands for the name and all names below it",
        why: "Lists of domains write whole domains in these ways.",
        example: example("*.ads.example", "ads.example", Nothing, Refused),
        decides_for: Some(Side::Threadgate),
        is_about: |line, host, _| {
            matches!(&line.form, Form::Domain(d) if d.starts_with(['.', '*']) || d.ends_with('.'))
                && (line.is_name(host) || line.is_below(host))
        },
    },
    Difference {
        list_has: "capital letters in a name",
        adguard: "match nothing",
        threadgate: "match like small ones",
        why: "Names have no case.",
        example: example("||Ads.example^", "ads.example", Nothing, Refused),
        decides_for: Some(Side::Threadgate),
        is_about: |line, host, _| {
            line.text.contains(|c: char| c.is_ascii_uppercase())
                && (line.is_name(host) || line.is_below(host))
        },
    },
    Difference {
        list_has: "a name in another script",
        adguard: "matches nothing",
        threadgate: "is read as its ASCII form, in which hosts are asked for",
        why: "The list means that name.",
        example: example("||müller.example^", "xn--mller-kva.example", Nothing, Refused),
        decides_for: Some(Side::Threadgate),
        is_about: |line, host, _| {
            !line.text.is_ascii() && (line.is_name(host) || line.is_below(host))
        },
    },
    Difference {
        list_has: "a regular expression with `|` outside parentheses, or with a letter that may be missing",
        adguard: "is tried only on hosts with a certain text in them, which is guessed wrong",
        threadgate: "is tried on every host",
        why: "The expression says which hosts it matches.",
        example: example("/^ads[0-9]|^track/", "ads1.example", Nothing, Refused),
        decides_for: Some(Side::Threadgate),
        is_about: |line, host, _| {
            let Form::Regex(regex) = &line.form else { return false };
            let matches = compiled(regex).is_some_and(|regex| regex.is_match(host));
            matches && !format!("http://{host}/").contains(&guessed_text(regex))
        },
    },
    Difference {
        list_has: "a regular expression that looks ahead or back, or repeats what it matched",
        adguard: "is taken",
        threadgate: "is skipped",
        why: "Time to match such an expression has no bound.",
        example: example(r"/^(?!www)[a-z]+\.ads\.example$/", "cdn.ads.example", Refused, Nothing),
        decides_for: Some(Side::AdGuard),
        is_about: |line, _, _| matches!(&line.form, Form::Regex(regex) if compiled(regex).is_none()),
    },
    Difference {
        list_has: "`$document`, `$~script` and the like, `$app`, `$dnsrewrite` to an address",
        adguard: "the rule is taken",
        threadgate: "the rule is skipped",
        why: "The rule is about some requests of a browser, or gives another answer. `--list-options wide` takes those for browsers.",
        example: example("||ads.example^$~script", "ads.example", Refused, Nothing),
        decides_for: Some(Side::AdGuard),
        is_about: |line, _, _| {
            line.options.iter().any(|option| option.starts_with('~'))
                || ["app", "dnsrewrite", "document", "doc"]
                    .iter()
                    .any(|option| line.has_option(option))
        },
    },
    Difference {
        list_has: "`$badfilter` with another `$denyallow` or `$app` than the rule that it takes back",
        adguard: "takes the rule back all the same",
        threadgate: "takes nothing back",
        why: "It is another rule.",
        example: example(
            "||ads.example^\n||ads.example^$denyallow=ok.test,badfilter",
            "ads.example",
            Nothing,
            Refused,
        ),
        decides_for: None,
        is_about: |line, _, decides| {
            let is_overlooked = |o: &str| o.starts_with("denyallow=") || o.starts_with("app=");
            let parts = |line: &Line| {
                let options = line.options.iter().filter(|option| *option != "badfilter").cloned();
                options.partition::<BTreeSet<_>, _>(|option| is_overlooked(option))
            };
            let ((overlooked, others), (same, same_others)) = (parts(line), parts(decides));
            line.has_option("badfilter")
                && (&line.form, line.exception) == (&decides.form, decides.exception)
                && others == same_others
                && overlooked != same
        },
    },
    Difference {
        list_has: "`$badfilter` on another spelling of the same pattern",
        adguard: "takes nothing back",
        threadgate: "takes the rule back",
        why: "Both spellings mean the same hosts.",
        example: example(
            "||ads.example^\n||ads.example/$badfilter",
            "ads.example",
            Refused,
            Nothing,
        ),
        decides_for: None,
        is_about: |line, _, decides| {
            line.has_option("badfilter")
                && line.exception == decides.exception
                && line.form != decides.form
                && meant(&line.form).is_some_and(|meant_by| Some(meant_by) == meant(&decides.form))
        },
    },
    Difference {
        list_has: "`$badfilter` behind a domain alone",
        adguard: "takes a domain back that is read as a text, and no other",
        threadgate: "takes nothing back",
        why: "With an option the line is a pattern, and the domain alone is none.",
        example: example(
            "t1.ads2.example\nt1.ads2.example$badfilter",
            "t1.ads2.example",
            Nothing,
            Refused,
        ),
        decides_for: None,
        is_about: |line, _, decides| {
            line.has_option("badfilter") && is_word(line) && line.form == decides.form
        },
    },
    Difference {
        list_has: "a line of a hosts file with an address that leads somewhere",
        adguard: "counts as a match, with that address",
        threadgate: "is skipped",
        why: "It says where the host is, not that it is unwanted.",
        example: example("192.168.1.5 nas.example", "nas.example", Refused, Nothing),
        decides_for: Some(Side::AdGuard),
        is_about: |line, host, _| {
            let leads_somewhere = |form: &Form| match form {
                Form::Hosts { address, .. } => !address.is_unspecified() && !address.is_loopback(),
                _ => false,
            };
            leads_somewhere(&line.form) && line.is_name(host)
        },
    },
    Difference {
        list_has: "a name that hosts files give to the machine itself",
        adguard: "counts as a match",
        threadgate: "is left out",
        why: "The line makes the machine known to itself.",
        example: example("127.0.0.1 localhost", "localhost", Refused, Nothing),
        decides_for: Some(Side::AdGuard),
        is_about: |line, host, _| {
            matches!(line.form, Form::Hosts { .. }) && line.is_name(host) && !host.contains('.')
        },
    },
    Difference {
        list_has: "a line of a hosts file with a tab in it",
        adguard: "matches nothing",
        threadgate: "is read like one with a space",
        why: "Hosts files are written in both ways.",
        example: example("0.0.0.0\tads.example", "ads.example", Nothing, Refused),
        decides_for: Some(Side::Threadgate),
        is_about: |line, host, _| line.text.contains('\t') && line.is_name(host),
    },
    Difference {
        list_has: "a piece of a URL that begins with `/` and has a star or a capital letter",
        adguard: "matches no host",
        threadgate: "matches at the beginning of hosts, as it does without them",
        why: "A star or a capital letter is no reason to read the rest differently.",
        example: example("[Adblock Plus]\n/ads*.example", "ads1.example", Nothing, Refused),
        decides_for: Some(Side::Threadgate),
        is_about: |line, _, _| match &line.form {
            Form::Pattern(p) => {
                p.starts_with('/') && p.contains(|c: char| c == '*' || c.is_ascii_uppercase())
            }
            _ => false,
        },
    },
    Difference {
        list_has: "the name of a folder, with `/*` at its end",
        adguard: "is the name of a host, too",
        threadgate: "is skipped",
        why: "It is about paths.",
        example: example("[Adblock Plus]\n/ads.example/*", "ads.example", Refused, Nothing),
        decides_for: Some(Side::AdGuard),
        is_about: |line, _, _| matches!(&line.form, Form::Pattern(p) if p.starts_with('/') && p.ends_with("/*")),
    },
    Difference {
        list_has: "a pattern about nearly every host: shorter than four characters, or without a letter",
        adguard: "is taken",
        threadgate: "is skipped",
        why: "It is a mistake, or written for the pages of one site.",
        example: example("[Adblock Plus]\n|z*", "z1.example", Refused, Nothing),
        decides_for: Some(Side::AdGuard),
        is_about: |line, _, _| matches!(&line.form, Form::Pattern(p) if p.len() < 4 || !p.contains(char::is_alphanumeric)),
    },
    Difference {
        list_has: "`|` at the end of a domain",
        adguard: "matches nothing, because a URL ends with `/`",
        threadgate: "stands for the domain",
        why: "The domain has to end there.",
        example: example("||ads.example|", "ads.example", Nothing, Refused),
        decides_for: Some(Side::Threadgate),
        is_about: |line, host, _| match &line.form {
            Form::Pattern(pattern) => {
                let name = pattern.strip_prefix("||").and_then(|rest| rest.strip_suffix('|'));
                name.is_some_and(|name| host == name || below(host, name))
            }
            _ => false,
        },
    },
];

/// Whether the line is of a kind that has no anchors: of a hosts file, or a word.
fn is_listed_alone(line: &Line) -> bool {
    matches!(line.form, Form::Hosts { .. }) || is_word(line)
}

fn is_word(line: &Line) -> bool {
    matches!(line.form, Form::Domain(_))
}

/// A pattern without what does not change its meaning.
fn meant(form: &Form) -> Option<String> {
    const ENDS: [&str; 6] = ["^*", "^|", "/*", "^", "/", "|"];
    let Form::Pattern(pattern) = form else { return None };
    let end = ENDS.iter().find_map(|end| pattern.strip_suffix(end));
    let text = end.unwrap_or(pattern);
    let below = ["||*.", "|*.", "*."].iter().find_map(|start| text.strip_prefix(start));
    Some(below.map_or_else(|| text.to_owned(), |name| format!(".{name}")))
}

fn compiled(regex: &str) -> Option<Regex> {
    RegexBuilder::new(regex).case_insensitive(true).build().ok()
}

/// The text that AdGuard's engine looks for before it tries a regular expression, as
/// `SimpleRegex.extractRegexpShortcut` finds it.
fn guessed_text(regex: &str) -> String {
    if regex.contains('?') {
        return String::new();
    }
    let mut text = format!("$$${regex}");
    for brackets in
        [r"[^\\]\(.*[^\\]\)", r"[^\\]\[.*[^\\]\]", r"[^\\]\{.*[^\\]\}", r"[^\\]\\[a-zA-Z]"]
    {
        text = Regex::new(brackets).unwrap().replace(&text, NoExpand("$$")).into_owned();
    }
    let text = text.replace(r"\.", ".");
    let parts = text.split(|c: char| r"\^$*+?()|[]{}".contains(c));
    // The first of the longest.
    parts.rev().max_by_key(|part| part.len()).unwrap_or_default().to_lowercase()
}

/// The rows of the table in `docs/lists-adguard.md`.
pub(crate) fn table() -> String {
    let cell = |text: &str| text.replace('|', r"\|");
    let verdict = |action| match action {
        Action::Allowed => "is allowed",
        Action::Refused => "is refused",
        Action::Nothing => "passes",
    };
    let row = |d: &Difference| {
        let lines = d.example.list.lines().filter(|line| !line.starts_with('['));
        let lines: Vec<_> = lines.map(|line| line.replace('\t', "⇥")).collect();
        let (lines, host) = (lines.join("` and `"), d.example.host);
        format!(
            "| {}, as `{}` | {}: `{host}` {} | {}: `{host}` {} | {} |\n",
            cell(d.list_has),
            cell(&lines),
            cell(d.adguard),
            verdict(d.example.adguard),
            cell(d.threadgate),
            verdict(d.example.threadgate),
            cell(d.why),
        )
    };
    DIFFERENCES.iter().map(row).collect()
}
