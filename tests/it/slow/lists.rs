//! A hundred thousand refusals by a list, and reloads of a long one.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::lists::{lists, place};
use crate::peers::{Peer, eventually};
use crate::proxies::Binary;

#[test]
fn a_hundred_thousand_refusals_take_no_memory() {
    let dir = lists(&[("ads", b"0.0.0.0 ads.example\n")]);
    let proxy = Binary::start(&["--block-list", &place(&dir, "ads")]);
    let mut client = Peer::connect(proxy.addr);
    let mut refuse = |count: usize| {
        for number in 0..count / 20 {
            let request = format!("GET http://x{number}.ads.example/ HTTP/1.1\r\nHost: a\r\n\r\n");
            client.send(request.repeat(20));
            for _ in 0..20 {
                assert_eq!(client.read_response().status, 403);
            }
        }
    };
    refuse(5_000);
    let before = proxy.memory();
    refuse(100_000);
    let grown = proxy.memory().saturating_sub(before);
    assert!(grown < 256, "{grown} KiB");
}

/// A reload reads all lists again, beside those in use, and leaves as much memory as it found.
#[test]
fn reloads_of_a_long_list_give_their_memory_back() {
    let list: String = (0..400_000).map(|number| format!("name-{number:x}.example\n")).collect();
    let dir = lists(&[("long", list.as_bytes())]);
    let proxy = Binary::start(&["--block-list", &place(&dir, "long")]);
    let reload = || {
        let read = proxy.stderr().matches("lists: 400000 rules").count();
        proxy.signal(Signal::HUP);
        let limit = Duration::from_secs(60);
        let until = Instant::now() + limit;
        while proxy.stderr().matches("lists: 400000 rules").count() == read {
            assert!(Instant::now() < until, "no reload within {limit:?}: {}", proxy.stderr());
            thread::yield_now();
        }
    };
    let before = proxy.memory();
    (0..6).for_each(|_| reload());
    // The list in use before is given back when the last worker has let it go.
    eventually(|| proxy.memory() < before + 3 * 1024);
}
