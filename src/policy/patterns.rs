//! Searches a text for many regular expressions at once, in steps of bounded time.
//!
//! Literals (`pattern_literals`) tell which patterns can occur in a text at all. Those patterns are
//! searched for by automata whose states are made as texts need them (`regex-automata`'s lazy DFA). An
//! existing state costs a few nanoseconds a byte, whatever the patterns are. A missing one may cost
//! thousands of times as much, and a bad pattern needs a new one for each byte. So the clock is read
//! every few bytes, fewer the larger an automaton is, and the search stops when its [`Effort`] is used
//! up. A [`Search`] keeps its place and its states: the next call for the same text continues from there.
//!
//! The cost of making a state grows with the automaton, so many patterns are split into several small
//! automata. Texts are ASCII. The crate `regex` itself has no such bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use regex_automata::hybrid::LazyStateID;
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::{Input, MatchKind};
use regex_syntax::hir::Hir;

use super::pattern_literals::{Gathered, Literal, Literals, Scan};

pub use super::search_effort::{Effort, Unfinished};

/// Memory for the states of one automaton, in bytes. A large automaton takes the least that it needs.
const CACHE_BYTES: usize = 512 << 10;
/// Memory for states kept for later texts, of all automata together.
const KEPT_BYTES: usize = 16 << 20;
/// The number of searches that may keep states of their own between two calls. Searches beyond that start
/// again with their current automaton.
const SUSPENDED: usize = 64;
/// The size of an automaton of several patterns, in bytes.
const PART_BYTES: usize = 64 << 10;
/// This divided by an automaton's size is the number of bytes of text for which states can be made in a
/// tenth of a millisecond.
const STATES_BYTES: usize = 256 << 10;
/// The most bytes of a text between two readings of the clock.
const STRIDE: usize = 64;

/// Patterns, numbered in order.
#[derive(Debug)]
pub struct Patterns {
    literals: Option<Literals>,
    parts: Vec<Part>,
    kept: Mutex<Vec<Kept>>,
    suspended: Arc<AtomicUsize>,
}

/// Some of the patterns in one automaton.
#[derive(Debug)]
struct Part {
    dfa: DFA,
    /// The numbers of its patterns, in order.
    numbers: Vec<usize>,
    /// The patterns have no literals, so they may occur in any text.
    always: bool,
    /// The number of bytes between two readings of the clock.
    stride: usize,
}

/// States of a part.
#[derive(Debug)]
struct Kept {
    part: usize,
    bytes: usize,
    cache: Cache,
}

/// The progress of the search in one text.
#[derive(Debug, Default)]
pub struct Search {
    scan: Scan,
    /// The current part.
    part: usize,
    run: Option<Run>,
}

/// The progress of the search with one part.
#[derive(Debug)]
struct Run {
    cache: Cache,
    state: Option<LazyStateID>,
    at: usize,
    /// The first pattern of the part that was found.
    first: Option<usize>,
    place: Option<Place>,
}

/// One of [`SUSPENDED`] places.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
impl Search {
    /// Whether the search has not begun.
    pub(super) fn is_new(&self) -> bool {
        self.run.is_none() && self.part == 0
    }
}

/// Parses a pattern as ASCII, because texts are ASCII and the automaton is then a tenth as large. A
/// pattern that needs other characters keeps them.
fn parsed(pattern: &str) -> Result<Hir, String> {
    let mut ascii = regex_syntax::ParserBuilder::new();
    match ascii.unicode(false).utf8(false).build().parse(pattern) {
        Ok(hir) => Ok(hir),
        Err(_) => regex_syntax::parse(pattern).map_err(|e| e.to_string()),
    }
}

