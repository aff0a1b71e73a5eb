//! Programs that somebody has to install; only tests of this directory can reach them.
//!
//! `.ci/tools` installs them, and says which tests need which.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::peers::pattern;
use crate::programs::{Running, clean, found, free_port, missing, open_dir, output, started};

/// The command `name`, without the settings of the user who runs the tests; `None` if it is missing.
pub(super) fn tool(name: &str) -> Option<Command> {
    found(name)
}

/// Debian's Python, which has Debian's packages, if these modules are installed.
pub(super) fn python(modules: &str) -> Option<Command> {
    let path = "/usr/bin/python3";
    let has = |modules: &str| {
        let check = clean(path).arg("-c").arg(format!("import {modules}")).output();
        check.is_ok_and(|check| check.status.success())
    };
    if !has(modules) {
        return missing(&format!("{path} with {modules}"));
    }
    let mut python = clean(path);
    // Without the variables and packages of the user who runs the tests.
    python.args(["-I", "-B"]);
    Some(python)
}

/// The directory of the modules for Node.js, if this one is among them.
pub(super) fn node_modules(name: &str) -> Option<PathBuf> {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/node");
    match modules.join("node_modules").join(name).exists() {
        true => Some(modules),
        false => missing(&format!("{name} (`.ci/tools modules`)")),
    }
}

/// A script of `clients/`, in any language.
pub(super) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/clients").join(name)
}

/// nginx in clear and with TLS, serving its directory `root`, which has a file of a megabyte, `/file`.
/// `/gone` is gone, and a file PUT below `/up/` is there afterwards.
pub(super) struct Nginx {
    pub(super) clear: SocketAddr,
    pub(super) tls: SocketAddr,
    pub(super) ca: PathBuf,
    pub(super) content: Vec<u8>,
    pub(super) root: PathBuf,
    _running: Running,
}

impl Nginx {
    pub(super) fn start() -> Option<Self> {
        Self::start_with("")
    }

    /// With lines of configuration for the server.
    pub(super) fn start_with(more: &str) -> Option<Self> {
        let mut nginx = tool("nginx")?;
        let dir = open_dir();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("up")).unwrap();
        fs::set_permissions(root.join("up"), fs::Permissions::from_mode(0o777)).unwrap();
        let content = pattern(1 << 20);
        fs::write(root.join("file"), &content).unwrap();
        let ca = certificates(dir.path())?;
        let (clear, tls) = (free_port(), free_port());
        let path = dir.path().display();
        let config = format!(
            "daemon off; master_process off; pid {path}/pid; error_log stderr;
             events {{ worker_connections 512; }}
             http {{
               access_log off; client_body_temp_path {path}/t1; proxy_temp_path {path}/t2;
               fastcgi_temp_path {path}/t3; uwsgi_temp_path {path}/t4; scgi_temp_path {path}/t5;
               types {{ text/html html; text/css css; text/javascript js; image/svg+xml svg;
                        application/json json; }}
               server {{
                 listen {clear}; listen {tls} ssl http2; root {path}/root;
                 ssl_certificate {path}/leaf.pem; ssl_certificate_key {path}/leaf.key;
                 client_max_body_size 100m; lingering_time 2s;
                 location /gone {{ return 410 'gone'; }}
                 location /up/ {{ dav_methods PUT; }}
                 {more}
               }}
             }}"
        );
        fs::write(dir.path().join("nginx.conf"), config).unwrap();
        nginx.arg("-p").arg(dir.path()).arg("-c").arg(dir.path().join("nginx.conf"));
        nginx.args(["-e", "stderr"]);
        let running = started(&mut nginx, clear, dir);
        Some(Self { clear, tls, ca, content, root, _running: running })
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/file", self.clear)
    }

    pub(super) fn tls_url(&self) -> String {
        format!("https://{}/file", self.tls)
    }
}

/// Makes a certificate authority and a leaf for 127.0.0.1. Returns the path of the authority's
/// certificate.
pub(super) fn certificates(dir: &Path) -> Option<PathBuf> {
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
