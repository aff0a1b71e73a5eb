//! Users in practice: `threadgate passwd`, files of `htpasswd`, and clients that are asked for a
//! password.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Output, Stdio};

use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use serde_json::Value;
use threadgate::policy::auth::user_file;

use crate::clients::browser::chromium;
use crate::peers::eventually;
use crate::programs::{
    Nginx, in_background, logged, logging_proxy, output, python, run, script, text, tool,
};
use crate::proxies::{Binary, command};

/// `threadgate passwd` with this stdin.
fn passwd(args: &[&str], stdin: &str) -> Output {
    let mut command = command(&[&["passwd"], args].concat());
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    // It may have ended without reading it.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn passwd_makes_replaces_and_takes_out_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users");
    let name = path.to_str().unwrap();
    let done = |args: &[&str], stdin: &str| {
        let output = passwd(args, stdin);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {said}");
        assert!(output.stdout.is_empty() && said.is_empty(), "{said}");
        fs::read_to_string(&path).unwrap()
    };
    let alice = done(&[name, "alice"], "secret\nnot this\n");
    assert!(alice.starts_with("alice:$2y$11$"), "{alice}");
    assert_eq!(mode(&path), 0o600);
    fs::write(&path, format!("# the house\r\n\r\n{alice}bob:$5$x$y\r\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    // Other mistakes in the file are reported, and left alone.
    let output = passwd(&["--algorithm=sha512", name, "alice"], "other");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("users:4: the user 'bob': this is not a complete SHA-crypt"), "{said}");
    let edited = fs::read_to_string(&path).unwrap();
    assert!(edited.starts_with("# the house\r\n\r\nalice:$6$rounds=200000$"), "{edited}");
    assert!(edited.ends_with("bob:$5$x$y\r\n"), "{edited}");
    assert_eq!(mode(&path), 0o640);
    let edited = done(&[name, "bob", "--algorithm", "argon2"], "ö\r\n");
    assert!(edited.contains("\nbob:$argon2id$v=19$m=19456,t=2,p=1$"), "{edited}");
    let users = user_file::parse(edited.as_bytes()).unwrap();
    for (user, password) in users.iter().zip(["other", "ö"]) {
        assert!(user.hash.verify(password.as_bytes()), "{}", user.name);
    }
    assert!(!done(&["--delete", name, "bob"], "").contains("bob"));
    // Behind a link, the file itself changes.
    let link = dir.path().join("link");
    symlink(&path, &link).unwrap();
    done(&[link.to_str().unwrap(), "carol"], "x");
    assert!(link.is_symlink() && fs::read_to_string(&path).unwrap().contains("\ncarol:$2y$"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left beside it");
}

#[test]
fn passwd_says_what_is_wrong_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users");
    let name = path.to_str().unwrap();
    let here = dir.path().to_str().unwrap();
    for (args, stdin, exit, says) in [
        (&[name, "alice"][..], "", 1, "there is no password on stdin"),
        (&[name, "alice"], "a\tb\n", 1, "the password has a control character"),
        (&[name, "alice"], &"x".repeat(73), 1, "72 bytes of a password, and this one has 73"),
        (&[name, "a:b"], "x", 2, "the user's name has a ':' in it"),
        (&[name, "#a"], "x", 2, "the user's name begins with '#'"),
        (&[name, ""], "x", 2, "the user's name is empty"),
        (&[], "x", 2, "passwd: needs a file and a user; write threadgate passwd users alice"),
        (&[name], "x", 2, "passwd: needs a user behind '"),
        (&[name, "a", "secret"], "x", 2, "takes a file and a user, and no more; the password is"),
        (&["--algorithm=md5", name, "a"], "x", 2, "--algorithm: 'md5' is not an algorithm"),
        (&["--delete", "--algorithm=bcrypt", name, "a"], "", 2, "--delete needs none"),
        (&["--delete", name, "alice"], "", 1, "there is no user 'alice' to remove"),
        (&[here, "alice"], "x", 1, "cannot read it: it is not a regular file"),
        (&["/nowhere/users", "alice"], "x", 1, "/nowhere/users: cannot write it: No such file"),
        (&["/dev/null", "alice"], "x", 1, "cannot read it: it is not a regular file"),
    ] {
        let output = passwd(args, stdin);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(exit), "{args:?}: {said}");
        assert!(said.contains(says), "{args:?}: {said}");
        assert!(!said.contains("secret"), "{said}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn passwd_asks_twice_at_a_terminal_and_shows_nothing() {
    for (typed, exit, says) in [
        ("s3cret\ns3cret\n", 0, "once more: "),
        ("s3cret\ns3cre\n", 1, "the two passwords differ; nothing was changed"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let open = || fs::OpenOptions::new().read(true).write(true).open(&name).unwrap();
        let terminal = open();
        let mut command = command(&["passwd", path.to_str().unwrap(), "alice"]);
        let mut child = command.stdin(open()).stdout(open()).stderr(open()).spawn().unwrap();
        drop(command);
        let mut master = fs::File::from(master);
        let shows = || tcgetattr(&terminal).unwrap().local_modes.contains(LocalModes::ECHO);
        eventually(|| !shows());
        master.write_all(typed.as_bytes()).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(exit));
        assert!(shows(), "as it was before");
        drop(terminal);
        let mut said = Vec::new();
        let mut buf = [0; 4096];
        while let Ok(n @ 1..) = master.read(&mut buf) {
            said.extend_from_slice(&buf[..n]);
        }
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains("password for alice: ") && said.contains(says), "{said}");
        assert!(!said.contains("s3cre"), "{said}");
        assert_eq!(path.exists(), exit == 0);
    }
}

/// A signal during the prompt leaves the terminal as it was.
#[test]
fn passwd_gives_the_terminal_back_when_it_is_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let open = || fs::OpenOptions::new().read(true).write(true).open(&name).unwrap();
    let terminal = open();
    let mut command = command(&["passwd", dir.path().join("u").to_str().unwrap(), "alice"]);
    let mut child = command.stdin(open()).stdout(open()).stderr(open()).spawn().unwrap();
    let shows = || tcgetattr(&terminal).unwrap().local_modes.contains(LocalModes::ECHO);
    eventually(|| !shows());
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::INT).unwrap();
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(child.wait().unwrap().signal(), Some(2));
    assert!(shows());
}

