//! One end of a connection that sends and expects literal bytes, and the functions to wait with.
//!
//! [`Peer`] is a client, or the server's end inside a script of `servers`. Nothing here waits longer
//! than [`STEP`], so a hang is a failure.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use socket2::{Domain, SockRef, Socket, Type};

/// No step of a test waits longer than this.
pub(crate) const STEP: Duration = Duration::from_secs(5);

/// One end of a connection.
pub(crate) struct Peer {
    stream: TcpStream,
    /// Received, but not yet asked for.
    held: Vec<u8>,
}

impl Peer {
    #[track_caller]
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        Self::new(TcpStream::connect_timeout(&addr, STEP).expect("connects"))
    }

    /// Connects from this address of loopback, as another client.
    #[track_caller]
    pub(crate) fn connect_from(from: [u8; 4], to: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
        socket.connect(&to.into()).unwrap();
        Self::new(socket.into())
    }

    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(STEP)).unwrap();
        stream.set_write_timeout(Some(STEP)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, held: Vec::new() }
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("sends");
    }

    /// Sends as much as the other end takes. Fails if it did not take everything.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Receives once; 0 at the end.
    pub(crate) fn fill(&mut self) -> io::Result<usize> {
        let mut buf = [0; 64 << 10];
        loop {
            match self.stream.read(&mut buf) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
                Ok(n) => {
                    self.held.extend_from_slice(&buf[..n]);
                    return Ok(n);
                }
            }
        }
    }

    /// Takes everything that was received and not asked for.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// Forgets everything that was received and not asked for.
    pub(crate) fn discard(&mut self) {
        self.held.clear();
    }

    #[track_caller]
    fn fill_for(&mut self, what: &str) {
        match self.fill() {
            Ok(0) => panic!("the end came before {what}; so far: {}", shown(&self.held)),
            Ok(_) => {}
            Err(e) => panic!("{e} before {what}; so far: {}", shown(&self.held)),
        }
    }

    /// Reads up to and including `mark`.
    #[track_caller]
    pub(crate) fn read_until(&mut self, mark: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.held, mark) {
                return self.take_first(at + mark.len());
            }
            self.fill_for(&format!("{:?}", String::from_utf8_lossy(mark)));
        }
    }

    /// Reads a head, its blank line included.
    #[track_caller]
    pub(crate) fn read_head(&mut self) -> String {
        String::from_utf8(self.read_until(b"\r\n\r\n")).expect("a head in UTF-8")
    }

    /// Reads a head; `None` when the other end is gone instead.
    pub(crate) fn try_read_head(&mut self) -> Option<String> {
        while memchr::memmem::find(&self.held, b"\r\n\r\n").is_none() {
            self.fill().ok().filter(|&n| n > 0)?;
        }
        Some(self.read_head())
    }

    #[track_caller]
    pub(crate) fn read_exact(&mut self, bytes: usize) -> Vec<u8> {
        while self.held.len() < bytes {
            self.fill_for(&format!("byte {bytes}"));
        }
        self.take_first(bytes)
    }

    /// Copies the whole: `drain` without optimization goes byte by byte.
    fn take_first(&mut self, bytes: usize) -> Vec<u8> {
        let rest = self.held.split_off(bytes);
        std::mem::replace(&mut self.held, rest)
    }

    #[track_caller]
    pub(crate) fn read_text(&mut self, bytes: usize) -> String {
        String::from_utf8(self.read_exact(bytes)).expect("UTF-8")
    }

    /// Reads a chunked body: its content, and its trailer section's lines.
    #[track_caller]
    pub(crate) fn read_chunked(&mut self) -> (Vec<u8>, Vec<String>) {
        let mut content = Vec::new();
        loop {
            let line = self.read_line();
            let size = line.split(';').next().unwrap().trim();
            let size = usize::from_str_radix(size, 16)
                .unwrap_or_else(|_| panic!("a chunk size, not {line:?}"));
            if size == 0 {
                break;
            }
            content.append(&mut self.read_exact(size));
            assert_eq!(self.read_line(), "", "the end of a chunk");
        }
        let mut trailers = Vec::new();
        loop {
            match self.read_line() {
                line if line.is_empty() => return (content, trailers),
                line => trailers.push(line),
            }
        }
    }

    /// Reads a line, without its CRLF.
    #[track_caller]
    pub(crate) fn read_line(&mut self) -> String {
        let mut line = String::from_utf8(self.read_until(b"\r\n")).expect("a line in UTF-8");
        line.truncate(line.len() - 2);
        line
    }

    /// Reads a response to anything but HEAD, by its own framing. The caller reads interim responses.
    #[track_caller]
    pub(crate) fn read_response(&mut self) -> Response {
        let head = self.read_head();
        let mut response =
            Response { status: status(&head), head, content: Vec::new(), trailers: Vec::new() };
        if (100..200).contains(&response.status) || matches!(response.status, 204 | 304) {
            return response;
        }
        if response.field("transfer-encoding").is_some() {
            (response.content, response.trailers) = self.read_chunked();
        } else if let Some(length) = response.field("content-length") {
            let length = length.parse().expect("a length");
            response.content = self.read_exact(length);
        } else {
            response.content = self.read_to_end();
        }
        response
    }

    /// Reads until the other end closes.
    #[track_caller]
    pub(crate) fn read_to_end(&mut self) -> Vec<u8> {
        loop {
            match self.fill() {
                Ok(0) => return std::mem::take(&mut self.held),
                Ok(_) => {}
                Err(e) => panic!("{e} before the end; so far: {}", shown(&self.held)),
            }
        }
    }

    /// Reads until the other end closes or resets. Returns which of the two it was.
    #[track_caller]
    pub(crate) fn read_to_any_end(&mut self) -> (Vec<u8>, End) {
        loop {
            match self.fill() {
                Ok(0) => return (std::mem::take(&mut self.held), End::Closed),
                Ok(_) => {}
                Err(e) if is_gone(&e) => return (std::mem::take(&mut self.held), End::Reset),
                Err(e) => panic!("{e} before the end; so far: {}", shown(&self.held)),
            }
        }
    }

    /// Checks that the other end closes, and sends nothing more.
    #[track_caller]
    pub(crate) fn expect_eof(&mut self) {
        let rest = self.read_to_end();
        assert!(rest.is_empty(), "expected the end, got {}", shown(&rest));
    }

    /// Checks that the other end sends exactly this, and closes.
    #[track_caller]
    pub(crate) fn expect_text_and_eof(&mut self, text: &str) {
        assert_eq!(String::from_utf8_lossy(&self.read_to_end()), text);
    }

    /// Checks that the other end closes or resets, and sends nothing more.
    #[track_caller]
    pub(crate) fn expect_end(&mut self) {
        let (rest, _) = self.read_to_any_end();
        assert!(rest.is_empty(), "expected the end, got {}", shown(&rest));
    }

    #[track_caller]
    pub(crate) fn expect_reset(&mut self) {
        let (rest, end) = self.read_to_any_end();
        assert_eq!(end, End::Reset, "after {}", shown(&rest));
    }

    /// Whether something has come, or comes within `limit`: bytes, the end, or an error.
    pub(crate) fn has_something_within(&mut self, limit: Duration) -> bool {
        if !self.held.is_empty() {
            return true;
        }
        self.stream.set_read_timeout(Some(limit)).unwrap();
        let got = self.stream.peek(&mut [0]);
        self.stream.set_read_timeout(Some(STEP)).unwrap();
        !matches!(got, Err(e) if is_timeout(&e))
    }

    pub(crate) fn half_close(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("still open");
    }

    /// The same, if the other end may have reset the connection already.
    pub(crate) fn half_close_if_open(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Resets the connection instead of closing it.
    pub(crate) fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// How the other end ended a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    Closed,
    Reset,
}

