//! A layer for tests that does to its users anything that TLS may do.
//!
//! It codes bytes, holds some of them, and may be ahead of the socket or behind it. The peer in a test
//! speaks it on a plain socket, with [`coded`] and the marks below. The layer
//!
//! - holds decoded bytes, and an end or an error behind them, which are no longer in the socket;
//! - reports an end of the socket without [`CODED_END`] as [`io::ErrorKind::UnexpectedEof`];
//! - receives bytes that are no content ([`CODED_TICKET`]), and answers [`CODED_KEY_UPDATE`] by itself;
//! - takes bytes and holds them until they are flushed.

use std::io;

use rustix::net::RecvFlags;

use super::{Layer, Received, Stream};
use crate::net::buffer::Buffer;

/// Every byte is changed on the wire, so that none bypasses the layer unnoticed.
const KEY: u8 = 0xa5;
/// The mark of the end, like close_notify.
const END: u8 = 0xff;
/// A message of the layer to its peer without content, like a ticket of TLS 1.3.
const TICKET: u8 = 0xfe;
/// A message to answer with the same, like a KeyUpdate.
const KEY_UPDATE: u8 = 0xfd;
/// A byte that cannot be decoded.
const GARBAGE: u8 = 0xfc;

/// How many bytes one receive takes from the socket.
const WIRE: usize = 64;
/// Limit on the receives of one check of an idle connection. A peer that sends more is unfit.
const LOOKS: usize = 16;

/// Why no more bytes come from the peer.
#[derive(Clone, Copy, Debug)]
enum Over {
    /// The peer has sent the end mark.
    Ended,
    /// Its socket ended without the mark, or broke, or sent garbage.
    Failed(io::ErrorKind),
}

/// The layer's state.
#[derive(Debug)]
pub(crate) struct Double {
    /// Decoded but not taken.
    received: Vec<u8>,
    /// Coded but not sent.
    sent: Vec<u8>,
    /// Set when nothing follows the held bytes.
    over: Option<Over>,
    /// Whether a receive has reported `over`.
    reported: bool,
    /// Whether the end mark was already written.
    ends: bool,
    /// Nothing can be sent any more.
    failed: Option<io::ErrorKind>,
    /// How many bytes it gives, takes and sends at a time.
    piece: usize,
    /// Every this many sends it finds no room although there is some; 0 for never.
    reluctance: usize,
    sends: usize,
}

impl Double {
    /// Whether a receive has something to report that is not in the socket.
    pub(super) fn holds_received(&self) -> bool {
        !self.received.is_empty() || self.holds_end()
    }

    /// Whether the end, or an error, is known and not reported yet.
    pub(super) fn holds_end(&self) -> bool {
        self.over.is_some() && !self.reported
    }

    /// Whether more may come from the socket.
    pub(super) fn reads_on(&self) -> bool {
        self.over.is_none()
    }

    pub(super) fn holds_sent(&self) -> bool {
        !self.sent.is_empty()
    }

    /// Queues the end mark behind everything else.
    pub(super) fn end(&mut self) {
        if !std::mem::replace(&mut self.ends, true) {
            self.sent.push(END ^ KEY);
        }
    }

    fn decode(&mut self, wire: &[u8]) {
        for byte in wire.iter().map(|byte| byte ^ KEY) {
            match byte {
                // Later bytes are dropped.
                _ if self.over.is_some() => {}
                END => self.over = Some(Over::Ended),
                GARBAGE => self.over = Some(Over::Failed(io::ErrorKind::InvalidData)),
                TICKET => {}
                KEY_UPDATE if self.ends => {}
                KEY_UPDATE => self.sent.push(KEY_UPDATE ^ KEY),
                byte => self.received.push(byte),
            }
        }
    }
}

impl Stream {
    /// The same, under a layer that gives, takes and sends `piece` bytes at a time. Now and then it finds
    /// no room although there is some, and no edge reports that room.
    pub(crate) fn doubled(self, piece: usize) -> Self {
        self.under(piece, 3)
    }

    /// The same, under a layer that has room whenever its socket has.
    pub(crate) fn doubled_willingly(self, piece: usize) -> Self {
        self.under(piece, 0)
    }

    /// The same, under a layer that takes everything and sends nothing.
    pub(crate) fn doubled_stuck(self) -> Self {
        self.under(usize::MAX, 1)
    }

    fn under(mut self, piece: usize, reluctance: usize) -> Self {
        self.layer = Layer::Double(Box::new(Double {
            received: Vec::new(),
            sent: Vec::new(),
            over: None,
            reported: false,
            ends: false,
            failed: None,
            piece,
            reluctance,
            sends: 0,
        }));
        self
    }

