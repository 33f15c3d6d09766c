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
}

impl<R: DeserializeOwned> Asked for R {
    type Given = R;

    fn ask(handle: &Handle, method: &str, args: impl Arguments) -> Result<R> {
        handle.call(method, args)
    }
}

impl<T: DeserializeOwned> Asked for Streamed<T> {
    type Given = Stream<T>;

    fn ask(handle: &Handle, method: &str, args: impl Arguments) -> Result<Stream<T>> {
        handle.stream(method, args)
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
/// that streams is written `-> Streamed<T>`, and gives a [`Stream`].
#[macro_export]
macro_rules! client {
    ($(#[$meta:meta])* $visibility:vis $name:ident {
        $($(#[$method_meta:meta])* fn $method:ident(&self $(, $argument:ident: $type:ty)* $(,)?) $(-> $result:ty)?;)*
    }) => {
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

            $(
                $(#[$method_meta])*
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
            )*
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
macro_rules! __client_result {
    () => {
        ()
    };
    ($result:ty) => {
        $result
    };
}
