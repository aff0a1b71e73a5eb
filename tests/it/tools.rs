//! Real peers: the clients and servers people use, through the real binary.
//!
//! Where `CI` is set a missing tool is a failure; elsewhere it is said on stderr.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use crate::peers::{STEP, comes_true, field, pattern};
use crate::proxies::Binary;
use crate::servers::{Origin, Recorder, listen, listen_v6};

/// The command `name`, without the proxy settings of whoever runs the tests; `None` if it is missing.
pub(crate) fn tool(name: &str) -> Option<Command> {
    let mut dirs: Vec<PathBuf> =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    dirs.push("/usr/sbin".into());
    let Some(path) = dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file()) else {
        assert!(std::env::var_os("CI").is_none(), "{name} is missing");
        eprintln!("{name} is missing: not tested with it");
        return None;
    };
    let mut command = Command::new(path);
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_ascii_uppercase());
    }
    command.stdin(Stdio::null());
    Some(command)
}

/// Debian's Python, which has Debian's modules, if `module` is among them.
fn python_with(module: &str) -> Option<Command> {
    let python = || Command::new("/usr/bin/python3");
    let found = python().args(["-c", &format!("import {module}")]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Some(python());
    }
    assert!(std::env::var_os("CI").is_none(), "Python's {module} is missing");
    eprintln!("Python's {module} is missing: not tested with it");
    None
}

/// Runs it; its stdout, when it succeeds.
#[track_caller]
pub(crate) fn output(command: &mut Command) -> Vec<u8> {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(
        status.success(),
        "{command:?}: {status}\n{stderr}\n{}",
        String::from_utf8_lossy(&stdout)
    );
    stdout
}

/// curl through `proxy`, silent but for errors, for at most 20 s.
fn curl(proxy: &Binary) -> Option<Command> {
    let mut curl = tool("curl")?;
    curl.args(["-q", "-sS", "--max-time", "20", "--noproxy", "", "-x", &proxy.url()]);
    Some(curl)
}

/// A server program and its directory; killed when dropped.
struct Running {
    child: Child,
    _dir: TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts `command`, which listens on `addr`.
#[track_caller]
fn started(command: &mut Command, addr: SocketAddr, dir: TempDir) -> Running {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let is_up = comes_true(STEP, &mut || TcpStream::connect(addr).is_ok());
    if !is_up {
        let _ = child.kill();
        panic!("{command:?}: {:?}", child.wait_with_output());
    }
    Running { child, _dir: dir }
}

/// A port that was free a moment ago, for programs that cannot choose one.
fn free_port() -> SocketAddr {
    listen().local_addr().unwrap()
}

/// nginx serving one file of a megabyte, `/file`, in clear and with TLS.
struct Nginx {
    clear: SocketAddr,
    tls: SocketAddr,
    ca: PathBuf,
    content: Vec<u8>,
    _running: Running,
}

impl Nginx {
    fn start() -> Option<Self> {
        let mut nginx = tool("nginx")?;
        let dir = tempfile::tempdir().unwrap();
        // As root nginx reads files as another user.
        let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(dir.path(), everyone).unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let content = pattern(1 << 20);
        fs::write(root.join("file"), &content).unwrap();
        let ca = certificates(dir.path())?;
        let (clear, tls) = (free_port(), free_port());
        let path = dir.path().display();
        let config = format!(
            "daemon off; master_process off; pid {path}/pid; error_log stderr;
             events {{ worker_connections 256; }}
             http {{
               access_log off; client_body_temp_path {path}/t1; proxy_temp_path {path}/t2;
               fastcgi_temp_path {path}/t3; uwsgi_temp_path {path}/t4; scgi_temp_path {path}/t5;
               server {{
                 listen {clear}; listen {tls} ssl; root {path}/root;
                 ssl_certificate {path}/leaf.pem; ssl_certificate_key {path}/leaf.key;
                 location /gone {{ return 410 'gone'; }}
               }}
             }}"
        );
        fs::write(dir.path().join("nginx.conf"), config).unwrap();
        nginx.arg("-p").arg(dir.path()).arg("-c").arg(dir.path().join("nginx.conf"));
        nginx.args(["-e", "stderr"]);
        let running = started(&mut nginx, clear, dir);
        Some(Self { clear, tls, ca, content, _running: running })
    }

