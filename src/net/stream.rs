//! One connection: receives and sends without waiting, and keeps track of the socket's readiness.
//!
//! Sockets are blocking, TCP or unix. A worker receives and sends with `MSG_DONTWAIT`, so a step never
//! waits. Only [`Stream::receive_patiently`] waits, for as long as the socket's receive timeout, when the
//! worker has nothing better to do. Short counts and `EAGAIN` are ordinary.

use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use socket2::{Socket, TcpKeepalive};

use super::buffer::Buffer;
use super::poll::{Edge, Registration};

#[cfg(test)]
pub(crate) mod double;
mod splicing;
mod watching;

/// Kernel probes for a connection on which nothing moves: the first after a minute, then every 15 s. The
/// fourth unanswered probe ends the connection. A vanished peer is thus found within two minutes, and
/// devices on the way that forget quiet connections keep this one.
///
/// There is no `TCP_USER_TIMEOUT` beside it, because that also ends a connection whose peer is alive and
/// has merely read nothing for that long. The timeouts decide about such a peer.
pub fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15))
        .with_retries(4)
}

/// How long a patient receive waits. The kernel counts in jiffies, so 4 to 8 ms at 250 Hz.
const PATIENCE: Duration = Duration::from_millis(4);

/// The result of a receive.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Received {
    /// This many bytes.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// The peer has ended its side.
    End,
}

/// The form of the bytes on the socket below HTTP: as they are, or coded by a layer.
///
/// A layer may hold bytes that it has decoded and that were not taken yet, and bytes that it has coded and
/// not sent. It may have to receive in order to send, and the other way round. What is known of
/// the socket's readiness is kept below it. Each layer therefore keeps these rules:
///
/// - An end or an error that a layer holds makes the stream readable until a receive has reported it.
/// - A socket that ends before the layer has ended is an error, [`io::ErrorKind::UnexpectedEof`]: the
///   stream may have been cut.
/// - A receive may bring nothing although the socket had bytes: they were messages of the
///   layer itself.
/// - A layer may itself have bytes to send. The owner of the stream flushes it before waiting for it.
/// - Bytes that it could not send are lost with the connection, and each later flush or send reports that.
#[derive(Debug)]
enum Layer {
    Plain,
    /// A test layer that does what a real one may do to its users.
    #[cfg(test)]
    Double(Box<double::Double>),
}

/// One connection.
#[derive(Debug)]
pub struct Stream {
    // Before the socket, so that its place is free when the descriptor can be reused.
    registration: Option<Registration>,
    socket: Socket,
    layer: Layer,
    /// Whether a receive may find something. Set by an edge. Cleared only by a receive that found
    /// everything there was, because an edge comes once.
    readable: bool,
    /// Whether a send may find room; kept like `readable`.
    writable: bool,
    /// Whether an edge reported the peer's end. No other edge will, so the stream stays readable until the
    /// end is read.
    closed: bool,
    /// Whether an edge reported urgent data. From then on a receive that found less than it asked for may
    /// have stopped in front of such data.
    urgent: bool,
    /// Whether an edge reported an error.
    broken: bool,
    /// Why the connection was lost, if a send or [`broken`](Self::broken) found out. The system reports it
    /// once: a later receive would find an orderly end.
    lost: Option<Errno>,
    /// Whether the socket waits in a receive, and for how long; dialing leaves it non-blocking.
    patient: Patient,
    /// Whether the kernel may hold bytes back; dialing leaves that on.
    nagle: Nagle,
    /// The epoch in which the address was looked up. The next one begins when names resolve differently.
    epoch: u32,
}

/// Nagle's algorithm: the kernel holds a small segment back while another one is under way. The first send
/// of a connection has nothing to wait for, and many connections have no second, so `TCP_NODELAY` can wait
/// until then. Setting it also sends the bytes that are held.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Nagle {
    /// `TCP_NODELAY` is set: by us, or inherited from the listener.
    Off,
    /// Not set, and nothing was sent.
    Unused,
    /// Not set, and something was sent once.
    Used,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Patient {
    /// `O_NONBLOCK` is set, by dialing or for splicing.
    NonBlocking,
    /// Blocking, without a receive timeout.
    Unset,
    /// Blocking, with the receive timeout that patience needs.
    Set,
}

impl Stream {
    /// A connection from `accept`, whose first bytes may already be there.
    pub fn accepted(socket: impl Into<Socket>) -> Self {
        Self {
            registration: None,
            socket: socket.into(),
            layer: Layer::Plain,
            readable: true,
            writable: true,
            closed: false,
            urgent: false,
            broken: false,
            lost: None,
            patient: Patient::Unset,
            nagle: Nagle::Off,
            epoch: 0,
        }
    }

