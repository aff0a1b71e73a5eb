//! The pages of `docs/guide` are true: the tests run their scripts, commands and configurations.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::process::Signal;

use crate::guide::root;
use crate::peers::{Peer, eventually};
use crate::programs::{free_port, output, run, started, system, text};
use crate::proxies::{Binary, get, get_request};
use crate::servers::RefusedPort;

use super::installed::{Nginx, tool};

fn page(name: &str) -> String {
    fs::read_to_string(root().join("docs/guide").join(name)).unwrap()
}

/// The block of a page that begins with `start`.
#[track_caller]
fn block(page: &str, start: &str) -> String {
    let mut blocks = page.split("\n```").skip(1).step_by(2);
    let found = blocks.find_map(|block| {
        let (_, text) = block.split_once('\n')?;
        text.starts_with(start).then(|| format!("{text}\n"))
    });
    found.unwrap_or_else(|| panic!("no block begins with {start:?}"))
}

/// A script of a page as a command that finds `threadgate`.
///
/// The command names the interpreter: a file just written may still be open in a process that another
/// test is starting, and then cannot be executed.
fn script(dir: &Path, name: &str, start: &str) -> Command {
    let file = dir.join(name);
    fs::write(&file, block(&page("script.md"), start)).unwrap();
    let interpreter = start.rsplit(['/', ' ']).next().unwrap();
    let mut command = tool(interpreter).expect("looked for before");
    in_path(leading_around(command.arg(file).current_dir(dir)));
    command
}

/// Makes `threadgate` available to the command.
fn in_path(command: &mut Command) -> &mut Command {
    let binary = Path::new(env!("CARGO_BIN_EXE_threadgate"));
    let mut path = binary.parent().unwrap().as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    command.env("PATH", path)
}

/// Sets what a program may inherit that leads it around its proxy.
fn leading_around(command: &mut Command) -> &mut Command {
    for name in ["no_proxy", "NO_PROXY"] {
        command.env(name, "*");
    }
    for name in ["all_proxy", "ALL_PROXY", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"] {
        command.env(name, "http://127.0.0.1:9");
    }
    command
}

/// nginx with a small page, `/hello`.
fn origin() -> Option<Nginx> {
    Nginx::start_with("location /hello { return 200 'hello'; }")
}

