//! Classes in C and C++, loaded and driven through the ABI, and called from Rust.

#![expect(unsafe_code, reason = "loads a library and trusts its table")]
#![allow(unreachable_pub, reason = "`pub` is what makes a method callable")]

use std::path::Path;
use std::process::Command;

use decurion::__private::{ForeignClass, abi};
use decurion::Streamed;
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
    let mut compiler = Command::new("cc");
    compiler.arg("-I").arg(folder.path());
    LocalApp::new().deploy_foreign(class, build(compiler, &root.join("examples/c").join(file), class)?, args)
}

/// Compiles and loads a class. The library stays loaded, as in a replica.
fn build(mut compiler: Command, source: &Path, class: &str) -> Result<ForeignClass> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("lib.so");
    assert!(compiler.args(["-shared", "-fPIC", "-o"]).args([&path, source]).status()?.success());
    // SAFETY: the example has no constructors of its own.
    let library = Box::leak(Box::new(unsafe { libloading::Library::new(&path) }?));
    // SAFETY: the symbol is a table of this type, as the header makes it.
    let table = unsafe { library.get::<*const abi::Class>(format!("decurion_class_v1_{class}").as_bytes()) }?;
    // SAFETY: static data of a library that stays loaded.
    let table = unsafe { **table };
    // SAFETY: made by the header's macros from functions that keep the ABI's word.
    Ok(unsafe { ForeignClass::new(table) })
}

/// Whom `caller.cpp` calls.
#[derive(Debug, Default)]
struct Partner;

#[deployment]
impl Partner {
    fn call(&self, _req: Request) -> &'static str {
        "hello"
    }

    pub fn double(&self, number: i64) -> i64 {
        number * 2
    }

    pub fn count(&self, to: u32, fail: bool) -> Streamed<u32> {
        Streamed::new(move |out| {
            for number in 0..to {
                out.send(number)?;
            }
            if fail { Err(Error::status(418, "no more")) } else { Ok(()) }
        })
    }

    pub fn model(&self) -> Option<String> {
        decurion::model_id()
    }

    pub fn wait(&self) -> Result<()> {
        let running = Request::running().ok_or_else(|| Error::msg("nothing runs"))?;
        while !running.is_cancelled() {
            std::thread::yield_now();
        }
        Err(Error::status(499, "cancelled"))
    }
}

#[test]
fn cpp_calls_others_and_measures() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut compiler = Command::new("c++");
    compiler.args(["-std=c++17", "-Wall", "-Wextra", "-Werror", "-I"]).arg(root.join("abi/include"));
    let class = build(compiler, &root.join("tests/caller.cpp"), "Caller").unwrap();
    let app = LocalApp::new();
    app.deploy::<Partner>("partner", ()).unwrap();
    let caller = app.deploy_foreign("caller", class, Value::Null).unwrap();
    let call = |method: &str, args: Value| caller.handle().json().call::<Value>(method, args).unwrap();
    assert_eq!(call("items", json!([3, false])), json!("0;1;2;"));
    assert_eq!(call("items", json!([2, true])), json!("0;1;418 no more"));
    assert_eq!(call("no_items", json!([])), json!(400));
    assert_eq!(call("head", json!([])), json!("200 he"));
    assert_eq!(call("everywhere", json!([])), json!("local-0=8;"));
    assert_eq!(call("model", json!([])), json!("m-1"));
    assert_eq!(call("late", json!([])), json!(504));
    assert_eq!(
        call("nobody", json!([])),
        json!("there is no deployment 'nobody'; there are: caller, partner")
    );
    assert_eq!(call("measure", json!([])), json!(true));
    let measured = app.metrics();
    assert_eq!((measured["rows_total"], measured["rows_total{kind=\"good\"}"]), (2.0, 3.0));
    assert_eq!((measured["level"], measured["size_sum"]), (-1.5, 4.0));
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
fn what_fails_never_looks_like_success() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("fails.c");
    let text = "#include \"decurion.h\"\n\
                static int32_t answer(void *unused, decurion_exchange *exchange) {\n\
                    (void)unused;\n\
                    return decurion_fail(exchange, (uint32_t)decurion_request_of(exchange)->query.len * 100, \"why\");\n\
                }\n\
                DECURION_FUNCTION(fails, answer)\n";
    std::fs::write(&source, text).unwrap();
    let mut compiler = Command::new("cc");
    compiler.arg("-I").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("abi/include"));
    let class = build(compiler, &source, "fails").unwrap();
    let fails = LocalApp::new().deploy_foreign("fails", class, Value::Null).unwrap();
    let status_of = |hundreds: usize| {
        let answer = fails.get(&format!("/?{}", "x".repeat(hundreds))).unwrap();
        (answer.status().as_u16(), answer.text().unwrap().to_owned())
    };
    for (hundreds, status) in [(0, 500), (2, 500), (3, 500), (4, 400), (5, 500), (6, 500), (9, 500)] {
        let text = if [4, 5].contains(&hundreds) { "why" } else { "Internal Server Error" };
        assert_eq!(status_of(hundreds), (status, text.to_owned()), "{hundreds}00");
    }
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