    /// A connection still being made, with `O_NONBLOCK` set.
    pub fn dialing(socket: impl Into<Socket>) -> Self {
        Self {
            registration: None,
            socket: socket.into(),
            layer: Layer::Plain,
            readable: false,
            writable: false,
            closed: false,
            urgent: false,
            broken: false,
            lost: None,
            patient: Patient::NonBlocking,
            nagle: Nagle::Unused,
            epoch: 0,
        }
    }

    /// The epoch in which the address was looked up. The next one begins when names resolve differently.
    pub fn names_epoch(&self) -> u32 {
        self.epoch
    }

    /// Sets the epoch.
    pub fn set_names_epoch(&mut self, epoch: u32) {
        self.epoch = epoch;
    }

    /// The socket, for its options and addresses. It must never be duplicated.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Whether a receive may find something: a layer holds bytes, or an end or an error not reported yet,
    /// or the socket may have some.
    #[inline]
    pub fn is_readable(&self) -> bool {
        match &self.layer {
            Layer::Plain => self.readable,
            #[cfg(test)]
            Layer::Double(double) => {
                double.holds_received() || (self.readable && double.reads_on())
            }
        }
    }

    /// Whether a send may find room: no held bytes wait to go out, and the socket may take some.
    #[inline]
    pub fn is_writable(&self) -> bool {
        match &self.layer {
            Layer::Plain => self.writable,
            #[cfg(test)]
            Layer::Double(double) => self.writable && !double.holds_sent(),
        }
    }

    /// Whether bytes can go between this connection and a pipe unseen, because no layer codes them.
    #[inline]
    pub fn is_spliceable(&self) -> bool {
        matches!(self.layer, Layer::Plain)
    }

    /// Whether there is a layer. The end of the stream is then more than the end of its socket.
    #[inline]
    pub fn has_layer(&self) -> bool {
        !matches!(self.layer, Layer::Plain)
    }

    /// Whether a layer holds no bytes that have to go out.
    #[inline]
    pub fn is_flushed(&self) -> bool {
        match &self.layer {
            Layer::Plain => true,
            #[cfg(test)]
            Layer::Double(double) => !double.holds_sent(),
        }
    }

    /// Sends the bytes that a layer holds. Returns whether all of them have gone. Until then a
    /// caller must not assume that [sent](Self::send) bytes have reached the socket.
    ///
    /// # Errors
    ///
    /// The socket's error: the connection is over.
    #[inline]
    pub fn flush(&mut self) -> io::Result<bool> {
        match self.layer {
            Layer::Plain => Ok(true),
            #[cfg(test)]
            Layer::Double(_) => double::flush(self),
        }
    }

    /// As [`is_writable`](Self::is_writable), after flushing as far as possible.
    ///
    /// # Errors
    ///
    /// The socket's error: the connection is over.
    #[inline]
    pub fn makes_room(&mut self) -> io::Result<bool> {
        Ok(self.flush()? && self.writable)
    }

    /// Whether an edge reported the peer's end or an error that was not received yet, or a layer holds one.
    pub fn is_ending(&self) -> bool {
        #[cfg(test)]
        if let Layer::Double(double) = &self.layer {
            return self.closed || self.broken || double.holds_end();
        }
        self.closed || self.broken
    }

    /// Notes the facts of an edge.
    pub fn note(&mut self, edge: Edge) {
        self.readable |= edge.readable;
        self.writable |= edge.writable;
        self.closed |= edge.closed;
        self.urgent |= edge.urgent;
        self.broken |= edge.broken;
    }

    /// Receives the bytes there are into the room of `into`, which must have some.
    ///
    /// # Errors
    ///
    /// The socket's error: the connection is over. [`io::ErrorKind::UnexpectedEof`] if the socket
    /// ended before its layer.
    pub fn receive(&mut self, into: &mut Buffer) -> io::Result<Received> {
        match self.layer {
            Layer::Plain => self.receive_with(into, RecvFlags::DONTWAIT),
            #[cfg(test)]
            Layer::Double(_) => double::receive(self, into, usize::MAX, RecvFlags::DONTWAIT),
        }
    }

