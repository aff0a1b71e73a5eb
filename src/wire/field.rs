//! Field lines: knows the names that the proxy acts on, and copies all other lines untouched (RFC 9110 §5).
//!
//! A proxy reads few fields and passes on many. [`KnownField`] lists the few. `FieldLines` copies runs of
//! neighbouring lines in one go, with their case, order and white space as they came.
//!
//! httparse finds names and values. `framing`, `hop_by_hop` and `via` know what a field means.

use std::mem::MaybeUninit;

use httparse::Header;

/// Names the proxy acts on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum KnownField {
    /// RFC 9110 §11.6.2
    Authorization,
    /// RFC 9110 §7.6.1
    Connection,
    /// RFC 9110 §8.6
    ContentLength,
    /// RFC 9110 §6.6.1
    Date,
    /// RFC 9110 §10.1.1
    Expect,
    /// RFC 9110 §7.2
    Host,
    /// RFC 7540 §3.2.1, obsolete
    Http2Settings,
    /// RFC 9110 §7.6.1, obsolete
    KeepAlive,
    /// RFC 9110 §7.6.2
    MaxForwards,
    /// Any other name.
    Other,
    /// MS-NTHT §2.2.3: whether the connection stays logged in
    PersistentAuth,
    /// RFC 9110 §11.7.1
    ProxyAuthenticate,
    /// RFC 9110 §11.7.3
    ProxyAuthenticationInfo,
    /// RFC 9110 §11.7.2
    ProxyAuthorization,
    /// RFC 9112 appendix C.2.2, never standard
    ProxyConnection,
    /// RFC 4559 §6
    ProxySupport,
    /// RFC 9110 §10.2.4
    Server,
    /// RFC 9110 §10.1.4
    Te,
    /// RFC 9110 §6.6.2
    Trailer,
    /// RFC 9112 §6.1
    TransferEncoding,
    /// RFC 9110 §7.8
    Upgrade,
    /// RFC 9110 §7.6.3
    Via,
    /// RFC 9110 §11.6.1
    WwwAuthenticate,
}

impl KnownField {
    /// The known name that this is; names are case-insensitive (RFC 9110 §5.1).
    #[inline]
    pub fn of(name: &[u8]) -> Self {
        let Some(first) = name.first() else { return Self::Other };
        // Length and first letter leave one candidate, so an unknown name rarely costs a comparison.
        let (known, spelling): (Self, &[u8]) = match (name.len(), first | 0x20) {
            (2, b't') => (Self::Te, b"te"),
            (3, b'v') => (Self::Via, b"via"),
            (4, b'd') => (Self::Date, b"date"),
            (4, b'h') => (Self::Host, b"host"),
            (6, b'e') => (Self::Expect, b"expect"),
            (6, b's') => (Self::Server, b"server"),
            (7, b't') => (Self::Trailer, b"trailer"),
            (7, b'u') => (Self::Upgrade, b"upgrade"),
            (10, b'c') => (Self::Connection, b"connection"),
            (10, b'k') => (Self::KeepAlive, b"keep-alive"),
            (12, b'm') => (Self::MaxForwards, b"max-forwards"),
            (13, b'a') => (Self::Authorization, b"authorization"),
            (13, b'p') => (Self::ProxySupport, b"proxy-support"),
            (14, b'c') => (Self::ContentLength, b"content-length"),
            (14, b'h') => (Self::Http2Settings, b"http2-settings"),
            (15, b'p') => (Self::PersistentAuth, b"persistent-auth"),
            (16, b'p') => (Self::ProxyConnection, b"proxy-connection"),
            (16, b'w') => (Self::WwwAuthenticate, b"www-authenticate"),
            (17, b't') => (Self::TransferEncoding, b"transfer-encoding"),
            (18, b'p') => (Self::ProxyAuthenticate, b"proxy-authenticate"),
            (19, b'p') => (Self::ProxyAuthorization, b"proxy-authorization"),
            (25, b'p') => (Self::ProxyAuthenticationInfo, b"proxy-authentication-info"),
            _ => return Self::Other,
        };
        if name.eq_ignore_ascii_case(spelling) { known } else { Self::Other }
    }
}

/// One field line (RFC 9110 §5).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Field<'b> {
    /// The name as written.
    pub name: &'b str,
    /// The value without the white space around it; any byte but controls (HTAB is allowed).
    pub value: &'b [u8],
    /// The name's meaning to the proxy.
    pub known: KnownField,
}

/// The most field lines a head may have, whatever its limits say.
pub const MAX_FIELDS: usize = 128;

