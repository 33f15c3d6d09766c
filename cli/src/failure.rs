//! The one habit for errors: what, where, what now, and whether anything was changed; and the exit codes.

use std::error::Error;
use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;

use decurion_api::spec::file::FileError;
use decurion_client::SocketError;
use decurion_client::admin::AdminError;

use crate::output::Output;

/// How the command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// Something would change.
    Changes = 2,
    /// The rollout failed and was undone.
    Undone = 3,
    /// Timed out while waiting; the rollout goes on.
    TimedOut = 4,
    /// No such thing.
    NotFound = 5,
    /// The desired state is at another revision.
    RevisionMismatch = 6,
    /// No supervisor answers.
    Unreachable = 7,
    /// Wrong usage.
    Usage = 64,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why the command did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    what: String,
    /// Lines that say where, or show more.
    details: Vec<String>,
    /// What to do about it.
    now: Option<Box<str>>,
    /// The same, where it takes a supervisor that still runs.
    look: Option<Box<str>>,
    /// Whether anything was changed, in words.
    changed: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), details: Vec::new(), now: None, look: None, changed: None }
    }

    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what)
    }

    /// With the whole chain of causes.
    pub(crate) fn of(what: impl Into<String>, error: &dyn Error) -> Self {
        Self::new(Exit::Failed, format!("{}: {}", what.into(), chain(error)))
    }

    /// No supervisor answers there.
    pub(crate) fn unreachable(socket: &Path, error: &std::io::Error) -> Self {
        let what = format!("no supervisor answers on {}: {error}", socket.display());
        Self::new(Exit::Unreachable, what).now(match error.kind() {
            ErrorKind::PermissionDenied => {
                "run this as the supervisor's user or as root, or as one of its group"
            }
            _ => "start one with `decurion supervise`, or name its socket by --socket or DECURION_SOCKET",
        })
    }

    pub(crate) fn details(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.details.extend(lines);
        self
    }

    pub(crate) fn now(mut self, now: impl Into<Box<str>>) -> Self {
        self.now = Some(now.into());
        self
    }

    /// What to ask the supervisor next.
    pub(crate) fn look(mut self, look: impl Into<Box<str>>) -> Self {
        self.look = Some(look.into());
        self
    }

    pub(crate) fn changed(mut self, changed: impl Into<String>) -> Self {
        self.changed = Some(changed.into());
        self
    }

    pub(crate) fn nothing_changed(self) -> Self {
        self.changed("nothing was changed")
    }

    /// For what failed in a supervisor that is gone by now.
    pub(crate) fn after_cleanup(self, changed: &str) -> Self {
        Self { look: None, ..self }.changed(changed)
    }

    /// For a request that was to change something.
    pub(crate) fn of_change(error: AdminError) -> Self {
        let certain = error.changed_nothing();
        let failure = Self::from(error);
        if certain {
            failure.nothing_changed()
        } else {
            failure.changed("it may have been changed all the same; see `decurion status`")
        }
    }

    pub(crate) fn print(&self, output: &Output) {
        output.error(&self.what);
        for line in &self.details {
            output.always(&format!("  {line}"));
        }
        for now in self.now.iter().chain(&self.look) {
            output.always(&format!("  now: {now}"));
        }
        if let Some(changed) = &self.changed {
            output.always(&format!("  {changed}"));
        }
    }
}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Self {
        let exit = match &error {
            error if error.is_not_found() => Exit::NotFound,
            error if error.is_revision_mismatch() => Exit::RevisionMismatch,
            _ => Exit::Failed,
        };
        if let AdminError::Unreachable { socket, source } = &error {
            return Self::unreachable(socket, source);
        }
        // The supervisor says so for clients that show nothing else; here it has a line of its own.
        let what = chain(&error);
        let failure = Self::new(exit, what.strip_suffix("; nothing was changed").unwrap_or(&what));
        match exit {
            Exit::NotFound => failure.now("`decurion status` lists what there is"),
            Exit::RevisionMismatch => failure.now("look at `decurion status`, and try again"),
            _ => failure,
        }
    }
}

impl From<SocketError> for Failure {
    fn from(error: SocketError) -> Self {
        Self::of("there is no safe place for the control socket", &error)
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        let what = match error.file.as_str() {
            "" => "the configuration is refused".to_owned(),
            file => format!("{file} is refused"),
        };
        let lines: Vec<String> = error.to_string().lines().map(str::to_owned).collect();
        Self::new(Exit::Failed, what).details(lines).nothing_changed()
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}