    /// As [`receive`](Self::receive), at most `most` bytes, which must not be 0.
    ///
    /// # Errors
    ///
    /// The socket's error: the connection is over.
    pub fn receive_at_most(&mut self, into: &mut Buffer, most: usize) -> io::Result<Received> {
        #[cfg(test)]
        if let Layer::Double(_) = self.layer {
            return double::receive(self, into, most, RecvFlags::DONTWAIT);
        }
        let tail = into.tail();
        let held = tail.len();
        let most = most.min(tail.capacity() - held);
        debug_assert!(most > 0, "a receive needs room");
        tail.resize(held + most, 0);
        let room = tail.get_mut(held..).unwrap_or_default();
        let received = rustix::net::recv(&self.socket, room, RecvFlags::DONTWAIT);
        tail.truncate(held + received.as_ref().map_or(0, |(count, _)| *count));
        self.received(received.map(|(count, _)| count), most)
    }

    /// As [`receive`](Self::receive), but waits a few milliseconds for the first byte. It does not wait if
    /// a layer holds some, or has something to send first.
    ///
    /// # Errors
    ///
    /// The socket's error: the connection is over.
    pub fn receive_patiently(&mut self, into: &mut Buffer) -> io::Result<Received> {
        if self.has_layer() && (self.is_readable() || !self.flush()?) {
            return self.receive(into);
        }
        if self.patient == Patient::NonBlocking {
            ioctl_fionbio(&self.socket, false)?;
            self.patient = Patient::Unset;
        }
        if self.patient == Patient::Unset {
            self.socket.set_read_timeout(Some(PATIENCE))?;
            self.patient = Patient::Set;
        }
        #[cfg(test)]
        if let Layer::Double(_) = self.layer {
            return double::receive(self, into, usize::MAX, RecvFlags::empty());
        }
        self.receive_with(into, RecvFlags::empty())
    }

    #[inline]
    fn receive_with(&mut self, into: &mut Buffer, flags: RecvFlags) -> io::Result<Received> {
        let tail = into.tail();
        let room = tail.capacity() - tail.len();
        debug_assert!(room > 0, "a receive needs room");
        loop {
            return match rustix::net::recv(&self.socket, spare_capacity(tail), flags) {
                Err(Errno::INTR) => continue,
                outcome => self.received(outcome.map(|(count, _)| count), room),
            };
        }
    }

    #[inline(always)]
    fn received(
        &mut self,
        outcome: rustix::io::Result<usize>,
        asked: usize,
    ) -> io::Result<Received> {
        match outcome {
            Ok(0) => {
                self.readable = false;
                self.closed = false;
                self.ended()
            }
            Ok(count) => {
                // Less than asked for is everything there was (epoll(7)): more makes a new edge. But the
                // end makes none if it came with the bytes, nor do bytes behind urgent data.
                self.readable = count == asked || self.closed || self.urgent;
                Ok(Received::Bytes(count))
            }
            Err(Errno::AGAIN) => {
                self.readable = false;
                Ok(Received::Nothing)
            }
            // Still readable, so the caller tries again.
            Err(Errno::INTR) => Ok(Received::Nothing),
            Err(e) => Err(e.into()),
        }
    }

