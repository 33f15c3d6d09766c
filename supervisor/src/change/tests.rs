//! Which change does what.

use std::time::Duration;

use decurion_api::admin::ChangeAction;
use decurion_api::spec::{Amount, ApplicationSpec, DeploymentSpec, HttpSpec, LibraryRef, Share};
use decurion_api::{ApplicationName, ClassName, DeploymentName, RoutePrefix};
use serde_json::json;

use super::*;
use crate::reconcile::world::{libraries, name, spec};

fn application() -> ApplicationName {
    ApplicationName::new("demo").unwrap()
}

fn whole(_: &DeploymentName) -> Standing {
    Standing { whole: true, failed: false, config_taken: true }
}

fn failed(_: &DeploymentName) -> Standing {
    Standing { whole: false, failed: true, config_taken: false }
}

/// A second library under another digest, with two classes.
fn two_libraries() -> Libraries {
    let mut libraries = libraries();
    let mut other = libraries.values().next().unwrap().clone();
    other.digest = "e".repeat(64);
    let mut second = other.classes[0].clone();
    second.name = ClassName::new("Other").unwrap();
    other.classes.push(second);
    libraries.insert(library_key(&LibraryRef::Digest("e".repeat(64))), other);
    libraries
}

fn declare(desired: &Desired, deployments: Vec<DeploymentSpec>) -> Result<Proposal, Refusal> {
    let spec = ApplicationSpec { application: application(), http: None, deployments };
    Changer::new(desired, None, &whole).unwrap().application(spec, &two_libraries())
}

#[test]
fn a_class_with_batches_has_room_for_one_unless_it_is_told_otherwise() {
    let mut libraries = libraries();
    libraries.values_mut().for_each(|library| library.classes[0].batch_max = 32);
    let declare = |spec: DeploymentSpec| {
        let spec = ApplicationSpec { application: application(), http: None, deployments: vec![spec] };
        let desired = Desired::default();
        let proposal = Changer::new(&desired, None, &whole).unwrap().application(spec, &libraries).unwrap();
        (proposal.desired.deployments[&name("a")].max_ongoing_requests(), proposal.applied.warnings)
    };
    assert_eq!(declare(spec("a", "1", 1)), (32, Vec::new()));
    let (limit, warnings) = declare(DeploymentSpec { max_ongoing_requests: Some(8), ..spec("a", "1", 1) });
    assert_eq!((limit, warnings.len()), (8, 1));
    assert!(warnings[0].contains("never full") && warnings[0].contains("max_ongoing_requests = 8"));
}

fn unversioned() -> DeploymentSpec {
    DeploymentSpec { version: None, ..spec("a", "", 2) }
}

fn action(proposal: &Proposal) -> ChangeAction {
    proposal.applied.changes[0].action
}

