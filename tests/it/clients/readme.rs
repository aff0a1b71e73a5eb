//! The README is true: what it tells a newcomer to paste works and leaves nothing behind, and `make
//! install` puts every file where it says.

use std::ffi::OsString;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::guide::root;
use crate::programs::{clean, free_port, output, run, text};

use super::installed::tool;

/// The blocks of `kind` in the section with the commands.
fn blocks(kind: &str) -> Vec<String> {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let section = readme.split("\n## ").find(|section| section.starts_with("Five things to try"));
    let fenced = section.unwrap().split("```").skip(1).step_by(2);
    fenced
        .filter_map(|block| block.strip_prefix(kind)?.strip_prefix('\n'))
        .map(str::to_owned)
        .collect()
}

/// Whether a line of what the README shows is the same each time.
fn is_settled(line: &str) -> bool {
    let is_time = line.get(..9).is_some_and(|start| start.matches(':').count() == 2);
    !line.contains("Z") && !is_time && line != "…"
}

/// Tries to get the private key from both servers, and says on which addresses they and the proxy listen,
/// in the form of the kernel.
fn looked_for_the_key(origin: u16, tls: u16) -> String {
    format!(
        "n=0; for to in http://127.0.0.1:{origin} https://127.0.0.1:{tls}; do\n\
         for up in '' ../ $PWD/; do curl -sk --path-as-is $to/${{up}}key.pem; n=$((n+1)); done; done\n\
         on=$(for port in {origin} {tls} ${{THREADGATE_PORT}}; do\n\
         grep -hoi \"[0-9A-F]*:$(printf %04X $port) [0:]* 0A\" /proc/net/tcp /proc/net/tcp6; done)\n\
         echo \"looked for the key $n times, at $(echo \"$on\" | wc -l) listeners on\" \\\n\
         $(echo \"$on\" | sed 's/:.*//' | sort -u)\n"
    )
}

/// As pasted, on other ports, and with the wait for a second replaced by a wait for whom it is for.
#[test]
fn the_five_things_to_try_do_what_they_show_and_leave_nothing_behind() {
    let Some(mut bash) = tool("bash") else { return };
    if ["curl", "openssl", "python3"].iter().any(|name| tool(name).is_none()) {
        return;
    }
    let [proxy, origin, tls] = [free_port(), free_port(), free_port()];
    let moved = |text: &str| {
        text.replace("127.0.0.1:3128", &proxy.to_string())
            .replace("127.0.0.1:8443", &tls.to_string())
            .replace(":8443", &format!(":{}", tls.port()))
            .replace(":8000", &format!(":{}", origin.port()))
            .replace("http.server 8000", &format!("http.server {}", origin.port()))
    };
    let mut script = String::from(
        "up() { for port; do until (exec 3<>/dev/tcp/127.0.0.1/$port) 2>&-; do sleep 0.02; done; done; }\n",
    );
    for block in blocks("sh") {
        let mut ports = vec![proxy.port(), origin.port()];
        if block.contains("8443") {
            ports.push(tls.port());
        }
        let up = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" ");
        // The binary is found in PATH.
        let lines = block.lines().filter(|line| !line.starts_with("cargo "));
        for line in lines {
            if line.starts_with("kill $proxy") && block.contains("8443") {
                script.push_str(&looked_for_the_key(origin.port(), tls.port()));
            }
            let line = if line == "sleep 1" { format!("up {up}") } else { moved(line) };
            script.push_str(&line);
            script.push('\n');
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_threadgate")).parent().unwrap().to_owned();
    let mut path = std::env::split_paths(&std::env::var_os("PATH").unwrap()).collect::<Vec<_>>();
    path.insert(0, binary);
    bash.args(["-c", &script]).current_dir(root()).env("TMPDIR", dir.path());
    bash.env("PATH", std::env::join_paths(path).unwrap());
    bash.env("THREADGATE_PORT", proxy.port().to_string());
    let ended = run(&mut bash);
    let said = format!("{}{}", ended.text(), ended.stderr);
    assert!(ended.status.success(), "{said}");

    let shown = blocks("text").concat();
    let lines: Vec<_> = shown.lines().filter(|line| is_settled(line)).collect();
    assert!(lines.len() >= 8, "{lines:?}");
    for line in lines {
        assert!(said.lines().any(|said| said == moved(line)), "no {line:?}:\n{said}");
    }
    let request = format!(" GET http://{origin}/hello.txt 200 ");
    let tried = "looked for the key 6 times, at 3 listeners on 0100007F";
    for part in [&request, "\"kind\":\"tunnel\",", "shop.example  ", "307200 bytes in ", tried] {
        assert!(said.contains(part), "no {part:?}:\n{said}");
    }
    assert!(!said.contains("PRIVATE KEY"), "the servers serve their directory:\n{said}");

    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    for port in [proxy, origin, tls] {
        assert!(TcpStream::connect(port).is_err(), "{port} is still listened on:\n{script}");
    }
}

/// The files below `dir`, without it.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { dirs.push(path) } else { found.push(path) }
        }
    }
    let mut found: Vec<_> =
        found.iter().map(|path| path.strip_prefix(dir).unwrap().to_owned()).collect();
    found.sort();
    found
}