/// curl through `proxy` as this user.
fn curl(proxy: &Binary, user: Option<&str>) -> Option<std::process::Command> {
    let mut curl = tool("curl")?;
    curl.args(["-q", "-sS", "--max-time", "20", "--noproxy", "", "-x", &proxy.url()]);
    if let Some(user) = user {
        curl.args(["-U", user]);
    }
    Some(curl)
}

const CODE: [&str; 4] = ["-o", "/dev/null", "-w", "%{http_code} %{http_connect} %{num_connects}"];

#[test]
fn curl_proves_whom_it_is_with_every_odd_character() {
    let odd = " !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~:";
    let users = [("alice", odd), ("jürgen müller", "päß wörd€ 密码"), ("b", "x")];
    let proxy = Binary::start_by(
        &["env"],
        |command| {
            let lines = users.map(|(user, password)| format!("{user}:{password}"));
            command.env("USERS_OF_MINE", lines.join("\n"));
        },
        &["--auth-env=USERS_OF_MINE"],
    );
    let (Some(nginx), true) = (Nginx::start(), tool("curl").is_some()) else { return };
    let ca = nginx.ca.to_str().unwrap();
    for (user, password) in users {
        let curl = || curl(&proxy, Some(&format!("{user}:{password}"))).unwrap();
        assert!(output(curl().arg(nginx.url())) == nginx.content, "{user}");
        assert!(output(curl().args(["--cacert", ca, &nginx.tls_url()])) == nginx.content, "{user}");
    }
    let wrong = text(curl(&proxy, Some("b:y")).unwrap().args(CODE).arg(nginx.url()));
    assert_eq!(wrong, "407 000 1");
    let none = run(curl(&proxy, None).unwrap().args(CODE).args(["--cacert", ca, &nginx.tls_url()]));
    assert_eq!((none.status.code(), none.text().as_str()), (Some(56), "000 407 1"));
}

#[test]
fn curl_that_asks_first_answers_on_the_same_connection_and_for_a_tunnel_on_a_new_one() {
    let proxy = logging_proxy(&["--auth", "alice:secret"]);
    let (Some(nginx), Some(mut asks)) = (Nginx::start(), curl(&proxy, Some("alice:secret"))) else {
        return;
    };
    let said = text(asks.arg("--proxy-anyauth").args(CODE).arg(nginx.url()));
    assert_eq!(said, "200 000 1", "one connection for both");
    let lines = logged(&proxy, |lines| lines.len() == 2);
    assert_eq!((&lines[0]["status"], &lines[0]["user"]), (&407.into(), &Value::Null));
    assert_eq!((&lines[1]["status"], &lines[1]["user"]), (&200.into(), &"alice".into()));
    assert_eq!(lines[0]["client"], lines[1]["client"]);
    let mut asks = curl(&proxy, Some("alice:secret")).unwrap();
    asks.arg("--proxy-anyauth").args(CODE).args(["--cacert", nginx.ca.to_str().unwrap()]);
    assert_eq!(text(asks.arg(nginx.tls_url())), "200 200 2", "the first was closed");
}

