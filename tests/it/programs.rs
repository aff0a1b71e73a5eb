//! Programs: the tests find them, run them within a time limit, and end what they started.
//!
//! Where `CI` is set a missing program is a failure; elsewhere a message on stderr reports it. A program
//! runs in a process group of its own, and the rest of the group ends with it.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde_json::Value;
use tempfile::TempDir;

use crate::peers::{STEP, comes_true, eventually};
use crate::proxies::{Binary, without_settings};

/// The time limit of a program that is run to its end.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Settings of the user who runs the tests, which would lead a program elsewhere.
const SETTINGS: &[&str] = &[
    "ALL_PROXY",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "NODE_OPTIONS",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
];

/// A command that belongs to every Debian; `None` if it is missing. Programs that somebody has to
/// install are for `clients` alone.
pub(crate) fn system(name: &str) -> Option<Command> {
    assert!(["mkfifo", "mount", "setpriv", "sh", "unshare"].contains(&name), "{name}");
    found(name)
}

/// The command `name`, without the settings of the user who runs the tests; `None` if it is missing.
pub(crate) fn found(name: &str) -> Option<Command> {
    let mut dirs: Vec<PathBuf> =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    dirs.push("/usr/sbin".into());
    match dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file()) {
        Some(path) => Some(clean(path)),
        None => missing(name),
    }
}

/// `path` as a command, without those settings and without stdin.
pub(crate) fn clean(path: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(path);
    for name in SETTINGS {
        command.env_remove(name);
    }
    without_settings(&mut command);
    command.stdin(Stdio::null());
    command
}

/// Reports that `what` is missing; fails where it must not be.
pub(crate) fn missing<T>(what: &str) -> Option<T> {
    assert!(std::env::var_os("CI").is_none(), "{what} is missing");
    eprintln!("{what} is missing: not tested with it");
    None
}

/// The output of a program that has ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Runs it. Returns its stdout if it succeeds.
#[track_caller]
pub(crate) fn output(command: &mut Command) -> Vec<u8> {
    let ended = run(command);
    assert!(
        ended.status.success(),
        "{command:?}: {}\n{}\n{}",
        ended.status,
        ended.stderr,
        ended.text()
    );
    ended.stdout
}

/// Runs it. Returns its stdout as text if it succeeds.
#[track_caller]
pub(crate) fn text(command: &mut Command) -> String {
    String::from_utf8(output(command)).unwrap()
}

/// Runs it to its end, within [`LIMIT`].
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Ended {
    let mut group = Group::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let stdout = all_of(group.child.stdout.take().unwrap());
    let stderr = all_of(group.child.stderr.take().unwrap());
    let in_time = group.ends_within(LIMIT);
    let status = group.end();
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    let ended = Ended { status, stdout, stderr };
    assert!(in_time, "{command:?}: not after {LIMIT:?}\n{}\n{}", ended.stderr, ended.text());
    ended
}

fn all_of(mut from: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        // After an error, the bytes read so far are the output.
        let _ = from.read_to_end(&mut all);
        all
    })
}

/// A child that leads a process group. The whole group ends with it.
struct Group {
    child: Child,
    has_ended: bool,
}

impl Group {
    #[track_caller]
    fn spawn(command: &mut Command) -> Self {
        let child = command.process_group(0).spawn();
        let child = child.unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Self { child, has_ended: false }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap()).unwrap()
    }

    /// Waits for the child's end, but leaves it to be reaped, so that no other process gets its number.
    fn ends_within(&self, limit: Duration) -> bool {
        let pidfd = pidfd_open(self.pid(), PidfdFlags::empty()).unwrap();
        let limit = Timespec { tv_sec: limit.as_secs().try_into().unwrap(), tv_nsec: 0 };
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit)).unwrap() > 0
    }

    /// Ends the rest of the group, including the child.
    fn end(&mut self) -> ExitStatus {
        if !self.has_ended {
            // It fails if nothing is left.
            let _ = kill_process_group(self.pid(), Signal::KILL);
            self.has_ended = true;
        }
        self.child.wait().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}

