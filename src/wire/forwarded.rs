//! `Forwarded` and `X-Forwarded-For`: tells the next server which client a request comes from (RFC 7239).
//!
//! Servers read one field or the other; most read the second, which has no standard. Received values are
//! kept and the client's address is appended, in one line of each name: a server that looks at only one
//! line must see the address the proxy knows, not one the client made up. A `Forwarded` line that breaks
//! the grammar is dropped, because an open quote would swallow the appended address. `X_Forwarded_For` is
//! dropped too, because CGI and similar interfaces cannot tell it from the name with dashes.
//!
//! The caller decides whether to add anything. A request without additions costs nothing here.

use std::io::Write as _;
use std::net::IpAddr;

use super::field::{FieldLines, LineSet, is_token_byte, trim_ows};

/// The client, and this proxy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Forwarded<'a> {
    /// The address that connected to the proxy. The port is left out, because the readers of either field
    /// disagree about ports.
    pub client: IpAddr,
    /// The proxy's pseudonym, for `by` (RFC 7239 §6.3). It is left out if it has characters other than
    /// letters, digits, `.`, `_` and `-`.
    pub by: Option<&'a str>,
}

/// The received lines of either name.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ForwardedLines {
    standard: LineSet,
    other: LineSet,
    misspelt: LineSet,
}

impl ForwardedLines {
    /// Finds the lines.
    pub(super) fn of(lines: FieldLines<'_, '_>) -> Self {
        let mut found = Self::default();
        for (place, header) in lines.headers.iter().enumerate() {
            if header.name.eq_ignore_ascii_case("forwarded") {
                found.standard.add(place);
            } else if header.name.eq_ignore_ascii_case("x-forwarded-for") {
                found.other.add(place);
            } else if is_misspelt(header.name) {
                found.misspelt.add(place);
            }
        }
        found
    }

    /// All these lines. [`write`](Self::write) adds the allowed ones again.
    pub(super) fn all(&self) -> LineSet {
        self.standard.union(self.other).union(self.misspelt)
    }

    /// Writes one line of each name, received values first.
    pub(super) fn write(&self, out: &mut Vec<u8>, lines: FieldLines<'_, '_>, ours: &Forwarded<'_>) {
        out.extend_from_slice(b"Forwarded: ");
        write_values(out, lines.marked(self.standard).filter(|value| is_well_formed(value)));
        match ours.client {
            // Writing to a `Vec` cannot fail.
            IpAddr::V4(ip) => drop(write!(out, "for={ip};proto=http")),
            IpAddr::V6(ip) => drop(write!(out, "for=\"[{ip}]\";proto=http")),
        }
        if let Some(name) = ours.by.filter(|name| is_obfuscated_name(name)) {
            out.extend_from_slice(b";by=_");
            out.extend_from_slice(name.as_bytes());
        }
        out.extend_from_slice(b"\r\nX-Forwarded-For: ");
        write_values(out, lines.marked(self.other));
        drop(write!(out, "{}\r\n", ours.client));
    }
}

/// Limit on the bytes added to a head.
pub(super) fn room(ours: &Forwarded<'_>) -> usize {
    160 + ours.by.map_or(0, str::len)
}

/// Whether a name is `X-Forwarded-For` with `_` for a `-`.
fn is_misspelt(name: &str) -> bool {
    const NAME: &[u8] = b"x-forwarded-for";
    let alike = |(byte, ours): (u8, &u8)| {
        byte.eq_ignore_ascii_case(ours) || (byte == b'_' && *ours == b'-')
    };
    name.len() == NAME.len() && name.contains('_') && name.bytes().zip(NAME).all(alike)
}

/// Writes each value that is not empty, with a comma behind it (RFC 9110 §5.3).
fn write_values<'b>(out: &mut Vec<u8>, values: impl Iterator<Item = &'b [u8]>) {
    for value in values.filter(|value| !value.is_empty()) {
        out.extend_from_slice(value);
        out.extend_from_slice(b", ");
    }
}

/// Whether `name` may follow the `_` of an obfuscated identifier (RFC 7239 §6.3).
fn is_obfuscated_name(name: &str) -> bool {
    let may = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !name.is_empty() && name.bytes().all(may)
}

/// Whether a value is a list of elements as in RFC 7239 §4. Two common deviations that mislead no reader
/// are accepted: white space around `;`, and addresses with colons or brackets outside quotes.
fn is_well_formed(value: &[u8]) -> bool {
    let mut rest = trim_ows(value);
    while !rest.is_empty() {
        if let [b',' | b';', after @ ..] = rest {
            rest = trim_ows(after);
            continue;
        }
        let Some(after) = pair(rest).map(trim_ows) else { return false };
        if !matches!(after, [] | [b',' | b';', ..]) {
            return false;
        }
        rest = after;
    }
    true
}