    fn url(&self) -> String {
        format!("http://{}/file", self.clear)
    }

    fn tls_url(&self) -> String {
        format!("https://{}/file", self.tls)
    }
}

/// Makes a certificate authority and a leaf for 127.0.0.1; where the former's certificate is.
fn certificates(dir: &Path) -> Option<PathBuf> {
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let mut make_ca = tool("openssl")?;
    make_ca.current_dir(dir).args(["req", "-x509", "-subj", "/CN=a private authority"]).args(key);
    output(make_ca.args(["-keyout", "ca.key", "-out", "ca.pem", "-days", "2"]));
    let mut ask = tool("openssl")?;
    ask.current_dir(dir).args(["req", "-subj", "/CN=127.0.0.1"]).args(key);
    output(ask.args(["-keyout", "leaf.key", "-out", "leaf.csr"]));
    fs::write(dir.join("leaf.ext"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n").unwrap();
    let mut sign = tool("openssl")?;
    sign.current_dir(dir)
        .args(["x509", "-req", "-in", "leaf.csr", "-out", "leaf.pem", "-days", "2"]);
    output(sign.args([
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-extfile",
        "leaf.ext",
    ]));
    Some(dir.join("ca.pem"))
}

#[test]
fn curl_downloads_whole_files_ranges_and_heads() {
    let proxy = Binary::start(&[]);
    let (Some(nginx), true) = (Nginx::start(), curl(&proxy).is_some()) else { return };
    let run = |args: &[&str]| output(curl(&proxy).unwrap().args(args));
    assert!(run(&[&nginx.url()]) == nginx.content);
    assert!(run(&["--http1.0", &nginx.url()]) == nginx.content);
    assert!(run(&["-r", "1000-1999", &nginx.url()]) == nginx.content[1000..2000]);
    assert!(run(&["--compressed", &nginx.url()]) == nginx.content);
    let head = String::from_utf8(run(&["-I", &nginx.url()])).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert_eq!(field(&head, "content-length"), Some("1048576"));
    // Several requests in one run share curl's connection to the proxy.
    let url = nginx.url();
    let four =
        run(&["-w", "\n%{num_connects}\n", &url, &url, "-o", "/dev/null", "-o", "/dev/null"]);
    assert_eq!(String::from_utf8(four).unwrap().split_whitespace().collect::<Vec<_>>(), ["1", "0"]);
    let gone = run(&["-w", "%{http_code}", &format!("http://{}/gone", nginx.clear)]);
    assert_eq!(gone, b"gone410");
}

#[test]
fn curl_reaches_a_tls_server_with_a_private_authority_through_a_tunnel() {
    let proxy = Binary::start(&[]);
    let (Some(nginx), Some(mut curl)) = (Nginx::start(), curl(&proxy)) else { return };
    let ca = nginx.ca.to_str().unwrap();
    assert!(output(curl.args(["--cacert", ca, &nginx.tls_url()])) == nginx.content);
}

#[test]
fn curl_tunnels_plain_http_when_told_to() {
    let proxy = Binary::start(&[]);
    let (Some(nginx), Some(mut curl)) = (Nginx::start(), curl(&proxy)) else { return };
    assert!(output(curl.args(["-p", &nginx.url()])) == nginx.content);
}

#[test]
fn curl_downloads_in_parallel() {
    let proxy = Binary::start(&[]);
    let (Some(nginx), Some(mut curl)) = (Nginx::start(), curl(&proxy)) else { return };
    let dir = tempfile::tempdir().unwrap();
    curl.current_dir(dir.path()).args(["--parallel", "--parallel-max", "20"]);
    for i in 0..40 {
        curl.args(["-o", &format!("copy-{i}"), &nginx.url()]);
    }
    output(&mut curl);
    for i in 0..40 {
        let copy = fs::read(dir.path().join(format!("copy-{i}"))).unwrap();
        assert!(copy == nginx.content, "copy {i} differs");
    }
}

#[test]
fn curl_uploads_and_waits_for_the_continue_it_expects() {
    let proxy = Binary::start(&[]);
    let Some(mut curl) = curl(&proxy) else { return };
    let origin = Origin::script(1, |peer| {
        let head = peer.read_head();
        assert!(head.starts_with("PUT /up HTTP/1.1\r\n"), "{head}");
        assert_eq!(field(&head, "expect"), Some("100-continue"), "{head}");
        peer.send("HTTP/1.1 100 Continue\r\n\r\n");
        assert!(peer.read_exact(3 << 20) == pattern(3 << 20), "octets differ");
        peer.send("HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\ndone");
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, pattern(3 << 20)).unwrap();
    // It would send without a 100 after a second; the server above would not notice.
    curl.args(["--expect100-timeout", "15", "-T"]).arg(file.path());
    assert_eq!(output(curl.arg(format!("http://{}/up", origin.addr))), b"done");
    origin.join();
}

#[test]
fn curl_uploads_what_has_no_length_in_chunks() {
    let proxy = Binary::start(&[]);
    let Some(mut curl) = curl(&proxy) else { return };
    let origin = Origin::script(1, |peer| {
        let head = peer.read_head();
        assert_eq!(field(&head, "transfer-encoding"), Some("chunked"), "{head}");
        assert!(peer.read_chunked().0 == pattern(300_000), "octets differ");
        peer.send("HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\ndone");
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, pattern(300_000)).unwrap();
    curl.args(["-H", "Expect:", "-T", "-"]).stdin(fs::File::open(file.path()).unwrap());
    assert_eq!(output(curl.arg(format!("http://{}/up", origin.addr))), b"done");
    origin.join();
}

#[test]
fn curl_reaches_an_ipv6_server() {
    let proxy = Binary::start(&[]);
    let (Some(listener), Some(mut curl)) = (listen_v6(), curl(&proxy)) else { return };
    let origin = Origin::script_on(listener, 1, |peer| {
        peer.read_head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nsix");
    });
    assert_eq!(output(curl.args(["-g", &format!("http://{}/", origin.addr)])), b"six");
    origin.join();
}

#[test]
fn curl_says_what_the_proxy_said() {
    let proxy = Binary::start(&[]);
    let Some(mut curl) = curl(&proxy) else { return };
    let refused = crate::servers::RefusedPort::new();
    let url = format!("http://{}/", refused.addr);
    let said = output(curl.args(["-w", "\n%{http_code}", &url]));
    let said = String::from_utf8(said).unwrap();
    assert!(said.ends_with("\n502") && said.contains("refused"), "{said}");
}

#[test]
fn wget_downloads_and_resumes() {
    let proxy = Binary::start(&[]);
    let (Some(nginx), true) = (Nginx::start(), tool("wget").is_some()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let wget = |args: &[&str]| {
        let mut wget = tool("wget").unwrap();
        wget.current_dir(dir.path()).env("http_proxy", proxy.url()).env("https_proxy", proxy.url());
        output(wget.args(["-nv", "--tries=1", "--timeout=10"]).args(args));
        fs::read(dir.path().join("file")).unwrap()
    };
    assert!(wget(&[&nginx.url()]) == nginx.content);
    fs::write(dir.path().join("file"), &nginx.content[..1000]).unwrap();
    assert!(wget(&["-c", &nginx.url()]) == nginx.content);
    fs::remove_file(dir.path().join("file")).unwrap();
    let ca = format!("--ca-certificate={}", nginx.ca.display());
    assert!(wget(&[&ca, &nginx.tls_url()]) == nginx.content);
}

#[test]
fn pythons_urllib_works_in_clear_and_through_a_tunnel() {
    let proxy = Binary::start(&[]);
    let (Some(nginx), Some(mut python)) = (Nginx::start(), tool("python3")) else { return };
    let script = r#"
import hashlib, ssl, sys, urllib.request, urllib.error
ca, gone, *urls = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
https = urllib.request.HTTPSHandler(context=context)
opener = urllib.request.build_opener(https)
for url in urls:
    print(hashlib.sha256(opener.open(url, timeout=10).read()).hexdigest())
try:
    opener.open(gone, timeout=10)
except urllib.error.HTTPError as e:
    print(e.code, e.read().decode())
"#;
    python.env("http_proxy", proxy.url()).env("https_proxy", proxy.url()).args(["-c", script]);
    python.arg(&nginx.ca).arg(format!("http://{}/gone", nginx.clear));
    let said = String::from_utf8(output(python.args([nginx.url(), nginx.tls_url()]))).unwrap();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert_eq!(lines[0], lines[1]);
    assert_eq!(lines[2], "410 gone");
    let mut check = tool("python3").unwrap();
    check.args([
        "-c",
        "import hashlib,sys; print(hashlib.sha256(open(sys.argv[1],'rb').read()).hexdigest())",
    ]);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, &nginx.content).unwrap();
    assert_eq!(String::from_utf8(output(check.arg(file.path()))).unwrap().trim(), lines[0]);
}

#[test]
fn openssl_s_client_speaks_tls_through_a_tunnel() {
    let proxy = Binary::start(&[]);
    let (Some(nginx), Some(mut openssl)) = (Nginx::start(), tool("openssl")) else { return };
    openssl.args([
        "s_client",
        "-proxy",
        &proxy.addr.to_string(),
        "-connect",
        &nginx.tls.to_string(),
    ]);
    openssl.arg("-CAfile").arg(&nginx.ca).args(["-verify_return_error", "-brief"]);
    let said = openssl.output().unwrap();
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(text.contains("Verification: OK"), "{text}");
}

#[test]
fn haproxy_in_front_passes_requests_and_tunnels_on() {
    let proxy = Binary::start(&[]);
    let (Some(nginx), Some(mut haproxy), Some(_)) = (Nginx::start(), tool("haproxy"), tool("curl"))
    else {
        return;
    };
    let front = free_port();
    let dir = tempfile::tempdir().unwrap();
    let config = format!(
        "global
           maxconn 200
         defaults
           mode http
           timeout connect 5s
           timeout client 10s
           timeout server 10s
         listen front
           bind {front}
           http-reuse always
           server gate {}\n",
        proxy.addr
    );
    let file = dir.path().join("haproxy.cfg");
    fs::write(&file, config).unwrap();
    let _haproxy = started(haproxy.arg("-db").arg("-f").arg(&file), front, dir);
    let run = |args: &[&str]| {
        let mut curl = tool("curl").unwrap();
        curl.args([
            "-q",
            "-sS",
            "--max-time",
            "20",
            "--noproxy",
            "",
            "-x",
            &format!("http://{front}"),
        ]);
        output(curl.args(args))
    };
    for _ in 0..3 {
        assert!(run(&[&nginx.url()]) == nginx.content);
    }
    assert!(run(&["--cacert", nginx.ca.to_str().unwrap(), &nginx.tls_url()]) == nginx.content);
}

#[test]
fn a_websocket_goes_through_by_a_plain_request() {
    let Some(mut python) = python_with("websockets") else { return };
    let proxy = Binary::start(&[]);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/websocket.py");
    let (host, port) = (proxy.addr.ip().to_string(), proxy.addr.port().to_string());
    assert_eq!(output(python.args([script, &host, &port])), b"ok\n");
}

/// What is not HTTP must not hang a browser: it closes at once.
#[test]
fn a_recorder_that_answers_in_another_protocol_is_a_502_for_curl() {
    let proxy = Binary::start(&[]);
    let Some(mut curl) = curl(&proxy) else { return };
    let server = Recorder::answering("SSH-2.0-OpenSSH_9.2p1\r\n");
    let url = format!("http://{}/", server.addr);
    let said = output(curl.args(["-o", "/dev/null", "-w", "%{http_code}", &url]));
    assert_eq!(said, b"502");
}
