//! What is to be deployed: a configuration file, or one library with what the command line says of it. Libraries go
//! to the supervisor's store first, so that a spec names them by their digests.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use decurion_api::admin::Artifact;
use decurion_api::limits::CONFIG_FILE_MAX;
use decurion_api::spec::file::{self, FileError};
use decurion_api::spec::{ApplicationSpec, DeploymentSpec, LibraryRef, TlsSpec};
use decurion_api::{ClassName, DeploymentName};
use decurion_client::admin::{Admin, AdminError};
use serde_json::{Map, Value, json};

use crate::args::LibraryArgs;
use crate::failure::{Failure, chain};
use crate::output::Output;

use super::source::Source;

/// What `deploy` and `run` are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    File(PathBuf),
    Library { path: PathBuf, class: Option<ClassName> },
}

/// A spec whose libraries are in the supervisor's store.
pub(super) enum Ready {
    Application(Box<ApplicationSpec>, Source),
    Deployment(Box<DeploymentSpec>),
}

impl Ready {
    /// The places of what the file says.
    pub(super) fn source(&self) -> Option<&Source> {
        match self {
            Ready::Application(_, source) => Some(source),
            Ready::Deployment(_) => None,
        }
    }
}

impl Target {
    /// A file by its ending, else `LIB` or `LIB:CLASS`.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        if text.ends_with(".toml") || text.ends_with(".json") {
            return Ok(Target::File(text.into()));
        }
        if Path::new(text).is_dir() {
            let file = Path::new(text).join("decurion.toml");
            let failure = Failure::usage(format!("{text} is a folder"));
            return Err(failure.now(format!("name a file in it, such as {}", file.display())));
        }
        let (path, class) = match text.rsplit_once(':') {
            Some((path, class)) if !Path::new(text).exists() => (path, Some(class)),
            _ => (text, None),
        };
        let class = class
            .map(ClassName::new)
            .transpose()
            .map_err(|error| Failure::usage(format!("'{text}' is no LIB[:CLASS]: {error}")))?;
        Ok(Target::Library { path: path.into(), class })
    }

    /// The whole paths of all files that say what is deployed: the file or library itself, and what the file names.
    pub(super) fn files(&self) -> Result<BTreeSet<PathBuf>, Failure> {
        let absolute = |path: &Path| {
            std::path::absolute(path)
                .map_err(|error| Failure::of(format!("{} has no absolute path", path.display()), &error))
        };
        let mut files = BTreeSet::new();
        match self {
            Target::Library { path, .. } => _ = files.insert(absolute(path)?),
            Target::File(file) => {
                files.insert(absolute(file)?);
                let folder = file.parent().unwrap_or(Path::new("."));
                for deployment in read_file(file)?.0.deployments {
                    if let LibraryRef::Path(path) = deployment.library {
                        files.insert(absolute(&folder.join(path))?);
                    }
                }
            }
        }
        Ok(files)
    }

    /// Reads, checks and uploads. Nothing is deployed yet.
    pub(super) fn ready(
        &self,
        args: &LibraryArgs,
        arguments: Option<Value>,
        admin: &Admin,
        output: &Output,
    ) -> Result<Ready, Failure> {
        match self {
            Target::File(path) => {
                if let Some(flag) = first_flag(args) {
                    let words = format!("{flag} goes with a library; {} says it itself", path.display());
                    return Err(Failure::usage(words));
                }
                if arguments.is_some() {
                    let words = format!("KEY=VALUE goes with a library; {} says it itself", path.display());
                    return Err(Failure::usage(words));
                }
                let (mut spec, source) = read_file(path)?;
                absolute_paths(&mut spec, path)?;
                upload_all(&mut spec, path, admin)?;
                Ok(Ready::Application(Box::new(spec), source))
            }
            Target::Library { path, class } => {
                let spec = library_spec(path, class.as_ref(), args, arguments, admin, output)?;
                Ok(Ready::Deployment(Box::new(spec)))
            }
        }
    }
}

