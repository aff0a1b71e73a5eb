//! Lists of domains: their memory, the answer to a refused client, and files that are no lists.

use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::Signal;
use tempfile::TempDir;
use threadgate::config::access::AccessOptions;

use crate::lifecycle::fails;
use crate::peers::{Peer, Response, eventually};
use crate::programs::{output, run, system};
use crate::proxies::{Binary, OK, command, get_request, proxy_with};
use crate::servers::Origin;

/// Files of lists, by name.
pub(crate) fn lists(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

pub(crate) fn place(dir: &TempDir, name: &str) -> String {
    dir.path().join(name).to_str().unwrap().to_owned()
}

fn ask(client: &mut Peer, method: &str, target: &str) -> Response {
    client.send(format!("{method} {target} HTTP/1.1\r\nHost: a.example\r\n\r\n"));
    client.read_response()
}

#[test]
fn a_listed_name_is_refused_however_it_is_spelled_and_the_rest_is_not() {
    // A new connection for each, because they are different destinations.
    let origin = Origin::script(3, |peer| {
        peer.read_head();
        peer.send(OK);
    });
    let port = origin.addr.port();
    let dir = lists(&[
        ("hosts", b"# hosts\r\n127.0.0.1 localhost\r\n0.0.0.0 ads.example\r\n"),
        ("domains", "\u{feff}*.tracker.example\nMüller.example\n192.0.2.1\n".as_bytes()),
        ("adblock", b"[Adblock Plus 2.0]\n||bad.test^\n@@||good.bad.test^\n"),
        ("ours", b"fine.ads.example\n"),
    ]);
    let at = |name: &str| place(&dir, name);
    let proxy = Binary::start(&[
        "--block-list",
        &at("hosts"),
        "--block-list",
        &at("domains"),
        "--block-list",
        &at("adblock"),
        "--allow-list",
        &at("ours"),
        "--resolve=fine.ads.example:127.0.0.1",
        "--resolve=good.bad.test:127.0.0.1",
        "--resolve=localhost:127.0.0.1",
    ]);
    let mut client = Peer::connect(proxy.addr);
    for (host, list, line) in [
        ("ads.example", "hosts", 3),
        ("WWW.Ads.Example", "hosts", 3),
        ("ads.example.", "hosts", 3),
        ("ads.example:8443", "hosts", 3),
        ("a.b.tracker.example", "domains", 1),
        ("xn--mller-kva.example", "domains", 2),
        ("XN--MLLER-KVA.example.", "domains", 2),
        ("192.0.2.1", "domains", 3),
        ("[::ffff:192.0.2.1]", "domains", 3),
        ("x.bad.test", "adblock", 2),
    ] {
        let rule = format!("{}:{line}", at(list));
        let refused = ask(&mut client, "GET", &format!("http://{host}/x"));
        assert_eq!((refused.status, refused.rule()), (403, Some(&*rule)), "{host}");
        let with_port = if host.ends_with("8443") { host } else { &format!("{host}:443") };
        let refused = ask(&mut Peer::connect(proxy.addr), "CONNECT", with_port);
        assert_eq!((refused.status, refused.rule()), (403, Some(&*rule)), "CONNECT {host}");
        assert!(refused.field("x-threadgate-reason").unwrap().ends_with("is on a block list"));
    }
    for host in ["fine.ads.example", "good.bad.test", "localhost"] {
        let served = ask(&mut client, "GET", &format!("http://{host}:{port}/"));
        assert_eq!(served.status, 200, "{host}: {}", served.head);
    }
    origin.join();
}

#[test]
fn where_nothing_else_is_allowed_an_allow_list_is() {
    let origin = Origin::script(1, |peer| {
        peer.read_head();
        peer.send(OK);
    });
    let port = origin.addr.port();
    let dir = lists(&[("ours", b"ours.example\n"), ("ads", b"@@||other.example^\n||ads.example^")]);
    let proxy = Binary::start(&[
        "--policy=enforce",
        "--allow-list",
        &place(&dir, "ours"),
        "--block-list",
        &place(&dir, "ads"),
        "--resolve=www.ours.example:127.0.0.1",
    ]);
    let mut client = Peer::connect(proxy.addr);
    let refused = ask(&mut client, "GET", "http://other.example/");
    assert_eq!((refused.status, refused.rule()), (403, Some("--policy enforce")));
    let served = ask(&mut client, "GET", &format!("http://www.ours.example:{port}/"));
    assert_eq!(served.status, 200, "{}", served.head);
    origin.join();
}

#[test]
fn the_start_and_check_say_of_each_list_what_was_read() {
    let dir = lists(&[
        ("ads", b"||ads.example^\n||ads.example^\nb.example##.ad\n||c.example^$script\n##.x\n"),
        ("none", b"# nothing\n\n"),
        ("void", b""),
    ]);
    let at = |name: &str| place(&dir, name);
    let (ads, none, void) = (at("ads"), at("none"), at("void"));
    let args = ["--block-list", &ads, "--block-list", &none, "--allow-list", &void];
    let proxy = Binary::start(&args);
    let read = format!("{ads}: adblock rules, 1 rule used, 1 duplicate (by name)");
    let skipped = format!(
        "{ads}: 3 lines skipped: 2 cosmetic, the first at {ads}:3: 'b.example##.ad'; 1 with options that \
         cannot be kept, the first at {ads}:4: '||c.example^$script'"
    );
    let empty =
        [&none, &void].map(|file| format!("{file}: it contains no rule, so it has no effect"));
    let says = [
        format!("INFO {read}"),
        format!("WARN {skipped}"),
        format!("WARN {}", empty[0]),
        format!("WARN {}", empty[1]),
        "INFO lists: 1 rule in 1 kB, read in ".to_owned(),
    ];
    for says in &says {
        eventually(|| proxy.stderr().contains(says));
    }
    let check = |more: &[&str]| {
        let words = [&["check"], &args[..], more].concat();
        let ended = run(&mut command(&words));
        assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
        ended.stderr
    };
    let said = check(&[]);
    for says in [&read, &skipped, &empty[0], &empty[1]] {
        assert!(said.contains(&format!("threadgate: {says}\n")), "{said}");
    }
    let each = format!("threadgate: {ads}:5: '##.x' skipped: cosmetic\n");
    assert!(!said.contains(&each), "{said}");
    let said = check(&["-v"]);
    assert!(said.contains(&each), "{said}");
}

/// A listener's own lists, and those of rules, are read like the others.
#[test]
fn check_tells_of_the_lists_of_rules_and_listeners() {
    let dir = lists(&[("kids", b"games.example\n<x>\n"), ("own", b"own.example\n<y>\n")]);
    let file = place(&dir, "t.toml");
    let text = format!(
        "[[rules]]\naction = 'deny'\nlists = ['{}']\n[[listeners]]\naddress = '127.0.0.1:0'\nblock-list = ['{}']\n",
        place(&dir, "kids"),
        place(&dir, "own")
    );
    fs::write(&file, &text).unwrap();
    let ended = run(&mut command(&["check", "-v", "-c", &file]));
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    for (name, bad) in [("kids", "<x>"), ("own", "<y>")] {
        let list = place(&dir, name);
        for says in [
            format!("threadgate: {list}: domains, 1 rule used\n"),
            format!("threadgate: {list}:2: '{bad}' skipped: that are no rule\n"),
        ] {
            assert_eq!(ended.stderr.matches(&says).count(), 1, "{says} {}", ended.stderr);
        }
    }
    let gone = text.replace(&place(&dir, "kids"), "no-such-list");
    fs::write(&file, gone).unwrap();
    let says = [
        "lists: no-such-list: cannot read it: No such file or directory",
        "t.toml:1",
        "check the name",
    ];
    fails(&["check", "-c", &file], 78, &says);
}

#[test]
fn a_rule_may_name_lists_so_that_users_have_their_own() {
    let origin = Origin::script(2, |peer| {
        peer.read_head();
        peer.send(OK);
    });
    let port = origin.addr.port();
    let dir = lists(&[("kids", b"# kids\n||games.example^\n@@||chess.games.example^\n")]);
    let config = |rule: &str| {
        format!(
            "auth = ['kid:pw', 'dad:pw']\n[[rules]]\n{rule}users = ['kid']\nlists = ['{}']\n",
            place(&dir, "kids")
        )
    };
    let file = place(&dir, "t.toml");
    fs::write(&file, config("name = 'no-games'\naction = 'deny'\n")).unwrap();
    let log = place(&dir, "log");
    let names = ["games.example", "chess.games.example", "more.example"]
        .map(|name| format!("--resolve={name}:127.0.0.1"));
    let proxy = Binary::start(&[
        "-c",
        &file,
        "--access-log",
        &log,
        "--log-format=json",
        &names[0],
        &names[1],
        &names[2],
    ]);
    let asks = |user: &str, host: &str| {
        let mut client = Peer::connect(proxy.addr);
        client.send(format!(
            "GET http://{host}:{port}/ HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic {user}\r\n\r\n"
        ));
        let response = client.read_response();
        (response.status, response.rule().map(str::to_owned))
    };
    let (kid, dad) = ("a2lkOnB3", "ZGFkOnB3");
    let refused = (403, Some("no-games".to_owned()));
    assert_eq!(asks(kid, "games.example"), refused);
    assert_eq!(asks(dad, "games.example").0, 200);
    assert_eq!(asks(kid, "chess.games.example").0, 200, "an exception is not on the list");
    let entry = format!(
        "\"rule\":\"no-games\",\"would_deny\":null,\"entry\":\"{}:2 ||games.example^\"",
        place(&dir, "kids")
    );
    eventually(|| fs::read_to_string(&log).unwrap().contains(&entry));
    origin.join();
    // The list is read again with the configuration.
    fs::write(place(&dir, "kids"), "more.example\n").unwrap();
    proxy.signal(Signal::HUP);
    eventually(|| asks(kid, "more.example") == refused);

    let explained = |user: &str| {
        let words = [
            "explain",
            "-c",
            &file,
            "--user",
            user,
            "--address",
            "192.0.2.1",
            "GET",
            "http://more.example/",
        ];
        run(&mut command(&words))
    };
    let said = explained("kid");
    assert_eq!(said.status.code(), Some(3));
    let line = format!(
        "lists           more.example  [{}:1, a list of rule no-games]",
        place(&dir, "kids")
    );
    assert!(said.text().contains(&line), "{}", said.text());
    assert_eq!(explained("dad").status.code(), Some(0));
}

#[test]
fn the_log_has_the_entry_and_explain_has_every_line() {
    let dir = lists(&[
        ("one", b"||ads.example^\n||x*.ads.example^\n"),
        ("two", b"0.0.0.0 x.ads.example\n@@||ok.ads.example^\n"),
    ]);
    let (one, two, log) = (place(&dir, "one"), place(&dir, "two"), place(&dir, "log"));
    let args = ["--block-list", &one, "--block-list", &two];
    let proxy = Binary::start(&[&args[..], &["--access-log", &log]].concat());
    let mut client = Peer::connect(proxy.addr);
    assert_eq!(ask(&mut client, "GET", "http://x.ads.example/").status, 403);
    let line = format!(" rule={one}:1 entry=||ads.example^");
    eventually(|| fs::read_to_string(&log).unwrap().contains(&line));

    let words = ["explain", "GET", "http://x.ads.example/"];
    let said = run(&mut command(&[&words[..1], &args, &words[1..]].concat()));
    assert_eq!(said.status.code(), Some(3));
    let expected = format!(
        "filter   denied          x.ads.example is on a block list  [{one}:1]\n\
         lines    refuses         ||ads.example^  [{one}:1]\n         \
         refuses         ||x*.ads.example^  [{one}:2]\n         \
         refuses         0.0.0.0 x.ads.example  [{two}:1]\n"
    );
    let text = said.text();
    assert!(text.contains(&expected), "{text}");
    // Without a user, who would be refused in any case.
    fs::write(&log, "").unwrap();
    let with_users = Binary::start(&[&args[..], &["--auth=a:b", "--access-log", &log]].concat());
    let mut client = Peer::connect(with_users.addr);
    assert_eq!(ask(&mut client, "GET", "http://x.ads.example/").status, 403);
    eventually(|| fs::read_to_string(&log).unwrap().contains(&line));
    let json = run(&mut command(&[&words[..1], &args, &["--json"], &words[1..]].concat())).text();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["lines"].as_array().unwrap().len(), 3);
    assert_eq!(json["lines"][2]["text"], "0.0.0.0 x.ads.example");
}

