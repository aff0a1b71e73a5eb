//! The conversation as messages, read back with the project's own `wire`.

use threadgate::wire::head::{HeadScan, find_end, find_response_end, leading_empty_lines};
use threadgate::wire::{
    ChunkLimits, Chunked, Framing, HeadError, HeadLimits, KnownField, Leniency, Method, MoreSlots,
    Protocols, Repair, RequestHead, ResponseFraming, ResponseHead, Slots, Target, Tolerance,
    Version,
};

/// Empty lines the proxy skips before a request line, in bytes.
const MAX_EMPTY_LINES: usize = 8;

/// How much of a message's content has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Extent {
    Whole,
    /// More should have come.
    Cut,
    Malformed,
}

/// Content, without its coding.
#[derive(Debug)]
pub struct Content {
    pub data: Vec<u8>,
    pub extent: Extent,
    /// Whether its chunks needed no mending, other than for the number of trailers.
    pub is_strict: bool,
    used: usize,
}

impl Content {
    fn read(bytes: &[u8], framing: Framing, tolerance: Tolerance) -> Self {
        let mut content = Self { data: Vec::new(), extent: Extent::Cut, is_strict: true, used: 0 };
        match framing {
            Framing::Empty => content.extent = Extent::Whole,
            Framing::Length(length) => {
                let length = usize::try_from(length.get()).unwrap_or(usize::MAX);
                content.used = length.min(bytes.len());
                content.data.extend_from_slice(&bytes[..content.used]);
                if content.used == length {
                    content.extent = Extent::Whole;
                }
            }
            Framing::Chunked => {
                let mut chunked = Chunked::new(ChunkLimits::default(), tolerance);
                while content.used < bytes.len() && !chunked.is_at_end() {
                    let rest = &bytes[content.used..];
                    let Ok(piece) = chunked.advance(rest, None) else {
                        content.extent = Extent::Malformed;
                        return content;
                    };
                    content.data.extend_from_slice(&rest[piece.data.clone()]);
                    content.used += piece.used;
                }
                if chunked.is_at_end() {
                    content.extent = Extent::Whole;
                }
                content.is_strict = chunked.repairs().iter().all(|r| r == Repair::Trailer);
            }
        }
        content
    }
}

/// A request as the client sent it, or as an origin server got it.
#[derive(Debug)]
pub struct Request {
    /// All of the head.
    pub head: Vec<u8>,
    /// Where the head ends among the sent bytes.
    pub head_end: usize,
    pub method: Method,
    /// Method, origin-form and authority, by which an origin server can tell requests apart.
    pub identity: (String, String, String),
    pub kind: Kind,
    pub version: Version,
    pub repeatable: bool,
    /// The protocols that the upstream may change to.
    pub offer: Option<Protocols>,
    pub content: Content,
    /// Where the request ends among the sent bytes.
    pub end: usize,
}

/// The service that a request wants from a proxy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A reply of the proxy's own.
    Own,
    Forward,
    Tunnel,
}

/// The bytes after the last whole request head.
#[derive(Debug, Eq, PartialEq)]
pub enum Rest {
    Nothing,
    /// The start of a head.
    Cut,
    /// Something that is no head.
    Refused(HeadError),
    /// Bytes of a tunnel, from this place on.
    Tunnel(usize),
    /// The content of the last request is malformed or cut, so nothing can follow.
    Content,
}

