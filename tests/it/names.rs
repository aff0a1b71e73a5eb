//! Names: given by an option or a file, kept for a while, looked up once however many clients ask.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use threadgate::net::given_names::GivenName;
use threadgate::net::resolve::Resolve;

use crate::hostile::HangingResolver;
use crate::peers::{Moment, Peer, eventually, eventually_eq};
use crate::proxies::{Binary, Names, OK, command, proxy_with};
use crate::servers::{Origin, Untouched, listen_on_a_port_of_its_own};

/// Asks for `http://host/` on a connection of its own.
#[track_caller]
fn ask(proxy: SocketAddr, host: &str) -> Peer {
    let mut client = Peer::connect(proxy);
    client.send(format!("GET http://{host}/ HTTP/1.1\r\nHost: a\r\n\r\n"));
    client
}

#[track_caller]
fn assert_answers(proxy: SocketAddr, host: &str) {
    let response = ask(proxy, host).read_response();
    assert_eq!(response.status, 200, "{host}: {}", response.head);
}

fn answers(connections: usize) -> Origin {
    Origin::script(connections, |peer| {
        peer.read_head();
        peer.send(OK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
    })
}

fn given(host: &str, port: Option<u16>, ip: IpAddr) -> GivenName {
    GivenName { host: host.into(), port, ip }
}

/// Answers every name with loopback, and counts how often it was asked.
#[derive(Clone, Default, Debug)]
struct Counts(Arc<AtomicUsize>);

impl Counts {
    fn so_far(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Resolve for Counts {
    fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(vec![Ipv4Addr::LOCALHOST.into()])
    }
}

#[test]
fn a_name_is_sent_somewhere_else() {
    let origin = answers(4);
    let port = origin.addr.port();
    let option = format!("--resolve=Www.Example.:{port}:127.0.0.1");
    let proxy = Binary::start(&[&option]);
    for host in ["www.example", "WWW.EXAMPLE", "www.example."] {
        assert_answers(proxy.addr, &format!("{host}:{port}"));
    }
    let mut client = Peer::connect(proxy.addr);
    client.send(format!("CONNECT www.example:{port} HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert!(client.read_head().starts_with("HTTP/1.1 200 "));
    client.send("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(client.read_response().text(), "ok");
    origin.join();
}

#[test]
fn an_entry_for_a_port_is_for_that_port_and_what_has_none_is_asked_for() {
    let (origin, untouched) = (answers(2), Untouched::new());
    let counts = Counts::default();
    let proxy = proxy_with(|options| {
        options.resolver = Arc::new(counts.clone());
        let nowhere = Ipv4Addr::new(127, 0, 0, 99).into();
        let port = Some(origin.addr.port());
        options.names.given = vec![
            given("a.example", None, nowhere),
            given("a.example", port, Ipv4Addr::LOCALHOST.into()),
        ];
    });
    assert_answers(proxy.addr(), &format!("a.example:{}", origin.addr.port()));
    let response =
        ask(proxy.addr(), &format!("a.example:{}", untouched.addr.port())).read_response();
    assert_eq!(response.status, 502, "nobody listens on 127.0.0.99");
    assert_eq!(counts.so_far(), 0);
    assert_answers(proxy.addr(), &format!("b.example:{}", origin.addr.port()));
    assert_eq!(counts.so_far(), 1);
    let stats = proxy.stats();
    assert_eq!((stats.lookups_given, stats.lookups), (2, 1));
    origin.join();
}

#[test]
fn a_given_private_address_is_still_not_for_others() {
    let untouched = Untouched::new();
    let port = untouched.addr.port();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hosts");
    fs::write(&file, "127.0.0.1 file.example\n10.0.0.1 ten.example\n").unwrap();
    let proxy = proxy_with(|options| {
        options.listen = vec!["0.0.0.0:0".parse().unwrap()];
        options.names.given = vec![given("option.example", None, Ipv4Addr::LOCALHOST.into())];
        options.names.hosts_files = vec![file];
    });
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, proxy.addr().port()));
    for host in ["option.example", "file.example", "ten.example"] {
        let response = ask(addr, &format!("{host}:{port}")).read_response();
        assert_eq!(response.status, 403, "{host}");
        let status = response.field("proxy-status").unwrap();
        assert!(status.contains("destination_ip_prohibited"), "{status}");
    }
}

#[test]
fn a_given_name_that_leads_back_is_a_loop() {
    let proxy = Binary::start(&["--resolve=me.example:127.0.0.1"]);
    let host = format!("me.example:{}", proxy.addr.port());
    assert_eq!(ask(proxy.addr, &host).read_response().status, 508);
}

/// A proxy with this hosts file.
fn with_hosts(file: &Path) -> Binary {
    Binary::start(&["--hosts-file", file.to_str().unwrap()])
}

#[test]
fn a_hosts_file_is_read_again_on_a_signal_and_refused_whole_if_it_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hosts");
    fs::write(&file, "\u{feff}# ours\r\n127.0.0.1\tone.example One-More.example\r\n").unwrap();
    let origin = answers(7);
    let port = origin.addr.port();
    let proxy = with_hosts(&file);
    assert_answers(proxy.addr, &format!("one.example:{port}"));
    assert_answers(proxy.addr, &format!("one-more.example:{port}"));

    fs::write(&file, "127.0.0.1 two.example one.example\n").unwrap();
    proxy.signal(Signal::HUP);
    eventually(|| proxy.stderr().contains("read again: 2 names"));
    assert_answers(proxy.addr, &format!("two.example:{port}"));

    fs::write(&file, "127.0.0.1 three.example\n\nlocalhost 127.0.0.1\n").unwrap();
    proxy.signal(Signal::USR1);
    let why = format!("--hosts-file {}:3: 'localhost' is not an IP address", file.display());
    eventually(|| proxy.stderr().contains(&why));
    assert!(proxy.stderr().contains("the names read before stay in use"));
    assert_answers(proxy.addr, &format!("two.example:{port}"));
    assert_answers(proxy.addr, &format!("one.example:{port}"));

    fs::remove_file(&file).unwrap();
    proxy.signal(Signal::HUP);
    eventually(|| proxy.stderr().contains("hosts: cannot read it: No such file"));
    assert_answers(proxy.addr, &format!("one.example:{port}"));

    fs::write(&file, "127.0.0.1 three.example\n").unwrap();
    proxy.signal(Signal::HUP);
    eventually(|| proxy.stderr().contains("read again: 1 names"));
    assert_answers(proxy.addr, &format!("three.example:{port}"));
    origin.join();
}

/// Listeners on 127.0.0.1 and 127.0.0.2 with one port.
fn same_port() -> (TcpListener, TcpListener) {
    let first = listen_on_a_port_of_its_own();
    let port = first.local_addr().unwrap().port();
    let second = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 2), port)).unwrap();
    (first, second)
}

