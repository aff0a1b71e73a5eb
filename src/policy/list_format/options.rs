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
    /// It had other options, which were ignored.
    pub(super) is_widened: bool,
}

/// Options without a value that change a response instead of refusing a request, or that are about something
/// else than the host.
const NEVER: [&[u8]; 15] = [
    b"cname",
    b"content",
    b"cookie",
    b"csp",
    b"extension",
    b"genericblock",
    b"inline-font",
    b"inline-script",
    b"jsinject",
    b"network",
    b"redirect",
    b"removeparam",
    b"replace",
    b"stealth",
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
        let name = name.to_ascii_lowercase();
        match (&*name, value) {
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
            // A value tells for which pages, clients or responses the rule is.
            (_, None) if may_widen && !name.is_empty() && !NEVER.contains(&&*name) => {
                read.is_widened = true;
            }
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
