//! `check`: what a library says of itself and whether this machine could load it, without running any of it.

use std::fs;
use std::path::Path;

use decurion_api::limits::LIBRARY_MAX;
use decurion_library::{
    BatchFacts, ClassFacts, Concurrency, LibraryFacts, MethodFacts, check_host, folders_of, inspect,
};
use serde::Serialize;

use crate::failure::{Exit, Failure, chain};
use crate::output::{Output, Table, TableCell, Tone, printable};
use crate::sys;

/// For programs.
#[derive(Serialize)]
struct Report<'a> {
    library: String,
    ok: bool,
    problems: Vec<String>,
    #[serde(flatten)]
    facts: Option<&'a LibraryFacts>,
    /// As people write it, beside the facts' numbers.
    glibc_floor: Option<String>,
}

pub(super) fn check(library: &Path, output: &Output) -> Result<Exit, Failure> {
    let facts = read(library);
    let problems = match &facts {
        Ok(facts) => {
            let library_path = sys::variable("LD_LIBRARY_PATH").unwrap_or_default();
            let library_path = folders_of(&library_path.to_string_lossy());
            check_host(facts, &folder_of(library), &library_path).iter().map(ToString::to_string).collect()
        }
        Err(problem) => vec![problem.clone()],
    };
    let facts = facts.ok();
    if output.is_json() {
        let glibc_floor = facts.as_ref().and_then(|facts| facts.glibc).map(|glibc| glibc.to_string());
        let facts = facts.as_ref();
        let library = library.display().to_string();
        output.json(&Report {
            library,
            ok: problems.is_empty(),
            problems: problems.clone(),
            facts,
            glibc_floor,
        })?;
    } else if let Some(facts) = &facts {
        show(library, facts, output)?;
    }
    match problems.as_slice() {
        [] => Ok(Exit::Done),
        problems => {
            let failure = Failure::new(Exit::Failed, format!("{} can't be deployed here", library.display()));
            Err(failure.details(problems.iter().map(|problem| printable(problem))))
        }
    }
}

fn read(library: &Path) -> Result<LibraryFacts, String> {
    let unreadable = |error: std::io::Error| format!("the file can't be read: {error}");
    let metadata = fs::metadata(library).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    if metadata.len() > LIBRARY_MAX {
        return Err(format!("the file has {} bytes, and at most {LIBRARY_MAX} are taken", metadata.len()));
    }
    let bytes = fs::read(library).map_err(unreadable)?;
    inspect(&bytes).map_err(|error| chain(&error))
}

fn folder_of(library: &Path) -> std::path::PathBuf {
    let folder = library.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    folder.canonicalize().unwrap_or_else(|_| folder.to_owned())
}

fn show(library: &Path, facts: &LibraryFacts, output: &Output) -> Result<(), Failure> {
    output.line(&library.display().to_string())?;
    let glibc = facts.glibc.map_or("any glibc".to_owned(), |glibc| format!("glibc {glibc} or newer"));
    output.line(&format!("needs {glibc}; libraries: {}\n", list(&facts.needed)))?;
    let mut table = Table::new(&["CLASS", "ENTRY", "RUNS", "TAKES", "GIVES", "ABI", "SDK"]);
    for class in &facts.classes {
        for row in rows(class) {
            table.row(row);
        }
    }
    output.table(&table)
}

/// One row for each entry; what holds for the class stands in the first.
fn rows(class: &ClassFacts) -> Vec<Vec<TableCell>> {
    let runs = |concurrency: Concurrency| match concurrency {
        Concurrency::Shared => TableCell::toned("many at once", Tone::Good),
        Concurrency::Exclusive => TableCell::toned("one at a time", Tone::Moving),
    };
    let mut entries: Vec<[TableCell; 4]> = Vec::new();
    if let Some(concurrency) = class.call {
        let runs = class.call_batch.map_or_else(|| runs(concurrency), together);
        entries.push(["call".into(), runs, "HTTP".into(), "HTTP".into()]);
    }
    for method in &class.methods {
        let each = if method.stream { "stream of " } else { "" };
        let returns = format!("{each}{}", printable(&method.returns));
        entries.push([
            printable(&method.name).into(),
            method.batch.map_or_else(|| runs(method.concurrency), together),
            arguments(method).into(),
            returns.into(),
        ]);
    }
    for (name, entry) in [("reconfigure", class.reconfigure), ("check_health", class.check_health)] {
        if let Some(concurrency) = entry {
            entries.push([name.into(), runs(concurrency), "".into(), "".into()]);
        }
    }
    if entries.is_empty() {
        entries.push(["-".into(), "".into(), "".into(), "".into()]);
    }
    let mut about =
        [printable(&class.name), format!("{}.{}", class.abi.0, class.abi.1), printable(&class.sdk)];
    let mut rows = Vec::new();
    for [entry, runs, takes, gives] in entries {
        let [name, abi, sdk] = std::mem::take(&mut about);
        rows.push(vec![name.into(), entry, runs, takes, gives, abi.into(), sdk.into()]);
    }
    rows
}

/// Calls that run together, as many as come within a time.
fn together(batch: BatchFacts) -> TableCell {
    let wait = std::time::Duration::from_micros(batch.wait_us);
    TableCell::toned(format!("up to {} together, within {wait:?}", batch.max), Tone::Good)
}

fn arguments(method: &MethodFacts) -> String {
    let named = |(index, kind): (usize, &String)| match method.parameters.get(index) {
        Some(name) => format!("{name}: {kind}"),
        None => kind.clone(),
    };
    printable(&method.arguments.iter().enumerate().map(named).collect::<Vec<_>>().join(", "))
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { printable(&names.join(", ")) }
}
