//! The assertions that must hold for every conversation.

use threadgate::wire::detect::{Protocol, protocol};
use threadgate::wire::{Framing, Method, ResponseFraming, Version};

use crate::message::{
    Answer, Extent, Kind, Request, Response, Rest, answer, assert_request_fields,
    assert_response_fields, is_own_failure, requests,
};
use crate::peers::{Ending, Peer, Record};

/// A request as an origin server got it.
struct Arrived {
    request: Request,
    /// The upstream connection, and the number of the request on it.
    connection: usize,
    place: usize,
    answer: Answer,
}

/// Judges a conversation.
///
/// # Panics
///
/// The proxy did something forbidden.
pub fn check(record: &Record) {
    let client = &record.client;
    if let Some(Protocol::Tls | Protocol::Socks4 | Protocol::Socks5) = protocol(&client.said) {
        assert!(client.heard.len() <= 8, "more than a refusal");
        assert!(record.upstream.iter().all(|(_, peer)| peer.heard.is_empty()));
        return;
    }
    let (mut asked, mut rest) = requests(&client.said, true);
    let heard = Heard::read(client, &asked);
    let upgraded = heard.responses.last().is_some_and(|response| response.status == 101);
    if upgraded {
        // Bytes behind it that look like requests belong to the tunnel.
        asked.truncate(heard.responses.len());
        rest = Rest::Tunnel(asked.last().expect("it was asked for").end);
    }
    let tunnel = if upgraded { None } else { Tunnel::find(record, &asked, &rest, &heard) };
    let arrived = arrivals(record, tunnel.as_ref().map(|t| t.connection));

    for request in &arrived {
        check_arrival(record, &asked, &arrived, request);
    }
    for (place, request) in asked.iter().enumerate() {
        let Some(response) = heard.responses.get(place) else { break };
        check_answer(record, &asked, &arrived, request, response);
    }
    heard.check_end(client, &asked, &rest);
    if let Some(tunnel) = tunnel {
        tunnel.check(record, &heard);
    }
    check_early_bytes(record, &asked, &arrived);
    if upgraded {
        check_upgrade(record, &asked, &arrived, &heard);
    }
}

/// The bytes that the client got.
struct Heard {
    responses: Vec<Response>,
    /// Where the responses end, and the bytes after them.
    end: usize,
    rest: Vec<u8>,
}

impl Heard {
    fn read(client: &Peer, asked: &[Request]) -> Self {
        let mut heard = Self { responses: Vec::new(), end: 0, rest: Vec::new() };
        let closed = client.proxy_ended == Ending::Ended;
        loop {
            let rest = &client.heard[heard.end..];
            if rest.is_empty() {
                return heard;
            }
            // After the requests that were understood there is at most one refusal.
            let request = asked.get(heard.responses.len());
            let (method, version) =
                request.map_or((Method::Other, Version::Http11), |r| (r.method, r.version));
            let offer = request.and_then(|r| r.offer.as_ref());
            let response = match answer(&client.heard, heard.end, (method, offer), closed) {
                Answer::Response(response) => response,
                Answer::None => {
                    assert!(b"HTTP/1.1 ".iter().zip(rest).all(|(a, b)| a == b));
                    assert_ne!(client.proxy_ended, Ending::Ended, "half a head");
                    heard.rest = rest.to_vec();
                    return heard;
                }
                Answer::Invalid(why) => panic!("the client got what is no response: {why}"),
            };
            assert!(response.head.starts_with(b"HTTP/1.1 "));
            assert_ne!(response.content.extent, Extent::Malformed);
            assert_response_fields(None, &response, method);
            if version < Version::Http11 {
                assert_ne!(response.framing, ResponseFraming::Framed(Framing::Chunked));
                assert_eq!(response.interim, 0, "HTTP/1.0 has no interim responses");
            }
            heard.end = response.end;
            let is_last = response.content.extent != Extent::Whole
                || response.framing == ResponseFraming::Tunnel;
            heard.responses.push(response);
            if is_last {
                heard.rest = client.heard[heard.end..].to_vec();
                return heard;
            }
        }
    }

