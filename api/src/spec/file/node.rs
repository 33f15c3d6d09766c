//! The tree that both spellings of a configuration become: values that remember where they stood.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

/// A value and the byte offset where it starts; `None` where there is no text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) at: Option<usize>,
    pub(super) value: NodeValue,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum NodeValue {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    /// What TOML can say and JSON cannot: a date, `nan`, `inf`, an integer beyond 64 bits.
    Foreign(String),
    List(Vec<Node>),
    Table(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) at: Option<usize>,
    pub(super) key: String,
    pub(super) node: Node,
}

/// # Errors
/// Where, and what, in the TOML parser's words.
pub(super) fn from_toml(text: &str) -> Result<Node, (Option<usize>, String)> {
    match DeTable::parse(text) {
        Ok(table) => Ok(Node { at: Some(0), value: toml_table(table.get_ref()) }),
        Err(error) => Err((error.span().map(|span| span.start), format!("not TOML: {}", error.message()))),
    }
}

fn toml_node(value: &Spanned<DeValue<'_>>) -> Node {
    let value_at = value.span().start;
    let value = match value.get_ref() {
        DeValue::String(text) => NodeValue::Text(text.to_string()),
        DeValue::Integer(integer) => toml_integer(integer),
        DeValue::Float(float) => {
            let number = float.as_str().parse::<f64>().ok().and_then(Number::from_f64);
            number.map_or_else(|| NodeValue::Foreign(float.to_string()), NodeValue::Number)
        }
        DeValue::Boolean(value) => NodeValue::Bool(*value),
        DeValue::Datetime(date) => NodeValue::Foreign(date.to_string()),
        DeValue::Array(items) => NodeValue::List(items.iter().map(toml_node).collect()),
        DeValue::Table(table) => toml_table(table),
    };
    Node { at: Some(value_at), value }
}

fn toml_integer(integer: &DeInteger<'_>) -> NodeValue {
    match i64::from_str_radix(integer.as_str(), integer.radix()) {
        Ok(number) => NodeValue::Number(number.into()),
        Err(_) => NodeValue::Foreign(integer.to_string()),
    }
}

fn toml_table(table: &DeTable<'_>) -> NodeValue {
    let entry = |(key, value): (&Spanned<_>, &Spanned<_>)| Entry {
        at: Some(key.span().start),
        key: String::from(AsRef::<str>::as_ref(key.get_ref())),
        node: toml_node(value),
    };
    NodeValue::Table(table.iter().map(entry).collect())
}

impl Node {
    pub(super) fn from_json(value: &Value) -> Node {
        let value = match value {
            Value::Null => NodeValue::Null,
            Value::Bool(value) => NodeValue::Bool(*value),
            Value::Number(number) => NodeValue::Number(number.clone()),
            Value::String(text) => NodeValue::Text(text.clone()),
            Value::Array(items) => NodeValue::List(items.iter().map(Node::from_json).collect()),
            Value::Object(table) => {
                let entry = |(key, value): (&String, &Value)| Entry {
                    at: None,
                    key: key.clone(),
                    node: Node::from_json(value),
                };
                NodeValue::Table(table.iter().map(entry).collect())
            }
        };
        Node { at: None, value }
    }

    /// The same as JSON.
    ///
    /// # Errors
    /// Where, and the text of what JSON cannot say.
    pub(super) fn to_json(&self) -> Result<Value, (Option<usize>, String)> {
        Ok(match &self.value {
            NodeValue::Null => Value::Null,
            NodeValue::Bool(value) => Value::Bool(*value),
            NodeValue::Number(number) => Value::Number(number.clone()),
            NodeValue::Text(text) => Value::String(text.clone()),
            NodeValue::Foreign(text) => return Err((self.at, text.clone())),
            NodeValue::List(items) => {
                Value::Array(items.iter().map(Node::to_json).collect::<Result<_, _>>()?)
            }
            NodeValue::Table(entries) => {
                let pair = |entry: &Entry| Ok((entry.key.clone(), entry.node.to_json()?));
                Value::Object(entries.iter().map(pair).collect::<Result<_, _>>()?)
            }
        })
    }

    /// The entry of this key, in a table.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            NodeValue::Table(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// The items of a list; of anything else, none.
    pub(super) fn items(&self) -> &[Node] {
        match &self.value {
            NodeValue::List(items) => items,
            _ => &[],
        }
    }

    /// Words for what it is, for "takes a number, and this is a string".
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            NodeValue::Null => "null",
            NodeValue::Bool(_) => "a boolean",
            NodeValue::Number(number) if number.is_f64() => "a fraction",
            NodeValue::Number(_) => "a number",
            NodeValue::Text(_) => "a string",
            NodeValue::Foreign(_) => "a value that JSON does not have",
            NodeValue::List(_) => "a list",
            NodeValue::Table(_) => "a table",
        }
    }
}

/// Read from JSON directly, so that a key given twice is refused and not dropped.
impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = deserializer.deserialize_any(NodeVisitor)?;
        Ok(Node { at: None, value })
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = NodeValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }
    fn visit_unit<E: Error>(self) -> Result<NodeValue, E> {
        Ok(NodeValue::Null)
    }
    fn visit_bool<E: Error>(self, value: bool) -> Result<NodeValue, E> {
        Ok(NodeValue::Bool(value))
    }
    fn visit_i64<E: Error>(self, value: i64) -> Result<NodeValue, E> {
        Ok(NodeValue::Number(value.into()))
    }
    fn visit_u64<E: Error>(self, value: u64) -> Result<NodeValue, E> {
        Ok(NodeValue::Number(value.into()))
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<NodeValue, E> {
        Number::from_f64(value).map(NodeValue::Number).ok_or_else(|| E::custom("not a finite number"))
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<NodeValue, E> {
        Ok(NodeValue::Text(text.to_owned()))
    }
    fn visit_string<E: Error>(self, text: String) -> Result<NodeValue, E> {
        Ok(NodeValue::Text(text))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<NodeValue, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(NodeValue::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<NodeValue, A::Error> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        while let Some((key, node)) = pairs.next_entry::<String, Node>()? {
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format_args!("the key '{key}' stands twice in one object")));
            }
            entries.push(Entry { at: None, key, node });
        }
        Ok(NodeValue::Table(entries))
    }
}
