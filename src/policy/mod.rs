//! Decides who may do what: in one place and a fixed order, and every answer carries its reason.
//!
//! A [`Policy`] is a value that never changes. A reload makes another one, which the workers pick up
//! between two turns.
//!
//! In reading order:
//!
//! - A rule: [`network`] and [`destination`] (the addresses and hosts it names), [`rules`] (the rule
//!   itself), `rule_id` and [`rule_origin`] (its source), [`hit_counts`] (its hits), [`rule_index`]
//!   (finds it among many).
//! - Other things that decide: [`request_bounds`] (bounds before every rule); [`url_rules`] and
//!   [`response_rules`] (rules on messages), which search with [`patterns`], `pattern_literals` and
//!   [`search_effort`]; [`list_format`], [`domains`] and [`lists`] (lists of domains);
//!   [`protected_mode`] (holds without a rule); [`auth`] (checks users).
//! - The decision: [`access`] (all of this as configured), [`verdict`] (the possible results),
//!   [`decide`] (the steps in order), [`sni`] (the same for the name in a tunnel), [`trace`] (records
//!   the steps), [`deny_with`] (the answer), [`learn`] (the hosts reached).
//! - How much and how fast: [`limits`] (as configured), and [`bucket`], [`tally`] and [`shape`] (keep
//!   the counts).

pub mod access;
pub mod auth;
pub mod bucket;
pub mod decide;
pub mod deny_with;
pub mod destination;
pub mod domains;
pub mod hit_counts;
pub mod host_patterns;
pub mod learn;
pub mod limits;
pub mod list_draft;
pub mod list_format;
pub mod list_report;
pub mod lists;
pub mod network;
mod pattern_literals;
pub mod patterns;
pub mod protected_mode;
pub mod request_bounds;
pub mod response_rules;
mod rule_id;
pub mod rule_index;
pub mod rule_origin;
pub mod rules;
pub mod search_effort;
pub mod shape;
pub mod sni;
pub mod tally;
pub mod trace;
pub mod url_rules;
pub mod verdict;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use decide::Rules;
use limits::Limits;
use protected_mode::Scope;
use rule_index::Ruleset;
use rule_origin::Origins;

pub use access::{Access, Own};

impl Access {
    /// Keeps users that are the same as before, so that their verified passwords stay remembered.
    pub(crate) fn keep_users(&mut self, before: &Policy) {
        let own = self.own.iter_mut().map(|(_, own)| &mut own.access.auth);
        for auth in own.chain([&mut self.auth]).flatten() {
            let mut known = before.listeners.iter().filter_map(|rules| rules.auth.as_ref());
            if let Some(same) = known.find(|known| known.is_same(auth)) {
                *auth = Arc::clone(same);
            }
        }
    }

    /// The policy for listeners at these addresses. `open` lifts protected mode, except on listeners
    /// with settings of their own.
    pub(crate) fn policy(&self, listen: &[SocketAddr], open: bool) -> Policy {
        let rules = Arc::new(Ruleset::new(self.rules.clone()));
        let listeners = (0..).zip(listen).map(|(number, address): (u16, _)| {
            match self.own.iter().find(|(of, _)| *of == number) {
                Some((_, Own { open, access, .. })) => {
                    let rules = Arc::new(Ruleset::new(access.rules.clone()));
                    access.rules(rules, address.ip(), *open)
                }
                None => self.rules(Arc::clone(&rules), address.ip(), open),
            }
        });
        let own = |number: u16| self.own.iter().find(|(of, _)| *of == number).map(|(_, own)| own);
        let common = self.limits.in_group(0, None);
        let limits = (0..).zip(listen).map(|(number, _)| match own(number) {
            Some(own) if own.shares_limits => common.clone(),
            // The volume of the run is one number for all listeners.
            Some(own) => own.access.limits.in_group(number.saturating_add(1), Some(&self.limits)),
            None => common.clone(),
        });
        Policy {
            listeners: listeners.collect(),
            origins: self.origins.clone(),
            limits: limits.collect(),
        }
    }

    /// The rules of a listener.
    fn rules(&self, rules: Arc<Ruleset>, address: IpAddr, open: bool) -> Arc<Rules> {
        Arc::new(Rules::new(Scope::of(address, open), rules, self))
    }
}

/// The policy in force: everything that decisions depend on, for all listeners.
///
/// The value is opaque. `AccessOptions::build` takes it, so that unchanged rules keep their hits and
/// unchanged users need not be verified again.
#[derive(Debug, Default)]
pub struct Policy {
    /// The sources of the rules.
    pub(crate) origins: Origins,
    /// The rules of each listener, by its number.
    pub(crate) listeners: Vec<Arc<Rules>>,
    /// The limits of each listener, by its number; `None` limits nothing.
    pub(crate) limits: Vec<Option<Arc<Limits>>>,
}

impl Policy {
    /// The rules of a listener.
    pub(crate) fn of(&self, listener: u16) -> Option<&Arc<Rules>> {
        self.listeners.get(usize::from(listener))
    }

    /// The limits of a listener, if it has any.
    pub(crate) fn limits(&self, listener: u16) -> Option<&Arc<Limits>> {
        self.limits.get(usize::from(listener))?.as_ref()
    }
}

/// The policy in force. It is replaced as a whole. Its users keep a reference of their own and check
/// now and then whether it was replaced.
#[derive(Debug)]
pub struct Current {
    policy: Mutex<Arc<Policy>>,
    version: AtomicU64,
}

