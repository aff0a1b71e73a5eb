//! Tells a supervisor that the proxy is listening, through `--ready-fd` (s6) or `NOTIFY_SOCKET` (systemd,
//! sd_notify(3)).
//!
//! A notification never stops the proxy: if the supervisor is gone, the proxy logs a warning.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{ClockId, clock_gettime};

use crate::cli::exit::Failure;
use crate::cli::inherited_fd;

/// How long the proxy waits for a service manager to take a message.
const PATIENCE: Duration = Duration::from_secs(1);

/// The supervisors to notify.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    descriptor: Option<(RawFd, OwnedFd)>,
    manager: Option<UnixDatagram>,
    /// Whether the end was reported; nothing is sent after that.
    stopping: bool,
}

impl Readiness {
    /// Takes over the descriptor that `--ready-fd` names, and finds systemd's socket. Call this before
    /// anything else is opened.
    ///
    /// # Errors
    ///
    /// The parent process did not leave the descriptor open for writing.
    pub(crate) fn prepare(descriptor: Option<RawFd>) -> Result<Self, Failure> {
        let take = |number| match inherited_fd::for_writing(number) {
            Ok(descriptor) => Ok((number, descriptor)),
            Err(e) => Err(Failure::usage(format!(
                "--ready-fd: {number} cannot be written to: {e}; the program that starts the proxy has to \
                 open it, for example {number}>FIFO in a shell"
            ))),
        };
        let descriptor = descriptor.map(take).transpose()?;
        let socket = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let manager = socket.and_then(|name| {
            let connected = connect(name.as_encoded_bytes());
            connected.inspect_err(|e| log::warn!("NOTIFY_SOCKET={}: {e}", name.display())).ok()
        });
        Ok(Self { descriptor, manager, stopping: false })
    }

    /// Reports that the proxy listens at `addresses` and handles signals. The first call writes a line to
    /// the descriptor and closes it.
    pub(crate) fn ready(&mut self, addresses: &str) {
        if let Some((number, descriptor)) = self.descriptor.take()
            && let Err(e) = write_line(descriptor)
        {
            log::warn!("--ready-fd: cannot write to {number}: {e}");
        }
        self.tell(&format!("READY=1\nSTATUS=listening on {addresses}"));
    }

    /// Reports the start of a reload; [`ready`](Self::ready) follows.
    pub(crate) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let us = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={us}"));
    }

    /// Reports that the proxy takes no more clients.
    pub(crate) fn stopping(&mut self) {
        self.tell("STOPPING=1\nSTATUS=connections are finishing");
        self.stopping = true;
    }

    fn tell(&self, state: &str) {
        if self.stopping {
            return;
        }
        if let Some(manager) = &self.manager
            && let Err(e) = manager.send(state.as_bytes())
        {
            log::warn!("NOTIFY_SOCKET: {e}");
        }
    }
}

/// Connects to systemd's socket: a path, or a name in the abstract namespace after `@`.
fn connect(name: &[u8]) -> io::Result<UnixDatagram> {
    let address = match name {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
        [b'/', ..] => {
            let path = std::str::from_utf8(name).map_err(io::Error::other)?;
            SocketAddr::from_pathname(path)?
        }
        _ => return Err(io::Error::other("neither a path nor an abstract name")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Writes one byte without waiting. Every pipe has room for it, unless another process has filled the
/// pipe.
fn write_line(descriptor: OwnedFd) -> io::Result<()> {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut [PollFd::new(&descriptor, PollFlags::OUT)], Some(&now))? == 0 {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    match File::from(descriptor).write(b"\n")? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_is_told_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("threadgate-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let abstract_one = UnixDatagram::bind_addr(&address).unwrap();
        for (socket, name) in
            [(by_path, path.to_str().unwrap().to_owned()), (abstract_one, format!("@{name}"))]
        {
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let manager = Some(connect(name.as_bytes()).unwrap());
            let mut readiness = Readiness { descriptor: None, manager, stopping: false };
            let received = || {
                let mut buf = [0; 200];
                let n = socket.recv(&mut buf).unwrap();
                String::from_utf8(buf[..n].to_vec()).unwrap()
            };
            readiness.ready("here");
            assert_eq!(received(), "READY=1\nSTATUS=listening on here");
            readiness.reloading();
            let reloading = received();
            let (first, us) = reloading.split_once("\nMONOTONIC_USEC=").unwrap();
            assert_eq!(first, "RELOADING=1");
            assert!(us.parse::<u64>().unwrap() > 0, "{us}");
            readiness.stopping();
            assert!(received().starts_with("STOPPING=1\n"));
            readiness.ready("a reload that ends late");
            socket.set_nonblocking(true).unwrap();
            assert!(socket.recv(&mut [0; 9]).is_err());
        }
        for other in [&b"vsock:2:1234"[..], b"relative", b"/nonexistent/socket", b"/\xff"] {
            assert!(connect(other).is_err(), "{other:?}");
        }
    }

    #[test]
    fn the_descriptor_gets_a_line_and_is_closed() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut readiness =
            Readiness { descriptor: Some((9, writer.into())), manager: None, stopping: false };
        readiness.ready("");
        let mut said = String::new();
        io::Read::read_to_string(&mut reader, &mut said).unwrap();
        assert_eq!(said, "\n");
        readiness.ready("");
    }

    #[test]
    fn a_full_pipe_is_not_waited_for() {
        let (reader, writer) = io::pipe().unwrap();
        let full = writer.try_clone().unwrap();
        rustix::io::ioctl_fionbio(&full, true).unwrap();
        while (&full).write(&[0; 4096]).is_ok() {}
        rustix::io::ioctl_fionbio(&full, false).unwrap();
        assert_eq!(write_line(writer.into()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(reader);
    }
}
