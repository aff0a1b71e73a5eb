//! Parks a session between its turns, and decides what wakes it.

use std::io;
use std::sync::Arc;

use crate::net::poll::{Edge, Owner};
use crate::observe::stats::Wait;
use crate::proxy::context::Turn;
use crate::proxy::sides::{CLIENT, ClientSide, UPSTREAM};
use crate::proxy::waiting::Edges;

use super::{Session, State};

impl Session {
    /// Prepares to park: gives buffers back, and asks for edges.
    ///
    /// # Errors
    ///
    /// When the kernel cannot watch another socket; the session then has to be closed.
    pub fn prepare_to_park(&mut self, tag: Option<u32>, turn: &mut Turn<'_>) -> io::Result<()> {
        debug_assert!(!self.could_go_on());
        if let Some(tag) = tag {
            self.left = Some((turn.now, tag));
        }
        turn.buffers.settle(&mut self.client.buffer);
        let owner = Owner { who: Arc::clone(&self.waker), tag: CLIENT };
        let write = !self.client.stream.is_writable();
        self.client.stream.watch(&turn.ctx.poller, &owner, write)?;
        if let Some(pinned) = &mut self.pinned {
            let owner = Owner { who: Arc::clone(&self.waker), tag: UPSTREAM };
            pinned.watch(&turn.ctx.poller, &owner)?;
        }
        if let State::Exchange(exchange) = &mut self.state {
            exchange.reclaim(turn);
            let (asker, pinned) = (&self.asker, &mut self.pinned);
            let client = ClientSide { half: &mut self.client, waker: &self.waker, asker, pinned };
            exchange.watch(&client, turn)?;
        }
        Ok(())
    }

    /// Whether the session could have gone on instead of parking, because something is there that no
    /// edge will report. False where that is hard to tell.
    fn could_go_on(&mut self) -> bool {
        let client = &self.client;
        let client_speaks = client.stream.is_readable() && !client.ended;
        let exchange = match &mut self.state {
            State::Greeting | State::Request { .. } => {
                return client_speaks && client.buffer.is_empty();
            }
            State::Linger { closes, .. } => return client_speaks && !*closes,
            State::Exchange(exchange) => exchange,
        };
        let is_tunnel = exchange.is_tunnel();
        // Bytes held back by a limit or for a ClientHello follow other rules.
        if exchange.is_limited() || exchange.common.terms.reads_hello {
            return false;
        }
        let Some(upstream) = exchange.upstream_half() else { return false };
        let upstream_speaks = upstream.stream.is_readable() && !upstream.ended;
        let upstream_listens = upstream.stream.is_writable();
        let up = &exchange.common.up;
        let is_sending = !up.is_broken && (is_tunnel || !up.flow.is_taken());
        (upstream_speaks && client.stream.is_writable())
            || (is_sending && client_speaks && upstream_listens)
    }

    /// What the session waits for when it parks.
    pub fn wait(&self) -> Wait {
        match &self.state {
            _ if self.asker.front.is_admin() => Wait::Admin,
            State::Request { begun: None, .. } if self.served > 0 => Wait::Idle,
            State::Greeting | State::Request { .. } => Wait::Head,
            State::Exchange(exchange) => exchange.wait(),
            State::Linger { .. } => Wait::Linger,
        }
    }

    /// Records that the session was not parked after all, because something had come already.
    pub fn did_not_wait(&mut self) {
        self.left = None;
    }

    /// Whether these edges are worth a turn.
    pub fn heeds(&self, edges: &Edges) -> bool {
        match &self.state {
            _ if self.is_asked_to_leave() => true,
            State::Exchange(exchange) => exchange.heeds(edges, &self.client),
            _ => true,
        }
    }

    /// Records edges that came.
    pub fn note(&mut self, edges: Edges) {
        for (tag, edge) in edges.sockets.into_iter().enumerate() {
            match &mut self.state {
                _ if edge == Edge::default() => {}
                _ if tag as u32 == CLIENT => self.client.stream.note(edge),
                // While a pinned connection is here, no exchange has another upstream.
                _ if let Some(pinned) = &mut self.pinned => pinned.note(edge),
                State::Exchange(exchange) => exchange.note(tag as u32, edge),
                _ => {}
            }
        }
    }
}
