//! The guard on destinations: it judges the address of each connection, by whatever way the request got
//! it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use socket2::{Domain, Socket, Type};
use threadgate::config::access::AccessOptions;
use threadgate::config::address_options::parse_given;
use threadgate::net::resolve::Resolve;
use threadgate::policy::Access;
use threadgate::server::Options;
use threadgate::{Server, WrittenRule};

use crate::peers::{Peer, Response, eventually, eventually_eq};
use crate::programs::run;
use crate::proxies::{Binary, OK, command, proxy_with};
use crate::servers::{Origin, listen_on_a_port_of_its_own, somebody_waits};

/// A proxy whose listener others could reach, asked over loopback.
pub(crate) fn guarded(change: impl FnOnce(&mut Options)) -> (Server, SocketAddr) {
    let proxy = proxy_with(|options| {
        options.listen = vec!["0.0.0.0:0".parse().unwrap()];
        change(options);
    });
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, proxy.addr().port()));
    (proxy, addr)
}

/// Rules, in the form of the command line.
pub(crate) fn access(allow: &[&str], deny: &[&str]) -> Access {
    let words = |all: &[&str]| all.iter().map(|&word| word.to_owned()).collect();
    let options = AccessOptions { allow: words(allow), deny: words(deny), ..Default::default() };
    options.build(None).unwrap()
}

pub(crate) fn ask(client: &mut Peer, host: &str) -> Response {
    client.send(format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    client.read_response()
}

pub(crate) fn once(proxy: SocketAddr, host: &str) -> Response {
    ask(&mut Peer::connect(proxy), host)
}

pub(crate) fn tunnel(proxy: SocketAddr, host: &str) -> Response {
    let mut client = Peer::connect(proxy);
    client.send(format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    client.read_response()
}

/// A resolver that gives its answers one after the other, and the last one for ever.
#[derive(Debug)]
pub(crate) struct Answers(Mutex<Vec<Vec<IpAddr>>>, pub(crate) AtomicUsize);

impl Answers {
    pub(crate) fn new(answers: &[&[&str]]) -> Arc<Self> {
        let ips = |all: &&[&str]| all.iter().map(|ip| ip.parse().unwrap()).collect();
        let answers = answers.iter().rev().map(ips).collect();
        Arc::new(Self(Mutex::new(answers), AtomicUsize::new(0)))
    }
}

impl Resolve for Answers {
    fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        self.1.fetch_add(1, Ordering::SeqCst);
        let mut left = self.0.lock();
        match left.len() {
            1 => Ok(left[0].clone()),
            _ => Ok(left.pop().expect("the last one stays")),
        }
    }
}

/// A listener on another address of loopback with this port, to which no connection is allowed.
pub(crate) struct Elsewhere(TcpListener);

impl Elsewhere {
    pub(crate) fn new(ip: [u8; 4], port: u16) -> Self {
        Self(TcpListener::bind((Ipv4Addr::from(ip), port)).unwrap())
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(!somebody_waits(&self.0), "nobody may connect to {:?}", self.0.local_addr());
        }
    }
}

const SPECIAL: [(&str, &str); 22] = [
    ("0.0.0.0", "an unspecified address"),
    ("10.0.0.1", "a private address"),
    ("100.64.0.1", "a carrier's shared address space"),
    ("127.0.0.2", "a loopback address"),
    ("169.254.169.254", "a link-local address"),
    ("192.0.0.8", "a reserved range"),
    ("192.88.99.1", "a reserved range"),
    ("192.168.0.1", "a private address"),
    ("198.18.0.1", "a reserved range"),
    ("224.0.0.1", "a multicast address"),
    ("255.255.255.255", "a reserved range"),
    ("::", "an unspecified address"),
    ("::1", "a loopback address"),
    ("::ffff:10.0.0.1", "a private address"),
    ("64:ff9b::a9fe:a9fe", "a link-local address"),
    ("64:ff9b:1::1", "a reserved range"),
    ("2001::1", "a tunnelling range"),
    ("2001:db8::1", "a reserved range"),
    ("2002:7f00:1::1", "a loopback address"),
    ("fc00::1", "a private address"),
    ("fe80::1", "a link-local address"),
    ("ff02::1", "a multicast address"),
];

#[test]
fn no_way_of_naming_an_address_gets_past_the_guard() {
    for (address, why) in SPECIAL {
        let ip: IpAddr = address.parse().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{ip} filed.example\n")).unwrap();
        let (proxy, addr) = guarded(|options| {
            options.resolver = Answers::new(&[&[address]]);
            options.names.given = vec![
                parse_given(&format!("given.example:[{ip}]"))
                    .or_else(|_| parse_given(&format!("given.example:{ip}")))
                    .unwrap(),
            ];
            options.names.hosts_files = vec![file.path().to_owned()];
        });
        let literal = if ip.is_ipv6() { format!("[{ip}]:9") } else { format!("{ip}:9") };
        for host in [&literal, "asked.example:9", "given.example:9", "filed.example:9"] {
            for refused in [once(addr, host), tunnel(addr, host)] {
                assert_eq!(refused.status, 403, "{address} {host}: {}", refused.head);
                assert_eq!(refused.rule(), Some("protected-mode"), "{address} {host}");
                let reason = refused.field("x-threadgate-reason").unwrap();
                assert!(reason.ends_with(why), "{address} {host}: {reason}");
            }
        }
        assert_eq!(proxy.stats().upstream_connects, 0, "{address}");
    }
}

