//! The parts of a policy as the configuration gives them: rules, lists, limits and users.

use std::sync::Arc;

use super::auth::Auth;
use super::deny_with::DenyWith;
use super::limits::Limits;
use super::list_report::ListReport;
use super::lists::Filter;
use super::request_bounds::Bounds;
use super::response_rules::Responses;
use super::rule_origin::{Origins, RuleId};
use super::rules::Rule;
use super::url_rules::Urls;
use super::verdict::Mode;

/// The rules, lists, limits and users of a proxy, ready to be put in force.
///
/// The value is opaque. `AccessOptions::build` makes one out of rules as people write them; the
/// default has no rules, no limits and no users. [`Options::access`](crate::Options::access) takes it
/// at the start, and [`Control::set_access`](crate::Control::set_access) while the proxy runs.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// The sources of the rules.
    pub(crate) origins: Origins,
    /// Bounds that come before every rule.
    pub(crate) bounds: Bounds,
    /// The rules in order: the first that matches a request decides.
    pub(crate) rules: Vec<Rule>,
    /// The lists, if there are any.
    pub(crate) filter: Option<Arc<Filter>>,
    /// The policy for requests that neither rules nor lists decide.
    pub(crate) mode: Mode,
    /// The rule that refuses what nothing allows, if that is the policy.
    pub(crate) by_default: RuleId,
    /// The answer to a refused request.
    pub(crate) deny_with: DenyWith,
    /// How the name in a tunnel's ClientHello is used.
    pub(crate) sni: Sni,
    /// Rules on URLs.
    pub(crate) urls: Urls,
    /// Rules on responses.
    pub(crate) responses: Responses,
    /// Rates, requests, connections and volume.
    pub(crate) limits: Limits,
    /// The users; anyone may use the proxy if this is `None`.
    pub(crate) auth: Option<Arc<Auth>>,
    /// Settings of single listeners, by the listener's number.
    pub(crate) own: Vec<(u16, Own)>,
}

/// The settings of one listener.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// Whether protected mode is lifted.
    pub(crate) open: bool,
    /// Whether the common limits and counts apply; otherwise the listener has its own.
    pub(crate) shares_limits: bool,
    /// The listener's whole access; nothing is added from elsewhere. Its `origins` and `own` are not
    /// used, because the sources of its rules are numbered among those of the whole.
    pub(crate) access: Access,
}

impl Access {
    /// What was read from each list, each filter's once: those that hold for requests that no rule matches,
    /// those of rules, and those of single listeners.
    pub(crate) fn list_reports(&self) -> Vec<&ListReport> {
        let mut filters: Vec<&Arc<Filter>> = Vec::new();
        let all = [self].into_iter().chain(self.own.iter().map(|(_, own)| &own.access));
        for access in all {
            let of_rules = access.rules.iter().filter_map(|rule| rule.lists.as_ref());
            for filter in access.filter.iter().chain(of_rules) {
                if !filters.iter().any(|known| Arc::ptr_eq(known, filter)) {
                    filters.push(filter);
                }
            }
        }
        filters.into_iter().flat_map(|filter| filter.reports()).collect()
    }
}

/// Access for the project's own tests and benches.
#[cfg(feature = "internals")]
impl Access {
    /// The lists, if there are any.
    pub fn filter(&self) -> Option<&Arc<Filter>> {
        self.filter.as_ref()
    }

    /// Requires these users, or none.
    pub fn set_auth(&mut self, auth: Option<Arc<Auth>>) {
        self.auth = auth;
    }
}

/// How the name in a ClientHello is used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sni {
    /// It is not looked at.
    Off,
    /// It is judged by the rules on names, if there are any.
    Check(RuleId),
    /// It must also be the host of the CONNECT, if that is a name.
    Match(RuleId),
}

impl Default for Sni {
    fn default() -> Self {
        Self::Check(RuleId::UNNAMED)
    }
}
