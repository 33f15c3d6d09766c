//! From an author's item to what is known of the class, with errors at the part that does not fit.

use proc_macro2::{Span, TokenStream as Tokens};
use quote::{ToTokens, format_ident};
use syn::spanned::Spanned;
use syn::{
    Attribute, Error, FnArg, Ident, ImplItem, ImplItemFn, Item, ItemFn, ItemImpl, Pat, ReceiverKind, Result,
    ReturnType, Safety, Signature, Type, Visibility,
};

use crate::batch;

/// A class to be written.
pub(crate) struct Class {
    /// The item as the compiler gets it.
    pub(crate) item: Tokens,
    /// Its type.
    pub(crate) ty: Type,
    /// Its name, for symbols.
    pub(crate) name: String,
    pub(crate) constructor: Constructor,
    pub(crate) call: Option<Entry>,
    /// Where a router for HTTP comes from, instead of `call`.
    pub(crate) ingress: Option<Entry>,
    pub(crate) reconfigure: Option<Entry>,
    pub(crate) check_health: Option<Entry>,
    pub(crate) methods: Vec<Entry>,
}

/// Where an instance comes from.
pub(crate) enum Constructor {
    /// A function has no state: this type stands for it.
    Function { function: Ident },
    /// `new`, and where its return type stands.
    New { parameters: Vec<Parameter>, returns: Span, is_async: bool },
    /// `Default::default`.
    Default,
}

/// One function of the class.
pub(crate) struct Entry {
    pub(crate) name: Ident,
    /// Where the receiver stands, for errors about `Sync`.
    pub(crate) receiver: Span,
    pub(crate) exclusive: bool,
    pub(crate) is_async: bool,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) returns: Option<Type>,
    /// It gives a stream of items; `returns` is what one item is.
    pub(crate) streams: bool,
    /// The function can fail as a whole, though `returns` does not say so.
    pub(crate) fallible: bool,
    /// Its calls run together. `parameters` and `returns` are then what one caller sees.
    pub(crate) batch: Option<Batch>,
}

/// `#[batch(..)]`.
#[derive(Clone, Copy)]
pub(crate) struct Batch {
    pub(crate) max: usize,
    pub(crate) wait_us: u64,
    /// 0: as many as there are handler threads.
    pub(crate) concurrent: usize,
    /// The function as a whole can fail, for all members at once.
    pub(crate) fallible: bool,
}

/// One parameter after the receiver.
pub(crate) struct Parameter {
    pub(crate) name: String,
    pub(crate) ty: Type,
}

/// Parameters of one function: as many as the SDK has tuples for.
const PARAMETERS_MAX: usize = 12;
/// Bytes of a class's or a method's name.
const NAME_MAX: usize = 63;

pub(crate) fn class(attribute: Tokens, item: Tokens) -> Result<Class> {
    let name = name_of(attribute)?;
    match syn::parse2::<Item>(item)? {
        Item::Fn(function) => of_function(name, function),
        Item::Impl(block) => of_impl(name, block),
        other => {
            Err(Error::new(other.span(), "#[deployment] stands on a function or on the impl block of a type"))
        }
    }
}

fn name_of(attribute: Tokens) -> Result<Option<(String, Span)>> {
    if attribute.is_empty() {
        return Ok(None);
    }
    let expected =
        "the only option of #[deployment] is name = \"..\"; everything else is set where it is deployed";
    let pair: syn::MetaNameValue =
        syn::parse2(attribute.clone()).map_err(|_| Error::new(attribute.span(), expected))?;
    match (&pair.path, &pair.value) {
        (path, syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(name), .. })) if path.is_ident("name") => {
            Ok(Some((name.value(), name.span())))
        }
        _ => Err(Error::new(pair.span(), expected)),
    }
}

/// A name that can stand in a symbol.
fn class_name(given: Option<(String, Span)>, ident: &Ident) -> Result<String> {
    let (name, span) = given.unwrap_or_else(|| (plain(ident), ident.span()));
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(fits) || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(Error::new(
            span,
            format!("a class is named by ASCII letters, digits and '_', not '{name}'"),
        ));
    }
    fits_in_length(&name, span)?;
    Ok(name)
}

fn fits_in_length(name: &str, span: Span) -> Result<()> {
    if name.len() > NAME_MAX {
        return Err(Error::new(span, format!("a name has at most {NAME_MAX} bytes")));
    }
    Ok(())
}

