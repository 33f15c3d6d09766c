//! Columns, as wide as their widest cell. Pure.

use super::{Tone, paint};

/// Text in a table.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(crate) fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

/// Rows under headings.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(headings: &[&'static str]) -> Self {
        Self { headings: headings.to_vec(), rows: Vec::new() }
    }

    /// As many cells as there are headings.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    pub(crate) fn render(&self, colour: bool) -> String {
        let width = |column: usize| {
            let cells =
                self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count());
            cells.chain([self.headings[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.headings.len()).map(width).collect();
        let headings: Vec<Cell> = self.headings.iter().map(|text| Cell::toned(*text, Tone::Dim)).collect();
        let mut text = String::new();
        for row in std::iter::once(&headings).chain(&self.rows) {
            text.push_str(&render_row(row, &widths, colour));
            text.push('\n');
        }
        text
    }
}

/// Colour goes around the text alone, and the last cells have no blanks after them.
fn render_row(row: &[Cell], widths: &[usize], colour: bool) -> String {
    let mut line = String::new();
    let mut blanks = 0;
    for (cell, width) in row.iter().zip(widths) {
        if !cell.text.is_empty() {
            line.extend(std::iter::repeat_n(' ', blanks));
            line.push_str(&paint(&cell.text, cell.tone, colour));
            blanks = 0;
        }
        blanks += width - cell.text.chars().count() + 2;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", "STATUS", "MESSAGE"]);
        table.row(vec!["a".into(), Cell::toned("HEALTHY", Tone::Good), "".into()]);
        table.row(vec!["long-name".into(), "".into(), "é".into()]);
        assert_eq!(
            table.render(false),
            "NAME       STATUS   MESSAGE\n\
             a          HEALTHY\n\
             long-name           é\n"
        );
        assert!(table.render(true).contains("\x1b[32mHEALTHY\x1b[0m"));
    }
}
