//! What a client speaks, and how it is answered.
//!
//! A connection begins with the front of its listener; its first bytes may choose another one. The front
//! finds where a request ends, and says a connected tunnel, a refusal, and what a request that is for the
//! listener itself gets. What is asked leaves it in no protocol's words.

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
    /// The admin listener: it tells how the proxy does.
    Admin,
}

/// What the first bytes of a connection came to.
pub(super) enum Greeted {
    /// This is spoken from now on.
    Speaks(Front),
    /// Something that is not spoken here.
    Foreign(Foreign),
}

impl Front {
    /// Whether it tells how the proxy does, and carries nothing for anybody.
    pub fn is_admin(self) -> bool {
        self == Self::Admin
    }

    /// What the first bytes of a connection mean.
    pub(super) fn greet(self, held: &[u8]) -> Greeted {
        match greeting::foreign(held) {
            Some(foreign) => Greeted::Foreign(foreign),
            None => Greeted::Speaks(self),
        }
    }

    /// Finds where the request ends that begins `held`: how many bytes it has, nothing while it is not
    /// whole. `scanned` is how much was looked at before.
    ///
    /// # Errors
    ///
    /// It will never be one.
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

    /// What a client gets when its tunnel is connected. No content length, no transfer coding: what
    /// follows belongs to the tunnel (RFC 9110 §9.3.6).
    pub(super) fn established(self) -> &'static [u8] {
        match self {
            Self::Forward | Self::Admin => b"HTTP/1.1 200 Connection established\r\n\r\n",
        }
    }

    /// Writes what a client gets whose request failed, or is refused.
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

    /// Gives `write` the answer to a request that is for the listener itself: it names no server, or came to
    /// the admin listener.
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

/// A TRACE or OPTIONS that may go no further is answered here (RFC 9110 §7.6.2).
pub(super) fn answer_last_hop(head: &RequestHead<'_, '_>, write: impl FnOnce(&Reply<'_>)) {
    if head.method != Method::Trace {
        return write(&local_replies::options());
    }
    let content = local_replies::trace(head);
    let content = Some(("message/http", content.as_slice()));
    write(&Reply { status: 200, content, fields: "" });
}