/// `make WORD` with a DESTDIR and other variables.
fn make(word: &str, destination: &Path, variables: &[&str]) -> Option<Command> {
    let mut make = tool("make")?;
    // Of a make that runs the tests.
    make.env_remove("MAKEFLAGS").arg("-sC").arg(root()).arg(word).args(variables);
    let mut variable = OsString::from("DESTDIR=");
    variable.push(destination);
    make.arg(variable);
    Some(make)
}

#[test]
fn make_install_puts_each_file_in_its_place_and_uninstall_takes_it_away() {
    let dir = tempfile::tempdir().unwrap();
    let package = dir.path().join("a package");
    let binary = concat!("BINARY=", env!("CARGO_BIN_EXE_threadgate"));
    let prefix = "PREFIX=/opt/thread gate";
    let Some(mut install) = make("install", &package, &[binary, prefix]) else { return };
    output(&mut install);

    let places = [
        "bin/threadgate",
        "lib/systemd/system/threadgate.service",
        "share/bash-completion/completions/threadgate",
        "share/fish/vendor_completions.d/threadgate.fish",
        "share/man/man1/threadgate.1",
        "share/zsh/site-functions/_threadgate",
    ];
    let there = package.join("opt/thread gate");
    assert_eq!(files_below(&there), places.map(PathBuf::from));
    assert_eq!(files_below(&package).len(), places.len());

    let read = |place: &str| fs::read_to_string(there.join(place)).unwrap();
    let unit = read("lib/systemd/system/threadgate.service");
    assert!(unit.contains("\nExecStart=\"/opt/thread gate/bin/threadgate\" --listen "), "{unit}");
    assert!(!unit.contains("/usr/local"), "{unit}");
    for place in &places[2..] {
        assert!(read(place).contains("threadgate"), "{place}");
    }
    let version = text(clean(there.join("bin/threadgate")).arg("--version"));
    assert!(version.starts_with("threadgate "), "{version}");

    // What is not ours stays.
    fs::write(there.join("bin/other"), "").unwrap();
    output(&mut make("uninstall", &package, &[prefix]).unwrap());
    assert_eq!(files_below(&package), [PathBuf::from("opt/thread gate/bin/other")]);
}

#[test]
fn an_install_that_cannot_be_whole_installs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for (variable, message) in [
        ("BINARY=/nowhere/threadgate", "install: BINARY=/nowhere/threadgate is not there"),
        ("BINARY=/bin/false", "install: /bin/false makes no completions for bash"),
        ("PREFIX=opt", "install: PREFIX=opt is not absolute"),
        // As under sudo, which drops the variable that says where cargo builds.
        (
            "SUDO_USER=ann CARGO_TARGET_DIR=none",
            "run 'make release' as ann first, or name the file: BINARY=FILE",
        ),
    ] {
        let Some(mut install) =
            make("install", dir.path(), &variable.split(' ').collect::<Vec<_>>())
        else {
            return;
        };
        let ended = run(&mut install);
        assert!(!ended.status.success(), "{variable}");
        assert!(ended.stderr.contains(message), "{variable}: {}", ended.stderr);
        assert_eq!(files_below(dir.path()), Vec::<PathBuf>::new(), "{variable}");
    }
}
