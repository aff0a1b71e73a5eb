//! Requirements of a supervisor, a script or an init system: a sign that the proxy is ready, its process
//! number in a file, and an end by itself.

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::lifecycle::{fails, run_command};
use crate::peers::{Moment, Peer, STEP, eventually};
use crate::proxies::{Binary, OK, command, get, get_request};
use crate::servers::Origin;

/// The usual command, run by a shell `script` in which it is `"$@"`.
#[track_caller]
fn by_shell(script: &str, args: &[&str]) -> Binary {
    Binary::start_by(&["sh", "-c", script, "sh"], |_| {}, args)
}

/// The status of `/healthz`, on a connection of its own.
fn healthz(proxy: &Binary) -> u16 {
    let mut client = Peer::connect(proxy.addr);
    client.send("GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    client.read_response().status
}

#[test]
fn the_ready_descriptor_gets_a_line_and_is_closed_while_the_proxy_runs() {
    // The shell's stdout is descriptor 3 of the proxy, and of nothing else, so its end is the end of
    // this test's pipe.
    let proxy = by_shell("exec \"$@\" 3>&1 >/dev/null", &["--ready-fd", "3"]);
    eventually(|| proxy.stdout_has_ended());
    assert_eq!(proxy.stdout(), "\n");
    assert_eq!(healthz(&proxy), 200);
}

#[test]
fn a_ready_descriptor_that_nobody_reads_costs_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    // A FIFO can be opened for writing while it has a reader, here the shell itself.
    let script = format!(
        "mkfifo {0} && exec 4<>{0} && exec 3>{0} && exec 4>&- && exec \"$@\"",
        dir.path().join("f").display()
    );
    let proxy = by_shell(&script, &["--ready-fd", "3"]);
    eventually(|| proxy.stderr().contains("WARN --ready-fd: cannot write to 3: Broken pipe"));
    assert_eq!(healthz(&proxy), 200);
}

#[test]
fn a_descriptor_that_is_not_there_or_not_for_writing_is_a_usage_error() {
    fails(&["-p", "0", "--ready-fd", "9"], 2, &["--ready-fd: 9 cannot be written to: Bad file"]);
    fails(&["-p", "0", "--ready-fd", "1"], 2, &["--ready-fd: 1 is stdin, stdout or stderr"]);
    let mut shell = command(&[]);
    let program = shell.get_program().to_owned();
    shell = std::process::Command::new("sh");
    shell.args(["-c", "exec \"$0\" -p 0 --ready-fd 3 3</dev/null"]).arg(program);
    shell.stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let output = run_command(shell);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("3 cannot be written to: it is open for reading only"), "{stderr}");
}

#[test]
fn systemd_is_told_of_start_reload_and_stop() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(STEP)).unwrap();
    let told = || {
        let mut buf = [0; 500];
        let n = manager.recv(&mut buf).expect("told in time");
        String::from_utf8(buf[..n].to_vec()).unwrap()
    };
    let mut proxy = Binary::start_by(
        &["env"],
        |command| {
            command.env("NOTIFY_SOCKET", &path);
        },
        &[],
    );
    assert_eq!(told(), format!("READY=1\nSTATUS=listening on {}", proxy.addr));
    proxy.signal(Signal::HUP);
    assert!(told().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert!(told().starts_with("READY=1\n"));
    proxy.signal(Signal::TERM);
    assert!(told().starts_with("STOPPING=1\n"));
    assert_eq!(proxy.wait().code(), Some(0));
}

#[test]
fn a_manager_that_is_not_there_costs_a_warning() {
    let proxy = Binary::start_by(
        &["env"],
        |command| {
            command.env("NOTIFY_SOCKET", "/nonexistent/notify");
        },
        &[],
    );
    eventually(|| proxy.stderr().contains("WARN NOTIFY_SOCKET=/nonexistent/notify: "));
    assert_eq!(healthz(&proxy), 200);
}

#[test]
fn the_pid_file_has_the_number_while_the_proxy_runs() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let name = file.to_str().unwrap();
    // The file of a dead process is replaced: no process has this number.
    fs::write(&file, "4194305\n").unwrap();
    let mut proxy = Binary::start(&["--pid-file", name]);
    let number = format!("{}\n", proxy.pid().as_raw_pid());
    eventually(|| fs::read_to_string(&file).unwrap() == number);

    fails(
        &["-p", "0", "--pid-file", name],
        1,
        &[&format!("--pid-file {name}: threadgate already runs as process {}", number.trim())],
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), number, "and nothing was done to the file");

    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(!file.exists());
}

