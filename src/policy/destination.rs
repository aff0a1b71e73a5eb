//! Reads the destinations that a rule names: hosts, patterns, addresses and networks, with or without
//! ports.
//!
//! | written | means |
//! |---|---|
//! | `www.example.com` | this name |
//! | `.example.com` | this name and all below it |
//! | `*.ads.*`, `ads?.example.com` | a glob over the whole name: `*` any bytes, `?` one |
//! | `re:^ads[0-9]+\.` | a regular expression, found anywhere in the name |
//! | `192.0.2.0/24`, `2001:db8::1` | the addresses connected to, whatever the name |
//!
//! A port, or a range of ports, may follow: `.example.com:443`, `[2001:db8::]/32:8000-8999`. Names are
//! compared in lower case, without a trailing dot, and in ASCII: `müller.example` is read as
//! `xn--mller-kva.example`.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use regex::{Regex, RegexBuilder};

use super::network::Network;

/// A destination as a rule names it.
#[derive(Clone, Debug)]
pub struct DestinationPattern {
    what: What,
    ports: Option<RangeInclusive<u16>>,
    text: Box<str>,
}

/// The key that a rule index files a destination under.
#[derive(Clone, Copy, Debug)]
pub enum DestinationKey<'a> {
    /// This name and, for a suffix, the names below it.
    Name(&'a str),
    /// An address in this network.
    Network(&'a Network),
    /// No key: the pattern has to be tried on every name.
    Pattern,
}

#[derive(Clone, Debug)]
enum What {
    Name(Box<str>),
    /// Without its leading dot.
    Suffix(Box<str>),
    Matching(Box<Regex>),
    Network(Network),
}

impl DestinationPattern {
    /// Reads a destination.
    ///
    /// # Errors
    ///
    /// A sentence to print after the name of the option.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| {
            format!(
                "'{text}' {what}; give a name such as www.example.com, .example.com for all below it, \
                 *.ads.*, re:^ads[0-9], or a network such as 192.0.2.0/24"
            )
        };
        let not_one = || match host_of_url(text) {
            Some(host) => format!(
                "'{text}' is a URL, and a destination is a host; give {host} \
                 (--deny-url and --allow-url judge URLs)"
            ),
            None => wrong("is not a destination"),
        };
        if let Some(pattern) = text.strip_prefix("re:") {
            // Names are in lower case.
            let mut regex = RegexBuilder::new(pattern);
            let regex = regex.case_insensitive(true).size_limit(REGEX_BYTES).build();
            let regex = regex.map_err(|e| {
                wrong(&format!("is not a regular expression: {}", regex_problem(&e)))
            })?;
            let what = What::Matching(Box::new(regex));
            return Ok(Self { what, ports: None, text: text.into() });
        }
        if let Ok(network) = Network::parse(text) {
            return Ok(Self { what: What::Network(network), ports: None, text: text.into() });
        }
        let (host, ports) = match text.rsplit_once(':') {
            Some((_, ports)) if text.contains("//") || ports.contains('/') => return Err(not_one()),
            Some((host, ports)) => (host, Some(parse_ports(ports)?)),
            None => (text, None),
        };
        if let Ok(network) = Network::parse(host) {
            return Ok(Self { what: What::Network(network), ports, text: text.into() });
        }
        let host = host.strip_suffix('.').unwrap_or(host);
        let host = ascii(host).ok_or_else(not_one)?.to_ascii_lowercase();
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.*?".contains(c);
        let rest = host.strip_prefix('.').unwrap_or(&host);
        if rest.is_empty()
            || rest.contains("..")
            || rest.starts_with('.')
            || !host.chars().all(allowed)
        {
            return Err(not_one());
        }
        let what = if host.contains(['*', '?']) {
            What::Matching(Box::new(glob(&host).ok_or_else(|| wrong("is too long"))?))
        } else if host.starts_with('.') {
            What::Suffix(rest.into())
        } else {
            What::Name(host.into())
        };
        Ok(Self { what, ports, text: text.into() })
    }

    /// The key to file it under.
    pub fn key(&self) -> DestinationKey<'_> {
        match &self.what {
            What::Name(name) | What::Suffix(name) => DestinationKey::Name(name),
            What::Network(network) => DestinationKey::Network(network),
            What::Matching(_) => DestinationKey::Pattern,
        }
    }

    /// Whether it is judged by address, as soon as that is known.
    pub fn is_network(&self) -> bool {
        matches!(self.what, What::Network(_))
    }

    /// Whether a request to this host matches. `ip` is set if the host is an address.
    pub fn has_host(&self, host: &str, ip: Option<IpAddr>, port: u16) -> bool {
        self.has_port(port)
            && match (&self.what, ip) {
                (What::Network(network), Some(ip)) => has(network, ip),
                (What::Network(_), None) => false,
                (_, Some(_)) => false,
                (What::Name(name), None) => host == &**name,
                (What::Suffix(suffix), None) => is_below(host, suffix),
                (What::Matching(pattern), None) => pattern.is_match(host),
            }
    }

    /// Whether a connection to this address matches a network.
    pub fn has_address(&self, ip: IpAddr, port: u16) -> bool {
        matches!(&self.what, What::Network(network) if has(network, ip)) && self.has_port(port)
    }

    /// Whether a connection to this address may lead into the network through an IPv6 address with an IPv4
    /// address inside. Rules that refuse use this.
    pub fn may_have_address(&self, ip: IpAddr, port: u16) -> bool {
        matches!(&self.what, What::Network(network) if has(network, ip) || network.may_contain(ip))
            && self.has_port(port)
    }

    /// Whether the pattern matches this address as text, as `*` does.
    pub fn matches_literal(&self, ip: IpAddr, port: u16) -> bool {
        let written = || ip.to_canonical().to_string();
        matches!(&self.what, What::Matching(pattern) if pattern.is_match(&written()))
            && self.has_port(port)
    }

    fn has_port(&self, port: u16) -> bool {
        self.ports.as_ref().is_none_or(|ports| ports.contains(&port))
    }
}

