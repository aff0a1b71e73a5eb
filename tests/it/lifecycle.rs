//! The binary from start to end: its messages, its exit status, and its reaction to signals.

use std::net::TcpStream;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::peers::{Moment, Peer, STEP, comes_true, eventually};
use crate::proxies::{Binary, OK, command, get, get_request};
use crate::servers::{Origin, listen};

/// Runs the binary to its end, which must come by itself.
#[track_caller]
pub(crate) fn run(args: &[&str]) -> Output {
    run_command(command(args))
}

/// Runs the command to its end, which must come by itself.
#[track_caller]
pub(crate) fn run_command(mut command: Command) -> Output {
    let mut child = command.spawn().unwrap();
    if !comes_true(STEP, &mut || child.try_wait().unwrap().is_some()) {
        let _ = child.kill();
        panic!("{command:?}: still running after {STEP:?}: {:?}", child.wait_with_output());
    }
    child.wait_with_output().unwrap()
}

#[track_caller]
pub(crate) fn fails(args: &[&str], code: i32, says: &[&str]) {
    let output = run(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{args:?}: stdout has {:?}", output.stdout);
    for word in says {
        assert!(stderr.contains(word), "{args:?}: no {word:?} in {stderr:?}");
    }
}

#[test]
fn it_says_in_one_line_where_it_listens_and_what_to_try() {
    let mut proxy = Binary::start(&[]);
    eventually(|| proxy.stderr().ends_with('\n'));
    let said = proxy.stderr();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains(&proxy.addr.to_string()), "{said}");
    assert!(said.contains("curl "), "{said}");
    assert!(
        said.contains(&format!("-x {}", proxy.url()))
            || said.contains(&format!("-x {}", proxy.addr)),
        "{said}"
    );
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(0));
    assert_eq!(proxy.stdout(), "", "stdout is for what was asked for");
}

#[test]
fn quiet_means_nothing_at_all_on_stderr() {
    let origin = Origin::answer(OK);
    let mut proxy = Binary::start(&["-q"]);
    assert_eq!(get(proxy.addr, origin.addr, "/").text(), "ok");
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(0));
    assert_eq!((proxy.stdout(), proxy.stderr()), (String::new(), String::new()));
}

#[test]
fn options_are_read_in_every_usual_spelling() {
    for args in [
        &["--port=0"][..],
        &["-p0"],
        &["-p", "0"],
        &["--port", "0", "-vv"],
        &["serve", "--port=0", "-t2", "-q"],
        &["serve", "-l", "127.0.0.1:0"],
        &["-l127.0.0.1:0", "--via=off", "--drain=1s", "--timeout-head=500ms"],
    ] {
        let mut proxy = Binary::start_as(args);
        assert_eq!(own_page(&proxy), 200, "{args:?}");
        proxy.signal(Signal::TERM);
        assert_eq!(proxy.wait().code(), Some(0), "{args:?}");
    }
}

/// The status of `/healthz`.
fn own_page(proxy: &Binary) -> u16 {
    let mut client = Peer::connect(proxy.addr);
    client.send("GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    client.read_response().status
}

#[test]
fn each_listener_listens_and_has_its_line_in_the_port_file() {
    let proxy = Binary::start_as(&["-l", "127.0.0.1:0", "-l", "127.0.0.2:0"]);
    let ports = std::fs::read_to_string(proxy.dir.path().join("port")).unwrap();
    let ports: Vec<u16> = ports.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(ports.len(), 2);
    for (ip, port) in [([127, 0, 0, 1], ports[0]), ([127, 0, 0, 2], ports[1])] {
        let mut client = Peer::connect((ip, port).into());
        client.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.read_response().status, 200);
    }
}

