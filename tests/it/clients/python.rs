//! Python: requests and aiohttp, in Debian's versions. The scripts check what they get.

use std::fs;

use crate::programs::{client_connections, in_short, logged, logging_proxy, output};
use crate::servers::RefusedPort;

use super::installed::{Nginx, python, script};
use super::origin::Echo;

/// nginx that compresses a page, and redirects from one address to another.
fn nginx() -> Option<Nginx> {
    let nginx =
        Nginx::start_with("gzip on; gzip_proxied any; location = /moved { return 302 /file; }")?;
    fs::write(nginx.root.join("page.html"), "a line of it\n".repeat(20_000)).unwrap();
    Some(nginx)
}

#[test]
fn requests_downloads_uploads_and_keeps_its_connections() {
    let proxy = logging_proxy(&[]);
    let (Some(mut python), Some(nginx)) = (python("requests"), nginx()) else { return };
    let refused = RefusedPort::new();
    python.arg(script("with_requests.py")).arg(proxy.url()).arg(&nginx.ca);
    python.args([format!("http://{}", nginx.clear), format!("https://{}", nginx.tls)]);
    python.arg(format!("http://{}/", refused.addr)).arg(nginx.root.join("file"));
    output(&mut python);

    let lines = logged(&proxy, |lines| lines.len() >= 25);
    let of = |method: &str| {
        lines.iter().filter(|line| line["method"] == method).cloned().collect::<Vec<_>>()
    };
    // One session takes one connection for requests, and another for the TLS inside a tunnel. The
    // request without a session, configured by the environment, has its own connection, and so has the
    // refused tunnel.
    let clear: Vec<_> = ["GET", "PUT", "HEAD"].iter().flat_map(|m| of(m)).collect();
    assert_eq!(
        client_connections(&clear),
        2,
        "{:?}",
        clear.iter().map(in_short).collect::<Vec<_>>()
    );
    let tunnels: Vec<_> = of("CONNECT").iter().map(in_short).collect();
    assert_eq!(tunnels.len(), 2, "{tunnels:?}");
    assert!(of("PUT").iter().all(|line| line["status"] == 201 && line["error"].is_null()));
}

#[test]
fn aiohttp_has_many_requests_at_once_and_websockets() {
    let proxy = logging_proxy(&[]);
    let (Some(mut python), Some(nginx)) = (python("aiohttp"), nginx()) else { return };
    let Some(echo) = Echo::start(nginx.ca.parent()) else { return };
    let refused = RefusedPort::new();
    python.arg(script("with_aiohttp.py")).arg(proxy.url()).arg(&nginx.ca);
    python.args([format!("http://{}", nginx.clear), format!("https://{}", nginx.tls)]);
    python.args([format!("http://{}", echo.clear), format!("https://{}", echo.tls)]);
    python.arg(format!("http://{}/", refused.addr)).arg(nginx.root.join("file"));
    output(&mut python);

    // It makes a new connection for each request to a proxy, whether or not the proxy would keep one.
    let lines = logged(&proxy, |lines| lines.iter().any(|l| l["kind"] == "tunnel"));
    let files: Vec<_> = lines
        .iter()
        .filter(|line| line["target"] == format!("http://{}/file", nginx.clear))
        .cloned()
        .collect();
    assert_eq!(files.len(), 41);
    assert!(files.iter().all(|line| line["status"] == 200 && line["error"].is_null()));
}
