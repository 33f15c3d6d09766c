//! Reads one table field by field: what is not asked for by the end is unknown, and is refused with the name that
//! was probably meant.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::node::{Entry, Node, NodeValue};
use super::problems::Problems;
use super::values;
use crate::spec::Share;

/// A table in the middle of being read.
pub(super) struct Table<'n> {
    path: String,
    /// Where the table starts.
    pub(super) at: Option<usize>,
    entries: &'n [Entry],
    taken: Vec<bool>,
    known: Vec<String>,
}

/// A field that is there: its value and its full path.
pub(super) struct Field<'n> {
    pub(super) path: String,
    pub(super) node: &'n Node,
}

impl Field<'_> {
    pub(super) fn refuse(&self, problems: &mut Problems<'_>, message: impl Into<String>) {
        problems.add(self.node.at, &self.path, message.into());
    }

    pub(super) fn expected(&self, problems: &mut Problems<'_>, what: &str) {
        self.refuse(problems, format!("takes {what}, and this is {}", self.node.kind()));
    }
}

impl<'n> Table<'n> {
    /// `None`, and a refusal, where `node` is no table.
    pub(super) fn open(node: &'n Node, path: &str, problems: &mut Problems<'_>) -> Option<Self> {
        let NodeValue::Table(entries) = &node.value else {
            let message = format!("is a table, and this is {}", node.kind());
            problems.add(node.at, path, message);
            return None;
        };
        let taken = vec![false; entries.len()];
        Some(Self { path: path.to_owned(), at: node.at, entries, taken, known: Vec::new() })
    }

    /// Whether the field is there, `null` included.
    pub(super) fn has(&self, field: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == field)
    }

    pub(super) fn path_of(&self, field: &str) -> String {
        if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) }
    }

    /// The field, if it is there. A `null` of JSON counts as absent.
    pub(super) fn take(&mut self, field: &str) -> Option<Field<'n>> {
        self.known.push(field.to_owned());
        let index = self.entries.iter().position(|entry| entry.key == field)?;
        self.taken[index] = true;
        let node = &self.entries[index].node;
        (node.value != NodeValue::Null).then(|| Field { path: self.path_of(field), node })
    }

    pub(super) fn text(&mut self, field: &str, problems: &mut Problems<'_>) -> Option<(Field<'n>, &'n str)> {
        let field = self.take(field)?;
        match &field.node.value {
            NodeValue::Text(text) => Some((field, text)),
            _ => {
                field.expected(problems, "a string");
                None
            }
        }
    }

    pub(super) fn boolean(&mut self, field: &str, default: bool, problems: &mut Problems<'_>) -> bool {
        let Some(field) = self.take(field) else { return default };
        match field.node.value {
            NodeValue::Bool(value) => value,
            _ => {
                field.expected(problems, "true or false");
                default
            }
        }
    }

    /// A whole number in a range; `default` where it is absent or refused.
    pub(super) fn whole<N>(
        &mut self,
        field: &str,
        range: RangeInclusive<u64>,
        default: N,
        problems: &mut Problems<'_>,
    ) -> N
    where
        N: TryFrom<u64>,
    {
        let Some(field) = self.take(field) else { return default };
        whole_of(&field, &range, problems).and_then(|number| N::try_from(number).ok()).unwrap_or(default)
    }

    /// A number above 0; `default` where it is absent or refused.
    pub(super) fn positive(&mut self, field: &str, default: f64, problems: &mut Problems<'_>) -> f64 {
        let Some(field) = self.take(field) else { return default };
        match &field.node.value {
            NodeValue::Number(number) if number.as_f64().is_some_and(|it| it > 0.0 && it.is_finite()) => {
                number.as_f64().unwrap_or(default)
            }
            _ => {
                field.expected(problems, "a number above 0");
                default
            }
        }
    }

    /// Bytes: a number, or text with a unit.
    pub(super) fn size(
        &mut self,
        field: &str,
        range: RangeInclusive<u64>,
        default: u64,
        problems: &mut Problems<'_>,
    ) -> u64 {
        let Some(field) = self.take(field) else { return default };
        let (low, high) = (size_words(*range.start()), size_words(*range.end()));
        let bytes = match &field.node.value {
            NodeValue::Text(text) => match values::parse_size(text) {
                Ok(bytes) => bytes,
                Err(message) => {
                    field.refuse(problems, message);
                    return default;
                }
            },
            NodeValue::Number(number) if number.is_u64() => number.as_u64().unwrap_or(default),
            NodeValue::Number(number) => {
                field.refuse(problems, format!("{number} is no number of bytes; give {low} to {high}"));
                return default;
            }
            _ => {
                field.expected(problems, "a size such as '64KiB', or a number of bytes");
                return default;
            }
        };
        if range.contains(&bytes) {
            return bytes;
        }
        field.refuse(problems, format!("{bytes} bytes is out of range; give {low} to {high}"));
        default
    }

    /// `FIELD = "5s"` or `FIELD_s = 5`, not both.
    pub(super) fn duration(
        &mut self,
        field: &str,
        range: RangeInclusive<Duration>,
        problems: &mut Problems<'_>,
    ) -> Option<Duration> {
        let in_seconds = self.take(&format!("{field}_s"));
        let in_words = self.take(field);
        let (field, read) = match (in_seconds, in_words) {
            (Some(seconds), Some(words)) => {
                let other = problems.words_for(seconds.node.at, &seconds.path);
                let spelt = format!("{field}_s");
                words.refuse(problems, format!("is also given as {spelt} ({other}); keep one of the two"));
                return None;
            }
            (Some(field), None) => {
                let read = seconds_of(&field);
                (field, read)
            }
            (None, Some(field)) => {
                let read = words_of(&field);
                (field, read)
            }
            (None, None) => return None,
        };
        match read {
            Ok(duration) if range.contains(&duration) => Some(duration),
            Ok(duration) => {
                let (low, high) = (range.start().as_secs_f64(), range.end().as_secs_f64());
                let given = duration.as_secs_f64();
                field.refuse(problems, format!("{given} s is out of range; give {low} s to {high} s"));
                None
            }
            Err(message) => {
                field.refuse(problems, message);
                None
            }
        }
    }

    /// A percentage or a number of replicas.
    pub(super) fn share(
        &mut self,
        field: &str,
        most: u32,
        default: Share,
        problems: &mut Problems<'_>,
    ) -> Share {
        let Some(field) = self.take(field) else { return default };
        if let NodeValue::Text(text) = &field.node.value {
            return values::parse_percent(text).unwrap_or_else(|message| {
                field.refuse(problems, message);
                default
            });
        }
        whole_of(&field, &(0..=u64::from(most)), problems)
            .and_then(|count| u32::try_from(count).ok())
            .map_or(default, Share::Count)
    }

    /// Refuses what nobody asked for.
    pub(super) fn finish(self, problems: &mut Problems<'_>) {
        for (entry, _) in self.entries.iter().zip(&self.taken).filter(|(_, taken)| !**taken) {
            let message = match suggestion(&entry.key, &self.known) {
                Some(meant) => format!("unknown field; did you mean '{meant}'?"),
                None => format!("unknown field; the fields here are {}", self.known.join(", ")),
            };
            problems.add(entry.at, &self.path_of(&entry.key), message);
        }
    }
}

