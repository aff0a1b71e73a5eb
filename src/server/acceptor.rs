//! Taking connections in: a permit first, then `accept`, then the ready queue.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::net::dial::is_shortage;
use crate::net::listener::Listener;
use crate::net::permits::Permits;
use crate::net::poll::Wake;
use crate::net::stream::Stream;
use crate::observe::counters::Refused;
use crate::observe::stats::Counters;
use crate::policy::guard::Scope;
use crate::proxy::admin;
use crate::proxy::request::{Asker, Service};
use crate::proxy::session::Session;

use super::batch::Batch;
use super::parking::{Job, Slot};
use super::ready::Message;
use super::workers::Pool;

/// How long to wait for a descriptor to come free before trying again.
const BACK_OFF: Duration = Duration::from_millis(100);

/// One listener and what its connections need.
pub struct Acceptor {
    /// The listener.
    pub listener: Arc<Listener>,
    /// What its clients may do.
    pub scope: Scope,
    /// Its number among those of its kind.
    pub number: u16,
    /// Whose workers serve.
    pub pool: Arc<Pool>,
    /// Places for connections, shared by all listeners.
    pub permits: Arc<Permits>,
    /// Set before the listener is shut down.
    pub stopping: Arc<AtomicBool>,
    /// What its clients find.
    pub service: Service,
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
        while !self.stopping.load(Ordering::SeqCst) {
            let permit = match self.permits.try_take() {
                Some(permit) => permit,
                None => {
                    self.count(|c| c.accepts_refused_no_permit += 1);
                    full.begins(|| match self.service {
                        Service::Proxy => log::warn!(
                            "all connections of --max-connections are in use: new ones wait"
                        ),
                        Service::Admin => log::warn!(
                            "all connections of the admin listener are in use: new ones wait"
                        ),
                    });
                    match self.permits.take() {
                        Some(permit) => permit,
                        None => return,
                    }
                }
            };
            full.may_end(self.permits.left() > 0, || match self.service {
                Service::Proxy => log::info!("connections are free again"),
                Service::Admin => log::info!("connections of the admin listener are free again"),
            });
            match self.listener.accept() {
                Ok((socket, address)) => {
                    short.may_end(true, || log::info!("connections are accepted again"));
                    self.pool.stats.other().count(|c| match self.service {
                        Service::Proxy => c.connections_accepted += 1,
                        Service::Admin => c.admin_connections_accepted += 1,
                    });
                    // Not kept: the next connection may be hours away, and long lists must go when
                    // others take their place.
                    let policy = self.pool.ctx.policy.get();
                    let limits = policy.limits(self.number);
                    let limits = limits.filter(|l| l.connections.is_some());
                    let limits = limits.filter(|_| self.service == Service::Proxy);
                    let ip = address.map_or(NO_ADDRESS.ip(), |address| address.ip());
                    let entered =
                        limits.map(|limits| self.pool.ctx.shaper.enter(ip, limits, Instant::now()));
                    if let Some(None) = entered {
                        // As many as are let in are told that they are too many; not these.
                        self.count(|c| {
                            c.connections_closed += 1;
                            c.count_limited(Refused::Connections);
                        });
                        continue;
                    }
                    let slot = Slot::new(Arc::clone(&self.pool.ready));
                    let waker = Arc::clone(&slot) as Arc<dyn Wake>;
                    let head = match self.service {
                        Service::Proxy => self.pool.ctx.timeouts.head,
                        Service::Admin => self.pool.ctx.timeouts.head.min(admin::HEAD_TIME),
                    };
                    let deadline = Instant::now() + head;
                    // IPv4 on a listener for both is written as IPv4 everywhere.
                    let address = address.map_or(NO_ADDRESS, |address| {
                        SocketAddr::new(address.ip().to_canonical(), address.port())
                    });
                    let asker = Asker {
                        address,
                        listener: self.number,
                        scope: self.scope,
                        service: self.service,
                        names_us: self.names_us,
                    };
                    let stream = Stream::accepted(socket);
                    let mut session = Session::new(stream, asker, waker, permit, deadline);
                    if let Some(Some(line)) = entered {
                        session = session.on_line(line);
                    }
                    self.pool.ready.push(Message::Ready(Job { session: Box::new(session), slot }));
                }
                Err(_) if self.stopping.load(Ordering::SeqCst) => return,
                Err(e) if is_shortage(&e) => {
                    drop(permit);
                    self.count(|c| c.accept_failures += 1);
                    short.begins(|| {
                        log::warn!("cannot accept connections: {e}: trying again until it goes");
                    });
                    if self.pool.ctx.free_descriptors() == 0 {
                        self.permits.wait_for_return(BACK_OFF);
                    }
                }
                // The client gave up while it was in the backlog, or the network did.
                Err(e) => {
                    self.count(|c| c.accept_failures += 1);
                    log::debug!("accept: {e}");
                }
            }
        }
    }
}

impl Acceptor {
    /// Counts what is counted of the proxy's listeners only.
    fn count(&self, f: impl FnOnce(&mut Counters)) {
        if self.service == Service::Proxy {
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
