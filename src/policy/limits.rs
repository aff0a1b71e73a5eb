//! Limits as configured: rates, requests, connections and volume, and the clients each applies to.
//! [`shape`](super::shape) keeps the counts.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

use super::destination::DestinationPattern;
use super::network::Network;
use super::rule_origin::RuleId;

/// The direction of bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// From clients to upstreams.
    Up,
    /// From upstreams to clients.
    Down,
}

impl Direction {
    /// Both directions.
    pub const ALL: [Self; 2] = [Self::Up, Self::Down];

    /// The name in options.
    pub fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// The traffic that shares one rate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Per {
    /// Everything on one client connection.
    Connection,
    /// All connections from one address; for IPv6, from one /64 network.
    Client,
    /// All requests of one user.
    User,
    /// All requests to one host.
    Destination,
    /// All traffic.
    Total,
}

impl Per {
    /// All kinds, in order.
    pub const ALL: [Self; 5] =
        [Self::Connection, Self::Client, Self::User, Self::Destination, Self::Total];

    /// The name in options.
    pub fn word(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Client => "client",
            Self::User => "user",
            Self::Destination => "destination",
            Self::Total => "total",
        }
    }
}

/// The clients, users or destinations that a rate applies to.
#[derive(Clone, Debug)]
pub enum Whose {
    /// Each of them.
    Each,
    /// Each client in this network.
    Network(Network),
    /// This user.
    User(Box<str>),
    /// Each of these destinations.
    Destination(Box<DestinationPattern>),
}

/// A rate.
#[derive(Clone, Debug)]
pub struct Limit {
    /// The rule's source and line.
    pub id: RuleId,
    /// The traffic that shares it.
    pub per: Per,
    /// The clients, users or destinations that it applies to.
    pub whose: Whose,
    /// Bytes a second, up and down.
    pub rates: [Option<NonZeroU64>; 2],
    /// The text as written.
    pub text: Box<str>,
}

/// A limit on the requests of a client.
#[derive(Clone, Copy, Debug)]
pub struct Requests {
    /// The rule's source and line.
    pub id: RuleId,
    /// This many requests, all at once or one by one,
    pub count: NonZeroU32,
    /// in this time.
    pub period: Duration,
}

/// A limit on simultaneous connections of a client or a user.
#[derive(Clone, Copy, Debug)]
pub struct Connections {
    /// The rule's source and line.
    pub id: RuleId,
    /// The most connections.
    pub count: NonZeroU32,
}

/// A limit on the bytes that the proxy relays before it stops relaying.
#[derive(Clone, Debug)]
pub struct Volume {
    /// The rule's source and line.
    pub id: RuleId,
    /// The most bytes, both directions together.
    pub bytes: u64,
    /// The text as written.
    pub text: Box<str>,
}

/// The limits of one listener, or of all.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// The number of the counts that apply; listeners with the same number share them.
    pub group: u16,
    /// Rates. For each kind of sharing and direction, the first rate that names the client, user or
    /// destination applies, or else the first that is for [each](Whose::Each) of them.
    pub rates: Vec<Limit>,
    /// The limit on requests of a client.
    pub requests: Option<Requests>,
    /// The limit on connections of a client, and of a user.
    pub connections: Option<Connections>,
    /// The limit on bytes of the run.
    pub volume: Option<Volume>,
}

/// The request that limits are looked up for.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// The user, if the client has proven to be one.
    pub user: Option<&'a str>,
    /// The host asked for: a name in lower case, or an address without brackets.
    pub host: &'a str,
    /// The host, if it is an address.
    pub ip: Option<IpAddr>,
    /// The port.
    pub port: u16,
}

/// A limit that applies to a request, as `explain` prints it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Applied {
    /// The rule's source and line.
    pub id: RuleId,
    /// `10mbit down for client 192.0.2.1`.
    pub text: String,
}

impl Limits {
    /// Whether nothing is limited.
    pub fn are_none(&self) -> bool {
        self.rates.is_empty()
            && self.requests.is_none()
            && self.connections.is_none()
            && self.volume.is_none()
    }

    /// The same limits with the counts of a group; `None` if nothing is limited. The volume of the run
    /// comes from `others` if it is not set here.
    pub fn in_group(&self, group: u16, others: Option<&Self>) -> Option<Arc<Self>> {
        let volume = self.volume.clone().or_else(|| others?.volume.clone());
        let limits = Self { group, volume, ..self.clone() };
        (!limits.are_none()).then(|| Arc::new(limits))
    }

