//! Finds options that do nothing as given, because of the options beside them, and policies that refuse
//! every request.
//!
//! They are no mistakes, so a proxy starts with them. But whoever gives such an option expects something
//! of it, so the start and `threadgate check` say what is missing. A new row of [`TABLE`] is all that
//! another such option needs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::access::{AccessOptions, Hellos};
use super::options::{self, FileUse, OptionKind, OptionRow, Usual};
use super::rules::WrittenRule;
use super::settings::{Settings, WrittenAt, WrittenValue};
use super::values::{Config, LogTarget};
use crate::net::listener::ListenPlace;
use crate::policy::decide::Mode;
use crate::policy::network::Network;
use crate::policy::rules::Way;

/// Options and when a value of theirs does nothing.
struct Row {
    /// The options, without dashes.
    options: &'static [&'static str],
    /// Whether each value counts for itself; otherwise the first one stands for all.
    by_value: bool,
    /// Whether this value does nothing on a listener with these options.
    is_idle: fn(&Beside<'_>, &str) -> bool,
    /// The sentence after the option and its value: what is the case, and what to add or leave out.
    says: &'static str,
}

/// The sentence about users, which rules need too.
const NO_USERS: &str = "has no effect: there are no users; add them with --auth-file FILE, --auth-env VAR \
                        or --auth, or leave it out";
/// The reason why a value or a rule for one user does nothing.
const NO_SUCH_USER: &str = "has no effect: there is no such user; correct the name, or add the user with --auth-file FILE, \
                            --auth-env VAR or --auth";

