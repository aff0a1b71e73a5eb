//! Reads limits: `--limit client:down=10mbit`, `--limit-requests 10/s`.
//!
//! ```text
//! LIMIT = [WHO ":"] [DIRECTION "="] RATE
//! WHO   = connection | client | user | destination | total          each one separately
//!       | client=NETWORK | user=NAME | destination=DESTINATION      only these
//! DIRECTION = up | down                                             both if left out
//! RATE  = 500kbit | 10mbit | 1gbit | 64KiB/s | 1MB/s | 1000B/s
//! ```

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use crate::policy::destination::DestinationPattern;
use crate::policy::limits::{Connections, Direction, Limit, Limits, Per, Requests, Volume, Whose};
use crate::policy::network::Network;
use crate::policy::rule_origin::{Origins, RuleId, RuleSource};

use super::suggestion::nearest;
use super::unusable::Unusable;
use super::{number, size};

/// The lowest rate allowed, in bytes a second: at a lower rate a head would take seconds.
const LEAST_RATE: u64 = 1_000;
/// The highest rate allowed, in bytes a second.
const MOST_RATE: u64 = 100_000_000_000;
/// The smallest volume allowed, in bytes.
const LEAST_VOLUME: u64 = 1_000;
/// The most requests or connections that a limit can name.
const MOST_COUNT: usize = 1_000_000;

/// Limits on rates and numbers: each field holds the values of the option named there.
///
/// ```
/// use threadgate::{AccessOptions, LimitOptions};
///
/// let limits = LimitOptions {
///     limit: vec!["client:down=10mbit".to_owned()],
///     limit_requests: Some("10/s".to_owned()),
///     ..LimitOptions::default()
/// };
/// let access = AccessOptions { limits, ..AccessOptions::default() };
/// access.check()?;
/// # Ok::<(), threadgate::Unusable>(())
/// ```
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LimitOptions {
    /// `--limit`: rates, `[WHO:][up=|down=]RATE`. A rate is `500kbit`, `10mbit` or `1gbit` a second, or
    /// `1000B/s`, `64KiB/s` or `1MB/s`. WHO is `connection`, `client`, `user`, `destination` or `total`;
    /// `client=NETWORK`, `user=NAME` and `destination=DESTINATION` limit only these.
    pub limit: Vec<String>,
    /// `--limit-per`: the WHO of rates that name none; `total` by default.
    pub limit_per: Option<String>,
    /// `--limit-requests`: requests of a client, by the second or minute: `10/s`, `300/m`.
    pub limit_requests: Option<String>,
    /// `--limit-connections`: connections of a client, and of a user, at one time.
    pub limit_connections: Option<String>,
    /// `--max-bytes`: bytes of the whole run, such as `5GB`; afterwards everything is refused.
    pub max_bytes: Option<String>,
}

impl LimitOptions {
    /// Makes the limits of a policy.
    ///
    /// # Errors
    ///
    /// The first option that is wrong, and why.
    pub(crate) fn build(&self, origins: &mut Origins) -> Result<Limits, Unusable> {
        let named = |option: &'static str| move |e: String| Unusable::of(option, e);
        let per = self.limit_per.as_deref().map(parse_per).transpose();
        let per = per.map_err(named("limit-per"))?;
        let rates = self.rates(per, origins)?;
        let mut once = |option: &'static str, text: &Option<String>| {
            let text = text.clone()?;
            Some((RuleId { source: origins.add(RuleSource::Option(option)), line: 0 }, text))
        };
        let requests = once("limit-requests", &self.limit_requests);
        let connections = once("limit-connections", &self.limit_connections);
        let volume = once("max-bytes", &self.max_bytes);
        let requests = requests.map(|(id, text)| parse_requests(&text, id)).transpose();
        let connections = connections
            .map(|(id, text)| Ok(Connections { id, count: parse_connections(&text)? }))
            .transpose();
        let volume = volume
            .map(|(id, text)| Ok(Volume { id, bytes: parse_volume(&text)?, text: text.into() }))
            .transpose();
        Ok(Limits {
            group: 0,
            rates,
            requests: requests.map_err(named("limit-requests"))?,
            connections: connections.map_err(named("limit-connections"))?,
            volume: volume.map_err(named("max-bytes"))?,
        })
    }

    /// The rates of `--limit`, with the default from `--limit-per`.
    fn rates(&self, per: Option<Per>, origins: &mut Origins) -> Result<Vec<Limit>, Unusable> {
        let mut rates: Vec<Limit> = Vec::new();
        if !self.limit.is_empty() {
            let source = origins.add(RuleSource::Option("limit"));
            for (at, (text, line)) in self.limit.iter().zip(1..).enumerate() {
                let wrong = |e: String| Unusable::of("limit", e).value(at);
                let limit = parse_limit(text, per, RuleId { source, line }).map_err(wrong)?;
                if let Some(other) = rates.iter().find(|other| is_same(other, &limit)) {
                    let why = format!(
                        "'{text}' limits what '{}' limits already; give one of them",
                        other.text
                    );
                    return Err(wrong(why).beside(&["limit-per"]));
                }
                rates.push(limit);
            }
        }
        Ok(rates)
    }

    /// Checks that there is a limit for `--limit-per`: one that does not say who it is for.
    ///
    /// # Errors
    ///
    /// There is none, and the value is not the default.
    pub(crate) fn check_per(&self) -> Result<(), Unusable> {
        let Some(per) = self.limit_per.as_deref().filter(|per| *per != Per::Total.word()) else {
            return Ok(());
        };
        if self.limit.iter().any(|limit| !limit.contains(':')) {
            return Ok(());
        }
        let why = format!(
            "no --limit leaves out who it is for; \
             add one, such as --limit 10mbit, or leave --limit-per {per} out"
        );
        Err(Unusable::of("limit-per", why).without(&["limit"]))
    }
}