#[test]
fn the_shell_script_runs_a_command_and_says_what_it_fetched() {
    if tool("curl").is_none() || tool("jq").is_none() {
        return;
    }
    let (Some(origin), refused) = (origin(), RefusedPort::new()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let good = format!("http://{}/hello", origin.clear);
    let bad = format!("http://{}/", refused.addr);
    for (url, code, line) in
        [(&good, 0, format!("GET\t{good}\t200\t")), (&bad, 22, format!("GET\t{bad}\t502\t"))]
    {
        let ended = run(script(dir.path(), "traced.sh", "#!/bin/sh").args(["curl", "-fsS", url]));
        assert_eq!(ended.status.code(), Some(code), "{}", ended.stderr);
        assert!(ended.stderr.contains(&line), "{}", ended.stderr);
    }
    // A command that cannot start has its own status.
    let mut fails = script(dir.path(), "traced.sh", "#!/bin/sh");
    let text = fs::read_to_string(dir.path().join("traced.sh")).unwrap();
    let taken = text.replace("--port 0", &format!("--port {}", origin.clear.port()));
    fs::write(dir.path().join("traced.sh"), taken).unwrap();
    let ended = run(fails.arg("true"));
    assert_eq!(ended.status.code(), Some(69), "{}", ended.stderr);
}

#[test]
fn the_python_program_fetches_and_says_what_it_cost() {
    if tool("python3").is_none() {
        return;
    }
    let (Some(origin), refused) = (origin(), RefusedPort::new()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let good = format!("http://{}/hello", origin.clear);
    let bad = format!("http://{}/", refused.addr);
    let said = text(script(dir.path(), "traced.py", "#!/usr/bin/env python3").args([&good, &bad]));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    // The second request may be logged before the first: they are on different connections.
    for begins in [format!("GET {good} 200 ok "), format!("GET {bad} 502 connection_refused ")] {
        assert!(lines.iter().any(|line| line.starts_with(&begins)), "{said}");
    }
}

/// The commands of `egress.md`, in the page's order, with a build that reaches an nginx.
#[test]
fn an_egress_list_is_learnt_rehearsed_and_enforced() {
    if tool("curl").is_none() || tool("jq").is_none() {
        return;
    }
    let (Some(origin), dir) = (origin(), tempfile::tempdir().unwrap()) else { return };
    let page = page("egress.md");
    let write = |name: &str, text: String| fs::write(dir.path().join(name), text).unwrap();
    write("egress.sh", block(&page, "#!/bin/sh"));
    let port = origin.clear.port();
    let build = |urls: &[&str]| {
        let fetch = |url: &&str| format!("curl -sS -o out {url} || exit 9\n");
        write("build.sh", urls.iter().map(fetch).collect());
    };
    let commands: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
    let [learn, rehearse, ask, enforce, explain] = commands[..] else { panic!("{commands:?}") };
    let do_it = |command: &str| {
        // Names that lead here, and files that need no permission to be executed.
        let names = "--resolve www.good.example:127.0.0.1 --resolve bad.example:127.0.0.1";
        let command = command
            .replace("EGRESS=\"", &format!("EGRESS=\"{names} "))
            .replace("./egress.sh ./build.sh", "sh ./egress.sh sh ./build.sh");
        let mut sh = system("sh").unwrap();
        let sh = sh.args(["-c", &command]).current_dir(dir.path());
        run(in_path(leading_around(sh)))
    };
    let good = format!("http://www.good.example:{port}/hello");
    let bad = format!("http://bad.example:{port}/hello");

    build(&[&good]);
    let ended = do_it(learn);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    let list = fs::read_to_string(dir.path().join("allow.txt")).unwrap();
    assert!(list.lines().any(|line| line.starts_with("good.example  ")), "{list}");

    assert_eq!(do_it(rehearse).status.code(), Some(0));
    build(&[&good, &bad]);
    fs::remove_file(dir.path().join("egress.json")).unwrap();
    assert_eq!(do_it(rehearse).status.code(), Some(3));
    assert_eq!(do_it(ask).text(), format!("--policy report\tGET\t{bad}\n"));

    assert_eq!(do_it(enforce).status.code(), Some(0), "curl takes a 403 for an answer");
    let refused = fs::read_to_string(dir.path().join("out")).unwrap();
    assert!(refused.contains("no rule allows this request"), "{refused}");

    // The output on the page, with a list of as many names.
    write("allow.txt", "good.example\nexample.org\n".to_owned());
    let ended = do_it(explain);
    assert_eq!(ended.status.code(), Some(3));
    let shown = block(&page, &format!("$ {explain}")).split_once('\n').unwrap().1.to_owned();
    assert_eq!(ended.text(), shown);
}

/// The commands of `users.md`, in the page's order. Text typed at a terminal is piped in.
#[test]
fn users_are_let_in_and_limited_as_the_page_says() {
    if tool("curl").is_none() {
        return;
    }
    let (Some(origin), dir) = (origin(), tempfile::tempdir().unwrap()) else { return };
    let page = page("users.md");
    let commands: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
    let [typed, piped, serve, curl, by_env, by_option, limit, limits, bob, alice] = commands[..]
    else {
        panic!("{commands:?}")
    };
    let shell = |command: &str| {
        let mut sh = system("sh").unwrap();
        let sh = sh.args(["-ec", command]).current_dir(dir.path());
        run(in_path(sh.env("BOBS_PASSWORD", "bob's own")))
    };
    let done = |command: &str| {
        let ended = shell(command);
        assert!(ended.status.success(), "{command}: {}", ended.stderr);
        ended.text()
    };
    let url = format!("http://{}/hello", origin.clear);
    // A proxy started as on the page, but on a free port.
    let start = |command: &str| {
        let words = command.rsplit_once("threadgate ").unwrap().1.replace("0.0.0.0:3128", "");
        let words = words.split_whitespace().filter(|word| *word != "-l");
        let there = |command: &mut Command| {
            command.current_dir(dir.path()).env("PROXY_USERS", "alice:open:sesame");
        };
        Binary::start_by(&["env"], there, &words.collect::<Vec<_>>())
    };
    let asks = |proxy: &Binary, who: &str| {
        let command = curl.replace("http://proxy.example:3128", &proxy.url());
        let command = command.replace("http://example.com/", &url);
        let write = format!("-U '{who}' -s -o /dev/null -w '%{{http_code}}'");
        done(&command.replace("-U alice", &write))
    };
    done(&format!("echo open:sesame | {typed}"));
    let proxy = start(serve);
    assert_eq!(asks(&proxy, "alice:open:sesame"), "200");
    assert_eq!(asks(&proxy, "bob:bob'\\''s own"), "407");
    done(piped);
    proxy.signal(Signal::HUP);
    eventually(|| asks(&proxy, "bob:bob'\\''s own") == "200");
    done("threadgate check --auth-file users");
    for command in [by_env, by_option, limit, limits] {
        let proxy = start(command);
        assert_eq!(asks(&proxy, "alice:open:sesame"), "200", "{command}");
        assert_eq!(asks(&proxy, "alice:wrong"), "407", "{command}");
    }
    for command in [bob, alice] {
        let shown = page.split_once(&format!("$ {command}\n")).unwrap().1;
        let said = done(command);
        assert!(shown.starts_with(&said) && !said.is_empty(), "{command}: {said}");
    }
}

/// Makes some traffic, and the logs that `log.md` reads.
fn make_logs(dir: &Path, origin: SocketAddr) {
    let refused = RefusedPort::new();
    for (format, file) in
        [("text", "access.log"), ("json", "access.json"), ("combined", "access.combined")]
    {
        let log = dir.join(file);
        let log = log.to_str().unwrap();
        let mut proxy =
            Binary::start(&["--deny=.ads.example", "--access-log", log, "--log-format", format]);
        for path in ["/hello", "/hello?2"] {
            assert_eq!(get(proxy.addr, origin, path).status, 200);
        }
        assert_eq!(get(proxy.addr, refused.addr, "/").status, 502);
        let mut denied = Peer::connect(proxy.addr);
        for request in ["GET http://x.ads.example/", "CONNECT x.ads.example:443"] {
            denied.send(format!("{request} HTTP/1.1\r\nHost: a\r\n\r\n"));
            assert_eq!(denied.read_response().status, 403);
        }
        let mut tunnel = Peer::connect(proxy.addr);
        tunnel.send(format!("CONNECT {origin} HTTP/1.1\r\nHost: a\r\n\r\n"));
        tunnel.read_head();
        drop(tunnel);
        proxy.signal(Signal::TERM);
        assert_eq!(proxy.wait().code(), Some(0));
    }
}

#[test]
fn the_commands_that_read_a_log_work() {
    if ["jq", "awk", "goaccess"].iter().any(|name| tool(name).is_none()) {
        return;
    }
    let (Some(origin), dir) = (origin(), tempfile::tempdir().unwrap()) else { return };
    make_logs(dir.path(), origin.clear);
    let page = page("log.md");
    let commands: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
    assert!(commands.len() >= 10, "{commands:?}");
    for command in commands {
        let mut sh = system("sh").unwrap();
        let said = text(sh.args(["-ec", command]).current_dir(dir.path()));
        let report = dir.path().join("report.html");
        assert!(!said.trim().is_empty() || report.exists(), "{command} says nothing");
    }
}

/// The line without the parts that differ each time: the time before a message, and durations.
fn settled(line: &str) -> String {
    let line = match line.split_once("Z INFO ").or_else(|| line.split_once("Z WARN ")) {
        Some((_, message)) => message,
        None => line,
    };
    match line.split_once(", read in ") {
        Some((line, _)) => line.to_owned(),
        None => line.trim_end().to_owned(),
    }
}

#[test]
fn the_commands_that_block_ads_say_what_the_page_says() {
    if ["jq", "curl"].iter().any(|name| tool(name).is_none()) {
        return;
    }
    let page = page("block-ads.md");
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("ads.txt"), "0.0.0.0 ads.example\n0.0.0.0 tracker.example\n")
        .unwrap();
    // The page's own proxy, with its lists and its log.
    let args = ["--block-list=ads.txt", "--access-log=access.json", "--log-format=json"];
    let there = |command: &mut Command| {
        command.current_dir(dir.path());
    };
    let proxy = Binary::start_by(&["env"], there, &args);
    let seen = says_what_it_shows(&page, dir.path(), &proxy.url());
    assert!(seen >= 8, "{seen}");
}

/// The commands of `move-lists.md`, with a database and an answer as the two programs have them.
#[test]
fn the_lists_of_a_pi_hole_and_an_adguard_home_move_over() {
    if ["sqlite3", "jq", "sed"].iter().any(|name| tool(name).is_none()) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // The tables of Pi-hole 6, as far as they matter.
    let tables = r"
        CREATE TABLE adlist (id INTEGER PRIMARY KEY, address TEXT NOT NULL, enabled BOOLEAN NOT NULL DEFAULT 1,
            type INTEGER NOT NULL DEFAULT 0);
        CREATE TABLE domainlist (id INTEGER PRIMARY KEY, type INTEGER NOT NULL DEFAULT 0, domain TEXT NOT NULL,
            enabled BOOLEAN NOT NULL DEFAULT 1);
        INSERT INTO adlist (address, enabled) VALUES ('https://lists.example/hosts', 1), ('https://off.example/', 0);
        INSERT INTO domainlist (type, domain, enabled) VALUES (0, 'ok.ads.test', 1), (1, 'ads.example', 1),
            (1, 'off.example', 0), (2, '^good\.', 1), (3, '^track[0-9]+\.', 1);";
    text(tool("sqlite3").unwrap().arg(dir.path().join("gravity.db")).arg(tables));
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    let status = r#"{"filters": [{"enabled": true, "url": "https://lists.example/1.txt", "id": 1}], "whitelist_filters": null,
        "user_rules": ["||ads.example^", "@@||ok.ads.example^$important"], "interval": 24, "enabled": true}"#;
    write("status.json", status);
    write("list-1.txt", "0.0.0.0 ads.example\n0.0.0.0 tracker.example\n");
    write("list-2.txt", "||a.example^\n||b*.example^\n||cdn.example^$third-party\n");
    let seen = says_what_it_shows(&page("move-lists.md"), dir.path(), "");
    assert!(seen >= 10, "{seen}");
}

