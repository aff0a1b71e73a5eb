//! A decision: allow or deny, by which rule, and whether the rules are enforced.

use super::rule_id::RuleId;

/// What a policy says of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It may go on, as far as is known.
    Allow,
    /// It is refused.
    Deny(&'static str),
}

/// A verdict with its reason.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Decision {
    /// What it says.
    pub verdict: Verdict,
    /// The rule that decided, if one did.
    pub rule: Option<RuleId>,
    /// It goes on only because nothing is enforced: the rule would refuse it, for this reason.
    pub would_deny: Option<&'static str>,
}

/// What the rules are for: `--policy`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// What no rule names goes through.
    #[default]
    Open,
    /// The same, and what is reached is written down as a list that allows it.
    Learn,
    /// No rule on requests refuses anything: what [`Enforce`](Self::Enforce) would refuse is logged and
    /// counted.
    Report,
    /// What no rule names is refused.
    Enforce,
}

impl Mode {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Open, Self::Learn, Self::Report, Self::Enforce];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Learn => "learn",
            Self::Report => "report",
            Self::Enforce => "enforce",
        }
    }
}

/// It goes on, because of this rule if there is one.
pub(super) fn allow(rule: Option<RuleId>) -> Decision {
    Decision { verdict: Verdict::Allow, rule, would_deny: None }
}

/// The rule refuses it.
pub(super) fn deny(reason: &'static str, rule: RuleId) -> Decision {
    Decision { verdict: Verdict::Deny(reason), rule: Some(rule), would_deny: None }
}

/// A rule is against something that is not a request.
pub(super) fn against(mode: Mode, rule: RuleId, reason: &'static str) -> Decision {
    match mode {
        Mode::Report => would_deny(reason, rule),
        Mode::Open | Mode::Learn | Mode::Enforce => deny(reason, rule),
    }
}

/// It goes on although the rule is against it.
pub(super) fn would_deny(reason: &'static str, rule: RuleId) -> Decision {
    Decision { would_deny: Some(reason), ..allow(Some(rule)) }
}
