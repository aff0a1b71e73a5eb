//! Makes a request-target safe for a log: without credentials, and without bytes that could
//! forge a line or control a terminal.
//!
//! The target is what the client sent, possibly in a request refused as malformed, so nothing
//! is assumed about it.

use memchr::{memchr, memmem, memrchr};

/// The most bytes shown of a target; a longer one is cut and ends in `...`.
pub(super) const MAX_TARGET_BYTES: usize = 8192;

/// Appends `target`, masked, cut, and escaped by the format's `escape`.
pub(super) fn write(out: &mut Vec<u8>, target: &[u8], escape: fn(&mut Vec<u8>, &[u8])) {
    let (before, after) = mask(target);
    let (before, after) = match before {
        None => (&b""[..], after),
        Some(before) => {
            escape(out, before);
            out.extend_from_slice(b"***@");
            (before, after)
        }
    };
    let room = MAX_TARGET_BYTES.saturating_sub(before.len());
    match after.split_at_checked(room) {
        Some((shown, rest)) if !rest.is_empty() => {
            escape(out, shown);
            out.extend_from_slice(b"...");
        }
        _ => escape(out, after),
    }
}

/// The most bytes shown of a method; the longest registered one has 16.
const MAX_METHOD_BYTES: usize = 64;

/// Appends `method`, cut and escaped by `escape`.
pub(super) fn write_method(out: &mut Vec<u8>, method: &[u8], escape: fn(&mut Vec<u8>, &[u8])) {
    match method.split_at_checked(MAX_METHOD_BYTES) {
        Some((shown, rest)) if !rest.is_empty() => {
            escape(out, shown);
            out.extend_from_slice(b"...");
        }
        _ => escape(out, method),
    }
}

/// Appends `bytes` with everything but printable ASCII, and with space, `"` and `\`, as `\xNN`.
pub(super) fn escape(out: &mut Vec<u8>, bytes: &[u8]) {
    if is_plain(bytes, b'!') {
        out.extend_from_slice(bytes);
        return;
    }
    for byte in bytes {
        if is_plain(&[*byte], b'!') {
            out.push(*byte);
        } else {
            hex(out, *byte);
        }
    }
}

/// Whether all `bytes` are printable ASCII, none before `first`, and neither `"` nor `\`. Almost every
/// target is, so eight bytes are looked at together.
pub(super) fn is_plain(bytes: &[u8], first: u8) -> bool {
    let (words, rest) = bytes.as_chunks();
    let is_plain = |word: &[u8; 8]| is_plain_word(u64::from_le_bytes(*word), first);
    words.iter().all(is_plain)
        && match bytes.last_chunk() {
            Some(last) => rest.is_empty() || is_plain(last),
            None => rest
                .iter()
                .all(|byte| (first..=b'~').contains(byte) && !matches!(byte, b'"' | b'\\')),
        }
}

/// The same for the eight bytes of a word. The borrow of a subtraction reaches another byte only from one
/// that is found anyway.
fn is_plain_word(word: u64, first: u8) -> bool {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const TOPS: u64 = ONES << 7;
    let each = |byte: u8| ONES * u64::from(byte);
    let smaller = |word: u64, than: u64| word.wrapping_sub(than) & !word;
    let found = word
        | word.wrapping_add(ONES)
        | smaller(word, each(first))
        | smaller(word ^ each(b'"'), ONES)
        | smaller(word ^ each(b'\\'), ONES);
    found & TOPS == 0
}

