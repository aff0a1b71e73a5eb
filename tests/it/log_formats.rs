//! The formats of the access log, and what a person at a terminal sees of them.
//!
//! In `clients/log_formats.rs` other programs read them.

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Child;

use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::Value;

use crate::peers::{Peer, STEP, comes_true};
use crate::proxies::{Binary, OK, command, get, get_request, threads};
use crate::servers::{Origin, RefusedPort};

/// The name that a browser sends, and the name of somebody who wants to fake one in the log.
const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0";
const HOSTILE: &str = "\" 200 1 \"-\" \"x\\\"\t\u{e4}\u{7}";

/// Logs one exchange of each kind in `format`. Returns the lines, when all have come.
pub(crate) fn one_of_each(format: &str) -> (Vec<String>, SocketAddr, PathBuf, tempfile::TempDir) {
    let origin = Origin::script(4, |peer| {
        let Some(head) = peer.try_read_head() else { return };
        match head.split(' ').nth(1).unwrap() {
            "/cut" => peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"),
            "/gone" => peer.expect_end(),
            "/chunks" => peer.send(
                "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            ),
            _ => peer.send(OK),
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    let mut proxy =
        Binary::start(&["--access-log", file.to_str().unwrap(), "--log-format", format]);
    let with = |path: &str, fields: &str| {
        get_request(origin.addr, path).replace("\r\n\r\n", &format!("\r\n{fields}\r\n\r\n"))
    };
    let mut client = Peer::connect(proxy.addr);
    let fields = format!("User-Agent: {FIREFOX}\r\nReferer: http://me:secret@a.example/b?c=d");
    client.send(with("/ok?a=b%20c", &fields));
    assert_eq!(client.read_response().text(), "ok");
    let mut client = Peer::connect(proxy.addr);
    client.send(with("/chunks", "User-Agent: curl/8.5.0"));
    assert_eq!(client.read_response().status, 404);
    let mut client = Peer::connect(proxy.addr);
    client.send(with("/cut", &format!("User-Agent: {FIREFOX}")));
    client.read_to_any_end();
    let mut client = Peer::connect(proxy.addr);
    client.send(get_request(origin.addr, "/gone"));
    crate::peers::eventually(|| origin.accepted() == 4);
    client.reset();
    // A tunnel, and requests that never get to a server.
    let echo = Origin::script(1, |peer| {
        peer.read_exact(4);
        peer.send("pong!");
        peer.expect_end();
    });
    let mut client = Peer::connect(proxy.addr);
    client.send(format!(
        "CONNECT {0} HTTP/1.1\r\nHost: {0}\r\nUser-Agent: {FIREFOX}\r\n\r\nping",
        echo.addr
    ));
    client.read_head();
    assert_eq!(client.read_text(5), "pong!");
    drop(client);
    echo.join();
    let upgraded = Origin::script(1, |peer| {
        peer.read_head();
        peer.send("HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\nhello!");
        peer.expect_end();
    });
    let mut client = Peer::connect(proxy.addr);
    client.send(
        get_request(upgraded.addr, "/upgraded")
            .replace("\r\n\r\n", "\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n"),
    );
    client.read_head();
    assert_eq!(client.read_text(6), "hello!");
    drop(client);
    upgraded.join();
    let refused = RefusedPort::new();
    assert_eq!(get(proxy.addr, refused.addr, "/refused").status, 502);
    for request in [
        "nonsense\r\n\r\n".to_owned(),
        format!("GET /healthz HTTP/1.0\r\nUser-Agent: {HOSTILE}\r\nReferer: {HOSTILE}\r\n\r\n")
            .replace('\u{7}', ""),
    ] {
        let mut client = Peer::connect(proxy.addr);
        client.send(request);
        client.read_to_end();
    }
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(0));
    origin.join();
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.ends_with('\n') && !text.contains("secret"), "{text}");
    (text.lines().map(str::to_owned).collect(), origin_addr(&text), file, dir)
}

/// The origin server's address, from the first line.
fn origin_addr(text: &str) -> SocketAddr {
    let (_, rest) = text.split_once("http://127.0.0.1:").unwrap();
    let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
    format!("127.0.0.1:{port}").parse().unwrap()
}

/// The line with `part`, without its time.
#[track_caller]
fn after_time<'a>(lines: &'a [String], part: &str) -> &'a str {
    let line = lines.iter().find(|line| line.contains(part)).expect(part);
    assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
    line.split_once("] ").unwrap().1
}

#[test]
fn a_combined_line_has_what_apache_would_write() {
    let (lines, origin, ..) = one_of_each("combined");
    assert_eq!(lines.len(), 9, "{lines:#?}");
    let line = |part| after_time(&lines, part);
    assert_eq!(
        line("/ok?"),
        format!(
            "\"GET http://{origin}/ok?a=b%20c HTTP/1.1\" 200 2 \
             \"http://***@a.example/b?c=d\" \"{FIREFOX}\""
        )
    );
    // Only content counts, with its chunks, as it was sent.
    assert_eq!(
        line("/chunks"),
        format!("\"GET http://{origin}/chunks HTTP/1.1\" 404 13 \"-\" \"curl/8.5.0\"")
    );
    assert_eq!(
        line("/cut"),
        format!("\"GET http://{origin}/cut HTTP/1.1\" 200 4 \"-\" \"{FIREFOX}\"")
    );
    assert_eq!(line("/gone"), format!("\"GET http://{origin}/gone HTTP/1.1\" 499 - \"-\" \"-\""));
    let tunnel = line("CONNECT");
    assert!(tunnel.ends_with(&format!(" HTTP/1.1\" 200 5 \"-\" \"{FIREFOX}\"")), "{tunnel}");
    let upgraded = line("/upgraded");
    assert!(upgraded.ends_with(" HTTP/1.1\" 101 6 \"-\" \"-\""), "{upgraded}");
    assert!(line("/refused").contains(" HTTP/1.1\" 502 "));
    assert!(line("] \"-\" 400 ").ends_with(" \"-\" \"-\""));
    let escaped = r#""\" 200 1 \"-\" \"x\\\"\t\xc3\xa4""#;
    assert_eq!(line("/healthz"), format!("\"GET /healthz HTTP/1.0\" 200 3 {escaped} {escaped}"));
}