#[test]
fn a_second_signal_and_a_failed_start_leave_no_pid_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let name = file.to_str().unwrap();
    let mut proxy = Binary::start(&["--drain", "1h", "--pid-file", name]);
    let mut client = Peer::connect(proxy.addr);
    client.send("GET / HTTP/1.1\r\n");
    eventually(|| file.exists());
    proxy.signal(Signal::TERM);
    eventually(|| proxy.stderr().contains("stopping"));
    proxy.signal(Signal::TERM);
    proxy.wait();
    assert!(!file.exists());

    fails(&["-p", "0", "--pid-file", name, "--port-file", "/nonexistent/f"], 1, &["--port-file"]);
    assert!(!file.exists());
    fails(&["-p", "0", "--pid-file", "/nonexistent/f"], 1, &["--pid-file /nonexistent/f: "]);
}

#[test]
fn a_killed_proxy_leaves_its_file_and_the_next_takes_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let name = file.to_str().unwrap();
    let mut killed = Binary::start(&["--pid-file", name]);
    eventually(|| file.exists());
    killed.signal(Signal::KILL);
    killed.wait();
    let left = fs::read_to_string(&file).unwrap();
    let next = Binary::start(&["--pid-file", name]);
    eventually(|| fs::read_to_string(&file).unwrap() != left);
    assert_eq!(healthz(&next), 200);
}

#[test]
fn a_file_that_is_no_pid_file_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("notes");
    fs::write(&file, "dear diary").unwrap();
    fails(
        &["-p", "0", "--pid-file", file.to_str().unwrap()],
        1,
        &["does not hold a process number", "--pid-file"],
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), "dear diary");
}

#[track_caller]
fn fifo(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn a_fifo_or_a_device_is_no_pid_file_and_holds_up_no_start() {
    let dir = tempfile::tempdir().unwrap();
    let wait = dir.path().join("fifo");
    fifo(&wait);
    // Not under its real path, where a defect would cost the machine its /dev/null.
    let null = dir.path().join("null");
    symlink("/dev/null", &null).unwrap();
    for file in [&wait, &null] {
        let file = file.to_str().unwrap();
        fails(&["-p", "0", "--pid-file", file], 1, &["cannot read it: it is not a regular file"]);
    }
    assert!(fs::metadata(&wait).unwrap().file_type().is_fifo());
    assert!(fs::metadata(&null).unwrap().file_type().is_char_device());
}

#[test]
fn a_fifo_or_a_device_gets_the_ports_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("fifo");
    fifo(&file);
    let args = |file| ["-p", "0", "--exit-after", "50ms", "--port-file", file];
    fails(&args(file.to_str().unwrap()), 1, &["no process reads it"]);
    let mut reader =
        fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&file).unwrap();
    let output = crate::lifecycle::run(&args(file.to_str().unwrap()));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let mut ports = String::new();
    reader.read_to_string(&mut ports).unwrap();
    assert!(ports.trim().parse::<u16>().is_ok() && ports.ends_with('\n'), "{ports:?}");
    assert!(fs::metadata(&file).unwrap().file_type().is_fifo());

    let output = crate::lifecycle::run(&args("/proc/self/fd/1"));
    let ports = String::from_utf8(output.stdout).unwrap();
    assert!(ports.trim().parse::<u16>().is_ok(), "{ports:?}");
}

#[test]
fn the_port_file_goes_with_the_proxy() {
    let mut proxy = Binary::start(&[]);
    let file = proxy.dir.path().join("port");
    assert!(file.exists());
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(!file.exists(), "who waits for it would read yesterday's ports");

    let mut proxy = Binary::start(&[]);
    let file = proxy.dir.path().join("port");
    fs::write(&file, "1\n").unwrap();
    proxy.signal(Signal::TERM);
    proxy.wait();
    assert_eq!(fs::read_to_string(&file).unwrap(), "1\n", "another's");
}

#[test]
fn of_several_started_at_once_one_has_the_pid_file() {
    const TOGETHER: usize = 6;
    let dir = tempfile::tempdir().unwrap();
    let name = dir.path().join("pid");
    for _ in 0..3 {
        let args = ["-p", "0", "--exit-after", "1500ms", "--pid-file", name.to_str().unwrap()];
        let started: Vec<_> = (0..TOGETHER).map(|_| command(&args).spawn().unwrap()).collect();
        let outputs = started.into_iter().map(|child| child.wait_with_output().unwrap());
        let (ran, refused): (Vec<_>, Vec<_>) = outputs.partition(|output| output.status.success());
        assert_eq!((ran.len(), refused.len()), (1, TOGETHER - 1), "{ran:?}");
        for output in &refused {
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(stderr.contains("already runs as process"), "{stderr}");
        }
        assert!(!name.exists());
    }
}

