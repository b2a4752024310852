//! Tables of text: columns as wide as their widest cell, numbers to the right.

use std::fmt;

/// A heading and rows of as many cells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The heading; a column whose title begins with `>` is aligned to the right.
    pub columns: Vec<&'static str>,
    /// The rows.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// No rows yet.
    pub fn new(columns: &[&'static str]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// The titles, and whether each column is aligned to the right.
    pub fn titles(&self) -> impl Iterator<Item = (&'static str, bool)> + '_ {
        self.columns.iter().map(|title| match title.strip_prefix('>') {
            Some(title) => (title, true),
            None => (*title, false),
        })
    }

    /// Characters that each column needs.
    pub fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.titles().map(|(title, _)| title.len()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        widths
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        let right: Vec<bool> = self.titles().map(|(_, right)| right).collect();
        let heading: Vec<String> = self.titles().map(|(title, _)| title.to_owned()).collect();
        for row in std::iter::once(&heading).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, &width), &right) in row.iter().zip(&widths).zip(&right) {
                let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
                let (before, after) = if right { (padding, String::new()) } else { (String::new(), padding) };
                line.push_str(&format!("{before}{}{after}  ", printable(cell)));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A peer may have control characters in its socket's name; they are not for our terminal.
pub fn printable(cell: &str) -> String {
    cell.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// `1234567` as `1.2M`: at most four characters.
pub fn short(value: f64) -> String {
    const UNITS: [&str; 6] = ["", "k", "M", "G", "T", "P"];
    let (mut value, mut unit) = (value.max(0.0), 0);
    // 999.5 would be printed as 1000.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 || value >= 9.95 { format!("{value:.0}{}", UNITS[unit]) } else { format!("{value:.1}{}", UNITS[unit]) }
}

/// `1 session`, `2 sessions`.
pub fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Milliseconds as `85ms`, `12s`, `3m05s`, `2h10m`, `4d03h`.
pub fn time(millis: u64) -> String {
    let seconds = millis / 1000;
    match seconds {
        0 => format!("{millis}ms"),
        1..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let mut table = Table::new(&["NAME", ">N", "REST"]);
        table.rows.push(vec!["a".to_owned(), "1000".to_owned(), String::new()]);
        table.rows.push(vec!["longer".to_owned(), "1".to_owned(), "x".to_owned()]);
        assert_eq!(table.to_string(), "NAME       N  REST\na       1000\nlonger     1  x\n");
        assert_eq!(Table::new(&["NAME"]).to_string(), "NAME\n");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let table = Table { columns: vec!["NAME"], rows: vec![vec!["\u{1b}[2Ja\nb".to_owned()]] };
        assert_eq!(table.to_string(), "NAME\n\u{fffd}[2Ja\u{fffd}b\n");
    }

    #[test]
    fn numbers_stay_short() {
        let table = [
            (0.0, "0"),
            (999.4, "999"),
            (999.6, "1.0k"),
            (9_949.0, "9.9k"),
            (9_951.0, "10k"),
            (123_456.0, "123k"),
            (999_600.0, "1.0M"),
            (1_234_567.0, "1.2M"),
            (5e18, "5000P"),
            (-1.0, "0"),
        ];
        for (value, text) in table {
            assert_eq!(short(value), text, "{value}");
        }
    }

    #[test]
    fn times_stay_short() {
        let table = [(85, "85ms"), (12_999, "12s"), (185_000, "3m05s"), (7_800_000, "2h10m"), (356_400_000, "4d03h")];
        for (millis, text) in table {
            assert_eq!(time(millis), text);
        }
    }
}
