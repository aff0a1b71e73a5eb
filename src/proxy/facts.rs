//! What is known of an exchange: the request, the destination, and when each phase ended.

use std::net::IpAddr;
use std::time::Instant;

use crate::wire::{Method, Version};

/// What the request said that matters later.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The method.
    pub method: Method,
    /// The version the client speaks.
    pub version: Version,
    /// The client can send another request on its connection.
    pub persistent: bool,
    /// The request may be sent again: idempotent, and without content.
    pub repeatable: bool,
    /// The client waits for a 100 before it sends content.
    pub expects: bool,
    /// The client would rather read HTML.
    pub html: bool,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            method: Method::Other,
            version: Version::Http11,
            persistent: false,
            repeatable: false,
            expects: false,
            html: false,
        }
    }
}

/// Where a request goes.
#[derive(Debug, Default)]
pub struct Destination {
    /// `host:port`, lower case, IPv6 in brackets: the pool's key.
    pub authority: String,
    /// The host's length in `authority`.
    pub host_length: usize,
    /// The port.
    pub port: u16,
    /// The host, if it is an address.
    pub ip: Option<IpAddr>,
}

impl Destination {
    pub(super) fn host(&self) -> &str {
        self.authority.get(..self.host_length).unwrap_or_default()
    }
}

/// When each phase ended; a phase that did not take place has no end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    pub(super) started: Option<Instant>,
    pub(super) head: Option<Instant>,
    pub(super) lookup: Option<Instant>,
    pub(super) connect: Option<Instant>,
    pub(super) sent: Option<Instant>,
    pub(super) response: Option<Instant>,
}
