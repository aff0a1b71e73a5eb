//! Where a request goes: the server that it names, and the next hop on the way there.
//!
//! Connections are kept by the next hop and never by the name of a server alone: one that was made in
//! one way (plain, directly) must not serve a request that has to go in another.

use std::fmt::Write as _;
use std::net::IpAddr;

/// A server that a request names. The memory of its text is used again.
#[derive(Debug, Default)]
pub struct Endpoint {
    /// `host:port`, lower case, IPv6 in brackets.
    authority: String,
    host_length: usize,
    port: u16,
    ip: Option<IpAddr>,
}

impl Endpoint {
    /// Names this server. `ip` is the host, if that is an address, and decides how it is spelled.
    pub fn set(&mut self, host: &str, ip: Option<IpAddr>, port: u16) {
        let text = &mut self.authority;
        text.clear();
        // Writing to a String cannot fail.
        let _ = match ip {
            Some(ip) if ip.is_ipv6() => write!(text, "[{ip}]"),
            _ => {
                text.push_str(host);
                text.make_ascii_lowercase();
                Ok(())
            }
        };
        self.host_length = text.len();
        let _ = write!(text, ":{port}");
        self.port = port;
        self.ip = ip;
    }

    /// `host:port`, lower case, IPv6 in brackets; empty if nothing is named.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The host, IPv6 in brackets.
    pub fn host(&self) -> &str {
        self.authority.get(..self.host_length).unwrap_or_default()
    }

    /// The host as rules have it: without brackets.
    pub fn bare_host(&self) -> &str {
        self.host().trim_matches(['[', ']'])
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host, if it is an address.
    pub fn ip(&self) -> Option<IpAddr> {
        self.ip
    }

    /// Names nothing any more.
    pub fn clear(&mut self) {
        self.authority.clear();
        (self.host_length, self.port, self.ip) = (0, 0, None);
    }
}

/// How the next hop is spoken to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Hop {
    /// The server itself, in plain HTTP.
    #[default]
    Direct,
}

impl Hop {
    /// What stands before the address in a key. No two hops share it.
    fn mark(self) -> char {
        match self {
            Self::Direct => '=',
        }
    }
}

/// One next hop. The memory of its key is used again.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    hop: Hop,
    key: String,
}

/// What has to be the same for a connection to serve another request. Only a [`Peer`] has one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PeerKey<'a>(pub(super) &'a str);

impl Peer {
    /// The next hop is this server itself.
    pub fn direct(&mut self, to: &Endpoint) {
        self.hop = Hop::Direct;
        self.key.clear();
        self.key.push(self.hop.mark());
        self.key.push_str(to.authority());
    }

    /// What to connect to, for a request to this server.
    pub fn endpoint<'a>(&'a self, destination: &'a Endpoint) -> &'a Endpoint {
        match self.hop {
            Hop::Direct => destination,
        }
    }

    /// How it is spoken to.
    pub fn hop(&self) -> Hop {
        self.hop
    }

    /// What its connections are kept by.
    pub fn key(&self) -> PeerKey<'_> {
        PeerKey(&self.key)
    }
}

impl PeerKey<'_> {
    /// The key as text, for the bookkeeping.
    pub(super) fn text(&self) -> &str {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_named_in_one_spelling() {
        let mut endpoint = Endpoint::default();
        endpoint.set("Name.Example", None, 80);
        assert_eq!((endpoint.authority(), endpoint.host()), ("name.example:80", "name.example"));
        let ip = "2001:DB8::1".parse().ok();
        endpoint.set("2001:DB8::1", ip, 443);
        assert_eq!(
            (endpoint.authority(), endpoint.bare_host()),
            ("[2001:db8::1]:443", "2001:db8::1")
        );
        assert_eq!((endpoint.port(), endpoint.ip()), (443, ip));
        endpoint.clear();
        assert_eq!((endpoint.authority(), endpoint.host(), endpoint.ip()), ("", "", None));
    }

    /// A key says more than the authority: no text of a request is one.
    #[test]
    fn the_key_of_a_peer_is_no_authority() {
        let mut endpoint = Endpoint::default();
        endpoint.set("name.example", None, 80);
        let (mut one, mut other) = (Peer::default(), Peer::default());
        one.direct(&endpoint);
        other.direct(&endpoint);
        assert_eq!(one.key(), other.key());
        assert_ne!(one.key().text(), endpoint.authority());
        endpoint.set("name.example", None, 81);
        other.direct(&endpoint);
        assert_ne!(one.key(), other.key());
    }
}
