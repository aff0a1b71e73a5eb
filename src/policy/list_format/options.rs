//! Reads the options behind `$` in an adblock rule.
//!
//! A list for a resolver knows few of them. Rules with others were written for browsers, which see the page
//! and the kind of each request. Applied to a whole host, such a rule refuses more than its author meant.

use super::name::ListedName;
use super::skipped::Skipped;

/// What the options of a rule say.
#[derive(Debug, Default)]
pub(super) struct RuleOptions {
    pub(super) is_important: bool,
    /// The rule switches off those that are spelled like it.
    pub(super) is_off: bool,
    /// Names the rule does not apply to.
    pub(super) except: Vec<Box<[u8]>>,
}

/// Options that change a response instead of refusing a request, or that choose who asks or from which
/// page. No rule with one of them is about a whole host.
const NEVER: [&[u8]; 33] = [
    b"app",
    b"client",
    b"content",
    b"cookie",
    b"csp",
    b"ctag",
    b"dnsrewrite",
    b"dnstype",
    b"domain",
    b"extension",
    b"from",
    b"header",
    b"hls",
    b"inline-font",
    b"inline-script",
    b"ipaddress",
    b"jsinject",
    b"jsonprune",
    b"method",
    b"permissions",
    b"popunder",
    b"queryprune",
    b"redirect",
    b"redirect-rule",
    b"referrerpolicy",
    b"removeheader",
    b"removeparam",
    b"replace",
    b"rewrite",
    b"stealth",
    b"to",
    b"uritransform",
    b"urlblock",
];

/// Reads the options of a rule.
pub(super) fn read(
    options: &[u8],
    is_exception: bool,
    may_widen: bool,
) -> Result<RuleOptions, Skipped> {
    let mut read = RuleOptions::default();
    for option in options.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
        let (name, value) = match memchr::memchr(b'=', option) {
            Some(at) => (option.get(..at).unwrap_or_default(), option.get(at + 1..)),
            None => (option, None),
        };
        match (name, value) {
            (b"important", None) => read.is_important = true,
            (b"badfilter", None) => read.is_off = true,
            (b"denyallow", Some(names)) => {
                for name in names.split(|&byte| byte == b'|') {
                    let name = ListedName::read_any(name.trim_ascii()).ok_or(Skipped::Options)?;
                    read.except.push(name.text().into());
                }
            }
            (b"dnsrewrite", Some(answer)) if !is_exception && refuses(answer) => {}
            (
                b"elemhide" | b"ehide" | b"generichide" | b"ghide" | b"specifichide" | b"shide",
                _,
            ) => {
                return Err(Skipped::Cosmetic);
            }
            // It separates others for the eye.
            _ if !name.is_empty() && name.iter().all(|byte| *byte == b'_') => {}
            _ if may_widen && !name.is_empty() && !NEVER.contains(&name) => {}
            _ => return Err(Skipped::Options),
        }
    }
    read.except.sort_unstable();
    Ok(read)
}

/// Whether `$dnsrewrite` answers with nothing, which refuses the name.
fn refuses(answer: &[u8]) -> bool {
    let answer = answer.to_ascii_lowercase();
    let record =
        answer.strip_prefix(b"noerror;a;").or_else(|| answer.strip_prefix(b"noerror;aaaa;"));
    matches!(
        &*answer,
        b"nxdomain" | b"refused" | b"servfail" | b"nxdomain;;" | b"refused;;" | b"noerror;;"
    ) || super::name::address(record.unwrap_or(&answer)).is_some_and(|to| to.leads_nowhere)
}