/// A server program and its directory; ended when dropped, with everything it started.
pub(crate) struct Running {
    group: Group,
    pub(crate) dir: TempDir,
}

impl Running {
    pub(crate) fn is_over(&self) -> bool {
        self.group.ends_within(Duration::ZERO)
    }

    pub(crate) fn said(&self) -> String {
        let said = fs::read(self.dir.path().join("said")).unwrap_or_default();
        String::from_utf8_lossy(&said).into_owned()
    }
}

/// Starts `command`, which listens on `addr`.
#[track_caller]
pub(crate) fn started(command: &mut Command, addr: SocketAddr, dir: TempDir) -> Running {
    let running = in_background(command, dir);
    let mut is_up = false;
    comes_true(STEP, &mut || {
        is_up = TcpStream::connect(addr).is_ok();
        is_up || running.is_over()
    });
    assert!(is_up, "{command:?}: {}", running.said());
    running
}

/// Starts `command`.
#[track_caller]
pub(crate) fn in_background(command: &mut Command, dir: TempDir) -> Running {
    let said = fs::File::create(dir.path().join("said")).unwrap();
    command.stdout(said.try_clone().unwrap()).stderr(said);
    Running { group: Group::spawn(command), dir }
}

/// A port that is free on every IPv4 address, for programs that cannot choose one and for tests that
/// need the same port on several addresses.
///
/// The port is below those that the system chooses, so no connection gets it meanwhile. No test gets a
/// port twice.
pub(crate) fn free_port() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        // Two runs at the same time begin at different places. Chromium refuses 10080.
        let port = 10_100 + std::process::id().wrapping_mul(97).wrapping_add(next) % 22_000;
        let port = port.try_into().unwrap();
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        }
    }
}

/// A directory that servers can read when they have become another user.
pub(crate) fn open_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// The real binary, with a log of each exchange and tunnel.
#[track_caller]
pub(crate) fn logging_proxy(args: &[&str]) -> Binary {
    Binary::start(&[&["--access-log", "-", "--log-format", "json"], args].concat())
}

/// The log of a [`logging_proxy`], once there is `enough`.
#[track_caller]
pub(crate) fn logged(proxy: &Binary, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let mut lines = Vec::new();
    let is_enough = comes_true(STEP, &mut || {
        let text = proxy.stdout();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        lines = whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        enough(&lines)
    });
    assert!(is_enough, "in the log: {:#?}", lines.iter().map(in_short).collect::<Vec<_>>());
    lines
}

/// A log line for a person: method, target and status.
pub(crate) fn in_short(line: &Value) -> String {
    let word = |key: &str| line[key].as_str().unwrap_or("-").to_owned();
    format!("{} {} {} {}", word("method"), word("target"), line["status"], word("error"))
}

/// How many client connections these lines came over.
pub(crate) fn client_connections(lines: &[Value]) -> usize {
    let mut clients: Vec<_> = lines.iter().map(|line| line["client"].as_str().unwrap()).collect();
    clients.sort_unstable();
    clients.dedup();
    clients.len()
}

#[test]
fn a_program_that_runs_too_long_ends_with_all_it_started() {
    let Some(mut sh) = system("sh") else { return };
    let since = Instant::now();
    let mut group = Group::spawn(
        sh.args(["-c", "sleep 30 & echo $!; wait"]).stdout(Stdio::piped()).stderr(Stdio::null()),
    );
    let stdout = all_of(group.child.stdout.take().unwrap());
    assert!(!group.ends_within(Duration::ZERO));
    // The pipe closes when no process is left that could write to it.
    group.end();
    let pid = String::from_utf8(stdout.join().unwrap()).unwrap();
    eventually(|| !Path::new("/proc").join(pid.trim()).join("exe").exists());
    assert!(since.elapsed() < STEP);
}
