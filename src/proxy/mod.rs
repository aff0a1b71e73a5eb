//! A client connection from its first byte to its last: sessions, exchanges, tunnels, replies.
//!
//! In reading order: `asker` and [`front`] (the client, and the protocol it speaks), [`session`] (its
//! states and the outcomes of a turn), [`request`] (a head becomes an exchange), `intent`, `access`,
//! [`auth`] and `limits` (what the request wants, and whether it is allowed), [`exchange`] with `common`
//! (the stages, and the state that outlives them), the stages `connect`, `relay` with `response`,
//! `tunnel` with `hello_gate` and `upgrade`, `reuse` of connections, [`flow`] with `content` (moving the
//! bytes), `account` (the report at the end), and [`reply`] (the proxy's own responses). Threads and
//! queues belong to [`server`](crate::server).

mod access;
mod account;
pub mod admin;
pub mod asker;
pub mod auth;
mod blame;
mod common;
mod connect;
mod content;
pub mod context;
pub mod exchange;
pub mod explain;
mod fair_queue;
pub mod flow;
pub mod front;
mod greeting;
pub mod half;
mod hello_gate;
mod intent;
mod limits;
pub mod local_replies;
pub mod log_note;
mod onward_head;
pub mod own_addresses;
pub mod pinned;
pub mod recycle;
mod relay;
pub mod reply;
pub mod request;
mod response;
mod reuse;
pub mod seat;
pub mod session;
pub mod sides;
mod tunnel;
mod upgrade;
pub mod verify;
pub mod waiting;

pub use context::{Context, Quota, Timeouts, Turn};
pub use own_addresses::OwnAddresses;
