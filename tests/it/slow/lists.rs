//! A hundred thousand refusals by a list.

use crate::lists::{lists, place};
use crate::peers::Peer;
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
