//! Reads the addresses to listen on.
//!
//! An address is `IP:PORT`, with an IPv6 address in brackets. `:PORT` and `localhost:PORT` mean
//! `127.0.0.1:PORT`. Opening the proxy to a network takes `0.0.0.0:PORT` or `[::]:PORT`, so that it cannot
//! happen by leaving something out. Names other than `localhost` are refused, because their addresses may
//! change without notice.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::net::listener::ListenPlace;
use crate::policy::destination::host_of_url;
use crate::wire::Authority;

/// The default port, which Squid made customary for proxies.
pub const DEFAULT_PORT: u16 = 3128;

/// The port in examples of an admin listener.
const ADMIN_PORT: u16 = 9127;

/// Reads an address to listen on; port 0 lets the system choose.
///
/// # Errors
///
/// A sentence to print after the name of the option: what was found and what to write.
pub fn parse(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if let Some(("" | "localhost", port)) = text.rsplit_once(':')
        && let Ok(port) = parse_port(port)
    {
        return Ok(loopback(port));
    }
    Err(format!("'{text}' {}", problem(text, DEFAULT_PORT)))
}

/// Reads a host name for the admin listener.
///
/// # Errors
///
/// A sentence to print after the name of the option.
pub fn parse_admin_name(text: &str) -> Result<String, String> {
    match Authority::parse(text) {
        Ok(name) if name.port.is_none() && name.ip.is_none() => Ok(text.to_owned()),
        Ok(name) if name.ip.is_some() => {
            Err(format!("'{text}' is an address, and addresses are always accepted; give a name"))
        }
        _ => match host_of_url(text).and_then(|host| host.split(':').next()) {
            Some(host) => Err(format!("'{text}' is a URL; give its host alone: {host}")),
            None => Err(format!("'{text}' is not a host name; give one such as proxy.example")),
        },
    }
}

/// Reads the place of the admin listener: an address, `unix:` and the path of a socket, or `off`.
///
/// # Errors
///
/// A sentence to print after the name of the option: what was found and what to write.
pub fn parse_admin(text: &str) -> Result<Option<ListenPlace>, String> {
    match text {
        "off" => Ok(None),
        _ => parse_place(text).map(Some),
    }
}

fn parse_place(text: &str) -> Result<ListenPlace, String> {
    let Some(path) = text.strip_prefix("unix:") else {
        let Err(_) = parse(text) else { return parse(text).map(ListenPlace::Tcp) };
        return Err(match text.split_at_checked(5) {
            Some((scheme, path)) if scheme.eq_ignore_ascii_case("unix:") => {
                format!("'{text}' does not begin with 'unix:' in small letters; write unix:{path}")
            }
            _ if text.contains("://") => {
                format!("'{text}' is a URL; write its IP:PORT, {}", address_of(text, ADMIN_PORT))
            }
            _ if text.starts_with('.') || text.contains('/') => {
                format!("'{text}' is a path; for a unix socket write unix:{text}")
            }
            _ if parse_port(text).is_ok() => {
                format!("'{text}' is a port without an address; write :{text}")
            }
            _ => format!("'{text}' {}; or give unix:PATH, or off", problem(text, ADMIN_PORT)),
        });
    };
    if path.starts_with('@') {
        return Err(format!(
            "'{text}' looks like a socket without a file, and nothing shows whom that lets in; \
             give a path (unix:./{path} for a file of that name)"
        ));
    }
    // The limit of the system, without the terminating byte (unix(7)).
    const MOST: usize = 107;
    match path.len() {
        0 => Err("'unix:' has no path; write unix:/run/threadgate.sock, for example".to_owned()),
        1..=MOST if !path.contains('\0') => Ok(ListenPlace::Unix(path.into())),
        1..=MOST => Err("the path has a NUL; give one without".to_owned()),
        bytes => Err(format!(
            "the path '{path}' has {bytes} bytes, and a unix socket's has {MOST} at most; \
             give a shorter one, or one relative to the directory threadgate is started in"
        )),
    }
}

/// Reads a port, 0 included.
///
/// # Errors
///
/// A sentence to print after the name of the option: what was found and what to write.
pub fn parse_port(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits => Ok(port),
        _ => Err(format!(
            "'{text}' is not a port; give a whole number from 1 to 65535, \
             or 0 to let the system choose"
        )),
    }
}

/// The IPv4 loopback address with `port`.
pub fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// The address in a URL, or else an example.
fn address_of(url: &str, usual: u16) -> String {
    match host_of_url(url).filter(|host| parse(host).is_ok()) {
        Some(host) => format!("here {host}"),
        None => format!("for example 127.0.0.1:{usual}"),
    }
}

