//! Server-sent events out of bytes that arrive in pieces. Pure. Only `data` is of interest here; comments, which
//! keep the connection alive, and other fields are passed over.

/// Bytes of one event.
const EVENT_MAX: usize = 1024 * 1024;

/// Holds what has come of the event that is on its way.
#[derive(Debug, Default)]
pub(super) struct Parser {
    /// The line on its way. `line.len() + data.len() <= EVENT_MAX`.
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
}

/// An event longer than [`EVENT_MAX`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Parser {
    /// Takes bytes and hands over the data of each event that they complete.
    pub(super) fn feed(&mut self, bytes: &[u8], mut event: impl FnMut(&[u8])) -> Result<(), TooLong> {
        for &byte in bytes {
            match byte {
                b'\n' => self.end_line(&mut event),
                _ if self.line.len() + self.data.len() >= EVENT_MAX => return Err(TooLong),
                _ => self.line.push(byte),
            }
        }
        Ok(())
    }

    fn end_line(&mut self, event: &mut impl FnMut(&[u8])) {
        let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        if line.is_empty() {
            if std::mem::take(&mut self.has_data) {
                event(&self.data);
            }
            self.data.clear();
        } else if let Some(value) = line.strip_prefix(b"data:") {
            if self.has_data {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
            self.has_data = true;
        }
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(pieces: &[&[u8]]) -> Vec<String> {
        let mut parser = Parser::default();
        let mut found = Vec::new();
        for piece in pieces {
            parser.feed(piece, |data| found.push(String::from_utf8_lossy(data).into_owned())).unwrap();
        }
        found
    }

    #[test]
    fn data_ends_with_an_empty_line() {
        assert_eq!(
            events(&[b"id: 1\ndata: {\"a\":1}\n\n: alive\n\ndata:x\r\ndata: y\r\n\r\n"]),
            ["{\"a\":1}", "x\ny"]
        );
    }

    #[test]
    fn where_the_bytes_are_cut_makes_no_difference() {
        let text = b"event: e\ndata: one\n\ndata: two\n\ndata: unfinished";
        for cut in 0..text.len() {
            assert_eq!(events(&[&text[..cut], &text[cut..]]), ["one", "two"], "cut at {cut}");
        }
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let mut parser = Parser::default();
        assert_eq!(parser.feed(&vec![b'x'; EVENT_MAX + 1], |_| ()), Err(TooLong));
    }
}