#[test]
fn an_explicit_allowance_wins_by_address_and_by_name() {
    let origin = Origin::script_at_once(4, |peer| {
        while peer.try_read_head().is_some() {
            peer.send(OK);
        }
    });
    let port = origin.addr.port();
    for (allowed, host) in [
        ("127.0.0.1", format!("127.0.0.1:{port}")),
        ("127.0.0.1", format!("[::ffff:127.0.0.1]:{port}")),
        ("127.0.0.0/8", format!("name.example:{port}")),
        (".example", format!("name.example:{port}")),
    ] {
        let near = || Answers::new(&[&["127.0.0.1"]]);
        let (_proxy, addr) = guarded(|options| {
            options.resolver = near();
            options.access = access(&[allowed], &[]);
        });
        assert_eq!(once(addr, &host).status, 200, "{allowed} {host}");
        // A denial does not change that: `allow` rules come first, and destinations not named are
        // guarded.
        let (_proxy, addr) = guarded(|options| {
            options.resolver = near();
            options.access = access(&["10.0.0.0/8", "other.example"], &["192.0.2.0/24"]);
        });
        assert_eq!(once(addr, &host).rule(), Some("protected-mode"), "{host}");
    }
    origin.join();
}

/// Each of a name's addresses is judged by itself, whichever is tried first.
#[test]
fn of_several_addresses_only_those_that_may_be_are_tried() {
    let origin = Origin::script_at_once_on(listen_on_a_port_of_its_own(), 2, |peer| {
        peer.read_head();
        peer.send(OK);
    });
    let port = origin.addr.port();
    let _elsewhere = Elsewhere::new([127, 0, 0, 2], port);
    for answer in [&["127.0.0.2", "127.0.0.1"], &["127.0.0.1", "127.0.0.2"]] {
        let (_proxy, addr) = guarded(|options| {
            options.resolver = Answers::new(&[answer]);
            options.access = access(&["127.0.0.1"], &[]);
        });
        assert_eq!(once(addr, &format!("both.example:{port}")).status, 200, "{answer:?}");
    }
    origin.join();
    // The allowed address is down, and the other is not tried instead.
    let (proxy, addr) = guarded(|options| {
        options.resolver = Answers::new(&[&["127.0.0.3", "127.0.0.2"]]);
        options.access = access(&["127.0.0.3"], &[]);
    });
    assert_eq!(once(addr, &format!("both.example:{port}")).status, 403);
    assert_eq!(proxy.stats().upstream_connects, 0);
}

/// A name that leads to a public address when it is checked, and to a private one when it is used.
#[test]
fn a_name_that_leads_elsewhere_the_next_time_is_judged_anew() {
    let origin = Origin::script_on(listen_on_a_port_of_its_own(), 1, |peer| {
        peer.read_head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    });
    let port = origin.addr.port();
    let _elsewhere = Elsewhere::new([127, 0, 0, 2], port);
    let answers = Answers::new(&[&["127.0.0.1"], &["127.0.0.2"]]);
    let (_proxy, addr) = guarded(|options| {
        options.resolver = Arc::<Answers>::clone(&answers);
        options.names.ttl = Duration::ZERO;
        // The test can connect to this address, which stands for a public one.
        options.access = access(&["127.0.0.1"], &[]);
    });
    let mut client = Peer::connect(addr);
    let host = format!("rebinds.example:{port}");
    assert_eq!(ask(&mut client, &host).status, 200);
    assert_eq!(answers.1.load(Ordering::SeqCst), 1, "judged and connected to is one answer");
    for _ in 0..2 {
        let refused = ask(&mut client, &host);
        assert_eq!(refused.rule(), Some("protected-mode"), "{}", refused.head);
    }
    assert_eq!(tunnel(addr, &host).rule(), Some("protected-mode"));
    origin.join();
}

/// A client from this address of loopback.
fn client_from(ip: [u8; 4], proxy: SocketAddr) -> Peer {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
    socket.connect(&proxy.into()).unwrap();
    Peer::new(TcpStream::from(socket))
}

fn with_rule(rule: WrittenRule) -> AccessOptions {
    AccessOptions { rules: vec![rule], ..AccessOptions::default() }
}

