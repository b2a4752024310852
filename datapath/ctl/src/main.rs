//! The human's tool on the admin socket of an l7mp proxy: `l7mpctl apply`, `get`, `delete`, `drain`,
//! `explain`, `validate`, `top`.

#![forbid(unsafe_code)]

mod cli;
mod client;
mod commands;
mod error;
mod explain;
mod output;
mod table;
mod tables;
mod top;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Args, Format};
use crate::error::Error;

fn main() -> ExitCode {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let args = Args::parse();
    let format = args.output;
    let outcome = commands::run(args, &mut out).and_then(|()| Ok(out.flush()?));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output has seen enough: `l7mpctl get sessions | head`.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let for_program = format != Format::Table && !matches!(error, Error::Output(_));
            if for_program && output::print(&mut out, format, &error.errors(), |_| String::new()).is_ok() {
                let _ = out.flush();
                return ExitCode::FAILURE;
            }
            for line in error.lines() {
                eprintln!("{line}");
            }
            ExitCode::FAILURE
        }
    }
}
