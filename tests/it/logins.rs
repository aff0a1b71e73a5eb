//! Logins that belong to a connection (NTLM, Negotiate, Kerberos): only the client that logged in on a
//! connection uses it, and it works through the proxy as without one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use threadgate::Server;

use crate::auth::proof;
use crate::peers::{Moment, Peer, Response, eventually_eq, field, fields};
use crate::proxies::{Binary, OK, get_request, proxy, proxy_with};
use crate::servers::Origin;

/// The one value of `Authorization` in a head.
pub(crate) fn authorization(head: &str) -> Option<(&str, &str)> {
    field(head, "authorization").map(|value| value.split_once(' ').unwrap_or((value, "")))
}

/// A server that ties a login to its connection. It challenges every client that says hello, and lets in
/// a client that answers the challenge of the same connection.
fn remembers(connections: usize) -> Origin {
    let count = AtomicUsize::new(0);
    Origin::script_at_once(connections, move |peer| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        let (mut user, mut challenged) = (None, false);
        while let Some(head) = peer.try_read_head() {
            let mut challenge = String::from("WWW-Authenticate: Basic realm=\"a, b\", NTLM\r\n");
            match authorization(&head) {
                Some((scheme, "hello")) => {
                    challenge = format!("WWW-Authenticate: {scheme} challenge\r\n");
                    challenged = true;
                }
                Some((_, proof)) if challenged => user = Some(proof.to_owned()),
                Some(_) | None => {}
            }
            let (status, challenge) = match user {
                Some(_) => ("200 OK", ""),
                None => ("401 Unauthorized", &*challenge),
            };
            let text = format!("{number} {}", user.as_deref().unwrap_or("nobody"));
            let length = text.len();
            let content = if head.starts_with("HEAD ") { "" } else { &text };
            peer.send(format!(
                "HTTP/1.1 {status}\r\n{challenge}Content-Length: {length}\r\n\r\n{content}"
            ));
        }
    })
}

/// A client of such a server.
struct User<'a> {
    peer: Peer,
    origin: &'a Origin,
    /// The version it speaks, and the lines it sends with each request.
    version: &'static str,
    lines: String,
}

impl<'a> User<'a> {
    fn new(proxy: std::net::SocketAddr, origin: &'a Origin) -> Self {
        let (version, lines) = ("1.1", String::new());
        Self { peer: Peer::connect(proxy), origin, version, lines }
    }

    fn send(&mut self, method: &str, authorization: &str) {
        let (to, version, lines) = (self.origin.addr, self.version, &self.lines);
        let authorization = match authorization {
            "" => String::new(),
            value => format!("Authorization: {value}\r\n"),
        };
        self.peer.send(format!(
            "{method} http://{to}/ HTTP/{version}\r\nHost: {to}\r\n{lines}{authorization}\r\n"
        ));
    }

    /// The server's answer: on which of its connections, and who asks there.
    #[track_caller]
    fn says(&mut self, authorization: &str) -> String {
        self.send("GET", authorization);
        self.peer.read_response().text().to_owned()
    }

    #[track_caller]
    fn logs_in(&mut self, scheme: &str, user: &str) -> String {
        let challenged = self.says(&format!("{scheme} hello"));
        let let_in = self.says(&format!("{scheme} {user}"));
        assert_eq!(challenged.split_once(' ').unwrap().1, "nobody");
        assert_eq!(let_in.split_once(' ').unwrap().0, challenged.split_once(' ').unwrap().0);
        let_in
    }
}

fn without_pool() -> Server {
    proxy_with(|options| options.pool.idle = std::time::Duration::ZERO)
}

#[test]
fn who_logs_in_on_a_connection_is_logged_in_for_nobody_else() {
    for scheme in ["NTLM", "ntlm", "Negotiate", "NEGOTIATE", "Kerberos"] {
        for proxy in [proxy(), without_pool()] {
            let origin = remembers(3);
            let mut alice = User::new(proxy.addr(), &origin);
            assert_eq!(alice.logs_in(scheme, "alice"), "0 alice", "{scheme}");
            assert_eq!(alice.says(""), "0 alice", "{scheme}");
            let mut other = User::new(proxy.addr(), &origin);
            assert_eq!(other.says(""), "1 nobody", "{scheme}");
            let mut bob = User::new(proxy.addr(), &origin);
            assert_eq!(bob.logs_in(scheme, "bob"), "2 bob", "{scheme}");
            assert_eq!(alice.says(""), "0 alice", "{scheme}");
            assert_eq!(bob.says(""), "2 bob", "{scheme}");
            drop((alice, other, bob, proxy));
            origin.join();
        }
    }
}

