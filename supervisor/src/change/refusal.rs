//! Every reason to refuse a change, each one sentence with its operands.

use decurion_api::limits::{DEPLOYMENTS_MAX, REPLICAS_MAX};
use decurion_api::spec::ResourcesSpec;
use decurion_api::{ApplicationName, ClassName, DeploymentName, RoutePrefix};

use crate::change::VIEW_MAX;

/// Why a change is refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No deployment of this name.
    #[error("there is no deployment '{name}'; there are: {}", list(known))]
    NoSuchDeployment {
        /// As it was asked for.
        name: DeploymentName,
        /// What there is.
        known: Vec<DeploymentName>,
    },
    /// No application of this name.
    #[error("there is no application '{0}'")]
    NoSuchApplication(ApplicationName),
    /// Another deployment is mounted there.
    #[error("route prefix '{prefix}' of deployment '{name}' is taken by deployment '{holder}'")]
    RouteTaken {
        /// Where.
        prefix: RoutePrefix,
        /// Who wants it.
        name: DeploymentName,
        /// Who has it.
        holder: DeploymentName,
    },
    /// Two of one name.
    #[error("deployment '{0}' is named twice")]
    Twice(DeploymentName),
    /// Another application's.
    #[error(
        "deployment '{name}' belongs to application '{owner}'; delete it there first, or choose another name"
    )]
    OtherOwner {
        /// Which.
        name: DeploymentName,
        /// Whose.
        owner: ApplicationName,
    },
    /// Beyond [`DEPLOYMENTS_MAX`].
    #[error("a supervisor holds at most {DEPLOYMENTS_MAX} deployments")]
    TooManyDeployments,
    /// Out of 1..=[`REPLICAS_MAX`].
    #[error("num_replicas of deployment '{name}' is between 1 and {REPLICAS_MAX}, not {found}")]
    Replicas {
        /// Of which.
        name: DeploymentName,
        /// As it was asked for.
        found: u32,
    },
    /// More than the machine has.
    #[error(
        "deployment '{name}' can never run on this machine: {}, and replicas may use {capacity} in sum; ask for less \
         in its resources{}",
        asked(*replicas, needs), if *replicas > 1 { ", or for fewer replicas" } else { "" }
    )]
    NoRoom {
        /// Which.
        name: DeploymentName,
        /// How many of it there are to be, at the least.
        replicas: u32,
        /// What each needs.
        needs: ResourcesSpec,
        /// What there is.
        capacity: String,
    },
    /// The load decides the number.
    #[error(
        "deployment '{name}' is autoscaled between {min} and {max} replicas; change its autoscaling_config, or \
         deploy it with num_replicas in its place"
    )]
    Autoscaled {
        /// Which.
        name: DeploymentName,
        /// The fewest.
        min: u32,
        /// The most.
        max: u32,
    },
    /// Nothing holds that library.
    #[error("the library of deployment '{name}' is not in the store: {library}")]
    NoLibrary {
        /// Of which.
        name: DeploymentName,
        /// As it was asked for.
        library: String,
    },
    /// Not in the library.
    #[error("the library of deployment '{name}' has no class '{class}'; it has: {}", list(known))]
    NoClass {
        /// Of which.
        name: DeploymentName,
        /// As it was asked for.
        class: ClassName,
        /// What there is.
        known: Vec<ClassName>,
    },
    /// Several, and none named.
    #[error("the library of deployment '{name}' holds several classes; name one in `class`: {}", list(known))]
    WhichClass {
        /// Of which.
        name: DeploymentName,
        /// What there is.
        known: Vec<ClassName>,
    },
    /// `user_config` for a class that takes none.
    #[error("deployment '{name}' has a user_config, and its class '{class}' has no `reconfigure`")]
    TakesNoConfig {
        /// Of which.
        name: DeploymentName,
        /// Its class.
        class: ClassName,
    },
    /// All of it would not fit into one view.
    #[error(
        "the deployments together need {needed} bytes of a view, which has {VIEW_MAX}; use fewer or shorter names"
    )]
    ViewTooLarge {
        /// Bytes, at most.
        needed: usize,
    },
    /// A step calls what is not there.
    #[error("step '{step}' of graph '{graph}' calls '{call}', and {why}")]
    GraphCall {
        /// Which graph.
        graph: DeploymentName,
        /// Which step.
        step: String,
        /// As it was written.
        call: String,
        /// What is missing, and what there is.
        why: String,
    },
    /// Graphs that call each other.
    #[error("graphs call each other in a circle: {}", .0.join(" -> "))]
    GraphCycle(Vec<String>),
    /// Nothing to go back to.
    #[error("deployment '{0}' has no earlier form to go back to")]
    NothingBefore(DeploymentName),
    /// Another version is live than the caller thinks.
    #[error(
        "prev_version of deployment '{name}' is '{expected}', and {}",
        live.as_ref().map_or_else(|| "nothing is deployed".to_owned(), |live| format!("version '{live}' is live"))
    )]
    VersionMismatch {
        /// Which.
        name: DeploymentName,
        /// The caller's.
        expected: String,
        /// Ours; `None`: there is none.
        live: Option<String>,
    },
    /// The desired state is not what the caller thinks.
    #[error("the desired state is at revision {found}, not {expected}; read it again")]
    RevisionMismatch {
        /// The caller's.
        expected: u64,
        /// Ours.
        found: u64,
    },
}

fn asked(replicas: u32, needs: &ResourcesSpec) -> String {
    match replicas {
        1 => format!("its replica needs {needs}"),
        _ => format!("each of its {replicas} replicas needs {needs}"),
    }
}

fn list<T: std::fmt::Display>(names: &[T]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
