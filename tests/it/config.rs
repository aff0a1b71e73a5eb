//! The configuration: the file and the environment, `threadgate check`, and reading everything again
//! while the proxy runs.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::lifecycle::{fails, run, run_command};
use crate::peers::{Peer, Response, STEP, eventually, eventually_eq};
use crate::proxies::{Binary, OK, command};
use crate::servers::listen;

/// A directory with a configuration file.
struct Configured {
    dir: TempDir,
    path: PathBuf,
}

impl Configured {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("threadgate.toml");
        fs::write(&path, text).unwrap();
        Self { dir, path }
    }

    fn name(&self) -> &str {
        self.path.to_str().unwrap()
    }

    fn start(&self, args: &[&str]) -> Binary {
        Binary::start(&[&["-c", self.name()], args].concat())
    }

    /// Replaces the file with another text, in the way editors do.
    fn replace(&self, text: &str) {
        replace(&self.path, text);
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(&beside, path).unwrap();
}

/// An origin server that answers every request, on any number of connections.
struct Answering {
    addr: SocketAddr,
    accepted: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Answering {
    fn new() -> Self {
        let listener = listen();
        let addr = listener.local_addr().unwrap();
        let (accepted, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, end) = (Arc::clone(&accepted), Arc::clone(&stop));
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if end.load(Ordering::SeqCst) {
                    break;
                }
                counter.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || {
                    let mut peer = Peer::new(stream);
                    while peer.try_read_head().is_some() && peer.try_send(OK).is_ok() {}
                });
            }
        });
        Self { addr, accepted, stop }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // One more connection ends the wait in `accept`.
        let _ = TcpStream::connect(self.addr);
    }
}

fn ask(client: &mut Peer, host: &str) -> Response {
    client.send(format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    client.read_response()
}

/// The rule that refuses a request to `host`, on a connection of its own; without its directory.
fn refused_by(proxy: SocketAddr, host: &str) -> Option<String> {
    let response = ask(&mut Peer::connect(proxy), host);
    let rule = response.rule()?;
    Some(rule.rsplit('/').next().unwrap().to_owned())
}

fn said(proxy: &Binary, what: &str) -> usize {
    proxy.stderr().matches(what).count()
}

/// Has everything read again, and waits until that is over.
#[track_caller]
fn reloaded(proxy: &Binary) {
    let over =
        |proxy: &Binary| said(proxy, "was read again") + said(proxy, "the reload changed nothing");
    let before = over(proxy);
    proxy.signal(Signal::HUP);
    eventually(|| over(proxy) > before);
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// `threadgate check` with these arguments.
fn check(args: &[&str]) -> Output {
    run(&[&["check"], args].concat())
}

#[test]
fn a_file_says_what_flags_do_and_flags_and_variables_stand_above_it() {
    let configured = Configured::new(
        "deny = ['.file.example', '.other.example']\n[[rules]]\nname = 'by-name'\naction = 'deny'\n\
         destinations = 'named.example'\n",
    );
    let proxy = configured.start(&[]);
    assert_eq!(refused_by(proxy.addr, "a.file.example").as_deref(), Some("threadgate.toml:1"));
    assert_eq!(refused_by(proxy.addr, "named.example").as_deref(), Some("by-name"));

    let proxy = Binary::start_by(
        &["env"],
        |command| {
            command.env("THREADGATE_DENY", "a.env.example b.env.example");
            command.env("THREADGATE_CONFIG", configured.name());
        },
        &[],
    );
    assert_eq!(refused_by(proxy.addr, "b.env.example").as_deref(), Some("THREADGATE_DENY:2"));
    assert_eq!(refused_by(proxy.addr, "named.example").as_deref(), Some("by-name"));
    assert_ne!(refused_by(proxy.addr, "a.file.example").as_deref(), Some("threadgate.toml:1"));

    let proxy = configured.start(&["--deny", "a.flag.example"]);
    assert_eq!(refused_by(proxy.addr, "a.flag.example").as_deref(), Some("--deny:1"));
}

#[test]
fn a_variable_that_is_no_option_costs_a_warning() {
    let set = |command: &mut Command| {
        command.env("THREADGATE_THREDS", "1").env("THREADGATE_LOG", "info");
    };
    let proxy = Binary::start_by(&["env"], set, &[]);
    let says = "THREADGATE_THREDS is not an option; did you mean THREADGATE_THREADS?";
    eventually(|| proxy.stderr().contains(&format!("WARN {says}")));
    assert_eq!(said(&proxy, "THREADGATE_LOG"), 0);
    let mut check = command(&["check"]);
    set(&mut check);
    let output = run_command(check);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stderr(&output), format!("threadgate: {says}\n"));
}

#[test]
fn each_listener_has_its_own_rules_or_those_of_all() {
    let configured = Configured::new(
        "deny = '.all.example'\n\
         [[rules]]\nname = 'all'\naction = 'deny'\nports = 81\n\
         [[listeners]]\naddress = '127.0.0.1:0'\ndeny = '.own.example'\n\
         [[listeners]]\naddress = '127.0.0.1:0'\npolicy = 'enforce'\n\
         [[listeners.rules]]\nname = 'own'\naction = 'deny'\nports = 82\n",
    );
    let proxy = Binary::start_as(&["-c", configured.name()]);
    let ports = fs::read_to_string(proxy.dir.path().join("port")).unwrap();
    let of = |port: &str| SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse().unwrap()));
    let listeners: Vec<SocketAddr> = ports.lines().map(of).collect();
    let [first, second] = listeners[..] else { panic!("{ports}") };
    for (listener, host, rule) in [
        (first, "a.own.example", "threadgate.toml:8"),
        (first, "a.example:81", "all"),
        (second, "a.all.example", "threadgate.toml:1"),
        (second, "a.example:82", "own"),
        (second, "a.example:81", "threadgate.toml:11"),
    ] {
        assert_eq!(refused_by(listener, host).as_deref(), Some(rule), "{host}");
    }
    assert_eq!(refused_by(first, "127.0.0.1:82").as_deref(), None);
}