/// An origin server with an answer that differs from the other's.
fn answers_loudly(listener: TcpListener) -> Origin {
    Origin::script_on(listener, 1, |peer| {
        peer.read_head();
        peer.send(OK.replace("ok", "OK"));
    })
}

/// A connection in use while the name changes is not used again.
#[test]
fn a_connection_in_use_does_not_survive_the_change_of_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hosts");
    fs::write(&file, "127.0.0.1 a.example\n").unwrap();
    let (asked, go_on) = (Moment::new(), Moment::new());
    let (is_asked, goes_on) = (asked.clone(), go_on.clone());
    let (old, new) = same_port();
    let port = old.local_addr().unwrap().port();
    let old = Origin::script_on(old, 1, move |peer| {
        peer.read_head();
        is_asked.has_come();
        goes_on.wait();
        peer.send(OK);
        peer.expect_end();
    });
    let new = answers_loudly(new);
    let proxy = with_hosts(&file);
    let mut client = ask(proxy.addr, &format!("a.example:{port}"));
    asked.wait();
    fs::write(&file, "127.0.0.2 a.example\n").unwrap();
    proxy.signal(Signal::HUP);
    eventually(|| proxy.stderr().contains("read again: 1 names"));
    go_on.has_come();
    assert_eq!(client.read_response().text(), "ok");
    old.join();
    assert_eq!(ask(proxy.addr, &format!("a.example:{port}")).read_response().text(), "OK");
    new.join();
}