/// Sleeping workers and open tunnels must not keep long lists that are not in force any more.
#[test]
fn lists_that_were_replaced_are_let_go_by_sleepers_and_tunnels() {
    let dir = lists(&[("ads", b"ads.example\n")]);
    let access = |allow: &[&str]| {
        let options = AccessOptions {
            block_list: vec![place(&dir, "ads")],
            allow: allow.iter().map(|&text| text.to_owned()).collect(),
            deny_type: vec!["video/mp4".to_owned()],
            ..AccessOptions::default()
        };
        options.build(None).unwrap()
    };
    let echo = Origin::script(2, |peer| {
        peer.read_until(b"more");
        peer.send("end");
    });
    let first = access(&["127.0.0.0/8"]);
    let kept = Arc::downgrade(first.filter().unwrap());
    let proxy = proxy_with(|options| {
        options.access = first;
        options.threads = NonZeroUsize::new(8);
    });
    let mut tunnel = Peer::connect(proxy.addr());
    tunnel.send(format!("CONNECT {} HTTP/1.1\r\nHost: a\r\n\r\n", echo.addr));
    assert!(tunnel.read_head().starts_with("HTTP/1.1 200 "));
    tunnel.send("no TLS");
    let mut silent = Peer::connect(proxy.addr());
    silent.send(format!("CONNECT {} HTTP/1.1\r\nHost: a\r\n\r\n", echo.addr));
    assert!(silent.read_head().starts_with("HTTP/1.1 200 "));
    let slow = Origin::script(1, |peer| {
        peer.read_head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na");
        peer.read_to_any_end();
    });
    let mut long = Peer::connect(proxy.addr());
    long.send(get_request(slow.addr, "/"));
    long.read_head();
    proxy.set_access(&access(&[]), false);
    eventually(|| kept.upgrade().is_none());
    long.reset();
    slow.join();
    tunnel.send("more");
    tunnel.expect_text_and_eof("end");
    silent.send("more");
    silent.expect_text_and_eof("end");
    let mut client = Peer::connect(proxy.addr());
    assert_eq!(ask(&mut client, "GET", "http://ads.example/").status, 403, "the new lists hold");
    drop(client);
    echo.join();
}

