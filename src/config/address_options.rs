//! Reads `--resolve` and `--source-address`.

use std::net::{IpAddr, SocketAddr};

use crate::net::given_names::GivenName;
use crate::net::hosts::{self, Name};
use crate::net::source_address::Sources;

const EXAMPLE: &str = "for example www.example:443:192.0.2.1 or www.example:[2001:db8::1]";

/// Reads `HOST[:PORT]:ADDR`. An IPv6 address may be in brackets.
///
/// # Errors
///
/// A sentence to print after the name of the option: what was found and what to write.
pub fn parse_given(text: &str) -> Result<GivenName, String> {
    if text.starts_with('[') || text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4()) {
        return Err(not_a_name(text, text));
    }
    if text.contains("://") {
        return Err(format!("'{text}' has a URL in it; give its host alone, {EXAMPLE}"));
    }
    let Some((host, rest)) = text.split_once(':') else {
        return Err(format!(
            "'{text}' has no address; give HOST:ADDR or HOST:PORT:ADDR, {EXAMPLE}"
        ));
    };
    let host = match hosts::name(host) {
        Name::Host(name) => name,
        Name::Address => return Err(not_a_name(text, host)),
        Name::Wrong => {
            return Err(format!(
                "'{text}': '{host}' is not a host name; give letters, digits, '-', '_' and '.', and no number behind the last dot, \
                 {EXAMPLE}"
            ));
        }
    };
    let with_port = rest.split_once(':').filter(|(port, _)| is_number(port));
    let (port, ip) = match (address(rest), with_port.map(|(p, a)| (p, a, address(a)))) {
        (Some(_), Some((port, address, Some(_)))) => {
            return Err(format!(
                "'{text}' can be read in two ways; write the address in brackets, \
                 {host}:[{rest}] or {host}:{port}:[{address}]"
            ));
        }
        (Some(ip), _) => (None, ip),
        (None, Some((port, _, Some(ip)))) => match port.parse() {
            Ok(port @ 1..) => (Some(port), ip),
            _ => {
                return Err(format!(
                    "'{text}': '{port}' is not a port; give a whole number from 1 to 65535"
                ));
            }
        },
        (None, with_port) => {
            let address = with_port.map_or(rest, |(_, address, _)| address);
            let several = if address.contains(',') {
                "repeat the option for another address"
            } else {
                "give an IPv4 or IPv6 address"
            };
            return Err(format!("'{text}': '{address}' is not an address; {several}, {EXAMPLE}"));
        }
    };
    Ok(GivenName { host, port, ip })
}

/// Reads a source address and adds it to `sources`. An IPv6 address may be in brackets.
///
/// # Errors
///
/// A sentence to print after the name of the option: what was found and what to write.
pub fn add_source(sources: &mut Sources, text: &str) -> Result<(), String> {
    let advice = "give an address of this machine, for example 192.0.2.1 or 2001:db8::1";
    let Some(ip) = address(text) else {
        if text.parse::<SocketAddr>().is_ok() {
            return Err(format!("'{text}' has a port, which the system chooses; {advice}"));
        }
        return Err(format!("'{text}' is not an address; {advice}"));
    };
    let ip = ip.to_canonical();
    if ip.is_unspecified() || ip.is_multicast() {
        return Err(format!("{ip} is not the address of a machine; {advice}"));
    }
    let place = if ip.is_ipv6() { &mut sources.v6 } else { &mut sources.v4 };
    match place.replace(ip) {
        None => Ok(()),
        Some(before) => {
            let family = if ip.is_ipv6() { "IPv6" } else { "IPv4" };
            Err(format!(
                "{before} and {ip} are both {family}; give one address of each family at most"
            ))
        }
    }
}

fn not_a_name(text: &str, host: &str) -> String {
    format!(
        "'{text}': '{host}' is an address, and addresses are never looked up; give a name, \
         {EXAMPLE}"
    )
}

