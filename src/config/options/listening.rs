//! Options about the addresses to listen on, the configuration file, and the process.

use super::row::{
    FileUse, ONCE, OptionRow, OptionScope, REPEATED, SWITCH, Topic, Usual, add, keep,
};
use crate::config::values::{self, ExitAfter};
use crate::config::{duration, listen, number};

pub(super) const LISTENING: Topic = Topic {
    name: "listening",
    title: "Listening",
    about: "where clients and monitors connect to",
    rows: &[
        OptionRow {
            name: "listen",
            letter: Some('l'),
            hint: "ADDR",
            brief: "address to listen on",
            first: true,
            help: "The address to listen on: IP:PORT or [IP]:PORT. :PORT and localhost:PORT mean 127.0.0.1:PORT; \
                   0.0.0.0:PORT and [::]:PORT mean every network. Port 0 lets the system choose.",
            more: "The proxy is reachable from other machines only with an address beyond loopback. Names other than \
                   localhost are refused. --port-file tells which port the system chose.",
            default: Usual::Value("127.0.0.1:3128"),
            example: "[\"127.0.0.1:3128\", \"[::1]:3128\"]",
            read: |to, text| {
                let address = listen::parse(text)?;
                if address.port() != 0 && to.server.listen.contains(&address) {
                    return Err(format!("{address} is given twice; give it once"));
                }
                add(&mut to.server.listen, Ok(address))
            },
            ..REPEATED
        },
        OptionRow {
            name: "port",
            letter: Some('p'),
            hint: "PORT",
            brief: "short for --listen 127.0.0.1:PORT",
            first: true,
            help: "Short for --listen 127.0.0.1:PORT.",
            more: "It cannot be combined with --listen.",
            example: "3128",
            is_apart: true,
            instead_of: Some("listen"),
            read: |to, text| {
                add(&mut to.server.listen, listen::parse_port(text).map(listen::loopback))
            },
            ..ONCE
        },
        OptionRow {
            name: "port-file",
            hint: "FILE",
            brief: "write the ports to FILE",
            help: "Write the ports to FILE once they are bound, one a line, in the order of --listen.",
            more: "The port of --admin comes last.",
            example: "\"port\"",
            file: FileUse::Written,
            read: |to, text| keep(&mut to.port_file, values::parse_file(text).map(Some)),
            ..ONCE
        },
        OptionRow {
            name: "admin",
            hint: "ADDR|unix:PATH|off",
            brief: "serve metrics and health checks",
            first: true,
            help: "Serve /metrics for Prometheus, /stats.json, /healthz and /readyz over HTTP at this address, or at \
                   a unix socket.",
            more: "/healthz answers 200 as long as the process serves; /readyz answers 200 while new clients are \
                   accepted and 503 while the proxy drains; / is a page for people. The admin listener has 16 \
                   connections of its own, so it answers even if --max-connections are used up. Beyond loopback it \
                   serves private networks only, unless --open is given. Only the owner can open a unix socket; the \
                   socket file of a dead process is replaced, and the file is removed at the end.",
            default: Usual::Value("off"),
            example: "\"127.0.0.1:9127\"",
            file: FileUse::Written,
            read: |to, text| keep(&mut to.server.admin, listen::parse_admin(text)),
            ..ONCE
        },
        OptionRow {
            name: "admin-name",
            hint: "NAME",
            brief: "a host name that requests to --admin may use",
            help: "A host name that requests to --admin may use, as well as addresses, localhost and, beyond loopback, \
                   the name of the machine.",
            more: "Other names get a 421, because a web page could make its own name lead to this listener. A unix \
                   socket takes any name.",
            example: "[\"proxy.example\"]",
            read: |to, text| add(&mut to.server.admin_names, listen::parse_admin_name(text)),
            ..REPEATED
        },
        OptionRow {
            name: "open",
            brief: "beyond loopback, serve and reach every network",
            help: "Beyond loopback, serve clients of every network, and connect to every address. Without it a \
                   listener beyond loopback serves private networks only, and connects to public addresses only, \
                   except what rules name.",
            more: "--allow-client and --allow are the narrow ways: they name the clients to serve, and destinations \
                   beside the public ones.",
            example: "false",
            scope: OptionScope::Listener,
            read: |to, text| keep(&mut to.server.open, Ok(text == "true")),
            ..SWITCH
        },
    ],
};

pub(super) const CONFIGURATION: Topic = Topic {
    name: "configuration",
    title: "Configuration",
    about: "the configuration file and reloading",
    rows: &[
        OptionRow {
            name: "config",
            letter: Some('c'),
            hint: "FILE",
            brief: "read options from FILE (TOML)",
            first: true,
            help: "Read options, rules and listeners from FILE (TOML). The command line comes before the \
                   environment (THREADGATE_TIMEOUT_HEAD=5s), and the environment before FILE.",
            more: "'threadgate check' prints a file with every option to start from.",
            file: FileUse::Configuration,
            read: |_, text| values::parse_file(text).map(drop),
            ..ONCE
        },
        OptionRow {
            name: "watch",
            brief: "reload when a file changes",
            help: "Reload when the configuration file, or a file that an option names, changes.",
            more: "Files are checked once a second and read when they have stopped changing. SIGHUP reloads at once.",
            example: "true",
            scope: OptionScope::Reload,
            read: |to, text| keep(&mut to.watch, Ok(text == "true")),
            ..SWITCH
        },
    ],
};

pub(super) const PROCESS: Topic = Topic {
    name: "process",
    title: "Process",
    about: "how it starts and stops, for scripts and supervisors",
    rows: &[
        OptionRow {
            name: "ready-fd",
            hint: "N",
            brief: "write a line to descriptor N when ready",
            help: "Write an empty line to descriptor N when connections are accepted, and close it, as s6 expects.",
            more: "The descriptor has to be open, and cannot be 0, 1 or 2.",
            example: "3",
            is_apart: true,
            read: |to, text| keep(&mut to.ready_fd, number::parse_descriptor(text).map(Some)),
            ..ONCE
        },
        OptionRow {
            name: "pid-file",
            hint: "FILE",
            brief: "write the process number to FILE",
            help: "Write the process number to FILE when connections are accepted, and remove FILE at the end.",
            more: "The file of a dead process is replaced; the file of a running threadgate prevents the start.",
            example: "\"threadgate.pid\"",
            file: FileUse::Written,
            read: |to, text| keep(&mut to.pid_file, values::parse_file(text).map(Some)),
            ..ONCE
        },
        OptionRow {
            name: "exit-after",
            hint: "N|DURATION",
            brief: "stop after N exchanges, or after a time",
            help: "Stop after N exchanges and tunnels, or after a time, as if by a signal.",
            more: "Failed exchanges count. Exchanges under way may finish within --drain. The exit status is 0.",
            example: "\"10m\"",
            is_apart: true,
            read: |to, text| keep(&mut to.exit_after, ExitAfter::parse(text).map(Some)),
            ..ONCE
        },
        OptionRow {
            name: "drain",
            hint: "DURATION",
            brief: "time to finish after a signal to stop",
            help: "How long requests and tunnels may go on after SIGTERM or SIGINT; 0 closes them at once.",
            more: "A connection that has sent nothing yet gets one second of it for a first request.",
            default: Usual::Value("10s"),
            read: |to, text| keep(&mut to.drain, duration::parse(text)),
            ..ONCE
        },
    ],
};
