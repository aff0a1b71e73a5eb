//! Names whose address changes, connections that are kept meanwhile, and several addresses at once: each
//! connection is judged by the address it goes to, whenever that is.

use std::fs;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use threadgate::policy::Access;

use crate::guard::{Answers, Elsewhere, access, ask, guarded, once, tunnel};
use crate::hostile::DropsSyns;
use crate::peers::{Peer, eventually_eq, status};
use crate::proxies::OK;
use crate::servers::{Origin, listen_on_a_port_of_its_own};

/// A new answer for a name changes nothing for an existing connection, and everything for the next one.
#[test]
fn a_kept_connection_is_as_good_as_its_address_and_a_new_one_as_the_new_address() {
    let origin = Origin::script_on(listen_on_a_port_of_its_own(), 1, |peer| {
        for _ in 0..2 {
            peer.read_head();
            peer.send(OK);
        }
    });
    let port = origin.addr.port();
    let elsewhere = Elsewhere::new([127, 0, 0, 2], port);
    let answers = Answers::new(&[&["127.0.0.1"], &["127.0.0.2"]]);
    let (proxy, addr) = guarded(|options| {
        options.resolver = Arc::<Answers>::clone(&answers);
        options.names.ttl = Duration::ZERO;
        options.access = access(&["127.0.0.1"], &[]);
    });
    let host = format!("rebinds.example:{port}");
    let mut client = Peer::connect(addr);
    assert_eq!(ask(&mut client, &host).status, 200);
    eventually_eq(|| proxy.report().gauges.upstream_idle, 1);
    // Nobody asks for the name's address now: this is still the address that was judged.
    assert_eq!(ask(&mut client, &host).status, 200);
    assert_eq!((proxy.stats().upstream_connects, answers.1.load(Ordering::SeqCst)), (1, 1));
    // The server has closed it.
    eventually_eq(|| proxy.report().gauges.upstream_idle, 0);
    for refused in [ask(&mut client, &host), once(addr, &host), tunnel(addr, &host)] {
        assert_eq!((refused.status, refused.rule()), (403, Some("protected-mode")));
    }
    assert_eq!(proxy.stats().upstream_connects, 1);
    drop((proxy, elsewhere));
    origin.join();
}