    /// Asserts that every request was answered, unless the connection was announced to end, that anything
    /// else was refused, and that nothing follows.
    fn check_end(&self, client: &Peer, asked: &[Request], rest: &Rest) {
        let is_tunnel = self.responses.last().is_some_and(|r| r.framing == ResponseFraming::Tunnel);
        assert!(self.rest.is_empty() || is_tunnel || client.proxy_ended != Ending::Ended);
        let (count, answered) = (asked.len(), self.responses.len());
        if let Rest::Refused(error) = rest
            && answered > count
        {
            let refusal = &self.responses[count];
            assert!(is_own_failure(refusal), "a refusal is ours");
            assert_eq!(refusal.status, error.status());
            assert!(says_close(refusal), "what follows a refusal is not read");
            assert_eq!(answered, count + 1);
            return;
        }
        assert!(answered <= count, "an answer nobody asked for");
        if client.ended.0.may_lose() || client.proxy_ended == Ending::Reset {
            return;
        }
        let all = if matches!(rest, Rest::Refused(_)) { count + 1 } else { count };
        if answered < all {
            let last = self.responses.last();
            assert!(
                last.is_some_and(|r| says_close(r) || r.content.extent != Extent::Whole),
                "{answered} answers to {all} requests"
            );
        }
    }
}

fn says_close(response: &Response) -> bool {
    !response.persistent || response.head.windows(19).any(|w| w == b"\r\nConnection: close\r")
}

/// All requests that origin servers got, with the answer to each.
fn arrivals(record: &Record, tunnel: Option<usize>) -> Vec<Arrived> {
    let mut arrived = Vec::new();
    for (connection, (_, peer)) in record.upstream.iter().enumerate() {
        if Some(connection) == tunnel {
            continue;
        }
        let (mut requests, rest) = requests(&peer.heard, false);
        let closed = matches!(peer.ended.0, Ending::Ended | Ending::Left);
        let answers = answers(peer, &mut requests, closed);
        let changed = answers.last().is_some_and(changes_protocol);
        match rest {
            // The bytes after a change of protocol are not HTTP.
            _ if changed => {}
            Rest::Nothing => {}
            Rest::Content => {
                let last = requests.last().map(|r| r.content.extent);
                assert_eq!(last, Some(Extent::Cut), "malformed content was passed on");
            }
            // The bytes that a reset or a close by the origin server itself threw away.
            Rest::Cut => assert!(peer.ended.0.may_lose(), "half a head was passed on"),
            Rest::Refused(e) => panic!("the origin server got what is no request: {}", e.reason()),
            Rest::Tunnel(_) => panic!("the origin server got a CONNECT"),
        }
        for (place, (request, answer)) in requests.into_iter().zip(answers).enumerate() {
            if place > 0 {
                check_reuse(&arrived);
            }
            arrived.push(Arrived { request, connection, place, answer });
        }
    }
    arrived
}

/// A server's answers to each request. Bytes that only look like requests, because the protocol had
/// changed, are removed from `requests`.
fn answers(peer: &Peer, requests: &mut Vec<Request>, closed: bool) -> Vec<Answer> {
    let mut answers = Vec::new();
    let mut start = 0;
    for request in requests.iter() {
        let asked = (request.method, request.offer.as_ref());
        let answer = answer(&peer.said, start, asked, closed);
        if let Answer::Response(response) = &answer {
            start = response.end;
        }
        answers.push(answer);
        if answers.last().is_some_and(changes_protocol) {
            break;
        }
    }
    requests.truncate(answers.len());
    answers
}

fn changes_protocol(answer: &Answer) -> bool {
    matches!(answer, Answer::Response(response) if response.status == 101)
}

/// Asserts that the exchange before a request on the same connection was over and left it usable.
fn check_reuse(arrived: &[Arrived]) {
    let Some(Arrived { request, answer: Answer::Response(before), .. }) = arrived.last() else {
        panic!("a connection was used again without an answer to the request before");
    };
    assert_eq!(request.content.extent, Extent::Whole, "used again in the middle of a request");
    assert_eq!(before.content.extent, Extent::Whole, "used again in the middle of a response");
    assert!(before.persistent, "used again although the origin server said that it ends");
}

