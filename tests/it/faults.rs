//! Faults of the machine: descriptors run out, the process is stopped for a while, its clock jumps, its
//! disk is full, it meets a defect of its own.
//!
//! The proxy is the real binary here, with one fault each. Faults of the peers are in
//! `clients::faults_upstream` and `slow::faults_resets`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use threadgate::net::resolve::Resolve;

use crate::log_destinations::dropped;
use crate::peers::{Peer, STEP, comes_true, eventually, eventually_eq};
use crate::programs::system;
use crate::proxies::{Binary, OK, get_request, proxy_with};
use crate::servers::Origin;

pub(crate) const HEALTHZ: &str = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";

/// A client that was answered and stays.
#[track_caller]
pub(crate) fn idle_client(proxy: &Binary) -> Peer {
    let mut client = Peer::connect(proxy.addr);
    client.send(HEALTHZ);
    assert_eq!(client.read_response().status, 200);
    client
}

/// How many times the proxy has logged this.
pub(crate) fn said(proxy: &Binary, what: &str) -> usize {
    proxy.stderr().matches(what).count()
}

/// Stops a process, and waits until none of its threads runs any more.
#[track_caller]
pub(crate) fn stop(process: Pid) {
    kill_process(process, Signal::STOP).expect("still there");
    let tasks = format!("/proc/{}/task", process.as_raw_pid());
    let is_stopped = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('T'))
    };
    eventually(|| fs::read_dir(&tasks).unwrap().filter_map(Result::ok).all(is_stopped));
}

#[test]
fn without_descriptors_clients_wait_until_others_go_and_it_is_said_once() {
    const MANY: usize = 40;
    let proxy = Binary::start(&[]);
    drop(idle_client(&proxy));
    proxy.leave_descriptors(5);
    let mut waiting: Vec<_> = (0..MANY).map(|_| Peer::connect(proxy.addr)).collect();
    waiting.iter_mut().for_each(|client| client.send(HEALTHZ));
    eventually(|| said(&proxy, "cannot accept connections") == 1);
    eventually(|| proxy.snapshot().contains("stats: accept failures"));

    // The proxy tries again some times a second, and costs next to nothing meanwhile.
    let before = proxy.cpu_ticks();
    thread::sleep(Duration::from_secs(1));
    let ticks = proxy.cpu_ticks() - before;
    assert!(ticks <= 10, "{ticks} ticks of 10 ms in a second of waiting");

    let answered = |client: &mut Peer| client.has_something_within(Duration::from_millis(1));
    let served = waiting.iter_mut().filter_map(|client| answered(client).then_some(())).count();
    assert!((1..10).contains(&served), "{served} of {MANY} have a descriptor");

    // A client that was answered leaves, and makes room for the next.
    let begun = Instant::now();
    while !waiting.is_empty() {
        assert!(begun.elapsed() < STEP * 2, "{} were never served", waiting.len());
        waiting.retain_mut(|client| {
            let is_answered = answered(client);
            if is_answered {
                assert_eq!(client.read_response().status, 200);
            }
            !is_answered
        });
    }
    assert_eq!(said(&proxy, "cannot accept connections"), 1, "{}", proxy.stderr());
    drop(idle_client(&proxy));
}

#[test]
fn without_descriptors_idle_upstream_connections_go_before_anybody_is_refused() {
    const ORIGINS: usize = 12;
    let origins: Vec<_> = (0..ORIGINS).map(|_| Origin::answer(OK)).collect();
    let proxy = Binary::start(&[]);
    let mut client = idle_client(&proxy);
    proxy.leave_descriptors(6);
    for origin in &origins {
        client.send(get_request(origin.addr, "/"));
        let response = client.read_response();
        assert_eq!(response.status, 200, "{}", response.head);
    }
    assert!(proxy.snapshot().contains(&format!("{ORIGINS} connects, 0 reuses")));
    drop(proxy);
    origins.into_iter().for_each(Origin::join);
}

