//! The head of a request as it is passed on to the next hop.

use crate::upstream::peer::{Hop, Peer};
use crate::wire::{RequestLine, write_request_line};

/// A request's head as it is passed on, in two parts: the part that depends on the next hop is written
/// when that is known.
#[derive(Debug, Default)]
pub(super) struct OnwardHead {
    pub(super) line: RequestLine,
    /// The fields, and the line that ends them.
    pub(super) fields: Vec<u8>,
}

impl OnwardHead {
    /// Appends the head in the form for this next hop.
    pub(super) fn write(&self, peer: &Peer, out: &mut Vec<u8>) {
        let (method, target) = self.line.parts();
        match peer.hop() {
            Hop::Direct => write_request_line(out, method, target),
        }
        out.extend_from_slice(&self.fields);
    }

    /// Gives back memory that an ordinary request does not need.
    pub(super) fn trim(&mut self, most: usize) {
        self.line.trim(most);
        if self.fields.capacity() > most {
            self.fields = Vec::new();
        }
    }
}
