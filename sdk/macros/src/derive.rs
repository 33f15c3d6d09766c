//! `Serialize` and `Deserialize` for crates that have only the SDK among their dependencies.
//!
//! serde's own derives write `serde::` into the author's crate, and a type must say `#[serde(crate = "..")]` to make
//! them write something else. So these derives make a twin of the type that says so, have serde derive for the twin
//! on behalf of the type (serde's `remote`), and forward to it. Every `#[serde(..)]` attribute goes along.

use proc_macro2::TokenStream as Tokens;
use quote::{ToTokens, quote};
use syn::punctuated::Punctuated;
use syn::{Attribute, Data, DeriveInput, Fields, GenericParam, Generics, Meta, Result, Token, parse_quote};

/// Which of the two.
#[derive(Clone, Copy)]
pub(crate) enum Direction {
    Serialize,
    Deserialize,
}

pub(crate) fn derive(direction: Direction, input: Tokens) -> Tokens {
    match twin(&input) {
        Ok((input, twin)) => match direction {
            Direction::Serialize => serialize(&input, &twin),
            Direction::Deserialize => deserialize(&input, &twin),
        },
        Err(error) => error.into_compile_error(),
    }
}

/// The type as it is, and its twin without a derive.
fn twin(input: &Tokens) -> Result<(DeriveInput, DeriveInput)> {
    let input: DeriveInput = syn::parse2(input.clone())?;
    let mut twin = input.clone();
    let name = input.ident.to_string();
    keep_serde(&mut twin.attrs);
    twin.attrs.iter_mut().try_for_each(default_of_the_type)?;
    match &mut twin.data {
        Data::Struct(data) => strip(&mut data.fields),
        Data::Enum(data) => data.variants.iter_mut().for_each(|variant| {
            keep_serde(&mut variant.attrs);
            strip(&mut variant.fields);
        }),
        Data::Union(data) => {
            return Err(syn::Error::new(data.union_token.span, "a union can't be read or written"));
        }
    }
    let given =
        twin.attrs.iter().map(|attribute| attribute.to_token_stream().to_string()).collect::<String>();
    if !given.contains("crate =") {
        twin.attrs.push(parse_quote!(#[serde(crate = "::decurion::serde")]));
    }
    if !given.contains("rename =") && !given.contains("rename (") {
        twin.attrs.push(parse_quote!(#[serde(rename = #name)]));
    }
    twin.attrs.push(parse_quote!(#[serde(remote = #name)]));
    twin.attrs.push(parse_quote!(#[allow(dead_code, reason = "only its shape is used")]));
    twin.ident = parse_quote!(__Twin);
    twin.vis = syn::Visibility::Inherited;
    Ok((input, twin))
}

fn serialize(input: &DeriveInput, twin: &DeriveInput) -> Tokens {
    let (name, twin_name) = (&input.ident, &twin.ident);
    let bounded = bounded(&input.generics, &quote!(::decurion::serde::Serialize));
    let (parameters, conditions) = (bounded.split_for_impl().0, bounded.where_clause.as_ref());
    let (_, arguments, _) = input.generics.split_for_impl();
    let turbofish = arguments.as_turbofish();
    quote! {
        const _: () = {
            #[derive(::decurion::serde::Serialize)]
            #twin

            impl #parameters ::decurion::serde::Serialize for #name #arguments #conditions {
                fn serialize<__S>(&self, serializer: __S) -> ::core::result::Result<__S::Ok, __S::Error>
                where
                    __S: ::decurion::serde::Serializer,
                {
                    #twin_name #turbofish ::serialize(self, serializer)
                }
            }
        };
    }
}

fn deserialize(input: &DeriveInput, twin: &DeriveInput) -> Tokens {
    let (name, twin_name) = (&input.ident, &twin.ident);
    let mut bounded = bounded(&input.generics, &quote!(::decurion::serde::Deserialize<'de>));
    for lifetime in input.generics.lifetimes() {
        let lifetime = &lifetime.lifetime;
        bounded.make_where_clause().predicates.push(parse_quote!('de: #lifetime));
    }
    bounded.params.insert(0, parse_quote!('de));
    let (parameters, conditions) = (bounded.split_for_impl().0, bounded.where_clause.as_ref());
    let (_, arguments, _) = input.generics.split_for_impl();
    let turbofish = arguments.as_turbofish();
    quote! {
        const _: () = {
            #[derive(::decurion::serde::Deserialize)]
            #twin

            impl #parameters ::decurion::serde::Deserialize<'de> for #name #arguments #conditions {
                fn deserialize<__D>(deserializer: __D) -> ::core::result::Result<Self, __D::Error>
                where
                    __D: ::decurion::serde::Deserializer<'de>,
                {
                    #twin_name #turbofish ::deserialize(deserializer)
                }
            }
        };
    }
}

/// The generics with a bound on each type parameter.
fn bounded(generics: &Generics, bound: &Tokens) -> Generics {
    let mut generics = generics.clone();
    for parameter in &mut generics.params {
        if let GenericParam::Type(parameter) = parameter {
            parameter.bounds.push(parse_quote!(#bound));
        }
    }
    generics
}

/// `default` on a container would ask for the twin's: make it a path, which serde takes for the type's.
fn default_of_the_type(attribute: &mut Attribute) -> Result<()> {
    let entries = attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)?;
    let entries = entries.into_iter().map(|entry| match entry {
        Meta::Path(path) if path.is_ident("default") => quote!(default = "::core::default::Default::default"),
        entry => entry.into_token_stream(),
    });
    *attribute = parse_quote!(#[serde(#(#entries),*)]);
    Ok(())
}

fn strip(fields: &mut Fields) {
    for field in fields {
        keep_serde(&mut field.attrs);
    }
}

fn keep_serde(attributes: &mut Vec<Attribute>) {
    attributes.retain(|attribute| attribute.path().is_ident("serde"));
}