/// A response as a client read it.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) content: Vec<u8>,
    pub(crate) trailers: Vec<String>,
}

impl Response {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }

    /// The rule that a refusal names, without its reason.
    #[track_caller]
    pub(crate) fn rule(&self) -> Option<&str> {
        let said = self.field("x-threadgate-reason")?;
        let (rule, reason) = said.rsplit_once("; ").expect("a rule and a reason");
        assert!(!reason.is_empty(), "{said}");
        Some(rule)
    }

    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.content).expect("UTF-8")
    }
}

/// The status code of a response head.
#[track_caller]
pub(crate) fn status(head: &str) -> u16 {
    let code = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    code.and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("a 1.1 response: {head:?}"))
}

/// The value of the one field line called `name`.
#[track_caller]
pub(crate) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let found = fields(head, name);
    assert!(found.len() < 2, "{name} once, not {found:?}");
    found.first().copied()
}

/// The values of all field lines called `name`, in order.
pub(crate) fn fields<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
}

/// The field lines of a head, in order, without their line ends.
pub(crate) fn field_lines(head: &str) -> Vec<&str> {
    head.split("\r\n").skip(1).filter(|line| !line.is_empty()).collect()
}

/// Whether a chunked body has its last chunk and the empty line behind its trailer section.
pub(crate) fn is_whole_chunked(body: &[u8]) -> bool {
    let mut rest = body;
    loop {
        let Some(end) = memchr::memmem::find(rest, b"\r\n") else { return false };
        let line = String::from_utf8_lossy(&rest[..end]);
        let Ok(size) = usize::from_str_radix(line.split(';').next().unwrap(), 16) else {
            return false;
        };
        rest = &rest[end..];
        if size == 0 {
            return memchr::memmem::find(rest, b"\r\n\r\n").is_some();
        }
        let Some(after) = rest.get(2 + size + 2..) else { return false };
        rest = after;
    }
}