#[test]
fn every_field_of_a_spec_is_known_to_restart_or_not() {
    type Edit = fn(&mut DeploymentSpec);
    let table: [(&str, ChangeAction, Edit); 20] = [
        ("library", ChangeAction::Roll, |spec| {
            spec.library = LibraryRef::Digest("e".repeat(64));
            spec.class = Some(ClassName::new("Model").unwrap());
        }),
        ("class", ChangeAction::Roll, |spec| {
            spec.library = LibraryRef::Digest("e".repeat(64));
            spec.class = Some(ClassName::new("Other").unwrap());
        }),
        ("args", ChangeAction::Roll, |spec| spec.args = json!({"msg": "hi"})),
        ("version", ChangeAction::Roll, |spec| spec.version = Some("2".to_owned())),
        ("threads", ChangeAction::Roll, |spec| spec.threads = 4),
        ("resources", ChangeAction::Roll, |spec| spec.resources.cpus = Some(Amount::ONE)),
        ("runtime_env", ChangeAction::Roll, |spec| {
            spec.runtime_env.env_vars.insert("MODEL".to_owned(), "a".to_owned());
        }),
        ("route_prefix", ChangeAction::Configure, |spec| spec.route_prefix = None),
        ("num_replicas", ChangeAction::Configure, |spec| spec.num_replicas = 7),
        ("user_config", ChangeAction::Configure, |spec| spec.user_config = Some(json!({}))),
        ("max_ongoing_requests", ChangeAction::Configure, |spec| spec.max_ongoing_requests = Some(9)),
        ("max_queued_requests", ChangeAction::Configure, |spec| spec.max_queued_requests = None),
        ("request_timeout", ChangeAction::Configure, |spec| spec.request_timeout = Some(Duration::ZERO)),
        ("graceful_shutdown_timeout", ChangeAction::Configure, |spec| {
            spec.graceful_shutdown_timeout = Duration::from_secs(1);
        }),
        ("health_check_period", ChangeAction::Configure, |spec| {
            spec.health_check_period = Duration::from_secs(1);
        }),
        ("health_check_timeout", ChangeAction::Configure, |spec| {
            spec.health_check_timeout = Duration::from_secs(1);
        }),
        ("startup_timeout", ChangeAction::Configure, |spec| spec.startup_timeout = Duration::from_secs(1)),
        ("rollout", ChangeAction::Configure, |spec| spec.rollout.max_surge = Share::Count(2)),
        ("autoscaling", ChangeAction::Configure, |spec| {
            spec.autoscaling = Some(decurion_api::spec::AutoscalingSpec::auto());
        }),
        ("recycle", ChangeAction::Configure, |spec| spec.recycle = Some(Default::default())),
    ];
    let first = declare(&Desired::default(), vec![unversioned()]).unwrap();
    for (field, expected, edit) in &table {
        let mut changed = unversioned();
        edit(&mut changed);
        let second = declare(&first.desired, vec![changed]).unwrap();
        assert_eq!(action(&second), *expected, "{field}");
        assert!(second.applied.changes[0].fields.iter().any(|f| f == field), "{field}: {:?}", second.applied);
        let (held, next) = (&first.desired.deployments[&name("a")], &second.desired.deployments[&name("a")]);
        assert_eq!(held.template != next.template, *expected == ChangeAction::Roll, "{field}");
        // And back again, also where the field goes away.
        let third = declare(&second.desired, vec![unversioned()]).unwrap();
        let back = match *field {
            "user_config" => ChangeAction::Roll,
            _ => *expected,
        };
        assert_eq!(action(&third), back, "{field}");
    }
    let mut listed: Vec<&str> = table.iter().map(|(field, ..)| *field).collect();
    // The one names another deployment, the next is a condition and not kept; what becomes of graphs is told with them.
    listed.extend(["name", "prev_version", "graph"]);
    for field in fields_of_specs() {
        assert!(listed.contains(&field), "the table does not say what a change of '{field}' does");
    }
}

/// Every field that there is, also those that a spec without them does not show: this does not compile where one of
/// them is missing.
fn fields_of_specs() -> Vec<&'static str> {
    macro_rules! fields {
        ($($field:ident),* $(,)?) => {{
            let DeploymentSpec { $($field: _),* } = unversioned();
            vec![$(stringify!($field)),*]
        }};
    }
    fields![
        name,
        library,
        class,
        resources,
        route_prefix,
        num_replicas,
        autoscaling,
        args,
        graph,
        user_config,
        version,
        prev_version,
        max_ongoing_requests,
        max_queued_requests,
        threads,
        request_timeout,
        graceful_shutdown_timeout,
        health_check_period,
        health_check_timeout,
        startup_timeout,
        rollout,
        recycle,
        runtime_env,
    ]
}

#[test]
fn a_version_is_compared_before_it_is_swapped() {
    let versions = |version: &str, prev: Option<&str>| DeploymentSpec {
        prev_version: prev.map(str::to_owned),
        ..spec("a", version, 1)
    };
    let nothing = declare(&Desired::default(), vec![versions("1", Some("0"))]).unwrap_err();
    assert_eq!(nothing.to_string(), "prev_version of deployment 'a' is '0', and nothing is deployed");
    let first = declare(&Desired::default(), vec![versions("1", None)]).unwrap();
    let refused = declare(&first.desired, vec![versions("2", Some("0"))]).unwrap_err();
    assert_eq!(refused.to_string(), "prev_version of deployment 'a' is '0', and version '1' is live");
    let second = declare(&first.desired, vec![versions("2", Some("1"))]).unwrap();
    assert_eq!(action(&second), ChangeAction::Roll);
    assert_eq!(second.desired.deployments[&name("a")].spec.prev_version, None);
    // The same file again has nothing left to do.
    let again = declare(&second.desired, vec![versions("2", Some("1"))]).unwrap();
    assert_eq!(action(&again), ChangeAction::Unchanged);
}

#[test]
fn declaring_the_same_again_changes_nothing() {
    let first = declare(&Desired::default(), vec![unversioned()]).unwrap();
    let again = declare(&first.desired, vec![unversioned()]).unwrap();
    assert_eq!((action(&first), action(&again)), (ChangeAction::Create, ChangeAction::Unchanged));
    assert_eq!(again.desired, first.desired);
}

