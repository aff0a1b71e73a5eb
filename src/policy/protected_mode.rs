//! Protected mode: the clients that a listener serves, and the addresses that it connects to.
//!
//! A listener on loopback serves this machine, which could connect to any address by itself, so nothing is
//! forbidden. A listener beyond loopback serves private source networks only and connects to public
//! destinations only, so that a proxy opened by mistake is neither an open relay nor a way into its own
//! network. Rules name exceptions (`--allow-client`, `--allow`), and `--open` lifts both. The destination is judged by the connected address, never by its name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::network::inside;

/// The clients and destinations that a listener allows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scope {
    /// The listener is on loopback, or open: all clients, all destinations.
    Unrestricted,
    /// The listener is beyond loopback: private clients, public destinations.
    Protected,
}

impl Scope {
    /// The scope of a listener on `address`.
    pub fn of(address: IpAddr, open: bool) -> Self {
        if open || canonical(address).is_loopback() { Self::Unrestricted } else { Self::Protected }
    }

    /// Whether a client at `address` is served.
    pub fn serves(self, address: IpAddr) -> bool {
        self == Self::Unrestricted || is_local(address)
    }

    /// The reason why `address` may not be connected to, if there is one.
    pub fn forbids(self, address: IpAddr) -> Option<&'static str> {
        if self == Self::Unrestricted { None } else { special(address) }
    }
}

