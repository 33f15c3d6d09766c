//! `new`: a folder with a deployment that can be run at once.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use decurion_api::name::NAME_MAX;

use crate::args::{NewArgs, Template};
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// Files of a template: path in the new folder, and text with `{{name}}`, `{{lib}}` and `{{sdk}}` to be filled in.
type Files = &'static [(&'static str, &'static str)];

const HELLO: Files = &[
    ("Cargo.toml", include_str!("../../templates/hello/Cargo.toml.in")),
    ("src/lib.rs", include_str!("../../templates/hello/lib.rs.in")),
    ("decurion.toml", include_str!("../../templates/hello/decurion.toml.in")),
    ("README.md", include_str!("../../templates/hello/README.md.in")),
    (".gitignore", include_str!("../../templates/hello/gitignore.in")),
];
const MODEL: Files = &[
    ("Cargo.toml", include_str!("../../templates/model/Cargo.toml.in")),
    ("src/lib.rs", include_str!("../../templates/model/lib.rs.in")),
    ("decurion.toml", include_str!("../../templates/model/decurion.toml.in")),
    ("README.md", include_str!("../../templates/model/README.md.in")),
    (".gitignore", include_str!("../../templates/model/gitignore.in")),
];
const AXUM: Files = &[
    ("Cargo.toml", include_str!("../../templates/axum/Cargo.toml.in")),
    ("src/lib.rs", include_str!("../../templates/axum/lib.rs.in")),
    ("decurion.toml", include_str!("../../templates/axum/decurion.toml.in")),
    ("README.md", include_str!("../../templates/axum/README.md.in")),
    (".gitignore", include_str!("../../templates/axum/gitignore.in")),
];
const C: Files = &[
    ("hello.c", include_str!("../../templates/c/hello.c.in")),
    ("Makefile", include_str!("../../templates/c/Makefile.in")),
    ("decurion.toml", include_str!("../../templates/c/decurion.toml.in")),
    ("README.md", include_str!("../../templates/c/README.md.in")),
    (".gitignore", include_str!("../../templates/c/gitignore.in")),
];
const CPP: Files = &[
    ("hello.cpp", include_str!("../../templates/cpp/hello.cpp.in")),
    ("CMakeLists.txt", include_str!("../../templates/cpp/CMakeLists.txt.in")),
    ("decurion.toml", include_str!("../../templates/cpp/decurion.toml.in")),
    ("README.md", include_str!("../../templates/cpp/README.md.in")),
    (".gitignore", include_str!("../../templates/cpp/gitignore.in")),
];
/// Names that are no crate's: the language's own words, and the crates that are always there.
const RESERVED: &str = " abstract alloc as async await become box break const continue core crate do dyn else enum \
    extern false final fn for gen if impl in let loop macro match mod move mut override priv proc_macro pub ref \
    return self static std struct super test trait true try type typeof unsafe unsized use virtual where while \
    yield decurion ";

pub(super) fn new(args: &NewArgs, output: &Output) -> Result<Exit, Failure> {
    check_name(&args.name)?;
    let sdk = find_sdk(args)?;
    let files = match args.template {
        Template::Hello => HELLO,
        Template::Model => MODEL,
        Template::Axum => AXUM,
        Template::C => C,
        Template::Cpp => CPP,
    };
    let folder = Path::new(&args.name);
    match fs::create_dir(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let failure = Failure::new(Exit::Failed, format!("{} exists already", folder.display()));
            return Err(failure.now("choose another name, or remove it").nothing_changed());
        }
        Err(error) => {
            return Err(Failure::of(format!("{} can't be made", folder.display()), &error).nothing_changed());
        }
    }
    for (path, template) in files {
        let path = folder.join(path);
        let text = fill(template, &args.name, &sdk);
        write_new(&path, &text).map_err(|error| {
            let failure = Failure::of(format!("{} can't be written", path.display()), &error);
            failure.changed(format!("the folder {} was begun; remove it", folder.display()))
        })?;
    }
    if output.is_json() {
        let files: Vec<&str> = files.iter().map(|(path, _)| *path).collect();
        output.json(&serde_json::json!({ "folder": folder, "files": files }))?;
    }
    let run = match args.template {
        Template::Hello | Template::Model | Template::Axum => "decurion run",
        Template::C => "make && decurion run",
        Template::Cpp => "cmake -S . -B build && cmake --build build && decurion run",
    };
    output.note(&format!("made {}; now: cd {} && {run}", folder.display(), folder.display()));
    Ok(Exit::Done)
}