/// Checks a limit and returns its text.
pub(super) fn checked_limit(text: &str) -> Result<String, String> {
    parse_limit(text, None, RuleId::UNNAMED).map(|_| text.to_owned())
}

/// Checks a value of `--limit-per` and returns its text.
pub(super) fn checked_per(text: &str) -> Result<String, String> {
    parse_per(text).map(|_| text.to_owned())
}

/// Checks a number of requests in a time and returns its text.
pub(super) fn checked_requests(text: &str) -> Result<String, String> {
    parse_requests(text, RuleId::UNNAMED).map(|_| text.to_owned())
}

/// Checks a number of connections and returns its text.
pub(super) fn checked_connections(text: &str) -> Result<String, String> {
    parse_connections(text).map(|_| text.to_owned())
}

/// Checks a number of bytes and returns its text.
pub(super) fn checked_volume(text: &str) -> Result<String, String> {
    parse_volume(text).map(|_| text.to_owned())
}

fn parse_connections(text: &str) -> Result<NonZeroU32, String> {
    parse_count(text, "20")
}

fn parse_volume(text: &str) -> Result<u64, String> {
    size::parse_within(text, LEAST_VOLUME, u64::MAX)
}

fn parse_count(text: &str, example: &str) -> Result<NonZeroU32, String> {
    let count = number::parse_count(text, MOST_COUNT, example)?.get();
    // The count is from 1 to a million.
    Ok(u32::try_from(count).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN))
}

fn parse_per(text: &str) -> Result<Per, String> {
    Per::ALL.into_iter().find(|per| per.word() == text).ok_or_else(|| {
        format!(
            "'{text}' cannot share a rate; \
             give connection, client, user, destination or total"
        )
    })
}

/// Reads a limit; `per` is the WHO of one that names none.
fn parse_limit(text: &str, per: Option<Per>, id: RuleId) -> Result<Limit, String> {
    let (who, rest) = match text.rsplit_once(':') {
        Some((who, rest)) => (Some(who), rest),
        None => (None, text),
    };
    let (per, whose) = match who {
        None => (per.unwrap_or(Per::Total), Whose::Each),
        Some(who) => parse_who(who, rest)?,
    };
    let (direction, rate) = match rest.split_once('=') {
        None => (None, rest),
        Some((word, rate)) => {
            let known = Direction::ALL.into_iter().find(|d| d.word() == word);
            let known = known.ok_or_else(|| {
                format!(
                    "'{word}' in '{text}' is not a direction; give down=RATE, to clients, or up=RATE, \
                     to servers, or RATE for each of the two"
                )
            });
            (Some(known?), rate)
        }
    };
    let rate = NonZeroU64::new(parse_rate(rate)?);
    let rates = Direction::ALL.map(|d| rate.filter(|_| direction.is_none_or(|only| only == d)));
    Ok(Limit { id, per, whose, rates, text: text.into() })
}

