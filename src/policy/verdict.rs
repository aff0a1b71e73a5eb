//! Defines a decision: allow or deny, by which rule, and whether the rule is enforced.

use super::rule_id::RuleId;

/// The verdict of a policy on a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// The request may go on, as far as is known.
    Allow,
    /// The request is refused, for this reason.
    Deny(&'static str),
}

/// A verdict with its reason.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Decision {
    /// Whether the request goes on.
    pub verdict: Verdict,
    /// The rule that decided, if one did.
    pub rule: Option<RuleId>,
    /// The reason why the rule would refuse the request if the policy were enforced.
    pub would_deny: Option<&'static str>,
}

/// The policy, `--policy`: what happens to requests that no rule matches.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// They go through.
    #[default]
    Open,
    /// They go through, and the hosts reached are written down as a list that allows them.
    Learn,
    /// Rules on requests refuse nothing. Requests that [`Enforce`](Self::Enforce) would refuse are
    /// logged and counted.
    Report,
    /// They are refused.
    Enforce,
}

impl Mode {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Open, Self::Learn, Self::Report, Self::Enforce];

    /// The mode's name in options.
    pub fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Learn => "learn",
            Self::Report => "report",
            Self::Enforce => "enforce",
        }
    }
}

/// The request goes on, because of this rule if there is one.
pub(super) fn allow(rule: Option<RuleId>) -> Decision {
    Decision { verdict: Verdict::Allow, rule, would_deny: None }
}

/// The rule refuses the request.
pub(super) fn deny(reason: &'static str, rule: RuleId) -> Decision {
    Decision { verdict: Verdict::Deny(reason), rule: Some(rule), would_deny: None }
}

/// A rule objects to something other than a request.
pub(super) fn against(mode: Mode, rule: RuleId, reason: &'static str) -> Decision {
    match mode {
        Mode::Report => would_deny(reason, rule),
        Mode::Open | Mode::Learn | Mode::Enforce => deny(reason, rule),
    }
}

/// The request goes on although the rule objects.
pub(super) fn would_deny(reason: &'static str, rule: RuleId) -> Decision {
    Decision { would_deny: Some(reason), ..allow(Some(rule)) }
}
