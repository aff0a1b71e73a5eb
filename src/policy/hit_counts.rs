//! Counts how often each rule has decided, for up to 4,096 rules.
//!
//! A rule is counted from its first hit: only lines that matched a request are counted, however long the
//! list is.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::RwLock;

use super::rule_id::RuleId;

/// The number of rules counted singly, 32 bytes each. Hits of later rules count only for their source.
pub const MOST_RULES: usize = 4096;

/// The counts.
#[derive(Debug, Default)]
pub struct Hits {
    table: RwLock<HashMap<RuleId, AtomicU64, BuildHasherDefault<Mixed>>>,
    full: AtomicBool,
}

/// A hash of source and line by multiplication. Both come from the operator, and SipHash would be most of
/// the cost of a hit.
#[derive(Debug, Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32((*byte).into()));
    }

    fn write_u16(&mut self, part: u16) {
        self.write_u32(part.into());
    }

    fn write_u32(&mut self, part: u32) {
        // Two to the 64th over the golden ratio: neighbours land far from each other.
        let mixed = (self.0 ^ u64::from(part)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Hits {
    /// Counts a decision of the rule. A rule without a line is its source, which is counted elsewhere.
    pub fn hit(&self, rule: RuleId) {
        if rule.line == 0 {
            return;
        }
        if let Some(hits) = self.table.read().get(&rule) {
            hits.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if self.full.load(Ordering::Relaxed) {
            return;
        }
        let mut table = self.table.write();
        if table.len() >= MOST_RULES && !table.contains_key(&rule) {
            self.full.store(true, Ordering::Relaxed);
            return;
        }
        *table.entry(rule).or_default().get_mut() += 1;
    }

    /// All rules with hits, in no order.
    pub fn all(&self) -> Vec<(RuleId, u64)> {
        let table = self.table.read();
        table.iter().map(|(rule, hits)| (*rule, hits.load(Ordering::Relaxed))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_counted_by_their_line_up_to_a_bound() {
        let (hits, most) = (Hits::default(), u32::try_from(MOST_RULES).unwrap());
        for line in (0..most + 10).chain([0, 7, 7, most + 3]) {
            hits.hit(RuleId { source: 5, line });
        }
        let all = hits.all();
        assert_eq!(all.len(), MOST_RULES);
        let of = |line| all.iter().find(|(rule, _)| rule.line == line).map(|(_, hits)| *hits);
        assert_eq!(
            [0, 1, 7, most, most + 1, most + 3].map(of),
            [None, Some(1), Some(3), Some(1), None, None]
        );
    }
}