/// A new policy applies to connections that the pool has kept. Exchanges under way go on.
#[test]
fn a_kept_connection_to_an_address_that_is_refused_from_now_on_is_not_used() {
    let origin = Origin::script_at_once(2, |peer| {
        while peer.try_read_head().is_some() {
            peer.send(OK);
        }
    });
    let port = origin.addr.port();
    let near = || Answers::new(&[&["127.0.0.1"]]);
    let (proxy, addr) = guarded(|options| {
        options.resolver = near();
        options.access = access(&["127.0.0.0/8"], &[]);
    });
    let host = format!("name.example:{port}");
    let mut client = Peer::connect(addr);
    assert_eq!(ask(&mut client, &host).status, 200);
    eventually_eq(|| proxy.report().gauges.upstream_idle, 1);
    let mut tunnelled = Peer::connect(addr);
    tunnelled.send(format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    assert_eq!(status(&tunnelled.read_head()), 200);
    let allows: [(Access, &str); 4] = [
        (access(&[], &["127.0.0.1"]), "--deny:1"),
        (access(&[], &["192.0.2.1", "127.0.0.0/8"]), "--deny:2"),
        (access(&["10.0.0.0/8"], &[]), "protected-mode"),
        (access(&[], &["name.example"]), "--deny:1"),
    ];
    for (access, rule) in &allows {
        proxy.set_access(access, false);
        for refused in [ask(&mut client, &host), once(addr, &host), tunnel(addr, &host)] {
            assert_eq!((refused.status, refused.rule()), (403, Some(*rule)));
        }
        // The tunnel that was let through goes on.
        tunnelled.send("GET / HTTP/1.1\r\n\r\n");
        assert_eq!(tunnelled.read_response().text(), "ok");
    }
    assert_eq!(proxy.stats().upstream_reuses, 0);
    proxy.set_access(&access(&["127.0.0.1"], &[]), false);
    assert_eq!(ask(&mut client, &host).status, 200);
    assert_eq!((proxy.stats().upstream_connects, proxy.stats().upstream_reuses), (2, 1));
    drop((proxy, tunnelled));
    origin.join();
}

/// A refused address is never tried, however long the addresses before and after it take.
#[test]
fn an_address_that_is_refused_is_not_tried_while_others_are_waited_for() {
    let origin = Origin::script_at_once_on(listen_on_a_port_of_its_own(), 3, |peer| {
        peer.read_head();
        peer.send(OK);
    });
    let port = origin.addr.port();
    let _elsewhere = Elsewhere::new([127, 0, 0, 2], port);
    let _hangs = DropsSyns::on((Ipv4Addr::new(127, 0, 0, 3), port).into());
    let (refused, hangs, good) = ("127.0.0.2", "127.0.0.3", "127.0.0.1");
    for (answer, status) in [
        (&[hangs, refused, good][..], 200),
        (&[refused, hangs, good], 200),
        (&[hangs, good, refused], 200),
        // No allowed address is left.
        (&[hangs, refused], 504),
        (&[refused, hangs], 504),
        (&[refused, "::ffff:127.0.0.2", "64:ff9b::7f00:2", "2002:7f00:2::1"], 403),
    ] {
        let (proxy, addr) = guarded(|options| {
            options.resolver = Answers::new(&[answer]);
            options.timeouts.connect = Duration::from_secs(if status == 504 { 1 } else { 5 });
            options.access = access(&[good, hangs], &[]);
        });
        assert_eq!(once(addr, &format!("several.example:{port}")).status, status, "{answer:?}");
        if status != 200 {
            assert_eq!(proxy.stats().upstream_connects, 0, "{answer:?}");
        }
    }
    origin.join();
}

/// A hosts file changes a name's address: connections to the old address are not used, and the new
/// address is judged.
#[test]
fn a_hosts_file_that_leads_elsewhere_now_is_judged_anew() {
    let origin = Origin::script_at_once_on(listen_on_a_port_of_its_own(), 2, |peer| {
        while peer.try_read_head().is_some() {
            peer.send(OK);
        }
    });
    let port = origin.addr.port();
    let elsewhere = Elsewhere::new([127, 0, 0, 2], port);
    let file = tempfile::NamedTempFile::new().unwrap();
    let leads_to = |ip: &str| fs::write(file.path(), format!("{ip} moves.example\n")).unwrap();
    leads_to("127.0.0.1");
    let (proxy, addr) = guarded(|options| {
        options.names.hosts_files = vec![file.path().to_owned()];
        options.access = access(&["127.0.0.1"], &[]);
    });
    let host = format!("moves.example:{port}");
    let mut client = Peer::connect(addr);
    assert_eq!(ask(&mut client, &host).status, 200);
    eventually_eq(|| proxy.report().gauges.upstream_idle, 1);
    for ip in ["127.0.0.2", "::ffff:127.0.0.2", "64:ff9b::7f00:2", "2002:7f00:2::1"] {
        leads_to(ip);
        proxy.control().reread_hosts().unwrap().unwrap();
        let refused = ask(&mut client, &host);
        assert_eq!((refused.status, refused.rule()), (403, Some("protected-mode")), "{ip}");
        assert_eq!(tunnel(addr, &host).rule(), Some("protected-mode"), "{ip}");
    }
    assert_eq!(proxy.stats().upstream_connects, 1);
    leads_to("127.0.0.1");
    proxy.control().reread_hosts().unwrap().unwrap();
    assert_eq!(ask(&mut client, &host).status, 200);
    drop((proxy, elsewhere));
    origin.join();
}

/// A rule that refuses a network refuses it in every form of its addresses.
#[test]
fn a_rule_on_a_network_is_about_addresses_in_ipv6_clothes_as_well() {
    let listener = listen_on_a_port_of_its_own();
    let port = listener.local_addr().unwrap().port();
    let _elsewhere = Elsewhere::new([127, 0, 0, 2], port);
    for open in [true, false] {
        let (proxy, addr) = guarded(|options| {
            options.open = open;
            options.resolver = Answers::new(&[&["::ffff:127.0.0.2"]]);
            options.access = access(&[], &["127.0.0.0/30"]);
        });
        for host in ["127.0.0.2", "[::ffff:127.0.0.2]", "[::ffff:7f00:2]", "name.example"] {
            let host = format!("{host}:{port}");
            for refused in [once(addr, &host), tunnel(addr, &host)] {
                assert_eq!((refused.status, refused.rule()), (403, Some("--deny:1")), "{host}");
            }
        }
        assert_eq!(proxy.stats().upstream_connects, 0);
    }
}