/// A file of bytes that compress badly, without NULs, and with line ends not too far apart.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut noise = Vec::with_capacity(bytes);
    while noise.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        noise.push(((state >> 56) as u8).max(1));
    }
    noise
}

#[test]
fn a_file_that_is_no_list_ends_the_start_and_says_why() {
    let long = [b"a".repeat(100 << 20), b"\n".to_vec()].concat();
    let utf16: Vec<u8> =
        "\u{feff}ads.example\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let dir = lists(&[
        ("long", &long),
        ("utf16", &utf16),
        ("program", &fs::read(env!("CARGO_BIN_EXE_threadgate")).unwrap()[..4096]),
        ("noise", &[b"<", noise(300_000).as_slice()].concat()),
        ("latin1", b"gr\xfc\xdfe.example\n"),
        ("page", b"<!DOCTYPE html>\n<html>\n"),
        ("gz", b"\x1f\x8b\x08\0"),
        ("good", b"ads.example\n"),
    ]);
    let at = |name: &str| place(&dir, name);
    let fifo = at("fifo");
    if let Some(mut mkfifo) = system("mkfifo") {
        output(mkfifo.arg(&fifo));
    }
    for (name, place, says) in [
        ("long", ":1", "'aaaa"),
        ("utf16", ":1", "UTF-16; save it as UTF-8"),
        ("program", ":1", "it contains a NUL"),
        ("noise", ":1", "cannot be used, and neither can any other line ("),
        ("latin1", ":1", "cannot be used, and neither can any other line (1 that are no rule)"),
        ("page", ":1", "it is a web page; download the list itself"),
        ("https://lists.example/ads.txt", "", "it is a URL: download it, and give the file"),
        ("gz", ":1", "it is compressed; unpack it with gunzip"),
        ("fifo", "", "it is not a regular file; give one"),
        ("none", "", "cannot read it: No such file or directory"),
        (".", "", "it is a directory; give a file, and the option once for each"),
    ] {
        let file = match name {
            "." => dir.path().to_str().unwrap().to_owned(),
            url if url.contains("://") => url.to_owned(),
            name => at(name),
        };
        for option in ["--block-list", "--allow-list"] {
            let begins = format!("threadgate: {option} {file}{place}: ");
            let (good, words) = (at("good"), [begins.as_str(), says]);
            fails(&["-p", "0", "--block-list", &good, option, &file], 78, &words);
        }
    }
}

