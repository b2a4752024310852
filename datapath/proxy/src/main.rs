//! The l7mp datapath: one worker thread per core and one admin thread. Who starts whom is here.

#![forbid(unsafe_code)]

mod admin;
mod cli;
mod control;
mod cores;
mod dns;
mod failures;
mod forbidden;
mod ledger;
mod lifecycle;
mod metrics;
mod open_files;
mod trouble;
mod worker;

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use l7mp_api::Config;
use tracing_subscriber::EnvFilter;

use crate::cli::Args;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(file) = &args.check {
        return check(file);
    }
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, reload) = tracing_subscriber::reload::Layer::new(filter);
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours).with_target(false);
    tracing_subscriber::registry().with(filter).with(lines).init();
    let set_level = move |level: &str| {
        let _ = EnvFilter::try_new(level).map(|filter| reload.reload(filter));
    };
    match lifecycle::run(args, Box::new(set_level)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("l7mp-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `--check FILE`: every error on a line of its own.
fn check(file: &Path) -> ExitCode {
    let text = match std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display())) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("l7mp-proxy: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    match Config::read(&text) {
        Ok(config) => {
            for warning in config.warnings() {
                eprintln!("warning: {warning}");
            }
            println!("{}: ok", file.display());
            ExitCode::SUCCESS
        }
        Err(problems) => {
            for problem in &problems {
                eprintln!("{problem}");
            }
            ExitCode::FAILURE
        }
    }
}
