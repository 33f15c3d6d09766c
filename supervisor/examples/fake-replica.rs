//! Stands in for `decurion-replica-runner` in the supervisor's tests: speaks the link's words, loads no library, and
//! behaves as its constructor's arguments say.
//!
//! `{"start": "ready" | "refuse" | "exit" | "hang", "drain": "hang", "resolve": "name", "say": "text"}`; a
//! `user_config` of `"bad"` is refused.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::exit;

use decurion_ipc::board::BoardWriter;
use decurion_ipc::control::{CallerOrder, CallerReport, ReplicaOrder, ReplicaReport, StartFailure};
use decurion_ipc::link::{Link, LinkError};
use serde_json::Value;

fn main() {
    let socket: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned().expect("a link as standard input");
    let link = Link::from_fd(socket);
    let (board, page) = BoardWriter::create().expect("a board");
    board.set_heartbeat(1);
    let mut args = Value::Null;
    let mut held = Vec::new();
    loop {
        match link.recv_timeout::<ReplicaOrder>(None) {
            Ok(Some((ReplicaOrder::Start(start), _))) => {
                args = serde_json::from_str(&start.args).expect("arguments in JSON");
                begin(&link, &args, start.user_config.as_deref(), &page);
            }
            Ok(Some((order, fds))) => {
                held.extend(fds);
                obey(&link, &args, order);
            }
            Ok(None) => {}
            Err(LinkError::Closed) => exit(0),
            Err(error) => panic!("{error}"),
        }
    }
}

fn begin(link: &Link, args: &Value, config: Option<&str>, page: &OwnedFd) {
    if let Some(text) = args["say"].as_str() {
        writeln!(std::io::stdout(), "{text}").expect("a standard output");
    }
    let start = if config == Some("\"bad\"") { "refuse" } else { args["start"].as_str().unwrap_or("ready") };
    match start {
        "refuse" => {
            let failure = StartFailure::Constructor("no such model".to_owned());
            tell(link, &ReplicaReport::StartFailed(failure));
            exit(1);
        }
        "exit" => {
            writeln!(std::io::stderr(), "the disk is on fire").expect("a standard error");
            exit(3);
        }
        "hang" => {}
        _ => {
            // As a constructor does: once it is ready, its handles are known.
            if let Some(name) = args["resolve"].as_str() {
                let name = name.parse().expect("a name");
                tell(link, &ReplicaReport::Caller(CallerReport::Resolve(name)));
            }
            link.send(&ReplicaReport::Ready, &[page.as_fd()]).expect("a supervisor that reads");
        }
    }
}

fn obey(link: &Link, args: &Value, order: ReplicaOrder) {
    match order {
        ReplicaOrder::Reconfigure { sequence, user_config } => {
            let result = if user_config == "\"bad\"" { Err("not that".to_owned()) } else { Ok(()) };
            tell(link, &ReplicaReport::Reconfigured { sequence, result });
        }
        ReplicaOrder::CheckHealth { sequence } => {
            tell(link, &ReplicaReport::Health { sequence, result: Ok(()) });
        }
        ReplicaOrder::Probe { sequence } => {
            tell(link, &ReplicaReport::Alive { sequence, overdue_ms: 0, oldest_ms: 0, queued: false });
        }
        ReplicaOrder::Drain { .. } if args["drain"] == "hang" => {}
        ReplicaOrder::Drain { .. } => {
            tell(link, &ReplicaReport::Drained);
            exit(0);
        }
        ReplicaOrder::Caller(CallerOrder::View { deployment, generation, view, .. }) => {
            let serving = view.map_or(0, |view| view.replicas.len());
            writeln!(std::io::stdout(), "{deployment} has {serving}").expect("a standard output");
            tell(link, &ReplicaReport::Caller(CallerReport::Applied { deployment, generation }));
        }
        ReplicaOrder::Start(_)
        | ReplicaOrder::Accept(_)
        | ReplicaOrder::Limit(_)
        | ReplicaOrder::Await(_)
        | ReplicaOrder::Caller(_) => {}
    }
}

fn tell(link: &Link, report: &ReplicaReport) {
    link.send(report, &[]).expect("a supervisor that reads");
}
