//! The origin server and the echo server of the benchmarks, on one thread.
//!
//! | request-target | response |
//! |---|---|
//! | `/N` | `N` bytes of the pattern with Content-Length |
//! | `/from/K/N` | the same from position `K` of the pattern |
//! | `/chunked/N` | the same in chunks |
//! | `/slow/MS/N` | `/N` after `MS` milliseconds |
//!
//! Persistent connections, one request at a time: no request content, no pipelining. Anything else
//! gets 400 and a close.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use socket2::{Domain, Socket, Type};

use crate::pattern;

const MAX_HEAD: usize = 16 * 1024;
const CHUNK: u64 = 16 * 1024;
const HTTP: u64 = u64::MAX;
const ECHO: u64 = u64::MAX - 1;

/// The present work of a connection.
#[derive(Debug)]
enum Doing {
    ReadingHead,
    Thinking(Response),
    Responding(Response),
    Echoing,
}

#[derive(Clone, Copy, Debug)]
struct Response {
    at: u64,
    end: u64,
    chunked: bool,
    persistent: bool,
    delay: Duration,
}

#[derive(Debug)]
struct Conn {
    stream: TcpStream,
    doing: Doing,
    /// A request head that is not complete yet.
    head: Vec<u8>,
    /// Bytes that go out before any content; `sent <= out.len()`.
    out: Vec<u8>,
    sent: usize,
    interest: epoll::EventFlags,
}

/// The end of a connection. An origin server does not care whether it was wanted.
struct Over;

struct Server {
    epoll: rustix::fd::OwnedFd,
    conns: Vec<Option<Conn>>,
    free: Vec<usize>,
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    buffer: Vec<u8>,
}

/// Serves until the process ends; `started` gets the two addresses.
pub(crate) fn serve(
    http: SocketAddr,
    echo: SocketAddr,
    started: impl FnOnce(SocketAddr, SocketAddr) -> io::Result<()>,
) -> io::Result<()> {
    let (http, echo) = (listen(http)?, listen(echo)?);
    started(http.local_addr()?, echo.local_addr()?)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (listener, data) in [(&http, HTTP), (&echo, ECHO)] {
        epoll::add(&epoll, listener, epoll::EventData::new_u64(data), epoll::EventFlags::IN)?;
    }
    let mut server = Server {
        epoll,
        conns: Vec::new(),
        free: Vec::new(),
        timers: BinaryHeap::new(),
        buffer: vec![0; pattern::MAX_RUN],
    };
    let mut events: Vec<epoll::Event> = Vec::with_capacity(256);
    loop {
        let wait = server.next_timer()?;
        match epoll::wait(&server.epoll, spare_capacity(&mut events), wait.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        for event in events.drain(..) {
            match event.data.u64() {
                HTTP => server.accept(&http, || Doing::ReadingHead)?,
                ECHO => server.accept(&echo, || Doing::Echoing)?,
                slot => server.step(slot as usize),
            }
        }
        server.on_timers();
    }
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Accepted sockets inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&addr.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

impl Server {
    fn next_timer(&self) -> io::Result<Option<Timespec>> {
        let Some(Reverse((at, _))) = self.timers.peek() else { return Ok(None) };
        let wait = at.saturating_duration_since(Instant::now());
        Ok(Some(wait.try_into().map_err(io::Error::other)?))
    }

    fn accept(&mut self, listener: &TcpListener, doing: fn() -> Doing) -> io::Result<()> {
        loop {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::ConnectionAborted => continue,
                Err(e) => return Err(e),
            };
            stream.set_nonblocking(true)?;
            let slot = self.free.pop().unwrap_or_else(|| {
                self.conns.push(None);
                self.conns.len() - 1
            });
            let interest = epoll::EventFlags::IN;
            epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(slot as u64), interest)?;
            let (head, out) = (Vec::new(), Vec::new());
            let conn = Conn { stream, doing: doing(), head, out, sent: 0, interest };
            self.conns[slot] = Some(conn);
        }
    }

    fn on_timers(&mut self) {
        let now = Instant::now();
        while self.timers.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((_, slot))) = self.timers.pop() else { return };
            let Some(conn) = &mut self.conns[slot] else { continue };
            if let Doing::Thinking(response) = conn.doing {
                conn.respond(response);
                self.step(slot);
            }
        }
    }

    fn step(&mut self, slot: usize) {
        let Some(conn) = &mut self.conns[slot] else { return };
        let went = match conn.doing {
            Doing::ReadingHead => conn.read_head(&mut self.buffer),
            Doing::Thinking(_) => conn.watch(&mut self.buffer),
            Doing::Responding(_) => conn.send(),
            Doing::Echoing => conn.echo(&mut self.buffer),
        };
        if let (Ok(()), Doing::Thinking(response)) = (&went, &conn.doing)
            && !response.delay.is_zero()
        {
            self.timers.push(Reverse((Instant::now() + response.delay, slot)));
        }
        let wanted = conn.wanted();
        if went.is_ok() && wanted != conn.interest {
            conn.interest = wanted;
            let data = epoll::EventData::new_u64(slot as u64);
            if epoll::modify(&self.epoll, &conn.stream, data, wanted).is_ok() {
                return;
            }
        } else if went.is_ok() {
            return;
        }
        self.conns[slot] = None;
        self.free.push(slot);
    }
}

