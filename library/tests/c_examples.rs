//! The examples in C are libraries that can be read without running them.

use std::path::Path;
use std::process::Command;

use decurion_library::{Concurrency, LibraryFacts};

fn facts(name: &str) -> LibraryFacts {
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let library = folder.path().join("lib.so");
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-I"])
        .arg(root.join("sdk/abi/include"))
        .arg("-o")
        .arg(&library)
        .arg(root.join("examples/c").join(name))
        .status();
    assert!(status.unwrap().success());
    decurion_library::inspect(&std::fs::read(library).unwrap()).unwrap()
}

#[test]
fn a_function_in_c_is_a_class() {
    let facts = facts("hello.c");
    let class = facts.class("hello_c").unwrap();
    assert_eq!((class.abi, class.sdk.as_str(), class.encoding_bits()), ((1, 1), "c", 0b10));
    assert_eq!((class.call, class.reconfigure), (Some(Concurrency::Shared), None));
    assert!(class.methods.is_empty());
}

#[test]
fn a_class_in_c_lists_its_methods() {
    let facts = facts("model.c");
    let class = facts.class("Model").unwrap();
    assert_eq!(class.reconfigure, Some(Concurrency::Exclusive));
    assert_eq!(class.check_health, Some(Concurrency::Shared));
    let methods: Vec<_> =
        class.methods.iter().map(|method| (method.name.as_str(), method.concurrency)).collect();
    assert_eq!(methods, [("predict", Concurrency::Shared), ("learn", Concurrency::Exclusive)]);
    assert_eq!(class.methods[0].arguments, ["number"]);
    assert!(class.methods[1].arguments.is_empty());
}