impl Patterns {
    /// Makes automata of regular expressions, each of which was compiled before. All together take at
    /// most `most` bytes.
    ///
    /// # Errors
    ///
    /// The patterns are too large, or one cannot be compiled.
    pub fn new(patterns: &[&str], most: usize) -> Result<Self, String> {
        let mut gathered = Gathered::default();
        // Patterns with a literal that must occur, and patterns with none.
        let (mut pieces, mut some, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for (number, pattern) in patterns.iter().enumerate() {
            let hir = parsed(pattern)?;
            match Literal::of(&hir) {
                Literal::Whole(bytes) => gathered.add_pattern(bytes, number),
                Literal::Piece(bytes) => {
                    pieces.push(bytes);
                    some.push((number, hir));
                }
                Literal::None => others.push((number, hir)),
            }
        }
        let mut parts = Vec::new();
        let mut bytes = compile(&some, false, &mut parts)?;
        let places =
            parts.iter().enumerate().flat_map(|(part, p)| p.numbers.iter().map(move |_| part));
        places.zip(&pieces).for_each(|(part, piece)| gathered.add_piece(piece, part));
        bytes += compile(&others, true, &mut parts)?;
        let literals = if others.len() < patterns.len() { Some(gathered.build()?) } else { None };
        bytes += literals.as_ref().map_or(0, Literals::bytes);
        if bytes > most {
            return Err(format!("{} MiB", bytes.div_ceil(1 << 20)));
        }
        Ok(Self { literals, parts, kept: Mutex::default(), suspended: Arc::default() })
    }

    /// The first pattern, by number, that occurs anywhere in the text. A search is for one text.
    ///
    /// # Errors
    ///
    /// The time is used up. The next call continues.
    pub fn first_in(
        &self,
        text: &str,
        search: &mut Search,
        effort: &Effort,
    ) -> Result<Option<usize>, Unfinished> {
        if let Some(literals) = &self.literals {
            literals.scan(text, &mut search.scan, effort)?;
        }
        while let Some(part) = self.parts.get(search.part) {
            let first = search.scan.first;
            if part.may_be_first(first)
                && (part.always || search.scan.parts.get(search.part) == Some(&true))
            {
                let run = search.run.take().unwrap_or_else(|| self.run(search.part, part));
                let found = self.go_on(text, search, run, part, effort)?;
                search.scan.first = first.into_iter().chain(found).min();
                search.part += 1;
                if effort.is_used_up() {
                    return Err(Unfinished);
                }
            } else {
                search.part += 1;
            }
        }
        Ok(search.scan.first)
    }

    /// Begins the search with a part.
    fn run(&self, number: usize, part: &Part) -> Run {
        let mut kept = self.kept.lock();
        let place = kept.iter().rposition(|kept| kept.part == number);
        let cache = place.map(|place| kept.remove(place).cache);
        drop(kept);
        let cache = cache.unwrap_or_else(|| part.dfa.create_cache());
        Run { cache, state: None, at: 0, first: None, place: None }
    }

    fn go_on(
        &self,
        text: &str,
        search: &mut Search,
        mut run: Run,
        part: &Part,
        effort: &Effort,
    ) -> Result<Option<usize>, Unfinished> {
        let found = part.search(text, &mut run, effort);
        if found.is_err() && run.place.is_none() {
            run.place = self.place();
        }
        if found.is_err() && run.place.is_some() {
            search.run = Some(run);
        } else {
            self.keep(search.part, run.cache);
        }
        found
    }

    fn place(&self) -> Option<Place> {
        let more = |count| (count < SUSPENDED).then_some(count + 1);
        let taken = self.suspended.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.ok().map(|_| Place(Arc::clone(&self.suspended)))
    }

    /// Keeps states for later texts, and drops the least recently used.
    fn keep(&self, part: usize, cache: Cache) {
        let mut kept = self.kept.lock();
        kept.push(Kept { part, bytes: cache.memory_usage(), cache });
        let mut bytes: usize = kept.iter().map(|kept| kept.bytes).sum();
        let too_many = kept.iter().take_while(|kept| {
            let is_too_many = bytes > KEPT_BYTES;
            bytes -= kept.bytes;
            is_too_many
        });
        let count = too_many.count();
        let forgotten: Vec<_> = kept.drain(..count).collect();
        drop(kept);
        drop(forgotten);
    }
}

/// Compiles the patterns into as few automata as their size allows. Returns the size of all of them.
fn compile(hirs: &[(usize, Hir)], always: bool, parts: &mut Vec<Part>) -> Result<usize, String> {
    if hirs.is_empty() {
        return Ok(0);
    }
    let limit = (hirs.len() > 1).then_some(PART_BYTES);
    let config = thompson::Config::new()
        .utf8(false)
        .nfa_size_limit(limit)
        .which_captures(WhichCaptures::None);
    let only: Vec<_> = hirs.iter().map(|(_, hir)| hir).collect();
    match thompson::Compiler::new().configure(config).build_many_from_hir(&only) {
        Ok(nfa) => {
            let bytes = nfa.memory_usage();
            let config = DFA::config()
                .match_kind(MatchKind::All)
                // It gives up at bytes beyond ASCII, which do not occur.
                .unicode_word_boundary(true)
                .cache_capacity(CACHE_BYTES)
                .skip_cache_capacity_check(true);
            let dfa = DFA::builder().configure(config).build_from_nfa(nfa);
            let dfa = dfa.map_err(|e| e.to_string())?;
            let numbers = hirs.iter().map(|(number, _)| *number).collect();
            let stride = (STATES_BYTES / bytes.max(1)).clamp(1, STRIDE);
            parts.push(Part { dfa, numbers, always, stride });
            Ok(bytes)
        }
        Err(e) if e.size_limit().is_some() => {
            let (some, others) = hirs.split_at(hirs.len() / 2);
            Ok(compile(some, always, parts)? + compile(others, always, parts)?)
        }
        Err(e) => Err(e.to_string()),
    }
}

impl Part {
    /// Whether the part has a pattern before the first one found.
    fn may_be_first(&self, first: Option<usize>) -> bool {
        let own = self.numbers.first();
        own.is_some_and(|own| first.is_none_or(|first| *own < first))
    }

