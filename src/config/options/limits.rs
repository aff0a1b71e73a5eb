//! Options about the resources of the proxy, how it finds and reaches servers, and how long it waits.

use super::row::{FileUse, ONCE, OptionRow, REPEATED, Topic, Usual, add, keep};
use crate::config::{address_options, duration, number, size, values};

pub(super) const LIMITS: Topic = Topic {
    name: "limits",
    title: "Limits",
    about: "threads, connections and sizes",
    rows: &[
        OptionRow {
            name: "threads",
            letter: Some('t'),
            hint: "N",
            brief: "worker threads",
            first: true,
            help: "Worker threads, 1 to 1024.",
            more: "A slow peer does not hold a thread, so a few threads serve thousands of connections.",
            default: Usual::Words("four for each processor"),
            example: "8",
            read: |to, text| {
                let count = number::parse_count(text, values::MOST_THREADS, "8");
                keep(&mut to.server.threads, count.map(Some))
            },
            ..ONCE
        },
        OptionRow {
            name: "max-connections",
            hint: "N",
            brief: "client connections at one time",
            help: "Client connections at one time, 1 to 1000000.",
            more: "When all are in use, new clients wait in the queue of the system.",
            default: Usual::Words("by the limit on open files"),
            example: "10000",
            read: |to, text| {
                let count = number::parse_count(text, values::MOST_CONNECTIONS, "10000");
                keep(&mut to.server.max_connections, count.map(Some))
            },
            ..ONCE
        },
        OptionRow {
            name: "max-pipes",
            hint: "N",
            brief: "streams moved without copying at one time",
            help: "Streams that the kernel moves without copying at one time, 0 to 65536. Each takes a pipe of two \
                   descriptors.",
            more: "A pipe holds up to 512 KiB of the kernel's memory while its receiver is slow (the first 64 \
                   pipes; the others 64 KiB). Streams beyond the limit are copied.",
            default: Usual::Words("a quarter of the connections, at most 256"),
            example: "256",
            read: |to, text| {
                let count = number::parse_from_zero(text, values::MOST_PIPES, "64");
                keep(&mut to.server.max_pipes, count.map(Some))
            },
            ..ONCE
        },
        OptionRow {
            name: "pool-per-destination",
            hint: "N",
            brief: "idle connections kept to one server",
            help: "Idle connections kept to one server, 0 to 1000000.",
            more: "Beyond it, the connection that has been idle longest is closed.",
            default: Usual::Value("2048"),
            example: "2048",
            read: |to, text| {
                let count = number::parse_from_zero(text, values::MOST_CONNECTIONS, "64");
                keep(&mut to.server.pool.per_destination, count)
            },
            ..ONCE
        },
        OptionRow {
            name: "max-head-size",
            hint: "SIZE",
            brief: "largest head of a message",
            help: "The largest head of a request or response, 1KiB to 1MiB.",
            default: Usual::Value("32KiB"),
            read: |to, text| keep(&mut to.server.max_head_bytes, head_bytes(text)),
            ..ONCE
        },
    ],
};

