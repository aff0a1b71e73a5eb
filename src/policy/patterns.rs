//! Many patterns looked for in a text at once, in a time that has a bound.
//!
//! The automaton of the patterns is made state by state, as texts need them (`regex-automata`'s lazy
//! DFA). A state that is there costs a few nanoseconds an octet, whatever the patterns are. One that is
//! not may cost thousands of times as much, and a bad pattern needs another one for each octet. So the
//! clock is looked at whenever a state was made, and a search whose [`Effort`] is used up ends there. Its
//! states stay: the next search for the same gets further. That holds until memory for states is used up;
//! then they are forgotten, and a text may never come to its end.
//!
//! What making one state costs grows with the automaton. So many patterns are several automata, each
//! of which is small. Texts are ASCII. `regex` itself has no such bound.

use std::time::Duration;

use parking_lot::Mutex;
use regex_automata::hybrid::LazyStateID;
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::{Input, MatchKind};
use rustix::time::{ClockId, clock_gettime};

/// Memory for states, in octets, for each thread that looks at the same time; no less than a part of it
/// for each automaton.
const CACHE_OCTETS: usize = 4 << 20;
const LEAST_CACHE_OCTETS: usize = 1 << 20;
/// The size of an automaton of several patterns, in octets: making one of its states takes about a
/// quarter of a millisecond at most.
const PART_OCTETS: usize = 1 << 20;
/// More patterns than this found at one place take time to go through.
const MANY: usize = 64;

/// Patterns, by number.
#[derive(Debug)]
pub struct Patterns {
    parts: Vec<Part>,
}

/// Some of them that follow each other.
#[derive(Debug)]
struct Part {
    dfa: DFA,
    /// The number of the first.
    from: usize,
    /// States that were made. A search takes them and puts them back: there are never more than threads.
    caches: Mutex<Vec<Cache>>,
}

/// How long searches may take, all together, in time of the processor.
#[derive(Debug)]
pub struct Effort {
    until: Duration,
    has_begun: bool,
}

/// The effort was used up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Unfinished;

impl Effort {
    /// So long from now, on this thread.
    pub fn new(time: Duration) -> Self {
        Self { until: used() + time, has_begun: false }
    }

    fn is_used_up(&self) -> bool {
        used() >= self.until
    }
}

/// How long this thread has had a processor.
fn used() -> Duration {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(used).unwrap_or_default()
}

impl Patterns {
    /// Makes automata of regular expressions, each of which was compiled before; of so many octets at
    /// most, all together.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub fn new(patterns: &[&str], most: usize) -> Result<Self, String> {
        let mut nfas = Vec::new();
        compile(patterns, 0, &mut nfas)?;
        let octets: usize = nfas.iter().map(|(_, nfa)| nfa.memory_usage()).sum();
        if octets > most {
            return Err(format!("{} MiB", octets.div_ceil(1 << 20)));
        }
        let config = DFA::config()
            .match_kind(MatchKind::All)
            // It gives up at octets beyond ASCII, of which there are none.
            .unicode_word_boundary(true)
            .cache_capacity((CACHE_OCTETS / nfas.len().max(1)).max(LEAST_CACHE_OCTETS))
            .skip_cache_capacity_check(true);
        let parts = nfas.into_iter().map(|(from, nfa)| {
            let dfa = DFA::builder().configure(config.clone()).build_from_nfa(nfa);
            let dfa = dfa.map_err(|e| e.to_string())?;
            Ok(Part { dfa, from, caches: Mutex::default() })
        });
        Ok(Self { parts: parts.collect::<Result<_, String>>()? })
    }

    /// How often a text is worth being looked at before it is believed to have no end: no states are
    /// there at first.
    pub fn looks(&self) -> u8 {
        u8::try_from(6 + 2 * self.parts.len()).unwrap_or(u8::MAX)
    }

    /// The first pattern, by number, that is found anywhere in the text.
    ///
    /// # Errors
    ///
    /// It is not known in time.
    pub fn first_in(&self, text: &str, effort: &mut Effort) -> Result<Option<usize>, Unfinished> {
        for part in &self.parts {
            if std::mem::replace(&mut effort.has_begun, true) && effort.is_used_up() {
                return Err(Unfinished);
            }
            let cache = part.caches.lock().pop();
            let mut cache = cache.unwrap_or_else(|| part.dfa.create_cache());
            let found = part.search(text, &mut cache, effort);
            part.caches.lock().push(cache);
            if let Some(number) = found? {
                return Ok(Some(part.from + number));
            }
        }
        Ok(None)
    }
}

/// Compiles them into as few automata as their size allows; `from` is the number of the first.
fn compile(
    patterns: &[&str],
    from: usize,
    nfas: &mut Vec<(usize, thompson::NFA)>,
) -> Result<(), String> {
    let limit = (patterns.len() > 1).then_some(PART_OCTETS);
    let config = thompson::Config::new().nfa_size_limit(limit).which_captures(WhichCaptures::None);
    match thompson::Compiler::new().configure(config).build_many(patterns) {
        Ok(nfa) => nfas.push((from, nfa)),
        Err(e) if e.size_limit().is_some() => {
            let (some, others) = patterns.split_at(patterns.len() / 2);
            compile(some, from, nfas)?;
            compile(others, from + some.len(), nfas)?;
        }
        Err(e) => return Err(e.to_string()),
    }
    Ok(())
}

