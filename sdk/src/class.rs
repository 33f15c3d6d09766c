//! What `#[deployment]` implements: a class as typed entries. Nothing here is for authors to write by hand.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

use decurion_abi::{self as abi, encoding, flags};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::arguments::{self, ArgumentError, Parameters, Signature};
use crate::batched::BatchEntry;
use crate::codec::{self, CodecError};
use crate::error::Unfit;
use crate::request::{self, Request};
use crate::response::Response;
use crate::streamed::Streamed;
use crate::sys::host::Exchange;
use crate::{Error, Result, types};

/// A class of deployments. Made by `#[deployment]`.
pub trait Class: Sized + Send + 'static {
    /// Its name.
    const NAME: &'static str;
    /// The ABI's metadata.
    const METADATA: &'static str;
    /// Answers HTTP requests.
    const CALL: Option<CallEntry<Self>>;
    /// Entries whose calls run together.
    const BATCHES: &'static [BatchEntry<Self>] = &[];
    /// Answers HTTP requests by a router, instead of [`CALL`](Self::CALL).
    #[cfg(feature = "axum")]
    const INGRESS: Option<crate::ingress::IngressEntry<Self>> = None;
    /// Methods for handles.
    const METHODS: &'static [MethodEntry<Self>];
    /// The same for the ABI.
    const METHOD_TABLE: &'static [abi::Method];
    /// Takes a configuration.
    const RECONFIGURE: Option<ReconfigureEntry<Self>>;
    /// Says whether it is well.
    const CHECK_HEALTH: Option<HealthEntry<Self>>;

    /// Constructs an instance from JSON.
    ///
    /// # Errors
    /// Whatever the arguments or the author's `new` refuse.
    fn create(args: &[u8]) -> Result<Self>;
}

/// The one function of an entry, with the reference it takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Entry<S, E, SA = Infallible, EA = Infallible> {
    Shared(S),
    Exclusive(E),
    #[cfg_attr(not(feature = "tokio"), expect(dead_code, reason = "only made with the feature `tokio`"))]
    SharedAsync(SA),
    #[cfg_attr(not(feature = "tokio"), expect(dead_code, reason = "only made with the feature `tokio`"))]
    ExclusiveAsync(EA),
    /// By its place among [`Class::BATCHES`].
    Batched(usize),
}

/// What an async entry gives.
pub type Pending<'a, R> = Pin<Box<dyn Future<Output = R> + Send + 'a>>;

/// An entry's type: made from a function that takes `&T`, which asks for `T: Sync`, or one that takes `&mut T`.
macro_rules! entry {
    ($(#[$doc:meta])* $name:ident, ($($argument:ty),*) -> $result:ty, async $taken:ty) => {
        $(#[$doc])*
        #[derive(Debug)]
        #[allow(clippy::type_complexity, reason = "each function is written once, here")]
        pub struct $name<T>(
            Entry<
                fn(&T $(, $argument)*) -> $result,
                fn(&mut T $(, $argument)*) -> $result,
                for<'a> fn(&'a T, $taken) -> Pending<'a, $result>,
                for<'a> fn(&'a mut T, $taken) -> Pending<'a, $result>,
            >,
        );

        impl<T> $name<T> {
            /// Runs beside others.
            pub const fn shared(function: fn(&T $(, $argument)*) -> $result) -> Self
            where
                T: Sync,
            {
                Self(Entry::Shared(function))
            }

            /// Runs alone.
            pub const fn exclusive(function: fn(&mut T $(, $argument)*) -> $result) -> Self {
                Self(Entry::Exclusive(function))
            }

            /// Runs beside others, and answers later.
            #[cfg(feature = "tokio")]
            pub const fn shared_async(function: for<'a> fn(&'a T, $taken) -> Pending<'a, $result>) -> Self
            where
                T: Sync,
            {
                Self(Entry::SharedAsync(function))
            }

            /// Runs alone, and answers later.
            #[cfg(feature = "tokio")]
            pub const fn exclusive_async(
                function: for<'a> fn(&'a mut T, $taken) -> Pending<'a, $result>,
            ) -> Self {
                Self(Entry::ExclusiveAsync(function))
            }

            /// Runs together with others, and answers later.
            pub const fn batched(place: usize) -> Self
            where
                T: Sync,
            {
                Self(Entry::Batched(place))
            }

            /// How it runs, as the ABI has it.
            #[must_use]
            pub const fn flags(&self) -> u32 {
                match self.0 {
                    Entry::Shared(_) => 0,
                    Entry::Exclusive(_) => flags::EXCLUSIVE,
                    Entry::SharedAsync(_) | Entry::Batched(_) => flags::ASYNC,
                    Entry::ExclusiveAsync(_) => flags::EXCLUSIVE | flags::ASYNC,
                }
            }

            #[allow(clippy::type_complexity, reason = "as above")]
            pub(crate) fn entry(
                &self,
            ) -> Entry<
                fn(&T $(, $argument)*) -> $result,
                fn(&mut T $(, $argument)*) -> $result,
                for<'a> fn(&'a T, $taken) -> Pending<'a, $result>,
                for<'a> fn(&'a mut T, $taken) -> Pending<'a, $result>,
            > {
                self.0
            }
        }

        impl<T> Clone for $name<T> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<T> Copy for $name<T> {}
    };
}