#[test]
fn logins_on_two_connections_are_not_mixed_up_at_any_step() {
    let proxy = proxy();
    let origin = remembers(2);
    let mut users = ["alice", "bob"].map(|name| (name, User::new(proxy.addr(), &origin)));
    for (_, user) in &mut users {
        user.says("");
    }
    for (_, user) in &mut users {
        user.says("NTLM hello");
    }
    for (name, user) in &mut users {
        let said = user.says(&format!("NTLM {name}"));
        assert!(said.ends_with(*name), "{said}");
    }
    for (name, user) in &mut users {
        let said = user.says("");
        assert!(said.ends_with(*name), "{said}");
    }
    drop((users, proxy));
    origin.join();
}

#[test]
fn a_login_works_in_1_0_too_if_the_connection_is_kept() {
    let proxy = proxy();
    let origin = remembers(2);
    let mut old = User::new(proxy.addr(), &origin);
    old.version = "1.0";
    old.lines = "Connection: keep-alive\r\n".to_owned();
    assert_eq!(old.logs_in("NTLM", "alice"), "0 alice");
    assert_eq!(old.says(""), "0 alice");
    assert_eq!(User::new(proxy.addr(), &origin).says(""), "1 nobody");
    drop((old, proxy));
    origin.join();
}

#[test]
fn a_head_request_does_not_lose_the_login() {
    let proxy = proxy();
    let origin = remembers(1);
    let mut alice = User::new(proxy.addr(), &origin);
    for authorization in ["NTLM hello", "NTLM alice", ""] {
        alice.send("HEAD", authorization);
        alice.peer.read_head();
    }
    assert_eq!(alice.says(""), "0 alice");
    drop((alice, proxy));
    origin.join();
}

/// A conversation that leaves a connection in some state, and whether another client may use it.
#[test]
fn a_connection_is_kept_apart_by_whatever_a_server_may_remember_of_it() {
    for (request, response, apart) in [
        ("", "", false),
        ("Authorization: Basic YTpi\r\n", "", false),
        ("Authorization: Bearer ntlm\r\n", "", false),
        ("", "WWW-Authenticate: Basic realm=\"ntlm\"\r\n", false),
        ("Authorization: NTLM TlRM\r\n", "", true),
        ("AUTHORIZATION:\tnegotiate YIIB\r\n", "", true),
        ("Authorization: Basic YTpi\r\nAuthorization: Kerberos YIIB\r\n", "", true),
        ("Authorization: Basic YTpi, NTLM TlRM\r\n", "", true),
        ("", "WWW-Authenticate: NTLM\r\n", true),
        ("", "WWW-Authenticate: Negotiate YIIB\r\n", true),
        ("", "www-authenticate: Basic realm=\"a\"\r\nWWW-AUTHENTICATE: ntlm\r\n", true),
        ("", "WWW-Authenticate: Digest realm=\"a\", nonce=\"b\", Negotiate\r\n", true),
        ("Authorization: Basic YTpi\r\n", "Persistent-Auth: true\r\n", true),
    ] {
        let connections = if apart { 2 } else { 1 };
        let origin = Origin::script_at_once(connections, move |peer| {
            while peer.try_read_head().is_some() {
                peer.send(format!("HTTP/1.1 401 No\r\n{response}Content-Length: 2\r\n\r\nno"));
            }
        });
        let proxy = proxy();
        let mut first = User::new(proxy.addr(), &origin);
        first.lines = request.to_owned();
        let mut second = User::new(proxy.addr(), &origin);
        second.lines = request.to_owned();
        // Their own clients find them again.
        for turn in 0..4 {
            let user = if turn % 2 == 0 { &mut first } else { &mut second };
            assert_eq!(user.says(""), "no");
            // The connection is in the pool a moment after the client has its response.
            eventually_eq(|| proxy.report().gauges.upstream_idle, u64::from(!apart));
        }
        assert_eq!(origin.accepted(), connections, "{request} {response}");
        drop((first, second, proxy));
        origin.join();
    }
}

