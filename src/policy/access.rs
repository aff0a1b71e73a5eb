//! What a policy is made of, as the configuration says it.

use std::sync::Arc;

use super::auth::Auth;
use super::deny_with::DenyWith;
use super::limits::Limits;
use super::lists::Filter;
use super::request_bounds::Bounds;
use super::response_rules::Responses;
use super::rule_origin::{Origins, RuleId};
use super::rules::Rule;
use super::url_rules::Urls;
use super::verdict::Mode;

/// What a policy is made of, as it is configured.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Where the rules are written.
    pub origins: Origins,
    /// What is allowed at all.
    pub bounds: Bounds,
    /// In the order in which they are looked at: the first that has a request decides.
    pub rules: Vec<Rule>,
    /// The lists, if there are any.
    pub filter: Option<Arc<Filter>>,
    /// What is done with a request that neither has.
    pub mode: Mode,
    /// What a client gets whose request is refused.
    pub deny_with: DenyWith,
    /// What is made of the name in a tunnel's ClientHello.
    pub sni: Sni,
    /// Rules on URLs.
    pub urls: Urls,
    /// Rules on responses.
    pub responses: Responses,
    /// How much, and how fast.
    pub limits: Limits,
    /// Whose requests are taken; everybody's without it.
    pub auth: Option<Arc<Auth>>,
    /// What holds for single listeners instead, by their number.
    pub own: Vec<(u16, Own)>,
}

/// What holds for one listener.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// Whether it is not protected.
    pub open: bool,
    /// Its limits are those of all, counted with them; else it has its own counts.
    pub shares_limits: bool,
    /// Its access: all of it, nothing is added from elsewhere. Its `origins` and `own` are not looked
    /// at: the sources of its rules are numbered among those of the whole.
    pub access: Access,
}

/// What is made of the name in a ClientHello.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sni {
    /// It is not looked at.
    Off,
    /// It is judged by the rules on names, if there are any.
    Check(RuleId),
    /// It has to be the one of the CONNECT as well, if that is a name.
    Match(RuleId),
}

impl Default for Sni {
    fn default() -> Self {
        Self::Check(RuleId::DEFAULT)
    }
}
