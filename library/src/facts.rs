//! What a library says of itself, as plain data.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Everything read from one library.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LibraryFacts {
    /// At least one, sorted by name.
    pub classes: Vec<ClassFacts>,
    /// Libraries it needs (`DT_NEEDED`), in the order in which the loader looks for them.
    pub needed: Vec<String>,
    /// Where it wants them looked for first (`DT_RUNPATH`, else `DT_RPATH`); may hold `$ORIGIN`.
    pub run_path: Vec<String>,
    /// The newest glibc that a symbol of it asks for; `None` where none asks.
    pub glibc: Option<GlibcVersion>,
}

impl LibraryFacts {
    /// The class of this name.
    #[must_use]
    pub fn class(&self, name: &str) -> Option<&ClassFacts> {
        self.classes.iter().find(|class| class.name == name)
    }
}

/// One class of deployments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassFacts {
    /// Its name.
    #[serde(rename = "class")]
    pub name: String,
    /// Major and minor of the plugin ABI it was built for.
    pub abi: (u16, u16),
    /// The SDK it was built with, as `rust 0.1.0` or `c`.
    pub sdk: String,
    /// How `call` runs; `None`: no HTTP side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<Concurrency>,
    /// How `reconfigure` runs; `None`: takes no `user_config`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconfigure: Option<Concurrency>,
    /// How `check_health` runs; `None`: healthy while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_health: Option<Concurrency>,
    /// What its methods take: `json`, `bincode`, `raw`. Words of later SDKs are kept.
    #[serde(default)]
    pub encodings: Vec<String>,
    /// How calls of `call` run together; `None`: each by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_batch: Option<BatchFacts>,
    /// Methods for handles, in the order of the ABI's `method_index`.
    #[serde(default)]
    pub methods: Vec<MethodFacts>,
}

impl ClassFacts {
    /// Members of its largest batch; 0: it has none.
    #[must_use]
    pub fn batch_max(&self) -> u32 {
        let methods = self.methods.iter().filter_map(|method| method.batch);
        methods.chain(self.call_batch).map(|batch| batch.max).max().unwrap_or(0)
    }

    /// The [`encodings`](Self::encodings) as bits: `1 << n` for `decurion_abi::encoding` n.
    #[must_use]
    pub fn encoding_bits(&self) -> u32 {
        use decurion_abi::encoding::{BINCODE, JSON, RAW};
        self.encodings.iter().fold(0, |bits, word| match word.as_str() {
            "raw" => bits | 1 << RAW,
            "json" => bits | 1 << JSON,
            "bincode" => bits | 1 << BINCODE,
            _ => bits,
        })
    }
}

/// One method of a class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MethodFacts {
    /// As callers write it.
    pub name: String,
    /// How it runs.
    pub concurrency: Concurrency,
    /// Types of the arguments as the author wrote them.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// Names of the arguments, where the language has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<String>,
    /// Type of the result as the author wrote it; empty where it is not known.
    #[serde(default)]
    pub returns: String,
    /// How calls of it run together; `None`: each by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchFacts>,
    /// It streams items of the type that it `returns`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
}

/// How calls run together, as declared; a `user_config` may say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchFacts {
    /// Members of one batch, at most.
    pub max: u32,
    /// Microseconds that the first one waits for the others.
    pub wait_us: u64,
}

/// The concurrency contract of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Concurrency {
    /// Many at once.
    Shared,
    /// One at a time, and nothing else of the instance beside it.
    Exclusive,
}

/// A version of glibc, as 2.36.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GlibcVersion {
    /// 2 for as long as anyone remembers.
    pub major: u32,
    /// Counts up twice a year.
    pub minor: u32,
}

impl GlibcVersion {
    /// Reads `2.36` or `2.2.5`; what follows the second number is dropped.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('.');
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?.parse().ok()?;
        Some(Self { major, minor })
    }
}

impl fmt::Display for GlibcVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}