impl Part {
    fn search(
        &self,
        text: &str,
        cache: &mut Cache,
        effort: &Effort,
    ) -> Result<Option<usize>, Unfinished> {
        let mut made = cache.memory_usage();
        let start = self.dfa.start_state_forward(cache, &Input::new(text));
        let mut state = start.map_err(|_| Unfinished)?;
        let mut first = None;
        let mut last_match = None;
        for octet in text.bytes() {
            state = self.dfa.next_state(cache, state, octet).map_err(|_| Unfinished)?;
            let now = cache.memory_usage();
            if now != made {
                made = now;
                // If states were forgotten, another one has its name now.
                last_match = None;
                if effort.is_used_up() {
                    return Err(Unfinished);
                }
            }
            if state.is_tagged() {
                if state.is_dead() {
                    return Ok(first);
                }
                if state.is_quit() {
                    return Err(Unfinished);
                }
                if state.is_match() && last_match != Some(state) {
                    last_match = Some(state);
                    first = self.first_of(cache, state, first);
                    if first == Some(0) {
                        return Ok(first);
                    }
                    if self.dfa.match_len(cache, state) > MANY && effort.is_used_up() {
                        return Err(Unfinished);
                    }
                }
            }
        }
        let state = self.dfa.next_eoi_state(cache, state).map_err(|_| Unfinished)?;
        Ok(if state.is_match() { self.first_of(cache, state, first) } else { first })
    }

    /// The first of those that this state has found, and of what was found before.
    fn first_of(&self, cache: &Cache, state: LazyStateID, before: Option<usize>) -> Option<usize> {
        let count = self.dfa.match_len(cache, state);
        let found = (0..count).map(|i| self.dfa.match_pattern(cache, state, i).as_usize());
        before.into_iter().chain(found).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn the_first_pattern_that_is_found_is_what_a_set_of_regexes_finds_first() {
        let patterns = [
            "^a+$",
            "b",
            "(?i)C.*D",
            r"\bword\b",
            "x{3,5}y",
            "[^/]+/$",
            "(a|ab)(c|bcd)(d*)",
            "^$",
            "z$",
            r"\.exe(\?|$)",
            r"\w+\s\d",
            "",
        ];
        let texts = [
            "",
            "a",
            "aaaa",
            "aab",
            "c--d",
            "a word here",
            "swords",
            "xxxy",
            "xxy",
            "abcd",
            "/a/",
            "z",
            "zz ",
            "/x.exe",
            "/x.exe?",
            "/x.exes",
            "abc 1",
        ];
        for left_out in 0..=patterns.len() {
            let some: Vec<_> = patterns.iter().skip(left_out).copied().collect();
            if some.is_empty() {
                continue;
            }
            let (ours, theirs) =
                (Patterns::new(&some, 1 << 24).unwrap(), regex::RegexSet::new(&some).unwrap());
            for text in texts {
                let expected = theirs.matches(text).into_iter().next();
                let found = ours.first_in(text, &mut Effort::new(LONG));
                assert_eq!(found, Ok(expected), "{text:?} {some:?}");
            }
        }
    }

    #[test]
    fn a_search_whose_time_is_up_ends_and_the_next_gets_further() {
        let patterns = Patterns::new(&["(?:a|b)*a(?:a|b){14}c", "x"], 1 << 24).unwrap();
        let text: String = (0..2000_u32).map(|i| if i * i % 7 < 3 { 'a' } else { 'b' }).collect();
        let none = || Effort::new(Duration::ZERO);
        let mut looks = 0;
        while patterns.first_in(&text, &mut none()) == Err(Unfinished) {
            looks += 1;
            assert!(looks <= text.len(), "it makes no state a look");
        }
        assert!(looks > 10, "{looks}");
        let again = patterns.first_in(&text, &mut none());
        assert_eq!(again, Ok(None));
    }

    #[test]
    fn many_patterns_are_several_automata_and_found_in_their_order() {
        let many: Vec<String> =
            (0..4000).map(|i| format!("/banner{i}[0-9]*\\.(gif|png)")).collect();
        let patterns =
            Patterns::new(&many.iter().map(|p| &**p).collect::<Vec<_>>(), 64 << 20).unwrap();
        assert!((2..20).contains(&patterns.parts.len()), "{}", patterns.parts.len());
        for (text, expected) in [
            ("http://a/banner3999.gif", Some(3)),
            ("http://a/banner9/banner41.png", Some(4)),
            ("http://a/banner.png", None),
        ] {
            assert_eq!(patterns.first_in(text, &mut Effort::new(LONG)), Ok(expected), "{text}");
        }
        assert!(Patterns::new(&["a{100}", "b{100}"], 100).is_err());
    }
}
