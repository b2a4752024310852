//! A place in a document, as a list on the stack: it costs nothing until a problem is found there.

use std::fmt;

use crate::problem::quoted;

/// Where a value stands in the document.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl Path<'_> {
    pub(crate) fn key<'b>(&'b self, key: &'b str) -> Path<'b> {
        Path::Key(self, key)
    }

    pub(crate) fn index(&self, index: usize) -> Path<'_> {
        Path::Index(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
            Path::Key(parent, key) if is_plain(key) => match parent {
                Path::Root => f.write_str(key),
                Path::Key(..) | Path::Index(..) => write!(f, "{parent}.{key}"),
            },
            Path::Key(parent, key) => write!(f, "{parent}[{}]", quoted(key)),
        }
    }
}

/// Whether a key can stand in a path without quotes.
fn is_plain(key: &str) -> bool {
    (1..=64).contains(&key.len())
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'$'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_like_an_expression() {
        let root = Path::Root;
        let listeners = root.key("listeners");
        let first = listeners.index(0);
        assert_eq!(first.key("spec").to_string(), "listeners[0].spec");
        assert_eq!(first.key("a.b \"c").to_string(), r#"listeners[0]["a.b \"c"]"#);
        assert_eq!(root.key("").to_string(), r#"[""]"#);
    }
}
