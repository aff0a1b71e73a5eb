//! Where a request goes: the server it names, and the next hop on the way there.
//!
//! Connections are kept by next hop, never by server name alone. A connection made in one way (plain,
//! directly) must not serve a request that has to go another way.

use std::fmt::Write as _;
use std::net::IpAddr;

/// A server that a request names. Its text buffer is reused.
#[derive(Debug, Default)]
pub struct Endpoint {
    /// `host:port`, lower case, IPv6 in brackets.
    authority: String,
    host_length: usize,
    port: u16,
    ip: Option<IpAddr>,
}

impl Endpoint {
    /// Names this server. `ip` is set if the host is an address, and then decides its spelling.
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

    /// `host:port`, lower case, IPv6 in brackets; empty if no server is named.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The host, IPv6 in brackets.
    pub fn host(&self) -> &str {
        self.authority.get(..self.host_length).unwrap_or_default()
    }

    /// The host without brackets, the form that rules use.
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

    /// Clears the name.
    pub fn clear(&mut self) {
        self.authority.clear();
        (self.host_length, self.port, self.ip) = (0, 0, None);
    }
}

/// How the proxy speaks to the next hop.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Hop {
    /// The server itself, in plain HTTP.
    #[default]
    Direct,
}

impl Hop {
    /// The first character of a key, before the address. Every hop has a different one.
    fn mark(self) -> char {
        match self {
            Self::Direct => '=',
        }
    }
}

/// One next hop. The buffer of its key is reused.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    hop: Hop,
    key: String,
}

/// The key that two requests must share to share a connection. Only a [`Peer`] makes one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PeerKey<'a>(pub(super) &'a str);

impl Peer {
    /// Makes this server itself the next hop.
    pub fn direct(&mut self, to: &Endpoint) {
        self.hop = Hop::Direct;
        self.key.clear();
        self.key.push(self.hop.mark());
        self.key.push_str(to.authority());
    }

    /// The endpoint to connect to, for a request to this server.
    pub fn endpoint<'a>(&'a self, destination: &'a Endpoint) -> &'a Endpoint {
        match self.hop {
            Hop::Direct => destination,
        }
    }

    /// How the proxy speaks to it.
    pub fn hop(&self) -> Hop {
        self.hop
    }

    /// The key under which its connections are kept.
    pub fn key(&self) -> PeerKey<'_> {
        PeerKey(&self.key)
    }
}

impl PeerKey<'_> {
    /// The key as text, for `idle`.
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

    /// A key has more in it than the authority, so no text from a request can be one.
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
