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

use std::sync::Arc;

use crate::net::poll::{Edge, Owner, Poller, Wake};
use crate::upstream::pool::Kept;

use super::Turn;
use super::exchange::{ClientSide, Exchange, UPSTREAM};

/// The connection, between two requests of its client.
#[derive(Debug)]
pub struct Pinned {
    kept: Kept,
    /// Where it leads.
    authority: Box<str>,
    /// Who of the proxy's users made it; empty if nobody has to say.
    user: Box<str>,
}

impl Pinned {
    pub(super) fn new(kept: Kept, authority: &str, user: &str) -> Box<Self> {
        Box::new(Self { kept, authority: authority.into(), user: user.into() })
    }

    /// Whether the server has closed it meanwhile, or said something that nobody asked for.
    pub(super) fn is_over(&self) -> bool {
        self.kept.stream.is_readable() && self.kept.stream.is_stale()
    }

    /// Notes an edge on its socket.
    pub(super) fn note(&mut self, edge: Edge) {
        self.kept.stream.note(edge);
    }

    /// Sees to it that its end reaches the session.
    ///
    /// # Errors
    ///
    /// When the kernel cannot watch another socket.
    pub(super) fn watch(
        &mut self,
        poller: &Arc<Poller>,
        waker: &Arc<dyn Wake>,
    ) -> std::io::Result<()> {
        let owner = Owner { who: Arc::clone(waker), tag: UPSTREAM };
        self.kept.stream.watch(poller, &owner, false)
    }
}

impl Exchange {
    /// Goes out on the connection that the client has logged in on, if it leads there. Else that one
    /// is closed.
    #[cold]
    pub(super) fn take_pinned(&mut self, client: &mut ClientSide<'_>, turn: &mut Turn<'_>) -> bool {
        let Some(pinned) = client.pinned.take() else { return false };
        let Pinned { kept, authority, user } = *pinned;
        let fits = *authority == *self.destination.authority
            && *user == *self.user
            && kept.stream.era() == turn.ctx.pool.era()
            && kept.address.is_some_and(|address| self.may_use(address))
            // Asked whatever the request: a login is worth a look.
            && !kept.stream.is_stale();
        if fits {
            self.bound = true;
            if self.facts.repeatable {
                self.resend.extend_from_slice(self.to_upstream.unread());
            }
            turn.counters.count(|c| c.upstream_reuses += 1);
            self.connected(kept.stream, kept.address, Some(kept.lease), turn);
        }
        fits
    }
}
