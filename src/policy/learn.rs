//! `--policy learn`: records the domains reached, as a list that allows them.
//!
//! ```text
//! example.com  # 12 requests, last 2026-11-22T01:02:03Z: example.com:443 www.example.com:80
//! ```
//!
//! A request is recorded under the host it was connected to, not the one it asked for. The name in a
//! tunnel's ClientHello is recorded too, because the enforced list judges it like the CONNECT's. Names
//! are grouped under their registrable domain (by the Public Suffix List), because a site that uses
//! `cdn7.example.com` today uses `cdn8` tomorrow. A name that is itself a public suffix, such as
//! `github.io`, is written as a comment: on a list it would allow the pages of every user of the suffix.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::time::SystemTime;

use jiff::Timestamp;
use parking_lot::Mutex;

/// The number of domains remembered; requests to further ones are only counted. An entry takes some 300
/// bytes, or 2.5 KiB if all of its names are as long as possible.
pub const MOST_DOMAINS: usize = 10_000;
/// The number of `name:port` pairs remembered for each domain.
const MOST_NAMES: usize = 8;
/// The first words of a file that this module wrote.
const MARK: &str = "# threadgate learnt this";

/// The domains reached so far under [`Mode::Learn`](super::verdict::Mode::Learn). Give one clone
/// to [`Options::learnt`](crate::Options::learnt) and keep another. `Display` writes a list that allows
/// these domains; [`read`](Self::read) takes it back, and `AccessOptions::allow_list` can name it.
#[derive(Debug, Default)]
pub struct Learnt(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    domains: BTreeMap<Box<str>, Reached>,
    /// Requests to domains beyond [`MOST_DOMAINS`].
    unlisted: u64,
}

#[derive(Debug, Default)]
struct Reached {
    requests: u64,
    /// Seconds since 1970.
    last: u64,
    names: Vec<Box<str>>,
    /// There were more than [`MOST_NAMES`].
    more: bool,
}

impl Learnt {
    /// Records that a request was connected to this host, a name in lower case or an address, at this
    /// port.
    pub(crate) fn reach(&self, host: &str, port: u16, ip: Option<IpAddr>, now: SystemTime) {
        let domain = group(host, ip);
        let mut table = self.0.lock();
        let Some(reached) = table.entry(&domain) else {
            table.unlisted = table.unlisted.saturating_add(1);
            return;
        };
        reached.requests = reached.requests.saturating_add(1);
        reached.last = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let known = reached.names.iter().any(|name| is_at(name, host, port));
        if !known {
            reached.add_name(&format!("{host}:{port}"));
        }
    }

    /// Takes over the list of an earlier run. The text is empty or was written by this type.
    ///
    /// # Errors
    ///
    /// The text was written by something else, and must not be overwritten.
    pub fn read(&self, text: &str) -> Result<(), NotOurs> {
        if !text.trim().is_empty() && !text.starts_with(MARK) {
            return Err(NotOurs);
        }
        let mut table = self.0.lock();
        for line in text.lines() {
            let commented = line.strip_prefix(ALLOW_IT);
            let (domain, said) = match line.split_once(" # ") {
                Some((domain, said)) => (domain.trim(), said),
                None => (line.trim(), ""),
            };
            let domain = match commented {
                Some(_) => domain.trim_start_matches(ALLOW_IT).trim(),
                None => domain.strip_prefix('.').unwrap_or(domain),
            };
            if domain.is_empty() || domain.starts_with('#') {
                continue;
            }
            let Some(reached) = table.entry(domain) else { continue };
            let (numbers, names) = said.split_once("Z: ").unwrap_or((said, ""));
            let (requests, last) = numbers.split_once(" requests, last ").unwrap_or_default();
            reached.requests = reached.requests.saturating_add(requests.parse().unwrap_or(0));
            let last = format!("{last}Z").parse::<Timestamp>().map_or(0, Timestamp::as_second);
            reached.last = reached.last.max(u64::try_from(last).unwrap_or(0));
            for name in names.split_whitespace() {
                match name {
                    MORE => reached.more = true,
                    name => reached.add_name(name),
                }
            }
        }
        Ok(())
    }