/// Runs the commands of a page's console blocks, compares what they print with what the page shows, and returns
/// their number.
fn says_what_it_shows(page: &str, dir: &Path, proxy: &str) -> usize {
    let path = [Path::new(env!("CARGO_BIN_EXE_threadgate")).parent().unwrap().to_owned()];
    let all = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(path.into_iter().chain(std::env::split_paths(&all))).unwrap();
    let mut seen = 0;
    for block in page.split("\n```console\n").skip(1).filter_map(|rest| rest.split_once("```")) {
        for part in block.0.split("$ ").skip(1).filter(|part| !part.trim().is_empty()) {
            let (command, shown) = part.split_once('\n').unwrap();
            let run = || {
                let mut sh = system("sh").unwrap();
                sh.args(["-ec", command]).current_dir(dir);
                sh.env("PATH", &path).env("PROXY", proxy);
                text(&mut sh).lines().map(settled).collect::<Vec<_>>()
            };
            let shown: Vec<String> = shown.lines().map(settled).collect();
            let mut said = run();
            // The log is written a little later.
            eventually(|| {
                if said != shown && command.starts_with("jq") {
                    said = run();
                }
                said == shown || !command.starts_with("jq")
            });
            assert_eq!(said, shown, "{command}");
            seen += 1;
        }
    }
    seen
}