/// A connection that one client was allowed to make waits in the pool when another asks for the same.
#[test]
fn a_kept_connection_is_only_for_whom_its_address_is_allowed() {
    let origin = Origin::script(1, |peer| {
        while peer.try_read_head().is_some() {
            peer.send(OK);
        }
    });
    let host = format!("name.example:{}", origin.addr.port());
    let (proxy, addr) = guarded(|options| {
        options.resolver = Answers::new(&[&["127.0.0.1"]]);
        let rule = WrittenRule::allow("first").clients(["127.0.0.3"]).destinations(["127.0.0.1"]);
        options.access = with_rule(rule).build(None).unwrap();
    });
    let mut allowed = client_from([127, 0, 0, 3], addr);
    let mut other = client_from([127, 0, 0, 4], addr);
    for _ in 0..2 {
        assert_eq!(ask(&mut allowed, &host).status, 200);
        eventually_eq(|| proxy.report().gauges.upstream_idle, 1);
        let refused = ask(&mut other, &host);
        assert_eq!((refused.status, refused.rule()), (403, Some("protected-mode")));
    }
    // A new policy applies to kept connections, too.
    let rule = WrittenRule::allow("later").clients(["127.0.0.4"]).destinations(["name.example"]);
    let before = proxy.control().policy();
    proxy.set_access(&with_rule(rule).build(Some(&before)).unwrap(), false);
    drop(before);
    assert_eq!(ask(&mut other, &host).status, 200);
    eventually_eq(|| proxy.report().gauges.upstream_idle, 1);
    assert_eq!(ask(&mut allowed, &host).rule(), Some("protected-mode"));
    assert_eq!((proxy.stats().upstream_connects, proxy.stats().upstream_reuses), (1, 2));
    drop(proxy);
    origin.join();
}

/// The sentences at the start are true with any rules, and name the narrow options.
#[test]
fn the_start_says_whom_each_listener_serves_and_where_it_connects_to() {
    let (clients, addresses) = (
        "only private networks are served, unless a rule names the client; --allow-client NETWORK",
        "only public addresses are connected to, unless a rule names the destination; --allow HOST",
    );
    let (users, named) = ("users may come from any network", "only the networks of --allow-client");
    let anyone = "WARN 0.0.0.0:PORT: --open: anyone who can reach this proxy can use it";
    for (args, says, not) in [
        (&[][..], &[clients, addresses][..], &[named, users, "--open"][..]),
        (&["--allow", "10.0.0.1"], &[clients, addresses], &["--open"]),
        (&["--allow-client", "0.0.0.0/0"], &[named, addresses], &["private", "--open"]),
        (&["--auth", "ann:x"], &[users, addresses], &["private", "--open"]),
        (&["--auth", "ann:x", "--allow-client", "10.0.0.0/8"], &[named], &[users, "private"]),
        (&["--open"], &[anyone], &["private", "public"]),
        (&["--open", "--allow-client", "127.0.0.1"], &[named], &["anyone", "private", "public"]),
        (&["--open", "--deny-client", "10.0.0.1"], &[anyone, ", unless a rule refuses"], &[]),
    ] {
        let proxy = Binary::start_as(&[&["-l", "0.0.0.0:0"], args].concat());
        let says = says.iter().map(|it| it.replace("PORT:", &format!("{}:", proxy.addr.port())));
        let says: Vec<String> = says.collect();
        eventually(|| says.iter().all(|it| proxy.stderr().contains(it)));
        let said = proxy.stderr();
        for word in not {
            assert!(!said.contains(word), "{args:?}: {word}: {said}");
        }
    }
}

/// The replies and `explain` name the narrow option, and with it the request goes through.
#[test]
fn a_refusal_of_protected_mode_names_the_option_that_lets_the_request_through() {
    let origin = Origin::answer(OK);
    let host = format!("near.example:{}", origin.addr.port());
    let args = ["-l", "0.0.0.0:0", "--resolve", "near.example:127.0.0.1"];
    let proxy = Binary::start_as(&args);
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, proxy.addr.port()));
    let refused = once(to, &host);
    assert_eq!((refused.status, refused.rule()), (403, Some("protected-mode")));
    let advice = format!("--allow {host}, or a rule that names it");
    assert!(refused.text().contains(&format!("who can allow this one: {advice}")));
    assert!(!refused.text().contains("--open"), "{}", refused.text());
    let url = format!("http://{host}/");
    let explain = |more: &[&str]| {
        let words = [&["explain"], &args[..], more, &["GET", &url]].concat();
        run(&mut command(&words))
    };
    let said = explain(&[]).text();
    assert!(said.contains(&format!("\ntry                      {advice}\n")), "{said}");
    let said = explain(&["--client", "203.0.113.9"]).text();
    let verdict = "the client is not in a private network, and no rule lets it in (403)";
    assert!(said.contains(verdict), "{said}");
    assert!(said.contains("--allow-client 203.0.113.9, with every other network"), "{said}");
    assert!(said.contains("no rule lets client 203.0.113.9 in  [protected-mode]"), "{said}");
    assert!(!said.contains("--policy open"), "{said}");
    let said = explain(&["--client", "203.0.113.9", "--allow-client", "10.0.0.0/8"]).text();
    let why = "client 203.0.113.9 is in none of the networks that are served  [--allow-client]";
    assert!(said.contains(why), "{said}");
    let more = ["--allow-client", "203.0.113.9", "--allow", &host];
    assert!(explain(&[&more[..], &["--client", "203.0.113.9"]].concat()).status.success());
    drop(proxy);
    let proxy = Binary::start_as(&[&args[..], &["--allow", &host]].concat());
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, proxy.addr.port()));
    assert_eq!(once(to, &host).status, 200);
    drop(proxy);
    origin.join();
}
