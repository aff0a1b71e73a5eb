//! Threads, queues, and the life of a proxy from start to drain.
//!
//! ```text
//!  acceptor ──(permits)── Session ──▶ ready queue ──▶ worker-0 … worker-(N-1)
//!                                        ▲               │ Park
//!                                        └── parking ◀───┘
//! ```

pub mod acceptor;
mod after;
pub mod anteroom;
pub mod batch;
pub mod control;
mod defaults;
pub mod message;
mod overview;
pub mod parking;
pub mod ready;
pub mod streams;
mod turns;
pub mod worker_pool;
mod workers;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use crate::net::dial::Dialer;
use crate::net::hosts::WrongHosts;
use crate::net::listener::{ListenPlace, Listener};
use crate::net::pending_connects::PendingConnects;
use crate::net::permits::Permits;
use crate::net::pipe::Pipes;
use crate::net::poll::Poller;
use crate::net::resolve::{NameOptions, Resolve, Resolver, System};
use crate::net::source_address::Sources;
use crate::net::timers::{LONGEST, Timers};
use crate::observe::access_log::{AccessLog, LineFormat, LogDestination};
use crate::observe::report::Report;
use crate::observe::stats::{Snapshot, Stats};
use crate::policy::learn::Learnt;
use crate::policy::protected_mode::Scope;
use crate::policy::shape::Shaper;
use crate::policy::{self, Access};
use crate::proxy::admin::{self, Overview as _};
use crate::proxy::front::Front;
use crate::proxy::verify::Verifier;
use crate::proxy::{Context, OwnAddresses, Quota, Timeouts};
use crate::upstream::pool;
use crate::wire::{self, Leniency};

pub use defaults::raise_open_files;

use acceptor::Acceptor;
pub use after::After;
pub use control::Control;
use defaults::{default_connections, default_pipes, default_threads, draw_pseudonym};
use message::Message;
use parking::{Parking, Stage};
use ready::ReadyQueue;
use worker_pool::{Birth, WorkerPool};

/// The value of `Via` in requests.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Via {
    /// `threadgate-` and four hexadecimal digits, drawn at start: two proxies in a row must not take
    /// each other for themselves.
    #[default]
    Drawn,
    /// This pseudonym (RFC 9110 §7.6.3).
    Named(String),
    /// No `Via` is added to requests or responses; loops are found by address only.
    Off,
}

impl Via {
    fn pseudonym(self) -> Option<String> {
        match self {
            Self::Drawn => Some(draw_pseudonym()),
            Self::Named(name) => Some(name),
            Self::Off => None,
        }
    }
}

/// The settings of a proxy. `Default` is a proxy for this machine on a free port of loopback.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 lets the system choose.
    pub listen: Vec<SocketAddr>,
    /// The address of the admin listener, which reports on the proxy over HTTP (`/metrics`,
    /// `/stats.json`, `/healthz`, `/readyz`); none by default. Its 16 connections do not count towards
    /// `max_connections`. Beyond loopback it serves private networks only, unless `open`.
    pub admin: Option<ListenPlace>,
    /// Further names that its requests may have as `Host`. Addresses, `localhost`, and beyond loopback
    /// the machine's own name are always allowed; a unix socket takes any.
    pub admin_names: Vec<String>,
    /// Workers; by default four for each processor.
    pub threads: Option<NonZeroUsize>,
    /// Client connections at once; by default as many as the open-file limit allows.
    pub max_connections: Option<NonZeroUsize>,
    /// Pipes for streams at once, two descriptors each; 0 copies all bytes. By default a quarter
    /// of `max_connections`, 256 at most.
    pub max_pipes: Option<usize>,
    /// The limits on upstream connections kept between exchanges; in all never more than
    /// `max_connections`.
    pub pool: pool::PoolLimits,
    /// How long each wait may last.
    pub timeouts: Timeouts,
    /// The most bytes a request or response head may have.
    pub max_head_bytes: usize,
    /// The value of `Via`.
    pub via: Via,
    /// Adds the client's address to requests, in `Forwarded` (RFC 7239) and `X-Forwarded-For`. If false,
    /// both are passed on as received.
    pub forwarded_for: bool,
    /// Refuses responses that are not in the strict form (502). If false, those that clients accept are
    /// repaired, and counted.
    pub strict_responses: bool,
    /// Lets listeners beyond loopback serve everybody and connect everywhere.
    pub open: bool,
    /// The rules, made by [`AccessOptions::build`](crate::AccessOptions::build). By default there are
    /// none.
    pub access: Access,
    /// Collects the destinations reached, if the policy is [`Mode::Learn`](crate::Mode::Learn).
    pub learnt: Arc<Learnt>,
    /// The destination and format of the access log, which has a line for each finished exchange; none
    /// by default.
    pub access_log: Option<(LogDestination, LineFormat)>,
    /// Called once, after this many exchanges and tunnels, failed ones included. A worker makes the
    /// call, so it must not wait.
    pub after: Option<After>,
    /// Resolves names to addresses.
    pub resolver: Arc<dyn Resolve>,
    /// Addresses of names given in advance, and how long answers are kept.
    pub names: NameOptions,
    /// The source addresses of upstream connections.
    pub sources: Sources,
    /// How many connects to one address may be pending at once.
    pub max_connecting: NonZeroUsize,
}