fn of_function(name: Option<(String, Span)>, function: ItemFn) -> Result<Class> {
    let signature = &function.sig;
    plain_function(signature)?;
    if let Some(FnArg::Receiver(receiver)) = signature.inputs.first() {
        return Err(Error::new(
            receiver.span(),
            "a deployment with state is an impl: put #[deployment] on the impl block",
        ));
    }
    let parameters = parameters(signature)?;
    if parameters.len() > 1 {
        return Err(Error::new(
            signature.inputs.span(),
            "a function takes the request and nothing else; what takes arguments is an impl with `new`",
        ));
    }
    let function_name = signature.ident.clone();
    let entry = Entry {
        name: function_name.clone(),
        receiver: function_name.span(),
        exclusive: false,
        is_async: signature.asyncness.is_some(),
        returns: returned(signature),
        parameters,
        streams: false,
        fallible: false,
        batch: None,
    };
    let visibility = &function.vis;
    let stands_for = format!("The deployment `{}`, as a type.", plain(&function_name));
    // A braced struct takes no name among values, where the function has it.
    let item = quote::quote! {
        #function
        #[doc = #stands_for]
        #[allow(non_camel_case_types, dead_code, reason = "named as the function that it stands for")]
        #[derive(Debug)]
        #visibility struct #function_name {}
    };
    Ok(Class {
        item,
        ty: syn::parse_quote!(#function_name),
        name: class_name(name, &function_name)?,
        constructor: Constructor::Function { function: function_name },
        call: Some(entry),
        ingress: None,
        reconfigure: None,
        check_health: None,
        methods: Vec::new(),
    })
}

fn of_impl(name: Option<(String, Span)>, block: ItemImpl) -> Result<Class> {
    if let Some((path, _)) = &block.trait_ {
        return Err(Error::new(
            path.span(),
            "#[deployment] stands on the type's own impl block, not on that of a trait",
        ));
    }
    if !block.generics.params.is_empty() {
        return Err(Error::new(
            block.generics.span(),
            "a deployment is one type: it can't be generic (deploy a type that fills the parameters in)",
        ));
    }
    let ident = type_name(&block.self_ty)?;
    let mut class = Class {
        item: without_batch(&block).to_token_stream(),
        ty: (*block.self_ty).clone(),
        name: class_name(name, &ident)?,
        constructor: Constructor::Default,
        call: None,
        ingress: None,
        reconfigure: None,
        check_health: None,
        methods: Vec::new(),
    };
    for item in &block.items {
        if let ImplItem::Fn(function) = item {
            take(&mut class, function)?;
        }
    }
    if let (Some(_), Some(ingress)) = (&class.call, &class.ingress) {
        return Err(Error::new(
            ingress.name.span(),
            "HTTP requests go to `call` or to `ingress`: write one of them",
        ));
    }
    if class.call.is_none() && class.ingress.is_none() && class.methods.is_empty() {
        return Err(Error::new(
            ident.span(),
            format!(
                "deployment '{}' can't be reached: give it `fn call(&self, req: Request)` for HTTP, or a `pub fn` for handles",
                class.name
            ),
        ));
    }
    Ok(class)
}

fn take(class: &mut Class, function: &ImplItemFn) -> Result<()> {
    let name = plain(&function.sig.ident);
    let batches = name == "call"
        || (!batch::NEVER.contains(&name.as_str())
            && matches!(function.vis, Visibility::Public(_))
            && function.sig.receiver().is_some());
    if let Some(attribute) = batch_attribute(&function.attrs).filter(|_| !batches) {
        let why = "#[batch] stands on `call` or on a `pub fn` with &self: what callers call";
        return Err(Error::new(attribute.span(), why));
    }
    match name.as_str() {
        "new" => class.constructor = constructor(function)?,
        "call" => class.call = Some(call(function)?),
        "reconfigure" => {
            class.reconfigure =
                Some(entry(function, 1..=1, "`reconfigure` takes the configuration and nothing else")?);
        }
        "check_health" => {
            let health = entry(function, 0..=0, "`check_health` takes only &self")?;
            if health.exclusive {
                let why = "`check_health` takes &self: it is asked beside running requests";
                return Err(Error::new(health.receiver, why));
            }
            class.check_health = Some(health);
        }
        "ingress" => class.ingress = Some(ingress(function)?),
        _ if matches!(function.vis, Visibility::Public(_)) && function.sig.receiver().is_some() => {
            fits_in_length(&name, function.sig.ident.span())?;
            let most = format!("a method takes at most {PARAMETERS_MAX} arguments; put them into a struct");
            let mut method = entry(function, 0..=PARAMETERS_MAX, &most)?;
            if let Some((item, fallible)) = method.returns.as_ref().and_then(item_of_stream) {
                (method.returns, method.streams, method.fallible) = (Some(item), true, fallible);
            }
            class.methods.push(method);
        }
        _ => {}
    }
    Ok(())
}

fn ingress(function: &ImplItemFn) -> Result<Entry> {
    let name = &function.sig.ident;
    if !cfg!(feature = "axum") {
        let needs = "`ingress` gives an axum router, which needs the feature `axum` of the crate `decurion`";
        return Err(Error::new(name.span(), needs));
    }
    let entry = entry(function, 0..=0, "`ingress` takes only &self")?;
    if entry.exclusive || entry.is_async || entry.returns.is_none() {
        let why =
            "`ingress` is `fn ingress(&self) -> Router`: it makes the router, whose handlers may be async";
        return Err(Error::new(name.span(), why));
    }
    Ok(entry)
}

fn constructor(function: &ImplItemFn) -> Result<Constructor> {
    let signature = &function.sig;
    plain_function(signature)?;
    unconditional(&function.attrs)?;
    if let Some(receiver) = signature.receiver() {
        return Err(Error::new(
            receiver.span(),
            "`new` is the constructor: it has no self yet, and returns Self or Result<Self>",
        ));
    }
    let ReturnType::Type(_, returned) = &signature.output else {
        return Err(Error::new(
            signature.ident.span(),
            "`new` is the constructor: it returns Self or Result<Self>",
        ));
    };
    let parameters = parameters(signature)?;
    if parameters.len() > PARAMETERS_MAX {
        let most = format!("a constructor takes at most {PARAMETERS_MAX} arguments; put them into a struct");
        return Err(Error::new(signature.inputs.span(), most));
    }
    owned(&parameters)?;
    Ok(Constructor::New { parameters, returns: returned.span(), is_async: signature.asyncness.is_some() })
}

fn call(function: &ImplItemFn) -> Result<Entry> {
    let takes = "`call` takes the request and nothing else";
    // The request may also be lent: it is there while the handler runs.
    any_entry(function, 0..=1, takes)
}

fn entry(function: &ImplItemFn, count: std::ops::RangeInclusive<usize>, otherwise: &str) -> Result<Entry> {
    let entry = any_entry(function, count, otherwise)?;
    owned(&entry.parameters)?;
    Ok(entry)
}

fn any_entry(
    function: &ImplItemFn,
    count: std::ops::RangeInclusive<usize>,
    otherwise: &str,
) -> Result<Entry> {
    let signature = &function.sig;
    plain_function(signature)?;
    unconditional(&function.attrs)?;
    let name = &signature.ident;
    let Some(receiver) = signature.receiver() else {
        return Err(Error::new(name.span(), format!("`{name}` of a deployment takes &self or &mut self")));
    };
    let ReceiverKind::Reference(_, _, exclusive) = &receiver.kind else {
        let kept = format!("`{name}` of a deployment takes &self or &mut self: the replica keeps it");
        return Err(Error::new(receiver.span(), kept));
    };
    let parameters = parameters(signature)?;
    if !count.contains(&parameters.len()) {
        return Err(Error::new(signature.inputs.span(), otherwise));
    }
    let mut entry = Entry {
        name: name.clone(),
        receiver: receiver.span(),
        exclusive: exclusive.is_some(),
        is_async: signature.asyncness.is_some(),
        returns: returned(signature),
        parameters,
        streams: false,
        fallible: false,
        batch: None,
    };
    if let Some(attribute) = batch_attribute(&function.attrs) {
        batch::apply(&mut entry, attribute, signature)?;
    }
    Ok(entry)
}

fn batch_attribute(attributes: &[Attribute]) -> Option<&Attribute> {
    attributes.iter().find(|attribute| attribute.path().is_ident("batch"))
}

/// The block as the compiler gets it: `#[batch]` is ours.
fn without_batch(block: &ItemImpl) -> ItemImpl {
    let mut block = block.clone();
    for item in &mut block.items {
        if let ImplItem::Fn(function) = item {
            function.attrs.retain(|attribute| !attribute.path().is_ident("batch"));
        }
    }
    block
}

/// Refuses what an entry can't be.
fn plain_function(signature: &Signature) -> Result<()> {
    let name = &signature.ident;
    if let (Some(word), false) = (&signature.asyncness, cfg!(feature = "tokio")) {
        return Err(Error::new(
            word.span(),
            format!("`{name}` is async, which needs the feature `tokio` of the crate `decurion`"),
        ));
    }
    if let Safety::Unsafe(word) = &signature.safety {
        return Err(Error::new(
            word.span(),
            format!("`{name}` is called by the replica, so it can't be unsafe"),
        ));
    }
    if let Some(parameter) = signature.generics.type_params().next() {
        return Err(Error::new(
            parameter.span(),
            format!("`{name}` is called from outside, so its types must be known: it can't be generic"),
        ));
    }
    let inputs = signature.inputs.iter();
    for ty in inputs.filter_map(|input| if let FnArg::Typed(typed) = input { Some(&*typed.ty) } else { None })
    {
        if let Type::ImplTrait(unknown) = ty {
            return Err(Error::new(
                unknown.span(),
                format!("`{name}` is called from outside, so its types must be known: name the type"),
            ));
        }
    }
    Ok(())
}

fn unconditional(attributes: &[Attribute]) -> Result<()> {
    for attribute in attributes {
        if attribute.path().is_ident("cfg") {
            return Err(Error::new(
                attribute.span(),
                "an entry of a deployment can't depend on a cfg: put it on the whole impl block",
            ));
        }
    }
    Ok(())
}

/// Arguments come out of bytes that are gone when the function runs.
fn owned(parameters: &[Parameter]) -> Result<()> {
    for parameter in parameters {
        let Type::Reference(reference) = &parameter.ty else { continue };
        let target = reference.elem.to_token_stream().to_string();
        let instead = match target.as_str() {
            "str" => "String".to_owned(),
            slice if slice.starts_with('[') => {
                format!("Vec<{}>", slice.trim_start_matches('[').trim_end_matches(']').trim())
            }
            other => other.to_owned(),
        };
        return Err(Error::new(
            reference.span(),
            format!("arguments are owned: write `{instead}` instead of a reference"),
        ));
    }
    Ok(())
}

fn parameters(signature: &Signature) -> Result<Vec<Parameter>> {
    let typed = signature
        .inputs
        .iter()
        .filter_map(|input| if let FnArg::Typed(typed) = input { Some(typed) } else { None });
    typed
        .enumerate()
        .map(|(at, typed)| {
            let name = match &*typed.pat {
                Pat::Ident(ident) => plain(&ident.ident).trim_start_matches('_').to_owned(),
                _ => String::new(),
            };
            let name = if name.is_empty() { format_ident!("arg{at}").to_string() } else { name };
            Ok(Parameter { name, ty: (*typed.ty).clone() })
        })
        .collect()
}

fn returned(signature: &Signature) -> Option<Type> {
    match &signature.output {
        ReturnType::Default => None,
        ReturnType::Type(_, ty) => Some((**ty).clone()),
    }
}

/// Whether a method can fail, by what its author calls the type: `Result<T>`, `std::io::Result<T>`.
pub(crate) fn is_result(ty: &Type) -> bool {
    matches!(ty, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == "Result"))
}

/// `T` of `Streamed<T>`, or of a `Result` of one, and which of the two it was.
fn item_of_stream(ty: &Type) -> Option<(Type, bool)> {
    let inside = if is_result(ty) { batch::first_of(ty) } else { None };
    let fallible = inside.is_some();
    let stream = inside.unwrap_or_else(|| ty.clone());
    let Type::Path(path) = &stream else { return None };
    path.path.segments.last().filter(|last| last.ident == "Streamed")?;
    Some((batch::first_of(&stream)?, fallible))
}

fn type_name(ty: &Type) -> Result<Ident> {
    let refused =
        || Error::new(ty.span(), "#[deployment] stands on the impl of a struct or an enum of this crate");
    let Type::Path(path) = ty else { return Err(refused()) };
    let last = path.path.segments.last().ok_or_else(refused)?;
    if !last.arguments.is_empty() {
        return Err(Error::new(last.span(), "a deployment can't be generic: name a type of your own for it"));
    }
    Ok(last.ident.clone())
}

/// A name without `r#`.
fn plain(ident: &Ident) -> String {
    let name = ident.to_string();
    name.strip_prefix("r#").map_or(name.clone(), str::to_owned)
}
