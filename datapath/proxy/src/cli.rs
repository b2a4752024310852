//! The command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use l7mp_engine::BusyPoll;

const EXAMPLES: &str = "\
Examples:
  l7mp-proxy --check gateway.yaml
  l7mp-proxy --config gateway.yaml --bind 127.0.0.1 --http 127.0.0.1:9090
  l7mp-proxy --admin-socket /run/l7mp/admin.sock        (then: l7mpctl apply gateway.yaml)

Signals:
  SIGTERM, SIGINT  drain: no new sessions; exit 0 when none is left or after --drain-timeout; a second one ends it at once
  SIGHUP           read --config again; a bad file is reported and changes nothing;
                   refused once another document was put through the admin API";

/// The l7mp datapath: carries UDP, WebSocket, TCP and Unix-socket sessions message by message through chains of
/// clusters, on io_uring, one worker thread per core.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
pub struct Args {
    /// Configuration document (YAML or JSON) to start with; SIGHUP reads it again
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check a configuration document, print every error with its path, and exit (1 if there is any)
    #[arg(long, value_name = "FILE")]
    pub check: Option<PathBuf>,
    /// Unix socket of the admin API [default: /run/l7mp/admin.sock as root, else $XDG_RUNTIME_DIR/l7mp/admin.sock]
    #[arg(long, value_name = "PATH")]
    pub admin_socket: Option<PathBuf>,
    /// Worker threads [default: as many as the affinity mask and the cgroup's CPU quota allow]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,
    /// Pin the workers to these cores, in order: 0,2,4-7; with fewer cores than --workers, several workers are pinned to one core
    #[arg(long, value_name = "LIST", value_parser = cores)]
    pub cores: Option<Cores>,
    /// Address of listeners that name none [default: [::], or 0.0.0.0 where there is no IPv6]
    #[arg(long, value_name = "ADDR")]
    pub bind: Option<IpAddr>,
    /// Unix paths of the configuration live under this directory and cannot leave it
    #[arg(long, value_name = "DIR")]
    pub unix_root: Option<PathBuf>,
    /// Serve /metrics, /healthz and /readyz on this TCP address, read-only
    #[arg(long, value_name = "ADDR")]
    pub http: Option<SocketAddr>,
    /// Look for work before sleeping: a duration (50us, 1ms) or always. Lower latency, more CPU
    #[arg(long, value_name = "DURATION|always", value_parser = busy_poll)]
    pub busy_poll: Option<BusyPoll>,
    /// How long live sessions may go on when the proxy drains
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub drain_timeout: Duration,
}

/// Cores by number.
pub type Cores = std::sync::Arc<[usize]>;

fn duration(text: &str) -> Result<Duration, String> {
    l7mp_api::duration::parse(text).map_err(|error| error.to_string())
}

const BUSY_POLL_ERROR: &str = "neither always nor a duration: write milliseconds as a number, or 50us, 1ms, 1s, 2m, 1h";

fn busy_poll(text: &str) -> Result<BusyPoll, String> {
    if text == "always" {
        return Ok(BusyPoll::Always);
    }
    if let Some(micros) = text.strip_suffix("us") {
        let micros = micros.parse().map_err(|_| BUSY_POLL_ERROR)?;
        return Ok(BusyPoll::For(Duration::from_micros(micros)));
    }
    Ok(BusyPoll::For(l7mp_api::duration::parse(text).map_err(|_| BUSY_POLL_ERROR)?))
}

fn cores(text: &str) -> Result<Cores, String> {
    /// More cores than this are a mistake.
    const CORES_MAX: usize = 4096;
    let number = |part: &str| {
        part.trim().parse::<usize>().ok().filter(|&n| n < CORES_MAX).ok_or(format!("{part:?} is not a core's number"))
    };
    let mut cores = Vec::new();
    for part in text.split(',') {
        match part.split_once('-') {
            Some((first, last)) => cores.extend(number(first)?..=number(last)?),
            None => cores.push(number(part)?),
        }
    }
    if cores.is_empty() { Err(format!("{text:?} names no core")) } else { Ok(cores.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_lists() {
        assert_eq!(cores("0,2,4-6").as_deref(), Ok(&[0, 2, 4, 5, 6][..]));
        assert!(cores("x").is_err() && cores("3-1").is_err() && cores("99999").is_err());
    }

    #[test]
    fn busy_polls() {
        assert_eq!(busy_poll("always"), Ok(BusyPoll::Always));
        assert_eq!(busy_poll("50us"), Ok(BusyPoll::For(Duration::from_micros(50))));
        assert_eq!(busy_poll("1ms"), Ok(BusyPoll::For(Duration::from_millis(1))));
        assert!(busy_poll("soon").is_err());
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}
