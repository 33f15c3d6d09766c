//! What a deployment's code fails with: any error through `?`, or one with a status of its own choosing.

use std::error::Error as StdError;
use std::fmt;

use http::StatusCode;

/// `Result` with [`Error`] as its error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request, a call or a constructor failed.
///
/// Every standard error becomes one through `?`. Such an error answers HTTP with 500 and a fixed body, and its text
/// goes to the log with the request's id. [`Error::status`] chooses the status and the text that the client sees.
/// (As with `anyhow`, this type is no `std::error::Error` itself, so that the conversion can be for all of them.)
pub struct Error {
    status: Option<StatusCode>,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
    unfit: Option<Unfit>,
}

/// Where the encoding of a call does not do, so that nothing has run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// This class would misread it: its caller is to be told.
    Here,
    /// The one that was called would.
    There,
    /// A result that was to be handed on is written in another.
    HandedOn,
}

impl Error {
    /// An error that answers with `status` and shows `message` to the client.
    ///
    /// A `status` that HTTP does not have, or that stands for no error, makes it a 500.
    pub fn status(status: impl TryInto<StatusCode>, message: impl fmt::Display) -> Self {
        let status = status.try_into().ok().filter(|status| (400..=599).contains(&status.as_u16()));
        Self {
            status: Some(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)),
            message: message.to_string(),
            source: None,
            unfit: None,
        }
    }

    /// The encoding of a call does not do.
    pub(crate) fn unfit(unfit: Unfit, message: impl fmt::Display) -> Self {
        let error = match unfit {
            Unfit::Here | Unfit::There => Self::status(StatusCode::UNSUPPORTED_MEDIA_TYPE, message),
            Unfit::HandedOn => Self::msg(message),
        };
        Self { unfit: Some(unfit), ..error }
    }

    pub(crate) fn is_unfit(&self, unfit: Unfit) -> bool {
        self.unfit == Some(unfit)
    }

    /// An internal error: 500 with a fixed body, and `message` for the log.
    pub fn msg(message: impl fmt::Display) -> Self {
        Self { status: None, message: message.to_string(), source: None, unfit: None }
    }

    /// The status that was chosen; `None` for an internal error.
    #[must_use]
    pub fn code(&self) -> Option<StatusCode> {
        self.status
    }

    /// The text without its causes.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The error this was made from, if it was made from one.
    #[must_use]
    pub fn source(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        self.source.as_deref()
    }

    /// The text with all causes, for logs.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut cause = self.source.as_ref().and_then(|source| source.source());
        for _ in 0..CHAIN_MAX {
            let Some(error) = cause else { break };
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

/// Causes shown, at most: a chain may be a ring.
const CHAIN_MAX: usize = 16;

impl<E: StdError + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        Self { status: None, message: error.to_string(), source: Some(Box::new(error)), unfit: None }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(status) = self.status {
            write!(f, "{} ", status.as_u16())?;
        }
        f.write_str(&self.chain())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_error_becomes_an_internal_one() {
        let error: Error = "x".parse::<u32>().unwrap_err().into();
        assert_eq!(error.code(), None);
        assert_eq!(error.to_string(), "invalid digit found in string");
    }

    #[test]
    fn a_chosen_status_stands_and_nonsense_is_a_500() {
        assert_eq!(Error::status(422, "no").code(), Some(StatusCode::UNPROCESSABLE_ENTITY));
        assert_eq!(Error::status(StatusCode::NOT_FOUND, "no").code(), Some(StatusCode::NOT_FOUND));
        for nonsense in [0u16, 7, 200, 302, 600, 999, 1000] {
            assert_eq!(Error::status(nonsense, "no").code(), Some(StatusCode::INTERNAL_SERVER_ERROR));
        }
    }

    #[test]
    fn causes_follow_one_another() {
        #[derive(Debug, thiserror::Error)]
        #[error("reading the weights")]
        struct Outer(#[source] std::num::ParseIntError);
        let error = Error::from(Outer("x".parse::<u32>().unwrap_err()));
        assert_eq!(error.chain(), "reading the weights: invalid digit found in string");
    }
}