/// The default of [`Options::max_connecting`]: enough for a thousand new connections a second to a
/// server 100 ms away.
pub const MAX_CONNECTING: NonZeroUsize = NonZeroUsize::new(128).unwrap();

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            admin: None,
            admin_names: Vec::new(),
            threads: None,
            max_connections: None,
            max_pipes: None,
            pool: pool::PoolLimits::default(),
            timeouts: Timeouts::default(),
            max_head_bytes: wire::HeadLimits::default().max_head_bytes,
            via: Via::default(),
            forwarded_for: false,
            strict_responses: false,
            open: false,
            access: Access::default(),
            learnt: Arc::default(),
            access_log: None,
            after: None,
            resolver: Arc::new(System),
            names: NameOptions::default(),
            sources: Sources::default(),
            max_connecting: MAX_CONNECTING,
        }
    }
}

/// The reason why a proxy could not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// A listener could not be bound.
    Bind(SocketAddr, io::Error),
    /// The admin listener could not be bound.
    Admin(ListenPlace, io::Error),
    /// The access log could not be opened.
    AccessLog(io::Error),
    /// A hosts file is wrong.
    Hosts(WrongHosts),
    /// A source address cannot be used.
    Source(IpAddr, io::Error),
    /// The system refused a thread or a descriptor.
    System(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(address, e) => write!(f, "cannot listen on {address}: {e}"),
            Self::Admin(place, e) => write!(f, "cannot listen on {place} (admin): {e}"),
            Self::AccessLog(e) => write!(f, "cannot open the access log: {e}"),
            Self::Hosts(wrong) => wrong.fmt(f),
            Self::Source(ip, e) => write!(f, "cannot connect from {ip}: {e}"),
            Self::System(e) => write!(f, "cannot start: {e}"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Bind(_, e)
            | Self::Admin(_, e)
            | Self::AccessLog(e)
            | Self::Source(_, e)
            | Self::System(e) => Some(e),
            Self::Hosts(wrong) => Some(wrong),
        }
    }
}

/// A running proxy. Dropping it closes every connection at once; [`shutdown`](Self::shutdown) lets
/// them finish.
pub struct Server {
    addresses: Vec<SocketAddr>,
    listeners: Vec<Arc<Listener>>,
    admin: Option<Admin>,
    stopping: Arc<AtomicBool>,
    permits: Arc<Permits>,
    places: usize,
    pool: Arc<WorkerPool>,
    acceptors: Vec<JoinHandle<()>>,
    workers: Vec<JoinHandle<()>>,
    parking: Option<JoinHandle<()>>,
}

/// The admin listener, which goes on while the proxy drains.
struct Admin {
    listener: Arc<Listener>,
    stopping: Arc<AtomicBool>,
    permits: Arc<Permits>,
    acceptor: Option<JoinHandle<()>>,
}

