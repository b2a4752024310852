//! Where each part of a document comes from.

use std::fmt;

use crate::object::ObjectId;

/// A place in an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The object.
    pub object: ObjectId,
    /// The path in it, e.g. `spec.listener`.
    pub path: String,
}

impl Origin {
    /// A place in an object.
    pub fn new(object: ObjectId, path: impl Into<String>) -> Origin {
        Origin { object, path: path.into() }
    }

    /// A place below this one.
    pub(super) fn join(&self, below: impl fmt::Display) -> Origin {
        Origin { object: self.object.clone(), path: format!("{}.{below}", self.path) }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.object, self.path)
    }
}

/// From paths of the document to the objects that they came from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Origins(Vec<(String, Origin)>);

impl Origins {
    pub(super) fn add(&mut self, path: String, origin: Origin) {
        self.0.push((path, origin));
    }

    /// The place in an object that a path of the document came from: of all parts that contain the path,
    /// the innermost. `None` when the path belongs to no object.
    pub fn find(&self, path: &str) -> Option<Origin> {
        let below =
            |prefix: &str| path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        let (rest, origin) = self
            .0
            .iter()
            .filter_map(|(prefix, origin)| below(prefix).map(|rest| (rest, origin)))
            .min_by_key(|(rest, _)| rest.len())?;
        Some(Origin { object: origin.object.clone(), path: format!("{}{rest}", origin.path) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Kind;

    #[test]
    fn the_innermost_part_that_contains_the_path_is_found() {
        let mut origins = Origins::default();
        let origin = |name| Origin::new(ObjectId::new(Kind::Rule, "default", name), "spec.rule");
        origins.add("rulelists[1].rules[0]".to_owned(), origin("a"));
        origins.add("rulelists[1].rules[10]".to_owned(), origin("b"));
        origins.add("rulelists[1]".to_owned(), origin("list"));
        let find = |path| origins.find(path).map(|origin| origin.to_string());
        assert_eq!(find("rulelists[1].rules[10].action").unwrap(), "Rule default/b spec.rule.action");
        assert_eq!(find("rulelists[1].rules[0]").unwrap(), "Rule default/a spec.rule");
        assert_eq!(find("rulelists[1].name").unwrap(), "Rule default/list spec.rule.name");
        assert_eq!(find("rulelists[10]"), None);
        assert_eq!(find(""), None);
    }
}