/// Bytes for a person: at most the first 300.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let first = bytes.get(..300).unwrap_or(bytes);
    format!("{} bytes {:?}", bytes.len(), String::from_utf8_lossy(first))
}

/// `len` bytes that differ from their neighbours, so that a lost or repeated one is noticed: byte `i` is
/// `i * 31 ^ i >> 8 ^ i >> 16`.
///
/// They are copied in rows: an unoptimized loop over megabytes takes longer than the tests themselves.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    static ROWS: LazyLock<Vec<[u8; 256]>> = LazyLock::new(|| {
        (0..=255).map(|mask| std::array::from_fn(|i| i.wrapping_mul(31) as u8 ^ mask)).collect()
    });
    let mut bytes = Vec::with_capacity(len + 256);
    for row in 0..len.div_ceil(256) {
        bytes.extend_from_slice(&ROWS[(row ^ (row >> 8)) & 255]);
    }
    bytes.truncate(len);
    bytes
}

pub(crate) fn is_timeout(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

pub(crate) fn is_gone(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// Waits until `is` is true, at most [`STEP`].
#[track_caller]
pub(crate) fn eventually(mut is: impl FnMut() -> bool) {
    assert!(comes_true(STEP, &mut is), "not so within {STEP:?}");
}

/// Waits until two values are equal, at most [`STEP`], and shows them if they never are.
#[track_caller]
pub(crate) fn eventually_eq<T: PartialEq + std::fmt::Debug>(
    mut is: impl FnMut() -> T,
    expected: T,
) {
    comes_true(STEP, &mut || is() == expected);
    assert_eq!(is(), expected, "within {STEP:?}");
}

/// Whether `is` becomes true within `limit`. Looks often, because there is no event to wait for.
pub(crate) fn comes_true(limit: Duration, is: &mut impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while Instant::now() < end {
        if is() {
            return true;
        }
        thread::sleep(Duration::from_millis(2));
    }
    is()
}

/// A moment that one peer waits for and another brings about.
#[derive(Clone)]
pub(crate) struct Moment(Sender<()>, Receiver<()>);

impl Moment {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = bounded(64);
        Self(sender, receiver)
    }

    pub(crate) fn has_come(&self) {
        self.0.send(()).unwrap();
    }

    /// Whether the moment has come; then it has to come again.
    pub(crate) fn has_come_already(&self) -> bool {
        self.1.try_recv().is_ok()
    }

    #[track_caller]
    pub(crate) fn wait(&self) {
        self.1.recv_timeout(STEP).expect("the moment comes");
    }
}

#[test]
fn a_pattern_is_what_its_formula_says() {
    let byte = |i: usize| (i.wrapping_mul(31) ^ (i >> 8) ^ (i >> 16)) as u8;
    for len in [0, 1, 255, 256, 257, 200_000] {
        assert!(pattern(len) == (0..len).map(byte).collect::<Vec<_>>(), "{len}");
    }
}