/// The requests in the bytes of one side. `lenient` is how the proxy reads: empty lines may precede.
pub fn requests(bytes: &[u8], lenient: bool) -> (Vec<Request>, Rest) {
    let limits = HeadLimits::default();
    let mut requests = Vec::new();
    let mut at = 0;
    loop {
        if lenient {
            let empty = leading_empty_lines(&bytes[at..]);
            if empty > MAX_EMPTY_LINES {
                return (requests, Rest::Refused(HeadError::BadRequestLine));
            }
            at += empty;
        }
        let rest = &bytes[at..];
        if rest.is_empty() {
            return (requests, Rest::Nothing);
        }
        let end = match find_end(rest, &mut 0, &limits) {
            Ok(Some(end)) => end,
            Ok(None) => return (requests, Rest::Cut),
            Err(e) => return (requests, Rest::Refused(e)),
        };
        let (mut slots, mut anew) = (Slots::new(), Vec::new());
        let read = match RequestHead::read(&rest[..end], &mut slots, &limits) {
            Err(e) => RequestHead::read_respelt(&rest[..end], e, &mut slots, &limits, &mut anew),
            read => read,
        };
        let head = match read {
            Ok(head) => head,
            Err(e) => return (requests, Rest::Refused(e)),
        };
        at += end;
        let content = Content::read(&bytes[at..], head.framing, Tolerance::Literal);
        let (used, extent) = (content.used, content.extent);
        requests.push(Request {
            head: head.as_read().to_vec(),
            head_end: at,
            method: head.method,
            identity: identity(&head),
            kind: kind(&head),
            version: head.version,
            repeatable: head.method.is_idempotent() && head.framing == Framing::Empty,
            offer: head.offer(),
            content,
            end: at + used,
        });
        if head.method == Method::Connect {
            return (requests, Rest::Tunnel(at));
        }
        if extent != Extent::Whole {
            return (requests, Rest::Content);
        }
        at += used;
    }
}

fn identity(head: &RequestHead<'_, '_>) -> (String, String, String) {
    let authority = head.target.authority().map(|authority| authority.text);
    let authority = authority.or(head.host).unwrap_or_default();
    let target = head.target.origin_form(head.method).to_string();
    (head.method_name.to_owned(), target, authority.to_owned())
}

fn kind(head: &RequestHead<'_, '_>) -> Kind {
    match head.target {
        Target::Authority(_) => Kind::Tunnel,
        Target::Absolute { scheme: threadgate::wire::Scheme::Http, .. }
            if head.max_forwards != Some(0) =>
        {
            Kind::Forward
        }
        _ => Kind::Own,
    }
}

/// A response as an origin server sent it, or as the client got it.
#[derive(Debug)]
pub struct Response {
    pub head: Vec<u8>,
    pub status: u16,
    pub framing: ResponseFraming,
    pub persistent: bool,
    pub content: Content,
    /// Interim responses before it.
    pub interim: usize,
    /// Where it ends among the sent bytes.
    pub end: usize,
}

