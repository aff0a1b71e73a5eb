//! Options about access: destinations and clients, users, and the content of requests and responses.

use super::row::{
    FileUse, ONCE, OptionKind, OptionRow, OptionScope, REPEATED, SWITCH, Topic, Usual, add, keep,
};
use crate::config::{access, users, values};

/// An option for which a listener can have its own values.
const OF_A_LISTENER: OptionRow = OptionRow { scope: OptionScope::Listener, ..REPEATED };

/// The same, with one value.
const ONCE_OF_A_LISTENER: OptionRow = OptionRow { scope: OptionScope::Listener, ..ONCE };

/// The same, with one value that is a list.
const LIST_OF_A_LISTENER: OptionRow =
    OptionRow { kind: OptionKind::List, hint: "LIST", ..ONCE_OF_A_LISTENER };

pub(super) const ACCESS: Topic = Topic {
    name: "access",
    title: "Access",
    about: "which destinations, clients and kinds of requests are let through",
    rows: &[
        OptionRow {
            name: "allow",
            hint: "DESTINATION",
            brief: "let requests to this destination through",
            first: true,
            help: "Let requests to this destination through, even if --deny, a list or protected mode would refuse \
                   them. A destination is www.example.com, .example.com (and all names below it), *.cdn.*, \
                   re:^ads[0-9] or 10.1.0.0/16; :PORT or :FROM-TO may follow.",
            more: "A network is compared with the address that is connected to, whatever the name. A regular \
                   expression has no port, and matches anywhere in a name.",
            example: "[\".example.com\", \"10.1.0.0/16:443\"]",
            read: |to, text| add(&mut to.access.allow, access::checked_destination(text)),
            ..OF_A_LISTENER
        },
        OptionRow {
            name: "deny",
            hint: "DESTINATION",
            brief: "refuse requests to this destination",
            first: true,
            help: "Refuse requests to this destination, unless --allow names it.",
            example: "[\".ads.example\", \"re:^track[0-9]\"]",
            read: |to, text| add(&mut to.access.deny, access::checked_destination(text)),
            ..OF_A_LISTENER
        },
        OptionRow {
            name: "allow-client",
            hint: "NETWORK",
            brief: "serve clients in this network only",
            help: "Serve clients in this network, and no others.",
            more: "Beyond loopback it may name networks that are not private.",
            example: "[\"127.0.0.0/8\", \"192.168.0.0/16\"]",
            read: |to, text| add(&mut to.access.allow_client, access::checked_network(text)),
            ..OF_A_LISTENER
        },
        OptionRow {
            name: "deny-client",
            hint: "NETWORK",
            brief: "refuse clients in this network",
            help: "Refuse clients in this network. It comes before --allow-client.",
            example: "[\"192.168.7.7\"]",
            read: |to, text| add(&mut to.access.deny_client, access::checked_network(text)),
            ..OF_A_LISTENER
        },
        OptionRow {
            name: "connect-ports",
            brief: "ports that CONNECT may go to",
            help: "Ports that CONNECT may go to, such as 443,8000-8999.",
            more: "--connect-ports, --methods and --schemes come before --allow.",
            default: Usual::Words("all"),
            example: "[443, \"8000-8999\"]",
            read: |to, text| {
                keep(&mut to.access.connect_ports, access::checked_ports(text).map(Some))
            },
            ..LIST_OF_A_LISTENER
        },
        OptionRow {
            name: "methods",
            brief: "methods that requests may have",
            help: "Methods that requests may have, such as GET,HEAD,CONNECT. Without CONNECT there are no tunnels.",
            more: "Methods are case-sensitive. Without CONNECT, requests may change to another protocol only if \
                   --schemes names ws.",
            default: Usual::Words("all"),
            example: "[\"GET\", \"HEAD\", \"POST\", \"CONNECT\"]",
            read: |to, text| keep(&mut to.access.methods, access::checked_methods(text).map(Some)),
            ..LIST_OF_A_LISTENER
        },
        OptionRow {
            name: "schemes",
            brief: "kinds of requests: http, ws, connect",
            help: "Kinds of requests that may pass: http, ws (requests that offer to change to another protocol) and \
                   connect (tunnels), separated by commas.",
            default: Usual::Words("all"),
            example: "[\"http\", \"ws\", \"connect\"]",
            read: |to, text| keep(&mut to.access.schemes, access::checked_schemes(text).map(Some)),
            ..LIST_OF_A_LISTENER
        },
        OptionRow {
            name: "block-list",
            hint: "FILE",
            brief: "refuse requests to the domains in FILE",
            first: true,
            help: "Refuse requests to the domains in FILE, and to all names below them. FILE is a hosts file, a \
                   domain a line, adblock rules (||ads.example^), regular expressions as for Pi-hole, an RPZ, or \
                   configuration of dnsmasq or unbound.",
            more: "The format is detected. Exceptions (@@||good.example^) are kept. Lines that cannot be used are \
                   skipped, counted, and reported; 'threadgate check -v' shows each.",
            example: "[\"block.txt\"]",
            file: FileUse::Read,
            read: |to, text| add(&mut to.access.block_list, checked_file(text)),
            ..OF_A_LISTENER
        },
        OptionRow {
            name: "allow-list",
            hint: "FILE",
            brief: "let requests to the domains in FILE through",
            help: "Let requests to the domains in FILE through, even if a block list has them, or --policy enforce \
                   allows nothing else.",
            more: "The formats are those of --block-list. --allow-list does not lift protected mode.",
            example: "[\"allow.txt\"]",
            file: FileUse::Read,
            read: |to, text| add(&mut to.access.allow_list, checked_file(text)),
            ..OF_A_LISTENER
        },
        OptionRow {
            name: "list-options",
            hint: "strict|wide",
            brief: "what adblock rules with options for browsers mean",
            help: "What a rule in a list means if it has an option that only browsers can follow, such as \
                   ||ads.example^$third-party: strict skips the rule; wide refuses the whole host.",
            more: "Known options are important, badfilter, denyallow, and dnsrewrite to nothing. An exception with any \
                   other option is always skipped, and so are rules for some pages or clients, and rules that change \
                   responses.",
            default: Usual::Value("strict"),
            read: |to, text| keep(&mut to.access.list_options, access::parse_list_options(text)),
            ..ONCE_OF_A_LISTENER
        },
        OptionRow {
            name: "policy",
            hint: "MODE",
            choices: &["open", "learn", "report", "enforce"],
            brief: "what happens to requests that no rule names",
            help: "What happens to requests that no rule allows or denies: open lets them through, enforce refuses \
                   them, learn lets them through and writes down their domains, report refuses nothing and logs \
                   what enforce would refuse.",
            more: "Protected mode, and rules about clients and users, hold in every mode.",
            default: Usual::Value("open"),
            read: |to, text| keep(&mut to.access.policy, access::parse_mode(text)),
            ..ONCE_OF_A_LISTENER
        },
        OptionRow {
            name: "learn-file",
            hint: "FILE",
            brief: "where --policy learn writes domains",
            help: "Where --policy learn writes the domains that were reached, as a list for --allow-list.",
            more: "It is written at the end and on SIGHUP, SIGUSR1 and SIGUSR2. Domains that an earlier run has \
                   learnt stay in it.",
            example: "\"learned.txt\"",
            is_apart: true,
            file: FileUse::Written,
            read: |to, text| keep(&mut to.learn_file, values::parse_file(text).map(Some)),
            ..ONCE
        },
        OptionRow {
            name: "fail-on-deny",
            brief: "exit with 3 if a request was denied",
            help: "Exit with 3 instead of 0 if any request was refused by a rule, or would have been with --policy \
                   enforce.",
            example: "false",
            read: |to, text| keep(&mut to.fail_on_deny, Ok(text == "true")),
            ..SWITCH
        },
        OptionRow {
            name: "deny-with",
            hint: "403|204|URL",
            brief: "the answer to a refused request",
            help: "The answer to a refused request: a 403 that names the rule, an empty 204, or a redirect (302) to URL. \
                   CONNECT always gets the 403, and its connection closes.",
            default: Usual::Value("403"),
            example: "403",
            read: |to, text| keep(&mut to.access.deny_with, access::parse_deny_with(text)),
            ..ONCE_OF_A_LISTENER
        },
        OptionRow {
            name: "sni",
            hint: "off|check|match",
            brief: "how the server name in a TLS tunnel is judged",
            help: "How the server name at the beginning of TLS in a tunnel is judged: off ignores it; check judges it \
                   like the host of the CONNECT, if any rule is about names; match also requires it to equal that \
                   host.",
            more: "The first bytes of the client are held until then, and nothing is sent on if the name is refused. A \
                   tunnel without TLS always passes.",
            default: Usual::Value("check"),
            read: |to, text| keep(&mut to.access.sni, access::parse_sni(text)),
            ..ONCE_OF_A_LISTENER
        },
    ],
};

