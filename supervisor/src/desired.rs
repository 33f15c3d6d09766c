//! The desired state: what every deployment is to be, as one revision. Plain data, stored as it stands; how one
//! revision follows from another is told in [`crate::change`].

use std::collections::BTreeMap;

use decurion_api::spec::graph::GRAPH_ONGOING_DEFAULT;
use decurion_api::spec::{DeploymentSpec, HttpSpec, LibraryRef};
use decurion_api::{ApplicationName, ClassName, DeploymentName};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// One revision of everything that is wanted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Desired {
    /// Counts up from 1 with each change; 0: nothing was ever asked for.
    pub revision: u64,
    /// The proxy's settings.
    pub http: HttpSpec,
    /// By name.
    pub deployments: BTreeMap<DeploymentName, Wanted>,
}

/// What one deployment is to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wanted {
    /// Who owns it.
    pub application: ApplicationName,
    /// Revision that last changed it.
    pub revision: u64,
    /// As it was asked for; the library is a digest.
    pub spec: DeploymentSpec,
    /// SHA-256 of the library.
    pub library: String,
    /// What its class can do, as the library says.
    pub class: ClassInfo,
    /// The operator's word for it, or one made from the content.
    pub version: String,
    /// How often it was restarted, or tried again after a failure, without another change.
    pub attempt: u64,
    /// Names everything that a running replica can't change.
    pub template: TemplateId,
    /// Names the `user_config`.
    pub config: ConfigId,
    /// The last `user_config` that a replica of this template has taken, where the present one is newer.
    pub config_before: Option<Value>,
    /// The last form that was rolled out whole; it has no `before` of its own.
    pub before: Option<Box<Wanted>>,
    /// The change whose failure led to this form.
    pub rolled_back: Option<RolledBack>,
    /// Its update goes no further until it is resumed.
    #[serde(default)]
    pub paused: bool,
}

/// A change that failed and was put back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledBack {
    /// Its revision.
    pub revision: u64,
    /// Its version.
    pub version: String,
    /// Why it failed, with the replica's last words.
    pub message: String,
}

/// What a class can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassInfo {
    /// Its name.
    pub name: ClassName,
    /// Whether it answers HTTP.
    pub http: bool,
    /// Whether `call` runs one at a time.
    pub exclusive: bool,
    /// Whether it takes a `user_config`.
    pub reconfigures: bool,
    /// Whether it can say how it is. One that can't is checked only while it has requests: that it lets a check in at
    /// all says something then.
    #[serde(default = "is_assumed")]
    pub checks_health: bool,
    /// Members of its largest batch; 0: it has none.
    #[serde(default)]
    pub batch_max: u32,
    /// Its methods, in the order of the ABI's `method_index`.
    pub methods: Vec<String>,
    /// Those of them that stream.
    #[serde(default)]
    pub streams: Vec<String>,
    /// Bit `1 << n` for `decurion_abi::encoding` n.
    pub encodings: u32,
}

/// Of a class that was stored before this was known.
fn is_assumed() -> bool {
    true
}

/// Names everything that a replica can't change while it runs: replicas of another template are replaced.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TemplateId(String);

impl TemplateId {
    /// That of no replica.
    pub(crate) fn none() -> Self {
        Self(String::new())
    }
}

/// Names a `user_config` by its content; none is a content of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConfigId(String);

/// Fields of [`DeploymentSpec`] that only a new process can take. Every other one is taken by running replicas, or
/// concerns the supervisor and the callers alone.
pub const RESTART_FIELDS: [&str; 8] =
    ["library", "class", "args", "graph", "version", "threads", "resources", "runtime_env"];

impl Wanted {
    /// The form that follows from a spec: `library` and `class` are what it refers to, `fresh` makes a version that
    /// no other revision has where the operator gave none.
    #[must_use]
    pub fn new(
        application: ApplicationName,
        mut spec: DeploymentSpec,
        library: String,
        class: ClassInfo,
        revision: u64,
        fresh: bool,
    ) -> Self {
        spec.library = LibraryRef::Digest(library.clone());
        spec.class = Some(class.name.clone());
        let version = match &spec.version {
            Some(version) => version.clone(),
            None => version_of(&spec, &library, fresh.then_some(revision)),
        };
        let mut wanted = Self {
            application,
            revision,
            config: ConfigId::of(spec.user_config.as_ref()),
            spec,
            library,
            class,
            version,
            attempt: 0,
            template: TemplateId::none(),
            config_before: None,
            before: None,
            rolled_back: None,
            paused: false,
        };
        wanted.seal();
        wanted
    }

