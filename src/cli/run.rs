//! Runs a proxy as a process: announces the start, handles signals, and ends it.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::{Handle, Signals};

use crate::cli::announce::{self, addresses};
use crate::cli::effective_options::{Effective, GivenOptions, refused_hosts};
use crate::cli::exit::{Exit, Failure};
use crate::cli::learn_file::LearnFile;
use crate::cli::logging;
use crate::cli::readiness::Readiness;
use crate::cli::reload::Reloading;
use crate::cli::status_files::{self, OwnFile};
use crate::config::{Config, ExitAfter, LogTarget};
use crate::net::listener::ListenPlace;
use crate::observe::access_log::LogDestination;
use crate::observe::report::Report;
use crate::server::{self, After, Server, StartError};

/// How long a process that must end at once waits for the last lines of its log.
const LAST_LINES: Duration = Duration::from_millis(100);

/// The signals that the proxy handles once it has started.
const SIGNALS: [i32; 5] = [SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2];

/// Runs the proxy until a signal, or `--exit-after`, has stopped it and the last connection is over.
pub(crate) fn run(given: GivenOptions, effective: Effective) -> Result<(), Failure> {
    let config = &effective.config.clone();
    let readiness = Readiness::prepare(config.ready_fd)?;
    if let Some(file) = &config.pid_file {
        status_files::check_pid(file)?;
    }
    server::raise_open_files();
    // Signals have their default effect until the proxy has started. The proxy takes them over before
    // it reports that it has started.
    let before = Reloading::before(&given, &effective);
    let mut options = config.options().map_err(|unusable| effective.unusable(&unusable))?;
    if let Some((LogDestination::Stdout, format)) = &mut options.access_log {
        *format = logging::on_stdout(config.log_format, config.color).unwrap_or(*format);
    }
    let learn_file = config.learn_file.as_deref().map(LearnFile::open).transpose()?;
    if let Some(file) = &learn_file {
        options.learnt = file.learnt();
    }
    let enough = Arc::new(Enough::default());
    if let Some(ExitAfter::Exchanges(count)) = config.exit_after {
        let enough = Arc::clone(&enough);
        options.after = Some(After::new(count, move || enough.reached()));
    }
    let server = Server::start(options).map_err(|e| refused(&effective, e))?;
    let mut signals = signals()?;
    enough.ends(signals.handle());
    let readiness = Arc::new(Mutex::new(readiness));
    let (control, telling) = (server.control(), Arc::clone(&readiness));
    let listening = addresses(&server);
    // Start this thread before reporting readiness, so that all threads exist by then.
    let reloading =
        Reloading::begin(given, effective, control.clone(), telling, listening, before)?;
    // The pid file is written before the port file, so a reader of the ports finds the number.
    let pid_file = config.pid_file.as_deref().map(OwnFile::write_pid).transpose()?;
    let port_file = config.port_file.as_deref();
    let port_file = port_file.map(|file| OwnFile::write("--port-file", file, ports(&server)));
    let own_files = [pid_file, port_file.transpose()?];
    if let Some(ExitAfter::Time(time)) = config.exit_after {
        enough.reached_after(time)?;
    }
    announce::announce(&server, config.server.open);
    readiness.lock().ready(&addresses(&server));

    let mut by_signal = false;
    for signal in &mut signals {
        match signal {
            SIGHUP | SIGUSR1 => {
                if matches!(config.access_log, LogTarget::File(_)) {
                    log::info!("opening the access log again");
                }
                control.reopen_log();
                learn_file.iter().for_each(LearnFile::write_or_warn);
                reloading.ask();
            }
            SIGUSR2 => {
                tell(log::Level::Info, &server.report());
                learn_file.iter().for_each(LearnFile::write_or_warn);
            }
            _ => {
                by_signal = true;
                break;
            }
        }
    }
    readiness.lock().stopping();
    if !by_signal {
        log::info!("--exit-after: the limit is reached");
        // Ending the wait has closed this source of signals, so open a new one.
        signals = self::signals()?;
    }
    drain(server, signals, own_files, learn_file, config)
}

fn signals() -> Result<Signals, Failure> {
    Signals::new(SIGNALS).map_err(|e| failed(format!("cannot watch for signals: {e}")))
}

/// Ends the wait for signals when `--exit-after` is reached.
#[derive(Default)]
struct Enough(Mutex<(bool, Option<Handle>)>);

