//! nginx takes the client's address from the proxy.

use std::fs;
use std::net::SocketAddr;

use crate::forwarded::{connect_from, request};
use crate::programs::{Running, free_port, started};
use crate::proxies::{proxy, proxy_with};

use super::installed::tool;

/// nginx that takes the client's address from X-Forwarded-For as its realip module reads it: the last
/// address that is not of a trusted proxy.
fn nginx() -> Option<(Running, SocketAddr)> {
    let mut nginx = tool("nginx")?;
    let dir = tempfile::tempdir().unwrap();
    let (addr, path) = (free_port(), dir.path().display());
    let config = format!(
        "daemon off; master_process off; pid {path}/pid; error_log stderr;
         events {{ worker_connections 64; }}
         http {{
           access_log off; client_body_temp_path {path}/t1; proxy_temp_path {path}/t2;
           fastcgi_temp_path {path}/t3; uwsgi_temp_path {path}/t4; scgi_temp_path {path}/t5;
           set_real_ip_from 127.0.0.1; real_ip_header X-Forwarded-For;
           server {{ listen {addr}; return 200 '$remote_addr'; }}
         }}"
    );
    fs::write(dir.path().join("nginx.conf"), config).unwrap();
    nginx.arg("-p").arg(dir.path()).arg("-c").arg(dir.path().join("nginx.conf"));
    let running = started(&mut nginx, addr, dir);
    Some((running, addr))
}

#[test]
fn nginx_takes_the_address_we_say_and_not_the_one_a_client_made_up() {
    let Some((_running, nginx)) = nginx() else { return };
    let (on, off) = (proxy_with(|options| options.forwarded_for = true), proxy());
    for (proxy, fields, expected) in [
        (on.addr(), "A: b", "127.0.0.7"),
        (on.addr(), "X-Forwarded-For: 10.9.8.7", "127.0.0.7"),
        // It is the same without the proxy: a proxy that passes on the field as received must not be
        // trusted.
        (off.addr(), "X-Forwarded-For: 10.9.8.7", "10.9.8.7"),
    ] {
        let mut client = connect_from([127, 0, 0, 7].into(), proxy);
        client.send(request(nginx, fields));
        assert_eq!(client.read_response().text(), expected, "{fields}");
    }
}
