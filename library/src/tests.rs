//! Real libraries, built here with `cc`, and what becomes of them when they are cut or changed.

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use crate::{Concurrency, LibraryError, LibraryFacts, inspect};

/// A class table as C would write it: 12 words, of which only the first two matter here.
fn source(class: &str, major: u16, minor: u16, metadata: &str) -> String {
    let metadata = metadata.replace('\\', "\\\\").replace('"', "\\\"");
    format!(
        "#include <stdint.h>
         struct table {{ uint64_t magic; uint16_t major, minor; uint32_t size; void *rest[20]; }};
         extern const struct table decurion_class_v1_{class};
         const struct table decurion_class_v1_{class} =
             {{ 0x4e4f495255434544ull, {major}, {minor}, sizeof(struct table), {{ (void *)&decurion_class_v1_{class} }} }};
         const char decurion_meta_v1_{class}[] = \"{metadata}\";
         extern double floor(double);
         double floored(double x) {{ return floor(x); }}\n"
    )
}

fn compile(source: &str, flags: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.c"), folder.path().join("out.so"));
    std::fs::write(&input, source).unwrap();
    let status = Command::new("cc").args(["-O1", "-o"]).arg(&output).arg(&input).args(flags).status();
    assert!(status.unwrap().success());
    std::fs::read(output).unwrap()
}

const METADATA: &str = r#"{"abi":[1,0],"sdk":"rust 0.1.0","class":"Model","call":"shared","reconfigure":"exclusive","encodings":["bincode","json"],"methods":[{"name":"predict","concurrency":"shared","arguments":["f64"],"returns":"String"}],"of_later":1}"#;

static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    compile(
        &source("Model", 1, 0, METADATA),
        &[
            "-shared",
            "-fPIC",
            "-Wl,--no-as-needed",
            "-lm",
            "-Wl,-rpath,$ORIGIN/lib:/opt/x",
            "-Wl,--enable-new-dtags",
        ],
    )
});

fn refused(bytes: &[u8]) -> LibraryError {
    inspect(bytes).unwrap_err()
}

fn refused_as_compiled(major: u16, minor: u16, metadata: &str) -> LibraryError {
    refused(&compile(&source("Model", major, minor, metadata), &["-shared", "-fPIC"]))
}

#[test]
fn a_good_library_is_read() {
    let facts: LibraryFacts = inspect(&GOOD).unwrap();
    let class = facts.class("Model").unwrap();
    assert_eq!(class.abi, (1, 0));
    assert_eq!(class.sdk, "rust 0.1.0");
    assert_eq!(class.call, Some(Concurrency::Shared));
    assert_eq!(class.reconfigure, Some(Concurrency::Exclusive));
    assert_eq!(class.check_health, None);
    assert_eq!(class.encoding_bits(), 0b110);
    assert_eq!(class.methods[0].name, "predict");
    assert_eq!(class.methods[0].arguments, ["f64"]);
    assert!(facts.needed.iter().any(|name| name.starts_with("libm.so")), "{:?}", facts.needed);
    assert_eq!(facts.run_path, ["$ORIGIN/lib", "/opt/x"]);
    assert_eq!(facts.glibc.map(|version| version.major), Some(2));
}

#[test]
fn a_library_with_only_the_old_hash_table_is_read() {
    let bytes = compile(&source("Model", 1, 0, METADATA), &["-shared", "-fPIC", "-Wl,--hash-style=sysv"]);
    assert!(inspect(&bytes).unwrap().class("Model").is_some());
}

#[test]
fn a_stripped_library_is_read() {
    let bytes = compile(&source("Model", 1, 0, METADATA), &["-shared", "-fPIC", "-s"]);
    assert!(inspect(&bytes).unwrap().class("Model").is_some());
}

#[test]
fn what_is_not_elf_is_named() {
    assert_eq!(refused(b""), LibraryError::Empty);
    assert_eq!(
        refused("#!/bin/sh\necho grüß\n".as_bytes()),
        LibraryError::Text { beginning: "#!/bin/sh".to_owned() }
    );
    assert_eq!(refused(b"!<arch>\n..."), LibraryError::Archive);
    assert!(matches!(refused(&[0xff, 0xd8, 0xff, 0]), LibraryError::NotElf { .. }));
    assert!(matches!(refused(b"\x7fELF\x02\x01"), LibraryError::TooShort { len: 6, least: 64 }));
}

