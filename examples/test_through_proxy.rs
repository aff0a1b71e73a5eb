//! A test that needs to see its program behind a proxy: names lead to a server of the test's own,
//! nothing leaves the machine, and the counters say what went through.
//!
//! `cargo run --example test_through_proxy`
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the bans are for the proxy's own sockets; these peers may block"
)]

use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use threadgate::{Options, Resolve, Server, Via};

/// Every name under `.test` is this machine; there are no others.
#[derive(Debug)]
struct OnlyTest;

impl Resolve for OnlyTest {
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        if host.ends_with(".test") {
            Ok(vec![Ipv4Addr::LOCALHOST.into()])
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let origin = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = origin.local_addr()?.port();
    let server = thread::spawn(move || answer_once(&origin));

    let proxy = Server::start(Options {
        threads: NonZeroUsize::new(1),
        via: Via::Named("test".to_owned()),
        resolver: Arc::new(OnlyTest),
        ..Options::default()
    })?;

    let reply = get(&proxy, &format!("http://shop.test:{port}/cart"))?;
    assert!(reply.ends_with("GET /cart HTTP/1.1"), "{reply}");
    let reply = get(&proxy, "http://elsewhere.example/")?;
    assert!(reply.starts_with("HTTP/1.1 502 "), "{reply}");

    server.join().expect("the server answers")?;
    let stats = proxy.stats_reader();
    proxy.shutdown(Duration::from_secs(1));
    assert_eq!((stats().upstream_connects, stats().exchanges_finished), (1, 2));
    println!("{}", stats());
    Ok(())
}

/// An origin server that answers one request with the request's first line.
fn answer_once(listener: &TcpListener) -> io::Result<()> {
    let (stream, _) = listener.accept()?;
    let mut lines = BufReader::new(&stream).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    (&stream).write_all(format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{first}").as_bytes())
}

/// Asks the proxy for `url` over HTTP/1.0, which ends content by closing.
fn get(proxy: &Server, url: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(proxy.addr())?;
    stream.write_all(format!("GET {url} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    Ok(reply)
}