/// The words for a feature that comes later.
pub(super) fn not_supported(instead: &str) -> String {
    if instead.is_empty() {
        "not supported yet; remove it".to_owned()
    } else {
        format!("not supported yet; {instead}")
    }
}

/// A whole number in the range.
pub(super) fn whole_of(
    field: &Field<'_>,
    range: &RangeInclusive<u64>,
    problems: &mut Problems<'_>,
) -> Option<u64> {
    let (low, high) = (range.start(), range.end());
    let NodeValue::Number(number) = &field.node.value else {
        field.expected(problems, &format!("a whole number from {low} to {high}"));
        return None;
    };
    match number.as_u64() {
        Some(whole) if range.contains(&whole) => Some(whole),
        _ if number.is_f64() => {
            field.expected(problems, &format!("a whole number from {low} to {high}"));
            None
        }
        _ => {
            field.refuse(problems, format!("{number} is out of range; give {low} to {high}"));
            None
        }
    }
}

fn seconds_of(field: &Field<'_>) -> Result<Duration, String> {
    match &field.node.value {
        NodeValue::Number(number) => values::seconds(number.as_f64().unwrap_or(f64::NAN)),
        NodeValue::Text(text) if values::parse_duration(text).is_ok() => {
            let stem = field.path.strip_suffix("_s").unwrap_or(&field.path);
            let stem = stem.rsplit('.').next().unwrap_or(stem);
            Err(format!("takes a number of seconds; write {stem} = \"{text}\" for a duration with a unit"))
        }
        _ => Err(format!("takes a number of seconds, and this is {}", field.node.kind())),
    }
}

fn words_of(field: &Field<'_>) -> Result<Duration, String> {
    let name = field.path.rsplit('.').next().unwrap_or(&field.path);
    match &field.node.value {
        NodeValue::Text(text) => values::parse_duration(text),
        NodeValue::Number(number) => {
            Err(format!("has no unit; write \"{number}s\", or {name}_s = {number} for seconds"))
        }
        _ => Err(format!("takes a duration such as \"5s\" or \"200ms\", and this is {}", field.node.kind())),
    }
}

fn size_words(bytes: u64) -> String {
    let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}"),
    }
}

/// The known name nearest to what was written, if one is near.
fn suggestion<'k>(written: &str, known: &'k [String]) -> Option<&'k str> {
    let written = written.to_ascii_lowercase().replace('-', "_");
    crate::name::nearest(&written, known.iter().map(String::as_str))
}
