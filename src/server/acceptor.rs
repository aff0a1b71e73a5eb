//! Accepts connections: first a permit, then `accept`, then the ready queue.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::error::RefusedBy;
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
/// How often the connections in the anteroom are checked while they wait.
const LOOK: Duration = Duration::from_millis(5);

/// One listener, with all that its connections need.
pub struct Acceptor {
    /// The listener.
    pub listener: Arc<Listener>,
    /// What the listener allows.
    pub scope: Scope,
    /// Its number among the listeners of its kind.
    pub number: u16,
    /// The workers that serve its connections.
    pub pool: Arc<WorkerPool>,
    /// Places for connections; all listeners of the proxy share them.
    pub permits: Arc<Permits>,
    /// Set before the listener is shut down.
    pub stopping: Arc<AtomicBool>,
    /// The front of its connections.
    pub front: Front,
    /// Requests must name this machine.
    pub names_us: bool,
}

/// Stands for the address of a client without one, which came by a unix socket.
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

    /// While all places are taken: accepts connections without a place, and gives each free place to one
    /// that waits. Returns the first place for which none waits; `None` at the end.
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
                // The next connection is the first to want a place.
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

    /// Gives a session to a client of the proxy, unless it has too many connections.
    fn serve(&self, waiting: Arrived, permit: Permit) {
        self.pool.stats.other().count(|c| c.connections_accepted += 1);
        // The policy is not kept: the next connection may be hours away, and long lists must be freed
        // when others take their place.
        let policy = self.pool.ctx.policy.get();
        let limits = policy.limits(self.number).filter(|l| l.connections.is_some());
        let ip = waiting.address.ip();
        let entered = limits.map(|limits| self.pool.ctx.shaper.enter(ip, limits, Instant::now()));
        if let Some(None) = entered {
            // The limit lets some connections in to be told that they are too many. This one is beyond
            // those.
            self.count(|c| {
                c.connections_closed += 1;
                c.count_limited(Refused::Connections);
                c.count_refused(RefusedBy::Limit);
            });
            if let Some(connections) = limits.and_then(|limits| limits.connections) {
                policy.origins.hit(connections.id);
            }
            return;
        }
        let deadline = waiting.since + self.pool.ctx.timeouts.head;
        let (mut session, slot) = self.session(waiting, permit, deadline);
        if let Some(Some(line)) = entered {
            session = session.on_line(line);
        }
        self.pool.ready.push(Message::Ready(Job { session: Box::new(session), slot }));
    }

    /// Gives a session to a connection of the admin listener. It may have to leave for another.
    fn seat(&self, waiting: Arrived, permit: Permit, anteroom: &mut Anteroom) {
        self.pool.stats.other().count(|c| c.admin_connections_accepted += 1);
        let now = Instant::now();
        let (ip, seat) = (waiting.address.ip(), Arc::<Seat>::default());
        // The time counts from here, because the connection could not be served before it had a place.
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

    /// Handles a failure of `accept`. Returns whether that is the end.
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
    log::warn!("cannot accept connections: {e}; trying again until it works");
}

/// Describes a connection just accepted. An IPv4-mapped address becomes plain IPv4, as everywhere.
fn arrived(socket: Socket, address: Option<SocketAddr>) -> Arrived {
    let address = address
        .map_or(NO_ADDRESS, |address| SocketAddr::new(address.ip().to_canonical(), address.port()));
    Arrived { stream: Stream::accepted(socket), address, since: Instant::now() }
}

impl Acceptor {
    /// Counts, but only for the proxy's own listeners.
    fn count(&self, f: impl FnOnce(&mut Counters)) {
        if !self.front.is_admin() {
            self.pool.stats.other().count(f);
        }
    }
}

/// How long a shortage must be over before its end is logged. A proxy at a limit crosses it with each
/// connection that ends.
const CALM: Duration = Duration::from_secs(10);

/// A shortage to log once when it begins and once when it ends.
#[derive(Default)]
struct Trouble {
    /// When it was last met, from its beginning to its end.
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
