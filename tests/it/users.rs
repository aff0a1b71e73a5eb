//! `threadgate passwd`, which writes files of users.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Output, Stdio};

use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use threadgate::policy::auth::user_file;

use crate::peers::eventually;
use crate::proxies::command;

/// `threadgate passwd` with this stdin.
pub(crate) fn passwd(args: &[&str], stdin: &str) -> Output {
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