#[test]
fn a_configuration_that_is_wrong_is_refused_with_all_its_lines() {
    let configured = Configured::new(
        "timeout-head = 5\nlisen = ':1'\n\n[[rules]]\naction = 'drop'\n[[listeners]]\nopen = 3\n",
    );
    let name = configured.name();
    let lines = [
        format!("threadgate: {name}:2: unknown key 'lisen'; did you mean listen?\n"),
        format!("threadgate: {name}:5: action: 'drop' is neither \"allow\" nor \"deny\"; give"),
        format!("threadgate: {name}:6: this listener has no address; write address ="),
        format!("threadgate: {name}:7: open: a number is not a switch; write open = true\n"),
    ];
    let says: Vec<&str> = lines.iter().map(String::as_str).collect();
    fails(&["-c", name], 78, &says);
    let output = check(&["-c", name]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(78), String::new()));
    assert!(says.iter().all(|line| stderr(&output).contains(line)), "{}", stderr(&output));

    configured.replace("timeout-head = 5\nthreads = 0\n");
    fails(
        &["-c", name],
        78,
        &[&format!("{name}:1: timeout-head: '5' has no unit"), &format!("{name}:2: threads: '0'")],
    );
    fails(&["-c", name, "--threads", "0"], 2, &["threadgate: --threads: '0' is less than 1"]);
}

