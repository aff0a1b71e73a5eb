//! `Via`: finds this proxy among those that have handled a message, and adds it (RFC 9110 §7.6.3).
//!
//! A proxy that finds its own name there is in a loop. The caller decides what happens then.

use super::field::trim_ows;
use super::start_line::Version;

/// Whether an entry of this `Via` value names `pseudonym`, with any port, protocol and comment.
pub fn names(value: &[u8], pseudonym: &str) -> bool {
    let mut rest = value;
    while !rest.is_empty() {
        let (entry, after) = split_entry(rest);
        if received_by(entry).is_some_and(|name| is_pseudonym(name, pseudonym)) {
            return true;
        }
        rest = after;
    }
    false
}

/// Writes this proxy's `Via` line, with the version in which the message was received.
pub(super) fn write(out: &mut Vec<u8>, received: Version, pseudonym: &str) {
    out.extend_from_slice(b"Via: ");
    out.extend_from_slice(received.number().as_bytes());
    out.push(b' ');
    out.extend_from_slice(pseudonym.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Cuts the first entry off a list. A comma inside a comment does not end an entry, and a comment
/// may hold others and quoted bytes (RFC 9110 §5.6.5).
fn split_entry(list: &[u8]) -> (&[u8], &[u8]) {
    let mut depth = 0_u32;
    let mut quoted = false;
    for (at, &byte) in list.iter().enumerate() {
        match byte {
            _ if quoted => quoted = false,
            b'\\' if depth > 0 => quoted = true,
            b'(' => depth = depth.saturating_add(1),
            b')' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                return (
                    list.get(..at).unwrap_or_default(),
                    list.get(at + 1..).unwrap_or_default(),
                );
            }
            _ => {}
        }
    }
    (list, &[])
}

/// The second word of `received-protocol RWS received-by [ RWS comment ]`.
fn received_by(entry: &[u8]) -> Option<&[u8]> {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    trim_ows(entry).split(is_space).filter(|word| !word.is_empty()).nth(1)
}

/// Whether `name` is the pseudonym, alone or with a port.
fn is_pseudonym(name: &[u8], pseudonym: &str) -> bool {
    let Some((name, port)) = name.split_at_checked(pseudonym.len()) else { return false };
    name.eq_ignore_ascii_case(pseudonym.as_bytes())
        && match port {
            [] => true,
            [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: &str, expected: bool) {
        assert_eq!(names(value.as_bytes(), "gate-7"), expected, "{value}");
    }

    #[test]
    fn our_own_entry_is_found_in_any_company() {
        check("1.1 gate-7", true);
        check("1.0 fred, 1.1 gate-7", true);
        check("1.1 gate-7, 1.0 fred", true);
        check("1.1  \tGATE-7\t (threadgate, 0.1)", true);
        check("HTTP/1.1 gate-7:3128", true);
        check("1.1 gate-7:", true);
        check(",, 1.1 gate-7 ,", true);
    }

    #[test]
    fn an_entry_of_somebody_else_is_not_ours() {
        check("", false);
        check("1.1", false);
        check("gate-7", false);
        check("1.1 gate-77", false);
        check("1.1 my-gate-7", false);
        check("1.1 gate-7.example", false);
        check("1.1 gate-7:x", false);
        check("1.1 fred gate-7", false);
    }

    #[test]
    fn a_comment_is_not_an_entry() {
        check("1.1 fred (a, 1.1 gate-7)", false);
        check("1.1 fred (a (b), 1.1 gate-7)", false);
        check(r"1.1 fred (a \) , 1.1 gate-7)", false);
        check("1.1 fred (a), 1.1 gate-7", true);
        check("1.1 fred (a, 1.1 gate-7", false);
    }
}