/// Every option that depends on another one, unless a start without the other is refused: those are in
/// [`together`](super::together) and where the options are read. A default is never reported, and a value
/// of several listeners only if it does nothing on all of them.
static TABLE: [Row; 24] = [
    Row {
        options: &["admin-name"],
        by_value: false,
        is_idle: |it, _| !matches!(it.config.server.admin, Some(ListenPlace::Tcp(_))),
        says: "has no effect: there is no --admin with an address; add --admin 127.0.0.1:9127, or leave \
               it out",
    },
    Row {
        options: &["open"],
        by_value: false,
        is_idle: |it, _| !it.is_beyond && !it.is_admin_beyond(),
        says: "has no effect: nothing is protected on loopback, and only this machine reaches it; add an \
               address beyond it, such as --listen 0.0.0.0:3128, or leave it out",
    },
    Row {
        options: &["watch"],
        by_value: false,
        is_idle: |it, _| !it.reads_files,
        says: "has no effect: there is no file to watch; add --config FILE, or an option that reads a \
               file, such as --block-list FILE, or leave it out",
    },
    Row {
        options: &["deny-client"],
        by_value: false,
        is_idle: |it, _| {
            !it.is_beyond && !it.access.deny_client.iter().any(|text| it.may_have_clients_in(text))
        },
        says: "has no effect: only this machine reaches a listener on loopback; add an address beyond \
               it, such as --listen 0.0.0.0:3128, or leave it out",
    },
    Row {
        options: &["deny-client"],
        by_value: false,
        is_idle: |it, _| it.refuses_all_clients(),
        says: "refuses every client: it names all that can reach the listener; name fewer, or leave it \
               out",
    },
    Row {
        options: &["allow-client"],
        by_value: false,
        is_idle: |it, _| {
            !it.is_beyond && !it.access.allow_client.iter().any(|text| it.may_have_clients_in(text))
        },
        says: "refuses every client: only this machine reaches a listener on loopback; add an address \
               beyond it, such as --listen 0.0.0.0:3128, or allow 127.0.0.0/8 (::1 for IPv6)",
    },
    Row {
        options: &["allow"],
        by_value: false,
        is_idle: |it, _| it.is_open() && !it.refuses_destinations(),
        says: "refuses nothing by itself, and no --deny, list or policy here refuses a destination; add \
               --policy enforce to refuse all others, or leave it out",
    },
    Row {
        options: &["allow-list"],
        by_value: false,
        is_idle: |it, _| it.is_open() && it.access.block_list.is_empty(),
        says: "has no effect: there is no --block-list that it makes exceptions to; add one, or --policy \
               enforce to refuse all others, or leave it out",
    },
    Row {
        options: &["list-options"],
        by_value: false,
        is_idle: |it, text| text == "wide" && !it.has_block_list(),
        says: "has no effect: there is no --block-list with rules that it could be about; add one, or \
               leave it out",
    },
    Row {
        options: &["allow-url"],
        by_value: false,
        is_idle: |it, _| {
            it.is_open() && it.access.deny_url.is_empty() && it.access.block_list.is_empty()
        },
        says: "has no effect: no --deny-url or list here refuses a URL; add --deny-url REGEX, or --policy enforce to \
               refuse all others, or leave it out",
    },
    Row {
        options: &["policy"],
        by_value: false,
        is_idle: |it, _| it.access.policy == Mode::Enforce && !it.allows_anything(),
        says: "refuses every request: nothing is allowed; add --allow HOST, --allow-list FILE or \
               [[rules]] that allow, or leave it out",
    },
    Row {
        options: &["schemes"],
        by_value: false,
        is_idle: |it, _| !Way::ALL.into_iter().any(|way| it.passes(way)),
        says: "refuses every request together with --methods: none of those methods fits; add GET for \
               http, CONNECT for connect",
    },
    Row {
        options: &["connect-ports", "sni"],
        by_value: false,
        is_idle: |it, text| text != "off" && !it.passes(Way::Connect),
        says: "has no effect: --methods or --schemes lets no CONNECT through; add CONNECT or connect \
               there, or leave it out",
    },
    Row {
        options: &["timeout-tunnel"],
        by_value: false,
        is_idle: |it, _| !it.passes(Way::Connect) && !it.passes(Way::Ws),
        says: "has no effect: --methods or --schemes lets no tunnel through; add CONNECT or connect \
               there, or leave it out",
    },
    Row {
        options: &[
            "deny-url",
            "allow-url",
            "deny-type",
            "max-response-size",
            "forwarded-for",
            "strict-responses",
        ],
        by_value: false,
        is_idle: |it, _| it.passes(Way::Connect) && !it.passes(Way::Http) && !it.passes(Way::Ws),
        says: "has no effect: --methods or --schemes lets only tunnels through, and what is in a tunnel \
               is not seen; add GET or http there, or leave it out",
    },
    Row {
        options: &["deny-with"],
        by_value: false,
        is_idle: |it, _| !it.refuses_requests() || it.only_reports(),
        says: "has no effect: no rule, list or policy here refuses a request; add one, such as --deny \
               HOST, or leave it out",
    },
    Row {
        options: &["fail-on-deny"],
        by_value: false,
        is_idle: |it, _| !it.refuses_requests() && !it.refuses_later(),
        says: "has no effect: no rule, list or policy here refuses anything; add one, such as --deny \
               HOST or --policy enforce, or leave it out",
    },
    Row {
        options: &["limit"],
        by_value: true,
        is_idle: |it, text| is_per_user(text) && !it.access.users.are_given(),
        says: NO_USERS,
    },
    Row {
        options: &["limit"],
        by_value: true,
        is_idle: |it, text| it.is_limit_of_nobody(text),
        says: NO_SUCH_USER,
    },
    Row {
        options: &["limit-per"],
        by_value: false,
        is_idle: |it, text| text == "user" && !it.access.users.are_given(),
        says: NO_USERS,
    },
    Row {
        options: &["log-format"],
        by_value: false,
        is_idle: |it, _| it.config.access_log == LogTarget::Off,
        says: "has no effect: there is no access log; add --access-log FILE, or - for stdout, or leave \
               it out",
    },
    Row {
        options: &["verbose", "quiet"],
        by_value: false,
        is_idle: |it, text| text != "0" && it.sets_level,
        says: "has no effect: THREADGATE_LOG or RUST_LOG sets the level of messages; unset it, or leave \
               this out",
    },
    Row {
        options: &["pool-idle"],
        by_value: false,
        is_idle: |it, _| {
            !it.config.server.pool.idle.is_zero() && it.config.server.pool.per_destination == 0
        },
        says: "has no effect: --pool-per-destination 0 keeps no connection; raise that, or leave it out",
    },
    Row {
        options: &["pool-per-destination"],
        by_value: false,
        is_idle: |it, _| {
            it.config.server.pool.idle.is_zero() && it.config.server.pool.per_destination > 0
        },
        says: "has no effect: --pool-idle 0 keeps no connection; raise that, or leave it out",
    },
];

