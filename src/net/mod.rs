//! Sockets, readiness, timers and names: what moves octets, without any HTTP in it.

pub mod buffer;
pub mod dial;
pub mod permits;
pub mod pipe;
pub mod poll;
pub mod resolve;
pub mod stream;
pub mod timers;