/// HAProxy with the configuration of the page, and two proxies behind it.
#[test]
fn one_of_two_behind_haproxy_stops_without_a_failed_request() {
    let Some(mut haproxy) = tool("haproxy") else { return };
    let admins = [free_port().to_string(), free_port().to_string()];
    let mut gates = [0, 1].map(|at| Binary::start(&["--admin", admins[at].as_str()]));
    let Some(origin) = origin() else { return };
    let (front, dir) = (free_port(), tempfile::tempdir().unwrap());
    let config = block(&page("balancer.md"), "global\n    maxconn")
        .replace("127.0.0.1:3127", &front.to_string())
        .replace("127.0.0.1:3128", &gates[0].addr.to_string())
        .replace("127.0.0.1:3129", &gates[1].addr.to_string())
        .replace("port 9128", admins[0].replace("127.0.0.1:", "port ").as_str())
        .replace("port 9129", admins[1].replace("127.0.0.1:", "port ").as_str())
        .replace("/run/haproxy", dir.path().to_str().unwrap());
    let file = dir.path().join("haproxy.cfg");
    fs::write(&file, config).unwrap();
    let haproxy = started(haproxy.arg("-db").arg("-f").arg(&file), front, dir);

    let (served, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for keeps in [true, false].repeat(4) {
            let (served, stop, origin) = (&served, &stop, origin.clear);
            scope.spawn(move || ask_until(stop, served, front, origin, keeps));
        }
        eventually(|| served.load(Ordering::Relaxed) > 100);
        gates[0].signal(Signal::TERM);
        assert_eq!(gates[0].wait().code(), Some(0));
        let before = served.load(Ordering::Relaxed);
        eventually(|| served.load(Ordering::Relaxed) > before + 100);
        stop.store(true, Ordering::Relaxed);
    });
    // The checks have asked at the right place.
    eventually(|| haproxy.said().contains("Server proxies/one is DOWN"));
    assert!(!haproxy.said().contains("proxies/two is DOWN"), "{}", haproxy.said());
}