impl Conn {
    fn wanted(&self) -> epoll::EventFlags {
        match self.doing {
            Doing::Responding(_) => epoll::EventFlags::OUT,
            Doing::Echoing if self.sent < self.out.len() => epoll::EventFlags::OUT,
            _ => epoll::EventFlags::IN,
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Over> {
        match (&self.stream).read(buffer) {
            Ok(received) => Ok(Some(received)),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                Ok(None)
            }
            Err(_) => Err(Over),
        }
    }

    /// Ends a connection whose client sends or leaves before its response is ready.
    fn watch(&mut self, buffer: &mut [u8]) -> Result<(), Over> {
        if self.receive(buffer)?.is_some() { Err(Over) } else { Ok(()) }
    }

    fn read_head(&mut self, buffer: &mut [u8]) -> Result<(), Over> {
        let Some(received) = self.receive(buffer)? else { return Ok(()) };
        if received == 0 || self.head.len() + received > MAX_HEAD {
            return Err(Over);
        }
        self.head.extend_from_slice(&buffer[..received]);
        if !self.head.ends_with(b"\r\n\r\n") {
            return Ok(());
        }
        let head = std::mem::take(&mut self.head);
        match Response::to(&head) {
            Some(response) if response.delay.is_zero() => self.respond(response),
            Some(response) => {
                self.doing = Doing::Thinking(response);
                return Ok(());
            }
            None => {
                self.out =
                    b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                        .to_vec();
                let (chunked, persistent, delay) = (false, false, Duration::ZERO);
                self.doing =
                    Doing::Responding(Response { at: 0, end: 0, chunked, persistent, delay });
            }
        }
        self.send()
    }

    fn respond(&mut self, response: Response) {
        let framing = match response.chunked {
            true => "Transfer-Encoding: chunked".to_owned(),
            false => format!("Content-Length: {}", response.end - response.at),
        };
        let close = if response.persistent { "" } else { "Connection: close\r\n" };
        self.out =
            format!("HTTP/1.1 200 OK\r\nServer: load\r\n{framing}\r\n{close}\r\n").into_bytes();
        self.sent = 0;
        self.doing = Doing::Responding(response);
    }

    /// Sends until the kernel takes no more, or for one turn. The first content goes out with the head.
    fn send(&mut self) -> Result<(), Over> {
        let Doing::Responding(response) = &mut self.doing else { return Ok(()) };
        let mut turn = 0;
        loop {
            if self.out.len() - self.sent < 1024 && response.at < response.end {
                self.out.drain(..self.sent);
                self.sent = 0;
                response.add_content(&mut self.out);
            }
            if self.sent == self.out.len() {
                break;
            }
            // A bulk flow must not delay an echo, because this server's latency is in every number.
            if turn >= pattern::MAX_RUN {
                return Ok(());
            }
            match (&self.stream).write(&self.out[self.sent..]) {
                Ok(sent) => {
                    self.sent += sent;
                    turn += sent;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Over),
            }
        }
        let persistent = response.persistent;
        self.out.clear();
        self.sent = 0;
        self.doing = Doing::ReadingHead;
        if persistent { Ok(()) } else { Err(Over) }
    }

    fn echo(&mut self, buffer: &mut [u8]) -> Result<(), Over> {
        if self.sent == self.out.len() {
            let Some(received) = self.receive(buffer)? else { return Ok(()) };
            if received == 0 {
                // Nothing is held back, so both directions are over.
                let _ = self.stream.shutdown(Shutdown::Write);
                return Err(Over);
            }
            self.out.clear();
            self.out.extend_from_slice(&buffer[..received]);
            self.sent = 0;
        }
        match (&self.stream).write(&self.out[self.sent..]) {
            Ok(sent) => self.sent += sent,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return Err(Over),
        }
        Ok(())
    }
}

impl Response {
    /// The response to a request head; `None` if this server does not know the request.
    fn to(head: &[u8]) -> Option<Self> {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut fields);
        let Ok(httparse::Status::Complete(used)) = request.parse(head) else { return None };
        if used != head.len() || request.method != Some("GET") {
            return None;
        }
        let mut persistent = request.version == Some(1);
        for field in request.headers.iter() {
            let name = field.name.to_ascii_lowercase();
            match name.as_str() {
                "content-length" | "transfer-encoding" => return None,
                "connection" if field.value.eq_ignore_ascii_case(b"close") => persistent = false,
                _ => {}
            }
        }
        // HAProxy passes the absolute form on.
        let target = request.path?;
        let path = match target.strip_prefix("http://") {
            Some(rest) => &rest[rest.find('/')?..],
            None => target,
        };
        let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        let mut response =
            Self { at: 0, end: 0, chunked: false, persistent, delay: Duration::ZERO };
        let bytes: u64 = match parts.as_slice() {
            ["chunked", bytes] => {
                response.chunked = true;
                bytes.parse().ok()?
            }
            ["slow", millis, bytes] => {
                response.delay = Duration::from_millis(millis.parse().ok()?);
                bytes.parse().ok()?
            }
            ["from", from, bytes] => {
                response.at = from.parse().ok()?;
                bytes.parse().ok()?
            }
            [bytes] => bytes.parse().ok()?,
            _ => return None,
        };
        response.end = response.at.checked_add(bytes)?;
        Some(response)
    }

    fn add_content(&mut self, out: &mut Vec<u8>) {
        let limit = if self.chunked { CHUNK } else { pattern::MAX_RUN as u64 };
        let content = pattern::at(self.at, limit.min(self.end - self.at) as usize);
        self.at += content.len() as u64;
        if !self.chunked {
            out.extend_from_slice(content);
            return;
        }
        out.extend_from_slice(format!("{:x}\r\n", content.len()).as_bytes());
        out.extend_from_slice(content);
        out.extend_from_slice(b"\r\n");
        if self.at == self.end {
            out.extend_from_slice(b"0\r\n\r\n");
        }
    }
}