#[test]
fn an_order_without_a_version_always_redeploys() {
    let deploy = |desired: &Desired| {
        Changer::new(desired, None, &whole)
            .unwrap()
            .deployment(application(), unversioned(), &two_libraries())
            .unwrap()
    };
    let first = deploy(&Desired::default());
    let second = deploy(&first.desired);
    assert_eq!(action(&second), ChangeAction::Roll);
    let version = |proposal: &Proposal| proposal.desired.deployments[&name("a")].version.clone();
    assert_ne!(version(&first), version(&second));
}

#[test]
fn the_live_version_named_again_keeps_its_code_whatever_else_is_asked_for() {
    let first = declare(&Desired::default(), vec![spec("a", "1", 2)]).unwrap();
    let mut again = spec("a", "1", 5);
    again.library = LibraryRef::Path("/somewhere/else.so".to_owned());
    again.args = json!([1]);
    let second = declare(&first.desired, vec![again]).unwrap();
    let change = &second.applied.changes[0];
    assert_eq!(
        (change.action, change.fields.as_slice()),
        (ChangeAction::Configure, &["num_replicas".to_owned()][..])
    );
    let (held, next) = (&first.desired.deployments[&name("a")], &second.desired.deployments[&name("a")]);
    assert_eq!((&held.template, &held.library), (&next.template, &next.library));
}

#[test]
fn what_an_application_leaves_out_is_deleted_and_others_are_left_alone() {
    let first = declare(&Desired::default(), vec![spec("a", "1", 1), spec("b", "1", 1)]).unwrap();
    let other = ApplicationName::new("other").unwrap();
    let second = Changer::new(&first.desired, None, &whole)
        .unwrap()
        .deployment(other, spec("c", "1", 1), &libraries())
        .unwrap();
    let third = declare(&second.desired, vec![spec("b", "1", 1)]).unwrap();
    let names: Vec<&str> = third.desired.deployments.keys().map(DeploymentName::as_str).collect();
    assert_eq!(names, ["b", "c"]);
    assert!(matches!(
        declare(&third.desired, vec![spec("c", "1", 1)]),
        Err(Refusal::OtherOwner { name, .. }) if name.as_str() == "c"
    ));
}

#[test]
fn what_cannot_be_is_refused() {
    let nothing = Desired::default();
    let mut twin = spec("b", "1", 1);
    twin.route_prefix = Some(RoutePrefix::new("/a").unwrap());
    let refused = declare(&nothing, vec![spec("a", "1", 1), twin]).unwrap_err();
    assert!(matches!(refused, Refusal::RouteTaken { .. }), "{refused}");
    assert!(matches!(declare(&nothing, vec![spec("a", "1", 1), spec("a", "1", 1)]), Err(Refusal::Twice(_))));
    assert!(matches!(declare(&nothing, vec![spec("a", "1", 0)]), Err(Refusal::Replicas { found: 0, .. })));
    let mut ambiguous = spec("a", "1", 1);
    ambiguous.library = LibraryRef::Digest("e".repeat(64));
    assert!(matches!(declare(&nothing, vec![ambiguous.clone()]), Err(Refusal::WhichClass { .. })));
    ambiguous.class = Some(ClassName::new("Nobody").unwrap());
    assert!(matches!(declare(&nothing, vec![ambiguous]), Err(Refusal::NoClass { .. })));
    let mut unknown = spec("a", "1", 1);
    unknown.library = LibraryRef::Digest("f".repeat(64));
    assert!(matches!(declare(&nothing, vec![unknown]), Err(Refusal::NoLibrary { .. })));
    assert!(matches!(
        Changer::new(&nothing, Some(4), &whole),
        Err(Refusal::RevisionMismatch { expected: 4, found: 0 })
    ));
}

