//! Options about rates, and numbers of requests, connections and bytes.

use super::row::{ONCE, OptionRow, OptionScope, REPEATED, Topic, Usual, add, keep};
use crate::config::limits;

pub(super) const TRAFFIC: Topic = Topic {
    name: "traffic",
    title: "Traffic",
    about: "rates, and numbers of requests and connections",
    rows: &[
        OptionRow {
            name: "limit",
            hint: "LIMIT",
            brief: "limit a rate: 10mbit, client:down=1MB/s",
            first: true,
            help: "Limit the rate of bytes. LIMIT is [WHO:][DIRECTION=]RATE, such as 10mbit, client:down=1MB/s or \
                   user=ann:500kbit. RATE is bits (kbit, mbit, gbit) or bytes (B/s, kB/s, KiB/s, ..) a second; \
                   DIRECTION is down, to clients, or up, to servers; without it the rate holds for each direction.",
            more: "WHO is connection, client, user, destination or total, or one of them by name: client=NETWORK, \
                   user=NAME, destination=DESTINATION. All limits hold at once. Heads, content and tunnels count. \
                   Waiting costs no thread.",
            example: "[\"down=10mbit\", \"total:1gbit\"]",
            scope: OptionScope::Listener,
            read: |to, text| add(&mut to.access.limits.limit, limits::checked_limit(text)),
            ..REPEATED
        },
        OptionRow {
            name: "limit-per",
            hint: "WHO",
            choices: &["connection", "client", "user", "destination", "total"],
            brief: "who shares a --limit that names no WHO",
            help: "Who shares a --limit that names no WHO: connection, client, user, destination or total.",
            more: "total is all traffic together. Clients of one IPv6 network of 64 bits are one client.",
            default: Usual::Value("total"),
            example: "\"client\"",
            scope: OptionScope::Listener,
            read: |to, text| {
                keep(&mut to.access.limits.limit_per, limits::checked_per(text).map(Some))
            },
            ..ONCE
        },
        OptionRow {
            name: "limit-requests",
            hint: "N/s|N/m",
            brief: "requests a client may send a second or minute",
            help: "Requests a client may send a second or minute. Further requests get a 429.",
            more: "All of them may come at once; after that they become available one by one. The 429 has \
                   Retry-After.",
            example: "\"100/s\"",
            scope: OptionScope::Listener,
            read: |to, text| {
                keep(&mut to.access.limits.limit_requests, limits::checked_requests(text).map(Some))
            },
            ..ONCE
        },
        OptionRow {
            name: "limit-connections",
            hint: "N",
            brief: "connections of a client at one time",
            help: "Connections of a client, and of a user, at one time. Requests on further connections get a 429.",
            more: "Connections beyond twice that number are closed at once.",
            example: "200",
            scope: OptionScope::Listener,
            read: |to, text| {
                let count = limits::checked_connections(text);
                keep(&mut to.access.limits.limit_connections, count.map(Some))
            },
            ..ONCE
        },
        OptionRow {
            name: "max-bytes",
            hint: "SIZE",
            brief: "stop relaying after this many bytes",
            help: "Stop relaying after this many bytes, both directions together. Transfers under way are cut, and \
                   later requests get a 503.",
            example: "\"500GB\"",
            scope: OptionScope::Reload,
            read: |to, text| {
                keep(&mut to.access.limits.max_bytes, limits::checked_volume(text).map(Some))
            },
            ..ONCE
        },
    ],
};
