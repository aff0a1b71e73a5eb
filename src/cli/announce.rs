//! Says at the start where the proxy listens, which clients it serves, and where it connects to.

use std::net::{IpAddr, SocketAddr};

use crate::net::listener::ListenPlace;
use crate::policy::decide::Rules;
use crate::policy::protected_mode::Scope;
use crate::server::Server;

/// Logs where the proxy listens and what to try, and for listeners beyond loopback who can use them.
/// `open` is `--open`, which holds for the admin listener too.
pub(crate) fn announce(server: &Server, open: bool) {
    let to = reachable(server.addr());
    log::info!(
        "listening on {} with {} threads; try: curl -x http://{to} http://example.com/",
        addresses(server),
        server.threads(),
    );
    let policy = server.control().policy();
    let mut said: Vec<(Beyond, Vec<String>)> = Vec::new();
    for (address, rules) in server.addrs().iter().zip(&policy.listeners) {
        let Some(beyond) = Beyond::of(address.ip(), rules) else { continue };
        match said.iter_mut().find(|(known, _)| *known == beyond) {
            Some((_, all)) => all.push(address.to_string()),
            None => said.push((beyond, vec![address.to_string()])),
        }
    }
    said.iter().for_each(|(beyond, all)| beyond.say(&all.join(", ")));
    if let Some(place) = server.admin() {
        announce_admin(place, open);
    }
}

/// What holds for clients and destinations of a listener beyond loopback.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Beyond {
    scope: Scope,
    has_users: bool,
    /// `--allow-client` names the clients.
    allows_clients: bool,
    /// A rule refuses clients: `--deny-client`, or one of `[[rules]]`.
    denies_clients: bool,
}

impl Beyond {
    fn of(address: IpAddr, rules: &Rules) -> Option<Self> {
        let (allows_clients, denies_clients) = rules.rules.admission();
        (!address.to_canonical().is_loopback()).then_some(Self {
            scope: rules.scope,
            has_users: rules.auth.is_some(),
            allows_clients,
            denies_clients,
        })
    }

    /// Each sentence is true whatever other rules there are, and names the narrow options.
    fn say(self, at: &str) {
        match (self.scope, self.allows_clients, self.has_users) {
            (_, true, _) => log::info!("{at}: only the networks of --allow-client are served"),
            (Scope::Protected, false, true) => log::info!(
                "{at}: users may come from any network; --allow-client NETWORK serves only the \
                 networks it names"
            ),
            (Scope::Protected, false, false) => log::info!(
                "{at}: only private networks are served, unless a rule names the client; \
                 --allow-client NETWORK serves the networks it names instead"
            ),
            (Scope::Unrestricted, false, true) => {}
            (Scope::Unrestricted, false, false) if self.denies_clients => log::warn!(
                "{at}: --open: anyone who can reach this proxy can use it, unless a rule refuses the \
                 client or the request"
            ),
            (Scope::Unrestricted, false, false) => {
                log::warn!("{at}: --open: anyone who can reach this proxy can use it");
            }
        }
        if self.scope == Scope::Protected {
            log::info!(
                "{at}: only public addresses are connected to, unless a rule names the destination; \
                 --allow HOST adds one"
            );
        }
    }
}

/// All listeners' addresses.
pub(crate) fn addresses(server: &Server) -> String {
    let all: Vec<String> = server.addrs().iter().map(ToString::to_string).collect();
    all.join(", ")
}

/// Logs one line that says how to reach the admin listener, and who may use it.
fn announce_admin(place: &ListenPlace, open: bool) {
    let address = match place {
        ListenPlace::Unix(path) => {
            let path = path.display();
            log::info!("admin: curl --unix-socket {path} http://localhost/metrics");
            return;
        }
        ListenPlace::Tcp(address) => *address,
    };
    log::info!(
        "admin: http://{}/ has /metrics, /stats.json, /healthz, /readyz",
        reachable(address)
    );
    match (address.ip().to_canonical().is_loopback(), open) {
        (false, false) => log::info!("the admin listener serves private networks only"),
        (false, true) => log::warn!("--open: anyone who can reach the admin listener can read it"),
        _ => {}
    }
}

/// The address at which a client on this machine reaches `address`.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
