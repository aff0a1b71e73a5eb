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
pub const MOST_PATTERNS: usize = 100_000;
/// The most of them that have no piece of text, so that each is compared with every host.
const MOST_ALWAYS: usize = 2000;
/// The most memory for the automaton of one regular expression, in bytes.
const REGEX_BYTES: usize = 256 << 10;
/// The most memory for all of them together, in bytes. One that does not fit into its own bound counts with it,
/// because the time to find that out is spent.
const MOST_REGEX_BYTES: usize = 64 << 20;

/// A pattern over hosts.
#[derive(Clone)]
pub struct HostPattern {
    matcher: Matcher,
    /// As the list has it, without options; in lower case, but for a regular expression.
    text: Box<[u8]>,
    /// The text that each host matched contains, in lower case; empty if there is none.
    literal: Box<[u8]>,
    /// Hosts with these names are not matched, and neither are those below them.
    except: Box<[Box<[u8]>]>,
}

#[derive(Clone)]
enum Matcher {
    Glob(Glob),
    /// The automaton is made when the pattern is put into a set.
    Regex(Option<Box<DFA<Vec<u32>>>>),
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
        let literal = glob.longest().into();
        Ok(Self { matcher: Matcher::Glob(glob), text, literal, except: except.into() })
    }

    /// A regular expression that may match anywhere in a host. It is only parsed.
    ///
    /// # Errors
    ///
    /// It is not one, or every host would match.
    pub(super) fn regex(pattern: &[u8], except: Vec<Box<[u8]>>) -> Result<Self, NoPattern> {
        let pattern = std::str::from_utf8(pattern).map_err(|_| NoPattern::Regex)?;
        let hir = syntax::parse_with(pattern, &regex_syntax()).map_err(|_| NoPattern::Regex)?;
        let literal = match Literal::of(&hir) {
            Literal::Whole(bytes) | Literal::Piece(bytes) => {
                bytes.iter().map(|(byte, _)| byte.to_ascii_lowercase()).collect()
            }
            Literal::None => Box::default(),
        };
        let text = format!("/{pattern}/").into_bytes().into_boxed_slice();
        Ok(Self { matcher: Matcher::Regex(None), text, literal, except: except.into() })
    }

    /// The automaton of a regular expression.
    ///
    /// # Errors
    ///
    /// It is too large, or every host would match.
    fn compiled(&self) -> Result<DFA<Vec<u32>>, NoPattern> {
        let inner = self.text.get(1..self.text.len() - 1).unwrap_or_default();
        let pattern = std::str::from_utf8(inner).map_err(|_| NoPattern::Regex)?;
        let config = dense::Config::new()
            .dfa_size_limit(Some(REGEX_BYTES))
            .determinize_size_limit(Some(REGEX_BYTES));
        let dfa = dense::Builder::new()
            .configure(config)
            .syntax(regex_syntax())
            .thompson(thompson::Config::new().utf8(false).nfa_size_limit(Some(REGEX_BYTES)))
            .build(pattern)
            .map_err(|_| NoPattern::Regex)?;
        let is_general = ANY_HOSTS.iter().all(|host| is_found(&dfa, host));
        if is_general { Err(NoPattern::General) } else { Ok(dfa) }
    }

    /// Checks that it can be put into a set.
    ///
    /// # Errors
    ///
    /// It is a regular expression that is too large, or that every host matches.
    pub fn check(&self) -> Result<(), NoPattern> {
        match &self.matcher {
            Matcher::Regex(None) => self.compiled().map(drop),
            Matcher::Glob(_) | Matcher::Regex(Some(_)) => Ok(()),
        }
    }

    /// Whether the pattern matches a host in lower case.
    pub fn matches(&self, host: &str) -> bool {
        let is_match = match &self.matcher {
            Matcher::Glob(glob) => glob.matches(host.as_bytes()),
            Matcher::Regex(Some(dfa)) => is_found(dfa, host),
            // Not in a set: a person asks.
            Matcher::Regex(None) => self.compiled().is_ok_and(|dfa| is_found(&dfa, host)),
        };
        is_match && !self.except.iter().any(|name| is_at_or_below(host.as_bytes(), name))
    }

    /// The pattern as its list has it, without options.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The name that hosts have at the pattern's place, if it begins with a label: `com` of `||com`.
    pub fn begins_with(&self) -> Option<&[u8]> {
        let starts: [&[u8]; 3] = [b"||", b"*.", b"."];
        let name = starts.iter().find_map(|start| self.text.strip_prefix(*start))?;
        let (name, _) = without_end(name);
        (matches!(self.matcher, Matcher::Glob(_)) && self.except.is_empty()).then_some(name)
    }

    fn spelling(&self) -> (&[u8], &[Box<[u8]>]) {
        (&self.text, &self.except)
    }

    /// Memory in use, in bytes.
    fn bytes(&self) -> usize {
        let automaton = match &self.matcher {
            Matcher::Regex(Some(dfa)) => dfa.memory_usage(),
            Matcher::Glob(_) | Matcher::Regex(None) => 0,
        };
        size_of::<Self>() + self.text.len() + self.literal.len() + automaton
    }
}

