//! Every command, each in a file of its own or with its like; here only which is which.

mod call;
mod changes;
mod check;
mod completions;
mod configuration;
mod deploy;
mod describe;
mod follow;
mod graph;
mod look;
mod metrics;
mod new;
mod plan;
mod rollout;
mod run;
mod source;
mod supervise;
mod system;
mod target;
mod top;
mod wait;

use std::path::PathBuf;

use decurion_client::admin::Admin;
use decurion_client::{SOCKET_VARIABLE, default_socket};

use crate::args::{Cli, Command, Global};
use crate::failure::{Exit, Failure};
use crate::output::{Format, Output};
use crate::sys::variable;

/// Does what the command line asks for.
pub(crate) fn run(cli: Cli, output: &Output) -> Result<Exit, Failure> {
    let global = cli.global;
    if output.format == Format::Dot && !matches!(cli.command, Command::Graph { .. }) {
        return Err(Failure::usage(
            "-o dot is a form of `decurion graph` alone; take table, wide, json or jsonl",
        ));
    }
    let admin = || Ok::<Admin, Failure>(Admin::new(socket(&global)?));
    match cli.command {
        Command::Supervise(args) => supervise::supervise(args, socket(&global)?, output),
        Command::Run(args) => run::run(args, named_socket(&global), output),
        Command::Deploy(args) => deploy::deploy(&args, &admin()?, output),
        Command::Plan(args) => plan::plan(&args, &admin()?, output),
        Command::Status { name } => look::status(name.as_ref(), &admin()?, output),
        Command::Describe { name } => describe::describe(&name, &admin()?, output),
        Command::Routes => look::routes(&admin()?, output),
        Command::Graph { name } => graph::graph(name.as_ref(), &admin()?, output),
        Command::Call(args) => call::call(&args, &socket(&global)?, output),
        Command::Scale { name, num_replicas, change } => {
            changes::scale(&name, num_replicas, &change, &admin()?, output)
        }
        Command::Reconfigure { name, config, change } => {
            changes::reconfigure(&name, &config, &change, &admin()?, output)
        }
        Command::Restart { name, change } => changes::restart(&name, &change, &admin()?, output),
        Command::Rollout(command) => rollout::rollout(&command, &admin()?, output),
        Command::Delete { names, change } => changes::delete(&names, &change, &admin()?, output),
        Command::Config { name } => configuration::config(name.as_ref(), &admin()?, output),
        Command::Logs(args) => follow::logs(&args, &admin()?, output),
        Command::Top { interval, once } => top::top(interval, once, &admin()?, output),
        Command::Metrics { filter, raw } => metrics::metrics(filter.as_deref(), raw, &admin()?, output),
        Command::Events { follow } => follow::events(follow, &admin()?, output),
        Command::Check { library } => check::check(&library, output),
        Command::New(args) => new::new(&args, output),
        Command::Version => system::version(&admin()?, output),
        Command::Shutdown { now, no_wait, timeout } => {
            system::shutdown(now, (!no_wait).then_some(timeout), &admin()?, output)
        }
        Command::Completions { shell } => completions::completions(shell, output),
    }
}

/// Where the user says that it is; `run` has one of its own otherwise.
fn named_socket(global: &Global) -> Option<PathBuf> {
    global.socket.clone().or_else(|| variable(SOCKET_VARIABLE).map(PathBuf::from))
}

fn socket(global: &Global) -> Result<PathBuf, Failure> {
    match named_socket(global) {
        Some(socket) => Ok(socket),
        None => Ok(default_socket()?),
    }
}
