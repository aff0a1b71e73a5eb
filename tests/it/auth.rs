//! Users: which credentials let a client in, what checking them costs, and who has to wait.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use socket2::{Domain, SockRef, Socket, Type};
use threadgate::policy::auth::password_hash::Hash;
use threadgate::policy::auth::{Auth, Plain, Secret};
use threadgate::wire::credentials::encode;
use threadgate::{AccessOptions, Password, Server, UserOptions, WrittenRule};

use crate::lifecycle::run;
use crate::peers::{Peer, Response, STEP, eventually};
use crate::proxies::{Binary, OK, proxy_with, proxy_with_one_worker};
use crate::servers::{Origin, Recorder, Untouched, listen};

/// The `Proxy-Authorization` line of this user.
pub(crate) fn proof(user: &str, password: &str) -> String {
    format!("Proxy-Authorization: Basic {}\r\n", encode(user, password))
}

pub(crate) fn ask_with(client: &mut Peer, target: &str, lines: &str) -> Response {
    client.send(format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n"));
    client.read_response()
}

pub(crate) fn once(proxy: SocketAddr, target: &str, lines: &str) -> Response {
    ask_with(&mut Peer::connect(proxy), target, lines)
}

/// An origin server that answers every request, for as long as it exists.
pub(crate) struct Site(Arc<TcpListener>);

impl Drop for Site {
    fn drop(&mut self) {
        // Wakes `accept`, which then fails.
        let _ = SockRef::from(&*self.0).shutdown(std::net::Shutdown::Both);
    }
}

pub(crate) fn origin() -> (Site, String) {
    let listener = Arc::new(listen());
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let accepting = Arc::clone(&listener);
    thread::spawn(move || {
        while let Ok((stream, _)) = accepting.accept() {
            thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                // An empty line is the end of a request.
                while let Some(Ok(line)) = lines.next() {
                    if line.is_empty() && (&stream).write_all(OK.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (Site(listener), url)
}

/// A client at another address of loopback.
pub(crate) fn connect_from(ip: [u8; 4], to: SocketAddr) -> Peer {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    Peer::new(socket.into())
}

/// A hash of `secret` that takes longer with `cost`: half as long again for each step above 4.
pub(crate) fn hash(cost: u32) -> String {
    bcrypt::hash_with_salt("secret", cost, [9; 16]).unwrap().to_string()
}

pub(crate) fn hashed(users: &[(&str, u32)]) -> Option<Arc<Auth>> {
    let users = users.iter().map(|(name, cost)| {
        ((*name).into(), Secret::Hashed(Hash::parse(&hash(*cost)).expect("a hash")))
    });
    Some(Arc::new(Auth::new(users, "test")))
}

pub(crate) fn plain(users: &[(&str, &str)]) -> Option<Arc<Auth>> {
    let secret = |password: &str| Secret::Plain(Plain(password.into()));
    let users = users.iter().map(|(name, password)| ((*name).into(), secret(password)));
    Some(Arc::new(Auth::new(users, "test")))
}

pub(crate) fn with(auth: Option<Arc<Auth>>) -> Server {
    proxy_with(|options| options.access.set_auth(auth))
}

#[test]
fn who_proves_nothing_is_asked_to_and_keeps_the_connection() {
    let (_origin, url) = origin();
    let proxy = Binary::start(&["--auth", "alice:s3:cret", "--auth-realm=the \"house\""]);
    let mut client = Peer::connect(proxy.addr);
    let asked = "Basic realm=\"the \\\"house\\\"\", charset=\"UTF-8\"";
    for lines in [
        String::new(),
        proof("alice", "wrong"),
        proof("bob", "s3:cret"),
        "Proxy-Authorization: Bearer abc\r\n".to_owned(),
        "Proxy-Authorization: Digest username=\"alice\", realm=\"x\"\r\n".to_owned(),
        "Proxy-Authorization: Basic ???\r\n".to_owned(),
        "Proxy-Authorization:\r\n".to_owned(),
    ] {
        let refused = ask_with(&mut client, &url, &lines);
        assert_eq!(refused.status, 407, "{lines}: {}", refused.head);
        assert_eq!(refused.field("proxy-authenticate"), Some(asked));
        assert_eq!(refused.field("connection"), None, "{lines}");
        assert_eq!(refused.rule(), Some("auth"));
        assert!(refused.text().contains("try: a user name and a password"), "{}", refused.text());
    }
    assert_eq!(ask_with(&mut client, &url, &proof("alice", "s3:cret")).status, 200);
    assert_eq!(ask_with(&mut client, &url, "").status, 407, "each request has to prove it");
    let page = "Accept: text/html\r\n";
    let page = ask_with(&mut client, &url, page);
    assert!(page.text().contains("<h1>407 Proxy Authentication Required</h1>"), "{}", page.text());
}

#[test]
fn two_proofs_and_what_can_be_read_twice_are_no_request() {
    let untouched = Untouched::new();
    let proxy = with(plain(&[("alice", "secret")]));
    let right = encode("alice", "secret");
    for lines in [
        proof("alice", "secret") + &proof("alice", "secret"),
        proof("alice", "secret") + &proof("alice", "wrong"),
        format!("Proxy-Authorization: Basic {right}, Basic {right}\r\n"),
        format!("Proxy-Authorization: Basic {right} x\r\n"),
    ] {
        let refused = once(proxy.addr(), &format!("http://{}/", untouched.addr), &lines);
        assert_eq!(refused.status, 400, "{lines}: {}", refused.head);
        assert_eq!(refused.field("connection"), Some("close"));
    }
}

#[test]
fn a_tunnel_needs_proof_as_well() {
    let echo = Origin::script(1, |peer| {
        let ping = peer.read_exact(4);
        peer.send(ping);
    });
    let proxy = with(plain(&[("jürgen", "päß wörd€")]));
    let mut client = Peer::connect(proxy.addr());
    let connect = |client: &mut Peer, lines: &str| {
        client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n{lines}\r\n", echo.addr));
    };
    connect(&mut client, "");
    let refused = client.read_response();
    assert_eq!((refused.status, refused.field("connection")), (407, Some("close")));
    client.expect_eof();
    let mut client = Peer::connect(proxy.addr());
    connect(&mut client, &proof("jürgen", "päß wörd€"));
    let opened = client.read_head();
    assert!(opened.starts_with("HTTP/1.1 200 "), "{opened}");
    client.send("ping");
    assert_eq!(client.read_exact(4), b"ping");
    echo.join();
}

#[test]
fn content_that_is_here_is_passed_over_and_the_rest_ends_the_connection() {
    let (_origin, url) = origin();
    let proxy = with(plain(&[("alice", "secret")]));
    let post = |lines: &str, content: &str| {
        format!("POST {url} HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n{content}")
    };
    let mut client = Peer::connect(proxy.addr());
    // The content holds a request that must not be read as one.
    let smuggled = format!("GET {url} HTTP/1.1\r\nHost: a\r\n{}\r\n", proof("alice", "secret"));
    let length = format!("Content-Length: {}\r\n", smuggled.len());
    client.send(post(&length, &smuggled));
    let refused = client.read_response();
    assert_eq!((refused.status, refused.field("connection")), (407, None));
    assert_eq!(ask_with(&mut client, &url, &proof("alice", "secret")).status, 200);
    for (lines, content) in [
        ("Content-Length: 100\r\n", "some"),
        ("Content-Length: 100\r\nExpect: 100-continue\r\n", ""),
        ("Transfer-Encoding: chunked\r\n", "1\r\na\r\n0\r\n\r\n"),
    ] {
        let mut client = Peer::connect(proxy.addr());
        client.send(post(lines, content));
        let refused = client.read_response();
        assert_eq!((refused.status, refused.field("connection")), (407, Some("close")), "{lines}");
    }
}

#[test]
fn proofs_go_nowhere() {
    let origin = Recorder::answering(OK);
    let proxy = Binary::start(&[
        "--auth=alice:s3cret",
        "--access-log=-",
        "--log-format=combined",
        "-v",
        "-v",
        "-v",
    ]);
    let url = format!("http://{}/", origin.addr);
    let token = encode("alice", "s3cret");
    let mut client = Peer::connect(proxy.addr);
    ask_with(&mut client, &url, &proof("alice", "s3cret"));
    let sent = String::from_utf8_lossy(&origin.seen()[0].bytes).into_owned();
    assert!(sent.starts_with("GET / "), "{sent}");
    assert!(!sent.to_ascii_lowercase().contains("proxy-auth"), "{sent}");
    let mut client = Peer::connect(proxy.addr);
    client.send(format!(
        "TRACE {url} HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n{}\r\n",
        proof("alice", "s3cret")
    ));
    let echoed = client.read_response();
    assert!(!echoed.text().contains(&token), "{}", echoed.text());
    let wrong = once(proxy.addr, &url, &proof("alice", "s3cret-s3cret"));
    assert!(!wrong.text().contains("s3cret") && !wrong.text().contains("czNj"));
    eventually(|| proxy.stdout().contains(" - alice [") && proxy.stdout().contains(" 407 "));
    for text in [proxy.stdout(), proxy.stderr()] {
        assert!(!text.contains("s3cret") && !text.contains(&token), "{text}");
    }
}

#[test]
fn rules_that_need_no_user_come_before_the_question_who_it_is() {
    let (_origin, url) = origin();
    let proxy =
        Binary::start(&["--auth=alice:x", "--deny=ads.example", "--allow-client=127.0.0.0/8"]);
    let refused = once(proxy.addr, "http://ads.example/", "");
    assert_eq!((refused.status, refused.rule()), (403, Some("--deny:1")));
    assert_eq!(once(proxy.addr, &url, "").status, 407);
    let far = Binary::start(&["--auth=alice:x", "--allow-client=192.0.2.0/24"]);
    assert_eq!(once(far.addr, &url, "").status, 403);
    // The proxy's own pages reveal nothing, and are for everybody who is served at all.
    assert_eq!(once(proxy.addr, "/", "").status, 200);
    assert_eq!(once(proxy.addr, "/healthz", "").status, 200);
    assert_eq!(once(far.addr, "/", "").status, 403);
}

#[test]
fn rules_may_be_for_some_users() {
    let (_origin, url) = origin();
    let rules = vec![
        WrittenRule::deny("one").destinations(["never.example"]),
        WrittenRule::allow("two").users(["alice", "carol"]).destinations(["127.0.0.0/8"]),
        WrittenRule::deny("three").users(["bob"]),
        WrittenRule::deny("four").destinations(["127.0.0.0/8"]),
    ];
    let users = [("alice", "a"), ("bob", "b"), ("carol", "c"), ("dave", "d")];
    let auth = users.map(|(user, password)| Password::new(user, password).unwrap()).into();
    let users = UserOptions { auth, ..UserOptions::default() };
    let access = AccessOptions { rules, users, ..AccessOptions::default() }.build(None).unwrap();
    let proxy = proxy_with(|options| options.access = access);
    for (user, status, decided) in [
        ("alice", 200, None),
        ("bob", 403, Some("three")),
        ("carol", 200, None),
        ("dave", 403, Some("four")),
    ] {
        let answer = once(proxy.addr(), &url, &proof(user, &user[..1]));
        assert_eq!((answer.status, answer.rule()), (status, decided), "{user}");
    }
    // The second and the third rule need a user, so the question comes first; the first rule needs none.
    assert_eq!(once(proxy.addr(), &url, "").status, 407);
    let never = once(proxy.addr(), "http://never.example/", "");
    assert_eq!((never.status, never.rule()), (403, Some("one")));
}

#[test]
fn a_hash_is_computed_once_for_a_thousand_requests() {
    let (_origin, url) = origin();
    let proxy = with(hashed(&[("alice", 8)]));
    let mut clients: Vec<Peer> = (0..50).map(|_| Peer::connect(proxy.addr())).collect();
    let request =
        format!("GET {url} HTTP/1.1\r\nHost: a.example\r\n{}\r\n", proof("alice", "secret"));
    for round in 0..20 {
        // All clients ask at once, each for the first time, before anything is known.
        clients.iter_mut().for_each(|client| client.send(&request));
        for client in &mut clients {
            assert_eq!(client.read_response().status, 200, "round {round}");
        }
    }
    let stats = proxy.stats();
    assert_eq!((stats.auth_verifications, stats.auth_failures), (1, 0));
    assert!(stats.auth_cache_hits >= 950, "{}", stats.auth_cache_hits);
}

#[test]
fn a_password_is_verified_beside_the_worker() {
    let (_origin, url) = origin();
    let proxy = proxy_with_one_worker(|options| {
        let slow = Secret::Hashed(Hash::parse(&hash(13)).unwrap());
        let quick = Secret::Plain(Plain("x".into()));
        let users = [("slow".into(), slow), ("quick".into(), quick)];
        options.access.set_auth(Some(Arc::new(Auth::new(users, "test"))));
    });
    let mut slow = Peer::connect(proxy.addr());
    let request = |line: &str| format!("GET {url} HTTP/1.1\r\nHost: a.example\r\n{line}\r\n");
    slow.send(request(&proof("slow", "secret")));
    eventually(|| proxy.stats().auth_verifications == 1);
    for _ in 0..20 {
        assert_eq!(once(proxy.addr(), &url, &proof("quick", "x")).status, 200);
    }
    assert!(
        !slow.has_something_within(Duration::from_millis(1)),
        "its hash takes longer than that"
    );
    // On a busy machine much longer.
    slow.stream().set_read_timeout(Some(STEP * 4)).unwrap();
    assert_eq!(slow.read_response().status, 200);
}

/// The time of a hash is measured next to the code, by the processor's time.
#[test]
fn a_name_that_is_nobodys_costs_a_hash_like_a_wrong_password() {
    let (_origin, url) = origin();
    for user in ["alice", "nobody", "plain"] {
        let slow = Secret::Hashed(Hash::parse(&hash(4)).unwrap());
        let quick = Secret::Plain(Plain("secret".into()));
        let users = [("alice".into(), slow), ("plain".into(), quick)];
        let proxy = with(Some(Arc::new(Auth::new(users, "test"))));
        for n in 0..4 {
            let line = proof(user, &format!("wrong{n}"));
            assert_eq!(once(proxy.addr(), &url, &line).status, 407);
        }
        let stats = proxy.stats();
        assert_eq!((stats.auth_verifications, stats.auth_failures), (4, 4), "{user}");
    }
}

#[test]
fn who_guesses_is_slowed_and_nobody_else() {
    let (_origin, url) = origin();
    let proxy = proxy_with_one_worker(|options| {
        options.access.set_auth(plain(&[("alice", "secret"), ("bob", "secret")]));
    });
    let addr = proxy.addr();
    let mut guess = 0;
    let mut wrong = |client: &mut Peer| {
        guess += 1;
        let start = Instant::now();
        let refused = ask_with(client, &url, &proof("alice", &format!("guess{guess}")));
        assert_eq!(refused.status, 407);
        start.elapsed()
    };
    // This user is known here before anybody guesses, and stays so.
    let mut user = Peer::connect(addr);
    assert_eq!(ask_with(&mut user, &url, &proof("bob", "secret")).status, 200);
    let mut guesser = Peer::connect(addr);
    let free: Duration = (0..5).map(|_| wrong(&mut guesser)).sum();
    assert!(free < Duration::from_millis(400), "{free:?}");
    assert!(wrong(&mut guesser) >= Duration::from_millis(490), "the sixth waits");
    assert!(wrong(&mut guesser) >= Duration::from_millis(990), "the seventh waits longer");

    // The eighth waits. A client at another address is served meanwhile, and does not have to wait.
    let request = format!("GET {url} HTTP/1.1\r\nHost: a\r\n{}\r\n", proof("alice", "guess8"));
    guesser.send(request);
    eventually(|| proxy.stats().auth_delays >= 3);
    let mut other = connect_from([127, 0, 0, 2], addr);
    let start = Instant::now();
    for _ in 0..20 {
        let served = ask_with(&mut other, &url, &proof("alice", "secret"));
        assert_eq!(served.status, 200);
    }
    assert!(start.elapsed() < Duration::from_millis(1500), "{:?}", start.elapsed());
    assert!(!guesser.has_something_within(Duration::from_millis(1)), "it waits");
    // A user who is known here does not wait beside the guesses, on this connection or another.
    let start = Instant::now();
    assert_eq!(ask_with(&mut user, &url, &proof("bob", "secret")).status, 200);
    assert_eq!(once(addr, &url, &proof("bob", "secret")).status, 200);
    assert!(start.elapsed() < Duration::from_millis(400), "{:?}", start.elapsed());
    assert_eq!(guesser.read_response().status, 407);
}

#[test]
fn guesses_on_many_connections_are_not_even_looked_at() {
    let (_origin, url) = origin();
    let proxy = with(plain(&[("alice", "secret")]));
    let mut client = Peer::connect(proxy.addr());
    for n in 0..5 {
        ask_with(&mut client, &url, &proof("alice", &format!("{n}")));
    }
    let mut clients: Vec<Peer> = (0..30).map(|_| Peer::connect(proxy.addr())).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        // The right password is among them.
        let password = if n == 29 { "secret".to_owned() } else { format!("guess{n}") };
        client.send(format!("GET {url} HTTP/1.1\r\nHost: a\r\n{}\r\n", proof("alice", &password)));
        if n == 7 {
            eventually(|| proxy.stats().auth_delays >= 8);
        }
    }
    for client in &mut clients[8..] {
        let refused = client.read_response();
        assert_eq!((refused.status, refused.field("retry-after")), (429, Some("5")));
    }
    for client in &mut clients[..8] {
        assert_eq!(client.read_response().status, 407);
    }
}

#[test]
fn an_asker_that_leaves_gives_its_place_back() {
    let (_origin, url) = origin();
    let proxy = with(plain(&[("alice", "secret")]));
    let mut client = Peer::connect(proxy.addr());
    for n in 0..5 {
        ask_with(&mut client, &url, &proof("alice", &format!("{n}")));
    }
    for _ in 0..3 {
        let mut clients: Vec<Peer> = (0..8).map(|_| Peer::connect(proxy.addr())).collect();
        let before = proxy.stats().auth_delays;
        for client in &mut clients {
            let line = proof("alice", "wrong");
            client.send(format!("GET {url} HTTP/1.1\r\nHost: a\r\n{line}\r\n"));
        }
        eventually(|| proxy.stats().auth_delays == before + 8);
        drop(clients);
        // The connections are gone when their delay is over at the latest.
        eventually(|| proxy.stats().active_connections() == 1);
    }
}

#[test]
fn a_hundred_guesses_at_once_are_a_few_hashes_and_the_threads_are_two() {
    let (_origin, url) = origin();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users");
    fs::write(&file, format!("alice:{}\n", hash(9))).unwrap();
    let mut proxy = Binary::start(&["--auth-file", file.to_str().unwrap()]);
    let mut clients: Vec<Peer> = (0..100).map(|_| Peer::connect(proxy.addr)).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        let line = proof("alice", &format!("guess{n}"));
        client.send(format!("GET {url} HTTP/1.1\r\nHost: a\r\n{line}\r\n"));
    }
    let statuses: Vec<u16> = clients.iter_mut().map(|c| c.read_response().status).collect();
    let count = |status| statuses.iter().filter(|s| **s == status).count();
    // Five, those that another thread computes meanwhile, and the eight that may wait; no more are
    // computed.
    assert!((13..20).contains(&count(407)), "{statuses:?}");
    assert_eq!(count(407) + count(429), 100, "{statuses:?}");
    let threads = proxy.thread_names().into_iter().filter(|name| name.starts_with("auth-")).count();
    assert!((1..=2).contains(&threads), "{threads}");
    proxy.signal(Signal::TERM);
    assert!(proxy.wait().success());
}

/// Has everything read again, and waits until that is over.
#[track_caller]
pub(crate) fn reloaded(proxy: &Binary) {
    let count = || {
        let said = proxy.stderr();
        said.matches(" users were read again: ").count()
            + said.matches("the reload changed nothing").count()
    };
    let before = count();
    proxy.signal(Signal::HUP);
    eventually(|| count() > before);
}

#[test]
fn the_file_is_read_again_and_a_wrong_one_changes_nothing() {
    let (_origin, url) = origin();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users");
    let write = |users: &[&str]| {
        let lines: String = users.iter().map(|user| format!("{user}:{}\n", hash(4))).collect();
        let new = dir.path().join("new");
        fs::write(&new, lines).unwrap();
        fs::rename(&new, &file).unwrap();
    };
    write(&["alice"]);
    let proxy = Binary::start(&["--auth-file", file.to_str().unwrap(), "--auth", "bob:b"]);
    let status = |user: &str, password: &str| once(proxy.addr, &url, &proof(user, password)).status;
    assert_eq!((status("alice", "secret"), status("bob", "b")), (200, 200));
    write(&["carol"]);
    reloaded(&proxy);
    assert_eq!((status("carol", "secret"), status("bob", "b")), (200, 200));
    assert_eq!(status("alice", "secret"), 407, "what was proven before is asked anew");
    fs::write(&file, "carol:$apr1$x$y\n").unwrap();
    reloaded(&proxy);
    assert!(proxy.stderr().contains(":1: the user 'carol': the hash is Apache's MD5"));
    assert_eq!((status("carol", "secret"), status("bob", "b")), (200, 200));
    // An empty file may be a mistake. A file with only a comment is meant like that: it lets nobody in.
    write(&[]);
    reloaded(&proxy);
    assert_eq!((status("carol", "secret"), status("bob", "b")), (200, 200));
    fs::write(&file, "# nobody\n").unwrap();
    reloaded(&proxy);
    assert_eq!((status("carol", "secret"), status("bob", "b")), (407, 200));
}

#[test]
fn what_is_wrong_with_users_ends_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let weak = file("weak", b"a:{SHA}secret=\n");
    let binary = file("binary", &[0, 159, 146, 150].repeat(100));
    let long = file("long", &b"secret".repeat(1 << 20));
    for (option, value, exit, says) in [
        ("--auth", "alice", 2, "--auth: there is no ':'"),
        ("--auth-realm", "x", 2, "--auth-realm: nobody is asked"),
        ("--auth-env", "NO_SUCH_VARIABLE", 78, "--auth-env NO_SUCH_VARIABLE: there is no such"),
        ("--auth-file", "/nowhere/users", 78, "/nowhere/users: cannot read it: No such file"),
        ("--auth-file", dir.path().to_str().unwrap(), 78, "cannot read it: Is a directory"),
        ("--auth-file", &weak, 78, "weak:1: the user 'a': the hash is plain SHA-1 ({SHA})"),
        ("--auth-file", &binary, 78, "binary:1: the line is not UTF-8"),
        ("--auth-file", &long, 78, "long:1: the line is longer than 4096 bytes"),
    ] {
        let output = run(&[option, value, "--port", "0"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(exit), "{option} {value}: {stderr}");
        assert!(stderr.contains(says), "{option} {value}: {stderr}");
        assert!(!stderr.contains("secret"), "{stderr}");
    }
}
