//! `#[deployment]`: turns a function or an `impl` into a class that the host can load. `read` takes the author's
//! item apart and says what does not fit, `write` makes the class's entries and its two exported symbols.

mod batch;
mod derive;
mod metadata;
mod read;
mod write;

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::quote;

/// Makes a deployment of a function (it answers HTTP requests) or of an `impl` block.
///
/// In an `impl`: `fn new(..) -> Result<Self>` is the constructor (none: `Default`), `fn call(&self, req: Request)`
/// answers HTTP requests, `fn reconfigure(&mut self, config: Config)` takes a new `user_config`,
/// `fn check_health(&self) -> Result<()>` says whether it is well, and any other `pub fn` with `&self` or `&mut self`
/// is a method for handles. With `&self` many run at once, and the type must be `Sync`; with `&mut self` it runs
/// alone.
///
/// `#[batch(max = 32, wait = "2ms")]` on `call` or a method makes its calls run together: the function takes a `Vec` and
/// returns one, of which each caller gives and gets one element.
///
/// The class is named after the function or the type; `#[deployment(name = "Other")]` names it otherwise.
#[proc_macro_attribute]
pub fn deployment(attribute: TokenStream, item: TokenStream) -> TokenStream {
    expand(attribute.into(), item.into()).into()
}

/// serde's `Deserialize`, for crates that have only `decurion` among their dependencies.
#[proc_macro_derive(Deserialize, attributes(serde))]
pub fn derive_deserialize(item: TokenStream) -> TokenStream {
    derive::derive(derive::Direction::Deserialize, item.into()).into()
}

/// serde's `Serialize`, for crates that have only `decurion` among their dependencies.
#[proc_macro_derive(Serialize, attributes(serde))]
pub fn derive_serialize(item: TokenStream) -> TokenStream {
    derive::derive(derive::Direction::Serialize, item.into()).into()
}

fn expand(attribute: Tokens, item: Tokens) -> Tokens {
    match read::class(attribute, item.clone()) {
        Ok(class) => write::class(&class),
        // The item stays, so that what refers to it does not fail as well.
        Err(error) => {
            let error = error.into_compile_error();
            quote!(#item #error)
        }
    }
}

#[cfg(test)]
mod tests;
