//! Files that cannot be used, at the start, and in the place of good ones while the proxy runs. The
//! message names file and line, and what was read before stays in use.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::lifecycle::fails;
use crate::peers::{Peer, Response, eventually};
use crate::programs::{output, system};
use crate::proxies::Binary;

use super::soak_access::{Busy, Stops, fixed_threads};

/// What stands in the place of a file.
enum Bad<'a> {
    Text(&'a [u8]),
    /// Another file, which is moved there and back.
    File(&'a Path),
    Missing,
    Directory,
    Fifo,
    Socket,
    /// A link to something that answers reads.
    Link(&'a str),
}

/// A proxy's files, all of them good.
struct Files {
    dir: TempDir,
    /// The name of each, with its good content.
    good: Vec<(&'static str, String)>,
}

impl Files {
    fn new(origin: SocketAddr) -> Self {
        let hash = bcrypt::hash_with_salt("secret", 4, [9; 16]).unwrap();
        let good = vec![
            (
                "threadgate.toml",
                "block-list = 'block'\nallow-list = 'allow'\nauth-file = 'users'\n\
                 hosts-file = 'names'\ndeny = '.rule.example'\n"
                    .to_owned(),
            ),
            ("block", "# ads\nads.example\n".to_owned()),
            ("allow", "fine.ads.example # 2 requests\n".to_owned()),
            ("users", format!("alice:{hash}\n")),
            ("names", format!("{} fine.ads.example\n", origin.ip())),
        ];
        let files = Self { dir: tempfile::tempdir().unwrap(), good };
        files.good.iter().for_each(|(name, _)| files.mend(name));
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts something else in the place of a file, by renaming.
    fn spoil(&self, name: &str, bad: &Bad<'_>) {
        let (path, beside) = (self.path(name), self.path("beside"));
        match bad {
            Bad::Text(bytes) => fs::write(&beside, bytes).unwrap(),
            Bad::File(file) => fs::hard_link(file, &beside).unwrap(),
            Bad::Link(to) => symlink(to, &beside).unwrap(),
            Bad::Socket => drop(UnixListener::bind(&beside).unwrap()),
            Bad::Fifo => drop(output(system("mkfifo").unwrap().arg(&beside))),
            // A directory cannot take a file's place.
            Bad::Missing | Bad::Directory => {
                fs::remove_file(&path).unwrap();
                if matches!(bad, Bad::Missing) {
                    return;
                }
                fs::create_dir(&beside).unwrap();
            }
        }
        fs::rename(&beside, &path).unwrap();
    }

    fn mend(&self, name: &str) {
        let (path, beside) = (self.path(name), self.path("beside"));
        let (_, text) = self.good.iter().find(|(known, _)| *known == name).unwrap();
        fs::write(&beside, text).unwrap();
        if path.is_dir() {
            fs::remove_dir(&path).unwrap();
        }
        fs::rename(&beside, &path).unwrap();
    }
}

fn ask(client: &mut Peer, host: &str, user: &str) -> Response {
    let proof = BASE64_STANDARD.encode(user);
    client.send(format!(
        "GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: Basic {proof}\r\n\r\n"
    ));
    client.read_response()
}

/// Checks that all the good files are in force, on a connection that is there from the beginning.
#[track_caller]
fn assert_holds(client: &mut Peer, origin: SocketAddr, after: &str) {
    for (host, status, rule) in [
        (format!("fine.ads.example:{}", origin.port()), 200, None),
        ("www.ads.example".to_owned(), 403, Some("block:2")),
        ("a.rule.example".to_owned(), 403, Some("threadgate.toml:5")),
    ] {
        let got = ask(client, &host, "alice:secret");
        let by = got.rule().map(|rule| rule.rsplit('/').next().unwrap());
        assert_eq!((got.status, by), (status, rule), "{host} after {after}");
    }
}

fn count(proxy: &Binary, what: &str) -> usize {
    proxy.stderr().matches(what).count()
}

/// Has everything read again, waits until that is over, and returns the messages logged meanwhile.
#[track_caller]
fn reload(proxy: &Binary) -> String {
    let over = || count(proxy, ".toml was read again") + count(proxy, "the reload changed nothing");
    let (before, said) = (over(), proxy.stderr().len());
    proxy.signal(Signal::HUP);
    eventually(|| over() > before);
    proxy.stderr().split_off(said)
}

/// The most memory that the proxy has used, in KiB.
fn most_memory(proxy: &Binary) -> usize {
    let pid = proxy.pid().as_raw_nonzero();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Every mistake in every file gives the same message at the start and at a reload, once and in a
/// bounded time. At the start the proxy ends; at a reload everything stays as it is.
#[test]
fn a_file_that_cannot_be_used_ends_the_start_and_changes_nothing_later() {
    if system("mkfifo").is_none() {
        return;
    }
    let origin = Busy::kind();
    let files = Files::new(origin.addr);
    // A hundred megabytes without a line end, and very many lines.
    let (long, many) = (files.path("long"), files.path("many"));
    fs::write(&long, b"a".repeat(100 << 20)).unwrap();
    fs::write(&many, b"a b c d e f g\n".repeat(100 << 10)).unwrap();
    let utf16: Vec<u8> = "\u{feff}a.example".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let elf = &fs::read(env!("CARGO_BIN_EXE_threadgate")).unwrap()[..9000];
    let (dir, missing) = ("it is a directory", "cannot read it: No such file or directory");
    let (no_file, io) = ("not a regular file", "cannot read it: Input/output error");
    let rows: [(&str, Bad<'_>, &str, &str); 34] = [
        ("block", Bad::Missing, "", missing),
        ("block", Bad::Directory, "", dir),
        ("block", Bad::Fifo, "", no_file),
        ("block", Bad::Socket, "", "cannot read it: "),
        ("block", Bad::Link("/dev/zero"), "", no_file),
        ("block", Bad::Link("block"), "", "cannot read it: Too many levels of symbolic links"),
        ("block", Bad::Text(elf), ":1", "it contains a NUL"),
        ("block", Bad::Text(&utf16), ":1", "the file is UTF-16; save it as UTF-8"),
        ("block", Bad::File(&long), ":1", "cannot be used, and neither can any other line"),
        ("block", Bad::File(&many), ":1", "cannot be used, and neither can any other line"),
        ("allow", Bad::Missing, "", missing),
        ("allow", Bad::Fifo, "", no_file),
        ("allow", Bad::Text(b"\xff\xfe"), ":1", "the file is UTF-16; save it as UTF-8"),
        ("users", Bad::Missing, "", missing),
        ("users", Bad::Directory, "", "cannot read it: Is a directory"),
        ("users", Bad::Fifo, "", no_file),
        ("users", Bad::Socket, "", "cannot read it: "),
        ("users", Bad::Link("/dev/zero"), "", no_file),
        ("users", Bad::Link("/proc/self/mem"), "", io),
        ("users", Bad::Text(elf), ":1", "the line"),
        ("users", Bad::Text(&utf16), ":1", "the line is not UTF-8"),
        (
            "users",
            Bad::File(&long),
            "",
            "the file is larger than 16 MiB; this is not a file of users",
        ),
        ("names", Bad::Missing, "", missing),
        ("names", Bad::Directory, "", no_file),
        ("names", Bad::Fifo, "", no_file),
        ("names", Bad::Link("/proc/self/mem"), "", io),
        ("names", Bad::Text(elf), ":1", "is not an IP address"),
        ("names", Bad::File(&long), "", "it has more than 16 MiB"),
        ("threadgate.toml", Bad::Directory, "", dir),
        ("threadgate.toml", Bad::Link("/proc/self/mem"), "", io),
        ("threadgate.toml", Bad::Text(b"\ndeny = 'a\0b'\n"), ":2", "invalid"),
        ("threadgate.toml", Bad::Text(elf), ":", "this line is not UTF-8"),
        ("threadgate.toml", Bad::Text(&utf16), ":1", "the file is UTF-16; save it as UTF-8"),
        ("threadgate.toml", Bad::File(&long), "", "it is larger than 1 MiB"),
    ];
    let config = files.path("threadgate.toml");
    let config = config.to_str().unwrap();
    let proxy = Binary::start(&["-c", config]);
    let mut client = Peer::connect(proxy.addr);
    assert_holds(&mut client, origin.addr, "the start");
    let (threads, descriptors) = (fixed_threads(&proxy), proxy.descriptors());
    reload(&proxy);
    let (memory, most) = (proxy.memory(), most_memory(&proxy));
    for (row, (name, bad, line, says)) in rows.iter().enumerate() {
        files.spoil(name, bad);
        let row = format!("row {row}, {name}: {says}");
        let place = format!("{}{line}", files.path(name).display());
        fails(&["-c", config, "-p", "0"], 78, &[&place, says]);
        let said = reload(&proxy);
        assert_eq!(said.matches("not reloaded: ").count(), 1, "{row}: {said}");
        assert!(said.contains(&place) && said.contains(says), "{row}: {said}");
        assert!(said.len() < 2000, "{row}: {said}");
        assert_holds(&mut client, origin.addr, &row);
        files.mend(name);
    }
    let said = reload(&proxy);
    assert!(!said.contains("not reloaded"), "{said}");
    assert_holds(&mut client, origin.addr, "all of them");
    assert_eq!((fixed_threads(&proxy), proxy.descriptors()), (threads, descriptors));
    let grown = proxy.memory().saturating_sub(memory);
    assert!(grown < 4 << 10, "{grown} KiB more than before");
    let peak = most_memory(&proxy).saturating_sub(most);
    assert!(peak < 64 << 10, "{peak} KiB more at one time");
}

/// With --watch the message is the same and is given once, and the next good file is taken.
#[test]
fn with_watch_a_file_that_cannot_be_used_is_named_once() {
    let origin = Busy::kind();
    let files = Files::new(origin.addr);
    let config = files.path("threadgate.toml");
    let proxy = Binary::start(&["-c", config.to_str().unwrap(), "--watch"]);
    let mut client = Peer::connect(proxy.addr);
    let bad = [("users", "users:1: "), ("block", "block:1: ")];
    for (name, _) in bad {
        files.spoil(name, &Bad::Text(b"<!DOCTYPE html>\n"));
    }
    // One file is named at a time: the first that is read.
    for (n, (name, says)) in bad.into_iter().enumerate() {
        eventually(|| count(&proxy, "ERROR not reloaded") == n + 1);
        eventually(|| count(&proxy, says) == 1);
        assert_holds(&mut client, origin.addr, name);
        if n == 0 {
            // The files are checked meanwhile, and nothing has changed.
            thread::sleep(Duration::from_millis(2500));
            assert_eq!(count(&proxy, "ERROR not reloaded"), 1, "{}", proxy.stderr());
        }
        files.mend(name);
    }
    eventually(|| count(&proxy, ".toml was read again") == 1);
    assert_eq!(count(&proxy, "ERROR not reloaded"), 2, "{}", proxy.stderr());
    assert_holds(&mut client, origin.addr, "all of them");
}

/// A configuration from a pipe cannot be read again, and the proxy waits for no other.
#[test]
fn a_configuration_that_came_through_a_pipe_is_read_once() {
    let Some(mut mkfifo) = system("mkfifo") else { return };
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("config");
    output(mkfifo.arg(&fifo));
    let writer = {
        let fifo = fifo.clone();
        thread::spawn(move || fs::write(fifo, "deny = '.rule.example'\n").unwrap())
    };
    let proxy = Binary::start(&["-c", fifo.to_str().unwrap()]);
    writer.join().unwrap();
    let mut client = Peer::connect(proxy.addr);
    let said = "not reloaded: ";
    for reloads in 1..3 {
        proxy.signal(Signal::HUP);
        eventually(|| count(&proxy, said) == reloads);
        assert_eq!(ask(&mut client, "a.rule.example", "a:b").status, 403);
    }
    assert_eq!(count(&proxy, "it is not a regular file"), 2, "{}", proxy.stderr());
}

/// A name in another script is the same name in both of its forms, wherever it is written.
#[test]
fn a_name_in_another_script_is_the_same_in_both_forms() {
    let forms = ["bücher.example", "BU\u{308}CHER.example.", "xn--bcher-kva.example"];
    let origin = Busy::kind();
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list");
    let list_name = list.to_str().unwrap();
    let to = format!("xn--bcher-kva.example:{}", origin.addr.port());
    for form in forms {
        for (text, is_read) in [
            (format!("{form}\n"), true),
            (format!("0.0.0.0 {form}\n"), true),
            (format!("||{form}^\n"), !form.ends_with('.')),
        ] {
            fs::write(&list, &text).unwrap();
            let proxy = if is_read {
                Binary::start(&["--block-list", list_name])
            } else {
                continue;
            };
            let refused = ask(&mut Peer::connect(proxy.addr), &to, "a:b");
            assert_eq!(refused.rule(), Some(&*format!("{list_name}:1")), "{text}");
        }
        let proxy = Binary::start(&["--deny", form]);
        let refused = ask(&mut Peer::connect(proxy.addr), &to, "a:b");
        assert_eq!(refused.rule(), Some("--deny:1"), "{form}");
    }
    // Rules that allow it match both forms, too: a list, and a learnt list.
    for (n, form) in forms.into_iter().enumerate() {
        let bom = if n == 1 { "\u{feff}" } else { "" };
        fs::write(&list, format!("{bom}# learnt\r\n{form}   # 2 requests, last 2026\r\n")).unwrap();
        let given = "--resolve=xn--bcher-kva.example:127.0.0.1";
        let args = ["--policy=enforce", "--allow-list", list_name, given];
        let proxy = Binary::start(&args);
        let served = ask(&mut Peer::connect(proxy.addr), &to, "a:b");
        assert_eq!(served.status, 200, "{form}: {}", served.head);
    }
}

/// A list is written all the time, in the proper way. Each reload gets one of the two whole lists.
#[test]
fn a_list_that_is_replaced_while_it_is_read_is_never_read_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list");
    let names = |from: usize, count: usize| -> String {
        (from..from + count).map(|n| format!("name-{n}.example\n")).collect()
    };
    let texts = [names(0, 8_000), names(8_000, 5_000)];
    fs::write(&list, &texts[0]).unwrap();
    let config = dir.path().join("threadgate.toml");
    fs::write(&config, "block-list = 'list'\n").unwrap();
    let proxy = Binary::start(&["-c", config.to_str().unwrap()]);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let beside = dir.path().join("beside");
            for n in 1.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                fs::write(&beside, &texts[n % 2]).unwrap();
                fs::rename(&beside, &list).unwrap();
            }
        });
        let _stops = Stops(&stop);
        (0..10).for_each(|_| drop(reload(&proxy)));
    });
    let said = proxy.stderr();
    let reads = said.lines().filter_map(|line| line.split("/list: ").nth(1));
    let reads: Vec<&str> = reads.collect();
    for read in &reads {
        let whole = ["domains, 8000 rules used", "domains, 5000 rules used"].contains(read);
        assert!(whole || read.starts_with("it changes while it is read; write"), "{read}");
    }
    assert!(reads.len() > 10, "{said}");
    // With a file written in place only the message can be checked; the reload is over soon in any case.
    stop.store(false, Ordering::Relaxed);
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                fs::write(&list, &texts[n % 2]).unwrap();
            }
        });
        let _stops = Stops(&stop);
        (0..10).for_each(|_| drop(reload(&proxy)));
    });
    fs::write(&list, &texts[1]).unwrap();
    let said = reload(&proxy);
    assert!(said.contains("/list: domains, 5000 rules used"), "{said}");
    let refused = ask(&mut Peer::connect(proxy.addr), "name-12999.example", "a:b");
    assert_eq!(refused.rule(), Some(&*format!("{}:5000", list.display())));
}