/// Reads a configuration file; paths of libraries stay as they are, relative to its folder.
fn read_file(path: &Path) -> Result<(ApplicationSpec, Source), Failure> {
    let unreadable =
        |error| Failure::of(format!("{} can't be read", path.display()), &error).nothing_changed();
    let len = fs::metadata(path).map_err(unreadable)?.len();
    if len > CONFIG_FILE_MAX as u64 {
        let words = format!("{} has {len} bytes, and at most {CONFIG_FILE_MAX} are read", path.display());
        return Err(Failure::new(crate::failure::Exit::Failed, words).nothing_changed());
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    let name = path.display().to_string();
    if path.extension().is_some_and(|extension| extension == "json") {
        return match file::read_json(&bytes) {
            Ok(spec) => {
                let source = Source::of(&name, None, &spec);
                Ok((spec, source))
            }
            Err(error) => Err(FileError { file: name, ..error }.into()),
        };
    }
    let text =
        String::from_utf8(bytes).map_err(|error| Failure::of(format!("{name} is not UTF-8"), &error))?;
    let spec = file::read_toml(&text, &name)?;
    let source = Source::of(&name, Some(&text), &spec);
    Ok((spec, source))
}

/// The supervisor goes to these places, and does not know where this file lies.
fn absolute_paths(spec: &mut ApplicationSpec, file: &Path) -> Result<(), Failure> {
    let tls = spec.http.iter_mut().flat_map(|http| &mut http.tls).flat_map(TlsSpec::paths_mut);
    let folders = spec.deployments.iter_mut().flat_map(|it| it.runtime_env.folders_mut());
    for path in tls.chain(folders) {
        let near = file.parent().unwrap_or(Path::new(".")).join(&path);
        let whole = std::path::absolute(&near)
            .map_err(|error| Failure::of(format!("{path} has no absolute path"), &error).nothing_changed())?;
        *path = whole.display().to_string();
    }
    Ok(())
}

fn upload_all(spec: &mut ApplicationSpec, file: &Path, admin: &Admin) -> Result<(), Failure> {
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut uploaded: HashMap<PathBuf, String> = HashMap::new();
    for deployment in &mut spec.deployments {
        let LibraryRef::Path(path) = &deployment.library else { continue };
        let path = folder.join(path);
        let digest = match uploaded.get(&path) {
            Some(digest) => digest.clone(),
            None => {
                let words = format!("the library of deployment '{}'", deployment.name);
                upload(&path, &words, admin)?.digest
            }
        };
        uploaded.insert(path, digest.clone());
        deployment.library = LibraryRef::Digest(digest);
    }
    Ok(())
}

fn upload(path: &Path, what: &str, admin: &Admin) -> Result<Artifact, Failure> {
    admin.upload(path).map_err(|error| match &error {
        AdminError::File { source, .. } => {
            let words = format!("{what}, {}, can't be read: {source}", path.display());
            let failure = Failure::new(crate::failure::Exit::Failed, words).nothing_changed();
            if source.kind() == std::io::ErrorKind::NotFound {
                failure.now("build it, or correct its path; paths are relative to the file's folder")
            } else {
                failure
            }
        }
        AdminError::Refused(problem) => {
            let detail = problem.detail.strip_suffix("; nothing was changed").unwrap_or(&problem.detail);
            let words = format!("{what}, {}, is refused: {detail}", path.display());
            let now = format!("`decurion check {}` tells all about it", path.display());
            Failure::new(crate::failure::Exit::Failed, words).now(now).nothing_changed()
        }
        _ => Failure::of_change(error),
    })
}

/// The spec of a library without a file. Where the deployment is there already, what the command line leaves out
/// stays as it is; a new class starts from its own defaults.
fn library_spec(
    path: &Path,
    class: Option<&ClassName>,
    args: &LibraryArgs,
    arguments: Option<Value>,
    admin: &Admin,
    output: &Output,
) -> Result<DeploymentSpec, Failure> {
    let given = given_fields(path, class, args, arguments)?;
    let spec = read_given(&given)?;
    let artifact = upload(path, "the library", admin)?;
    let class = class.map(ClassName::as_str).or(match artifact.classes.as_slice() {
        [only] => Some(only.as_str()),
        _ => None,
    });
    let mut merged = match live(&spec.name, admin)? {
        Some(live) => {
            let kept = kept_fields(&live, class, &given);
            tell_kept(&kept, &spec, output);
            kept
        }
        None => Map::new(),
    };
    merged.extend(given);
    merged.insert("name".to_owned(), spec.name.as_str().into());
    merged.insert("library".to_owned(), format!("sha256:{}", artifact.digest).into());
    read_given(&merged)
}

/// The command line in the file's form.
fn given_fields(
    path: &Path,
    class: Option<&ClassName>,
    args: &LibraryArgs,
    arguments: Option<Value>,
) -> Result<Map<String, Value>, Failure> {
    if args.args.is_some() && arguments.is_some() {
        return Err(Failure::usage(
            "the constructor's arguments are given twice: by --args and by KEY=VALUE",
        ));
    }
    let fields = [
        ("library", Some(json!(path.to_string_lossy()))),
        ("class", class.map(|class| json!(class))),
        ("name", args.name.as_ref().map(|name| json!(name))),
        ("num_replicas", args.replicas.map(|replicas| json!(replicas))),
        ("route_prefix", args.route_prefix.as_ref().map(|route| json!(route))),
        ("version", args.version.as_ref().map(|version| json!(version))),
        ("prev_version", args.prev_version.as_ref().map(|version| json!(version))),
        ("args", args.args.clone().or(arguments)),
        ("user_config", args.user_config.clone()),
        ("threads", args.threads.map(|threads| json!(threads))),
        ("max_ongoing_requests", args.max_ongoing_requests.map(|max| json!(max))),
        ("resources", args.resources.clone()),
    ];
    Ok(fields.into_iter().filter_map(|(field, value)| Some((field.to_owned(), value?))).collect())
}

/// Refusals name flags, not fields of a file that does not exist.
fn read_given(given: &Map<String, Value>) -> Result<DeploymentSpec, Failure> {
    let text = Value::Object(given.clone()).to_string();
    file::read_deployment_json(text.as_bytes()).map_err(|error| {
        let words = |problem: &file::FileProblem| format!("{}: {}", flag_of(&problem.field), problem.message);
        let lines: Vec<String> = error.problems.iter().map(words).collect();
        Failure::usage(lines.join("; ")).nothing_changed()
    })
}

fn flag_of(field: &str) -> String {
    match field {
        "library" => "LIB".to_owned(),
        "class" => "CLASS".to_owned(),
        "num_replicas" => "--replicas".to_owned(),
        field => format!("--{}", field.replace('_', "-")),
    }
}

fn first_flag(args: &LibraryArgs) -> Option<&'static str> {
    [
        ("--name", args.name.is_some()),
        ("--replicas", args.replicas.is_some()),
        ("--route-prefix", args.route_prefix.is_some()),
        ("--version", args.version.is_some()),
        ("--prev-version", args.prev_version.is_some()),
        ("--args", args.args.is_some()),
        ("--user-config", args.user_config.is_some()),
        ("--threads", args.threads.is_some()),
        ("--max-ongoing-requests", args.max_ongoing_requests.is_some()),
        ("--resources", args.resources.is_some()),
    ]
    .into_iter()
    .find_map(|(flag, given)| given.then_some(flag))
}

