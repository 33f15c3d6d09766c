//! Whether two ends of a bincode call mean the same types. bincode does not describe itself: an i64 read as an f64 is
//! a number, too. So the caller says what it writes and expects, by Rust's own names of the types, and the callee
//! refuses before anything runs what would be misread. (The caller then calls again with JSON, which does describe
//! itself.)
//!
//! Names of structures differ between libraries and say nothing of their fields; those are taken on trust. What is
//! compared is what the language and the standard library define: numbers, text, tuples, lists, maps, options.

use std::any::type_name;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use decurion_abi::TYPES_HEADER_MAX;

use crate::codec;

/// What is to be known of a call's types before it is made.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// What the caller writes and expects: `(f64,) => alloc::string::String`. `None` where it would be too long.
    pub(crate) said: Option<Arc<str>>,
    /// One of the types is known to need JSON.
    pub(crate) need_json: bool,
}

/// Of a call with arguments of type `A` and a result of type `R`.
pub(crate) fn of_call<A: ?Sized, R: ?Sized>() -> Known {
    known(type_name::<A>(), type_name::<R>())
}

/// The same where the result's type is not known yet.
pub(crate) fn of_start<A: ?Sized>() -> Known {
    known(type_name::<A>(), "_")
}

/// Found out once for each thread: the same few calls are made again and again.
fn known(arguments: &'static str, result: &'static str) -> Known {
    /// Where the names stand, which is quicker to compare than what they are. As many as the code has calls.
    type Names = (usize, usize, usize, usize);
    thread_local! {
        static KNOWN: RefCell<BTreeMap<Names, Known>> = const { RefCell::new(BTreeMap::new()) };
    }
    let names = (arguments.as_ptr().addr(), arguments.len(), result.as_ptr().addr(), result.len());
    KNOWN.with_borrow_mut(|known| known.entry(names).or_insert_with(|| Known::of(arguments, result)).clone())
}

impl Known {
    fn of(arguments: &str, result: &str) -> Self {
        let said = [arguments, SEPARATOR, result].concat();
        Self {
            said: (said.len() <= TYPES_HEADER_MAX && said.is_ascii()).then(|| said.into()),
            need_json: codec::needs_json(arguments) || codec::needs_json(result),
        }
    }
}

/// No type's name has it.
const SEPARATOR: &str = " => ";

/// The parts of what a caller said.
pub(crate) fn split(types: &str) -> (&str, &str) {
    // Its last `=`: no type's name has one, and to look for that is quicker than for the whole.
    let at = types.bytes().rposition(|byte| byte == b'=').and_then(|at| at.checked_sub(1));
    let parts = at.and_then(|at| types.split_at_checked(at));
    parts
        .and_then(|(arguments, rest)| Some((arguments, rest.strip_prefix(SEPARATOR)?)))
        .unwrap_or((types, "_"))
}

/// Whether bytes written as the one type can be read as the other, as far as names tell. What a thread has seen to fit, it
/// remembers.
pub(crate) fn fits(theirs: &str, ours: &'static str) -> bool {
    /// By where a name of ours stands, and its length.
    type Seen = BTreeMap<(usize, usize), Vec<Box<str>>>;
    thread_local! {
        static SEEN: RefCell<Seen> = const { RefCell::new(BTreeMap::new()) };
    }
    if theirs == ours {
        return true;
    }
    SEEN.with_borrow_mut(|seen| {
        let seen = seen.entry((ours.as_ptr().addr(), ours.len())).or_default();
        if seen.iter().any(|seen| **seen == *theirs) {
            return true;
        }
        let fits = Type::parse(theirs).fits(&Type::parse(ours));
        if fits && seen.len() < SEEN_MAX {
            seen.push(theirs.into());
        }
        fits
    })
}

/// Names that are remembered to fit one of ours: they come from other processes.
const SEEN_MAX: usize = 8;

/// A type's name without the paths: `Vec<String>`.
pub(crate) fn short(name: &str) -> String {
    let mut short = String::new();
    let mut word = String::new();
    for c in name.chars() {
        match c {
            c if c.is_alphanumeric() || c == '_' => word.push(c),
            ':' => word.clear(),
            other => {
                short.push_str(&word);
                word.clear();
                short.push(other);
            }
        }
    }
    short + &word
}

