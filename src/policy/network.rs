//! Networks of addresses, such as 10.0.0.0/8; an IPv4-mapped IPv6 address counts as IPv4.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

/// Addresses with a common prefix: `10.0.0.0/8`, `2001:db8::/32`, or a single address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Network(IpNet);

impl Network {
    /// Reads an address or a network.
    ///
    /// # Errors
    ///
    /// A sentence to print after the name of the option.
    pub fn parse(text: &str) -> Result<Self, String> {
        let plain = text.strip_prefix('[').and_then(|t| t.split_once(']'));
        let joined = plain.map(|(address, rest)| format!("{address}{rest}"));
        let text = joined.as_deref().unwrap_or(text);
        let net = match text.parse::<IpAddr>() {
            Ok(ip) => IpNet::from(ip.to_canonical()),
            Err(_) => text.parse::<IpNet>().map_err(|_| {
                format!(
                    "'{text}' is not a network; give one such as 192.168.0.0/16 or 2001:db8::/32"
                )
            })?,
        };
        let net = match net {
            // ::ffff:10.0.0.0/104 is 10.0.0.0/8.
            IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.addr().to_ipv4_mapped() {
                Some(v4) => IpNet::new(v4.into(), v6.prefix_len() - 96).unwrap_or(net),
                None => net,
            },
            _ => net,
        };
        if net.trunc() != net {
            return Err(format!(
                "'{text}' has bits set after its prefix; the network is {}",
                net.trunc()
            ));
        }
        Ok(Self(net))
    }

    /// The network as `ipnet` has it.
    pub fn net(&self) -> IpNet {
        self.0
    }

    /// Whether the network contains the address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(&ip.to_canonical())
    }

    /// Whether the network contains the address, or one that it may lead to. Rules that refuse use this.
    /// Rules that allow use [`contains`](Self::contains), because it is not known which host answers
    /// behind a translator.
    pub fn may_contain(&self, ip: IpAddr) -> bool {
        self.contains(ip) || inside(ip).any(|v4| self.contains(v4.into()))
    }
}

/// The IPv4 addresses that an IPv6 address may lead to through a translator or a relay. There is one,
/// except for translation within a local network (RFC 8215), whose prefix may have any of the lengths of
/// RFC 6052. An IPv4-mapped address is IPv4 itself, and leads to no other.
pub fn inside(ip: IpAddr) -> impl Iterator<Item = Ipv4Addr> {
    let IpAddr::V6(v6) = ip.to_canonical() else { return [None; 4].into_iter().flatten() };
    let bytes = v6.octets();
    let at = |places: [usize; 4]| {
        let [a, b, c, d] = places.map(|place| bytes.get(place).copied().unwrap_or_default());
        Some(Ipv4Addr::new(a, b, c, d))
    };
    let last = at([12, 13, 14, 15]);
    match v6.segments() {
        // NAT64 (RFC 6052).
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => [last, None, None, None],
        // The byte in between is zero (RFC 6052 §2.2).
        [0x64, 0xff9b, 1, ..] => [at([6, 7, 9, 10]), at([7, 9, 10, 11]), at([9, 10, 11, 12]), last],
        // 6to4 (RFC 3056).
        [0x2002, ..] => [at([2, 3, 4, 5]), None, None, None],
        // The deprecated IPv4-compatible form (RFC 4291 §2.5.5.1).
        [0, 0, 0, 0, 0, 0, ..] if !v6.is_unspecified() && !v6.is_loopback() => {
            [last, None, None, None]
        }
        _ => [None; 4],
    }
    .into_iter()
    .flatten()
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.prefix_len() == self.0.max_prefix_len() {
            true => self.0.addr().fmt(f),
            false => self.0.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_its_addresses_in_every_spelling() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.1.2.3", "11.0.0.1"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "::ffff:11.0.0.1"),
            ("::ffff:10.0.0.0/104", "10.1.2.3", "11.0.0.1"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("2001:db8::/32", "2001:db8:1::1", "2001:db9::1"),
            ("[2001:db8::]/32", "2001:db8::9", "::1"),
            ("[::1]", "::1", "::2"),
            ("0.0.0.0/0", "8.8.8.8", "::1"),
        ] {
            let network = Network::parse(network).unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{network} {inside}");
            assert!(!network.contains(outside.parse().unwrap()), "{network} {outside}");
        }
        assert!(Network::parse("10.0.0.1/8").unwrap_err().contains("the network is 10.0.0.0/8"));
        for wrong in ["", "10.0.0", "10.0.0.0/33", "example.com", "10.0.0.0/-1"] {
            assert!(Network::parse(wrong).unwrap_err().contains("is not a network"), "{wrong}");
        }
    }

    #[test]
    fn what_refuses_a_network_sees_its_addresses_inside_ipv6() {
        let ten = Network::parse("10.0.0.0/8").unwrap();
        for (address, is_meant) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("64:ff9b::10.1.2.3", true),
            ("64:ff9b::a01:203", true),
            ("2002:a01:203::1", true),
            ("2002:a01:203:ffff:1:2:3:4", true),
            ("::10.1.2.3", true),
            // Prefixes of 48, 56, 64 and 96 bits.
            ("64:ff9b:1:a01:2:300::", true),
            ("64:ff9b:1:ff0a:1:203::", true),
            ("64:ff9b:1:ffff:a:102:300::", true),
            ("64:ff9b:1:ffff:ffff:ffff:a01:203", true),
            ("11.1.2.3", false),
            ("64:ff9b::11.1.2.3", false),
            ("64:ff9b:0:0:0:1:a01:203", false),
            ("64:ff9b:2::10.1.2.3", false),
            ("64:ff9b:1:b01:2:300::", false),
            ("2002:b01:203::a01:203", false),
            ("2003:a01:203::1", false),
            ("::11.1.2.3", false),
            ("::ffff:0:10.1.2.3", false),
            ("2001:db8::10.1.2.3", false),
            ("::", false),
            ("::1", false),
        ] {
            let ip = address.parse().unwrap();
            assert_eq!(ten.may_contain(ip), is_meant, "{address}");
            let itself = ["10.1.2.3", "::ffff:10.1.2.3"].contains(&address);
            assert_eq!(ten.contains(ip), itself, "{address}");
        }
        let all = Network::parse("0.0.0.0/0").unwrap();
        for address in ["::", "::1", "2001:db8::1", "fe80::1", "2001:0:a01:203::1"] {
            assert!(!all.may_contain(address.parse().unwrap()), "{address}");
        }
    }
}
