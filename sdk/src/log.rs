//! Log lines, labelled with deployment, replica and the id of the request that this thread is answering.
//!
//! ```
//! decurion::log::info!("took {} rows", 3);
//! ```

use crate::class::current;
use crate::sys::host;

pub use crate::__log_debug as debug;
pub use crate::__log_error as error;
pub use crate::__log_info as info;
pub use crate::__log_trace as trace;
pub use crate::__log_warn as warn;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Level {
    /// Something failed.
    Error = decurion_abi::level::ERROR,
    /// Something is odd.
    Warn = decurion_abi::level::WARN,
    /// Worth a line in production.
    Info = decurion_abi::level::INFO,
    /// For who debugs.
    Debug = decurion_abi::level::DEBUG,
    /// Everything.
    Trace = decurion_abi::level::TRACE,
}

/// Writes one line. The macros of this module do so with the module's path as target.
pub fn log(level: Level, target: &str, message: std::fmt::Arguments<'_>) {
    let exchange = current::exchange();
    match message.as_str() {
        Some(text) => host::log(exchange.as_deref(), level as u32, target, text),
        None => host::log(exchange.as_deref(), level as u32, target, &message.to_string()),
    }
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log_error {
    ($($text:tt)+) => {
        $crate::log::log($crate::log::Level::Error, ::core::module_path!(), ::core::format_args!($($text)+))
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log_warn {
    ($($text:tt)+) => {
        $crate::log::log($crate::log::Level::Warn, ::core::module_path!(), ::core::format_args!($($text)+))
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log_info {
    ($($text:tt)+) => {
        $crate::log::log($crate::log::Level::Info, ::core::module_path!(), ::core::format_args!($($text)+))
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log_debug {
    ($($text:tt)+) => {
        $crate::log::log($crate::log::Level::Debug, ::core::module_path!(), ::core::format_args!($($text)+))
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log_trace {
    ($($text:tt)+) => {
        $crate::log::log($crate::log::Level::Trace, ::core::module_path!(), ::core::format_args!($($text)+))
    };
}
