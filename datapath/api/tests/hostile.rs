//! Documents that are made to cost: each is refused, or read, in bounded time and with bounded answers.

use std::fmt::Write as _;
use std::time::Instant;

use l7mp_api::{Config, Problem, limits};

fn refused(text: &str) -> Vec<Problem> {
    let begin = Instant::now();
    let problems = Config::read(text).expect_err("a hostile document");
    // Far above what any of them takes, far below a minute.
    assert!(begin.elapsed().as_secs() < 30, "took {:?}", begin.elapsed());
    assert!(problems.len() <= limits::PROBLEMS_MAX + 1);
    assert!(problems.iter().all(|problem| problem.message.len() < 4_096));
    problems
}

#[test]
fn a_text_that_is_too_long_is_not_looked_at() {
    let problems = refused(&" ".repeat(limits::DOCUMENT_BYTES_MAX + 1));
    assert!(problems[0].message.contains("bytes"), "{}", problems[0]);
}

#[test]
fn more_values_than_a_document_may_have() {
    let items = "0,".repeat(limits::DOCUMENT_NODES_MAX);
    assert!(refused(&format!("{{\"listeners\": [{items}0]}}"))[0].message.contains("more than"));
    assert_eq!(refused(&format!("listeners: [{items}0]")).len(), 1);
}

#[test]
fn nested_deeper_than_a_stack() {
    let depth = 1_000_000;
    assert_eq!(refused(&format!("{{\"a\":{}", "[".repeat(depth))).len(), 1);
    assert_eq!(refused(&"[".repeat(depth)).len(), 1);
    assert_eq!(refused(&"{\"a\":".repeat(depth)).len(), 1);
    assert_eq!(refused(&"- ".repeat(depth)).len(), 1);
}

#[test]
fn every_name_dangles() {
    let mut text = "clusters:\n".to_owned();
    for index in 0..10_000 {
        writeln!(text, "- {{name: a-rather-long-name-of-a-cluster-{index}, spec: {{Echo: }}}}").expect("a string");
    }
    text.push_str("routes:\n");
    for index in 0..10_000 {
        writeln!(text, "- {{name: r{index}, destination: another-rather-long-name-{index}}}").expect("a string");
    }
    let problems = refused(&text);
    assert_eq!(problems.last(), Some(&Problem::new("", "9000 more problems are not shown")));
}

#[test]
fn every_listener_wants_one_port() {
    let mut text = "listeners:\n".to_owned();
    for index in 0..limits::LISTENERS_MAX {
        let address = format!("10.0.{}.{}", index / 256, index % 256);
        writeln!(text, "- {{name: l{index}, spec: {{UDP: {{port: 1, address: {address}}}}}}}").expect("a string");
    }
    assert!(Config::read(&text).is_ok());
    writeln!(text, "- {{name: one-more, spec: {{UDP: {{port: 2}}}}}}").expect("a string");
    assert!(refused(&text)[0].message.contains("at most"));
}

#[test]
fn a_long_chain_and_a_long_loop_of_rule_lists() {
    let count = limits::RULELISTS_MAX;
    let chain = |last: &str| {
        let mut text = "listeners: [{name: in, spec: {UDP: {port: 1}}, rules: l0}]\nrulelists:\n".to_owned();
        for index in 1..count {
            writeln!(text, "- {{name: l{}, rules: [{{action: {{apply: l{index}}}}}]}}", index - 1).expect("a string");
        }
        writeln!(text, "- {{name: l{}, rules: [{{action: {{{last}}}}}]}}", count - 1).expect("a string");
        text
    };
    let config = Config::read(&chain("refuse: x")).expect("a chain is no loop");
    assert_eq!(config.warnings(), []);
    assert_eq!(refused(&chain("apply: l0")).len(), 1);
}

#[test]
fn long_words_are_cut_in_messages() {
    let long = "x".repeat(1_000_000);
    let problems = refused(&format!(
        "{{\"{long}\": 1, \"routes\": [{{\"name\": \"r\", \"destination\": \"{}\"}}]}}",
        &long[..1_000]
    ));
    assert_eq!(problems.len(), 2);
    assert!(problems.iter().all(|problem| problem.to_string().len() < 400));
}