#[test]
fn a_second_signal_leaves_no_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let mut proxy =
        Binary::start(&["--drain", "1h", "--admin", &format!("unix:{}", socket.display())]);
    let mut client = Peer::connect(proxy.addr);
    client.send("GET / HTTP/1.1\r\n");
    eventually(|| socket.exists());
    // A connection that is still in the backlog is nothing to wait for.
    eventually(|| proxy.snapshot().contains(" 1 active, 1 accepted"));
    proxy.signal(Signal::TERM);
    eventually(|| proxy.stderr().contains("stopping"));
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(1));
    assert!(!socket.exists());
}

#[test]
fn it_stops_when_so_many_exchanges_are_over() {
    let mut proxy = Binary::start(&["--exit-after", "3"]);
    for _ in 0..2 {
        assert_eq!(healthz(&proxy), 200);
    }
    let mut nonsense = Peer::connect(proxy.addr);
    assert_eq!(healthz(&proxy), 200, "two of them do not stop it, the third is answered");
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(proxy.stderr().contains("--exit-after"), "{}", proxy.stderr());
    nonsense.expect_eof();
}

#[test]
fn failed_exchanges_and_tunnels_count_when_they_are_over() {
    let mut proxy = Binary::start(&["--exit-after", "2"]);
    let echo = Origin::script(1, |peer| {
        assert_eq!(peer.read_text(4), "ping");
        peer.send("pong");
        peer.expect_end();
    });
    let mut tunnel = Peer::connect(proxy.addr);
    tunnel.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", echo.addr));
    tunnel.read_head();
    let mut client = Peer::connect(proxy.addr);
    client.send("nonsense\r\n\r\n");
    assert_eq!(client.read_response().status, 400);
    // An open tunnel is not over, so the refusal was the first.
    tunnel.send("ping");
    assert_eq!(tunnel.read_text(4), "pong");
    assert!(!proxy.stderr().contains("stopping"), "{}", proxy.stderr());
    drop(tunnel);
    assert_eq!(proxy.wait().code(), Some(0));
    echo.join();
}

#[test]
fn what_is_under_way_when_it_is_enough_is_finished() {
    let (asked, answer) = (Moment::new(), Moment::new());
    let (is_asked, may_answer) = (asked.clone(), answer.clone());
    let slow = Origin::script(1, move |peer| {
        peer.read_head();
        is_asked.has_come();
        may_answer.wait();
        peer.send(OK);
    });
    let mut proxy = Binary::start(&["--exit-after", "1"]);
    let mut client = Peer::connect(proxy.addr);
    client.send(get_request(slow.addr, "/"));
    asked.wait();
    assert_eq!(healthz(&proxy), 200);
    eventually(|| proxy.stderr().contains("stopping"));
    // The log announces the stop before it happens.
    eventually(|| TcpStream::connect(proxy.addr).is_err());
    answer.has_come();
    let response = client.read_response();
    assert_eq!((response.text(), response.field("connection")), ("ok", Some("close")));
    assert_eq!(proxy.wait().code(), Some(0));
    slow.join();
}

#[test]
fn a_signal_after_it_was_enough_still_cuts() {
    let asked = Moment::new();
    let is_asked = asked.clone();
    let hangs = Origin::script(1, move |peer| {
        peer.read_head();
        is_asked.has_come();
        peer.read_to_any_end();
    });
    let mut proxy = Binary::start(&["--exit-after", "1", "--drain", "1h"]);
    let mut client = Peer::connect(proxy.addr);
    client.send(get_request(hangs.addr, "/"));
    asked.wait();
    assert_eq!(healthz(&proxy), 200);
    eventually(|| proxy.stderr().contains("stopping"));
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(1));
    client.read_to_any_end();
    hangs.join();
}

#[test]
fn it_stops_after_a_time() {
    let origin = Origin::answer(OK);
    let start = Instant::now();
    let mut proxy = Binary::start(&["--exit-after", "300ms"]);
    assert_eq!(get(proxy.addr, origin.addr, "/").text(), "ok");
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
    assert!(proxy.stderr().contains("--exit-after"), "{}", proxy.stderr());
}

#[test]
fn a_signal_comes_before_the_time() {
    let mut proxy = Binary::start(&["--exit-after", "1h"]);
    assert_eq!(healthz(&proxy), 200);
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(!proxy.stderr().contains("--exit-after"), "{}", proxy.stderr());
}
