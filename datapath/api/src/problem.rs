//! What is wrong with a document, and where.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::{PROBLEMS_MAX, QUOTED_CHARS_MAX};
use crate::path::Path;

/// One error or warning: `listeners[2].rules: no rule list "x"`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, thiserror::Error)]
pub struct Problem {
    /// Where in the document, as `listeners[2].spec.UDP.port`; empty for the text as a whole.
    pub path: String,
    /// What is wrong there, without the path.
    pub message: String,
}

impl Problem {
    /// A problem at `path`.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Problem {
        Problem { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return f.write_str(&self.message);
        }
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// The problems found so far, bounded: a hostile document must not cost more than it weighs.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    list: Vec<Problem>,
    left_out: usize,
}

impl Problems {
    pub(crate) fn push(&mut self, at: &Path<'_>, message: impl Into<String>) {
        if self.list.len() < PROBLEMS_MAX {
            self.list.push(Problem::new(at.to_string(), message));
        } else {
            self.left_out += 1;
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.list.len() + self.left_out
    }

    pub(crate) fn into_vec(mut self) -> Vec<Problem> {
        if self.left_out > 0 {
            self.list.push(Problem::new("", format!("{} more problems are not shown", self.left_out)));
        }
        self.list
    }
}

/// `text` in quotes, escaped, and cut when it is long.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        None => format!("\"{}\"", text.escape_debug()),
        Some((end, _)) => format!("\"{}...\"", text[..end].escape_debug()),
    }
}