/// A connection kept from before leads to the name's old address.
#[test]
fn an_idle_connection_does_not_survive_the_change_of_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hosts");
    fs::write(&file, "127.0.0.1 a.example\n").unwrap();
    let (old, new) = same_port();
    let port = old.local_addr().unwrap().port();
    let old = Origin::script_on(old, 1, |peer| {
        peer.read_head();
        peer.send(OK);
        peer.expect_end();
    });
    let new = answers_loudly(new);
    let proxy = with_hosts(&file);
    assert_eq!(ask(proxy.addr, &format!("a.example:{port}")).read_response().text(), "ok");
    fs::write(&file, "127.0.0.2 a.example\n").unwrap();
    proxy.signal(Signal::HUP);
    eventually(|| proxy.stderr().contains("read again: 1 names"));
    assert_eq!(ask(proxy.addr, &format!("a.example:{port}")).read_response().text(), "OK");
    old.join();
    new.join();
}

#[test]
fn what_is_wrong_at_the_start_ends_it_and_names_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hosts");
    fs::write(&file, "127.0.0.1 a\n127.0.0.1 a_b *.example # c\n").unwrap();
    let file = file.to_str().unwrap();
    for (args, code, says) in [
        (["--hosts-file", file], 78, "hosts:2: '*.example' is not a host name; write letters"),
        (["--hosts-file", "/nonexistent/hosts"], 78, "/nonexistent/hosts: cannot read it: "),
        (["--hosts-file", "/dev/null"], 78, "it is not a regular file"),
        (["--resolve", "a.example"], 2, "--resolve: 'a.example' has no address; give HOST:ADDR"),
        (["--resolve", "192.0.2.1:80:192.0.2.2"], 2, "addresses are never looked up; give a name"),
        (["--source-address", "192.0.2.77"], 69, "192.0.2.77: it is not an address of this"),
        (["--source-address", "127.0.0.1:80"], 2, "has a port, which the system chooses"),
        (["--dns-ttl", "soon"], 2, "--dns-ttl: 'soon' is not a duration"),
        (["--max-connecting", "0"], 2, "--max-connecting: '0' is less than 1"),
    ] {
        let output = command(&args).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(says), "{args:?}: {said}");
        assert!(said.starts_with(&format!("threadgate: {}", args[0])), "{args:?}: {said}");
    }
}

#[test]
fn an_answer_is_kept_for_its_time_and_not_without_one() {
    for (ttl, lookups) in [(Duration::from_secs(30), 1), (Duration::ZERO, 3)] {
        let origin = answers(3);
        let counts = Counts::default();
        let proxy = proxy_with(|options| {
            options.resolver = Arc::new(counts.clone());
            options.names.ttl = ttl;
        });
        for _ in 0..3 {
            assert_answers(proxy.addr(), &format!("a.example:{}", origin.addr.port()));
        }
        assert_eq!(counts.so_far(), lookups, "{ttl:?}");
        let stats = proxy.stats();
        let expected = (lookups as u64, 3 - lookups as u64);
        assert_eq!((stats.lookups, stats.lookup_cache_hits), expected);
        origin.join();
    }
}

#[test]
fn a_failure_is_kept_and_counted() {
    let proxy = proxy_with(|options| options.resolver = Arc::new(Names::default()));
    for _ in 0..3 {
        assert_eq!(ask(proxy.addr(), "none.example").read_response().status, 502);
    }
    // A failure is counted when its exchange is over.
    eventually_eq(|| proxy.stats().lookup_failures, 3);
    let stats = proxy.stats();
    assert_eq!((stats.lookups, stats.lookup_cache_hits), (1, 2));
}

#[test]
fn many_who_want_to_know_one_name_are_one_lookup() {
    const ASKERS: usize = 50;
    let (resolver, gate) = HangingResolver::new(vec![Ipv4Addr::LOCALHOST.into()]);
    let counts = Counts::default();
    #[derive(Debug)]
    struct Both(HangingResolver, Counts);
    impl Resolve for Both {
        fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
            self.1.resolve(host)?;
            self.0.resolve(host)
        }
    }
    let origin = answers(ASKERS);
    let both = Both(resolver, counts.clone());
    let proxy = proxy_with(|options| {
        options.resolver = Arc::new(both);
        options.names.ttl = Duration::ZERO;
    });
    let host = format!("hang.example:{}", origin.addr.port());
    let mut asking: Vec<_> = (0..ASKERS).map(|_| ask(proxy.addr(), &host)).collect();
    eventually_eq(|| proxy.stats().lookups, ASKERS as u64);
    drop(gate);
    for client in &mut asking {
        assert_eq!(client.read_response().text(), "ok");
    }
    assert_eq!(counts.so_far(), 1);
    origin.join();
}