/// Hosts that have nothing in common.
const ANY_HOSTS: [&str; 4] = ["a.example", "qz-7.test", "192.0.2.1", "xn--bcher-kva.org"];

fn is_found(dfa: &DFA<Vec<u32>>, host: &str) -> bool {
    let input = Input::new(host).earliest(true).anchored(Anchored::No);
    // It gives up nowhere, because all bytes have transitions.
    dfa.try_search_fwd(&input).is_ok_and(|found| found.is_some())
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
    /// It cannot be put into a set.
    Unfit(NoPattern),
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
    /// Makes a set of these patterns, without those in `off`. `unused` is told each that is left out, and why.
    ///
    /// # Errors
    ///
    /// A sentence: they are too many, or too large together.
    pub fn new(
        mut all: Vec<ListedPattern>,
        off: &[(HostPattern, Rank)],
        mut unused: impl FnMut(&ListedPattern, Unused),
    ) -> Result<Self, String> {
        drop_unused(&mut all, off, &mut unused);
        compile(&mut all, &mut unused)?;
        Self::index(all)
    }

    /// Files the patterns, which are in order, under their literals.
    fn index(all: Vec<ListedPattern>) -> Result<Self, String> {
        let mut numbers = HashMap::new();
        let mut set = Self::default();
        let mut texts: Vec<&[u8]> = Vec::new();
        for (number, it) in (0_u32..).zip(&all) {
            let literal = &it.pattern.literal;
            if literal.is_empty() {
                set.always.push(number);
                continue;
            }
            let at = *numbers.entry(literal).or_insert_with(|| {
                texts.push(literal);
                texts.len() - 1
            });
            set.uses.resize_with(texts.len(), Vec::new);
            set.uses.get_mut(at).into_iter().for_each(|uses| uses.push(number));
        }
        if set.always.len() > MOST_ALWAYS {
            return Err(format!(
                "the lists have more than {MOST_ALWAYS} regular expressions without a fixed text; leave some \
                 lists out"
            ));
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
            let mut seen = Seen::default();
            for found in literals.find_overlapping_iter(host) {
                let literal = found.pattern().as_usize();
                if !seen.is_new(literal, self.uses.len()) {
                    continue;
                }
                let uses = self.uses.get(literal);
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
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Memory in use, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Sorts patterns by what decides first, and drops those that decide nothing.
fn drop_unused(
    all: &mut Vec<ListedPattern>,
    off: &[(HostPattern, Rank)],
    unused: &mut impl FnMut(&ListedPattern, Unused),
) {
    let mut keep = |it: &ListedPattern, reason: Option<Unused>| {
        reason.into_iter().for_each(|reason| unused(it, reason));
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
}

/// Makes the automata of all regular expressions, and drops those that cannot be used.
fn compile(
    all: &mut Vec<ListedPattern>,
    unused: &mut impl FnMut(&ListedPattern, Unused),
) -> Result<(), String> {
    let mut bytes = 0;
    all.retain_mut(|it| {
        if !matches!(it.pattern.matcher, Matcher::Regex(None)) || bytes > MOST_REGEX_BYTES {
            return true;
        }
        let compiled = it.pattern.compiled();
        bytes += compiled.as_ref().map_or(REGEX_BYTES, DFA::memory_usage);
        match compiled {
            Ok(dfa) => it.pattern.matcher = Matcher::Regex(Some(Box::new(dfa))),
            Err(reason) => {
                unused(it, Unused::Unfit(reason));
                return false;
            }
        }
        true
    });
    if bytes > MOST_REGEX_BYTES {
        let most = MOST_REGEX_BYTES >> 20;
        return Err(format!(
            "the regular expressions in the lists take more than {most} MiB; leave some lists out"
        ));
    }
    Ok(())
}

/// The literals that were found in a host. The first few need no memory.
#[derive(Default)]
struct Seen {
    few: [usize; Self::FEW],
    count: usize,
    bits: Vec<u64>,
}

impl Seen {
    const FEW: usize = 32;

    /// Whether a literal, one of `all`, was not seen before; it is now.
    fn is_new(&mut self, literal: usize, all: usize) -> bool {
        let few = self.few.get(..self.count).unwrap_or(&self.few);
        if few.contains(&literal) {
            return false;
        }
        if let Some(free) = self.few.get_mut(self.count) {
            *free = literal;
            self.count += 1;
            return true;
        }
        self.bits.resize(all.div_ceil(64), 0);
        let Some(bits) = self.bits.get_mut(literal / 64) else { return false };
        let bit = 1 << (literal % 64);
        let is_new = *bits & bit == 0;
        *bits |= bit;
        is_new
    }
}

#[cfg(test)]
mod tests;
