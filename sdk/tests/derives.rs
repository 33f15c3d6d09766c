//! The prelude's derives behave as serde's own, without serde among a crate's dependencies.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Debug;

use decurion::json;
use decurion::prelude::*;
use decurion::serde::de::DeserializeOwned;

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, json: &Value) {
    assert_eq!(&decurion::serde_json::to_value(value).unwrap(), json);
    assert_eq!(&decurion::serde_json::from_value::<T>(json.clone()).unwrap(), value);
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct Settings {
    first_part: u8,
    #[serde(rename = "other", skip_serializing_if = "Option::is_none")]
    second: Option<String>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Shape {
    Round { radius: f64 },
    Named(Settings),
    Nothing,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Pair<A, B>(A, B);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
struct Even(u8);

impl TryFrom<u8> for Even {
    type Error = String;
    fn try_from(number: u8) -> std::result::Result<Self, String> {
        if number.is_multiple_of(2) { Ok(Self(number)) } else { Err(format!("{number} is odd")) }
    }
}

impl From<Even> for u8 {
    fn from(even: Even) -> u8 {
        even.0
    }
}

impl Clone for Even {
    fn clone(&self) -> Self {
        Self(self.0)
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Borrowed<'a> {
    #[serde(borrow)]
    text: Cow<'a, str>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Flat {
    #[serde(flatten)]
    rest: BTreeMap<String, u8>,
}

#[test]
fn containers_of_every_shape_go_there_and_back() {
    round_trip(&Settings { first_part: 3, second: None }, &json!({ "firstPart": 3 }));
    round_trip(&Shape::Round { radius: 0.5 }, &json!({ "kind": "round", "radius": 0.5 }));
    round_trip(&Shape::Nothing, &json!({ "kind": "nothing" }));
    let named = Shape::Named(Settings { first_part: 1, second: Some("x".to_owned()) });
    round_trip(&named, &json!({ "kind": "named", "firstPart": 1, "other": "x" }));
    round_trip(&Pair(1u8, "x".to_owned()), &json!([1, "x"]));
    round_trip(&Even(2), &json!(2));
    round_trip(&Flat { rest: BTreeMap::from([("a".to_owned(), 1)]) }, &json!({ "a": 1 }));
}

#[test]
fn what_is_borrowed_stays_borrowed() {
    let read: Borrowed<'_> = decurion::serde_json::from_str(r#"{"text": "x"}"#).unwrap();
    assert!(matches!(read.text, Cow::Borrowed("x")));
}

#[test]
fn errors_speak_of_the_type_itself() {
    let error = |json: &str| decurion::serde_json::from_str::<Settings>(json).unwrap_err().to_string();
    assert!(error(r#"{"x": 1}"#).starts_with("unknown field `x`, expected `firstPart` or `other`"));
    assert!(error("3").contains("expected struct Settings"), "{}", error("3"));
    assert!(decurion::serde_json::from_str::<Even>("3").unwrap_err().to_string().contains("3 is odd"));
}