pub(super) const USERS: Topic = Topic {
    name: "users",
    title: "Users",
    about: "user names and passwords",
    rows: &[
        OptionRow {
            name: "auth",
            letter: Some('a'),
            hint: "USER:PASS",
            brief: "ask clients for this user and password",
            help: "Serve only clients that send this user name and password, or those of another --auth, --auth-env \
                   or --auth-file. Other users of this machine can see the command line; a file or a variable hides it.",
            more: "Others get a 407 (Basic, RFC 7617, in UTF-8). A password may contain any printable character. On a \
                   listener beyond loopback, users may come from any network, unless --allow-client names some.",
            example: "[\"alice:secret\"]",
            is_apart: true,
            is_secret: true,
            read: |to, text| add(&mut to.access.users.auth, users::Password::parse(text)),
            ..OF_A_LISTENER
        },
        OptionRow {
            name: "auth-env",
            hint: "VAR",
            brief: "users from an environment variable",
            help: "Users from the environment variable VAR: USER:PASS, or several lines of it.",
            example: "[\"PROXY_USER\"]",
            is_apart: true,
            file: FileUse::Variable,
            read: |to, text| add(&mut to.access.users.env, users::checked_variable(text)),
            ..OF_A_LISTENER
        },
        OptionRow {
            name: "auth-file",
            hint: "FILE",
            brief: "users from FILE (see threadgate passwd)",
            first: true,
            help: "Users from FILE, which has a line NAME:HASH for each user, as 'threadgate passwd' and htpasswd -B \
                   write it.",
            more: "Hashes are bcrypt ($2a$, $2b$, $2y$), Argon2 ($argon2id$) and SHA-crypt ($5$, $6$). SIGHUP and \
                   SIGUSR1 read the file again; a wrong file changes nothing.",
            example: "[\"users\"]",
            file: FileUse::Read,
            read: |to, text| add(&mut to.access.users.files, values::parse_file(text)),
            ..OF_A_LISTENER
        },
        OptionRow {
            name: "auth-realm",
            hint: "TEXT",
            brief: "what browsers show when they ask for a password",
            help: "What browsers show when they ask for a password.",
            default: Usual::Value(users::REALM),
            read: |to, text| keep(&mut to.access.users.realm, users::checked_realm(text).map(Some)),
            ..ONCE_OF_A_LISTENER
        },
    ],
};

