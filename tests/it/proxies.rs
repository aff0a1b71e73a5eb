//! Starts proxies: in this process through the library, or as the real binary.
//!
//! In-process proxies are quick and have counters to ask. The binary is for things that only a process
//! has: arguments, signals, exit codes, descriptors, threads, CPU time.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use parking_lot::Mutex;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use tempfile::TempDir;
use threadgate::Server;
use threadgate::net::resolve::Resolve;
use threadgate::server::{Options, Via};

use crate::hostile::HangingResolver;
use crate::peers::{Peer, Response, STEP, comes_true, eventually_eq};
use crate::servers::Origin;

/// The number of workers of a proxy, unless a test is about that number.
pub(crate) fn threads() -> NonZeroUsize {
    match std::env::var("THREADGATE_TEST_THREADS") {
        Ok(n) => n.parse().expect("THREADGATE_TEST_THREADS is a number of threads"),
        Err(_) => NonZeroUsize::MIN,
    }
}

/// A proxy on loopback with nothing special about it.
pub(crate) fn proxy() -> Server {
    proxy_with(|_| {})
}

/// A proxy on loopback with changed options.
pub(crate) fn proxy_with(change: impl FnOnce(&mut Options)) -> Server {
    let mut options = Options { threads: Some(threads()), ..Options::default() };
    // A slow test still means to use the connection again.
    options.pool.unrepeatable = STEP;
    change(&mut options);
    Server::start(options).expect("starts")
}

/// A proxy with one worker: if anything holds that, nobody else is served.
pub(crate) fn proxy_with_one_worker(change: impl FnOnce(&mut Options)) -> Server {
    proxy_with(|options| {
        options.threads = Some(NonZeroUsize::MIN);
        change(options);
    })
}

/// A proxy that adds no Via, so that messages can be compared byte for byte.
pub(crate) fn proxy_without_via() -> Server {
    proxy_with(|options| options.via = Via::Off)
}

/// A proxy that finds every name on IPv4 loopback.
pub(crate) fn proxy_with_names() -> Server {
    proxy_with(|options| options.resolver = Arc::new(Names::all(Ipv4Addr::LOCALHOST.into())))
}

/// Names without a network.
#[derive(Default, Debug)]
pub(crate) struct Names {
    known: HashMap<&'static str, Vec<IpAddr>>,
    all_others: Vec<IpAddr>,
}

impl Names {
    pub(crate) fn all(ip: IpAddr) -> Self {
        Self { known: HashMap::new(), all_others: vec![ip] }
    }

    pub(crate) fn with(mut self, name: &'static str, ips: &[IpAddr]) -> Self {
        self.known.insert(name, ips.to_vec());
        self
    }
}

impl Resolve for Names {
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let ips = self.known.get(host).unwrap_or(&self.all_others);
        if ips.is_empty() {
            return Err(io::Error::other("no such name"));
        }
        Ok(ips.clone())
    }
}

impl Resolve for HangingResolver {
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        self.lookup(host)
    }
}

/// Asks `proxy` for `path` at `origin` on a connection of its own.
#[track_caller]
pub(crate) fn get(proxy: SocketAddr, origin: SocketAddr, path: &str) -> Response {
    let mut client = Peer::connect(proxy);
    client.send(get_request(origin, path));
    client.read_response()
}

pub(crate) fn get_request(origin: SocketAddr, path: &str) -> String {
    format!("GET http://{origin}{path} HTTP/1.1\r\nHost: {origin}\r\n\r\n")
}

/// The real binary, started on a free port of loopback; killed when dropped.
pub(crate) struct Binary {
    child: Child,
    pub(crate) addr: SocketAddr,
    stdout: Collected,
    stderr: Collected,
    pub(crate) dir: TempDir,
}

impl Binary {
    /// `threadgate` with a free port, [`threads`] workers and `args`.
    #[track_caller]
    pub(crate) fn start(args: &[&str]) -> Self {
        let threads = threads().to_string();
        let usual = ["--listen", "127.0.0.1:0", "--threads", &threads];
        Self::start_as(&[&usual, args].concat())
    }

    /// `threadgate` with `args` alone.
    #[track_caller]
    pub(crate) fn start_as(args: &[&str]) -> Self {
        Self::spawn(command(args))
    }

