//! Binds connections to upstreams to the source addresses that the operator chose.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

/// Source addresses, at most one a family. With an address for one family only, no connections are made to
/// the other: connections bound to an address must not leave by another.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sources {
    /// For IPv4 destinations.
    pub v4: Option<IpAddr>,
    /// For IPv6 destinations.
    pub v6: Option<IpAddr>,
}

/// The address to bind to before a connect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SourceAddress {
    /// None: the system chooses.
    Any,
    /// This address.
    Bound(IpAddr),
    /// There is a source address, but none of the destination's family.
    None,
}

impl Sources {
    /// The source address for a connection to `to`.
    pub(crate) fn of(&self, to: IpAddr) -> SourceAddress {
        let wanted = if to.is_ipv6() { self.v6 } else { self.v4 };
        match wanted {
            Some(ip) => SourceAddress::Bound(ip),
            None if *self == Self::default() => SourceAddress::Any,
            None => SourceAddress::None,
        }
    }

    /// Checks that this machine has the addresses.
    ///
    /// # Errors
    ///
    /// The first one it does not have, and the system's error.
    pub fn check(&self) -> Result<(), (IpAddr, io::Error)> {
        [self.v4, self.v6].into_iter().flatten().try_for_each(|ip| {
            let domain = Domain::for_address(SocketAddr::new(ip, 0));
            Socket::new(domain, Type::STREAM.cloexec(), Some(Protocol::TCP))
                .and_then(|socket| bind(&socket, ip))
                .map_err(|e| (ip, e))
        })
    }
}

/// Binds `socket` to `ip`. The port is chosen when it connects.
///
/// # Errors
///
/// This machine does not have the address.
pub fn bind(socket: &Socket, ip: IpAddr) -> io::Result<()> {
    choose_port_late(socket);
    socket.bind(&SocketAddr::new(ip, 0).into())
}

/// `IP_BIND_ADDRESS_NO_PORT`: a port chosen by `bind` is taken for all destinations, one chosen by
/// `connect` for that one only. Without the option there would be 28,000 upstream connections in all, those
/// of the last minute included. IPv6 uses the same option.
fn choose_port_late(socket: &Socket) {
    use std::os::fd::AsRawFd;

    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open, because `socket` is borrowed. The kernel reads one `c_int`, which
    // lives through the call.
    #[allow(unsafe_code)]
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if outcome != 0 {
        log::debug!("IP_BIND_ADDRESS_NO_PORT: {}", io::Error::last_os_error());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_of_the_destinations_family_or_there_is_no_way() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let (four, six) = (ip("192.0.2.1"), ip("2001:db8::1"));
        let (to4, to6) = (ip("198.51.100.1"), ip("2001:db8::2"));
        let sources = |v4, v6| Sources { v4, v6 };
        for (sources, via4, via6) in [
            (sources(None, None), SourceAddress::Any, SourceAddress::Any),
            (sources(Some(four), None), SourceAddress::Bound(four), SourceAddress::None),
            (sources(None, Some(six)), SourceAddress::None, SourceAddress::Bound(six)),
            (sources(Some(four), Some(six)), SourceAddress::Bound(four), SourceAddress::Bound(six)),
        ] {
            assert_eq!((sources.of(to4), sources.of(to6)), (via4, via6), "{sources:?}");
        }
    }

    #[test]
    fn a_bound_socket_has_no_port_before_it_connects() {
        for ip in ["127.0.0.1", "::1"] {
            let ip: IpAddr = ip.parse().unwrap();
            let domain = Domain::for_address(SocketAddr::new(ip, 0));
            let Ok(socket) = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)) else {
                continue;
            };
            if bind(&socket, ip).is_err() {
                continue; // no IPv6 here
            }
            let bound = socket.local_addr().unwrap().as_socket().unwrap();
            assert_eq!(bound, SocketAddr::new(ip, 0));
        }
    }

    #[test]
    fn an_address_this_machine_lacks_is_found_out() {
        // RFC 5737: no machine has it.
        let lacks: IpAddr = "192.0.2.77".parse().unwrap();
        let (ip, e) = Sources { v4: Some(lacks), v6: None }.check().unwrap_err();
        assert_eq!((ip, e.kind()), (lacks, io::ErrorKind::AddrNotAvailable));
        let has = Some(IpAddr::from([127, 0, 0, 9]));
        assert!(Sources { v4: has, v6: None }.check().is_ok());
    }
}