#[derive(Debug, PartialEq)]
enum Type<'a> {
    /// A number, a bool, a char, text, under one name for each form on the wire.
    Scalar(&'a str),
    Tuple(Vec<Type<'a>>),
    /// A length, then the elements.
    List(Box<Type<'a>>),
    Map(Box<Type<'a>>, Box<Type<'a>>),
    Optional(Box<Type<'a>>),
    /// Needs an encoding that describes itself.
    Value,
    /// Nothing is known.
    Unknown,
}

impl<'a> Type<'a> {
    fn parse(name: &'a str) -> Self {
        let mut reader = Reader { rest: name, depth: 0 };
        let ty = reader.ty();
        if reader.rest.trim().is_empty() { ty } else { Type::Unknown }
    }

    fn fits(&self, other: &Type<'a>) -> bool {
        match (self, other) {
            (Type::Value, _) | (_, Type::Value) => false,
            (Type::Unknown, _) | (_, Type::Unknown) => true,
            (Type::Scalar(a), Type::Scalar(b)) => a == b,
            (Type::Tuple(a), Type::Tuple(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.fits(b)),
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => a.fits(b),
            (Type::Map(a, x), Type::Map(b, y)) => a.fits(b) && x.fits(y),
            _ => false,
        }
    }
}

/// Reads the names that `std::any::type_name` gives. What it does not know is `Unknown`.
struct Reader<'a> {
    rest: &'a str,
    depth: usize,
}

/// Types inside types, at most: the name came from another process.
const DEPTH_MAX: usize = 32;

impl<'a> Reader<'a> {
    fn ty(&mut self) -> Type<'a> {
        self.depth += 1;
        let ty = if self.depth > DEPTH_MAX { self.give_up() } else { self.ty_at_depth() };
        self.depth -= 1;
        ty
    }

    fn ty_at_depth(&mut self) -> Type<'a> {
        self.rest = self.rest.trim_start();
        if self.eat("&") {
            self.lifetime();
            self.eat("mut ");
            return self.ty();
        }
        if self.eat("(") {
            return Type::Tuple(self.list(")"));
        }
        if self.eat("[") {
            return self.slice_or_array();
        }
        let end = self
            .rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
            .unwrap_or(self.rest.len());
        let (path, rest) = self.rest.split_at(end);
        self.rest = rest;
        let parameters = if self.eat("<") { self.list(">") } else { Vec::new() };
        named(path, parameters)
    }

    fn slice_or_array(&mut self) -> Type<'a> {
        let element = self.ty();
        if self.eat("]") {
            return Type::List(Box::new(element));
        }
        // An array is as long as its type says, and so is written as a tuple is: its length is not compared.
        match self.rest.split_once(']') {
            Some((length, rest)) if length.starts_with(';') => {
                self.rest = rest;
                Type::Unknown
            }
            _ => self.give_up(),
        }
    }

    fn list(&mut self, end: &str) -> Vec<Type<'a>> {
        let mut types = Vec::new();
        loop {
            self.rest = self.rest.trim_start();
            if self.eat(end) {
                return types;
            }
            if self.rest.is_empty() {
                return types;
            }
            if !self.lifetime() {
                types.push(self.ty());
            }
            self.rest = self.rest.trim_start();
            if !self.eat(",") && !self.rest.starts_with(end) {
                self.give_up();
            }
        }
    }

    /// Passes over a lifetime, which bytes know nothing of.
    fn lifetime(&mut self) -> bool {
        let found = self.eat("'");
        if found {
            let name = |c: char| c.is_alphanumeric() || c == '_';
            self.rest = self.rest.trim_start_matches(name).trim_start();
        }
        found
    }

    fn eat(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn give_up(&mut self) -> Type<'a> {
        self.rest = "";
        Type::Unknown
    }
}