entry!(
    /// `call`.
    CallEntry, (Request) -> Result<Response>, async Request
);
entry!(
    /// A method.
    MethodEntry, (&MethodCall) -> Result<MethodResult>, async Invocation
);
entry!(
    /// `reconfigure`.
    ReconfigureEntry, (&[u8]) -> Result<()>, async Infallible
);
entry!(
    /// `check_health`.
    HealthEntry, () -> Result<()>, async Infallible
);

/// A call of a method: its arguments as bytes.
#[derive(Debug)]
pub struct MethodCall {
    encoding: u32,
    body: Vec<u8>,
    /// What the caller says of its types.
    types: Option<String>,
    /// The caller expects a stream.
    streams: bool,
}

/// A call of a method whose arguments are yet to be read.
#[derive(Debug)]
pub struct Invocation(Arc<Exchange>);

impl Invocation {
    pub(crate) fn new(exchange: Arc<Exchange>) -> Self {
        Self(exchange)
    }

    /// Reads the arguments, on this thread.
    ///
    /// # Errors
    /// Where they do not come whole.
    pub fn read_now(self) -> Result<MethodCall> {
        MethodCall::read(&self.0)
    }

    /// The request that it is.
    #[must_use]
    pub fn request(self) -> Request {
        Request::incoming(self.0)
    }

    /// Reads the arguments.
    ///
    /// # Errors
    /// Where they do not come whole.
    #[cfg(feature = "tokio")]
    pub async fn read(self) -> Result<MethodCall> {
        let encoding = MethodCall::encoding_of(&self.0)?;
        let body = request::read_whole_async(&self.0).await?;
        Ok(MethodCall::new(&self.0, encoding, body))
    }
}

/// Stands for a result whose type can't be named.
#[derive(Clone, Copy, Debug)]
pub enum Hidden {}

/// A method's result as bytes.
#[derive(Debug)]
pub struct MethodResult {
    pub(crate) encoding: u32,
    pub(crate) bytes: Vec<u8>,
    /// Of a method that streams, instead.
    pub(crate) stream: Option<Box<Response>>,
}

impl MethodCall {
    pub(crate) fn read(exchange: &Arc<Exchange>) -> Result<Self> {
        let encoding = Self::encoding_of(exchange)?;
        let body = request::read_whole(exchange)?;
        Ok(Self::new(exchange, encoding, body))
    }

    fn encoding_of(exchange: &Exchange) -> Result<u32> {
        let encoding = exchange.facts().encoding;
        if ![encoding::JSON, encoding::BINCODE].contains(&encoding) {
            return Err(Error::status(
                415,
                format_args!("arguments come as JSON or bincode, not as encoding {encoding}"),
            ));
        }
        Ok(encoding)
    }

    fn new(exchange: &Exchange, encoding: u32, body: Vec<u8>) -> Self {
        let types = match encoding {
            encoding::BINCODE => exchange.field(abi::TYPES_HEADER),
            _ => None,
        };
        let streams = exchange.field(abi::STREAM_HEADER).is_some();
        let types = types.and_then(|types| String::from_utf8(types).ok());
        Self { encoding, body, types, streams }
    }

    /// The arguments, typed, of a method with this result.
    ///
    /// # Errors
    /// 400 naming the argument that does not fit. Where bincode does not fit, 415: JSON may.
    pub fn arguments<P: Parameters, R>(&self, signature: Signature) -> Result<P> {
        if self.streams {
            let name = signature.name;
            return Err(Error::status(400, format_args!("{name} gives one result, no stream: use `call`")));
        }
        self.read_arguments::<P, R>(signature)
    }

    /// The same of a method that streams items of type `R`.
    ///
    /// # Errors
    /// As [`arguments`](Self::arguments).
    pub fn stream_arguments<P: Parameters, R>(&self, signature: Signature) -> Result<P> {
        if !self.streams {
            let name = signature.name;
            return Err(Error::status(400, format_args!("{name} streams its results: use `stream`")));
        }
        self.read_arguments::<P, R>(signature)
    }