    /// Gives the layer a ticket to send, as after a handshake.
    pub(crate) fn issue_ticket(&mut self) {
        double(self).sent.push(CODED_TICKET);
    }
}

/// Bytes (below [`GARBAGE`]) as they are on the wire.
pub(crate) fn coded(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| byte ^ KEY).collect()
}

/// The end mark on the wire.
pub(crate) const CODED_END: u8 = END ^ KEY;
/// A message without content on the wire.
pub(crate) const CODED_TICKET: u8 = TICKET ^ KEY;
/// A message on the wire that the layer answers with the same.
pub(crate) const CODED_KEY_UPDATE: u8 = KEY_UPDATE ^ KEY;
/// A byte on the wire that cannot be decoded.
pub(crate) const CODED_GARBAGE: u8 = GARBAGE ^ KEY;

fn double(stream: &mut Stream) -> &mut Double {
    match &mut stream.layer {
        Layer::Double(double) => double,
        Layer::Plain => panic!("only a doubled stream comes here"),
    }
}

/// Takes the bytes of the socket, once, and decodes them. Returns whether the socket had anything, the end
/// included.
fn fill(stream: &mut Stream, flags: RecvFlags) -> bool {
    let mut wire = Buffer::default();
    wire.grow(WIRE);
    let got = stream.receive_with(&mut wire, flags);
    let double = double(stream);
    match got {
        Ok(Received::Bytes(_)) => double.decode(wire.unread()),
        Ok(Received::Nothing) => return false,
        Ok(Received::End) => double.over = Some(Over::Failed(io::ErrorKind::UnexpectedEof)),
        Err(e) => double.over = Some(Over::Failed(e.kind())),
    }
    true
}

pub(super) fn receive(
    stream: &mut Stream,
    into: &mut Buffer,
    most: usize,
    flags: RecvFlags,
) -> io::Result<Received> {
    if !double(stream).holds_received() && double(stream).reads_on() {
        fill(stream, flags);
    }
    let room = into.room();
    let double = double(stream);
    let count = double.received.len().min(double.piece).min(most).min(room);
    if count > 0 {
        into.tail().extend(double.received.drain(..count));
        return Ok(Received::Bytes(count));
    }
    double.reported = double.over.is_some();
    match double.over {
        None => Ok(Received::Nothing),
        Some(Over::Ended) => Ok(Received::End),
        Some(Over::Failed(kind)) => Err(kind.into()),
    }
}

/// Takes some bytes and sends none of them; [`flush`] sends them.
pub(super) fn send(stream: &mut Stream, bytes: &[u8]) -> io::Result<usize> {
    let double = double(stream);
    assert!(!double.ends, "sent behind the end");
    if let Some(kind) = double.failed {
        return Err(kind.into());
    }
    let count = bytes.len().min(double.piece);
    double.sent.extend(coded(bytes.get(..count).unwrap_or_default()));
    Ok(count)
}

pub(super) fn flush(stream: &mut Stream) -> io::Result<bool> {
    if let Some(kind) = double(stream).failed {
        return Err(kind.into());
    }
    while double(stream).holds_sent() && stream.writable {
        let double = double(stream);
        double.sends += 1;
        if double.reluctance > 0 && double.sends.is_multiple_of(double.reluctance) {
            // Pretends to have no room.
            stream.writable = false;
            break;
        }
        let piece = double.piece.min(double.sent.len());
        let out: Vec<u8> = double.sent.get(..piece).unwrap_or_default().to_vec();
        match stream.send_to_socket(&out) {
            Ok(count) => drop(self::double(stream).sent.drain(..count)),
            Err(e) => {
                let double = self::double(stream);
                double.failed = Some(e.kind());
                double.sent.clear();
                return Err(e);
            }
        }
    }
    Ok(!double(stream).holds_sent())
}

pub(super) fn is_stale(stream: &mut Stream) -> bool {
    for _ in 0..LOOKS {
        if double(stream).holds_received() || !double(stream).reads_on() {
            return true;
        }
        if !fill(stream, RecvFlags::DONTWAIT) {
            // Held bytes would keep the next request from going out.
            return !matches!(flush(stream), Ok(true));
        }
    }
    true
}

pub(super) fn peek(stream: &mut Stream, into: &mut [u8]) -> Option<usize> {
    while double(stream).received.len() < into.len()
        && double(stream).reads_on()
        && fill(stream, RecvFlags::DONTWAIT)
    {}
    let double = double(stream);
    let count = double.received.len().min(into.len());
    if count == 0 {
        return double.over.map(|_| 0);
    }
    let held = double.received.get(..count).unwrap_or_default();
    into.get_mut(..count)?.copy_from_slice(held);
    Some(count)
}
