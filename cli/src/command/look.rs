//! `status` and `routes`: what is there.

use decurion_api::DeploymentName;
use decurion_api::status::{DeploymentState, DeploymentStatus, ReplicaState, SystemStatus};
use decurion_client::admin::Admin;
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::output::{Format, Output, Table, TableCell, Tone, printable, utc};

pub(super) fn status(name: Option<&DeploymentName>, admin: &Admin, output: &Output) -> Result<Exit, Failure> {
    let status = admin.status()?;
    match name {
        Some(name) => match status.deployments.iter().find(|deployment| deployment.name == *name) {
            Some(deployment) => one_deployment(deployment, &status, output)?,
            None => return Err(no_such(name, &status.deployments)),
        },
        None if output.format == Format::Jsonl => output.json_list(&status.deployments)?,
        None if output.is_json() => output.json(&status)?,
        None => {
            system_line(&status, output);
            deployments(&status.deployments, output)?;
        }
    }
    Ok(Exit::Done)
}

/// The refusal of a name that is none.
pub(super) fn no_such(name: &DeploymentName, deployments: &[DeploymentStatus]) -> Failure {
    let known: Vec<&str> = deployments.iter().map(|deployment| deployment.name.as_str()).collect();
    let failure = Failure::new(Exit::NotFound, format!("there is no deployment '{name}'"));
    match known.as_slice() {
        [] => failure.now("nothing is deployed; `decurion deploy FILE` does that"),
        known => failure.details([format!("there are: {}", known.join(", "))]),
    }
}

fn system_line(status: &SystemStatus, output: &Output) {
    let proxy = match (status.proxy.pid, status.proxy.ready) {
        (Some(pid), true) => {
            let scheme = if status.proxy.tls { "HTTPS" } else { "HTTP" };
            format!("{scheme} on {} (proxy pid {pid})", status.proxy.listen)
        }
        (Some(pid), false) => format!("the proxy (pid {pid}) is not ready yet"),
        (None, _) => "the proxy is not running".to_owned(),
    };
    let SystemStatus { version, pid, revision, .. } = status;
    let up = duration(status.uptime_s);
    output.note(&format!("supervisor {version} (pid {pid}), up {up}, revision {revision}; {proxy}"));
}

/// A table of deployments to stdout, also for other commands.
pub(super) fn deployments(deployments: &[DeploymentStatus], output: &Output) -> Result<(), Failure> {
    if deployments.is_empty() {
        output.note("nothing is deployed");
        return Ok(());
    }
    let wide = output.format == Format::Wide;
    let mut headings = vec!["NAME", "STATUS", "REPLICAS", "ROUTE", "VERSION"];
    if wide {
        headings.extend(["CLASS", "APPLICATION", "REVISION", "LIBRARY"]);
    }
    headings.push("MESSAGE");
    let mut table = Table::new(&headings);
    for deployment in deployments {
        let mut row: Vec<TableCell> = vec![
            deployment.name.as_str().into(),
            TableCell::toned(deployment.status.as_str(), state_tone(deployment.status)),
            format!("{}/{}", serving(deployment), deployment.target_replicas).into(),
            route(deployment).into(),
            printable(&deployment.version).into(),
        ];
        if wide {
            row.push(deployment.class.as_str().into());
            row.push(deployment.application.as_str().into());
            row.push(deployment.revision.to_string().into());
            row.push(deployment.library.chars().take(12).collect::<String>().into());
        }
        row.push(printable(&deployment.message).into());
        table.row(row);
    }
    output.table(&table)
}

fn one_deployment(
    deployment: &DeploymentStatus,
    status: &SystemStatus,
    output: &Output,
) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(deployment);
    }
    deployments(std::slice::from_ref(deployment), output)?;
    if let Some(url) = url(deployment, status) {
        output.line(&format!("\n{url}"))?;
    }
    with_replicas(deployment, output)
}

