//! An upstream connection reserved for one client connection, because the client logged in on it.
//!
//! NTLM, Negotiate and Kerberos prove who is at the other end of a connection, and a server takes all
//! later requests on it for that user's (RFC 4559). Such a connection never goes into the pool. Its
//! session keeps it between requests, with or without a pool, so that a handshake of several messages
//! finds the connection it began on. The connection ends with the client connection, when the server
//! closes it, and when the client asks for another destination or as another user of the proxy. If it
//! turns out to be dead, a request that may be repeated goes out once more, on a fresh connection and
//! not on a kept one. Nobody is logged in there, and the server says so, as it would to a client that
//! came directly.

use std::io;
use std::sync::Arc;

use crate::net::poll::{Edge, Owner, Poller};
use crate::upstream::peer::Peer;
use crate::upstream::pool::Kept;

/// The connection, between two requests of its client.
#[derive(Debug)]
pub struct Pinned {
    kept: Kept,
    /// The next hop it leads to.
    peer: Peer,
    /// The user of the proxy who made it; empty if the rules require none.
    user: Box<str>,
}

impl Pinned {
    pub(super) fn new(kept: Kept, peer: &Peer, user: &str) -> Box<Self> {
        Box::new(Self { kept, peer: peer.clone(), user: user.into() })
    }

    /// Whether the server has closed it meanwhile, or sent something unasked.
    pub(super) fn is_over(&mut self) -> bool {
        self.kept.stream.is_readable() && self.kept.stream.is_stale()
    }

    /// The connection, if it leads to this peer, was made by this user, and is still open.
    pub(super) fn into_kept(mut self, peer: &Peer, user: &str, epoch: u32) -> Option<Kept> {
        let fits = self.peer.key() == peer.key()
            && *self.user == *user
            && self.kept.stream.names_epoch() == epoch
            // Checked for every request: a login is worth it.
            && !self.kept.stream.is_stale();
        fits.then_some(self.kept)
    }

    /// Records an edge on its socket.
    pub(super) fn note(&mut self, edge: Edge) {
        self.kept.stream.note(edge);
    }

    /// Makes its end reach the session, its `owner`.
    ///
    /// # Errors
    ///
    /// When the kernel cannot watch another socket.
    pub(super) fn watch(&mut self, poller: &Arc<Poller>, owner: &Owner) -> io::Result<()> {
        self.kept.stream.watch(poller, owner, false)
    }
}
