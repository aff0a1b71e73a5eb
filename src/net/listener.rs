//! Listening sockets, TCP and unix, and the file of a unix socket.
//!
//! A unix socket has a file, accessible to its owner only (mode 0600) from the first moment on. The file of
//! a dead process is replaced. A file that a process listens on stays, and a file that is not a socket is
//! never touched. The listener removes its file when it drops, unless the file there belongs to another by
//! then.

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::stream::keepalive;

/// Connections the kernel may queue for the proxy; it limits this to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Where to listen.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum ListenPlace {
    /// At an address; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// At a file, for users who may open it.
    Unix(PathBuf),
}

impl fmt::Display for ListenPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    place: ListenPlace,
    file: Option<SocketFile>,
}

impl Listener {
    /// Listens at `place`.
    ///
    /// # Errors
    ///
    /// The system's error. For a unix socket, `AddrInUse` means that another process listens there, and
    /// `AlreadyExists` that a file other than a socket is there.
    pub fn bind(place: &ListenPlace) -> io::Result<Self> {
        match place {
            ListenPlace::Tcp(address) => Self::bind_tcp(*address, false),
            ListenPlace::Unix(path) => Self::bind_unix(path),
        }
    }

    /// Listens at an address. A listener on `[::]` accepts IPv4 too, unless `only_v6`.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn bind_tcp(address: SocketAddr, only_v6: bool) -> io::Result<Self> {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM.cloexec(), Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if only_v6 && address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // Accepted sockets inherit these options, which saves system calls for each connection.
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(&keepalive())?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let bound = socket.local_addr()?.as_socket().unwrap_or(address);
        Ok(Self { socket, place: ListenPlace::Tcp(bound), file: None })
    }

    fn bind_unix(path: &Path) -> io::Result<Self> {
        let address = SockAddr::unix(path)?;
        let _alone = alone_in(path.parent());
        let mut socket = private()?;
        match socket.bind(&address) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                remove_if_dead(path, &address)?;
                socket = private()?;
                socket.bind(&address)?;
            }
            bound => bound?,
        }
        let file = SocketFile::of(path)?;
        socket.listen(BACKLOG)?;
        Ok(Self { socket, place: ListenPlace::Unix(path.to_owned()), file: Some(file) })
    }

    /// The place it listens at, with the port the system chose.
    pub fn place(&self) -> &ListenPlace {
        &self.place
    }

    /// Waits for a connection. A client of a unix socket has no address.
    ///
    /// # Errors
    ///
    /// The system's error; any error, once it is [shut down](Self::shut_down).
    pub fn accept(&self) -> io::Result<(Socket, Option<SocketAddr>)> {
        let (socket, address) = self.socket.accept()?;
        Ok((socket, address.as_socket()))
    }

    /// Waits until [`accept`](Self::accept) finds something, at most `limit`. Returns whether it does.
    pub fn wait(&self, limit: Duration) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        let limit = Timespec::try_from(limit).ok();
        poll(&mut fds, limit.as_ref()).is_ok_and(|ready| ready > 0)
    }

    /// Removes the file of a unix socket early, for a process that exits at once.
    pub fn remove_file(&self) {
        if let Some(file) = &self.file {
            file.remove();
        }
    }

    /// Ends every present and later [`accept`](Self::accept).
    pub fn shut_down(&self) {
        // If this fails, an acceptor stays in `accept` and ends with the process.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// A unix socket whose file only its owner can use. The file is made with the socket's own mode, so another
/// user can connect at no moment.
fn private() -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
    let file = File::from(OwnedFd::from(socket));
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(Socket::from(OwnedFd::from(file)))
}

/// Keeps other proxies from looking at the directory's sockets and pid files at the same time. Two that
/// found the same dead one would each remove the other's new file. The lock ends with the returned file.
pub(crate) fn alone_in(directory: Option<&Path>) -> Option<File> {
    const TRIES: u32 = 100;
    let directory = directory.filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = File::open(directory).ok()?;
    for _ in 0..TRIES {
        match directory.try_lock() {
            Ok(()) => return Some(directory),
            Err(fs::TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(10)),
            // Some file systems have no locks; two proxies may then meet.
            Err(fs::TryLockError::Error(_)) => break,
        }
    }
    None
}

