//! The command line of the load client.

use std::net::SocketAddr;
use std::path::PathBuf;

use argh::FromArgs;

/// The way to a tunnel to the origin server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Via {
    /// A request in absolute-form.
    Get,
    /// A tunnel asked for with CONNECT.
    Connect,
    /// A TCP relay, which needs no request.
    Direct,
}

fn via(value: &str) -> Result<Via, String> {
    match value {
        "get" => Ok(Via::Get),
        "connect" => Ok(Via::Connect),
        "direct" => Ok(Via::Direct),
        _ => Err("--via is get, connect or direct".into()),
    }
}

/// Strict load client of the benchmarks: every status, length and byte is checked.
///
/// Modes: keepalive, warm, per-connection, connect, tcp-relay, once, pingpong, bulk, fairness,
/// idle, idle-tunnels, inflight, drip, throttled; origin serves, pattern prints its content.
#[derive(Debug, FromArgs)]
pub(crate) struct Options {
    /// what to do
    #[argh(positional)]
    pub(crate) mode: String,

    /// address of the proxy
    #[argh(option, default = "SocketAddr::from(([127, 0, 0, 1], 3128))")]
    pub(crate) proxy: SocketAddr,

    /// address of the proxy's TCP relay, where CONNECT is not used (default: the proxy)
    #[argh(option)]
    pub(crate) relay: Option<SocketAddr>,

    /// address of the origin server
    #[argh(option, default = "SocketAddr::from(([127, 0, 0, 1], 8000))")]
    pub(crate) origin: SocketAddr,

    /// host and port to ask for instead of the origin server's address
    #[argh(option)]
    pub(crate) authority: Option<String>,

    /// address of the echo server
    #[argh(option, default = "SocketAddr::from(([127, 0, 0, 1], 8007))")]
    pub(crate) echo: SocketAddr,

    /// get, connect or direct
    #[argh(option, from_str_fn(via), default = "Via::Connect")]
    pub(crate) via: Via,

    /// connections at a time
    #[argh(option, default = "1")]
    pub(crate) clients: usize,

    /// connections of fast traffic beside them
    #[argh(option, default = "8")]
    pub(crate) fast: usize,

    /// slow readers
    #[argh(option, default = "200")]
    pub(crate) readers: usize,

    /// bytes of content of a response, or of a message
    #[argh(option, default = "1024")]
    pub(crate) bytes: u64,

    /// bytes of content of a request, which is POST then
    #[argh(option)]
    pub(crate) post: Option<u64>,

    /// exchanges on each connection before it counts
    #[argh(option, default = "100")]
    pub(crate) warm: usize,

    /// units of work in all; without it, the seconds decide
    #[argh(option)]
    pub(crate) requests: Option<u64>,

    /// seconds of each measurement
    #[argh(option, default = "2.0")]
    pub(crate) seconds: f64,

    /// pairs of measurements, without and with
    #[argh(option, default = "5")]
    pub(crate) pairs: usize,

    /// milliseconds the slow origin server takes
    #[argh(option, default = "1000")]
    pub(crate) delay: u64,

    /// bytes a second a slow reader takes
    #[argh(option, default = "65536")]
    pub(crate) pace: u64,

    /// seconds after which the proxy must have refused a dripping head
    #[argh(option, default = "10.0")]
    pub(crate) head_timeout: f64,

    /// responses in chunks
    #[argh(switch)]
    pub(crate) chunked: bool,

    /// content of bulk transfers is thrown away in the kernel and only counted
    #[argh(switch)]
    pub(crate) discard: bool,

    /// print a line at each step and wait for one on standard input
    #[argh(switch)]
    pub(crate) steps: bool,

    /// file that gets the origin server's two ports
    #[argh(option)]
    pub(crate) port_file: Option<PathBuf>,
}