impl Enough {
    /// Records that the limit of `--exit-after` is reached, and ends the wait.
    fn reached(&self) {
        let (reached, waiting) = &mut *self.0.lock();
        *reached = true;
        if let Some(waiting) = waiting {
            waiting.close();
        }
    }

    /// Sets the wait to end. Ends it at once if the limit is already reached.
    fn ends(&self, waiting: Handle) {
        let (reached, known) = &mut *self.0.lock();
        if *reached {
            waiting.close();
        }
        *known = Some(waiting);
    }

    fn reached_after(self: &Arc<Self>, time: Duration) -> Result<(), Failure> {
        let enough = Arc::clone(self);
        let spawned = thread::Builder::new().name("exit-after".into()).spawn(move || {
            thread::sleep(time);
            enough.reached();
        });
        spawned.map(drop).map_err(|e| failed(format!("cannot start a thread: {e}")))
    }
}

/// Lets the connections finish. Another signal ends them at once.
fn drain(
    server: Server,
    mut signals: Signals,
    own_files: [Option<OwnFile>; 2],
    learn_file: Option<LearnFile>,
    config: &Config,
) -> Result<(), Failure> {
    if config.drain.is_zero() {
        log::info!("stopping: closing open connections now (--drain 0)");
    } else {
        log::info!(
            "stopping: connections have {} to finish; another signal closes them now",
            crate::config::duration::ShownDuration(config.drain)
        );
    }
    let finish_log = server.log_finisher();
    let remove_socket = server.admin_file_remover();
    let (handle, grace) = (signals.handle(), config.drain);
    let drained = thread::Builder::new()
        .name("drain".into())
        .spawn(move || {
            let handle = Closing(handle);
            let report = server.report_reader();
            let closed = server.shutdown(grace);
            let report = report();
            tell(log::Level::Debug, &report);
            drop(handle);
            (closed, report.counters.denials)
        })
        .map_err(|e| failed(format!("cannot start a thread: {e}")))?;
    for signal in &mut signals {
        if matches!(signal, SIGTERM | SIGINT) {
            log::warn!("stopped at once; connections were cut");
            finish_log(LAST_LINES);
            learn_file.iter().for_each(LearnFile::write_or_warn);
            drop(own_files);
            remove_socket();
            std::process::exit(Exit::Failure.code().into());
        }
    }
    let drained = drained.join();
    if let Some(file) = &learn_file {
        file.write()?;
    }
    let [refused, reported] = match drained {
        Ok((0, denials)) => {
            log::info!("stopped");
            denials
        }
        Ok((closed, denials)) => {
            let plural = if closed == 1 { "" } else { "s" };
            log::info!("stopped; {closed} connection{plural} had to be closed");
            denials
        }
        Err(_) => return Err(failed("the shutdown failed because of a bug".to_owned())),
    };
    match config.fail_on_deny && refused + reported > 0 {
        true => Err(Failure::denied(refused, reported)),
        false => Ok(()),
    }
}

/// Ends the wait for signals when it drops, even after a panic.
struct Closing(Handle);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Logs a report, one log line for each of its lines.
fn tell(level: log::Level, report: &Report) {
    for line in report.to_string().lines() {
        log::log!(level, "stats: {line}");
    }
}

fn failed(message: String) -> Failure {
    Failure::failed(message)
}

fn refused(effective: &Effective, e: StartError) -> Failure {
    match e {
        StartError::Bind(address, e) => Failure::bind(address, &e),
        StartError::Admin(place, e) => Failure::admin(&place, &e),
        StartError::AccessLog(e) => {
            let file = match &effective.config.access_log {
                LogTarget::File(file) => file.as_path(),
                LogTarget::Stdout => Path::new("-"),
                LogTarget::Off => Path::new("off"),
            };
            Failure::file("--access-log", file, "open", &e)
        }
        StartError::Hosts(wrong) => refused_hosts(&wrong, &effective.settings),
        StartError::Source(ip, e) => Failure::source(ip, &e),
        StartError::System(e) => failed(format!("cannot start: {e}")),
    }
}

/// The ports, one a line; the port of the admin listener comes last.
fn ports(server: &Server) -> String {
    let admin = match server.admin() {
        Some(ListenPlace::Tcp(address)) => Some(address),
        _ => None,
    };
    server.addrs().iter().chain(admin).map(|a| format!("{}\n", a.port())).collect()
}