#[test]
fn without_descriptors_for_an_upstream_a_request_gets_a_503_that_says_so() {
    let origin = Origin::answer(OK);
    let proxy = Binary::start(&[]);
    let mut client = idle_client(&proxy);
    proxy.leave_descriptors(6);
    let others: Vec<_> = (0..20).map(|_| Peer::connect(proxy.addr)).collect();
    eventually(|| said(&proxy, "cannot accept connections") == 1);
    client.send(get_request(origin.addr, "/"));
    let refused = client.read_response();
    assert_eq!(refused.status, 503, "{}", refused.head);
    let status = refused.field("proxy-status").expect("Proxy-Status");
    assert!(status.contains("error=connection_limit_reached"), "{status}");
    assert!(refused.text().contains("no descriptor left"), "{}", refused.text());
    drop(others);
    // As soon as the others are gone; until then a 503 is right.
    let mut status = 503;
    comes_true(STEP, &mut || {
        client.send(get_request(origin.addr, "/"));
        status = client.read_response().status;
        status != 503
    });
    assert_eq!(status, 200);
    eventually(|| proxy.snapshot().contains("connect failures"));
    drop(proxy);
    origin.join();
}

/// A machine that is suspended, or too busy: everything due by then is due, and nothing is stuck.
#[test]
fn a_proxy_that_is_stopped_for_a_while_goes_on_and_what_is_overdue_ends_cleanly() {
    let names = ["--timeout-head", "--timeout-idle", "--timeout-response", "--timeout-tunnel"];
    let args: Vec<_> = names.iter().flat_map(|name| [*name, "1s"]).collect();
    let proxy = Binary::start(&args);
    let asked = crate::peers::Moment::new();
    let stands_still = crate::peers::Moment::new();
    let (is_asked, still) = (asked.clone(), stands_still.clone());
    let origin = Origin::script_at_once(3, move |peer| {
        if peer.try_read_head().is_some() {
            is_asked.has_come();
            still.wait();
            let _ = peer.try_send(OK);
        }
        peer.read_to_any_end();
    });
    let mut tunnel = Peer::connect(proxy.addr);
    tunnel.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.addr));
    assert!(tunnel.read_head().starts_with("HTTP/1.1 200 "));
    let mut idle = idle_client(&proxy);
    let mut half = Peer::connect(proxy.addr);
    half.send(&HEALTHZ[..20]);
    let mut waiting = Peer::connect(proxy.addr);
    waiting.send(get_request(origin.addr, "/"));
    asked.wait();
    let threads = proxy.started_threads();

    stop(proxy.pid());
    // Once for each request: the one already sent, and the one in the backlog.
    stands_still.has_come();
    stands_still.has_come();
    half.send(&HEALTHZ[20..]);
    let mut backlog = Peer::connect(proxy.addr);
    backlog.send(get_request(origin.addr, "/"));
    thread::sleep(Duration::from_millis(1500));
    proxy.signal(Signal::CONT);

    let begun = Instant::now();
    // The head came in time but was not seen in time: either answer is right.
    assert!([200, 408].contains(&half.read_response().status));
    assert!([200, 504].contains(&waiting.read_response().status));
    // No timeout began for the connection in the backlog.
    assert_eq!(backlog.read_response().status, 200);
    idle.expect_eof();
    tunnel.expect_end();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    drop(idle_client(&proxy));
    assert_eq!(proxy.thread_names(), threads);
    drop(proxy);
    origin.join();
}