/// Appends `\xNN`.
pub(super) fn hex(out: &mut Vec<u8>, byte: u8) {
    out.extend_from_slice(b"\\x");
    for digit in [byte >> 4, byte & 15] {
        out.push(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
    }
}

/// The parts before the userinfo (RFC 9110 §4.2.4) and after its `@`; `before` is `None`
/// without userinfo. Where a malformed target is ambiguous, more is masked rather than less.
fn mask(target: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let nothing = (None, target);
    // Nearly every target: no "@", or one in the path of an origin-form.
    if memchr(b'@', target).is_none() {
        return nothing;
    }
    let split = match target {
        // A network-path reference (RFC 3986 §4.2).
        [b'/', b'/', ..] => target.split_at_checked(2),
        // An absolute-form with a slash put before it.
        [b'/', path @ ..] => {
            split_scheme(path).and_then(|(scheme, _)| target.split_at_checked(scheme.len() + 1))
        }
        _ => split_scheme(target),
    };
    if split.is_none() && target.first() == Some(&b'/') {
        return nothing;
    }
    let Some((scheme, rest)) = split else {
        // An authority-form, or something malformed.
        return match memrchr(b'@', target).and_then(|at| target.get(at + 1..)) {
            Some(after) => (Some(b""), after),
            None => nothing,
        };
    };
    let authority_end =
        rest.iter().position(|o| matches!(o, b'/' | b'?' | b'#' | b'\\')).unwrap_or(rest.len());
    let (authority, _) = rest.split_at_checked(authority_end).unwrap_or((rest, b""));
    let searched = if looks_like_a_cut_password(authority) { rest } else { authority };
    match memrchr(b'@', searched).and_then(|at| rest.get(at + 1..)) {
        Some(after) => (Some(scheme), after),
        None => nothing,
    }
}

/// Splits after `scheme://`.
fn split_scheme(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memmem::find(target, b"://")?;
    let (scheme, rest) = target.split_at_checked(at + 3)?;
    let name = scheme.strip_suffix(b"://")?;
    let of_scheme = |o: &u8| o.is_ascii_alphanumeric() || matches!(o, b'+' | b'-' | b'.');
    name.iter().all(of_scheme).then_some((scheme, rest))
}

/// Detects `user:pass` of `http://user:pass/word@host/`: the colon should be followed by a
/// port.
fn looks_like_a_cut_password(authority: &[u8]) -> bool {
    if authority.first() == Some(&b'[') || memchr(b'@', authority).is_some() {
        return false;
    }
    let mut parts = authority.splitn(2, |o| *o == b':');
    let _host = parts.next();
    parts.next().is_some_and(|port| !port.iter().all(u8::is_ascii_digit))
}

/// Whether `text` needs no escapes between quotes.
pub(super) fn fits_in_quotes(text: &str) -> bool {
    is_plain(text.as_bytes(), b' ')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(target: impl AsRef<[u8]>, expected: &str) {
        let mut out = Vec::new();
        write(&mut out, target.as_ref(), escape);
        assert_eq!(String::from_utf8(out).expect("ASCII"), expected);
    }

    #[test]
    fn ordinary_targets_are_shown_as_they_came() {
        for target in [
            "http://example.com/a?b=c%20d#e",
            "example.com:443",
            "[::1]:443",
            "/origin/form@here",
            "*",
            "http://registry.npmjs.org/@scope/name",
            "http://example.com:8080/@user?to=a:b@c",
            "http://[::1]:80/@x",
            "http://example.com?mail=a@b",
            "http://h//x@y",
            "//h/x@y",
            "/a/http://h/x@y",
            "/http://h/x@y",
        ] {
            check(target, target);
        }
    }

    #[test]
    fn credentials_are_masked() {
        for (target, expected) in [
            ("http://user:pw@host/path", "http://***@host/path"),
            ("http://user@host", "http://***@host"),
            ("http://u:p@w@host/@x", "http://***@host/@x"),
            ("HTTP://u:p@[::1]:80/", "HTTP://***@[::1]:80/"),
            ("user:pw@host:443", "***@host:443"),
            // Malformed targets, which end as a logged 400.
            ("http://user:p/w@host/", "http://***@host/"),
            ("http://user:p?w@host/", "http://***@host/"),
            ("http:/user:pw@host/", "***@host/"),
            ("http:\\\\user:pw@host/", "***@host/"),
            ("us:er://pw@host:443", "***@host:443"),
            ("http://user:pw@", "http://***@"),
            ("//user:pw@host/@x", "//***@host/@x"),
            ("//user:p/w@host/", "//***@host/"),
            ("/http://user:pw@host/", "/http://***@host/"),
        ] {
            check(target, expected);
        }
    }

    #[test]
    fn a_long_method_is_cut_and_says_so() {
        for (bytes, expected) in [(64, "M".repeat(64)), (65, format!("{}...", "M".repeat(64)))] {
            let mut out = Vec::new();
            write_method(&mut out, "M".repeat(bytes).as_bytes(), escape);
            assert_eq!(String::from_utf8(out).expect("ASCII"), expected);
        }
    }

    #[test]
    fn bytes_that_could_forge_a_line_are_escaped() {
        check("/a\r\nb", r"/a\x0d\x0ab");
        check("/a b\tc", r"/a\x20b\x09c");
        check(r#"/"\"#, r"/\x22\x5c");
        check("/\x1b[31m\x7f\0", r"/\x1b[31m\x7f\x00");
        check(b"/\xff\xc3\xa4", r"/\xff\xc3\xa4");
        for length in 1..50 {
            for at in 0..length {
                let mut target = vec![b'x'; length];
                target[at] = b'\n';
                check(&target, &format!("{:x<at$}\\x0a{:x<rest$}", "", "", rest = length - at - 1));
            }
        }
        check("http://h\n:p@x/", r"http://***@x/");
    }

    #[test]
    fn a_long_target_is_cut_and_says_so() {
        let exact = "x".repeat(MAX_TARGET_BYTES);
        check(&exact, &exact);
        check(format!("{exact}yz"), &format!("{exact}..."));
        let password = "p".repeat(MAX_TARGET_BYTES * 2);
        check(format!("http://u:{password}@host/"), "http://***@host/");
    }

    #[test]
    fn every_byte_is_plain_or_not_wherever_it_is() {
        for (first, byte) in [b' ', b'!'].into_iter().flat_map(|f| (0..=255).map(move |b| (f, b))) {
            let expected = (first..=b'~').contains(&byte) && byte != b'"' && byte != b'\\';
            for (length, at) in (1..20).flat_map(|length| (0..length).map(move |at| (length, at))) {
                for beside in *b"x!~ " {
                    let mut bytes = vec![beside.max(first); length];
                    bytes[at] = byte;
                    assert_eq!(is_plain(&bytes, first), expected, "{bytes:?} from {first}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_become_one_printable_word(target: Vec<u8>) {
            let mut out = Vec::new();
            write(&mut out, &target, escape);
            prop_assert!(out.iter().all(u8::is_ascii_graphic));
        }

        #[test]
        fn no_userinfo_is_shown(before in "(http://|https://|//|/http://|)", user in "[^@/?#\\\\]{0,9}") {
            let mut out = Vec::new();
            write(&mut out, format!("{before}{user}:SECRET@host/@path").as_bytes(), escape);
            let shown = String::from_utf8_lossy(&out);
            prop_assert!(!shown.contains("SECRET"), "{}", shown);
        }
    }
}
