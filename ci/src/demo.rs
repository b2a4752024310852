//! `cargo demo`: the first task, shown to a person; as processes of this machine, or on a Kubernetes.

mod interrupt;
mod kubernetes;
mod local;
mod shell;

use anyhow::Result;

use self::interrupt::Interrupt;
use crate::testbed::Profile;

/// What the page of the task types.
const LINES: [&str; 2] = ["This is a test!", "Hurray it's working!"];

/// Options of `cargo demo`.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Check the answers, then end
    #[arg(long)]
    once: bool,
    /// UDP port of the gateway, on 127.0.0.1
    #[arg(long, default_value_t = 9001, value_parser = clap::value_parser!(u16).range(1..=65_535))]
    port: u16,
    /// Build without optimisation, which is sooner done
    #[arg(long)]
    debug: bool,
    /// On a real Kubernetes with one node, which is started for it; with L7MP_KUBECONFIG=FILE, on yours
    #[arg(long, conflicts_with = "port")]
    kubernetes: bool,
    /// Name of that cluster (`cargo cluster --name`); one that runs is used, and goes on running
    #[arg(long, requires = "kubernetes")]
    name: Option<String>,
}

impl Options {
    fn profile(&self) -> Profile {
        if self.debug { Profile::Debug } else { Profile::Release }
    }
}

/// Runs the demo until Ctrl-C, or once.
pub fn run(options: &Options) -> Result<()> {
    let interrupt = Interrupt::new()?;
    if options.kubernetes { kubernetes::run(options, &interrupt) } else { local::run(options, &interrupt) }
}
