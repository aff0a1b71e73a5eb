//! Sockets, readiness, timers, name lookups and connecting, without any HTTP.

pub mod address_order;
pub mod buffer;
pub mod dial;
pub mod given_names;
pub mod hosts;
pub mod listener;
pub mod pending_connects;
pub mod permits;
pub mod pipe;
pub mod poll;
pub mod resolve;
pub mod shared_question;
pub mod source_address;
pub mod stream;
pub mod timers;
