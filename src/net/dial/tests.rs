//! Tests of dialing: real sockets, and a clock that the tests turn. A connect whose SYNs are dropped stays
//! pending however late it is.

use std::net::Ipv4Addr;

use super::*;
use crate::net::poll::Wake;

#[derive(Default)]
struct Woken(parking_lot::Mutex<u32>);

impl Wake for Woken {
    fn wake(&self, _: u32, _: Edge) -> bool {
        *self.0.lock() += 1;
        true
    }
}

/// Addresses 127.77.0.1, 127.77.0.2, … with one port.
struct Play {
    dialer: Dialer,
    woken: Arc<Woken>,
    port: u16,
    start: Instant,
    listeners: Vec<(Socket, Vec<Socket>)>,
}

fn ip(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 77, 0, last).into()
}

impl Play {
    /// The addresses `good` accept connections; the addresses `holes` drop SYNs.
    fn new(good: &[u8], holes: &[u8], most: usize) -> Self {
        let poller = Arc::new(Poller::new().unwrap());
        let connecting = PendingConnects::new(most);
        let mut play = Self {
            dialer: Dialer { poller, connecting, sources: Sources::default() },
            woken: Arc::default(),
            port: 0,
            start: Instant::now(),
            listeners: Vec::new(),
        };
        good.iter().for_each(|&last| play.listen(last, 16));
        for &last in holes {
            play.listen(last, 0);
            let to = SocketAddr::new(ip(last), play.port).into();
            let (_, queue) = play.listeners.last_mut().unwrap();
            for _ in 0..4 {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                socket.set_nonblocking(true).unwrap();
                let _ = socket.connect(&to);
                queue.push(socket);
            }
        }
        play
    }

    fn listen(&mut self, last: u8, backlog: i32) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::new(ip(last), self.port).into()).unwrap();
        listener.listen(backlog).unwrap();
        self.port = listener.local_addr().unwrap().as_socket().unwrap().port();
        self.listeners.push((listener, Vec::new()));
    }

    fn dial(&self, ips: &[IpAddr]) -> Dial {
        Dial::new(Addresses::Found(ips.into()), self.port)
    }

    fn dial_to(&self, lasts: &[u8]) -> Dial {
        self.dial(&lasts.iter().map(|&last| ip(last)).collect::<Vec<_>>())
    }

    fn step(&self, dial: &mut Dial, millis: u64) -> Dialed {
        let owner = |tag| Owner { who: self.woken.clone(), tag };
        let now = self.start + Duration::from_millis(millis);
        let outcome = dial.step(now, &self.dialer, &[owner(1), owner(2)], &|_| None);
        let pending = dial.pending.iter().flatten().count();
        assert!(self.dialer.connecting.pending() >= pending);
        outcome
    }

    /// Asserts that the dial is pending, until that many milliseconds after the start.
    #[track_caller]
    fn waits(&self, dial: &mut Dial, millis: u64, until: Option<u64>, pending: &[usize]) {
        match self.step(dial, millis) {
            Dialed::Waiting(at) => {
                let until = until.map(|millis| self.start + Duration::from_millis(millis));
                assert_eq!(at, until, "at {millis} ms");
            }
            other => panic!("at {millis} ms: {other:?}"),
        }
        let mut found: Vec<_> = dial.pending.iter().flatten().map(|a| a.index).collect();
        found.sort_unstable();
        assert_eq!(found, pending, "at {millis} ms");
    }

    #[track_caller]
    fn connects(&self, dial: &mut Dial, millis: u64, last: u8) {
        match self.step(dial, millis) {
            Dialed::Connected(stream, to) => {
                assert_eq!(to, SocketAddr::new(ip(last), self.port));
                assert_eq!(stream.peer(), Some(to));
            }
            other => panic!("at {millis} ms: {other:?}"),
        }
    }

    #[track_caller]
    fn fails(&self, dial: &mut Dial, millis: u64) -> (Option<SocketAddr>, DialFailure) {
        match self.step(dial, millis) {
            Dialed::Failed(to, why) => (to, why),
            other => panic!("at {millis} ms: {other:?}"),
        }
    }
}

#[test]
fn one_pending_address_sets_no_alarm() {
    let play = Play::new(&[], &[1], 9);
    let mut dial = play.dial_to(&[1]);
    play.waits(&mut dial, 0, None, &[0]);
    play.waits(&mut dial, 9000, None, &[0]);
    let mut two = play.dial_to(&[1, 1]);
    play.waits(&mut two, 0, Some(250), &[0]);
    play.waits(&mut two, 249, Some(250), &[0]);
    play.waits(&mut two, 250, None, &[0, 1]);
    play.waits(&mut two, 9000, None, &[0, 1]);
}