    /// Whether a limit needs every byte counted.
    pub fn count_bytes(&self) -> bool {
        !self.rates.is_empty() || self.volume.is_some()
    }

    /// The rate that applies for this kind of sharing and direction.
    pub fn rate(&self, per: Per, direction: Direction, who: &Who<'_>) -> Option<&Limit> {
        let all = || {
            let of = |l: &&Limit| l.per == per && l.in_direction(direction).is_some();
            self.rates.iter().filter(of)
        };
        if per == Per::User && who.user.is_none() {
            return None;
        }
        let named = all().find(|l| l.names(who));
        named.or_else(|| all().find(|l| matches!(l.whose, Whose::Each)))
    }

    /// All limits that apply to a request, in the order in which they are checked.
    pub fn describe(&self, who: &Who<'_>) -> Vec<Applied> {
        let mut applied = Vec::new();
        let client = Client(client_key(who.client));
        if let Some(Connections { id, count }) = self.connections {
            let user = who.user.map(|user| format!(", and of user {user}")).unwrap_or_default();
            let text = format!("{count} connections at one time of client {client}{user}");
            applied.push(Applied { id, text });
        }
        if let Some(volume) = &self.volume {
            let text = format!("{} of all traffic of this run", volume.text);
            applied.push(Applied { id: volume.id, text });
        }
        if let Some(Requests { id, count, period }) = self.requests {
            let unit = if period == Duration::from_secs(1) { "second" } else { "minute" };
            let text = format!("{count} requests a {unit} of client {client}, all at once or not");
            applied.push(Applied { id, text });
        }
        for per in Per::ALL {
            let [up, down] = Direction::ALL.map(|d| self.rate(per, d, who));
            let of = match per {
                Per::Connection => "each connection".to_owned(),
                Per::Client => format!("client {client}"),
                Per::User => format!("user {}", who.user.unwrap_or_default()),
                Per::Destination => format!("destination {}", who.host),
                Per::Total => "all traffic".to_owned(),
            };
            let mut add = |limit: &Limit, word| {
                let text = format!("{} {word} for {of}", limit.rate_text());
                applied.push(Applied { id: limit.id, text });
            };
            match (up, down) {
                (Some(up), Some(down)) if up.id == down.id => add(up, "up, and the same down,"),
                _ => {
                    up.into_iter().for_each(|limit| add(limit, "up"));
                    down.into_iter().for_each(|limit| add(limit, "down"));
                }
            }
        }
        applied
    }
}

impl Limit {
    /// Bytes a second in this direction, if that is limited.
    pub fn in_direction(&self, direction: Direction) -> Option<NonZeroU64> {
        self.rates.get(direction as usize).copied().flatten()
    }

    /// The rule, if it names a network or destinations. Its members then have counts of their own.
    pub(super) fn names_by(&self) -> Option<RuleId> {
        match self.whose {
            Whose::Network(_) | Whose::Destination(_) => Some(self.id),
            Whose::Each | Whose::User(_) => None,
        }
    }

    /// The key that a destination is counted under. An address has one key for all spellings.
    pub(super) fn destination_key<'a>(&self, who: &Who<'a>) -> Cow<'a, str> {
        let host = match who.ip {
            Some(ip) => Cow::Owned(ip.to_canonical().to_string()),
            None => Cow::Borrowed(who.host),
        };
        match self.names_by() {
            None => host,
            Some(RuleId { source, line }) => Cow::Owned(format!("{host} {source}:{line}")),
        }
    }

    fn names(&self, who: &Who<'_>) -> bool {
        match &self.whose {
            Whose::Each => false,
            Whose::Network(network) => network.contains(who.client),
            Whose::User(user) => who.user == Some(&**user),
            Whose::Destination(to) => match who.ip {
                Some(ip) => to.has_host(who.host, who.ip, who.port) || to.has_address(ip, who.port),
                None => to.has_host(who.host, None, who.port),
            },
        }
    }

    /// The rate as written, without the words before it.
    fn rate_text(&self) -> &str {
        let text = self.text.rsplit_once(':').map_or(&*self.text, |(_, text)| text);
        text.rsplit_once('=').map_or(text, |(_, text)| text)
    }
}

/// The address that a client is counted under: for IPv6 its /64 network, because it can have any address
/// in it.
pub fn client_key(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(v6) => {
            let bits = v6.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(bits.into())
        }
        v4 => v4,
    }
}