/// Code of a library's user runs on a resolver thread. `clients/clock.rs` has the other way to a panic.
#[test]
fn a_resolver_that_panics_costs_a_502_and_no_thread() {
    #[derive(Debug)]
    struct Panics;
    impl Resolve for Panics {
        fn resolve(&self, host: &str) -> std::io::Result<Vec<std::net::IpAddr>> {
            assert!(!host.starts_with("bad"), "expected in the output of a passing run");
            Ok(vec![std::net::Ipv4Addr::LOCALHOST.into()])
        }
    }
    let proxy = proxy_with(|options| options.resolver = Arc::new(Panics));
    let origin = Origin::answer(OK);
    // More than there are resolver threads.
    for i in 0..40 {
        let mut client = Peer::connect(proxy.addr());
        client.send(format!("GET http://bad-{i}.example/ HTTP/1.1\r\nHost: a\r\n\r\n"));
        let response = client.read_response();
        assert_eq!(response.status, 502, "{}", response.head);
        let status = response.field("proxy-status").expect("Proxy-Status");
        assert!(status.contains("error=dns_error"), "{status}");
    }
    let mut client = Peer::connect(proxy.addr());
    let port = origin.addr.port();
    client.send(format!("GET http://good.example:{port}/ HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!(client.read_response().text(), "ok");
    drop(proxy);
    origin.join();
}

/// A proxy whose access log is in a file system of its own, with room for 512 KiB.
struct OnFullDisk {
    proxy: Binary,
    dir: PathBuf,
    _place: tempfile::TempDir,
}

impl OnFullDisk {
    fn start() -> Option<Self> {
        let unshare = system("unshare")?;
        let program = unshare.get_program().to_str().unwrap().to_owned();
        // A user who is not root becomes root in a user namespace.
        let options = if rustix::process::geteuid().is_root() { "-m" } else { "-Urm" };
        let place = tempfile::tempdir().unwrap();
        let path = place.path().to_str().unwrap();
        let mount = "mount -t tmpfs -o size=512k none \"$0\"";
        let by = |script| [&program, options, "sh", "-c", script, path];
        let may = std::process::Command::new(&program).args(&by(mount)[1..]).output().unwrap();
        if !may.status.success() {
            let why = String::from_utf8_lossy(&may.stderr).into_owned();
            assert!(std::env::var_os("CI").is_none(), "{why}");
            eprintln!("no file system can be mounted here ({why}): not tested with a full one");
            return None;
        }
        let script = format!("{mount} && exec \"$@\"");
        let log = place.path().join("log");
        let args = ["--access-log", log.to_str().unwrap(), "--log-format", "json"];
        let proxy = Binary::start_by(&by(&script), |_| {}, &args);
        let pid = proxy.pid().as_raw_pid();
        let dir = Path::new(&format!("/proc/{pid}/root")).join(path.trim_start_matches('/'));
        Some(Self { proxy, dir, _place: place })
    }
}

#[test]
fn an_access_log_on_a_full_disk_loses_lines_counts_them_and_comes_back() {
    const EACH: usize = 400;
    let Some(OnFullDisk { proxy, dir, _place }) = OnFullDisk::start() else { return };
    let mut client = idle_client(&proxy);
    let mut asked = 1;
    let mut ask = || {
        for _ in 0..EACH {
            client.send(format!("GET /healthz?{asked} HTTP/1.1\r\nHost: a\r\n\r\n"));
            assert_eq!(client.read_response().status, 200);
            asked += 1;
        }
        asked
    };
    let text = || fs::read_to_string(dir.join("log")).unwrap();
    // Each line is written or lost. A line that is still to come would fill the room that is made later.
    let settles = |asked| eventually_eq(|| text().lines().count() + dropped(&proxy), asked);
    let filler = dir.join("filler");
    fs::write(&filler, vec![b'x'; 490 << 10]).unwrap();
    settles(ask());
    assert_eq!(said(&proxy, "access log: cannot write to"), 1, "{}", proxy.stderr());
    settles(ask());
    fs::remove_file(&filler).unwrap();
    // Nothing announces the room: the proxy notices it with the next lines.
    let asked = ask();
    eventually(|| said(&proxy, "works again") == 1);
    assert_eq!(said(&proxy, "access log: cannot write to"), 1, "{}", proxy.stderr());

    eventually(|| text().contains(&format!("/healthz?{}\"", asked - 1)));
    let written = text();
    for line in written.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("a whole line");
        assert_eq!(line["status"], 200);
    }
    let lost = |said: &str| {
        let (_, rest) = said.split_once("works again; ")?;
        rest.split_once(" lines were lost")?.0.parse::<usize>().ok()
    };
    let lost = lost(&proxy.stderr()).expect("it says how many");
    assert!(lost > 0, "none");
    assert_eq!(written.lines().count() + lost, asked);
    // Rare events may be missing in a snapshot.
    eventually(|| proxy.snapshot().contains(&format!("access log lines dropped  {lost}")));
}
