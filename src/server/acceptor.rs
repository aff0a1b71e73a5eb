//! Accepts connections: first a permit, then `accept`, then the ready queue.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::net::dial::is_shortage;
use crate::net::listener::Listener;
use crate::net::permits::{Permit, Permits};
use crate::net::poll::Wake;
use crate::net::stream::Stream;
use crate::observe::counters::Refused;
use crate::observe::stats::Counters;
use crate::policy::protected_mode::Scope;
use crate::proxy::admin;
use crate::proxy::asker::Asker;
use crate::proxy::front::Front;
use crate::proxy::seat::Seat;
use crate::proxy::session::Session;

use super::anteroom::{Anteroom, Arrived};
use super::batch::Batch;
use super::message::Message;
use super::parking::{Job, Slot};
use super::worker_pool::WorkerPool;

/// How long to wait for a descriptor to come free before trying again.
const BACK_OFF: Duration = Duration::from_millis(100);
/// How often those in the anteroom are looked at while they wait.
const LOOK: Duration = Duration::from_millis(5);

/// One listener and what its connections need.
pub struct Acceptor {
    /// The listener.
    pub listener: Arc<Listener>,
    /// What its clients may do.
    pub scope: Scope,
    /// Its number among those of its kind.
    pub number: u16,
    /// Whose workers serve.
    pub pool: Arc<WorkerPool>,
    /// Places for connections, shared by all listeners.
    pub permits: Arc<Permits>,
    /// Set before the listener is shut down.
    pub stopping: Arc<AtomicBool>,
    /// What its clients find.
    pub front: Front,
    /// Requests have to name this machine.
    pub names_us: bool,
}

/// Stands for the address of a client that has none: it came by a unix socket.
const NO_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

impl Acceptor {
    /// Accepts until the listener is shut down.
    pub fn run(&self) {
        let _batch = Batch::enter();
        let mut full = Trouble::default();
        let mut short = Trouble::default();
        let head = self.pool.ctx.timeouts.head.min(admin::HEAD_TIME);
        let mut anteroom = Anteroom::new(head, self.pool.ctx.limits);
        while !self.stopping.load(Ordering::SeqCst) {
            let permit = match self.permits.try_take() {
                Some(permit) => permit,
                None => {
                    self.count(|c| c.accepts_refused_no_permit += 1);
                    full.begins(|| match self.front.is_admin() {
                        false => log::warn!(
                            "all connections of --max-connections are in use: new ones wait"
                        ),
                        true => log::warn!(
                            "all connections of the admin listener are in use: new ones wait"
                        ),
                    });
                    let permit = match self.front.is_admin() {
                        false => self.permits.take(),
                        true => self.wait_in(&mut anteroom, &mut short),
                    };
                    match permit {
                        Some(permit) => permit,
                        None => return,
                    }
                }
            };
            full.may_end(self.permits.left() > 0, || match self.front.is_admin() {
                false => log::info!("connections are free again"),
                true => log::info!("connections of the admin listener are free again"),
            });
            match self.listener.accept() {
                Ok((socket, address)) => {
                    short.may_end(true, || log::info!("connections are accepted again"));
                    let waiting = arrived(socket, address);
                    match self.front.is_admin() {
                        false => self.serve(waiting, permit),
                        true => self.seat(waiting, permit, &mut anteroom),
                    }
                }
                Err(e) => {
                    if self.failed(&e, permit, &mut short) {
                        return;
                    }
                }
            }
        }
    }

    /// While all places are taken: accepts without one, and gives each that comes free to who waits for it.
    /// Answers the first that nobody waits for; `None` at the end.
    fn wait_in(&self, anteroom: &mut Anteroom, short: &mut Trouble) -> Option<Permit> {
        while !self.stopping.load(Ordering::SeqCst) {
            if let Some(permit) = self.permits.try_take() {
                match anteroom.leave_for_a_place() {
                    Some(waiting) => self.seat(waiting, permit, anteroom),
                    None => return Some(permit),
                }
                continue;
            }
            anteroom.make_way(Instant::now());
            if anteroom.is_empty() {
                // Whoever comes is the first to want a place.
                if !self.listener.wait(LOOK) {
                    continue;
                }
            } else if anteroom.is_full() || !self.listener.wait(LOOK) {
                self.permits.wait_for_return(LOOK);
                continue;
            }
            match self.listener.accept() {
                Ok((socket, address)) => anteroom.enter(arrived(socket, address)),
                Err(_) if self.stopping.load(Ordering::SeqCst) => return None,
                Err(e) => {
                    log::debug!("accept: {e}");
                    if is_shortage(&e) {
                        short.begins(|| say_short(&e));
                        self.permits.wait_for_return(BACK_OFF);
                    }
                }
            }
        }
        None
    }

