//! "did you mean": the known word that is nearest to a wrong one.

use crate::limits::SUGGESTIONS_MAX;
use crate::problem::{Problems, quoted};

/// Words longer than this are compared by case only.
const WORD_CHARS_MAX: usize = 64;
/// At most so many candidates are looked at.
const CANDIDATES_MAX: usize = 5_000;

/// `; did you mean "x"?`, or nothing when no candidate is near.
pub(crate) fn did_you_mean<'a>(
    problems: &Problems,
    wrong: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> String {
    if problems.count() >= SUGGESTIONS_MAX {
        return String::new();
    }
    match nearest(wrong, candidates) {
        Some(word) => format!("; did you mean {}?", quoted(word)),
        None => String::new(),
    }
}

/// The nearest candidate that one mistake in three letters can have become, the first of equals.
fn nearest<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wrong: Vec<char> = wrong.chars().take(WORD_CHARS_MAX + 1).flat_map(char::to_lowercase).collect();
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates.into_iter().take(CANDIDATES_MAX) {
        let word: Vec<char> = candidate.chars().take(WORD_CHARS_MAX + 1).flat_map(char::to_lowercase).collect();
        let longest = wrong.len().max(word.len());
        let far = longest.min(1 + (longest / 3).clamp(1, 4));
        let bound = best.map_or(far, |(distance, _)| distance);
        if candidate.is_empty() || word.len().abs_diff(wrong.len()) >= bound || word.len() > WORD_CHARS_MAX {
            continue;
        }
        let distance = distance(&wrong, &word);
        if distance < bound {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, word)| word)
}

/// Optimal string alignment: insertions, deletions, replacements and swaps of neighbours.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let differs = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j - 1] + differs).min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_nearest_word_or_none() {
        let words = ["port", "address", "path", "subprotocols"];
        let table = [
            ("prot", Some("port")),
            ("Port", Some("port")),
            ("adress", Some("address")),
            ("subprotocol", Some("subprotocols")),
            ("filename", None),
            ("x", None),
            ("party", None),
            ("", None),
        ];
        for (wrong, expected) in table {
            assert_eq!(nearest(wrong, words), expected, "{wrong}");
        }
        assert_eq!(nearest("x", ["y", "xs"]), Some("xs"));
        assert_eq!(nearest("udp", ["TCP", "UDP"]), Some("UDP"));
    }
}
