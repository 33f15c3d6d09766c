//! A class in C, loaded and driven through the ABI, and called from Rust.

#![expect(unsafe_code, reason = "loads a library and trusts its table")]

use std::path::Path;
use std::process::Command;

use decurion::__private::{ForeignClass, abi};
use decurion::prelude::*;
use decurion::test::{Local, LocalApp};

/// Compiles an example and deploys its class. The library stays loaded, as in a replica.
fn deploy(file: &str, class: &str, args: &Value) -> Result<Local<()>> {
    deploy_with("include/decurion.h", file, class, args)
}

/// The same, built against another header.
fn deploy_with(header: &str, file: &str, class: &str, args: &Value) -> Result<Local<()>> {
    let folder = tempfile::tempdir()?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::copy(root.join("sdk/abi").join(header), folder.path().join("decurion.h"))?;
    let path = folder.path().join("lib.so");
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-I"])
        .arg(folder.path())
        .arg("-o")
        .arg(&path)
        .arg(root.join("examples/c").join(file))
        .status()?;
    assert!(status.success());
    // SAFETY: the example has no constructors of its own.
    let library = Box::leak(Box::new(unsafe { libloading::Library::new(&path) }?));
    // SAFETY: the symbol is a table of this type, as the header makes it.
    let table = unsafe { library.get::<*const abi::Class>(format!("decurion_class_v1_{class}").as_bytes()) }?;
    // SAFETY: static data of a library that stays loaded.
    let table = unsafe { **table };
    // SAFETY: made by the header's macros from functions that keep the ABI's word.
    let class_of_c = unsafe { ForeignClass::new(table) };
    LocalApp::new().deploy_foreign(class, class_of_c, args)
}

#[test]
fn hello_from_c() {
    let hello = deploy("hello.c", "hello_c", &Value::Null).unwrap();
    let response = hello.get("/").unwrap();
    assert_eq!(response.text().unwrap(), "Hello world from C!");
    assert_eq!(response.header("content-type"), Some("text/plain; charset=utf-8"));
    let error = deploy("hello.c", "hello_c", &json!({ "a": 1 })).unwrap_err();
    assert_eq!(error.message(), "hello_c takes no arguments");
}

#[test]
fn a_class_in_c_has_everything() {
    let model = deploy("model.c", "Model", &json!({ "threshold": 0.5 })).unwrap();
    assert_eq!(model.request(Request::post("/", "0.7")).unwrap().text().unwrap(), "above");
    let response = model.request(Request::post("/", "x")).unwrap();
    assert_eq!((response.status().as_u16(), response.text().unwrap()), (400, "a number is expected here"));

    // The handle finds out that C takes JSON only.
    let json = model.handle();
    assert!(json.call::<bool>("predict", (0.7,)).unwrap());
    model.reconfigure(json!({ "threshold": 0.9 })).unwrap();
    assert!(!json.call::<bool>("predict", (0.7,)).unwrap());
    assert_eq!(model.reconfigure(json!({})).unwrap_err().message(), "user_config lacks a threshold");

    model.check_health().unwrap();
    for count in 1..=3u64 {
        assert_eq!(json.call::<u64>("learn", ()).unwrap(), count);
    }
    assert_eq!(model.check_health().unwrap_err().message(), "learned too much");
    assert!(json.call::<u64>("unlearn", ()).is_err());
    assert!(deploy("model.c", "Model", &Value::Null).unwrap_err().message().contains("'threshold'"));
}

#[test]
fn a_library_of_an_older_minor_version_runs_as_before() {
    let model =
        deploy_with("released/decurion-1.0.h", "model.c", "Model", &json!({ "threshold": 0.5 })).unwrap();
    assert_eq!(model.request(Request::post("/", "0.7")).unwrap().text().unwrap(), "above");
}
