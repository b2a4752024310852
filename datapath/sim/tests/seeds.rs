//! A few hundred worlds; `cargo run -p l7mp-sim -- --seeds 10000` runs more.

use l7mp_sim::{Summary, replay, run};

const SEEDS: u64 = 256;

#[test]
fn worlds_of_256_seeds_come_to_rest() {
    let mut total = Summary::default();
    let mut faults = Vec::new();
    for seed in 0..SEEDS {
        match std::panic::catch_unwind(|| run(seed, false)) {
            Ok(Ok(summary)) => {
                total.messages += summary.messages;
                total.sessions += summary.sessions;
            }
            Ok(Err(fault)) => faults.push(format!("seed {seed}: {fault}\nreplay: {}", replay(seed))),
            Err(_) => faults.push(format!("seed {seed}: panicked\nreplay: {}", replay(seed))),
        }
    }
    assert!(faults.is_empty(), "{} of {SEEDS} seeds failed\n{}", faults.len(), faults.join("\n"));
    assert!(total.messages > 10 * SEEDS && total.sessions > SEEDS, "{total:?}");
}
