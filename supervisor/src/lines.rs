//! Bytes that a process writes, cut into lines of bounded length.

use decurion_api::limits::LOG_LINE_MAX;

/// Splits a stream of bytes into lines. What is longer than [`LOG_LINE_MAX`] is cut and marked; what is no UTF-8 is
/// replaced; control characters but the tab are taken out, so that a line can't write on a terminal.
/// Whoever writes more than [`LINES_A_PERIOD`] has the rest counted and dropped, so that a flood costs its writer
/// more than its reader.
#[derive(Debug)]
pub(crate) struct Lines {
    line: Vec<u8>,
    /// The rest of a line that was cut is thrown away.
    skipping: bool,
    /// Lines that may come before the next period.
    allowed: u32,
    dropped: u64,
}

/// Stands at the end of a line that was cut.
const CUT: &str = " [cut]";
/// Lines of one stream that are taken between two calls of [`Lines::next_period`].
const LINES_A_PERIOD: u32 = 1_000;

impl Default for Lines {
    fn default() -> Self {
        Self { line: Vec::new(), skipping: false, allowed: LINES_A_PERIOD, dropped: 0 }
    }
}

impl Lines {
    /// Takes bytes, and hands on each line that they end.
    pub(crate) fn take(&mut self, bytes: &[u8], mut on_line: impl FnMut(String)) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = match part.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (part, false),
            };
            self.append(text, &mut on_line);
            if ended {
                if self.allowed == 0 {
                    self.dropped += 1;
                } else if !std::mem::take(&mut self.skipping) {
                    self.allowed -= 1;
                    on_line(clean(&self.line));
                }
                self.line.clear();
            }
        }
    }

    /// Hands on what is left without an end.
    pub(crate) fn finish(&mut self, on_line: impl FnOnce(String)) {
        if !self.line.is_empty() {
            on_line(clean(&self.line));
            self.line.clear();
        }
    }

    /// Allows as many lines again, and tells of those that were dropped.
    pub(crate) fn next_period(&mut self, on_line: impl FnOnce(String)) {
        self.allowed = LINES_A_PERIOD;
        if self.dropped > 0 {
            let dropped = std::mem::take(&mut self.dropped);
            on_line(format!("[{dropped} more lines were dropped: {LINES_A_PERIOD} are taken in a second]"));
        }
    }

    fn append(&mut self, text: &[u8], on_line: &mut impl FnMut(String)) {
        if self.skipping || self.allowed == 0 {
            return;
        }
        let room = LOG_LINE_MAX - CUT.len() - self.line.len();
        if text.len() <= room {
            self.line.extend_from_slice(text);
            return;
        }
        self.line.extend_from_slice(&text[..room]);
        on_line(clean(&self.line) + CUT);
        self.line.clear();
        self.skipping = true;
    }
}

fn clean(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line));
    text.chars().filter(|c| *c == '\t' || !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(parts: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for part in parts {
            lines.take(part, |line| found.push(line));
        }
        lines.finish(|line| found.push(line));
        found
    }

    #[test]
    fn lines_are_whole_however_they_come() {
        assert_eq!(lines_of(&[b"on", b"e\ntwo\n\nth", b"ree"]), ["one", "two", "", "three"]);
    }

    #[test]
    fn a_line_without_end_is_cut_once_and_costs_no_memory() {
        let long = vec![b'x'; 3 * LOG_LINE_MAX];
        let found = lines_of(&[&long, &long, b"\nnext\n"]);
        assert_eq!(found.len(), 2);
        assert!(found[0].len() <= LOG_LINE_MAX && found[0].ends_with(CUT));
        assert_eq!(found[1], "next");
    }

    #[test]
    fn a_flood_is_counted_and_dropped_until_the_next_period() {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        let flood = "y\n".repeat(LINES_A_PERIOD as usize + 7);
        lines.take(flood.as_bytes(), |line| found.push(line));
        assert_eq!(found.len(), LINES_A_PERIOD as usize);
        lines.next_period(|line| found.push(line));
        assert!(found.last().unwrap().contains("7 more lines"), "{found:?}");
        lines.take(b"after\n", |line| found.push(line));
        assert_eq!(found.last().unwrap(), "after");
        lines.next_period(|line| panic!("{line}"));
    }

    #[test]
    fn what_a_terminal_would_obey_is_taken_out() {
        assert_eq!(lines_of(&[b"a\x1b[31mb\x07\tc\r\n", b"\xff\n"]), ["a[31mb\tc", "\u{fffd}"]);
    }
}
