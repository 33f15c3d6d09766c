//! Deployments in this process, for an author's own tests: no supervisor, no proxy, no library file. Classes run
//! through the same tables and with the same rules of concurrency as in a replica.
//!
//! ```
//! # mod model {
//! use decurion::prelude::*;
//! use decurion::test::Local;
//!
//! pub struct Model { msg: String }
//!
//! #[deployment]
//! impl Model {
//!     fn new(msg: String) -> Self { Self { msg } }
//!     fn call(&self, _req: Request) -> String { self.msg.clone() }
//!     pub fn predict(&self, data: f64) -> f64 { data * 2.0 }
//! }
//!
//! # pub fn test() -> Result<()> {
//! let model = Local::<Model>::new(json!({ "msg": "Hello world!" }))?;
//! assert_eq!(model.get("/")?.text()?, "Hello world!");
//! assert_eq!(model.call::<f64>("predict", (0.7,))?, 1.4);
//! # Ok(())
//! # }
//! # }
//! # model::test().unwrap();
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;

use crate::arguments::Arguments;
use crate::class::Class;
use crate::handle::Handle;
use crate::request::Request;
use crate::response::Response;
use crate::sys::{ForeignClass, class_table, local};
#[cfg(feature = "websocket")]
pub use crate::websocket::WebSocketClient;
use crate::{Error, Result};

/// Several deployments that can call each other by name.
#[derive(Clone)]
pub struct LocalApp {
    app: Arc<local::App>,
}

impl LocalApp {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self { app: local::App::new() }
    }

    /// Constructs `T` under a name, which others then write `"@name"` in their arguments. A name that is taken is
    /// taken over.
    ///
    /// # Errors
    /// The constructor's own.
    pub fn deploy<T: Class>(&self, name: &str, args: impl Serialize) -> Result<Local<T>> {
        self.construct(name, class_table::<T>(), args)
    }

    /// The same for a class of a loaded library, whose type is not known here.
    #[doc(hidden)]
    pub fn deploy_foreign(&self, name: &str, class: ForeignClass, args: impl Serialize) -> Result<Local<()>> {
        self.construct(name, class.table(), args)
    }

    /// What its deployments have measured, under the names that the supervisor would show: `rows_total{kind="good"}` for a
    /// counter, `score_count` and `score_sum` for a histogram. What a thread measures that runs nothing of a deployment
    /// is counted only while there is no other `LocalApp`.
    #[must_use]
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        self.app.metrics()
    }

    fn construct<T>(&self, name: &str, table: decurion_abi::Class, args: impl Serialize) -> Result<Local<T>> {
        let args = serde_json::to_vec(&args)?;
        self.app.deploy(name, table, &args).map_err(Error::msg)?;
        let handle = Handle::named(&self.app.global_name(name));
        Ok(Local { app: self.clone(), name: name.to_owned(), handle, class: PhantomData })
    }
}

impl Default for LocalApp {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for LocalApp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalApp")
    }
}

/// One deployment of class `T`. It is destroyed when it and the others of its [`LocalApp`] are dropped.
#[derive(Debug)]
pub struct Local<T> {
    app: LocalApp,
    name: String,
    handle: Handle,
    class: PhantomData<fn() -> T>,
}

impl<T: Class> Local<T> {
    /// Constructs `T` alone, under its class's name.
    ///
    /// # Errors
    /// The constructor's own.
    pub fn new(args: impl Serialize) -> Result<Self> {
        LocalApp::new().deploy(T::NAME, args)
    }
}

impl<T> Local<T> {
    /// Sends a GET to its `call`.
    ///
    /// # Errors
    /// Where there is no `call`. An answer of any status is an answer, and no error.
    pub fn get(&self, target: &str) -> Result<Response> {
        self.request(Request::get(target))
    }

    /// Asks its `call` for a websocket.
    ///
    /// # Errors
    /// Where there is no `call`, and with the status of what it answers instead.
    #[cfg(feature = "websocket")]
    pub fn websocket(&self, target: &str) -> Result<WebSocketClient> {
        self.websocket_with(target, &[])
    }

    /// The same with further header fields.
    ///
    /// # Errors
    /// As [`websocket`](Self::websocket).
    #[cfg(feature = "websocket")]
    pub fn websocket_with(&self, target: &str, fields: &[(&str, &str)]) -> Result<WebSocketClient> {
        crate::websocket::offer(&self.app.app, &self.name, target, fields)
    }

    /// Sends a request to its `call`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn request(&self, request: Request) -> Result<Response> {
        self.handle.request(request)
    }

    /// Calls a method.
    ///
    /// # Errors
    /// The method's own, or why it can't be called with these arguments.
    pub fn call<R: serde::de::DeserializeOwned>(&self, method: &str, args: impl Arguments) -> Result<R> {
        self.handle.call(method, args)
    }

    /// Gives it a new `user_config`.
    ///
    /// # Errors
    /// The deployment's own; then nothing has changed.
    pub fn reconfigure(&self, user_config: impl Serialize) -> Result<()> {
        let config = serde_json::to_vec(&user_config)?;
        self.app.app.reconfigure(&self.name, &config).map_err(Error::msg)
    }

    /// Asks whether it is well.
    ///
    /// # Errors
    /// The deployment's own.
    pub fn check_health(&self) -> Result<()> {
        self.app.app.check_health(&self.name).map_err(Error::msg)
    }

    /// What it and the others of its [`LocalApp`] have measured, as [`LocalApp::metrics`].
    #[must_use]
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        self.app.metrics()
    }

    /// A handle to it, for this test's own thread.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}
