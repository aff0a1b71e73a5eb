//! HAProxy and nginx in front of the proxy, where they share out its clients, and behind it, as origin
//! servers.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use crate::peers::{field, fields, pattern};
use crate::programs::{
    Running, free_port, in_short, logged, logging_proxy, missing, open_dir, output, started,
};
use crate::proxies::{Binary, get};

use super::installed::{Nginx, tool};

/// HAProxy with these sections; `ADDR` in them is its address.
fn haproxy(sections: &str) -> Option<(SocketAddr, Running)> {
    let mut haproxy = tool("haproxy")?;
    let (addr, dir) = (free_port(), tempfile::tempdir().unwrap());
    let config = format!(
        "global
           maxconn 200
           tune.bufsize 65536
           tune.maxrewrite 32768
         defaults
           timeout connect 5s
           timeout client 10s
           timeout server 10s
         {}\n",
        sections.replace("ADDR", &addr.to_string())
    );
    let file = dir.path().join("haproxy.cfg");
    fs::write(&file, config).unwrap();
    Some((addr, started(haproxy.arg("-db").arg("-f").arg(&file), addr, dir)))
}

/// nginx with this configuration; `ADDR` in it is its address.
fn nginx_before(config: &str) -> Option<(SocketAddr, Running)> {
    let mut nginx = tool("nginx")?;
    let (addr, dir) = (free_port(), open_dir());
    let path = dir.path().display();
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    let load = if config.starts_with("stream") {
        if !Path::new(module).exists() {
            return missing(module);
        }
        format!("load_module {module};\n")
    } else {
        String::new()
    };
    let config = format!(
        "{load} daemon off; master_process off; pid {path}/pid; error_log stderr;
         events {{ worker_connections 256; }}
         {}\n",
        config.replace("ADDR", &addr.to_string()).replace("DIR", &path.to_string())
    );
    fs::write(dir.path().join("nginx.conf"), config).unwrap();
    nginx.arg("-p").arg(dir.path()).arg("-c").arg(dir.path().join("nginx.conf"));
    Some((addr, started(nginx.args(["-e", "stderr"]), addr, dir)))
}

/// curl with the proxy at `addr`.
fn curl(addr: SocketAddr, args: &[&str]) -> Option<Vec<u8>> {
    let mut curl = tool("curl")?;
    let proxy = format!("http://{addr}");
    curl.args(["-q", "-sS", "--max-time", "20", "--noproxy", "", "-x", &proxy]).args(args);
    Some(output(&mut curl))
}

/// Gets a file, gets it again in a tunnel, and sends bytes that come back, through the proxy at `addr`.
fn assert_serves(addr: SocketAddr, nginx: &Nginx) {
    let Some(file) = curl(addr, &[&nginx.url()]) else { return };
    assert!(file == nginx.content);
    let ca = nginx.ca.to_str().unwrap();
    assert!(curl(addr, &["--cacert", ca, &nginx.tls_url()]).unwrap() == nginx.content);
    let up = format!("http://{}/up/{}", nginx.clear, addr.port());
    let file = nginx.root.join("file");
    curl(addr, &["-f", "-T", file.to_str().unwrap(), &up]).unwrap();
    assert!(curl(addr, &[&up]).unwrap() == nginx.content);
}

#[test]
fn haproxy_in_front_shares_connections_out() {
    let gates = [logging_proxy(&[]), logging_proxy(&[])];
    let Some(nginx) = Nginx::start() else { return };
    let sections = format!(
        "listen front
           mode tcp
           balance roundrobin
           bind ADDR
           server one {}
           server two {}",
        gates[0].addr, gates[1].addr
    );
    let Some((front, _haproxy)) = haproxy(&sections) else { return };
    assert_serves(front, &nginx);
    for gate in &gates {
        logged(gate, |lines| lines.len() >= 2);
    }
}

/// In mode http HAProxy reads the requests, and passes absolute-form on; CONNECT, too.
#[test]
fn haproxy_in_front_passes_requests_and_tunnels_on() {
    let gate = logging_proxy(&[]);
    let Some(nginx) = Nginx::start() else { return };
    let sections = format!(
        "listen front
           mode http
           bind ADDR
           http-reuse always
           server gate {}",
        gate.addr
    );
    let Some((front, _haproxy)) = haproxy(&sections) else { return };
    assert_serves(front, &nginx);
    assert_serves(front, &nginx);
    let lines = logged(&gate, |lines| lines.len() >= 8);
    assert!(lines.iter().all(|line| line["error"].is_null()), "{lines:?}");
}

#[test]
fn nginx_in_front_passes_connections_on() {
    let gate = Binary::start(&[]);
    let Some(nginx) = Nginx::start() else { return };
    let config = format!("stream {{ server {{ listen ADDR; proxy_pass {}; }} }}", gate.addr);
    let Some((front, _nginx)) = nginx_before(&config) else { return };
    assert_serves(front, &nginx);
}

