//! Names whose addresses come from options or [`hosts`](super::hosts) files, without asking a resolver.
//!
//! An entry for a port comes before one without, and either before a file. Reading a name costs nothing if
//! no names are given, otherwise a read lock and a look into a table. The thread that asks to read the
//! files again does it, and workers see the old table until the new one is whole.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::RwLock;

use super::hosts::{Hosts, MOST_ADDRESSES, WrongHosts, without_dot};

/// A name with a given address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GivenName {
    /// The name, in lower case and without a dot at the end.
    pub host: Box<str>,
    /// The port it holds for; `None` for all ports without an entry of their own.
    pub port: Option<u16>,
    /// The address.
    pub ip: IpAddr,
}

impl GivenName {
    /// Sends connections for `host` to `ip` without a lookup: those to this port, or to every port without
    /// an entry of its own. Upper case and a dot at the end make no difference. A host that is no host name
    /// (a pattern, a name with its port) has no effect, because no request names it.
    ///
    /// ```
    /// use threadgate::{GivenName, NameOptions};
    ///
    /// let shop = GivenName::new("Shop.example.", Some(443), [127, 0, 0, 1].into());
    /// assert_eq!(&*shop.host, "shop.example");
    /// let names = NameOptions { given: vec![shop], ..NameOptions::default() };
    /// ```
    pub fn new(host: &str, port: Option<u16>, ip: IpAddr) -> Self {
        let host = host.strip_suffix('.').unwrap_or(host);
        Self { host: host.to_ascii_lowercase().into(), port, ip }
    }
}

type ByPort = Vec<(Option<u16>, Arc<[IpAddr]>)>;

/// All names with given addresses.
#[derive(Debug, Default)]
pub struct GivenNames {
    single: HashMap<Box<str>, ByPort>,
    files: Vec<PathBuf>,
    hosts: RwLock<Hosts>,
}

impl GivenNames {
    /// Reads the files, and adds single entries, those of one name in the order of trying. Only the first
    /// 64 entries of a name count.
    ///
    /// # Errors
    ///
    /// A file has a mistake.
    pub fn new(entries: &[GivenName], files: Vec<PathBuf>) -> Result<Self, WrongHosts> {
        let mut single: HashMap<Box<str>, ByPort> = HashMap::new();
        for entry in entries {
            let ports = single.entry(entry.host.clone()).or_default();
            match ports.iter_mut().find(|(port, _)| *port == entry.port) {
                Some((_, ips)) if ips.contains(&entry.ip) || ips.len() >= MOST_ADDRESSES => {}
                Some((_, ips)) => *ips = ips.iter().copied().chain([entry.ip]).collect(),
                None => ports.push((entry.port, Arc::from([entry.ip]))),
            }
        }
        let hosts = RwLock::new(Hosts::read(&files)?);
        Ok(Self { single, files, hosts })
    }

    /// The addresses given for `host`, which is in lower case, in the order of trying.
    pub fn find(&self, host: &str, port: u16) -> Option<Arc<[IpAddr]>> {
        if self.single.is_empty() && self.files.is_empty() {
            return None;
        }
        let host = without_dot(host);
        let single = self.single.get(host).and_then(|ports| {
            let of = |wanted| ports.iter().find(|(port, _)| *port == wanted);
            of(Some(port)).or_else(|| of(None))
        });
        if let Some((_, ips)) = single {
            return Some(Arc::clone(ips));
        }
        // The table is never shared out: the thread that dropped its last reference would have to free it.
        self.hosts.read().find(host).map(Arc::clone)
    }

    /// Whether there is a file to read again.
    pub fn have_files(&self) -> bool {
        !self.files.is_empty()
    }

    /// Reads the files again. Returns how many names they have. Blocks this thread only, for as long as the
    /// disk does.
    ///
    /// # Errors
    ///
    /// One of the files has a mistake. The names read before stay in use.
    pub fn reread(&self) -> Result<usize, WrongHosts> {
        let fresh = Hosts::read(&self.files)?;
        let count = fresh.len();
        let old = std::mem::replace(&mut *self.hosts.write(), fresh);
        // Without the lock, because freeing a long list takes a while.
        drop(old);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn given(host: &str, port: Option<u16>, ip: &str) -> GivenName {
        GivenName { host: host.into(), port, ip: ip.parse().unwrap() }
    }

    #[test]
    fn the_port_comes_before_the_name_and_the_name_before_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hosts");
        fs::write(&file, "192.0.2.7 a.example b.example\n").unwrap();
        let names = GivenNames::new(
            &[
                given("a.example", None, "192.0.2.1"),
                given("a.example", Some(80), "192.0.2.2"),
                given("a.example", None, "2001:db8::1"),
                given("a.example", None, "192.0.2.1"),
            ],
            vec![file.clone()],
        )
        .unwrap();
        let find = |host, port| {
            let ips = names.find(host, port)?;
            Some(ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(find("a.example", 80).as_deref(), Some("192.0.2.2"));
        assert_eq!(find("a.example", 443).as_deref(), Some("192.0.2.1 2001:db8::1"));
        assert_eq!(find("a.example.", 443).as_deref(), Some("192.0.2.1 2001:db8::1"));
        assert_eq!(find("b.example", 80).as_deref(), Some("192.0.2.7"));
        assert_eq!(find("c.example", 80), None);

        fs::write(&file, "192.0.2.8 c.example\n").unwrap();
        assert_eq!(names.reread().unwrap(), 1);
        assert_eq!(find("b.example", 80), None);
        assert_eq!(find("c.example", 80).as_deref(), Some("192.0.2.8"));

        fs::write(&file, "192.0.2.9 c.example\nnonsense\n").unwrap();
        let wrong = names.reread().unwrap_err();
        assert!(wrong.to_string().contains("hosts:2: 'nonsense'"), "{wrong}");
        assert_eq!(find("c.example", 80).as_deref(), Some("192.0.2.8"));
    }
}
