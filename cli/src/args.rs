//! The command line: every command, flag and their help, from which the completions are made as well.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use decurion_api::limits::REPLICAS_MAX;
use decurion_api::spec::file::parse_duration;
use decurion_api::{DeploymentName, ReplicaId};
use decurion_supervisor::CapacityOverride;
use serde_json::Value;

use crate::output::Format;

/// Serves native code in processes of its own, one shared-memory hop from the socket.
#[derive(Debug, Parser)]
#[command(name = "decurion", version, max_term_width = 100, after_help = EXIT_CODES)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 changes present (plan --detailed-exitcode), 3 rollout failed
and was undone, 4 timed out while waiting (the rollout goes on), 5 no such thing, 6 revision mismatch, 7 supervisor unreachable,
64 wrong usage.";

/// Flags of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Control socket of the supervisor [env: DECURION_SOCKET] [default: /run/decurion/control.sock for root,
    /// $XDG_RUNTIME_DIR/decurion/control.sock for others]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Form of the data on stdout
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORMAT",
        value_enum,
        default_value_t,
        env = "DECURION_OUTPUT"
    )]
    #[arg(hide_env_values = true)]
    pub(crate) output: Format,
    /// No colours, also on a terminal; NO_COLOR does the same
    #[arg(long, global = true, env = "DECURION_NO_COLOR", value_parser = FalseyValueParser::new())]
    #[arg(hide_env_values = true)]
    pub(crate) no_color: bool,
    /// Nothing on stderr but errors
    #[arg(short, long, global = true, env = "DECURION_QUIET", value_parser = FalseyValueParser::new())]
    #[arg(hide_env_values = true)]
    pub(crate) quiet: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the supervisor, in the foreground
    Supervise(SuperviseArgs),
    /// Run a supervisor of its own in this terminal, deploy, and clean up on Ctrl-C
    Run(RunArgs),
    /// Deploy what a file says, or one library
    Deploy(DeployArgs),
    /// Say what deploying a file would change, and change nothing
    Plan(PlanArgs),
    /// Show deployments, or one of them with its replicas
    Status {
        /// One deployment
        name: Option<DeploymentName>,
    },
    /// Show everything about one deployment: settings, replicas, what is held back and why, what happened
    Describe {
        /// Deployment
        name: DeploymentName,
    },
    /// Show which route leads to which deployment
    Routes,
    /// Draw what calls what: as text, `-o dot` for Graphviz, `-o json`
    Graph {
        /// One graph or deployment
        name: Option<DeploymentName>,
    },
    /// Call a method through a handle, without HTTP
    Call(CallArgs),
    /// Change the number of replicas
    Scale {
        /// Deployment
        name: DeploymentName,
        /// How many replicas
        #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(REPLICAS_MAX)))]
        num_replicas: u32,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Give a new user_config to running replicas, without a restart
    Reconfigure {
        /// Deployment
        name: DeploymentName,
        /// The whole user_config as JSON, or single keys of it: threshold=0.5 label=cat
        #[arg(required = true, value_name = "JSON|KEY=VALUE")]
        config: Vec<String>,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Replace every replica by a new one, step by step
    Restart {
        /// Deployment
        name: DeploymentName,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Steer the update of a deployment
    #[command(subcommand)]
    Rollout(RolloutCommand),
    /// Delete deployments
    Delete {
        /// Deployments
        #[arg(required = true)]
        names: Vec<DeploymentName>,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Show what is wanted, in the form of the configuration file
    Config {
        /// One deployment
        name: Option<DeploymentName>,
    },
    /// Show what replicas wrote
    Logs(LogsArgs),
    /// Show deployments at work: requests a second, latencies, what waits, memory, CPU
    Top {
        /// Between two looks
        #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
        interval: Duration,
        /// One look, also on a terminal
        #[arg(long)]
        once: bool,
    },
    /// Show everything that is counted and measured
    Metrics {
        /// Those whose name has this in it
        filter: Option<String>,
        /// As Prometheus reads it
        #[arg(long)]
        raw: bool,
    },
    /// Show what happened
    Events {
        /// Go on showing what happens
        #[arg(short, long)]
        follow: bool,
    },
    /// Tell what a library holds and whether it can be loaded here, without running it
    Check {
        /// A .so
        library: PathBuf,
    },
    /// Make a folder with a new deployment
    New(NewArgs),
    /// Show versions of the command and of the supervisor
    Version,
    /// Let the supervisor drain and stop
    Shutdown {
        /// Kill at once instead of letting requests finish
        #[arg(long)]
        now: bool,
        /// Return as soon as the supervisor has agreed
        #[arg(long)]
        no_wait: bool,
        /// How long to wait for it to be gone
        #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
        timeout: Duration,
    },
    /// Write a completion script for a shell
    Completions {
        /// Which shell
        shell: CompletionShell,
    },
}

/// Shells with completions.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum CompletionShell {
    Bash,
    Zsh,
    Fish,
}

/// What every change of the desired state takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "For the change")]
pub(crate) struct ChangeArgs {
    /// Say what would change, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Return as soon as the supervisor has stored the change
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// How long to wait for the change to be done; it goes on after that
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
    /// Refuse unless the desired state is at this revision
    #[arg(long, value_name = "N")]
    pub(crate) if_revision: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct SuperviseArgs {
    /// Configuration to deploy at the start, and again on SIGHUP [default: /etc/decurion/decurion.toml for root,
    /// $XDG_CONFIG_HOME/decurion/decurion.toml for others, if it exists]
    #[arg(long, value_name = "FILE", env = "DECURION_CONFIG", hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,
    /// Folder of the desired state and the library store [default: /var/lib/decurion for root,
    /// $XDG_STATE_HOME/decurion for others]
    #[arg(long, value_name = "DIR", env = "DECURION_STATE_DIR", hide_env_values = true)]
    pub(crate) state_dir: Option<PathBuf>,
    /// Serve HTTP on this address and port, whatever the configuration says
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<String>,
    /// Answer GET /metrics on this address and port too, beside the control socket: 127.0.0.1:9464 is usual
    #[arg(long, value_name = "ADDRESS", env = "DECURION_METRICS_LISTEN", hide_env_values = true)]
    pub(crate) metrics_listen: Option<String>,
    /// How long proxy and replicas serve on if the supervisor dies, until the next one adopts them; 0: not at all
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "10m",
        value_parser = parse_duration,
        env = "DECURION_ORPHAN_TIMEOUT",
        hide_env_values = true
    )]
    pub(crate) orphan_timeout: Duration,
    /// What replicas may use in sum, in place of what this machine has: cpus=2,memory=1GiB,gpus=0
    #[arg(long, value_name = "AMOUNTS", env = "DECURION_CAPACITY", hide_env_values = true)]
    pub(crate) capacity: Option<CapacityOverride>,
    /// Look whether this program could take the place of the one that runs, and end
    #[arg(long, hide = true)]
    pub(crate) self_test: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// A configuration file (.toml, .json), or a library and its class [default: decurion.toml]
    #[arg(value_name = "FILE|LIB[:CLASS]")]
    pub(crate) target: Option<String>,
    /// Constructor arguments by name; values are JSON, or else text
    #[arg(value_name = "KEY=VALUE")]
    pub(crate) arguments: Vec<String>,
    /// Serve HTTP on this port of 127.0.0.1
    #[arg(long, conflicts_with = "listen")]
    pub(crate) port: Option<u16>,
    /// Serve HTTP on this address and port
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<String>,
    /// What replicas may use in sum, in place of what this machine has: cpus=2,memory=1GiB,gpus=0
    #[arg(long, value_name = "AMOUNTS", env = "DECURION_CAPACITY", hide_env_values = true)]
    pub(crate) capacity: Option<CapacityOverride>,
    /// Apply it again when the file, or one of its libraries, changes on disk
    #[arg(long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) library: LibraryArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DeployArgs {
    /// A configuration file (.toml, .json), or a library and its class
    #[arg(value_name = "FILE|LIB[:CLASS]")]
    pub(crate) target: String,
    #[command(flatten)]
    pub(crate) library: LibraryArgs,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// A configuration file (.toml, .json); its libraries are uploaded to be looked at
    pub(crate) file: PathBuf,
    /// End with 2 where something would change
    #[arg(long)]
    pub(crate) detailed_exitcode: bool,
}

/// What to do with an update.
#[derive(Debug, Subcommand)]
pub(crate) enum RolloutCommand {
    /// Tell how the newest change goes, and wait for its end
    Status {
        /// Deployment
        name: DeploymentName,
        /// Tell how it goes now
        #[arg(long)]
        no_wait: bool,
        /// How long to wait for its end; it goes on after that
        #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
        timeout: Duration,
    },
    /// List the revisions that have changed a deployment
    History {
        /// Deployment
        name: DeploymentName,
    },
    /// Let an update go no further; what is deployed later waits as well
    Pause {
        /// Deployment
        name: DeploymentName,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Let an update go on
    Resume {
        /// Deployment
        name: DeploymentName,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Go back to the form before, or to that of an earlier revision, step by step
    Undo {
        /// Deployment
        name: DeploymentName,
        /// Revision whose form comes back [default: the last that was rolled out whole]
        #[arg(long, value_name = "N")]
        to: Option<u64>,
        #[command(flatten)]
        change: ChangeArgs,
    },
}

/// What a file would say of a library that is deployed without one.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "For a library without a file")]
pub(crate) struct LibraryArgs {
    /// Name of the deployment [default: the class, or the library's file name]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// How many replicas
    #[arg(long, value_name = "N")]
    pub(crate) replicas: Option<u32>,
    /// Where it is mounted; "": by handle only [default: /NAME]
    #[arg(long, value_name = "PREFIX")]
    pub(crate) route_prefix: Option<String>,
    /// Name of the version; the live one's means that the code stays as it is
    #[arg(long)]
    pub(crate) version: Option<String>,
    /// Refuse unless this version is live
    #[arg(long, value_name = "VERSION")]
    pub(crate) prev_version: Option<String>,
    /// Constructor arguments: an object by name or an array by position
    #[arg(long, value_name = "JSON", value_parser = json)]
    pub(crate) args: Option<Value>,
    /// What reconfigure() is given
    #[arg(long, value_name = "JSON", value_parser = json)]
    pub(crate) user_config: Option<Value>,
    /// Handler threads of each replica
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<u32>,
    /// Requests in flight per replica
    #[arg(long, value_name = "N")]
    pub(crate) max_ongoing_requests: Option<u32>,
    /// What each replica needs of the machine: an object with cpus, memory, gpus
    #[arg(long, value_name = "JSON", value_parser = json)]
    pub(crate) resources: Option<Value>,
}

#[derive(Debug, Args)]
pub(crate) struct CallArgs {
    /// Deployment and method; without a method the only one, or call
    #[arg(value_name = "NAME[.METHOD]")]
    pub(crate) target: String,
    /// Arguments: an array by position, an object by name, or one value
    #[arg(value_name = "JSON", value_parser = json)]
    pub(crate) args: Option<Value>,
    /// Tell how long the call took
    #[arg(long)]
    pub(crate) time: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// One deployment, or one of its replicas
    #[arg(value_name = "NAME[/REPLICA]", value_parser = log_source)]
    pub(crate) source: Option<LogSource>,
    /// Go on showing what is written
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only lines of the last time
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) since: Option<Duration>,
}

/// Whose lines.
#[derive(Clone, Debug)]
pub(crate) struct LogSource {
    pub(crate) deployment: DeploymentName,
    pub(crate) replica: Option<ReplicaId>,
}

#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// Name of the folder, the library and the deployment
    pub(crate) name: String,
    /// What is in it
    #[arg(long, value_enum, default_value_t)]
    pub(crate) template: Template,
    /// Folder of the SDK [default: the one installed with this command, or of the checkout it was built from]
    #[arg(long, value_name = "DIR")]
    pub(crate) sdk: Option<PathBuf>,
}

/// Kinds of new deployments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Template {
    // A function in Rust that answers HTTP.
    #[default]
    Hello,
    // A class with state, a method and a user_config.
    Model,
    // An axum router.
    Axum,
    // A function in C.
    C,
    // And in C++.
    Cpp,
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| match error.classify() {
        // The shell takes the quotes away, which is the usual reason.
        serde_json::error::Category::Syntax => format!("not JSON ({error}); text needs quotes: '\"text\"'"),
        _ => format!("not JSON ({error})"),
    })
}

fn log_source(text: &str) -> Result<LogSource, String> {
    let (deployment, replica) = match text.split_once('/') {
        Some((deployment, replica)) => (deployment, Some(replica)),
        None => (text, None),
    };
    let deployment = DeploymentName::new(deployment).map_err(|error| error.to_string())?;
    let replica = replica.map(|replica| {
        let prefix = format!("{deployment}-");
        if replica.starts_with(&prefix) { replica.to_owned() } else { prefix + replica }
    });
    let replica = replica.map(ReplicaId::new).transpose().map_err(|error| error.to_string())?;
    Ok(LogSource { deployment, replica })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_replica_is_named_whole_or_by_what_follows_the_deployment() {
        for text in ["model/00000a", "model/model-00000a"] {
            let source = log_source(text).unwrap();
            assert_eq!(source.replica.unwrap().as_str(), "model-00000a", "{text}");
        }
        assert!(log_source("model").unwrap().replica.is_none());
        assert!(log_source("/x").is_err() && log_source("model/a b").is_err());
    }
}