/// The name in ASCII, as requests have it. A label in another script cannot be a pattern, because each of
/// its bytes counts.
fn ascii(name: &str) -> Option<Cow<'_, str>> {
    if name.is_ascii() {
        return Some(name.into());
    }
    let labels = name.split('.').map(|label| match label.is_ascii() {
        true => Some(Cow::from(label)),
        false if label.contains(['*', '?']) => None,
        false => idna::domain_to_ascii(label).ok().map(Cow::from),
    });
    Some(labels.collect::<Option<Vec<_>>>()?.join(".").into())
}

/// The text as written.
impl fmt::Display for DestinationPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn has(network: &Network, ip: IpAddr) -> bool {
    network.contains(ip) || meaning(ip).is_some_and(|ip| network.contains(ip))
}

/// The other address that an address stands for, if any: the kernel takes an unspecified one for this
/// machine.
pub fn meaning(ip: IpAddr) -> Option<IpAddr> {
    let loopback = match ip.to_canonical() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    ip.to_canonical().is_unspecified().then_some(loopback)
}

/// Whether `host` is `suffix` or a name below it.
pub fn is_below(host: &str, suffix: &str) -> bool {
    host.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The most memory for one pattern.
const REGEX_BYTES: usize = 1 << 20;

/// `443`, or `8000-8999`.
pub fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let port = |t: &str| t.parse::<u16>().ok().filter(|port| *port > 0 && !t.starts_with('+'));
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    match (port(from), port(to)) {
        (Some(from), Some(to)) if from <= to => Ok(from..=to),
        _ => Err(format!("'{text}' is neither a port nor a range of them; give 443 or 8000-8999")),
    }
}

