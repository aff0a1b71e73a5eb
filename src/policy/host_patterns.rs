//! Finds the patterns of lists that match a host: names with `*`, open ends, and regular expressions.
//!
//! Each pattern has a piece of text that every host it matches contains. One automaton (Aho and Corasick's) finds
//! these pieces in one pass over the host. Only patterns whose piece occurs are compared. All automata are
//! made in advance, so the time for a host depends on its length and on the number of patterns that share
//! its text, and never on what was asked before.

mod glob;

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::fmt;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use regex_automata::dfa::Automaton as _;
use regex_automata::dfa::dense::{self, DFA};
use regex_automata::nfa::thompson;
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input};

use super::domains::Rank;
use super::pattern_literals::Literal;
use glob::Glob;

pub use glob::NoPattern;
pub(super) use glob::without_end;

/// The most patterns of all lists together.
pub const MOST_PATTERNS: usize = 250_000;
/// The most memory for one regular expression, in bytes.
const REGEX_BYTES: usize = 1 << 20;
/// The most memory for all patterns together, without the automaton of their pieces, in bytes.
pub const MOST_PATTERN_BYTES: usize = 64 << 20;

/// A pattern over hosts.
#[derive(Clone)]
pub struct HostPattern {
    matcher: Matcher,
    /// As the list has it, in lower case and without options.
    text: Box<[u8]>,
    /// Hosts with these names are not matched, and neither are those below them.
    except: Box<[Box<[u8]>]>,
}

#[derive(Clone)]
enum Matcher {
    Glob(Glob),
    Regex(Box<DFA<Vec<u32>>>),
}

impl HostPattern {
    /// A pattern of an adblock rule, such as `||ads*.example^`.
    ///
    /// # Errors
    ///
    /// No host, or almost every host, would match.
    pub(super) fn glob(pattern: &[u8], except: Vec<Box<[u8]>>) -> Result<Self, NoPattern> {
        let text = pattern.to_ascii_lowercase().into_boxed_slice();
        let glob = Glob::read(&text, !except.is_empty())?;
        Ok(Self { matcher: Matcher::Glob(glob), text, except: except.into() })
    }

    /// A regular expression that may match anywhere in a host.
    ///
    /// # Errors
    ///
    /// It cannot be compiled, or not within its bounds.
    pub(super) fn regex(pattern: &[u8], except: Vec<Box<[u8]>>) -> Result<Self, NoPattern> {
        let pattern = std::str::from_utf8(pattern).map_err(|_| NoPattern::Regex)?;
        let config = dense::Config::new()
            .dfa_size_limit(Some(REGEX_BYTES))
            .determinize_size_limit(Some(REGEX_BYTES));
        let dfa = dense::Builder::new()
            .configure(config)
            .syntax(regex_syntax())
            .thompson(thompson::Config::new().utf8(false).nfa_size_limit(Some(REGEX_BYTES)))
            .build(pattern)
            .map_err(|_| NoPattern::Regex)?;
        let text = format!("/{pattern}/").into_bytes().into_boxed_slice();
        Ok(Self { matcher: Matcher::Regex(Box::new(dfa)), text, except: except.into() })
    }

    /// Whether the pattern matches a host in lower case.
    pub fn matches(&self, host: &str) -> bool {
        let is_match = match &self.matcher {
            Matcher::Glob(glob) => glob.matches(host.as_bytes()),
            Matcher::Regex(dfa) => {
                let input = Input::new(host).earliest(true).anchored(Anchored::No);
                // It gives up nowhere, because all bytes have transitions.
                dfa.try_search_fwd(&input).is_ok_and(|found| found.is_some())
            }
        };
        is_match && !self.except.iter().any(|name| is_at_or_below(host.as_bytes(), name))
    }

    /// The pattern as its list has it, in lower case and without options.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    fn spelling(&self) -> (&[u8], &[Box<[u8]>]) {
        (&self.text, &self.except)
    }

    /// Memory in use for its automaton, in bytes.
    pub fn bytes(&self) -> usize {
        let automaton = match &self.matcher {
            Matcher::Glob(_) => 0,
            Matcher::Regex(dfa) => dfa.memory_usage(),
        };
        size_of::<Self>() + self.text.len() + automaton
    }

    /// The text that each host matched contains, in lower case; empty if there is none.
    fn literal(&self) -> Vec<u8> {
        match &self.matcher {
            Matcher::Glob(glob) => glob.longest().to_vec(),
            Matcher::Regex(_) => {
                let inner = self.text.get(1..self.text.len() - 1).unwrap_or_default();
                let parsed = std::str::from_utf8(inner)
                    .ok()
                    .and_then(|text| syntax::parse_with(text, &regex_syntax()).ok());
                match parsed.map(|hir| Literal::of(&hir)) {
                    Some(Literal::Whole(bytes) | Literal::Piece(bytes)) => {
                        bytes.iter().map(|(byte, _)| byte.to_ascii_lowercase()).collect()
                    }
                    Some(Literal::None) | None => Vec::new(),
                }
            }
        }
    }
}

