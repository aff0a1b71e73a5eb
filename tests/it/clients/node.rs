//! Node.js: fetch and `node:http`, with their usual agents. The script checks what it gets.

use crate::programs::{client_connections, in_short, logged, logging_proxy, output};
use crate::servers::RefusedPort;

use super::installed::{Nginx, node_modules, script, tool};
use super::origin::Echo;

#[test]
fn node_fetches_with_a_proxy_agent() {
    let proxy = logging_proxy(&[]);
    let (Some(mut node), Some(nginx)) = (tool("node"), Nginx::start()) else { return };
    let Some(echo) = Echo::start(nginx.ca.parent()) else { return };
    let Some(modules) = node_modules("undici") else { return };
    let refused = RefusedPort::new();
    node.arg(script("with_node.mjs")).arg(modules).arg(proxy.url()).arg(&nginx.ca);
    node.args([format!("http://{}", nginx.clear), format!("https://{}", nginx.tls)]);
    node.args([format!("http://{}", echo.clear), format!("http://{}/", refused.addr)]);
    output(node.arg(nginx.root.join("file")));

    let lines = logged(&proxy, |lines| lines.iter().filter(|l| l["method"] == "GET").count() >= 6);
    // The agent of undici uses tunnels, that of node:http requests.
    let gets: Vec<_> = lines.iter().filter(|l| l["method"] == "GET").cloned().collect();
    let texts: Vec<_> = gets.iter().map(in_short).collect();
    assert_eq!(texts[..5], vec![format!("GET {} 200 -", nginx.url()); 5]);
    assert_eq!(texts[5..], [format!("GET http://{}/ 502 connection_refused", refused.addr)]);
    assert_eq!(client_connections(&gets[..5]), 1, "the agent keeps its connection");
    let tunnels_to = |addr: std::net::SocketAddr| {
        let target = addr.to_string();
        lines.iter().filter(|l| l["method"] == "CONNECT" && l["target"] == target).count()
    };
    assert!(tunnels_to(nginx.clear) > 0 && tunnels_to(nginx.tls) > 1 && tunnels_to(echo.clear) > 0);
    assert_eq!(tunnels_to(refused.addr), 1);
}
