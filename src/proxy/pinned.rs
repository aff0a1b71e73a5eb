//! An upstream connection that belongs to one client connection, because the client logged in on
//! it.
//!
//! NTLM, Negotiate and Kerberos prove who is at the other end of a connection, and a server takes all
//! that comes on it afterwards for that user's (RFC 4559). Such a connection never goes into the pool.
//! Its session keeps it between requests, so that a handshake of several messages finds the connection
//! it began on, with or without a pool. It ends with the client connection, when the server closes it,
//! and when the client asks for another destination or as another user of the proxy. A request on one that
//! turns out to be dead goes out once more, if it may be repeated, on a fresh connection and on no kept one:
//! nobody is logged in there, which the server says, as it would to a client that came by itself.

use std::io;
use std::sync::Arc;

use crate::net::poll::{Edge, Owner, Poller};
use crate::upstream::peer::Peer;
use crate::upstream::pool::Kept;

/// The connection, between two requests of its client.
#[derive(Debug)]
pub struct Pinned {
    kept: Kept,
    /// Where it leads.
    peer: Peer,
    /// Who of the proxy's users made it; empty if nobody has to say.
    user: Box<str>,
}

impl Pinned {
    pub(super) fn new(kept: Kept, peer: &Peer, user: &str) -> Box<Self> {
        Box::new(Self { kept, peer: peer.clone(), user: user.into() })
    }

    /// Whether the server has closed it meanwhile, or said something that nobody asked for.
    pub(super) fn is_over(&mut self) -> bool {
        self.kept.stream.is_readable() && self.kept.stream.is_stale()
    }

    /// The connection, if it leads there and was made by this user, and the server keeps it.
    pub(super) fn into_kept(mut self, peer: &Peer, user: &str, epoch: u32) -> Option<Kept> {
        let fits = self.peer.key() == peer.key()
            && *self.user == *user
            && self.kept.stream.names_epoch() == epoch
            // Asked whatever the request: a login is worth a look.
            && !self.kept.stream.is_stale();
        fits.then_some(self.kept)
    }

    /// Notes an edge on its socket.
    pub(super) fn note(&mut self, edge: Edge) {
        self.kept.stream.note(edge);
    }

    /// Sees to it that its end reaches the session, its `owner`.
    ///
    /// # Errors
    ///
    /// When the kernel cannot watch another socket.
    pub(super) fn watch(&mut self, poller: &Arc<Poller>, owner: &Owner) -> io::Result<()> {
        self.kept.stream.watch(poller, owner, false)
    }
}
