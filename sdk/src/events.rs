//! Events of the crate `tracing` become log lines, as those of [`log`](crate::log) do. A library has a `tracing` of its
//! own, and what it says there would go nowhere.

use std::fmt::{self, Write};

use tracing_core::dispatcher::{self, DefaultGuard, Dispatch};
use tracing_core::field::{Field, Visit};
use tracing_core::span::{Attributes, Id, Record};
use tracing_core::{Event, LevelFilter, Metadata, Subscriber};

use crate::log::{Level, log};
use crate::sys::environment;

/// Events of this thread are lines while it lives: an author's constructor may still make an arrangement of its own for
/// all threads.
pub(crate) fn of_this_thread() -> DefaultGuard {
    dispatcher::set_default(&Dispatch::new(Lines::new()))
}

/// Events of all threads are lines from now on, unless the author has made another arrangement.
pub(crate) fn of_all_threads() {
    // Refused where there is one.
    let _ = dispatcher::set_global_default(Dispatch::new(Lines::new()));
}

/// Each event is a line; spans are nothing.
struct Lines {
    most: LevelFilter,
}

impl Lines {
    fn new() -> Self {
        let asked = environment::log_level().and_then(|level| level.parse().ok());
        Self { most: asked.unwrap_or(LevelFilter::INFO) }
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.most
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.most)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let metadata = event.metadata();
        log(level_of(*metadata.level()), metadata.target(), format_args!("{}{}", line.message, line.fields));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn level_of(level: tracing_core::Level) -> Level {
    match level {
        tracing_core::Level::ERROR => Level::Error,
        tracing_core::Level::WARN => Level::Warn,
        tracing_core::Level::INFO => Level::Info,
        tracing_core::Level::DEBUG => Level::Debug,
        tracing_core::Level::TRACE => Level::Trace,
    }
}

/// The message, and behind it ` name=value` of each other field.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // A text takes every write.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value}"),
            name => write!(self.fields, " {name}={value}"),
        };
    }
}
