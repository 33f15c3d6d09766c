//! What lints cannot see: which crate may import which, and where the machine may be touched.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Which of our crates each may depend on, beside itself. Tests and benches may use all.
fn arrows() -> BTreeMap<&'static str, &'static [&'static str]> {
    BTreeMap::from([
        ("api", &[][..]),
        ("ipc", &["decurion-api"]),
        ("library", &["decurion-abi"]),
        ("sdk/abi", &[]),
        ("sdk/macros", &["decurion-abi"]),
        ("sdk", &["decurion-abi", "decurion-macros"]),
        ("graph", &["decurion", "decurion-api"]),
        ("client", &["decurion-api", "decurion-ipc"]),
        ("proxy", &["decurion-api", "decurion-ipc"]),
        ("replica-runner", &["decurion-abi", "decurion-api", "decurion-ipc", "decurion-library"]),
        (
            "supervisor",
            &["decurion-abi", "decurion-api", "decurion-ipc", "decurion-library", "decurion-client"],
        ),
        ("cli", &["decurion-api", "decurion-client", "decurion-library", "decurion-supervisor"]),
    ])
}

#[test]
fn imports_point_down() {
    for (folder, allowed) in arrows() {
        for dependency in our_dependencies(&root().join(folder).join("Cargo.toml")) {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{folder} depends on {dependency}, and may depend on {allowed:?} only (ARCHITECTURE.md)"
            );
        }
    }
}

#[test]
fn the_machine_is_touched_under_sys_only() {
    let machine = ["nix::", "libc::", "mio::", "signal_hook::", "signal_hook_mio::"];
    let mut strays = Vec::new();
    for (name, text) in all_sources() {
        if Path::new(&name).iter().any(|part| part == "sys" || part == "sys.rs" || part == "tests.rs") {
            continue;
        }
        let code = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
        strays.extend(
            code.filter(|(_, line)| machine.iter().any(|path| names_path(line, path)))
                .map(|(number, line)| format!("{name}:{}: {}", number + 1, line.trim())),
        );
    }
    assert!(strays.is_empty(), "touch the machine under sys/:\n{}", strays.join("\n"));
}

#[test]
fn every_source_says_what_it_owns() {
    let silent: Vec<String> = all_sources()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//!"))
        .map(|(name, _)| name)
        .collect();
    assert!(silent.is_empty(), "open with `//!`: {silent:#?}");
}

#[test]
fn every_unsafe_block_has_its_reason() {
    let bare: Vec<String> = all_sources()
        .into_iter()
        // The macros write code for the author's crate; the reasons stand beside what they write.
        .filter(|(name, _)| !name.starts_with("sdk/macros"))
        .map(|(name, text)| (name, text.matches("unsafe {").count(), text.matches("SAFETY:").count()))
        .filter(|(_, blocks, reasons)| blocks > reasons)
        .map(|(name, blocks, reasons)| format!("{name}: {blocks} blocks, {reasons} reasons"))
        .collect();
    assert!(bare.is_empty(), "{bare:#?}");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_path_buf()
}

fn our_dependencies(manifest: &Path) -> Vec<String> {
    let text = fs::read_to_string(manifest).expect("a crate has a manifest");
    let manifest: toml::Table = text.parse().expect("a manifest is TOML");
    let dependencies = manifest.get("dependencies").and_then(|table| table.as_table());
    let names = dependencies.into_iter().flat_map(|table| table.keys());
    names.filter(|name| *name == "decurion" || name.starts_with("decurion-")).cloned().collect()
}

/// Path below the root, and text, of every source of the crates above.
fn all_sources() -> Vec<(String, String)> {
    let mut sources = Vec::new();
    for folder in arrows().keys() {
        let before = sources.len();
        read_sources(&root().join(folder).join("src"), &mut sources);
        assert!(sources.len() > before, "{folder} has no sources");
    }
    sources
}

fn read_sources(folder: &Path, sources: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            read_sources(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root()).expect("inside the workspace").display().to_string();
            sources.push((name, fs::read_to_string(&path).expect("a readable source")));
        }
    }
}

/// Whether a line names a path that begins with `crate_path`, and not with a longer name that ends in it.
fn names_path(line: &str, crate_path: &str) -> bool {
    line.match_indices(crate_path)
        .any(|(at, _)| !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_'))
}
