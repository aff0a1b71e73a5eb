//! Finds the known word nearest to a mistyped one, for "did you mean …?".

/// The word of `known` nearest to `typed`, if one is near enough to suggest.
///
/// A word is near if it begins with `typed`, or if at most a third of the letters differ. Two swapped
/// neighbours count as one difference. The first of equally near words wins.
pub(crate) fn nearest<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let most = (typed.chars().count() / 3).max(1);
    known
        .map(|word| {
            let begins = typed.trim_matches('-').len() > 2 && word.starts_with(typed);
            (if begins { 0 } else { distance(typed, word) }, word)
        })
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// The number of letters to insert, drop, replace or swap with a neighbour to turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut previous = None;
    for (i, x) in a.chars().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX - 1);
            let mut cost = (at(&last, j) + usize::from(x != *y))
                .min(at(&last, j + 1) + 1)
                .min(at(&row, j) + 1);
            let crossed = j > 0 && previous == Some(*y) && b.get(j.wrapping_sub(1)) == Some(&x);
            if crossed {
                cost = cost.min(at(&before, j - 1) + 1);
            }
            row.push(cost);
        }
        before = std::mem::replace(&mut last, row);
        previous = Some(x);
    }
    last.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_one_with_few_other_letters() {
        let known = ["--listen", "--port", "--port-file", "--threads", "--timeout-head", "--open"];
        for (typed, meant) in [
            ("--lisen", Some("--listen")),
            ("--lsiten", Some("--listen")),
            ("--thread", Some("--threads")),
            ("--prot", Some("--port")),
            ("--port-fil", Some("--port-file")),
            ("--timeout", Some("--timeout-head")),
            ("--opne", Some("--open")),
            ("--frobnicate", None),
            ("--q", None),
            ("--", None),
        ] {
            assert_eq!(nearest(typed, known.into_iter()), meant, "{typed}");
        }
    }

    #[test]
    fn a_distance_counts_single_edits() {
        for (a, b, edits) in
            [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("ab", "ba", 1), ("abc", "axc", 1)]
        {
            assert_eq!(distance(a, b), edits, "{a:?} {b:?}");
        }
    }
}
