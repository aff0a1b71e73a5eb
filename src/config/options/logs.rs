//! Options about the logs, and about fields that the proxy adds to messages.

use super::row::{FileUse, ONCE, OptionKind, OptionRow, SWITCH, Topic, Usual, keep};
use crate::config::values::{self, Color, LogFormat, LogTarget};

pub(super) const LOGS: Topic = Topic {
    name: "logs",
    title: "Messages and logs",
    about: "the access log, stderr, and fields that the proxy adds",
    rows: &[
        OptionRow {
            name: "via",
            hint: "NAME|off",
            brief: "name in the Via field",
            help: "The name of this proxy in the Via field of requests and responses.",
            more: "XXXX is four hexadecimal digits drawn at each start, so that proxies in a row have different names. A request that \
                   already has this name has come in a circle, and is refused. With off the field is not touched, and a \
                   response without a Date gets none.",
            default: Usual::Words("threadgate-XXXX"),
            example: "\"threadgate-1\"",
            read: |to, text| keep(&mut to.server.via, values::parse_via(text)),
            ..ONCE
        },
        OptionRow {
            name: "forwarded-for",
            hint: "on|off",
            brief: "tell servers the address of the client",
            help: "Tell servers the address of the client, in Forwarded and X-Forwarded-For.",
            more: "The address is added behind those that came with the request. With off both fields pass as they \
                   came. The server of a tunnel is told nothing.",
            default: Usual::Value("off"),
            read: |to, text| keep(&mut to.server.forwarded_for, values::parse_switch(text)),
            ..ONCE
        },
        OptionRow {
            name: "strict-responses",
            brief: "refuse responses that need mending",
            help: "Refuse (502) responses that are not in the strict form of HTTP/1.1, instead of mending those that \
                   clients accept. Mended responses are counted.",
            example: "true",
            read: |to, text| keep(&mut to.server.strict_responses, Ok(text == "true")),
            ..SWITCH
        },
        OptionRow {
            name: "access-log",
            hint: "FILE|-|off",
            brief: "log each exchange to FILE, or - for stdout",
            first: true,
            help: "Append a line for each exchange to FILE; - is stdout.",
            more: "SIGHUP and SIGUSR1 reopen FILE after it was moved away.",
            default: Usual::Value("off"),
            example: "\"access.log\"",
            file: FileUse::Written,
            read: |to, text| keep(&mut to.access_log, LogTarget::parse(text)),
            ..ONCE
        },
        OptionRow {
            name: "log-format",
            hint: "FORMAT",
            choices: &["text", "json", "common", "combined"],
            brief: "format of the access log",
            help: "The format of the access log: text (columns for people), json, common or combined (as web servers \
                   write them).",
            more: "combined has Referer and User-Agent. On a terminal text is shorter and aligned.",
            default: Usual::Value("text"),
            example: "\"json\"",
            read: |to, text| keep(&mut to.log_format, LogFormat::parse(text)),
            ..ONCE
        },
        OptionRow {
            name: "color",
            hint: "WHEN",
            choices: &["auto", "always", "never"],
            brief: "when output is in colour",
            help: "When output is in colour: auto (on a terminal, unless NO_COLOR is set or TERM is dumb), always or never.",
            more: "It holds for messages, and for an access log in the text format on stdout. always writes the \
                   same lines into a file or a pipe as on a terminal.",
            default: Usual::Value("auto"),
            read: |to, text| keep(&mut to.color, Color::parse(text)),
            ..ONCE
        },
        OptionRow {
            name: "verbose",
            letter: Some('v'),
            kind: OptionKind::Counter,
            brief: "say more on stderr",
            first: true,
            help: "Say more on stderr: once for details, twice for everything.",
            example: "1",
            read: |to, text| {
                to.verbosity = to.verbosity.saturating_add(count(text));
                Ok(())
            },
            ..SWITCH
        },
        OptionRow {
            name: "quiet",
            letter: Some('q'),
            kind: OptionKind::Counter,
            brief: "say less on stderr",
            help: "Say less on stderr: once for warnings and errors, twice for errors, three times for nothing.",
            example: "0",
            instead_of: Some("verbose"),
            read: |to, text| {
                to.verbosity = to.verbosity.saturating_sub(count(text));
                Ok(())
            },
            ..SWITCH
        },
    ],
};

/// How often a counter was given, at most 255.
fn count(text: &str) -> i8 {
    text.parse::<u8>().map_or(0, |times| i8::try_from(times).unwrap_or(i8::MAX))
}
