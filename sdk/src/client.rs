//! Typed clients of other deployments.

use serde::de::DeserializeOwned;

use crate::Result;
use crate::arguments::Arguments;
use crate::handle::Handle;
use crate::streamed::{Stream, Streamed};

/// What a client's method may be written to return, and what it gives.
pub trait Asked {
    /// For the caller.
    type Given;

    #[doc(hidden)]
    fn ask(handle: &Handle, method: &str, args: impl Arguments) -> Result<Self::Given>;

    #[cfg(feature = "tokio")]
    #[doc(hidden)]
    fn ask_async(
        handle: &Handle,
        method: &str,
        args: impl Arguments + Sync,
    ) -> impl Future<Output = Result<Self::Given>>;
}

impl<R: DeserializeOwned> Asked for R {
    type Given = R;

    fn ask(handle: &Handle, method: &str, args: impl Arguments) -> Result<R> {
        handle.call(method, args)
    }

    #[cfg(feature = "tokio")]
    async fn ask_async(handle: &Handle, method: &str, args: impl Arguments + Sync) -> Result<R> {
        handle.call_async(method, args).await
    }
}

impl<T: DeserializeOwned> Asked for Streamed<T> {
    type Given = Stream<T>;

    fn ask(handle: &Handle, method: &str, args: impl Arguments) -> Result<Stream<T>> {
        handle.stream(method, args)
    }

    #[cfg(feature = "tokio")]
    async fn ask_async(handle: &Handle, method: &str, args: impl Arguments + Sync) -> Result<Stream<T>> {
        handle.stream_async(method, args).await
    }
}

/// Makes a typed client of a deployment's methods.
///
/// ```
/// decurion::client!(pub ModelClient {
///     fn predict(&self, data: f64) -> String;
/// });
///
/// # fn caller(client: &ModelClient) -> decurion::Result<()> {
/// let answer: String = client.predict(0.7)?;
/// # Ok(())
/// # }
/// let client = ModelClient::named("model");
/// assert_eq!(client.handle().deployment(), "model");
/// ```
///
/// The client is itself a constructor argument, given as `"@name"`. Each method returns a [`Result`]
/// of what is written here; a method of the deployment that can fail is written with what it gives when it does not. One
/// that streams is written `-> Streamed<T>`, and gives a [`Stream`]. One that is written `async fn` (feature `tokio`) waits
/// without holding a thread.
#[macro_export]
macro_rules! client {
    ($(#[$meta:meta])* $visibility:vis $name:ident { $($methods:tt)* }) => {
        $(#[$meta])*
        #[doc = "\n\nA typed client, made by `decurion::client!`."]
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        $visibility struct $name($crate::Handle);

        #[allow(dead_code, reason = "a client has what its deployment has, used or not")]
        impl $name {
            /// A client of the deployment of this name.
            #[must_use]
            $visibility fn named(deployment: &str) -> Self {
                Self($crate::Handle::named(deployment))
            }

            /// The same client, whose calls ask for a model. See `Handle::with_model_id`.
            #[must_use]
            $visibility fn with_model_id(&self, model_id: &str) -> Self {
                Self(self.0.with_model_id(model_id))
            }

            /// The handle behind it.
            #[must_use]
            $visibility fn handle(&self) -> &$crate::Handle {
                &self.0
            }

            $crate::__client_methods!($visibility, $($methods)*);
        }

        impl ::core::convert::From<$crate::Handle> for $name {
            fn from(handle: $crate::Handle) -> Self {
                Self(handle)
            }
        }

        impl<'de> $crate::serde::Deserialize<'de> for $name {
            fn deserialize<D: $crate::serde::Deserializer<'de>>(
                deserializer: D,
            ) -> ::core::result::Result<Self, D::Error> {
                <$crate::Handle as $crate::serde::Deserialize>::deserialize(deserializer).map(Self)
            }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __client_methods {
    ($visibility:vis,) => {};
    ($visibility:vis,
        $(#[$meta:meta])* fn $method:ident(&self $(, $argument:ident: $type:ty)* $(,)?) $(-> $result:ty)?;
        $($more:tt)*
    ) => {
        $(#[$meta])*
        #[doc = ::core::concat!("\n\nCalls the deployment's `", ::core::stringify!($method), "`.")]
        ///
        /// # Errors
        /// As `Handle::call`.
        $visibility fn $method(&self $(, $argument: $type)*) -> $crate::Result<<$crate::__client_result!($($result)?) as $crate::__private::Asked>::Given> {
            <$crate::__client_result!($($result)?) as $crate::__private::Asked>::ask(
                &self.0,
                ::core::stringify!($method),
                ($($argument,)*),
            )
        }
        $crate::__client_methods!($visibility, $($more)*);
    };
    ($visibility:vis,
        $(#[$meta:meta])* async fn $method:ident(&self $(, $argument:ident: $type:ty)* $(,)?) $(-> $result:ty)?;
        $($more:tt)*
    ) => {
        $crate::__client_async!();

        $(#[$meta])*
        #[doc = ::core::concat!("\n\nCalls the deployment's `", ::core::stringify!($method), "`.")]
        ///
        /// # Errors
        /// As `Handle::call_async`.
        $visibility async fn $method(&self $(, $argument: $type)*) -> $crate::Result<<$crate::__client_result!($($result)?) as $crate::__private::Asked>::Given> {
            <$crate::__client_result!($($result)?) as $crate::__private::Asked>::ask_async(
                &self.0,
                ::core::stringify!($method),
                ($($argument,)*),
            ).await
        }
        $crate::__client_methods!($visibility, $($more)*);
    };
}

#[cfg(feature = "tokio")]
#[doc(hidden)]
#[macro_export]
macro_rules! __client_async {
    () => {};
}

#[cfg(not(feature = "tokio"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __client_async {
    () => {
        ::core::compile_error!("an `async fn` of a client needs the feature `tokio` of the crate `decurion`");
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __client_result {
    () => {
        ()
    };
    ($result:ty) => {
        $result
    };
}
