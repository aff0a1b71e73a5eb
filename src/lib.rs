//! An HTTP proxy on a fixed pool of blocking threads.
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