#[test]
fn the_second_address_is_tried_a_stagger_later_and_the_third_in_the_place_of_the_first() {
    let play = Play::new(&[3], &[1, 2], 9);
    let mut dial = play.dial_to(&[1, 2, 3]);
    play.waits(&mut dial, 0, Some(250), &[0]);
    play.waits(&mut dial, 250, Some(500), &[0, 1]);
    play.waits(&mut dial, 400, Some(500), &[0, 1]);
    play.connects(&mut dial, 500, 3);
    assert_eq!(play.dialer.connecting.pending(), 0, "losers are dropped at once");
}

#[test]
fn who_had_to_make_room_is_tried_again_and_rounds_grow_patient() {
    let play = Play::new(&[], &[1, 2, 3], 9);
    let mut dial = play.dial_to(&[1, 2, 3]);
    for (at, until, pending) in [
        (0, 250, &[0][..]),
        (250, 500, &[0, 1]),
        (500, 1000, &[1, 2]),
        (1000, 1500, &[0, 2]),
        (1500, 2000, &[0, 1]),
        (2000, 3000, &[1, 2]),
        (3000, 4000, &[0, 2]),
        (4000, 5000, &[0, 1]),
        (5000, 7000, &[1, 2]),
    ] {
        play.waits(&mut dial, at, Some(until), pending);
    }
    assert_eq!(play.dialer.connecting.pending(), 2);
    drop(dial);
    assert_eq!(play.dialer.connecting.pending(), 0);
}

#[test]
fn what_fails_is_followed_at_once_and_never_tried_again() {
    // Nothing listens on 5 and 6.
    let play = Play::new(&[4], &[1, 2, 3], 9);
    play.connects(&mut play.dial_to(&[5, 6, 4]), 0, 4);
    let mut dial = play.dial_to(&[5, 1, 6, 2, 3]);
    play.waits(&mut dial, 0, Some(250), &[1]);
    play.waits(&mut dial, 250, Some(500), &[1, 3]);
    assert_eq!(dial.failed, 0b101);
    let next = play.step(&mut dial, 500);
    assert!(matches!(next, Dialed::Waiting(Some(_))), "{next:?}");
    let (to, why) = play.fails(&mut play.dial_to(&[5, 6]), 0);
    assert_eq!(to, Some(SocketAddr::new(ip(6), play.port)));
    assert!(matches!(why, DialFailure::System(e) if e.kind() == io::ErrorKind::ConnectionRefused));
    assert!(matches!(play.fails(&mut play.dial_to(&[]), 0), (None, DialFailure::NoAddress)));
}

#[test]
fn a_family_without_a_way_costs_no_time_and_does_not_hide_what_another_said() {
    let play = Play::new(&[4], &[], 9);
    // Connecting to a multicast address fails at once, on every machine.
    let nowhere: Vec<IpAddr> = ["ff02::1", "ff02::2"].map(|ip| ip.parse().unwrap()).into();
    play.connects(&mut play.dial(&[nowhere[0], nowhere[1], ip(4)]), 0, 4);
    let (to, why) = play.fails(&mut play.dial(&[ip(5), nowhere[0]]), 0);
    assert_eq!(to.unwrap().ip(), ip(5));
    assert!(matches!(why, DialFailure::System(e) if e.kind() == io::ErrorKind::ConnectionRefused));
}

#[test]
fn ipv4_in_ipv6_clothes_is_connected_to_as_ipv4() {
    let play = Play::new(&[4], &[], 9);
    play.connects(&mut play.dial(&["::ffff:127.77.0.4".parse().unwrap()]), 0, 4);
}

#[test]
fn a_source_address_is_bound_to_and_the_other_family_is_left_alone() {
    let mut play = Play::new(&[4], &[], 9);
    play.dialer.sources.v4 = Some(ip(9));
    let Dialed::Connected(stream, _) = play.step(&mut play.dial_to(&[4]), 0) else {
        panic!("not connected")
    };
    assert_eq!(stream.local().unwrap().ip(), ip(9));
    let six = "::1".parse().unwrap();
    assert!(matches!(play.fails(&mut play.dial(&[six]), 0), (Some(_), DialFailure::NoSource)));
    play.connects(&mut play.dial(&[six, ip(4)]), 0, 4);
    // A loopback source has no route out.
    let away: IpAddr = "198.51.100.1".parse().unwrap();
    let (_, why) = play.fails(&mut play.dial(&[away]), 0);
    assert!(matches!(&why, DialFailure::System(e) if is_unroutable(e)), "{why:?}");
}

#[test]
fn a_refused_address_is_passed_over() {
    let play = Play::new(&[3, 4], &[], 9);
    let owner = |tag| Owner { who: play.woken.clone(), tag };
    let refuse = |to: SocketAddr| (to.ip() == ip(3)).then_some(DialFailure::Own);
    let mut dial = play.dial_to(&[3, 4]);
    let outcome = dial.step(play.start, &play.dialer, &[owner(1), owner(2)], &refuse);
    assert!(matches!(outcome, Dialed::Connected(_, to) if to.ip() == ip(4)));
}

