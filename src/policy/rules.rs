//! A rule, and the request as a rule sees it.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::destination::DestinationPattern;
use super::network::Network;
use super::rule_origin::RuleId;

/// What a rule does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// It lets the request through, also where protected mode or a list would not.
    Allow,
    /// It refuses the request.
    Deny,
}

/// How a request goes.
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
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Http, Self::Ws, Self::Connect];

    /// The word in rules.
    pub fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Ws => "ws",
            Self::Connect => "connect",
        }
    }
}

/// One rule. What is empty holds for all.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Where it is written.
    pub id: RuleId,
    /// What it does.
    pub action: Action,
    /// It says who may come at all, by `clients` alone: looked at before the request is, and apart
    /// from the rules that say what for.
    pub admission: bool,
    /// For clients in these networks.
    pub clients: Vec<Network>,
    /// For these users.
    pub users: Vec<Box<str>>,
    /// For these destinations.
    pub destinations: Vec<DestinationPattern>,
    /// For these ports.
    pub ports: Vec<RangeInclusive<u16>>,
    /// For requests of these methods.
    pub methods: Vec<Box<str>>,
    /// For requests that go this way.
    pub ways: Vec<Way>,
}

/// The rule for a person: `deny .example.com for POST`.
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

/// A request, as rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The client's address; unspecified if it has none.
    pub client: IpAddr,
    /// Who it is, if it has proven that.
    pub user: Option<&'a str>,
    /// The method, as received.
    pub method: &'a str,
    /// How it goes.
    pub way: Way,
    /// The host it goes to: a name in lower case, or an address without brackets.
    pub host: &'a str,
    /// The host, if it is an address.
    pub ip: Option<IpAddr>,
    /// The port it goes to.
    pub port: u16,
    /// The request-target, as received.
    pub target: &'a str,
}

impl Rule {
    /// A rule for everything.
    pub fn new(id: RuleId, action: Action) -> Self {
        Self {
            id,
            action,
            admission: false,
            clients: Vec::new(),
            users: Vec::new(),
            destinations: Vec::new(),
            ports: Vec::new(),
            methods: Vec::new(),
            ways: Vec::new(),
        }
    }

    /// Whether the request is meant, as far as is known before a connection: one to a name is not
    /// meant by a rule for networks alone.
    pub fn has(&self, request: &Request<'_>) -> bool {
        self.has_asker(request)
            && (self.destinations.is_empty()
                || self.destinations.iter().any(|d| self.has_destination(d, request)))
    }

    /// A pattern that refuses is also one of addresses as they are written: nobody who refuses `*` means to
    /// let them through.
    fn has_destination(&self, destination: &DestinationPattern, request: &Request<'_>) -> bool {
        let denied = request.ip.filter(|_| self.action == Action::Deny);
        destination.has_host(request.host, request.ip, request.port)
            || denied.is_some_and(|ip| {
                destination.matches_literal(ip, request.port)
                    || destination.may_have_address(ip, request.port)
            })
    }

    /// Whether it is about connections to this address, by address.
    pub fn has_address(&self, ip: IpAddr, port: u16) -> bool {
        let has = |destination: &DestinationPattern| match self.action {
            Action::Allow => destination.has_address(ip, port),
            Action::Deny => destination.may_have_address(ip, port),
        };
        self.destinations.iter().any(has)
    }

    /// Whether a client at this address is in one of its networks.
    pub fn has_client(&self, client: IpAddr) -> bool {
        let has = |network: &Network| match self.action {
            Action::Allow => network.contains(client),
            Action::Deny => network.may_contain(client),
        };
        self.clients.iter().any(has)
    }

    /// Whether it is not for every request to its destinations.
    pub fn is_conditional(&self) -> bool {
        let Self { clients, users, ports, methods, ways, .. } = self;
        !(clients.is_empty()
            && users.is_empty()
            && ports.is_empty()
            && methods.is_empty()
            && ways.is_empty())
    }

    /// Whether it lets requests through without saying whose.
    pub fn is_general_allowance(&self) -> bool {
        self.action == Action::Allow && self.clients.is_empty()
    }

    /// Whether the request is meant if it is connected to some of the addresses.
    pub fn may_have_address(&self, request: &Request<'_>) -> bool {
        self.has_asker(request)
    }

    /// Whether it judges by the address connected to.
    pub fn is_by_address(&self) -> bool {
        self.destinations.iter().any(DestinationPattern::is_network)
    }

    /// Whether the request may be meant, whose it ever is and whatever address it leads to.
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
            && any(&self.ports, |ports| ports.contains(&request.port))
            && any(&self.methods, |method| **method == *request.method)
            && any(&self.ways, |way| *way == request.way || self.is_refused_too(*way, request.way))
    }

    /// A plain request that offers an upgrade is still one: the offer is no way around a refusal.
    fn is_refused_too(&self, named: Way, way: Way) -> bool {
        self.action == Action::Deny && named == Way::Http && way == Way::Ws
    }
}