/// Removes the file of a socket without a listener.
fn remove_if_dead(path: &Path, address: &SockAddr) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is not a socket"));
    }
    let asking = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
    // A listener with a full backlog is alive, too; it must not hold up the start.
    asking.set_nonblocking(true)?;
    match asking.connect(address) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(e),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// The file of a unix socket, removed when this drops.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let it = fs::symlink_metadata(path)?;
        // The absolute path is right even after the process has changed its directory.
        let path = std::path::absolute(path)?;
        Ok(Self { path, device: it.dev(), inode: it.ino() })
    }
}

impl SocketFile {
    fn remove(&self) {
        let is_ours = fs::symlink_metadata(&self.path).is_ok_and(|it| {
            it.file_type().is_socket() && (it.dev(), it.ino()) == (self.device, self.inode)
        });
        if is_ours {
            // If this fails, the next listener at this path removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use super::*;

    fn bind(path: &Path) -> io::Result<Listener> {
        Listener::bind(&ListenPlace::Unix(path.to_owned()))
    }

    fn refused(path: &Path) -> io::ErrorKind {
        bind(path).map(drop).unwrap_err().kind()
    }

    #[test]
    fn a_socket_file_is_its_owners_alone_and_goes_with_the_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = bind(&path).unwrap();
        let file = fs::symlink_metadata(&path).unwrap();
        assert!(file.file_type().is_socket());
        assert_eq!(file.permissions().mode() & 0o777, 0o600);
        let _client = UnixStream::connect(&path).unwrap();
        assert_eq!(listener.accept().unwrap().1, None);
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_ones_file_is_replaced_and_a_living_ones_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the standard library leaves the file");
        let listener = bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        assert_eq!(refused(&path), io::ErrorKind::AddrInUse);
        UnixStream::connect(&path).expect("still the first one's");
        drop(listener);
    }

    #[test]
    fn what_is_no_socket_or_anothers_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "precious").unwrap();
        assert_eq!(refused(&path), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"precious");

        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(refused(&link), io::ErrorKind::AlreadyExists);
        assert!(path.exists() && link.is_symlink());

        let datagram = dir.path().join("datagram");
        let _other = UnixDatagram::bind(&datagram).unwrap();
        assert_eq!(refused(&datagram), io::ErrorKind::AddrInUse);
        assert!(datagram.exists());
    }

    #[test]
    fn a_file_that_took_the_place_of_ours_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = bind(&path).unwrap();
        // Moved rather than removed, so that the new file cannot have the number of the old.
        fs::rename(&path, dir.path().join("moved")).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(listener);
        assert!(path.exists());
    }

    #[test]
    fn one_of_several_that_find_a_dead_one_gets_the_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        for _ in 0..20 {
            drop(UnixListener::bind(&path).unwrap());
            let listeners: Vec<_> = thread::scope(|scope| {
                let started: Vec<_> = (0..4).map(|_| scope.spawn(|| bind(&path))).collect();
                started.into_iter().map(|s| s.join().unwrap()).collect()
            });
            assert_eq!(listeners.iter().filter(|l| l.is_ok()).count(), 1);
            UnixStream::connect(&path).expect("the one that listens has the file");
            drop(listeners);
        }
    }

    #[test]
    fn shutting_down_ends_accept_on_both_kinds() {
        let dir = tempfile::tempdir().unwrap();
        let unix = bind(&dir.path().join("socket")).unwrap();
        let tcp = Listener::bind(&ListenPlace::Tcp(([127, 0, 0, 1], 0).into())).unwrap();
        for listener in [unix, tcp] {
            thread::scope(|scope| {
                let accepting = scope.spawn(|| listener.accept().is_err());
                thread::sleep(Duration::from_millis(20));
                listener.shut_down();
                assert!(accepting.join().unwrap());
            });
        }
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_refused() {
        let path = PathBuf::from(format!("/tmp/{}", "x".repeat(200)));
        assert_eq!(refused(&path), io::ErrorKind::InvalidInput);
    }
}