/// The options that a value of a listener meets.
struct Beside<'a> {
    config: &'a Config,
    access: &'a AccessOptions,
    /// The address of the listener.
    address: IpAddr,
    /// Whether that is beyond loopback.
    is_beyond: bool,
    /// Whether protected mode is lifted.
    is_lifted: bool,
    /// Whether any file is read again at a reload.
    reads_files: bool,
    /// Whether a variable sets the level of messages.
    sets_level: bool,
}

impl Beside<'_> {
    fn is_admin_beyond(&self) -> bool {
        match &self.config.server.admin {
            Some(ListenPlace::Tcp(address)) => is_beyond(*address),
            _ => false,
        }
    }

    fn is_protected(&self) -> bool {
        self.is_beyond && !self.is_lifted
    }

    /// Whether `--deny-client` names all addresses that can reach the listener.
    fn refuses_all_clients(&self) -> bool {
        let names = |all: &str| {
            let all = Network::parse(all).map(|network| network.net());
            let denied =
                self.access.deny_client.iter().filter_map(|text| Network::parse(text).ok());
            all.is_ok_and(|all| denied.into_iter().any(|network| network.net().contains(&all)))
        };
        match self.address.to_canonical() {
            IpAddr::V4(ip) if ip.is_loopback() => names("127.0.0.0/8"),
            IpAddr::V4(_) => names("0.0.0.0/0"),
            IpAddr::V6(ip) if ip.is_loopback() => names("::1"),
            // It may take clients with IPv4, too.
            IpAddr::V6(_) => names("::/0") && names("0.0.0.0/0"),
        }
    }

    /// Whether requests that no rule names go through. With `learn` they do as well, but the rules are
    /// meant for a later run.
    fn is_open(&self) -> bool {
        self.access.policy == Mode::Open
    }

    /// Whether something refuses destinations that `--allow` lets through.
    fn refuses_destinations(&self) -> bool {
        self.is_protected()
            || !self.access.deny.is_empty()
            || !self.access.block_list.is_empty()
            || !self.access.rules.is_empty()
    }

    /// Whether a request may be refused.
    fn refuses_requests(&self) -> bool {
        let it = self.access;
        self.is_protected()
            || matches!(it.policy, Mode::Report | Mode::Enforce)
            || [
                &it.deny,
                &it.deny_client,
                &it.allow_client,
                &it.block_list,
                &it.deny_url,
                &it.deny_type,
            ]
            .into_iter()
            .any(|values| !values.is_empty())
            || [&it.connect_ports, &it.methods, &it.schemes].into_iter().any(Option::is_some)
            || it.rules.iter().any(|rule| !rule.allows)
    }

    /// Whether a tunnel or a response may be refused that was not refused as a request.
    fn refuses_later(&self) -> bool {
        self.access.max_response_bytes.is_some() || self.access.sni == Hellos::Match
    }

    fn allows_anything(&self) -> bool {
        let it = self.access;
        [&it.allow, &it.allow_list, &it.allow_url].into_iter().any(|values| !values.is_empty())
            || it.rules.iter().any(|rule| rule.allows)
    }

    /// Whether `--policy report` lets through all that would be refused. Clients are refused all the same.
    fn only_reports(&self) -> bool {
        let it = self.access;
        it.policy == Mode::Report
            && !self.is_protected()
            && it.allow_client.is_empty()
            && it.deny_client.is_empty()
            && it.rules.is_empty()
    }

    /// Whether there is such a user, as far as `--auth` is the only place that has users.
    fn may_know(&self, user: &str) -> bool {
        let users = &self.access.users;
        let elsewhere = !users.env.is_empty() || !users.files.is_empty();
        users.auth.is_empty() || elsewhere || users.auth.iter().any(|it| it.name() == user)
    }

    /// Why a rule for some users matches nobody.
    fn lacks_users(&self, rule: &WrittenRule) -> Option<&'static str> {
        let (_, users) = rule.lists.iter().find(|(key, _)| *key == "users")?;
        match self.access.users.are_given() {
            false => Some(NO_USERS),
            true if users.iter().any(|user| self.may_know(user)) => None,
            true => Some(NO_SUCH_USER),
        }
    }

    /// Whether clients on loopback can have addresses of this network.
    fn may_have_clients_in(&self, network: &str) -> bool {
        let own: IpAddr = match self.address.to_canonical() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        Network::parse(network).map_or(true, |network| {
            let address = network.net().addr();
            network.contains(own) || (address.is_loopback() && address.is_ipv4() == own.is_ipv4())
        })
    }

    /// Whether a list names hosts that are refused.
    fn has_block_list(&self) -> bool {
        !self.access.block_list.is_empty()
            || self.access.rules.iter().any(|rule| !rule.list_files().is_empty())
    }

    /// Whether the bounds let some request of this kind through.
    fn passes(&self, way: Way) -> bool {
        let has = |list: &Option<String>, is_meant: &dyn Fn(&str) -> bool| match list {
            Some(list) => list.split(',').any(|word| is_meant(word.trim())),
            None => true,
        };
        let AccessOptions { methods, schemes, policy, .. } = self.access;
        // Nothing is refused with `report`.
        if *policy == Mode::Report {
            return true;
        }
        let connects = has(methods, &|method| method == "CONNECT");
        let fits = match way {
            Way::Connect => connects,
            Way::Http => has(methods, &|method| method != "CONNECT"),
            Way::Ws => has(methods, &|method| method == "GET") && (connects || schemes.is_some()),
        };
        fits && has(schemes, &|scheme| scheme == way.word())
    }

    /// Whether the value limits a user who is none of `--auth`, the only place that has users.
    fn is_limit_of_nobody(&self, text: &str) -> bool {
        limited_user(text).is_some_and(|name| !self.may_know(name))
    }
}