fn live(name: &DeploymentName, admin: &Admin) -> Result<Option<Map<String, Value>>, Failure> {
    match admin.deployment(name) {
        Ok(config) => Ok(config.value.as_object().cloned()),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(Failure::of_change(error)),
    }
}

fn kept_fields(
    live: &Map<String, Value>,
    class: Option<&str>,
    given: &Map<String, Value>,
) -> Map<String, Value> {
    let same_class = class.is_some() && live.get("class").and_then(Value::as_str) == class;
    let mut kept = live.clone();
    for field in ["name", "library", "class", "version"] {
        kept.remove(field);
    }
    if !same_class {
        kept.remove("args");
        kept.remove("user_config");
    }
    kept.retain(|field, _| !given.contains_key(field));
    kept
}

/// Says which settings come from the running deployment, where they are not the defaults anyway.
fn tell_kept(kept: &Map<String, Value>, defaults: &DeploymentSpec, output: &Output) {
    let defaults = file::deployment_to_json(defaults);
    let differing = kept.iter().filter(|(field, value)| defaults.get(*field) != Some(value));
    let words: Vec<String> = differing.map(|(field, value)| format!("{field} = {value}")).collect();
    if !words.is_empty() {
        output.note(&format!("kept from the running deployment: {}", words.join(", ")));
    }
}