/// An IPv4-mapped address is judged as IPv4.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Whether `address` belongs to this machine's own networks: loopback, private, link-local.
fn is_local(address: IpAddr) -> bool {
    match canonical(address) {
        IpAddr::V4(ip) => {
            ip.is_loopback() || ip.is_private() || ip.is_link_local() || is_shared(ip)
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// Carrier-grade NAT, 100.64.0.0/10 (RFC 6598).
fn is_shared(ip: Ipv4Addr) -> bool {
    matches!(ip.octets(), [100, b, ..] if b & 0xc0 == 64)
}

const RESERVED: &str = "the destination is in a reserved range";

/// The reason why `address` is not a public unicast address. Follows the special-purpose registries of IANA
/// (RFC 6890), as of 2025, and for IPv6 also excludes everything outside global unicast (2000::/3).
/// Stricter than the registries: some addresses of 192.0.0.0/24 and 2001::/23 are reachable globally, but
/// serve protocols other than HTTP.
fn special(address: IpAddr) -> Option<&'static str> {
    match canonical(address) {
        IpAddr::V4(ip) => special_v4(ip),
        IpAddr::V6(ip) => special_v6(ip),
    }
}

fn special_v4(ip: Ipv4Addr) -> Option<&'static str> {
    Some(match ip.octets() {
        [0, ..] => "the destination is an unspecified address",
        [127, ..] => "the destination is a loopback address",
        _ if ip.is_private() => "the destination is a private address",
        _ if ip.is_link_local() => "the destination is a link-local address",
        _ if is_shared(ip) => "the destination is in a carrier's shared address space",
        _ if ip.is_multicast() => "the destination is a multicast address",
        // Protocol assignments, documentation, benchmarking, and 6to4 relays.
        [192, 0, 0 | 2, _]
        | [192, 88, 99, _]
        | [198, 18 | 19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [240..=255, ..] => RESERVED,
        _ => return None,
    })
}

fn special_v6(ip: Ipv6Addr) -> Option<&'static str> {
    let v4 = inside(ip.into()).next().and_then(special_v4);
    Some(match ip.segments() {
        _ if ip.is_unspecified() => "the destination is an unspecified address",
        _ if ip.is_loopback() => "the destination is a loopback address",
        _ if ip.is_unique_local() => "the destination is a private address",
        _ if ip.is_unicast_link_local() => "the destination is a link-local address",
        _ if ip.is_multicast() => "the destination is a multicast address",
        // Leads to the IPv4 address inside through a translator or a relay.
        [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0x2002, ..] => return v4,
        // The deprecated IPv4-compatible form (RFC 4291 §2.5.5.1).
        [0, 0, 0, 0, 0, 0, ..] => v4.unwrap_or(RESERVED),
        [0x2001, 0, ..] => "the destination is in a tunnelling range",
        // Protocol assignments and documentation.
        [0x2001, 1..=0x1ff | 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => RESERVED,
        [0x2000..=0x3fff, ..] => return None,
        // Local-use translation, discard, segment routing, site-local, and unassigned ranges.
        _ => RESERVED,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_loopback_listener_restricts_nothing_and_another_one_does_unless_open() {
        assert_eq!(Scope::of(ip("127.0.0.1"), false), Scope::Unrestricted);
        assert_eq!(Scope::of(ip("::1"), false), Scope::Unrestricted);
        assert_eq!(Scope::of(ip("0.0.0.0"), false), Scope::Protected);
        assert_eq!(Scope::of(ip("::"), false), Scope::Protected);
        assert_eq!(Scope::of(ip("192.168.1.1"), false), Scope::Protected);
        assert_eq!(Scope::of(ip("0.0.0.0"), true), Scope::Unrestricted);
        assert_eq!(Scope::Unrestricted.forbids(ip("169.254.169.254")), None);
        assert!(Scope::Unrestricted.serves(ip("8.8.8.8")));
    }

    #[test]
    fn protected_mode_serves_private_networks_only() {
        for local in [
            "10.1.2.3",
            "192.168.0.9",
            "172.31.0.1",
            "127.0.0.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
            "100.64.0.1",
        ] {
            assert!(Scope::Protected.serves(ip(local)), "{local}");
        }
        for public in
            ["8.8.8.8", "172.32.0.1", "2001:4860:4860::8888", "::ffff:8.8.8.8", "100.128.0.1"]
        {
            assert!(!Scope::Protected.serves(ip(public)), "{public}");
        }
    }

    /// Each block of the IANA registries by its first and last address, and its neighbours if they are
    /// public.
    #[test]
    fn protected_mode_connects_to_public_unicast_addresses_only() {
        let unspecified = "unspecified address";
        for (special, why) in [
            ("0.0.0.0", unspecified),
            ("0.255.255.255", unspecified),
            ("10.0.0.0", "private"),
            ("10.255.255.255", "private"),
            ("100.64.0.0", "shared"),
            ("100.127.255.255", "shared"),
            ("127.0.0.0", "loopback"),
            ("127.255.255.255", "loopback"),
            ("169.254.0.0", "link-local"),
            ("169.254.169.254", "link-local"),
            ("169.254.255.255", "link-local"),
            ("172.16.0.0", "private"),
            ("172.31.255.255", "private"),
            ("192.0.0.0", "reserved"),
            ("192.0.0.170", "reserved"),
            ("192.0.0.255", "reserved"),
            ("192.0.2.0", "reserved"),
            ("192.0.2.255", "reserved"),
            ("192.88.99.1", "reserved"),
            ("192.168.0.0", "private"),
            ("192.168.255.255", "private"),
            ("198.18.0.0", "reserved"),
            ("198.19.255.255", "reserved"),
            ("198.51.100.0", "reserved"),
            ("203.0.113.255", "reserved"),
            ("224.0.0.1", "multicast"),
            ("239.255.255.255", "multicast"),
            ("240.0.0.0", "reserved"),
            ("255.255.255.255", "reserved"),
            ("::", unspecified),
            ("::1", "loopback"),
            // Mapped, compatible, translated, 6to4: judged by the IPv4 address inside.
            ("::ffff:127.0.0.1", "loopback"),
            ("::ffff:10.0.0.1", "private"),
            ("::ffff:169.254.169.254", "link-local"),
            ("::ffff:0.0.0.0", unspecified),
            ("::10.0.0.1", "private"),
            ("::127.0.0.1", "loopback"),
            ("::8.8.8.8", "reserved"),
            ("64:ff9b::10.0.0.1", "private"),
            ("64:ff9b::7f00:1", "loopback"),
            ("64:ff9b::a9fe:a9fe", "link-local"),
            ("64:ff9b:0:0:0:1::", "reserved"),
            ("64:ff9b:1::8.8.8.8", "reserved"),
            ("64:ff9b:1:ffff:ffff:ffff:ffff:ffff", "reserved"),
            ("::ffff:0:10.0.0.1", "reserved"),
            ("2002:7f00:1::", "loopback"),
            ("2002:a9fe:a9fe::1", "link-local"),
            ("2002:a00:1::", "private"),
            ("2002:e000:1::", "multicast"),
            ("100::", "reserved"),
            ("100:0:0:1::", "reserved"),
            ("2001::", "tunnelling"),
            ("2001:0:ffff:ffff:ffff:ffff:ffff:ffff", "tunnelling"),
            ("2001:1::1", "reserved"),
            ("2001:2::", "reserved"),
            ("2001:10::", "reserved"),
            ("2001:20::", "reserved"),
            ("2001:1ff:ffff::", "reserved"),
            ("2001:db8::", "reserved"),
            ("2001:db8:ffff::", "reserved"),
            ("3fff::", "reserved"),
            ("3fff:fff:ffff::", "reserved"),
            ("5f00::", "reserved"),
            ("1fff:ffff::", "reserved"),
            ("4000::", "reserved"),
            ("fbff::", "reserved"),
            ("fc00::", "private"),
            ("fdff:ffff::", "private"),
            ("fe00::", "reserved"),
            ("fe80::", "link-local"),
            ("febf:ffff::", "link-local"),
            ("fec0::", "reserved"),
            ("feff::", "reserved"),
            ("ff02::1", "multicast"),
        ] {
            let said = Scope::Protected.forbids(ip(special)).unwrap_or("nothing");
            assert!(said.contains(why), "{special}: {said}");
            assert_eq!(Scope::Unrestricted.forbids(ip(special)), None, "{special}");
        }
        for public in [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.1",
            "191.255.255.255",
            "192.0.1.1",
            "192.0.3.0",
            "192.88.98.255",
            "192.88.100.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.255",
            "198.51.101.0",
            "203.0.112.255",
            "203.0.114.0",
            "223.255.255.255",
            "8.8.8.8",
            "2000::",
            "2001:200::",
            "2001:db7:ffff::",
            "2001:db9::",
            "2606:2800:220:1::1",
            "3ffe:ffff::",
            "3fff:1000::",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "::ffff:8.8.8.8",
        ] {
            assert_eq!(Scope::Protected.forbids(ip(public)), None, "{public}");
        }
    }
}