/// Room for the field lines of one head, owned by the caller and left uninitialised. Making one costs
/// nothing, so it belongs on the stack of the function that reads a head.
#[derive(Debug)]
pub struct Slots<'b>([MaybeUninit<Header<'b>>; MAX_FIELDS]);

impl<'b> Slots<'b> {
    /// Room for [`MAX_FIELDS`] lines.
    #[inline]
    pub fn new() -> Self {
        Self([const { MaybeUninit::uninit() }; MAX_FIELDS])
    }

    /// Room for `count` lines, at most [`MAX_FIELDS`].
    pub(super) fn first(&mut self, count: usize) -> &mut [MaybeUninit<Header<'b>>] {
        self.0.get_mut(..count.min(MAX_FIELDS)).unwrap_or_default()
    }
}

impl Default for Slots<'_> {
    fn default() -> Self {
        Self::new()
    }
}

/// A set of field lines by their place in the head.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct LineSet(u128);

impl LineSet {
    /// Whether no line is in it.
    #[cfg(feature = "internals")]
    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Adds the line at `place`.
    #[inline]
    pub(super) fn add(&mut self, place: usize) {
        debug_assert!(place < MAX_FIELDS);
        self.0 |= 1 << (place % MAX_FIELDS);
    }

    /// Adds the line at `place`, if there is one.
    #[inline]
    pub(super) fn add_some(&mut self, place: Option<u8>) {
        if let Some(place) = place {
            self.add(place.into());
        }
    }

    /// The lines of both sets.
    #[inline]
    pub(super) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The lines of this set that are not in the other.
    #[inline]
    pub(super) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Takes the first line out of the set.
    #[inline]
    fn take_first(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let place = self.0.trailing_zeros();
        self.0 &= self.0 - 1;
        Some(place as usize)
    }
}

/// The field lines of one head, with the bytes that contain them.
#[derive(Clone, Copy, Debug)]
pub(super) struct FieldLines<'h, 'b> {
    /// The whole head, empty line included.
    pub(super) head: &'b [u8],
    /// Names and values in `head`. A run of lines that no hop has to look at may be listed by its first
    /// line only; the run is forwarded together.
    pub(super) headers: &'h [Header<'b>],
    /// Every line, if `headers` leaves some out.
    pub(super) all: Option<&'h [Header<'b>]>,
}

/// Room for more lines than [`Slots`] has, for a mended head.
#[derive(Debug, Default)]
pub struct MoreSlots<'b> {
    pub(super) all: Vec<Header<'b>>,
    pub(super) runs: Vec<Header<'b>>,
}

impl<'h, 'b> FieldLines<'h, 'b> {
    /// The lines as values.
    pub(super) fn iter(self) -> impl Iterator<Item = Field<'b>> + Clone + use<'h, 'b> {
        self.all.unwrap_or(self.headers).iter().map(|header| Field {
            name: header.name,
            value: header.value,
            known: KnownField::of(header.name.as_bytes()),
        })
    }

    /// The values of the lines in `set`.
    pub(super) fn marked(self, mut set: LineSet) -> impl Iterator<Item = &'b [u8]> {
        std::iter::from_fn(move || set.take_first())
            .filter_map(move |place| self.headers.get(place))
            .map(|header| header.value)
    }

    /// Where the line at `place` starts in the head. Past the last line, where the empty line starts.
    #[inline]
    pub(super) fn start(self, place: usize) -> usize {
        match self.headers.get(place) {
            // A line starts with its name: httparse takes no white space there.
            Some(header) => header.name.as_ptr().addr().wrapping_sub(self.head.as_ptr().addr()),
            None => self.head.len().saturating_sub(2),
        }
    }

    /// Copies all lines to `out`, but calls `rewrite` in place of each line in `marked`, to replace or drop
    /// it. Unmarked neighbours are one copy.
    #[inline]
    pub(super) fn copy(
        self,
        out: &mut Vec<u8>,
        mut marked: LineSet,
        mut rewrite: impl FnMut(&mut Vec<u8>, usize),
    ) {
        let mut from = self.start(0);
        while let Some(place) = marked.take_first() {
            out.extend_from_slice(self.head.get(from..self.start(place)).unwrap_or_default());
            rewrite(out, place);
            from = self.start(place + 1);
        }
        let end = self.head.len().saturating_sub(2);
        out.extend_from_slice(self.head.get(from..end).unwrap_or_default());
    }
}

/// Writes `name: value` and the line end.
#[inline]
pub(super) fn write_line(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Writes `number` in decimal.
pub(super) fn write_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20]; // u64::MAX has 20
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        used += 1;
        if number == 0 {
            break;
        }
    }
    out.extend(digits.iter().skip(digits.len() - used));
}

