//! Flows over a layer that codes bytes, holds them back, has to be flushed and is not ready when its
//! socket is, as TLS may do.
#![expect(clippy::disallowed_methods, reason = "a peer of the test may wait for its bytes")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use super::super::content::Coding;
use super::super::half::Half;
use super::super::sides::Leg;
use super::tests::{context, pair, step};
use super::*;
use crate::net::buffer::Buffers;
use crate::net::poll::Edge;
use crate::net::stream::double::{CODED_END, CODED_TICKET, coded};
use crate::wire::{Framing, Tolerance};

/// A connection under a layer that moves `piece` bytes at a time, and its peer.
fn doubled(piece: usize) -> (Half, TcpStream) {
    let (Half { stream, .. }, peer) = pair();
    (Half::new(stream.doubled(piece)), peer)
}

/// Runs the flow until it has ended. Everything it is to move was sent before, so the kernel reports
/// nothing but room. A blocked flow therefore has to wait for the sink.
#[track_caller]
fn run(flow: &mut Flow, staged: &mut Buffer, source: &mut Half, sink: &mut Half) {
    let ctx = context(4);
    for _ in 0..100_000 {
        let came = step(&ctx, flow, staged, source, sink, 0).expect("nothing is wrong");
        match came {
            Step::Ended => return,
            Step::Spent | Step::Dry => {}
            Step::Blocked => {
                assert!(!sink.stream.is_writable(), "blocked, and nothing would wake it: {flow:?}");
                sink.stream.note(Edge { writable: true, ..Edge::default() });
            }
        }
    }
    panic!("it does not end: {flow:?}");
}

const CONTENT: &[u8] = b"0123456789abcdef0123456789ABCDEF some content that is longer than a piece";

