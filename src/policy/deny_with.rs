//! What a client gets when a rule refuses its request (`--deny-with`).

/// What stands in the place of what was asked for. CONNECT always gets a 403: nothing else is understood
/// there (RFC 9110 §9.3.6).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum DenyWith {
    /// 403, which names the rule.
    #[default]
    Refusal,
    /// 204: nothing, which pages take without complaint.
    Nothing,
    /// 302 to another URL.
    Elsewhere(Redirect),
}

impl DenyWith {
    /// What a request to this host and port gets in place of a 403, if anything: a status, and where it
    /// is sent.
    pub fn instead(&self, is_connect: bool, authority: &str) -> Option<(u16, Option<&str>)> {
        match self {
            Self::Refusal => None,
            _ if is_connect => None,
            Self::Nothing => Some((204, None)),
            // It would go round in circles.
            Self::Elsewhere(to) if *to.authority == *authority => None,
            Self::Elsewhere(to) => Some((302, Some(&to.url))),
        }
    }
}

/// Where to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Redirect {
    /// The URL, as it is sent.
    pub url: Box<str>,
    /// Its host and port: requests there are not sent there once more.
    pub authority: Box<str>,
}
