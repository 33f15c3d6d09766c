//! Goals: each is told as a row with its label, what was measured, what is wanted, and whether that is met. People judge;
//! no bench fails for it.

use crate::contest::say;

/// What a figure is to come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted {
    /// Met where it is this or less.
    AtMost(f64),
    /// Met where it is this or more.
    AtLeast(f64),
}

impl Wanted {
    /// Whether this figure meets it. One that could not be measured does not.
    #[must_use]
    pub fn is_met(self, figure: f64) -> bool {
        match self {
            Self::AtMost(bound) => figure <= bound,
            Self::AtLeast(bound) => figure >= bound,
        }
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "<= {bound}"),
            Self::AtLeast(bound) => write!(f, ">= {bound}"),
        }
    }
}

/// The rows of one bench.
#[derive(Debug, Default)]
pub struct Goals {
    rows: Vec<String>,
}

impl Goals {
    /// Adds a row: the goal's label, what was measured, and what it came to.
    pub fn add(&mut self, label: &str, what: &str, figure: f64, wanted: Wanted) {
        self.rows.push(row(label, what, figure, wanted));
    }

    /// Tells all of them, as one table.
    pub fn tell(&self) {
        say("\n| goal | what | measured | wanted | |\n|---|---|---|---|---|");
        self.rows.iter().for_each(|row| say(row));
    }
}

fn row(label: &str, what: &str, figure: f64, wanted: Wanted) -> String {
    let verdict = if wanted.is_met(figure) { "met" } else { "**not met**" };
    // Small figures need more places: a verdict must be seen to follow from them.
    let places = if figure.abs() < 10.0 { 3 } else { 1 };
    format!("| {label} | {what} | {figure:.places$} | {wanted} | {verdict} |")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_whether_the_goal_is_met() {
        let of = |figure, wanted| row("G1", "a thing", figure, wanted);
        assert_eq!(of(1.5, Wanted::AtMost(1.5)), "| G1 | a thing | 1.500 | <= 1.5 | met |");
        assert_eq!(of(1.51, Wanted::AtMost(1.5)), "| G1 | a thing | 1.510 | <= 1.5 | **not met** |");
        assert_eq!(of(72.31, Wanted::AtLeast(3.0)), "| G1 | a thing | 72.3 | >= 3 | met |");
        assert_eq!(of(2.9, Wanted::AtLeast(3.0)), "| G1 | a thing | 2.900 | >= 3 | **not met** |");
    }

    #[test]
    fn what_could_not_be_measured_is_not_met() {
        assert!(!Wanted::AtMost(1.0).is_met(f64::NAN));
        assert!(!Wanted::AtLeast(1.0).is_met(f64::NAN));
    }
}