fn glob(text: &str) -> Option<Regex> {
    let mut pattern = String::from("^");
    for c in text.chars() {
        match c {
            '*' => pattern.push_str(".*"),
            '?' => pattern.push('.'),
            c => pattern.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    pattern.push('$');
    RegexBuilder::new(&pattern).size_limit(REGEX_BYTES).build().ok()
}

/// What is wrong with a regular expression: the last line of the error, without the word before it.
pub(super) fn regex_problem(error: &regex::Error) -> String {
    let text = error.to_string();
    let line = text.lines().last().unwrap_or_default().trim();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// The host of a URL, with its port, where only a host can stand: of `http://a.example:80/b` and of
/// `a.example/b`. `None` if the text is no URL, or has no host.
pub fn host_of_url(text: &str) -> Option<&str> {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, text),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let allowed = |c: char| c.is_alphanumeric() || "-_.:[]*".contains(c);
    // `10.0.0/8` is a wrong network, and `a?c.example` a pattern.
    let is_prefix = path.bytes().skip(1).all(|byte| byte.is_ascii_digit());
    let is_path = path.starts_with('/') && host.contains('.') && !is_prefix;
    let is_url = scheme.is_some() || is_path;
    (is_url && !host.is_empty() && host.chars().all(allowed)).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_has_the_hosts_it_says() {
        for (written, inside, outside) in [
            ("example.com", &["example.com"][..], &["www.example.com", "example.org"][..]),
            ("Example.COM.", &["example.com"], &["xexample.com"]),
            (".example.com", &["example.com", "a.b.example.com"], &["badexample.com", "com"]),
            ("Müller.example:443", &["xn--mller-kva.example"], &["muller.example"]),
            (".BU\u{308}cher.example.", &["a.xn--bcher-kva.example"], &["xn--bcher-kva.example2"]),
            ("*.müller.*", &["a.xn--mller-kva.example"], &["xn--mller-kva.example"]),
            ("*.ads.*", &["x.ads.example", "a.b.ads.c"], &["ads.example", "x.ads"]),
            ("ads?.example", &["ads1.example"], &["ads.example", "ads12.example", "adsx.examples"]),
            ("re:^ads[0-9]+\\.", &["ads12.example"], &["xads1.example", "ads.example"]),
            ("example.com:443", &["example.com"], &["www.example.com"]),
            ("192.0.2.0/24", &["192.0.2.9"], &["192.0.3.1", "192.0.2.9.example"]),
            ("[2001:db8::]/32:443", &["2001:db8::1"], &["2001:db9::1"]),
            // The kernel connects to itself.
            ("127.0.0.0/8", &["0.0.0.0", "::ffff:0.0.0.0", "127.0.0.1"], &["::", "::1", "0.0.0.1"]),
            ("::1", &["::", "::1"], &["0.0.0.0", "127.0.0.1"]),
            ("0.0.0.0", &["0.0.0.0"], &["127.0.0.1", "::"]),
        ] {
            let d = DestinationPattern::parse(written).unwrap();
            let has = |host: &&str| d.has_host(host, host.parse().ok(), 443);
            assert!(inside.iter().all(has), "{written}");
            assert!(!outside.iter().any(has), "{written}");
        }
        let ports = DestinationPattern::parse("example.com:8000-8999").unwrap();
        assert!(ports.has_host("example.com", None, 8000));
        assert!(!ports.has_host("example.com", None, 80));
    }

    #[test]
    fn a_pattern_may_be_one_of_addresses_as_they_are_written() {
        for (written, inside, outside) in [
            ("*", &["127.0.0.1", "::1", "::ffff:192.0.2.1"][..], &[][..]),
            ("192.0.2.*", &["192.0.2.1", "::ffff:192.0.2.1"], &["192.0.3.1", "2001:db8::1"]),
            ("re:^[0-9.]+$", &["127.0.0.1"], &["::1"]),
            ("a.example", &[], &["127.0.0.1"]),
            ("127.0.0.1", &[], &["127.0.0.1"]),
        ] {
            let d = DestinationPattern::parse(written).unwrap();
            let matches = |ip: &&str| d.matches_literal(ip.parse().unwrap(), 443);
            assert!(inside.iter().all(matches), "{written}");
            assert!(!outside.iter().any(matches), "{written}");
        }
    }

    #[test]
    fn what_is_none_is_refused_with_what_to_try() {
        for wrong in [
            "",
            ".",
            "a..b",
            "..a",
            "a b",
            "*müller.example",
            "ü..example",
            "a/b",
            "http://",
            "http://a",
            "re:(",
            "a:0",
            "a:9-1",
            "a:b",
            "10.0.0.0/99",
        ] {
            let error = DestinationPattern::parse(wrong).unwrap_err();
            assert!(error.contains("give "), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_url_is_refused_with_its_host() {
        for (url, host) in [
            ("http://a.example/", "a.example"),
            ("https://A.example:8443/b?c#d", "A.example:8443"),
            ("https://user:pw@a.example", "a.example"),
            ("http://[2001:db8::1]:80/x", "[2001:db8::1]:80"),
            ("a.example/path", "a.example"),
            ("a.example:443/path", "a.example:443"),
            ("http://*.ads.example/", "*.ads.example"),
        ] {
            let error = DestinationPattern::parse(url).unwrap_err();
            let says = format!("is a URL, and a destination is a host; give {host} (--deny-url");
            assert!(error.contains(&says), "{url}: {error}");
            assert!(DestinationPattern::parse(host).is_ok(), "{host}");
        }
        for (other, says) in [
            ("http://", "is not a destination"),
            ("10.0.0.0/99", "is not a destination"),
            ("10.0.0/8", "is not a destination"),
            ("re:(", "'re:(' is not a regular expression: unclosed group; give"),
        ] {
            let error = DestinationPattern::parse(other).unwrap_err();
            assert!(error.contains(says), "{other}: {error}");
        }
    }
}