/// `key=value` pairs as an object; a value that is no JSON is text.
pub(super) fn key_values(pairs: &[String]) -> Result<Map<String, Value>, Failure> {
    let mut object = Map::new();
    for pair in pairs {
        let Some((key, value)) = pair.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return Err(Failure::usage(format!("'{pair}' is no KEY=VALUE")));
        };
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        if object.insert(key.to_owned(), value).is_some() {
            return Err(Failure::usage(format!("'{key}' is given twice")));
        }
    }
    Ok(object)
}

/// An error of JSON that was meant to be one.
pub(super) fn not_json(text: &str, error: &serde_json::Error) -> Failure {
    Failure::usage(format!("'{text}' is neither JSON ({}) nor KEY=VALUE", chain(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_file_by_its_ending() {
        assert_eq!(Target::parse("a/b.toml").unwrap(), Target::File("a/b.toml".into()));
        assert_eq!(Target::parse("b.json").unwrap(), Target::File("b.json".into()));
        let class = |name: &str| Some(ClassName::new(name).unwrap());
        let library = Target::Library { path: "t/libx.so".into(), class: class("Model") };
        assert_eq!(Target::parse("t/libx.so:Model").unwrap(), library);
        assert_eq!(
            Target::parse("t/libx.so").unwrap(),
            Target::Library { path: "t/libx.so".into(), class: None }
        );
        assert!(Target::parse("t/libx.so:a-b").is_err());
    }

    #[test]
    fn values_are_json_or_else_text() {
        let pairs = ["n=5", "text=hello", "quoted=\"5\"", "list=[1,2]", "empty=", "eq=a=b"];
        let object = key_values(&pairs.map(str::to_owned)).unwrap();
        assert_eq!(
            Value::Object(object),
            json!({ "n": 5, "text": "hello", "quoted": "5", "list": [1, 2], "empty": "", "eq": "a=b" })
        );
        for bad in [["x", "y=1"], ["=1", "y=1"], ["y=1", "y=2"]] {
            assert!(key_values(&bad.map(str::to_owned)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn refusals_name_flags() {
        let args = LibraryArgs { replicas: Some(0), threads: Some(1000), ..LibraryArgs::default() };
        let given = given_fields(Path::new("libx.so"), None, &args, None).unwrap();
        let failure = read_given(&given).unwrap_err();
        assert_eq!(failure.exit, crate::failure::Exit::Usage);
        let words = format!("{failure:?}");
        assert!(words.contains("--replicas: 0 is out of range; give 1 to 1000"), "{words}");
        assert!(words.contains("--threads: 1000 is out of range"), "{words}");
    }

    #[test]
    fn another_class_starts_from_its_own_arguments() {
        let live = json!({ "name": "m", "class": "A", "library": "sha256:00", "version": "1", "num_replicas": 5,
            "args": { "x": 1 }, "user_config": {}, "threads": 2 });
        let live = live.as_object().unwrap();
        let given = json!({ "library": "x", "threads": 4 });
        let given = given.as_object().unwrap();
        let kept = |class| Value::Object(kept_fields(live, class, given));
        assert_eq!(kept(Some("A")), json!({ "num_replicas": 5, "args": { "x": 1 }, "user_config": {} }));
        assert_eq!(kept(Some("B")), json!({ "num_replicas": 5 }));
        assert_eq!(kept(None), json!({ "num_replicas": 5 }));
    }
}
