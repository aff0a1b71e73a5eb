//! git over HTTP: Apache runs `git http-backend`, as a repository server does.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::peers::pattern;
use crate::programs::{
    Running, free_port, in_short, logged, logging_proxy, open_dir, output, started, text,
};
use crate::proxies::Binary;

use super::installed::{certificates, tool};

/// Apache in front of the repository `/repo.git`, in clear and with TLS.
struct Forge {
    clear: SocketAddr,
    tls: SocketAddr,
    ca: PathBuf,
    running: Running,
}

impl Forge {
    fn start() -> Option<Self> {
        let mut apache = tool("apache2")?;
        let dir = open_dir();
        let path = dir.path().display();
        let repository = dir.path().join("repo.git");
        let mut init = git(dir.path())?;
        output(init.args(["init", "-q", "--bare", "-b", "main"]).arg(&repository));
        let config = |key, value| {
            output(git(&repository).unwrap().args(["config", key, value]));
        };
        config("http.receivepack", "true");
        // Garbage collection would go on after the push, in a directory that is about to vanish.
        config("receive.autogc", "false");
        // As root, Apache becomes this user, which has to own the files it writes.
        if rustix::process::geteuid().is_root() {
            let mut own = tool("chown")?;
            output(own.args(["-R", "65534:65534"]).arg(&repository));
        }
        let backend = text(git(dir.path())?.arg("--exec-path"));
        let ca = certificates(dir.path())?;
        let (clear, tls) = (free_port(), free_port());
        let module = |name: &str| {
            format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n")
        };
        let modules: String =
            ["mpm_prefork", "authz_core", "alias", "cgi", "env", "ssl"].map(module).concat();
        let config = format!(
            "{modules}
             ServerName 127.0.0.1
             ServerRoot {path}
             DefaultRuntimeDir {path}
             PidFile {path}/pid
             Mutex file:{path}
             ErrorLog /dev/stderr
             User #65534
             Group #65534
             StartServers 2
             MaxRequestWorkers 8
             Listen {clear}
             Listen {tls}
             SetEnv GIT_PROJECT_ROOT {path}
             SetEnv GIT_HTTP_EXPORT_ALL 1
             ScriptAlias / {}/git-http-backend/
             <Location />
               Require all granted
             </Location>
             <VirtualHost {tls}>
               SSLEngine on
               SSLCertificateFile {path}/leaf.pem
               SSLCertificateKeyFile {path}/leaf.key
             </VirtualHost>\n",
            backend.trim()
        );
        let file = dir.path().join("apache.conf");
        fs::write(&file, config).unwrap();
        let running = started(apache.arg("-DFOREGROUND").arg("-f").arg(&file), clear, dir);
        Some(Self { clear, tls, ca, running })
    }

    fn url(&self) -> String {
        format!("http://{}/repo.git", self.clear)
    }

    fn tls_url(&self) -> String {
        format!("https://{}/repo.git", self.tls)
    }
}

/// git in `dir`, without the settings of the user who runs the tests.
fn git(dir: &Path) -> Option<Command> {
    let mut git = tool("git")?;
    git.current_dir(dir).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    git.env("GIT_TERMINAL_PROMPT", "0").env("HOME", dir);
    git.args(["-c", "user.name=tester", "-c", "user.email=tester@localhost"]);
    // The server's repository belongs to its user.
    git.args(["-c", "safe.directory=*"]);
    Some(git)
}

/// git in `dir`, configured for the proxy.
fn proxied(dir: &Path, proxy: &Binary) -> Command {
    let mut git = git(dir).unwrap();
    git.arg("-c").arg(format!("http.proxy={}", proxy.url()));
    git
}

fn commit(dir: &Path, message: &str) {
    output(git(dir).unwrap().args(["add", "-A"]));
    output(git(dir).unwrap().args(["commit", "-q", "-m", message]));
}

fn newest(dir: &Path) -> String {
    text(git(dir).unwrap().args(["rev-parse", "main"]))
}

#[test]
fn git_clones_pushes_and_fetches() {
    let proxy = logging_proxy(&[]);
    let Some(forge) = Forge::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));

    output(proxied(dir.path(), &proxy).args(["clone", "-q", &forge.url(), "one"]));
    output(git(&one).unwrap().args(["checkout", "-q", "-b", "main"]));
    for i in 0..40 {
        fs::write(one.join(format!("file-{i}")), format!("the content of file {i}\n")).unwrap();
    }
    // More than git sends at once (`http.postBuffer`), so it sends a probe, then chunked content.
    fs::write(one.join("large"), incompressible(3 << 20)).unwrap();
    commit(&one, "begin");
    output(proxied(&one, &proxy).args(["push", "-q", "origin", "main"]));
    assert_eq!(newest(&forge.running.dir.path().join("repo.git")), newest(&one));

    output(proxied(dir.path(), &proxy).args(["clone", "-q", &forge.url(), "two"]));
    assert_eq!(newest(&two), newest(&one));
    output(git(&two).unwrap().args(["fsck", "--full", "--strict"]));
    assert!(fs::read(two.join("large")).unwrap() == incompressible(3 << 20));

    fs::write(two.join("file-0"), "something else\n").unwrap();
    commit(&two, "go on");
    output(proxied(&two, &proxy).args(["push", "-q"]));
    output(proxied(&one, &proxy).args(["pull", "-q", "--ff-only", "origin", "main"]));
    assert_eq!(newest(&two), newest(&one));

    let lines = logged(&proxy, |lines| count(lines, "POST ", "/git-upload-pack") >= 2);
    assert!(lines.iter().all(|line| line["status"] == 200 && line["error"].is_null()));
    // The large push is two requests, the small one is one.
    assert_eq!(count(&lines, "POST ", "/git-receive-pack"), 3);
    assert_eq!(count(&lines, "GET ", "/info/refs"), 5);
}

#[test]
fn git_clones_and_pushes_over_https() {
    let proxy = logging_proxy(&[]);
    let Some(forge) = Forge::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let tls = |dir: &Path| {
        let mut git = git(dir).unwrap();
        git.env("https_proxy", proxy.url()).env("GIT_SSL_CAINFO", &forge.ca);
        git
    };
    let one = dir.path().join("one");
    output(tls(dir.path()).args(["clone", "-q", &forge.tls_url(), "one"]));
    output(git(&one).unwrap().args(["checkout", "-q", "-b", "main"]));
    fs::write(one.join("large"), incompressible(3 << 20)).unwrap();
    commit(&one, "begin");
    output(tls(&one).args(["push", "-q", "origin", "main"]));
    // Only the newest commit is requested.
    output(tls(dir.path()).args(["clone", "-q", "--depth", "1", &forge.tls_url(), "two"]));
    assert_eq!(newest(&dir.path().join("two")), newest(&one));

    let lines = logged(&proxy, |lines| lines.len() >= 3);
    let tunnel = format!("CONNECT {} 200 ", forge.tls);
    for line in &lines {
        assert!(in_short(line).starts_with(&tunnel), "{line}");
        // git may leave something unread, the server's end of TLS; then its own end is a reset.
        assert!(line["error"].is_null() || line["side"] == "client", "{line}");
    }
}

fn count(lines: &[serde_json::Value], start: &str, part: &str) -> usize {
    let texts = lines.iter().map(in_short);
    texts.filter(|text| text.starts_with(start) && text.contains(part)).count()
}

/// Bytes that do not compress.
fn incompressible(len: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    pattern(len).iter().map(|byte| byte ^ (next() >> 8) as u8).collect()
}
