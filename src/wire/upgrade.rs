//! `Upgrade`: reads the protocols a peer offers to change to, and keeps those the proxy may pass on (RFC
//! 9110 §7.8).
//!
//! The field is for one hop, so a proxy forwards nothing by itself. It reads the list, keeps the protocols
//! it can step aside for, and writes a list of its own. It cannot step aside for TLS or for HTTP in another
//! version:
//!
//! - `h2c`, `h2`, `SPDY/…` and `HTTP/…`: the requests that follow would pass through the proxy unread and
//!   past all its rules, as if one client's first request had opened the connection to all of them.
//!   The proxy would have to speak that version itself, on both sides.
//! - `TLS/…` asks the *proxy* for TLS on the hop to it (RFC 2817 §5.2), where the proxy speaks none.
//!   CONNECT asks for TLS with the origin server.
//!
//! Any recipient may ignore `Upgrade`. A list that is malformed or too long is therefore dropped whole, and
//! the request stays what it is: the next hop cannot read it in another way than the proxy did.

use super::field::{Field, KnownField, is_token_byte, trim_ows, write_line};

/// Protocols in one list; a longer one is dropped, so that comparing two stays cheap.
const MAX_PROTOCOLS: usize = 16;

/// Prefixes of the protocols that no peer may change to through the proxy. They are prefixes because drafts
/// and versions have names of their own, which servers still know: `h2c-14`, `h2-16`, `spdy/3.1`,
/// `HTTPS/1.3`. A harmless protocol with such a name loses a way through a proxy and may go by CONNECT. A
/// protocol let through by mistake would carry requests past every rule.
const KEPT_HERE: &[&str] = &["h2", "http", "spdy", "tls"];

/// The protocols of a valid `Upgrade` list, at least one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Protocols(Box<str>);

impl Protocols {
    /// Reads the values of all `Upgrade` lines of a message. `None` if they name no protocol or
    /// too many, or are malformed.
    fn read<'b>(values: impl Iterator<Item = &'b [u8]>) -> Option<Self> {
        let mut list = String::new();
        let elements = values.flat_map(|value| value.split(|&byte| byte == b',')).map(trim_ows);
        // Empty elements do not count (RFC 9110 §5.6.1.2).
        for (count, protocol) in elements.filter(|element| !element.is_empty()).enumerate() {
            if count >= MAX_PROTOCOLS || !is_protocol(protocol) {
                return None;
            }
            push(&mut list, std::str::from_utf8(protocol).ok()?);
        }
        (!list.is_empty()).then(|| Self(list.into()))
    }

    /// The protocols that a proxy can step aside for. `None` if the list has none.
    pub fn forwardable(&self) -> Option<Self> {
        let mut list = String::new();
        self.iter().filter(|protocol| is_forwardable(protocol)).for_each(|p| push(&mut list, p));
        (!list.is_empty()).then(|| Self(list.into()))
    }

    /// Whether `offered` has each of them, in any case (RFC 9110 §7.8).
    pub fn are_among(&self, offered: &Self) -> bool {
        self.iter().all(|chosen| offered.iter().any(|offer| offer.eq_ignore_ascii_case(chosen)))
    }

    /// The field's value: the protocols as written, in order.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split(", ")
    }
}

/// The protocols that the `Upgrade` lines among `fields` name.
pub(super) fn named_in<'b>(fields: impl Iterator<Item = Field<'b>>) -> Option<Protocols> {
    let upgrades = fields.filter(|field| field.known == KnownField::Upgrade);
    Protocols::read(upgrades.map(|field| field.value))
}

/// Writes the field, and the `Connection` that limits it to the next hop.
pub(super) fn write(out: &mut Vec<u8>, protocols: Option<&Protocols>) {
    if let Some(protocols) = protocols {
        write_line(out, "Connection", "upgrade");
        write_line(out, "Upgrade", protocols.as_str());
    }
}