#[test]
fn what_never_fits_the_machine_is_refused_with_what_is_there_and_what_is_asked() {
    let capacity = Capacity { cpus: Some(Amount::whole(2)), memory: Some(1 << 30), ..Capacity::default() };
    let declare = |desired: &Desired, spec: DeploymentSpec| {
        let spec = ApplicationSpec { application: application(), http: None, deployments: vec![spec] };
        Changer::new(desired, None, &whole).unwrap().on(&capacity).application(spec, &two_libraries())
    };
    let with = |replicas: u32, cpus: u32| {
        let mut spec = spec("a", "1", replicas);
        spec.resources.cpus = Some(Amount::thousandths(cpus));
        spec
    };
    let nothing = Desired::default();
    assert_eq!(
        declare(&nothing, with(1, 2_500)).unwrap_err().to_string(),
        "deployment 'a' can never run on this machine: its replica needs 2.5 cpus, and replicas may use 2 cpus, \
         1 GiB of memory in sum; ask for less in its resources"
    );
    assert_eq!(
        declare(&nothing, with(5, 500)).unwrap_err().to_string(),
        "deployment 'a' can never run on this machine: each of its 5 replicas needs 0.5 cpus, and replicas may use \
         2 cpus, 1 GiB of memory in sum; ask for less in its resources, or for fewer replicas"
    );
    let first = declare(&nothing, with(4, 500)).unwrap();
    assert!(first.applied.changes[0].steps.contains(&"each replica has 0.5 cpus".to_owned()));
    let more = Changer::new(&first.desired, None, &whole).unwrap().on(&capacity).scale(&name("a"), 5);
    assert!(matches!(more, Err(Refusal::NoRoom { replicas: 5, .. })), "{more:?}");
    // What runs already is no matter of a change that leaves it alone.
    let small = Capacity { cpus: Some(Amount::ONE), ..Capacity::default() };
    let other = Changer::new(&first.desired, None, &whole).unwrap().on(&small).deployment(
        application(),
        spec("b", "1", 1),
        &libraries(),
    );
    assert!(other.is_ok(), "{other:?}");
}

#[test]
fn a_restart_and_a_retry_are_other_templates_of_the_same_version() {
    let first = declare(&Desired::default(), vec![unversioned()]).unwrap();
    let second = Changer::new(&first.desired, None, &whole).unwrap().restart(&name("a")).unwrap();
    let spec = ApplicationSpec { application: application(), http: None, deployments: vec![unversioned()] };
    let third =
        Changer::new(&second.desired, None, &failed).unwrap().application(spec, &two_libraries()).unwrap();
    let wanted = |proposal: &Proposal| proposal.desired.deployments[&name("a")].clone();
    let [first, second, third] = [wanted(&first), wanted(&second), wanted(&third)];
    assert!(first.template != second.template && second.template != third.template);
    assert_eq!((&first.version, &second.version), (&second.version, &third.version));
}

#[test]
fn rolling_back_brings_the_template_of_the_form_before() {
    let first = declare(&Desired::default(), vec![spec("a", "1", 2)]).unwrap();
    let second = declare(&first.desired, vec![spec("a", "2", 2)]).unwrap();
    let back =
        Changer::new(&second.desired, None, &failed).unwrap().put_back(&name("a"), "no".to_owned()).unwrap();
    let wanted = |proposal: &Proposal| proposal.desired.deployments[&name("a")].clone();
    assert_eq!(wanted(&back).template, wanted(&first).template);
    assert_eq!(wanted(&back).rolled_back.unwrap().revision, second.desired.revision);
    let undone = Changer::new(&second.desired, None, &whole).unwrap().rollback(&name("a"), None).unwrap();
    assert_eq!(wanted(&undone).template, wanted(&first).template);
    assert_eq!(wanted(&undone).before.unwrap().version, "2", "undoing twice goes forward again");
}

#[test]
fn http_settings_alone_are_a_revision() {
    let first = declare(&Desired::default(), vec![unversioned()]).unwrap();
    let http = HttpSpec { listen: "127.0.0.1:9".to_owned(), ..HttpSpec::default() };
    let spec =
        ApplicationSpec { application: application(), http: Some(http), deployments: vec![unversioned()] };
    let second =
        Changer::new(&first.desired, None, &whole).unwrap().application(spec, &two_libraries()).unwrap();
    assert_eq!(second.desired.revision, first.desired.revision + 1);
}

#[test]
fn what_would_not_fit_into_a_view_is_refused() {
    let many = |count: usize| {
        let named = |n| spec(&format!("{n:0>60}"), "1", 1);
        declare(&Desired::default(), (0..count).map(named).collect())
    };
    assert!(matches!(many(900), Err(Refusal::ViewTooLarge { .. })));
    let proposal = many(100).unwrap();
    let mut core = crate::reconcile::Core::new(proposal.desired, 0);
    let _ = core.turn(crate::reconcile::world::moment());
    let routes = core.observed().routes.clone().unwrap();
    assert!(decurion_ipc::codec::encode(&routes).unwrap().len() < VIEW_MAX);
}
