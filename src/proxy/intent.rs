//! What a client wants: read from its request by the front, judged by the policy, and used by all
//! stages.

use std::net::IpAddr;

use crate::net::hosts::without_dot;
use crate::policy::limits::Who;
use crate::policy::rules::{Request, Way};
use crate::upstream::peer::Endpoint;
use crate::wire::{Credentials, Method, Protocols, RequestHead, Version};

use super::front::Front;

/// The parts of a request that matter after its head is gone.
#[derive(Debug)]
pub(super) struct Intent {
    /// The front on which it came in.
    pub(super) front: Front,
    /// The method.
    pub(super) method: Method,
    /// The version the client speaks.
    pub(super) version: Version,
    /// The client can send another request on its connection.
    pub(super) persistent: bool,
    /// The request may be sent again: idempotent, and without content.
    pub(super) repeatable: bool,
    /// The client waits for a 100 before it sends content.
    pub(super) expects: bool,
    /// The client prefers HTML.
    pub(super) html: bool,
    /// The client logs in its connection to the server, not this request (RFC 4559).
    pub(super) logs_in: bool,
    /// The protocols that the upstream is offered to change to.
    pub(super) offer: Option<Protocols>,
    /// The server that the request is for.
    pub(super) destination: Endpoint,
    /// Bytes of the request head as received.
    pub(super) head_bytes: u64,
    /// Bytes of the request head as it is passed on.
    pub(super) onward_bytes: u64,
}

impl Default for Intent {
    fn default() -> Self {
        Self {
            front: Front::Forward,
            method: Method::Other,
            version: Version::Http11,
            persistent: false,
            repeatable: false,
            expects: false,
            html: false,
            logs_in: false,
            offer: None,
            destination: Endpoint::default(),
            head_bytes: 0,
            onward_bytes: 0,
        }
    }
}

impl Intent {
    /// Forgets the request; the memory is kept.
    pub(super) fn clear(&mut self) {
        let mut destination = std::mem::take(&mut self.destination);
        destination.clear();
        *self = Self { destination, ..Self::default() };
    }

    /// The CONNECT that asked for this tunnel, as rules see it.
    pub(super) fn as_connect<'a>(&'a self, client: IpAddr, user: &'a str) -> Request<'a> {
        let asked = Asked {
            client,
            method: "CONNECT",
            way: Way::Connect,
            destination: &self.destination,
            target: self.destination.authority(),
            credentials: Credentials::None,
        };
        asked.request(user)
    }
}

/// What a request asks of the policy, independent of the protocol. It borrows the request's head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// The client's address.
    pub(super) client: IpAddr,
    /// The method, as received.
    pub(super) method: &'a str,
    /// How the request is made.
    pub(super) way: Way,
    /// Where it goes.
    pub(super) destination: &'a Endpoint,
    /// The request-target, as received.
    pub(super) target: &'a str,
    /// The credentials that the client sends.
    pub(super) credentials: Credentials<'a>,
}

impl<'a> Asked<'a> {
    /// From the head of an HTTP request.
    pub(super) fn by_http(
        head: &RequestHead<'_, 'a>,
        way: Way,
        client: IpAddr,
        destination: &'a Endpoint,
    ) -> Self {
        Self {
            client,
            method: head.method_name,
            way,
            destination,
            target: head.target_text,
            credentials: head.credentials(),
        }
    }

    /// The request as rules see it, proven to come from this user; from nobody if `user` is empty.
    pub(super) fn request(&self, user: &'a str) -> Request<'a> {
        Request {
            client: self.client,
            user: Some(user).filter(|user| !user.is_empty()),
            method: self.method,
            way: self.way,
            host: rule_host(self.destination),
            ip: self.destination.ip(),
            port: self.destination.port(),
            target: self.target,
        }
    }
}

/// The host as rules and limits use it: without brackets or a trailing dot.
pub(super) fn rule_host(destination: &Endpoint) -> &str {
    without_dot(destination.bare_host())
}

/// The client and its destination, as limits see them.
pub(super) fn who<'a>(client: IpAddr, user: &'a str, destination: &'a Endpoint) -> Who<'a> {
    Who {
        client,
        user: Some(user).filter(|user| !user.is_empty()),
        host: rule_host(destination),
        ip: destination.ip(),
        port: destination.port(),
    }
}