/// Whether `byte` is allowed in a token (RFC 9110 §5.6.2).
#[inline]
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether `byte` is allowed in a field value (RFC 9110 §5.5), obs-text included.
#[inline]
pub(super) fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// `value` without optional white space around it (RFC 9110 §5.6.3: SP and HTAB, nothing else).
pub(super) fn trim_ows(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expected: KnownField) {
        assert_eq!(KnownField::of(name.as_bytes()), expected, "{name}");
        assert_eq!(KnownField::of(name.to_ascii_uppercase().as_bytes()), expected, "{name}");
        assert_eq!(KnownField::of(name.to_ascii_lowercase().as_bytes()), expected, "{name}");
        assert_eq!(KnownField::of(format!("{name}x").as_bytes()), KnownField::Other);
        assert_eq!(KnownField::of(format!("x{name}").as_bytes()), KnownField::Other);
    }

    #[test]
    fn a_name_is_known_in_any_case_and_only_whole() {
        check("Authorization", KnownField::Authorization);
        check("Connection", KnownField::Connection);
        check("Content-Length", KnownField::ContentLength);
        check("Date", KnownField::Date);
        check("Expect", KnownField::Expect);
        check("Host", KnownField::Host);
        check("HTTP2-Settings", KnownField::Http2Settings);
        check("Keep-Alive", KnownField::KeepAlive);
        check("Max-Forwards", KnownField::MaxForwards);
        check("Persistent-Auth", KnownField::PersistentAuth);
        check("Proxy-Authenticate", KnownField::ProxyAuthenticate);
        check("Proxy-Authentication-Info", KnownField::ProxyAuthenticationInfo);
        check("Proxy-Authorization", KnownField::ProxyAuthorization);
        check("Proxy-Connection", KnownField::ProxyConnection);
        check("Proxy-Support", KnownField::ProxySupport);
        check("Server", KnownField::Server);
        check("TE", KnownField::Te);
        check("Trailer", KnownField::Trailer);
        check("Transfer-Encoding", KnownField::TransferEncoding);
        check("Upgrade", KnownField::Upgrade);
        check("Via", KnownField::Via);
        check("WWW-Authenticate", KnownField::WwwAuthenticate);
    }

    #[test]
    fn a_name_that_only_looks_alike_is_not_known() {
        for name in
            ["", "Hose", "Content_Length", "Content-Lengtg", "\u{212a}eep-Alive", "Hos\u{0}"]
        {
            assert_eq!(KnownField::of(name.as_bytes()), KnownField::Other, "{name}");
        }
    }

    #[test]
    fn numbers_are_written_in_decimal() {
        for number in [0, 7, 10, 999, 1_000, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            write_number(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }

    #[test]
    fn only_space_and_tab_are_optional_white_space() {
        for (value, trimmed) in [
            (&b" \t a b\t "[..], &b"a b"[..]),
            (b" ", b""),
            (b"", b""),
            (b"\x0ba\x0c", b"\x0ba\x0c"),
            (b"\xa0a", b"\xa0a"),
        ] {
            assert_eq!(trim_ows(value), trimmed);
        }
    }

    #[test]
    fn unmarked_lines_are_copied_as_they_stand() {
        let head = b"GET / HTTP/1.1\r\nA:1\r\nb :\r\nC:  3 \r\nD:4\r\n\r\n";
        let at = |text: &str| {
            let start = head.windows(text.len()).position(|w| w == text.as_bytes()).unwrap();
            std::str::from_utf8(&head[start..start + text.len()]).unwrap()
        };
        let headers = ["A", "b", "C", "D"].map(|name| Header { name: at(name), value: b"" });
        let lines = FieldLines { head, headers: &headers, all: None };
        let copy = |places: &[usize]| {
            let mut marked = LineSet::default();
            places.iter().for_each(|&place| marked.add(place));
            let mut out = Vec::new();
            lines.copy(&mut out, marked, |out, place| {
                if place == 1 {
                    out.extend_from_slice(b"new\r\n");
                }
            });
            String::from_utf8(out).unwrap()
        };
        assert_eq!(copy(&[]), "A:1\r\nb :\r\nC:  3 \r\nD:4\r\n");
        assert_eq!(copy(&[0]), "b :\r\nC:  3 \r\nD:4\r\n");
        assert_eq!(copy(&[1, 2]), "A:1\r\nnew\r\nD:4\r\n");
        assert_eq!(copy(&[3]), "A:1\r\nb :\r\nC:  3 \r\n");
        assert_eq!(copy(&[0, 1, 2, 3]), "new\r\n");
    }
}