/// nginx accepts absolute-form, and sends it if configured to. It does not know CONNECT.
#[test]
fn nginx_in_front_sends_absolute_form_when_told_to() {
    let gate = logging_proxy(&[]);
    let Some(nginx) = Nginx::start() else { return };
    let config = format!(
        "http {{
           access_log off; client_body_temp_path DIR/t1; proxy_temp_path DIR/t2;
           fastcgi_temp_path DIR/t3; uwsgi_temp_path DIR/t4; scgi_temp_path DIR/t5;
           upstream gate {{ server {}; keepalive 4; }}
           server {{
             listen ADDR; client_max_body_size 100m;
             location / {{
               set $whole \"http://$http_host$request_uri\";
               rewrite ^ $whole break;
               proxy_http_version 1.1;
               proxy_set_header Connection \"\";
               proxy_pass http://gate;
             }}
             location /as-it-is {{ proxy_pass http://gate; }}
           }}
         }}",
        gate.addr
    );
    let Some((front, _nginx)) = nginx_before(&config) else { return };
    for _ in 0..3 {
        assert!(curl(front, &[&nginx.url()]).unwrap_or_default() == nginx.content);
    }
    // Origin-form is a request for the proxy itself, which has no such page.
    let said = get(front, nginx.clear, "/as-it-is");
    assert_eq!(said.status, 404, "{}", said.head);
    let lines = logged(&gate, |lines| lines.len() >= 4);
    let texts: Vec<_> = lines.iter().map(in_short).collect();
    assert_eq!(texts[..3], vec![format!("GET {} 200 -", nginx.url()); 3]);
    assert_eq!(texts[3], "GET /as-it-is 404 -");
}

/// The abilities of an origin server: lengths, chunks, large heads, content both ways; kept or closed.
#[track_caller]
fn assert_served_by(origin: SocketAddr, gate: &Binary, nginx: &Nginx, is_kept: bool) {
    let url = |path: &str| format!("http://{origin}{path}");
    let Some(file) = curl(gate.addr, &[&url("/file")]) else { return };
    assert!(file == nginx.content);
    assert!(curl(gate.addr, &[&url("/page.html")]).unwrap() == PAGE.repeat(20_000).as_bytes());
    let head = |path: &str| {
        let head = curl(gate.addr, &["-s", "-D", "-", "-o", "/dev/null", &url(path)]).unwrap();
        String::from_utf8(head).unwrap()
    };
    let chunked = head("/page.html");
    assert_eq!(field(&chunked, "transfer-encoding"), Some("chunked"), "{chunked}");
    let large = head("/large-head");
    assert_eq!(fields(&large, "x-large"), vec!["x".repeat(4_000); 6]);
    let only_head = text_of(curl(gate.addr, &["-I", &url("/file")]));
    assert_eq!(field(&only_head, "content-length"), Some("1048576"), "{only_head}");
    let up = format!("{}-{}", url("/up/it"), u8::from(is_kept));
    let path = nginx.root.join("file");
    let path = path.to_str().unwrap();
    for how in [&["-H", "Expect:"][..], &[], &["-H", "Transfer-Encoding: chunked"]] {
        curl(gate.addr, &[how, &["-f", "-T", path, &up]].concat()).unwrap();
        assert!(curl(gate.addr, &[&up]).unwrap() == pattern(1 << 20));
    }
    let lines = logged(gate, |lines| lines.len() >= 11);
    assert!(lines.iter().all(|line| line["error"].is_null()), "{lines:?}");
    // An upload may get a new connection.
    let repeatable = lines.iter().filter(|line| line["method"] != "PUT");
    let reused = repeatable.filter(|line| line["reused"] == true).count();
    // All but the first; an upload follows the HEAD.
    assert_eq!(reused, if is_kept { 7 } else { 0 }, "{lines:?}");
}

const PAGE: &str = "a line of it\n";

fn text_of(bytes: Option<Vec<u8>>) -> String {
    String::from_utf8(bytes.unwrap()).unwrap()
}

/// nginx with a page in chunks and a large head, as HAProxy gets them, too.
fn origin() -> Option<Nginx> {
    // A word of its configuration may not be longer.
    let large = format!("add_header X-Large {};", "x".repeat(4_000)).repeat(6);
    let nginx = Nginx::start_with(&format!(
        "location = /page.html {{ ssi on; }}
         location = /large-head {{ {large} return 204; }}"
    ))?;
    fs::write(nginx.root.join("page.html"), PAGE.repeat(20_000)).unwrap();
    Some(nginx)
}

#[test]
fn nginx_behind_keeps_its_connection() {
    let gate = logging_proxy(&[]);
    let Some(nginx) = origin() else { return };
    assert_served_by(nginx.clear, &gate, &nginx, true);
}

#[test]
fn haproxy_behind_keeps_its_connection_or_closes_it() {
    let Some(nginx) = origin() else { return };
    for (option, is_kept) in [("http-keep-alive", true), ("httpclose", false)] {
        let gate = logging_proxy(&[]);
        let sections = format!(
            "listen origin
               mode http
               bind ADDR
               option {option}
               server nginx {}",
            nginx.clear
        );
        let Some((addr, _haproxy)) = haproxy(&sections) else { return };
        assert_served_by(addr, &gate, &nginx, is_kept);
    }
}
