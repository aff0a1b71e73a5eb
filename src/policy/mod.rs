//! Who may do what: one function decides, and a refusal always carries its reason.

pub mod guard;