/// How often a shutdown checks whether the last connection has ended.
const LOOK: Duration = Duration::from_millis(10);
/// How long a stuck log writer may hold up the end.
const LOG_GRACE: Duration = Duration::from_secs(1);

impl Server {
    /// Starts a proxy: its listeners accept when this returns.
    ///
    /// # Errors
    ///
    /// The part that could not be set up; nothing is left running.
    pub fn start(options: Options) -> Result<Self, StartError> {
        options.sources.check().map_err(|(ip, e)| StartError::Source(ip, e))?;
        let resolver = Resolver::new(options.resolver, options.names).map_err(StartError::Hosts)?;
        let (listeners, addresses) = bind(&options.listen)?;
        let admin = options.admin.as_ref().map(bind_admin).transpose()?;
        let threads = options.threads.map_or_else(default_threads, NonZeroUsize::get);
        let places = options.max_connections.map_or_else(default_connections, NonZeroUsize::get);
        let access_log = match options.access_log {
            Some((to, format)) => Some(AccessLog::open(to, format).map_err(StartError::AccessLog)?),
            None => None,
        };
        let poller = Arc::new(Poller::new().map_err(StartError::System)?);
        let timers = Arc::new(Timers::new(Arc::clone(&poller)));
        let limits =
            pool::PoolLimits { total: options.pool.total.min(places), ..options.pool.clamped() };
        let ctx = Context {
            timeouts: options.timeouts.clamped(),
            limits: wire::HeadLimits {
                max_head_bytes: options.max_head_bytes,
                ..wire::HeadLimits::default()
            },
            policy: policy::Current::new(options.access.policy(&addresses, options.open)),
            shaper: Shaper::default(),
            failures: Arc::default(),
            verifier: Verifier::default(),
            learnt: options.learnt,
            via: options.via.pseudonym(),
            forwarded_for: options.forwarded_for,
            leniency: if options.strict_responses { Leniency::Strict } else { Leniency::Mend },
            own: OwnAddresses::new({
                let admin = admin.iter().filter_map(|admin| tcp(&admin.listener));
                addresses.iter().copied().chain(admin).collect()
            }),
            admin_names: admin::Names::new(
                &options.admin_names,
                admin.as_ref().and_then(|admin| tcp(&admin.listener)).is_some_and(is_loopback),
            ),
            poller: Arc::clone(&poller),
            pool: pool::Pool::new(limits, Arc::clone(&timers), Arc::clone(&poller)),
            pipes: Pipes::new(options.max_pipes.unwrap_or_else(|| default_pipes(places))),
            resolver,
            dialer: Dialer {
                poller: Arc::clone(&poller),
                connecting: PendingConnects::new(options.max_connecting.get()),
                sources: options.sources,
            },
            access_log,
            quota: options.after.map(|after| Quota::new(after.exchanges, after.then)),
            draining: OnceLock::new(),
        };
        let pool = Arc::new(WorkerPool {
            ctx: Arc::new(ctx),
            parking: Arc::new(Parking::new(poller, timers)),
            stats: Arc::new(Stats::new(threads)),
            ready: Arc::new(ReadyQueue::new(threads)),
            spares: Arc::default(),
            birth: Birth { time: SystemTime::now(), moment: Instant::now(), places },
            serves: AtomicBool::new(false),
            reloads: Default::default(),
        });
        // Each acceptor holds a permit while it waits in `accept`.
        let places = places + listeners.len().saturating_sub(1);
        // From here on, dropping the server ends everything that was started.
        let mut server = Self {
            addresses,
            listeners,
            admin,
            stopping: Arc::new(AtomicBool::new(false)),
            permits: Permits::new(places),
            places,
            pool,
            acceptors: Vec::new(),
            workers: Vec::new(),
            parking: None,
        };
        server.spawn(threads, options.open).map_err(StartError::System)?;
        Ok(server)
    }

