//! Errors as `application/problem+json`.

use decurion_api::admin::{Problem, problem};

use crate::admin::ask::AskError;
use crate::change::Refusal;
use crate::store::StoreError;

/// Makes a problem of one of [`mod@problem`]'s types.
#[must_use]
pub fn problem(kind: &str, detail: impl Into<String>) -> Problem {
    let (status, title) = match kind {
        problem::BAD_REQUEST => (400, "the request makes no sense"),
        problem::FORBIDDEN => (403, "this user may not use the socket"),
        problem::NOT_FOUND => (404, "there is no such thing"),
        problem::CONFLICT => (409, "the state of things forbids it"),
        problem::REVISION_MISMATCH => (412, "the desired state has changed"),
        problem::TOO_LARGE => (413, "the body is too large"),
        problem::REFUSED => (422, "refused"),
        problem::CALL_FAILED => (502, "the method failed"),
        problem::UNAVAILABLE => (503, "not available now"),
        problem::DEADLINE => (504, "no answer in time"),
        _ => (500, "the supervisor failed"),
    };
    Problem { kind: kind.to_owned(), title: title.to_owned(), status, detail: detail.into() }
}

impl From<&AskError> for Problem {
    fn from(error: &AskError) -> Problem {
        let kind = match error {
            AskError::Refused(refusal) => kind_of(refusal),
            AskError::File(_) | AskError::NotByPatch(_) | AskError::Tls(_) => problem::REFUSED,
            AskError::Listen { .. } => problem::CONFLICT,
            AskError::Store(StoreError::NoSuchRevision { .. }) => problem::NOT_FOUND,
            AskError::Store(_) => problem::INTERNAL,
            AskError::Stopping | AskError::Busy => problem::UNAVAILABLE,
        };
        self::problem(kind, format!("{}; nothing was changed", chain(error)))
    }
}

/// An error with its causes, each of which says only what has not been said.
fn chain(error: &AskError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
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

fn kind_of(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::NoSuchDeployment { .. } | Refusal::NoSuchApplication(_) => problem::NOT_FOUND,
        Refusal::OtherOwner { .. } | Refusal::NothingBefore(_) | Refusal::Autoscaled { .. } => {
            problem::CONFLICT
        }
        Refusal::RevisionMismatch { .. } | Refusal::VersionMismatch { .. } => problem::REVISION_MISMATCH,
        Refusal::RouteTaken { .. }
        | Refusal::Twice(_)
        | Refusal::TooManyDeployments
        | Refusal::ViewTooLarge { .. }
        | Refusal::Replicas { .. }
        | Refusal::NoRoom { .. }
        | Refusal::NoLibrary { .. }
        | Refusal::NoClass { .. }
        | Refusal::WhichClass { .. }
        | Refusal::TakesNoConfig { .. }
        | Refusal::GraphCall { .. }
        | Refusal::GraphCycle(_) => problem::REFUSED,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::sys::TlsError;

    #[test]
    fn what_went_wrong_is_said_once() {
        let source = io::Error::from(io::ErrorKind::NotFound);
        let words = format!("http.tls: /c.pem can't be read: {source}; nothing was changed");
        let error = AskError::Tls(TlsError::Unreadable { path: "/c.pem".into(), source });
        assert_eq!(Problem::from(&error).detail, words);
    }
}