fn parse_who(text: &str, rest: &str) -> Result<(Per, Whose), String> {
    let wrong = |_| {
        let meant = meant_who(text, rest);
        format!(
            "'{text}' is not one of connection, client, user, destination and total{}",
            meant.map_or("; give one of them".to_owned(), |meant| format!("; write {meant}"))
        )
    };
    let Some((word, name)) = text.split_once('=') else {
        return Ok((parse_per(text).map_err(wrong)?, Whose::Each));
    };
    let per = parse_per(word).map_err(wrong)?;
    let whose = match per {
        Per::Client => Whose::Network(Network::parse(name)?),
        Per::User if name.is_empty() => {
            return Err("'user=' has no name; give one, such as user=ann:10mbit".to_owned());
        }
        Per::User => Whose::User(name.into()),
        Per::Destination => Whose::Destination(Box::new(DestinationPattern::parse(name)?)),
        Per::Connection | Per::Total => {
            return Err(format!("'{word}' takes no name, so '{name}' is wrong; give {word}:RATE"));
        }
    };
    Ok((per, whose))
}

/// Words that people write for one of ours.
const OTHER_WORDS: [(&str, &str); 6] = [
    ("host", "destination"),
    ("domain", "destination"),
    ("server", "destination"),
    ("ip", "client"),
    ("address", "client"),
    ("all", "total"),
];

/// The limit that was probably meant by one with a wrong WHO: `alice:10mbit`, `down:10mbit`.
fn meant_who(who: &str, rest: &str) -> Option<String> {
    let is_direction = |word: &str| Direction::ALL.into_iter().any(|d| d.word() == word);
    if is_direction(who) {
        return Some(format!("{who}={rest}"));
    }
    if let Some((word, whom)) = who.split_once('=') {
        // The direction stands before the rate.
        return is_direction(word).then(|| format!("{whom}:{word}={rest}"));
    }
    if let Some((word, name)) = who.split_once(':').filter(|(word, _)| parse_per(word).is_ok()) {
        return Some(format!("{word}={name}:{rest}"));
    }
    let other = OTHER_WORDS.into_iter().find(|(word, _)| *word == who).map(|(_, known)| known);
    if let Some(word) = other.or_else(|| nearest(who, Per::ALL.into_iter().map(Per::word))) {
        return Some(format!("{word}:{rest}"));
    }
    let is_network = Network::parse(who).is_ok();
    let is_host = who.contains(['.', '*']) && DestinationPattern::parse(who).is_ok();
    let word = match (is_network, is_host) {
        (true, _) => "client",
        (_, true) => "destination",
        _ => "user",
    };
    Some(format!("{word}={who}:{rest} to limit the {word} {who}"))
}

/// Whether both limit the same WHO in the same direction, so that one of them has no effect.
fn is_same(one: &Limit, other: &Limit) -> bool {
    let written = |limit: &Limit| {
        let who = limit.text.rsplit_once(':').map(|(who, _)| who).unwrap_or_default();
        who.split_once('=').map(|(_, name)| name.to_owned())
    };
    let both = Direction::ALL;
    one.per == other.per
        && written(one) == written(other)
        && both.into_iter().any(|d| one.in_direction(d).and(other.in_direction(d)).is_some())
}

/// Units of rates in bits a second, which may be followed by `/s`.
const BITS: [(&str, u64); 4] =
    [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1_000), ("bit", 1)];

/// Reads a rate, in bytes a second.
fn parse_rate(text: &str) -> Result<u64, String> {
    let advice = "give bits as in 500kbit, 10mbit or 1gbit, or bytes as in 64KiB/s or 1MB/s";
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    if digits.is_empty() {
        return Err(format!("'{text}' is not a rate: there is no number; {advice}"));
    }
    let bits = unit.strip_suffix("/s").unwrap_or(unit);
    let bits = BITS.iter().find(|(name, _)| bits.eq_ignore_ascii_case(name));
    let bytes = match (bits, unit.strip_suffix("/s")) {
        (Some((_, each)), _) => {
            digits.parse::<u64>().ok().and_then(|n| n.checked_mul(*each)).map(|bits| bits / 8)
        }
        (None, Some(unit)) if unit.eq_ignore_ascii_case("b") => digits.parse().ok(),
        (None, Some(unit)) if !unit.is_empty() => match size::parse(&format!("{digits}{unit}")) {
            Ok(bytes) => Some(bytes),
            Err(e) if e.ends_with("too large") => None,
            Err(_) => return Err(format!("'{text}' is not a rate; {advice}")),
        },
        (None, None) if size::parse(text).is_ok() => {
            return Err(format!("'{text}' is a size, not a rate: bytes, or bits? {advice}"));
        }
        _ => return Err(format!("'{text}' is not a rate; {advice}")),
    };
    match bytes {
        Some(bytes) if bytes < LEAST_RATE => {
            Err(format!("'{text}' is too slow; give 8kbit or more, or 1kB/s"))
        }
        Some(bytes) if bytes <= MOST_RATE => Ok(bytes),
        _ => Err(format!("'{text}' is too fast; give at most 800gbit or 100GB/s, or no limit")),
    }
}