#[test]
fn a_wrong_word_is_a_usage_error_that_names_it() {
    for (args, word) in [
        (&["--nonsense"][..], "--nonsense"),
        (&["nonsense"], "nonsense"),
        (&["--threads", "0"], "--threads"),
        (&["--threads", "many"], "--threads"),
        (&["--threads"], "--threads"),
        (&["-t"], "-t"),
        (&["--listen", "nowhere"], "--listen"),
        (&["--listen", "127.0.0.1:70000"], "--listen"),
        (&["--port", "70000"], "--port"),
        (&["--timeout-head", "5 parsecs"], "--timeout-head"),
        (&["--timeout-idle", "-1s"], "--timeout-idle"),
        (&["--max-connections", "0"], "--max-connections"),
        (&["--max-head-size", "1"], "--max-head-size"),
        (&["--log-format", "xml"], "--log-format"),
        (&["--via", "a b"], "--via"),
        (&["--drain", "soon"], "--drain"),
        (&["serve", "extra"], "extra"),
    ] {
        fails(args, 2, &[word]);
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    for args in [&["--help"][..], &["-h"], &["serve", "--help"], &["help"]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        for option in ["--listen", "--port", "--threads", "--access-log"] {
            assert!(text.contains(option), "{args:?}: no {option} in {text}");
        }
        assert!(output.stderr.is_empty(), "{args:?}");
    }
    for args in [&["--version"][..], &["-V"]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            concat!("threadgate ", env!("CARGO_PKG_VERSION"), "\n")
        );
    }
}

#[test]
fn a_port_in_use_is_said_with_its_address() {
    let taken = listen();
    let addr = taken.local_addr().unwrap().to_string();
    fails(&["--listen", &addr], 69, &[&addr, "in use"]);
}

#[test]
fn an_address_of_another_machine_is_said_to_be_one() {
    fails(&["--listen", "192.0.2.1:3128"], 69, &["192.0.2.1:3128"]);
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    for option in ["--access-log", "--port-file"] {
        let output = run(&["--listen", "127.0.0.1:0", option, "/nonexistent/file"]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{option}: {stderr}");
        assert!(
            stderr.contains("/nonexistent/file") && stderr.contains(option),
            "{option}: {stderr}"
        );
    }
}

/// An exchange under way through `proxy`: the client, and the moment that lets the answer come.
fn under_way(proxy: &Binary) -> (Peer, Moment, Origin) {
    let (asked, answer) = (Moment::new(), Moment::new());
    let (is_asked, may_answer) = (asked.clone(), answer.clone());
    let origin = Origin::script(1, move |peer| {
        peer.read_head();
        is_asked.has_come();
        may_answer.wait();
        // The connection is gone if the proxy did not wait for it.
        let _ = peer.try_send(OK);
    });
    let mut client = Peer::connect(proxy.addr);
    client.send(get_request(origin.addr, "/"));
    asked.wait();
    (client, answer, origin)
}

fn refuses_connections(proxy: &Binary) -> bool {
    TcpStream::connect_timeout(&proxy.addr, Duration::from_millis(100)).is_err()
}

#[test]
fn a_signal_lets_what_is_under_way_end_and_takes_nothing_new() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut proxy = Binary::start(&[]);
        let (mut client, answer, origin) = under_way(&proxy);
        let mut idle = Peer::connect(proxy.addr);
        idle.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(idle.read_response().status, 200);
        proxy.signal(signal);
        // Idle clients are closed at once, and new ones refused.
        idle.expect_eof();
        eventually(|| refuses_connections(&proxy));
        answer.has_come();
        let response = client.read_response();
        assert_eq!(response.text(), "ok");
        assert_eq!(response.field("connection"), Some("close"), "{}", response.head);
        client.expect_eof();
        assert_eq!(proxy.wait().code(), Some(0), "{signal:?}");
        origin.join();
    }
}

#[test]
fn a_second_signal_ends_it_now() {
    let mut proxy = Binary::start(&["--drain", "1h"]);
    let (client, answer, origin) = under_way(&proxy);
    proxy.signal(Signal::TERM);
    eventually(|| refuses_connections(&proxy));
    proxy.signal(Signal::TERM);
    let start = Instant::now();
    proxy.wait();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    answer.has_come();
    drop(client);
    origin.join();
}

#[test]
fn a_drain_has_an_end() {
    let mut proxy = Binary::start(&["--drain", "300ms"]);
    let (mut client, answer, origin) = under_way(&proxy);
    let start = Instant::now();
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(0));
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(280), "too early: {took:?}");
    assert!(took < Duration::from_millis(2300), "too late: {took:?}");
    client.read_to_any_end();
    answer.has_come();
    origin.join();
}

