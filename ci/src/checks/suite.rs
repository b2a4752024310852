//! `cargo test`, and how many tests it ran.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

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

/// Every test of the workspace; goes on after a failure, so that one run shows all of them.
pub fn run(tally: &mut Tally) -> Result<Outcome> {
    println!("cargo test --locked --workspace --no-fail-fast");
    let mut command = cargo_command(&["test", "--locked", "--workspace", "--no-fail-fast"]);
    let mut cargo = command.stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let output = BufReader::new(cargo.stdout.take().context("cargo has no stdout")?);
    for line in output.split(b'\n') {
        let line = line?;
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(&line)?;
        stdout.write_all(b"\n")?;
        tally.add(&String::from_utf8_lossy(&line));
    }
    let status = cargo.wait()?;
    ensure!(status.success(), "{} tests failed, or did not build", tally.failed);
    ensure!(tally.passed > 0, "no test ran");
    ensure!(tally.ignored == 0, "{} tests are ignored: a test runs, or goes", tally.ignored);
    Ok(Outcome::Passed)
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
