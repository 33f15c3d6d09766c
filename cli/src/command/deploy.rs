//! `deploy`: brings what a file or a library asks for to the supervisor, and sees it through.

use decurion_api::admin::Applied;
use decurion_client::admin::{Admin, Condition};

use crate::args::{ChangeArgs, DeployArgs};
use crate::failure::{Exit, Failure};
use crate::output::Output;

use super::target::{Ready, Target};
use super::wait;

pub(super) fn deploy(args: &DeployArgs, admin: &Admin, output: &Output) -> Result<Exit, Failure> {
    let target = Target::parse(&args.target)?;
    // A wrong file is told of even where no supervisor is there to take it.
    let ready = target.ready(&args.library, None, admin, output)?;
    let make = || put(&ready, &args.change, admin);
    wait::carry_out_of(ready.source(), &args.change, admin, output, make)
}

/// Makes the change.
pub(super) fn put(ready: &Ready, change: &ChangeArgs, admin: &Admin) -> Result<Applied, Failure> {
    let condition = condition(change);
    match ready {
        Ready::Application(spec, _) => admin.put_application(spec, condition),
        Ready::Deployment(spec) => admin.put_deployment(spec, condition),
    }
    .map_err(Failure::of_change)
}

/// The flags as the admin API takes them.
pub(super) fn condition(change: &ChangeArgs) -> Condition {
    Condition { if_revision: change.if_revision, dry_run: change.dry_run }
}
