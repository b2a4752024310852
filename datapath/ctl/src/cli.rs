//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

const EXAMPLES: &str = "\
Examples:
  l7mpctl apply gateway.yaml                      replace the whole configuration
  l7mpctl get config > gateway.yaml               the adopted one, to edit and apply again
  l7mpctl get sessions --listener players
  l7mpctl get clusters -o json | jq '.[].name'
  l7mpctl delete session UDP:10.0.0.7:41020-10.0.0.1:9001-7
  l7mpctl explain                                 in Kubernetes: which object each part comes from
  l7mpctl --socket /tmp/l7mp/admin.sock top";

const APPLY_EXAMPLES: &str = "\
Examples:
  l7mpctl apply gateway.yaml
  l7mpctl apply --dry-run gateway.yaml            bind what it needs, change nothing
  l7mpctl apply --if-version 3 gateway.yaml       only if nobody has changed it since
  generate | l7mpctl apply -";

const GET_EXAMPLES: &str = "\
Examples:
  l7mpctl get listeners
  l7mpctl get cluster game-servers -o yaml
  l7mpctl get sessions --listener players -o json";

const DRAIN_EXAMPLES: &str = "\
Examples:
  l7mpctl drain                                   returns once no new sessions are taken
  l7mpctl drain --after 2s                        goes on as before for 2 s: those who send sessions are told meanwhile
  l7mpctl drain --wait                            returns when no session is left";

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  l7mpctl explain
  l7mpctl explain -o json | jq '.clusters[] | {name, from}'
  kubectl exec POD -c l7mp -- l7mpctl explain     in Kubernetes";

const TOP_EXAMPLES: &str = "\
Examples:
  l7mpctl top                                     live; q or Ctrl-C ends it
  l7mpctl top --once                              the rates of one second, as text";

/// Talks to an l7mp proxy over its admin socket: apply a configuration, look at what it does, drain it.
#[derive(Debug, Parser)]
#[command(name = "l7mpctl", version, after_help = EXAMPLES)]
pub struct Args {
    /// Admin socket of the proxy [default: /run/l7mp/admin.sock as root, else $XDG_RUNTIME_DIR/l7mp/admin.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// How to print what comes back; json and yaml print what goes wrong on stdout as well: {"errors": [...]}
    #[arg(short, long, global = true, value_name = "FORMAT", value_enum, default_value_t)]
    pub output: Format,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people; `get config` prints YAML
    #[default]
    Table,
    /// One JSON value
    Json,
    /// The same as YAML
    Yaml,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Replace the whole configuration of the proxy; returns once every worker has adopted it
    #[command(after_help = APPLY_EXAMPLES)]
    Apply {
        /// Configuration document, YAML or JSON; - is standard input
        file: PathBuf,
        /// Try everything, ports included, and change nothing
        #[arg(long)]
        dry_run: bool,
        /// Only if this is the adopted version
        #[arg(long, value_name = "N")]
        if_version: Option<u64>,
    },
    /// Print the configuration, objects of it, sessions, or what runs
    #[command(after_help = GET_EXAMPLES)]
    Get {
        /// What to print
        kind: Kind,
        /// Only the one of this name
        name: Option<String>,
        /// Only sessions that entered on this listener
        #[arg(long, value_name = "NAME", conflicts_with = "name")]
        listener: Option<String>,
    },
    /// End a session
    Delete {
        /// Of which kind it is
        kind: Deletable,
        /// Its name, as `get sessions` prints it
        name: String,
    },
    /// Take no new sessions; live ones go on until they end, or the proxy's --drain-timeout ends them
    #[command(after_help = DRAIN_EXAMPLES)]
    Drain {
        /// Begin only then: 500ms, 2s, 1m
        #[arg(long, value_name = "DURATION", value_parser = l7mp_api::duration::parse)]
        after: Option<Duration>,
        /// Return when no session is left
        #[arg(long)]
        wait: bool,
    },
    /// Say whether the proxy has a configuration and serves it; exit code 0 if so, else 1 with the reason
    Ready,
    /// Print what the operator told this pod's proxy, and which Kubernetes object each part comes from
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain {
        /// Where l7mp-agent keeps what it was told [default: saved.json beside the admin socket]
        #[arg(long, value_name = "FILE")]
        saved: Option<PathBuf>,
    },
    /// Check a configuration document without a proxy: every error, each with its path
    Validate {
        /// Configuration document, YAML or JSON; - is standard input
        file: PathBuf,
    },
    /// Watch listeners, clusters, sessions, rates and drops
    #[command(after_help = TOP_EXAMPLES)]
    Top {
        /// Print the rates of one second and end; so it does when the output is not a terminal
        #[arg(long)]
        once: bool,
    },
}

/// What can be printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// The whole document
    Config,
    /// Where sessions enter
    #[value(alias = "listener")]
    Listeners,
    /// Where messages can be sent
    #[value(alias = "cluster")]
    Clusters,
    /// Named chains of clusters
    #[value(alias = "route")]
    Routes,
    /// Named rules
    #[value(alias = "rule")]
    Rules,
    /// Named lists of rules
    #[value(alias = "rulelist")]
    Rulelists,
    /// Live sessions
    #[value(alias = "session")]
    Sessions,
    /// Version, instance, kernel, limits
    Info,
}

impl Kind {
    /// As the API names it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Config => "config",
            Kind::Listeners => "listeners",
            Kind::Clusters => "clusters",
            Kind::Routes => "routes",
            Kind::Rules => "rules",
            Kind::Rulelists => "rulelists",
            Kind::Sessions => "sessions",
            Kind::Info => "info",
        }
    }
}

/// What can be deleted; the rest is the configuration's, which is replaced as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Deletable {
    /// A live session
    #[value(alias = "sessions")]
    Session,
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
    fn kinds_have_a_singular() {
        for (text, kind) in [("cluster", Kind::Clusters), ("rulelist", Kind::Rulelists), ("info", Kind::Info)] {
            let args = Args::try_parse_from(["l7mpctl", "get", text, "-o", "json"]).unwrap();
            assert_eq!(args.output, Format::Json);
            assert!(matches!(args.command, Command::Get { kind: read, .. } if read == kind));
        }
        assert!(Args::try_parse_from(["l7mpctl", "delete", "cluster", "x"]).is_err());
    }
}
