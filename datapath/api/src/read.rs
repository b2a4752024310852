//! A tree of values to the typed document, with every error on the way.
//!
//! No derived `Deserialize`: that stops at the first error. A function that reads an object reports what is wrong in
//! it and still returns a value, with a harmless stand-in for what could not be read, so that the checks between
//! objects see every object at its place and do not blame one for the error of another.

mod cluster;
mod endpoint;
mod fields;
mod listener;
mod route;
mod rule;
mod scalars;
mod spec;

use serde_json::Value;

use crate::check;
use crate::config::{Admin, Config, Ref, RuleList};
use crate::limits::{CLUSTERS_MAX, LISTENERS_MAX, ROUTES_MAX, RULELISTS_MAX, RULES_MAX, RULES_PER_LIST_MAX};
use crate::path::Path;
use crate::problem::{Problem, Problems, quoted};
use crate::text;
use fields::Fields;

impl Config {
    /// Reads a JSON or YAML document, or tells every error that it has, each with its path. A text that is neither
    /// is one problem, with line and column. An empty text is an error; an empty configuration is `{}`.
    pub fn read(text: &str) -> Result<Config, Vec<Problem>> {
        let value = text::parse(text).map_err(|problem| vec![problem])?;
        Config::from_value(&value)
    }

    /// As [`Config::read`], from a tree that something else has parsed.
    pub fn from_value(value: &Value) -> Result<Config, Vec<Problem>> {
        if value.is_null() {
            return Err(vec![Problem::new("", "the document is empty; an empty configuration is {}")]);
        }
        let mut problems = Problems::default();
        let config = read_config(value, &mut problems);
        check::check(&config, &mut problems);
        if problems.count() == 0 { Ok(config) } else { Err(problems.into_vec()) }
    }

    /// Every error that a document made by a program would have when it is read: nothing else is checked by who
    /// makes one, since the types hold more than a document may say.
    pub fn check(&self) -> Vec<Problem> {
        Config::from_value(&self.to_value()).err().unwrap_or_default()
    }
}

fn read_config(value: &Value, problems: &mut Problems) -> Config {
    let root = Path::Root;
    let Some(mut fields) = Fields::open(value, &root, problems) else {
        return Config::default();
    };
    let config = Config {
        listeners: fields.list("listeners", LISTENERS_MAX, listener::listener),
        clusters: fields
            .list("clusters", CLUSTERS_MAX, |value, at, problems| cluster::cluster(value, at, true, problems)),
        routes: fields.list("routes", ROUTES_MAX, |value, at, problems| route::route(value, at, true, problems)),
        rules: fields.list("rules", RULES_MAX, |value, at, problems| rule::rule(value, at, true, problems)),
        rulelists: fields.list("rulelists", RULELISTS_MAX, rulelist),
        admin: fields.optional("admin", admin).unwrap_or_default(),
    };
    fields.finish();
    config
}

fn admin(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<Admin> {
    const LOG_LEVELS: [(&str, &str); 5] =
        [("error", "error"), ("warn", "warn"), ("info", "info"), ("debug", "debug"), ("trace", "trace")];
    let mut fields = Fields::open(value, at, problems)?;
    let log_level =
        fields.optional("log_level", |value, at, problems| scalars::one_of(value, at, problems, &LOG_LEVELS));
    for later in ["log_file", "access_log_path", "strict", "offload", "offload_ifs"] {
        fields.not_supported_yet(later);
    }
    fields.finish();
    Some(Admin { log_level: log_level.map(str::to_owned) })
}

fn rulelist(value: &Value, at: &Path<'_>, problems: &mut Problems) -> RuleList {
    let Some(mut fields) = Fields::open(value, at, problems) else {
        return RuleList { name: String::new(), rules: Vec::new() };
    };
    let name = fields.name(true);
    fields.required("rules");
    let rules = fields.list("rules", RULES_PER_LIST_MAX, rule::rule_ref);
    fields.finish();
    RuleList { name, rules }
}

/// An object by its name, or inline.
fn by_name_or_inline<T>(
    value: &Value,
    at: &Path<'_>,
    problems: &mut Problems,
    stand_in: impl FnOnce() -> T,
    inline: impl FnOnce(&Value, &Path<'_>, &mut Problems) -> T,
) -> Ref<T> {
    let object = match value {
        Value::String(_) => match scalars::name(value, at, problems) {
            Some(name) => return Ref::Name(name),
            None => stand_in(),
        },
        Value::Object(_) => inline(value, at, problems),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
            problems.push(at, format!("expected a name or an object, not {}", scalars::kind(value)));
            stand_in()
        }
    };
    Ref::Inline(Box::new(object))
}

/// The words in quotes, for a message.
fn quoted_list<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().map(quoted).collect::<Vec<_>>().join(", ")
}