    /// The usual command, which may open only this many files.
    #[track_caller]
    pub(crate) fn start_limited(files: u32, args: &[&str]) -> Self {
        let script = format!("ulimit -n {files} && exec \"$0\" --listen 127.0.0.1:0 \"$@\"");
        let mut command = piped("sh");
        command.arg("-c").arg(script).arg(PROGRAM).args(args);
        Self::spawn(command)
    }

    /// The usual command with `args`, started by another program with arguments of its own before it.
    #[track_caller]
    pub(crate) fn start_by(by: &[&str], change: impl FnOnce(&mut Command), args: &[&str]) -> Self {
        let threads = threads().to_string();
        let mut command = piped(by[0]);
        command.args(&by[1..]).arg(PROGRAM);
        command.args(["--listen", "127.0.0.1:0", "--threads", &threads]).args(args);
        change(&mut command);
        Self::spawn(command)
    }

    #[track_caller]
    fn spawn(mut command: Command) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port_file = dir.path().join("port");
        command.arg("--port-file").arg(&port_file);
        let mut child = command.spawn().expect("the binary starts");
        let stdout = match child.stdout.take() {
            Some(stdout) => collected(stdout),
            None => collected(io::empty()),
        };
        let stderr = collected(child.stderr.take().unwrap());
        let mut port = None;
        comes_true(STEP, &mut || {
            let text = fs::read_to_string(&port_file).unwrap_or_default();
            port = text.split_once('\n').and_then(|(first, _)| first.parse().ok());
            port.is_some() || child.try_wait().unwrap().is_some()
        });
        let Some(port) = port else {
            let _ = child.kill();
            panic!("no port file; stderr: {}", stderr.text());
        };
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self { child, addr, stdout, stderr, dir }
    }

    /// `http://127.0.0.1:PORT`, the form in which tools take their proxy.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub(crate) fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Whether no process holds its stdout open any more.
    pub(crate) fn stdout_has_ended(&self) -> bool {
        self.stdout.has_ended()
    }

    pub(crate) fn stderr(&self) -> String {
        self.stderr.text()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the process is still there");
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.wait_for(STEP).unwrap_or_else(|| panic!("still running after {STEP:?}"))
    }

    pub(crate) fn wait_for(&mut self, limit: Duration) -> Option<ExitStatus> {
        let mut status = None;
        comes_true(limit, &mut || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        if status.is_some() {
            self.stdout.wait();
            self.stderr.wait();
        }
        status
    }

    /// Open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        self.entries("fd").len()
    }

    /// Open sockets. Descriptors of empty pipes stay for a while, and are few.
    pub(crate) fn sockets(&self) -> usize {
        let links = self.entries("fd").into_iter();
        let links = links.filter_map(|fd| fs::read_link(self.proc().join("fd").join(fd)).ok());
        links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
    }

    /// Lets it open only this many more descriptors from now on. Its acceptor reserves one of them.
    pub(crate) fn leave_descriptors(&self, left: usize) {
        let names = self.entries("fd").into_iter();
        let taken: Vec<u64> = names.map(|name| name.to_str().unwrap().parse().unwrap()).collect();
        let limit = (0..).filter(|number| !taken.contains(number)).nth(left);
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        let limit = Rlimit { current: limit, maximum };
        prlimit(Some(self.pid()), Resource::Nofile, limit).expect("a process of ours");
    }

    /// Memory in use that is not shared, in KiB.
    pub(crate) fn memory(&self) -> usize {
        let status = fs::read_to_string(self.proc().join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// A snapshot of its counters, which it writes to the log on USR2. Rare events, which stand last,
    /// may be missing: ask again.
    #[track_caller]
    pub(crate) fn snapshot(&self) -> String {
        const FIRST: &str = "stats: connections ";
        let before = self.stderr().matches(FIRST).count();
        self.signal(Signal::USR2);
        let mut said = String::new();
        let whole = comes_true(STEP, &mut || {
            said = self.stderr();
            let last = said.rfind(FIRST).map(|at| said.split_off(at)).unwrap_or_default();
            let new = said.matches(FIRST).count() >= before;
            said = last;
            new && said.contains("stats: patient reads")
        });
        assert!(whole, "no snapshot: {said}");
        said
    }

    /// How often each of its threads was switched to.
    pub(crate) fn context_switches(&self) -> Vec<(String, String)> {
        let tasks = self.entries("task");
        let status = |task| {
            let text =
                fs::read_to_string(self.proc().join("task").join(task).join("status")).unwrap();
            let line =
                |key| text.lines().find(|l| l.starts_with(key)).unwrap_or_default().to_owned();
            (line("Name:"), line("voluntary_ctxt_switches:"))
        };
        let mut all: Vec<_> = tasks.iter().map(status).collect();
        all.sort();
        all
    }

    /// The names of its threads, sorted.
    pub(crate) fn thread_names(&self) -> Vec<String> {
        let tasks = self.entries("task");
        let names = tasks
            .iter()
            .map(|task| fs::read_to_string(self.proc().join("task").join(task).join("comm")));
        let mut names: Vec<_> =
            names.filter_map(Result::ok).map(|name| name.trim().to_owned()).collect();
        names.sort();
        names
    }

    /// The same, once each thread has its own name, which it sets a moment after it was started.
    #[track_caller]
    pub(crate) fn started_threads(&self) -> Vec<String> {
        let named = |names: &[String]| names.iter().filter(|name| *name == "threadgate").count();
        eventually_eq(|| named(&self.thread_names()), 1);
        self.thread_names()
    }

    /// CPU time used so far, in clock ticks (10 ms).
    pub(crate) fn cpu_ticks(&self) -> u64 {
        let stat = fs::read_to_string(self.proc().join("stat")).unwrap();
        // The second field is the name in parentheses; user and system time are the 14th and 15th.
        let after_name = stat.rsplit_once(')').unwrap().1;
        after_name.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().unwrap()).sum()
    }

    fn entries(&self, what: &str) -> Vec<std::ffi::OsString> {
        let entries = fs::read_dir(self.proc().join(what)).unwrap();
        entries.filter_map(Result::ok).map(|entry| entry.file_name()).collect()
    }

    fn proc(&self) -> std::path::PathBuf {
        std::path::PathBuf::from(format!("/proc/{}", self.child.id()))
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the proxy said:\n{}", self.stderr());
        }
    }
}