#[test]
fn another_kind_of_elf_is_named() {
    let with = |at: usize, value: u8| {
        let mut bytes = GOOD.clone();
        bytes[at] = value;
        refused(&bytes)
    };
    assert!(matches!(with(4, 1), LibraryError::NotSixtyFour { found } if found == "32-bit"));
    assert_eq!(with(5, 2), LibraryError::NotLittleEndian);
    assert!(matches!(with(18, 40), LibraryError::OtherArchitecture { found, .. } if found == "arm"));
    assert!(matches!(with(16, 1), LibraryError::NotShared { .. }));
    let program = compile("int main(void) { return 0; }", &["-pie", "-fPIE"]);
    assert_eq!(refused(&program), LibraryError::NotShared { found: "an executable".to_owned() });
    let object = compile("int x;", &["-c"]);
    assert_eq!(refused(&object), LibraryError::NotShared { found: "an object file (.o)".to_owned() });
}

#[test]
fn a_library_without_a_class_is_refused() {
    assert_eq!(refused(&compile("int x = 1;", &["-shared", "-fPIC"])), LibraryError::NoClass);
}

#[test]
fn other_versions_of_the_abi_are_refused_with_what_to_do() {
    let other = refused_as_compiled(2, 0, METADATA);
    assert!(matches!(other, LibraryError::OtherMajor { major: 2, minor: 0, .. }), "{other}");
    let newer = refused_as_compiled(1, 9, METADATA);
    assert!(matches!(newer, LibraryError::NewerMinor { major: 1, minor: 9, .. }), "{newer}");
    assert!(newer.to_string().contains("upgrade decurion"));
}

#[test]
fn malformed_metadata_is_refused() {
    for (metadata, part) in [
        ("{", "EOF"),
        (r#"{"abi":[1,0],"sdk":"c","class":"Other"}"#, "'Other'"),
        (r#"{"abi":[1,1],"sdk":"c","class":"Model"}"#, "ABI 1.1"),
        (r#"{"abi":[1,0],"class":"Model"}"#, "sdk"),
        (r#"{"abi":[1,0],"sdk":"c","class":"Model","call":"sometimes"}"#, "sometimes"),
    ] {
        let error = refused_as_compiled(1, 0, metadata);
        assert!(matches!(error, LibraryError::BadMetadata { .. }), "{error:?}");
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn every_truncation_is_refused() {
    let good = &*GOOD;
    let step = (good.len() / 500).max(1);
    for len in (0..good.len()).step_by(step) {
        assert!(inspect(&good[..len]).is_err(), "cut to {len} of {} bytes", good.len());
    }
    let error = refused(&good[..good.len() - 1]);
    assert!(matches!(error, LibraryError::Truncated { .. }), "{error:?}");
}

#[test]
fn a_mutated_library_is_read_or_refused_but_never_harms() {
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % below as u64).unwrap()
    };
    for round in 0..20_000 {
        let mut bytes = GOOD.clone();
        // Headers and tables lie in front and decide; so half of the blows fall there.
        let reach = if round % 2 == 0 { 0x1000.min(bytes.len()) } else { bytes.len() };
        for _ in 0..=next(8) {
            let at = next(reach);
            bytes[at] = [0, 0xff, 0x7f, 0x80, u8::try_from(next(256)).unwrap()][next(5)];
        }
        let _ = inspect(&bytes);
    }
}

#[test]
fn bytes_that_are_not_aligned_are_read_too() {
    let mut shifted = vec![0u8];
    shifted.extend_from_slice(&GOOD);
    assert!(inspect(&shifted[1..]).is_ok());
}

#[test]
fn other_libraries_of_this_machine_hold_no_class() {
    let libc = Path::new("/lib/x86_64-linux-gnu/libc.so.6");
    if let Ok(bytes) = std::fs::read(libc) {
        assert_eq!(refused(&bytes), LibraryError::NoClass);
    }
}