/// A client as it is counted.
struct Client(IpAddr);

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V6(v6) => write!(f, "{v6}/64"),
            v4 => v4.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(line: u32, per: Per, whose: Whose, text: &str, up: u64, down: u64) -> Limit {
        let rates = [NonZeroU64::new(up), NonZeroU64::new(down)];
        Limit { id: RuleId { source: 5, line }, per, whose, rates, text: text.into() }
    }

    fn who<'a>(client: &str, user: Option<&'a str>, host: &'a str) -> Who<'a> {
        let client = client.parse().unwrap();
        Who { client, user, host, ip: host.parse().ok(), port: 80 }
    }

    #[test]
    fn the_first_that_names_somebody_holds_else_the_one_for_each() {
        let network = |text| Whose::Network(Network::parse(text).unwrap());
        let to = |text| Whose::Destination(Box::new(DestinationPattern::parse(text).unwrap()));
        let limits = Limits {
            rates: vec![
                limit(1, Per::Client, Whose::Each, "client:1MB/s", 1, 1),
                limit(2, Per::Client, network("10.0.0.0/8"), "client=10.0.0.0/8:2MB/s", 2, 2),
                limit(3, Per::Client, network("10.1.0.0/16"), "client=10.1.0.0/16:3MB/s", 3, 3),
                limit(4, Per::User, Whose::User("ann".into()), "user=ann:up=4MB/s", 4, 0),
                limit(5, Per::User, Whose::Each, "user:down=5MB/s", 0, 5),
                limit(6, Per::Destination, to(".example"), "destination=.example:6MB/s", 6, 6),
                limit(7, Per::Destination, to("10.0.0.0/8"), "destination=10.0.0.0/8:7MB/s", 7, 7),
            ],
            ..Limits::default()
        };
        let lines = |who: &Who<'_>| {
            let line = |per, d| limits.rate(per, d, who).map_or(0, |l| l.id.line);
            Per::ALL.map(|per| Direction::ALL.map(|d| line(per, d)))
        };
        let ann = who("10.1.0.1", Some("ann"), "a.example");
        assert_eq!(lines(&ann), [[0, 0], [2, 2], [4, 5], [6, 6], [0, 0]]);
        let bob = who("::ffff:10.1.0.1", Some("bob"), "10.0.0.9");
        assert_eq!(lines(&bob), [[0, 0], [2, 2], [0, 5], [7, 7], [0, 0]]);
        let nobody = who("192.0.2.1", None, "example.org");
        assert_eq!(lines(&nobody), [[0, 0], [1, 1], [0, 0], [0, 0], [0, 0]]);
        let said: Vec<_> = limits.describe(&ann).into_iter().map(|a| a.text).collect();
        let expected = [
            "2MB/s up, and the same down, for client 10.1.0.1",
            "4MB/s up for user ann",
            "5MB/s down for user ann",
            "6MB/s up, and the same down, for destination a.example",
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn what_limits_a_request_is_told_in_order() {
        let id = |line| RuleId { source: 7, line };
        let limits = Limits {
            rates: vec![limit(1, Per::Total, Whose::Each, "10mbit", 1, 1)],
            requests: Some(Requests {
                id: id(2),
                count: NonZeroU32::new(10).unwrap(),
                period: Duration::from_secs(1),
            }),
            connections: Some(Connections { id: id(3), count: NonZeroU32::new(4).unwrap() }),
            volume: Some(Volume { id: id(4), bytes: 5, text: "5GB".into() }),
            ..Limits::default()
        };
        let applied = limits.describe(&who("2001:db8::1", Some("ann"), "a.example"));
        let said: Vec<_> = applied.iter().map(|a| (a.id.line, &*a.text)).collect();
        let expected = [
            (3, "4 connections at one time of client 2001:db8::/64, and of user ann"),
            (4, "5GB of all traffic of this run"),
            (2, "10 requests a second of client 2001:db8::/64, all at once or not"),
            (1, "10mbit up, and the same down, for all traffic"),
        ];
        assert_eq!(said, expected);
        assert!(Limits::default().describe(&who("::1", None, "a")).is_empty());
    }

    #[test]
    fn ipv6_clients_are_counted_by_network() {
        for (client, key) in [
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("192.0.2.1", "192.0.2.1"),
        ] {
            assert_eq!(client_key(client.parse().unwrap()).to_string(), key);
        }
    }
}
