//! A proxy inside another program: start, say where, wait.
//!
//! `cargo run --example embed`, then `curl -x http://ADDRESS http://example.com/`.

use std::error::Error;
use std::io::{self, Read};
use std::time::Duration;

use threadgate::{Options, Server};

fn main() -> Result<(), Box<dyn Error>> {
    // The defaults: a free port of loopback, four workers for each processor.
    let proxy = Server::start(Options::default())?;
    println!("proxy on http://{} - end it with Ctrl-D", proxy.addr());

    io::stdin().read_to_end(&mut Vec::new())?;

    // What is under way may finish.
    proxy.shutdown(Duration::from_secs(5));
    Ok(())
}
