//! The tests that need a Kubernetes, on one that is started for them and ends with this step.

use anyhow::{Result, ensure};

use super::suite::{self, Tally};
use super::{Outcome, cargo_command};
use crate::cluster::Cluster;
use crate::testbed::Profile;

/// What `cargo test` is asked for an API server on which nothing of ours is installed.
const BARE: [&[&str]; 3] = [
    &["test", "--locked", "--package", "l7mp-crds", "--test", "api_server"],
    &["test", "--locked", "--package", "l7mp-controller", "--features", "api-server", "--tests"],
    &["test", "--locked", "--package", "l7mp-ci", "--test", "chart"],
];

/// With the chart: each of its tests begins with the state that it needs.
const INSTALLED: [&str; 6] = ["test", "--locked", "--package", "l7mp-ci", "--features", "kubernetes"];

/// Each kind of test has a cluster of its own: Helm takes over no kinds that others have made, and what is asked of the
/// API server is judged.
pub fn run(tally: &mut Tally) -> Result<Outcome> {
    if let Err(error) = Cluster::needs() {
        return Ok(Outcome::Skipped(format!("{error:#}")));
    }
    let mut all = Tally::default();
    let bare = Cluster::new_for_tests()?;
    let mut well = suites(&bare, &BARE, &mut all)?;
    bare.down()?;
    well &= installed(&["kubernetes", "demo"], &[], &mut all)?;
    judge(well, &all, tally)
}

/// Changes and faults under load.
pub fn endure(tally: &mut Tally) -> Result<Outcome> {
    if let Err(error) = Cluster::needs() {
        return Ok(Outcome::Skipped(format!("{error:#}")));
    }
    let mut all = Tally::default();
    let well = installed(&["endurance"], &["--nocapture"], &mut all)?;
    judge(well, &all, tally)
}

/// Runs test programs on a cluster with the images; one cluster, one state: one test at a time.
fn installed(programs: &[&str], arguments: &[&str], tally: &mut Tally) -> Result<bool> {
    let cluster = Cluster::new_for_tests()?;
    cluster.load(Profile::Debug)?;
    let mut suite = INSTALLED.to_vec();
    suite.extend(programs.iter().flat_map(|program| ["--test", program]));
    suite.extend(["--", "--test-threads=1"].iter().chain(arguments));
    let well = suites(&cluster, &[&suite], tally)?;
    cluster.down()?;
    Ok(well)
}

fn judge(well: bool, all: &Tally, tally: &mut Tally) -> Result<Outcome> {
    tally.merge(all);
    ensure!(well, "{} tests failed, or did not build", all.failed);
    ensure!(all.ignored == 0, "{} tests are ignored: a test runs, or goes", all.ignored);
    Ok(Outcome::Passed)
}

/// Runs all of them, whatever comes of the ones before; whether all went well.
fn suites(cluster: &Cluster, suites: &[&[&str]], tally: &mut Tally) -> Result<bool> {
    let path = std::env::var("PATH").unwrap_or_default();
    let bin = cluster.program("kubectl").parent().map(|bin| bin.display().to_string()).unwrap_or_default();
    let mut well = true;
    for suite in suites {
        let mut command = cargo_command(suite);
        command.env("L7MP_KUBECONFIG", cluster.kubeconfig()).env("L7MP_CLUSTER", cluster.name());
        command.env("L7MP_HELM", cluster.program("helm")).env("PATH", format!("{bin}:{path}"));
        well &= suite::count(&mut command, tally)?;
    }
    Ok(well)
}