/// Says why `text` is not an address, and what to write instead; `usual` is the port if none was given.
fn problem(text: &str, usual: u16) -> String {
    if let Ok(port) = parse_port(text) {
        return format!("is a port without an address; write :{port}, or use --port {port}");
    }
    if text.contains("://") || text.contains('/') {
        let address = address_of(text, usual);
        return format!("is a URL or a path, not an address; write it as IP:PORT, {address}");
    }
    let bare = text.parse::<Ipv6Addr>().ok();
    if let Some((host, port)) = text.rsplit_once(':')
        && let (Ok(_), Ok(port)) = (host.parse::<Ipv6Addr>(), parse_port(port))
    {
        // The place of the brackets is unclear, because `::1:8080` is also an address.
        let whole = bare.map(|ip| format!(", or [{ip}]:{usual}")).unwrap_or_default();
        return format!("is an IPv6 address without brackets; write [{host}]:{port}{whole}");
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return format!("has no port; write {}", SocketAddr::new(ip, usual));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return format!("is not an address; write it as IP:PORT, for example 127.0.0.1:{usual}");
    };
    if let Err(e) = parse_port(port) {
        return format!("is not an address: {e}");
    }
    match host {
        "*" => format!("is not an address; for every network write 0.0.0.0:{port} or [::]:{port}"),
        _ => format!(
            "is not an address: '{host}' is not an IP address; \
             write it as IP:PORT, for example 127.0.0.1:{port}, \
             or 0.0.0.0:{port} for every network"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_an_ip_and_a_port() {
        for (text, address) in [
            ("127.0.0.1:3128", "127.0.0.1:3128"),
            ("0.0.0.0:8080", "0.0.0.0:8080"),
            ("[::1]:3128", "[::1]:3128"),
            ("[::]:0", "[::]:0"),
            (":0", "127.0.0.1:0"),
            (":8080", "127.0.0.1:8080"),
            ("localhost:3128", "127.0.0.1:3128"),
        ] {
            assert_eq!(parse(text).unwrap(), address.parse().unwrap(), "{text}");
        }
    }

    #[test]
    fn a_refused_address_says_what_to_write() {
        for (text, says) in [
            ("8080", "'8080' is a port without an address; write :8080, or use --port 8080"),
            ("127.0.0.1", "has no port; write 127.0.0.1:3128"),
            ("::1", "has no port; write [::1]:3128"),
            ("[::1]", "has no port; write [::1]:3128"),
            ("fe80::1:2:3:4:5:6:8080", "without brackets; write [fe80::1:2:3:4:5:6]:8080"),
            ("::1:8080", "without brackets; write [::1]:8080, or [::1:8080]:3128"),
            ("*:8080", "write 0.0.0.0:8080 or [::]:8080"),
            (
                "http://127.0.0.1:8080/",
                "is a URL or a path, not an address; write it as IP:PORT, here 127.0.0.1:8080",
            ),
            ("http://a.example", "write it as IP:PORT, for example 127.0.0.1:3128"),
            ("proxy.example:3128", "'proxy.example' is not an IP address"),
            ("127.0.0.1:70000", "'70000' is not a port"),
            (":http", "'http' is not a port"),
            ("127.0.0.1:", "'' is not a port"),
            (":+80", "'+80' is not a port"),
            ("127.0.0:80", "'127.0.0' is not an IP address"),
            ("localhost", "is not an address; write it as IP:PORT"),
            ("", "is not an address"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_place_is_an_address_or_a_path_behind_unix() {
        assert_eq!(parse_place(":9127"), Ok(ListenPlace::Tcp(loopback(9127))));
        assert_eq!(parse_place("unix:/run/x"), Ok(ListenPlace::Unix("/run/x".into())));
        assert_eq!(parse_place("unix:x"), Ok(ListenPlace::Unix("x".into())));
        for (text, says) in [
            ("/run/x", "'/run/x' is a path; for a unix socket write unix:/run/x"),
            ("d/s", "'d/s' is a path; for a unix socket write unix:d/s"),
            ("UNIX:d/s", "in small letters; write unix:d/s"),
            ("unix:@name", "give a path (unix:./@name for"),
            ("http://127.0.0.1:9/", "is a URL; write its IP:PORT, here 127.0.0.1:9"),
            ("http://a.example/", "is a URL; write its IP:PORT, for example 127.0.0.1:9127"),
            ("127.0.0.1", "has no port; write 127.0.0.1:9127; or give unix:PATH, or off"),
            ("on", "for example 127.0.0.1:9127; or give unix:PATH, or off"),
            ("unix:", "has no path"),
            ("unix:a\0b", "has a NUL"),
            ("9127:", "'' is not a port"),
        ] {
            let error = parse_place(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
            assert!(!error.contains("--port") && !error.contains("3128"), "{text}: {error}");
        }
        assert_eq!(
            parse_place("9127").unwrap_err(),
            "'9127' is a port without an address; write :9127"
        );
        assert_eq!(parse_admin("off"), Ok(None));
        assert_eq!(parse_admin("unix:off"), Ok(Some(ListenPlace::Unix("off".into()))));
        assert!(parse_place(&format!("unix:{}", "x".repeat(107))).is_ok());
        let error = parse_place(&format!("unix:{}", "x".repeat(108))).unwrap_err();
        assert!(error.contains("108 bytes"), "{error}");
    }

    #[test]
    fn a_port_is_a_number_of_sixteen_bits() {
        assert_eq!(parse_port("0"), Ok(0));
        assert_eq!(parse_port("65535"), Ok(65535));
        for text in ["65536", "-1", "+1", "", "http", "80 "] {
            assert!(parse_port(text).unwrap_err().contains(&format!("'{text}' is not a port")));
        }
    }
}