/// Asks again and again, on one connection if it `keeps` it. A failed request fails the test.
fn ask_until(
    stop: &AtomicBool,
    served: &AtomicUsize,
    front: SocketAddr,
    origin: SocketAddr,
    keeps: bool,
) {
    let mut client = Peer::connect(front);
    while !stop.load(Ordering::Relaxed) {
        client.send(get_request(origin, "/hello"));
        let response = client.read_response();
        assert_eq!((response.status, response.text()), (200, "hello"));
        served.fetch_add(1, Ordering::Relaxed);
        if !keeps || response.field("connection") == Some("close") {
            client = Peer::connect(front);
        }
    }
}

/// Makes a command that a machine has, or that would change it, a script of the test's own.
fn stand_in(dir: &Path, name: &str, script: &str) {
    let file = dir.join(name);
    fs::create_dir_all(dir).unwrap();
    fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A machine that has nothing of ours in `/usr/local` and `/etc`, with the source in a directory.
struct FreshMachine {
    dir: tempfile::TempDir,
}

impl FreshMachine {
    const MOUNTS: &str = "mount -t tmpfs none \"$SPARE\" && mkdir \"$SPARE/etc\" || exit
        cp -a /etc/. \"$SPARE/etc\" 2>/dev/null
        rm -rf \"$SPARE/etc/threadgate\"
        mount --bind \"$SPARE/etc\" /etc && mount -t tmpfs none /usr/local && touch \"$READY\" || exit";

    /// cargo brings the binary of the tests, and sudo drops the environment, as on Debian. What root asks
    /// of apt-get and systemctl is written down.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for file in [
            "Makefile",
            ".ci/install",
            "docs/threadgate.1",
            "docs/threadgate.service",
            "docs/threadgate.toml",
        ] {
            let to = dir.path().join("source").join(file);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(root().join(file), to).unwrap();
        }
        fs::create_dir(dir.path().join("spare")).unwrap();
        let [own, roots] = ["own", "roots"].map(|name| dir.path().join(name));
        let built = "mkdir -p target/release && cp \"$BUILT\" target/release/threadgate";
        stand_in(&own, "cargo", built);
        let path = format!("{}:{}", roots.display(), Self::PATH);
        let sudo = format!("exec env -i PATH={path} SUDO_USER=ann ASKED=\"$ASKED\" \"$@\"");
        stand_in(&own, "sudo", &sudo);
        for name in ["apt-get", "systemctl"] {
            stand_in(&roots, name, &format!("echo {name} \"$@\" >>\"$ASKED\""));
        }
        Self { dir }
    }

    const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

    /// Runs a script there until a command fails. Returns what root was asked to do, or `None` if nothing
    /// can be mounted here.
    #[track_caller]
    fn run(&self, script: &str) -> Option<String> {
        let mut unshare = system("unshare")?;
        let place = |name: &str| self.dir.path().join(name);
        let script = format!("{}\nset -e\numask 077\n{script}", Self::MOUNTS);
        let options = if rustix::process::geteuid().is_root() { "-m" } else { "-Urm" };
        unshare.args([options, "sh", "-c", &script]).current_dir(place("source"));
        unshare.env("PATH", format!("{}:{}", place("own").display(), Self::PATH));
        unshare.env("BUILT", env!("CARGO_BIN_EXE_threadgate")).env_remove("MAKEFLAGS");
        let (asked, ready) = (place("asked"), place("ready"));
        unshare.env("ASKED", &asked).env("READY", &ready).env("SPARE", place("spare"));
        let ended = run(&mut unshare);
        if !ready.exists() {
            assert!(std::env::var_os("CI").is_none(), "{}", ended.stderr);
            eprintln!("nothing can be mounted here ({}): no fresh machine", ended.stderr);
            return None;
        }
        assert!(ended.status.success(), "{}{}", ended.text(), ended.stderr);
        Some(fs::read_to_string(asked).unwrap())
    }
}

