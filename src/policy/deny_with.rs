//! `--deny-with`: the answer to a request that a rule refuses.

use crate::wire::Authority;

/// The answer to a request that a rule refuses. CONNECT always gets a 403, because clients understand
/// nothing else there (RFC 9110 §9.3.6).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum DenyWith {
    /// 403, naming the rule.
    #[default]
    Refusal,
    /// 204 without content, which pages accept without complaint.
    Nothing,
    /// 302 to another URL: see [`DenyWith::redirect`].
    Elsewhere(Redirect),
}

impl DenyWith {
    /// The status that a request to this host and port gets in place of a 403, if any, and the
    /// `Location` with it.
    pub(crate) fn instead(&self, is_connect: bool, authority: &str) -> Option<(u16, Option<&str>)> {
        match self {
            Self::Refusal => None,
            _ if is_connect => None,
            Self::Nothing => Some((204, None)),
            // A redirect to itself would loop.
            Self::Elsewhere(to) if *to.authority == *authority => None,
            Self::Elsewhere(to) => Some((302, Some(&to.url))),
        }
    }
}

/// A URL to redirect clients to; [`DenyWith::redirect`] makes one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Redirect {
    /// The URL as it is sent.
    url: Box<str>,
    /// Host and port of the URL: requests to it are not redirected.
    authority: Box<str>,
}

impl Redirect {
    /// Reads the URL; `None` if it is not an absolute HTTP URL.
    pub(crate) fn parse(url: &str) -> Option<Self> {
        let (rest, default_port) = match (url.strip_prefix("http://"), url.strip_prefix("https://"))
        {
            (Some(rest), _) => (rest, 80),
            (_, Some(rest)) => (rest, 443),
            (None, None) => return None,
        };
        if !url.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let authority = Authority::parse(authority).ok()?;
        let host = match authority.ip {
            Some(ip) if ip.is_ipv6() => format!("[{ip}]"),
            _ => authority.host.to_ascii_lowercase(),
        };
        let port = authority.port.unwrap_or(default_port);
        Some(Self { url: url.into(), authority: format!("{host}:{port}").into() })
    }

    /// The URL as it is sent.
    pub fn url(&self) -> &str {
        &self.url
    }
}
