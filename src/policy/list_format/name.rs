//! Reads the names and addresses in lists.

use std::net::{IpAddr, Ipv4Addr};

use crate::policy::domains::MOST_BYTES;

/// A name as the set keeps it: in lower case and ASCII, without a dot at either end. An address is kept
/// as its usual text.
pub(super) struct ListedName {
    text: [u8; MOST_BYTES],
    length: usize,
}

impl ListedName {
    /// Reads a word that stands alone. A name of one label needs a dot or `*.` to be read as a name.
    pub(super) fn read(word: &[u8]) -> Option<Self> {
        let name = Self::read_any(word)?;
        let says = |text: &[u8]| text.iter().any(|o| b".:".contains(o));
        (says(word) || says(name.text())).then_some(name)
    }

    /// Reads a name of any number of labels, or an address. A `*.` or a dot before it, and a dot behind
    /// it, mean nothing.
    pub(super) fn read_any(word: &[u8]) -> Option<Self> {
        if let Some(found) = address(word) {
            return Self::copied(found.ip.to_canonical().to_string().as_bytes());
        }
        let name = word.strip_prefix(b"*").filter(|rest| rest.starts_with(b".")).unwrap_or(word);
        let name = name.strip_prefix(b".").unwrap_or(name);
        let name = name.strip_suffix(b".").unwrap_or(name);
        if name.is_ascii() {
            return Self::copied(name)?.checked();
        }
        let name = idna::domain_to_ascii(std::str::from_utf8(name).ok()?).ok()?;
        Self::copied(name.as_bytes())?.checked()
    }

    fn copied(text: &[u8]) -> Option<Self> {
        let mut name = Self { text: [0; MOST_BYTES], length: text.len() };
        name.text.get_mut(..text.len())?.copy_from_slice(text);
        Some(name)
    }

    pub(super) fn text(&self) -> &[u8] {
        self.text.get(..self.length).unwrap_or_default()
    }

    /// The name in lower case, if it is valid: labels of 1 to 63 letters, digits, `-` and `_`, the last
    /// label not a number.
    fn checked(mut self) -> Option<Self> {
        const MOST_OF_A_LABEL: usize = 63;
        let (mut label, mut number) = (0, true);
        for byte in self.text.get_mut(..self.length)? {
            match byte {
                b'.' if (1..=MOST_OF_A_LABEL).contains(&label) => {
                    (label, number) = (0, true);
                    continue;
                }
                b'0'..=b'9' => {}
                b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'_' => number = false,
                _ => return None,
            }
            byte.make_ascii_lowercase();
            label += 1;
        }
        ((1..=MOST_OF_A_LABEL).contains(&label) && !number).then_some(self)
    }
}

/// Whether a name in a list may contain this byte.
pub(super) fn may_contain(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.')
}

/// An address in a list.
#[derive(Clone, Copy)]
pub(super) struct Address {
    pub(super) ip: IpAddr,
    /// Nothing answers there: the lists that refuse names give them such addresses.
    pub(super) leads_nowhere: bool,
}

/// Reads an address, with or without brackets, and with the scope that some systems write behind it
/// (`fe80::1%lo0`, RFC 4007 §11).
pub(super) fn address(word: &[u8]) -> Option<Address> {
    // Most words are names, which this test rules out quickly.
    let may_be = matches!(word.last(), Some(b'0'..=b'9' | b']' | b':')) || word.contains(&b':');
    if !may_be {
        return None;
    }
    // inet_aton(3) takes 0 for 0.0.0.0, and some lists save the rest.
    if word == b"0" {
        return Some(Address { ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED), leads_nowhere: true });
    }
    let text = std::str::from_utf8(word).ok()?;
    let inside = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    let (inside, scope) = inside.split_once('%').unwrap_or((inside, ""));
    let ip: IpAddr = inside.parse().ok()?;
    let leads_nowhere =
        ip.is_unspecified() || ip.to_canonical().is_loopback() || scope.starts_with("lo");
    Some(Address { ip, leads_nowhere })
}
