//! What was built, and running the `decurion` command.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Folder of the binaries and libraries under test: the one this test was built into.
#[must_use]
pub fn target_dir() -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let mut folder = test.parent().expect("a file lies in a folder");
    if folder.ends_with("deps") {
        folder = folder.parent().expect("deps lies in the profile's folder");
    }
    folder.to_path_buf()
}

fn built(name: &str) -> PathBuf {
    let path = target_dir().join(name);
    assert!(path.exists(), "{} is not built: run `cargo xtask test`", path.display());
    path
}

/// Path of an example's or fixture's library, `libNAME.so`.
#[must_use]
pub fn library(name: &str) -> PathBuf {
    built(&format!("lib{name}.so"))
}

/// Path of the `decurion` command.
#[must_use]
pub fn decurion() -> PathBuf {
    built("decurion")
}

/// What a command left behind.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code; -1 for a signal.
    pub code: i32,
    /// Data.
    pub stdout: String,
    /// All else.
    pub stderr: String,
}

impl Output {
    /// Asserts success.
    ///
    /// # Panics
    /// Where the exit code is another one; shows everything.
    #[must_use]
    pub fn ok(self) -> Self {
        self.code(0)
    }

    /// Asserts an exit code.
    ///
    /// # Panics
    /// Where it is another one; shows everything.
    #[must_use]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }

    /// Its data as JSON.
    ///
    /// # Panics
    /// Where it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {}", self.stdout))
    }
}

/// Runs `decurion` in `folder` to its end.
///
/// # Panics
/// Where it can't be started.
pub fn run_in(folder: &Path, socket: &Path, arguments: &[&str]) -> Output {
    let output = Command::new(decurion())
        .current_dir(folder)
        .env("DECURION_SOCKET", socket)
        .env_remove("DECURION_OUTPUT")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the command starts");
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