/// Whether a limit is for users: `user:10mbit`, `user=ann:10mbit`.
fn is_per_user(limit: &str) -> bool {
    let who = limit.rsplit_once(':').map(|(who, _)| who);
    who.is_some_and(|who| who == "user" || who.starts_with("user="))
}

/// The user whom a limit names.
fn limited_user(limit: &str) -> Option<&str> {
    limit.rsplit_once(':')?.0.strip_prefix("user=")
}

fn is_beyond(address: SocketAddr) -> bool {
    !address.ip().to_canonical().is_loopback()
}

/// All options of a proxy: the parsed values, and as written for all listeners and for single ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whole<'a> {
    /// The parsed values.
    pub(crate) config: &'a Config,
    /// The settings for all listeners.
    pub(crate) settings: &'a Settings,
    /// The settings in effect on listeners with options of their own, by the listener's number.
    pub(crate) own: &'a [(u16, Settings)],
    /// Whether there is a configuration file.
    pub(crate) has_file: bool,
    /// Whether a variable sets the level of messages.
    pub(crate) sets_level: bool,
}

/// A value that does nothing on all listeners seen so far that have it.
struct Idle<'a> {
    row: &'static Row,
    option: &'static OptionRow,
    value: &'a WrittenValue,
    /// Its text, unless the sentence is about more than this value.
    shown: Option<&'a str>,
    is_idle: bool,
}