impl Current {
    /// Puts this policy in force.
    pub fn new(policy: Policy) -> Self {
        Self { policy: Mutex::new(Arc::new(policy)), version: AtomicU64::new(0) }
    }

    /// The policy in force now.
    pub fn get(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.lock())
    }

    /// Puts another policy in force and returns the one before, which followers release at their next
    /// check. Dropping the last reference takes a while if the policy has long lists.
    pub fn set(&self, policy: Policy) -> Arc<Policy> {
        let old = std::mem::replace(&mut *self.policy.lock(), Arc::new(policy));
        self.version.fetch_add(1, Ordering::Release);
        old
    }

    /// A reference to the policy in force, to follow it with.
    pub fn follow(&self) -> Followed {
        let version = self.version.load(Ordering::Acquire);
        Followed { version, policy: self.get() }
    }
}

/// One thread's reference to the policy in force. A check for a new policy costs one read.
#[derive(Debug)]
pub struct Followed {
    version: u64,
    policy: Arc<Policy>,
}

impl Followed {
    /// Takes the new policy if there is one.
    pub fn refresh(&mut self, current: &Current) {
        if self.is_stale(current) {
            *self = current.follow();
        }
    }

    /// Whether there is a new policy.
    pub fn is_stale(&self, current: &Current) -> bool {
        current.version.load(Ordering::Acquire) != self.version
    }

    /// The policy.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }
}

#[cfg(test)]
mod tests {
    use super::auth::Auth;
    use super::verdict::Mode;
    use super::*;

    #[test]
    fn users_who_are_the_same_stay_the_ones_they_are() {
        use auth::password_hash::Hash;
        use auth::{Plain, Secret};
        let hashed = |letter: &str| {
            let text =
                format!("$2y$04$6DZGgZdPqZ1JpVIsWwCaxuw/xe/wCZYhmeWs4c2MyZpXAUFT2uWy{letter}");
            ("h", Secret::Hashed(Hash::parse(&text).unwrap()))
        };
        let plain = |name, password: &str| (name, Secret::Plain(Plain(password.into())));
        let auth = |users: Vec<(&str, Secret)>, realm: &str| {
            let users = users.into_iter().map(|(name, secret)| (name.into(), secret));
            Some(Arc::new(Auth::new(users, realm)))
        };
        let before =
            Access { auth: auth(vec![hashed("S"), plain("p", "1")], "r"), ..Access::default() };
        let listen = ["127.0.0.1:1".parse().unwrap()];
        let old = before.policy(&listen, false);
        let kept = |new: Option<Arc<Auth>>| {
            let own = Access { auth: new.clone(), ..Access::default() };
            let own = vec![(1, Own { access: own, ..Own::default() })];
            let mut access = Access { auth: new, own, ..Access::default() };
            access.keep_users(&old);
            let is_old = |auth: &Option<Arc<Auth>>| {
                Arc::ptr_eq(auth.as_ref().unwrap(), before.auth.as_ref().unwrap())
            };
            assert_eq!(is_old(&access.auth), is_old(&access.own[0].1.access.auth));
            is_old(&access.auth)
        };
        assert!(kept(auth(vec![plain("p", "1"), hashed("S")], "r")), "in another order");
        for (users, realm) in [
            (vec![hashed("S"), plain("p", "1")], "another"),
            (vec![hashed("S"), plain("p", "2")], "r"),
            (vec![hashed("S"), plain("q", "1")], "r"),
            (vec![hashed("O"), plain("p", "1")], "r"),
            (vec![hashed("S")], "r"),
            (vec![plain("h", "1"), plain("p", "1")], "r"),
        ] {
            assert!(!kept(auth(users, realm)));
        }
        let mut nobody = Access::default();
        nobody.keep_users(&old);
        assert!(nobody.auth.is_none());
    }

    #[test]
    fn users_from_anywhere_may_come_where_users_have_to_prove_it() {
        use super::verdict::Verdict;
        // A documentation address stands in for a public one.
        let address = "203.0.113.9".parse().unwrap();
        let rules = |auth| {
            let access = Access { auth, ..Access::default() };
            let policy = access.policy(&["0.0.0.0:1".parse().unwrap()], false);
            Arc::clone(policy.of(0).unwrap())
        };
        assert!(matches!(rules(None).decide_client(address).verdict, Verdict::Deny(_)));
        let secret = auth::Secret::Plain(auth::Plain("b".into()));
        let lifted = rules(Some(Arc::new(Auth::new([("a".into(), secret)], "test"))));
        assert_eq!(lifted.decide_client(address).verdict, Verdict::Allow);
        // The destination is still guarded.
        assert!(lifted.scope.forbids("10.0.0.1".parse().unwrap()).is_some());
    }

    #[test]
    fn a_listener_has_its_own_access_or_that_of_all() {
        let enforcing = Access { mode: Mode::Enforce, ..Access::default() };
        let own = Own { open: true, shares_limits: true, access: enforcing };
        let access = Access { own: vec![(1, own)], ..Access::default() };
        let listen = ["0.0.0.0:1", "0.0.0.0:2", "127.0.0.1:3"].map(|a| a.parse().unwrap());
        let policy = access.policy(&listen, false);
        let of = |number| policy.of(number).map(|rules| (rules.scope, rules.mode));
        assert_eq!(of(0), Some((Scope::Protected, Mode::Open)));
        assert_eq!(of(1), Some((Scope::Unrestricted, Mode::Enforce)));
        assert_eq!(of(2), Some((Scope::Unrestricted, Mode::Open)));
        assert_eq!(of(3), None);
    }
}