/// Asks from another address of loopback, as another client.
#[track_caller]
fn ask_as_another(proxy: SocketAddr, host: &str) -> Peer {
    let mut client = Peer::connect_from([127, 0, 0, 2], proxy);
    client.send(format!("GET http://{host}/ HTTP/1.1\r\nHost: a\r\n\r\n"));
    client
}

#[test]
fn names_that_never_answer_keep_nobody_from_other_names() {
    const MANY: usize = 200;
    let (resolver, gate) = HangingResolver::new(vec![Ipv4Addr::LOCALHOST.into()]);
    let proxy = proxy_with(|options| options.resolver = Arc::new(resolver));
    let origin = answers(4);
    let port = origin.addr.port();
    let hang = |name: &dyn Fn(usize) -> String| -> Vec<Peer> {
        let before = proxy.stats().lookups;
        let asking = (0..MANY).map(|i| ask(proxy.addr(), &format!("{}:{port}", name(i)))).collect();
        eventually_eq(|| proxy.stats().lookups - before, MANY as u64);
        asking
    };
    // All in one domain: the same client gets other domains, and another client gets all.
    let one_domain = hang(&|i| format!("hang-{i}.dead.test"));
    let quick = |host: &str| ask(proxy.addr(), &format!("{host}:{port}")).read_response().status;
    assert_eq!(quick("quick.alive.test"), 200);
    // In many domains: another client is served.
    let many_domains = hang(&|i| format!("hang.dead-{i}.test"));
    for host in ["quick.other.test", "quick.dead.test"] {
        let mut other = ask_as_another(proxy.addr(), &format!("{host}:{port}"));
        assert_eq!(other.read_response().status, 200, "{host}");
    }
    // When those are gone, the first client is served, though the name servers are as silent as before.
    one_domain.into_iter().for_each(Peer::reset);
    drop(many_domains);
    assert_eq!(quick("quick.again.test"), 200);
    // Clients that only closed their side would still be answered.
    drop(proxy);
    drop(gate);
    origin.join();
}

/// On loopback all clients count as one.
#[test]
fn names_that_never_answer_keep_their_own_client_from_new_ones_for_a_moment_only() {
    for count in [48, 100, 200] {
        let (resolver, gate) = HangingResolver::new(vec![Ipv4Addr::LOCALHOST.into()]);
        let proxy = proxy_with(|options| options.resolver = Arc::new(resolver));
        let origin = answers(3);
        let port = origin.addr.port();
        let name = |i| format!("hang.dead-{i}.test:{port}");
        let hanging: Vec<Peer> = (0..count).map(|i| ask(proxy.addr(), &name(i))).collect();
        eventually_eq(|| proxy.stats().lookups, count);
        for i in 0..3 {
            // Within the 5 s of a step: the others hang for 10.
            assert_answers(proxy.addr(), &format!("quick.alive-{i}.test:{port}"));
        }
        // Released clients would still be answered.
        drop((hanging, proxy, gate));
        origin.join();
    }
}

/// The end of each connection stands behind content that nobody reads before there is an upstream.
#[test]
fn clients_that_go_in_the_middle_of_an_upload_do_not_keep_others_from_new_names() {
    let (resolver, gate) = HangingResolver::new(vec![Ipv4Addr::LOCALHOST.into()]);
    let proxy = proxy_with(|options| options.resolver = Arc::new(resolver));
    let origin = answers(1);
    let port = origin.addr.port();
    let content = vec![b'x'; 300_000];
    let upload = |i| {
        let mut client = Peer::connect(proxy.addr());
        client.send(format!(
            "POST http://hang.dead-{i}.test/ HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n"
        ));
        // The rest waits in the kernel, or is not sent at all.
        client.stream().set_nonblocking(true).unwrap();
        let _ = client.try_send(&content);
        client
    };
    let uploads: Vec<Peer> = (0..60).map(upload).collect();
    eventually_eq(|| proxy.stats().lookups, 60);
    drop(uploads);
    assert_answers(proxy.addr(), &format!("quick.alive.test:{port}"));
    drop((proxy, gate));
    origin.join();
}
