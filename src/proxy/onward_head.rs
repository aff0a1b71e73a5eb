//! The head of a request as it goes on to the next hop.

use crate::upstream::peer::{Hop, Peer};
use crate::wire::{RequestLine, write_request_line};

/// A request's head as it goes on, in two parts: what depends on the next hop is written when that is
/// known.
#[derive(Debug, Default)]
pub(super) struct OnwardHead {
    pub(super) line: RequestLine,
    /// The fields, and the line that ends them.
    pub(super) fields: Vec<u8>,
}

impl OnwardHead {
    /// Appends it, as this next hop gets it.
    pub(super) fn write(&self, peer: &Peer, out: &mut Vec<u8>) {
        let (method, target) = self.line.parts();
        match peer.hop() {
            Hop::Direct => write_request_line(out, method, target),
        }
        out.extend_from_slice(&self.fields);
    }

    /// Gives memory back that an ordinary request does not need.
    pub(super) fn trim(&mut self, most: usize) {
        self.line.trim(most);
        if self.fields.capacity() > most {
            self.fields = Vec::new();
        }
    }
}