    /// One of the proxy's own clients gets a session, unless it has too many.
    fn serve(&self, waiting: Arrived, permit: Permit) {
        self.pool.stats.other().count(|c| c.connections_accepted += 1);
        // Not kept: the next connection may be hours away, and long lists must go when
        // others take their place.
        let policy = self.pool.ctx.policy.get();
        let limits = policy.limits(self.number).filter(|l| l.connections.is_some());
        let ip = waiting.address.ip();
        let entered = limits.map(|limits| self.pool.ctx.shaper.enter(ip, limits, Instant::now()));
        if let Some(None) = entered {
            // As many as are let in are told that they are too many; not these.
            self.count(|c| {
                c.connections_closed += 1;
                c.count_limited(Refused::Connections);
            });
            return;
        }
        let deadline = waiting.since + self.pool.ctx.timeouts.head;
        let (mut session, slot) = self.session(waiting, permit, deadline);
        if let Some(Some(line)) = entered {
            session = session.on_line(line);
        }
        self.pool.ready.push(Message::Ready(Job { session: Box::new(session), slot }));
    }

    /// A connection of the admin listener gets a session, which may have to leave for another.
    fn seat(&self, waiting: Arrived, permit: Permit, anteroom: &mut Anteroom) {
        self.pool.stats.other().count(|c| c.admin_connections_accepted += 1);
        let now = Instant::now();
        let (ip, seat) = (waiting.address.ip(), Arc::<Seat>::default());
        // It could not be served before it had a place.
        let (session, slot) = self.session(waiting, permit, now + anteroom.head_time());
        let waker = Arc::clone(&slot) as Arc<dyn Wake>;
        anteroom.seat(Arc::clone(&seat), waker, ip, now);
        let session = Box::new(session.on_seat(seat));
        self.pool.ready.push(Message::Ready(Job { session, slot }));
    }

    fn session(&self, waiting: Arrived, permit: Permit, deadline: Instant) -> (Session, Arc<Slot>) {
        let slot = Slot::new(Arc::clone(&self.pool.ready));
        let waker = Arc::clone(&slot) as Arc<dyn Wake>;
        let asker = Asker {
            address: waiting.address,
            listener: self.number,
            scope: self.scope,
            front: self.front,
            names_us: self.names_us,
        };
        (Session::new(waiting.stream, asker, waker, permit, deadline), slot)
    }

    /// `accept` failed. Answers whether that is the end.
    fn failed(&self, e: &io::Error, permit: Permit, short: &mut Trouble) -> bool {
        if self.stopping.load(Ordering::SeqCst) {
            return true;
        }
        self.count(|c| c.accept_failures += 1);
        if is_shortage(e) {
            drop(permit);
            short.begins(|| say_short(e));
            if self.pool.ctx.free_descriptors() == 0 {
                self.permits.wait_for_return(BACK_OFF);
            }
        } else {
            // The client gave up while it was in the backlog, or the network did.
            log::debug!("accept: {e}");
        }
        false
    }
}

fn say_short(e: &io::Error) {
    log::warn!("cannot accept connections: {e}: trying again until it goes");
}

/// A connection just accepted. IPv4 on a listener for both is written as IPv4 everywhere.
fn arrived(socket: Socket, address: Option<SocketAddr>) -> Arrived {
    let address = address
        .map_or(NO_ADDRESS, |address| SocketAddr::new(address.ip().to_canonical(), address.port()));
    Arrived { stream: Stream::accepted(socket), address, since: Instant::now() }
}

impl Acceptor {
    /// Counts what is counted of the proxy's listeners only.
    fn count(&self, f: impl FnOnce(&mut Counters)) {
        if !self.front.is_admin() {
            self.pool.stats.other().count(f);
        }
    }
}

/// How long all must have been well before it is said to be. Who is at a limit goes over it and
/// back with each connection that ends.
const CALM: Duration = Duration::from_secs(10);

/// Something to be said once when it begins and once when it ends.
#[derive(Default)]
struct Trouble {
    /// When it was met last, from its beginning to its end.
    met: Option<Instant>,
}

impl Trouble {
    fn begins(&mut self, say: impl FnOnce()) {
        if self.met.replace(Instant::now()).is_none() {
            say();
        }
    }

    fn may_end(&mut self, ended: bool, say: impl FnOnce()) {
        if ended && self.met.is_some_and(|met| met.elapsed() >= CALM) {
            self.met = None;
            say();
        }
    }
}