    /// Sends the bytes of `bytes` that the socket takes, 0 when it takes none now.
    ///
    /// # Errors
    ///
    /// The socket's error: the connection is over.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.layer {
            Layer::Plain => self.send_to_socket(bytes),
            #[cfg(test)]
            Layer::Double(_) => double::send(self, bytes),
        }
    }

    #[inline(always)]
    fn send_to_socket(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        self.sent(rustix::net::send(&self.socket, bytes, flags), bytes.len())
    }

    /// As [`send`](Self::send), from several places in one call.
    ///
    /// # Errors
    ///
    /// The socket's error: the connection is over.
    pub fn send_all_of(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        #[cfg(test)]
        if let Layer::Double(_) = self.layer {
            return double::send(self, parts.first().map_or(&[], |part| part));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let total = parts.iter().map(|p| p.len()).sum();
        let mut none = SendAncillaryBuffer::default();
        self.sent(rustix::net::sendmsg(&self.socket, parts, &mut none, flags), total)
    }

    fn sent(&mut self, outcome: rustix::io::Result<usize>, asked: usize) -> io::Result<usize> {
        match outcome {
            Ok(count) => {
                self.writable = count == asked;
                if self.nagle != Nagle::Off {
                    self.hurry();
                }
                Ok(count)
            }
            Err(Errno::AGAIN) => {
                self.writable = false;
                Ok(0)
            }
            Err(Errno::INTR) => Ok(0),
            Err(e) => {
                self.lose(e);
                Err(e.into())
            }
        }
    }

    /// Lets no bytes be held back from the second send on: that would stall a tunnel.
    #[cold]
    fn hurry(&mut self) {
        if self.nagle == Nagle::Unused {
            self.nagle = Nagle::Used;
            return;
        }
        self.nagle = Nagle::Off;
        // If this fails, the connection is over, or bytes go out a little later.
        let _ = self.socket.set_tcp_nodelay(true);
    }

    /// Records that the connection is lost. Earlier bytes are still to be received, and then `e`.
    fn lose(&mut self, e: Errno) {
        // A pipe breaks if the other end had ended before; that remains an end (the kernel's `tcp_reset`).
        if e != Errno::PIPE {
            self.lost.get_or_insert(e);
        }
        self.readable = true;
        self.closed = true;
    }

    /// Everything the peer sent was received. Reports the end, or the error if the connection was lost.
    fn ended(&mut self) -> io::Result<Received> {
        match self.lost.take() {
            Some(e) => Err(e.into()),
            None => Ok(Received::End),
        }
    }

    /// The error of a connection that an edge reported as over, if it has one: a reset. A receive will meet
    /// it too, behind the bytes before it.
    pub fn broken(&mut self) -> Option<io::Error> {
        if !std::mem::take(&mut self.broken) {
            return None;
        }
        let e = self.socket.take_error().ok().flatten()?;
        self.lose(Errno::from_io_error(&e).unwrap_or(Errno::CONNRESET));
        Some(e)
    }

    /// Whether anything has come on an idle connection, an end or an error included: it is then unfit for
    /// use. A layer has to receive in order to know, whatever the edges of its socket reported; its own
    /// messages do not count. It tries a limited number of times; a peer that sends more is unfit, too. Anything the
    /// layer wants to send goes out as far as the socket takes it.
    pub fn is_stale(&mut self) -> bool {
        #[cfg(test)]
        if let Layer::Double(_) = self.layer {
            return double::is_stale(self);
        }
        let mut byte = [0_u8; 1];
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        !matches!(rustix::net::recv(&self.socket, &mut byte, flags), Err(Errno::AGAIN))
    }

    /// Copies the bytes there are, as far as they fit, and leaves them to be received. Returns their
    /// number: `None` if there are none now, 0 at the end. A layer decodes and holds them.
    ///
    /// # Errors
    ///
    /// The socket's error: the connection is over.
    pub fn peek(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        #[cfg(test)]
        if let Layer::Double(_) = self.layer {
            return Ok(double::peek(self, into));
        }
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        match rustix::net::recv(&self.socket, into, flags) {
            Ok((count, _)) => Ok(Some(count)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether a connect has ended; `Ok(false)` while it has not.
    ///
    /// # Errors
    ///
    /// Why the connect failed.
    pub fn is_connected(&mut self) -> io::Result<bool> {
        match self.socket.peer_addr() {
            Ok(_) => {
                self.writable = true;
                return Ok(true);
            }
            Err(e) if e.kind() == io::ErrorKind::NotConnected => {}
            Err(e) => return Err(e),
        }
        // Only a socket that is not connected has an error to report.
        self.socket.take_error()?.map_or(Ok(false), Err)
    }

    /// Ends this side: the peer reads the end, and may still send. Returns whether the end has been sent.
    /// If not, held bytes have to go out first, and the caller asks again when there is room.
    ///
    /// # Errors
    ///
    /// The peer has already gone.
    pub fn finish(&mut self) -> io::Result<bool> {
        #[cfg(test)]
        if let Layer::Double(double) = &mut self.layer {
            double.end();
        }
        if !self.flush()? {
            return Ok(false);
        }
        self.socket.shutdown(Shutdown::Write).map(|()| true)
    }

    /// Closes the connection in order. A layer first sends its end, as far as the socket takes it now.
    pub fn part(mut self) {
        if self.has_layer() {
            // Nothing waits for it: a peer that takes nothing finds the connection ended.
            let _ = self.finish();
        }
    }

    /// Turns the coming close into a reset, so that the peer knows the stream is incomplete.
    pub fn reset_on_close(&self) {
        // If the socket refuses, it closes the ordinary way; there is no better one.
        let _ = self.socket.set_linger(Some(Duration::ZERO));
    }

    /// Lets the kernel check from time to time whether the peer is still there ([`keepalive`]). It costs
    /// four system calls, so it is for connections that have lasted. Accepted sockets inherit it from their
    /// listener.
    pub fn probe_when_quiet(&self) {
        // If this fails, a timeout finds a vanished peer later.
        let _ = self.socket.set_tcp_keepalive(&keepalive());
    }

    /// The address of this end, if it has one.
    pub fn local(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()?.as_socket()
    }

    /// The peer's address, if it has one.
    #[cfg(feature = "internals")]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.socket.peer_addr().ok()?.as_socket()
    }
}
