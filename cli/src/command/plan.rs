//! `plan`: what deploying a file would change, and that nothing was.

use decurion_api::admin::{Applied, Change, ChangeAction};
use decurion_client::admin::{Admin, Condition};

use crate::args::{LibraryArgs, PlanArgs};
use crate::failure::{Exit, Failure};
use crate::output::{Output, Table};

use super::target::{Ready, Target};

pub(super) fn plan(args: &PlanArgs, admin: &Admin, output: &Output) -> Result<Exit, Failure> {
    let target = Target::File(args.file.clone());
    let Ready::Application(spec, _) = target.ready(&LibraryArgs::default(), None, admin, output)? else {
        return Err(Failure::usage(format!("{} is no configuration file", args.file.display())));
    };
    let revision = admin.status()?.revision;
    // Nobody else's change may be taken for one of the file's.
    let condition = Condition { if_revision: Some(revision), dry_run: true };
    let applied = admin.put_application(&spec, condition).map_err(Failure::of_change)?;
    let changes = applied.revision != revision;
    show(&applied, changes, output)?;
    Ok(if changes && args.detailed_exitcode { Exit::Changes } else { Exit::Done })
}

fn show(applied: &Applied, changes: bool, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(applied);
    }
    let real: Vec<&Change> =
        applied.changes.iter().filter(|it| it.action != ChangeAction::Unchanged).collect();
    let mut table = Table::new(&["DEPLOYMENT", "CHANGE", "FIELDS"]);
    for change in &real {
        let what = match change.action {
            ChangeAction::Unchanged => "none",
            ChangeAction::Create => "create",
            ChangeAction::Roll => "replace, replica by replica",
            ChangeAction::Configure => "reconfigure without a restart",
            ChangeAction::Delete => "delete",
        };
        table.row(vec![change.deployment.as_str().into(), what.into(), change.fields.join(", ").into()]);
    }
    match (changes, real.is_empty()) {
        (false, _) => output.note("nothing would change"),
        (true, true) => output.note("only settings of HTTP would change"),
        (true, false) => output.table(&table)?,
    }
    for change in &real {
        for step in &change.steps {
            output.line(&format!("{}: {step}", change.deployment))?;
        }
    }
    super::wait::tell_warnings(applied, output);
    if changes {
        output.note("nothing was changed: `decurion deploy` does it");
    }
    Ok(())
}
