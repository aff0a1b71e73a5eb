//! A running proxy as a process: the start line, the port file, signals, the end.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::{Handle, Signals};

use crate::cli::exit::{Exit, Failure};
use crate::cli::logging;
use crate::config::{Config, LogTarget};
use crate::observe::access_log::Destination;
use crate::observe::stats::Snapshot;
use crate::server::{self, Server, StartError};

/// How long a process that must end now waits for the last lines of its log.
const LAST_LINES: Duration = Duration::from_millis(100);

/// Runs the proxy until a signal has stopped it and the last connection is over.
pub(crate) fn run(config: &Config) -> Result<(), Failure> {
    server::raise_open_files();
    // Until the proxy has started signals do what they do by default. After that, and before
    // anybody is told that it has, they are ours.
    let mut options = config.options();
    if let Some((Destination::Stdout, format)) = &mut options.access_log {
        *format = logging::on_stdout(config.log_format, config.color).unwrap_or(*format);
    }
    let server = Server::start(options).map_err(|e| refused(config, e))?;
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2])
        .map_err(|e| failed(format!("cannot watch for signals: {e}")))?;
    if let Some(file) = &config.port_file {
        write_ports(file, server.addrs())
            .map_err(|e| failed(format!("--port-file {}: cannot write it: {e}", file.display())))?;
    }
    announce(&server, config.open);

    for signal in &mut signals {
        match signal {
            SIGHUP | SIGUSR1 => {
                log::info!("opening the access log again");
                server.reopen_log();
                reread_hosts(&server);
            }
            SIGUSR2 => tell(log::Level::Info, &server.stats()),
            _ => break,
        }
    }
    drain(server, signals, config)
}

/// Reads the hosts files again; if one is wrong, what was read before stays.
fn reread_hosts(server: &Server) {
    match server.reread_hosts() {
        None => {}
        Some(Ok(count)) => log::info!("the hosts files were read again: {count} names"),
        Some(Err(wrong)) => {
            log::warn!("--hosts-file {wrong}; the names read before stay in use");
        }
    }
}

/// Lets the connections finish, unless another signal says that it must be now.
fn drain(server: Server, mut signals: Signals, config: &Config) -> Result<(), Failure> {
    log::info!(
        "stopping: connections have {} to finish; another signal closes them now",
        crate::config::duration::Shown(config.drain)
    );
    let finish_log = server.log_finisher();
    let (handle, grace) = (signals.handle(), config.drain);
    let drained = thread::Builder::new()
        .name("drain".into())
        .spawn(move || {
            let handle = Closing(handle);
            let stats = server.stats_reader();
            let closed = server.shutdown(grace);
            tell(log::Level::Debug, &stats());
            drop(handle);
            closed
        })
        .map_err(|e| failed(format!("cannot start a thread: {e}")))?;
    for signal in &mut signals {
        if matches!(signal, SIGTERM | SIGINT) {
            log::warn!("stopped at once; connections were cut");
            finish_log(LAST_LINES);
            std::process::exit(Exit::Failure.code().into());
        }
    }
    match drained.join() {
        Ok(0) => log::info!("stopped"),
        Ok(closed) => log::info!("stopped; {closed} connections had to be closed"),
        Err(_) => return Err(failed("the shutdown failed by a defect of ours".to_owned())),
    }
    Ok(())
}

/// Ends the wait for signals when it drops, a defect on the way included.
struct Closing(Handle);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A snapshot, a log line for each of its lines.
fn tell(level: log::Level, stats: &Snapshot) {
    for line in stats.to_string().lines() {
        log::log!(level, "stats: {line}");
    }
}

fn failed(message: String) -> Failure {
    Failure { exit: Exit::Failure, message }
}

fn refused(config: &Config, e: StartError) -> Failure {
    match e {
        StartError::Bind(address, e) => Failure::bind(address, &e),
        StartError::AccessLog(e) => {
            let file = match &config.access_log {
                LogTarget::File(file) => file.display().to_string(),
                LogTarget::Stdout => "-".to_owned(),
                LogTarget::Off => "off".to_owned(),
            };
            let exit = match e.kind() {
                io::ErrorKind::PermissionDenied => Exit::NoPermission,
                _ => Exit::Failure,
            };
            let advice = "give a file this user can write, or - for stdout";
            Failure { exit, message: format!("--access-log {file}: cannot open it: {e}; {advice}") }
        }
        StartError::Hosts(wrong) => {
            let exit = if wrong.is_denied() { Exit::NoPermission } else { Exit::Configuration };
            Failure { exit, message: format!("--hosts-file {wrong}") }
        }
        StartError::Source(ip, e) => Failure::source(ip, &e),
        StartError::System(e) => failed(format!("cannot start: {e}")),
    }
}

/// One line that says where it listens and what to try.
fn announce(server: &Server, open: bool) {
    let all: Vec<String> = server.addrs().iter().map(ToString::to_string).collect();
    let to = reachable(server.addr());
    log::info!(
        "listening on {} with {} threads; try: curl -x http://{to} http://example.com/",
        all.join(", "),
        server.threads(),
    );
    let beyond = server.addrs().iter().any(|a| !a.ip().to_canonical().is_loopback());
    match (beyond, open) {
        (true, false) => log::info!(
            "beyond loopback, only private networks are served and only public addresses are \
             connected to; --open lifts both"
        ),
        (true, true) => log::warn!("--open: everybody who reaches this proxy can use it"),
        _ => {}
    }
}

/// An address a client on this machine can use for `address`.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Writes the ports, one a line. The file appears whole or not at all: who waits for it may read
/// it as soon as it is there.
fn write_ports(file: &Path, addresses: &[SocketAddr]) -> io::Result<()> {
    let ports: String = addresses.iter().map(|a| format!("{}\n", a.port())).collect();
    let mut beside = file.as_os_str().to_owned();
    beside.push(".new");
    fs::write(&beside, ports)?;
    fs::rename(&beside, file)
}