#[test]
fn the_service_is_installed_on_a_fresh_machine_as_the_page_says() {
    if tool("make").is_none() {
        return;
    }
    let page = page("systemd.md");
    let blocks = |kind: &str| {
        let fenced = page.split("\n```").skip(1).step_by(2);
        let kind = format!("{kind}\n");
        fenced.filter_map(|block| block.strip_prefix(&kind)).collect::<Vec<_>>().join("\n")
    };
    let commands = blocks("sh");
    let installed = "grep -q '^ExecStart=/usr/local/bin/threadgate ' \
        /usr/local/lib/systemd/system/threadgate.service";
    // The options that the page gives the service are right there.
    let starts = blocks("ini").replace("\\\n", " ");
    let starts = starts.lines().filter_map(|line| line.strip_prefix("ExecStart=/"));
    let checks: Vec<_> = starts
        .map(|start| format!("/{}", start.replacen("threadgate ", "threadgate check ", 1)))
        .collect();
    assert!(commands.lines().count() >= 8 && checks.len() >= 3, "{commands}{checks:?}");
    let script = format!("{commands}\n{installed}\n{}", checks.join("\n"));
    let Some(asked) = FreshMachine::new().run(&script) else { return };
    assert_eq!(
        asked,
        "apt-get install build-essential\nsystemctl daemon-reload\n\
         systemctl enable --now threadgate\nsystemctl status threadgate\n"
    );
}

/// The unit's command line, with a log and an address of our own.
#[test]
fn the_unit_of_systemd_starts_the_proxy_and_is_found_in_order() {
    let unit = fs::read_to_string(root().join("docs/threadgate.service")).unwrap();
    let joined = unit.replace("\\\n", " ");
    let start = joined.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("access.log");
    let words: Vec<&str> = start.split_whitespace().skip(1).collect();
    let words = words.into_iter().map(|word| match word {
        "127.0.0.1:3128" => "127.0.0.1:0",
        "/var/log/threadgate/access.log" => log.to_str().unwrap(),
        word => word,
    });
    let mut proxy = Binary::start_as(&words.collect::<Vec<_>>());
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(log.exists());

    let Some(mut analyze) = tool("systemd-analyze") else { return };
    let file = dir.path().join("threadgate.service");
    let there = unit.replace("/usr/local/bin/threadgate", env!("CARGO_BIN_EXE_threadgate"));
    // Its manual page is not installed here.
    fs::write(&file, there.replace("Documentation=man:threadgate(1)\n", "")).unwrap();
    let ended = run(analyze.args(["verify", "--man=no"]).arg(&file));
    assert!(ended.status.success() && ended.stderr.is_empty(), "{}", ended.stderr);
    let mut security = tool("systemd-analyze").unwrap();
    output(security.args(["security", "--offline=true", "--threshold=20"]).arg(&file));
}

#[test]
fn mandoc_has_nothing_to_say_about_the_man_page() {
    let Some(mut mandoc) = tool("mandoc") else { return };
    let said =
        run(mandoc.args(["-T", "lint", "-W", "warning"]).arg(root().join("docs/threadgate.1")));
    assert_eq!(said.text(), "");
    assert!(said.status.success());
}

/// The script that makes the table asks only the proxy: each message is treated as the index says.
#[test]
fn each_odd_message_is_delivered_or_refused_as_the_index_says() {
    let Some(mut python) = tool("python3") else { return };
    let script = root().join("tests/messages/compare.py");
    let binary = env!("CARGO_BIN_EXE_threadgate");
    output(python.arg("-B").arg(script).args(["--threadgate", binary, "--check"]));
}
