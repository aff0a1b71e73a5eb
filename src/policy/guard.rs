//! Protected mode: whom a listener serves, and which addresses may be connected to.
//!
//! A listener on loopback serves this machine, which could connect to anything by itself: nothing
//! is forbidden. A listener beyond loopback serves private source networks only and connects to
//! public destinations only, so that a proxy opened by mistake is neither an open relay nor a way
//! into the network it stands in. `--open` lifts both. The destination is judged by the address
//! that is then connected to, never by its name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a listener allows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scope {
    /// The listener is on loopback, or open: everybody, everywhere.
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

    /// Why `address` may not be connected to, if so.
    pub fn forbids(self, address: IpAddr) -> Option<&'static str> {
        if self == Self::Unrestricted { None } else { special(address) }
    }
}

/// IPv4 in IPv6 clothes is judged as IPv4.
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

/// What makes `address` no public unicast address (the IANA special-purpose registries).
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
        [192, 0, 0, _]
        | [192, 0, 2, _]
        | [198, 18 | 19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [240..=255, ..] => "the destination is in a reserved range",
        _ => return None,
    })
}

fn special_v6(ip: Ipv6Addr) -> Option<&'static str> {
    let segments = ip.segments();
    let v4 = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    Some(match segments {
        _ if ip.is_unspecified() => "the destination is an unspecified address",
        _ if ip.is_loopback() => "the destination is a loopback address",
        _ if ip.is_unique_local() => "the destination is a private address",
        _ if ip.is_unicast_link_local() => "the destination is a link-local address",
        _ if ip.is_multicast() => "the destination is a multicast address",
        // IPv4 inside IPv6 reaches that IPv4 address through a translator or a relay.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => return special_v4(v4(high, low)),
        [0x2002, high, low, ..] => return special_v4(v4(high, low)),
        [0, 0, 0, 0, 0, 0, high, low] => return special_v4(v4(high, low)),
        // Of ::/8 only the translated IPv4 above is in use.
        [0..=0xff, ..]
        | [0x100, 0, 0, 0, ..]
        | [0x2001, 0xdb8, ..]
        | [0x3fff, ..]
        | [0x5f00, ..]
        | [0xfec0..=0xfeff, ..] => "the destination is in a reserved range",
        [0x2001, 0, ..] => "the destination is in a tunnelling range",
        _ => return None,
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

    #[test]
    fn protected_mode_connects_to_public_unicast_addresses_only() {
        for special in [
            "127.0.0.1",
            "127.255.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.127.255.255",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "198.18.0.1",
            "::",
            "::1",
            "fc00::1",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2001:db8::1",
            "2001:0:1::1",
            "::ffff:0:10.0.0.1",
            "::1:2:3",
            "64:ff9b:2::1",
        ] {
            assert!(Scope::Protected.forbids(ip(special)).is_some(), "{special}");
        }
        for public in [
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.0",
            "172.32.0.1",
            "192.0.1.1",
            "2606:2800:220:1::1",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "::ffff:8.8.8.8",
        ] {
            assert_eq!(Scope::Protected.forbids(ip(public)), None, "{public}");
        }
    }
}
