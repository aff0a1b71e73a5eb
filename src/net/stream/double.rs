//! A layer that does to its users what TLS may do: it codes octets, holds them back, and is not where the
//! socket is.

use std::io;

use rustix::net::RecvFlags;

use super::{Layer, Received, Stream};
use crate::net::buffer::Buffer;

/// Every octet is changed on the wire, so that none gets past the layer unnoticed.
const KEY: u8 = 0xa5;
/// What stands for the end, as close_notify does.
const END: u8 = 0xff;
/// What the layer says to itself, as a ticket of TLS 1.3: no content.
const TICKET: u8 = 0xfe;

/// The layer's state.
#[derive(Debug)]
pub(crate) struct Double {
    /// Decoded and not taken.
    received: Vec<u8>,
    /// Coded and not out.
    sent: Vec<u8>,
    /// The peer has said the end.
    ended: bool,
    /// The end is said already.
    ends: bool,
    /// How much it gives, takes and sends at a time.
    piece: usize,
    /// Every so many sends it finds no room although there is some.
    reluctance: usize,
    sends: usize,
}

impl Double {
    pub(super) fn holds_received(&self) -> bool {
        !self.received.is_empty()
    }

    pub(super) fn holds_sent(&self) -> bool {
        !self.sent.is_empty()
    }

    /// The end goes out behind everything else.
    pub(super) fn end(&mut self) {
        if !std::mem::replace(&mut self.ends, true) {
            self.sent.push(END ^ KEY);
        }
    }
}

impl Stream {
    /// The same, under a layer that gives, takes and sends `piece` octets at a time.
    pub(crate) fn doubled(mut self, piece: usize) -> Self {
        self.layer = Layer::Double(Box::new(Double {
            received: Vec::new(),
            sent: Vec::new(),
            ended: false,
            ends: false,
            piece,
            reluctance: 3,
            sends: 0,
        }));
        self
    }
}

/// Octets (below [`TICKET`]) as they are on the wire.
pub(crate) fn coded(octets: &[u8]) -> Vec<u8> {
    octets.iter().map(|octet| octet ^ KEY).collect()
}

/// What stands for the end on the wire.
pub(crate) const CODED_END: u8 = END ^ KEY;
/// What is no content on the wire.
pub(crate) const CODED_TICKET: u8 = TICKET ^ KEY;

fn double(stream: &mut Stream) -> &mut Double {
    match &mut stream.layer {
        Layer::Double(double) => double,
        Layer::Plain => panic!("only a doubled stream comes here"),
    }
}

/// Takes what the socket has, and decodes it.
fn fill(stream: &mut Stream) -> io::Result<()> {
    let mut wire = Buffer::default();
    wire.grow(64);
    let got = stream.receive_with(&mut wire, RecvFlags::DONTWAIT)?;
    let double = double(stream);
    double.ended |= got == Received::End;
    for octet in wire.unread().iter().map(|octet| octet ^ KEY) {
        match octet {
            END => double.ended = true,
            TICKET => {}
            octet => double.received.push(octet),
        }
    }
    Ok(())
}

pub(super) fn receive(stream: &mut Stream, into: &mut Buffer, most: usize) -> io::Result<Received> {
    if !double(stream).holds_received() {
        fill(stream)?;
    }
    let room = into.room();
    let double = double(stream);
    let count = double.received.len().min(double.piece).min(most).min(room);
    if count == 0 {
        return Ok(if double.ended { Received::End } else { Received::Nothing });
    }
    into.tail().extend(double.received.drain(..count));
    Ok(Received::Octets(count))
}

/// Takes some octets, and sends none of them: that is for [`flush`].
pub(super) fn send(stream: &mut Stream, octets: &[u8]) -> io::Result<usize> {
    let double = double(stream);
    assert!(!double.ends, "sent behind the end");
    let count = octets.len().min(double.piece);
    double.sent.extend(coded(octets.get(..count).unwrap_or_default()));
    Ok(count)
}

pub(super) fn flush(stream: &mut Stream) -> io::Result<bool> {
    while double(stream).holds_sent() && stream.writable {
        let double = double(stream);
        double.sends += 1;
        if double.sends.is_multiple_of(double.reluctance) {
            // No room, it says.
            stream.writable = false;
            break;
        }
        let piece = double.piece.min(double.sent.len());
        let out: Vec<u8> = double.sent.get(..piece).unwrap_or_default().to_vec();
        let count = stream.send_to_socket(&out)?;
        self::double(stream).sent.drain(..count);
    }
    Ok(!double(stream).holds_sent())
}

pub(super) fn is_stale(stream: &mut Stream) -> bool {
    while stream.readable {
        if fill(stream).is_err() {
            return true;
        }
    }
    let double = double(stream);
    double.ended || double.holds_received()
}
