//! The tool behind `cargo ci`, `cargo demo` and `cargo cluster`.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use l7mp_ci::{checks, cluster, demo, process, servers};

#[derive(Parser)]
#[command(name = "l7mp-ci", about = "Checks the workspace, and runs the first task on this machine")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run every check, or only those that are named
    #[command(after_help = "Examples:\n  cargo ci             everything\n  cargo ci fmt clippy  two steps")]
    Ci {
        /// Steps to run
        #[arg(value_enum)]
        steps: Vec<checks::Step>,
    },
    /// Run the first task: a gateway, two transcoders, two workers, one controller
    #[command(after_help = "Examples:\n  cargo demo                  stays up until Ctrl-C\n  \
                            cargo demo -- --once        checks the answers and ends\n  \
                            cargo demo -- --kubernetes  the same with kubectl, on a Kubernetes that it starts")]
    Demo(demo::Options),
    /// Start or end a Kubernetes with one node on this machine
    #[command(
        after_help = "Examples:\n  cargo cluster up             builds it once (12 minutes), starts it (15 s)\n  \
                            eval \"$(cargo cluster env)\"  so that kubectl and helm speak to it\n  \
                            cargo cluster load           the project's images\n  \
                            cargo cluster down           leaves nothing"
    )]
    Cluster(cluster::Options),
    /// Be the first process of a cluster's namespaces
    #[command(hide = true)]
    ClusterNode(cluster::node::Options),
    /// Answer each line on a Unix stream socket with "Transcoded on NAME: " and the line
    Transcoder {
        /// Path of the socket
        #[arg(long)]
        socket: PathBuf,
        /// Name of the pod
        #[arg(long)]
        name: String,
    },
    /// Answer each line of a datagram with "Echo on NAME: ", a newline, and the line
    Worker {
        /// Address and port
        #[arg(long)]
        listen: SocketAddr,
        /// Name of the pod
        #[arg(long)]
        name: String,
    },
    /// Become PROGRAM, and be killed when the process PARENT ends
    #[command(hide = true)]
    Exec {
        /// Process id of the caller
        #[arg(long)]
        parent: i32,
        /// What to run, and its arguments
        #[arg(required = true, last = true)]
        program: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse_from(arguments()).command {
        Command::Ci { steps } => checks::run(&steps),
        Command::Demo(options) => demo::run(&options),
        Command::Cluster(options) => cluster::run(&options),
        Command::ClusterNode(options) => cluster::node::run(options),
        Command::Transcoder { socket, name } => servers::transcoder(&socket, &name),
        Command::Worker { listen, name } => servers::worker(listen, &name),
        Command::Exec { parent, program } => Err(process::become_program(parent, &program)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The command line, without the `--` of `cargo demo -- --once`: the alias has one of its own already.
fn arguments() -> Vec<OsString> {
    let mut arguments: Vec<_> = std::env::args_os().collect();
    let aliased = arguments.get(1).is_some_and(|command| ["demo", "ci", "cluster"].iter().any(|name| command == name));
    if aliased && arguments.get(2).is_some_and(|argument| argument == "--") {
        arguments.remove(2);
    }
    arguments
}
