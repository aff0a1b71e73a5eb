//! The protocol that a client speaks, and the form of the answers to it.
//!
//! A connection begins with the front of its listener; its first bytes may choose another one. The front
//! finds where a request ends. It also writes the answer to a connected tunnel, to a refused request,
//! and to a request for the listener itself. Behind the front, a request is independent of the protocol.

use crate::error::Error;
use crate::wire::head::find_end;
use crate::wire::{HeadError, HeadLimits, Method, RequestHead};

use super::admin::{self, Overview};
use super::greeting::{self, Foreign};
use super::local_replies;
use super::reply::{self, About, Connection, Reply};

/// What is spoken on a connection, and what for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Front {
    /// A forward proxy.
    #[default]
    Forward,
    /// The admin listener: it reports on the proxy.
    Admin,
}

/// The outcome of a connection's first bytes.
pub(super) enum Greeted {
    /// This front is used from now on.
    Speaks(Front),
    /// The client speaks something that is not supported here.
    Foreign(Foreign),
}

impl Front {
    /// Whether this front only reports on the proxy, and forwards nothing.
    pub fn is_admin(self) -> bool {
        self == Self::Admin
    }

    /// Finds out what the first bytes of a connection mean.
    pub(super) fn greet(self, held: &[u8]) -> Greeted {
        match greeting::foreign(held) {
            Some(foreign) => Greeted::Foreign(foreign),
            None => Greeted::Speaks(self),
        }
    }

    /// Finds the end of the request that begins `held`. Returns how many bytes it has, or `None` while
    /// it is not whole. `scanned` is how many bytes were looked at before.
    ///
    /// # Errors
    ///
    /// The bytes can never become a request.
    #[inline]
    pub(super) fn find(
        self,
        held: &[u8],
        scanned: &mut usize,
        limits: &HeadLimits,
    ) -> Result<Option<usize>, HeadError> {
        match self {
            Self::Forward | Self::Admin => find_end(held, scanned, limits),
        }
    }

    /// The answer to a client whose tunnel is connected. It has no content length and no transfer
    /// coding: the bytes that follow belong to the tunnel (RFC 9110 §9.3.6).
    pub(super) fn established(self) -> &'static [u8] {
        match self {
            Self::Forward | Self::Admin => b"HTTP/1.1 200 Connection established\r\n\r\n",
        }
    }

    /// Writes the answer to a request that failed or was refused.
    pub(super) fn refuse(
        self,
        out: &mut Vec<u8>,
        error: &Error,
        about: &About<'_>,
        connection: Connection,
        head_only: bool,
    ) {
        match self {
            Self::Forward | Self::Admin => {
                reply::write_error(out, error, about, connection, head_only);
            }
        }
    }

    /// Gives `write` the answer to a request for the listener itself: one that names no server, or one
    /// that came to the admin listener.
    pub(super) fn answer_itself(
        self,
        head: &RequestHead<'_, '_>,
        path: Option<&str>,
        (html, is_known): (bool, bool),
        overview: &dyn Overview,
        write: impl FnOnce(&Reply<'_>),
    ) {
        match (self, path) {
            (Self::Admin, _) if !is_known => write(&admin::elsewhere().reply()),
            (Self::Admin, _) => {
                write(&admin::answer(head.method, &head.target, html, overview).reply());
            }
            (Self::Forward, Some(path)) => write(&local_replies::page(head.method, path, html)),
            (Self::Forward, None) => write(&local_replies::options()),
        }
    }
}

/// Answers a TRACE or OPTIONS that may go no further (RFC 9110 §7.6.2).
pub(super) fn answer_last_hop(head: &RequestHead<'_, '_>, write: impl FnOnce(&Reply<'_>)) {
    if head.method != Method::Trace {
        return write(&local_replies::options());
    }
    let content = local_replies::trace(head);
    let content = Some(("message/http", content.as_slice()));
    write(&Reply { status: 200, content, fields: "" });
}