/// The answer to a request.
#[derive(Debug)]
pub enum Answer {
    /// Not even a whole head.
    None,
    /// No HTTP, or HTTP that must not be passed on.
    Invalid(&'static str),
    Response(Response),
}

/// The answer to a request with `method` and `offer`, in `bytes` from `start` on. `ended` says whether the
/// bytes ended by a close, which ends content without framing.
pub fn answer(
    bytes: &[u8],
    start: usize,
    (method, offer): (Method, Option<&Protocols>),
    ended: bool,
) -> Answer {
    let mut at = start;
    let mut interim = 0;
    loop {
        let rest = &bytes[at..];
        if threadgate::wire::detect::cannot_be_response(rest) {
            return Answer::Invalid("no status line");
        }
        let limits = HeadLimits::default();
        let mut scan = HeadScan::default();
        let end = match find_response_end(rest, &mut scan, &limits, Leniency::Mend) {
            Ok(Some(end)) => end,
            Ok(None) => return Answer::None,
            Err(e) => return Answer::Invalid(e.reason()),
        };
        let (mut mended, mut room) = (Vec::new(), HeadRoom::default());
        let head = match room.read(&rest[..end], method, &mut mended) {
            Ok(head) => head,
            Err(e) => return Answer::Invalid(e.reason()),
        };
        at += end;
        if head.status == 101 {
            let chosen = head.protocols().filter(|_| head.version >= Version::Http11);
            if !chosen.zip(offer).is_some_and(|(chosen, offer)| chosen.are_among(offer)) {
                return Answer::Invalid("another protocol");
            }
        } else if head.status < 200 {
            interim += 1;
            continue;
        }
        let content = match head.framing {
            ResponseFraming::Framed(framing) => {
                Content::read(&bytes[at..], framing, Tolerance::Mend)
            }
            ResponseFraming::UntilClose => Content {
                data: bytes[at..].to_vec(),
                extent: if ended { Extent::Whole } else { Extent::Cut },
                is_strict: true,
                used: bytes.len() - at,
            },
            ResponseFraming::Tunnel => {
                Content { data: Vec::new(), extent: Extent::Whole, is_strict: true, used: 0 }
            }
        };
        return Answer::Response(Response {
            head: rest[..end].to_vec(),
            status: head.status,
            framing: head.framing,
            persistent: head.persistent(),
            end: at + content.used,
            content,
            interim,
        });
    }
}

/// Asserts that `sent` has all end-to-end fields of `received`, and nothing meant for one hop.
pub fn assert_request_fields(received: &Request, sent: &Request) {
    let (mut r, mut s) = (Slots::new(), Slots::new());
    // A respelt head may be longer.
    let limits = HeadLimits { max_head_bytes: usize::MAX, ..HeadLimits::default() };
    let received = RequestHead::read(&received.head, &mut r, &limits).expect("read before");
    let sent = RequestHead::read(&sent.head, &mut s, &limits).expect("read before");
    assert_eq!(sent.version, Version::Http11);
    assert_eq!(sent.offer(), received.offer(), "another offer");
    threadgate::wire::hop_by_hop::assert_clean(sent.fields(), sent.framing == Framing::Chunked);
    threadgate::wire::hop_by_hop::assert_kept(received.fields(), sent.fields());
}

/// Asserts that nothing meant for one hop is in a response the client got. If it is the one `received` from
/// upstream, also that everything else is.
pub fn assert_response_fields(received: Option<&Response>, sent: &Response, method: Method) {
    let (mut r_mended, mut s_mended) = (Vec::new(), Vec::new());
    let (mut r, mut s) = (HeadRoom::default(), HeadRoom::default());
    let head = s.read(&sent.head, method, &mut s_mended).expect("read before");
    let may_be = |repair| matches!(repair, Repair::Status | Repair::ManyFields);
    assert!(
        head.repairs.iter().all(may_be),
        "the client got a head that is not in the strict form"
    );
    assert!(sent.content.is_strict, "the client got chunks that are not in the strict form");
    // `HEAD` and 304 announce a coding that no content follows.
    let chunked = head.fields().any(|field| field.known == KnownField::TransferEncoding);
    assert!(!chunked || head.announced_length().is_none(), "framed twice");
    threadgate::wire::hop_by_hop::assert_clean(head.fields(), chunked);
    let may_name_protocols = matches!(head.status, 101 | 426);
    assert!(may_name_protocols || !head.fields().any(|field| field.known == KnownField::Upgrade));
    if let Some(received) = received {
        let received = r.read(&received.head, method, &mut r_mended).expect("read before");
        assert_eq!(head.reason, received.reason);
        threadgate::wire::hop_by_hop::assert_kept(received.fields(), head.fields());
    }
}

/// Room for a response head in any form.
#[derive(Default)]
struct HeadRoom<'b> {
    slots: Slots<'b>,
    more: MoreSlots<'b>,
    scan: HeadScan,
}

impl<'b> HeadRoom<'b> {
    /// Reads the head as the proxy does.
    fn read<'h>(
        &'h mut self,
        head: &'b [u8],
        method: Method,
        mended: &'b mut Vec<u8>,
    ) -> Result<ResponseHead<'h, 'b>, HeadError> {
        let limits = HeadLimits::default();
        find_response_end(head, &mut self.scan, &limits, Leniency::Mend)?;
        let strict = if self.scan.has_bare_lf {
            Err(HeadError::BareLf)
        } else {
            ResponseHead::read(head, &mut self.slots, &limits, method)
        };
        strict.or_else(|error| {
            ResponseHead::read_mended(head, error, mended, &mut self.more, &limits, method)
        })
    }
}

/// Whether this is the proxy's own reply to a failure.
pub fn is_own_failure(response: &Response) -> bool {
    let own = b"\r\nProxy-Status: threadgate; error=";
    response.status >= 400 && response.head.windows(own.len()).any(|window| window == own)
}
