//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  In a pod, with the volumes of deploy/README.md, the defaults are right:

      l7mp-agent

  An operator in another namespace, and a log of every step:

      RUST_LOG=debug l7mp-agent --operator l7mp-operator.l7mp-system.svc:7800

  As the container's readiness probe:

      l7mp-agent check

What the operator sent last, and the proxy took, is in --saved; `l7mpctl explain` prints it with the objects that it
comes from. The log goes to stderr; RUST_LOG sets its level (default info).";

/// Keeps the proxy of this pod at the configuration that the l7mp operator sends.
#[derive(Clone, Debug, Parser)]
#[command(name = "l7mp-agent", version, after_help = EXAMPLES)]
pub struct Args {
    /// The operator: DNS name and port; its certificate must be for that name
    #[arg(long, env = "L7MP_OPERATOR", value_name = "HOST:PORT", default_value = "l7mp-operator.default.svc:7800")]
    pub operator: String,
    /// Admin socket of the proxy
    #[arg(long, env = "L7MP_ADMIN_SOCKET", value_name = "PATH", default_value = "/run/l7mp/admin.sock")]
    pub admin_socket: PathBuf,
    /// Where the last configuration that the proxy took is kept, for a start without an operator
    #[arg(long, env = "L7MP_SAVED", value_name = "FILE", default_value = "/run/l7mp/saved.json")]
    pub saved: PathBuf,
    /// Service-account token of this pod, for the audience of the operator; read again when it changes
    #[arg(long, env = "L7MP_TOKEN", value_name = "FILE", default_value = "/var/run/secrets/l7mp/token")]
    pub token: PathBuf,
    /// Certificates (PEM) of who may sign the operator's; read again when it changes
    #[arg(long, env = "L7MP_CA", value_name = "FILE", default_value = "/etc/l7mp/ca/ca.crt")]
    pub ca: PathBuf,
    /// Where /metrics, /healthz and /readyz are; pods of one host's network need one port each
    #[arg(long, env = "L7MP_HTTP", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7802", global = true)]
    pub http: SocketAddr,
    /// What to do instead
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do instead of running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Ask the agent that runs at --http whether it is ready: the proxy has a configuration; ends with 0 or 1
    Check,
}

impl Args {
    /// The host of `--operator`, without its port.
    ///
    /// # Errors
    /// When there is no port, or no host.
    pub fn operator_name(&self) -> Result<&str, String> {
        let wrong = || {
            let given = &self.operator;
            format!("--operator {given:?} is no HOST:PORT; write, for example, l7mp-operator.default.svc:7800")
        };
        let (host, port) = self.operator.rsplit_once(':').ok_or_else(wrong)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || port.parse::<u16>().is_err() { Err(wrong()) } else { Ok(host) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn the_operator_has_a_name_and_a_port() {
        let name = |text: &str| Args::parse_from(["l7mp-agent", "--operator", text]).operator_name().map(str::to_owned);
        assert_eq!(name("a.b.svc:7800").as_deref(), Ok("a.b.svc"));
        assert_eq!(name("[::1]:7800").as_deref(), Ok("::1"));
        for wrong in ["a.b.svc", ":7800", "a:", "a:x", "a:70000"] {
            assert!(name(wrong).unwrap_err().contains("HOST:PORT"), "{wrong}");
        }
    }
}