/// A deployment's replicas, and how those before them ended.
pub(super) fn with_replicas(deployment: &DeploymentStatus, output: &Output) -> Result<(), Failure> {
    if !deployment.replicas.is_empty() {
        output.line("")?;
        output.table(&replicas(deployment, output))?;
    }
    if !deployment.ended.is_empty() {
        let mut table = Table::new(&["ENDED", "PID", "AT", "VERSION", "REASON"]);
        for ended in &deployment.ended {
            let tone = if ended.failed { Tone::Bad } else { Tone::Plain };
            table.row(vec![
                ended.id.as_str().into(),
                ended.pid.to_string().into(),
                utc(ended.ended_at_ms).into(),
                printable(&ended.version).into(),
                TableCell::toned(printable(&ended.reason), tone),
            ]);
        }
        output.line("")?;
        output.table(&table)?;
    }
    Ok(())
}

fn replicas(deployment: &DeploymentStatus, output: &Output) -> Table {
    let wide = output.format == Format::Wide;
    let mut headings = vec!["REPLICA", "PID", "STATE", "VERSION", "ONGOING", "PROCESSED", "RESTARTS", "UP"];
    if wide {
        headings.extend(["MEMORY", "OLDEST"]);
    }
    let mut table = Table::new(&headings);
    for replica in &deployment.replicas {
        let tone = if replica.state == ReplicaState::Running { Tone::Good } else { Tone::Moving };
        let mut row: Vec<TableCell> = vec![
            replica.id.as_str().into(),
            replica.pid.to_string().into(),
            TableCell::toned(replica.state.as_str(), tone),
            printable(&replica.version).into(),
            replica.ongoing.to_string().into(),
            replica.processed.to_string().into(),
            replica.restarts.to_string().into(),
            duration(replica.uptime_s).into(),
        ];
        if wide {
            row.push(format!("{:.1} MiB", replica.rss_bytes as f64 / f64::from(1 << 20)).into());
            row.push(duration(replica.oldest_request_ms / 1_000).into());
        }
        table.row(row);
    }
    table
}

#[derive(Serialize)]
struct RouteRow<'a> {
    route_prefix: &'a str,
    deployment: &'a str,
    url: Option<String>,
}

pub(super) fn routes(admin: &Admin, output: &Output) -> Result<Exit, Failure> {
    let status = admin.status()?;
    let mut rows: Vec<RouteRow<'_>> = Vec::new();
    for deployment in &status.deployments {
        if let Some(route) = &deployment.route_prefix {
            let url = url(deployment, &status);
            rows.push(RouteRow { route_prefix: route.as_str(), deployment: deployment.name.as_str(), url });
        }
    }
    rows.sort_by_key(|row| row.route_prefix);
    if output.is_json() {
        output.json_list(&rows)?;
        return Ok(Exit::Done);
    }
    if rows.is_empty() {
        output.note("there is no route");
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&["ROUTE", "DEPLOYMENT", "URL"]);
    for row in rows {
        table.row(vec![row.route_prefix.into(), row.deployment.into(), row.url.unwrap_or_default().into()]);
    }
    output.table(&table)?;
    Ok(Exit::Done)
}

/// Where a deployment is to be found from this machine.
pub(super) fn url(deployment: &DeploymentStatus, status: &SystemStatus) -> Option<String> {
    let route = deployment.route_prefix.as_ref()?;
    let listen: std::net::SocketAddr = status.proxy.listen.parse().ok()?;
    let host = match listen.ip() {
        ip if !ip.is_unspecified() && ip.is_ipv6() => format!("[{ip}]"),
        ip if !ip.is_unspecified() => ip.to_string(),
        _ => "127.0.0.1".to_owned(),
    };
    let scheme = if status.proxy.tls { "https" } else { "http" };
    Some(format!("{scheme}://{host}:{}{route}", listen.port()))
}

fn serving(deployment: &DeploymentStatus) -> usize {
    deployment.replicas.iter().filter(|replica| replica.state.can_serve()).count()
}

fn route(deployment: &DeploymentStatus) -> &str {
    deployment.route_prefix.as_ref().map_or("-", |route| route.as_str())
}

fn state_tone(state: DeploymentState) -> Tone {
    match state {
        DeploymentState::Healthy => Tone::Good,
        DeploymentState::Unhealthy | DeploymentState::DeployFailed => Tone::Bad,
        DeploymentState::Updating
        | DeploymentState::Upscaling
        | DeploymentState::Downscaling
        | DeploymentState::Deleting => Tone::Moving,
    }
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3600 % 24),
    }
}
