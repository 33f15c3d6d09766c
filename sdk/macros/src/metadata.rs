//! The metadata of a class: one line of JSON, as the ABI has it, and types as their author wrote them.

use std::fmt::Write;

use decurion_abi::{ABI_MAJOR, ABI_MINOR};
use proc_macro2::{Delimiter, TokenStream as Tokens, TokenTree};
use quote::ToTokens;

use crate::read::{Batch, Class, Entry};

pub(crate) fn of(class: &Class) -> String {
    let sdk = concat!("rust ", env!("CARGO_PKG_VERSION"));
    let mut json =
        format!("{{\"abi\":[{ABI_MAJOR},{ABI_MINOR}],\"sdk\":\"{sdk}\",\"class\":{}", text(&class.name));
    for (field, entry) in [
        ("call", &class.call),
        ("call", &class.ingress),
        ("reconfigure", &class.reconfigure),
        ("check_health", &class.check_health),
    ] {
        if let Some(entry) = entry {
            let _ = write!(json, ",\"{field}\":\"{}\"", concurrency(entry));
        }
    }
    let call_batch = class.call.as_ref().and_then(|call| call.batch);
    if let Some(batch) = call_batch {
        let _ = write!(json, ",\"call_batch\":{}", of_batch(batch));
    }
    let batches = call_batch.is_some() || class.methods.iter().any(|method| method.batch.is_some());
    if batches && class.reconfigure.is_none() {
        // The batches' limits.
        json.push_str(",\"reconfigure\":\"shared\"");
    }
    let methods: Vec<String> = class.methods.iter().map(method).collect();
    let _ = write!(json, ",\"encodings\":[\"bincode\",\"json\"],\"methods\":[{}]}}", methods.join(","));
    json
}

fn method(entry: &Entry) -> String {
    let list = |texts: Vec<String>| texts.iter().map(|one| text(one)).collect::<Vec<_>>().join(",");
    let stream = if entry.streams { ",\"stream\":true" } else { "" };
    let batch = entry.batch.map_or(String::new(), |batch| format!(",\"batch\":{}", of_batch(batch)));
    format!(
        "{{\"name\":{},\"concurrency\":\"{}\",\"arguments\":[{}],\"parameters\":[{}],\"returns\":{}{batch}{stream}}}",
        text(&name_of(entry)),
        concurrency(entry),
        list(entry.parameters.iter().map(|parameter| written(&parameter.ty)).collect()),
        list(entry.parameters.iter().map(|parameter| parameter.name.clone()).collect()),
        text(&entry.returns.as_ref().map_or("()".to_owned(), written)),
    )
}

fn of_batch(batch: Batch) -> String {
    format!("{{\"max\":{},\"wait_us\":{}}}", batch.max, batch.wait_us)
}

pub(crate) fn name_of(entry: &Entry) -> String {
    let name = entry.name.to_string();
    name.strip_prefix("r#").map_or(name.clone(), str::to_owned)
}

fn concurrency(entry: &Entry) -> &'static str {
    if entry.exclusive { "exclusive" } else { "shared" }
}

/// A type as one would write it: `Vec<(String, f64)>`.
pub(crate) fn written(ty: &impl ToTokens) -> String {
    let mut out = String::new();
    write_tokens(ty.to_token_stream(), &mut out);
    out
}

fn write_tokens(tokens: Tokens, out: &mut String) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::None => ("", ""),
                };
                out.push_str(open);
                write_tokens(group.stream(), out);
                out.push_str(close);
            }
            TokenTree::Punct(punct) => {
                out.push(punct.as_char());
                if matches!(punct.as_char(), ',' | ';') {
                    out.push(' ');
                }
            }
            word => {
                if out.ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                    out.push(' ');
                }
                out.push_str(&word.to_string());
            }
        }
    }
}

/// A JSON string.
fn text(text: &str) -> String {
    let mut json = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(json, "\\u{:04x}", u32::from(c));
            }
            c => json.push(c),
        }
    }
    json.push('"');
    json
}