fn push(list: &mut String, protocol: &str) {
    if !list.is_empty() {
        list.push_str(", ");
    }
    list.push_str(protocol);
}

/// Whether an element is a token, or two with a slash between.
fn is_protocol(element: &[u8]) -> bool {
    let is_token = |bytes: &[u8]| !bytes.is_empty() && bytes.iter().copied().all(is_token_byte);
    let mut parts = element.splitn(2, |&byte| byte == b'/');
    parts.all(is_token)
}

fn is_forwardable(protocol: &str) -> bool {
    let begins = |kept: &&str| {
        protocol.get(..kept.len()).is_some_and(|start| start.eq_ignore_ascii_case(kept))
    };
    !KEPT_HERE.iter().any(begins)
}

/// Asserts, for fuzzing, that a field value sent on is an allowed list.
#[cfg(feature = "internals")]
pub(super) fn assert_sent_on(value: &[u8]) {
    let protocols = Protocols::read([value].into_iter());
    let Some(protocols) = protocols else { panic!("{} was sent on", value.escape_ascii()) };
    assert_eq!(protocols.as_str().as_bytes(), value, "written in another way than ours");
    assert_eq!(protocols.forwardable().as_ref(), Some(&protocols));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Option<Protocols> {
        Protocols::read(values.iter().map(|value| value.as_bytes()))
    }

    /// Asserts which of these field values are sent on.
    #[track_caller]
    fn check(values: &[&str], expected: Option<&str>) {
        let forwarded = read(values).and_then(|protocols| protocols.forwardable());
        if let Some(list) = &forwarded {
            assert_sent_on(list.as_str().as_bytes());
        }
        assert_eq!(forwarded.as_ref().map(Protocols::as_str), expected, "{values:?}");
    }

    #[test]
    fn any_protocol_is_offered_but_http_and_tls() {
        check(&["websocket"], Some("websocket"));
        check(&["WebSocket/13 ,\tfoo"], Some("WebSocket/13, foo"));
        check(&["a", ",b,,", "c/1"], Some("a, b, c/1"));
        for kept in [
            "h2c",
            "H2C",
            "h2c/1",
            "h2",
            "h2c-14",
            "H2-16",
            "SPDY/3.1",
            "spdy",
            "HTTP/2.0",
            "http/1.1",
            "Http",
            "HTTPS/1.3",
            "TLS/1.0",
            "tls",
        ] {
            check(&[kept], None);
            check(&["websocket", kept], Some("websocket"));
            check(&[&format!("{kept}, websocket, {kept}")], Some("websocket"));
        }
        check(&["x-h2c, h, htt, my-http/2"], Some("x-h2c, h, htt, my-http/2"));
    }

    #[test]
    fn a_malformed_list_is_dropped_whole() {
        for value in [
            "",
            ",",
            "web socket",
            "websocket;v=13",
            "websocket/",
            "/13",
            "a/b/c",
            "\"websocket\"",
            "websocket, h2c h2c",
            "w\u{e9}b",
        ] {
            check(&[value], None);
            if !value.trim_matches(',').is_empty() {
                check(&["websocket", value], None);
            }
        }
        let many = |count: usize| vec!["x"; count].join(", ");
        check(&[&many(MAX_PROTOCOLS)], Some(&many(MAX_PROTOCOLS)));
        check(&[&many(MAX_PROTOCOLS + 1)], None);
    }

    #[test]
    fn a_choice_is_among_what_was_offered_in_any_case() {
        let among = |chosen: &str, offered: &str| {
            read(&[chosen]).unwrap().are_among(&read(&[offered]).unwrap())
        };
        assert!(among("websocket", "WebSocket"));
        assert!(among("b, a", "a, b, c"));
        assert!(!among("a, d", "a, b, c"));
        assert!(!among("websocket/13", "websocket"));
        assert!(!among("web", "websocket"));
    }
}