/// Asserts that an origin server got what the client sent to it.
fn check_arrival(record: &Record, asked: &[Request], all: &[Arrived], arrived: &Arrived) {
    let (origin, peer) = &record.upstream[arrived.connection];
    let same: Vec<_> = asked
        .iter()
        .filter(|a| a.identity == arrived.request.identity && a.kind == Kind::Forward)
        .collect();
    assert!(!same.is_empty(), "the origin server got a request that nobody sent to it");
    let authority = &arrived.request.identity.2;
    assert!(
        authority.eq_ignore_ascii_case(&record.authorities[*origin]),
        "sent to the wrong server"
    );
    let count = all.iter().filter(|a| a.request.identity == arrived.request.identity).count();
    let allowed = same.iter().map(|a| 1 + usize::from(a.repeatable)).sum();
    assert!(count <= allowed, "{count} times, but sent {} times", same.len());
    // Requests that look alike cannot be told apart.
    let &[sent] = same.as_slice() else { return };
    assert_request_fields(sent, &arrived.request);
    let (got, whole) = (&arrived.request.content, &sent.content);
    assert!(whole.data.starts_with(&got.data), "the content was changed");
    if got.extent == Extent::Whole {
        assert_eq!(whole.extent, Extent::Whole, "content that was cut looks whole");
        assert_eq!(got.data, whole.data);
    }
    if arrived.place == 0 {
        return;
    }
    // Bytes that came on an idle connection before the request was even sent answer no request.
    let asked_at = record.client.tick_of(sent.head_end);
    let before =
        all.iter().find(|a| a.connection == arrived.connection && a.place + 1 == arrived.place);
    if let Some(Answer::Response(before)) = before.map(|b| &b.answer) {
        assert!(
            peer.said_before(asked_at) <= before.end,
            "a connection was used on which bytes waited that nobody asked for"
        );
    }
    let (ended, ended_at) = peer.ended;
    assert!(
        sent.repeatable || ended == Ending::Open || ended_at > asked_at,
        "a request that cannot be repeated was sent on a connection that had ended"
    );
}

/// Asserts that the client got the origin server's answer, or a reply of the proxy's own.
fn check_answer(
    record: &Record,
    asked: &[Request],
    arrived: &[Arrived],
    request: &Request,
    response: &Response,
) {
    let is_alone = asked.iter().filter(|a| a.identity == request.identity).count() == 1;
    if request.kind != Kind::Forward || !is_alone {
        return;
    }
    let mut attempts: Vec<_> =
        arrived.iter().filter(|a| a.request.identity == request.identity).collect();
    if let [first, second] = attempts.as_slice() {
        // The attempt on a fresh connection is the second.
        assert!(first.place > 0 || second.place > 0, "sent twice on fresh connections");
        if second.place > 0 {
            attempts.swap(0, 1);
        }
    }
    let Some(last) = attempts.last() else {
        // A server that speaks first and leaves has not heard the request it answers.
        let left = record.upstream.iter().any(|(_, peer)| peer.ended.0.may_lose());
        assert!(left || is_own_failure(response), "an answer from nowhere");
        return;
    };
    let (_, peer) = &record.upstream[last.connection];
    let Answer::Response(received) = &last.answer else {
        assert!(is_own_failure(response), "what is no response was passed on");
        return;
    };
    let passed_on = response.status == received.status
        && received.content.data.starts_with(&response.content.data)
        // A server may itself say that a failure is the proxy's.
        && (!is_own_failure(response) || is_own_failure(received));
    if passed_on {
        assert_response_fields(Some(received), response, request.method);
        if response.content.extent == Extent::Whole {
            assert_eq!(received.content.extent, Extent::Whole, "what was cut looks whole");
            assert_eq!(response.content.data, received.content.data);
        }
        if request.version >= Version::Http11 {
            assert_eq!(response.interim, received.interim, "interim responses were lost");
        }
    } else {
        assert!(is_own_failure(response), "changed on the way");
    }
    // It is unknown here whether content was whole when the server changed the protocol.
    let is_clear = request.head_end == request.end || received.status != 101;
    let nothing_broke = is_clear
        && request.content.extent == Extent::Whole
        && received.content.extent == Extent::Whole
        && !peer.ended.0.may_lose()
        && !record.client.ended.0.may_lose();
    if nothing_broke {
        assert!(passed_on, "a good answer was not passed on");
        assert_eq!(response.content.extent, Extent::Whole, "a good answer was cut");
    }
}

