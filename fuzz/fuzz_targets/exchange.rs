//! A whole exchange: a scripted client and scripted origin servers, with the real proxy between.
//!
//! The input is what the peers say, and when. `exchange/script.rs` has its notation, in which a seed reads
//! like a conversation. `exchange/peers.rs` plays it over loopback. `exchange/check.rs` asserts that,
//! whatever the peers said, every byte reached only the peer it was meant for.
//!
//! One proxy serves all runs, so each run must leave nothing behind: no connection on either side, no
//! exchange. The proxy's time limits never decide. When nothing moves any more the peers end their sides,
//! and a proxy that does not end then has lost a wake-up.
#![no_main]

#[path = "exchange/check.rs"]
mod check;
#[path = "exchange/message.rs"]
mod message;
#[path = "exchange/peers.rs"]
mod peers;
#[path = "exchange/script.rs"]
mod script;

use std::cell::RefCell;
use std::sync::{Once, OnceLock};

use libfuzzer_sys::{Corpus, fuzz_target};

use peers::{Record, World};
use script::Scripts;

static WORLD: OnceLock<World> = OnceLock::new();

thread_local! {
    /// The conversation under judgement, to be shown if it is found wrong.
    static JUDGED: RefCell<Option<Record>> = const { RefCell::new(None) };
}

fuzz_target!(|bytes: &[u8]| -> Corpus {
    show_the_conversation_on_panic();
    let world = WORLD.get_or_init(World::start);
    let Some(scripts) = Scripts::read(bytes, &world.authorities()) else {
        return Corpus::Reject;
    };
    let record = peers::play(world, scripts);
    JUDGED.set(Some(record));
    JUDGED.with_borrow(|record| {
        if let Some(record) = record {
            check::check(record);
        }
    });
    JUDGED.take();
    Corpus::Keep
});

fn show_the_conversation_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let next = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            JUDGED.with(|record| {
                if let Ok(record) = record.try_borrow()
                    && let Some(record) = &*record
                {
                    eprintln!("{record}");
                }
            });
            next(info);
        }));
    });
}