/// The bytes that arrive are those that were sent, and all of them have left the layer when the flow has
/// ended.
#[test]
fn nothing_is_left_in_a_layer_when_a_flow_has_ended() {
    let chunked = [b"49\r\n", CONTENT, b"\r\n0\r\n\r\n"].concat();
    let length = Framing::Length(std::num::NonZeroU64::new(CONTENT.len() as u64).unwrap());
    let framed = |framing, coding| Flow::new(Content::framed(framing, coding, Tolerance::Literal));
    let chunk = [b"49\r\n".as_slice(), CONTENT, b"\r\n0\r\n\r\n"].concat();
    type Make<'f> = &'f dyn Fn() -> Flow;
    let cases: [(&str, Make<'_>, &[u8], &[u8]); 4] = [
        ("length", &|| framed(length, Coding::Keep), CONTENT, CONTENT),
        ("chunked", &|| framed(Framing::Chunked, Coding::Keep), &chunked, &chunk),
        ("dechunked", &|| framed(Framing::Chunked, Coding::Dechunk), &chunked, CONTENT),
        ("until close", &|| Flow::new(Content::until_close(Coding::Keep)), CONTENT, CONTENT),
    ];
    assert_eq!(CONTENT.len(), 0x49);
    for piece in [1, 2, 7, 1000] {
        for (name, flow, sent, expected) in &cases {
            let ((mut source, mut from), (mut sink, mut to)) = (doubled(piece), doubled(piece));
            // A ticket in the middle is no content.
            let (first, second) = sent.split_at(9);
            let wire = [&coded(first), &[CODED_TICKET][..], &coded(second), &[CODED_END]].concat();
            from.write_all(&wire).unwrap();
            let mut staged = Buffer::default();
            Buffers::default().lend(&mut staged);
            staged.tail().extend_from_slice(b"head ");
            run(&mut flow(), &mut staged, &mut source, &mut sink);
            // Nobody moves anything after this: bytes still in the layer would never leave it.
            let expected = coded(&[b"head ", *expected].concat());
            let mut got = vec![0; expected.len()];
            to.read_exact(&mut got).unwrap_or_else(|e| panic!("{name}, {piece} at a time: {e}"));
            assert_eq!(got, expected, "{name}, {piece} at a time");
        }
    }
}

/// A layer's bytes are not the socket's, so they never go through a pipe.
#[test]
fn what_a_layer_codes_is_not_spliced() {
    for (first, second) in [(true, false), (false, true)] {
        let of = |is_doubled| if is_doubled { doubled(100_000) } else { pair() };
        let ((mut source, mut from), (mut sink, mut to)) = (of(first), of(second));
        let mut flow = Flow::new(Content::until_close(Coding::Keep));
        flow.pace = Pace::Splice;
        let content = vec![b'x'; 20_000];
        let wire = [&coded(&content)[..], &[CODED_END]].concat();
        from.write_all(if first { &wire } else { &content }).unwrap();
        from.shutdown(Shutdown::Write).unwrap();
        source.stream.note(Edge { readable: true, closed: true, ..Edge::default() });
        run(&mut flow, &mut Buffer::default(), &mut source, &mut sink);
        let mut got = vec![0; content.len()];
        to.read_exact(&mut got).unwrap();
        assert!(got == if second { coded(&content) } else { content });
    }
}

/// A reply of ours is sent only when the layer holds nothing of it.
#[test]
fn a_leg_is_flushed_when_its_layer_is() {
    let (mut sink, mut to) = doubled(3);
    let mut leg = Leg::default();
    leg.staged.tail().extend_from_slice(CONTENT);
    let mut tries = 0;
    while !leg.flush(&mut sink.stream).unwrap() {
        assert!(!sink.stream.is_writable(), "it waits for room");
        sink.stream.note(Edge { writable: true, ..Edge::default() });
        tries += 1;
    }
    assert!(tries > 5, "{tries}: the layer was reluctant");
    assert_eq!(leg.flow.sent(), CONTENT.len() as u64);
    let mut got = vec![0; CONTENT.len()];
    to.read_exact(&mut got).unwrap();
    assert_eq!(got, coded(CONTENT));
}

/// The end is sent behind everything else, and only then is the socket shut down.
#[test]
fn an_end_goes_out_behind_what_is_held() {
    let (mut sink, mut to) = doubled(2);
    assert_eq!(sink.stream.send(b"ab").unwrap(), 2);
    let mut tries = 0;
    while !sink.stream.finish().unwrap() {
        sink.stream.note(Edge { writable: true, ..Edge::default() });
        tries += 1;
        assert!(tries < 100);
        // The layer is reluctant at every third send, so the second finish has something to do.
        if tries == 1 {
            continue;
        }
    }
    let mut got = Vec::new();
    to.read_to_end(&mut got).unwrap();
    assert_eq!(got, [&coded(b"ab")[..], &[CODED_END]].concat());
}

/// A layer's own messages make no connection stale; content and the end do.
#[test]
fn a_ticket_is_not_staleness() {
    for (says, is_stale) in [
        (vec![CODED_TICKET], false),
        (vec![CODED_END], true),
        (coded(b"x"), true),
        (vec![CODED_TICKET, CODED_END], true),
    ] {
        let (mut half, mut peer) = doubled(10);
        peer.write_all(&says).unwrap();
        half.stream.note(Edge { readable: true, ..Edge::default() });
        assert_eq!(half.stream.is_stale(), is_stale, "{says:x?}");
    }
}

/// A flow does not wait at the socket for bytes in hand, and a limit counts them decoded.
#[test]
fn held_bytes_make_a_connection_readable_and_count_as_content() {
    let (mut half, mut peer) = doubled(2);
    peer.write_all(&coded(b"abcdef")).unwrap();
    Buffers::default().lend(&mut half.buffer);
    half.limit();
    half.allow(5);
    for (round, held) in [(1, 2), (2, 4), (3, 5)] {
        half.receive_allowed().unwrap();
        assert_eq!(half.buffer.len(), held, "round {round}");
        assert!(half.stream.is_readable(), "more is held");
    }
    assert!(half.is_dry());
}