    fn spawn(&mut self, threads: usize, open: bool) -> io::Result<()> {
        self.workers = workers::spawn(threads, &self.pool)?;
        let parking = Arc::clone(&self.pool.parking);
        let ready = Arc::clone(&self.pool.ready);
        self.parking = Some(
            thread::Builder::new().name("parking".into()).spawn(move || parking.watch(&ready))?,
        );
        if let Some(admin) = &mut self.admin {
            let acceptor = Acceptor {
                listener: Arc::clone(&admin.listener),
                scope: tcp(&admin.listener)
                    .map_or(Scope::Unrestricted, |address| Scope::of(address.ip(), open)),
                number: 0,
                pool: Arc::clone(&self.pool),
                permits: Arc::clone(&admin.permits),
                stopping: Arc::clone(&admin.stopping),
                front: Front::Admin,
                names_us: tcp(&admin.listener).is_some(),
            };
            let thread = thread::Builder::new().name("admin-acceptor".into());
            admin.acceptor = Some(thread.spawn(move || acceptor.run())?);
        }
        for (i, (listener, address)) in self.listeners.iter().zip(&self.addresses).enumerate() {
            let acceptor = Acceptor {
                listener: Arc::clone(listener),
                scope: Scope::of(address.ip(), open),
                number: u16::try_from(i).unwrap_or(u16::MAX),
                pool: Arc::clone(&self.pool),
                permits: Arc::clone(&self.permits),
                stopping: Arc::clone(&self.stopping),
                front: Front::Forward,
                names_us: false,
            };
            let name = if i == 0 { "acceptor".to_owned() } else { format!("acceptor-{i}") };
            let spawned = thread::Builder::new().name(name).spawn(move || acceptor.run())?;
            self.acceptors.push(spawned);
        }
        self.pool.serves.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// The first listener's address, with the port the system chose.
    pub fn addr(&self) -> SocketAddr {
        // A proxy without a listener has no address; this one reaches nothing.
        self.addresses.first().copied().unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// All listeners' addresses, in the order of [`Options::listen`].
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The admin listener's address, if there is one, with the port the system chose.
    pub fn admin(&self) -> Option<&ListenPlace> {
        self.admin.as_ref().map(|admin| admin.listener.place())
    }

    /// How many workers the pool has.
    pub fn threads(&self) -> usize {
        self.workers.len()
    }

    /// How many client connections there may be at once.
    pub fn max_connections(&self) -> usize {
        self.places
    }

    /// The counters.
    pub fn stats(&self) -> Snapshot {
        self.pool.snapshot()
    }

    /// All numbers, as the admin listener reports them.
    pub fn report(&self) -> Report {
        self.pool.report()
    }

    /// Reads the counters after the server itself is gone.
    pub fn stats_reader(&self) -> impl Fn() -> Snapshot + Send + 'static {
        let pool = Arc::clone(&self.pool);
        move || pool.snapshot()
    }

    /// Reads all numbers after the server itself is gone.
    pub fn report_reader(&self) -> impl Fn() -> Report + Send + 'static {
        let pool = Arc::clone(&self.pool);
        move || pool.report()
    }