/// Asserts that behind a request answered with a change of protocol only the client's later bytes go to
/// that server, and only after the answer.
fn check_early_bytes(record: &Record, asked: &[Request], arrived: &[Arrived]) {
    for Arrived { request, connection, answer, .. } in arrived {
        let Answer::Response(response) = answer else { continue };
        let (_, peer) = &record.upstream[*connection];
        let extra = &peer.heard[request.end.min(peer.heard.len())..];
        if response.status != 101 || extra.is_empty() {
            continue;
        }
        assert!(
            peer.heard_tick(request.end) >= Some(peer.tick_of(response.end)),
            "bytes went to the server before it had changed the protocol"
        );
        assert_eq!(request.content.extent, Extent::Whole, "changed in the middle of a request");
        let mut alike = asked.iter().filter(|a| a.identity == request.identity);
        assert!(
            alike.any(|asked| record.client.said[asked.end..].starts_with(extra)),
            "a server that changed the protocol got what was not said to it"
        );
    }
}

/// Asserts, if the client got a change of protocol, that it and a server that changed heard each other.
fn check_upgrade(record: &Record, asked: &[Request], arrived: &[Arrived], heard: &Heard) {
    let (client, last) = (&record.client, asked.last().expect("it was asked for"));
    let up = &client.said[last.end..];
    let is_other_end = |arrived: &&Arrived| {
        let Answer::Response(response) = &arrived.answer else { return false };
        let (_, peer) = &record.upstream[arrived.connection];
        if response.status != 101 || arrived.request.identity != last.identity {
            return false;
        }
        let (got, said) = (&peer.heard[arrived.request.end..], &peer.said[response.end..]);
        let lossy = client.ended.0.may_lose() || peer.ended.0.may_lose();
        let same = up.starts_with(got) && said.starts_with(&heard.rest);
        same && (lossy || (got.len() == up.len() && heard.rest.len() == said.len()))
    };
    assert!(
        arrived.iter().any(|a| is_other_end(&a)),
        "changed or lost behind a change of protocol"
    );
}

/// A successful CONNECT.
struct Tunnel {
    connection: usize,
    /// Where its bytes begin among the client's.
    from: usize,
    opened: bool,
}

impl Tunnel {
    fn find(record: &Record, asked: &[Request], rest: &Rest, heard: &Heard) -> Option<Self> {
        let &Rest::Tunnel(from) = rest else { return None };
        let connect = asked.last()?;
        let answer = heard.responses.get(asked.len() - 1);
        let opened = answer.is_some_and(|r| r.framing == ResponseFraming::Tunnel);
        if let Some(answer) = answer {
            assert!(opened || is_own_failure(answer), "neither a tunnel nor a refusal");
            if !opened {
                return None;
            }
            let plain = b"HTTP/1.1 200 Connection established\r\n\r\n";
            assert_eq!(answer.head, plain, "fields in the answer to CONNECT");
        } else if !record.client.ended.0.may_lose() {
            return None;
        }
        // It is the last connection to its server, and carried nothing else.
        let authority = &connect.identity.2;
        let connection = record
            .upstream
            .iter()
            .rposition(|(origin, _)| authority.eq_ignore_ascii_case(&record.authorities[*origin]));
        assert!(!opened || connection.is_some(), "a tunnel to nowhere");
        Some(Self { connection: connection?, from, opened })
    }

    fn check(&self, record: &Record, heard: &Heard) {
        if !self.opened {
            return;
        }
        let (client, (_, upstream)) = (&record.client, &record.upstream[self.connection]);
        let up = &client.said[self.from..];
        assert!(up.starts_with(&upstream.heard), "the tunnel changed what the client said");
        assert!(upstream.said.starts_with(&heard.rest), "the tunnel changed what the server said");
        if !client.ended.0.may_lose() && !upstream.ended.0.may_lose() {
            assert_eq!(upstream.heard.len(), up.len(), "the tunnel lost what the client said");
            assert_eq!(
                heard.rest.len(),
                upstream.said.len(),
                "the tunnel lost what the server said"
            );
        }
    }
}
