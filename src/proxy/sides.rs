//! The two connections of an exchange, and the two directions between them.

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

/// The client's side of an exchange, lent by its session.
pub struct ClientSide<'s> {
    /// The connection.
    pub half: &'s mut Half,
    /// Receives the edges of sockets and the end of lookups.
    pub waker: &'s Arc<dyn Wake>,
    /// The client.
    pub asker: &'s Asker,
    /// The upstream connection that the client has logged in on, while no exchange uses it.
    pub pinned: &'s mut Option<Box<Pinned>>,
}

impl ClientSide<'_> {
    pub(super) fn owner(&self, tag: u32) -> Owner {
        Owner { who: Arc::clone(self.waker), tag }
    }
}

/// The connection to the upstream.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) half: Half,
    pub(super) address: SocketAddr,
    pub(super) lease: Lease,
}

/// One direction of an exchange. It stays the same from the first stage to the last, so that its counts
/// are kept.
#[derive(Debug, Default)]
pub(super) struct Leg {
    /// The flow of content, and its progress.
    pub(super) flow: Flow,
    /// The bytes that go before it: heads and replies, and the first bytes of a tunnel until they are
    /// judged.
    pub(super) staged: Buffer,
    /// The sink takes no more. Bytes in the other direction are still passed on.
    pub(super) is_broken: bool,
}

impl Leg {
    /// Makes it ready for another exchange; the memory is kept.
    pub(super) fn reset(&mut self) {
        self.flow = Flow::default();
        self.is_broken = false;
    }

    /// Sets the content that comes next in this direction.
    pub(super) fn goes_on_with(&mut self, content: Content) {
        let sent = self.flow.sent();
        self.flow = Flow::new(content);
        self.flow.add_sent(sent);
    }

    /// How many bytes were sent or are staged.
    pub(super) fn sent_and_staged(&self) -> u64 {
        self.flow.sent() + self.staged.len() as u64
    }

    /// Records that nothing more can be sent. Bytes in a pipe are dropped.
    pub(super) fn breaks(&mut self) {
        self.is_broken = true;
        self.flow.drop_pipe();
    }

    /// Sends staged bytes. Returns whether all have gone.
    pub(super) fn flush(&mut self, sink: &mut Stream) -> io::Result<bool> {
        while !self.staged.is_empty() && sink.makes_room()? {
            let count = sink.send(self.staged.unread())?;
            self.staged.consume(count);
            self.flow.add_sent(count as u64);
        }
        Ok(sink.flush()? && self.staged.is_empty())
    }
}

/// The outcome of a step of an exchange.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Progress {
    /// Nothing more can be done now. The tag, if there is one, is that of the socket expected to be
    /// ready next.
    Wait(Option<u32>),
    /// The turn is spent.
    Spent,
    /// The last byte was sent to the client.
    Finished,
}
