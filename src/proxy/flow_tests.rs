//! What only shows in a step by itself: a turn that is spent before it begins. In a whole proxy the
//! other direction has to move 128 KiB without a pause for that, turn after turn.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::super::admin::tests::At;
use super::super::spare::Spares;
use super::super::{Context, OwnAddresses, TURN_OCTETS, Timeouts};
use super::*;
use crate::net::buffer::Buffers;
use crate::net::connecting::Connecting;
use crate::net::dial::Dialer;
use crate::net::pipe::Pipes;
use crate::net::poll::Poller;
use crate::net::resolve::{NameOptions, Resolver, System};
use crate::net::source::Sources;
use crate::net::timers::Timers;
use crate::observe::report::Life;
use crate::observe::stats::Shard;
use crate::upstream::pool;
use crate::wire;

fn context() -> Context {
    let poller = Arc::new(Poller::new().unwrap());
    let timers = Arc::new(Timers::new(Arc::clone(&poller)));
    Context {
        timeouts: Timeouts::default(),
        limits: wire::Limits::default(),
        via: None,
        own: OwnAddresses::default(),
        poller: Arc::clone(&poller),
        pool: pool::Pool::new(pool::Limits::default(), timers, Arc::clone(&poller)),
        spares: Spares::default(),
        pipes: Pipes::new(4),
        resolver: Resolver::new(Arc::new(System), NameOptions::default()).unwrap(),
        dialer: Dialer { poller, connecting: Connecting::new(1), sources: Sources::default() },
        access_log: None,
        draining: AtomicBool::new(false),
        quota: None,
        forwarded_for: false,
    }
}

/// A connection as the proxy has it, and its peer.
fn pair() -> (End, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    (End::new(Stream::accepted(listener.accept().unwrap().0)), peer)
}

/// Both directions of a tunnel get on, however much of each turn one of them takes.
#[test]
fn a_step_receives_once_even_if_the_turn_is_spent() {
    let ctx = context();
    let (mut buffers, mut spare, counters) = (Buffers::default(), Vec::new(), Shard::default());
    for pace in [Pace::Message, Pace::Stream, Pace::Splice] {
        let ((mut source, mut from), (mut sink, mut to)) = (pair(), pair());
        let (mut flow, mut out) = (Flow::until_close(Coding::Keep), Buffer::default());
        flow.pace = pace;
        for round in 0..3 {
            assert_eq!(from.write(&[b'x'; 1000]).unwrap(), 1000);
            source.stream.note(Edge { readable: true, ..Edge::default() });
            let mut turn = Turn {
                overview: &At(Life::Serving),
                ctx: &ctx,
                buffers: &mut buffers,
                spare: &mut spare,
                counters: &counters,
                now: Instant::now(),
                moved: TURN_OCTETS,
            };
            let step = flow.step(&mut source, &mut out, &mut sink.stream, &mut turn).unwrap();
            assert_ne!(step, Step::Ended);
            let mut got = [0; 2000];
            assert_eq!(to.read(&mut got).unwrap(), 1000, "{pace:?}, round {round}: {step:?}");
        }
    }
}
