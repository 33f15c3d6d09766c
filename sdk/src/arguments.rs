//! From the bytes of a constructor's, a method's or a configuration's arguments to typed values, with errors that name
//! what did not fit. JSON comes by name, by position, or as one value alone; bincode is the tuple.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::codec;

/// Who takes the arguments, for errors: `Model::predict` and its parameters.
#[derive(Clone, Copy, Debug)]
pub struct Signature {
    /// As an error should call it.
    pub name: &'static str,
    /// Names of the parameters.
    pub parameters: &'static [&'static str],
}

/// Why arguments do not fit.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum ArgumentError {
    #[error("the arguments of {name} are not JSON: {why}")]
    NotJson { name: &'static str, why: String },
    #[error("{name} takes {}, and {given} were given", takes(parameters))]
    Count { name: &'static str, parameters: &'static [&'static str], given: usize },
    #[error("{name} has no argument '{unknown}'; it takes {}", takes(parameters))]
    Unknown { name: &'static str, parameters: &'static [&'static str], unknown: String },
    #[error("argument '{parameter}' of {name} is missing")]
    Missing { name: &'static str, parameter: &'static str },
    #[error("argument '{parameter}' of {name}: {why}")]
    Type { name: &'static str, parameter: &'static str, why: String },
    #[error("{name} takes {}: an object by name or an array by position", takes(parameters))]
    Shape { name: &'static str, parameters: &'static [&'static str] },
    #[error("the arguments of {name} ({}) do not fit: {why}", parameters.join(", "))]
    Bincode { name: &'static str, parameters: &'static [&'static str], why: String },
    #[error("the arguments of {name} need JSON: {why}")]
    NeedsJson { name: &'static str, why: String },
    #[error("{name} takes {ours}, and the call has {theirs}")]
    Types { name: &'static str, ours: String, theirs: String },
}

/// The tuple of a method's parameters. Implemented for tuples of up to 12.
pub trait Parameters: Sized {
    #[doc(hidden)]
    fn from_slots(slots: Slots) -> Result<Self, SlotError>;
    #[doc(hidden)]
    fn from_bincode(bytes: &[u8], signature: Signature) -> Result<Self, SlotError>;
}

/// Arguments of a call: a tuple, `(0.7,)` for one. Implemented for tuples of up to 12.
#[diagnostic::on_unimplemented(
    message = "the arguments of a call are a tuple, and `{Self}` is none",
    note = "write `(value,)` for a single argument and `()` for none"
)]
pub trait Arguments: Serialize {}

/// Arguments that are known when the program runs: an array by position, an object by name. They travel as JSON.
impl Arguments for Value {}

/// The same as text that is handed on as it is.
impl Arguments for Box<RawValue> {}

/// Hides the module's own error in the signatures of traits that must be public.
#[derive(Debug)]
pub struct SlotError(pub(crate) ArgumentError);

/// JSON arguments in the order of the parameters; `None` where one was not given.
#[derive(Debug)]
pub struct Slots {
    signature: Signature,
    values: std::vec::IntoIter<Option<Value>>,
    at: usize,
}

/// Reads arguments from JSON: `null` for none, an object by name, an array by position; where there is one parameter,
/// anything else is that one's value.
pub(crate) fn from_json<T: Parameters>(json: &[u8], signature: Signature) -> Result<T, ArgumentError> {
    let value = if json.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(json) };
    let value =
        value.map_err(|error| ArgumentError::NotJson { name: signature.name, why: error.to_string() })?;
    let Signature { name, parameters } = signature;
    let read = |values| T::from_slots(Slots::new(signature, values)).map_err(|error| error.0);
    let (by_rule, alone) = match (value, parameters) {
        (Value::Null, _) => return read(vec![None; parameters.len()]),
        (Value::Array(values), [_]) if values.len() == 1 => {
            (values.iter().cloned().map(Some).collect(), Value::Array(values))
        }
        (Value::Array(values), [_]) => {
            let given = values.len();
            return read(vec![Some(Value::Array(values))]).map_err(|error| match error {
                ArgumentError::Type { why, .. } if why.starts_with("invalid type: sequence") => {
                    ArgumentError::Count { name, parameters, given }
                }
                error => error,
            });
        }
        (Value::Array(values), _) if values.len() > parameters.len() => {
            return Err(ArgumentError::Count { name, parameters, given: values.len() });
        }
        (Value::Array(values), _) => {
            let mut values: Vec<_> = values.into_iter().map(Some).collect();
            values.resize(parameters.len(), None);
            return read(values);
        }
        (Value::Object(mut fields), [only]) => match fields.remove(*only) {
            Some(value) if fields.is_empty() => {
                let whole = Map::from_iter([((*only).to_owned(), value.clone())]);
                (vec![Some(value)], Value::Object(whole))
            }
            Some(_) => return Err(unknown(signature, &fields)),
            None => {
                // Either the one value itself, or a misspelt name: the type tells.
                let better = match fields.len() {
                    0 => Some(ArgumentError::Missing { name, parameter: only }),
                    1 => Some(unknown(signature, &fields)),
                    _ => None,
                };
                return read(vec![Some(Value::Object(fields))]).map_err(|error| better.unwrap_or(error));
            }
        },
        (Value::Object(mut fields), _) => {
            let values = parameters.iter().map(|parameter| fields.remove(*parameter)).collect();
            if !fields.is_empty() {
                return Err(unknown(signature, &fields));
            }
            return read(values);
        }
        (value, [_]) => return read(vec![Some(value)]),
        (_, _) => return Err(ArgumentError::Shape { name, parameters }),
    };
    // One parameter and one value in brackets: by position or by name where it fits, else it is the value itself.
    read(by_rule).or_else(|error| read(vec![Some(alone)]).map_err(|_| error))
}

/// Reads one JSON value, naming the field that does not fit.
pub(crate) fn value_from_json<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    serde_json::from_slice(json).or_else(|_| {
        let mut reader = serde_json::Deserializer::from_slice(json);
        let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| named(&error))?;
        reader.end().map_err(|error| error.to_string())?;
        Ok(value)
    })
}

impl Slots {
    fn new(signature: Signature, values: Vec<Option<Value>>) -> Self {
        Self { signature, values: values.into_iter(), at: 0 }
    }

    fn next<T: DeserializeOwned>(&mut self) -> Result<T, SlotError> {
        let Signature { name, parameters } = self.signature;
        let parameter = parameters.get(self.at).copied().unwrap_or("?");
        self.at += 1;
        let error = match self.values.next().flatten() {
            // An `Option` may be left out.
            None => match T::deserialize(Value::Null) {
                Ok(value) => return Ok(value),
                Err(_) => ArgumentError::Missing { name, parameter },
            },
            Some(value) => match serde_path_to_error::deserialize(value) {
                Ok(value) => return Ok(value),
                Err(error) => ArgumentError::Type { name, parameter, why: named(&error) },
            },
        };
        Err(SlotError(error))
    }
}

/// The text of an error with the path to the field, where there is one.
fn named<E: std::fmt::Display>(error: &serde_path_to_error::Error<E>) -> String {
    let path = error.path().to_string();
    if path == "." { error.inner().to_string() } else { format!("field '{path}': {}", error.inner()) }
}

fn unknown(signature: Signature, fields: &Map<String, Value>) -> ArgumentError {
    let unknown = fields.keys().next().cloned().unwrap_or_default();
    ArgumentError::Unknown { name: signature.name, parameters: signature.parameters, unknown }
}

fn takes(parameters: &[&str]) -> String {
    match parameters {
        [] => "no arguments".to_owned(),
        [one] => format!("one argument ({one})"),
        more => format!("{} arguments ({})", more.len(), more.join(", ")),
    }
}

macro_rules! tuples {
    ($($type:ident)*) => {
        impl<$($type: DeserializeOwned),*> Parameters for ($($type,)*) {
            fn from_slots(#[allow(unused_mut, reason = "not used where there are none")] mut slots: Slots) -> Result<Self, SlotError> {
                $(#[allow(non_snake_case, reason = "named as its type")] let $type = slots.next::<$type>()?;)*
                let _ = slots;
                Ok(($($type,)*))
            }

            fn from_bincode(bytes: &[u8], signature: Signature) -> Result<Self, SlotError> {
                codec::decode(bytes).map_err(|error| {
                    let Signature { name, parameters } = signature;
                    let why = error.to_string();
                    SlotError(match error {
                        codec::CodecError::NeedsJson => ArgumentError::NeedsJson { name, why },
                        codec::CodecError::Malformed(_) => ArgumentError::Bincode { name, parameters, why },
                    })
                })
            }
        }
        impl<$($type: Serialize),*> Arguments for ($($type,)*) {}
    };
}

tuples!();
tuples!(A);
tuples!(A B);
tuples!(A B C);
tuples!(A B C D);
tuples!(A B C D E);
tuples!(A B C D E F);
tuples!(A B C D E F G);
tuples!(A B C D E F G H);
tuples!(A B C D E F G H I);
tuples!(A B C D E F G H I J);
tuples!(A B C D E F G H I J K);
tuples!(A B C D E F G H I J K L);

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Signature = Signature { name: "Model::new", parameters: &["msg"] };
    const TWO: Signature = Signature { name: "Model::new", parameters: &["msg", "threshold"] };
    const NONE: Signature = Signature { name: "Model::new", parameters: &[] };

    fn two(json: &str) -> Result<(String, f64), String> {
        from_json(json.as_bytes(), TWO).map_err(|error| error.to_string())
    }

    fn one<T: DeserializeOwned>(json: &str) -> Result<T, String> {
        from_json::<(T,)>(json.as_bytes(), ONE).map(|(value,)| value).map_err(|error| error.to_string())
    }

    #[test]
    fn arguments_come_by_name_and_by_position() {
        assert_eq!(two(r#"{"threshold": 0.5, "msg": "hi"}"#), Ok(("hi".to_owned(), 0.5)));
        assert_eq!(two(r#"["hi", 0.5]"#), Ok(("hi".to_owned(), 0.5)));
    }

    #[test]
    fn one_argument_may_stand_alone() {
        for json in [r#""hi""#, r#"["hi"]"#, r#"{"msg":"hi"}"#] {
            assert_eq!(one(json), Ok("hi".to_owned()), "{json}");
        }
        assert_eq!(one("[1, 2]"), Ok(vec![1, 2]));
        assert_eq!(one("[1]"), Ok(vec![1]));
        assert_eq!(one("[[1]]"), Ok(vec![1]));
        assert_eq!(one(r#"{"a": 1}"#), Ok(Map::from_iter([("a".to_owned(), Value::from(1))])));
    }

    #[test]
    fn an_option_may_be_left_out() {
        assert_eq!(one::<Option<u8>>("null"), Ok(None));
        assert_eq!(one::<Value>("null"), Ok(Value::Null));
        assert_eq!(from_json::<(u8, Option<u8>)>(b"[1]", TWO), Ok((1, None)));
        assert_eq!(from_json::<(u8, Option<u8>)>(br#"{"msg":1}"#, TWO), Ok((1, None)));
    }

    #[test]
    fn errors_name_the_argument() {
        for (json, error) in [
            (r#"{"msg": "hi"}"#, "argument 'threshold' of Model::new is missing"),
            (r#"["hi"]"#, "argument 'threshold' of Model::new is missing"),
            ("null", "argument 'msg' of Model::new is missing"),
            (
                r#"{"msg": "hi", "treshold": 1}"#,
                "Model::new has no argument 'treshold'; it takes 2 arguments (msg, threshold)",
            ),
            (r#"["hi", 1, 2]"#, "Model::new takes 2 arguments (msg, threshold), and 3 were given"),
            (
                r#"["hi", "high"]"#,
                "argument 'threshold' of Model::new: invalid type: string \"high\", expected f64",
            ),
            ("3", "Model::new takes 2 arguments (msg, threshold): an object by name or an array by position"),
        ] {
            assert_eq!(two(json).unwrap_err(), error, "{json}");
        }
        assert!(two("{").unwrap_err().starts_with("the arguments of Model::new are not JSON: EOF"));
    }

    #[test]
    fn a_single_parameter_that_is_not_given_is_named() {
        for json in ["", "null", "{}"] {
            assert_eq!(one::<u8>(json).unwrap_err(), "argument 'msg' of Model::new is missing", "{json}");
        }
    }

    #[test]
    fn an_unknown_name_beside_a_single_parameter_is_named() {
        let error = one::<String>(r#"{"mgs": "hi"}"#).unwrap_err();
        assert_eq!(error, "Model::new has no argument 'mgs'; it takes one argument (msg)");
        let error = one::<String>(r#"{"msg": "hi", "more": 1}"#).unwrap_err();
        assert_eq!(error, "Model::new has no argument 'more'; it takes one argument (msg)");
        assert_eq!(
            one::<u8>(r#"["x"]"#).unwrap_err(),
            "argument 'msg' of Model::new: invalid type: string \"x\", expected u8"
        );
    }

    #[test]
    fn too_many_for_a_single_parameter_are_counted() {
        let error = one::<u8>("[1, 2]").unwrap_err();
        assert_eq!(error, "Model::new takes one argument (msg), and 2 were given");
        let error = one::<Vec<u8>>(r#"[1, "x"]"#).unwrap_err();
        assert_eq!(
            error,
            "argument 'msg' of Model::new: field '[1]': invalid type: string \"x\", expected u8"
        );
    }

    #[test]
    fn no_parameters_take_nothing() {
        for json in ["", "null", "[]", "{}"] {
            assert_eq!(from_json::<()>(json.as_bytes(), NONE), Ok(()), "{json}");
        }
        let error = from_json::<()>(br#"{"a":1}"#, NONE).unwrap_err();
        assert_eq!(error.to_string(), "Model::new has no argument 'a'; it takes no arguments");
    }

    #[test]
    fn a_field_deep_inside_is_named() {
        #[derive(Debug, serde::Deserialize)]
        struct Config {
            #[expect(dead_code, reason = "only read for its errors")]
            rows: Vec<(u8, f64)>,
        }
        let error = value_from_json::<Config>(br#"{"rows": [[1, 2.0], [1, "x"]]}"#).unwrap_err();
        assert!(error.starts_with("field 'rows[1][1]': invalid type: string \"x\", expected f64"), "{error}");
        let error = value_from_json::<Config>(b"{}").unwrap_err();
        assert!(error.contains("missing field `rows`"), "{error}");
    }

    #[test]
    fn bincode_is_the_tuple() {
        let bytes = codec::encode(&("hi", 0.5)).unwrap();
        assert_eq!(<(String, f64)>::from_bincode(&bytes, TWO).unwrap(), ("hi".to_owned(), 0.5));
        let error = <(String, f32)>::from_bincode(&bytes, TWO).unwrap_err().0.to_string();
        assert!(error.starts_with("the arguments of Model::new (msg, threshold) do not fit"), "{error}");
    }
}
