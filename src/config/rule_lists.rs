//! Reads the lists that rules name.

use std::sync::Arc;

use super::lists::{self, Lists, Priority};
use super::unusable::Unusable;
use crate::policy::list_format::ListOptions;
use crate::policy::lists::Filter;
use crate::policy::rule_origin::Origins;

/// The lists of rules. Rules that name the same files share what was read.
#[derive(Debug)]
pub(super) struct RuleLists {
    priority: Priority,
    known: Vec<(Vec<String>, ListOptions, Arc<Filter>)>,
}

impl RuleLists {
    pub(super) fn new(priority: Priority) -> Self {
        Self { priority, known: Vec::new() }
    }

    pub(super) fn priority(&self) -> Priority {
        self.priority
    }

    pub(super) fn read(
        &mut self,
        files: &[String],
        options: ListOptions,
    ) -> Result<Option<Arc<Filter>>, Unusable> {
        let known = self.known.iter().find(|(known, how, _)| known == files && *how == options);
        if let Some((.., filter)) = known {
            return Ok(Some(Arc::clone(filter)));
        }
        // Counts and logs name the rule, not the lines of its lists.
        let mut origins = Origins::default();
        let filter =
            lists::read(Lists { block: files, allow: &[], options }, self.priority, &mut origins)?;
        self.known
            .extend(filter.iter().map(|filter| (files.to_vec(), options, Arc::clone(filter))));
        Ok(filter)
    }
}
