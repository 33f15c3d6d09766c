//! `decurion.h` says the same as the Rust tables, and is clean C and C++.

use std::mem::offset_of;
use std::path::Path;
use std::process::Command;

use decurion_abi as abi;

/// Lines `structure size` and `structure.field offset` for Rust, and the C that prints the same.
struct Layouts {
    rust: String,
    c: String,
}

macro_rules! layouts {
    ($($rust:ident = $c:literal { $($field:ident),* $(,)? })*) => {{
        let mut layouts = Layouts { rust: String::new(), c: String::new() };
        $(
            layouts.rust += &format!("{} {}\n", $c, size_of::<abi::$rust>());
            layouts.c += &format!("printf(\"{0} %zu\\n\", sizeof({0}));\n", $c);
            $(
                layouts.rust += &format!("{}.{} {}\n", $c, stringify!($field), offset_of!(abi::$rust, $field));
                layouts.c += &format!("printf(\"{0}.{1} %zu\\n\", offsetof({0}, {1}));\n", $c, stringify!($field));
            )*
        )*
        layouts
    }};
}

fn layouts() -> Layouts {
    layouts! {
        Bytes = "decurion_bytes" { ptr, len }
        Header = "decurion_header" { name, value }
        Waker = "decurion_waker" { wake, data }
        Context = "decurion_context" {
            size, rank, world_size, threads, deployment, replica, version, application,
        }
        Request = "decurion_request" {
            size, kind, id, method, path, query, route_prefix, traceparent, model_id, headers, header_count,
            deadline_ns, content_length, encoding, method_index,
        }
        CallSpec = "decurion_call_spec" {
            size, kind, deployment, method, target, headers, header_count, encoding, flags, body, parent,
            deadline_ns, model_id, replica,
        }
        CallReply = "decurion_call_reply" { size, status, encoding, flags, headers, header_count, body }
        Method = "decurion_method" { name, flags, reserved }
        Host = "decurion_host" {
            magic, abi_major, abi_minor, size, context, set_error, log, request, is_cancelled, on_cancel, body_read,
            respond, respond_start, respond_write, respond_flush, finish, respond_call, fail, call_start, call_wait,
            call_read, call_cancel, call_free, deployment_find, call_head, deployment_replicas, models_hold,
            metric, refusal_words, run_next,
        }
        Class = "decurion_class" {
            magic, abi_major, abi_minor, size, name, metadata, methods, method_count, call_flags, reconfigure_flags,
            create, destroy, call, invoke, reconfigure, check_health,
        }
    }
}

/// Constants of both sides, in the same order.
fn constants() -> Vec<(&'static str, i128)> {
    use abi::{encoding, flags, kind, level, metric, status};
    vec![
        ("DECURION_MAGIC", i128::from(abi::MAGIC)),
        ("DECURION_ABI_MAJOR", i128::from(abi::ABI_MAJOR)),
        ("DECURION_ABI_MINOR", i128::from(abi::ABI_MINOR)),
        ("DECURION_OK", i128::from(status::OK)),
        ("DECURION_ERROR", i128::from(status::ERROR)),
        ("DECURION_PENDING", i128::from(status::PENDING)),
        ("DECURION_CANCELLED", i128::from(status::CANCELLED)),
        ("DECURION_INVALID", i128::from(status::INVALID)),
        ("DECURION_NOT_FOUND", i128::from(status::NOT_FOUND)),
        ("DECURION_BUSY", i128::from(status::BUSY)),
        ("DECURION_BROKEN", i128::from(status::BROKEN)),
        ("DECURION_DEADLINE", i128::from(status::DEADLINE)),
        ("DECURION_FLAG_EXCLUSIVE", i128::from(flags::EXCLUSIVE)),
        ("DECURION_FLAG_ASYNC", i128::from(flags::ASYNC)),
        ("DECURION_FLAG_STREAM", i128::from(flags::STREAM)),
        ("DECURION_ENCODING_RAW", i128::from(encoding::RAW)),
        ("DECURION_ENCODING_JSON", i128::from(encoding::JSON)),
        ("DECURION_ENCODING_BINCODE", i128::from(encoding::BINCODE)),
        ("DECURION_KIND_HTTP", i128::from(kind::HTTP)),
        ("DECURION_KIND_CALL", i128::from(kind::CALL)),
        ("DECURION_METRIC_COUNTER", i128::from(metric::COUNTER)),
        ("DECURION_METRIC_GAUGE", i128::from(metric::GAUGE)),
        ("DECURION_METRIC_HISTOGRAM", i128::from(metric::HISTOGRAM)),
        ("DECURION_LEVEL_ERROR", i128::from(level::ERROR)),
        ("DECURION_LEVEL_WARN", i128::from(level::WARN)),
        ("DECURION_LEVEL_INFO", i128::from(level::INFO)),
        ("DECURION_LEVEL_DEBUG", i128::from(level::DEBUG)),
        ("DECURION_LEVEL_TRACE", i128::from(level::TRACE)),
    ]
}

/// Compiles C with every warning an error.
fn compile(source: &Path, output: &Path, flags: &[&str]) {
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("include");
    let status = Command::new("cc")
        .args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion"])
        .args(flags)
        .arg("-I")
        .arg(include)
        .arg("-o")
        .args([output, source])
        .status();
    assert!(status.unwrap().success(), "{} with {flags:?}", source.display());
}

#[test]
fn the_header_has_the_layout_of_the_tables() {
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("layout.c"), folder.path().join("layout"));
    let Layouts { mut rust, c } = layouts();
    let mut prints = c;
    for (name, value) in constants() {
        rust += &format!("{name} {value}\n");
        prints += &format!("printf(\"{name} %lld\\n\", (long long){name});\n");
    }
    let main =
        format!("#include <stdio.h>\n#include \"decurion.h\"\nint main(void) {{\n{prints}return 0;\n}}\n");
    std::fs::write(&source, main).unwrap();
    compile(&source, &program, &["-std=c99"]);
    let printed = Command::new(program).output().unwrap();
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), rust);
}

#[test]
fn the_examples_are_clean() {
    let folder = tempfile::tempdir().unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/c");
    for name in ["hello.c", "model.c"] {
        for standard in ["-std=c99", "-std=c11", "-std=c17"] {
            compile(&examples.join(name), &folder.path().join("out.so"), &[standard, "-shared", "-fPIC"]);
        }
    }
}

#[test]
fn a_hello_world_has_at_most_twenty_lines() {
    let hello = include_str!("../../../examples/c/hello.c");
    assert!(hello.lines().count() <= 20);
}

#[test]
#[expect(clippy::print_stdout, reason = "says why it is skipped")]
fn the_header_is_clean_for_cpp() {
    // The C compiler's own front end for C++ is there only where a C++ compiler is installed.
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("empty.cpp");
    std::fs::write(&source, "int nothing;\n").unwrap();
    let probe =
        Command::new("cc").args(["-x", "c++", "-c", "-o"]).arg(folder.path().join("o")).arg(&source).output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        println!("skipped: cc can't compile C++ here");
        return;
    }
    let hello = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/c/hello.c");
    for standard in ["-std=c++11", "-std=c++17", "-std=c++20"] {
        compile(&hello, &folder.path().join("out.so"), &["-x", "c++", standard, "-shared", "-fPIC"]);
    }
}