#[test]
fn a_common_line_is_the_same_without_the_two_fields() {
    let (lines, origin, ..) = one_of_each("common");
    assert_eq!(lines.len(), 9, "{lines:#?}");
    assert_eq!(
        after_time(&lines, "/ok?"),
        format!("\"GET http://{origin}/ok?a=b%20c HTTP/1.1\" 200 2")
    );
    assert!(lines.iter().all(|line| !line.contains("Mozilla")));
}

/// The binary at a terminal 80 columns wide, and the text on the terminal.
struct Watched {
    child: Child,
    master: fs::File,
    port_file: PathBuf,
    _dir: tempfile::TempDir,
}

impl Watched {
    fn start(args: &[&str], environment: &[(&str, &str)]) -> Self {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).unwrap();
        let open = || fs::OpenOptions::new().read(true).write(true).open(&name).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let port_file = dir.path().join("port");
        let threads = threads().to_string();
        let mut command = command(&["-p", "0", "--threads", &threads, "--port-file"]);
        command.arg(&port_file).args(args).env_remove("NO_COLOR").env("TERM", "xterm");
        let child = command.envs(environment.to_vec()).stdout(open()).stderr(open()).spawn();
        Self { child: child.unwrap(), master: master.into(), port_file, _dir: dir }
    }

    /// Asks for one page that exists and one that fails, and stops it.
    #[track_caller]
    fn said(mut self) -> String {
        let mut port = None;
        comes_true(STEP, &mut || {
            port = fs::read_to_string(&self.port_file).ok().and_then(|p| p.trim().parse().ok());
            port.is_some()
        });
        let proxy = SocketAddr::from(([127, 0, 0, 1], port.expect("a port")));
        let origin = Origin::answer(OK);
        assert_eq!(get(proxy, origin.addr, "/seen").text(), "ok");
        assert_eq!(get(proxy, RefusedPort::new().addr, "/not").status, 502);
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
        let mut said = Vec::new();
        let mut buf = [0; 4096];
        // A terminal that nobody has open any more ends in an error.
        while let Ok(n @ 1..) = self.master.read(&mut buf) {
            said.extend_from_slice(&buf[..n]);
        }
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        String::from_utf8(said).unwrap()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The column of the target in each access line, without colours.
fn target_columns(said: &str) -> Vec<usize> {
    let lines =
        said.lines().filter(|line| line.contains("http://127.0.0.1:") && !line.contains("curl"));
    lines.map(|line| line.find("http://").unwrap()).collect()
}

#[test]
fn on_a_terminal_lines_are_aligned_and_in_colour() {
    let said = Watched::start(&["--access-log", "-"], &[]).said();
    assert!(said.contains("\x1b[32m200\x1b[0m GET "), "{said:?}");
    assert!(said.contains("\x1b[31m502\x1b[0m GET "), "{said:?}");
    assert!(said.contains("\x1b[31mthe upstream refused the connection (connection_refused, "));
    assert!(said.contains("\x1b[32mINFO \x1b[0m listening on "), "{said:?}");
    let columns = target_columns(&said);
    assert!(columns.len() == 2 && columns[0] == columns[1], "{columns:?} in {said:?}");
}

#[test]
fn colour_can_be_declined() {
    for (args, environment) in [
        (&[][..], &[("NO_COLOR", "1")][..]),
        (&[], &[("TERM", "dumb")]),
        (&["--color", "never"], &[]),
    ] {
        let args = [&["--access-log", "-"], args].concat();
        let said = Watched::start(&args, environment).said();
        assert!(!said.contains('\x1b'), "{environment:?}: {said:?}");
        let columns = target_columns(&said);
        assert!(columns.len() == 2 && columns[0] == columns[1], "{columns:?} in {said:?}");
    }
    let said = Watched::start(&["--access-log", "-"], &[("NO_COLOR", "")]).said();
    assert!(said.contains("\x1b[32m200"), "empty is as if it were not set: {said:?}");
}

#[test]
fn other_formats_look_the_same_on_a_terminal() {
    let said = Watched::start(&["-qqq", "--access-log", "-", "--log-format", "json"], &[]).said();
    let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let has = |status: u16| lines.iter().any(|line| line["status"] == status);
    assert!(lines.len() == 2 && has(200) && has(502), "{said}");
}

#[test]
fn in_a_pipe_there_is_no_colour_unless_it_is_asked_for() {
    for (args, coloured) in [(&[][..], false), (&["--color", "always"], true)] {
        let origin = Origin::answer(OK);
        let args = [&["--access-log", "-"], args].concat();
        let mut proxy = Binary::start(&args);
        assert_eq!(get(proxy.addr, origin.addr, "/x").text(), "ok");
        proxy.signal(Signal::TERM);
        assert_eq!(proxy.wait().code(), Some(0));
        assert_eq!(proxy.stdout().contains("\x1b[32m200"), coloured, "{}", proxy.stdout());
        assert_eq!(proxy.stderr().contains('\x1b'), coloured, "{}", proxy.stderr());
        assert_eq!(proxy.stdout().contains(" kind=exchange "), !coloured, "{}", proxy.stdout());
    }
}