    /// Brings the names of template and configuration in line with the fields, after these were changed.
    pub fn seal(&mut self) {
        self.config = ConfigId::of(self.spec.user_config.as_ref());
        let fields = fields_of(&self.spec);
        let kept: BTreeMap<&str, Option<&Value>> =
            RESTART_FIELDS.iter().map(|field| (*field, fields.get(*field))).collect();
        self.template = TemplateId(short_hash(&(&self.version, self.attempt, kept)));
    }

    /// Requests in flight per replica, at most.
    #[must_use]
    pub fn max_ongoing_requests(&self) -> u32 {
        match self.spec.max_ongoing_requests {
            Some(limit) => limit,
            None if self.spec.graph.is_some() => GRAPH_ONGOING_DEFAULT,
            None if self.class.exclusive => 1,
            // A batch that can't be filled only ever waits for its time.
            None => (2 * u32::from(self.spec.threads)).max(5).max(self.class.batch_max),
        }
    }

    /// Replicas that it may come to want.
    #[must_use]
    pub fn replicas_max(&self) -> u32 {
        self.spec.autoscaling.as_ref().map_or(self.spec.num_replicas, |scaling| scaling.max_replicas)
    }

    /// Replicas that it has at the least, once it is used at all.
    #[must_use]
    pub fn replicas_min(&self) -> u32 {
        let least = self.spec.autoscaling.as_ref().map(|scaling| scaling.min_replicas);
        least.unwrap_or(self.spec.num_replicas).max(1)
    }

    /// What its operator may want to know, although it is no mistake.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let (limit, batch) = (self.max_ongoing_requests(), self.class.batch_max);
        let never_full = format!(
            "deployment {}: max_ongoing_requests = {limit}, but class {} runs up to {batch} calls in one batch: such a \
             batch is never full and always waits for its time; leave max_ongoing_requests out, or set it to {batch} \
             or more",
            self.spec.name, self.class.name
        );
        Vec::from_iter((limit < batch).then_some(never_full))
    }

    /// This form without what came before it.
    #[must_use]
    pub fn alone(&self) -> Box<Self> {
        Box::new(Self { before: None, rolled_back: None, config_before: None, paused: false, ..self.clone() })
    }
}

impl TemplateId {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ConfigId {
    /// The name of a configuration.
    #[must_use]
    pub fn of(config: Option<&Value>) -> Self {
        Self(config.map_or_else(|| "none".to_owned(), short_hash))
    }
}

/// A spec's fields by name, as JSON.
#[must_use]
pub fn fields_of(spec: &DeploymentSpec) -> serde_json::Map<String, Value> {
    match serde_json::to_value(spec) {
        Ok(Value::Object(fields)) => fields,
        _ => unreachable!("a spec is a struct of JSON values, durations and names"),
    }
}

/// What the constructor is given: a graph's is the graph.
#[must_use]
pub fn constructor_args(spec: &DeploymentSpec) -> Value {
    match &spec.graph {
        Some(graph) => json!({ "graph": graph }),
        None => spec.args.clone(),
    }
}

fn version_of(spec: &DeploymentSpec, library: &str, fresh: Option<u64>) -> String {
    let (args, resources) = (constructor_args(spec), &spec.resources);
    short_hash(&(library, &spec.class, args, resources, &spec.runtime_env, fresh))[..12].to_owned()
}

/// 16 hexadecimal digits of a hash over a value's JSON. Maps are written in the order of their keys.
fn short_hash<T: Serialize + ?Sized>(value: &T) -> String {
    let json = serde_json::to_vec(value).expect("plain data with text keys always has JSON");
    let digest = Sha256::digest(&json);
    digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}
