//! The two connections of an exchange, and what flows between them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::net::buffer::Buffer;
use crate::net::poll::{Owner, Wake};
use crate::net::stream::Stream;
use crate::upstream::pool::Lease;

use super::asker::Asker;
use super::content::Content;
use super::flow::Flow;
use super::half::Half;
use super::pinned::Pinned;

/// Tag of the client's socket.
pub const CLIENT: u32 = 0;
/// Tag of the upstream's socket, and of the first of two that are being connected.
pub const UPSTREAM: u32 = 1;
/// Tag of the second socket that is being connected.
pub const SECOND: u32 = 2;
/// How many sockets a session can have.
pub const SOCKETS: usize = 3;

/// The client's side of an exchange, as its session has it.
pub struct ClientSide<'s> {
    /// The connection.
    pub half: &'s mut Half,
    /// Who is told about sockets and lookups.
    pub waker: &'s Arc<dyn Wake>,
    /// Who it is.
    pub asker: &'s Asker,
    /// The upstream connection that it has logged in on, while no exchange has it.
    pub pinned: &'s mut Option<Box<Pinned>>,
}

impl ClientSide<'_> {
    pub(super) fn owner(&self, tag: u32) -> Owner {
        Owner { who: Arc::clone(self.waker), tag }
    }
}

/// The connection an exchange goes out on.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) half: Half,
    pub(super) address: SocketAddr,
    pub(super) lease: Lease,
}

/// One direction of an exchange. It is the same from the first stage to the last, so that what was
/// counted of it stays.
#[derive(Debug, Default)]
pub(super) struct Leg {
    /// What flows, and how far it is.
    pub(super) flow: Flow,
    /// What goes before it: heads and replies, and what was read of a tunnel before it was judged.
    pub(super) staged: Buffer,
    /// The sink takes no more; what comes the other way is still passed on.
    pub(super) is_broken: bool,
}

impl Leg {
    /// Ready for another exchange; the memory stays.
    pub(super) fn reset(&mut self) {
        self.flow = Flow::default();
        self.is_broken = false;
    }

    /// This content comes next, in the same direction.
    pub(super) fn goes_on_with(&mut self, content: Content) {
        let sent = self.flow.sent();
        self.flow = Flow::new(content);
        self.flow.add_sent(sent);
    }

    /// Bytes that were sent, and those that are staged.
    pub(super) fn sent_and_staged(&self) -> u64 {
        self.flow.sent() + self.staged.len() as u64
    }

    /// Nothing more can be sent: what is in a pipe is dropped.
    pub(super) fn breaks(&mut self) {
        self.is_broken = true;
        self.flow.drop_pipe();
    }

    /// Sends staged bytes. Answers whether all have gone.
    pub(super) fn flush(&mut self, sink: &mut Stream) -> io::Result<bool> {
        while !self.staged.is_empty() && sink.makes_room()? {
            let count = sink.send(self.staged.unread())?;
            self.staged.consume(count);
            self.flow.add_sent(count as u64);
        }
        Ok(sink.flush()? && self.staged.is_empty())
    }
}

/// What a step of an exchange came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Progress {
    /// Nothing more can be done now. If it is known, this socket (by tag) is next to be ready.
    Wait(Option<u32>),
    /// The turn is spent.
    Spent,
    /// The last byte has gone to the client.
    Finished,
}
