//! Plays the peers, all on one thread, so that the order of their actions is known.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use threadgate::net::resolve::Resolve;
use threadgate::proxy::Timeouts;
use threadgate::server::Via;
use threadgate::wire::head::{HeadLimits, find_end};
use threadgate::{Options, Server};

use crate::script::{Script, Scripts, Step};

/// How long nothing may move before waiting peers go on.
const STALL: Duration = Duration::from_millis(3);
/// Limit on the length of a pause.
const PAUSE: Duration = Duration::from_millis(1);
/// Nothing takes longer than this, unless the proxy has forgotten a peer.
const FORGOTTEN: Duration = Duration::from_secs(8);

const NAME: &str = "b.test";

/// The proxy, and where origin servers listen.
pub struct World {
    proxy: Server,
    origins: [TcpListener; 2],
    authorities: [String; 3],
}

/// Resolves one name and no other, so that nothing leaves the machine.
#[derive(Debug)]
struct OneName;

impl Resolve for OneName {
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        if host == NAME {
            Ok(vec![Ipv4Addr::LOCALHOST.into()])
        } else {
            Err(ErrorKind::NotFound.into())
        }
    }
}

impl World {
    pub fn start() -> Self {
        // Never reached; see the target's documentation.
        let long = Duration::from_secs(60);
        let timeouts =
            Timeouts { head: long, idle: long, connect: long, response: long, tunnel: long };
        let threads = std::env::var("THREADGATE_TEST_THREADS").unwrap_or_else(|_| "1".into());
        let threads: NonZeroUsize = threads.parse().expect("a number of threads");
        let proxy = Server::start(Options {
            threads: Some(threads),
            timeouts,
            via: Via::Off,
            resolver: Arc::new(OneName),
            ..Options::default()
        });
        let proxy = proxy.expect("the proxy starts");
        let origins = [(); 2].map(|()| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
            listener.set_nonblocking(true).expect("a listener");
            listener
        });
        let [a, b] = [0, 1].map(|i: usize| origins[i].local_addr().expect("an address"));
        let authorities = [a.to_string(), format!("{NAME}:{}", b.port()), proxy.addr().to_string()];
        Self { proxy, origins, authorities }
    }

    pub fn authorities(&self) -> [String; 3] {
        self.authorities.clone()
    }
}

/// How one direction of a connection ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    Open,
    Ended,
    Reset,
    /// By leaving: an end, or a reset if there were bytes left to hear.
    Left,
}

impl Ending {
    /// Whether bytes said before this end may not have arrived.
    pub fn may_lose(self) -> bool {
        matches!(self, Self::Reset | Self::Left)
    }
}

/// A peer's connection, and everything that happened on it.
pub struct Peer {
    stream: Option<TcpStream>,
    script: Script,
    /// The proxy's turns when a pause began.
    pause: Option<(u64, Instant)>,
    /// Bytes, or heads, that an `Await` has already seen.
    seen: usize,
    scanned: usize,
    pub said: Vec<u8>,
    /// How many bytes were said when, in ticks of the play.
    pub said_at: Vec<(usize, u64)>,
    pub heard: Vec<u8>,
    /// How many bytes were heard when.
    heard_at: Vec<(usize, u64)>,
    /// How the peer ended its direction, and when.
    pub ended: (Ending, u64),
    /// How the proxy ended its direction.
    pub proxy_ended: Ending,
}

impl Peer {
    fn new(stream: TcpStream, script: Script) -> Self {
        stream.set_nonblocking(true).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        Self {
            stream: Some(stream),
            script,
            pause: None,
            seen: 0,
            scanned: 0,
            said: Vec::new(),
            said_at: Vec::new(),
            heard: Vec::new(),
            heard_at: Vec::new(),
            ended: (Ending::Open, 0),
            proxy_ended: Ending::Open,
        }
    }

    /// Bytes said before `tick`.
    pub fn said_before(&self, tick: u64) -> usize {
        self.said_at.iter().take_while(|(_, at)| *at < tick).last().map_or(0, |(bytes, _)| *bytes)
    }

