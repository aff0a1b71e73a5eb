//! Tests of single steps of a flow, in a turn that is spent before it begins. In a whole proxy the other
//! direction would have to move 128 KiB without a pause for that, turn after turn.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::super::admin::tests::At;
use super::super::content::Coding;
use super::super::context::TURN_BYTES;
use super::super::{Context, OwnAddresses, Timeouts};
use super::*;
use crate::net::buffer::Buffers;
use crate::net::dial::Dialer;
use crate::net::pending_connects::PendingConnects;
use crate::net::pipe::{PIPE_BYTES, Pipes};
use crate::net::poll::{Edge, Poller};
use crate::net::resolve::{NameOptions, Resolver, System};
use crate::net::source_address::Sources;
use crate::net::timers::Timers;
use crate::observe::report::Life;
use crate::observe::stats::Shard;
use crate::policy::shape::Shaper;
use crate::policy::{self, Policy};
use crate::upstream::pool;
use crate::wire::{self, Framing};

pub(in crate::proxy) fn context(pipes: usize) -> Context {
    let poller = Arc::new(Poller::new().unwrap());
    let timers = Arc::new(Timers::new(Arc::clone(&poller)));
    Context {
        timeouts: Timeouts::default(),
        limits: wire::HeadLimits::default(),
        leniency: wire::Leniency::default(),
        policy: policy::Current::new(Policy::default()),
        shaper: Shaper::default(),
        failures: Arc::default(),
        verifier: Default::default(),
        learnt: Arc::default(),
        via: None,
        own: OwnAddresses::default(),
        admin_names: crate::proxy::admin::Names::default(),
        poller: Arc::clone(&poller),
        pool: pool::Pool::new(pool::PoolLimits::default(), timers, Arc::clone(&poller)),
        pipes: Pipes::new(pipes),
        resolver: Resolver::new(Arc::new(System), NameOptions::default()).unwrap(),
        dialer: Dialer { poller, connecting: PendingConnects::new(1), sources: Sources::default() },
        access_log: None,
        draining: OnceLock::new(),
        quota: None,
        forwarded_for: false,
    }
}

/// A connection as the proxy has it, and its peer.
pub(in crate::proxy) fn pair() -> (Half, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    (Half::new(Stream::accepted(listener.accept().unwrap().0)), peer)
}

/// The outcome of a flow's step when the other direction has used up the turn.
fn spent_step(
    ctx: &Context,
    flow: &mut Flow,
    source: &mut Half,
    sink: &mut Half,
) -> Result<Step, Broken> {
    step(ctx, flow, &mut Buffer::default(), source, sink, TURN_BYTES)
}

/// The outcome of a flow's step in a turn that has moved this many bytes already.
pub(super) fn step(
    ctx: &Context,
    flow: &mut Flow,
    staged: &mut Buffer,
    source: &mut Half,
    sink: &mut Half,
    moved: usize,
) -> Result<Step, Broken> {
    let (mut buffers, counters) = (Buffers::default(), Shard::default());
    let policy = ctx.policy.get();
    let mut turn = Turn {
        policy: &policy,
        overview: &At(Life::Serving),
        ctx,
        buffers: &mut buffers,
        counters: &counters,
        now: Instant::now(),
        moved,
        portion: PIPE_BYTES,
    };
    flow.step(source, staged, &mut sink.stream, &mut turn)
}

/// Both directions of a tunnel make progress, however much of each turn one of them takes.
#[test]
fn a_step_receives_once_even_if_the_turn_is_spent() {
    for (pace, pipes) in
        [(Pace::Message, 4), (Pace::Stream, 4), (Pace::Splice, 4), (Pace::Splice, 0)]
    {
        let ctx = context(pipes);
        let ((mut source, mut from), (mut sink, mut to)) = (pair(), pair());
        let mut flow = Flow::new(Content::until_close(Coding::Keep));
        flow.pace = pace;
        for round in 0..3 {
            assert_eq!(from.write(&[b'x'; 1000]).unwrap(), 1000);
            source.stream.note(Edge { readable: true, ..Edge::default() });
            let step = spent_step(&ctx, &mut flow, &mut source, &mut sink).unwrap();
            assert_ne!(step, Step::Ended);
            let mut got = [0; 2000];
            let what = format!("{pace:?}, {pipes} pipes, round {round}: {step:?}");
            assert_eq!(to.read(&mut got).expect(&what), 1000, "{what}");
        }
    }
}

#[test]
fn urgent_data_in_front_keeps_no_flow_from_receiving_in_a_spent_turn() {
    let ctx = context(4);
    let ((mut source, mut from), (mut sink, mut to)) = (pair(), pair());
    let mut flow = Flow::new(Content::until_close(Coding::Keep));
    flow.pace = Pace::Splice;
    socket2::SockRef::from(&from).send_out_of_band(b"!").unwrap();
    assert_eq!(from.write(&[b'x'; 1000]).unwrap(), 1000);
    for _ in 0..3 {
        source.stream.note(Edge { readable: true, ..Edge::default() });
        spent_step(&ctx, &mut flow, &mut source, &mut sink).unwrap();
    }
    assert_eq!(to.read(&mut [0; 2000]).expect("the flow moves on"), 1000);
}

/// A stream that cannot be spliced is received through large buffers for as long as it lasts.
#[test]
fn a_stream_that_is_not_spliced_keeps_its_large_buffers() {
    type Make = fn() -> Flow;
    let chunked: Make = || Flow::new(Content::of_request(Framing::Chunked));
    let until_close: Make = || Flow::new(Content::until_close(Coding::Keep));
    for (make, layer, room) in
        [(chunked, false, LARGE), (until_close, true, LARGE), (until_close, false, ORDINARY)]
    {
        let ctx = context(4);
        let ((mut source, mut from), (mut sink, _to)) = (pair(), pair());
        if layer {
            source.stream = source.stream.doubled_willingly(1000);
        }
        let mut flow = make();
        flow.pace = Pace::Splice;
        // It has parked meanwhile, so no buffer is left from before.
        assert_eq!(from.write(b"4\r\nabcd\r\n").unwrap(), 9);
        source.stream.note(Edge { readable: true, ..Edge::default() });
        let mut step = || spent_step(&ctx, &mut flow, &mut source, &mut sink).unwrap();
        assert!((0..3).any(|_| step() == Step::Blocked));
        assert_eq!(source.buffer.room(), room, "a layer: {layer}");
    }
}

/// The system reports a reset once. Even if a send got the report, the bytes before the reset are
/// received first, and the end behind them is not taken for a regular one.
#[test]
fn a_reset_that_a_send_was_told_of_is_what_receives_find_at_the_end() {
    for patient in [false, true] {
        let ctx = context(4);
        let ((mut source, from), (mut sink, _to)) = (pair(), pair());
        let mut flow = Flow::new(Content::until_close(Coding::Keep));
        socket2::SockRef::from(&from).set_linger(Some(Duration::ZERO)).unwrap();
        drop(from);
        // Until the reset has arrived; the send that meets it reports it.
        let reset = (0..1000).find_map(|_| source.stream.send(b"x").err());
        assert_eq!(reset.map(|e| e.kind()), Some(io::ErrorKind::ConnectionReset));
        if patient {
            Buffers::default().lend(&mut source.buffer);
            assert_eq!(source.receive_patiently(), Some(0));
        }
        let step = spent_step(&ctx, &mut flow, &mut source, &mut sink);
        assert!(
            matches!(&step, Err(Broken::Source(e)) if e.kind() == io::ErrorKind::ConnectionReset),
            "patient {patient}: {step:?}"
        );
    }
}
