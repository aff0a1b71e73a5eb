//! Identifies a rule by a small number, which [`rule_origin`](super::rule_origin) turns into a
//! name.

/// A rule, given by its source and its line there.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct RuleId {
    /// The place among the [`Origins`](super::rule_origin::Origins).
    pub source: u16,
    /// The line, from 1; 0 if the source is one rule.
    pub line: u32,
}

impl RuleId {
    /// Protected mode: see [`protected_mode`](super::protected_mode).
    pub const PROTECTED: Self = Self { source: 0, line: 0 };
    /// The client has not proven to be a user: see [`auth`](super::auth).
    pub const AUTH: Self = Self { source: 1, line: 0 };
    /// A rule that decides nothing, such as one that is only checked.
    pub const UNNAMED: Self = Self { source: u16::MAX, line: 0 };
}

/// The rule without a name.
impl Default for RuleId {
    fn default() -> Self {
        Self::UNNAMED
    }
}
