//! Networks of addresses, IPv4 in IPv6 clothes being IPv4.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// Addresses that begin alike: `10.0.0.0/8`, `2001:db8::/32`, or one address.
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
                "'{text}' has bits set behind its prefix; {} is the network",
                net.trunc()
            ));
        }
        Ok(Self(net))
    }

    /// As it is calculated with.
    pub fn net(&self) -> IpNet {
        self.0
    }

    /// Whether the address is in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(&ip.to_canonical())
    }
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
        assert!(Network::parse("10.0.0.1/8").unwrap_err().contains("10.0.0.0/8 is the network"));
        for wrong in ["", "10.0.0", "10.0.0.0/33", "example.com", "10.0.0.0/-1"] {
            assert!(Network::parse(wrong).unwrap_err().contains("is not a network"), "{wrong}");
        }
    }
}