/// The text after the pair at the front, if there is a pair.
fn pair(text: &[u8]) -> Option<&[u8]> {
    let name = text.iter().take_while(|byte| is_token_byte(**byte)).count();
    let (_, value) = text.split_at_checked(name).filter(|(name, _)| !name.is_empty())?;
    let value = value.strip_prefix(b"=")?;
    match value {
        [b'"', quoted @ ..] => after_quotes(quoted),
        _ => {
            let may = |byte: &u8| is_token_byte(*byte) || matches!(byte, b':' | b'[' | b']');
            let length = value.iter().take_while(|byte| may(byte)).count();
            value.get(length..).filter(|_| length > 0)
        }
    }
}

/// The text after the closing quote (RFC 9110 §5.6.4).
fn after_quotes(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        text = match text {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', _, rest @ ..] => rest,
            [b'\\'] | [] => return None,
            [_, rest @ ..] => rest,
        };
    }
}

/// Asserts, for fuzzing, that `sent` ends with the proxy's own values, whatever was received.
#[doc(hidden)]
#[cfg(feature = "internals")]
pub(super) fn assert_appended(
    received: FieldLines<'_, '_>,
    sent: FieldLines<'_, '_>,
    ours: &Forwarded<'_>,
) {
    let (came, went) = (ForwardedLines::of(received), ForwardedLines::of(sent));
    let only = |set| {
        let mut values = sent.marked(set);
        let value = values.next().unwrap_or_default();
        assert!(values.next().is_none(), "two lines of one name");
        value
    };
    let (standard, other) = (only(went.standard), only(went.other));
    assert!(is_well_formed(standard), "{}", standard.escape_ascii());
    assert!(went.misspelt.is_empty(), "another spelling");
    let mut alone = Vec::new();
    let nothing = ForwardedLines::default();
    nothing.write(&mut alone, received, ours);
    let (element, address) = split_lines(&alone);
    for (value, ours) in [(standard, element), (other, address)] {
        let before = value.strip_suffix(ours);
        assert!(before.is_some_and(|b| b.is_empty() || b.ends_with(b", ")));
    }
    // Received values come first, except for lines that broke the grammar.
    let mut from = standard;
    for value in received.marked(came.standard).filter(|value| is_well_formed(value)) {
        let Some(after) = from.strip_prefix(value) else { panic!("a value was lost or changed") };
        from = after.strip_prefix(b", ").unwrap_or(after);
    }
    assert_eq!(from, element);
}