pub(super) const CONTENT: Topic = Topic {
    name: "content",
    title: "Content",
    about: "URLs, media types and sizes of plain http",
    rows: &[
        OptionRow {
            name: "deny-url",
            hint: "REGEX",
            brief: "refuse http URLs in which REGEX is found",
            help: "Refuse requests for http URLs in which REGEX is found.",
            more: "The URL is compared in its normal form: the host in lower case, no default port, and no \
                   percent-encoding that is not needed. A URL inside a tunnel is not seen.",
            example: "[\"/ads/\"]",
            read: |to, text| add(&mut to.access.deny_url, access::checked_url(text)),
            ..OF_A_LISTENER
        },
        OptionRow {
            name: "allow-url",
            hint: "REGEX",
            brief: "let http URLs in which REGEX is found through",
            help: "Let requests for http URLs in which REGEX is found through, even if --deny-url or --policy enforce \
                   would refuse them.",
            more: "It does not lift --deny or protected mode.",
            example: "[\"/ads/mine/\"]",
            read: |to, text| add(&mut to.access.allow_url, access::checked_url(text)),
            ..OF_A_LISTENER
        },
        OptionRow {
            name: "deny-type",
            hint: "TYPES",
            brief: "refuse responses of these media types",
            help: "Refuse responses of these media types, such as video/mp4 or image/*, separated by commas.",
            example: "[\"video/*\"]",
            read: |to, text| add(&mut to.access.deny_type, access::checked_types(text)),
            ..OF_A_LISTENER
        },
        OptionRow {
            name: "max-response-size",
            hint: "SIZE",
            brief: "refuse larger responses",
            help: "Refuse responses that announce more content, and cut off those that turn out to have more. \
                   Tunnels are not counted.",
            more: "The client can tell that a response was cut off.",
            example: "\"1GB\"",
            read: |to, text| {
                let bytes = access::parse_response_size(text);
                keep(&mut to.access.max_response_bytes, bytes.map(Some))
            },
            ..ONCE_OF_A_LISTENER
        },
    ],
};

fn checked_file(text: &str) -> Result<String, String> {
    values::parse_file(text).map(|_| text.to_owned())
}
