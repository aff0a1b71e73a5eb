//! Taking connections in: a permit first, then `accept`, then the ready queue.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::net::dial::is_shortage;
use crate::net::permits::Permits;
use crate::net::poll::Wake;
use crate::net::stream::{Stream, keepalive};
use crate::policy::guard::Scope;
use crate::proxy::session::Session;

use super::batch;
use super::parking::{Job, Slot};
use super::ready::Message;
use super::workers::Pool;

/// Connections the kernel may hold for us; it cuts this down to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// How long to wait for a descriptor to come free before trying again.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Binds a listener. One on `[::]` takes IPv4 too, unless `only_v6`.
///
/// # Errors
///
/// What the system said; [`cli::bind_failure`](crate::cli) makes a sentence of it.
pub fn bind(address: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    let socket =
        Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if only_v6 && address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Inherited by what is accepted: no system call a connection.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive())?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// One listener and what its connections need.
pub struct Acceptor {
    /// The listener.
    pub listener: Arc<TcpListener>,
    /// What its clients may do.
    pub scope: Scope,
    /// Whose workers serve.
    pub pool: Arc<Pool>,
    /// Places for connections, shared by all listeners.
    pub permits: Arc<Permits>,
    /// Set before the listener is shut down.
    pub stopping: Arc<AtomicBool>,
}

impl Acceptor {
    /// Accepts until the listener is shut down.
    pub fn run(&self) {
        batch::enter();
        let mut full = Trouble::default();
        let mut short = Trouble::default();
        while !self.stopping.load(Ordering::SeqCst) {
            let permit = match self.permits.try_take() {
                Some(permit) => permit,
                None => {
                    self.pool.stats.other().count(|c| c.accepts_refused_no_permit += 1);
                    full.begins(|| {
                        log::warn!(
                            "all connections of --max-connections are in use: new ones wait"
                        );
                    });
                    match self.permits.take() {
                        Some(permit) => permit,
                        None => return,
                    }
                }
            };
            full.may_end(self.permits.left() > 0, || log::info!("connections are free again"));
            match self.listener.accept() {
                Ok((socket, address)) => {
                    short.may_end(true, || log::info!("connections are accepted again"));
                    self.pool.stats.other().count(|c| c.connections_accepted += 1);
                    let slot = Slot::new(Arc::clone(&self.pool.ready));
                    let waker = Arc::clone(&slot) as Arc<dyn Wake>;
                    let deadline = Instant::now() + self.pool.ctx.timeouts.head;
                    // IPv4 on a listener for both is written as IPv4 everywhere.
                    let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                    let stream = Stream::accepted(socket);
                    let session =
                        Session::new(stream, address, self.scope, waker, permit, deadline);
                    self.pool.ready.push(Message::Ready(Job { session: Box::new(session), slot }));
                }
                Err(_) if self.stopping.load(Ordering::SeqCst) => return,
                Err(e) if is_shortage(&e) => {
                    drop(permit);
                    self.pool.stats.other().count(|c| c.accept_failures += 1);
                    short.begins(|| {
                        log::warn!("cannot accept connections: {e}: trying again until it goes");
                    });
                    if self.pool.ctx.free_descriptors() == 0 {
                        self.permits.wait_for_return(BACK_OFF);
                    }
                }
                // The client gave up while it was in the backlog, or the network did.
                Err(e) => {
                    self.pool.stats.other().count(|c| c.accept_failures += 1);
                    log::debug!("accept: {e}");
                }
            }
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

/// Wakes the acceptor of `listener`, for good.
pub fn shut_down(listener: &TcpListener) {
    // An acceptor that stays in `accept` all the same ends with the process.
    let _ = SockRef::from(listener).shutdown(std::net::Shutdown::Both);
}