/// Root may read everything, so there is nothing to test as root.
#[test]
fn a_file_that_is_not_permitted_has_its_own_status() {
    let dir = lists(&[("ads", b"ads.example\n")]);
    let file: PathBuf = dir.path().join("ads");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    let text = file.to_str().unwrap();
    if fs::read(&file).is_err() {
        let says =
            "cannot read it: Permission denied (os error 13); give a file this user can read";
        fails(&["-p", "0", "--block-list", text], 77, &["--block-list", says]);
        return;
    }
    let Some(mut setpriv) = system("setpriv") else { return };
    // The program and the directories above it may be closed to others, so it is run from here.
    let program = dir.path().join("threadgate");
    fs::copy(Path::new(env!("CARGO_BIN_EXE_threadgate")), &program).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
    setpriv.args(["-p", "0", "--block-list", text]);
    let mut ended = run(&mut setpriv);
    // A process that another test is starting may still have the copy open.
    eventually(|| {
        let is_busy = ended.stderr.contains("Text file busy");
        if is_busy {
            ended = run(&mut setpriv);
        }
        !is_busy
    });
    assert_eq!(ended.status.code(), Some(77), "{}", ended.stderr);
    assert!(ended.stderr.contains("cannot read it: Permission denied"), "{}", ended.stderr);
}