fn parse_requests(text: &str, id: RuleId) -> Result<Requests, String> {
    let wrong = || {
        format!(
            "'{text}' is not a number of requests; give one such as 10/s, or 300/m for a minute"
        )
    };
    let (count, period) = text.split_once('/').ok_or_else(wrong)?;
    let period = match period {
        "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        _ => return Err(wrong()),
    };
    let count = parse_count(count, "10/s")?;
    Ok(Requests { id, count, period })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(options: &LimitOptions) -> Result<Limits, String> {
        let built = options.build(&mut Origins::default());
        let checked = built.and_then(|built| options.check_per().map(|()| built));
        checked.map_err(|wrong| wrong.to_string())
    }

    fn limits(texts: &[&str], per: Option<&str>) -> Result<Vec<Limit>, String> {
        let limit = texts.iter().map(|t| (*t).to_owned()).collect();
        let limit_per = per.map(str::to_owned);
        build(&LimitOptions { limit, limit_per, ..LimitOptions::default() }).map(|l| l.rates)
    }

    #[test]
    fn a_rate_is_in_bits_or_in_bytes() {
        for (text, bytes) in [
            ("10mbit", 1_250_000),
            ("500kbit", 62_500),
            ("1Gbit", 125_000_000),
            ("8000bit", 1_000),
            ("10mbit/s", 1_250_000),
            ("1MB/s", 1_000_000),
            ("64KiB/s", 65_536),
            ("64k/s", 65_536),
            ("1000B/s", 1_000),
            ("100GB/s", 100_000_000_000),
        ] {
            assert_eq!(parse_rate(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn a_refused_rate_says_what_to_write() {
        for (text, says) in [
            ("", "'' is not a rate: there is no number; give bits as in 500kbit"),
            ("fast", "there is no number"),
            ("10", "'10' is a size, not a rate: bytes, or bits? give"),
            ("10MB", "is a size, not a rate"),
            ("10mbps", "'10mbps' is not a rate; give"),
            ("1.5mbit", "is not a rate"),
            ("-1mbit", "there is no number"),
            ("10/s", "is not a rate"),
            ("7kbit", "'7kbit' is too slow; give 8kbit or more"),
            ("0mbit", "too slow"),
            ("999B/s", "too slow"),
            ("801gbit", "'801gbit' is too fast; give at most 800gbit"),
            ("99999999999999999999mbit", "too fast"),
            ("99999999999GiB/s", "too fast"),
        ] {
            let error = parse_rate(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_limit_says_who_it_is_for_and_which_way() {
        let rates = |l: &Limit| l.rates.map(|r| r.map_or(0, u64::from));
        for (text, per, expected, up, down) in [
            ("1MB/s", None, Per::Total, 1_000_000, 1_000_000),
            ("1MB/s", Some("client"), Per::Client, 1_000_000, 1_000_000),
            ("down=1MB/s", Some("user"), Per::User, 0, 1_000_000),
            ("connection:up=1MB/s", None, Per::Connection, 1_000_000, 0),
            ("destination:1MB/s", None, Per::Destination, 1_000_000, 1_000_000),
            ("user=ann:up=1MB/s", None, Per::User, 1_000_000, 0),
            ("client=2001:db8::/32:1MB/s", None, Per::Client, 1_000_000, 1_000_000),
            ("client=10.0.0.0/8:down=1MB/s", None, Per::Client, 0, 1_000_000),
            ("destination=.a.example:443:1MB/s", None, Per::Destination, 1_000_000, 1_000_000),
        ] {
            let limits = limits(&[text], per).unwrap();
            assert_eq!((limits[0].per, rates(&limits[0])), (expected, [up, down]), "{text}");
            assert_eq!(&*limits[0].text, text);
        }
        let mixed = limits(&["10mbit", "client:up=1mbit", "user=a:1mbit"], Some("client"));
        assert!(mixed.unwrap_err().contains("limits what '10mbit' limits already"));
        assert!(limits(&["10mbit", "client:up=1mbit", "client=::1:1mbit"], None).is_ok());
        assert!(limits(&["up=10mbit", "down=1mbit"], None).is_ok());
    }

    #[test]
    fn a_refused_limit_says_why() {
        for (texts, per, says) in [
            (
                &["clients:10mbit"][..],
                None,
                "--limit: 'clients' is not one of connection, client, user, destination and total; \
                 write client:10mbit",
            ),
            (&["alice:10mbit"], None, "; write user=alice:10mbit to limit the user alice"),
            (&["user:alice:10mbit"], None, "; write user=alice:10mbit"),
            (
                &["10.0.0.1:up=10mbit"],
                None,
                "; write client=10.0.0.1:up=10mbit to limit the client",
            ),
            (&["2001:db8::1:10mbit"], None, "; write client=2001:db8::1:10mbit"),
            (&["a.example:10mbit"], None, "; write destination=a.example:10mbit to limit"),
            (&["host:10mbit"], None, "; write destination:10mbit"),
            (&["down:10mbit"], None, "; write down=10mbit"),
            (&["down=client:10mbit"], None, "; write client:down=10mbit"),
            (&["x=client:10mbit"], None, "destination and total; give one of them"),
            (
                &["sideways=10mbit"],
                None,
                "--limit: 'sideways' in 'sideways=10mbit' is not a direction",
            ),
            (&["client=a:10mbit"], None, "--limit: 'a' is not a network"),
            (&["destination=a b:10mbit"], None, "--limit: 'a b' is not a destination"),
            (&["total=x:10mbit"], None, "--limit: 'total' takes no name, so 'x' is wrong"),
            (&["user=:10mbit"], None, "--limit: 'user=' has no name"),
            (&["1mbit", "1MB/s"], None, "--limit: '1MB/s' limits what '1mbit' limits already"),
            (&["user=a:1mbit", "user=a:up=1mbit"], None, "limits what 'user=a:1mbit' limits"),
            (&["1mbit"], Some("host"), "--limit-per: 'host' cannot share"),
            (&[], Some("client"), "--limit-per: no --limit leaves out"),
            (&["total:1mbit"], Some("client"), "--limit-per: no --limit leaves"),
        ] {
            let error = limits(texts, per).unwrap_err();
            assert!(error.contains(says), "{texts:?}: {error}");
        }
    }

    #[test]
    fn what_limits_a_request_can_be_asked() {
        use crate::policy::limits::Who;
        let limit = ["client:10mbit", "user=ann:up=1mbit"].map(str::to_owned).into();
        let mut origins = Origins::default();
        let options = LimitOptions { limit, ..LimitOptions::default() };
        let limits = options.build(&mut origins).unwrap();
        let client = [192, 0, 2, 1].into();
        let who = Who { client, user: Some("ann"), host: "a.example", ip: None, port: 80 };
        let said = limits.describe(&who).into_iter();
        let said: Vec<_> = said.map(|a| format!("{}: {}", origins.name(a.id), a.text)).collect();
        let expected = [
            "--limit:1: 10mbit up, and the same down, for client 192.0.2.1",
            "--limit:2: 1mbit up for user ann",
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn requests_connections_and_volume_are_numbers_with_their_units() {
        let text = |text: &str| Some(text.to_owned());
        let options = LimitOptions {
            limit_requests: text("300/m"),
            limit_connections: text("20"),
            max_bytes: text("5GB"),
            ..LimitOptions::default()
        };
        let mut origins = Origins::default();
        let limits = options.build(&mut origins).unwrap();
        let requests = limits.requests.unwrap();
        assert_eq!((requests.count.get(), requests.period.as_secs()), (300, 60));
        let (connections, volume) = (limits.connections.unwrap(), limits.volume.unwrap());
        assert_eq!((connections.count.get(), volume.bytes), (20, 5_000_000_000));
        let ids = [requests.id, connections.id, volume.id];
        let names = ids.map(|id| origins.name(id).to_string());
        assert_eq!(names, ["--limit-requests", "--limit-connections", "--max-bytes"]);
        for (wrong, says) in [
            ("10", "--limit-requests: '10' is not a number of requests; give one such as 10/s"),
            ("10/h", "--limit-requests: '10/h' is not a number of requests"),
            ("0/s", "--limit-requests: '0' is less than 1"),
            ("x/s", "--limit-requests: 'x' is not a number"),
        ] {
            let options = LimitOptions { limit_requests: text(wrong), ..LimitOptions::default() };
            let error = build(&options).unwrap_err();
            assert!(error.starts_with(says), "{error}");
        }
        let few = LimitOptions { limit_connections: text("0"), ..LimitOptions::default() };
        assert!(build(&few).unwrap_err().starts_with("--limit-connections: '0' is less than 1"));
        let small = LimitOptions { max_bytes: text("1"), ..LimitOptions::default() };
        assert!(build(&small).unwrap_err().starts_with("--max-bytes: '1' is too small"));
    }
}
