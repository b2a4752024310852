//! The human's tool on the admin socket of an l7mp proxy: `l7mpctl apply`, `get`, `delete`, `drain`, `validate`, `top`.

#![forbid(unsafe_code)]

mod cli;
mod client;
mod commands;
mod error;
mod output;
mod table;
mod tables;
mod top;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::cli::Args;
use crate::error::Error;

fn main() -> ExitCode {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let outcome = commands::run(Args::parse(), &mut out).and_then(|()| Ok(out.flush()?));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output has seen enough: `l7mpctl get sessions | head`.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            for line in error.lines() {
                eprintln!("{line}");
            }
            ExitCode::FAILURE
        }
    }
}
