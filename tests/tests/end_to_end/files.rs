//! Files that are not what they should be: each is refused with its reason, and nothing changes.

use std::fs;

use decurion_tests::{World, library};

#[test]
fn bad_libraries_are_refused_and_the_live_version_serves_on() {
    let world = World::start();
    let config = |library: &str| {
        format!(
            "application = \"demo\"\n[[deployment]]\nname = \"who\"\nlibrary = \"{library}\"\nclass = \"Who\"\nargs = [\"live\"]\n"
        )
    };
    let _ = world.deploy(&config(&library("fixtures").display().to_string())).ok();
    let (pids, revision) = (world.pids("who"), world.status().revision);

    let good = fs::read(library("fixtures")).expect("a library");
    let mut other_machine = good.clone();
    other_machine[18] = 0xb7; // e_machine: AArch64
    let cases: [(&str, Vec<u8>, &str); 6] = [
        ("empty.so", Vec::new(), "empty"),
        ("text.so", b"#!/bin/sh\necho no\n".to_vec(), "text"),
        ("cut.so", good[..good.len() / 2].to_vec(), "cut"),
        ("other.so", other_machine, "aarch64"),
        ("random.so", vec![0x5a; 4096], "not"),
        ("executable.so", fs::read("/proc/self/exe").expect("this test"), "executable"),
    ];
    for (name, bytes, word) in cases {
        fs::write(world.path().join(name), bytes).expect("write");
        let checked = world.run(&["check", name]).code(1);
        let refused = world.deploy(&config(name)).code(1);
        let checked = format!("{}{}", checked.stdout, checked.stderr).to_lowercase();
        assert!(checked.contains(word), "{name}: {checked}");
        assert!(refused.stderr.to_lowercase().contains(word), "{name}: {}", refused.stderr);
        assert!(refused.stderr.contains(name), "{}", refused.stderr);
        assert_eq!(world.pids("who"), pids, "{name}");
        assert_eq!(world.status().revision, revision, "{name}");
    }
    assert!(world.get("/who").text().ends_with(" live"));
}

#[test]
fn mistakes_in_the_file_are_shown_where_they_are() {
    let world = World::start();
    let library = library("fixtures").display().to_string();
    let cases = [
        (
            format!("[[deployment]]\nlibrary = \"{library}\"\nclass = \"Who\"\nnum_replica = 2\n"),
            &["num_replicas", ":5"][..],
        ),
        (
            format!("[[deployment]]\nlibrary = \"{library}\"\nclass = \"Who\"\nroute_prefix = \"api\"\n"),
            &["route_prefix", ":5"][..],
        ),
        (format!("[[deployment]]\nlibrary = \"{library}\"\nclass = \"Whom\"\n"), &["Whom", "Who"][..]),
        (
            format!(
                "[http]\ntls = {{ cert = \"c\" }}\n[[deployment]]\nlibrary = \"{library}\"\nclass = \"Who\"\n"
            ),
            &["http.tls.key", ":3"][..],
        ),
        ("[[deployment]]\nlibrary = \"missing.so\"\n".to_owned(), &["missing.so"][..]),
        ("[[deployment]\n".to_owned(), &["decurion.toml:2"][..]),
    ];
    for (config, words) in cases {
        let refused = world.deploy(&format!("application = \"demo\"\n{config}")).code(1);
        for word in words {
            assert!(refused.stderr.contains(word), "{word} in: {}", refused.stderr);
        }
        assert!(world.status().deployments.is_empty());
    }
}

#[test]
fn arguments_that_do_not_fit_name_the_field() {
    let world = World::start();
    let library = library("fixtures").display().to_string();
    let refused = world.deploy(&format!(
        "application = \"demo\"\n[[deployment]]\nname = \"who\"\nlibrary = \"{library}\"\nclass = \"Who\"\nargs = {{ wrod = \"x\" }}\n"
    ));
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("wrod"), "{}", refused.stderr);
}