pub(super) const NAMES: Topic = Topic {
    name: "names",
    title: "Names and connecting",
    about: "how names become addresses, and how servers are reached",
    rows: &[
        OptionRow {
            name: "resolve",
            hint: "HOST[:PORT]:ADDR",
            brief: "connect to ADDR for HOST",
            help: "Connect to ADDR for HOST, without a lookup. Several addresses of one name are tried in the order \
                   given.",
            more: "An entry with a PORT holds for that port only, and comes before one without. An IPv6 address may \
                   be in brackets, and must be if the value could be read in two ways. The request keeps its name. \
                   Where only public addresses may be connected to, ADDR has to be one.",
            example: "[\"www.example:192.0.2.7\"]",
            read: |to, text| add(&mut to.server.names.given, address_options::parse_given(text)),
            ..REPEATED
        },
        OptionRow {
            name: "hosts-file",
            hint: "FILE",
            brief: "look names up in FILE first",
            help: "Look names up in FILE first. Its lines have an address and its names, as in /etc/hosts.",
            more: "SIGHUP and SIGUSR1 read FILE again. --resolve comes before it. A wrong line stops the start with status 78. At a reload, a wrong line \
                   leaves the names read before in use, and is named in the log.",
            example: "[\"hosts\"]",
            file: FileUse::Read,
            read: |to, text| add(&mut to.server.names.hosts_files, values::parse_file(text)),
            ..REPEATED
        },
        OptionRow {
            name: "dns-ttl",
            hint: "DURATION",
            brief: "how long the addresses of a name are kept",
            help: "How long the addresses of a name are kept; 0 looks a name up each time.",
            more: "A name without an address is remembered for as long, but at most 5s.",
            default: Usual::Value("30s"),
            read: |to, text| keep(&mut to.server.names.ttl, duration::parse(text)),
            ..ONCE
        },
        OptionRow {
            name: "source-address",
            hint: "ADDR",
            brief: "connect to servers from ADDR",
            help: "Connect to servers from ADDR, an address of this machine. It may be given once for IPv4 and once \
                   for IPv6.",
            more: "With only one of them, destinations of the other family are not connected to.",
            example: "[\"127.0.0.1\"]",
            read: |to, text| address_options::add_source(&mut to.server.sources, text),
            ..REPEATED
        },
        OptionRow {
            name: "max-connecting",
            hint: "N",
            brief: "connects to one address at one time",
            help: "Connects to one address that may be under way at one time, 1 to 65535. Others wait their turn.",
            more: "A request that waits longer than --timeout-connect is answered with 503.",
            default: Usual::Value("128"),
            example: "128",
            read: |to, text| {
                let count = number::parse_count(text, values::MOST_CONNECTING, "256");
                keep(&mut to.server.max_connecting, count)
            },
            ..ONCE
        },
    ],
};

pub(super) const TIMEOUTS: Topic = Topic {
    name: "timeouts",
    title: "Timeouts",
    about: "how long each wait may last",
    rows: &[
        OptionRow {
            name: "timeout-head",
            hint: "DURATION",
            brief: "time for a request head to arrive whole",
            help: "How long a request head may take, from its first byte to its last.",
            more: "On a new connection the time begins when the connection is accepted.",
            default: Usual::Value("10s"),
            read: |to, text| keep(&mut to.server.timeouts.head, duration::parse_nonzero(text)),
            ..ONCE
        },
        OptionRow {
            name: "timeout-idle",
            hint: "DURATION",
            brief: "time a client connection stays open between requests",
            help: "How long a client connection stays open without a request.",
            default: Usual::Value("60s"),
            read: |to, text| keep(&mut to.server.timeouts.idle, duration::parse_nonzero(text)),
            ..ONCE
        },
        OptionRow {
            name: "timeout-connect",
            hint: "DURATION",
            brief: "time to look up a name, and to connect",
            help: "How long a name lookup may take, and again how long connecting may take.",
            default: Usual::Value("10s"),
            read: |to, text| keep(&mut to.server.timeouts.connect, duration::parse_nonzero(text)),
            ..ONCE
        },
        OptionRow {
            name: "timeout-response",
            hint: "DURATION",
            brief: "time for a response to begin, and for any standstill",
            help: "How long a response may take to begin after the last byte of the request, and how long content \
                   may stand still in either direction.",
            default: Usual::Value("60s"),
            read: |to, text| keep(&mut to.server.timeouts.response, duration::parse_nonzero(text)),
            ..ONCE
        },
        OptionRow {
            name: "timeout-tunnel",
            hint: "DURATION",
            brief: "time a silent tunnel stays open",
            help: "How long a tunnel stays open while neither side sends.",
            default: Usual::Value("10m"),
            read: |to, text| keep(&mut to.server.timeouts.tunnel, duration::parse_nonzero(text)),
            ..ONCE
        },
        OptionRow {
            name: "pool-idle",
            hint: "DURATION",
            brief: "time an idle connection to a server is kept",
            help: "How long an idle connection to a server is kept; 0 keeps none.",
            default: Usual::Value("30s"),
            read: |to, text| keep(&mut to.server.pool.idle, duration::parse(text)),
            ..ONCE
        },
    ],
};

fn head_bytes(text: &str) -> Result<usize, String> {
    let (least, most) = (values::LEAST_HEAD_BYTES, values::MOST_HEAD_BYTES);
    let bytes = size::parse_within(text, least as u64, most as u64)?;
    Ok(usize::try_from(bytes).unwrap_or(most))
}
