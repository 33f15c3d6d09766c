//! Route prefixes: where a deployment is mounted.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest prefix, in bytes.
pub const ROUTE_PREFIX_MAX: usize = 1024;

/// Why a route prefix was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// Does not start with `/`.
    #[error("a route prefix starts with '/'; '{0}' does not")]
    NoLeadingSlash(String),
    /// Ends with `/`, and is not `/` itself.
    #[error("a route prefix does not end with '/', except '/' itself; '{0}' does")]
    TrailingSlash(String),
    /// Has an empty segment, or `.` or `..` as one.
    #[error("'{0}' has an empty, '.' or '..' segment, which no request can match after normalisation")]
    Segment(String),
    /// Has a character that does not stand literally in a path.
    #[error("'{prefix}' has '{found}'; a route prefix is made of letters, digits, '/' and -._~!$&'()*+,;=:@")]
    Character {
        /// What was given.
        prefix: String,
        /// The first character that does not fit.
        found: char,
    },
    /// Starts with `/-/`, which is the proxy's own.
    #[error("'{0}' is under '/-/', which is kept for the proxy's own pages")]
    Reserved(String),
    /// Longer than [`ROUTE_PREFIX_MAX`].
    #[error("a route prefix has at most {ROUTE_PREFIX_MAX} bytes, and this one has {0}")]
    TooLong(usize),
}

/// A path prefix made of whole segments: `/`, `/api`, `/api/v1`. Case-sensitive; no trailing `/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RoutePrefix(String);

impl RoutePrefix {
    /// Checks and keeps a prefix.
    ///
    /// # Errors
    /// [`RouteError`] says what does not fit.
    pub fn new(prefix: impl Into<String>) -> Result<Self, RouteError> {
        let prefix = prefix.into();
        if prefix.len() > ROUTE_PREFIX_MAX {
            return Err(RouteError::TooLong(prefix.len()));
        }
        let Some(rest) = prefix.strip_prefix('/') else {
            return Err(RouteError::NoLeadingSlash(prefix));
        };
        // RFC 3986, section 3.3: pchar without percent-encoding, so that a prefix has one spelling only.
        let literal = |c: char| c.is_ascii_alphanumeric() || "/-._~!$&'()*+,;=:@".contains(c);
        if let Some(found) = prefix.chars().find(|c| !literal(*c)) {
            return Err(RouteError::Character { prefix, found });
        }
        if rest.is_empty() {
            return Ok(Self(prefix));
        }
        if prefix.ends_with('/') {
            return Err(RouteError::TrailingSlash(prefix));
        }
        if rest.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            return Err(RouteError::Segment(prefix));
        }
        if prefix == "/-" || prefix.starts_with("/-/") {
            return Err(RouteError::Reserved(prefix));
        }
        Ok(Self(prefix))
    }

    /// The prefix as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a normalised path lies under this prefix, segment by segment.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        self.0 == "/"
            || path.strip_prefix(self.0.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl TryFrom<String> for RoutePrefix {
    type Error = RouteError;
    fn try_from(prefix: String) -> Result<Self, RouteError> {
        Self::new(prefix)
    }
}

impl From<RoutePrefix> for String {
    fn from(prefix: RoutePrefix) -> String {
        prefix.0
    }
}

impl fmt::Display for RoutePrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_segments_match() {
        let api = RoutePrefix::new("/api").unwrap();
        for path in ["/api", "/api/", "/api/x"] {
            assert!(api.matches(path), "{path}");
        }
        for path in ["/apiary", "/ap", "/", "/API", "/x/api"] {
            assert!(!api.matches(path), "{path}");
        }
        assert!(RoutePrefix::new("/").unwrap().matches("/anything"));
    }

    #[test]
    fn what_could_never_match_is_refused() {
        for bad in
            ["", "api", "/api/", "/a//b", "/./a", "/a/..", "/a{b}", "/a%20b", "/-", "/-/x", "/a?b", "/é"]
        {
            assert!(RoutePrefix::new(bad).is_err(), "{bad:?}");
        }
        assert!(RoutePrefix::new("/-x").is_ok());
    }
}
