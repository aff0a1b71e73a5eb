//! An HTTP forward proxy on a fixed pool of blocking threads, to be used inside another program.
//!
//! Start a proxy on a free port with a rule, use it, and stop it:
//!
//! ```
//! use std::time::Duration;
//! use threadgate::{AccessOptions, Options, Server};
//!
//! let rules = AccessOptions {
//!     deny: vec!["*.ads.example".to_owned()],
//!     ..AccessOptions::default()
//! };
//! let proxy = Server::start(Options { access: rules.build(None)?, ..Options::default() })?;
//!
//! println!("proxy at http://{}", proxy.addr());
//! // … send requests through it …
//! println!("{}", proxy.stats());
//!
//! // Open connections get this long to finish.
//! proxy.shutdown(Duration::from_secs(10));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Options::default`] listens on a free port of loopback, stays within the limits of the machine, and
//! writes no access log. New versions add fields to the option structs, so end a value with
//! `..Options::default()`, as above.
//!
//! | to | use |
//! |---|---|
//! | listen elsewhere, set timeouts and limits, write an access log | [`Options`], [`Timeouts`], [`PoolLimits`], [`LogDestination`] |
//! | allow and deny by destination, client, list, URL or media type | [`AccessOptions`]; [`WrittenRule`] to combine several of these |
//! | ask clients for a password | [`UserOptions`], [`Password`] |
//! | limit rates, requests and connections | [`LimitOptions`] |
//! | resolve names to addresses of your own | [`Resolve`], [`SystemResolver`], [`GivenName`] |
//! | give a listener rules of its own | [`OwnListener`] |
//! | change rules while the proxy runs, rotate the access log | [`Server::control`], [`Control`] |
//! | read counters and gauges | [`Server::stats`], [`Server::report`], [`metrics`]; [`Options::admin`] over HTTP |
//! | serve as many connections as the system allows | [`raise_open_files`] |
//!
//! `examples/` has whole programs: `embed.rs`, `rules_and_reload.rs`, and `test_through_proxy.rs`, a test
//! that runs its program behind a proxy.
//!
//! Everything else is private; `docs/architecture.md` describes it in reading order. The feature
//! `internals` opens it to the project's own tests, fuzzing and benches. Anything it shows may change with
//! any version.
#![cfg_attr(
    not(feature = "internals"),
    // With the feature, and so in tests, both lints look at every item again.
    allow(unreachable_pub, unused_imports, reason = "public for the project's own tests")
)]
// With the feature every layer can be named. Without it, a private type in a public place is a mistake.
#![cfg_attr(not(feature = "internals"), warn(unnameable_types))]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

#[cfg(not(feature = "internals"))]
mod cli;
#[cfg(not(feature = "internals"))]
mod config;
#[cfg(not(feature = "internals"))]
mod error;
#[cfg(not(feature = "internals"))]
mod net;
#[cfg(not(feature = "internals"))]
mod observe;
#[cfg(not(feature = "internals"))]
mod policy;
#[cfg(not(feature = "internals"))]
mod proxy;
#[cfg(not(feature = "internals"))]
mod server;
#[cfg(not(feature = "internals"))]
mod upstream;
#[cfg(not(feature = "internals"))]
mod wire;

#[cfg(feature = "internals")]
pub mod cli;
#[cfg(feature = "internals")]
pub mod config;
#[cfg(feature = "internals")]
pub mod error;
#[cfg(feature = "internals")]
pub mod net;
#[cfg(feature = "internals")]
pub mod observe;
#[cfg(feature = "internals")]
pub mod policy;
#[cfg(feature = "internals")]
pub mod proxy;
#[cfg(feature = "internals")]
pub mod server;
#[cfg(feature = "internals")]
pub mod upstream;
#[cfg(feature = "internals")]
pub mod wire;

pub use config::access::{AccessOptions, Hellos, OwnListener, Unusable};
pub use config::limits::LimitOptions;
pub use config::rules::WrittenRule;
pub use config::users::{Password, UserOptions};
pub use net::given_names::GivenName;
pub use net::hosts::WrongHosts;
pub use net::listener::ListenPlace;
pub use net::resolve::{NameOptions, Resolve, System as SystemResolver};
pub use net::source_address::Sources;
pub use observe::access_log::{LineFormat, LogDestination};
pub use policy::deny_with::{DenyWith, Redirect};
pub use policy::learn::{Learnt, NotOurs as NotLearnt};
pub use policy::list_format::ListOptions;
pub use policy::rule_origin::OptionPlace;
pub use policy::verdict::Mode;
pub use policy::{Access, Policy};
pub use proxy::Timeouts;
pub use server::{After, Control, Options, Server, StartError, Via, raise_open_files};
pub use upstream::pool::PoolLimits;

/// Numbers of a running proxy: counts since its start, gauges, and durations.
///
/// [`Server::stats`] gives a [`Snapshot`](metrics::Snapshot) of the counts, [`Server::report`] a
/// [`Report`](metrics::Report) of everything. `docs/metrics.md` explains each number.
pub mod metrics {
    pub use crate::error::{Kind as FailureKind, Side};
    pub use crate::observe::counters::{Counters as Snapshot, Wait};
    pub use crate::observe::gauges::Gauges;
    pub use crate::observe::histogram::Histogram;
    pub use crate::observe::measure::{Measure, NumberKind, Sample};
    pub use crate::observe::report::{Life, Report};
    pub use crate::observe::rule_hits::RuleHits;
}

/// The command line of the binary: takes the arguments, with the program's name first, and gives an exit
/// status.
#[doc(hidden)]
pub fn run(args: impl Iterator<Item = std::ffi::OsString>) -> std::process::ExitCode {
    cli::run(args).code().into()
}