/// The binary with `args`, output piped.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = piped(PROGRAM);
    command.args(args);
    command
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_threadgate");

fn piped(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    without_settings(&mut command);
    command
}

/// Removes settings of the user who runs the tests, for the tests or for a proxy of the user's own.
pub(crate) fn without_settings(command: &mut Command) {
    let ours = |name: &str| name == "RUST_LOG" || name.starts_with("THREADGATE_");
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(ours) {
            command.env_remove(name);
        }
    }
}

/// The bytes read from a pipe so far.
struct Collected {
    said: Arc<Mutex<String>>,
    ended: Receiver<()>,
}

impl Collected {
    fn text(&self) -> String {
        self.said.lock().clone()
    }

    fn has_ended(&self) -> bool {
        matches!(self.ended.try_recv(), Err(TryRecvError::Disconnected))
    }

    /// Waits, when the process is gone, until its last output is here.
    fn wait(&self) {
        // Nothing is ever sent: only the end of the sender counts.
        let _ = self.ended.recv_timeout(STEP);
    }
}

/// Reads `from` to its end on a thread of its own.
fn collected(mut from: impl Read + Send + 'static) -> Collected {
    let said = Arc::new(Mutex::new(String::new()));
    let collector = Arc::clone(&said);
    let (alive, ended) = bounded(0);
    thread::spawn(move || {
        let _alive: Sender<()> = alive;
        let mut buf = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut buf) {
            collector.lock().push_str(&String::from_utf8_lossy(&buf[..n]));
        }
    });
    Collected { said, ended }
}

/// One exchange without request content. `{o}` in `request` is the origin server's address. Returns the
/// request that the server saw, and the response that the client got.
#[track_caller]
pub(crate) fn exchange(
    proxy: &Server,
    request: &str,
    response: &'static str,
) -> (String, Response) {
    let (sender, seen) = crossbeam_channel::bounded(1);
    let origin = Origin::script(1, move |peer| {
        sender.send(peer.read_head()).unwrap();
        peer.send(response);
    });
    let mut client = Peer::connect(proxy.addr());
    client.send(request.replace("{o}", &origin.addr.to_string()));
    let response = client.read_response();
    let seen = seen.recv_timeout(STEP).unwrap_or_else(|_| panic!("never forwarded: {response:?}"));
    origin.join();
    (seen, response)
}

/// A short response, for when its content is not what the test is about.
pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
