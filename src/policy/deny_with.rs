//! What a client gets whose request a rule refuses.

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

/// Where to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Redirect {
    /// The URL, as it is sent.
    pub url: Box<str>,
    /// Its host and port: requests there are not sent there once more.
    pub authority: Box<str>,
}
