//! Sockets, readiness, timers, name lookups and connecting, without any HTTP.
//!
//! In reading order: [`listener`], [`stream`], [`buffer`] and [`pipe`] are sockets and the means to move
//! bytes between them. [`poll`] and [`timers`] wake a session when it can go on. [`given_names`],
//! [`hosts`], [`shared_question`] and [`resolve`] find the addresses of a name. [`address_order`],
//! [`source_address`], [`pending_connects`] and [`dial`] connect to one of them. [`permits`] limits the
//! client connections. [`file_error`] says why a file cannot be used.

pub mod address_order;
pub mod buffer;
pub mod dial;
pub mod either;
pub mod file_error;
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