    /// The number of domains.
    pub fn len(&self) -> usize {
        self.0.lock().domains.len()
    }

    /// Whether no domain was reached.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The text is not a list that `--policy learn` wrote.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NotOurs;

impl fmt::Display for NotOurs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the text is not a learnt list: it does not begin with '{MARK}'")
    }
}

impl std::error::Error for NotOurs {}

/// Begins a line for a domain that cannot stand on a list.
const ALLOW_IT: &str = "# give --allow ";
/// Stands behind the names if there were more.
const MORE: &str = "...";

/// The whole file.
impl fmt::Display for Learnt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.0.lock();
        let requests: u64 = table.domains.values().map(|reached| reached.requests).sum();
        writeln!(f, "{MARK}: {} domains, {requests} requests", table.domains.len())?;
        writeln!(f, "# Read it through, then: threadgate --policy enforce --allow-list FILE")?;
        if table.unlisted > 0 {
            let unlisted = table.unlisted;
            writeln!(
                f,
                "# {unlisted} requests went to domains beyond the {MOST_DOMAINS} kept here"
            )?;
        }
        let mut domain_text = String::new();
        for (domain, reached) in &table.domains {
            domain_text.clear();
            let _ = match kind(domain) {
                Kind::Domain => write!(domain_text, "{domain}"),
                Kind::Label => write!(domain_text, ".{domain}"),
                Kind::Suffix => write!(domain_text, "{ALLOW_IT}{domain}"),
            };
            let last = i64::try_from(reached.last).unwrap_or(i64::MAX);
            let last = Timestamp::from_second(last).unwrap_or(Timestamp::UNIX_EPOCH);
            let requests = reached.requests;
            write!(f, "{domain_text:<32} # {requests} requests, last {last}:")?;
            for name in &reached.names {
                write!(f, " {name}")?;
            }
            writeln!(f, "{}", if reached.more { " ..." } else { "" })?;
        }
        Ok(())
    }
}

impl Table {
    /// The entry of a domain; `None` if the table is full.
    fn entry(&mut self, domain: &str) -> Option<&mut Reached> {
        if !self.domains.contains_key(domain) {
            if self.domains.len() >= MOST_DOMAINS {
                return None;
            }
            self.domains.insert(domain.into(), Reached::default());
        }
        self.domains.get_mut(domain)
    }
}

impl Reached {
    fn add_name(&mut self, name: &str) {
        if self.names.iter().any(|known| **known == *name) {
            return;
        }
        if self.names.len() >= MOST_NAMES {
            self.more = true;
            return;
        }
        let place = self.names.partition_point(|known| **known < *name);
        self.names.insert(place, name.into());
    }
}

/// Whether `name` is `host:port`.
fn is_at(name: &str, host: &str, port: u16) -> bool {
    name.strip_prefix(host)
        .and_then(|rest| rest.strip_prefix(':'))
        .is_some_and(|rest| rest.parse() == Ok(port))
}

/// The heading that a host is listed under: its registrable domain, or the host itself if it has none.
fn group(host: &str, ip: Option<IpAddr>) -> String {
    match ip {
        Some(ip) => ip.to_canonical().to_string(),
        None => psl::domain_str(host).unwrap_or(host).to_owned(),
    }
}

enum Kind {
    /// The name covers itself and every name below it.
    Domain,
    /// A name of one label, which lists read as a name only with a leading dot.
    Label,
    /// A public suffix: the names below it have different owners.
    Suffix,
}

