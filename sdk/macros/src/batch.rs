//! `#[batch(max = 32, wait = "2ms")]`: what it says, and what a caller of such a function sees: one element of what the
//! function takes and gives.

use std::time::Duration;

use quote::ToTokens;
use syn::spanned::Spanned;
use syn::{Attribute, Error, Expr, GenericArgument, Lit, PathArguments, Result, Signature, Type};

use crate::read::{Batch, Entry, is_result};

/// Entries of the life cycle: nobody calls them.
pub(crate) const NEVER: [&str; 4] = ["new", "reconfigure", "check_health", "ingress"];
/// How long the first member waits where nothing else is said; Ray Serve's default.
const WAIT_US: u64 = 10_000;
/// As the SDK has it.
const MAX: usize = 65_536;
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// Reads the attribute, and makes of the entry what one caller sees.
pub(crate) fn apply(entry: &mut Entry, attribute: &Attribute, signature: &Signature) -> Result<()> {
    let mut batch = options(attribute)?;
    if entry.exclusive {
        let why = "a batched function takes &self: its callers wait together, and `&mut self` lets in one at a time";
        return Err(Error::new(entry.receiver, why));
    }
    let shape = "a batched function takes one `Vec` and returns one, or a Result of one: `fn score(&self, rows: Vec<Row>) -> Vec<f32>`";
    let [parameter] = &mut entry.parameters[..] else {
        return Err(Error::new(signature.inputs.span(), shape));
    };
    parameter.ty = element(&parameter.ty).ok_or_else(|| Error::new(parameter.ty.span(), shape))?;
    let returned = entry.returns.take().ok_or_else(|| Error::new(signature.ident.span(), shape))?;
    let inside = if is_result(&returned) { first_of(&returned) } else { None };
    batch.fallible = inside.is_some();
    let whole = inside.as_ref().unwrap_or(&returned);
    entry.returns = Some(element(whole).ok_or_else(|| Error::new(returned.span(), shape))?);
    entry.batch = Some(batch);
    Ok(())
}

/// `T` of `Vec<T>`.
fn element(ty: &Type) -> Option<Type> {
    let Type::Path(path) = ty else { return None };
    path.path.segments.last().filter(|last| last.ident == "Vec")?;
    first_of(ty)
}

/// `T` of `X<T, ..>`.
pub(crate) fn first_of(ty: &Type) -> Option<Type> {
    let Type::Path(path) = ty else { return None };
    match &path.path.segments.last()?.arguments {
        PathArguments::AngleBracketed(arguments) => {
            arguments.args.iter().find_map(|argument| match argument {
                GenericArgument::Type(ty) => Some(ty.clone()),
                _ => None,
            })
        }
        _ => None,
    }
}

fn options(attribute: &Attribute) -> Result<Batch> {
    let (mut max, mut wait, mut concurrent) = (None, None, 0);
    attribute.parse_nested_meta(|option| {
        let value: Expr = option.value()?.parse()?;
        let name = option.path.get_ident().map(ToString::to_string).unwrap_or_default();
        match name.as_str() {
            "max" => max = Some(number(&value)?),
            "wait" => wait = Some(duration(&value)?),
            "concurrent" => concurrent = number(&value)?,
            _ => {
                return Err(option.error("#[batch] takes `max = 32`, `wait = \"2ms\"` and `concurrent = 1`"));
            }
        }
        Ok(())
    })?;
    let Some(max) = max else {
        return Err(Error::new(attribute.span(), "#[batch] says how many run together: #[batch(max = 32)]"));
    };
    let wait_us = wait.map_or(WAIT_US, |wait| u64::try_from(wait.as_micros()).unwrap_or(u64::MAX));
    Ok(Batch { max, wait_us, concurrent, fallible: false })
}

fn number(value: &Expr) -> Result<usize> {
    let wrong = || Error::new(value.span(), format!("a whole number from 1 to {MAX}"));
    let Expr::Lit(syn::ExprLit { lit: Lit::Int(number), .. }) = value else { return Err(wrong()) };
    let number = number.base10_parse::<usize>().map_err(|_| wrong())?;
    if (1..=MAX).contains(&number) { Ok(number) } else { Err(wrong()) }
}

fn duration(value: &Expr) -> Result<Duration> {
    let wrong = || {
        let found = value.to_token_stream();
        Error::new(
            value.span(),
            format!("a duration up to an hour, as \"500us\", \"2ms\" or \"1s\", not {found}"),
        )
    };
    let Expr::Lit(syn::ExprLit { lit: Lit::Str(text), .. }) = value else { return Err(wrong()) };
    let text = text.value();
    let split = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return Err(wrong()),
    };
    let number = number.trim().parse::<f64>().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(number * seconds).ok().filter(|wait| *wait <= WAIT_MAX).ok_or_else(wrong)
}