fn named<'a>(path: &'a str, mut parameters: Vec<Type<'a>>) -> Type<'a> {
    if path.starts_with("serde_json::") {
        return Type::Value;
    }
    if path.starts_with("bytes::") && path.ends_with("::Bytes") {
        return Type::List(Box::new(Type::Scalar("u8")));
    }
    let last = path.rsplit("::").next().unwrap_or(path);
    let ours = path == last || ["alloc::", "core::", "std::"].iter().any(|root| path.starts_with(root));
    let mut boxed =
        |at: usize| Box::new(if at < parameters.len() { parameters.remove(at) } else { Type::Unknown });
    match last {
        _ if !ours => Type::Unknown,
        "usize" => Type::Scalar("u64"),
        "isize" => Type::Scalar("i64"),
        "bool" | "char" | "f32" | "f64" | "i8" | "i16" | "i32" | "i64" | "i128" | "u8" | "u16" | "u32"
        | "u64" | "u128" => Type::Scalar(last),
        "str" | "String" => Type::Scalar("String"),
        "Box" | "Rc" | "Arc" | "Cow" => *boxed(0),
        "Vec" | "VecDeque" | "HashSet" | "BTreeSet" | "LinkedList" | "BinaryHeap" => Type::List(boxed(0)),
        "HashMap" | "BTreeMap" => {
            let key = boxed(0);
            Type::Map(key, boxed(0))
        }
        "Option" => Type::Optional(boxed(0)),
        _ => Type::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::any::type_name;
    use std::borrow::Cow;
    use std::collections::{BTreeMap, HashMap};

    use super::*;

    struct Own;

    fn fit<A, B>() -> bool {
        fits(type_name::<A>(), type_name::<B>())
    }

    #[test]
    fn more_names_than_are_remembered_fit_all_the_same() {
        for round in 0..3 {
            for length in 0..2 * SEEN_MAX {
                assert!(
                    fits(&"&".repeat(length), "f64"),
                    "a name that makes no sense is unknown: {length}, {round}"
                );
                assert!(fits(&format!("{}f64", "&".repeat(length)), "f64"));
                assert!(!fits(&format!("{}f32", "&".repeat(length)), "f64"));
            }
        }
    }

    #[test]
    fn the_same_bytes_under_other_names_fit() {
        assert!(fit::<(&str, &[f64]), (String, Vec<f64>)>());
        assert!(fit::<(&&String, Box<u8>), (Cow<'_, str>, u8)>());
        assert!(fit::<(usize, isize), (u64, i64)>());
        assert!(fit::<HashMap<&str, Option<&Own>>, BTreeMap<String, Option<Own>>>());
        assert!(fit::<(Own, [u8; 4]), (u64, (u8, u8, u8, u8))>());
        assert!(fit::<(crate::Bytes,), (Vec<u8>,)>() && fit::<&[u8], crate::Bytes>());
        assert!(fit::<(), ()>());
    }

    #[test]
    fn what_would_be_misread_does_not_fit() {
        assert!(!fit::<(i64,), (f64,)>());
        assert!(!fit::<(i32,), (f64,)>());
        assert!(!fit::<(u8, u8), (u8,)>());
        assert!(!fit::<Vec<f32>, Vec<f64>>());
        assert!(!fit::<Option<f64>, f64>());
        assert!(!fit::<String, u64>());
        assert!(!fit::<String, crate::Bytes>());
        assert!(!fit::<BTreeMap<String, f32>, BTreeMap<String, f64>>());
        assert!(!fit::<Vec<serde_json::Value>, Vec<Own>>());
        assert!(!fit::<(Own,), (serde_json::Value,)>());
    }

    #[test]
    fn names_that_make_no_sense_are_unknown() {
        let deep: &'static str = "(".repeat(100_000).leak();
        for name in ["", "(", "(f64", "[f64", "[f64;", "Vec<", "<T as X>::Y", "dyn Fn(u8) -> u8", "(,)", deep]
        {
            let _ = fits(name, "f64");
            let _ = fits("(f64,)", name);
        }
        assert!(fits("_", "f64"));
    }

    #[test]
    fn types_are_said_and_split() {
        let types = of_call::<(f64,), Result<String, fn(u8) -> u8>>().said.unwrap();
        assert_eq!(split(&types).0, "(f64,)");
        assert_eq!(split(&of_start::<(f64,)>().said.unwrap()), ("(f64,)", "_"));
        assert_eq!(short(type_name::<(Vec<String>, Own)>()), "(Vec<String>, Own)");
    }
}
