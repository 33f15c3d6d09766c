//! Names that prove they are names: they stand in paths, metrics labels, log lines and symbols unescaped.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest name of any kind, in bytes.
pub const NAME_MAX: usize = 63;

/// Why a name was refused. Fits "failed to ...: {error}".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("a {what} may not be empty")]
    Empty {
        /// What was to be named.
        what: &'static str,
    },
    /// More than [`NAME_MAX`] bytes.
    #[error("a {what} has at most {NAME_MAX} bytes, and '{name}' has {len}", len = name.len())]
    TooLong {
        /// What was to be named.
        what: &'static str,
        /// What was given.
        name: String,
    },
    /// A character that may not stand there.
    #[error("a {what} is made of {allowed}; '{name}' has '{found}'")]
    Character {
        /// What was to be named.
        what: &'static str,
        /// What was given.
        name: String,
        /// The first character that does not fit.
        found: char,
        /// Words for what fits.
        allowed: &'static str,
    },
}

/// The known name nearest to what was written, if one is near.
pub fn nearest<'k>(written: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    const NEAR: f64 = 0.85;
    let scored = known.into_iter().map(|name| (strsim::jaro_winkler(written, name), name));
    scored.filter(|(score, _)| *score >= NEAR).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

fn check(
    what: &'static str,
    allowed: &'static str,
    name: &str,
    first: fn(char) -> bool,
    rest: fn(char) -> bool,
) -> Result<(), NameError> {
    let Some(head) = name.chars().next() else {
        return Err(NameError::Empty { what });
    };
    if name.len() > NAME_MAX {
        return Err(NameError::TooLong { what, name: name.chars().take(80).collect() });
    }
    let misfit = if first(head) { name.chars().skip(1).find(|c| !rest(*c)) } else { Some(head) };
    match misfit {
        None => Ok(()),
        Some(found) => Err(NameError::Character { what, name: name.to_owned(), found, allowed }),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $allowed:literal, $first:expr, $rest:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks and keeps a name.
            ///
            /// # Errors
            /// [`NameError`] says what does not fit.
            pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
                let name = name.into();
                check($what, $allowed, &name, $first, $rest)?;
                Ok(Self(name.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(name: String) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl std::str::FromStr for $type {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.as_str().to_owned()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

const DASHED: &str = "letters, digits, '-', '_' and '.', and starts with a letter or digit";

name!(
    /// What a deployment is called: unique on one supervisor.
    DeploymentName,
    "deployment name",
    "letters, digits, '-', '_' and '.', and starts with a letter or digit",
    |c| c.is_ascii_alphanumeric(),
    |c| c.is_ascii_alphanumeric() || "-_.".contains(c)
);
name!(
    /// What a configuration file owns as a whole.
    ApplicationName,
    "application name",
    "letters, digits, '-', '_' and '.', and starts with a letter or digit",
    |c| c.is_ascii_alphanumeric(),
    |c| c.is_ascii_alphanumeric() || "-_.".contains(c)
);
name!(
    /// Deployments of one application that change over together.
    SetName,
    "set's name",
    "letters, digits, '-', '_' and '.', and starts with a letter or digit",
    |c| c.is_ascii_alphanumeric(),
    |c| c.is_ascii_alphanumeric() || "-_.".contains(c)
);
name!(
    /// A class of a library; also a part of its symbols' names.
    ClassName,
    "class name",
    "letters, digits and '_', and starts with a letter or '_'",
    |c| c.is_ascii_alphabetic() || c == '_',
    |c| c.is_ascii_alphanumeric() || c == '_'
);

/// One replica's id: the deployment's name, `-`, and a few characters that no other replica of this supervisor's
/// life has. Used in logs, metrics and `status`; never reused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReplicaId(Arc<str>);

impl ReplicaId {
    /// Checks and keeps an id.
    ///
    /// # Errors
    /// [`NameError`] where it is no name, or has no `-`.
    pub fn new(id: impl Into<String>) -> Result<Self, NameError> {
        let id = id.into();
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        match id.chars().find(|c| !fits(*c)) {
            Some(found) => Err(NameError::Character { what: "replica id", name: id, found, allowed: DASHED }),
            None if id.is_empty() => Err(NameError::Empty { what: "replica id" }),
            None if id.len() > NAME_MAX + 17 => Err(NameError::TooLong { what: "replica id", name: id }),
            None => Ok(Self(id.into())),
        }
    }

    /// The id of a deployment's replica with this number, written in hexadecimal.
    #[must_use]
    pub fn numbered(deployment: &DeploymentName, number: u32) -> Self {
        Self(format!("{deployment}-{number:06x}").into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ReplicaId {
    type Error = NameError;
    fn try_from(id: String) -> Result<Self, NameError> {
        Self::new(id)
    }
}

impl std::str::FromStr for ReplicaId {
    type Err = NameError;
    fn from_str(id: &str) -> Result<Self, NameError> {
        Self::new(id)
    }
}

impl From<ReplicaId> for String {
    fn from(id: ReplicaId) -> String {
        id.as_str().to_owned()
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_text() {
        assert_eq!(DeploymentName::new("my-model.v2").unwrap().as_str(), "my-model.v2");
    }

    #[test]
    fn a_name_refuses_what_could_be_read_as_something_else() {
        for bad in ["", "-x", ".hidden", "a/b", "a b", "a\n", "é", "a#b"] {
            assert!(DeploymentName::new(bad).is_err(), "{bad:?}");
        }
        assert!(DeploymentName::new("x".repeat(NAME_MAX)).is_ok());
        assert!(DeploymentName::new("x".repeat(NAME_MAX + 1)).is_err());
    }

    #[test]
    fn a_class_name_is_an_identifier() {
        assert!(ClassName::new("Model_2").is_ok());
        assert!(ClassName::new("Model-2").is_err());
        assert!(ClassName::new("2Model").is_err());
    }

    #[test]
    fn the_refusal_names_the_character() {
        let error = DeploymentName::new("a/b").unwrap_err().to_string();
        assert!(error.contains("'a/b' has '/'"), "{error}");
    }

    #[test]
    fn serde_goes_through_the_check() {
        assert!(serde_json::from_str::<DeploymentName>("\"ok\"").is_ok());
        assert!(serde_json::from_str::<DeploymentName>("\"not ok\"").is_err());
    }

    #[test]
    fn the_longest_deployment_has_replica_ids() {
        let name = DeploymentName::new("x".repeat(NAME_MAX)).unwrap();
        let id = ReplicaId::numbered(&name, u32::MAX);
        assert_eq!(ReplicaId::new(id.as_str()).unwrap(), id);
    }
}