    fn search(
        &self,
        text: &str,
        run: &mut Run,
        effort: &Effort,
    ) -> Result<Option<usize>, Unfinished> {
        let mut state = match run.state {
            Some(state) => state,
            None => {
                let start = self.dfa.start_state_forward(&mut run.cache, &Input::new(text));
                start.map_err(|_| Unfinished)?
            }
        };
        while let Some(rest) = text.as_bytes().get(run.at..).filter(|rest| !rest.is_empty()) {
            let bytes = rest.get(..self.stride).unwrap_or(rest);
            state = self.pass(bytes, state, run)?;
            if state.is_dead() || run.first.is_some() && run.first == self.numbers.first().copied()
            {
                return Ok(run.first);
            }
            run.at += bytes.len();
            run.state = Some(state);
            if run.at < text.len() && effort.is_used_up() {
                return Err(Unfinished);
            }
        }
        let state = self.dfa.next_eoi_state(&mut run.cache, state).map_err(|_| Unfinished)?;
        if state.is_match() {
            self.note(state, run);
        }
        Ok(run.first)
    }

    /// Goes through some bytes, and notes the patterns found.
    fn pass(
        &self,
        bytes: &[u8],
        mut state: LazyStateID,
        run: &mut Run,
    ) -> Result<LazyStateID, Unfinished> {
        let mut last_match = None;
        for byte in bytes {
            state = self.dfa.next_state(&mut run.cache, state, *byte).map_err(|_| Unfinished)?;
            if state.is_tagged() {
                if state.is_dead() {
                    break;
                }
                if state.is_quit() {
                    return Err(Unfinished);
                }
                // After the cache was cleared, the same identifier may name another state.
                let this = Some((state, run.cache.clear_count()));
                if state.is_match() && last_match != this {
                    last_match = this;
                    self.note(state, run);
                }
            }
        }
        Ok(state)
    }