#[test]
fn wget_and_requests_prove_whom_they_are() {
    let proxy = logging_proxy(&["--auth", "alice:s@cret/ü"]);
    let Some(nginx) = Nginx::start() else { return };
    let with = proxy.url().replace("http://", "http://alice:s%40cret%2F%C3%BC@");
    if let Some(mut wget) = tool("wget") {
        let dir = tempfile::tempdir().unwrap();
        wget.current_dir(dir.path()).env("http_proxy", &with).env("https_proxy", &with);
        wget.args(["-nv", "--tries=1", "--timeout=10"]);
        wget.arg(format!("--ca-certificate={}", nginx.ca.display()));
        output(wget.args(["-O", "clear", &nginx.url()]));
        output(wget.args(["-O", "tls", &nginx.tls_url()]));
        assert!(fs::read(dir.path().join("clear")).unwrap() == nginx.content);
    }
    if let Some(mut python) = python("requests") {
        let script = r#"
import sys, requests
proxy, wrong, ca, *urls = sys.argv[1:]
for url in urls:
    got = requests.get(url, proxies={"http": proxy, "https": proxy}, verify=ca, timeout=10)
    print(got.status_code, len(got.content))
print(requests.get(urls[0], proxies={"http": wrong}, timeout=10).status_code)
try:
    requests.get(urls[1], proxies={"https": wrong}, verify=ca, timeout=10)
except requests.exceptions.ProxyError as e:
    print("407" in str(e))
"#;
        python.args(["-c", script]).arg(&with).arg(proxy.url()).arg(&nginx.ca);
        let said = text(python.args([nginx.url(), nginx.tls_url()]));
        let length = nginx.content.len();
        assert_eq!(said, format!("200 {length}\n200 {length}\n407\nTrue\n"));
    }
}

#[test]
fn files_that_htpasswd_makes_are_read() {
    let Some(mut htpasswd) = tool("htpasswd") else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users");
    let name = path.to_str().unwrap();
    output(htpasswd.args(["-cbB", "-C", "5", name, "alice", "päss:wörd"]));
    output(tool("htpasswd").unwrap().args(["-bB", "-C", "5", name, "bob", "b"]));
    let proxy = Binary::start(&["--auth-file", name]);
    let (Some(nginx), true) = (Nginx::start(), tool("curl").is_some()) else { return };
    for (user, code) in [("alice:päss:wörd", "200"), ("bob:b", "200"), ("bob:c", "407")] {
        let said = text(curl(&proxy, Some(user)).unwrap().args(CODE).arg(nginx.url()));
        assert!(said.starts_with(code), "{user}: {said}");
    }
    // htpasswd reads the files that we make.
    let ours = passwd(&[name, "carol"], "sesame\n");
    assert!(ours.status.success());
    output(tool("htpasswd").unwrap().args(["-vb", name, "carol", "sesame"]));
    // Its other formats are refused by name.
    for (option, says) in [("-m", "Apache's MD5"), ("-s", "plain SHA-1"), ("-d", "DES crypt")] {
        output(tool("htpasswd").unwrap().args(["-cb", option, name, "alice", "secret12"]));
        let refused = crate::lifecycle::run(&["check", "--auth-file", name]);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(78), "{said}");
        assert!(said.contains("users:1: the user 'alice': ") && said.contains(says), "{said}");
    }
}

/// A person types a wrong password, and then the right one.
#[test]
fn chromium_asks_and_shows_the_page() {
    let proxy = logging_proxy(&["--auth", "alice:päss", "--auth-realm", "the house"]);
    let dir = tempfile::tempdir().unwrap();
    let (Some(mut chromium), Some(mut python)) =
        (chromium(&proxy, dir.path()), python("websockets"))
    else {
        return;
    };
    let Some(nginx) = Nginx::start() else { return };
    fs::write(nginx.root.join("page.html"), "<body>in the house</body>").unwrap();
    chromium.args(["--remote-debugging-port=0", "--remote-allow-origins=*", "about:blank"]);
    python.arg(script("asked_for_a_password.py")).arg(dir.path()).args(["alice", "päss"]);
    python.arg(format!("http://{}/page.html", nginx.clear));
    let running = in_background(&mut chromium, dir);
    let ended = run(&mut python);
    let said = ended.text();
    let asked = "Proxy basic the house\n";
    let all = format!("{asked}{asked}in the house\n");
    assert_eq!(said, all, "{}\n{}\n{}", ended.stderr, running.said(), proxy.stdout());
    let page = |line: &Value| {
        let status = line["status"].as_u64()?;
        let target = line["target"].as_str()?;
        target.ends_with("/page.html").then(|| (status, line["user"].clone()))
    };
    let lines = logged(&proxy, |lines| lines.iter().filter_map(page).any(|(s, _)| s == 200));
    let pages: Vec<_> = lines.iter().filter_map(page).collect();
    let asked = (407, Value::Null);
    assert_eq!(pages, [asked.clone(), asked, (200, "alice".into())]);
}