#[test]
fn a_crowded_address_is_passed_over_and_waited_for_if_it_is_the_last() {
    let play = Play::new(&[4], &[1, 2], 1);
    let mut first = play.dial_to(&[1]);
    play.waits(&mut first, 0, None, &[0]);
    // Another address is left, so no time is lost.
    play.connects(&mut play.dial_to(&[1, 4]), 0, 4);

    let mut second = play.dial_to(&[1]);
    play.waits(&mut second, 0, None, &[]);
    assert!(second.is_in_line() && !first.is_in_line());
    let mut third = play.dial_to(&[1]);
    play.waits(&mut third, 0, None, &[]);
    assert_eq!((play.dialer.connecting.pending(), play.dialer.connecting.waits()), (1, 2));
    assert_eq!(*play.woken.0.lock(), 0);
    drop(first);
    assert_eq!(*play.woken.0.lock(), 1, "one is woken");
    play.waits(&mut third, 10, None, &[]);
    play.waits(&mut second, 10, None, &[0]);
    assert!(!second.is_in_line());

    // In line for one address, the dial checks whether another has come free.
    let mut other = play.dial_to(&[2]);
    play.waits(&mut other, 0, None, &[0]);
    let mut both = play.dial_to(&[1, 2]);
    play.waits(&mut both, 20, Some(270), &[]);
    drop(other);
    play.waits(&mut both, 270, None, &[1]);
    // Its turn comes while an attempt is pending, so both are pending.
    drop((third, second));
    play.waits(&mut both, 300, None, &[0, 1]);
    drop(both);
    assert_eq!(play.dialer.connecting.pending(), 0);
}

/// Thousands of dials may be in line, and each look is a turn on a worker.
#[test]
fn who_stands_in_line_looks_ever_more_seldom_for_another_place() {
    let play = Play::new(&[], &[1, 2], 1);
    let (mut one, mut two) = (play.dial_to(&[1]), play.dial_to(&[2]));
    play.waits(&mut one, 0, None, &[0]);
    play.waits(&mut two, 0, None, &[0]);
    let mut dial = play.dial_to(&[1, 2]);
    for (at, next) in [(0, 250), (250, 750), (750, 1750), (1750, 3750), (3750, 5750), (5750, 7750)]
    {
        play.waits(&mut dial, at, Some(next), &[]);
    }
    drop(two);
    play.waits(&mut dial, 7750, None, &[1]);
}

#[test]
fn an_older_attempt_stays_if_there_is_no_place_for_the_next() {
    let play = Play::new(&[], &[1, 2, 3], 1);
    let mut holder = play.dial_to(&[3]);
    play.waits(&mut holder, 0, None, &[0]);
    let mut dial = play.dial_to(&[1, 2, 3]);
    play.waits(&mut dial, 0, Some(250), &[0]);
    play.waits(&mut dial, 250, Some(500), &[0, 1]);
    play.waits(&mut dial, 500, Some(750), &[0, 1]);
    drop(holder);
    assert!(matches!(play.step(&mut dial, 750), Dialed::Waiting(_)));
    let pending: Vec<_> = dial.pending.iter().flatten().map(|a| a.index).collect();
    assert_eq!(pending, [2, 1]);
}

#[test]
fn a_long_list_is_cut() {
    let play = Play::new(&[], &[], 9);
    let many: Vec<u8> = (10..=200).collect();
    let mut dial = play.dial_to(&many);
    play.fails(&mut dial, 0);
    assert_eq!(dial.failed, u64::MAX);
}

/// The kernel's answer when ports run out, which takes 28,000 connections to produce.
#[test]
fn a_missing_port_is_told_from_a_missing_way() {
    let e = || io::Error::from(io::ErrorKind::AddrNotAvailable);
    let (four, six) = (SocketAddr::new(ip(1), 80), "[2001:db8::1]:80".parse().unwrap());
    assert!(matches!(DialFailure::of(four, e()), DialFailure::NoPort(_)));
    assert!(matches!(DialFailure::of(six, e()), DialFailure::System(e) if is_unroutable(&e)));
}

#[test]
fn bytes_are_never_held_back_from_the_second_send_on() {
    let play = Play::new(&[1], &[], 9);
    let Dialed::Connected(mut stream, _) = play.step(&mut play.dial_to(&[1]), 0) else {
        panic!("not connected at once")
    };
    assert_eq!(stream.send(b"a").unwrap(), 1);
    assert!(!stream.socket().tcp_nodelay().unwrap(), "a connection for one send saves the call");
    assert_eq!(stream.send(b"b").unwrap(), 1);
    assert!(stream.socket().tcp_nodelay().unwrap());
}