#[test]
fn clients_are_told_that_such_a_login_works_here() {
    for (challenge, supports) in [
        ("WWW-Authenticate: NTLM\r\n", true),
        ("WWW-Authenticate: Basic realm=\"a\", Negotiate\r\n", true),
        // Another proxy's statement of support is not passed on.
        ("WWW-Authenticate: NTLM\r\nProxy-Support: Session-Based-Authentication\r\n", true),
        ("WWW-Authenticate: Basic realm=\"a\"\r\n", false),
        ("Proxy-Support: Session-Based-Authentication\r\n", false),
    ] {
        let origin = Origin::script(1, move |peer| {
            peer.read_head();
            peer.send(format!("HTTP/1.1 401 No\r\n{challenge}Content-Length: 0\r\n\r\n"));
            peer.read_to_any_end();
        });
        let proxy = proxy();
        let mut user = User::new(proxy.addr(), &origin);
        user.send("GET", "");
        let Response { head, .. } = user.peer.read_response();
        let said = if supports { &["Session-Based-Authentication"][..] } else { &[] };
        assert_eq!(fields(&head, "proxy-support"), said, "{head}");
        // For the proxy's own connection only.
        let named = if supports { &["Proxy-Support"][..] } else { &[] };
        assert_eq!(fields(&head, "connection"), named, "{head}");
        drop((user, proxy));
        origin.join();
    }
}

#[test]
fn a_login_ends_with_its_client_and_goes_to_nobody() {
    let ended = Moment::new();
    let theirs = ended.clone();
    let origin = Origin::script(1, move |peer| {
        peer.read_head();
        peer.send(OK);
        peer.expect_eof();
        theirs.has_come();
    });
    let proxy = proxy();
    let mut alice = User::new(proxy.addr(), &origin);
    alice.says("NTLM hello");
    drop(alice);
    ended.wait();
    origin.join();
}

#[test]
fn a_login_that_the_server_ends_is_given_up_while_the_client_is_silent_and_the_next_is_a_new_one() {
    let (close, closed) = (Moment::new(), Moment::new());
    let theirs = (close.clone(), closed.clone());
    let first = Arc::new(AtomicUsize::new(0));
    let origin = Origin::script_at_once(2, move |peer| {
        peer.read_head();
        if first.fetch_add(1, Ordering::SeqCst) == 0 {
            peer.send(OK);
            theirs.0.wait();
            peer.half_close();
            // The proxy has noticed it, and closes, though its client says nothing.
            peer.expect_eof();
            theirs.1.has_come();
        } else {
            peer.send("HTTP/1.1 401 No\r\nContent-Length: 3\r\n\r\nnew");
            peer.read_to_any_end();
        }
    });
    let proxy = proxy();
    let mut alice = User::new(proxy.addr(), &origin);
    assert_eq!(alice.says("NTLM alice"), "ok");
    close.has_come();
    closed.wait();
    assert_eq!(alice.says(""), "new");
    drop((alice, proxy));
    origin.join();
}

/// It is the same as for a client that came directly: the login is gone, and the server says so.
#[test]
fn a_request_whose_connection_with_a_login_dies_goes_out_once_more_on_a_fresh_one() {
    for authorization in ["", "NTLM alice"] {
        let origin = Origin::script_at_once(3, |peer| {
            let head = peer.read_head();
            if head.contains("/other") {
                peer.send(OK);
                return peer.expect_eof();
            }
            if !head.contains("NTLM hello") {
                return peer.send("HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno");
            }
            peer.send(OK);
            // The connection dies just when the next request is on its way.
            peer.read_head();
        });
        let proxy = proxy();
        let mut alice = User::new(proxy.addr(), &origin);
        assert_eq!(alice.says("NTLM hello"), "ok");
        // A connection kept for somebody else is not for her.
        let mut bob = Peer::connect(proxy.addr());
        bob.send(get_request(origin.addr, "/other"));
        assert_eq!(bob.read_response().status, 200);
        alice.send("GET", authorization);
        let response = alice.peer.read_response();
        assert_eq!((response.status, response.text()), (401, "no"));
        assert_eq!((proxy.stats().resends, origin.accepted()), (1, 3));
        drop((alice, bob, proxy));
        origin.join();
    }
}

