//! `"$name"` and `"$name.path.to.0"` in a graph's arguments: where they stand, and what they mean.

use serde_json::Value;

/// The result of a step or the graph's input, or a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference<'t> {
    /// Of the step, or of the input.
    pub name: &'t str,
    /// Field names and places in lists, joined by dots; empty: the whole.
    pub path: &'t str,
}

/// A part that a result does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'${reference}' is not there: {found} has no '{part}'")]
pub struct Missing {
    /// As it was written, without the dollar sign.
    pub reference: String,
    /// Up to where it leads.
    pub found: String,
    /// What was looked for there.
    pub part: String,
}

impl<'t> Reference<'t> {
    /// Reads a text; `None` where it is a constant. A text that begins with two dollar signs is a constant with one.
    #[must_use]
    pub fn parse(text: &'t str) -> Option<Self> {
        let text = text.strip_prefix('$').filter(|rest| !rest.starts_with('$') && !rest.is_empty())?;
        let (name, path) = text.split_once('.').unwrap_or((text, ""));
        Some(Self { name, path })
    }

    /// What a text means that is no reference.
    #[must_use]
    pub fn constant(text: &'t str) -> &'t str {
        text.strip_prefix('$').filter(|it| it.starts_with('$')).unwrap_or(text)
    }

    /// The part of `whole` that is meant.
    ///
    /// # Errors
    /// [`Missing`] where it has none.
    pub fn part_of<'v>(&self, whole: &'v Value) -> Result<&'v Value, Missing> {
        let mut found = whole;
        let mut trail = format!("${}", self.name);
        for part in self.path.split('.').filter(|part| !part.is_empty()) {
            let next = match found {
                Value::Object(fields) => fields.get(part),
                Value::Array(items) => part.parse::<usize>().ok().and_then(|index| items.get(index)),
                _ => None,
            };
            let missing = || Missing {
                reference: format!("{}.{}", self.name, self.path),
                found: trail.clone(),
                part: part.to_owned(),
            };
            found = next.ok_or_else(missing)?;
            trail = format!("{trail}.{part}");
        }
        Ok(found)
    }
}

/// Every reference in a value, however deep.
#[must_use]
pub fn references(value: &Value) -> Vec<Reference<'_>> {
    match value {
        Value::String(text) => Reference::parse(text).into_iter().collect(),
        Value::Array(items) => items.iter().flat_map(references).collect(),
        Value::Object(fields) => fields.values().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_are_found_however_deep() {
        let args = json!([["$pre.scores.1", { "k": "$pre.name" }], "$$pre", "$", "plain", 3, "$skipped.part", "$pre"]);
        let names: Vec<&str> = references(&args).iter().map(|it| it.name).collect();
        assert_eq!(names, ["pre", "pre", "skipped", "pre"]);
        assert_eq!(["$$pre", "$", "plain"].map(Reference::constant), ["$pre", "$", "plain"]);
    }

    #[test]
    fn a_part_that_is_not_there_is_named() {
        let pre = json!({ "scores": [1] });
        let part = |text| Reference::parse(text).unwrap().part_of(&pre);
        assert_eq!(part("$pre.scores.0"), Ok(&json!(1)));
        let error = |text| part(text).unwrap_err().to_string();
        assert_eq!(error("$pre.scores.1"), "'$pre.scores.1' is not there: $pre.scores has no '1'");
        assert_eq!(error("$pre.label.x"), "'$pre.label.x' is not there: $pre has no 'label'");
        assert_eq!(error("$pre.scores.0.x"), "'$pre.scores.0.x' is not there: $pre.scores.0 has no 'x'");
    }
}
