//! The configuration of a proxy: reads options and files, and turns them into checked values.
//!
//! [`Config`] is plain data. No layer below knows it: [`Config::options`] turns it into the options of
//! the server. The submodules read single values from text. For a wrong value they return a sentence to
//! print after the name of the option, so a flag and a line of a file are refused in the same words.
//!
//! In reading order: [`options`] is the table of options; [`settings`] keeps the values given for each;
//! [`file`](mod@file), `toml_source`, `toml_brackets` and [`rules`] read the configuration file. [`access`], [`users`],
//! [`limits`], `lists` and `methods` read the parts of a policy, and `unusable` says why an option or a
//! file cannot be used. [`listen`], [`address_options`], [`number`], [`size`] and [`duration`] read one
//! kind of value each. [`together`] finds contradictions between options, and `no_effect` options that do
//! nothing beside the others. [`suggestion`] finds the word that was meant.

pub mod access;
pub mod address_options;
pub mod duration;
pub mod file;
pub mod limits;
pub mod listen;
pub(crate) mod lists;
mod methods;
pub(crate) mod no_effect;
pub mod number;
pub mod options;
mod rule_lists;
pub mod rules;
pub mod settings;
pub mod size;
pub mod suggestion;
pub mod together;
mod toml_brackets;
mod toml_source;
mod unusable;
pub mod users;
pub mod values;
mod written;

pub use access::OwnListener;
pub use values::{Color, Config, ExitAfter, LogFormat, LogTarget};

#[cfg(test)]
#[path = "config_tests.rs"]
mod config_tests;