/// A name that can be a folder, a crate, a library and a deployment all at once.
fn check_name(name: &str) -> Result<(), Failure> {
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic());
    let fits = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if !starts_well || !fits || name.len() > NAME_MAX {
        let rule = format!("letters, digits, '-' and '_', starts with a letter, and has at most {NAME_MAX}");
        return Err(
            Failure::usage(format!("'{name}' can't be the name: it is made of {rule}")).nothing_changed()
        );
    }
    if RESERVED.split(' ').any(|word| word == name) {
        return Err(
            Failure::usage(format!("'{name}' can't be the name: it is taken in Rust")).nothing_changed()
        );
    }
    Ok(())
}

/// The SDK that was installed with this command, or that of the checkout which it was built from.
fn find_sdk(args: &NewArgs) -> Result<PathBuf, Failure> {
    let candidates = match &args.sdk {
        Some(sdk) => vec![sdk.clone()],
        None => {
            let beside = std::env::current_exe().ok().and_then(|command| command.canonicalize().ok());
            let installed = beside.and_then(|command| Some(command.parent()?.join("../share/decurion/sdk")));
            let checkout = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../sdk"));
            installed.into_iter().chain([checkout]).collect()
        }
    };
    let sdk = candidates
        .iter()
        .filter_map(|sdk| sdk.canonicalize().ok())
        .find(|sdk| sdk.join("Cargo.toml").exists());
    sdk.ok_or_else(|| {
        let looked: Vec<String> = candidates.iter().map(|sdk| sdk.display().to_string()).collect();
        Failure::new(Exit::Failed, format!("the SDK is not found in {}", looked.join(" or in ")))
            .now("give the folder `sdk` of a checkout by --sdk")
            .nothing_changed()
    })
}

fn fill(template: &str, name: &str, sdk: &Path) -> String {
    // Both TOML and make read a backslash or a quote in another way than a path means it.
    let sdk = sdk.display().to_string().replace('\\', "\\\\").replace('"', "\\\"");
    template.replace("{{name}}", name).replace("{{lib}}", &name.replace('-', "_")).replace("{{sdk}}", &sdk)
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::File::create_new(path)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Files; 5] = [HELLO, MODEL, AXUM, C, CPP];

    #[test]
    fn a_name_fits_everything_that_is_named_by_it() {
        for name in ["scorer", "my-model", "m2", "A_b"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "2m", "-m", "a/b", "a.b", "é", "fn", "std", "decurion", &"x".repeat(64)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn templates_are_filled_in_wholly() {
        for (path, template) in ALL.into_iter().flatten() {
            let text = fill(template, "my-model", Path::new("/opt/sdk"));
            for place in ["{{name}}", "{{lib}}", "{{sdk}}"] {
                assert!(!text.contains(place), "{path}: {text}");
            }
        }
    }

    #[test]
    fn the_configuration_of_a_template_is_accepted() {
        for files in ALL {
            let (_, template) = files.iter().find(|(path, _)| *path == "decurion.toml").unwrap();
            let text = fill(template, "my-model", Path::new("/opt/sdk"));
            let spec = decurion_api::spec::file::read_toml(&text, "decurion.toml").unwrap();
            assert_eq!(spec.deployments[0].name.as_str(), "my-model");
        }
    }
}
