//! `l7mp-agent`: beside each proxy in Kubernetes.

#![forbid(unsafe_code)]

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use clap::Parser;
use l7mp_admin::AdminSocket;
use l7mp_agent::cli::{Args, Command};
use l7mp_agent::files::{self, Trust};
use l7mp_agent::http::{self, Pages};
use l7mp_agent::operator::{Caller, pod_of};
use l7mp_agent::proxy::{Keeper, Standing};
use l7mp_agent::saved::Saved;
use l7mp_agent::state::State;
use l7mp_link::claims::Claims;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match args.command {
        Some(Command::Check) => check(&args),
        None => run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("l7mp-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check(args: &Args) -> anyhow::Result<()> {
    match http::check(args.http).with_context(|| format!("no agent answers at {}", args.http))? {
        Ok(said) => {
            println!("{said}");
            Ok(())
        }
        Err(said) => bail!("not ready: {said}"),
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
    let name = args.operator_name().map_err(|message| anyhow!(message))?.to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let result = runtime.block_on(serve(args, name));
    // A name that is being looked up is not waited for.
    runtime.shutdown_background();
    result
}

async fn serve(args: Args, name: String) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let listener = TcpListener::bind(args.http)
        .await
        .with_context(|| format!("cannot listen on --http {}; pods of one host's network need one each", args.http))?;
    let state = Arc::new(State::default());
    let last = last(&args);
    let (wanted_sender, wanted) = watch::channel(None);
    let (standing_sender, standing) = watch::channel(Standing::default());
    let newest = last.as_ref().map(|last| last.version);
    let admin = AdminSocket::new(&args.admin_socket);
    let keeper = Keeper::new(admin, args.saved.clone(), last, wanted, standing_sender, Arc::clone(&state));
    let caller = Caller {
        operator: args.operator,
        name,
        token: args.token,
        trust: Trust::new(args.ca),
        wanted: wanted_sender,
        standing: standing.clone(),
        state: Arc::clone(&state),
        newest,
    };
    // The kubelet ends the sidecars after the pod's other containers, the one that was started last first: when this
    // signal comes nothing is left to configure the proxy for.
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM"),
        _ = interrupt.recv() => tracing::info!("SIGINT"),
        () = keeper.run() => {}
        () = caller.run() => {}
        () = Pages { state, standing }.serve(listener) => {}
    }
    Ok(())
}

/// What the file has for this pod.
fn last(args: &Args) -> Option<Saved> {
    let path = args.saved.display();
    let saved = match Saved::read(&args.saved) {
        Ok(saved) => saved?,
        Err(error) => {
            tracing::warn!("--saved {path} is of no use: {error}");
            return None;
        }
    };
    let pod = files::token(&args.token).ok().and_then(|token| Claims::read(&token)).map(pod_of).unwrap_or_default();
    if !pod.uid.is_empty() && !saved.pod.uid.is_empty() && pod.uid != saved.pod.uid {
        let theirs = &saved.pod;
        tracing::warn!("--saved {path} is of another pod, {}/{} {}", theirs.namespace, theirs.name, theirs.uid);
        return None;
    }
    tracing::info!(version = %saved.version, "--saved {path} has what the proxy acknowledged last");
    Some(saved)
}