fn kind(domain: &str) -> Kind {
    if domain.parse::<IpAddr>().is_ok() || psl::domain_str(domain).is_some() {
        return Kind::Domain;
    }
    match psl::suffix(domain.as_bytes()) {
        Some(suffix) if suffix.is_known() => Kind::Suffix,
        _ => Kind::Label,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn learnt(reached: &[(&str, u16)]) -> Learnt {
        let learnt = Learnt::default();
        for ((host, port), second) in reached.iter().zip(1_763_769_600..) {
            learnt.reach(host, *port, host.parse().ok(), at(second));
        }
        learnt
    }

    #[test]
    fn names_are_grouped_counted_and_sorted() {
        let learnt = learnt(&[
            ("www.example.co.uk", 443),
            ("cdn.example.co.uk", 443),
            ("www.example.co.uk", 80),
            ("www.example.co.uk", 443),
            ("a.github.io", 443),
            ("b.github.io", 443),
            ("github.io", 443),
            ("localhost", 8080),
            ("192.0.2.7", 80),
            ("2001:db8::1", 443),
            ("build.internal.corp", 80),
        ]);
        let expected = "\
# threadgate learnt this: 8 domains, 11 requests
# Read it through, then: threadgate --policy enforce --allow-list FILE
192.0.2.7                        # 1 requests, last 2025-11-22T00:00:08Z: 192.0.2.7:80
2001:db8::1                      # 1 requests, last 2025-11-22T00:00:09Z: 2001:db8::1:443
a.github.io                      # 1 requests, last 2025-11-22T00:00:04Z: a.github.io:443
b.github.io                      # 1 requests, last 2025-11-22T00:00:05Z: b.github.io:443
example.co.uk                    # 4 requests, last 2025-11-22T00:00:03Z: cdn.example.co.uk:443 www.example.co.uk:443 www.example.co.uk:80
# give --allow github.io         # 1 requests, last 2025-11-22T00:00:06Z: github.io:443
internal.corp                    # 1 requests, last 2025-11-22T00:00:10Z: build.internal.corp:80
.localhost                       # 1 requests, last 2025-11-22T00:00:07Z: localhost:8080
";
        assert_eq!(learnt.to_string(), expected);
        // The next run continues the list.
        let next = Learnt::default();
        next.read(expected).unwrap();
        assert_eq!(next.to_string(), expected);
        next.reach("new.example.co.uk", 443, None, at(1_763_856_000));
        next.reach("github.io", 443, None, at(1_763_856_000));
        let text = next.to_string();
        let line = "example.co.uk                    # 5 requests, last 2025-11-23T00:00:00Z: cdn.example.co.uk:443 new.example.co.uk:443 www";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("# give --allow github.io         # 2 requests, "), "{text}");
    }

    #[test]
    fn what_is_not_ours_is_left_alone_and_what_somebody_adds_stays() {
        let learnt = Learnt::default();
        for text in ["example.com\n", "# my list\n", "{}", "\u{feff}# threadgate learnt this"] {
            assert_eq!(learnt.read(text), Err(NotOurs), "{text}");
        }
        for text in ["", "\n \n"] {
            assert_eq!(learnt.read(text), Ok(()));
        }
        assert!(learnt.is_empty());
        let by_hand =
            format!("{MARK}: 1 domains\nadded.example\nodd.example # nobody knows\n# no\n");
        assert_eq!(learnt.read(&by_hand), Ok(()));
        assert_eq!(learnt.len(), 2);
        let never = "added.example                    # 0 requests, last 1970-01-01T00:00:00Z:\n";
        assert!(learnt.to_string().contains(never), "{learnt}");
    }

    #[test]
    fn the_table_is_bounded() {
        let learnt = Learnt::default();
        for n in 0..MOST_DOMAINS + 5 {
            learnt.reach(&format!("www.domain{n}.example"), 443, None, at(1));
        }
        for port in 1..100 {
            learnt.reach("www.domain0.example", port, None, at(2));
        }
        assert_eq!(learnt.len(), MOST_DOMAINS);
        let text = learnt.to_string();
        assert!(text.contains("\n# 5 requests went to domains beyond the 10000 kept here\n"));
        let line = text.lines().find(|line| line.starts_with("domain0.example ")).unwrap();
        assert!(line.contains("# 100 requests") && line.ends_with(" ..."), "{line}");
        assert_eq!(line.matches("www.domain0.example:").count(), MOST_NAMES);
        let again = Learnt::default();
        again.read(&text).unwrap();
        assert!(again.to_string().contains(line), "{line}");
    }
}