/// The values of the two lines that [`ForwardedLines::write`] writes.
#[cfg(feature = "internals")]
fn split_lines(written: &[u8]) -> (&[u8], &[u8]) {
    let text = written.strip_prefix(b"Forwarded: ").unwrap_or_default();
    let at = memchr::memmem::find(text, b"\r\nX-Forwarded-For: ").unwrap_or(0);
    let (element, rest) = text.split_at_checked(at).unwrap_or_default();
    let address = rest.strip_prefix(b"\r\nX-Forwarded-For: ").unwrap_or_default();
    (element, address.strip_suffix(b"\r\n").unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::field::Slots;
    use super::super::head::HeadLimits;
    use super::super::request::{Outgoing, RequestHead};
    use super::*;

    const OURS: Forwarded<'_> = Forwarded {
        client: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 43)),
        by: Some("gate-7"),
    };

    /// The forwarded field lines of a request with `fields`.
    fn sent(fields: &str, ours: Option<&Forwarded<'_>>) -> String {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let mut slots = Slots::new();
        let read = RequestHead::read(head.as_bytes(), &mut slots, &HeadLimits::default()).unwrap();
        let mut out = Vec::new();
        let outgoing = Outgoing {
            host: "a",
            via: None,
            forwarded: ours.copied(),
            max_forwards: None,
            upgrade: None,
            close: false,
        };
        read.write_fields(&mut out, &outgoing);
        let out = String::from_utf8(out).unwrap();
        let rest = out.strip_prefix("Host: a\r\n").unwrap();
        rest.strip_suffix("\r\n").unwrap().to_owned()
    }

    #[track_caller]
    fn check(fields: &str, forwarded: &str, x_forwarded_for: &str) {
        let expected = format!(
            "A: b\r\nForwarded: {forwarded}for=192.0.2.43;proto=http;by=_gate-7\r\n\
             X-Forwarded-For: {x_forwarded_for}192.0.2.43\r\n"
        );
        assert_eq!(sent(&format!("A: b\r\n{fields}"), Some(&OURS)), expected, "{fields:?}");
    }

    #[test]
    fn the_client_comes_last_behind_what_came() {
        check("", "", "");
        check("Forwarded: for=10.0.0.1;proto=https\r\n", "for=10.0.0.1;proto=https, ", "");
        check("x-forwarded-FOR:  10.0.0.1 \r\n", "", "10.0.0.1, ");
        check(
            "X-Forwarded-For: 1.1.1.1\r\nforwarded: for=_a, for=_b\r\nX-Forwarded-For: x, y\r\n\
             Forwarded: for=\"[::1]:80\"\r\n",
            "for=_a, for=_b, for=\"[::1]:80\", ",
            "1.1.1.1, x, y, ",
        );
        check("Forwarded:\r\nX-Forwarded-For:\r\n", "", "");
        check(
            "Connection: forwarded, X-Forwarded-For\r\nForwarded: for=_a\r\nX-Forwarded-For: b\r\n",
            "for=_a, ",
            "b, ",
        );
    }

    #[test]
    fn another_spelling_that_cgi_takes_for_the_same_name_is_dropped() {
        check(
            "X_Forwarded_For: 10.0.0.1\r\nx-forwarded_FOR: a\r\nX-Forwarded-For: b\r\n",
            "",
            "b, ",
        );
        for other in ["X_Forwarded_Fox: a\r\n", "X_Forwarded_For_: a\r\n"] {
            assert!(sent(other, Some(&OURS)).starts_with(other), "{other}");
        }
        let fields = "X_Forwarded_For: 10.0.0.1\r\n";
        assert_eq!(sent(fields, None), fields);
    }

    #[test]
    fn unasked_what_came_goes_on_as_it_is() {
        let fields = "X-Forwarded-For: a\r\nB: c\r\nFORWARDED: \"broken\r\nForwarded: for=b\r\n";
        assert_eq!(sent(fields, None), fields);
        let named = "Forwarded: for=_a\r\nX-Forwarded-For: b\r\n";
        let connection = "Connection: Forwarded, x-forwarded-for, close\r\n";
        assert_eq!(
            sent(&format!("{connection}{named}"), None),
            named,
            "a client cannot take it away"
        );
    }

    #[test]
    fn an_ipv6_client_is_quoted_where_the_grammar_wants_it() {
        let client = "2001:db8::1".parse().unwrap();
        for by in [None, Some("a:b"), Some("a!b"), Some("")] {
            assert_eq!(
                sent("", Some(&Forwarded { client, by })),
                "Forwarded: for=\"[2001:db8::1]\";proto=http\r\nX-Forwarded-For: 2001:db8::1\r\n"
            );
        }
    }

    #[test]
    fn a_value_is_well_formed_by_rfc_7239_but_for_what_misleads_nobody() {
        for value in [
            // §4 and §7.4
            "for=\"_gazonk\"",
            "For=\"[2001:db8:cafe::17]:4711\"",
            "for=192.0.2.60;proto=http;by=203.0.113.43",
            "for=192.0.2.43, for=198.51.100.17",
            "for=_hidden, for=_SEVKISEK",
            "for=_mdn;host=\"a.example:80\";extension=\"a,b;\\\"c\\\\\"",
            "for=unknown,,for=a;",
            "for=1.2.3.4; proto=http",
            "for=1.2.3.4:80",
            "for=[2001:db8::1]",
            "",
        ] {
            assert!(is_well_formed(value.as_bytes()), "{value}");
        }
        for value in [
            "for=\"open",
            "for=\"open\\\"",
            "for=\"open\\",
            "for=",
            "for",
            "for = a",
            "=a",
            "for=a b",
            "for=\"a\"b",
            "for=a\"b",
            "1.2.3.4",
            "for=a;\"",
            "for=a, \"",
            "for=(a)",
            "for=a=b",
        ] {
            assert!(!is_well_formed(value.as_bytes()), "{value}");
            check(&format!("Forwarded: for=_kept\r\nForwarded: {value}\r\n"), "for=_kept, ", "");
        }
    }

    /// The last element of a list, as a server would read it: commas in quotes separate nothing.
    fn last_element(value: &str) -> &str {
        let (mut quoted, mut escaped, mut start) = (false, false, 0);
        for (at, c) in value.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                ',' if !quoted => start = at + 1,
                _ => {}
            }
        }
        assert!(!quoted, "{value}");
        value[start..].trim()
    }

    proptest! {
        #[test]
        fn whatever_a_client_sends_the_last_word_is_ours(
            lines in prop::collection::vec("[ -~]{0,24}|(for=[a\",;\\\\= ]{0,9},?)*", 0..4),
        ) {
            let fields: String = lines.iter().map(|l| format!("Forwarded: {l}\r\nX-Forwarded-For: {l}\r\n")).collect();
            let sent = sent(&fields, Some(&OURS));
            let (forwarded, rest) = sent.split_once("\r\n").unwrap();
            let forwarded = forwarded.strip_prefix("Forwarded: ").unwrap();
            prop_assert_eq!(last_element(forwarded), "for=192.0.2.43;proto=http;by=_gate-7");
            let other = rest.strip_prefix("X-Forwarded-For: ").unwrap().strip_suffix("\r\n").unwrap();
            prop_assert_eq!(other.rsplit(',').next().unwrap().trim(), "192.0.2.43");
        }
    }
}