    /// Notes the first of the patterns that this state matches.
    fn note(&self, state: LazyStateID, run: &mut Run) {
        let count = self.dfa.match_len(&run.cache, state);
        let found = (0..count).filter_map(|i| {
            let pattern = self.dfa.match_pattern(&run.cache, state, i);
            self.numbers.get(pattern.as_usize()).copied()
        });
        run.first = run.first.into_iter().chain(found).min();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use std::time::Instant;

    use super::*;

    /// Continues the search until it is done.
    fn found(patterns: &Patterns, text: &str, time: Duration) -> Option<usize> {
        looked(patterns, text, time).0
    }

    /// The same, with the number of calls and the longest one.
    fn looked(patterns: &Patterns, text: &str, time: Duration) -> (Option<usize>, usize, Duration) {
        let (mut search, mut longest) = (Search::default(), Duration::ZERO);
        for looks in 1.. {
            let before = own_time();
            let said = patterns.first_in(text, &mut search, &Effort::until(Instant::now() + time));
            longest = longest.max(own_time() - before);
            if let Ok(found) = said {
                return (found, looks, longest);
            }
        }
        unreachable!()
    }

    /// The processor time of this thread, without other work on the machine.
    fn own_time() -> Duration {
        use rustix::time::{ClockId, clock_gettime};
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
    }

    fn many(patterns: impl Iterator<Item = String>) -> Patterns {
        let patterns: Vec<String> = patterns.collect();
        Patterns::new(&patterns.iter().map(|p| &**p).collect::<Vec<_>>(), 64 << 20).unwrap()
    }

    /// Letters that look random, the same each time.
    fn letters(count: usize, seed: &mut u64) -> String {
        let mut next = || {
            *seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            char::from(b'a' + u8::try_from((*seed >> 33) % 26).unwrap())
        };
        (0..count).map(|_| next()).collect()
    }

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
            "(?i)Kiss",
            "sWoRd",
            "é|k",
            r"\p{Greek}|x\d",
            r"\x61(b)c",
            "(?i)/banner[0-9]*x",
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
            "xkIsSx",
            "a sWoRd",
            "x7",
            "/Banner12X",
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
                assert_eq!(found(&ours, text, LONG), expected, "{text:?} {some:?}");
                assert_eq!(found(&ours, text, Duration::ZERO), expected, "{text:?} {some:?}");
            }
        }
    }

    #[test]
    fn a_search_whose_time_is_up_ends_and_the_next_look_goes_on_there() {
        let patterns = Patterns::new(&["(?:a|b)*a(?:a|b){14}c", "x"], 1 << 24).unwrap();
        let text: String = (0..2000_u32).map(|i| if i * i % 7 < 3 { 'a' } else { 'b' }).collect();
        let (first, looks, _) = looked(&patterns, &text, Duration::ZERO);
        assert_eq!(first, None);
        assert!((10..=text.len()).contains(&looks), "{looks}");
        let ended = format!("{text}{}c", &text[..16]);
        assert_eq!(found(&patterns, &ended, Duration::ZERO), found(&patterns, &ended, LONG));
    }

    #[test]
    fn searches_that_wait_keep_no_more_states_than_they_may() {
        let patterns = Patterns::new(&["[ab]*a[ab]{200}[yz]"], 1 << 24).unwrap();
        let text: String = (0..8000_u32).map(|i| if i * i % 7 < 3 { 'a' } else { 'b' }).collect();
        let effort = || Effort::until(Instant::now());
        let mut searches: Vec<Search> = (0..SUSPENDED + 10).map(|_| Search::default()).collect();
        for search in &mut searches {
            assert_eq!(patterns.first_in(&text, search, &effort()), Err(Unfinished));
        }
        let running = |searches: &[Search]| searches.iter().filter(|s| s.run.is_some()).count();
        assert_eq!(running(&searches), SUSPENDED);
        searches.truncate(10);
        assert_eq!(patterns.suspended.load(Ordering::Relaxed), 10);
        let mut next = Search::default();
        assert_eq!(patterns.first_in(&text, &mut next, &effort()), Err(Unfinished));
        assert!(next.run.is_some());
        for part in 0..100 {
            let mut cache = patterns.parts[0].dfa.create_cache();
            let big = "ab".repeat(part);
            patterns.parts[0].dfa.try_search_fwd(&mut cache, &Input::new(&big)).unwrap();
            patterns.keep(part, cache);
        }
        let bytes: usize = patterns.kept.lock().iter().map(|kept| kept.bytes).sum();
        assert!(bytes <= KEPT_BYTES, "{bytes}");
    }

    #[test]
    fn many_patterns_are_several_automata_and_found_in_their_order() {
        let patterns = many((0..4000).map(|i| format!("/banner{i}[0-9]*\\.(gif|png)")));
        assert!(patterns.parts.len() > 2, "{}", patterns.parts.len());
        for (text, expected) in [
            ("http://a/banner3999.gif", Some(3)),
            ("http://a/banner9/banner41.png", Some(4)),
            ("http://a/banner.png", None),
        ] {
            assert_eq!(found(&patterns, text, LONG), expected, "{text}");
        }
        assert!(Patterns::new(&["a{100}", "b{100}"], 100).is_err());
    }

    /// The processor may be taken by other work for a while, so the shortest of some rounds counts.
    #[test]
    fn thousands_of_patterns_cost_a_look_a_millisecond_and_few_looks() {
        let words = |count: usize| {
            let mut seed = 7;
            many((0..count).map(move |_| letters(7, &mut seed)))
        };
        let banners = many((0..4000).map(|i| format!("/banner{i}[0-9]*\\.(gif|png)")));
        let vague = many((0..1000).map(|i| format!("^http://[^/]+/[a-z]+[0-9]{{{}}}x", i % 9 + 1)));
        let time = Duration::from_micros(300);
        let mut seed = 99;
        for (name, patterns) in [
            ("3,000 words", words(3000)),
            ("10,000 words", words(10_000)),
            ("banners", banners),
            ("vague ones", vague),
            ("one piece in all", many((0..4000).map(|i| format!("/adserver/[a-z]+{i}x")))),
        ] {
            let (mut longest, mut fewest) = (Duration::MAX, usize::MAX);
            for _ in 0..3 {
                let (mut round, mut most) = (Duration::ZERO, 0);
                for bytes in [100, 200, 1000, 4000] {
                    for _ in 0..5 {
                        let text = format!("http://a/x?token={}", letters(bytes, &mut seed));
                        let (_, looks, took) = looked(&patterns, &text, time);
                        (most, round) = (most.max(looks), round.max(took));
                    }
                }
                for piece in ["/banner3999123/banner41", "/adserver/"] {
                    let text = format!("http://a{}", piece.repeat(4000 / piece.len()));
                    let (_, looks, took) = looked(&patterns, &text, time);
                    (most, round) = (most.max(looks), round.max(took));
                }
                (longest, fewest) = (longest.min(round), fewest.min(most));
            }
            println!("{name}: {} parts, {longest:?} a look, {fewest} looks", patterns.parts.len());
            assert!(longest < Duration::from_millis(5), "{name}: {longest:?}");
            assert!(fewest < 100, "{name}: {fewest} looks");
        }
        let mut seed = 7;
        let word = letters(7, &mut seed);
        let second = letters(7, &mut seed);
        let text = format!("http://a/x?token={}{second}{word}", letters(900, &mut 5));
        assert_eq!(found(&words(3000), &text, time), Some(0));
    }
}
