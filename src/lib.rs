//! An HTTP proxy on a fixed pool of blocking threads.
//!
//! The binary is a thin user of this library: [`Server::start`] with [`Options`] is a whole proxy.
//!
//! ```
//! use std::time::Duration;
//! use threadgate::{Options, Server};
//!
//! // By default: a free port of loopback, no access log.
//! let proxy = Server::start(Options::default())?;
//! println!("proxy at {}", proxy.addr());
//! // … send requests through it …
//! proxy.shutdown(Duration::from_secs(10));
//! # Ok::<(), threadgate::StartError>(())
//! ```
//!
//! [`Options`] says what the proxy does, with values that are exported beside it; [`AccessOptions`]
//! reads rules, lists and limits as the command line writes them. [`Server`] has the counters, its
//! [`Control`] changes what can change while it runs. `examples/` has a whole program, and a test
//! through a proxy.
//!
//! The layers underneath are nobody's interface: `docs/architecture.md` has them in reading order.
//! The feature `internals` opens them to the project's own tests, fuzzing and benches, and whatever
//! they show may change with any version.
#![cfg_attr(
    not(feature = "internals"),
    // With the feature, and so in a test, both look at every item again.
    allow(unreachable_pub, unused_imports, reason = "public for the project's own tests")
)]
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

#[doc(hidden)]
pub use cli::run;
pub use config::access::{AccessOptions, Hellos, Unusable};
pub use config::limits::LimitOptions;
pub use config::users::UserOptions;
pub use error::Side;
pub use net::given_names::GivenName;
pub use net::hosts::WrongHosts;
pub use net::listener::ListenPlace;
pub use net::resolve::{NameOptions, Resolve};
pub use net::source_address::Sources;
pub use observe::access_log::{LineFormat, LogDestination};
pub use observe::report::Report;
pub use observe::stats::Snapshot;
pub use policy::Access;
pub use policy::deny_with::DenyWith;
pub use policy::learn::Learnt;
pub use policy::verdict::Mode;
pub use proxy::Timeouts;
pub use server::{Control, Options, Server, StartError, Via};
pub use upstream::pool::PoolLimits;
