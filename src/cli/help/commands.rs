//! The texts of the help for each command, except its options: purpose, usage, examples, exit statuses.

/// A command, as help and completions show it.
#[derive(Debug)]
pub(crate) struct CommandText {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it does, in a few words.
    pub(crate) brief: &'static str,
    /// The words after its name.
    pub(crate) usage: &'static str,
    /// Whether it also takes the options of `serve`.
    pub(crate) is_about_a_proxy: bool,
    /// Command lines, and what each does.
    pub(crate) examples: &'static [(&'static str, &'static str)],
    /// The text of its help.
    pub(crate) text: &'static str,
    /// What its exit statuses mean.
    pub(crate) statuses: &'static str,
    /// The words its first argument can be, if it is one of a few.
    pub(crate) words: &'static [&'static str],
}

/// All commands, in the order of help; the first is the one that runs if none is named.
pub(crate) const COMMANDS: [CommandText; 6] = [
    CommandText {
        name: "serve",
        brief: "start the proxy (the default)",
        usage: "[OPTIONS]",
        is_about_a_proxy: true,
        examples: &[
            ("threadgate", "listen on 127.0.0.1:3128, for this machine only"),
            ("curl -x http://127.0.0.1:3128 http://example.com/", "use it"),
            ("threadgate -l 0.0.0.0:3128", "also serve the private networks of this machine"),
            ("threadgate --access-log -", "show each exchange"),
            (
                "threadgate --deny .ads.example --limit client:10mbit",
                "refuse a domain, limit each client",
            ),
            ("threadgate --block-list hosts.txt", "refuse the domains of a block list"),
            (
                "threadgate -p 0 --port-file port --exit-after 10m",
                "a free port, for a script; ends by itself",
            ),
        ],
        text: "",
        statuses: "0 stopped by a signal or --exit-after, 1 failed while running or a file cannot be written, 2 wrong \
                   command line, 3 a rule was against a request (--fail-on-deny), 69 cannot listen or connect from \
                   there, 77 not permitted, 78 wrong configuration.",
        words: &[],
    },
    CommandText {
        name: "check",
        brief: "check options and the files they name",
        usage: "[OPTIONS]",
        is_about_a_proxy: true,
        examples: &[
            ("threadgate check -c threadgate.toml", "every mistake of the file, or what counts"),
            ("threadgate check > threadgate.toml", "a file with every option, to begin with"),
        ],
        text: "check takes the options of serve, reads the configuration file and all files that it names, and \
               starts nothing. It prints each option with its value and where the value comes from: a file and its \
               line, a variable, the command line, or the default. The output is a configuration file itself; \
               secrets are left out.\n\n\
               Mistakes go to stderr, all of them in one run. Only a start can show whether a port is \
               in use, a file cannot be written, or another proxy is running.",
        statuses: "0 all is right (warnings do not count), 1 the learn file cannot be used, 2 wrong command line, \
                   77 a file may not be read, 78 wrong configuration.",
        words: &[],
    },
    CommandText {
        name: "explain",
        brief: "show what happens to a request, and why",
        usage: "[OPTIONS] METHOD URL",
        is_about_a_proxy: true,
        examples: &[
            (
                "threadgate explain --deny .ads.example GET http://x.ads.example/",
                "each step of the decision, with its rule",
            ),
            (
                "threadgate explain -c threadgate.toml --user ann CONNECT example.com:443",
                "the same for a user and a tunnel",
            ),
        ],
        text: "explain takes the options of serve as well as its own. It reads the files that they name, decides as the \
               proxy does, and connects to nothing. An https URL is decided by the CONNECT that a client sends for \
               it.",
        statuses: "0 the request goes through, 1 nothing could be printed, 2 wrong command line, 3 the request is denied, \
                   77 a file may not be read, 78 wrong configuration.",
        words: &["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT"],
    },
    CommandText {
        name: "passwd",
        brief: "write a user's line for --auth-file",
        usage: "[OPTIONS] FILE USER",
        is_about_a_proxy: false,
        examples: &[
            ("threadgate passwd users alice", "ask for a password at the terminal, twice"),
            ("echo \"$PASSWORD\" | threadgate passwd users alice", "take the first line of stdin"),
            ("threadgate passwd --delete users alice", "remove the user"),
        ],
        text: "passwd adds a line, or replaces the line of that user; all other lines stay as they are. FILE is replaced in \
               one step, and a new file has mode 600. A running proxy reads it again on SIGHUP.",
        statuses: "0 done, 1 nothing was changed, 2 wrong command line, 77 not permitted.",
        words: &[],
    },
    CommandText {
        name: "completions",
        brief: "print completions for a shell",
        usage: "bash|zsh|fish",
        is_about_a_proxy: false,
        examples: &[
            (
                "threadgate completions bash > ~/.local/share/bash-completion/completions/threadgate",
                "for bash",
            ),
            (
                "threadgate completions zsh > ~/.zfunc/_threadgate",
                "for zsh, with ~/.zfunc in fpath",
            ),
            (
                "threadgate completions fish > ~/.config/fish/completions/threadgate.fish",
                "for fish",
            ),
        ],
        text: "completions prints a script that completes commands, options, their values and files. 'make install' \
               installs all three.",
        statuses: "0 printed, 1 nothing could be printed, 2 wrong command line.",
        words: &["bash", "zsh", "fish"],
    },
    CommandText {
        name: "help",
        brief: "show a command, a topic or an option",
        usage: "[COMMAND|TOPIC|--OPTION]",
        is_about_a_proxy: false,
        examples: &[
            ("threadgate help access", "the options of a topic, at length"),
            ("threadgate help --deny", "one option, with its key and its variable"),
        ],
        text: "",
        statuses: "0 printed, 1 nothing could be printed, 2 there is no such command, topic or option.",
        words: &[],
    },
];

/// Topics that are not about options: name, heading, text.
pub(crate) const TEXTS: [(&str, &str, &str, &str); 3] = [
    (
        "units",
        "Units",
        "durations, sizes and rates",
        "A DURATION is a whole number and a unit: 500ms, 10s, 5m, 1h, 2d. The longest is 365d.\n\n\
         A SIZE is a number of bytes, or a number and a unit: 32k, 64KiB (powers of 1024), 64kB (powers of 1000).\n\n\
         A RATE is bits a second (500kbit, 10mbit, 1gbit) or bytes a second (64KiB/s, 1MB/s).",
    ),
    (
        "signals",
        "Signals",
        "stop, reload, rotate the log, write counters",
        "TERM and INT stop the proxy: it takes no more clients, finishes within --drain, and exits. A second \
         signal makes it exit at once.\n\n\
         HUP and USR1 reopen the access log, and read the configuration and the files that it names again. If \
         one of them is wrong, nothing changes, and the log says why.\n\n\
         USR2 writes counters to stderr.",
    ),
    (
        "environment",
        "Environment",
        "variables that the proxy reads",
        "THREADGATE_NAME is the option of that name, in capitals and with underscores: THREADGATE_TIMEOUT_HEAD=5s. \
         Values of a repeatable option are separated by spaces; a switch takes true or false. An empty variable is \
         ignored.\n\n\
         THREADGATE_LOG, or RUST_LOG, sets the level of messages on stderr in place of -v and -q: error, warn, info, \
         debug, trace, off.\n\n\
         NOTIFY_SOCKET is a socket of systemd that is told about start, reload and stop. NO_COLOR switches colours \
         off.",
    ),
];

/// The command of this name.
pub(crate) fn find(name: &str) -> Option<&'static CommandText> {
    const ALL: &[CommandText] = &COMMANDS;
    ALL.iter().find(|command| command.name == name)
}
