//! What a change is going to do, before it is made: the words of `plan` and `--dry-run`.

use decurion_api::spec::CanarySpec;

use crate::desired::Wanted;
use crate::reconcile::plan::{canary_replicas, limits};

/// Steps from one form to the next, in order.
pub(crate) fn steps(held: Option<&Wanted>, next: &Wanted) -> Vec<String> {
    let mut steps = Vec::new();
    let Some(held) = held else {
        steps.push(format!("{} of version {} started", replicas_of(next), next.version));
        needs(next, &mut steps);
        return steps;
    };
    let (before, after) = (replicas_of(held), replicas_of(next));
    if before != after {
        steps.push(format!("{before} before, {after} after"));
    }
    if held.spec.resources != next.spec.resources {
        needs(next, &mut steps);
    }
    if held.template != next.template {
        roll(held, next, &mut steps);
    } else if held.config != next.config {
        steps.push("one replica takes the user_config first; if it refuses, nothing changes".to_owned());
    }
    if next.paused {
        steps.push(format!("nothing is replaced before `decurion rollout resume {}`", next.spec.name));
    }
    steps
}

fn needs(next: &Wanted, steps: &mut Vec<String>) {
    if !next.spec.resources.is_empty() {
        steps.push(format!("each replica has {}", next.spec.resources));
    }
}

fn roll(held: &Wanted, next: &Wanted, steps: &mut Vec<String>) {
    let (number, rollout) = (next.spec.num_replicas.max(1), &next.spec.rollout);
    let (down, surge) = limits(next, number);
    if let Some(canary) = rollout.canary.as_ref().filter(|_| held.version != next.version) {
        match canary_replicas(canary.weight, number, (down, surge)) {
            Some(replicas) => steps.push(trial(canary, replicas)),
            None => steps.push("no trial: there is no room for both versions".to_owned()),
        }
    }
    if let Some(set) = &rollout.together {
        steps.push(format!(
            "{number} more of version {} start beside those of version {}; requests meet them when all that changes of the \
             set '{set}' is ready, and the others go when the requests are done that entered before",
            next.version, held.version
        ));
        steps.push(if rollout.auto_rollback {
            format!("if it fails, the set goes back to what it was, this to version {}", held.version)
        } else {
            "if it fails, it stops, and what serves stays".to_owned()
        });
        return;
    }
    let whom =
        if held.version == next.version { "anew".to_owned() } else { format!("by version {}", next.version) };
    steps.push(format!(
        "replicas are replaced {whom}: at most {down} of {number} down, and {surge} more, at a time"
    ));
    steps.push(if rollout.auto_rollback {
        format!("if it fails, version {} is put back", held.version)
    } else {
        "if it fails, it stops, and what serves stays".to_owned()
    });
}

fn trial(canary: &CanarySpec, replicas: u32) -> String {
    let slow = canary
        .max_p99
        .map_or_else(String::new, |most| format!(", or a p99 above {} ms", most.as_secs_f64() * 1_000.0));
    format!(
        "first {replicas} of the new version with {}% of the requests for {} s; more than {}% failed{slow} takes it back",
        canary.weight,
        canary.duration.as_secs_f64(),
        canary.max_error_rate * 100.0,
    )
}

/// `5 replicas`, or `1 to 8 replicas`.
pub(crate) fn replicas_of(wanted: &Wanted) -> String {
    match &wanted.spec.autoscaling {
        Some(scaling) => format!("{} to {} replicas", scaling.min_replicas, scaling.max_replicas),
        None if wanted.spec.num_replicas == 1 => "1 replica".to_owned(),
        None => format!("{} replicas", wanted.spec.num_replicas),
    }
}
