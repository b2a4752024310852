//! Runs worlds, and says how to see a failing one again.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use l7mp_sim::{Summary, replay, run};

/// Runs seeded worlds around the forwarder: lossy networks, dying servers, slow readers, changing configurations.
///
/// Example: l7mp-sim --seeds 10000
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 256)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Only this one.
    #[arg(long)]
    seed: Option<u64>,
    /// Print what happens.
    #[arg(long)]
    verbose: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (first, count) = arguments.seed.map_or((arguments.first, arguments.seeds), |seed| (seed, 1));
    let mut total = Summary::default();
    let mut failed = 0_u64;
    for seed in first..first + count {
        match run(seed, arguments.verbose) {
            Ok(summary) => {
                total.messages += summary.messages;
                total.dropped += summary.dropped;
                total.sessions += summary.sessions;
                total.millis += summary.millis;
            }
            Err(fault) => {
                failed += 1;
                println!("seed {seed}: {fault}\nreplay: {}", replay(seed));
            }
        }
    }
    println!(
        "{count} seeds, {failed} failed; {} sessions, {} messages forwarded, {} dropped, {} s of their time",
        total.sessions,
        total.messages,
        total.dropped,
        total.millis / 1000
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
