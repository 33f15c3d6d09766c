//! What the macro says of items that are no deployments, and what it makes of those that are.

use quote::quote;

use crate::{expand, metadata, read};

fn refused(item: &str) -> String {
    match read::class(quote!(), item.parse().unwrap()) {
        Ok(_) => panic!("not refused: {item}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_is_no_deployment_is_refused_with_what_to_do() {
    for (item, part) in [
        ("struct Model;", "on a function or on the impl block"),
        ("impl Clone for Model { fn clone(&self) -> Self { todo!() } }", "not on that of a trait"),
        ("impl<T> Model<T> { fn call(&self) {} }", "can't be generic"),
        ("impl Model<u8> { fn call(&self) {} }", "can't be generic"),
        ("impl [u8] { fn call(&self) {} }", "of a struct or an enum"),
        ("impl Model { fn new() -> Self { Model } }", "can't be reached"),
        ("fn hello(a: Request, b: u8) -> u8 { b }", "takes the request and nothing else"),
        ("unsafe fn hello(req: Request) {}", "can't be unsafe"),
        ("fn hello<T>(req: T) {}", "can't be generic"),
        ("fn hello(req: impl Sized) {}", "name the type"),
        ("impl Model { fn call(req: Request) {} }", "takes &self or &mut self"),
        ("impl Model { fn call(self, req: Request) {} }", "the replica keeps it"),
        ("impl Model { pub fn get(self: Arc<Self>) {} }", "the replica keeps it"),
        ("impl Model { fn call(&self, a: Request, b: u8) {} }", "`call` takes the request and nothing else"),
        (
            "impl Model { fn call(&self) {} fn reconfigure(&self) {} }",
            "`reconfigure` takes the configuration",
        ),
        ("impl Model { fn call(&self) {} fn check_health(&self, x: u8) {} }", "`check_health` takes only"),
        ("impl Model { fn call(&self) {} fn check_health(&mut self) {} }", "beside running requests"),
        ("impl Model { fn new(&self) -> Self {} fn call(&self) {} }", "has no self yet"),
        ("impl Model { fn new() {} fn call(&self) {} }", "returns Self or Result<Self>"),
        ("impl Model { pub fn score(&self, text: &str) {} }", "write `String` instead"),
        ("impl Model { pub fn score(&self, rows: &[f64]) {} }", "write `Vec<f64>` instead"),
        ("impl Model { #[cfg(test)] pub fn score(&self) {} }", "can't depend on a cfg"),
        ("impl Model { #[batch(max = 3)] pub fn score(&self) {} }", "takes one `Vec`"),
        ("impl Model { #[batch(max = 3)] pub fn score(&self, rows: Vec<u8>) {} }", "takes one `Vec`"),
        ("impl Model { #[batch(max = 3)] pub fn score(&self, rows: Vec<u8>) -> u8 {} }", "takes one `Vec`"),
        ("impl Model { #[batch(max = 3)] pub fn score(&self, row: u8) -> Vec<u8> {} }", "takes one `Vec`"),
        (
            "impl Model { #[batch(max = 3)] pub fn score(&mut self, rows: Vec<u8>) -> Vec<u8> {} }",
            "takes &self",
        ),
        (
            "impl Model { #[batch] pub fn score(&self, rows: Vec<u8>) -> Vec<u8> {} }",
            "expected attribute arguments",
        ),
        (
            "impl Model { #[batch(wait = \"1s\")] pub fn score(&self, rows: Vec<u8>) -> Vec<u8> {} }",
            "how many run together",
        ),
        ("impl Model { #[batch(max = 0)] pub fn score(&self, rows: Vec<u8>) -> Vec<u8> {} }", "from 1 to"),
        (
            "impl Model { #[batch(max = 2, wait = 5)] pub fn score(&self, rows: Vec<u8>) -> Vec<u8> {} }",
            "a duration",
        ),
        (
            "impl Model { #[batch(max = 2, wait = \"5\")] pub fn score(&self, rows: Vec<u8>) -> Vec<u8> {} }",
            "a duration",
        ),
        (
            "impl Model { #[batch(size = 2)] pub fn score(&self, rows: Vec<u8>) -> Vec<u8> {} }",
            "#[batch] takes `max = 32`",
        ),
        (
            "impl Model { fn call(&self) {} #[batch(max = 3)] fn reconfigure(&self, c: Vec<u8>) {} }",
            "stands on `call` or",
        ),
        (
            "impl Model { fn call(&self) {} #[batch(max = 3)] fn helper(&self, c: Vec<u8>) {} }",
            "stands on `call` or",
        ),
    ] {
        let error = refused(item);
        assert!(error.contains(part), "{item}: {error}");
    }
}

#[test]
fn async_needs_its_feature() {
    let read = read::class(
        quote!(),
        quote!(
            async fn hello(req: Request) {}
        ),
    );
    assert_eq!(read.is_ok(), cfg!(feature = "tokio"));
    if let Err(error) = read {
        assert!(error.to_string().contains("feature `tokio`"), "{error}");
    }
}

#[test]
fn ingress_needs_its_feature_and_no_call_beside_it() {
    let read = |item: &str| read::class(quote!(), item.parse().unwrap());
    let why = |item: &str| read(item).err().map(|error| error.to_string()).unwrap_or_default();
    let router = "impl Model { fn ingress(&self) -> Router {} }";
    if cfg!(feature = "axum") {
        let class = read(router).ok().unwrap();
        assert!(metadata::of(&class).contains(r#""call":"shared""#), "{}", metadata::of(&class));
        let both = "impl Model { fn call(&self) {} fn ingress(&self) -> Router {} }";
        assert!(why(both).contains("one of them"), "{}", why(both));
        assert!(
            why("impl Model { fn ingress(&mut self) -> Router {} }").contains("fn ingress(&self) -> Router")
        );
        assert!(
            why("impl Model { async fn ingress(&self) -> Router {} }")
                .contains("fn ingress(&self) -> Router")
        );
    } else {
        assert!(why(router).contains("feature `axum`"), "{}", why(router));
    }
}

#[test]
fn names_that_no_symbol_can_have_are_refused() {
    assert!(refused("impl Größe { fn call(&self) {} }").contains("ASCII letters"));
    assert!(refused(&format!("impl {} {{ fn call(&self) {{}} }}", "M".repeat(64))).contains("at most 63"));
    let option = |attribute| read::class(attribute, quote!(impl Model { fn call(&self) {} }));
    assert_eq!(option(quote!(name = "Other")).ok().unwrap().name, "Other");
    assert!(option(quote!(name = "a b")).is_err());
    assert!(option(quote!(replicas = 3)).err().unwrap().to_string().contains("where it is deployed"));
}

#[test]
fn a_refused_item_stays_beside_its_error() {
    let expanded = expand(quote!(), quote!(impl Model { fn helper(&self) {} })).to_string();
    assert!(expanded.contains("fn helper") && expanded.contains("compile_error"), "{expanded}");
}

#[test]
fn metadata_is_as_the_abi_has_it() {
    let class = read::class(
        quote!(),
        quote!(
            impl Model {
                fn new(msg: String) -> Result<Self> {}
                fn call(&self, req: Request) -> String {}
                pub fn predict(&self, data: f64) -> String {}
                pub fn learn(&mut self, rows: Vec<(String, [f64; 3])>, _how: Option<&'static str>) {}
                pub fn helper(x: u8) {}
                pub(crate) fn other(&self) {}
                fn reconfigure(&mut self, config: Config) {}
            }
        ),
    );
    let json = metadata::of(&class.ok().unwrap());
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        json,
        format!(
            r#"{{"abi":[1,1],"sdk":"rust {version}","class":"Model","call":"shared","reconfigure":"exclusive","encodings":["bincode","json"],"methods":[{{"name":"predict","concurrency":"shared","arguments":["f64"],"parameters":["data"],"returns":"String"}},{{"name":"learn","concurrency":"exclusive","arguments":["Vec<(String, [f64; 3])>","Option<&'static str>"],"parameters":["rows","how"],"returns":"()"}}]}}"#
        )
    );
}

#[test]
fn a_batch_shows_as_what_one_caller_sees() {
    let class = read::class(
        quote!(),
        quote!(
            impl Model {
                #[batch(max = 32, wait = "1.5ms")]
                pub fn score(&self, rows: Vec<Row>) -> Result<Vec<f32>> {}
                #[batch(max = 4)]
                fn call(&self, requests: Vec<Request>) -> Vec<String> {}
            }
        ),
    );
    let class = class.ok().unwrap();
    let json = metadata::of(&class);
    for part in [
        r#""name":"score","concurrency":"shared","arguments":["Row"],"parameters":["rows"],"returns":"f32","batch":{"max":32,"wait_us":1500}"#,
        r#""call":"shared","call_batch":{"max":4,"wait_us":10000},"reconfigure":"shared""#,
    ] {
        assert!(json.contains(part), "{json}");
    }
    let written = crate::write::class(&class).to_string();
    assert!(!written.contains("# [batch"), "the compiler knows no such attribute");
}
