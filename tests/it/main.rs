//! The one integration binary, with a module for each feature.
//!
//! Read `peers` and `servers` first: every test is a conversation between scripted peers and a proxy of
//! its own. `hostile` has the peers that misbehave on purpose, `proxies` starts proxies, and `programs`
//! runs other programs. `THREADGATE_TEST_THREADS` sets the number of worker threads (default 1): each
//! promise must hold for any number.
//!
//! `make test-fast` leaves two modules out. The tests of `clients` need programs that somebody has to
//! install, and those of `slow` work or wait for long. Every other test belongs to one of the other modules.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the bans are for the proxy's own sockets; a test's peers may block, up to their time limit"
)]

mod access;
mod access_log;
mod admin;
mod auth;
mod auth_line;
mod clients;
mod config;
mod connect;
mod content;
mod deadlines;
mod destinations;
mod dialing;
mod explain;
mod faults;
mod fields;
mod file_list;
mod forward;
mod forwarded;
mod framing;
mod guard;
mod guide;
mod hostile;
mod interim;
mod layers;
mod leniency;
mod lifecycle;
mod limits;
mod lists;
mod log_destinations;
mod log_formats;
mod logins;
mod metrics;
mod names;
mod patience;
mod peers;
mod persistence;
mod policies;
mod pool;
mod process;
mod programs;
mod proxies;
mod rebinding;
mod refusals;
mod regression;
mod replies;
mod responses;
mod rust_source;
mod sentences;
mod servers;
mod slow;
mod smuggling;
mod sni;
mod sni_again;
mod splice;
mod streams;
mod upgrade;
mod users;