#[test]
fn a_file_that_cannot_be_used_is_refused_with_what_to_try() {
    let configured = Configured::new("");
    let dir = configured.dir.path();
    let fails_with = |bytes: &[u8], says: &str| {
        fs::write(&configured.path, bytes).unwrap();
        fails(&["-c", configured.name()], 78, &[says]);
    };
    fails_with(b"deny = '\xff'", "threadgate.toml:1: this line is not UTF-8; save the file as");
    fails_with(b"\xff\xfed\0", "threadgate.toml:1: the file is UTF-16; save it as UTF-8");
    fails_with(
        &[b'#'; (1 << 20) + 1],
        "cannot read it: it is larger than 1 MiB; put long lists into",
    );
    fails_with(b"open = true\r\nopen = true\r\n", "threadgate.toml:2: duplicate key at 'open'");
    fails_with(b"timeout-head = 10s", "text in quotes: timeout-head = \"10s\"");
    fails(&["-c", dir.to_str().unwrap()], 78, &["cannot read it: it is a directory"]);
    fails(&["-c", "/nonexistent"], 78, &["--config /nonexistent: cannot read it: No such file"]);
    fails(&["-c", ""], 2, &["--config: '' is not a file"]);

    // These are no mistakes.
    for bytes in [&b""[..], b"\xef\xbb\xbf# a BOM\r\nopen = true\r\n", b"\n"] {
        fs::write(&configured.path, bytes).unwrap();
        let output = check(&["-c", configured.name()]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    // A file of 100 MB is not read.
    let huge = fs::File::create(&configured.path).unwrap();
    huge.set_len(100 << 20).unwrap();
    let begin = Instant::now();
    fails(&["-c", configured.name()], 78, &["it is larger than 1 MiB"]);
    assert!(begin.elapsed() < STEP);
    if !rustix::process::geteuid().is_root() {
        fs::set_permissions(&configured.path, fs::Permissions::from_mode(0o0)).unwrap();
        fails(&["-c", configured.name()], 77, &["cannot read it: Permission denied"]);
    }
}

#[test]
fn check_prints_what_counts_with_where_it_comes_from_and_can_be_read_again() {
    let configured = Configured::new(
        "listen = ['127.0.0.1:0']\ntimeout-head = '5s'\nhosts-file = 'names'\n\
         deny = [\n  '.ads.example',\n  '\"odd\\\"\"',\n]\nopen = false\n\
         [[rules]]\naction = 'allow'\nports = [443]\n\
         [[listeners]]\naddress = ':9'\ndeny = []\n[[listeners.rules]]\naction = 'deny'\n"
            .replace("  '\"odd\\\"\"',\n", "  'b.example',\n")
            .as_str(),
    );
    configured.file("names", "127.0.0.1 a.example\n");
    let mut command = command(&["check", "-c", configured.name(), "--timeout-idle=9s", "-v"]);
    command.env("THREADGATE_ALLOW", "c.example d.example");
    let output = run_command(command);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let (text, name) = (stdout(&output), configured.name());
    let names = configured.dir.path().join("names");
    for line in [
        format!("listen = [\"127.0.0.1:0\"]  # {name}:1"),
        format!("timeout-head = \"5s\"  # {name}:2"),
        format!("hosts-file = [\"{}\"]  # {name}:3", names.display()),
        "timeout-idle = \"9s\"  # command line".to_owned(),
        "verbose = 1  # command line".to_owned(),
        "# timeout-tunnel = \"10m\"  # default".to_owned(),
        "# port  # not set".to_owned(),
        "allow = [\"c.example\", \"d.example\"]  # THREADGATE_ALLOW".to_owned(),
        format!("  \".ads.example\",  # {name}:5"),
        format!("  \"b.example\",  # {name}:6"),
        format!("open = false  # {name}:8"),
        format!("[[rules]]  # {name}:9"),
        format!("address = \":9\"  # {name}:13"),
        format!("[[listeners.rules]]  # {name}:15"),
    ] {
        assert!(text.lines().any(|it| it == line), "{line}\n{text}");
    }
    // The printed configuration means the same.
    let again = configured.file("again.toml", &text);
    let output = check(&["-c", again.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let meant = |text: &str| {
        let lines = text.lines().map(|line| line.split("  # ").next().unwrap().to_owned());
        lines.filter(|line| !line.starts_with('#')).collect::<Vec<_>>()
    };
    assert_eq!(meant(&stdout(&output)), meant(&text));
}

#[test]
fn check_reads_the_files_and_says_all_that_is_wrong() {
    let configured = Configured::new("hosts-file = ['good', 'bad', 'none']\n");
    configured.file("good", "127.0.0.1 a\n");
    configured.file("bad", "127.0.0.1 a\nx\n");
    let output = check(&["-c", configured.name()]);
    let said = stderr(&output);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(78), ""));
    let at = format!("threadgate: {}:1: hosts-file ", configured.name());
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.len() == 2 && lines.iter().all(|line| line.starts_with(&at)), "{said}");
    assert!(lines[0].contains("/bad:2: 'x' is not an IP address"), "{said}");
    assert!(lines[1].contains("/none: cannot read it: No such file"), "{said}");
    // Starting gives the same message for the first mistake.
    fails(&["-c", configured.name()], 78, &[&at, "/bad:2: 'x' is not"]);
}

#[test]
fn a_reload_changes_rules_and_keeps_connections_and_a_broken_one_changes_nothing() {
    let origin = Answering::new();
    let host = origin.addr.to_string();
    let configured = Configured::new("deny = '.one.example'\n");
    let proxy = configured.start(&[]);
    let mut client = Peer::connect(proxy.addr);
    assert_eq!(ask(&mut client, &host).status, 200);

    configured.replace("# more\ndeny = ['.two.example', '127.0.0.1']\n");
    reloaded(&proxy);
    assert_eq!(refused_by(proxy.addr, "a.two.example").as_deref(), Some("threadgate.toml:2"));
    assert_eq!(ask(&mut client, &host).status, 403, "on the same connection");

    let broken = "deny = '.three.example'\ntimeout-head = 5\n[[rules]]\n";
    configured.replace(broken);
    reloaded(&proxy);
    let name = configured.name();
    eventually(|| said(&proxy, "the reload changed nothing; the configuration") == 1);
    let says = format!("ERROR not reloaded: {name}:3: this rule has no action; write");
    assert_eq!(said(&proxy, &says), 1, "{}", proxy.stderr());
    assert_eq!(refused_by(proxy.addr, "a.two.example").as_deref(), Some("threadgate.toml:2"));

    // An editor has only just begun to write.
    configured.replace("");
    reloaded(&proxy);
    assert_eq!(said(&proxy, "threadgate.toml: it is empty; to clear it on purpose"), 1);
    assert_eq!(refused_by(proxy.addr, "a.two.example").as_deref(), Some("threadgate.toml:2"));
    fs::remove_file(&configured.path).unwrap();
    reloaded(&proxy);
    assert_eq!(refused_by(proxy.addr, "a.two.example").as_deref(), Some("threadgate.toml:2"));

    configured.replace("# nothing\n");
    reloaded(&proxy);
    assert_eq!(ask(&mut client, &host).status, 200, "still on the same connection");
    assert_eq!(origin.accepted.load(Ordering::SeqCst), 1, "{}", proxy.stderr());
}

#[test]
fn what_needs_a_restart_is_named_once_and_the_rest_is_taken() {
    let configured = Configured::new("threads = 2\n");
    let proxy = Binary::start_as(&["-l", "127.0.0.1:0", "-c", configured.name()]);
    let text = "threads = 3\nvia = 'edge'\ndeny = '.a.example'\n";
    configured.replace(text);
    reloaded(&proxy);
    let needs = ": needs a restart; until then the earlier value holds";
    assert_eq!(said(&proxy, &format!("WARN threads{needs}")), 1, "{}", proxy.stderr());
    assert_eq!(said(&proxy, &format!("WARN via{needs}")), 1);
    assert_eq!(said(&proxy, needs), 2, "{}", proxy.stderr());
    assert_eq!(refused_by(proxy.addr, "b.a.example").as_deref(), Some("threadgate.toml:3"));
    reloaded(&proxy);
    assert_eq!(said(&proxy, needs), 2, "it was said");
    configured.replace("threads = 4\nlisten = ':0'\n");
    reloaded(&proxy);
    assert_eq!(said(&proxy, &format!("WARN threads{needs}")), 2, "{}", proxy.stderr());
    assert_eq!(said(&proxy, needs), 3, "the flag stands above listen: {}", proxy.stderr());
    configured.replace("threads = 2\n");
    reloaded(&proxy);
    assert_eq!(said(&proxy, needs), 3, "as it was: {}", proxy.stderr());
}

#[test]
fn a_listener_keeps_what_was_said_of_it_until_something_else_is() {
    let both = "[[listeners]]\naddress = '127.0.0.1:0'\ndeny = '.own.example'\n";
    let configured = Configured::new(both);
    let proxy = Binary::start_as(&["-c", configured.name()]);
    assert_eq!(refused_by(proxy.addr, "a.own.example").as_deref(), Some("threadgate.toml:3"));
    configured.replace("[[listeners]]\naddress = '127.0.0.1:0'\n\ndeny = '.new.example'\n");
    reloaded(&proxy);
    assert_eq!(refused_by(proxy.addr, "a.new.example").as_deref(), Some("threadgate.toml:4"));
    configured.replace("listen = '127.0.0.1:1'\ndeny = '.all.example'\n");
    reloaded(&proxy);
    assert_eq!(said(&proxy, "WARN listen: needs a restart"), 1, "{}", proxy.stderr());
    assert_eq!(
        refused_by(proxy.addr, "a.new.example").as_deref(),
        Some("threadgate.toml:4"),
        "the file says nothing of it now"
    );
}

#[test]
fn with_watch_a_changed_file_is_read_however_it_was_written() {
    let configured = Configured::new("watch = true\ndeny = '.one.example'\nhosts-file = 'names'\n");
    configured.file("names", "127.0.0.1 a.example\n");
    let proxy = configured.start(&[]);
    let becomes = |host: &str, rule: Option<&str>| {
        eventually_eq(|| refused_by(proxy.addr, host), rule.map(str::to_owned));
    };
    becomes("a.one.example", Some("threadgate.toml:2"));
    let rest = "hosts-file = 'names'\nwatch = true\n";
    configured.replace(&format!("deny = '.two.example'\n{rest}"));
    becomes("a.two.example", Some("threadgate.toml:1"));
    // The file is written in place, in two steps: the first half is never taken.
    let half = "\n\n\ndeny = '.three";
    fs::write(&configured.path, half).unwrap();
    fs::write(&configured.path, format!("{half}.example'\n{rest}")).unwrap();
    becomes("a.three.example", Some("threadgate.toml:4"));
    // The file is removed and made anew.
    fs::remove_file(&configured.path).unwrap();
    becomes("a.three.example", Some("threadgate.toml:4"));
    fs::write(&configured.path, format!("\n\ndeny = '.four.example'\n{rest}")).unwrap();
    becomes("a.four.example", Some("threadgate.toml:3"));
    // The path becomes a link to another file.
    let other = configured.file("other", &format!("\n\n\n\n\ndeny = '.five.example'\n{rest}"));
    let link = configured.dir.path().join("link");
    symlink(&other, &link).unwrap();
    fs::rename(&link, &configured.path).unwrap();
    becomes("a.five.example", Some("threadgate.toml:6"));
    assert_eq!(said(&proxy, "not reloaded"), 0, "{}", proxy.stderr());
    // A file that the configuration names changes.
    eventually(|| said(&proxy, "hosts files were read again: 1 names") >= 4);
    configured.file("names", "127.0.0.1 a.example b.example\n");
    eventually(|| said(&proxy, "hosts files were read again: 2 names") == 1);
    let list = configured.file("list", "");
    fs::write(&list, "one.list.example\n").unwrap();
    fs::write(&other, format!("block-list = 'list'\n{rest}")).unwrap();
    becomes("a.one.list.example", Some("list:1"));
    replace(&list, "# more\ntwo.list.example\n");
    becomes("a.two.list.example", Some("list:2"));
    // A configuration that was refused is watched, too.
    fs::write(&other, format!("block-list = 'other-list'\n{rest}")).unwrap();
    eventually(|| said(&proxy, "ERROR not reloaded") == 1);
    configured.file("other-list", "three.list.example\n");
    becomes("a.three.list.example", Some("other-list:1"));
    // A mistake is reported once, and the next good file is taken.
    fs::write(&other, "deny = \n").unwrap();
    eventually(|| said(&proxy, "ERROR not reloaded") == 2);
    fs::write(&other, format!("deny = '.six.example'\n{rest}")).unwrap();
    becomes("a.six.example", Some("threadgate.toml:1"));
    assert_eq!(said(&proxy, "ERROR not reloaded"), 2, "{}", proxy.stderr());
}

#[test]
fn the_example_in_the_docs_is_right() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/threadgate.toml");
    let output = check(&["-c", example.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    // Each line is also correct when its comment sign is removed.
    let text = fs::read_to_string(&example).unwrap();
    let all: String = text
        .lines()
        .map(|line| line.strip_prefix("#").filter(|l| !l.starts_with(' ')).unwrap_or(line))
        .map(|line| format!("{line}\n"))
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("all.toml");
    fs::write(&whole, all).unwrap();
    for name in ["hosts", "block.txt", "allow.txt"] {
        fs::write(dir.path().join(name), "127.0.0.1 a.example\n").unwrap();
    }
    let hash = "$6$rounds=1000$saltsalt$\
                w/SDIlZQ7eR7tBZSvVqA3I5jrM2FCZuQKTpnbqGlIFCRDGgFzWmTvCiPSbRiEGWMXdp8ZVrSm6wAY1Pn7vf6r.";
    fs::write(dir.path().join("users"), format!("alice:{hash}\n")).unwrap();
    let output = check(&["-c", whole.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("[[listeners]]"), "{}", stdout(&output));
}

/// A file that is cut to nothing is being written. It changes nothing, so nobody is let through
/// meanwhile.
#[test]
fn a_file_that_was_emptied_changes_nothing_until_something_is_in_it() {
    let configured = Configured::new("");
    let list = configured.file("ads.list", "ads.example\n");
    let users = configured.file("users", "a:$5$x$uslD6tQSDGqlwuXJb0SAfvr3CzXP7D8xjfhT9OEeJF5\n");
    let text = format!(
        "block-list = ['{}']\nauth-file = '{}'\n[[rules]]\naction = 'deny'\nname = 'no'\n\
         destinations = '*'\n",
        list.display(),
        users.display()
    );
    configured.replace(&text);
    let proxy = configured.start(&[]);
    assert_eq!(refused_by(proxy.addr, "ads.example").as_deref(), Some("no"));
    for (file, text) in [(&list, "ads.example\n"), (&users, ""), (&configured.path, &*text)] {
        let before = fs::read_to_string(file).unwrap();
        fs::write(file, "").unwrap();
        reloaded(&proxy);
        let empty =
            format!("not reloaded: {}: it is empty; to clear it on purpose", file.display());
        assert_eq!(said(&proxy, &empty), 1, "{text}: {}", proxy.stderr());
        reloaded(&proxy);
        assert_eq!(said(&proxy, &empty), 2, "{}", proxy.stderr());
        assert_eq!(refused_by(proxy.addr, "ads.example").as_deref(), Some("no"));
        fs::write(file, before).unwrap();
    }
    fs::write(&list, "# nothing\n").unwrap();
    configured.replace("# nothing\n");
    reloaded(&proxy);
    assert_eq!(said(&proxy, "it is empty"), 6, "a comment is something: {}", proxy.stderr());
    assert_eq!(refused_by(proxy.addr, "none.invalid"), None);
}

#[test]
fn a_policy_that_begins_to_learn_needs_a_file_since_the_start() {
    let configured = Configured::new("deny = 'a.example'\n");
    let proxy = configured.start(&[]);
    let file = configured.dir.path().join("learnt");
    configured.replace(&format!("policy = 'learn'\nlearn-file = '{}'\n", file.display()));
    reloaded(&proxy);
    let says = "threadgate.toml:1: policy: learn needs a file for the domains that are reached; give \
                --learn-file FILE, and start again";
    assert_eq!(said(&proxy, says), 1, "{}", proxy.stderr());
    assert_eq!(refused_by(proxy.addr, "a.example").as_deref(), Some("threadgate.toml:1"));
}

#[test]
fn the_list_of_a_listener_that_the_file_forgot_is_not_lost_with_what_is_in_it() {
    let configured = Configured::new("");
    let list = configured.file("ads", "ads.example\n");
    let listener = "[[listeners]]\naddress = '127.0.0.1:0'\n";
    configured.replace(&format!("{listener}block-list = 'ads'\n"));
    let proxy = Binary::start_as(&["-c", configured.name()]);
    assert_eq!(refused_by(proxy.addr, "ads.example").as_deref(), Some("ads:1"));
    configured.replace("deny = 'a.example'\n");
    reloaded(&proxy);
    assert_eq!(refused_by(proxy.addr, "ads.example").as_deref(), Some("ads:1"));
    fs::write(&list, "").unwrap();
    reloaded(&proxy);
    assert_eq!(said(&proxy, "ads: it is empty"), 1, "{}", proxy.stderr());
    assert_eq!(refused_by(proxy.addr, "ads.example").as_deref(), Some("ads:1"));
}

#[test]
fn nothing_is_a_file_that_many_may_read_and_write() {
    let configured = Configured::new("");
    let list = configured.file("ads", "one.example\n");
    let list = list.to_str().unwrap();
    let none = "/dev/null";
    let args = ["-c", none, "--access-log", none, "--block-list", list];
    let proxy = Binary::start(&args);
    replace(Path::new(list), "two.example\n");
    reloaded(&proxy);
    assert_eq!(refused_by(proxy.addr, "two.example").as_deref(), Some("ads:1"));
}

#[test]
fn an_option_that_does_nothing_is_said_once_when_a_reload_brings_it() {
    let configured = Configured::new("deny = '.a.example'\n");
    let proxy = configured.start(&[]);
    let says = "threadgate.toml:2: limit user:1mbit has no effect: there are no users";
    configured.replace("deny = '.b.example'\nlimit = 'user:1mbit'\n");
    reloaded(&proxy);
    reloaded(&proxy);
    assert_eq!(said(&proxy, says), 1, "{}", proxy.stderr());
    assert_eq!(refused_by(proxy.addr, "x.b.example").as_deref(), Some("threadgate.toml:1"));
}