    /// Writes the lines that the access log still holds, and waits this long for that. Works after the
    /// server itself is gone, and while it drains; for a process that is about to exit. Later lines are
    /// dropped.
    pub fn log_finisher(&self) -> impl Fn(Duration) + Send + 'static {
        let pool = Arc::clone(&self.pool);
        move |within| {
            if let Some(log) = &pool.ctx.access_log {
                log.finish(within);
            }
        }
    }

    /// Removes the socket file of the admin listener, if it has one. Works after the server itself is
    /// gone, and while it drains; for a process that is about to exit.
    pub fn admin_file_remover(&self) -> impl Fn() + Send + 'static {
        let listener = self.admin.as_ref().map(|admin| Arc::clone(&admin.listener));
        move || {
            if let Some(listener) = &listener {
                listener.remove_file();
            }
        }
    }

    /// Puts another policy in force: see [`Control::set_access`].
    pub fn set_access(&self, access: &Access, open: bool) {
        self.control().set_access(access, open);
    }

    /// Changes the running proxy, also from another thread and while it drains.
    pub fn control(&self) -> Control {
        Control::new(Arc::clone(&self.pool), self.addresses.clone())
    }

    /// Stops accepting, closes idle connections, gives the others `grace` to finish, closes the rest,
    /// and ends all threads. Returns how many connections had to be closed.
    pub fn shutdown(mut self, grace: Duration) -> usize {
        self.stop(grace)
    }

    fn stop(&mut self, grace: Duration) -> usize {
        if self.workers.is_empty() && self.parking.is_none() {
            return 0;
        }
        self.stopping.store(true, Ordering::SeqCst);
        // First, so that no response promises to keep its connection once the listeners are closed.
        self.pool.ctx.draining.get_or_init(Instant::now);
        self.listeners.iter().for_each(|listener| listener.shut_down());
        self.permits.close();
        for acceptor in self.acceptors.drain(..) {
            // An acceptor that panicked has logged it. Each gives back the permit that it held in
            // `accept`.
            let _ = acceptor.join();
        }
        self.pool.parking.enter(Stage::Draining);
        wait_for_the_last(&self.permits, self.places, grace);
        let left = self.places - self.permits.left().min(self.places);
        if let Some(admin) = &mut self.admin {
            admin.stop();
        }
        self.pool.parking.enter(Stage::Cutting);
        let all = Duration::from_secs(1);
        wait_for_the_last(&self.permits, self.places, all);
        if let Some(admin) = &self.admin {
            wait_for_the_last(&admin.permits, admin::MAX_CONNECTIONS, all);
        }
        for _ in &self.workers {
            self.pool.ready.push(Message::Stop);
        }
        self.pool.parking.stop();
        let threads = self.workers.drain(..).chain(self.parking.take());
        for thread in threads {
            // A thread that panicked has logged it.
            let _ = thread.join();
        }
        for message in self.pool.ready.drain() {
            if let Message::Ready(job) = message {
                job.session.abandon(self.pool.stats.other());
            }
        }
        self.pool.ctx.free_descriptors();
        if let Some(log) = &self.pool.ctx.access_log {
            log.finish(LOG_GRACE);
        }
        left
    }
}

/// Waits until all `places` are free, for `limit` at most.
fn wait_for_the_last(permits: &Arc<Permits>, places: usize, limit: Duration) {
    let end = Instant::now() + limit.min(LONGEST);
    while permits.left() < places {
        let now = Instant::now();
        if now >= end {
            break;
        }
        permits.wait_for_return(LOOK.min(end - now));
    }
}

impl Admin {
    fn new(listener: Listener) -> Self {
        Self {
            listener: Arc::new(listener),
            stopping: Arc::new(AtomicBool::new(false)),
            permits: Permits::new(admin::MAX_CONNECTIONS),
            acceptor: None,
        }
    }

    fn stop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.listener.shut_down();
        self.permits.close();
        if let Some(acceptor) = self.acceptor.take() {
            // An acceptor that panicked has logged it.
            let _ = acceptor.join();
        }
    }
}

/// Listens on these addresses. Returns the listeners, and their addresses with the ports chosen for port
/// 0.
fn bind(listen: &[SocketAddr]) -> Result<(Vec<Arc<Listener>>, Vec<SocketAddr>), StartError> {
    let mut listeners = Vec::with_capacity(listen.len());
    let mut addresses = Vec::with_capacity(listen.len());
    for &address in listen {
        let beside = |o: &SocketAddr| {
            o.ip() == Ipv4Addr::UNSPECIFIED && o.port() == address.port() && o.port() != 0
        };
        let both = listen.iter().any(beside);
        let listener =
            Listener::bind_tcp(address, both).map_err(|e| StartError::Bind(address, e))?;
        addresses.extend(tcp(&listener));
        listeners.push(Arc::new(listener));
    }
    Ok((listeners, addresses))
}

fn bind_admin(place: &ListenPlace) -> Result<Admin, StartError> {
    let bound = Listener::bind(place).map_err(|e| StartError::Admin(place.clone(), e))?;
    Ok(Admin::new(bound))
}

/// The address of a listener that is not a unix socket.
fn tcp(listener: &Listener) -> Option<SocketAddr> {
    match listener.place() {
        ListenPlace::Tcp(address) => Some(*address),
        ListenPlace::Unix(_) => None,
    }
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().is_loopback()
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({:?})", self.addresses)
    }
}
