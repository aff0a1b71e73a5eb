//! The addresses of our own listeners, in every spelling. A request to one of them would come back.

use std::net::{IpAddr, SocketAddr};

/// The addresses of our own listeners.
#[derive(Clone, Debug, Default)]
pub struct OwnAddresses(Vec<SocketAddr>);

impl OwnAddresses {
    /// The addresses of these listeners.
    pub fn new(listeners: Vec<SocketAddr>) -> Self {
        Self(listeners)
    }

    /// Whether a connection to `to` would reach one of our listeners, as far as the address tells. An
    /// unspecified address connects to this machine.
    pub fn contain(&self, to: SocketAddr) -> bool {
        let ip = to.ip().to_canonical();
        self.with_port(to.port()).any(|own| {
            let own = own.ip().to_canonical();
            own == ip
                || (own.is_unspecified() && (ip.is_loopback() || ip.is_unspecified()))
                || (ip.is_unspecified() && own.is_loopback())
        })
    }

    /// Whether a connection between `from` and `to` reached one of our listeners after all. A listener
    /// on every address answers to addresses that are not known in advance.
    pub fn answered(&self, from: IpAddr, to: SocketAddr) -> bool {
        from.to_canonical() == to.ip().to_canonical()
            && self.with_port(to.port()).any(|own| own.ip().is_unspecified())
    }

    /// Whether any listener has this port.
    pub fn have_port(&self, port: u16) -> bool {
        self.with_port(port).next().is_some()
    }

    fn with_port(&self, port: u16) -> impl Iterator<Item = &SocketAddr> {
        self.0.iter().filter(move |own| own.port() == port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_found_in_every_spelling() {
        let own = |listeners: &[&str]| {
            OwnAddresses::new(listeners.iter().map(|l| l.parse().unwrap()).collect())
        };
        let to = |text: &str| text.parse::<SocketAddr>().unwrap();
        let one = own(&["127.0.0.1:3128"]);
        for same in ["127.0.0.1:3128", "0.0.0.0:3128", "[::]:3128", "[::ffff:127.0.0.1]:3128"] {
            assert!(one.contain(to(same)), "{same}");
        }
        for other in ["127.0.0.1:3129", "127.0.0.2:3128", "[::1]:3128", "192.0.2.1:3128"] {
            assert!(!one.contain(to(other)), "{other}");
        }
        let any = own(&["0.0.0.0:3128"]);
        assert!(any.contain(to("127.0.0.2:3128")));
        assert!(!any.contain(to("192.0.2.1:3128")));
        assert!(any.answered("192.0.2.1".parse().unwrap(), to("192.0.2.1:3128")));
        assert!(!any.answered("192.0.2.7".parse().unwrap(), to("192.0.2.1:3128")));
        assert!(!one.answered("192.0.2.1".parse().unwrap(), to("192.0.2.1:3128")));
    }
}
