//! The table of options: each row describes one option completely.
//!
//! All of this comes from the table: the flags, the variables, the keys of the configuration file, every
//! form of help, the man page, the example file, the shell completions, the options that a reload changes
//! and the files that are read. A new option is one row and the code that uses its value. The row's `read`
//! stores the value where that code finds it.
//!
//! ```text
//! OptionRow { name: "max-pipes", hint: "N", …, read: |to, text| keep(&mut to.server.max_pipes, …) }
//! ```

mod access;
mod limits;
mod listening;
mod logs;
mod row;
mod traffic;

pub use row::{FileUse, OptionKind, OptionRow, OptionScope, PREFIX, Topic, Usual};

/// All topics, in the order of `--help`.
pub static TOPICS: [Topic; 11] = [
    listening::LISTENING,
    listening::CONFIGURATION,
    listening::PROCESS,
    limits::LIMITS,
    access::ACCESS,
    access::USERS,
    access::CONTENT,
    traffic::TRAFFIC,
    limits::NAMES,
    limits::TIMEOUTS,
    logs::LOGS,
];

/// All options, in the order of `--help`.
pub fn all() -> impl Iterator<Item = &'static OptionRow> + Clone {
    TOPICS.iter().flat_map(|topic| topic.rows)
}

/// The option of this name, without dashes.
pub fn find(name: &str) -> Option<&'static OptionRow> {
    all().find(|row| row.name == name)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