#[test]
fn a_request_that_must_not_be_repeated_is_not_sent_on_another_connection() {
    let origin = Origin::script(1, |peer| {
        peer.read_head();
        peer.send(OK);
        peer.read_head();
    });
    let proxy = proxy();
    let mut alice = User::new(proxy.addr(), &origin);
    assert_eq!(alice.says("NTLM hello"), "ok");
    alice.send("POST", "NTLM alice");
    assert_eq!(alice.peer.read_response().status, 502);
    assert_eq!(proxy.stats().resends, 0);
    drop((alice, proxy));
    origin.join();
}

/// A tunnel to the same server does not begin where somebody has logged in, either.
#[test]
fn a_tunnel_does_not_go_through_the_connection_with_the_login() {
    let origin = Origin::script_at_once(2, |peer| {
        let head = peer.read_head();
        peer.send(if head.contains("/in-tunnel") {
            "HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno"
        } else {
            OK
        });
        // A tunnel ends when its client leaves.
        peer.read_to_any_end();
    });
    let proxy = proxy();
    let mut alice = User::new(proxy.addr(), &origin);
    assert_eq!(alice.says("NTLM hello"), "ok");
    let to = origin.addr;
    alice.peer.send(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n"));
    alice.peer.read_head();
    alice.peer.send(format!("GET /in-tunnel HTTP/1.1\r\nHost: {to}\r\n\r\n"));
    assert_eq!(alice.peer.read_response().status, 401);
    assert_eq!(origin.accepted(), 2);
    drop((alice, proxy));
    origin.join();
}

#[test]
fn a_head_that_says_nothing_of_content_costs_a_connection_with_a_login_too() {
    let origin = Origin::script_at_once(2, |peer| {
        if peer.read_head().starts_with("HEAD ") {
            peer.send("HTTP/1.1 200 OK\r\nWWW-Authenticate: NTLM\r\n\r\n");
        } else {
            peer.send(OK);
        }
        peer.expect_eof();
    });
    let proxy = proxy();
    let mut alice = User::new(proxy.addr(), &origin);
    alice.send("HEAD", "NTLM hello");
    alice.peer.read_head();
    assert_eq!(alice.says("NTLM alice"), "ok");
    assert_eq!(origin.accepted(), 2);
    drop((alice, proxy));
    origin.join();
}

#[test]
fn a_request_elsewhere_or_a_tunnel_gives_the_login_up() {
    let elsewhere = Origin::script_at_once(2, |peer| {
        while peer.try_read_head().is_some() {
            peer.send(OK);
        }
    });
    for request in ["GET http://{to}/ HTTP/1.1", "CONNECT {to} HTTP/1.1"] {
        let given_up = Moment::new();
        let theirs = given_up.clone();
        let origin = Origin::script(1, move |peer| {
            peer.read_head();
            peer.send(OK);
            peer.expect_eof();
            theirs.has_come();
        });
        let proxy = proxy();
        let mut alice = User::new(proxy.addr(), &origin);
        assert_eq!(alice.says("NTLM hello"), "ok");
        let to = elsewhere.addr.to_string();
        alice.peer.send(format!("{}\r\nHost: {to}\r\n\r\n", request.replace("{to}", &to)));
        alice.peer.read_head();
        given_up.wait();
        drop((alice, proxy));
        origin.join();
    }
}

#[test]
fn another_user_of_the_proxy_does_not_get_the_login_even_on_the_same_connection() {
    let origin = remembers(2);
    let proxy = Binary::start(&["--auth=alice:a", "--auth=bob:b"]);
    let mut client = User::new(proxy.addr, &origin);
    client.lines = proof("alice", "a");
    assert_eq!(client.logs_in("NTLM", "alice"), "0 alice");
    client.lines = proof("bob", "b");
    assert_eq!(client.says(""), "1 nobody");
    drop((client, proxy));
    origin.join();
}