fn address(text: &str) -> Option<IpAddr> {
    match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inside) => inside.parse().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_given_name_is_a_host_perhaps_a_port_and_an_address() {
        for (text, host, port, address) in [
            ("a.example:192.0.2.1", "a.example", None, "192.0.2.1"),
            ("a.example:443:192.0.2.1", "a.example", Some(443), "192.0.2.1"),
            ("A.Example.:80:192.0.2.1", "a.example", Some(80), "192.0.2.1"),
            ("localhost:[::1]", "localhost", None, "::1"),
            ("a:443:[2001:db8::1]", "a", Some(443), "2001:db8::1"),
            ("a:::1", "a", None, "::1"),
            ("a:fd00::1", "a", None, "fd00::1"),
            ("a:443:::1", "a", Some(443), "::1"),
            ("a:10443:fd00::1", "a", Some(10443), "fd00::1"),
            // The whole text also reads like one address, but then it would have no host.
            ("cafe:80:[::1]", "cafe", Some(80), "::1"),
            ("cafe:fd00::1", "cafe", None, "fd00::1"),
            ("a_b-c:65535:1.2.3.4", "a_b-c", Some(65535), "1.2.3.4"),
        ] {
            let given = GivenName { host: host.into(), port, ip: ip(address) };
            assert_eq!(parse_given(text), Ok(given), "{text}");
        }
    }

    #[test]
    fn a_refused_given_name_says_what_to_write() {
        for (text, says) in [
            ("", "'' has no address; give HOST:ADDR or HOST:PORT:ADDR"),
            ("a.example", "has no address"),
            (":192.0.2.1", "'' is not a host name"),
            ("a b:192.0.2.1", "'a b' is not a host name"),
            ("*:443:192.0.2.1", "'*' is not a host name"),
            ("größe:192.0.2.1", "'größe' is not a host name"),
            ("192.0.2.1:80:192.0.2.2", "'192.0.2.1' is an address, and addresses are never"),
            ("192.0.2.1", "is an address, and addresses are never looked up"),
            ("[::1]:80:192.0.2.2", "is an address, and addresses are never looked up"),
            ("a:", "'' is not an address"),
            ("a:80", "'80' is not an address; give an IPv4 or IPv6 address"),
            ("a:80:", "'' is not an address"),
            ("a:80:b", "'b' is not an address"),
            ("a:0:192.0.2.1", "'0' is not a port; give a whole number from 1 to 65535"),
            ("a:65536:192.0.2.1", "'65536' is not a port"),
            ("a:http:192.0.2.1", "'http:192.0.2.1' is not an address"),
            ("a:80:192.0.2.1,192.0.2.2", "repeat the option for another address"),
            ("a:[192.0.2.1]", "'[192.0.2.1]' is not an address"),
            (
                "a:2001:db8::1",
                "in two ways; write the address in brackets, a:[2001:db8::1] or \
                               a:2001:[db8::1]",
            ),
        ] {
            let error = parse_given(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_source_is_an_address_one_a_family() {
        let mut sources = Sources::default();
        add_source(&mut sources, "[::1]").unwrap();
        add_source(&mut sources, "127.0.0.1").unwrap();
        assert_eq!(sources, Sources { v4: Some(ip("127.0.0.1")), v6: Some(ip("::1")) });
        for (text, says) in [
            ("127.0.0.2", "127.0.0.1 and 127.0.0.2 are both IPv4; give one address of each"),
            ("::ffff:127.0.0.2", "both IPv4"),
            ("eth0", "'eth0' is not an address; give an address of this machine"),
            ("", "'' is not an address"),
            ("127.0.0.1:0", "has a port, which the system chooses"),
            ("0.0.0.0", "0.0.0.0 is not the address of a machine"),
            ("[::]", ":: is not the address of a machine"),
            ("224.0.0.1", "is not the address of a machine"),
        ] {
            let error = add_source(&mut sources, text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    proptest! {
        /// An address in brackets is read as it was meant, with a port and without.
        #[test]
        fn what_is_written_is_read(
            host in "[a-zA-Z][a-zA-Z0-9-]{0,9}(\\.[a-z]{1,5}){0,2}",
            port in prop::option::of(1..=u16::MAX),
            ip in any::<IpAddr>(),
        ) {
            let address = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
            let text = match port {
                Some(port) => format!("{host}:{port}:{address}"),
                None => format!("{host}:{address}"),
            };
            let given = GivenName { host: host.to_ascii_lowercase().into(), port, ip };
            prop_assert_eq!(parse_given(&text), Ok(given));
            // Without brackets the result is the same, or the text is refused as ambiguous.
            match parse_given(&text.replace(['[', ']'], "")) {
                Ok(bare) => prop_assert_eq!(parse_given(&text), Ok(bare)),
                Err(e) => prop_assert!(e.contains("two ways"), "{}", e),
            }
        }

        #[test]
        fn any_text_is_taken_or_refused(text in "\\PC{0,40}") {
            match parse_given(&text) {
                Ok(given) => prop_assert!(given.port != Some(0)),
                Err(e) => prop_assert!(e.contains(&text)),
            }
            let _ = add_source(&mut Sources::default(), &text);
        }

        #[test]
        fn anything_of_its_characters_is_taken_or_refused(text in "[a-f0-9:.\\[\\],]{0,30}") {
            if let Ok(given) = parse_given(&text) {
                prop_assert!(given.port != Some(0));
                prop_assert_eq!(hosts::name(&given.host), Name::Host(given.host.clone()));
            }
        }
    }
}
