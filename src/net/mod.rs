//! Sockets, readiness, timers and names: what moves octets, without any HTTP in it.

pub mod buffer;
pub mod connecting;
pub mod dial;
pub mod either;
pub mod family;
pub mod hosts;
pub mod listener;
pub mod names;
pub mod permits;
pub mod pipe;
pub mod poll;
pub mod question;
pub mod resolve;
pub mod source;
pub mod stream;
pub mod timers;
