//! Who asks, and at which listener.

use std::fmt;
use std::net::SocketAddr;

use crate::policy::protected_mode::Scope;

use super::front::Front;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// The client's address; unspecified if it has none.
    pub address: SocketAddr,
    /// Which listener it came to, by number.
    pub listener: u16,
    /// Whom the admin listener serves.
    pub scope: Scope,
    /// What the client speaks, and how it is answered.
    pub front: Front,
    /// Its requests have to name this machine, as `Host`.
    pub names_us: bool,
}

/// As messages name it.
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