/// A load balancer may have chosen this proxy just before it learnt of the end.
#[test]
fn a_connection_that_has_said_nothing_may_still_send_its_first_request() {
    let origin = Origin::answer(OK);
    let mut proxy = Binary::start(&[]);
    let mut asks = Peer::connect(proxy.addr);
    let mut idle = Peer::connect(proxy.addr);
    idle.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(idle.read_response().status, 200);
    let silent = Peer::connect(proxy.addr);
    assert_eq!(own_page(&proxy), 200, "all have been accepted");
    let begun = Instant::now();
    proxy.signal(Signal::TERM);
    // An idle connection between two requests ends at once.
    idle.expect_eof();
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
    asks.send(get_request(origin.addr, "/"));
    let response = asks.read_response();
    assert_eq!((response.status, response.field("connection")), (200, Some("close")));
    asks.expect_eof();
    // A connection that stays silent has a second.
    assert_eq!(proxy.wait().code(), Some(0));
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(900), "too early: {took:?}");
    assert!(took < Duration::from_millis(2500), "too late: {took:?}");
    drop(silent);
    origin.join();
}

#[test]
fn without_a_drain_nobody_is_waited_for_and_without_connections_neither() {
    for (args, client) in [(&["--drain", "0"][..], true), (&[], false)] {
        let mut proxy = Binary::start(args);
        let silent = client.then(|| Peer::connect(proxy.addr));
        assert_eq!(own_page(&proxy), 200);
        let begun = Instant::now();
        proxy.signal(Signal::TERM);
        assert_eq!(proxy.wait().code(), Some(0));
        assert!(begun.elapsed() < Duration::from_millis(700), "{:?}", begun.elapsed());
        drop(silent);
    }
}

#[test]
fn a_tunnel_is_drained_like_an_exchange() {
    let origin = Origin::script(1, |peer| {
        assert_eq!(peer.read_text(4), "ping");
        peer.send("pong");
        peer.expect_end();
    });
    let mut proxy = Binary::start(&[]);
    let mut client = Peer::connect(proxy.addr);
    client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.addr));
    client.read_head();
    proxy.signal(Signal::TERM);
    eventually(|| refuses_connections(&proxy));
    client.send("ping");
    assert_eq!(client.read_text(4), "pong");
    drop(client);
    assert_eq!(proxy.wait().code(), Some(0));
    origin.join();
}

#[test]
fn a_hanging_exchange_in_each_state_does_not_outlive_the_drain() {
    let mut proxy = Binary::start(&["--drain", "200ms"]);
    let hole = crate::hostile::DropsSyns::new();
    let origin = Origin::script(1, |peer| {
        peer.read_to_any_end();
    });
    let mut clients: Vec<_> = (0..4).map(|_| Peer::connect(proxy.addr)).collect();
    clients[1].send("GET / HTTP/1.1\r\nHo");
    clients[2].send(get_request(hole.addr, "/"));
    clients[3].send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.addr));
    clients[3].read_head();
    proxy.signal(Signal::TERM);
    let start = Instant::now();
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    origin.join();
}

#[test]
fn usr2_writes_a_snapshot_to_the_log() {
    let origin = Origin::answer(OK);
    let proxy = Binary::start(&[]);
    assert_eq!(get(proxy.addr, origin.addr, "/").text(), "ok");
    // The answer may reach the client before it is counted.
    eventually(|| {
        proxy.signal(Signal::USR2);
        let said = proxy.stderr();
        said.contains("connections") && said.contains("exchanges") && said.contains("1 finished")
    });
    assert_eq!(proxy.stdout(), "");
    assert_eq!(own_page(&proxy), 200, "and goes on");
    drop(proxy);
}

#[test]
fn signals_that_usually_kill_do_not() {
    let proxy = Binary::start(&[]);
    for signal in [Signal::PIPE, Signal::HUP, Signal::USR1] {
        proxy.signal(signal);
        assert_eq!(own_page(&proxy), 200, "{signal:?}");
    }
}

