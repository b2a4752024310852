//! `cargo test`, and how many tests it ran.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::{Outcome, cargo_command};

/// Tests, over all test programs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// Tests that did not run, which none should.
    pub ignored: u64,
}

impl Tally {
    /// Adds those of another run.
    pub fn merge(&mut self, other: &Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }

    /// Adds a line such as `test result: ok. 12 passed; 0 failed; 0 ignored; ...`; others do not count.
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        for count in result.split(['.', ';']) {
            let mut words = count.split_whitespace();
            let (Some(Ok(number)), Some(what)) = (words.next().map(str::parse::<u64>), words.next()) else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => (),
            }
        }
    }
}

/// Every test of the workspace that needs no cluster; goes on after a failure, so that one run shows all of them.
pub fn run(tally: &mut Tally) -> Result<Outcome> {
    let mut all = Tally::default();
    let status = count(&mut cargo_command(&["test", "--locked", "--workspace", "--no-fail-fast"]), &mut all);
    tally.merge(&all);
    ensure!(status?, "{} tests failed, or did not build", all.failed);
    ensure!(all.passed > 0, "no test ran");
    ensure!(all.ignored == 0, "{} tests are ignored: a test runs, or goes", all.ignored);
    Ok(Outcome::Passed)
}

/// Runs a `cargo test`, shows what it says, and counts its tests; whether all went well.
pub fn count(command: &mut Command, tally: &mut Tally) -> Result<bool> {
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
    println!("cargo {}", arguments.join(" "));
    let mut cargo = command.stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let output = BufReader::new(cargo.stdout.take().context("cargo has no stdout")?);
    for line in output.split(b'\n') {
        let line = line?;
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(&line)?;
        stdout.write_all(b"\n")?;
        tally.add(&String::from_utf8_lossy(&line));
    }
    Ok(cargo.wait()?.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_the_result_lines_of_test_programs() {
        let mut tally = Tally::default();
        tally.add("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        tally.add("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.2s");
        tally.add("test some::test ... ok");
        assert_eq!(tally, Tally { passed: 15, failed: 2, ignored: 1 });
    }
}
