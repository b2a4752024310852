//! Documents that are longer than an agent takes.

use std::time::Duration;

use l7mp_fleet::DOCUMENT_BYTES_MAX;

use crate::support::*;

/// A VirtualService that takes a little less than so many fifths of what an agent takes, made in that minute.
fn big(name: &str, port: u16, fifths: usize, minute: u32) -> String {
    let text = "x".repeat(200);
    let rule = format!("{{action: {{refuse: {text}}}}},");
    let rules = rule.repeat(fifths * DOCUMENT_BYTES_MAX / 5 / (text.len() + 27));
    format!(
        "---\n{{apiVersion: l7mp.io/v1, kind: VirtualService, metadata: {{name: {name}, uid: uid-{name}, generation: 1,
creationTimestamp: '2026-01-01T00:{minute:02}:00Z'}}, spec: {{selector: {{matchLabels: {{app: gw}}}},
listener: {{spec: {{UDP: {{port: {port}}}}}, rules: [{rules}]}}}}}}\n"
    )
}

/// As the link answers to what it does not send.
fn refuse_what_is_too_long(bench: &mut Bench) {
    let bytes = serde_json::to_vec(bench.config("g")).unwrap().len();
    assert!(bytes > DOCUMENT_BYTES_MAX, "{bytes}");
    bench.refuse("g", &[problem("", "the document is too long")]);
}

fn acknowledge_what_is_short_enough(bench: &mut Bench) {
    let bytes = serde_json::to_vec(bench.config("g")).unwrap().len();
    assert!(bytes <= DOCUMENT_BYTES_MAX, "{bytes}");
    bench.acknowledge("g");
    bench.turn();
}

#[test]
fn what_has_grown_too_much_is_held_back_and_the_rest_goes_on() {
    let world = [pod("g", "gw", "10.0.0.1"), big("a", 9001, 3, 1), big("b", 9002, 1, 2)].concat();
    let mut bench = Bench::settled(&world, &["g"]);
    // Neither the longest nor the newest, but the one that has changed; another change goes with it.
    bench.apply(&big("b", 9002, 3, 2).replace("generation: 1", "generation: 2"));
    bench.apply(&service("c", "gw", 9003, ECHO));
    assert_eq!(bench.soon(), ["g"]);
    refuse_what_is_too_long(&mut bench);
    assert_eq!(bench.turn(), ["g"], "at once");
    assert_eq!(listeners(bench.config("g")), ["default/a", "default/c"]);
    acknowledge_what_is_short_enough(&mut bench);
    for (name, said) in [("a", "True Programmed"), ("b", "False Refused"), ("c", "True Programmed")] {
        assert_eq!(verdict(bench.status(&vsvc(name)), "Programmed"), said, "{name}");
    }
    assert!(condition(bench.status(&vsvc("b")), "Programmed").message.contains("too long"));
    // It is tried again like everything that was refused, and once it is shorter it is there at once.
    assert_eq!(bench.wait(Duration::from_secs(1)), ["g"]);
    refuse_what_is_too_long(&mut bench);
    assert!(bench.turn().is_empty());
    bench.apply(&big("b", 9002, 1, 2).replace("generation: 1", "generation: 3"));
    assert_eq!(bench.soon(), ["g"]);
    acknowledge_what_is_short_enough(&mut bench);
    assert_eq!(verdict(bench.status(&vsvc("b")), "Ready"), "True Ready");
}

#[test]
fn after_a_start_the_newest_that_is_enough_is_held_back_else_the_longest() {
    let all = |fifths: [usize; 4]| {
        let names = ["a", "b", "c", "d"].into_iter().zip(9001..).zip(fifths);
        names.map(|((name, port), fifths)| big(name, port, fifths, u32::from(port) - 9000)).collect::<String>()
    };
    for (fifths, goes) in [
        ([2, 2, 1, 1], vec!["default/a", "default/b", "default/c"]),
        // `d` is the newest, and is enough with `b` alone.
        ([3, 3, 2, 1], vec!["default/a", "default/c"]),
        ([4, 3, 4, 1], vec!["default/a", "default/d"]),
    ] {
        let mut bench = Bench::new(&(pod("g", "gw", "10.0.0.1") + &all(fifths)));
        bench.connect("g");
        bench.turn();
        refuse_what_is_too_long(&mut bench);
        bench.turn();
        assert_eq!(listeners(bench.config("g")), goes, "{fifths:?}");
        acknowledge_what_is_short_enough(&mut bench);
    }
}

#[test]
fn of_two_that_are_tried_again_the_one_that_fits_is_taken() {
    let world = [pod("g", "gw", "10.0.0.1"), big("a", 9001, 3, 1)].concat();
    let mut bench = Bench::settled(&world, &["g"]);
    bench.apply(&[big("b", 9002, 3, 2), big("c", 9003, 3, 3)].concat());
    bench.soon();
    refuse_what_is_too_long(&mut bench);
    assert!(bench.turn().is_empty(), "it has the rest");
    // There is room for one of them now.
    bench.apply(&big("a", 9001, 1, 1).replace("generation: 1", "generation: 2"));
    bench.soon();
    acknowledge_what_is_short_enough(&mut bench);
    bench.wait(Duration::from_secs(1));
    refuse_what_is_too_long(&mut bench);
    bench.turn();
    assert_eq!(listeners(bench.config("g")), ["default/a", "default/b"]);
    acknowledge_what_is_short_enough(&mut bench);
}