    /// When the byte before `offset` was said.
    pub fn tick_of(&self, offset: usize) -> u64 {
        self.said_at.iter().find(|(bytes, _)| *bytes >= offset).map_or(u64::MAX, |(_, tick)| *tick)
    }

    /// When the byte at `offset` was heard, if it was. The tick comes after everything said until then.
    pub fn heard_tick(&self, offset: usize) -> Option<u64> {
        self.heard_at.iter().find(|(bytes, _)| *bytes > offset).map(|(_, tick)| *tick)
    }

    fn is_over(&self) -> bool {
        self.stream.is_none() || self.proxy_ended != Ending::Open
    }

    fn hear(&mut self, tick: u64) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        let mut moved = false;
        let mut bytes = [0; 16 * 1024];
        while self.proxy_ended == Ending::Open {
            match stream.read(&mut bytes) {
                Ok(0) => self.proxy_ended = Ending::Ended,
                Ok(count) => {
                    self.heard.extend_from_slice(&bytes[..count]);
                    self.heard_at.push((self.heard.len(), tick));
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(_) => self.proxy_ended = Ending::Reset,
            }
            moved = true;
        }
        moved
    }

    /// Takes the steps that are possible.
    fn act(&mut self, play: &mut Play<'_>, is_client: bool) -> bool {
        let mut moved = false;
        loop {
            let Some(stream) = &mut self.stream else { return moved };
            if self.ended.0 != Ending::Open {
                return moved;
            }
            if let Some((turns, since)) = self.pause {
                if play.turns() == turns && since.elapsed() < PAUSE {
                    return moved;
                }
                self.pause = None;
            }
            match self.script.front_mut() {
                Some(Step::Say(bytes)) => match stream.write(bytes) {
                    Ok(count) => {
                        self.said.extend(bytes.drain(..count));
                        self.said_at.push((self.said.len(), play.tick()));
                        if !bytes.is_empty() {
                            continue;
                        }
                    }
                    Err(e) if e.kind() == ErrorKind::WouldBlock => return moved,
                    // The proxy is gone; `hear` finds out how.
                    Err(_) => self.script.clear(),
                },
                Some(Step::Pause) => self.pause = Some((play.turns(), Instant::now())),
                Some(Step::Await) => {
                    if !self.has_come(is_client)
                        && !play.stalled
                        && self.proxy_ended == Ending::Open
                    {
                        return moved;
                    }
                }
                Some(Step::Reset) => {
                    let zero = Some(Duration::ZERO);
                    rustix::net::sockopt::set_socket_linger(&*stream, zero).expect("a socket");
                    self.leave(Ending::Reset, play.tick());
                }
                Some(Step::Close) => self.leave(Ending::Left, play.tick()),
                None => {
                    // The proxy may already be gone.
                    let _ = stream.shutdown(Shutdown::Write);
                    self.ended = (Ending::Ended, play.tick());
                }
            }
            self.script.pop_front();
            moved = true;
        }
    }

    fn leave(&mut self, how: Ending, tick: u64) {
        self.stream = None;
        self.ended = (how, tick);
    }

    fn has_come(&mut self, is_client: bool) -> bool {
        if is_client {
            let before = std::mem::replace(&mut self.seen, self.heard.len());
            return self.heard.len() > before;
        }
        let rest = self.heard.get(self.seen..).unwrap_or_default();
        match find_end(rest, &mut self.scanned, &HeadLimits::default()) {
            Ok(Some(length)) => {
                self.seen += length;
                self.scanned = 0;
                true
            }
            Ok(None) => false,
            // Content, or a tunnel: any new byte will do.
            Err(_) => {
                let before = std::mem::replace(&mut self.seen, self.heard.len());
                self.scanned = 0;
                self.heard.len() > before
            }
        }
    }
}

/// The record of a play.
pub struct Record {
    pub client: Peer,
    /// Upstream connections in the order of acceptance, each with the number of its origin server.
    pub upstream: Vec<(usize, Peer)>,
    pub authorities: [String; 3],
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut peer = |name: &str, peer: &Peer| {
            writeln!(f, "{name} said {:?}\n    {}", peer.ended.0, peer.said.escape_ascii())?;
            writeln!(f, "{name} heard {:?}\n    {}", peer.proxy_ended, peer.heard.escape_ascii())
        };
        peer("client", &self.client)?;
        for (origin, upstream) in &self.upstream {
            peer(["origin A", "origin B"][*origin], upstream)?;
        }
        Ok(())
    }
}

