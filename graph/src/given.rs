//! Results as they came: text that is handed on as it is, and taken apart only where a part of it is asked for.

use std::cell::OnceCell;
use std::fmt::Write as _;

use decurion_api::spec::graph::{Missing, Reference};
use serde_json::Value;
use serde_json::value::RawValue;

/// The input, or a step's result.
#[derive(Debug)]
pub(crate) struct Given {
    json: Box<RawValue>,
    /// The same, once somebody has asked for a part; `None`: it can't be read.
    value: OnceCell<Option<Value>>,
}

impl Given {
    pub(crate) fn new(json: Box<RawValue>) -> Self {
        Self { json, value: OnceCell::new() }
    }

    /// What a step gives that does not run.
    pub(crate) fn null() -> Self {
        Self::new(RawValue::NULL.to_owned())
    }

    /// What a reference to it means. Of null, every part is null.
    ///
    /// # Errors
    /// [`Missing`] where it has no such part.
    pub(crate) fn part(&self, reference: &Reference<'_>) -> Result<&Value, Missing> {
        let value = self.value.get_or_init(|| serde_json::from_str(self.json.get()).ok());
        match value {
            Some(Value::Null) => Ok(&Value::Null),
            Some(value) => reference.part_of(value),
            // Nested more deeply than is read.
            None => Err(Missing {
                reference: [reference.name, reference.path].join("."),
                found: format!("${}", reference.name),
                part: "parts that can be read".to_owned(),
            }),
        }
    }
}

/// A value as JSON, with what `known` gives in place of each reference.
///
/// # Errors
/// [`Missing`] where a result has no such part.
pub(crate) fn written<'g>(
    value: &Value,
    known: &impl Fn(&str) -> Option<&'g Given>,
) -> Result<Box<RawValue>, Missing> {
    let mut json = String::new();
    write(value, known, &mut json)?;
    // It is JSON, made of nothing else.
    Ok(RawValue::from_string(json).unwrap_or_else(|_| RawValue::NULL.to_owned()))
}

fn write<'g>(
    value: &Value,
    known: &impl Fn(&str) -> Option<&'g Given>,
    json: &mut String,
) -> Result<(), Missing> {
    match value {
        Value::String(text) => match Reference::parse(text) {
            Some(reference) => match known(reference.name) {
                None => json.push_str("null"),
                Some(whole) if reference.path.is_empty() => json.push_str(whole.json.get()),
                Some(whole) => write_constant(whole.part(&reference)?, json),
            },
            None => write_constant(&Reference::constant(text).into(), json),
        },
        Value::Array(items) => {
            json.push('[');
            for (place, item) in items.iter().enumerate() {
                json.push_str(if place == 0 { "" } else { "," });
                write(item, known, json)?;
            }
            json.push(']');
        }
        Value::Object(fields) => {
            json.push('{');
            for (place, (name, field)) in fields.iter().enumerate() {
                json.push_str(if place == 0 { "" } else { "," });
                write_constant(&name.as_str().into(), json);
                json.push(':');
                write(field, known, json)?;
            }
            json.push('}');
        }
        constant => write_constant(constant, json),
    }
    Ok(())
}

fn write_constant(value: &Value, json: &mut String) {
    // Nothing that is written to a text fails.
    let _ = write!(json, "{value}");
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use serde_json::value::to_raw_value;

    use super::*;

    #[test]
    fn references_are_replaced_however_deep() {
        let pre = Given::new(to_raw_value(&json!({ "scores": [1, 2], "name": "x\n\"" })).unwrap());
        let nothing = Given::null();
        let known = |name: &str| match name {
            "pre" => Some(&pre),
            "skipped" => Some(&nothing),
            _ => None,
        };
        let args = json!([["$pre.scores.1", { "k\"": "$pre.name" }], "$$pre", "$", "plain\n", 3, "$skipped.part", "$none", "$pre"]);
        let written: Value = serde_json::from_str(written(&args, &known).unwrap().get()).unwrap();
        let whole = json!({ "scores": [1, 2], "name": "x\n\"" });
        assert_eq!(written, json!([[2, { "k\"": "x\n\"" }], "$pre", "$", "plain\n", 3, null, null, whole]));
    }

    #[test]
    fn what_is_handed_on_stays_as_it_was_written() {
        let text = "{\"b\": 1.0e2,  \"a\": 12345678901234567890123}";
        let given = Given::new(RawValue::from_string(text.to_owned()).unwrap());
        assert_eq!(written(&json!(["$x"]), &|_| Some(&given)).unwrap().get(), format!("[{text}]"));
    }

    #[test]
    fn what_is_nested_too_deeply_is_handed_on_and_has_no_parts() {
        let text = "[".repeat(200) + &"]".repeat(200);
        let given = Given::new(RawValue::from_string(text.clone()).unwrap());
        assert_eq!(written(&json!("$x"), &|_| Some(&given)).unwrap().get(), text);
        assert!(written(&json!("$x.0"), &|_| Some(&given)).is_err());
    }
}
