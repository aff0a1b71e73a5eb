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
//! # Ok::<(), threadgate::server::StartError>(())
//! ```
//!
//! In reading order, each layer using those before it and none behind it:
//!
//! - [`wire`]: HTTP/1 as octets; no socket, clock or thread.
//! - [`error`]: why an exchange failed: whose side, which kind, which phase.
//! - [`net`]: sockets, readiness, timers, names, dialing; no HTTP.
//! - [`policy`]: who may do what, how fast, and why.
//! - [`observe`]: counters and the access log.
//! - [`upstream`]: idle connections to the next server.
//! - [`proxy`]: sessions, exchanges, flows, replies: what a worker does with a connection.
//! - [`server`]: threads, queues, start and drain.
//! - [`config`]: checked values of command line, environment and file.
//! - [`cli`]: the command line itself, and exit codes.
//!
//! `docs/architecture.md` has the drawings and the walks; `examples/` a whole program, and a test
//! through a proxy.
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

pub mod cli;
pub mod config;
pub mod error;
pub mod net;
pub mod observe;
pub mod policy;
pub mod proxy;
pub mod server;
pub mod upstream;
pub mod wire;

pub use server::{Options, Server};