#[test]
fn hup_opens_the_access_log_again() {
    let dir = tempfile::tempdir().unwrap();
    let (log, old) = (dir.path().join("log"), dir.path().join("log.1"));
    let proxy = Binary::start(&["--access-log", log.to_str().unwrap()]);
    assert_eq!(own_page(&proxy), 200);
    eventually(|| std::fs::read_to_string(&log).unwrap_or_default().contains("/healthz"));
    std::fs::rename(&log, &old).unwrap();
    proxy.signal(Signal::HUP);
    eventually(|| log.exists());
    assert_eq!(own_page(&proxy), 200);
    eventually(|| std::fs::read_to_string(&log).unwrap_or_default().contains("/healthz"));
    drop(proxy);
}

#[test]
fn verbose_ends_with_a_snapshot() {
    let mut proxy = Binary::start(&["-v"]);
    assert_eq!(own_page(&proxy), 200);
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(0));
    let said = proxy.stderr();
    assert!(said.contains("1 accepted") && said.contains("1 finished"), "{said}");
}

/// Each exit code of the tables in the documents comes about as they say; 77 has tests of its own.
#[test]
fn each_exit_code_means_what_the_documents_say() {
    for (args, code) in [
        (&["--version"][..], 0),
        (&["-p", "0", "--exit-after", "1ms"], 0),
        (&["check", "--log-format", "json"], 0),
        (&["explain", "GET", "http://127.0.0.1/"], 0),
        (&["-p", "0", "--port-file", "/nonexistent/file"], 1),
        (&["-p", "0", "--access-log", "/nonexistent/file"], 1),
        (&["passwd", "--delete", "/nonexistent", "ann"], 1),
        (&["--nonsense"], 2),
        (&["-p", "0", "--ready-fd", "9"], 2),
        (&["explain"], 2),
        (&["explain", "--deny", "a.example", "GET", "http://a.example/"], 3),
        (&["--listen", "192.0.2.1:3128"], 69),
        (&["-p", "0", "--source-address", "192.0.2.1"], 69),
        (&["-p", "0", "--admin", "unix:/nonexistent/socket"], 69),
        (&["--config", "/nonexistent"], 78),
        (&["check", "--block-list", "/nonexistent"], 78),
        (&["explain", "--hosts-file", "/nonexistent", "GET", "http://a.example/"], 78),
    ] {
        let output = run(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    }
}

#[test]
fn an_option_that_does_nothing_is_said_at_the_start_and_by_check() {
    let says = "--limit user:10mbit has no effect: there are no users; add them with --auth-file";
    let proxy = Binary::start(&["--limit", "user:10mbit"]);
    eventually(|| proxy.stderr().contains(&format!("WARN {says}")));
    assert_eq!(own_page(&proxy), 200);
    let output = run(&["check", "--limit", "user:10mbit"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.starts_with(&format!("threadgate: {says}")), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(!output.stdout.is_empty());
}

/// Messages for a wrong command line say what was meant, and point to the help that has it.
#[test]
fn a_wrong_command_line_gets_the_right_one_and_its_help() {
    for (args, says, help) in [
        (
            &["explain", "example.com"][..],
            "needs a method before the URL; write threadgate explain GET http://example.com/",
            "explain --help",
        ),
        (
            &["explain", "example.com:443"],
            "write threadgate explain CONNECT example.com:443",
            "explain --help",
        ),
        (&["explain", "localhost/a"], "explain GET http://localhost/a", "explain --help"),
        (&["explain", "connect"], "explain CONNECT example.com:443", "explain --help"),
        (
            &["explain", "--hello=http://a.b/", "CONNECT", "a:443"],
            "a URL; give its host alone: a.b",
            "explain --help",
        ),
        (
            &["--schemes", "https"],
            "clients send it inside a CONNECT; give connect",
            "help --schemes",
        ),
        (
            &["--deny", "http://x/"],
            "'http://x/' is a URL, and a destination is a host; give x",
            "help --deny",
        ),
        (&["--allow", "https://a.example:8443/b"], "give a.example:8443 (", "help --allow"),
        (
            &["--limit", "destination=http://x/:1mbit"],
            "is a URL, and a destination is",
            "help --limit",
        ),
        (
            &["--resolve", "http://x/:192.0.2.1"],
            "has a URL in it; give its host alone",
            "help --resolve",
        ),
        (
            &["--admin-name", "http://x.example:80/"],
            "give its host alone: x.example",
            "help --admin-name",
        ),
        (&["--admin", "http://127.0.0.1:9"], "is a URL; write its IP:PORT", "help --admin"),
        (&["--listen", "http://127.0.0.1:9"], "is a URL or a path", "help --listen"),
        (
            &["--deny-url", "("],
            "'(' is not a regular expression: unclosed group; give",
            "help --deny-url",
        ),
        (
            &["--deny", "re:("],
            "'re:(' is not a regular expression: unclosed group; give",
            "help --deny",
        ),
        (
            &["--limit", "alice:10mbit"],
            "write user=alice:10mbit to limit the user alice",
            "help --limit",
        ),
        (&["--port"], "--port: needs a value", "help --port"),
        (&["check", "-t", "1", "-t", "2"], "--threads: given twice", "help --threads"),
        (&["check", "--frob"], "unknown option '--frob'", "--help"),
        (&["check", "-t", "x", "-p", "y"], "--threads: 'x' is not a number", "--help"),
        (&["explain", "--frob"], "unknown option '--frob'", "explain --help"),
        (&["passwd", "users"], "write threadgate passwd users alice", "passwd --help"),
        (&["completions", "tcsh"], "give bash, zsh or fish", "completions --help"),
        (&["serve", "help"], "a command comes first: threadgate help", "--help"),
        (&["help", "frob"], "there is no command, topic or option 'frob'", "help --help"),
    ] {
        fails(args, 2, &[says, &format!("\ntry 'threadgate {help}'\n")]);
    }
}

/// For every option that names a file, the advice fits what is wrong with it.
#[test]
fn a_file_that_cannot_be_used_gets_advice_that_fits() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().to_str().unwrap();
    let (none, lost) = (format!("{here}/none"), format!("{here}/none/file"));
    std::os::unix::fs::symlink("nowhere", dir.path().join("link")).unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let (link, below) = (format!("{here}/link"), format!("{here}/file/file"));
    for option in ["--config", "--block-list", "--allow-list", "--hosts-file", "--auth-file"] {
        for (file, says) in [
            (
                none.as_str(),
                "cannot read it: No such file or directory (os error 2); check the name\n",
            ),
            (&lost, "; its directory does not exist either; check the name\n"),
            (&link, "; it is a link that leads nowhere: correct it"),
            (&below, "; a part of its name is a file and not a directory\n"),
            ("https://a.example/list", "; it is a URL: download it, and give the file"),
            ("no-such-file", "; check the name, which is looked up in /"),
            (here, "; "),
        ] {
            refuses(&["check", option, file], 78, &format!("{option} {file}: "), says);
        }
    }
    let learn = ["--policy", "learn", "--learn-file"];
    for options in [&["--access-log"][..], &["--port-file"], &["--pid-file"], &learn] {
        for (file, says) in [
            (lost.as_str(), "; its directory does not exist; make it first, or check the name"),
            (&below, "; a part of its name is a file and not a directory"),
            (here, "; "),
        ] {
            let option = options.last().unwrap();
            let words = [&["-p", "0"], options, &[file]].concat();
            refuses(&words, 1, &format!("{option} {file}: cannot "), says);
        }
    }
    refuses(&["passwd", &lost, "ann"], 1, &lost, "; its directory does not exist; make it first");
    refuses(&["passwd", here, "ann"], 1, here, "it is not a regular file; give one");
}

/// The command fails with a message that begins with `begins`, says `says`, and does not blame
/// permissions.
#[track_caller]
fn refuses(args: &[&str], code: i32, begins: &str, says: &str) {
    let output = run(args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    assert!(said.starts_with(&format!("threadgate: {begins}")), "{args:?}: {said}");
    assert!(said.contains(says), "{args:?}: no {says:?} in {said}");
    assert!(!said.contains("this user can") && !said.contains("give one; "), "{args:?}: {said}");
}
