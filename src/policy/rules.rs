//! Defines a rule, and a request as rules see it.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::destination::DestinationPattern;
use super::lists::Filter;
use super::network::Network;
use super::rule_origin::RuleId;

pub use super::lists::Action;

/// The kind of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// `http://`, forwarded as a message.
    Http,
    /// `ws://`, or `http://` with an offer to upgrade: a message that may become a tunnel.
    Ws,
    /// CONNECT: a tunnel, most often for https.
    Connect,
}

impl Way {
    /// All ways.
    pub const ALL: [Self; 3] = [Self::Http, Self::Ws, Self::Connect];

    /// The name in rules.
    pub fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Ws => "ws",
            Self::Connect => "connect",
        }
    }
}

/// One rule. An empty condition holds for every request.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The rule's source and line.
    pub id: RuleId,
    /// The effect of the rule.
    pub action: Action,
    /// The rule decides on clients by `clients` alone, before a request is read. It is kept apart from the
    /// rules on requests.
    pub admission: bool,
    /// For clients in these networks.
    pub clients: Vec<Network>,
    /// For these users.
    pub users: Vec<Box<str>>,
    /// For these destinations.
    pub destinations: Vec<DestinationPattern>,
    /// For destinations on these lists.
    pub lists: Option<Arc<Filter>>,
    /// For these ports.
    pub ports: Vec<RangeInclusive<u16>>,
    /// For requests of these methods.
    pub methods: Vec<Box<str>>,
    /// For requests of these kinds.
    pub ways: Vec<Way>,
}

/// Prints the rule for a person: `deny .example.com for POST`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list<T: fmt::Display>(
            f: &mut fmt::Formatter<'_>,
            before: &str,
            all: impl Iterator<Item = T>,
        ) -> fmt::Result {
            for (i, one) in all.enumerate() {
                write!(f, "{}{one}", if i > 0 { ", " } else { before })?;
            }
            Ok(())
        }
        f.write_str(match self.action {
            Action::Allow => "allow",
            Action::Deny => "deny",
        })?;
        list(f, " ", self.destinations.iter())?;
        let files = self.lists.iter().flat_map(|lists| lists.reports());
        list(f, " on ", files.map(|report| report.file.display()))?;
        let ports = |ports: &RangeInclusive<u16>| match (ports.start(), ports.end()) {
            (from, to) if from == to => from.to_string(),
            (from, to) => format!("{from}-{to}"),
        };
        list(f, " to port ", self.ports.iter().map(ports))?;
        list(f, " for ", self.methods.iter())?;
        list(f, " by ", self.ways.iter().map(|way| way.word()))?;
        list(f, " from ", self.clients.iter())?;
        list(f, " as ", self.users.iter())
    }
}

/// A request as rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The client's address; unspecified if it has none.
    pub client: IpAddr,
    /// The user, if the client has proven to be one.
    pub user: Option<&'a str>,
    /// The method, as received.
    pub method: &'a str,
    /// The kind of the request.
    pub way: Way,
    /// The host asked for: a name in lower case, or an address without brackets.
    pub host: &'a str,
    /// The host if it is an address.
    pub ip: Option<IpAddr>,
    /// The port asked for.
    pub port: u16,
    /// The request-target, as received.
    pub target: &'a str,
}

impl Rule {
    /// Whether it refuses the clients that no other rule names, as `--allow-client` does. A rule that
    /// somebody has written has a line.
    pub fn is_for_other_clients(&self) -> bool {
        self.admission && self.action == Action::Deny && self.id.line == 0
    }

    /// A rule that matches every request.
    pub fn new(id: RuleId, action: Action) -> Self {
        Self {
            id,
            action,
            admission: false,
            clients: Vec::new(),
            users: Vec::new(),
            destinations: Vec::new(),
            lists: None,
            ports: Vec::new(),
            methods: Vec::new(),
            ways: Vec::new(),
        }
    }

    /// Whether the request matches, as far as is known before a connection. A request to a name does not
    /// match a rule that names only networks.
    pub fn has(&self, request: &Request<'_>) -> bool {
        self.has_asker(request)
            && (self.destinations.is_empty()
                || self.destinations.iter().any(|d| self.has_destination(d, request)))
    }

    /// Whether the destination matches the request. A pattern in a rule that refuses also matches addresses
    /// as text, because an operator who refuses `*` means addresses too.
    fn has_destination(&self, destination: &DestinationPattern, request: &Request<'_>) -> bool {
        let denied = request.ip.filter(|_| self.action == Action::Deny);
        destination.has_host(request.host, request.ip, request.port)
            || denied.is_some_and(|ip| {
                destination.matches_literal(ip, request.port)
                    || destination.may_have_address(ip, request.port)
            })
    }

    /// Whether the rule names a network with this address.
    pub fn has_address(&self, ip: IpAddr, port: u16) -> bool {
        let has = |destination: &DestinationPattern| match self.action {
            Action::Allow => destination.has_address(ip, port),
            Action::Deny => destination.may_have_address(ip, port),
        };
        self.destinations.iter().any(has)
    }

    /// Whether a client at this address is in one of the rule's networks.
    pub fn has_client(&self, client: IpAddr) -> bool {
        let has = |network: &Network| match self.action {
            Action::Allow => network.contains(client),
            Action::Deny => network.may_contain(client),
        };
        self.clients.iter().any(has)
    }

    /// Whether the rule has conditions other than its destinations.
    pub fn is_conditional(&self) -> bool {
        let Self { clients, users, lists, ports, methods, ways, .. } = self;
        !(clients.is_empty()
            && lists.is_none()
            && users.is_empty()
            && ports.is_empty()
            && methods.is_empty()
            && ways.is_empty())
    }

    /// Whether the rule allows requests without naming clients.
    pub fn is_general_allowance(&self) -> bool {
        self.action == Action::Allow && self.clients.is_empty()
    }

    /// Whether the request matches once it is connected to an address that the rule names.
    pub fn may_have_address(&self, request: &Request<'_>) -> bool {
        self.has_asker(request)
    }

    /// Whether the rule judges the connected address.
    pub fn is_by_address(&self) -> bool {
        self.destinations.iter().any(DestinationPattern::is_network)
    }

    /// Whether the request may match, whoever the user is and whatever address is connected.
    pub fn may_be_about(&self, request: &Request<'_>) -> bool {
        self.has_anybody(request)
            && (self.destinations.is_empty()
                || self.is_by_address()
                || self.destinations.iter().any(|d| self.has_destination(d, request)))
    }

    fn has_asker(&self, request: &Request<'_>) -> bool {
        let is_one = self.users.is_empty() || self.users.iter().any(|u| request.user == Some(&**u));
        is_one && self.has_anybody(request)
    }

    fn has_anybody(&self, request: &Request<'_>) -> bool {
        fn any<T>(all: &[T], has: impl Fn(&T) -> bool) -> bool {
            all.is_empty() || all.iter().any(has)
        }
        (self.clients.is_empty() || self.has_client(request.client))
            && self.lists.as_ref().is_none_or(|lists| lists.has(request.host, request.ip))
            && any(&self.ports, |ports| ports.contains(&request.port))
            && any(&self.methods, |method| **method == *request.method)
            && any(&self.ways, |way| *way == request.way || self.is_refused_too(*way, request.way))
    }

    /// A rule on plain requests that refuses also refuses those that offer an upgrade: the offer is no way
    /// around it.
    fn is_refused_too(&self, named: Way, way: Way) -> bool {
        self.action == Action::Deny && named == Way::Http && way == Way::Ws
    }
}
