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

/// The rules, lists, limits and users of a proxy, ready to be put in force.
///
/// It is an opaque value. `AccessOptions::build` makes one out of rules as people write them; the
/// default has no rule, no limit and no users. [`Options::access`](crate::Options::access) takes it at
/// the start, and [`Control::set_access`](crate::Control::set_access) while the proxy runs.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Where the rules are written.
    pub(crate) origins: Origins,
    /// What is allowed at all.
    pub(crate) bounds: Bounds,
    /// In the order in which they are looked at: the first that has a request decides.
    pub(crate) rules: Vec<Rule>,
    /// The lists, if there are any.
    pub(crate) filter: Option<Arc<Filter>>,
    /// What is done with a request that neither has.
    pub(crate) mode: Mode,
    /// What a client gets whose request is refused.
    pub(crate) deny_with: DenyWith,
    /// What is made of the name in a tunnel's ClientHello.
    pub(crate) sni: Sni,
    /// Rules on URLs.
    pub(crate) urls: Urls,
    /// Rules on responses.
    pub(crate) responses: Responses,
    /// How much, and how fast.
    pub(crate) limits: Limits,
    /// Whose requests are taken; everybody's without it.
    pub(crate) auth: Option<Arc<Auth>>,
    /// What holds for single listeners instead, by their number.
    pub(crate) own: Vec<(u16, Own)>,
}

/// What holds for one listener.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// Whether it is not protected.
    pub(crate) open: bool,
    /// Its limits are those of all, counted with them; else it has its own counts.
    pub(crate) shares_limits: bool,
    /// Its access: all of it, nothing is added from elsewhere. Its `origins` and `own` are not looked
    /// at: the sources of its rules are numbered among those of the whole.
    pub(crate) access: Access,
}

/// What the project's own tests and benches need to see and to set.
#[cfg(feature = "internals")]
impl Access {
    /// The lists, if there are any.
    pub fn filter(&self) -> Option<&Arc<Filter>> {
        self.filter.as_ref()
    }

    /// From now on these users have to prove who they are, or nobody.
    pub fn set_auth(&mut self, auth: Option<Arc<Auth>>) {
        self.auth = auth;
    }
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
