//! The client that asks, and the listener it came to.

use std::fmt;
use std::net::SocketAddr;

use crate::policy::protected_mode::Scope;

use super::front::Front;

/// The client that asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// The client's address; unspecified if it has none.
    pub address: SocketAddr,
    /// The listener it came to, by number.
    pub listener: u16,
    /// What the listener allows.
    pub scope: Scope,
    /// What the client speaks, and how it is answered.
    pub front: Front,
    /// Its requests must name this machine as `Host`.
    pub names_us: bool,
}

/// As messages name the client.
impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.front.is_admin() {
            f.write_str("admin: ")?;
        }
        match self.address.ip().is_unspecified() {
            true => f.write_str("unix socket"),
            false => self.address.fmt(f),
        }
    }
}