/// A running play.
struct Play<'w> {
    world: &'w World,
    tick: u64,
    stalled: bool,
}

impl Play<'_> {
    fn tick(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    fn turns(&self) -> u64 {
        self.world.proxy.stats().turns
    }
}

/// Plays the scripts to their end.
pub fn play(world: &World, scripts: Scripts) -> Record {
    let before = world.proxy.stats();
    let stream = TcpStream::connect(world.proxy.addr()).expect("the proxy accepts");
    let mut record = Record {
        client: Peer::new(stream, scripts.client),
        upstream: Vec::new(),
        authorities: world.authorities(),
    };
    let mut play = Play { world, tick: 0, stalled: false };
    let mut moved_at = Instant::now();
    loop {
        let mut moved = accept(&mut record, &scripts.upstream, world);
        moved |= record.client.hear(play.tick);
        moved |= record.client.act(&mut play, true);
        for (_, upstream) in &mut record.upstream {
            moved |= upstream.hear(play.tick);
            moved |= upstream.act(&mut play, false);
        }
        if record.client.is_over() {
            break;
        }
        play.stalled = false;
        if moved {
            moved_at = Instant::now();
            continue;
        }
        assert!(moved_at.elapsed() < FORGOTTEN, "the client was forgotten\n{record}");
        play.stalled = moved_at.elapsed() > STALL;
        wait(&record);
    }
    end(&mut record, &mut play, &scripts.upstream, before.connections_accepted);

    let now = world.proxy.stats();
    assert_eq!(now.panics, 0);
    assert_eq!(now.connections_accepted, before.connections_accepted + 1, "a loop\n{record}");
    record
}

/// Asserts that nothing is left after the client has gone.
fn end(record: &mut Record, play: &mut Play<'_>, scripts: &[Script], accepted: u64) {
    record.client.hear(play.tick);
    record.client.stream = None;
    let begun = Instant::now();
    loop {
        accept(record, scripts, play.world);
        for (_, upstream) in &mut record.upstream {
            if upstream.ended.0 == Ending::Open {
                upstream.script.clear();
                upstream.act(play, false);
            }
            upstream.hear(play.tick);
        }
        let stats = play.world.proxy.stats();
        // A client that left at once is nevertheless accepted.
        let over = stats.connections_accepted > accepted
            && stats.connections_closed == stats.connections_accepted
            && stats.exchanges_begun == stats.exchanges_finished
            && stats.tunnels_opened == stats.tunnels_closed;
        if over && record.upstream.iter().all(|(_, u)| u.is_over()) {
            // Connections that the proxy closed before they were accepted here.
            if !accept(record, scripts, play.world) {
                return;
            }
            continue;
        }
        assert!(begun.elapsed() < FORGOTTEN, "something is left open: {stats:?}\n{record}");
        wait(record);
    }
}

fn accept(record: &mut Record, scripts: &[Script], world: &World) -> bool {
    let mut accepted = false;
    for (origin, listener) in world.origins.iter().enumerate() {
        while let Ok((stream, _)) = listener.accept() {
            let script = scripts.get(record.upstream.len()).or(scripts.last());
            record.upstream.push((origin, Peer::new(stream, script.cloned().unwrap_or_default())));
            accepted = true;
        }
    }
    accepted
}

/// Waits a moment for an event on any socket.
fn wait(record: &Record) {
    let peers = record.upstream.iter().map(|(_, peer)| peer).chain([&record.client]);
    let open = peers.filter(|peer| peer.proxy_ended == Ending::Open);
    let streams = open.filter_map(|peer| peer.stream.as_ref());
    let mut fds: Vec<_> = streams.map(|stream| PollFd::new(stream, PollFlags::IN)).collect();
    let moment = Timespec { tv_sec: 0, tv_nsec: 100_000 };
    // The answer does not matter, because the sockets are looked at next.
    let _ = poll(&mut fds, Some(&moment));
}
