//! Decides which address of a name is tried first (RFC 8305 §4).
//!
//! The resolver sorts addresses by RFC 6724, which puts IPv6 first wherever this machine has a route to it.
//! Here the families are made to alternate, so that a broken family costs one stagger whatever the number
//! of its addresses. If the other family answered last time, it goes first for a while.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long a name's better family is remembered. Then the usual order gets another chance, at the cost of
/// one stagger.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Limit on the names remembered.
const MOST_NAMES: usize = 1024;

/// The same addresses with alternating families, starting with the family of the first. Each family keeps
/// its order.
pub fn alternate(ips: &[IpAddr]) -> Vec<IpAddr> {
    ips.first().map_or_else(Vec::new, |first| alternate_from(ips, first.is_ipv6()))
}

fn alternate_from(ips: &[IpAddr], v6_first: bool) -> Vec<IpAddr> {
    let of = |v6| ips.iter().copied().filter(move |ip| ip.is_ipv6() == v6);
    let (mut one, mut other) = (of(v6_first), of(!v6_first));
    let mut all = Vec::with_capacity(ips.len());
    while all.len() < ips.len() {
        all.extend(one.next());
        all.extend(other.next());
    }
    all
}

/// The names whose usual first family did not answer.
#[derive(Debug, Default)]
pub struct Families {
    /// Whether IPv6 is the better family, and until when.
    better: Mutex<HashMap<Box<str>, (bool, Instant)>>,
    any: AtomicBool,
}

impl Families {
    /// `ips` in the order of trying: unchanged, unless the other family is known to be better.
    pub fn order(&self, host: &str, ips: Arc<[IpAddr]>, now: Instant) -> Arc<[IpAddr]> {
        let Some(first) = ips.first() else { return ips };
        if !self.any.load(Ordering::Relaxed) {
            return ips;
        }
        let better = self.better.lock().get(host).copied();
        match better {
            Some((v6, until)) if until > now && v6 != first.is_ipv6() => {
                alternate_from(&ips, v6).into()
            }
            _ => ips,
        }
    }

    /// Notes that of `ips`, in the order they were tried, `answered` did.
    pub fn note(&self, host: &str, ips: &[IpAddr], answered: IpAddr, now: Instant) {
        let v6 = answered.is_ipv6();
        if ips.first().is_none_or(|first| first.is_ipv6() == v6) {
            return;
        }
        let mut better = self.better.lock();
        if better.len() >= MOST_NAMES {
            better.retain(|_, (_, until)| *until > now);
            if better.len() >= MOST_NAMES {
                better.clear();
            }
        }
        better.insert(host.into(), (v6, now + REMEMBERED));
        self.any.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(text: &str) -> Vec<IpAddr> {
        text.split_whitespace().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn families_alternate_and_each_keeps_its_order() {
        for (found, tried) in [
            ("", ""),
            ("1.1.1.1", "1.1.1.1"),
            ("::1 ::2 ::3 1.1.1.1 1.1.1.2", "::1 1.1.1.1 ::2 1.1.1.2 ::3"),
            ("1.1.1.1 ::1 ::2", "1.1.1.1 ::1 ::2"),
            ("1.1.1.1 1.1.1.2 ::1", "1.1.1.1 ::1 1.1.1.2"),
            ("::1 ::2", "::1 ::2"),
        ] {
            assert_eq!(alternate(&ips(found)), ips(tried), "{found}");
        }
    }

    #[test]
    fn the_family_that_answered_goes_first_for_a_while() {
        let families = Families::default();
        let now = Instant::now();
        let usual: Arc<[IpAddr]> = ips("::1 1.1.1.1 ::2").into();
        let order = |host, at| families.order(host, Arc::clone(&usual), at).to_vec();
        families.note("a", &usual, usual[2], now);
        assert_eq!(order("a", now), *usual, "the first family has answered");
        families.note("a", &usual, usual[1], now);
        assert_eq!(order("a", now), ips("1.1.1.1 ::1 ::2"));
        assert_eq!(order("b", now), *usual, "of another name nothing is known");
        // A success of the other family does not prolong the memory: IPv6 gets another chance.
        let later = now + REMEMBERED - Duration::from_secs(1);
        families.note("a", &order("a", later), usual[1], later);
        assert_eq!(order("a", now + REMEMBERED), *usual);
        // The usual family has come back before that.
        families.note("a", &order("a", now), usual[0], now);
        assert_eq!(order("a", now), *usual);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let families = Families::default();
        let now = Instant::now();
        let usual = ips("::1 1.1.1.1");
        for i in 0..3 * MOST_NAMES {
            families.note(&format!("{i}"), &usual, usual[1], now);
        }
        assert!(families.better.lock().len() <= MOST_NAMES);
    }
}
