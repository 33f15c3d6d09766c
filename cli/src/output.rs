//! Where words go: data to stdout in the form that was asked for, all else to stderr; colour and redrawing on a
//! terminal only.

mod table;
mod time;

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde::Serialize;

use crate::args::Global;
use crate::failure::{Exit, Failure};
use crate::sys;

pub(crate) use table::{Cell as TableCell, Table};
pub(crate) use time::utc;

/// The forms of data on stdout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    // No doc comments here: each would make the help of every command longer.
    #[default]
    Table,
    // More columns.
    Wide,
    // One document.
    Json,
    // One document a line for each thing.
    Jsonl,
    // Graphviz; of `graph` alone.
    Dot,
}

/// Colours, by what they mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Moving,
    Bad,
    Dim,
}

/// Both streams, and how they are to be used.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) format: Format,
    quiet: bool,
    colour_out: bool,
    colour_err: bool,
    /// Whether stderr is a terminal whose last line may be drawn again.
    redraw: bool,
    /// Whether such a line stands there now.
    live: Cell<bool>,
}

impl Output {
    pub(crate) fn new(global: &Global) -> Self {
        let plain = global.no_color || sys::variable("NO_COLOR").is_some();
        let dumb = sys::variable("TERM").is_some_and(|term| term == "dumb");
        let redraw = io::stderr().is_terminal() && !dumb && !global.quiet;
        Self {
            format: global.output,
            quiet: global.quiet,
            colour_out: io::stdout().is_terminal() && !plain && !dumb,
            colour_err: io::stderr().is_terminal() && !plain && !dumb,
            redraw,
            live: Cell::new(false),
        }
    }

    /// The same for a stderr that others write to as well, where a line can't be drawn again.
    pub(crate) fn among_other_lines(&self) -> Self {
        let Self { format, quiet, colour_out, colour_err, .. } = *self;
        Self { format, quiet, colour_out, colour_err, redraw: false, live: Cell::new(false) }
    }

    /// Whether data is for a program.
    pub(crate) fn is_json(&self) -> bool {
        matches!(self.format, Format::Json | Format::Jsonl)
    }

    /// Whether data on stdout may have colours.
    pub(crate) fn is_coloured(&self) -> bool {
        self.colour_out
    }

    /// Text to stdout as it stands.
    pub(crate) fn raw(&self, text: &str) -> Result<(), Failure> {
        self.clear();
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| {
            if error.kind() == io::ErrorKind::BrokenPipe {
                // A reader that went away has read enough; as for others, the code says so.
                Failure::new(Exit::Failed, "stdout was closed")
            } else {
                Failure::of("writing to stdout failed", &error)
            }
        })
    }

    /// One line to stdout.
    pub(crate) fn line(&self, line: &str) -> Result<(), Failure> {
        self.raw(&format!("{line}\n"))
    }

    /// One value as JSON: indented for `json`, on one line for `jsonl`.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        let text = match self.format {
            Format::Jsonl => serde_json::to_string(value),
            _ => serde_json::to_string_pretty(value),
        };
        self.line(&text.map_err(|error| Failure::of("writing JSON failed", &error))?)
    }

    /// Several values: one array for `json`, one line each for `jsonl`.
    pub(crate) fn json_list<T: Serialize>(&self, values: &[T]) -> Result<(), Failure> {
        if self.format == Format::Jsonl {
            values.iter().try_for_each(|value| self.json(value))
        } else {
            self.json(&values)
        }
    }

    pub(crate) fn table(&self, table: &Table) -> Result<(), Failure> {
        self.raw(&table.render(self.colour_out))
    }

    /// Text in a colour, for stdout.
    pub(crate) fn painted(&self, text: &str, tone: Tone) -> String {
        paint(text, tone, self.colour_out)
    }

    /// How things go, to stderr; nothing with `-q`.
    pub(crate) fn note(&self, line: &str) {
        if !self.quiet {
            self.always(line);
        }
    }

    /// The same in a colour.
    pub(crate) fn note_in(&self, tone: Tone, line: &str) {
        self.note(&paint(line, tone, self.colour_err));
    }

    /// A line that is drawn again in place; on a terminal only.
    pub(crate) fn live(&self, line: &str) {
        if self.redraw {
            let shown: String = line.chars().take(100).collect();
            // Nothing can be said about a stderr that does not take words.
            let _ = write!(io::stderr().lock(), "\r\x1b[K{shown}");
            self.live.set(true);
        }
    }

    /// Takes the live line away.
    pub(crate) fn clear(&self) {
        if self.live.take() {
            // As above.
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }

    pub(crate) fn error(&self, what: &str) {
        self.always(&format!("{} {what}", paint("error:", Tone::Bad, self.colour_err)));
    }

    /// To stderr, also with `-q`.
    pub(crate) fn always(&self, line: &str) {
        self.clear();
        // As above.
        let _ = writeln!(io::stderr().lock(), "{line}");
    }
}

fn paint(text: &str, tone: Tone, colour: bool) -> String {
    let code = match tone {
        _ if !colour => return text.to_owned(),
        Tone::Plain => return text.to_owned(),
        Tone::Good => "32",
        Tone::Moving => "33",
        Tone::Bad => "31",
        Tone::Dim => "2",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// Text from a replica or a file, fit for a terminal: control characters are shown, not obeyed.
pub(crate) fn printable(text: &str) -> String {
    let show = |c: char| match c {
        '\t' => "\t".to_owned(),
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    };
    if text.chars().any(|c| c.is_control() && c != '\t') {
        text.chars().map(show).collect()
    } else {
        text.to_owned()
    }
}