/// Hosts are ASCII, and in lower case.
fn regex_syntax() -> syntax::Config {
    syntax::Config::new().unicode(false).utf8(false).case_insensitive(true)
}

/// Whether a host is this name or below it.
fn is_at_or_below(host: &[u8], name: &[u8]) -> bool {
    let above = host.strip_suffix(name);
    above.is_some_and(|rest| rest.is_empty() || rest.ends_with(b"."))
}

impl fmt::Debug for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.text))
    }
}

/// A pattern with what its list says about the hosts.
#[derive(Clone, Debug)]
pub struct ListedPattern {
    /// The pattern.
    pub pattern: HostPattern,
    /// The verdict.
    pub rank: Rank,
    /// The line, counted through all lists.
    pub line: u32,
}

/// The reason for which a pattern decides nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unused {
    /// A rule with `$badfilter` is spelled like it.
    SwitchedOff,
    /// It stands on another line or in another list, too.
    Same,
    /// The same pattern has a higher rank elsewhere.
    Overruled,
}

/// The patterns of all lists.
#[derive(Debug, Default)]
pub struct HostPatterns {
    /// Those that decide first come first.
    all: Vec<ListedPattern>,
    literals: Option<AhoCorasick>,
    /// For each literal the patterns it belongs to, in order.
    uses: Vec<Vec<u32>>,
    /// Patterns without a literal.
    always: Vec<u32>,
    bytes: usize,
}

impl HostPatterns {
    /// Makes a set of these patterns, without those in `off`. `unused` is told the line of each that is
    /// left out, and why.
    ///
    /// # Errors
    ///
    /// A sentence: they are too large together.
    pub fn new(
        mut all: Vec<ListedPattern>,
        off: &[(HostPattern, Rank)],
        mut unused: impl FnMut(u32, Unused),
    ) -> Result<Self, String> {
        let mut keep = |it: &ListedPattern, reason: Option<Unused>| {
            reason.into_iter().for_each(|reason| unused(it.line, reason));
            reason.is_none()
        };
        if !off.is_empty() {
            let off: HashSet<_> = off.iter().map(|(off, rank)| (off.spelling(), *rank)).collect();
            all.retain(|it| {
                let is_off = off.contains(&(it.pattern.spelling(), it.rank));
                keep(it, is_off.then_some(Unused::SwitchedOff))
            });
        }
        all.sort_by_key(|it| (Reverse(it.rank), it.line));
        let mut known = HashMap::new();
        let reasons: Vec<_> = all
            .iter()
            .map(|it| {
                let first = *known.entry(it.pattern.spelling()).or_insert((it.rank, it.line));
                match first {
                    (_, line) if line == it.line => None,
                    (rank, _) if rank == it.rank => Some(Unused::Same),
                    _ => Some(Unused::Overruled),
                }
            })
            .collect();
        let mut reasons = reasons.into_iter();
        all.retain(|it| keep(it, reasons.next().flatten()));
        let mut numbers = HashMap::new();
        let mut set = Self::default();
        let mut texts: Vec<Vec<u8>> = Vec::new();
        for (number, it) in (0_u32..).zip(&all) {
            let literal = it.pattern.literal();
            if literal.is_empty() {
                set.always.push(number);
                continue;
            }
            let at = *numbers.entry(literal).or_insert_with_key(|literal| {
                texts.push(literal.clone());
                texts.len() - 1
            });
            set.uses.resize_with(texts.len(), Vec::new);
            set.uses.get_mut(at).into_iter().for_each(|uses| uses.push(number));
        }
        if !texts.is_empty() {
            let automaton = AhoCorasick::builder()
                .match_kind(MatchKind::Standard)
                .kind(Some(AhoCorasickKind::ContiguousNFA))
                .build(&texts);
            let automaton = automaton.map_err(|e| format!("the patterns of the lists: {e}"))?;
            set.bytes = automaton.memory_usage();
            set.literals = Some(automaton);
        }
        set.bytes += all.iter().map(|it| it.pattern.bytes()).sum::<usize>();
        set.all = all;
        Ok(set)
    }

    /// The pattern that decides about a host in lower case.
    pub fn find(&self, host: &str) -> Option<&ListedPattern> {
        if self.all.is_empty() {
            return None;
        }
        let mut best = self.first_of(&self.always, u32::MAX, host);
        if let Some(literals) = &self.literals {
            for found in literals.find_overlapping_iter(host) {
                let uses = self.uses.get(found.pattern().as_usize());
                let before = best.unwrap_or(u32::MAX);
                best = uses.and_then(|uses| self.first_of(uses, before, host)).or(best);
            }
        }
        self.all.get(best? as usize)
    }

    /// The first of these patterns that matches, if it is before another.
    fn first_of(&self, numbers: &[u32], before: u32, host: &str) -> Option<u32> {
        let numbers = numbers.iter().copied().take_while(|number| *number < before);
        let matches = |number: &u32| {
            self.all.get(*number as usize).is_some_and(|it| it.pattern.matches(host))
        };
        numbers.into_iter().find(matches)
    }

    /// The number of patterns.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Memory in use, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests;
