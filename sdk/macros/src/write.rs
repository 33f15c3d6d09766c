//! From what is known of a class to its code: the implementation of the SDK's `Class`, and the two symbols by which
//! host and tools find it. Everything is safe code but for the names of the symbols, which have to be unmangled.

use decurion_abi::{CLASS_SYMBOL_PREFIX, META_SYMBOL_PREFIX};
use proc_macro2::{Literal, Span, TokenStream as Tokens};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Ident, PathArguments, Type};

use crate::metadata;
use crate::read::{Batch, Class, Constructor, Entry, Parameter, is_result};

pub(crate) fn class(class: &Class) -> Tokens {
    let Class { item, ty, name, .. } = class;
    let metadata = metadata::of(class);
    let create = create(class);
    let mut batches = Vec::new();
    let mut batch = |entry: &Entry| {
        batches.push(batched(class, entry));
        of_place(entry, batches.len() - 1)
    };
    let call = optional(class.call.as_ref().map(|entry| match entry.batch {
        Some(_) => batch(entry),
        None => call(class, entry),
    }));
    let ingress = class.ingress.as_ref().map(ingress);
    let reconfigure = optional(class.reconfigure.as_ref().map(reconfigure));
    let check_health = optional(class.check_health.as_ref().map(check_health));
    let methods: Vec<Tokens> = class
        .methods
        .iter()
        .map(|entry| if entry.batch.is_some() { batch(entry) } else { method(class, entry) })
        .collect();
    let batches = (!batches.is_empty())
        .then(|| quote!(const BATCHES: &'static [__decurion::BatchEntry<Self>] = &[#(#batches),*];));
    let table = class.methods.iter().map(|entry| {
        let later = entry.is_async || entry.batch.is_some();
        let (name, exclusive, is_async) = (metadata::name_of(entry), entry.exclusive, later);
        let method = quote!(__decurion::method(#name, #exclusive, #is_async));
        if entry.streams { quote!(__decurion::streaming(#method)) } else { method }
    });
    let class_symbol = format_ident!("{CLASS_SYMBOL_PREFIX}{name}");
    let meta_symbol = format_ident!("{META_SYMBOL_PREFIX}{name}");
    let (meta_bytes, meta_len) = (Literal::byte_string(metadata.as_bytes()), metadata.len());
    quote! {
        #item

        const _: () = {
            use ::decurion::__private as __decurion;

            impl __decurion::Class for #ty {
                const NAME: &'static str = #name;
                const METADATA: &'static str = #metadata;
                const CALL: ::core::option::Option<__decurion::CallEntry<Self>> = #call;
                #ingress
                #batches
                const METHODS: &'static [__decurion::MethodEntry<Self>] = &[#(#methods),*];
                const METHOD_TABLE: &'static [__decurion::abi::Method] = &[#(#table),*];
                const RECONFIGURE: ::core::option::Option<__decurion::ReconfigureEntry<Self>> = #reconfigure;
                const CHECK_HEALTH: ::core::option::Option<__decurion::HealthEntry<Self>> = #check_health;

                fn create(__args: &[u8]) -> ::decurion::Result<Self> {
                    #create
                }
            }

            #[unsafe(no_mangle)]
            #[allow(non_upper_case_globals, reason = "the plugin ABI names it")]
            pub static #class_symbol: __decurion::abi::Class = __decurion::class_table::<#ty>();

            #[unsafe(no_mangle)]
            #[allow(non_upper_case_globals, reason = "the plugin ABI names it")]
            pub static #meta_symbol: [u8; #meta_len] = *#meta_bytes;
        };
    }
}

fn create(class: &Class) -> Tokens {
    let ty = &class.ty;
    let (parameters, made) = match &class.constructor {
        Constructor::Function { function, .. } => (&[][..], quote!(::core::result::Result::Ok(#function {}))),
        Constructor::Default => {
            let made = quote_spanned!(at(ty.span())=> <Self as ::core::default::Default>::default());
            (&[][..], quote!(::core::result::Result::Ok(#made)))
        }
        Constructor::New { parameters, returns, is_async } => {
            let values = values(parameters.len());
            let constructed =
                quote_spanned!(at(*returns)=> __decurion::Constructed::<Self>::constructed(__made));
            let new = awaited_here(*is_async, quote!(<#ty>::new(#(#values),*)));
            let made = quote! {
                let __made = #new;
                #constructed
            };
            (&parameters[..], made)
        }
    };
    let signature = signature(&format!("{}::new", class.name), parameters);
    let (values, types) = (values(parameters.len()), parameters.iter().map(|parameter| &parameter.ty));
    let checked = checked(parameters);
    quote! {
        #checked
        let (#(#values,)*): (#(#types,)*) = __decurion::constructor_arguments(__args, #signature)?;
        #made
    }
}

fn call(class: &Class, entry: &Entry) -> Tokens {
    let ty = &class.ty;
    let name = &entry.name;
    let request = entry.parameters.first().map(|parameter| {
        let request = Ident::new("__request", at(parameter.ty.span()));
        if matches!(parameter.ty, Type::Reference(_)) { quote!(&#request) } else { quote!(#request) }
    });
    let answer = match &class.constructor {
        Constructor::Function { function } => quote!(#function(#request)),
        _ => quote!(<#ty>::#name(__this, #request)),
    };
    let response = quote_spanned!(span_of_return(entry)=> __decurion::IntoResponse::into_response(__answer));
    let awaited = awaited(entry);
    let body = body(
        entry,
        &quote! {
            let __answer = #answer #awaited;
            #response
        },
    );
    made(entry, "CallEntry", &quote!(|__this, __request| #body))
}

fn ingress(entry: &Entry) -> Tokens {
    let name = &entry.name;
    let checked = quote_spanned!(at(entry.receiver)=> let _ = __decurion::shared::<Self>;);
    let made =
        quote_spanned!(span_of_return(entry)=> __decurion::IngressEntry::new(|__this| Self::#name(__this)));
    quote! {
        const INGRESS: ::core::option::Option<__decurion::IngressEntry<Self>> = ::core::option::Option::Some({
            #checked
            #made
        });
    }
}

fn method(class: &Class, entry: &Entry) -> Tokens {
    let ty = &class.ty;
    let name = &entry.name;
    let signature = signature(&format!("{}::{}", class.name, metadata::name_of(entry)), &entry.parameters);
    let values = values(entry.parameters.len());
    let types = entry.parameters.iter().map(|parameter| &parameter.ty);
    let checked = checked(&entry.parameters);
    let fallible = entry.fallible || (!entry.streams && entry.returns.as_ref().is_some_and(is_result));
    let question_mark = fallible.then(|| quote!(?));
    let returned = returned(entry);
    let (arguments, result) = if entry.streams {
        (quote!(stream_arguments), quote_spanned!(span_of_return(entry)=> __call.streamed(__result)))
    } else {
        (quote!(arguments), quote_spanned!(span_of_return(entry)=> __call.result(&__result)))
    };
    let read = entry.is_async.then(|| quote!(let __call = __decurion::Invocation::read(__call).await?;));
    let awaited = awaited(entry);
    let body = body(
        entry,
        &quote! {
            #checked
            #read
            let (#(#values,)*): (#(#types,)*) = __call.#arguments::<_, #returned>(#signature)?;
            let __result = <#ty>::#name(__this, #(#values),*) #awaited #question_mark;
            #result
        },
    );
    made(entry, "MethodEntry", &quote!(|__this, __call| #body))
}

/// The entry of a batched function: its place among the batches.
fn of_place(entry: &Entry, place: usize) -> Tokens {
    let kind = if entry.name == "call" { quote!(CallEntry) } else { quote!(MethodEntry) };
    let checked = quote_spanned!(at(entry.receiver)=> let _ = __decurion::shared::<Self>;);
    quote!({
        #checked
        __decurion::#kind::batched(#place)
    })
}

/// The batch itself: how one member's argument is read, and how the function runs for all of them.
fn batched(class: &Class, entry: &Entry) -> Tokens {
    let Some(Batch { max, wait_us, concurrent, fallible }) = entry.batch else { return Tokens::new() };
    let (ty, function) = (&class.ty, &entry.name);
    let name = metadata::name_of(entry);
    let full = format!("{}::{name}", class.name);
    let http = name == "call";
    let item_fails = entry.returns.as_ref().is_some_and(is_result);
    let read = if http {
        quote!(|__exchange| ::core::result::Result::Ok((__exchange.request(), ())))
    } else {
        let signature = signature(&full, &entry.parameters);
        let (value, returned) = (&entry.parameters[0].ty, returned(entry));
        let checked = checked(&entry.parameters);
        quote!(|__exchange| {
            #checked
            let __call = __exchange.read_now()?;
            let (__value,): (#value,) = __call.arguments::<_, #returned>(#signature)?;
            ::core::result::Result::Ok((__value, __call))
        })
    };
    let span = span_of_return(entry);
    let write = match (http, item_fails) {
        (true, _) => quote_spanned!(span=> |_, __answer| __decurion::Outcome::response(__answer)),
        (false, true) => {
            quote_spanned!(span=> |__call, __result| __decurion::Outcome::result(__call, &__result?))
        }
        (false, false) => {
            quote_spanned!(span=> |__call, __result| __decurion::Outcome::result(__call, &__result))
        }
    };
    let (awaited, question_mark) = (awaited(entry), fallible.then(|| quote!(?)));
    let body = body(
        entry,
        &quote! {
            let __results = <#ty>::#function(__this, __values) #awaited #question_mark;
            __decurion::answers(#full, __calls, __results, #write)
        },
    );
    let make = if entry.is_async { quote!(batched_async) } else { quote!(batched) };
    quote! {
        __decurion::BatchEntry::new(
            __decurion::Declared { name: #name, max: #max, wait_us: #wait_us, concurrent: #concurrent },
            || __decurion::#make(#read, |__this, __values, __calls| #body),
        )
    }
}

fn reconfigure(entry: &Entry) -> Tokens {
    let name = &entry.name;
    let checked = checked(&entry.parameters);
    let done = quote_spanned!(span_of_return(entry)=> __decurion::Done::done(__done));
    let run = awaited_here(entry.is_async, quote!(Self::#name(__this, __decurion::configuration(__config)?)));
    let body = quote! {
        |__this, __config| {
            #checked
            let __done = #run;
            #done
        }
    };
    waited(entry, "ReconfigureEntry", &body)
}

fn check_health(entry: &Entry) -> Tokens {
    let name = &entry.name;
    let done = quote_spanned!(span_of_return(entry)=> __decurion::Done::done(__done));
    let run = awaited_here(entry.is_async, quote!(Self::#name(__this)));
    let body = quote! {
        |__this| {
            let __done = #run;
            #done
        }
    };
    waited(entry, "HealthEntry", &body)
}

/// What an entry does, at once or as a future.
fn body(entry: &Entry, statements: &Tokens) -> Tokens {
    if entry.is_async {
        quote!(::std::boxed::Box::pin(async move { #statements }))
    } else {
        quote!({ #statements })
    }
}

fn awaited(entry: &Entry) -> Option<Tokens> {
    entry.is_async.then(|| quote!(.await))
}

/// A part of the life cycle: the host waits for it, async or not.
fn awaited_here(is_async: bool, run: Tokens) -> Tokens {
    if is_async { quote!(__decurion::block_on(#run)) } else { run }
}

/// An entry of its kind. Where the receiver is shared, it asks there that the type is `Sync`.
fn made(entry: &Entry, kind: &str, function: &Tokens) -> Tokens {
    of_kind(entry, kind, if entry.is_async { "_async" } else { "" }, function)
}

/// The same for a part of the life cycle.
fn waited(entry: &Entry, kind: &str, function: &Tokens) -> Tokens {
    of_kind(entry, kind, "", function)
}

fn of_kind(entry: &Entry, kind: &str, suffix: &str, function: &Tokens) -> Tokens {
    let (kind, alone, beside) =
        (format_ident!("{kind}"), format_ident!("exclusive{suffix}"), format_ident!("shared{suffix}"));
    if entry.exclusive {
        return quote!(__decurion::#kind::#alone(#function));
    }
    let checked = quote_spanned!(at(entry.receiver)=> let _ = __decurion::shared::<Self>;);
    quote!({
        #checked
        __decurion::#kind::#beside(#function)
    })
}

/// Asks of each parameter's type, where it stands, that it can be read from bytes.
fn checked(parameters: &[Parameter]) -> Tokens {
    let checks = parameters.iter().map(|parameter| {
        let ty = &parameter.ty;
        quote_spanned!(at(ty.span())=> let _ = __decurion::argument::<#ty>;)
    });
    quote!(#(#checks)*)
}

/// Where the author's code stands, marked as written by this macro.
fn at(span: Span) -> Span {
    Span::call_site().located_at(span)
}

fn optional(entry: Option<Tokens>) -> Tokens {
    match entry {
        Some(entry) => quote!(::core::option::Option::Some(#entry)),
        None => quote!(::core::option::Option::None),
    }
}

fn signature(name: &str, parameters: &[Parameter]) -> Tokens {
    let names = parameters.iter().map(|parameter| &parameter.name);
    quote!(__decurion::Signature { name: #name, parameters: &[#(#names),*] })
}

fn values(count: usize) -> Vec<Ident> {
    (0..count).map(|at| format_ident!("__value{at}")).collect()
}

/// What a method gives when it does not fail.
fn returned(entry: &Entry) -> Tokens {
    match &entry.returns {
        None => quote!(()),
        Some(Type::Path(path)) if is_result(&Type::Path(path.clone())) => {
            let last = path.path.segments.last().map(|last| &last.arguments);
            match last {
                Some(PathArguments::AngleBracketed(arguments)) if !arguments.args.is_empty() => {
                    arguments.args[0].to_token_stream()
                }
                // An alias that hides it: not compared.
                _ => quote!(__decurion::Hidden),
            }
        }
        Some(Type::ImplTrait(_)) => quote!(__decurion::Hidden),
        Some(ty) => ty.to_token_stream(),
    }
}

fn span_of_return(entry: &Entry) -> Span {
    at(entry.returns.as_ref().map_or(entry.name.span(), Spanned::span))
}
