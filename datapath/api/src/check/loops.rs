//! Rule lists that apply each other in a circle: a session would never get its route.

use std::collections::HashMap;

use crate::config::{ActionTarget, Config, Ref, Rule};
use crate::path::Path;
use crate::problem::{Problems, quoted};

/// At most so many names of a loop are shown.
const NAMES_SHOWN_MAX: usize = 8;

/// The rule at this position applies that list.
#[derive(Clone, Copy)]
struct Edge {
    rule: usize,
    inline: bool,
    to: usize,
}

/// How far the walk has come with a list.
#[derive(Clone, Copy, PartialEq)]
enum Mark {
    Unseen,
    OnTheWay,
    Done,
}

pub(crate) fn check(config: &Config, problems: &mut Problems) {
    let edges = edges(config);
    let mut marks = vec![Mark::Unseen; edges.len()];
    // The way from the first list to the present one, each with the number of its edges that are done. No recursion:
    // a chain may be as long as the document has lists.
    let mut way: Vec<(usize, usize)> = Vec::new();
    for start in 0..edges.len() {
        if marks[start] != Mark::Unseen {
            continue;
        }
        marks[start] = Mark::OnTheWay;
        way.push((start, 0));
        while let Some((list, done)) = way.last_mut() {
            let list = *list;
            let Some(edge) = edges[list].get(*done).copied() else {
                marks[list] = Mark::Done;
                way.pop();
                continue;
            };
            *done += 1;
            match marks[edge.to] {
                Mark::Unseen => {
                    marks[edge.to] = Mark::OnTheWay;
                    way.push((edge.to, 0));
                }
                Mark::OnTheWay => report(config, &way, list, edge, problems),
                Mark::Done => {}
            }
        }
    }
}

fn edges(config: &Config) -> Vec<Vec<Edge>> {
    // The first of a name, as everywhere; a second is reported as such.
    let mut lists: HashMap<&str, usize> = HashMap::new();
    for (index, list) in config.rulelists.iter().enumerate() {
        lists.entry(&list.name).or_insert(index);
    }
    let mut rules: HashMap<&str, &Rule> = HashMap::new();
    for rule in &config.rules {
        rules.entry(&rule.name).or_insert(rule);
    }
    let edge = |rule: usize, reference: &Ref<Rule>| {
        let (target, inline) = match reference {
            Ref::Name(name) => (rules.get(name.as_str()).copied()?, false),
            Ref::Inline(rule) => (&**rule, true),
        };
        match &target.action.target {
            ActionTarget::Apply(name) => lists.get(name.as_str()).map(|to| Edge { rule, inline, to: *to }),
            ActionTarget::Route(_) | ActionTarget::Refuse(_) => None,
        }
    };
    let of_list =
        |rules: &[Ref<Rule>]| rules.iter().enumerate().filter_map(|(index, rule)| edge(index, rule)).collect();
    config.rulelists.iter().map(|list| of_list(&list.rules)).collect()
}

fn report(config: &Config, way: &[(usize, usize)], list: usize, edge: Edge, problems: &mut Problems) {
    let start = way.iter().position(|(on_the_way, _)| *on_the_way == edge.to).unwrap_or(0);
    let mut names: Vec<String> =
        way[start..].iter().take(NAMES_SHOWN_MAX).map(|(list, _)| quoted(&config.rulelists[*list].name)).collect();
    if way.len() - start > NAMES_SHOWN_MAX {
        names.push("...".to_owned());
    }
    names.push(quoted(&config.rulelists[edge.to].name));
    let message = format!("a loop of rule lists: {}", names.join(" applies "));
    let root = Path::Root;
    let lists = root.key("rulelists");
    let at = lists.index(list);
    let rules = at.key("rules");
    let rule = rules.index(edge.rule);
    if edge.inline {
        problems.push(&rule.key("action").key("apply"), message);
    } else {
        problems.push(&rule, message);
    }
}