    fn read_arguments<P: Parameters, R>(&self, signature: Signature) -> Result<P> {
        if self.encoding != encoding::BINCODE {
            return arguments::from_json(&self.body, signature).map_err(|error| Error::status(400, error));
        }
        let (ours, our_result) = (std::any::type_name::<P>(), std::any::type_name::<R>());
        if let Some((theirs, their_result)) = self.types.as_deref().map(types::split)
            && !(types::fits(theirs, ours) && types::fits(their_result, our_result))
        {
            let written =
                |arguments, result| format!("{} -> {}", types::short(arguments), types::short(result));
            let (ours, theirs) = (written(ours, our_result), written(theirs, their_result));
            let types = ArgumentError::Types { name: signature.name, ours, theirs };
            return Err(Error::unfit(Unfit::Here, types));
        }
        P::from_bincode(&self.body, signature).map_err(|error| Error::unfit(Unfit::Here, error.0))
    }

    /// A stream in the caller's encoding.
    ///
    /// # Errors
    /// None.
    pub fn streamed<T: Serialize + Send + 'static>(&self, items: Streamed<T>) -> Result<MethodResult> {
        let stream = Some(Box::new(items.into_response(self.encoding)));
        Ok(MethodResult { encoding: encoding::RAW, bytes: Vec::new(), stream })
    }

    /// The result in the caller's encoding.
    ///
    /// # Errors
    /// Where the value can't be written in it.
    pub fn result<R: Serialize>(&self, result: &R) -> Result<MethodResult> {
        let json = || {
            serde_json::to_vec(result).map(|bytes| MethodResult {
                encoding: encoding::JSON,
                bytes,
                stream: None,
            })
        };
        match self.encoding {
            encoding::BINCODE => match codec::encode(result) {
                Ok(bytes) => Ok(MethodResult { encoding: encoding::BINCODE, bytes, stream: None }),
                Err(CodecError::NeedsJson) => Ok(json()?),
                Err(error) => Err(error.into()),
            },
            _ => Ok(json()?),
        }
    }
}

/// Constructor arguments, typed.
///
/// # Errors
/// Naming the argument that does not fit.
pub fn constructor_arguments<P: Parameters>(args: &[u8], signature: Signature) -> Result<P> {
    Ok(arguments::from_json(args, signature)?)
}

/// Named by the macro where a receiver `&self` stands, so that an error shows there.
pub const fn shared<T: Sync>() {}

/// Named by the macro where a parameter's type stands, so that an error shows there.
pub const fn argument<T: DeserializeOwned>() {}

/// A configuration, typed.
///
/// # Errors
/// Naming the field that does not fit.
pub fn configuration<C: DeserializeOwned>(config: &[u8]) -> Result<C> {
    arguments::value_from_json(config)
        .map_err(|why| Error::msg(format_args!("user_config does not fit: {why}")))
}

/// What `new` may return: the class itself, or a `Result` of it.
#[diagnostic::on_unimplemented(
    message = "`new` of a deployment returns `Self` or `Result<Self>`, not `{Self}`"
)]
pub trait Constructed<T> {
    #[doc(hidden)]
    fn constructed(self) -> Result<T>;
}

impl<T> Constructed<T> for T {
    fn constructed(self) -> Result<T> {
        Ok(self)
    }
}

impl<T, E: Into<Error>> Constructed<T> for Result<T, E> {
    fn constructed(self) -> Result<T> {
        self.map_err(Into::into)
    }
}

/// What `reconfigure` and `check_health` may return: nothing, or a `Result` of it.
#[diagnostic::on_unimplemented(message = "this returns `()` or `Result<()>`, not `{Self}`")]
pub trait Done {
    #[doc(hidden)]
    fn done(self) -> Result<()>;
}

impl Done for () {
    fn done(self) -> Result<()> {
        Ok(())
    }
}

impl<E: Into<Error>> Done for Result<(), E> {
    fn done(self) -> Result<()> {
        self.map_err(Into::into)
    }
}

/// The exchange that this thread is answering: what calls made now are made for.
pub(crate) mod current {
    use std::cell::RefCell;
    use std::sync::Arc;

    use crate::sys::host::Exchange;

    thread_local! {
        static CURRENT: RefCell<Option<Arc<Exchange>>> = const { RefCell::new(None) };
    }

    pub(crate) fn exchange() -> Option<Arc<Exchange>> {
        CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
    }

    /// Sets it until the guard is dropped.
    pub(crate) fn enter(exchange: &Arc<Exchange>) -> Entered {
        Entered(CURRENT.replace(Some(Arc::clone(exchange))))
    }

    /// Sets none until the guard is dropped.
    pub(crate) fn leave() -> Entered {
        Entered(CURRENT.take())
    }

    pub(crate) struct Entered(Option<Arc<Exchange>>);

    impl Drop for Entered {
        fn drop(&mut self) {
            CURRENT.set(self.0.take());
        }
    }
}
