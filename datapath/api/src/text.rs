//! A document's text, JSON or YAML, to a tree of values.

use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::limits::{ALIAS_EVENTS_MAX, DOCUMENT_BYTES_MAX, DOCUMENT_DEPTH_MAX, DOCUMENT_NODES_MAX};
use crate::problem::{Problem, quoted};

/// Reads JSON or YAML. A text that begins with `{` is tried as JSON first. What is no text of either is one problem,
/// with its line and column. A field given twice is refused in both.
pub(crate) fn parse(text: &str) -> Result<Value, Problem> {
    if text.len() > DOCUMENT_BYTES_MAX {
        let message = format!("the document has {} bytes; at most {DOCUMENT_BYTES_MAX} are read", text.len());
        return Err(Problem::new("", message));
    }
    if !text.trim_start().starts_with('{') {
        return yaml(text).map_err(SyntaxError::into_problem);
    }
    let json_error = match json(text) {
        Ok(value) => return Ok(value),
        Err(error) if error.is_final => return Err(error.into_problem()),
        Err(error) => error,
    };
    // YAML in braces, perhaps. When it is neither, the reader that came farther tells more.
    yaml(text).map_err(|yaml_error| {
        let farther = if yaml_error.place > json_error.place { yaml_error } else { json_error };
        farther.into_problem()
    })
}

struct SyntaxError {
    /// Line and column, from 1.
    place: (u64, u64),
    message: String,
    /// Not a question of syntax: the text is JSON, and too big or says a thing twice.
    is_final: bool,
}

impl SyntaxError {
    fn into_problem(self) -> Problem {
        let (line, column) = self.place;
        if line == 0 {
            return Problem::new("", self.message);
        }
        Problem::new("", format!("line {line}, column {column}: {}", self.message))
    }
}

fn json(text: &str) -> Result<Value, SyntaxError> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let mut nodes = 0;
    let value = Node { nodes: &mut nodes, depth: 0 }.deserialize(&mut deserializer);
    let value = value.and_then(|value| deserializer.end().map(|()| value));
    value.map_err(|error| {
        let message = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        SyntaxError {
            place: (error.line() as u64, error.column() as u64),
            message: message.strip_suffix(&place).unwrap_or(&message).to_owned(),
            is_final: error.is_data(),
        }
    })
}

fn yaml(text: &str) -> Result<Value, SyntaxError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DOCUMENT_DEPTH_MAX,
            max_nodes: DOCUMENT_NODES_MAX,
            max_events: 2 * DOCUMENT_NODES_MAX,
            max_documents: 2,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: ALIAS_EVENTS_MAX,
        },
        // `mode: 0660` stays what was written; an octal number is read from strings only.
        leading_zero_numbers_as_strings: true,
        // A cluster called `no` or `on` is no boolean.
        strict_booleans: true,
        reject_unsupported_tags: true,
        emit_comments: false,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let place = error.location().map_or((0, 0), |location| (location.line(), location.column()));
        SyntaxError { place, message: yaml_message(error.without_snippet()), is_final: false }
    })
}

/// The reader's own words, where they do not speak to a programmer.
fn yaml_message(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::budget::BudgetBreach;
    use serde_saphyr::{Error, MessageFormatter as _};
    match error {
        Error::DuplicateMappingKey { key: Some(key), .. } => format!("field {} is given twice", quoted(key)),
        Error::MultipleDocuments { .. } => "a second document begins here; a configuration is one".to_owned(),
        Error::AliasReplayLimitExceeded { .. } => "aliases (*name) make the document too big".to_owned(),
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => format!("nested deeper than {DOCUMENT_DEPTH_MAX}"),
        Error::Budget { breach: BudgetBreach::Nodes { .. }, .. } => format!("more than {DOCUMENT_NODES_MAX} values"),
        other => serde_saphyr::UserMessageFormatter.format_message(other).into_owned(),
    }
}

/// Reads one value, refusing what `serde_json::Value` takes without a word: a field given twice, and trees that are
/// much bigger than their text.
struct Node<'n> {
    nodes: &'n mut usize,
    depth: usize,
}

impl Node<'_> {
    fn child(&mut self) -> Node<'_> {
        Node { nodes: self.nodes, depth: self.depth + 1 }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        *self.nodes += 1;
        if *self.nodes > DOCUMENT_NODES_MAX {
            return Err(D::Error::custom(format!("more than {DOCUMENT_NODES_MAX} values")));
        }
        if self.depth > DOCUMENT_DEPTH_MAX {
            return Err(D::Error::custom(format!("nested deeper than {DOCUMENT_DEPTH_MAX}")));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self.child())? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("field {} is given twice", quoted(&key))));
            }
            let value = entries.next_value_seed(self.child())?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}
