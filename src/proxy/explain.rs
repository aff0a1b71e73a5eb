//! What the proxy would do with a request, without doing it: by the functions that do it.

use std::net::IpAddr;
use std::sync::Arc;

use crate::error::Error;
use crate::policy::decide::{Decision, Reach, Rules};
use crate::policy::limits::{Applied, Limits, Who};
use crate::policy::rules::Way;
use crate::policy::trace::{Note, Outcome, Step, Trace};
use crate::wire::{self, RequestHead, Slots, Target};

use super::access::described;
use super::exchange::Destination;
use super::request::{aim, refused};

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// Who it says it is; taken to be proven, if there is such a user.
    pub user: Option<&'a str>,
}

/// What was decided before an address is known.
#[derive(Debug)]
pub struct Explained {
    /// Each step, in order.
    pub notes: Vec<Note>,
    /// What it came to.
    pub decision: Decision,
    /// How the request goes.
    pub way: Way,
    /// `host:port`.
    pub authority: String,
    /// The host, without brackets.
    pub host: String,
    /// The host, if it is an address.
    pub ip: Option<IpAddr>,
    /// The port.
    pub port: u16,
    /// What limits it.
    pub limits: Vec<Applied>,
    reach: Reach,
}

/// Explains what becomes of the request whose head is `octets`.
///
/// # Errors
///
/// It is none that could be forwarded.
pub fn explain(
    octets: &[u8],
    asking: Asking<'_>,
    rules: &Arc<Rules>,
    limits: Option<&Arc<Limits>>,
) -> Result<Option<Explained>, Error> {
    let mut slots = Slots::new();
    let head = RequestHead::read(octets, &mut slots, &wire::Limits::default()).map_err(refused)?;
    if matches!(head.target, Target::Origin(_) | Target::Asterisk) {
        return Ok(None);
    }
    let mut destination = Destination::default();
    let (way, _) = aim(&head, &mut destination)?;
    let user = asking.user.unwrap_or_default();
    let request = described(&head, way, asking.client, &destination, user);
    let (mut notes, mut reach) = (Vec::new(), Reach::default());
    let decision = match &rules.auth {
        Some(auth) if !asking.user.is_some_and(|user| auth.has_user(user)) => {
            rules.decide_unproven(&request, &mut reach, &mut notes)
        }
        _ => rules.decide_traced(&request, &mut reach, &mut notes),
    };
    if way == Way::Connect && rules.judge_hellos() {
        notes.note(|| later("the name with which TLS begins in the tunnel will be judged, too"));
    }
    if way != Way::Connect && !rules.responses.is_empty() {
        notes.note(|| later("media type and size of the response will be judged, too"));
    }
    let who = Who {
        client: request.client,
        user: request.user,
        host: request.host,
        ip: request.ip,
        port: request.port,
    };
    let limits = limits.map(|limits| limits.describe(&who)).unwrap_or_default();
    let (host, ip, port) = (request.host.to_owned(), destination.ip, destination.port);
    let authority = destination.authority;
    Ok(Some(Explained { notes, decision, way, authority, host, ip, port, limits, reach }))
}

impl Explained {
    /// Whether it may be connected to this address.
    pub fn judge(&mut self, ip: IpAddr) -> Decision {
        self.reach.judge_traced(ip, self.port, &mut self.notes)
    }
}

fn later(said: &str) -> Note {
    Note { step: Step::Filter, outcome: Outcome::Goes, rule: None, said: said.to_owned() }
}