/// A sentence for each option that does nothing, beginning with its place.
pub(crate) fn sentences(whole: Whole<'_>) -> Vec<String> {
    let Whole { config, settings, own, has_file, sets_level } = whole;
    let mut all = [settings].into_iter().chain(own.iter().map(|(_, settings)| settings));
    let reads_files =
        has_file || all.any(|settings| settings.files(FileUse::Read).next().is_some());
    let mut found: Vec<Idle<'_>> = Vec::new();
    let mut rules: Vec<(&WrittenAt, Option<&str>)> = Vec::new();
    for (number, address) in (0u16..).zip(config.listen()) {
        let settings = own.iter().find(|(of, _)| *of == number).map_or(settings, |(_, it)| it);
        let (access, is_lifted) = match config.own.iter().find(|own| own.number == number) {
            Some(own) => (&own.access, own.open),
            None => (&config.access, config.server.open),
        };
        let (address, is_beyond) = (address.ip(), is_beyond(*address));
        let beside =
            Beside { config, access, address, is_beyond, is_lifted, reads_files, sets_level };
        look(settings, &beside, &mut found);
        for rule in &access.rules {
            let lacks = beside.lacks_users(rule);
            match rules.iter_mut().find(|(place, _)| *place == &rule.place) {
                Some((_, before)) => *before = before.and(lacks),
                None => rules.push((&rule.place, lacks)),
            }
        }
    }
    let mut sentences = told(&found);
    let idle = rules.into_iter().filter_map(|(place, lacks)| Some((place, lacks?)));
    sentences.extend(idle.map(|(place, lacks)| format!("{place}: this rule for users {lacks}")));
    sentences
}

/// Adds the values of a listener to those found. A value that does something on one listener is kept as
/// one that does.
fn look<'a>(settings: &'a Settings, beside: &Beside<'_>, found: &mut Vec<Idle<'a>>) {
    for row in &TABLE {
        for option in row.options.iter().filter_map(|name| options::find(name)) {
            let values = settings.values(option.name).unwrap_or_default();
            let looked_at = if row.by_value { values.len() } else { 1 };
            for value in values.iter().take(looked_at) {
                let is_usual = match option.kind {
                    OptionKind::Switch => value.text == "false",
                    _ => matches!(option.default, Usual::Value(usual) if usual == value.text),
                };
                let is_idle = !is_usual && (row.is_idle)(beside, &value.text);
                let is_same = |it: &&mut Idle<'_>| {
                    std::ptr::eq(it.row, row) && it.option == option && it.value == value
                };
                match found.iter_mut().find(is_same) {
                    Some(before) => before.is_idle &= is_idle,
                    None => {
                        let is_alone = option.has_value() && (row.by_value || values.len() == 1);
                        let shown = Some(value.text.as_str()).filter(|_| is_alone);
                        found.push(Idle { row, option, value, shown, is_idle });
                    }
                }
            }
        }
    }
}

/// The sentences about values that do nothing, one for each row and place.
fn told(found: &[Idle<'_>]) -> Vec<String> {
    const SHOWN: usize = 3;
    let mut told: Vec<(&Row, String, Vec<&str>)> = Vec::new();
    for Idle { row, option, value, shown, .. } in found.iter().filter(|it| it.is_idle) {
        let before = value.place.before(option.name);
        let known =
            told.iter_mut().find(|(of, place, _)| std::ptr::eq(*of, *row) && *place == before);
        match known {
            Some((.., values)) => values.extend(shown.iter()),
            None => told.push((*row, before, shown.iter().copied().collect())),
        }
    }
    let sentence = |(row, before, values): (&Row, String, Vec<&str>)| {
        let more = if values.len() > SHOWN { ", .." } else { "" };
        let values: Vec<&str> = values.into_iter().take(SHOWN).collect();
        let gap = if values.is_empty() { "" } else { " " };
        format!("{before}{gap}{}{more} {}", values.join(", "), row.says)
    };
    told.into_iter().map(sentence).collect()
}

/// The sentences of the table.
#[cfg(test)]
pub(crate) fn says() -> Vec<&'static str> {
    TABLE.iter().map(|row| row.says).collect()
}
